"""Blended logits of an image's windows, in the arrays of whatever library runs the network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import zip_longest
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from segcli.inference.engine import Sums, Weights, not_finite, on_planes, where_unseen
from segcli.inference.half_sums import HalfSums
from segcli.space.resample import Sampler
from segcli.space.volume import Array, Box

Axes = tuple[int, ...]
# Makes empty sums of what an engine answers: the engine, and what `Engine.sums` takes.
Summing = Callable[["Blending", NDArray[np.float32], tuple[int, int, int], int, Weights], Sums]


class Blending(ABC):
    """An engine by what its library does with its own arrays: the rest of `inference.engine.Engine` follows.

    Engines that are made of engines (averaged.py, mirrored.py) ask these things of the ones inside.
    """

    @property
    @abstractmethod
    def name(self) -> str: ...

    @property
    @abstractmethod
    def precision(self) -> str: ...

    @property
    @abstractmethod
    def batch(self) -> int: ...

    @property
    @abstractmethod
    def fallbacks(self) -> Sequence[str]: ...

    @property
    @abstractmethod
    def repeated(self) -> int: ...

    @property
    def sampler(self) -> Sampler | None:
        """Where images are resampled: the host, unless an engine says otherwise."""
        return None

    def hold(self, image: NDArray[np.float32]) -> Array:
        """The image (C, D, H, W) where `answer` cuts windows out of it: on a device, it is sent there once."""
        return image

    @abstractmethod
    def answer(self, held: Array, at: Sequence[Box], flips: Sequence[Axes] = ()) -> Array:
        """Logits (N, K, d, h, w) of windows, which the network sees flipped along array axes; flipped back.

        flips   the axes of each window; none are flipped without
        """

    @abstractmethod
    def owned(self, logits: Array) -> Array:
        """Logits that the next answer does not overwrite."""

    def beside(self, array: Array, other: Array) -> Array:
        """The array where another one is: the CPU may have taken over between two answers."""
        return array

    @abstractmethod
    def get(self, logits: Array) -> NDArray[np.float32]:
        """A copy of logits (K, d, h, w), or of their sums, on the host."""

    def rest(self) -> None:  # noqa: B027 - most engines have nothing
        """Nothing to give back, unless an engine says otherwise."""

    def run(self, patches: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (N, K, d, h, w) of windows (N, C, d, h, w), shown as those of one long image."""
        n, _, d, h, w = patches.shape
        at = [(slice(i * d, (i + 1) * d), slice(0, h), slice(0, w)) for i in range(n)]
        held = self.hold(np.concatenate(list(patches), axis=1))
        logits = np.stack([self.get(item) for item in self.tried(lambda: self.answer(held, at))])
        for i in () if self.precision == "float32" else np.flatnonzero(~np.isfinite(logits).all((1, 2, 3, 4))):
            with self.exact(1):
                (again,) = self.tried(lambda i=i: self.answer(held, [at[i]]))  # type: ignore[misc]
            logits[i] = self.get(again)
        return logits

    def tried(self, work: Callable[[], Array]) -> Array:
        """What `work` makes, after as many steps down as it takes where an engine has a device's memory."""
        return work()

    def sums(self, image: NDArray[np.float32], shape: tuple[int, int, int], axis: int, weight: Weights) -> Sums:
        return self.summing(self, image, shape, axis, weight)

    @property
    @abstractmethod
    def summing(self) -> Summing:
        """Makes sums in this engine's memory, of what it answers or another one that is made of it."""

    def exact(self, windows: int) -> AbstractContextManager[None]:
        """Within the block answers are in float32; so many windows count as computed again."""
        return nullcontext()


class Memory(Protocol):
    """Where sums live, in one library's arrays."""

    def zeros(self, shape: tuple[int, ...]) -> Array:
        """Where sums of this size should live."""
        ...

    def halves(self, shape: tuple[int, ...]) -> NDArray[np.float16]:
        """Where sums in float16 of this size should live on the host."""
        ...

    def add(self, total: Array, at: Box, logits: Array, weight: NDArray[np.float32]) -> None:
        """total[:, at] += logits * weight, for one window's (K, d, h, w)."""
        ...

    def mean(self, total: Array, norm: NDArray[np.float32]) -> NDArray[np.float32]:
        """Sums (K, d, h, w) over those of the weights (d, h, w), none of them 0."""
        ...


def summed_in(
    memory: Memory,
    engine: Blending,
    image: NDArray[np.float32],
    shape: tuple[int, int, int],
    axis: int,
    weight: Weights,
) -> Sums:
    """Empty sums on the host of what an engine answers: in float16 where the weights are; see `Engine.sums`."""
    if weight.dtype == np.float16:
        return HalfSums(engine, memory.halves, image, shape, axis, weight.astype(np.float16, copy=False))
    return BlendedSums(memory, engine, image, shape, axis, weight.astype(np.float32, copy=False))


class BlendedSums:
    """Sums of logits in an engine's own memory; those of the weights, of one channel, in NumPy's."""

    unseen: Sequence[float] = ()

    def __init__(
        self,
        memory: Memory,
        engine: Blending,
        image: NDArray[np.float32],
        shape: tuple[int, int, int],
        axis: int,
        weight: NDArray[np.float32],
    ) -> None:
        self._memory, self._engine, self._held = memory, engine, engine.hold(image)
        self._axis, self._weight, self._first = axis, weight, -1
        self._norm = np.zeros(shape, np.float32)
        self._total: Array | None = None

    @property
    def classes(self) -> int:
        return 0 if self._total is None else len(self._total)

    def add(self, windows: Sequence[Box]) -> None:
        for at, logits in zip(windows, self._engine.answer(self._held, windows), strict=True):
            if not is_finite(logits):
                raise not_finite(at)
            if self._total is None:
                self._total = self._memory.zeros((len(logits), *self._norm.shape))
            place = on_planes(at, self._axis, self._first)
            self._memory.add(self._total, place, logits, self._weight)
            self._norm[place] += self._weight

    def settle(self) -> None:
        """Windows are added when they come."""

    def finished(self, box: Box) -> NDArray[np.float32]:
        place = on_planes(box, self._axis, self._first)
        assert self._total is not None  # nobody asks before a window was added
        norm = self._norm[place]
        slab = self._memory.mean(self._total[(slice(None), *place)], np.maximum(norm, np.finfo(np.float32).tiny))
        empty = norm == 0
        if empty.any():
            slab[:, empty] = np.array(where_unseen(self.unseen, len(slab)), np.float32)[:, None]
        return slab

    def advance(self, planes: int) -> None:
        """In pieces that never overlap, channel by channel: sums in a file then never are in memory all at once."""
        self._first += planes
        if self._total is None:
            return
        size = self._norm.shape[self._axis]
        for array in (self._norm, *(self._total[k : k + 1] for k in range(len(self._total)))):
            lead = (slice(None),) * (array.ndim - 3 + self._axis)
            for a in range(0, size, planes):
                b = min(a + planes, size)
                room = max(0, min(b, size - planes) - a)
                if room:
                    array[(*lead, slice(a, a + room))] = array[(*lead, slice(a + planes, a + planes + room))]
                if a + room < b:
                    array[(*lead, slice(a + room, b))] = 0


def cut(image: NDArray[np.float32], at: Sequence[Box], flips: Sequence[Axes] = ()) -> NDArray[np.float32]:
    """Windows (N, C, d, h, w) of an image on the host, each flipped along its array axes."""
    patches = [image[(slice(None), *box)] for box in at]
    return np.ascontiguousarray(np.stack(flipped(patches, flips)), np.float32)


def flipped(items: Iterable[NDArray[np.float32]], flips: Sequence[Axes]) -> list[NDArray[np.float32]]:
    """Items (C, d, h, w), each flipped along its array axes; as they are without any."""
    return [np.flip(item, tuple(axis + 1 for axis in own)) if own else item for item, own in zip_longest(items, flips)]


def is_finite(logits: Array) -> bool:
    """Whether a window's logits hold no NaN and no infinity: their sum would carry it."""
    with np.errstate(invalid="ignore"):  # infinities of both signs: the answer is no, not a warning
        return bool(np.isfinite(float(logits.sum())))
