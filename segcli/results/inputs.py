"""The files of a case: their names, one sum over their bytes, and whether they are still the same."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from segcli import formats
from segcli.formats.streams import is_folder, reading, refusal
from segcli.formats.walk import walk
from segcli.models.library import file_sha256

Stamp = tuple[int, int]  # bytes, and nanoseconds of the last change


@dataclass(frozen=True)
class Inputs:
    """The files of a case by name, and one hash over all their bytes.

    sha256  of the file, or of the files' sums one after the other, in name order for a folder or a series in it
    stamps  size and time of change of each file, before it was read for its sum
    """

    files: tuple[str, ...]
    sha256: str
    stamps: Mapping[str, Stamp] = field(default_factory=dict, compare=False)


def hash_inputs(
    paths: Sequence[Path], mine: Callable[[Path], bool] = lambda path: False, only: Sequence[Path] = ()
) -> Inputs:
    """Names without folders, and the hash that says whether the input is still the same.

    A header with detached data counts with its data file, whichever of the two was named. Of a folder, files that
    are segcli's own (`mine`) do not count: outputs may lie among the slices. Where the input is one series of a folder,
    its files (`only`) alone count.
    """
    stamps: dict[str, Stamp] = {}
    sums: list[str] = []
    for path in paths:
        folder = is_folder(path)
        below = sorted(p for p in _below(path) if p.is_file() and not mine(p)) if folder and not only else ()
        for file in (only or below) if folder else formats.files_of(path):
            name, stamp = os.path.abspath(file), _stamp(file)  # noqa: PTH100 - links are followed nowhere here
            stamps[name] = stamp
            sums.append(_sum_again(name, stamp) if folder else _sum(file))
    whole = sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()
    names = tuple(p.name for p in paths)
    return Inputs(names, whole, stamps)


def odd_file(inputs: Inputs, paths: Sequence[Path], read: Iterable[Path]) -> Path | None:
    """A file of an input that came or changed since its sum was taken; None where the sum is of what was read.

    paths   of the case; read: the files that its voxels came from, of which those in a folder of the case count
    """
    folders = [path for path in paths if is_folder(path)]
    named = [file for path in paths if path not in folders for file in formats.files_of(path)]
    inside = [file for file in read if any(folder in file.parents for folder in folders)]
    there = ((file, inputs.stamps.get(os.path.abspath(file))) for file in (*named, *inside))  # noqa: PTH100 - as above
    return next((file for file, before in there if before is None or before != _stamp(file)), None)


def _stamp(path: Path) -> Stamp:
    with reading(path):
        found = path.stat()
    return found.st_size, found.st_mtime_ns


def _below(folder: Path) -> Iterator[Path]:
    """Every file below a folder; refused where one of its folders cannot be read."""

    def refuse(error: OSError) -> None:
        raise refusal(error, folder) from error

    return (here / name for here, _, names in walk(folder, refuse) for name in names)


def _sum(path: Path) -> str:
    with reading(path):
        return file_sha256(path)


@lru_cache(maxsize=1 << 17)
def _sum_again(path: str, stamp: Stamp) -> str:
    """The sum of a file in a folder, taken once for all series in there while its stamp is the same."""
    return _sum(Path(path))
