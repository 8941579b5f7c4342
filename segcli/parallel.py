"""How many cores the process may use, and work that they share."""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


_most = sys.maxsize  # cores that this process shall use


def use(most: int = sys.maxsize) -> None:
    """From now on the process uses no more cores than this: others run beside it."""
    global _most
    _most = most
    cores.cache_clear()


@functools.cache
def cores() -> int:
    """CPU cores that the process may use: its affinity, its control group's share rounded up, and what `use` says."""
    share = _group_share()
    return max(1, min(_most, _allowed(), *(() if share is None else (math.ceil(share),))))


def _allowed() -> int:
    """Cores of the process's affinity, which macOS does not know."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    import psutil

    process: Any = psutil.Process()
    return len(process.cpu_affinity()) if hasattr(process, "cpu_affinity") else os.cpu_count() or 1


def each(work: Callable[[Item], Made], items: Iterable[Item]) -> list[Made]:
    """What `work` makes of every item, in their order; a thread for each core takes one after the other.

    More threads than cores would wait for each other: numpy lets go of the interpreter for each of its operations.
    """
    todo = list(items)
    if len(todo) < 2 or cores() < 2:
        return [work(item) for item in todo]
    with ThreadPoolExecutor(min(cores(), len(todo))) as pool:
        return list(pool.map(work, todo))


def _group_share() -> float | None:
    """Cores that a control group grants (cgroup v2, v1); None for no limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        try:
            folder = Path("/sys/fs/cgroup/cpu")
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if quota in ("max", "-1"):
        return None
    return int(quota) / int(period)
