"""MONAI's DynUNet: nnU-Net's network with a kernel and a stride for each level.

Facts: MONAI 0.9 to 1.6, `networks.nets.DynUNet`.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from segcli.documents import Document
from segcli.networks.blocks import BasicBlock, ResidualBlock, Size, Spec, UpBlock, norm_spec, output_block, unsure_norm
from segcli.networks.registry import About, Inferred, Shapes, Small, length


class DynUNet(nn.Module):
    """DynUNet.

    x        (N, in_channels, D, H, W), each size a multiple of the product of its strides
    returns  (N, out_channels, D, H, W), logits

    dropout and the two arguments of deep supervision have no effect after training.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        kernel_size: Sequence[Size],
        strides: Sequence[Size],
        upsample_kernel_size: Sequence[Size],
        filters: Sequence[int] | None = None,
        dropout: float | Sequence[Any] | None = None,
        norm_name: Spec = ("INSTANCE", {"affine": True}),
        act_name: Spec = ("leakyrelu", {"inplace": True, "negative_slope": 0.01}),
        deep_supervision: bool = False,
        deep_supr_num: int = 1,
        res_block: bool = False,
        trans_bias: bool = False,
    ) -> None:
        levels, dims = len(kernel_size), spatial_dims
        if len(strides) != levels or len(upsample_kernel_size) != levels - 1:
            raise ValueError(f"{levels} kernels need {levels} strides and {levels - 1} upsampling kernels")
        super().__init__()
        widest = 320 if dims == 3 else 512
        widths = list(filters or [min(2 ** (5 + i), widest) for i in range(levels)])
        block = ResidualBlock if res_block else BasicBlock
        down = [
            block(a, b, kernel, stride, norm_name, act_name, dims)
            for a, b, kernel, stride in zip([in_channels, *widths], widths[:levels], kernel_size, strides, strict=False)
        ]
        self.input_block = down[0]
        self.downsamples = nn.ModuleList(down[1:-1])
        self.bottleneck = down[-1]
        # On the way up the blocks are plain ones, also with res_block.
        self.upsamples = nn.ModuleList(
            UpBlock(
                widths[i + 1],
                widths[i],
                kernel_size[i + 1],
                upsample_kernel_size[i],
                norm_name,
                act_name,
                dims,
                residual=False,
                trans_bias=trans_bias,
            )
            for i in reversed(range(levels - 1))
        )
        self.output_block = output_block(widths[0], out_channels, dims)

    def forward(self, x: Tensor) -> Tensor:
        x = self.input_block(x)
        skips = [x]
        for down in self.downsamples:
            x = down(x)
            skips.append(x)
        x = self.bottleneck(x)
        for up in self.upsamples:
            x = up(x, skips.pop())
        return self.output_block(x)


ABOUT = About(
    "DynUNet",
    "Isensee et al. 2018, arXiv:1809.10486; MONAI's DynUNet",
    "2-D and 3-D",
    "the first stride, the groups of the norm, and the activation unless it is PReLU",
)
FAMILIES: dict[str, Callable[..., nn.Module]] = {"dynunet": DynUNet}

SMALL = {
    "dynunet": Small(
        {"spatial_dims": 3, "kernel_size": [3, 3, 3, 3], "strides": [1, 2, 2, 2], "upsample_kernel_size": [2, 2, 2]}
        | {"filters": [8, 12, 16, 24], "res_block": True}
    )
}

INERT = [
    r"skip_layers\..*",  # every block a second time
    r"deep_supervision_heads\..*",  # for training only
]


def infer(shapes: Shapes) -> Inferred | None:
    """The sizes of a DynUNet; its first stride is not in its tensors, nor is its activation unless it is PReLU."""
    first, out = "input_block.conv1.conv.weight", "output_block.conv.conv.weight"
    if not all(name in shapes for name in (first, out, "bottleneck.conv1.conv.weight")):
        return None
    down = ["input_block", *[f"downsamples.{i}" for i in range(length(shapes, "downsamples."))], "bottleneck"]
    weights = [shapes[f"{name}.conv1.conv.weight"] for name in down]
    ups = [list(shapes[f"upsamples.{i}.transp_conv.conv.weight"][2:]) for i in range(length(shapes, "upsamples."))][
        ::-1
    ]
    config: Document = {
        "spatial_dims": len(weights[0]) - 2,
        "in_channels": weights[0][1],
        "out_channels": shapes[out][0],
        "kernel_size": [list(weight[2:]) for weight in weights],
        "strides": [1, *ups],
        "upsample_kernel_size": ups,
        "filters": [weight[0] for weight in weights],
        "norm_name": norm_spec(shapes, "input_block.norm1"),
        "res_block": "input_block.conv3.conv.weight" in shapes,
        "trans_bias": "upsamples.0.transp_conv.conv.bias" in shapes,
    }
    unsure = {"strides": "the first stride: 1", **unsure_norm(config, "norm_name")}
    if "input_block.lrelu.weight" in shapes:
        return Inferred("dynunet", {**config, "act_name": "PRELU"}, unsure)
    return Inferred("dynunet", config, {**unsure, "act_name": "the activation: LeakyReLU 0.01"})
