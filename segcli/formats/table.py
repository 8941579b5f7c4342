"""The one table of file formats: which there are, what their files are called, who reads and writes them.

A format is a `Format` at the top of a module in this folder, beside the functions that it names, or one that an
installed package offers as an entry point of the group `segcli.formats`. Nothing else lists formats.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import segcli.formats
from segcli.packages import added
from segcli.space.volume import Grid, Source, Volume
from segcli.structures import Label

Form = Literal["pixdim", "sform", "qform"]
Seen = Callable[[Grid], None]  # is told a scan's grid before its voxels are read; what it raises ends the reading
FIRST, LATER, LAST = 0, 1, 2
DICOM = ".dcm"  # of single files; most have no ending at all, and so it says nothing of a folder's scans


def unseen(grid: Grid) -> None:
    """For callers that need not know the grid before the voxels are read: does nothing."""


@dataclass(frozen=True)
class Wanted:
    """What is asked of one scan; a format goes by what it knows of.

    affine     which statement of a header counts, where the header leaves it open
    series     which series of a folder; volume: which of the volumes in it, or in a file, from 1
    channels   how many the model wants: a file with as many volumes is taken for them
    fill_gaps  whether missing slices are interpolated instead of refused
    seen       is told the scan's grid before any voxel is read
    """

    affine: Form | None = None
    series: str | None = None
    volume: int | None = None
    channels: int = 1
    fill_gaps: bool = False
    seen: Seen = unseen


@dataclass(frozen=True)
class Meaning:
    """What a file says of its voxels beside grid and type, in formats that have a place for it.

    like         where the scan came from: a file of the same format lends its header
    description  tool and model
    intent       NIfTI's code of what the values are: 1002 for labels, 0 for none
    names        the label table
    slope        what the stored numbers are multiplied with when they are read
    """

    like: Source | None = None
    description: str = "segcli"
    intent: int = 0
    names: Sequence[Label] = ()
    slope: float = 1


def itself(path: Path) -> list[Path]:
    """The files of a format whose scan is one file."""
    return [path]


def any_grid(grid: Grid) -> bool:
    """Of a format whose header can say of every grid where its voxels are."""
    return True


def one(path: Path) -> int:
    """How many images a file of a format holds that has room for one alone."""
    return 1


@dataclass(frozen=True)
class Format:
    """One file format.

    name        as messages call it
    endings     what its files are called, those of packed files first, in small letters; files that hold but the
                voxels of a header beside them are not among them
    looks_like  (path, first bytes, unpacked) -> whether it is of this format; a folder has no bytes
    read        (path, what is wanted) -> (C, D, H, W) on its grid; tells `seen` the grid before; InputError
    files_of    the files that reading a path opens
    write       (volume, path, meaning) -> path; None for a format that is only read
    written     the endings that `write` knows
    scales      whether `write` can store a slope
    holds       whether a file that `write` makes can say where the voxels of a grid are
    count       how many images on one grid a file holds, as its header says; InputError
    series      whether a path may be a folder, and hold several series and volumes to choose from
    asked       FIRST: goes by more than bytes; LATER: by first bytes that no other format has; LAST: by less than that
    """

    name: str
    endings: tuple[str, ...]
    looks_like: Callable[[Path, bytes], bool]
    read: Callable[[Path, Wanted], Volume]
    files_of: Callable[[Path], list[Path]] = itself
    write: Callable[[Volume, Path, Meaning], Path] | None = None
    written: tuple[str, ...] = ()
    scales: bool = False
    holds: Callable[[Grid], bool] = any_grid
    count: Callable[[Path], int] = one
    series: bool = False
    asked: int = LATER


@cache
def known() -> tuple[Format, ...]:
    """Every format, in the order in which they are asked whether a file is theirs; errors as in `packages.added`."""
    rooms = [importlib.import_module(f"segcli.formats.{m.name}") for m in pkgutil.iter_modules(segcli.formats.__path__)]
    own = [value for room in rooms for value in vars(room).values() if isinstance(value, Format)]
    more = added("format", Format, lambda f: (f.name,), [f.name for f in own])
    return tuple(sorted([*own, *more.values()], key=lambda f: f.asked))


@cache
def endings() -> tuple[str, ...]:
    """What files of scans are called, the longest first."""
    return tuple(sorted({e for f in known() for e in f.endings}, key=lambda e: (-len(e), e)))


def written() -> tuple[str, ...]:
    """The endings of files that can be written."""
    return tuple(dict.fromkeys(e for f in known() for e in f.written))


def stem(path: Path) -> str:
    """The file's name without its known ending; any other name as it is."""
    low = path.name.lower()
    ending = next((e for e in (*endings(), DICOM) if low.endswith(e) and len(low) > len(e)), "")
    return path.name[: len(path.name) - len(ending)] if ending else path.name
