"""Grids that share the centres of their outermost voxels, and finished labels on their way back to a scan.

Between such grids samples are those of scipy.ndimage.zoom to the last bit: TotalSegmentator cuts what is behind the
point off, where 99.99999 and 100 are not the same.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from segcli.space.conformed import within
from segcli.space.grids import Anchor
from segcli.space.resample import Interpolation, onto, parallel
from segcli.space.sampled import sampled
from segcli.space.volume import Grid, Volume

NEAREST = Interpolation("nearest")


def zoomed(volume: Volume, grid: Grid) -> Volume:
    """A volume on a grid that shares its outermost voxel centres, linearly, in float64.

    volume   (C, D, H, W), any dtype; sampled as by `onto` where the axes of the grids are at an angle
    """
    from scipy.ndimage import zoom

    order = parallel(grid.to(volume.grid))
    if order is None:
        return onto(volume, grid)
    turned = onto(volume, turned_to(volume.grid, grid, order), NEAREST)
    factors = [n / m for n, m in zip(grid.shape, turned.grid.shape, strict=True)]
    data = np.stack([zoom(channel, factors, np.float64, order=1, mode="nearest") for channel in turned.data])
    return Volume(data, grid, volume.source)


def labels_back(
    labels: Volume, wanted: Grid, scan: Grid, how: Literal["nearest", "linear"] = "nearest", anchor: Anchor = "corners"
) -> Volume:
    """Labels of a part of a grid at the voxels of a scan: as scipy's zoom brings them, or as MONAI, see `sampled`.

    anchor   of the grid, see `GridSpec`
    """
    if how == "nearest" and anchor == "conformed":
        return within(labels, scan, NEAREST, np.zeros(1, np.float32))
    if how == "nearest" and anchor == "corners" and _same_corners(wanted, scan):
        return _zoomed_back(labels, wanted, scan)
    return sampled(labels, wanted, scan, how, stored=anchor == "monai_stored")


def _same_corners(one: Grid, other: Grid) -> bool:
    """Whether the outermost voxel centres of two grids are the same points."""
    order = parallel(one.to(other))
    if order is None:
        return False
    like = turned_to(other, one, order)
    apart = np.linalg.norm(one.corners() - like.corners(), axis=1).max()
    return bool(apart <= 1e-6 * min(*one.spacing, *other.spacing))


def _zoomed_back(labels: Volume, wanted: Grid, scan: Grid) -> Volume:
    """The nearest labels at the voxels of a scan that shares its outermost voxel centres with the grid."""
    from scipy.ndimage import zoom

    whole = np.zeros((1, *wanted.shape), labels.data.dtype)
    whole[(slice(None), *wanted.box_of(labels.grid))] = labels.data
    order = parallel(wanted.to(scan))
    assert order is not None  # grids that share their corners are not at an angle
    there = turned_to(scan, wanted, order)
    factors = [n / m for n, m in zip(there.shape, wanted.shape, strict=True)]
    sampled = zoom(whole[0], factors, order=0, mode="nearest")
    return onto(Volume(sampled[None], there), scan, NEAREST)


def turned_to(have: Grid, like: Grid, order: list[int]) -> Grid:
    """The same voxels with their axes in the order and the directions of another grid's.

    order    of `like` in `have`, as `parallel` gives it
    """
    affine = np.eye(4)
    affine[:3, 3] = have.affine[:3, 3]
    for i, axis in enumerate(order):
        column = have.affine[:3, axis]
        if column @ like.affine[:3, i] < 0:
            affine[:3, 3] += column * (have.shape[axis] - 1)
            column = -column
        affine[:3, i] = column
    d, h, w = (have.shape[axis] for axis in order)
    return Grid((d, h, w), affine)
