"""UNet++ (Zhou et al., 2018) as MONAI's BasicUNetPlusPlus: nested decoders that share one encoder.

Facts: MONAI 0.9 to 1.6, `networks.nets.BasicUNetPlusPlus`.
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from segcli.networks.basic_unet import infer_sizes
from segcli.networks.blocks import CONVOLUTIONS, Down, Spec, UpCat, two_convolutions
from segcli.networks.registry import About, Inferred, Shapes, Small


class BasicUNetPlusPlus(nn.Module):
    """UNet++.

    x        (N, in_channels, D, H, W), each size at least 16
    returns  (N, out_channels, D, H, W), logits of the deepest decoder

    features  widths of the five levels, and of the deepest decoder's last map
    dropout has no effect after training; deep_supervision only says what the official class returns.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        in_channels: int = 1,
        out_channels: int = 2,
        features: Sequence[int] = (32, 32, 64, 128, 256, 32),
        deep_supervision: bool = False,
        act: Spec = ("LeakyReLU", {"negative_slope": 0.1, "inplace": True}),
        norm: Spec = ("instance", {"affine": True}),
        bias: bool = True,
        dropout: float = 0.0,
        upsample: str = "deconv",
    ) -> None:
        super().__init__()
        f, dims = list(features), spatial_dims
        self.conv_0_0 = two_convolutions(in_channels, f[0], norm, act, bias, dims)
        for i in (1, 2, 3, 4):
            self.add_module(f"conv_{i}_0", Down(f[i - 1], f[i], norm, act, bias, dims))
        for j in (1, 2, 3, 4):  # node (i, j): level i, j-th decoder
            for i in range(5 - j):
                out = f[5] if j == 4 else f[i]
                up = UpCat(f[i + 1], j * f[i], out, norm, act, bias, upsample, dims, halves=i > 0)
                self.add_module(f"upcat_{i}_{j}", up)
            self.add_module(f"final_conv_0_{j}", CONVOLUTIONS[dims](f[5] if j == 4 else f[0], out_channels, 1))

    def heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """The logits of the four nested decoders. The last one is the deepest."""
        top = self._top_row(x)
        return tuple(getattr(self, f"final_conv_0_{j}")(top[j]) for j in (1, 2, 3, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.get_submodule("final_conv_0_4")(self._top_row(x)[4])

    def _top_row(self, x: Tensor) -> list[Tensor]:
        rows = [[self.conv_0_0(x)]]
        for i in (1, 2, 3, 4):
            rows.append([getattr(self, f"conv_{i}_0")(rows[-1][0])])
        for j in (1, 2, 3, 4):
            for i in range(5 - j):
                rows[i].append(getattr(self, f"upcat_{i}_{j}")(rows[i + 1][j - 1], *rows[i]))
        return rows[0]


ABOUT = About(
    "UNet++",
    "Zhou et al. 2018, arXiv:1807.10165; MONAI's BasicUNetPlusPlus",
    "2-D and 3-D",
    "the groups of the norm, and the activation unless it is PReLU",
)
FAMILIES: dict[str, Callable[..., nn.Module]] = {
    "basicunetplusplus": BasicUNetPlusPlus,
    "unetpp_monai": BasicUNetPlusPlus,
}

SMALL = {"basicunetplusplus": Small({"features": [8, 8, 16, 16, 32, 8]})}


def infer(shapes: Shapes) -> Inferred | None:
    """The sizes of a UNet++; its activation is not in its tensors unless it is PReLU."""
    levels = [f"conv_{i}_0" for i in range(5)]
    return infer_sizes(shapes, "basicunetplusplus", levels, "upcat_0_1.upsample", "final_conv_0_4")
