"""Cases side by side in processes of this machine, each with its share of the cores and of the memory.

One network does not keep many cores busy: several cases at a time do.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from weakref import WeakSet

from segcli import formats
from segcli.batch.budget import host_bytes
from segcli.batch.case import Case, called
from segcli.batch.events import Event, Watch
from segcli.batch.outputs import Destination
from segcli.batch.pipeline import failed
from segcli.batch.stages import Options, Outcome
from segcli.batch.worker import work
from segcli.engines.driver import driver_devices
from segcli.engines.loading import environment, silent
from segcli.engines.opening import Opening
from segcli.errors import OutOfMemory, SegcliError
from segcli.formats.atomic import sweep
from segcli.formats.walk import walk
from segcli.memory import available
from segcli.models.card import ModelCard
from segcli.parallel import cores, use
from segcli.space.grids import model_grid
from segcli.space.volume import Grid
from segcli.system import on_the_end

_CORES = 4  # of one case, by `auto`: more gain little
_LATER = 1.0  # seconds within which a signal that has ended a process of the run's group has ended the run as well
_PROCESS_BYTES = 1 << 30  # of a process with its libraries and a model, before the first scan


def jobs_for(wanted: int | None, cases: Sequence[Case], card: ModelCard, opening: Opening) -> int:
    """Cases at a time: as many as are wanted and the memory allows; by the cores for None, and one on a GPU.

    The memory is that of the case with the largest files.
    """
    if wanted is None:
        on_gpu = opening.device not in ("auto", "cpu") or (opening.device == "auto" and driver_devices() > 0)
        wanted = 1 if on_gpu else cores() // _CORES
    most = min(len(cases), wanted)
    if most < 2:
        return 1
    largest = max(cases, key=lambda case: sum(map(_size, case.paths)))
    grid = _grid_of(largest, card)
    if grid is None:  # what is wrong with the case is told when its turn comes
        return most
    need = _PROCESS_BYTES + host_bytes(grid, 4, card, model_grid(grid, card.grid), on_disk=False)
    room = available() if opening.max_ram is None else opening.max_ram
    return max(1, min(most, room // need))


def _size(path: Path) -> int:
    """Bytes of a file, or of all below a folder; what cannot be asked is nothing."""
    size = 0
    with suppress(OSError):
        files = [here / name for here, _, names in walk(path) for name in names] if path.is_dir() else [path]
        for file in files:
            size += file.stat().st_size
    return size


class _Enough(Exception):
    """Ends the reading of a scan once its grid is known, before its voxels are read."""


def _grid_of(case: Case, card: ModelCard) -> Grid | None:
    """The grid of a case without its voxels; None where it cannot be read."""
    found: list[Grid] = []

    def stop(grid: Grid) -> None:
        found.append(grid)
        raise _Enough

    channels = len(card.channels)
    with suppress(SegcliError, OSError, _Enough):
        formats.read(case.paths, series=case.series, volume=case.volume, channels=channels, seen=stop)
    return found[0] if found else None


def predict_beside(
    jobs: int,
    cases: Sequence[Case],
    opening: Opening,
    to: Destination,
    options: Options,
    watch: Watch,
    devices: Sequence[str] = (),
) -> Iterator[Outcome]:
    """Segment the cases, so many at a time; outcomes in the cases' order, the files those of a run one by one.

    devices   that the processes take in turn, in place of the opening's

    What a case tells is passed on when it has ended, but for its windows. A process that is lost costs its case.
    """
    share = max(1, (opening.threads or cores()) // jobs)
    room = None if opening.max_ram is None else opening.max_ram // jobs
    places = devices or [opening.device]
    vram = None if opening.max_vram is None else opening.max_vram // -(-jobs // len(places))  # of each on a device
    free: SimpleQueue[tuple[ProcessPoolExecutor, Opening]] = SimpleQueue()
    _stopped.clear()
    for i in range(jobs):
        own = replace(opening, threads=share, max_ram=room, max_vram=vram, device=places[i % len(places)])
        free.put((_process(share), own))

    def driven(case: Case) -> tuple[Outcome, list[Event]]:
        pool, own = free.get()
        try:
            with _beginning:
                if _stopped.is_set():
                    raise CancelledError
                running = pool.submit(_work, case, own, to, options)
            return running.result()
        except BrokenProcessPool:
            if _stopped.wait(_LATER):
                raise CancelledError from None
            pool = _process(share)
            said = f"{called(case)}: the process that labelled it was ended from outside"
            told = list[Event]()
            return failed(told.append, case, OutOfMemory(said, hint="try fewer --jobs, or --max-ram")), told
        finally:
            free.put((pool, own))

    with ThreadPoolExecutor(jobs, "segcli-jobs") as drivers:
        for case, (outcome, told) in zip(cases, drivers.map(driven, cases), strict=True):
            for event in told:
                watch(replace(event, case=case))
            yield replace(outcome, case=case)
    for _ in range(jobs):
        free.get()[0].shutdown()


def end_processes(folders: Iterable[Path]) -> None:
    """End the processes that run cases, no other child of this process, and remove what they were writing.

    No other one begins in their place.
    """
    with _beginning:
        _stopped.set()
    running = [process for pool in list(_pools) for process in list((pool._processes or {}).values())]
    for process in running:
        process.kill()
    for process in running:
        process.join(2)
    for folder in folders:
        sweep(folder)


_pools: WeakSet[ProcessPoolExecutor] = WeakSet()  # those that this process has started
_beginning = threading.Lock()  # held while a process may begin
_stopped = threading.Event()  # none may begin any more


def _process(share: int) -> ProcessPoolExecutor:
    # A run that is stopped leaves a helper of Python's to end by itself, which would complain about that.
    with environment(PYTHONWARNINGS="ignore"):
        pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _begin, (share,))
    _pools.add(pool)
    return pool


def _begin(share: int) -> None:
    """A process of so many cores, that leaves signals to the one that has started it, and ends with it."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    on_the_end(signal.SIG_IGN, without=[signal.SIGTERM])
    silent()
    use(share)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, name="segcli-parent", daemon=True).start()


def _work(case: Case, opening: Opening, to: Destination, options: Options) -> tuple[Outcome, list[Event]]:
    """One case in a process, and what it told, its windows left out."""
    told: list[Event] = []

    def watch(event: Event) -> None:
        if event.name != "window":
            told.append(event)

    return work(case, opening, to, options, watch), told
