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

from segcli.system import control_groups, number_in

Item = TypeVar("Item")
Made = TypeVar("Made")


_most = sys.maxsize  # cores that this process shall use
# What says how many cores a job of a cluster was given, by what says that there is a job: not every cluster binds a
# job to its cores, and others compute on the rest of the machine.
_GRANTED = {
    "SLURM_CPUS_PER_TASK": "SLURM_STEP_ID",  # a task of srun; a script that runs alone has those of all tasks
    "SLURM_CPUS_ON_NODE": "SLURM_JOB_ID",
    "NSLOTS": "JOB_ID",  # Grid Engine
    "LSB_DJOB_NUMPROC": "LSB_JOBID",  # LSF
    "NCPUS": "PBS_JOBID",
    "PBS_NUM_PPN": "PBS_JOBID",
}


def use(most: int = sys.maxsize) -> None:
    """From now on the process uses no more cores than this: others run beside it."""
    global _most
    _most = most
    cores.cache_clear()


@functools.cache
def cores() -> int:
    """CPU cores that the process may use: the least of several limits.

    They are its affinity, its control group's share rounded up, what its job was given, and what `use` says.
    """
    share = _group_share()
    return max(1, min(_most, _allowed(), *_granted(), *(() if share is None else (math.ceil(share),))))


def _granted() -> list[int]:
    """Cores that a job was given, as the variables of its cluster say."""
    said = [number_in(name) for name, job in _GRANTED.items() if os.environ.get(job)]
    return [count for count in said if count]


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
    """Cores that the control groups grant, the least of them (cgroup v2, v1); None for no limit."""
    shares = [_share(folder / "cpu.max") for folder in control_groups("")]
    shares += [_share(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us") for folder in control_groups("cpu")]
    return min((share for share in shares if share), default=None)


def _share(*files: Path) -> float | None:
    """Time that may be used over the time of a period; None for no limit, or no such files."""
    try:
        quota, period = map(int, " ".join(file.read_text(encoding="ascii") for file in files).split())
    except (OSError, ValueError):  # "max" is no number
        return None
    return quota / period if quota > 0 and period > 0 else None
