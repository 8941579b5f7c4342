"""Engines whose network takes and gives NumPy's arrays, with sums in the host's memory."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcli.engines.blended import Axes, Blending, Summing, cut, flipped, summed_in
from segcli.inference.windows import slab_bytes
from segcli.memory import RESERVE, OnDisk, zeros
from segcli.parallel import each
from segcli.space.volume import Box

# Planes of a window that are weighted at a time: their product stays in the cache.
_PIECE = 1 << 16


class HostEngine(Blending):
    """An engine by its `run` alone.

    max_ram    bytes that the process may have resident; what there is when None
    fallbacks  a sentence for each time that sums did not fit into memory and went into a temporary file
    """

    name: str = "numpy cpu"
    precision: str = "float32"
    batch: int = 1
    repeated: int = 0

    def __init__(self, threads: int = 1, max_ram: int | None = None) -> None:
        self.threads, self.max_ram = threads, max_ram
        self._taken: list[str] = []
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    @property
    def fallbacks(self) -> Sequence[str]:
        return self._taken

    @abstractmethod
    def run(self, patches: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (N, K, d, h, w) of windows (N, C, d, h, w); they may be overwritten by the next run."""

    def answer(self, held: NDArray[np.float32], at: Sequence[Box], flips: Sequence[Axes] = ()) -> NDArray[np.float32]:
        logits = self.run(cut(held, at, flips))
        return np.stack(flipped(logits, flips)) if any(flips) else logits

    def owned(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.array(logits)

    @property
    def summing(self) -> Summing:
        return partial(summed_in, self)

    def zeros(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        return empty_sums(shape, self.max_ram, self._taken)

    def halves(self, shape: tuple[int, ...]) -> NDArray[np.float16]:
        return empty_sums(shape, self.max_ram, self._taken, np.float16)

    def add(
        self, total: NDArray[np.float32], at: Box, logits: NDArray[np.float32], weight: NDArray[np.float32]
    ) -> None:
        """total[:, at] += logits * weight, class by class, in pieces that fit the cache."""

        plain, wide = np.asarray(total), logits.nbytes > RESERVE // 4

        def every(first: int) -> None:
            step = max(1, _PIECE // weight[0].size)
            for channel in range(first, len(logits), self.threads):
                here, values = plain[channel][at], logits[channel]
                for i in range(0, len(weight), step):
                    here[i : i + step] += values[i : i + step] * weight[i : i + step]
                if isinstance(total, OnDisk) and wide:
                    total.release()

        if self._pool is None:
            every(0)
        else:
            list(self._pool.map(every, range(self.threads)))
        if isinstance(total, OnDisk):
            total.release()

    def get(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.array(logits)

    def mean(self, total: NDArray[np.float32], norm: NDArray[np.float32]) -> NDArray[np.float32]:
        """In memory the shortest axis comes first, for whatever goes plane by plane; the cores share the classes."""
        thin = int(np.argmin(total.shape[1:]))
        k, n, *others = np.moveaxis(total, 1 + thin, 1).shape
        mean = np.moveaxis(np.empty((k, n, *others), np.float32), 1, 1 + thin)

        def one(channel: int) -> None:
            np.divide(total[channel], norm, out=mean[channel])
            if isinstance(total, OnDisk):
                total.release()

        each(one, range(k))
        return mean


def empty_sums(
    shape: tuple[int, ...], max_ram: int | None, fallbacks: list[str], dtype: type[np.floating[Any]] = np.float32
) -> NDArray[Any]:
    """Sums (K, d, h, w) to which nothing is added yet; see `memory.zeros`."""
    return zeros(shape, max_ram, fallbacks, room_beside(shape), dtype)


def room_beside(shape: tuple[int, ...]) -> int:
    """Bytes to leave beside sums (K, d, h, w): slabs grow with the cores, and two of them are there at a time."""
    whole = 4 * math.prod(shape)
    return max(RESERVE, 2 * min(whole, slab_bytes(whole // min(shape[-3:]))))


def in_rows(
    run: Callable[[NDArray[np.float32]], NDArray[np.float32]], patches: NDArray[np.float32], count: int
) -> NDArray[np.float32]:
    """Logits (N, K, d, h, w) of N windows from a `run` that takes `count` at a time; the last row is filled up."""
    filled = np.concatenate([patches, *[patches[-1:]] * (-len(patches) % count)])
    rows = [np.array(run(filled[i : i + count])) for i in range(0, len(filled), count)]
    return np.concatenate(rows)[: len(patches)]
