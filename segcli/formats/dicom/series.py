"""DICOM series to one volume: right, or refused.

Files are grouped by series, slices ordered by their position along the normal, and no voxel is touched before the whole
series is known to be a volume; what is promised of it stands in tests/PROMISES.md, section 4.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from segcli.errors import InputError, InputMissing, SegcliError
from segcli.formats.dicom.archive import ArchiveMember, Place
from segcli.formats.dicom.doubts import doubts
from segcli.formats.dicom.files import DicomFile, Unused
from segcli.formats.dicom.frames import Frame
from segcli.formats.dicom.kinds import LABELS_INSTEAD, no_slice
from segcli.formats.dicom.places import INSIDE, is_collection, printable
from segcli.formats.dicom.places import looks_like as looks_like
from segcli.formats.dicom.search import Series, matches, reading, scan, single, taken
from segcli.formats.dicom.search import Summary as Summary
from segcli.formats.dicom.search import find as find
from segcli.formats.dicom.stack import Uneven, stack_grid, values_of
from segcli.formats.dicom.volumes import Stack, shorter
from segcli.formats.table import Seen, unseen
from segcli.formats.walk import name_of
from segcli.space.volume import Grid, Source, Volume


@dataclass(frozen=True, eq=False)
class Slices:
    """What the writers need: for each plane of the volume the frame it came from, None where a gap was filled."""

    planes: tuple[Frame | None, ...]


def read(
    path: Path,
    *,
    series: str | None = None,
    volume: int | None = None,
    fill_gaps: bool = False,
    seen: Seen = unseen,
) -> Volume:
    """The one volume of a folder, an archive, an index or a multi-frame file, on the grid of its slices' positions.

    series   the number or the name of a series, where a folder has several that could be a volume
    volume   1, 2, ...: which of the volumes of a series (phases, echoes, time points)
    seen     is told the grid before the voxels are read
    returns  (1, D, H, W), D ascending along rows x columns; int16 where that holds the values, else float32
    errors   InputError for whatever would otherwise be silently different; InputMissing where there is no DICOM
    """
    chosen, unused = _chosen(path, series)
    return read_series(chosen, volume=volume, fill_gaps=fill_gaps, unused=unused, name=_name(path), seen=seen)


def grids(path: Path) -> Callable[[str | None, int | None], Grid]:
    """The grid of a volume of a place by its headers, those of the place being read once for all that are asked for.

    returns   takes a series and which of its volumes, as `read` does; its errors are those of `read` as far as headers
              show what is wrong
    """
    strays: dict[Place, SegcliError] = {}
    found, unused = scan(path, strays.setdefault)
    name = _name(path)

    def grid(series: str | None, volume: int | None) -> Grid:
        if strays:
            raise next(iter(strays.values()))
        chosen = _choose(found, unused, series, name)
        return _planned(chosen, volume, False, [*unused, *_others(found, chosen)], name)[0]

    return grid


def read_series(
    series: Series,
    *,
    volume: int | None = None,
    fill_gaps: bool = False,
    unused: Sequence[Unused] = (),
    name: str | None = None,
    seen: Seen = unseen,
) -> Volume:
    """The volume of one series that `find` found; see `read`."""
    grid, planes, source = _planned(series, volume, fill_gaps, unused, name or series.name)
    seen(grid)
    with reading():
        data = values_of(planes, grid.shape)
    return Volume(data[None], grid, source)


def _planned(
    series: Series, volume: int | None, fill_gaps: bool, unused: Sequence[Unused], name: str
) -> tuple[Grid, tuple[Frame | None, ...], Source]:
    """The grid, the frame of each of its planes, and what is to be said of the files."""
    if series.reason is not None:
        raise InputError(f"{name}: {series.reason}: not a volume", hint=LABELS_INSTEAD.get(series.modality))
    stack, others = _pick(series, volume, name)
    try:
        grid, planes = stack_grid(stack.frames, name, fill_gaps=fill_gaps)
    except Uneven as error:
        raise _emptied(error, unused, name) from error
    _all_there(unused, series.files, name)
    _none_beside(series.files, name)
    files = tuple(dict.fromkeys(plane.file for plane in planes if plane is not None))
    unused = [*unused, *_left_out(series, files, others)]
    facts = {
        "modality": series.modality,
        "series": series.name,
        "files": len(files) + len(unused),
        "used": len(files),
        "unused": [{"file": u.file, "reason": u.reason} for u in unused],
        "volumes": 1 + len(others),
        "volume": stack.what,
        "filled_slices": [k for k, plane in enumerate(planes) if plane is None],
    }
    warnings = (*doubts(series.modality, grid, planes, unused, len(files)), *shorter(stack, others))
    paths = dict.fromkeys(f.path.origin if isinstance(f.path, ArchiveMember) else f.path for f in files)
    return grid, planes, Source(tuple(paths), "dicom", Slices(planes), warnings, facts)


def _emptied(error: InputError, unused: Sequence[Unused], name: str) -> InputError:
    """The refusal of a gap, which names the files of no bytes that may have been its slices."""
    empty = [u.file for u in unused if u.reason == "empty"]
    if not empty:
        return error
    shown = ", ".join(empty[:5]) + (f" and {len(empty) - 5} more" if len(empty) > 5 else "")
    told = error.message.removeprefix(f"{name}: ")
    return InputError(f"{name}: empty files (0 bytes): {shown}; {told}", hint="copy the empty files again")


_LOST = ("empty", "a link that leads nowhere", "not found", "not DICOM")


def _all_there(unused: Sequence[Unused], files: Sequence[DicomFile], name: str) -> None:
    """Refuse a series beside which there is a lost file that is called as its slices are, but for digits.

    At the ends of a series no gap shows that one is missing.
    """
    slices = {_undigited(file.name) for file in files}
    if lost := [u for u in unused if u.reason in _LOST and _undigited(u.file) in slices]:
        more = f" (and {len(lost) - 1} more)" if len(lost) > 1 else ""
        told = f"{lost[0].file}: {lost[0].reason}, and called as the slices are{more}: the series may be longer"
        raise InputError(f"{name}: {told}", hint="copy such files again, or take them away if they are no slices")


_LIE = ("Rows", "Columns", "ImageOrientationPatient", "PixelSpacing")


def _none_beside(files: Sequence[DicomFile], name: str) -> None:
    """Refuse a series that holds a file of another kind which lies as its slices do, where none of them lies.

    It may be a slice whose kind is damaged; at an end of the series it would be lost without a gap.
    """
    slices = [file for file in files if no_slice(file) is None]
    ways = {tuple(map(file.text, _LIE)) for file in slices}
    taken = {file.text("ImagePositionPatient") for file in slices}
    for file in files:
        if tuple(map(file.text, _LIE)) in ways and file.text("ImagePositionPatient") not in taken:
            told = f"{file.name}: {no_slice(file)}, and lies as the slices do: the series may be longer"
            raise InputError(f"{name}: {told}", hint="copy the file again, or take it away if it is no slice")


def _undigited(name: str) -> str:
    """A file's name whose numbers are all one; of what an archive holds the name in it."""
    inside = name.rpartition(INSIDE)[2].removesuffix(")") if INSIDE in name else name
    return re.sub("[0-9]+", "0", inside)


def _left_out(series: Series, used: Sequence[DicomFile], others: Sequence[Stack]) -> list[Unused]:
    """The files of the series that are not in the volume."""
    elsewhere = {f.file for stack in others for f in stack.frames}
    instances = {f.text("SOPInstanceUID") for f in (*used, *elsewhere)}

    def reason(file: DicomFile) -> str:
        if file in elsewhere:
            return "another volume of the series"
        again = file.text("SOPInstanceUID") in instances
        return no_slice(file) or ("the same instance again" if again else "the same slice again, under another UID")

    return [Unused(f.name, reason(f)) for f in series.files if f not in used]


def real_slices(volume: Volume) -> list[int]:
    """Planes of a volume that come from its files; those that filled a gap get no labels."""
    filled = set((volume.source.facts or {}).get("filled_slices", ())) if volume.source else set()
    return [k for k in range(volume.grid.shape[0]) if k not in filled]


def _name(path: Path) -> str:
    """A file or folder without its path, "." by its own name."""
    return printable(name_of(path))


def _chosen(path: Path, wanted: str | None) -> tuple[Series, list[Unused]]:
    """The series of a folder or file that is to be read, and the files that are left out for it."""
    if not path.exists():
        raise InputMissing(f"{_name(path)}: not found")
    if not path.is_dir() and not is_collection(path):
        return single(path), []
    found, unused = scan(path)
    chosen = _choose(found, unused, wanted, _name(path))
    return taken(chosen, found), [*unused, *_others(found, chosen)]


def _choose(found: Sequence[Series], unused: list[Unused], wanted: str | None, name: str) -> Series:
    """The series that was asked for, or the only one that could be a volume."""
    if not found:
        if not unused:
            raise InputMissing(f"{name}: no file in it, outside hidden folders")
        raise InputMissing(f"{name}: {len(unused)} files, but no DICOM image among them")
    if wanted is not None:
        match = [s for s in found if matches(s, wanted)]
        if len(match) != 1:
            raise InputError(
                f"{name}: {len(match) or 'no'} series called {printable(wanted)}", hint=_listed(match or found)
            )
        return match[0]
    could = [s for s in found if s.left_out is None]
    if not could:
        kinds = ", ".join(sorted({str(s.reason) for s in found}))
        raise InputError(f"{name}: {len(found)} series, none of which is a volume: {kinds}")
    if len(could) > 1:
        raise InputError(f"{name}: {len(could)} series could be the volume", hint=_listed(could))
    return could[0]


def _listed(series: Sequence[Series]) -> str:
    return "choose one: " + "; ".join(s.line() for s in series)


def _others(found: Sequence[Series], chosen: Series) -> list[Unused]:
    return [
        Unused(f.name, f"another series: {s.left_out or 'not the one chosen'}")
        for s in found
        if s.uid != chosen.uid
        for f in s.files
    ]


def _pick(series: Series, volume: int | None, name: str) -> tuple[Stack, list[Stack]]:
    """The volume that was asked for and the others of the series."""
    try:
        stacks = list(series.stacks)
    except InputError as error:
        raise error.about(name) from error
    if volume is None and len(stacks) > 1:
        lines = "; ".join(f"--volume {k}: {s.what}, {len(s.frames)} slices" for k, s in enumerate(stacks[:10], 1))
        more = f"; and {len(stacks) - 10} more, which `segcli info --json` lists" if len(stacks) > 10 else ""
        slices = sum(len(s.frames) for s in stacks)
        spots = {tuple(np.round(frame.position, 2).tolist()) for stack in stacks for frame in stack.frames}
        where = "in several stacks" if all("stack id" in s.what for s in stacks) else "which show different things"
        where = "several at the same position" if len(spots) < slices else where
        where = "all at the same position" if len(spots) == 1 else where
        where = "in several directions" if len({s.direction for s in stacks}) > 1 else where
        raise InputError(
            f"{name}: {slices} slices, {where}: there seem to be {len(stacks)} volumes"
            + (" of one slice" if slices == len(stacks) else ""),
            hint=f"choose one: {lines}{more}",
        )
    chosen = 1 if volume is None else volume
    if not 1 <= chosen <= len(stacks):
        raise InputError(f"{name}: there is no volume {chosen}, only 1 to {len(stacks)}")
    return stacks[chosen - 1], stacks[: chosen - 1] + stacks[chosen:]
