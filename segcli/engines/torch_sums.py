"""Sums of logits on a device: a ring of planes, whose windows are looked through for NaN once in a while."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcli.engines.blended import Blending
from segcli.engines.torch_decide import Decider
from segcli.engines.torch_memory import Device
from segcli.inference.deciding import Task
from segcli.inference.engine import UNSEEN, not_finite
from segcli.space.volume import Box

HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
_TINY = float(np.finfo(np.float32).tiny)


class DeviceSums:
    """Sums of logits and of weights beside the network, which no window leaves.

    Plane p of the image has the place p modulo their number, so that nothing is moved when they go on. Whether logits
    are finite is asked for all windows since the last slab at once: the device is not waited for meanwhile.
    """

    def __init__(
        self,
        device: Device,
        engine: Blending,
        image: NDArray[np.float32],
        shape: tuple[int, int, int],
        axis: int,
        weight: NDArray[np.float32],
    ) -> None:
        self._engine, self._device, self._held = engine, device, engine.hold(image)
        self._shape, self._axis, self._first = shape, axis, -1
        self._weight = torch.from_numpy(weight)
        self._norm = torch.zeros(shape)
        self._total: Tensor | None = None
        self._doubts: list[tuple[Sequence[Box], Tensor, bool]] = []

    @property
    def classes(self) -> int:
        return 0 if self._total is None else len(self._total)

    def add(self, windows: Sequence[Box]) -> None:
        logits = self._engine.answer(self._held, windows)
        good = logits.sum((1, 2, 3, 4)).isfinite()
        half = self._engine.precision in HALVES
        if half:  # what overflowed counts as not seen, and is added when it was repeated
            logits = torch.where(good.view(-1, 1, 1, 1, 1), logits, 0.0)
        self._doubts.append((windows, good, half))
        for at, own, right in zip(windows, logits, good, strict=True):
            self._put(at, own, right)

    def finished(self, box: Box) -> NDArray[np.float32]:
        return self.slab(box).to("cpu").contiguous().numpy()

    def slab(self, box: Box) -> Tensor:
        """`finished`, where the sums are."""
        self._settle()
        assert self._total is not None  # nobody asks before a window was added
        norm = self._cut(self._norm_there(), box)
        slab = self._cut(self._total, box) / norm.clamp_min(_TINY)
        unseen = norm == 0
        slab.masked_fill_(unseen, UNSEEN)
        slab[0].masked_fill_(unseen, 0.0)
        return slab

    def advance(self, planes: int) -> None:
        self._settle()
        for array in (self._norm, *(() if self._total is None else (self._total,))):
            for place, _ in self._places(slice(self._first, self._first + min(planes, self._shape[self._axis]))):
                array.narrow(array.dim() - 3 + self._axis, place.start, place.stop - place.start).zero_()
        self._first += planes

    def decider(self, task: Task) -> Decider:
        """Labels, margins and votes, decided on the device."""
        return Decider(self._device, self.slab, task)

    def _put(self, at: Box, logits: Tensor, right: Tensor) -> None:
        """Add one window's logits (K, d, h, w) and its weights; none of them where `right` is false."""
        if self._total is None:
            self._total = self._device.zeros((len(logits), *self._shape))
        total = self._total

        def added() -> None:
            values, norm = logits.to(total.device), self._norm_there()
            weight = self._weight = self._weight.to(total.device)
            seen = weight * right.to(total.device)
            for place, own in self._places(at[self._axis]):
                box, part = [*at], [slice(None)] * 3
                box[self._axis], part[self._axis] = place, own
                total[(slice(None), *box)].addcmul_(values[(slice(None), *part)], weight[tuple(part)])
                norm[tuple(box)].add_(seen[tuple(part)])

        self._device.tried(added)

    def _settle(self) -> None:
        """Have every window's logits finite: in half precision those that are not are computed again in float32.

        errors   `not_finite`
        """
        doubts, self._doubts = self._doubts, []
        if not doubts:
            return
        windows = [(at, half) for some, _, half in doubts for at in some]
        # The one time that the device is waited for; the CPU may have taken over between two of them.
        good = torch.cat([right.to(doubts[-1][1].device) for _, right, _ in doubts]).tolist()
        for (at, half), right in zip(windows, good, strict=True):
            if right:
                continue
            if not half:  # judged as it was computed: the CPU, in float32, may have taken over since
                raise not_finite(at)
            with self._engine.exact(1):
                (logits,) = self._engine.answer(self._held, [at])
            right = logits.sum().isfinite()
            if not right:
                raise not_finite(at)
            self._put(at, logits, right)

    def _norm_there(self) -> Tensor:
        """The sums of weights where those of logits are, which may have moved to the host."""
        if self._total is not None and self._norm.device != self._total.device:
            self._norm = self._norm.to(self._total.device)
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
