"""Files that are whole or absent: a hidden temporary name in the same folder, flushed, checked, renamed.

Others may write in that folder too. A temporary file is made anew under a name that nobody can guess, is written
through its descriptor and never by its name, and gets its final name only as the plain file that was written.
"""

from __future__ import annotations

import contextlib
import errno
import filecmp
import os
import re
import secrets
import shutil
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import BinaryIO

from segcli import system
from segcli.errors import Denied, OutputError, OutputExists, SegcliError

# .NAME.HOST-PID-RANDOM.partial: the next run removes those of dead processes and never a live one's.
# A date or a UUID in a name of somebody else's does not look like that.
_PARTIAL = re.compile(
    r"^\..*\.(?P<host>[A-Za-z0-9_-]+)-(?P<pid>\d+)-[0-9a-f]{16}\.partial(\.[A-Za-z0-9]+)*$", re.DOTALL
)
_ENDING = re.compile(r"(\.[A-Za-z0-9]{1,10}){0,2}$")
_ELSEWHERE = "choose another folder with -o"
# What is in the way of more bytes, and what would help.
_FULL = {
    errno.ENOSPC: ("no space left on the disk of", f"free some space or {_ELSEWHERE}"),
    errno.EDQUOT: ("your share (quota) is used up on the disk of", f"delete some of your files there or {_ELSEWHERE}"),
    errno.EFBIG: ("a larger file than is allowed (`ulimit -f`) in", f"raise the limit or {_ELSEWHERE}"),
}
ANOTHER = "name another file, or take this one away"
_STALE = 7 * 24 * 3600  # seconds after which a temporary file of another host is nobody's: files take minutes
_SHUT = {errno.EACCES, errno.EPERM, errno.EROFS}

_naming = threading.Lock()  # held while files get their names, and when the process is about to end
_ended = False
_live: dict[Path, os.stat_result | None] = {}  # temporary files of this process, as they were when written whole
_staged: ContextVar[dict[Path, Path] | None] = ContextVar("staged", default=None)


def _host() -> str:
    """This machine and its space of process numbers: containers may share the one and not the other."""
    name = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())[:64] or "host"
    with contextlib.suppress(OSError):
        name += "_" + re.sub(r"\D", "", os.readlink("/proc/self/ns/pid"))  # noqa: PTH115 - text, not a path
    return name


_HOST = _host()


def claimed(path: Path) -> OutputExists:
    """The refusal to write over, or add to, what somebody else made."""
    return OutputExists(f"{path.name}: exists already, and is not known to be segcli's own", hint=ANOTHER)


def unclaimed(path: Path, *, overwrite: bool = False, own: Callable[[bytes], bool] | None = None) -> None:
    """Refuse to write over what somebody else made.

    own      whether a file that begins with these bytes is an earlier one of the same kind, which may be replaced
    errors   OutputExists (73)
    """
    if overwrite or not os.path.lexists(path):
        return
    mine = False
    with contextlib.suppress(OSError):
        if own is not None:
            with system.opened(path) as file:
                mine = own(file.read(4096))
    if not mine:
        raise claimed(path)


@contextmanager
def whole_file(path: Path, check: Callable[[Path], object] | None = None) -> Iterator[BinaryIO]:
    """Yield a new file beside `path` that gets the final name only when the block and `check` succeed.

    check    reads the temporary file back, by its name; False, or OutputError, when it is not what was meant
    errors   OutputError (74) with the cause when the disk is full or writing fails; Denied (77)

    The temporary name keeps the ending of the final one, because readers may choose the format by it. Inside
    `together` the file waits for the others.
    """
    temporary = path.with_name(partial_name(path.name))
    staged = _staged.get()
    waits = False
    _live[temporary] = None
    try:
        with translated(path, temporary):
            no_detour(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "x+b", opener=_anew) as file:
                yield file
                file.flush()
                system.flush(file.fileno())
                _live[temporary] = os.fstat(file.fileno())
            if check is not None:
                _checked(check, temporary, path)
            if staged is not None:
                discard([staged[path]] if path in staged else [])  # what was written under that name before
                staged[path] = temporary
                waits = True
            else:
                with _names():
                    _rename(temporary, path)
                _flush_folder(path.parent)
    finally:
        if not waits:
            discard([temporary])


def _anew(name: str, flags: int) -> int:
    """A descriptor of a file that was not there; what is there already, a link too, is an error."""
    return no_link(name, flags | os.O_EXCL)


def no_link(name: str, flags: int) -> int:
    """What `open` takes as its opener: a descriptor of the file itself; a link under its name is an error."""
    return os.open(name, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def ours_alone(info: os.stat_result) -> bool:
    """Whether a plain file is this user's and has no other name: what is written to it reaches nothing else."""
    return stat.S_ISREG(info.st_mode) and info.st_nlink == 1 and info.st_uid == _user(info.st_uid)


def own_folder(path: Path) -> None:
    """Make a folder that nobody but this user may enter, or take the one that is there already.

    errors   OutputError: what has that name is not such a folder
    """
    with translated(path):
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        info = path.lstat()
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != _user(info.st_uid):
            raise OutputError(f"{path.name}: another user has put something of that name into {path.parent}")


def no_detour(path: Path) -> None:
    """Refuse a path that leads through a link which another user put into a folder that is not theirs.

    Links of this user, of root, and of the one whom the folder belongs to are meant.
    """
    for folder in path.absolute().parents:
        with contextlib.suppress(FileNotFoundError):
            link = folder.lstat()
            if stat.S_ISLNK(link.st_mode) and link.st_uid not in {0, _user(link.st_uid), folder.parent.stat().st_uid}:
                raise OutputError(
                    f"{path.name}: {folder} is a link that another user made", hint="choose another folder with -o"
                )


def _user(otherwise: int) -> int:
    """The number of this user, where the system has such numbers."""
    return os.geteuid() if hasattr(os, "geteuid") else otherwise


def _checked(check: Callable[[Path], object], temporary: Path, path: Path) -> None:
    """Have the file read back that was written; what is wrong with another one in its place is told as that."""
    _untouched(temporary, path)
    try:
        if check(temporary) is False:
            raise OutputError(f"{path.name}: what was read back differs from what was written")
    except Exception:
        _untouched(temporary, path)
        raise


def _untouched(temporary: Path, path: Path) -> None:
    """Refuse where another file than was written stands under its temporary name."""
    try:
        written, now = _live.get(temporary), temporary.lstat()
    except FileNotFoundError:
        written = None
    alike = written is not None and (now.st_size, now.st_uid) == (written.st_size, written.st_uid)
    if not alike or not stat.S_ISREG(now.st_mode):
        raise OutputError(
            f"{path.name}: somebody else has put another file where it was being written, in {path.parent}",
            hint="choose a folder that only you can write to with -o",
        )


def _rename(temporary: Path, path: Path) -> None:
    """Give a file its final name; refused as in `_untouched`."""
    no_detour(path)
    _untouched(temporary, path)
    system.insistently(lambda: temporary.replace(path))


@contextmanager
def together(first: Path, last: Path, given_up: Callable[[], bool] = lambda: False) -> Iterator[dict[Path, Path]]:
    """Files written in the block get their names together when it succeeds: `first`, the others, `last`.

    yields    final path -> temporary path, of those that are written so far
    given_up  asked when no other process gives names in the folder of `last`; True: the files are dropped

    A file that is there already with the same bytes is left untouched. When one name cannot be given, files that
    were not there before are taken away again.
    """
    staged: dict[Path, Path] = {}
    token = _staged.set(staged)
    made: list[Path] = []
    try:
        yield staged
        order = sorted(staged, key=lambda path: (path == last) - (path == first))
        with translated(last), system.one_process(last.parent):
            if given_up():
                return
            with _names():
                for path in order:
                    if path.is_file() and filecmp.cmp(path, staged[path], shallow=False):
                        continue
                    if not os.path.lexists(path):
                        made.append(path)
                    _rename(staged[path], path)
            made = []
            for folder in {path.parent for path in order}:
                _flush_folder(folder)
    finally:
        _staged.reset(token)
        discard(staged.values())
        for path in reversed(made):
            with contextlib.suppress(OSError):
                path.unlink()


def at_present(path: Path) -> Path:
    """Where a file is that was written in the block of `together`, as long as it has no name."""
    return (_staged.get() or {}).get(path, path)


def discard(files: Iterable[Path]) -> None:
    """Remove temporary files."""
    for temporary in list(files):
        with contextlib.suppress(OSError):
            system.insistently(partial(temporary.unlink, missing_ok=True), 0.5)
        _live.pop(temporary, None)


def abandon() -> None:
    """Remove what this process is writing and give no file its name any more: the process is about to end.

    Names that are being given together are given first, so that no case is left half.
    """
    global _ended
    with _naming:
        _ended = True
    discard(_live)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a small file whole: read back and compared before it gets its name."""
    with whole_file(path, lambda temporary: system.bytes_of(temporary) == data) as file:
        file.write(data)


def temporary_place() -> Path:
    """Where temporary files lie; OutputError (74) where the system has no place for them."""
    try:
        return Path(tempfile.gettempdir())
    except OSError as error:
        raise OutputError(f"no place for temporary files: {error.strerror}", hint="set TMPDIR to a folder") from error


def temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """A new folder that vanishes with what is in it, in a `with` statement; errors as of `temporary_place`."""
    return tempfile.TemporaryDirectory(prefix="segcli-", dir=temporary_place(), ignore_cleanup_errors=True)


def partial_name(name: str) -> str:
    """A hidden temporary name of this process for a final name, one that nobody can guess, at most 255 bytes."""
    ending = _ENDING.search(name)
    tail = f".{_HOST}-{os.getpid()}-{secrets.token_hex(8)}.partial{ending[0] if ending else ''}"
    room = 254 - len(tail)
    return f".{os.fsencode(name)[:room].decode('utf-8', 'ignore')}{tail}"


def is_partial(name: str) -> bool:
    """Whether a file name is one of segcli's temporary names."""
    return _PARTIAL.match(name) is not None


def sweep(folder: Path, *, ours: Callable[[Path], bool] = lambda folder: False) -> None:
    """Remove temporary files that dead processes left in a folder, and temporary folders that are `ours`.

    Whether a process of another host still runs nobody knows here: what it left is removed when it is a week old, by
    this machine's clock and by the file system's. A container that was killed is such a host.

    ours   whether such a folder holds nothing but what segcli puts there: any folder can be given its name
    """
    if not folder.is_dir():
        return
    live = {path.name for path in list(_live)}  # by name: a folder can be called in several ways
    for path in folder.iterdir():
        found = _PARTIAL.match(path.name)
        if found and path.name not in live and _is_left(path, found["host"], int(found["pid"])):
            if path.is_dir() and not path.is_symlink():
                mine = (found["host"], int(found["pid"])) == (_HOST, os.getpid())  # another thread may fill it
                if not mine and ours(path):
                    shutil.rmtree(path, ignore_errors=True)
                continue
            with contextlib.suppress(OSError):
                path.unlink()


def _is_left(path: Path, host: str, pid: int) -> bool:
    """Whether the process that made a temporary file is gone; of one of another host, whether the file is old."""
    if host == _HOST:
        return not _runs(pid)
    try:
        old = time.time() - path.lstat().st_mtime > _STALE
        return old and _clock_of(path.parent) - path.lstat().st_mtime > _STALE  # this machine's clock may be wrong
    except OSError:  # it has just gone, or nothing can be made beside it
        return False


def _clock_of(folder: Path) -> float:
    """The time by the clock of a folder's file system, which dates the files of every machine in it."""
    probe = folder / partial_name("clock")
    with probe.open("xb") as file:
        now = os.fstat(file.fileno()).st_mtime
    probe.unlink()
    return now


@contextmanager
def translated(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Turn the system's errors about an output into OutputError or Denied that name the file."""
    try:
        yield
    except SegcliError:
        raise
    except OSError as error:
        if error.errno in _SHUT:
            held = ", or another program has the file open" if system.WINDOWS and path.exists() else ""
            raise denied(path, path.parent, held) from error
        if error.errno in _FULL:
            told, hint = _FULL[error.errno]
            after = _after(error.errno, path, temporary)
            raise OutputError(f"{path.name}: {told} {path.parent}{after}", hint=hint) from error
        raise OutputError(
            f"{path.name}: cannot write in {path.parent}: {error.strerror or error}",
            hint=system.too_long(temporary or path),
        ) from error


def denied(path: Path, folder: Path, more: str = "") -> Denied:
    """The refusal to write a file where this user may not write to a folder, or nobody may."""
    why = f"permission denied in {folder}{more}"
    there = next(p for p in (folder, *folder.absolute().parents) if os.path.lexists(p))
    with contextlib.suppress(OSError, AttributeError):  # Windows has no statvfs
        if os.statvfs(there).f_flag & os.ST_RDONLY:
            why = f"{there} lies on a disk that is mounted read-only"
    return Denied(f"{path.name}: {why}", hint="choose a folder you may write to with -o")


def _after(number: int, path: Path, temporary: Path | None) -> str:
    """How much had been written when no more could be, and what is left of a full disk."""
    try:
        written = temporary.stat().st_size if temporary is not None else 0
        free = shutil.disk_usage(path.parent).free
        disk = os.statvfs(path.parent) if hasattr(os, "statvfs") else None
    except OSError:
        return ""
    after = f" after {written:,} bytes of the file"
    if number != errno.ENOSPC:
        return after
    if disk is not None and disk.f_files and not disk.f_favail:  # a disk that counts no files says 0 twice
        return ": it holds as many files as it can (its inodes are used up)"
    return f"{after}; {free:,} bytes are free"


@contextmanager
def _names() -> Iterator[None]:
    """Held while files get their names; refused once the process is about to end."""
    with _naming:
        if _ended:
            raise OutputError("the run was stopped")
        yield


def _runs(pid: int) -> bool:
    """Whether another process has this number; what bears our own number and is not ours was left by a dead one."""
    return pid != os.getpid() and system.alive(pid)


def _flush_folder(folder: Path) -> None:
    """Flush the rename itself; some file systems cannot, and then the file alone is safe."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
