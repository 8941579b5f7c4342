"""Label maps beside scans, told by their voxels, so that the search of a folder can leave them out."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from segcli.batch.case import Case
from segcli.errors import first_few
from segcli.formats.streams import opened
from segcli.space.volume import Grid

# Bytes of a label map for each of its voxels in a packed file, and for each of its bytes where it is packed here. Most
# need a tenth; scans are mostly above, and one that is below is read and judged by its voxels.
_PACKED = 0.35
_HEADER = 4096  # bytes of a file that are no voxels
_SHOWN = 3  # names in a sentence
_PIECE = 1 << 16  # bytes, three of which are packed to see how small they become


class _PacksBadly(Exception):
    """Ends the reading of a file before its voxels: as large as no label map is."""


def without_label_maps(found: Sequence[Case], tell: Callable[[str], object]) -> list[Case]:
    """The cases without those whose one file is a label map by its looks, as `predict` would refuse it; they are told.

    A channel of several is kept: a mask may be one.
    """
    left = [case for case in found if _is_label_map(case)]
    if left:
        number = "1 image is" if len(left) == 1 else f"{len(left)} images are"
        names = first_few([case.paths[0].name for case in left], _SHOWN)
        tell(f"{number} left out, by the voxels a label map: {names}; `predict --allow-label-map` takes them as scans")
    others = set(left)
    return [case for case in found if case not in others]


def _is_label_map(case: Case) -> bool:
    """Whether a case is one file whose voxels look like labels; what cannot be read is refused by its own reading."""
    from segcli import formats
    from segcli.results.scan_checks import label_values

    if case.fault is not None or len(case.paths) > 1:
        return False
    path = case.paths[0]

    def before_voxels(grid: Grid) -> None:
        if not _may_be(formats.files_of(path), grid.size):
            raise _PacksBadly

    try:
        return label_values(formats.read([path], seen=before_voxels)) is not None
    except Exception:  # whatever a reader raises is told where the scan is read to be labelled
        return False


def _may_be(files: Sequence[Path], voxels: int) -> bool:
    """Whether files are as small as those of a label map of so many voxels, or become so when they are packed."""
    sizes = {file: file.stat().st_size for file in files}
    if sum(sizes.values()) < _PACKED * voxels + _HEADER:
        return True
    largest = max(files, key=sizes.__getitem__)
    pieces = b""
    with opened(largest) as file:
        for quarter in (1, 2, 3):
            file.seek(quarter * sizes[largest] // 4)
            pieces += file.read(_PIECE)
    return len(zlib.compress(pieces, 1)) < _PACKED * len(pieces)
