"""Whether the words of pixels contradict what a header says of their bits."""

from __future__ import annotations

from segcli.space.volume import Voxels


def too_wide(data: Voxels, stored: int) -> bool:
    """Whether some words are negative and others are beyond what so many bits with a sign hold.

    Either may be sound without the other: all bits above a negative sample are those of its sign, or all are 0.
    """
    half = 1 << stored - 1
    return -half <= int(data.min()) < 0 and half <= int(data.max()) < 2 * half


def in_lowest(data: Voxels, stored: int, high: int) -> bool:
    """Whether samples that are said to end at a higher bit look as if they lay in the lowest bits of their words."""
    below = high + 1 - stored
    if below == 0 or int(data.min()) < -(1 << stored - 1) or int(data.max()) >= 1 << stored:
        return False
    return bool((data & data.dtype.type((1 << below) - 1)).any())
