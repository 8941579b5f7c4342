"""Windows added up in float16, as nnU-Net v2 does: logits that are nearly equal are decided by this rounding."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from segcli.errors import ModelError
from segcli.inference.engine import Engine, not_finite, on_planes, where_unseen
from segcli.space.volume import Box

_SCALE = 10.0  # nnU-Net's largest weight: float16 then has more of the small ones


def half_weights(weight: NDArray[np.float64]) -> NDArray[np.float16]:
    """Weights (d, h, w), 1 at most, as nnU-Net rounds them."""
    rounded = (weight * _SCALE).astype(np.float16)
    rounded[rounded == 0] = rounded[rounded > 0].min()
    return rounded


def too_large() -> ModelError:
    """The refusal of sums that float16 does not hold."""
    return ModelError(
        "logits are too large for sums in float16, which --faithful has for this model", hint="leave it out"
    )


class HalfSums:
    """Sums on the host, whatever the engine computes on; see `inference.engine.Sums`.

    zeros    makes them, in memory or in a temporary file
    image    (C, D, H, W)
    shape    of the planes that are summed at a time; `axis` is the one they move along
    weight   (d, h, w) of `half_weights`

    Each window's weighted logits are added in float32, in the order of the windows, and rounded to float16; so is the
    sum of the weights, and the quotient of both.
    """

    unseen: Sequence[float] = ()

    def __init__(
        self,
        engine: Engine,
        zeros: Callable[[tuple[int, ...]], NDArray[np.float16]],
        image: NDArray[np.float32],
        shape: tuple[int, int, int],
        axis: int,
        weight: NDArray[np.float16],
    ) -> None:
        self._engine, self._image, self._axis, self._first = engine, image, axis, -1
        self._weight, self._zeros = weight, zeros
        self._norm = np.zeros(shape, np.float16)
        self._total: NDArray[np.float16] | None = None

    @property
    def classes(self) -> int:
        return 0 if self._total is None else len(self._total)

    def add(self, windows: Sequence[Box]) -> None:
        for at in windows:
            logits = self._engine.run(np.ascontiguousarray(self._image[(slice(None), *at)])[None])[0]
            if not np.isfinite(logits).all():
                raise not_finite(at)
            if self._total is None:
                self._total = self._zeros((len(logits), *self._norm.shape))
            place = on_planes(at, self._axis, self._first)
            for sums, channel in zip(self._total, logits, strict=True):
                with np.errstate(over="ignore"):  # `finished` refuses it
                    sums[place] += channel * self._weight
            self._norm[place] += self._weight

    def settle(self) -> None:
        """Windows are added when they come."""

    def finished(self, box: Box) -> NDArray[np.float32]:
        place = on_planes(box, self._axis, self._first)
        assert self._total is not None  # nobody asks before a window was added
        norm = self._norm[place]
        empty = norm == 0
        with np.errstate(over="ignore"):
            slab = (np.asarray(self._total)[(slice(None), *place)] / np.where(empty, np.float16(1), norm)).astype(
                np.float32
            )
        if not np.isfinite(slab).all():
            raise too_large()
        slab[:, empty] = np.array(where_unseen(self.unseen, len(slab)), np.float32)[:, None]
        return slab

    def advance(self, planes: int) -> None:
        self._first += planes
        for array in (self._norm, *(() if self._total is None else self._total)):
            along = np.moveaxis(array, self._axis, 0)
            kept = max(0, len(along) - planes)
            along[:kept] = along[len(along) - kept :].copy()
            along[kept:] = 0
