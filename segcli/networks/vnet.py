"""V-Net (Milletari et al., 2016) as MONAI has it: residual blocks of 5x5x5 convolutions, 16 channels at the top.

Facts: MONAI 1.6, `networks.nets.VNet`.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from segcli.documents import Document
from segcli.networks.blocks import CONVOLUTIONS, TRANSPOSED, Spec, activation, conv_unit, norm
from segcli.networks.registry import About, Inferred, Shapes, Small

_WIDTHS = (16, 32, 64, 128, 256)
_DOWN, _UP = (1, 2, 3, 2), ((256, 256, 2), (256, 128, 2), (128, 64, 1), (64, 32, 1))


def _act(spec: Spec, channels: int) -> nn.Module:
    """An activation; a PReLU that is named alone has a number for each channel."""
    return activation(["prelu", {"num_parameters": channels}] if spec == "prelu" else spec)


class Unit(nn.Module):
    """A convolution and batch norm, then an activation."""

    def __init__(self, a: int, b: int, act: Spec, bias: bool, dims: int) -> None:
        super().__init__()
        self.act_function = _act(act, b)
        self.conv_block = conv_unit(a, b, 5, 1, "BATCH", bias=bias, dims=dims)

    def forward(self, x: Tensor) -> Tensor:
        return self.act_function(self.conv_block(x))


class Entry(Unit):
    """A unit with its input, repeated to as many channels, added before the activation."""

    def forward(self, x: Tensor) -> Tensor:
        made = self.conv_block(x)
        return self.act_function(made + torch.cat([x] * (made.shape[1] // x.shape[1]), 1))


class Down(nn.Module):
    """Half the size, twice the channels, then units whose input is added."""

    def __init__(self, a: int, units: int, act: Spec, bias: bool, dims: int) -> None:
        super().__init__()
        b = 2 * a
        self.down_conv = CONVOLUTIONS[dims](a, b, 2, 2, bias=bias)
        self.bn1 = norm("BATCH", b, dims)
        self.act_function1, self.act_function2 = _act(act, b), _act(act, b)
        self.ops = nn.Sequential(*(Unit(b, b, act, bias, dims) for _ in range(units)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.act_function1(self.bn1(self.down_conv(x)))
        return self.act_function2(self.ops(x) + x)


class Up(nn.Module):
    """Twice the size, joined with the skip, then units whose input is added."""

    def __init__(self, a: int, b: int, units: int, act: Spec, dims: int) -> None:
        super().__init__()
        self.up_conv = TRANSPOSED[dims](a, b // 2, 2, 2)
        self.bn1 = norm("BATCH", b // 2, dims)
        self.act_function1, self.act_function2 = _act(act, b // 2), _act(act, b)
        self.ops = nn.Sequential(*(Unit(b, b, act, False, dims) for _ in range(units)))

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = torch.cat((self.act_function1(self.bn1(self.up_conv(x))), skip), 1)
        return self.act_function2(self.ops(x) + x)


class Exit(nn.Module):
    """A unit to as many channels as there are classes, and their logits."""

    def __init__(self, a: int, b: int, act: Spec, bias: bool, dims: int) -> None:
        super().__init__()
        self.act_function1 = _act(act, b)
        self.conv_block = conv_unit(a, b, 5, 1, "BATCH", bias=bias, dims=dims)
        self.conv2 = CONVOLUTIONS[dims](b, b, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.act_function1(self.conv_block(x)))


class VNet(nn.Module):
    """MONAI's VNet.

    x        (N, in_channels, D, H, W), each size a multiple of 16
    returns  (N, out_channels, D, H, W), logits

    Dropout has no effect after training.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        in_channels: int = 1,
        out_channels: int = 1,
        act: Spec = ("elu", {"inplace": True}),
        dropout_prob: float | None = 0.5,
        dropout_prob_down: float | None = 0.5,
        dropout_prob_up: Sequence[float | None] = (0.5, 0.5),
        dropout_dim: int = 3,
        bias: bool = False,
    ) -> None:
        if _WIDTHS[0] % in_channels:
            raise ValueError(f"in_channels {in_channels} is no part of {_WIDTHS[0]}")
        super().__init__()
        dims = spatial_dims
        self.in_tr = Entry(in_channels, _WIDTHS[0], act, bias, dims)
        for width, units in zip(_WIDTHS, _DOWN, strict=False):
            self.add_module(f"down_tr{2 * width}", Down(width, units, act, bias, dims))
        for a, b, units in _UP:
            self.add_module(f"up_tr{b}", Up(a, b, units, act, dims))
        self.out_tr = Exit(_UP[-1][1], out_channels, act, bias, dims)

    def forward(self, x: Tensor) -> Tensor:
        x = self.in_tr(x)
        skips = []
        for width in _WIDTHS[1:]:
            skips.append(x)
            x = getattr(self, f"down_tr{width}")(x)
        for _, width, _ in _UP:
            x = getattr(self, f"up_tr{width}")(x, skips.pop())
        return self.out_tr(x)


ABOUT = About(
    "V-Net", "Milletari et al. 2016, arXiv:1606.04797; MONAI's VNet", "2-D and 3-D", "the activation unless it is PReLU"
)
FAMILIES: dict[str, Callable[..., nn.Module]] = {"vnet": VNet}

SMALL = {"vnet": Small({})}


def infer(shapes: Shapes) -> Inferred | None:
    """The inputs and outputs of a VNet; its activation is not in its tensors unless it is PReLU."""
    first, out = "in_tr.conv_block.conv.weight", "out_tr.conv2.weight"
    if not all(name in shapes for name in (first, out, "down_tr256.down_conv.weight")):
        return None
    config: Document = {
        "spatial_dims": len(shapes[first]) - 2,
        "in_channels": shapes[first][1],
        "out_channels": shapes[out][0],
        "bias": "in_tr.conv_block.conv.bias" in shapes,
    }
    slopes = shapes.get("in_tr.act_function.weight")
    if slopes is not None:
        return Inferred("vnet", {**config, "act": "prelu" if slopes != (1,) else ["prelu", {}]})
    return Inferred("vnet", config, {"act": "the activation: ELU"})
