"""Sums of logits in the host's memory, for engines that answer with numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from segcli.memory import RESERVE, OnDisk, zeros
from segcli.space.volume import Box

# Planes of a window that are weighted at a time: their product stays in the cache.
_PIECE = 1 << 16


class HostSums:
    """The half of an engine that adds up: zeros, add, get, and the flips that mirrored inference needs.

    max_ram  bytes that the process may have resident; what there is when None
    steps    sentences, one for each step down for want of memory: sums in a temporary file
    """

    max_ram: int | None = None

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.steps: list[str] = []
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def zeros(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        return zeros(shape, self.max_ram, self.steps)

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

    def get(self, total: NDArray[np.float32]) -> NDArray[np.float32]:
        """A copy of (K, d, h, w); in memory its shortest axis comes first, for whatever goes plane by plane."""
        thin = int(np.argmin(total.shape[1:]))
        k, n, *others = np.moveaxis(total, 1 + thin, 1).shape
        copied = np.moveaxis(np.empty((k, n, *others), np.float32), 1, 1 + thin)
        for own, channel in zip(copied, total, strict=True):
            own[...] = channel
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

    def rest(self) -> None:
        """Nothing to give back, unless an engine says otherwise."""
