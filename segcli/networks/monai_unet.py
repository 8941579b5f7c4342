"""MONAI's UNet (Kerfoot et al., 2018): residual units, strided convolutions down, transposed ones up.

Facts: MONAI 0.9 to 1.6, `networks.nets.UNet`.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segcli.documents import Document
from segcli.networks.blocks import CONVOLUTIONS, Size, Spec, conv_unit, each_axis, norm_spec, unsure_norm
from segcli.networks.registry import About, Inferred, Shapes, Small, length


class ResidualUnit(nn.Module):
    """Convolution units, the first one strided, and the input, or its projection, added."""

    def __init__(self, units: Sequence[nn.Module], residual: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Sequential(OrderedDict((f"unit{i}", unit) for i, unit in enumerate(units)))
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.residual(x)


class Skip(nn.Module):
    """A level's input, then what the levels below made of it."""

    def __init__(self, submodule: nn.Module) -> None:
        super().__init__()
        self.submodule = submodule

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.submodule(x)), 1)


class UNet(nn.Module):
    """MONAI's UNet.

    x        (N, in_channels, D, H, W), each size a multiple of the product of its strides
    returns  (N, out_channels, D, H, W), logits

    Strides beyond those that the levels need have no effect, as officially; nor has dropout after training.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int],
        strides: Sequence[Size],
        kernel_size: Size = 3,
        up_kernel_size: Size = 3,
        num_res_units: int = 0,
        act: Spec = "PRELU",
        norm: Spec = "INSTANCE",
        dropout: float = 0.0,
        bias: bool = True,
        adn_ordering: str = "NDA",
    ) -> None:
        if len(strides) < len(channels) - 1:
            raise ValueError(f"strides needs {len(channels) - 1} numbers, not {len(strides)}")
        super().__init__()
        dims = spatial_dims

        def unit(a: int, b: int, kernel: Size, stride: Size = 1, bare: bool = False, up: bool = False) -> nn.Module:
            if bare:
                return conv_unit(a, b, kernel, stride, bias=bias, dims=dims, transposed=up)
            return conv_unit(a, b, kernel, stride, norm, act, bias, dims, adn_ordering, transposed=up)

        def down(a: int, b: int, stride: Size) -> nn.Module:
            if not num_res_units:
                return unit(a, b, kernel_size, stride)
            units = [unit(a, b, kernel_size, stride), *[unit(b, b, kernel_size) for _ in range(num_res_units - 1)]]
            return ResidualUnit(units, projection(a, b, stride))

        def projection(a: int, b: int, stride: Size) -> nn.Module:
            steps = each_axis(stride, dims)
            if set(steps) == {1}:
                return nn.Identity() if a == b else CONVOLUTIONS[dims](a, b, 1, bias=bias)
            kernel = each_axis(kernel_size, dims)
            pad: Any = tuple((k - 1) // 2 for k in kernel)
            return CONVOLUTIONS[dims](a, b, kernel, steps, pad, bias=bias)

        def up(a: int, b: int, stride: Size, top: bool) -> nn.Module:
            bare = top and not num_res_units
            enlarge = unit(a, b, up_kernel_size, stride, bare=bare, up=True)
            if not num_res_units:
                return enlarge
            return nn.Sequential(enlarge, ResidualUnit([unit(b, b, kernel_size, bare=top)], nn.Identity()))

        def level(i: int, a: int, b: int) -> nn.Module:
            """Level i and all below it, from `a` channels to `b`."""
            width = channels[i]
            if i == len(channels) - 1:
                return down(a, width, 1)
            last = i == len(channels) - 2
            below = level(i + 1, width, width)
            joined = width + (channels[-1] if last else width)
            return nn.Sequential(down(a, width, strides[i]), Skip(below), up(joined, b, strides[i], i == 0))

        self.model = level(0, in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


ABOUT = About(
    "UNet",
    "Kerfoot et al. 2019, LNCS 11395:371; MONAI's UNet",
    "2-D and 3-D",
    "strides without residual units, the order of norm and activation, the groups of a norm with scales, and the "
    "activation unless it is PReLU",
)
FAMILIES: dict[str, Callable[..., nn.Module]] = {"monai_unet": UNet, "unet": UNet}

SMALL = {
    "monai_unet": Small(
        {"spatial_dims": 3, "channels": [8, 12, 16, 24], "strides": [2, 2, 2], "num_res_units": 2, "act": "PRELU"}
    )
}


def infer(shapes: Shapes) -> Inferred | None:
    """The sizes of a MONAI UNet; strides are known as far as residual projections tell them."""
    units = length(shapes, "model.0.conv.unit")
    inner = "conv.unit0." if units else ""
    first = f"model.0.{inner}"
    last = "model.2.1.conv.unit0.conv.weight" if units else "model.2.conv.weight"
    channels: list[int] = []
    strides: list[int] = []
    prefix = "model."
    while f"{prefix}0.{inner}conv.weight" in shapes:
        channels.append(shapes[f"{prefix}0.{inner}conv.weight"][0])
        # A strided unit projects its input with a full kernel, another one with a single weight or not at all.
        projection = shapes.get(f"{prefix}0.residual.weight", (1, 1, 1))[2:]
        strides.append(1 if units and set(projection) == {1} else 2)
        prefix += "1.submodule."
    bottom = f"{prefix}{inner}conv.weight"
    if not channels or bottom not in shapes or last not in shapes:
        return None
    channels.append(shapes[bottom][0])
    prelu = f"{first}adn.A.weight" in shapes
    enlarge = "model.2.0.conv.weight" if units else "model.2.conv.weight"
    config: Document = {
        "spatial_dims": len(shapes[bottom]) - 2,
        "in_channels": shapes[f"{first}conv.weight"][1],
        "out_channels": shapes[last][0 if units else 1],
        "channels": channels,
        "strides": strides,
        "kernel_size": list(shapes[f"{first}conv.weight"][2:]),
        "up_kernel_size": list(shapes[enlarge][2:]),
        "num_res_units": units,
        "act": "PRELU" if prelu else "RELU",
        "norm": norm_spec(shapes, f"{first}adn.N"),
        "bias": f"{first}conv.bias" in shapes,
    }
    unsure = {
        "adn_ordering": "the order of norm and activation: norm first",
        "strides": f"the sizes of strides: {strides}",
        **({} if prelu else {"act": "the activation: ReLU"}),
        **unsure_norm(config, "norm"),
    }
    return Inferred("monai_unet", config, unsure)
