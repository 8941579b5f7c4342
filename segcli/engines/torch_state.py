"""torch's settings of the whole process: as a run wants them while it computes, and before and after as they were."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_lock = threading.RLock()  # held while settings change hands
alone = threading.RLock()  # held while a device is worked on: threads of a caller take turns
_asked: list[str] = []  # precisions of the blocks that are open now, in any thread
_before: list[tuple[object, str, object]] = []  # the flags as they were before the first of them
_counts: list[int] = []  # CPU threads of the blocks that are open now, in any thread
_usual = [0]  # as they were before the first of them
_own = threading.local()


@contextmanager
def settings(threads: int, precision: str = "float32") -> Iterator[None]:
    """Within the block: CPU threads, kernels that are the same in every run, TF32 where it was asked for.

    Blocks of several threads may overlap, as long as one alone asks for TF32: the last that ends puts the flags back.
    """
    with bounded(threads):
        with _lock:
            if not _asked:
                _before[:] = [(owner, name, _stated(owner, name)) for owner, name, _ in _flags(precision)]
            _asked.append(precision)
            _set(_flags("tf32" if "tf32" in _asked else precision))
        try:
            yield
        finally:
            with _lock:
                _asked.remove(precision)
                _set(_flags("tf32" if "tf32" in _asked else _asked[-1]) if _asked else _before)


@contextmanager
def bounded(threads: int, limit: tuple[torch.device, float] | None = None) -> Iterator[None]:
    """Within the block: CPU threads, and a share of a CUDA device's memory that this process may take."""
    share = None if limit is None else _share(limit[0])
    with _counted(threads):
        try:
            if limit is not None:
                torch.cuda.set_per_process_memory_fraction(limit[1], limit[0])
            yield
        finally:
            if limit is not None and share is not None:
                torch.cuda.set_per_process_memory_fraction(share, limit[0])


@contextmanager
def _counted(threads: int) -> Iterator[None]:
    """Within the block so many CPU threads; behind it as many as before, in this thread and in those that begin then.

    torch counts for each thread; one that begins takes what any other has set last, and here that is not its own.
    """
    depth = getattr(_own, "depth", 0)
    with _lock:
        before = torch.get_num_threads()
        if not _counts:
            _usual[0] = before
        elif not depth and before in _counts:
            before = _usual[0]
        _counts.append(threads)
        _own.depth = depth + 1
        _use(threads)
    try:
        yield
    finally:
        with _lock:
            _counts.remove(threads)
            _own.depth = depth
            _use(before)


def _use(threads: int) -> None:
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def _set(flags: list[tuple[object, str, object]]) -> None:
    """What has a value already is left alone: it may follow torch's flag for all of its kind."""
    for owner, name, value in flags:
        if getattr(owner, name) != value:
            setattr(owner, name, value)


def _stated(owner: object, name: str) -> object:
    """A flag's value, to be put back; "none" where torch's flag for all of its kind has the same: it follows that."""
    value = getattr(owner, name)
    if name != "fp32_precision" or value in ("none", "ieee"):
        return value
    setattr(owner, name, "none")
    followed = getattr(owner, name)
    setattr(owner, name, value)
    return "none" if followed == value else value


def _flags(precision: str) -> list[tuple[object, str, object]]:
    """Owner, name and value of each flag; a search for kernels takes seconds, and finds others in the next run."""
    backends: Any = torch.backends
    tf32 = precision == "tf32"
    flags = [(backends.cudnn, "benchmark", False), (backends.cudnn, "deterministic", True)]
    if hasattr(backends.cudnn, "conv"):  # from torch 2.9 on; the older names refuse to be read where both were used
        word = "tf32" if tf32 else "ieee"
        words = [(backends.cudnn.conv, word), (backends.cuda.matmul, word)]
        # The processor's are bfloat16 where a caller has asked torch for quick products of matrices.
        words += [(backends.mkldnn.conv, "ieee"), (backends.mkldnn.matmul, "ieee")]
        return [*flags, *((owner, "fp32_precision", own) for owner, own in words)]
    return [*flags, (backends.cudnn, "allow_tf32", tf32), (backends.cuda.matmul, "allow_tf32", tf32)]


def _share(device: torch.device) -> float:
    """The share of a device's memory that the process may take; all of it where an older torch does not say."""
    known = getattr(torch.cuda, "get_per_process_memory_fraction", None)
    return 1.0 if known is None else float(known(device))
