"""Finished labels at the voxels of a scan, at the very positions that torch's grid_sample has, as MONAI uses it.

A position half-way between two voxels is common: in the middle plane of every oblique scan, or where steps are halved.
Which of the two is the nearest hangs on the last bit of the sums that lead there, so these are done in the same order:
from an index to -1..1 over the faces of the scan, by a matrix to -1..1 over those of the model's grid, to an index that
is rounded, half-way to the even one. The sums are those of torch on a processor with AVX2 and of this machine's NumPy,
as MONAI's are: in such a plane MONAI itself gives other labels where another kind of processor adds up otherwise.
"""

from __future__ import annotations

from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from segcli.parallel import each
from segcli.space.grids import as_torch, turned_as_monai
from segcli.space.resample import Interpolation, onto
from segcli.space.volume import Grid, Volume, Voxels, turned

Places = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


def sampled(
    labels: Volume, wanted: Grid, scan: Grid, how: Literal["nearest", "linear"], *, stored: bool = False
) -> Volume:
    """Labels of a part of a grid at the voxels of a scan.

    labels   (1, d, h, w) on a part of `wanted`, cut at its voxels; beyond the part all is background, beyond `wanted`
             the border goes on
    how      "linear": the numbers of the labels are interpolated and rounded, half-way to the even one
    stored   whether the axes are those of the file, i, j, k, while it is sampled, and not those of `wanted`
    """
    axes = scan.axes[::-1] if stored else wanted.axes
    like, wanted = turned_as_monai(scan, axes), turned_as_monai(wanted, axes)
    labels = onto(labels, turned(labels.grid, axes), Interpolation("nearest"))
    low = wanted.start_of(labels.grid)
    # A frame of background around the part: what lies beyond it is moved there.
    framed = np.pad(labels.data[0], 1)
    out = np.empty(like.shape, labels.data.dtype)
    moved = np.linalg.solve(wanted.affine, like.affine)
    matrix = as_torch(as_torch(_scaled(wanted), moved), np.linalg.inv(_scaled(like)))
    last = np.array(wanted.shape) - 1
    sides = [_side(n) for n in like.shape]

    def plane(d: int) -> None:
        x, y = sides[2][None, :], sides[1][:, None]
        found = []
        for axis in range(3):
            row = matrix[axis]
            along = ((x * row[2] + y * row[1]) + sides[0][d] * row[0]) + row[3]
            n = wanted.shape[axis]
            found.append(np.clip(((along + 1) * n - 1) / 2, 0, last[axis]))
        places = (found[0], found[1], found[2])
        if how == "nearest":
            out[d] = _at(framed, [np.rint(place) for place in places], low)
        else:
            out[d] = np.rint(_between(framed, places, low).astype(np.float32))

    each(plane, range(like.shape[0]))
    return onto(Volume(out[None], like), scan, Interpolation("nearest"))


def nearest(image: Volume, wanted: Grid, *, stored: bool = False) -> Volume:
    """The nearest voxels of an image at those of a model's grid, as MONAI's Spacing has them.

    image    (C, D, H, W)
    stored   whether the axes are those of the file, i, j, k, while it is sampled, and not those of `wanted`
    """
    turning = turned_as_monai(image.grid, image.grid.axes[::-1] if stored else wanted.axes)
    channels = [sampled(Volume(channel[None], image.grid), turning, wanted, "nearest").data for channel in image.data]
    return Volume(np.concatenate(channels), wanted, image.source)


def _between(framed: Voxels, places: Places, low: NDArray[np.int64]) -> NDArray[np.float64]:
    """Values interpolated between the eight voxels around each place."""
    first = [np.floor(place) for place in places]
    part = [place - a for place, a in zip(places, first, strict=True)]
    total = np.zeros(places[0].shape)
    for up in product((0, 1), repeat=3):
        weight = np.ones(places[0].shape)
        for axis in (2, 1, 0):
            weight *= part[axis] if up[axis] else 1 - part[axis]
        total += weight * _at(framed, [a + b for a, b in zip(first, up, strict=True)], low)
    return total


def _at(framed: Voxels, index: list[NDArray[np.float64]], low: NDArray[np.int64]) -> Voxels:
    """The voxels at whole places of the grid, of a part whose first voxel is `low`; its frame stands for the rest."""
    shape = framed.shape
    d, h, w = (np.clip(place.astype(np.int64) - a + 1, 0, n - 1) for place, a, n in zip(index, low, shape, strict=True))
    voxels: Voxels = framed[d, h, w]
    return voxels


def _scaled(grid: Grid) -> NDArray[np.float64]:
    """(4, 4) from an index to -1..1 between the faces of a grid."""
    matrix = np.eye(4)
    for axis, n in enumerate(grid.shape):
        matrix[axis, axis], matrix[axis, 3] = 2.0 / n, 1.0 / n - 1.0
    return matrix


def _side(n: int) -> NDArray[np.float64]:
    """Where the n voxel centres of an axis lie between its faces at -1 and 1, as torch.linspace and affine_grid say."""
    if n == 1:
        return np.zeros(1)
    # torch multiplies and adds in one go, with one rounding, from both ends to the middle.
    step, i = np.longdouble(2.0 / (n - 1)), np.arange(n)
    centres: NDArray[np.float64] = np.where(i < n // 2, step * i - 1, 1 - step * (n - 1 - i)).astype(np.float64)
    return centres * (n - 1) / n
