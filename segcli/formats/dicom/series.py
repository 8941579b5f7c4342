"""DICOM series to one volume: right, or refused.

Files are grouped by series, slices ordered by their position along the normal, and no voxel is touched before the whole
series is known to be a volume; what is promised of it stands in tests/PROMISES.md, section 4.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import pydicom.config

from segcli.errors import InputError, InputMissing, SegcliError
from segcli.formats.dicom.archive import ArchiveMember, Place
from segcli.formats.dicom.copies import are_copies, is_enhanced, without_copies
from segcli.formats.dicom.doubts import doubts
from segcli.formats.dicom.files import DicomFile, Unused, is_dicomdir, open_file
from segcli.formats.dicom.frames import Frame, is_mosaic
from segcli.formats.dicom.kinds import LABELS_INSTEAD, VOLUME_CLASSES, is_image, no_slice, no_volume
from segcli.formats.dicom.places import INSIDE, Stray, at_once, every_file, is_collection, kind_of, printable
from segcli.formats.dicom.places import looks_like as looks_like
from segcli.formats.dicom.stack import Uneven, stack_grid, values_of
from segcli.formats.dicom.texts import without_warnings
from segcli.formats.dicom.volumes import Stack, shorter, stacks_of
from segcli.formats.table import Seen, unseen
from segcli.formats.walk import name_of
from segcli.space.volume import Grid, Source, Volume

_SETTLED = 3_000_000_000  # nanoseconds: some disks have times in steps of 2 seconds


@dataclass(frozen=True, eq=False)
class Series:
    """One series of a folder, and whether it could be a volume.

    name     for files of its own, and for --series; free of patient data: "series-003-1f2e3d4c"
    reason   why it is no volume at all (a scout, a report, a secondary capture); None for one that could be
    copy     what it is a copy of; None for one that is not there in another form as well
    """

    name: str
    uid: str
    number: int | None
    modality: str
    description: str
    files: tuple[DicomFile, ...]
    reason: str | None
    copy: str | None = None

    @property
    def left_out(self) -> str | None:
        """Why it is not taken unless it is named; None for one that is."""
        return self.reason or self.copy

    @cached_property
    def frames(self) -> int:
        """Slices in all of its files, as their headers count them; what is of another kind has none."""
        return sum(f.count("NumberOfFrames") for f in self.files if is_image(f))

    @cached_property
    def stacks(self) -> tuple[Stack, ...]:
        """The volumes that the series holds; InputError says why it holds none."""
        with _reading():
            images = [f for f in self.files if no_slice(f) is None]
            for file in images:
                if file.fault is None and file.text("SOPClassUID") not in VOLUME_CLASSES:
                    raise InputError(f"{file.name}: corrupt: what kind of image it is cannot be read")
            return stacks_of(without_copies(images))

    @cached_property
    def summary(self) -> Summary:
        """What the series holds, or why it is refused; the headers are freed again."""
        which: tuple[tuple[str, int], ...] = ()
        try:
            if self.reason is not None:
                raise InputError(self.reason)
            which = tuple((stack.what, len(stack.frames)) for stack in self.stacks)
            names = [self.name if len(self.stacks) == 1 else f"{self.name}, {stack.what}" for stack in self.stacks]
            grids = [stack_grid(s.frames, name)[0] for s, name in zip(self.stacks, names, strict=True)]
            return Summary(self.frames, which, grids[0].shape, grids[0].spacing, None)
        except SegcliError as error:  # also of a decoder that is missing, or a file that has gone
            return Summary(self.frames, which, None, None, error.message)
        except Exception as error:  # a fault of segcli's own costs no other series; reading this one tells it in full
            return Summary(
                self.frames, which, None, None, f"an internal error of segcli: {type(error).__name__}: {error}"
            )
        finally:
            self.__dict__.pop("stacks", None)
            for file in self.files:
                file.forget()

    def line(self) -> str:
        """One line for a list: number, description, slices."""
        number = "-" if self.number is None else str(self.number)
        return f"{number} {self.description or '(no description)'}, {self.frames} slices: --series {self.name}"


@dataclass(frozen=True)
class Summary:
    """What a series holds.

    which     what tells each of its volumes apart, and its slices: the first is --volume 1
    problem   why it is not a volume, or one of its volumes is refused; None when all can be read
    """

    frames: int
    which: tuple[tuple[str, int], ...]
    shape: tuple[int, int, int] | None
    spacing: tuple[float, float, float] | None
    problem: str | None

    @property
    def volumes(self) -> int:
        return len(self.which)


@dataclass(frozen=True, eq=False)
class Slices:
    """What the writers need: for each plane of the volume the frame it came from, None where a gap was filled."""

    planes: tuple[Frame | None, ...]


def matches(series: Series, wanted: str) -> bool:
    """Whether --series means this series: by its name, its UID or its number, with leading zeros or without."""
    if wanted in (series.name, series.uid):
        return True
    return re.fullmatch(r"\d{1,9}", wanted) is not None and series.number == int(wanted)


def find(tree: Path, stray: Stray = at_once) -> tuple[Series, ...]:
    """Every series of a folder, an archive or an index, in the order of their numbers, each with its summary.

    stray    gets each file or folder that may hold slices, of which series cannot be told, and what is wrong with it
    """
    found, _ = _scan(tree, stray)
    for series in found:
        _ = series.summary  # while its headers are in memory
    return found


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


def files_in(path: Path, name: str) -> tuple[Path, ...]:
    """The files of a series in a folder, by its name; () where it has none.

    Their headers stay in memory for the reading that follows.

    errors   as of `read`
    """
    found, _ = _scan(path)
    return tuple(f.path for one in found if one.name == name for f in one.files if isinstance(f.path, Path))


def grids(path: Path) -> Callable[[str | None, int | None], Grid]:
    """The grid of a volume of a place by its headers, those of the place being read once for all that are asked for.

    returns   takes a series and which of its volumes, as `read` does; its errors are those of `read` as far as headers
              show what is wrong
    """
    strays: dict[Place, SegcliError] = {}
    found, unused = _scan(path, strays.setdefault)
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
    with _reading():
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
        return _single(path), []
    found, unused = _scan(path)
    chosen = _choose(found, unused, wanted, _name(path))
    return _taken(chosen, found), [*unused, *_others(found, chosen)]


def _taken(chosen: Series, found: Sequence[Series]) -> Series:
    """A series with the headers of its files; of those of all that were found nothing stays in memory but for it."""
    own = replace(chosen, files=tuple(file.taken() for file in chosen.files))
    for file in (file for series in found for file in series.files):
        file.forget()
    return own


@contextmanager
def _reading() -> Iterator[None]:
    """Headers are taken as they are: what matters in them is checked here, in our words."""
    with without_warnings(), pydicom.config.disable_value_validation():
        yield


def _scan(folder: Path, stray: Stray = at_once) -> tuple[tuple[Series, ...], list[Unused]]:
    """All series of a folder, an archive or an index, and the files that belong to none.

    The headers of the place that was looked through last are not read again while its DICOM files are the same.
    """
    strays: dict[Place, SegcliError] = {}
    unused: dict[Place, Unused] = {}
    slices: list[tuple[Place, Stamp]] = []
    newest = time.time_ns() - _SETTLED
    places = [(place, _stamp(place)) for place in every_file(folder, strays.setdefault)]
    for place, stamp in places:
        try:
            reason = _kind(place, stamp) if _is_settled(stamp, newest) else kind_of(place)
        except SegcliError as error:  # also of a member of an archive that no memory holds
            strays[place] = error
            continue
        if reason is None:
            slices.append((place, stamp))
        else:
            unused[place] = Unused(printable(place.name), reason)
    search = _searched if all(_is_settled(stamp, newest) for _, stamp in slices) else _searched.__wrapped__
    found, left, ill = search(tuple(slices))
    for place, fault in (*strays.items(), *ill):
        stray(place, fault)
    unused |= left
    return found, [unused[place] for place, _ in places if place in unused]


Stamp = tuple[int, ...] | None


def _stamp(place: Place) -> Stamp:
    """What changes with a file, or with the archive that holds it: bytes, times in ns, and which one it is."""
    try:
        found = (place.origin if isinstance(place, ArchiveMember) else place).stat()
    except OSError:
        return None  # its own reading tells it
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_dev


def _is_settled(stamp: Stamp, newest: int) -> bool:
    """Whether a file changed last so long ago that its stamp would show another change."""
    return stamp is not None and max(stamp[1:3]) < newest


@lru_cache(maxsize=1 << 17)
def _kind(place: Place, stamp: Stamp) -> str | None:
    """Why a file cannot be DICOM, as long as it is the same; see `kind_of`."""
    return kind_of(place)


@lru_cache(maxsize=1)
def _searched(
    places: tuple[tuple[Place, Stamp], ...],
) -> tuple[tuple[Series, ...], dict[Place, Unused], tuple[tuple[Place, SegcliError], ...]]:
    """The series of files, as long as they are the same; those that belong to none, and those that cannot be read."""
    unused: dict[Place, Unused] = {}
    strays: list[tuple[Place, SegcliError]] = []
    groups: dict[str, list[DicomFile]] = {}
    with _reading():
        for path, _ in places:
            try:
                file = open_file(path)
            except SegcliError as error:
                strays.append((path, error))
                continue
            uid = file.text("SeriesInstanceUID")
            if uid:
                groups.setdefault(uid, []).append(file)
            elif is_dicomdir(file):
                unused[path] = Unused(file.name, "an index (DICOMDIR)")
            elif (other := no_slice(file)) is not None:
                unused[path] = Unused(file.name, f"{other}, of no series")
            else:
                told = InputError(
                    f"{file.name}: {file.fault}: it cannot be told which series it belongs to",
                    hint="replace the file or take it out of the folder",
                )
                strays.append((path, told))
        series = [_series(uid, files) for uid, files in groups.items()]
    found = sorted(series, key=lambda s: (s.number is None, s.number or 0, s.name))
    return _marked(found), unused, tuple(strays)


def _marked(found: Sequence[Series]) -> tuple[Series, ...]:
    """The series, those of classic files marked whose slices are there as an enhanced object as well."""
    could = [s for s in found if s.reason is None]
    enhanced = [s for s in could if all(map(is_enhanced, s.files))]

    def marked(one: Series) -> Series:
        with _reading():
            other = next((s for s in enhanced if one not in enhanced and are_copies(one.files, s.files)), None)
        return one if other is None else replace(one, copy=f"the same slices as {other.name}, in classic files")

    return tuple(marked(s) if enhanced and s in could else s for s in found)


def _single(path: Path) -> Series:
    """The series of one multi-frame file or mosaic."""
    name = printable(path.name)
    reason = kind_of(path)
    if reason is not None:
        raise InputError(f"{name}: {reason}: not a format that is read")
    with _reading():
        file = open_file(path)
        if is_dicomdir(file):
            raise InputError(f"{name}: an index (DICOMDIR), not an image", hint="give the folder instead")
        series = _series(file.text("SeriesInstanceUID"), [file])
        if file.fault is not None and series.reason is None:
            raise InputError(f"{name}: {file.fault}")
        if series.reason is None and file.count("NumberOfFrames") == 1 and not is_mosaic(file):
            raise InputError(f"{name}: one slice of a series, not a volume", hint="give the folder of the series")
    return series


def digits(uid: str) -> str:
    """What the name of a series ends with, by its UID."""
    return hashlib.sha256(uid.encode()).hexdigest()[:8]


def _series(uid: str, files: list[DicomFile]) -> Series:
    first = files[0]
    number = first.text("SeriesNumber")
    found = int(number) if re.fullmatch(r"\d{1,9}", number) else None
    return Series(
        name=f"series-{'' if found is None else f'{found:03d}-'}{digits(uid)}",
        uid=uid,
        number=found,
        modality=first.text("Modality"),
        description=first.text("SeriesDescription"),
        files=tuple(files),
        reason=no_volume(files),
    )


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
