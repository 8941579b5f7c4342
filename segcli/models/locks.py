"""What only one process at a time does: a lock of the system on a file."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from segcli.formats.atomic import translated
from segcli.system import insistently, locked


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Held by one process at a time. The lock is the system's own on a file of that name: a dead process has none."""
    while True:
        with translated(path):
            handle = insistently(partial(_lock_file, path))
        with os.fdopen(handle, "rb"), locked(handle):
            if not _has_name(path, handle):  # whoever had it before has taken the name away
                continue
            try:
                yield
            finally:
                with contextlib.suppress(OSError):  # Windows takes no name away from a file that is open
                    path.unlink()
            return


def _lock_file(path: Path) -> int:
    """A descriptor of the file of a lock, made where there is none; a link or a pipe of its name is taken away."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(path.lstat().st_mode):
            path.unlink()
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
    except PermissionError:  # another user's, who shares the folder
        return os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))


def _has_name(path: Path, handle: int) -> bool:
    """Whether a file that is open is the one of that name."""
    try:
        return os.path.samestat(os.fstat(handle), path.lstat())
    except OSError:
        return False
