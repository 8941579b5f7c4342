"""Numbers of other programs' label maps that mean a structure which has another number in FreeSurfer's aseg."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from segcli.space.volume import Volume

# Ranges of values, the last one included, and the value of the structure that they are parts of.
_FREESURFER = (
    (1000, 1999, 3),  # parcels of the left cortex (aparc), of the right one
    (2000, 2999, 42),
    (11100, 11999, 3),  # the same of aparc.a2009s
    (12100, 12999, 42),
    (3000, 3999, 2),  # the white matter below them (wmparc), and what of it is below none
    (4000, 4999, 41),
    (13100, 13999, 2),
    (14100, 14999, 41),
    (5001, 5001, 2),
    (5002, 5002, 41),
    (77, 78, 2),  # hypointensities of the white matter
    (79, 79, 41),
    (80, 80, 2),
    (251, 255, 2),  # corpus callosum
    (31, 31, 4),  # choroid plexus, which lies in the ventricles
    (63, 63, 43),
    (9, 9, 10),  # the thalamus by its older numbers
    (48, 48, 49),
)
SETS: Mapping[str, Sequence[tuple[int, int, int]]] = {"freesurfer": _FREESURFER}


_ASEG = {41, 42}  # white matter and cortex of the right half: a map without them is hardly FreeSurfer's
_PARCELS = 1000  # from which on numbers of FreeSurfer are of parcels


def parts(values: Collection[int], whole: Collection[int]) -> list[int]:
    """Of some values those that are FreeSurfer's numbers of parts, where others have the whole that these are of.

    Numbers below 1000 are another program's as well: they count beside the two halves of a brain alone.
    """
    found = [
        value
        for value in sorted({*values} - {*whole})
        if any(first <= value <= last and target in whole for first, last, target in _FREESURFER)
    ]
    return [value for value in found if value >= _PARCELS or {*whole} >= _ASEG]


def merged(labels: Volume, numbers: str) -> Volume:
    """A label map with the numbers of one of SETS in those of FreeSurfer's aseg; other values stay as they are."""
    data = labels.data.copy()
    for first, last, value in SETS[numbers]:
        data[(labels.data >= first) & (labels.data <= last)] = value
    return Volume(np.ascontiguousarray(data), labels.grid, labels.source)
