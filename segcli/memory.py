"""The memory that there is, arrays in a temporary file where it does not suffice, and what the process has held."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import math
import mmap
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from segcli.errors import OutOfMemory
from segcli.system import control_groups, number_in


def mapped(shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
    """Zeros in a temporary file that is mapped into memory and vanishes with the array.

    errors   OSError when the disk cannot hold it
    """
    with tempfile.TemporaryFile(prefix="segcli-") as file:  # the mapping keeps the file's blocks alive
        size = math.prod(map(int, shape)) * np.dtype(dtype).itemsize
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)  # a full disk would end the process at the first write
        elif size > shutil.disk_usage(tempfile.gettempdir()).free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        else:
            file.truncate(size)
        return np.memmap(file, dtype, "r+", shape=shape)


RESERVE = 1 << 28  # bytes beside the sums, at least: slabs on their way to labels, and what deciding them takes


class OnDisk(np.memmap[Any, Any]):
    """An array in a temporary file that vanishes with it; what was written leaves the process's memory again."""

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        self.release()

    def release(self) -> None:
        """Give the resident pages back; their content stays in the file."""
        pages = self._mmap  # type: ignore[attr-defined]
        if hasattr(pages, "madvise"):
            pages.madvise(mmap.MADV_DONTNEED)


def zeros(
    shape: tuple[int, ...],
    max_ram: int | None,
    fallbacks: list[str],
    reserve: int,
    dtype: type[np.floating[Any]] = np.float32,
) -> NDArray[Any]:
    """Zeros in memory where they leave room for the labels' work, else in a temporary file; a step then says so.

    reserve  bytes of that work, RESERVE at least
    errors   OutOfMemory (71) when the disk cannot hold them either
    """
    size = np.dtype(dtype).itemsize * math.prod(map(int, shape))
    room = available() if max_ram is None else max_ram - resident()
    if size + reserve <= room:
        return np.zeros(shape, dtype)
    fallbacks.append(
        f"sums of {size / 1e9:.1f} GB are kept in a temporary file: {max(room, 0) / 1e9:.1f} GB of memory left"
    )
    try:
        return mapped(shape, dtype).view(OnDisk)
    except OSError as error:
        raise OutOfMemory(
            f"sums of {size / 1e9:.1f} GB fit neither into memory nor into {tempfile.gettempdir()}",
            hint="let TMPDIR name a folder with room, or give more --max-ram",
        ) from error


def give_back() -> None:
    """Have the C library return to the system what it keeps of freed arrays, where it is one that can be asked (glibc).

    Arrays of threads that decide a scan block by block leave it 50 to 100 MB that nothing else would use.
    """
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError, OSError):  # musl has no such call
            ctypes.CDLL(None).malloc_trim(0)


def available() -> int:
    """Bytes that the machine, every control group that the process is in, and its job still have to give."""
    return max(0, min([_machine()[1], *(limit - used for limit, used in (*_groups(), *_job()))]))


def total() -> int:
    """Bytes that the machine, every control group that the process is in, and its job have at most."""
    return min([_machine()[0], *(limit for limit, _ in (*_groups(), *_job()))])


def remedy(otherwise: str = "use a machine with more memory") -> str:
    """What to do where memory is short, as a hint; `otherwise` where it is not a job's."""
    given = of_job()
    if given is None or given > total():
        return otherwise
    inherited = "in a shell that only inherited a job's variables, unset SLURM_MEM_PER_NODE and SLURM_MEM_PER_CPU"
    return f"the job was given {given / 1e9:.1f} GB: ask SLURM for more, as with --mem; {inherited}"


def of_job() -> int | None:
    """Bytes that a job of SLURM was given, as its variables say; None without a job."""
    return next((limit for limit, _ in _job()), None)


_UNTOLD = (OSError, LookupError, ValueError, psutil.Error)  # of psutil, where /proc is not there or lacks a line


def free_is_told() -> bool:
    """Whether the system tells how much of the machine's memory is free."""
    return _told() is not None


def _machine() -> tuple[int, int]:
    """Bytes that the machine has, and those that are free: all of them, where the system does not tell."""
    if (found := _told()) is not None:
        return found
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return whole, whole


def _told() -> tuple[int, int] | None:
    """Bytes that the machine has, and those that are free, as the system tells."""
    try:
        found = psutil.virtual_memory()
        return int(found.total), int(found.available)
    except _UNTOLD:
        return None


def resident() -> int:
    """Bytes that this process has resident now; the most so far, where the system does not tell."""
    try:
        return int(psutil.Process().memory_info().rss)
    except _UNTOLD:
        return peak_memory()


def _groups() -> Iterator[tuple[int, int]]:
    """The limit of each control group (v2, v1) that has one, and what is in use of it.

    Files that were read and are not in use count as free, as the machine's own figures have it.
    """
    for controller, at_most, current, idle in (
        ("", "memory.max", "memory.current", "inactive_file"),
        ("", "memory.high", "memory.current", "inactive_file"),  # beyond it the process is slowed down to a crawl
        ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        for folder in control_groups(controller):
            try:
                limit, used = (folder / at_most).read_text().strip(), int((folder / current).read_text())
            except (OSError, ValueError):
                continue
            if limit.isdigit():
                yield int(limit), max(0, used - _stated(folder / "memory.stat", idle))


def _job() -> Iterator[tuple[int, int]]:
    """What a job of SLURM was given on this machine, and what this process has of it.

    Where the cluster has no control groups, it ends a job that has taken more.
    """
    if os.environ.get("SLURM_JOB_ID"):
        whole, each, count = map(number_in, ("SLURM_MEM_PER_NODE", "SLURM_MEM_PER_CPU", "SLURM_CPUS_ON_NODE"))
        if mebibytes := whole or each * count:  # 0 is all of the machine's
            yield mebibytes << 20, resident()


def _stated(path: Path, key: str) -> int:
    """A number in a file of keys and numbers; 0 where it is not."""
    with contextlib.suppress(OSError, ValueError):
        lines = map(str.split, path.read_text(encoding="ascii").splitlines())
        return next((int(line[1]) for line in lines if line[:1] == [key]), 0)
    return 0


_STATUS = Path("/proc/self/status")


def peak_memory() -> int:
    """Bytes: the largest resident size of this process so far.

    Linux's getrusage starts from the size of whoever started the process, so its own status file is read there.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            lines = _STATUS.read_text(encoding="ascii", errors="replace").splitlines()
            for line in lines:
                if line.startswith("VmHWM:"):  # gVisor has no such line
                    return 1024 * int(line.split()[1])
    try:
        import resource
    except ImportError:  # Windows
        return int(psutil.Process().memory_info().peak_wset)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
