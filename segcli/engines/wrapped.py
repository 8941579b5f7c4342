"""What engines that are made of engines have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcli.space.volume import Array, Box


class Wrapped:
    """An engine that leaves all but `run` to another one."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    @property
    def name(self) -> str:
        return str(self.inner.name)

    @property
    def batch(self) -> int:
        return int(self.inner.batch)

    @property
    def precision(self) -> str:
        return str(self.inner.precision)

    @property
    def steps(self) -> list[str]:
        """The steps down that the inner engine took for want of memory."""
        return list(self.inner.steps)

    @property
    def max_ram(self) -> int | None:
        limit: int | None = self.inner.max_ram
        return limit

    @max_ram.setter
    def max_ram(self, limit: int | None) -> None:
        self.inner.max_ram = limit

    def zeros(self, shape: tuple[int, ...]) -> Array:
        return self.inner.zeros(shape)

    def add(self, total: Array, at: Box, logits: Array, weight: NDArray[np.float32]) -> None:
        self.inner.add(total, at, logits, weight)

    def get(self, total: Array) -> NDArray[np.float32]:
        found: NDArray[np.float32] = self.inner.get(total)
        return found

    def rest(self) -> None:
        self.inner.rest()

    def turned(self, logits: Array, axes: Sequence[int], order: Sequence[int] | None) -> Array:
        return self.inner.turned(logits, axes, order)
