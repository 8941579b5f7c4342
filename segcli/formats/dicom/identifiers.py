"""Who and what a DICOM scan is of; asked for only with --include-identifiers."""

from __future__ import annotations

import warnings

from pydicom.dataset import Dataset

from segcli.formats.dicom.texts import SPOILT
from segcli.space.volume import Source

KEYS = (
    "PatientID",
    "PatientName",
    "AccessionNumber",
    "StudyDate",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
)


def identifiers(source: Source | None) -> dict[str, str]:
    """What the first file of a DICOM source says under KEYS; nothing for other formats or absent values."""
    if source is None or source.kind != "dicom":
        return {}
    header = next(plane for plane in source.header.planes if plane is not None).file.header
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd values are shown as they are
        found = {key: _said(header, key) for key in KEYS}
    return {key: value for key, value in found.items() if value}


def _said(header: Dataset, keyword: str) -> str:
    try:
        return str(header.get(keyword, ""))
    except SPOILT:
        return ""
