"""How far apart the voxels of a scan can be: one rule for every format, and for scans in memory."""

from __future__ import annotations

from collections.abc import Sequence

from segcli.errors import InputError

# mm between two voxels. What is nearer or wider was given in another unit, or measured on no body: the number of the
# model's voxels would be 0 or billions.
NARROWEST, WIDEST = 0.001, 250.0
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
