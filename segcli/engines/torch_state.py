"""torch's settings of the whole process: as a run wants them while it computes, and before and after as they were."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def settings(threads: int, precision: str = "float32") -> Iterator[None]:
    """Within the block: CPU threads, kernels that are the same in every run, TF32 where it was asked for."""
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in _flags(precision)]
    with bounded(threads):
        try:
            for owner, name, value in _flags(precision):
                setattr(owner, name, value)
            yield
        finally:
            for owner, name, value in before:
                setattr(owner, name, value)


@contextmanager
def bounded(threads: int, limit: tuple[torch.device, float] | None = None) -> Iterator[None]:
    """Within the block: CPU threads, and a share of a CUDA device's memory that this process may take."""
    count = torch.get_num_threads()
    share = None if limit is None else _share(limit[0])
    try:
        if threads != count:
            torch.set_num_threads(threads)
        if limit is not None:
            torch.cuda.set_per_process_memory_fraction(limit[1], limit[0])
        yield
    finally:
        if threads != count:
            torch.set_num_threads(count)
        if limit is not None and share is not None:
            torch.cuda.set_per_process_memory_fraction(share, limit[0])


def _flags(precision: str) -> list[tuple[object, str, object]]:
    """Owner, name and value of each flag; a search for kernels takes seconds, and finds others in the next run."""
    backends: Any = torch.backends
    tf32 = precision == "tf32"
    flags = [(backends.cudnn, "benchmark", False), (backends.cudnn, "deterministic", True)]
    if hasattr(backends.cudnn, "conv"):  # from torch 2.9 on; the older names refuse to be read where both were used
        word = "tf32" if tf32 else "ieee"
        return [
            *flags,
            (backends.cudnn.conv, "fp32_precision", word),
            (backends.cuda.matmul, "fp32_precision", word),
        ]
    return [*flags, (backends.cudnn, "allow_tf32", tf32), (backends.cuda.matmul, "allow_tf32", tf32)]


def _share(device: torch.device) -> float:
    """The share of a device's memory that the process may take; all of it where an older torch does not say."""
    known = getattr(torch.cuda, "get_per_process_memory_fraction", None)
    return 1.0 if known is None else float(known(device))
