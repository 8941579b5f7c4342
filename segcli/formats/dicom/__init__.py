"""DICOM in and out: files, frames, stacks, series; segmentations, structure sets, reports."""

from __future__ import annotations

from pathlib import Path

from segcli.errors import InputError
from segcli.formats.table import LAST, Format, Wanted
from segcli.space.volume import Volume


def _looks_like(path: Path, head: bytes) -> bool:
    from segcli.formats.dicom.places import is_collection, looks_like

    try:
        return not head or is_collection(path) or looks_like(path)
    except InputError:  # an archive that cannot be looked into
        return False  # what a folder holds is told when it is read


def _read(path: Path, wanted: Wanted) -> Volume:
    from segcli.formats.dicom import series

    return series.read(path, series=wanted.series, volume=wanted.volume, fill_gaps=wanted.fill_gaps, seen=wanted.seen)


FORMAT = Format("DICOM", (), _looks_like, _read, series=True, asked=LAST)  # its files may be called anything
