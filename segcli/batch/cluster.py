"""A batch on a Dask cluster that the user has: one case a task, the model loaded once in each worker."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from segcli.batch.cases import Case
from segcli.batch.events import Event, Watch
from segcli.batch.outputs import Destination
from segcli.batch.stages import Options, Outcome
from segcli.batch.worker import work
from segcli.engines.devices import spread
from segcli.engines.driver import driver_devices
from segcli.engines.loading import environment
from segcli.engines.opening import Opening
from segcli.errors import EngineError, UsageError, cause_of
from segcli.formats.atomic import sweep
from segcli.models.card import CARD_FILE

TIMEOUT = "30s"  # within which a scheduler answers
_MOST = 1024  # workers on this machine
_START = 120.0  # seconds within which a worker on this machine begins


def predict_on(
    scheduler: str, cases: Sequence[Case], opening: Opening, to: Destination, options: Options, watch: Watch
) -> Iterator[Outcome]:
    """Segment the cases on a cluster; outcomes come as they are done, the files are those of a local run.

    scheduler  "tcp://host:8786" of a running scheduler, or "local:4" for worker processes on this machine
    errors     EngineError (69) when the scheduler cannot be reached, no local worker begins, or the extra [cluster] is
               not installed

    Workers must see the same files under the same paths. Where workers offer the resource GPU, a case takes one of
    it, unless the run is on the CPU. Workers on this machine take its devices in turn. A worker that is lost costs its
    cases another try, three times at most.
    """
    try:
        from distributed import Client, as_completed
        from distributed.utils import silence_logging_cmgr
    except ImportError as error:
        raise EngineError("--scheduler needs Dask", hint="pip install 'segcli[cluster]'") from error
    named = to.file.parent if to.file else to.folder
    to = replace(to, folder=to.folder and _absolute(to.folder), file=to.file and _absolute(to.file))
    local = scheduler.partition(":")[0] == "local"
    opening = replace(opening, device=",".join(_devices(opening.device, local=local)))
    # Dask's own log is silent: workers' heartbeats fail while a cluster ends, and a case comes back with its error.
    with (
        silence_logging_cmgr("CRITICAL"),
        _cluster(scheduler, gpu=local and driver_devices() > 0) as address,
    ):
        try:
            client = Client(address, timeout=TIMEOUT, set_as_default=False)
        except (OSError, ValueError) as error:
            raise EngineError(
                f"{scheduler}: no Dask scheduler answers: {error}", hint="start one with `dask scheduler`"
            ) from error
        with client:
            if local:
                _begun(client, scheduler)
            offered = client.scheduler_info(n_workers=-1).get("workers", {}).values()
            gpu = opening.device != "cpu" and any("GPU" in w.get("resources", {}) for w in offered)
            futures = {}
            for case in cases:
                placed = replace(case, paths=tuple(_absolute(p) for p in case.paths), beside=_absolute(case.beside))
                future = client.submit(
                    _work,
                    placed,
                    opening,
                    to,
                    options,
                    pure=False,
                    resources={"GPU": 1} if gpu else None,
                )
                futures[future] = case
                watch(Event("queued", case))
            for future in as_completed(list(futures), loop=client.loop):
                case = futures.pop(future)
                outcome = _as_named(_outcome(future, case), named or case.beside)
                watch(_ended(outcome, case))
                future.release()
                yield replace(outcome, case=case)


def _as_named(outcome: Outcome, place: Path) -> Outcome:
    """The outcome with the paths that a local run tells: below `place` as the user named it, whole in a worker."""
    whole = _absolute(place)
    paths = (place / path.relative_to(whole) if path.is_relative_to(whole) else path for path in outcome.paths)
    return replace(outcome, paths=tuple(paths))


def _ended(outcome: Outcome, case: Case) -> Event:
    """What is told of a case that a worker has ended: what a local run tells."""
    known = outcome.record or {}
    seconds = (known.get("run") or {}).get("seconds")
    return Event(
        outcome.status,
        case,
        labels=str(outcome.paths[0]) if outcome.paths else None,
        verdict=known.get("verdict"),
        seconds=seconds if outcome.status == "done" else None,
        error=outcome.error.message if outcome.error else None,
        exit_code=outcome.error.exit_code if outcome.error else None,
    )


def _outcome(future: Any, case: Case) -> Outcome:
    """What became of a case, also where its worker or the scheduler was lost."""
    from distributed import KilledWorker

    try:
        outcome: Outcome = future.result()
        return outcome
    except KilledWorker:
        told, hint = f"{case.name}: the worker that had it was lost, again and again", None
    except CancelledError:
        told, hint = f"{case.name}: the scheduler has gone", "start it, and this run, again"
    except Exception as error:
        told = f"{case.name}: the cluster could not run it: {type(error).__name__}: {cause_of(error)}"
        hint = "workers need the same segcli, and the scheduler must stay up"
    return Outcome(case, "failed", error=EngineError(told, hint=hint))


def _begun(client: Any, scheduler: str) -> None:
    """Wait for the first worker of a local cluster; EngineError (69) where none begins: cases would wait for ever."""
    try:
        client.wait_for_workers(1, timeout=_START)
    except TimeoutError as error:
        told = f"--scheduler {scheduler}: no worker has begun within {_START:.0f} s"
        raise EngineError(told, hint="--jobs labels cases side by side without Dask") from error


def _devices(device: str, *, local: bool) -> tuple[str, ...]:
    """The devices that workers take in turn, where they are on this machine; UsageError for several elsewhere."""
    if local:
        return spread(device, driver_devices())
    if device == "cuda:all" or "," in device:
        raise UsageError(f"--device {device}: workers elsewhere have devices of their own", hint="use --device cuda")
    return (device,)


def _work(case: Case, opening: Opening, to: Destination, options: Options) -> Outcome:
    """One case in a worker; of several devices the one whose turn the worker is."""
    devices = opening.device.split(",")
    if len(devices) > 1:
        from distributed import get_worker

        opening = replace(opening, device=devices[int(get_worker().name) % len(devices)])  # a local one's is its number
    return work(case, opening, to, options)


def end_workers(folders: Iterable[Path]) -> None:
    """End the worker processes of this process's own clusters, and no other child; remove what they were writing."""
    workers = []
    # Dask lists a worker among `workers` only some time after it took its first task, among `_created` from the start.
    for nanny in [nanny for local in _clusters for nanny in list(local._created)]:
        nanny.close_gracefully()  # which ends nothing: it is what lets no other worker begin in this one's place
        with suppress(psutil.Error):
            if nanny.pid is not None:
                workers.append(psutil.Process(nanny.pid))
                workers[-1].kill()
    psutil.wait_procs(workers, timeout=2)
    for folder in folders:
        sweep(folder)


_clusters: list[Any] = []  # the local ones that this process has started


@contextmanager
def _cluster(scheduler: str, *, gpu: bool = False) -> Iterator[str]:
    """The address of a scheduler; a local cluster lives as long as the block.

    gpu   whether each local worker offers the resource GPU, once
    """
    match = re.fullmatch(r"local(?::(\d{1,9}))?", scheduler)
    if not match:
        if "://" not in scheduler:
            raise UsageError(f"--scheduler {scheduler}: is neither tcp://host:port nor local:N")
        yield scheduler
        return
    workers = int(match[1] or 2)
    if not 1 <= workers <= _MOST:
        raise UsageError(f"--scheduler {scheduler}: 1 to {_MOST} workers are possible")
    from distributed import LocalCluster

    # A run that is stopped leaves its helpers to end by themselves, and Python's would complain about that.
    with (
        environment(PYTHONWARNINGS="ignore"),
        LocalCluster(
            n_workers=0,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            silence_logs="CRITICAL",
            resources={"GPU": 1} if gpu else None,
        ) as local,
    ):
        _clusters.append(local)  # before there is a worker, so that each can be ended
        try:
            local.scale(workers)
            yield local.scheduler_address
        finally:
            _clusters.remove(local)


def anywhere(model: str) -> str:
    """A model as workers find it, which run in other folders: its name, or the whole path of its folder or file."""
    path = Path(model)
    return str(_absolute(path)) if path.is_file() or (path / CARD_FILE).is_file() else model


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 - links stay as they are
