"""Where a scan's voxels lie among those of a model's grid, slab by slab, in pieces that the cores share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray

from segcli.parallel import cores
from segcli.space.resample import How, Interpolation, Taps, axis_rules, parallel, positions, taps_for
from segcli.space.volume import Box, Grid, Voxels

BLOCK = 1 << 19  # voxels of the scan that are decided in one go
_THIN = 4  # planes of the model's grid that such a block has at least
_NEAR = 1e-6  # voxels: two ways to compute a coordinate are not further apart


@dataclass(frozen=True, eq=False)
class Piece:
    """A box of the scan whose voxels lie (where `mask` says so) within one slab.

    box          in the order of the scan's axes; all else goes by the model's
    axes         the scan's axis along each of the model's
    coordinates  of the box's voxels in the slab along each axis, or none when the grids are at an angle, and then
                 `matrix` (4, 4) gives them
    sequence     in which the axes are sampled
    taps         the sums that sample the slab at the coordinates
    """

    box: Box
    axes: list[int]
    coordinates: list[NDArray[np.float64]]
    hows: list[How]
    sequence: list[int]
    matrix: NDArray[np.float64]
    mask: NDArray[np.bool_] | None

    @cached_property
    def taps(self) -> list[Taps]:
        longest = [math.ceil(along.max()) + 2 for along in self.coordinates]
        return [taps_for(*given) for given in zip(self.coordinates, longest, self.hows, strict=True)]

    def of(self, whole: Voxels) -> Voxels:
        """A view of what this box has of an array on the scan's grid, in the order of the model's axes."""
        return whole[self.box].transpose(self.axes)


class Place:
    """Where a scan's voxels lie among the model's, worked out once for all slabs."""

    def __init__(self, grid: Grid, part: Grid, wanted: Grid, rule: Interpolation) -> None:
        self.shape, self.part = grid.shape, np.array(part.shape)
        self.end = np.array(wanted.shape) - 1.0
        self.low = wanted.start_of(part)  # first voxel of the part, in the wanted grid
        self.matrix = grid.to(part)
        order = parallel(self.matrix)
        self.axes = None if order is None else [order.index(axis) for axis in range(3)]
        if self.axes is None:
            return
        hows = axis_rules(wanted, grid, replace(rule, how="linear"), back=True)
        self.hows = [hows[i] for i in self.axes]
        # The axis along which the scan is coarsest goes first, whatever the box, so that sums are the same in each
        # slab; of equal ones the last: what grows most is then added up row by row.
        steps = [round(abs(float(self.matrix[axis, i])), 6) for axis, i in enumerate(self.axes)]
        self.sequence = sorted(range(3), key=lambda axis: (-steps[axis], -axis))

    def pieces(self, first: NDArray[np.int64], shape: tuple[int, ...]) -> Iterator[Piece]:
        """Boxes of the scan that this slab (its first voxel and shape, in the part) decides."""
        last = first + np.array(shape) - 1
        if self.axes is None:
            yield from self._slanted(first, last)
            return
        box, coordinates = [slice(0)] * 3, []
        for axis, i in enumerate(self.axes):
            start, scale = float(self.matrix[axis, 3]), float(self.matrix[axis, i])
            along = positions(start, scale, self.shape[i], self.hows[axis])
            inside, clipped = self._inside(along, axis)
            here = np.flatnonzero(inside & (clipped >= first[axis]) & (clipped <= last[axis]))
            if len(here) == 0:
                return
            box[i] = slice(int(here[0]), int(here[-1]) + 1)
            coordinates.append(clipped[box[i]] - first[axis])
        yield Piece((box[0], box[1], box[2]), self.axes, coordinates, self.hows, self.sequence, self.matrix, None)

    def _inside(self, along: NDArray[np.float64], axis: int) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Which coordinates in the part count as in it, and all of them moved to its nearest voxel centre."""
        n = self.part[axis]
        beyond = np.clip(along + self.low[axis], 0, self.end[axis]) - self.low[axis]
        return (beyond >= -0.5) & (beyond <= n - 0.5), np.clip(along, 0, n - 1)

    def planes(self, first: NDArray[np.int64], last: NDArray[np.int64], voxels: int) -> Iterator[slice]:
        """Planes of a scan at an angle, so many voxels of them at a time, where some may lie between first and last."""
        d, h, w = self.shape
        count = max(1, voxels // (h * w))
        for start in range(0, d, count):
            stop = min(d, start + count)
            ends = np.array([*product((start, stop - 1), (0, h - 1), (0, w - 1))])
            along = ends @ self.matrix[:3, :3].T + self.matrix[:3, 3]
            low, high = (np.clip(extreme, 0, self.part - 1) for extreme in (along.min(0), along.max(0)))
            if (high >= first - _NEAR).all() and (low <= last + _NEAR).all():
                yield slice(start, stop)

    def _slanted(self, first: NDArray[np.int64], last: NDArray[np.int64]) -> Iterator[Piece]:
        """Planes of the scan in pieces, each with the mask of its voxels between the slab's first and last."""
        _, h, w = self.shape
        for some in self.planes(first, last, 1 << 20):
            start, stop = some.start, some.stop
            mask = np.ones((stop - start, h, w), bool)
            for axis in range(3):
                row = self.matrix[axis]
                along = (
                    row[3]
                    + row[0] * np.arange(start, stop)[:, None, None]
                    + row[1] * np.arange(h)[:, None]
                    + row[2] * np.arange(w)
                )
                inside, clipped = self._inside(along, axis)
                mask &= inside & (clipped >= first[axis]) & (clipped <= last[axis])
            if not mask.any():
                continue
            shift = np.eye(4)
            shift[0, 3] = start
            local = self.matrix @ shift
            local[:3, 3] -= first
            yield Piece((some, slice(0, h), slice(0, w)), [0, 1, 2], [], [], [], local, mask)


def blocks(piece: Piece, slab: NDArray[np.float32]) -> Iterator[tuple[Piece, NDArray[np.float32]]]:
    """A piece of a slab (K, d, h, w) in blocks that stay near the cache, each with its part of the slab.

    Blocks share the plane of the slab between them, so they are cut along the axis that has the most of them, and no
    thinner than `_THIN`. A piece at an angle is a block.
    """
    if piece.mask is not None:
        yield piece, slab
        return
    size = math.prod(len(along) for along in piece.coordinates)
    extents = [abs(along[-1] - along[0]) for along in piece.coordinates[:2]]
    axis = int(np.argmax(extents))
    i, along = piece.axes[axis], piece.coordinates[axis]
    count = max(1, min(round(extents[axis] / _THIN), max(cores(), 2 * round(size / (2 * BLOCK)))))
    for cut in np.array_split(np.arange(len(along)), count):
        if len(cut) == 0:
            continue
        box, coordinates = [*piece.box], [*piece.coordinates]
        low, high = math.floor(along[cut].min()), math.ceil(along[cut].max())
        box[i] = slice(box[i].start + int(cut[0]), box[i].start + int(cut[-1]) + 1)
        coordinates[axis] = along[cut] - low
        planes = tuple(slice(low, high + 1) if a == axis else slice(None) for a in range(3))
        yield replace(piece, box=(box[0], box[1], box[2]), coordinates=coordinates), slab[(slice(None), *planes)]
