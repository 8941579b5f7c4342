"""Where systems differ: processes, signals, control groups, locks, names of files, and files that others have open."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
import re
import signal
import stat
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from io import BufferedReader
from pathlib import Path, PurePath
from typing import TypeVar

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

Made = TypeVar("Made")

WINDOWS = sys.platform == "win32"
# What ends a run in order -> its exit code. A terminal that is closed sends SIGHUP, and so may clusters send the others
# before they kill; Ctrl-Break, and a window or a session that is closed, is what Windows has instead of SIGTERM.
ENDING: dict[signal.Signals, int] = {
    getattr(signal, name): 143 if name == "SIGBREAK" else 128 + getattr(signal, name)
    for name in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGBREAK")
    if hasattr(signal, name)
}
_HERE = -100  # AT_FDCWD: paths that are not absolute begin at the working directory
# No file of Windows before 11 is called so, whatever its ending.
DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(10))}


def on_the_end(answer: Callable[[int], object] | int, without: Sequence[int] = ()) -> None:
    """Have each signal of ENDING answered by `answer(its exit code)`, or ignored; an ignored one stays so (nohup)."""
    for number, code in ENDING.items():
        if number not in without and signal.getsignal(number) != signal.SIG_IGN:
            told = answer if isinstance(answer, int) else functools.partial(_answer, answer, code)
            signal.signal(number, told)


def _answer(answer: Callable[[int], object], code: int, *_: object) -> None:
    answer(code)


def control_groups(controller: str) -> Iterator[Path]:
    """Folders of the control groups that the process is in, its own first; a limit may stand in any of them.

    controller   of version 1, as "cpu"; "" for version 2
    """
    root = Path("/sys/fs/cgroup", controller)
    own = root / _group_of(controller)
    for folder in (own, *own.parents):
        if not folder.is_relative_to(root):
            return
        yield folder


def _group_of(controller: str) -> str:
    """The process's group within a hierarchy of control groups; "" for its root, or where nobody says."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines():
            _, controllers, place = line.split(":", 2)
            if controller in controllers.split(","):
                return place.strip("/")
    return ""


def number_in(variable: str) -> int:
    """The whole number that a variable of the environment is; 0 where it is none."""
    said = os.environ.get(variable, "")
    return int(said) if re.fullmatch("[0-9]{1,15}", said) else 0


def alive(pid: int) -> bool:
    """Whether a process has this number: another user's too, which the system's list may hide (hidepid).

    Windows' `os.kill` would send it Ctrl-C, so nobody is asked by signals.
    """
    if not hasattr(os, "getpgid"):  # Windows
        import psutil

        return bool(psutil.pid_exists(pid))
    try:
        return pid > 0 and os.getpgid(pid) >= 0
    except PermissionError:  # there is one, of another session
        return True
    except (ProcessLookupError, OverflowError):  # no process has a number that is too large
        return False


def insistently(work: Callable[[], Made], seconds: float = 3.0) -> Made:
    """What `work` does to the name of a file, on Windows tried again where another program has the file open.

    Indexers and scanners of viruses open what is new for a moment; a name cannot be given or taken meanwhile.

    errors   PermissionError, of the last time
    """
    until = time.monotonic() + seconds
    while True:
        try:
            return work()
        except PermissionError:
            if not WINDOWS or time.monotonic() > until:
                raise
        time.sleep(0.05)


def exchange(one: Path, other: Path) -> bool:
    """Whether two paths have each other's names now, given in one step; False where the system cannot do that."""
    return _renamed(one, other, linux=2, macos=2) == 0  # RENAME_EXCHANGE, RENAME_SWAP


def rename_free(path: Path, to: Path) -> None:
    """Give a path a name that nothing has, in one step where the system can do that.

    errors   FileExistsError: something has it
    """
    failed = _renamed(path, to, linux=1, macos=4)  # RENAME_NOREPLACE, RENAME_EXCL
    if failed == errno.EEXIST or (failed and os.path.lexists(to)):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(to))
    if failed:
        path.rename(to)


def _renamed(one: Path, other: Path, *, linux: int, macos: int) -> int:
    """The number of the error with which a rename by a rule failed; 0 for one that is done."""
    if os.name != "posix":
        return errno.ENOSYS
    library = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(one), os.fsencode(other)
    if hasattr(library, "renameat2"):  # Linux
        failed = library.renameat2(_HERE, names[0], _HERE, names[1], linux)
    elif hasattr(library, "renamex_np"):  # macOS
        failed = library.renamex_np(*names, macos)
    else:
        return errno.ENOSYS
    return ctypes.get_errno() or errno.EIO if failed else 0


def opened(path: Path) -> BufferedReader:
    """A plain file, open to be read; whatever has its name otherwise, as a pipe that would never end, is an error."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    kind = os.fstat(handle).st_mode
    if stat.S_ISREG(kind):
        return os.fdopen(handle, "rb")
    os.close(handle)
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "not a regular file", str(path))


def bytes_of(path: Path) -> bytes:
    """The bytes of a plain file; errors as `opened`."""
    with opened(path) as file:
        return file.read()


def flush(handle: int) -> None:
    """What was written to a descriptor is on the disk; macOS's own fsync leaves it in the memory of the drive."""
    whole = getattr(fcntl, "F_FULLFSYNC", None)
    if whole is not None:
        with contextlib.suppress(OSError):  # disks of a network do not know it
            fcntl.fcntl(handle, whole)
            return
    os.fsync(handle)


@contextmanager
def one_process(folder: Path) -> Iterator[None]:
    """Held by one process at a time on a folder, where its file system can do so."""
    if fcntl is None:
        with _held(folder):
            yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with locked(handle):
            yield
    finally:
        os.close(handle)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """As `one_process`: Windows opens no folder, so that a file among the temporary ones stands for it."""
    import hashlib
    import tempfile

    named = os.path.normcase(os.path.realpath(folder)).encode("utf-8", "surrogatepass")
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # no temporary folder is no obstacle
            place = Path(tempfile.gettempdir(), f"segcli-{hashlib.sha256(named).hexdigest()[:32]}.lock")
            stack.enter_context(locked(stack.enter_context(place.open("ab")).fileno()))
        yield


@contextmanager
def locked(handle: int) -> Iterator[None]:
    """Wait until no other descriptor has the system's lock on an open file, and have it; a dead process has none.

    Where the file system knows no locks, nobody waits.
    """
    if fcntl is not None:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_UN)
        return
    msvcrt = import_module("msvcrt")
    while not _took(msvcrt, handle):
        time.sleep(0.05)
    try:
        yield
    finally:
        _byte(msvcrt, handle, msvcrt.LK_UNLCK)


def _took(msvcrt: object, handle: int) -> bool:
    try:
        _byte(msvcrt, handle, msvcrt.LK_NBLCK)  # type: ignore[attr-defined]
    except PermissionError:  # another process has it
        return False
    return True


def _byte(msvcrt: object, handle: int, how: int) -> None:
    """The first byte of a file, locked or let go."""
    os.lseek(handle, 0, os.SEEK_SET)
    msvcrt.locking(handle, how, 1)  # type: ignore[attr-defined]


def too_long(path: Path) -> str | None:
    """What to do about a path that Windows may not find for its length; None where that is not the reason.

    Windows takes 259 characters from the drive on, unless its administrator has turned long paths on.
    """
    size = len(os.path.abspath(path))  # noqa: PTH100 - links are followed nowhere here
    if not WINDOWS or size < 260:
        return None
    return (
        f"its path has {size} characters, and Windows takes 259 unless long paths are turned on: choose a shorter one"
    )


def is_device(name: str) -> bool:
    """Whether Windows takes a name for that of a device, whatever its ending."""
    return name.partition(".")[0].rstrip(" ").upper() in DEVICES


def is_plain(name: str) -> bool:
    """Whether a name is that of a file in a folder itself, and leads nowhere else on this system."""
    if WINDOWS and (":" in name or is_device(name)):
        return False  # another disk, a stream of another file, a device
    return PurePath(name).name == name and name not in ("", ".", "..")


def key_of(path: Path) -> Path:
    """Equal for two paths that are, or would be, one file: where the disk takes names so, whatever their case."""
    there = Path(os.path.abspath(path))  # noqa: PTH100 - links are followed nowhere here
    return Path(folded(str(there))) if ignores_case(there.parent) else there


def keys_of(path: Path) -> set[object]:
    """What two paths of one file or folder have something of in common, also through links.

    The system's number alone does not tell: some file systems have one for each way in which a name is written.
    """
    try:
        found = path.stat()
    except OSError:
        return {key_of(path)}
    return {key_of(path), (found.st_dev, found.st_ino)}


def folded(name: str) -> str:
    """Equal for names that differ in case, or in how their accents are put together, alone."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


@functools.lru_cache(maxsize=4096)
def ignores_case(folder: Path) -> bool:
    """Whether names in a folder that differ in case alone are one; of a folder that is not there, those around it."""
    for place in (folder, *folder.parents):
        try:
            names = set(os.listdir(place))  # noqa: PTH208 - names alone
        except FileNotFoundError:
            continue
        except OSError:
            return False
        if others := {name.swapcase() for name in names} - names:
            return os.path.lexists(place / min(others))  # it is there and is not listed: another one's name
    return False
