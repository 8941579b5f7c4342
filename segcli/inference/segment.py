"""The story of one scan: voxels in, labels out; no files, no printing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Literal, TypeVar

import numpy as np

from segcli.errors import ModelError
from segcli.inference.area import labels_by_area
from segcli.inference.certainty import Means
from segcli.inference.decide import (
    Decision,
    Probabilities,
    Spread,
    as_probabilities,
    labels_on,
    no_probabilities,
)
from segcli.inference.deciding import Deciding, DecidingSums, Task
from segcli.inference.engine import Engine, sampler_of
from segcli.inference.prepare import Prepared, Procedure, at_least, check_channels, finite, prepare
from segcli.inference.windows import Sliding, Tick, WindowPlan, fitted, no_tick, windows
from segcli.space.corners import labels_back
from segcli.space.resample import LINEAR, Interpolation
from segcli.space.volume import Box, Grid, Volume

Passing = TypeVar("Passing")
_PLANES, _SLAB_BYTES = 32, 1 << 28  # of a slab that is decided on a device, at most


@dataclass(frozen=True, eq=False)
class Segmentation:
    """Labels of a scan and what is worth knowing of how they came about.

    labels      (1, D, H, W) on the scan's own grid
    seconds     of each stage: resample, normalise, network, decide
    windows     how many the network saw
    confidence  mean softmax margin (best less second best, 0..1) over the model's voxels of each label value; over
                every fourth of the background's
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

    probabilities  of each label
    votes          where the members of an ensemble differ
    steps          done with the labels on the model's grid, where finished labels come back from there
    rests          whether the engine gives back its memory when it has seen all windows
    """

    probabilities: bool = False
    votes: bool = False
    steps: Callable[[Volume], Volume] | None = None
    rests: bool = False


def segment(
    scan: Volume, procedure: Procedure, engine: Engine, tick: Tick = no_tick, wishes: Wishes = Wishes()
) -> Segmentation:
    """Label every voxel of the scan, on the scan's own grid.

    scan     (C, D, H, W), intensities as in the file
    errors   InputError: other channels than the model's, or no finite voxel; ModelError: logits not finite
    """
    check_channels(scan, procedure)
    scan, holes, warnings = finite(scan)
    prepared = prepare(scan, procedure, sampler_of(engine))
    before = engine.repeated
    found = labelled(scan, prepared, procedure, engine, tick, wishes)
    if holes is not None:
        found.labels.data[:, holes] = 0
    return replace(found, warnings=(*warnings, *said_of(engine.repeated - before)))


def said_of(repeated: int) -> tuple[str, ...]:
    """A warning about windows that were computed again, if there were any."""
    sentence = "half precision gave values that are not finite in {} window{}: computed again in float32"
    return (sentence.format(repeated, "s" * (repeated != 1)),) if repeated else ()


def labelled(
    scan: Volume, prepared: Prepared, procedure: Procedure, engine: Engine, tick: Tick, wishes: Wishes
) -> Segmentation:
    """Labels of the scan, and what was wished for, from a prepared image.

    Decided where the engine's sums are, if it can: then no logits cross to the host.
    """
    decide, rule = procedure.decide, procedure.interpolation
    sliding = Sliding(
        prepared.image, engine, procedure.window, tick, prepared.outside, unseen=decide.unseen, rests=wishes.rests
    )
    if isinstance(sliding.sums, DecidingSums):
        boxes = sliding.boxes(planes_on_a_device)
        found = decided_there(scan, prepared, sliding.sums.decider, boxes, decide, rule, wishes)
    else:
        found = decided(scan, prepared, sliding.volumes(), decide, rule, wishes)
    return replace(found, windows=window_count(prepared.image.grid, procedure.window))


def decided_there(
    scan: Volume,
    prepared: Prepared,
    decider_of: Callable[[Task], Deciding],
    slabs: Iterator[tuple[Box, Grid]],
    decide: Decision,
    rule: Interpolation,
    wishes: Wishes,
    own: Decision | None = None,
) -> Segmentation:
    """As `decided`, on a device: of logits only labels and what was wished for come to the host.

    slabs   boxes of the image, and their grids
    own     see `Task`
    """
    _no_frames(prepared, wishes)
    finished = prepared.frames is not None or decide.finished
    target, rule_there = (prepared.image.grid, LINEAR) if finished else (scan.grid, rule)
    shares = no_probabilities(scan.grid, decide) if wishes.probabilities else None
    part, wanted = prepared.image.grid, prepared.wanted
    began = time.perf_counter()
    decider = decider_of(Task(target, scan.grid, part, wanted, rule_there, decide, wishes.votes, shares, own))
    boxes = Timed(slabs)
    for box, slab in boxes:
        decider.take(box, slab)
    labels, votes = Volume(decider.labels()[None], target), decider.votes()
    if finished:
        labels = _back(labels, scan.grid, prepared, decide, wishes)
    return Segmentation(
        Volume(labels.data, scan.grid, scan.source),
        _seconds(prepared, boxes, began),
        0,
        decider.margins(),
        probabilities=None if shares is None else Volume(shares, scan.grid),
        disagreement=decider.disagreement(),
        votes=None if votes is None else Volume(votes[None], scan.grid),
    )


def planes_on_a_device(plane_bytes: int) -> int:
    """Planes that a slab on a device adds to the one before: work enough for it, and a part of its memory."""
    return max(1, min(_PLANES, _SLAB_BYTES // plane_bytes))


def decided(
    scan: Volume, prepared: Prepared, slabs: Iterator[Volume], decide: Decision, rule: Interpolation, wishes: Wishes
) -> Segmentation:
    """Labels of the scan, and what was wished for, from slabs on the grid of the prepared image.

    slabs    (K, d, h, w), or (K + 1, ...) with the share of an ensemble's members that decide otherwise
    errors   ModelError: more than labels is wished for where slices were cut each to a box of its own
    """
    _no_frames(prepared, wishes)
    grid, part, wanted = scan.grid, prepared.image.grid, prepared.wanted
    began = time.perf_counter()
    network = Timed(slabs)
    passing: Iterator[Volume] = iter(network)
    if decide.softened:
        passing, decide = as_probabilities(passing, decide), replace(decide, are_probabilities=True)
    means = Means(decide)
    votes = np.zeros((1, *grid.shape), np.uint8) if wishes.votes else None
    probabilities = Probabilities(grid, decide, part, wanted, rule) if wishes.probabilities else None
    passing = means.watch(passing, Spread(grid, part, wanted, rule), votes)
    passing = probabilities.watch(passing) if probabilities else passing
    if prepared.frames is not None or decide.finished:
        labels = _back(labels_on(part, passing, decide, part, wanted), grid, prepared, decide, wishes)
    elif decide.back == "area":
        labels = labels_by_area(grid, passing, decide, wanted)
    else:
        labels = labels_on(grid, passing, decide, part, wanted, rule)
    return Segmentation(
        Volume(labels.data, grid, scan.source),
        _seconds(prepared, network, began),
        0,
        means.margins(),
        probabilities=probabilities.volume if probabilities else None,
        disagreement=means.disagreement(),
        votes=None if votes is None else Volume(votes, grid),
    )


def _no_frames(prepared: Prepared, wishes: Wishes) -> None:
    """Refuse more than labels where slices were cut each to a box of its own; ModelError."""
    if prepared.frames is not None and (wishes.probabilities or wishes.votes):
        raise ModelError(
            "a model that cuts each slice to the body gives labels alone", hint="leave probabilities and votes out"
        )


def _back(labels: Volume, grid: Grid, prepared: Prepared, decide: Decision, wishes: Wishes) -> Volume:
    """Labels on the model's grid, after the steps that are wished for there, on the scan's."""
    there = wishes.steps(labels) if wishes.steps else labels
    how: Literal["nearest", "linear"] = "linear" if decide.back == "values" else "nearest"
    if prepared.frames:
        return prepared.frames.back(there, grid)
    return labels_back(there, prepared.wanted, grid, how, prepared.anchor)


def _seconds(prepared: Prepared, network: Timed[Any], began: float) -> dict[str, float]:
    """Of each stage, where labels began to be decided at a time and are now."""
    deciding = time.perf_counter() - began - network.seconds
    return {**prepared.seconds, "network": network.seconds, "decide": deciding}


def window_count(part: Grid, plan: WindowPlan) -> int:
    """Windows that the network sees of a prepared image, by the image's grid."""
    plan = fitted(plan, part.shape)
    return len(windows(at_least(part.shape, plan.size), plan))


class Timed(Generic[Passing]):
    """An iterator that knows how long its source took."""

    def __init__(self, source: Iterator[Passing]) -> None:
        self._source, self.seconds = source, 0.0

    def __iter__(self) -> Iterator[Passing]:
        while True:
            start = time.perf_counter()
            passing = next(self._source, None)
            self.seconds += time.perf_counter() - start
            if passing is None:
                return
            yield passing
