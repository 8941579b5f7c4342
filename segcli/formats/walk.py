"""Folders that are searched through: every file below one, in order, and what is not entered."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from segcli.errors import first_few


def walk(
    folder: Path,
    onerror: Callable[[OSError], object] | None = None,
    hidden: Callable[[Path], object] = lambda folder: None,
) -> Iterator[tuple[Path, list[str], list[str]]]:
    """As `os.walk` from the top, in the order of names, and through links to folders that lie elsewhere.

    Data sets are put together of links. A link is followed once, and not to where the walk comes by anyway, nor to a
    folder around it: those stay among the files. What is taken from the list of folders is not entered. Nor are hidden
    folders: other programs keep copies of files there (.git/annex, .ipynb_checkpoints, .Trash-1000).

    onerror   is told of each folder that cannot be listed, or whose files cannot be reached; neither is walked
    hidden    is told of each hidden folder
    """
    top = os.path.realpath(folder)
    entered = {top}
    for here, folders, files in os.walk(folder, onerror=onerror, followlinks=True):
        if not os.access(here, os.X_OK):
            folders.clear()
            if onerror is not None:
                onerror(PermissionError(errno.EACCES, os.strerror(errno.EACCES), here))
            continue
        inside, others = [], []
        for name in sorted(folders):
            path = Path(here, name)
            real = os.path.realpath(path)
            around = f"{top}{os.sep}".startswith(f"{real.rstrip(os.sep)}{os.sep}")
            below = f"{real}{os.sep}".startswith(f"{top.rstrip(os.sep)}{os.sep}") and not _is_hidden(real[len(top) :])
            if name.startswith("."):
                hidden(path)
            elif path.is_symlink() and (around or below or real in entered):
                others.append(name)
            else:
                entered.add(real)
                inside.append(name)
        folders[:] = inside
        yield Path(here), folders, sorted([*files, *others])


def not_searched(folder: Path, hidden: Sequence[Path]) -> list[str]:
    """The sentence about hidden folders below a folder; none without any."""
    if not hidden:
        return []
    shown = first_few([path.relative_to(folder).as_posix() for path in hidden], 3)
    return [f"{name_of(folder)}: hidden folders are not searched: {shown}"]


def name_of(path: Path) -> str:
    """What a file or folder is called, without its path; `.` and `..` by their own names."""
    return path.name if path.name not in ("", "..") else path.resolve().name


def _is_hidden(below: str) -> bool:
    """Whether one of the folders in a path is hidden."""
    return any(part.startswith(".") for part in Path(below).parts)
