"""Who and what a DICOM scan is of; asked for only with --include-identifiers."""

from __future__ import annotations

import warnings

import pydicom

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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd values are shown as they are
        header = pydicom.dcmread(source.paths[0], stop_before_pixels=True, specific_tags=list(KEYS), force=True)
        found = {key: str(header.get(key, "")) for key in KEYS}
    return {key: value for key, value in found.items() if value}
