"""Labels of probabilities that are averaged over the area of each voxel, as MONAI's Resize brings them back."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from segcli.inference.decide import Decision, put
from segcli.parallel import each
from segcli.space.corners import turned_to
from segcli.space.resample import Interpolation, Taps, apply, areas, onto, parallel
from segcli.space.volume import Grid, Volume


class Faces:
    """A scan's grid and a model's with the same outer faces.

    like   the scan's voxels, with their axes in the order and the directions of the model's
    taps   the sums that average the model's voxels there, along each axis
    """

    def __init__(self, grid: Grid, wanted: Grid) -> None:
        order = parallel(wanted.to(grid))
        assert order is not None  # the grid was made of the scan's own axes
        self._grid, self.like = grid, turned_to(grid, wanted, order)
        self.taps = [areas(have, want) for have, want in zip(wanted.shape, self.like.shape, strict=True)]

    def back(self, labels: NDArray[np.integer]) -> NDArray[np.integer]:
        """Labels (D, H, W) on `like` in the order of the scan's axes."""
        found: NDArray[np.integer] = onto(Volume(labels[None], self.like), self._grid, Interpolation("nearest")).data[0]
        return found


def labels_by_area(grid: Grid, slabs: Iterable[Volume], decide: Decision, wanted: Grid) -> Volume:
    """Labels at the voxels of a scan, of slabs (K or more, d, h, w) on a grid with the same outer faces.

    grid     the scan's; returned are (1, D, H, W) on it
    Memory holds all slabs: a grid of a stated shape is no larger for a larger scan.
    """
    faces = Faces(grid, wanted)
    whole = np.zeros((len(decide.values), *wanted.shape), np.float32)
    for slab in slabs:
        whole[(slice(None), *wanted.box_of(slab.grid))] = slab.data[: len(decide.values)]
    deep, *others = faces.taps
    labels = np.zeros(faces.like.shape, decide.dtype)

    def plane(d: int) -> None:
        one = Taps(deep.index[:, d : d + 1], deep.weights[:, d : d + 1])
        best = np.full(labels.shape[1:], decide.half if decide.rule == "regions" else -np.inf, np.float32)
        for channel, value in zip(whole, decide.values, strict=True):
            values = apply(channel, one, 0)
            for axis, taps in enumerate(others, start=1):
                values = apply(values, taps, axis)
            put(labels[d], values[0] > best, value)
            if decide.rule == "argmax":
                np.maximum(best, values[0], out=best)

    each(plane, range(len(labels)))
    return Volume(faces.back(labels)[None], grid)
