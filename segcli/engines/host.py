"""Sums of logits in the host's memory, for engines that answer with numpy arrays."""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from segcli.errors import OutOfMemory
from segcli.volume import Box

# Planes of a window that are weighted at a time: their product stays in the cache.
_PIECE = 1 << 16


class HostSums:
    """The half of an engine that adds up: zeros, add, get, and the flips that mirrored inference needs.

    sums_limit  bytes; larger sums live in a temporary file that is mapped into memory and vanishes with them
    """

    steps: tuple[str, ...] = ()
    sums_limit: int | None = None

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def zeros(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        return zeros(shape, self.sums_limit)

    def add(
        self, total: NDArray[np.float32], at: Box, logits: NDArray[np.float32], weight: NDArray[np.float32]
    ) -> None:
        """total[:, at] += logits * weight, class by class, in pieces that fit the cache."""

        plain = np.asarray(total)

        def one(channel: int) -> None:
            here, values = plain[channel][at], logits[channel]
            step = max(1, _PIECE // weight[0].size)
            for i in range(0, len(weight), step):
                here[i : i + step] += values[i : i + step] * weight[i : i + step]
            if isinstance(total, OnDisk):
                total.release()

        if self._pool is None:
            for channel in range(len(logits)):
                one(channel)
        else:
            list(self._pool.map(one, range(len(logits))))

    def get(self, total: NDArray[np.float32]) -> NDArray[np.float32]:
        copied = np.array(total, np.float32)
        if isinstance(total, OnDisk):
            total.release()
        return copied

    def turned(self, logits: NDArray[np.float32], axes: Sequence[int], order: Sequence[int] | None) -> NDArray[Any]:
        """Logits (N, K, d, h, w) flipped along spatial axes, with their channels in another order."""
        flipped = np.flip(logits, tuple(axis + 2 for axis in axes))
        return flipped if order is None else flipped[:, list(order)]

    def owned(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits that the next run does not overwrite."""
        return np.array(logits)

    def full_precision(self) -> Self:
        """This engine: it computes in float32."""
        return self


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


def zeros(shape: tuple[int, ...], limit: int | None) -> NDArray[np.float32]:
    """Zeros in memory, or beyond `limit` bytes in a temporary file.

    errors   OutOfMemory (71) when the disk cannot hold them either
    """
    size = 4 * int(np.prod(shape, dtype=np.int64))
    if limit is None or size <= limit:
        return np.zeros(shape, np.float32)
    with tempfile.TemporaryFile(prefix="segcli-") as file:  # the mapping keeps the file's blocks alive
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)  # a full disk would end the process at the first write
            else:
                file.truncate(size)
        except OSError as error:
            raise OutOfMemory(
                f"sums of {size / 1e9:.1f} GB fit neither into memory nor into {tempfile.gettempdir()}",
                hint="let TMPDIR name a folder with room, or give more --max-ram",
            ) from error
        return OnDisk(file, np.float32, "r+", shape=shape)
