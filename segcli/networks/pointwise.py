"""One 1x1x1 convolution: the smallest network there is, and the suite's test pattern."""

from collections.abc import Callable

from torch import Tensor, nn

from segcli.networks.registry import About, Inferred, Shapes, Small


class Pointwise(nn.Module):
    """Each voxel's logits are an affine function of that voxel alone.

    x        (N, in_chans, D, H, W)
    returns  (N, out_chans, D, H, W)
    """

    def __init__(self, in_chans: int = 1, out_chans: int = 2) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_chans, out_chans, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


ABOUT = About("a convolution of 1x1x1", "no paper: the smallest network, for tests", "3-D", weights="none")
FAMILIES: dict[str, Callable[..., nn.Module]] = {"pointwise": Pointwise}

SMALL = {"pointwise": Small({}, counted=("in_chans", "out_chans"))}


def infer(shapes: Shapes) -> Inferred | None:
    """The sizes of a pointwise network, read from its only weight."""
    if not {"conv.weight", "conv.bias"} <= shapes.keys() or shapes["conv.weight"][2:] != (1, 1, 1):
        return None
    out_chans, in_chans = shapes["conv.weight"][:2]
    return Inferred("pointwise", {"in_chans": in_chans, "out_chans": out_chans})
