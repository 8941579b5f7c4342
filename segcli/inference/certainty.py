"""How sure the labels are: margins and votes, gathered while slabs go by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from segcli.inference.decide import Decision, Spread, planes
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


def _rows(channels: Voxels, beside: Voxels) -> Iterator[tuple[Voxels, Voxels]]:
    """Views (K, rows, w) that make (K, d, h, w) together, and those of another array (1, d, h, w).

    They are work for each core, however few planes there are.
    """
    for plane, other in zip(planes(channels), planes(beside), strict=True):
        step = max(1, _CACHED // (len(plane) * plane.shape[2]))
        for i in range(0, plane.shape[1], step):
            yield plane[:, i : i + step], other[0, i : i + step]


def _diagonals(first: NDArray[np.int64], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Every fourth voxel (1, d, h, w) of a part of an image, the same ones however the image is cut."""
    d, h, w = (np.arange(a, a + n) for a, n in zip(first.tolist(), shape, strict=True))
    some: NDArray[np.bool_] = ((d[:, None, None] + h[:, None] + w) & 3) == 0
    return some[None]


def shared_axis(before: Grid, slab: Grid) -> int:
    """The axis along which a slab begins with the last plane of the slab before, which may be its only one."""
    start = before.start_of(slab)
    beyond = start + np.array(slab.shape) - np.array(before.shape)  # how far it ends beyond the slab before
    if not (start + beyond).any():  # the same plane again, of which nothing is new
        return int(np.argmin(slab.shape))
    return int(np.argmax(start + beyond))


class Means:
    """Means over the model's voxels of each label value, gathered while slabs go by.

    The softmax margin, and the share of an ensemble's members that decide otherwise, where slabs bear it. The margin of
    the background, most of a scan, is the mean of every fourth of its voxels: their exponentials are what takes time.
    """

    def __init__(self, decide: Decision) -> None:
        self.decide = decide
        self.values = decide.values if decide.rule == "argmax" else (0, *decide.values)
        n = len(self.values)
        self._counts, self._seen, self._margins, self._votes = np.zeros((4, n))
        self._background = decide.values.index(0) if 0 in decide.values else -1
        self._voted = False

    def watch(self, slabs: Iterable[Volume], spread: Spread, votes: NDArray[np.uint8] | None) -> Iterator[Volume]:
        """The slabs with the channels of logits alone; `votes` (1, D, H, W) is filled, 255 for all members."""
        count = len(self.decide.values)
        previous: Grid | None = None
        first = np.zeros(3, np.int64)
        for slab in slabs:
            shift = None if previous is None else previous.start_of(slab.grid)
            first = first if shift is None else first + shift
            np.maximum(slab.data[count:], 0, out=slab.data[count:])  # windows that were skipped have no votes
            some = _diagonals(first, slab.grid.shape)
            self._gather(slab.data, some, None if previous is None else shared_axis(previous, slab.grid))
            previous = slab.grid
            if len(slab.data) > count:
                self._voted = True
                if votes is not None:
                    spread.put(slab.grid, slab.data[count:], votes)
                slab = Volume(slab.data[:count], slab.grid)
            yield slab

    def _gather(self, channels: NDArray[np.float32], some: NDArray[np.bool_], shared: int | None) -> None:
        """Add a slab; along the axis `shared` its first plane was the last of the slab before.

        some    voxels (1, d, h, w) that suffice of the background
        """
        if shared is not None:
            cut = tuple(slice(1, None) if i == shared else slice(None) for i in range(3))
            channels, some = channels[(slice(None), *cut)], some[(slice(None), *cut)]
        k, n = len(self.decide.values), len(self.values)
        sure = self.decide.rule == "argmax" and k > 1
        if not sure and len(channels) == k:
            return

        def means(given: tuple[Voxels, Voxels]) -> tuple[Voxels, ...]:
            plane, enough = given
            if not sure:
                flat = winners(plane[:k], self.decide).ravel()
                seen, margins = flat[:0], np.zeros(0, np.float32)
            else:
                order, at, margins = self._margin(plane[:k], enough)
                flat, seen = order.ravel(), order.ravel()[at]
            return (
                np.bincount(flat, minlength=n),
                np.bincount(seen, minlength=n),
                np.bincount(seen, margins, n),
                np.bincount(flat, plane[k].ravel(), n) if len(plane) > k else np.zeros(n),
            )

        for counts, seen, margins, votes in each(means, _rows(channels, some)):
            self._counts += counts
            self._seen += seen
            self._margins += margins
            self._votes += votes

    def _margin(
        self, plane: NDArray[np.float32], enough: NDArray[np.bool_]
    ) -> tuple[NDArray[np.integer], NDArray[np.intp], NDArray[np.float32]]:
        """The winning channel of each pixel, (K, h, w); and how far its share is above the second best one's.

        enough   the pixels (h, w) of the background that are looked at
        returns  winners (h, w), places of the pixels that were looked at, in the order of rows, and their margins
        """
        best = plane.max(axis=0)  # in the cache from here on
        looked_at = np.ones(best.shape, np.bool_)
        if self._background >= 0:  # less than another channel, or as large as an earlier one, which then wins
            beaten = [plane[self._background] < best, *(earlier == best for earlier in plane[: self._background])]
            np.logical_or.reduce([enough, *beaten], out=looked_at)
        at = np.flatnonzero(looked_at)
        shown = plane.reshape(len(plane), -1)[:, at]  # the channels of a pixel lie side by side
        order = np.full(best.shape, max(self._background, 0), np.uint8 if len(plane) <= 256 else np.uint16)
        order.ravel()[at] = shown.argmax(0)
        winner = order.ravel()[at], np.arange(len(at))
        whole = shown.sum(0) if self.decide.are_probabilities else None
        shown -= best.ravel()[at]
        shown[winner] = -np.inf
        second = shown.max(axis=0)
        if whole is not None:
            return order, at, -second / whole
        shown[winner] = 0
        return order, at, (1 - np.exp(second)) / np.exp(shown, out=shown).sum(0)

    def margins(self) -> dict[int, float]:
        """By label value; structures that no voxel of the model's grid has are left out."""
        return self._means(self._margins, self._seen) if self.decide.rule == "argmax" and len(self.values) > 1 else {}

    def disagreement(self) -> dict[int, float]:
        """By label value; empty without an ensemble."""
        return self._means(self._votes, self._counts) if self._voted else {}

    def _means(self, sums: NDArray[np.float64], counts: NDArray[np.float64]) -> dict[int, float]:
        pairs = zip(self.values, sums, counts, strict=True)
        return {value: float(s / n) for value, s, n in pairs if n > 0}
