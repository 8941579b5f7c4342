"""Labels of probabilities that are averaged over the area of each voxel, as MONAI's Resize brings them back."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from segcli.inference.decide import Decision, put
from segcli.parallel import each
from segcli.space.corners import turned_to
from segcli.space.resample import Interpolation, Taps, apply, areas, onto, parallel
from segcli.space.volume import Grid, Volume


def labels_by_area(grid: Grid, slabs: Iterable[Volume], decide: Decision, wanted: Grid) -> Volume:
    """Labels at the voxels of a scan, of slabs (K or more, d, h, w) on a grid with the same outer faces.

    grid     the scan's; returned are (1, D, H, W) on it
    Memory holds all slabs: a grid of a stated shape is no larger for a larger scan.
    """
    order = parallel(wanted.to(grid))
    assert order is not None  # the grid was made of the scan's own axes
    like = turned_to(grid, wanted, order)
    whole = np.zeros((len(decide.values), *wanted.shape), np.float32)
    for slab in slabs:
        whole[(slice(None), *wanted.box_of(slab.grid))] = slab.data[: len(decide.values)]
    deep, *others = (areas(have, want) for have, want in zip(wanted.shape, like.shape, strict=True))
    labels = np.zeros(like.shape, decide.dtype)

    def plane(d: int) -> None:
        one = Taps(deep.index[:, d : d + 1], deep.weights[:, d : d + 1])
        best = np.full(like.shape[1:], decide.half if decide.rule == "regions" else -np.inf, np.float32)
        for channel, value in zip(whole, decide.values, strict=True):
            values = apply(channel, one, 0)
            for axis, taps in enumerate(others, start=1):
                values = apply(values, taps, axis)
            put(labels[d], values[0] > best, value)
            if decide.rule == "argmax":
                np.maximum(best, values[0], out=best)

    each(plane, range(like.shape[0]))
    return onto(Volume(labels[None], like), grid, Interpolation("nearest"))
