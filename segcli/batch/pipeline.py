"""Many cases, one engine: read ahead, segment, write behind, go on after a failure."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from segcli.batch.case import Case, called, names_of
from segcli.batch.events import Event, Watch, unwatched
from segcli.batch.outputs import Destination
from segcli.batch.stages import (
    Job,
    Labelled,
    Loaded,
    Options,
    Outcome,
    label,
    read,
    with_names,
    write,
)
from segcli.errors import Denied, EngineError, InputError, OutOfMemory, OutputError, SegcliError, cause_of
from segcli.models.card import ModelCard
from segcli.packages import at_fault

if TYPE_CHECKING:
    from segcli.engines.opened import Opened

# How libraries say in C++ that no memory is left: torch, ONNX Runtime, OpenVINO and the standard library.
_NO_MEMORY = (
    *("DefaultCPUAllocator", "Failed to allocate memory", "std::bad_alloc", "can't start new thread"),
    "out of memory",  # of a GPU, where no step down was possible
)
# How torch says that a device gave up: from then on it always does.
_NO_DEVICE = ("CUDA error: ", "HIP error: ", "UR_RESULT_ERROR_DEVICE_LOST")
# What the system's errors mean where no room has told more of them; any other is one of the input.
_SYSTEM: dict[int, type[SegcliError]] = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EIO), OutputError),
    **dict.fromkeys((errno.EACCES, errno.EPERM), Denied),
    errno.ENOMEM: OutOfMemory,
}
Given = TypeVar("Given")
Made = TypeVar("Made")


def predict(
    cases: Iterable[Case],
    card: ModelCard,
    opened: Opened,
    to: Destination,
    options: Options | None = None,
    watch: Watch = unwatched,
) -> Iterator[Outcome]:
    """Segment the cases in order; each outcome is there as soon as its files are.

    The next scan is read and the last one written while the network works: one case ahead and one behind, so
    memory holds three scans at most. A case that is refused or fails costs that case only.
    """
    job = _job(card, opened, to, options or Options(), watch)
    with (
        ThreadPoolExecutor(1, "segcli-read") as reading,
        ThreadPoolExecutor(1, "segcli-compute") as computing,
        ThreadPoolExecutor(1, "segcli-write") as writing,
    ):
        waiting: Future[Loaded | Outcome] | None = None
        behind: Future[Outcome] | None = None
        remaining = iter(cases)
        try:
            while True:
                current = waiting
                case = next(remaining, None)
                waiting = reading.submit(_guarded, job, case, read, case) if case is not None else None
                if current is None:
                    if waiting is None:
                        break
                    continue
                loaded = current.result()
                busy = computing.submit(_labelled, job, loaded)
                if behind is not None:
                    yield behind.result()  # while the network works
                    behind = None
                result = busy.result()
                if waiting is None:
                    job.rest()  # nothing comes after it: the network's memory is free for writing
                if isinstance(result, Outcome):
                    yield result
                else:
                    behind = writing.submit(_written, job, result)
            if behind is not None:
                yield behind.result()
        finally:
            for future in (waiting, behind):
                if future is not None:
                    future.cancel()


def _job(card: ModelCard, opened: Opened, to: Destination, options: Options, watch: Watch) -> Job:
    known = with_names(options, card, several=bool(opened.several), whole=bool(opened.beside))
    return Job(card, opened, to, known, watch)


def run_case(
    case: Case, card: ModelCard, opened: Opened, to: Destination, options: Options, watch: Watch = unwatched
) -> Outcome:
    """One case from file to files, in this thread: what a worker does."""
    job = _job(card, opened, to, options, watch)
    result = _labelled(job, _guarded(job, case, read, case))
    return result if isinstance(result, Outcome) else _written(job, result)


def _labelled(job: Job, given: Loaded | Outcome) -> Labelled | Outcome:
    """The labels of a case, unless it has ended."""
    return given if isinstance(given, Outcome) else _guarded(job, given.case, label, given)


def _written(job: Job, labelled: Labelled) -> Outcome:
    return _guarded(job, labelled.loaded.case, write, labelled)


def _guarded(job: Job, case: Case, stage: Callable[[Job, Given], Made | Outcome], given: Given) -> Made | Outcome:
    """What a stage makes of a case; every error becomes the case's outcome."""
    try:
        return stage(job, given)
    except SegcliError as error:
        return failed(job.watch, case, error.about(*names_of(case)))
    except OSError as error:
        kind = _SYSTEM.get(error.errno or 0, InputError)
        if error.errno == errno.EIO and stage is read:
            kind = InputError  # of the disk that the scan lies on
        return failed(job.watch, case, kind(f"{called(case)}: {error.strerror or error}"))
    except Exception as error:
        if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
            said = cause_of(error)
            hint = "try --max-ram, or a machine with more"
            return failed(job.watch, case, OutOfMemory(f"{called(case)}: not enough memory: {said}", hint=hint))
        if isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_DEVICE):
            said, hint = cause_of(error), "run it again: what is done stays done; or use --device cpu"
            return failed(job.watch, case, EngineError(f"{called(case)}: the GPU failed: {said}", hint=hint))
        fault = at_fault(error) or SegcliError(
            f"an internal error of segcli: {type(error).__name__}: {error}",
            hint="please report it; --debug shows where it happened",
        )
        return failed(job.watch, case, fault.about(called(case)), traceback.format_exc())


def failed(watch: Watch, case: Case, error: SegcliError, details: str = "") -> Outcome:
    """The outcome of a case that has failed, which is told."""
    watch(Event("failed", case, error=error.message, exit_code=error.exit_code))
    return Outcome(case, "failed", error=error, details=details)
