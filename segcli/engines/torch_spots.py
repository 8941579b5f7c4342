"""Where the voxels of a scan lie in a slab of logits on a device, and what its channels are there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcli.engines.torch_sampler import WITHOUT_FLOAT64, sent, summed
from segcli.inference.place import Piece, Place
from segcli.space.resample import Taps
from segcli.space.volume import Grid, Voxels

_VOXELS = 1 << 22  # of a scan at an angle that are worked on at a time


class Spot(Protocol):
    """A box of the scan, and its voxels that lie in the slab.

    mask   (d, h, w) of them in the box; None where all do
    """

    @property
    def mask(self) -> Tensor | None: ...

    def of(self, whole: Tensor) -> Tensor:
        """A view of what the box has of a map (D, H, W), in the order of `sampled`."""
        ...

    def on_host(self, whole: Voxels) -> Voxels:
        """The same of an array on the host."""
        ...

    def sampled(self, channel: Tensor) -> Tensor:
        """One channel (d, h, w) of the slab at the voxels of the box, linearly."""
        ...


def spots(place: Place, part: Grid, grid: Grid, slab: Tensor) -> Iterator[Spot]:
    """What a slab decides of a scan.

    part   the grid that slabs make together; `grid` the one of this slab (K, d, h, w)
    """
    first = part.start_of(grid)
    if place.axes is not None:
        for piece in place.pieces(first, grid.shape):
            yield _Straight(piece, slab)
        return
    last = first + np.array(grid.shape) - 1
    for planes in place.planes(first, last, _VOXELS):
        spot = _Slanted(place, planes, first, last, slab)
        if spot.mask.any():
            yield spot


def kept(spot: Spot, found: Tensor, there: Tensor) -> Tensor:
    """What was found at the voxels of a spot, and what is there at the others of its box."""
    return found if spot.mask is None else torch.where(spot.mask, found, there.to(found.device))


class _Straight:
    """Of grids that run along each other: the host's sums in the host's order, so its very bytes."""

    mask: Tensor | None = None

    def __init__(self, piece: Piece, slab: Tensor) -> None:
        self._piece, self._sums = piece, list[tuple[Tensor, Tensor]]()
        for own, count in zip(piece.taps, slab.shape[1:], strict=True):
            index = np.minimum(own.index, count - 1)  # what lies behind a sample on the last plane has the weight 0
            self._sums.append(sent(Taps(index, own.weights), slab.device))

    def of(self, whole: Tensor) -> Tensor:
        return whole[self._piece.box].permute(self._piece.axes)

    def on_host(self, whole: Voxels) -> Voxels:
        return self._piece.of(whole)

    def sampled(self, channel: Tensor) -> Tensor:
        for axis in self._piece.sequence:
            channel = summed(channel, *self._sums[axis], axis)
        return channel


class _Slanted:
    """Of grids at an angle: whole planes of the scan, each voxel between the eight around it.

    The coordinates are those of the host; its sums are in float64, these in float32.
    """

    mask: Tensor

    def __init__(
        self, place: Place, planes: slice, first: NDArray[np.int64], last: NDArray[np.int64], slab: Tensor
    ) -> None:
        self._planes = planes
        dtype = torch.float32 if slab.device.type in WITHOUT_FLOAT64 else torch.float64
        counts = (planes, slice(0, place.shape[1]), slice(0, place.shape[2]))
        z, y, x = (torch.arange(s.start, s.stop, device=slab.device, dtype=dtype) for s in counts)
        self.mask = torch.ones((len(z), len(y), len(x)), dtype=torch.bool, device=slab.device)
        self._lower, self._step, self._share = list[Tensor](), list[Tensor](), list[Tensor]()
        stride = [slab.shape[2] * slab.shape[3], slab.shape[3], 1]
        for axis, row in enumerate(place.matrix[:3].tolist()):
            along = (row[3] + row[0] * z)[:, None, None] + (row[1] * y)[:, None] + row[2] * x
            low, count = float(place.low[axis]), float(place.part[axis])
            beyond = (along + low).clamp(0, float(place.end[axis])) - low
            along = along.clamp(0, count - 1)
            self.mask &= (beyond >= -0.5) & (beyond <= count - 0.5)
            self.mask &= (along >= int(first[axis])) & (along <= int(last[axis]))
            along = (along - int(first[axis])).clamp(0, slab.shape[1 + axis] - 1)
            lower = along.floor()
            self._share.append((along - lower).float())
            self._lower.append(lower.long() * stride[axis])
            self._step.append((lower < slab.shape[1 + axis] - 1).long() * stride[axis])  # to the next voxel, if any

    def of(self, whole: Tensor) -> Tensor:
        return whole[self._planes]

    def on_host(self, whole: Voxels) -> Voxels:
        return whole[self._planes]

    def sampled(self, channel: Tensor) -> Tensor:
        d, h, w = self._lower
        return self._between(channel.reshape(-1), d + h + w, 0)

    def _between(self, values: Tensor, index: Tensor, axis: int) -> Tensor:
        """Values at flat indices, between these and the next ones along an axis and those behind it."""
        if axis == 3:
            return values.index_select(0, index.view(-1)).view(index.shape)
        one = self._between(values, index, axis + 1)
        other = self._between(values, index + self._step[axis], axis + 1)
        between: Tensor = one + self._share[axis] * (other - one)
        return between
