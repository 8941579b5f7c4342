"""How sure the labels are: margins and votes, gathered while slabs go by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from segcli.inference.decide import Decision, Spread, planes, put
from segcli.parallel import each
from segcli.space.volume import Grid, Volume, Voxels

_CACHED = 1 << 20  # values of all channels that are worked on at a time


def winners(channels: NDArray[np.float32], decide: Decision) -> NDArray[np.integer]:
    """The winning channel of each voxel, of (K, ...); with regions 1 + the last channel above one half, 0 for none."""
    if decide.rule == "argmax":
        best: NDArray[np.integer] = channels.argmax(0)
        return best
    last = np.zeros(channels.shape[1:], np.intp)
    for k, channel in enumerate(channels, 1):
        last[channel > decide.half] = k
    return last


def _rows(channels: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Views (K, rows, w) that make (K, d, h, w) together: work for each core, however few planes there are."""
    for plane in planes(channels):
        step = max(1, _CACHED // (len(plane) * plane.shape[2]))
        for i in range(0, plane.shape[1], step):
            yield plane[:, i : i + step]


class Means:
    """Means over the model's voxels of each label value, gathered while slabs go by.

    The softmax margin, and the share of an ensemble's members that decide otherwise, where slabs bear it.
    """

    def __init__(self, decide: Decision) -> None:
        self.decide = decide
        self.values = decide.values if decide.rule == "argmax" else (0, *decide.values)
        n = len(self.values)
        self._counts, self._margins, self._votes = np.zeros(n), np.zeros(n), np.zeros(n)
        self._voted = False

    def watch(self, slabs: Iterable[Volume], spread: Spread, votes: NDArray[np.uint8] | None) -> Iterator[Volume]:
        """The slabs with the channels of logits alone; `votes` (1, D, H, W) is filled, 255 for all members."""
        count = len(self.decide.values)
        previous: Grid | None = None
        for slab in slabs:
            shift = None if previous is None else previous.start_of(slab.grid)
            np.maximum(slab.data[count:], 0, out=slab.data[count:])  # windows that were skipped have no votes
            self._gather(slab.data, None if shift is None else int(np.argmax(shift)))
            previous = slab.grid
            if len(slab.data) > count:
                self._voted = True
                if votes is not None:
                    spread.put(slab.grid, slab.data[count:], votes)
                slab = Volume(slab.data[:count], slab.grid)
            yield slab

    def _gather(self, channels: NDArray[np.float32], shared: int | None) -> None:
        """Add a slab; along the axis `shared` its first plane was the last of the slab before."""
        if shared is not None:
            cut = tuple(slice(1, None) if i == shared else slice(None) for i in range(3))
            channels = channels[(slice(None), *cut)]
        k, n = len(self.decide.values), len(self.values)
        sure = self.decide.rule == "argmax" and k > 1
        if not sure and len(channels) == k:
            return

        def means(plane: NDArray[np.float32]) -> tuple[Voxels, Voxels, Voxels]:
            order, margin = self._margin(plane[:k]) if sure else (winners(plane[:k], self.decide), None)
            flat = order.ravel()
            return (
                np.bincount(flat, minlength=n),
                np.zeros(n) if margin is None else np.bincount(flat, margin.ravel(), n),
                np.bincount(flat, plane[k].ravel(), n) if len(plane) > k else np.zeros(n),
            )

        for counts, margins, votes in each(means, _rows(channels)):
            self._counts += counts
            self._margins += margins
            self._votes += votes

    def _margin(self, plane: NDArray[np.float32]) -> tuple[NDArray[np.integer], NDArray[np.float32]]:
        """The winning channel of each pixel, (K, h, w), and how far its share is above the second best one's."""
        best, second = plane[0].copy(), np.full_like(plane[0], -np.inf)
        order = np.zeros(best.shape, np.uint8 if len(plane) <= 256 else np.uint16)
        for k, channel in enumerate(plane[1:], 1):
            np.maximum(second, np.minimum(best, channel), out=second)
            put(order, channel > best, k)
            np.maximum(best, channel, out=best)
        if self.decide.are_probabilities:
            return order, (best - second) / plane.sum(0)
        return order, (1 - np.exp(second - best)) / np.exp(plane - best).sum(0)

    def margins(self) -> dict[int, float]:
        """By label value; structures that no voxel of the model's grid has are left out."""
        return self._means(self._margins) if self.decide.rule == "argmax" and len(self.values) > 1 else {}

    def disagreement(self) -> dict[int, float]:
        """By label value; empty without an ensemble."""
        return self._means(self._votes) if self._voted else {}

    def _means(self, sums: NDArray[np.float64]) -> dict[int, float]:
        pairs = zip(self.values, sums, self._counts, strict=True)
        return {value: float(s / n) for value, s, n in pairs if n > 0}
