"""What engines that are made of engines have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import numpy as np
from numpy.typing import NDArray

from segcli.engines.blended import Blending, Summing
from segcli.space.resample import Sampler
from segcli.space.volume import Array


class Wrapped(Blending):
    """An engine that leaves all but `answer` to another one."""

    def __init__(self, inner: Blending) -> None:
        self.inner = inner

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def precision(self) -> str:
        return self.inner.precision

    @property
    def batch(self) -> int:
        return self.inner.batch

    @property
    def fallbacks(self) -> Sequence[str]:
        return self.inner.fallbacks

    @property
    def repeated(self) -> int:
        return self.inner.repeated

    @property
    def sampler(self) -> Sampler | None:
        return self.inner.sampler

    def hold(self, image: NDArray[np.float32]) -> Array:
        return self.inner.hold(image)

    def owned(self, logits: Array) -> Array:
        return self.inner.owned(logits)

    def beside(self, array: Array, other: Array) -> Array:
        return self.inner.beside(array, other)

    def get(self, logits: Array) -> NDArray[np.float32]:
        return self.inner.get(logits)

    def tried(self, work: Callable[[], Array]) -> Array:
        return self.inner.tried(work)

    @property
    def summing(self) -> Summing:
        return self.inner.summing

    def exact(self, windows: int) -> AbstractContextManager[None]:
        return self.inner.exact(windows)

    def rest(self) -> None:
        self.inner.rest()
