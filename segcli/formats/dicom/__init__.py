"""DICOM in and out: files, frames, stacks, series; segmentations, structure sets, reports."""

from __future__ import annotations

from pathlib import Path

from segcli.formats.table import LAST, Format, Wanted
from segcli.space.volume import Volume


def _looks_like(path: Path, head: bytes) -> bool:
    from segcli.formats.dicom import series

    return not head or series.looks_like(path)  # what a folder holds is told when it is read


def _read(path: Path, wanted: Wanted) -> Volume:
    from segcli.formats.dicom import series

    return series.read(path, series=wanted.series, volume=wanted.volume, fill_gaps=wanted.fill_gaps, seen=wanted.seen)


FORMAT = Format("DICOM", (), _looks_like, _read, series=True, asked=LAST)  # its files may be called anything
