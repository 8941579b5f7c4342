"""Sums of logits on a device: a ring of planes, whose windows are looked through for NaN once in a while."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcli.engines.blended import Blending
from segcli.engines.torch_answers import DeviceAnswer, in_terms, mean_decider
from segcli.engines.torch_decide import AreaDecider, Decider
from segcli.engines.torch_memory import Device, Total
from segcli.inference.deciding import Answer, Deciding, Spreading, Task
from segcli.inference.engine import Weights, not_finite, where_unseen
from segcli.inference.half_sums import too_large
from segcli.space.volume import Box

HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, eq=False)
class _Doubt:
    """Windows whose logits may not be finite, and whether they are, told by the device.

    half   whether they were computed in half precision
    """

    windows: Sequence[Box]
    right: Tensor
    half: bool


class DeviceSums:
    """Sums of logits and of weights beside the network, which no window leaves.

    weight   (d, h, w); where they are float16, windows are added up as nnU-Net v2 does (inference/half_sums.py)

    Plane p of the image has the place p modulo their number, so that nothing is moved when they go on. Whether logits
    are finite is asked for all windows since the last slab at once: the device is not waited for meanwhile.
    """

    unseen: Sequence[float] = ()

    def __init__(
        self,
        device: Device,
        engine: Blending,
        image: NDArray[np.float32],
        shape: tuple[int, int, int],
        axis: int,
        weight: Weights,
    ) -> None:
        device.begin()
        self._engine, self._device, self._held = engine, device, engine.hold(image)
        self._shape, self._axis, self._first = shape, axis, -1
        self._weight = torch.from_numpy(weight)
        self._norm = torch.zeros(shape, dtype=self._weight.dtype)
        self._total: Total | None = None
        self._doubts: list[_Doubt] = []
        self._again: list[Box] = []  # windows to be computed again in float32

    @property
    def classes(self) -> int:
        return 0 if self._total is None else len(self._total.data)

    def add(self, windows: Sequence[Box]) -> None:
        rest = list(windows)
        while rest:
            some, logits, doubt = self._device.tried(
                lambda left=tuple(rest): self._answered(left),  # type: ignore[misc]
                lambda left=len(rest): min(left, self._engine.batch),  # type: ignore[misc]
            )
            self._doubts.append(doubt)
            for at, own, right in zip(some, logits, doubt.right, strict=True):
                self._put(at, own, right)
            rest = rest[len(some) :]

    def _answered(self, windows: Sequence[Box]) -> tuple[Sequence[Box], Tensor, _Doubt]:
        """As many of the windows as go at a time, with their logits; those that are not finite count for nothing."""
        some = windows[: max(1, self._engine.batch)]
        half = self._engine.precision in HALVES
        logits = self._engine.answer(self._held, some)
        good = logits.sum((1, 2, 3, 4)).isfinite()
        if half:  # what overflowed counts as not seen, and is added when it was repeated
            logits = torch.where(good.view(-1, 1, 1, 1, 1), logits, 0.0)
        return some, logits, _Doubt(some, good, half)

    def finished(self, box: Box) -> NDArray[np.float32]:
        self.settle()
        return self._device.tried(lambda: self.slab(box).to("cpu").contiguous().numpy())

    def slab(self, box: Box) -> Tensor:
        """`finished`, where the sums are."""
        self.settle()
        assert self._total is not None  # nobody asks before a window was added
        norm = self._cut(self._norm_there(), box)
        empty = norm == 0
        slab = self._cut(self._total.data, box) / norm.masked_fill(empty, 1)
        if slab.dtype == torch.float16:
            slab = slab.float()
            if not slab.isfinite().all():
                raise too_large()
        for channel, value in zip(slab, where_unseen(self.unseen, len(slab)), strict=True):
            channel.masked_fill_(empty, value)
        return slab

    def advance(self, planes: int) -> None:
        self.settle()
        with self._device.within():  # nothing moves to the host meanwhile
            for array in (self._norm, *(() if self._total is None else (self._total.data,))):
                for place, _ in self._places(slice(self._first, self._first + min(planes, self._shape[self._axis]))):
                    array.narrow(array.dim() - 3 + self._axis, place.start, place.stop - place.start).zero_()
        self._first += planes

    def decider(self, task: Task, others: Sequence[Answer] = ()) -> Deciding:
        """Labels, margins and votes, decided on the device."""
        if others:
            own = task.own or task.decide
            count = len(own.values)
            return mean_decider(
                self._device, lambda box, grid: in_terms(self.slab(box)[:count], own, task.decide), task, others
            )
        kind = AreaDecider if task.decide.back == "area" else Decider
        return kind(self._device, lambda box, grid: self.slab(box), task)

    def answer(self, task: Spreading) -> Answer:
        return DeviceAnswer(self._device, self.slab, task)

    def _put(self, at: Box, logits: Tensor, right: Tensor) -> None:
        """Add one window's logits (K, d, h, w) and its weights; none of them where `right` is false."""
        if self._total is None:
            self._total = self._device.zeros((len(logits), *self._shape), self._weight.dtype)
        total = self._total

        def added() -> None:
            """All memory is taken before anything is added, so that a step down in between can begin again."""
            place, norm = total.data, self._norm_there()
            values = logits.to(place.device)
            weight = self._weight = self._weight.to(place.device)
            seen = weight * right.to(place.device)
            whole = values * weight if place.dtype == torch.float16 else None
            for own, part in self._boxes(at):
                if whole is None:
                    place[(slice(None), *own)].addcmul_(values[(slice(None), *part)], weight[part])
                else:
                    place[(slice(None), *own)].add_(whole[(slice(None), *part)])
                norm[own].add_(seen[part])

        self._device.tried(added)

    def _boxes(self, at: Box) -> Iterator[tuple[Box, Box]]:
        """Where a window lies in the ring, in one piece or two, and which of its voxels each piece holds."""
        for place, own in self._places(at[self._axis]):
            box, part = [*at], [slice(None)] * 3
            box[self._axis], part[self._axis] = place, own
            yield (box[0], box[1], box[2]), (part[0], part[1], part[2])

    def settle(self) -> None:
        """Have every window's logits finite: in half precision those that are not are computed again in float32.

        errors   `not_finite`
        """
        if self._doubts:
            found = self._device.tried(self._wrong)
            self._again, self._doubts = [*self._again, *found], []
        while self._again:
            at = self._again[0]
            with self._engine.exact(1):
                logits, right = self._device.tried(lambda at=at: self._exactly(at))  # type: ignore[misc]
            if not right:
                raise not_finite(at)
            self._put(at, logits, right)
            self._again = self._again[1:]

    def _wrong(self) -> list[Box]:
        """The windows so far whose logits are not finite; the one time that the device is waited for."""
        last = self._doubts[-1].right.device  # the CPU may have taken over between two of them
        right = torch.cat([doubt.right.to(last) for doubt in self._doubts]).tolist()
        told = [(at, doubt.half) for doubt in self._doubts for at in doubt.windows]
        wrong = [pair for pair, good in zip(told, right, strict=True) if not good]
        for at, half in wrong:
            if not half:
                raise not_finite(at)
        return [at for at, _ in wrong]

    def _exactly(self, at: Box) -> tuple[Tensor, Tensor]:
        (logits,) = self._engine.answer(self._held, [at])
        return logits, logits.sum().isfinite()

    def _norm_there(self) -> Tensor:
        """The sums of weights where those of logits are, which may have moved to the host."""
        if self._total is not None and self._norm.device != self._total.data.device:
            self._norm = self._norm.to(self._total.data.device)
        return self._norm

    def _places(self, along: slice) -> list[tuple[slice, slice]]:
        """Where planes of the image lie in the ring, in one piece or two, and which of them each piece holds."""
        count, size = self._shape[self._axis], along.stop - along.start
        first = along.start % count
        one = min(size, count - first)
        pieces = [(slice(first, first + one), slice(0, one))]
        return pieces if one == size else [*pieces, (slice(0, size - one), slice(one, size))]

    def _cut(self, array: Tensor, box: Box) -> Tensor:
        """A box of the image out of a ring (..., d, h, w)."""
        parts = []
        for place, _ in self._places(box[self._axis]):
            own = list(box)
            own[self._axis] = place
            parts.append(array[..., own[0], own[1], own[2]])
        return parts[0] if len(parts) == 1 else torch.cat(parts, array.dim() - 3 + self._axis)
