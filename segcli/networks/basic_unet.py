"""MONAI's BasicUNet (Falk et al., 2019): five levels of two convolutions.

Facts: MONAI 0.9 to 1.6, `networks.nets.BasicUNet`.
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from segcli.documents import Document
from segcli.networks.blocks import CONVOLUTIONS, Down, Spec, UpCat, norm_spec, two_convolutions, unsure_norm, upsampling
from segcli.networks.registry import About, Inferred, Shapes, Small


class BasicUNet(nn.Module):
    """BasicUNet.

    x        (N, in_channels, D, H, W), each size at least 16
    returns  (N, out_channels, D, H, W), logits

    features  widths of the five levels, and of the last map
    dropout has no effect after training.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        in_channels: int = 1,
        out_channels: int = 2,
        features: Sequence[int] = (32, 32, 64, 128, 256, 32),
        act: Spec = ("LeakyReLU", {"negative_slope": 0.1, "inplace": True}),
        norm: Spec = ("instance", {"affine": True}),
        bias: bool = True,
        dropout: float = 0.0,
        upsample: str = "deconv",
    ) -> None:
        super().__init__()
        f, dims = list(features), spatial_dims
        self.conv_0 = two_convolutions(in_channels, f[0], norm, act, bias, dims)
        for i in (1, 2, 3, 4):
            self.add_module(f"down_{i}", Down(f[i - 1], f[i], norm, act, bias, dims))
        for i in (4, 3, 2, 1):
            top = i == 1  # the topmost level keeps the width of the map below, and has an output width of its own
            out = f[5] if top else f[i - 1]
            up = UpCat(f[i], f[i - 1], out, norm, act, bias, upsample, dims, halves=not top)
            self.add_module(f"upcat_{i}", up)
        self.final_conv = CONVOLUTIONS[dims](f[5], out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_0(x)
        skips = []
        for i in (1, 2, 3, 4):
            skips.append(x)
            x = getattr(self, f"down_{i}")(x)
        for i in (4, 3, 2, 1):
            x = getattr(self, f"upcat_{i}")(x, skips.pop())
        return self.final_conv(x)


ABOUT = About(
    "BasicUNet",
    "Falk et al. 2019, Nature Methods 16:67; MONAI's BasicUNet",
    "2-D and 3-D",
    "the groups of the norm, and the activation unless it is PReLU",
    "AURORA's for brain metastases (zenodo.org/records/10557068; its activation is Mish), not in the catalogue: where "
    "each of its files lies is not known",
)
FAMILIES: dict[str, Callable[..., nn.Module]] = {"basicunet": BasicUNet, "monai_basicunet": BasicUNet}

SMALL = {"basicunet": Small({"features": [8, 8, 16, 16, 32, 8]})}


def infer(shapes: Shapes) -> Inferred | None:
    """The sizes of a BasicUNet; its activation is not in its tensors unless it is PReLU."""
    levels = ("conv_0", *(f"down_{i}" for i in (1, 2, 3, 4)))
    return infer_sizes(shapes, "basicunet", levels, "upcat_4.upsample", "final_conv")


def infer_sizes(shapes: Shapes, family: str, levels: Sequence[str], up: str, last: str) -> Inferred | None:
    """The network of a family with five levels of two convolutions, by how its layers are called; None for another."""
    first, out = levels[0], f"{last}.weight"
    down = [f"{level}.convs.conv_0.conv.weight" for level in levels[1:]]
    if not all(name in shapes for name in (f"{first}.conv_0.conv.weight", *down, out)):
        return None
    width, inputs, *kernel = shapes[f"{first}.conv_0.conv.weight"]
    config: Document = {
        "spatial_dims": len(kernel),
        "in_channels": inputs,
        "out_channels": shapes[out][0],
        "features": [width, *(shapes[name][0] for name in down), shapes[out][1]],
        "norm": norm_spec(shapes, f"{first}.conv_0.adn.N"),
        "bias": f"{first}.conv_0.conv.bias" in shapes,
        "upsample": upsampling(shapes, up),
    }
    unsure = unsure_norm(config, "norm")
    if f"{first}.conv_0.adn.A.weight" in shapes:
        return Inferred(family, {**config, "act": "PRELU"}, unsure)
    return Inferred(family, config, {**unsure, "act": "the activation: LeakyReLU 0.1"})
