"""MeshNet: a row of dilated convolutions on the full grid (Fedorov et al. 2017; brainchop)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from segcli.networks.registry import About, Inferred, Shapes, Small, length

# By the number of convolutions before the last: that of the paper, and that of brainchop's models.
_USUAL = {
    7: (1, 1, 2, 4, 8, 16, 1),
    8: (1, 1, 1, 2, 4, 8, 16, 1),
    9: (1, 2, 4, 8, 16, 8, 4, 2, 1),
    10: (1, 2, 4, 8, 16, 16, 8, 4, 2, 1),
    13: (1, 3, 5, 7, 13, 19, 31, 19, 13, 7, 5, 3, 1),
}
# The GELU of brainchop's runtime (tinygrad) is the approximation by tanh.
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "gelu": lambda: nn.GELU(approximate="tanh"),
}


class MeshNet(nn.Module):
    """Convolutions of 3x3x3, each with its dilation, perhaps a norm of each channel, and an activation; then one of 1.

    x         (N, in_channels, D, H, W)
    returns   (N, out_channels, D, H, W)
    channels  of each convolution, or one number for all
    norm      whether each channel is brought to mean 0 and variance 1 (group norm of one channel a group)
    affine    whether that norm has a learned scale and offset
    bias      of the convolutions but the last; `last_bias` of the last

    errors    ValueError: as many channels as dilations, and at least one; an activation of no known name
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 3,
        channels: int | Sequence[int] = 21,
        dilations: Sequence[int] = _USUAL[9],
        act: str = "elu",
        norm: bool = False,
        affine: bool = False,
        bias: bool = True,
        last_bias: bool = True,
    ) -> None:
        super().__init__()
        widths = [channels] * len(dilations) if isinstance(channels, int) else list(channels)
        if not dilations or len(widths) != len(dilations):
            raise ValueError(f"{len(widths)} channels for {len(dilations)} dilations")
        if act not in _ACTIVATIONS:
            raise ValueError(f"no activation is called {act!r}; there are {', '.join(_ACTIVATIONS)}")
        rows: list[nn.Module] = []
        for before, width, d in zip([in_channels, *widths], widths, dilations, strict=False):
            parts: list[nn.Module] = [nn.Conv3d(before, width, 3, padding=d, dilation=d, bias=bias)]
            parts += [nn.GroupNorm(width, width, affine=affine)] if norm else []
            rows.append(nn.Sequential(*parts, _ACTIVATIONS[act]()))
        self.model = nn.Sequential(*rows, nn.Conv3d(widths[-1], out_channels, 1, bias=last_bias))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


ABOUT = About(
    "MeshNet",
    "Fedorov et al. 2017, arXiv:1612.00940; brainchop",
    "3-D",
    "the dilations, the activation, a norm without scale: model.json says",
)
FAMILIES: dict[str, Callable[..., nn.Module]] = {"meshnet": MeshNet}

SMALL = {"meshnet": Small({"channels": 5, "dilations": [1, 2, 4, 1], "norm": True, "act": "gelu"})}


def infer(shapes: Shapes) -> Inferred | None:
    """The sizes of a MeshNet; its dilations and its activation are in no tensor."""
    count = length(shapes, "model.") - 1
    first, last = "model.0.0.weight", f"model.{count}.weight"
    if count < 1 or not {first, last} <= shapes.keys() or len(shapes[first]) != 5:
        return None
    affine = "model.0.1.weight" in shapes
    usual = _USUAL.get(count)
    dilations = list(usual or [1] * count)
    said = f"the dilations: {', '.join(map(str, dilations))}, usual for {count} layers; model.json beside the file says"
    return Inferred(
        "meshnet",
        {
            "in_channels": shapes[first][1],
            "out_channels": shapes[last][0],
            "channels": [shapes[f"model.{i}.0.weight"][0] for i in range(count)],
            "dilations": dilations,
            "act": "elu",
            "norm": affine,
            "affine": affine,
            "bias": "model.0.0.bias" in shapes,
            "last_bias": f"model.{count}.bias" in shapes,
        },
        {
            "dilations": said,
            **({} if affine else {"norm": "whether there is a norm without tensors: none"}),
            "act": "the activation: ELU",
        },
    )
