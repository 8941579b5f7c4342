"""Room for the files of a case: looked for before its network runs, and on a disk that has filled up once again."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from segcli.errors import OutputError, OutputExists
from segcli.formats import atomic

_HINT = "free some space or choose another folder with -o"
# What is said of a scan where one no larger had no room, by what the system said then.
_USED_UP = {
    errno.ENOSPC: "no space left on the disk of {folder}: {free:.2f} MB are free, too few for the files of another "
    "scan, which is no larger than this one",
    errno.EDQUOT: "your share (quota) is used up on the disk of {folder}: the files of another scan, which is no "
    "larger than this one, had no room",
}


def check(labels: Path, voxels: int) -> None:
    """Refuse before the inference when the folder cannot be written to, or cannot hold even a small label map."""
    folder = _there(labels)
    if not folder.is_dir():
        raise OutputExists(f"{folder.name}: is a file, not a folder for outputs", hint="choose another folder with -o")
    if not os.access(folder, os.W_OK):
        raise atomic.denied(labels, folder)
    need = voxels // 100 + 65536  # label maps compress by a hundred and more
    free = shutil.disk_usage(folder).free
    if free < need:
        raise OutputError(
            f"{labels.name}: no space left: {need / 1e6:.2f} MB are needed, {free / 1e6:.2f} MB are free in {folder}",
            hint=_HINT,
        )


@dataclass(frozen=True)
class Filled:
    """Disks on which the files of a case had no room in this run.

    known   by the number of the disk: voxels of the case's scan, bytes that are free without its files, and the
            sentence about a later scan
    """

    known: dict[int, tuple[int, int, str]] = field(default_factory=dict)

    @contextmanager
    def watched(self, labels: Path, voxels: int) -> Iterator[None]:
        """Files are written in the block, and taken away again where the disk has no room for all of them."""
        try:
            yield
        except OutputError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and cause.errno in _USED_UP:
                folder = _there(labels)
                self.known[folder.stat().st_dev] = (voxels, shutil.disk_usage(folder).free, _USED_UP[cause.errno])
            raise

    def check(self, labels: Path, voxels: int) -> None:
        """Refuse a scan where one no larger had no room and no more is free since; a smaller one may have room."""
        folder = _there(labels)
        size, free, said = self.known.get(folder.stat().st_dev, (0, -1, ""))
        if voxels >= size and shutil.disk_usage(folder).free <= free:
            raise OutputError(f"{labels.name}: {said.format(folder=folder, free=free / 1e6)}", hint=_HINT)


def _there(path: Path) -> Path:
    """The nearest folder above a file that is there."""
    return next(folder for folder in path.absolute().parents if folder.exists())
