"""lungmask's U-Net of slices: activations before norms, averages on the way down, bilinear on the way up.

Hofmanninger et al. 2020; facts: the package lungmask 0.2.22.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcli.networks.blocks import under
from segcli.networks.registry import About, Inferred, Shapes, Small, length

# Layers of a residual form that no published model has; they lie in each file and are not used.
INERT: tuple[str, ...] = (r".*\.residual_(input_conv|batchnorm)\..*",)


def _two(before: int, width: int) -> nn.Module:
    """Twice convolution, ReLU, batch norm, under the names of the list `block`."""
    layers: list[nn.Module] = []
    for channels in (before, width):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(width)]
    return under("block", *layers)


class _Up(nn.Module):
    """The deep map at twice its size with the skip behind it, then two convolutions."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        up = nn.Upsample(scale_factor=2, mode="bilinear")
        self.up = nn.Sequential(up, nn.Conv2d(before, width, 1))
        self.conv_block = _two(before, width)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.conv_block(torch.cat((self.up(x), skip), 1))


class LungmaskUNet(nn.Module):
    """A U-Net of slices.

    x         (N, in_channels, H, W), each axis a multiple of 2^(depth - 1)
    returns   (N, n_classes, H, W), logarithms of probabilities
    depth     levels; `wf`: the first has 2^wf channels, each next twice as many
    """

    def __init__(
        self, in_channels: int = 1, n_classes: int = 2, depth: int = 5, wf: int = 6, spatial_dims: int = 2
    ) -> None:
        super().__init__()
        if spatial_dims != 2:
            raise ValueError("it is a network of slices: spatial_dims is 2")
        widths = [2 ** (wf + i) for i in range(depth)]
        befores: Sequence[int] = [in_channels, *widths]
        self.down_path = nn.ModuleList(_two(befores[i], widths[i]) for i in range(depth))
        self.up_path = nn.ModuleList(_Up(widths[i + 1], widths[i]) for i in reversed(range(depth - 1)))
        self.last = nn.Conv2d(widths[0], n_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for i, level in enumerate(self.down_path):
            x = level(F.avg_pool2d(x, 2) if i else x)
            skips.append(x)
        for up, skip in zip(self.up_path, skips[-2::-1], strict=True):
            x = up(x, skip)
        return F.log_softmax(self.last(x), 1)


ABOUT = About("lungmask's U-Net", "Hofmanninger et al. 2020, Eur Radiol Exp 4:50", "2-D")
FAMILIES: dict[str, Callable[..., nn.Module]] = {"lungmask": LungmaskUNet}

SMALL = {"lungmask": Small({"depth": 3, "wf": 3}, (1, 32, 32), counted=("in_channels", "n_classes"))}


def infer(shapes: Shapes) -> Inferred | None:
    """The sizes of lungmask's U-Net, all of them from its tensors."""
    first, last = shapes.get("down_path.0.block.0.weight"), shapes.get("last.weight")
    if first is None or last is None or "up_path.0.up.1.weight" not in shapes:
        return None
    config = {
        "in_channels": first[1],
        "n_classes": last[0],
        "depth": length(shapes, "down_path."),
        "wf": first[0].bit_length() - 1,
        "spatial_dims": 2,
    }
    return Inferred("lungmask", config)
