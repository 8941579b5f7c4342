"""How far apart the voxels of a scan can be, and how far away: rules for every format, and for scans in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from segcli.errors import InputError
from segcli.space.volume import Grid

# mm between two voxels. What is nearer or wider was given in another unit, or measured on no body: the number of the
# model's voxels would be 0 or billions.
NARROWEST, WIDEST = 0.001, 250.0
FARTHEST = 1e9  # mm from the origin; no voxel is there
_ROUNDING = 1e-6  # of a number in float32


def believable(name: str, spacing: Sequence[float]) -> None:
    """Refuse steps that no scan has.

    spacing   mm along the axes D, H, W; InputError: one is below NARROWEST, above WIDEST or no number
    """
    if not all(NARROWEST * (1 - _ROUNDING) <= step <= WIDEST * (1 + _ROUNDING) for step in spacing):
        raise InputError(
            f"{name}: voxels of {' x '.join(f'{step:g}' for step in spacing[::-1])} mm: no scan has such",
            hint="correct the voxel size, or its unit of length, in the header",
        )


def placed(name: str, grid: Grid) -> None:
    """Refuse a grid whose steps no scan has, or whose first voxel is where no scan is; InputError."""
    believable(name, grid.spacing)
    far = float(np.abs(grid.world([0, 0, 0])).max())
    if not far < FARTHEST:
        raise InputError(
            f"{name}: its first voxel lies {far:g} mm from the origin: no scan does",
            hint="correct the position, or its unit of length, in the header",
        )
