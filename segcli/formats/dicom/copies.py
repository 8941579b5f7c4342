"""A series that is there twice: as classic files, a slice each, and as an enhanced object of the same slices.

Scanners and archives send both. They are one series only where every slice has its twin, equal in place and in each
stored value.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

from segcli.errors import SegcliError
from segcli.formats.dicom.files import DicomFile
from segcli.formats.dicom.frames import frames_of, has_groups, tile_of
from segcli.formats.dicom.pixels import voxels

Places = Counter[tuple[object, ...]]


def is_enhanced(file: DicomFile) -> bool:
    """Whether a file holds its slices as frames with a place of their own."""
    return file.fault is None and has_groups(file)


def without_copies(files: Sequence[DicomFile]) -> list[DicomFile]:
    """The files of one series without the classic ones where enhanced ones hold the same slices."""
    enhanced = [file for file in files if is_enhanced(file)]
    classic = [file for file in files if not is_enhanced(file)]
    return enhanced if are_copies(classic, enhanced) else list(files)


def are_copies(some: Sequence[DicomFile], others: Sequence[DicomFile]) -> bool:
    """Whether two lists of files hold the same slices of one study; pixels are read only where all places agree."""
    if not (some and others) or any(file.fault is not None for file in (*some, *others)):
        return False
    if sum(f.count("NumberOfFrames") for f in some) != sum(f.count("NumberOfFrames") for f in others):
        return False
    if len({f.text("StudyInstanceUID") for f in (*some, *others)}) > 1:
        return False
    try:
        return _slices(some, False) == _slices(others, False) and _slices(some, True) == _slices(others, True)
    except SegcliError:  # their own reading tells it
        return False


def _slices(files: Sequence[DicomFile], values: bool) -> Places:
    """How often each slice is there: its size and place, to 0.01 mm, and with `values` the sum of its voxels."""
    found: Places = Counter()
    for file in files:
        stored = voxels(file) if values else None
        for frame in frames_of(file):
            place = np.round([*frame.position, *np.multiply(100, (*frame.row, *frame.column))], 2) + 0.0
            pixels = b"" if stored is None else tile_of(stored, frame).astype(np.int64).tobytes()
            found[(frame.shape, *place.tolist(), hashlib.sha256(pixels).digest())] += 1
    return found
