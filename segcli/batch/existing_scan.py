"""The scan of a label map that exists already: the one that is named, or that its record names."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from msgspec import UNSET

from segcli import formats
from segcli.batch.existing import Existing
from segcli.batch.names import is_own
from segcli.errors import Denied, InputError, UsageError
from segcli.formats import Form
from segcli.results.inputs import hash_inputs
from segcli.space.volume import Volume


@dataclass(frozen=True, eq=False)
class Scanned:
    """The scan of a label map, (C, D, H, W) on its grid, and a sentence about where it was found."""

    image: Volume
    said: tuple[str, ...] = ()


def scan_of(found: Existing, image: Path | None, counts: Form | None) -> Scanned | None:
    """The scan of a label map: the one that is named, else the one that its record names, where that is near.

    A file that is the record's is read as the record says: its volume, and the statement of its header that counts.

    errors   InputError where they are not on one grid
    """
    if found.scan is not None:
        return Scanned(found.scan)
    if image is None:
        return _recorded_scan(found)
    scan = None if counts else _as_recorded(found, [image])
    scan = scan or formats.read([image], affine=counts, channels=len(found.card.channels))
    if not scan.grid.same_as(found.labels.grid):
        raise InputError(f"{found.path.name} and {image.name} are not on one grid")
    return Scanned(scan)


def _recorded_scan(found: Existing) -> Scanned | None:
    """The files, or the DICOM folder, that the record of a label map names, read as they were for it.

    They are looked for by their names beside the label map, a folder above it and in the working folder, and have the
    sum of the record. A folder that was named by dots has no name: `predict .` in the folder of the slices.
    """
    known = found.known
    if known is None or known.input is UNSET:
        return None
    here = found.path.absolute().parent
    names = [Path(name).name for name in known.input["files"]]
    for folder in dict.fromkeys((here, here.parent, Path.cwd())):
        paths = [folder / name for name in names]
        scan = _as_recorded(found, paths) if names and not {"", ".."} & {*names} else None
        if scan is not None and scan.grid.same_as(found.labels.grid):
            shown = ", ".join(map(str, paths))
            return Scanned(scan, (f"the scan is {shown}, as the record of {found.path.name} says",))
    return None


def _as_recorded(found: Existing, paths: Sequence[Path]) -> Volume | None:
    """The scan in files, read as the record says; None where they are not what it names, or cannot be read so."""
    known = found.known
    if known is None or known.input is UNSET or known.options is UNSET:
        return None
    recorded, options = known.input, known.options
    affine = options.get("affine")
    if not all(map(Path.exists, paths)) or affine not in (None, *get_args(Form)):
        return None
    with suppress(InputError, Denied, UsageError):  # another file has the name now, or somebody changed the record
        if hash_inputs(paths, is_own, _of_series(paths, recorded["series"])).sha256 == recorded["sha256"]:
            return formats.read(
                paths,
                affine=affine,
                series=recorded["series"],
                volume=recorded["volume"],
                channels=len(found.card.channels),
                fill_gaps=bool(options.get("fill_gaps")),
            )
    return None


def _of_series(paths: Sequence[Path], series: str | None) -> list[Path]:
    """The files of a DICOM series in a folder; none where that is not said, or is in no folder."""
    if series is None or not paths[0].is_dir():
        return []
    from segcli.formats.dicom.search import files_in

    return sorted(files_in(paths[0], series))
