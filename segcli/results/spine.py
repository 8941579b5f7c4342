"""Vertebrae that a network has mixed up, numbered anew along the spine; structures grown into background."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from segcli.space.volume import Volume, Voxels, among, extent, widened

_ROUNDING = 1e-6


def numbered_anew(labels: Volume, values: Sequence[int], mm3: float, data: Voxels) -> None:
    """Give each piece of some structures together, of at least `mm3`, one of their values, where two of them touch.

    values   of the structures from the head down
    data     (1, D, H, W) what is changed: the labels, or a copy of them
    """
    from scipy.ndimage import label

    here = among(data[0], values)
    if not _touch(np.where(here, data[0], 0)):
        return
    pieces, count = label(here)
    large = np.bincount(pieces.ravel(), minlength=count + 1) * labels.grid.voxel_mm3 >= mm3 - _ROUNDING
    large[0] = False
    there = set(np.unique(data[0][large[pieces]]).tolist())
    present = [i for i, value in enumerate(values) if value in there]
    data[0][here] = 0
    if not present:
        return
    upward = _heights(labels, pieces, np.flatnonzero(large))
    if present[0] == 0 and present[-1] != len(values) - 1:
        order, given = upward[::-1], values
    else:
        order, given = upward, values[present[-1] :: -1]
    table = np.zeros(count + 1, data.dtype)
    for piece, value in zip(order, given, strict=False):  # pieces without a number become background
        table[piece] = value
    data[0][here] = table[pieces[here]]


def _touch(labels: Voxels) -> bool:
    """Whether voxels of two labels share a face, of (D, H, W)."""
    for axis in range(3):
        along = np.moveaxis(labels, axis, 0)
        if ((along[1:] > 0) & (along[:-1] > 0) & (along[1:] != along[:-1])).any():
            return True
    return False


def _heights(labels: Volume, pieces: NDArray[np.int32], numbers: NDArray[np.intp]) -> list[int]:
    """Numbers of pieces by where their middles lie along the axis that runs between feet and head, the lowest first."""
    from scipy.ndimage import mean

    axis = next(i for i, letter in enumerate(labels.grid.axes) if letter in "SI")
    up = 1 if labels.grid.axes[axis] == "S" else -1
    shape = [1, 1, 1]
    shape[axis] = -1
    along = np.broadcast_to(up * np.arange(pieces.shape[axis]).reshape(shape), pieces.shape)
    middles = np.atleast_1d(mean(along, pieces, numbers))
    return [int(numbers[i]) for i in np.argsort(middles, kind="stable")]


def grow(labels: Volume, value: int, mm: float) -> None:
    """A structure grows by a length into background, in place: in whole voxels of each axis, as an ellipsoid."""
    from scipy.ndimage import binary_dilation

    data = labels.data[0]
    radii = [mm / step for step in labels.grid.spacing]
    reach = [int(radius + _ROUNDING) for radius in radii]
    there = extent(data == value)
    if there is None:
        return
    offsets = np.ogrid[tuple(slice(-n, n + 1) for n in reach)]
    ball = sum((at / radius) ** 2 for at, radius in zip(offsets, radii, strict=True)) <= 1 + _ROUNDING
    box = data[widened(there, reach, data.shape)]
    box[(box == 0) & binary_dilation(box == value, ball)] = value
