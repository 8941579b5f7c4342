"""Files that are whole or absent: a hidden temporary name in the same folder, flushed, checked, renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from segcli.errors import Denied, OutputError

# .NAME.HOST-PID.partial: the next run removes those of dead processes on this host and never a live one's.
_PARTIAL = re.compile(r"^\..*\.(?P<host>[A-Za-z0-9_-]+)-(?P<pid>\d+)\.partial(?P<ending>(\.[A-Za-z0-9]+)*)$")
_HOST = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname()) or "host"
_live: set[Path] = set()  # temporary files of this process that are being written
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_SHUT = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def whole_file(path: Path, check: Callable[[Path], None] | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path` that gets the final name only when the block and `check` succeed.

    check    reads the temporary file back and raises OutputError when it is not what was meant
    errors   OutputError (74) with the cause when the disk is full or writing fails; Denied (77)

    The temporary name keeps the ending of the final one, because image writers choose the format by it.
    """
    temporary = path.with_name(partial_name(path.name))
    _live.add(temporary)
    try:
        with translated(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            if check is not None:
                check(temporary)
            temporary.replace(path)
            _flush_folder(path.parent)
    finally:
        discard([temporary])


def discard(files: Iterable[Path] | None = None) -> None:
    """Remove temporary files: these, or all that this process is writing, when it has to end at once."""
    for temporary in list(_live if files is None else files):
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        _live.discard(temporary)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a small file whole: read back and compared before it gets its name."""

    def check(temporary: Path) -> None:
        if temporary.read_bytes() != data:
            raise OutputError(f"{path.name}: what was read back differs from what was written")

    with whole_file(path, check) as temporary:
        temporary.write_bytes(data)


def partial_name(name: str) -> str:
    """The hidden temporary name of this process for a final name, at most 255 bytes."""
    stem, *endings = name.split(".")
    ending = "".join(f".{e}" for e in endings[-2:])
    tail = f".{_HOST}-{os.getpid()}.partial{ending}"
    room = 254 - len(os.fsencode(tail))
    head = os.fsdecode(os.fsencode(stem)[: max(room, 1)])
    return f".{head}{tail}"


def is_partial(name: str) -> bool:
    """Whether a file name is one of segcli's temporary names."""
    return _PARTIAL.match(name) is not None


def sweep(folder: Path) -> None:
    """Remove temporary files that dead processes of this host left in a folder."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        found = _PARTIAL.match(path.name)
        if found and found["host"] == _HOST and not _alive(int(found["pid"])):
            with contextlib.suppress(OSError):
                path.unlink()


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn the system's errors about an output into OutputError or Denied that name the file."""
    try:
        yield
    except OSError as error:
        if error.errno in _SHUT:
            raise Denied(
                f"{path.name}: permission denied in {path.parent}",
                hint="choose a folder you may write to with -o",
            ) from error
        if error.errno in _FULL:
            raise OutputError(
                f"{path.name}: no space left on the disk of {path.parent}",
                hint="free some space or choose another folder with -o",
            ) from error
        raise OutputError(f"{path.name}: cannot write in {path.parent}: {error.strerror or error}") from error


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _flush_folder(folder: Path) -> None:
    """Flush the rename itself; some file systems cannot, and then the file alone is safe."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
