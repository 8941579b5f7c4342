"""The series in a folder, an archive or an index: which files are of each, and whether it could be a volume.

A folder of many series is asked for each of them: the headers of the place that was looked through last are not read
again while its files are the same.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import pydicom.config

from segcli.errors import InputError, SegcliError
from segcli.formats.dicom.archive import ArchiveMember, Place
from segcli.formats.dicom.copies import are_copies, is_enhanced, without_copies
from segcli.formats.dicom.files import DicomFile, Unused, is_dicomdir, open_file
from segcli.formats.dicom.frames import is_mosaic
from segcli.formats.dicom.kinds import VOLUME_CLASSES, is_image, no_slice, no_volume
from segcli.formats.dicom.places import Stray, at_once, every_file, kind_of, printable
from segcli.formats.dicom.stack import stack_grid
from segcli.formats.dicom.texts import without_warnings
from segcli.formats.dicom.volumes import Stack, stacks_of

Stamp = tuple[int, ...] | None
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
        with reading():
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


def matches(series: Series, wanted: str) -> bool:
    """Whether --series means this series: by its name, its UID or its number, with leading zeros or without."""
    if wanted in (series.name, series.uid):
        return True
    return re.fullmatch(r"\d{1,9}", wanted) is not None and series.number == int(wanted)


def find(tree: Path, stray: Stray = at_once) -> tuple[Series, ...]:
    """Every series of a folder, an archive or an index, in the order of their numbers, each with its summary.

    stray    gets each file or folder that may hold slices, of which series cannot be told, and what is wrong with it
    """
    found, _ = scan(tree, stray)
    for series in found:
        _ = series.summary  # while its headers are in memory
    return found


def files_in(path: Path, name: str) -> tuple[Path, ...]:
    """The files of a series in a folder, by its name; () where it has none.

    Their headers stay in memory for the reading that follows.

    errors   as of `read`
    """
    found, _ = scan(path)
    return tuple(f.path for one in found if one.name == name for f in one.files if isinstance(f.path, Path))


@contextmanager
def reading() -> Iterator[None]:
    """Headers are taken as they are: what matters in them is checked here, in our words."""
    with without_warnings(), pydicom.config.disable_value_validation():
        yield


def scan(folder: Path, stray: Stray = at_once) -> tuple[tuple[Series, ...], list[Unused]]:
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
            known = isinstance(place, Path) and _is_settled(stamp, newest)  # a member would keep its archive open
            reason = _kind(place, stamp) if known else kind_of(place)
        except SegcliError as error:  # also of a member of an archive that no memory holds
            strays[place] = error
            continue
        if reason is None:
            slices.append((place, stamp))
        else:
            unused[place] = Unused(printable(place.name), reason)
    search = _searched if all(_is_settled(stamp, newest) for _, stamp in slices) else _searched.__wrapped__
    found, left, ill = search(tuple(slices))
    if ill or any(file.fault for one in found for file in one.files):
        _searched.cache_clear()  # what could not be read may be read the next time
    for place, fault in (*strays.items(), *ill):
        stray(place, fault)
    unused |= left
    return found, [unused[place] for place, _ in places if place in unused]


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
def _kind(place: Path, stamp: Stamp) -> str | None:
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
    with reading():
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
        with reading():
            other = next((s for s in enhanced if one not in enhanced and are_copies(one.files, s.files)), None)
        return one if other is None else replace(one, copy=f"the same slices as {other.name}, in classic files")

    return tuple(marked(s) if enhanced and s in could else s for s in found)


def single(path: Path) -> Series:
    """The series of one multi-frame file or mosaic."""
    name = printable(path.name)
    reason = kind_of(path)
    if reason is not None:
        raise InputError(f"{name}: {reason}: not a format that is read")
    with reading():
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


def taken(chosen: Series, found: Sequence[Series]) -> Series:
    """A series with the headers of its files; of those of all that were found nothing stays in memory but for it."""
    own = replace(chosen, files=tuple(file.taken() for file in chosen.files))
    for file in (file for series in found for file in series.files):
        file.forget()
    return own


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
