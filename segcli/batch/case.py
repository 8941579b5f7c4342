"""One scan to segment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from segcli.errors import SegcliError


@dataclass(frozen=True)
class Case:
    """One scan to segment.

    name     stem of the outputs, with the folders below the input folder: "sub-01/anat/sub-01_T1w"
    paths    its files, one for each channel, or one DICOM folder or archive
    beside   the folder that `name` is below when no output folder is named
    files    of one series of a folder: its files, over which the sum in the record is taken; else () for all in `paths`
    fault    why it is refused already, where it is one of several
    """

    name: str
    paths: tuple[Path, ...]
    beside: Path
    series: str | None = None
    volume: int | None = None
    fault: SegcliError | None = None
    files: tuple[Path, ...] = ()


def called(case: Case) -> str:
    """A case as sentences call it: by its first file, where it has one."""
    return (case.paths[0].name if case.paths else "") or case.name


def names_of(case: Case) -> list[str]:
    """The names by which a refusal may call a case; the first is put before a sentence that has none of them."""
    if "/" in case.name:  # sub-07/t1, where others are t1 as well
        return [case.name]
    return [called(case), case.name, *(name for path in case.paths for name in (path.name, str(path)) if name)]
