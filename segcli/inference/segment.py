"""The story of one scan: voxels in, labels out; no files, no printing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcli.errors import InputError
from segcli.inference.decide import Decision, Shares, Spread, as_shares, labels_on, planes, put
from segcli.inference.intensity import Crop, Step, foreground, normalise
from segcli.inference.windows import Engine, Tick, WindowPlan, quiet, slide, windows
from segcli.models.card import ModelCard, Resample
from segcli.parallel import each
from segcli.space.grids import model_grid
from segcli.space.resample import Interpolation, onto
from segcli.space.volume import Grid, Volume


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Labels of a scan and what is worth knowing of how they came about.

    labels      (1, D, H, W) on the scan's own grid
    seconds     of each stage: resample, normalise, network, decide
    windows     how many the network saw
    confidence  mean softmax margin (best less second best, 0..1) over the model's voxels of each label value
    warnings    sentences for the user and the record
    probabilities  (K, D, H, W) uint8, 255 for 1, on the scan's grid, where they were asked for
    disagreement   of an ensemble: mean share of members that decide otherwise, over the model's voxels of each label
    votes          (1, D, H, W) uint8, 255 for 1: that share on the scan's grid, where it was asked for
    """

    labels: Volume
    seconds: Mapping[str, float]
    windows: int
    confidence: Mapping[int, float]
    warnings: tuple[str, ...] = ()
    probabilities: Volume | None = None
    disagreement: Mapping[int, float] = field(default_factory=dict)
    votes: Volume | None = None


@dataclass(frozen=True)
class Wishes:
    """What is wanted beside the labels, each on the scan's grid.

    shares   probabilities
    votes    where the members of an ensemble differ
    """

    shares: bool = False
    votes: bool = False


def segment(
    scan: Volume,
    card: ModelCard,
    engine: Engine,
    tick: Tick = quiet,
    plan: WindowPlan | None = None,
    wishes: Wishes = Wishes(),
) -> Segmentation:
    """Label every voxel of the scan, on the scan's own grid.

    scan     (C, D, H, W), intensities as in the file
    plan     the card's windows, or the user's change of them
    errors   InputError: other channels than the model's, or no finite voxel; ModelError: logits not finite
    """
    plan = plan or card.window
    check_channels(scan, card)
    scan, holes, warnings = finite(scan)
    prepared = prepare(scan, card)
    slabs = slide(prepared.image, engine, plan, tick, prepared.outside)
    found = decided(scan, prepared, slabs, card.decide, card.interpolation, wishes)
    if holes is not None:
        found.labels.data[:, holes] = 0
    return replace(found, windows=window_count(prepared.image.grid, plan), warnings=tuple(warnings))


def decided(
    scan: Volume, prepared: Prepared, slabs: Iterator[Volume], decide: Decision, rule: Interpolation, wishes: Wishes
) -> Segmentation:
    """Labels of the scan, and what was wished for, from slabs on the grid of the prepared image.

    slabs    (K, d, h, w), or (K + 1, ...) with the share of an ensemble's members that decide otherwise
    """
    grid, part, wanted = scan.grid, prepared.image.grid, prepared.wanted
    began = time.perf_counter()
    network = _Timed(slabs)
    passing: Iterator[Volume] = iter(network)
    if decide.back == "probabilities" and not decide.shares:
        passing, decide = as_shares(passing, decide), replace(decide, shares=True)
    means = _Means(decide)
    votes = np.zeros((1, *grid.shape), np.uint8) if wishes.votes else None
    probabilities = Shares(grid, decide, part, wanted, rule) if wishes.shares else None
    passing = means.watch(passing, Spread(grid, part, wanted, rule), votes)
    passing = probabilities.watch(passing) if probabilities else passing
    labels = labels_on(grid, passing, decide, part, wanted, rule)
    seconds = {
        **prepared.seconds,
        "network": network.seconds,
        "decide": time.perf_counter() - began - network.seconds,
    }
    return Segmentation(
        Volume(labels.data, grid, scan.source),
        seconds,
        0,
        means.margins(),
        probabilities=probabilities.volume if probabilities else None,
        disagreement=means.disagreement(),
        votes=None if votes is None else Volume(votes, grid),
    )


def window_count(part: Grid, plan: WindowPlan) -> int:
    """Windows that the network sees of a prepared image, by the image's grid."""
    return len(windows(at_least(part.shape, plan.size), plan))


def winners(channels: NDArray[np.float32], decide: Decision) -> NDArray[np.integer]:
    """The winning channel of each voxel, of (K, ...); with regions 1 + the last channel above one half, 0 for none."""
    if decide.rule == "argmax":
        best: NDArray[np.integer] = channels.argmax(0)
        return best
    last = np.zeros(channels.shape[1:], np.intp)
    for k, channel in enumerate(channels, 1):
        last[channel > decide.half] = k
    return last


@dataclass(frozen=True, eq=False)
class Prepared:
    """What the network is shown.

    image    (C, d, h, w) float32, normalised, cropped
    wanted   the grid before the crop
    outside  the value that lies beyond the image
    """

    image: Volume
    wanted: Grid
    outside: float
    seconds: Mapping[str, float]


def prepare(scan: Volume, card: ModelCard) -> Prepared:
    """The scan on the model's grid with the model's intensities: the card's steps in their order."""
    seconds = {"resample": 0.0, "normalise": 0.0}
    began = time.perf_counter()
    image, outside = scan, card.outside
    wanted: Grid | None = None
    cropped_first = False
    pending: list[Step] = []
    for step in (*card.prepare, None):
        if step is not None and not isinstance(step, Resample | Crop):
            pending.append(step)
            continue
        if pending:
            image, outside = normalise(image, pending, outside)
            pending = []
        if isinstance(step, Crop):
            cropped_first |= wanted is None
            image = image.crop(foreground(image, step))
            outside = outside if step.outside is None else step.outside
        elif isinstance(step, Resample):
            start = time.perf_counter()
            wanted = model_grid(image.grid, card.grid)
            image = onto(image, wanted, card.interpolation)
            seconds["resample"] += time.perf_counter() - start
    assert wanted is not None  # every card has one resampling
    if image.data.dtype != np.float32:
        image = Volume(image.data.astype(np.float32), image.grid, image.source)
    if cropped_first:
        wanted = _endless(image.grid)
    if card.slice_axis is not None and card.slices > 1:
        image = neighbours(image, card.slice_axis, card.slices)
    seconds["normalise"] = time.perf_counter() - began - seconds["resample"]
    return Prepared(image, wanted, outside, seconds)


def neighbours(image: Volume, axis: int, count: int) -> Volume:
    """Each slice of an image (C, d, h, w) with those around it as channels: (count * C, d, h, w).

    The slices before come first, then the slice itself; at the ends the last one is repeated.
    """
    n, half = image.grid.shape[axis], count // 2
    seen = [np.clip(np.arange(n) + shift, 0, n - 1) for shift in range(-half, half + 1)]
    return Volume(np.concatenate([image.data.take(at, 1 + axis) for at in seen]), image.grid, image.source)


def _endless(part: Grid) -> Grid:
    """A grid around `part` that no scan reaches the end of: all beyond the part is background."""
    far = 1_000_000
    d, h, w = (slice(-far, n + far) for n in part.shape)
    return part.crop((d, h, w))


def finite(scan: Volume) -> tuple[Volume, NDArray[np.bool_] | None, list[str]]:
    """The scan without NaN and infinity, where they were, and a sentence about them (reliability.md 3.6).

    They become the lowest finite value of their channel: air in a CT, nothing in an MR.
    """
    if scan.data.dtype.kind != "f":
        return scan, None, []
    bad = ~np.isfinite(scan.data)
    count = int(bad.sum())
    if count == 0:
        return scan, None, []
    data = scan.data.copy()
    for channel, here in zip(data, bad, strict=True):
        if here.all():
            raise InputError("not one voxel has a finite value", hint="the scan holds only NaN or infinity")
        channel[here] = channel[~here].min()
    sentence = f"{count} of {bad.size} voxels are NaN or infinite; they are labelled background"
    return Volume(data, scan.grid, scan.source), bad.any(axis=0), [sentence]


def check_channels(scan: Volume, card: ModelCard) -> None:
    """Refuse a scan with other channels than the model's."""
    have, want = scan.data.shape[0], len(card.channels)
    if have != want:
        raise InputError(
            f"the scan has {have} channel{'s' * (have != 1)}, the model {card.name} wants {want}: "
            f"{', '.join(card.channels)}",
            hint="name them with --channel NAME=FILE",
        )


def at_least(shape: tuple[int, int, int], size: tuple[int, int, int]) -> tuple[int, int, int]:
    """A shape after padding to the window's size."""
    d, h, w = (max(n, s) for n, s in zip(shape, size, strict=True))
    return d, h, w


class _Timed:
    """An iterator of slabs that knows how long its source took."""

    def __init__(self, slabs: Iterator[Volume]) -> None:
        self._slabs, self.seconds = slabs, 0.0

    def __iter__(self) -> Iterator[Volume]:
        while True:
            start = time.perf_counter()
            slab = next(self._slabs, None)
            self.seconds += time.perf_counter() - start
            if slab is None:
                return
            yield slab


class _Means:
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
            shift = None if previous is None else np.round(previous.index(slab.grid.affine[:3, 3]))
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

        def means(plane: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
            order, margin = self._margin(plane[:k]) if sure else (winners(plane[:k], self.decide), None)
            flat = order.ravel()
            return (
                np.bincount(flat, minlength=n),
                np.zeros(n) if margin is None else np.bincount(flat, margin.ravel(), n),
                np.bincount(flat, plane[k].ravel(), n) if len(plane) > k else np.zeros(n),
            )

        for counts, margins, votes in each(means, planes(channels)):  # each stays near the cache
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
        if self.decide.shares:
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
