"""Which DICOM files are slices of a volume, and why the others are none."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache

from segcli.formats.dicom.files import DicomFile, stated_class, uid_name
from segcli.formats.dicom.frames import is_colour

_CLASS = "1.2.840.10008.5.1.4.1.1."
VOLUME_CLASSES = {  # CT, MR, PET: classic, enhanced, and enhanced as converted from classic
    *(_CLASS + n for n in ("2", "2.1", "2.2", "4", "4.1", "4.4", "128", "128.1", "130")),
}
DIRECTION = 0.1  # slices whose cosines differ by more lie in another direction
_SCAN = 5  # slices: a second direction that has as many is another scan under the same identifier, not a scout
_SURVEY = 30  # of three and more directions, as surveys have them
_KINDS = {
    "SEG": "a segmentation",
    "RTSTRUCT": "a structure set",
    "RTDOSE": "a dose",
    "RTPLAN": "a plan",
    "SR": "a report",
    "PR": "a presentation state",
    "KO": "a key object note",
    "REG": "a registration",
    "DOC": "a document",
}

LABELS_INSTEAD = {  # by modality
    "SEG": "evaluate and report --image read it as labels: name the file, not its folder",
    "RTSTRUCT": "give the label map that segcli wrote beside it (NAME_seg.nii.gz), or one that 3D Slicer makes of it",
}


def no_volume(files: list[DicomFile]) -> str | None:
    """Why a series is no volume; None when its slices are of CT, MR or PET, and not a scout's few in each direction."""
    reasons = [no_slice(f) or ("a colour image" if is_colour(f) and f.fault is None else None) for f in files]
    if None not in reasons:
        return Counter(reasons).most_common(1)[0][0]
    ways = _directions([f for f, r in zip(files, reasons, strict=True) if r is None])
    if len(ways) > 1 and max(ways) * 2 <= sum(ways) and not are_scans(ways):
        return f"a scout (slices in {len(ways)} directions)"
    return None


def are_scans(ways: Sequence[int]) -> bool:
    """Whether slices in several directions, so many in each, are a scan in each of them."""
    return len(ways) > 1 and min(ways) >= (_SCAN if len(ways) == 2 else _SURVEY)


def _directions(files: Sequence[DicomFile]) -> list[int]:
    """How many slices lie in each direction; directions differ when a cosine does by more than `DIRECTION`."""
    found: list[tuple[list[float], int]] = []
    for file in files:
        try:
            cosines = [float(v) for v in file.text("ImageOrientationPatient").split("\\")]
        except ValueError:
            continue  # missing or spoilt: the reading refuses it by name
        for k, (known, count) in enumerate(found):
            if max(map(abs, map(float.__sub__, known, cosines))) <= DIRECTION:
                found[k] = (known, count + 1)
                break
        else:
            found.append((cosines, 1))
    return [count for _, count in found]


def no_slice(file: DicomFile) -> str | None:
    """Why a file is no slice of a volume, None when it is one or should be."""
    sop_class = file.text("SOPClassUID")
    if _spoilt(sop_class) and (file.fault is not None or file.text("Modality") in ("CT", "MR", "PT")):
        return None  # it claims to be of the series, and what is wrong with it is told when that is read
    if file.fault is not None and any(known.startswith(sop_class) for known in VOLUME_CLASSES):
        return None  # the file may end within its class
    if sop_class not in VOLUME_CLASSES and stated_class(file) in VOLUME_CLASSES:
        return None  # one of the two is damaged
    if sop_class not in VOLUME_CLASSES:
        kind = _KINDS.get(file.text("Modality"))
        return kind or f"{uid_name(sop_class).removesuffix(' Storage')}, not a CT, MR or PET image"
    return "a scout (localizer)" if "LOCALIZER" in file.text("ImageType").split("\\") else None


def is_image(file: DicomFile) -> bool:
    """Whether a file is a slice of a volume, should be one, or is a scout: its frames count as slices."""
    return file.text("SOPClassUID") in VOLUME_CLASSES or no_slice(file) is None


@cache
def _spoilt(sop_class: str) -> bool:
    """Whether a class is none of the standard's, and not one of a maker's own either: nearly a slice's is neither."""
    own = re.fullmatch(r"[0-9.]+", sop_class) and not sop_class.startswith("1.2.840.10008.")
    near = difflib.get_close_matches(sop_class, VOLUME_CLASSES, cutoff=0.9)
    return (not own or bool(near)) and uid_name(sop_class) == sop_class
