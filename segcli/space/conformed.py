"""A scan on a grid that it need not cover, and labels from there: what lies beyond the one is nothing in the other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segcli.parallel import each
from segcli.space.resample import Interpolation, Sampler, onto
from segcli.space.volume import Grid, Volume

_ON_IT = 1e-4  # of a voxel: affines are rounded, and a sample this near to a voxel's centre is on it


def within(
    volume: Volume, grid: Grid, rule: Interpolation, beyond: NDArray[np.float32], on: Sampler | None = None
) -> Volume:
    """Sample a volume at the voxel centres of another grid, as `onto`, but with a value beyond its own voxels.

    beyond   (C,) that value of each channel, from the last voxel centre of an axis on; with "nearest" half a voxel on
    returns  (C, *grid.shape) on `grid`
    """
    out = onto(volume, grid, rule, on)
    data = out.data if out.data.flags.writeable else out.data.copy()
    matrix, last = grid.to(volume.grid), np.array(volume.grid.shape) - 1
    low, high = (-0.5, last + 0.5) if rule.how == "nearest" else (np.zeros(3) - _ON_IT, last - _ON_IT)
    low = np.broadcast_to(low, 3)
    d, h, w = (np.arange(n) for n in grid.shape)

    def plane(i: int) -> None:
        empty = np.zeros((len(h), len(w)), bool)
        for axis, (first, along_h, along_w, start) in enumerate(matrix[:3]):
            along = (along_h * h)[:, None] + (along_w * w + (first * d[i] + start))[None]
            empty |= (along < low[axis]) | (along >= high[axis])
        data[:, i, empty] = beyond.astype(data.dtype)[:, None]

    each(plane, range(len(d)))
    return Volume(data, grid, volume.source)
