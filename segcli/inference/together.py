"""Several models label one scan together, each on its own grid.

Their logits are averaged on the first one's grid, slab by slab, or their probabilities at the scan's voxels, which is
how nnU-Net's ensembles do it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from segcli.errors import ModelError
from segcli.inference.certainty import winners
from segcli.inference.decide import Decision, Spread, probabilities
from segcli.inference.deciding import Answer, DecidingSums, Spreading
from segcli.inference.engine import Engine, sampler_of
from segcli.inference.frames import Frame
from segcli.inference.prepare import Prepared, Procedure, check_channels, finite, prepare
from segcli.inference.segment import (
    Segmentation,
    Wishes,
    decided,
    decided_there,
    planes_on_a_device,
    said_of,
    segment,
    window_count,
)
from segcli.inference.windows import Sliding, Tick, no_tick
from segcli.memory import OnDisk, mapped
from segcli.space.resample import LINEAR
from segcli.space.volume import Box, Grid, Volume

_VALUES = 1 << 24  # of the mean of answers that lie on the disk, at a time


@dataclass(frozen=True, eq=False)
class Member:
    """One model and the engine that it is loaded into.

    first    of a cascade's second model: the first, whose labels it sees
    """

    procedure: Procedure
    engine: Engine
    first: Member | None = None


def alike(first: Procedure, other: Procedure) -> None:
    """Refuse a model that does not answer the same question as the first: other channels, labels or decision.

    errors   ModelError with the first difference
    """
    both = f"{first.name} and {other.name} are no ensemble"
    if any(isinstance(step, Frame) for step in (*first.steps, *other.steps)):
        raise ModelError(f"{both}: one cuts each slice to the body, and its answers lie on no grid")
    if first.channels != other.channels:
        raise ModelError(f"{both}: one sees {', '.join(first.channels)}, the other {', '.join(other.channels)}")
    ours, theirs = ({label.name: label.id for label in one.labels} for one in (first, other))
    for name in (*ours, *theirs):
        if ours.get(name) != theirs.get(name):
            told = [f"{one.name} {_says(names, name)}" for one, names in ((first, ours), (other, theirs))]
            raise ModelError(f"{both}: {name} {', '.join(told)}", hint="members need equal names and numbers of labels")
    if first.decide.rule != other.decide.rule or set(first.decide.values) != set(other.decide.values):
        raise ModelError(f"{both}: one has nested regions, the other has not, or has others")


def _says(names: dict[str, int], name: str) -> str:
    return f"calls {names[name]}" if name in names else "does not know"


def segment_together(
    scan: Volume, members: Sequence[Member], tick: Tick = no_tick, wishes: Wishes = Wishes()
) -> Segmentation:
    """Label every voxel of the scan by the mean of the members' answers.

    Each member sees the scan on its own grid, with its own intensities and windows. Its answers are interpolated
    linearly onto the first member's grid. Logits are averaged; where one member averages probabilities itself, or
    several do, the probabilities of all are. Beyond the crop of the first member all is background; beyond that of
    another one, that member votes for background (0 against logits of -20).

    disagreement  share of members whose own decision, on the first member's grid, differs from the mean's

    Memory holds one slab and one image of each; the answers of all but the first lie in temporary files, 4 bytes for
    each class and voxel of the first member's cropped grid; where all members run on devices, in the first's memory.
    errors   as `segment`
    """
    first, *others = members
    own = first.procedure
    check_channels(scan, own)
    first, tick, earlier = staged(scan, first, tick)
    own = first.procedure
    if not others:
        return with_earlier(segment(scan, own, first.engine, tick, wishes), earlier)
    scan, holes, warnings = finite(scan)
    decide = replace(own.decide, are_probabilities=any(member.procedure.decide.are_probabilities for member in members))
    prepared = prepare(scan, own, sampler_of(first.engine))
    before = repeated([first, *others])
    theirs = _answers(scan, [(member, decide) for member in others], prepared.image.grid, tick, members)
    sliding = Sliding(
        prepared.image,
        first.engine,
        own.window,
        later(tick, len(others), len(members)),
        prepared.outside,
        unseen=own.decide.unseen,
    )
    if theirs.there:
        assert isinstance(sliding.sums, DecidingSums)  # as those of all members
        decider, boxes = partial(sliding.sums.decider, others=theirs.there), sliding.boxes(planes_on_a_device)
        found = decided_there(scan, prepared, decider, boxes, decide, own.interpolation, wishes, own.decide)
    else:
        mean = _mean(sliding.volumes(), prepared, theirs.on_disk, own.decide, decide)
        found = decided(scan, prepared, mean, decide, own.interpolation, wishes)
    if holes is not None:
        found.labels.data[:, holes] = 0
    seconds = added(prepared.seconds, theirs.seconds)
    seconds = {**found.seconds, **seconds, "network": seconds["network"] + found.seconds["network"]}
    count = theirs.windows + window_count(prepared.image.grid, own.window)
    warnings += said_of(repeated([first, *others]) - before)
    return with_earlier(replace(found, seconds=seconds, windows=count, warnings=tuple(warnings)), earlier)


def segment_at_the_scan(
    scan: Volume, members: Sequence[Member], tick: Tick = no_tick, wishes: Wishes = Wishes()
) -> Segmentation:
    """Label every voxel of the scan by the mean of the members' probabilities there.

    Each member's logits are interpolated to the scan's voxels, and become probabilities there. Beyond its crop a member
    votes for background. Confidence and disagreement are those of the scan's voxels.

    Memory holds one slab and one image; the answers of all lie in temporary files, 4 bytes for each class and voxel of
    the scan; where all members run on devices, in their memory.
    errors   as `segment`
    """
    own = members[0].procedure
    check_channels(scan, own)
    scan, holes, warnings = finite(scan)
    before = repeated(members)
    wanted = [
        (member, replace(own.decide, are_probabilities=member.procedure.decide.are_probabilities)) for member in members
    ]
    theirs = _answers(scan, wanted, scan.grid, tick, members)
    decide = replace(own.decide, are_probabilities=True)
    there = Prepared(scan, scan.grid, np.zeros(len(scan.data), np.float32), {})
    if theirs.there:
        one, *others = theirs.there
        boxes = _boxes(scan.grid, planes_on_a_device(4 * len(decide.values) * math.prod(scan.grid.shape[1:])))
        found = decided_there(scan, there, partial(one.decider, others=others), boxes, decide, LINEAR, wishes)
    else:
        for answer, (_, have) in zip(theirs.on_disk, wanted, strict=True):
            for plane in range(scan.grid.shape[0]):
                answer[:, plane] = probabilities(np.asarray(answer[:, plane]), have)
        found = decided(scan, there, _means(scan.grid, theirs.on_disk, decide), decide, LINEAR, wishes)
    if holes is not None:
        found.labels.data[:, holes] = 0
    seconds = {**theirs.seconds, "decide": found.seconds["network"] + found.seconds["decide"]}
    warnings += said_of(repeated(members) - before)
    return replace(found, seconds=seconds, windows=theirs.windows, warnings=tuple(warnings))


def staged(scan: Volume, member: Member, tick: Tick) -> tuple[Member, Tick, Segmentation | None]:
    """A cascade after its first model has labelled the scan, the tick of what is left, and what the first model found.

    The first model gives back its memory. Another member stays as it is.
    """
    if member.first is None:
        return member, tick, None
    found = segment(scan, member.first.procedure, member.first.engine, later(tick, 0, 2))
    member.first.engine.rest()
    shown = replace(member.procedure, first=found.labels)
    return Member(shown, member.engine), later(tick, 1, 2), found


def repeated(members: Sequence[Member]) -> int:
    """Windows that the members' engines, and those of cascades' first models, have computed again so far."""
    firsts = [member.first for member in members if member.first is not None]
    return sum(member.engine.repeated for member in (*members, *firsts))


def with_earlier(found: Segmentation, earlier: Segmentation | None) -> Segmentation:
    """A result that counts the time, the windows and the warnings of a cascade's first model too."""
    if earlier is None:
        return found
    return replace(
        found,
        seconds=added(found.seconds, earlier.seconds),
        windows=found.windows + earlier.windows,
        warnings=tuple(dict.fromkeys((*earlier.warnings, *found.warnings))),
    )


def later(tick: Tick, position: int, models: int) -> Tick:
    """A tick for one of several models: all of them together are as long as this one times their number."""
    return lambda done, total: tick(position * total + done, models * total)


@dataclass(frozen=True, eq=False)
class _Answers:
    """What several members say, as `_answer` has it of one: stage times and windows are the sums of all."""

    on_disk: list[OnDisk]
    there: list[Answer]
    seconds: dict[str, float]
    windows: int


def _answers(
    scan: Volume, asked: Sequence[tuple[Member, Decision]], on: Grid, tick: Tick, members: Sequence[Member]
) -> _Answers:
    """The answers on a grid of those that are asked among all members, each in the terms of its decision.

    They are kept on the device where all members run on one, else in temporary files. The members tick in turn.
    """
    found = _Answers([], [], {}, 0)
    on_device = all(sampler_of(member.engine) is not None for member in members)
    for i, (member, decide) in enumerate(asked):
        turn = later(tick, i, len(members))
        member, turn, earlier = staged(scan, member, turn)
        prepared = prepare(scan, member.procedure, sampler_of(member.engine))
        began = time.perf_counter()
        if on_device:
            found.there.append(_on_device(prepared, member, on, decide, turn))
        else:
            found.on_disk.append(_on_disk(prepared, member, on, decide, turn))
        seconds = {**prepared.seconds, "network": time.perf_counter() - began}
        windows = window_count(prepared.image.grid, member.procedure.window)
        found = replace(
            found,
            seconds=added(found.seconds, seconds, *([earlier.seconds] if earlier else [])),
            windows=found.windows + windows + (earlier.windows if earlier else 0),
        )
    return found


def added(*times: Mapping[str, float]) -> dict[str, float]:
    """The times of each stage, added up."""
    stages = dict.fromkeys(stage for some in times for stage in some)
    return {stage: sum(some.get(stage, 0.0) for some in times) for stage in stages}


def _on_disk(prepared: Prepared, member: Member, on: Grid, decide: Decision, tick: Tick) -> OnDisk:
    """A member's answer (K, d, h, w) on a grid, mapped from a file."""
    procedure = member.procedure
    answer = mapped((len(decide.values), *on.shape), np.float32).view(OnDisk)
    for channel, value in enumerate(decide.unseen):
        answer[channel] = value
    spread = Spread(on, prepared.image.grid, prepared.wanted, procedure.interpolation)
    order = [procedure.decide.values.index(value) for value in decide.values]
    window, unseen = procedure.window, procedure.decide.unseen
    sliding = Sliding(prepared.image, member.engine, window, tick, prepared.outside, unseen=unseen)
    for slab in sliding.volumes():
        spread.put(slab.grid, _channels(slab.data[order], procedure.decide, decide), np.asarray(answer))
        answer.release()
    return answer


def _on_device(prepared: Prepared, member: Member, on: Grid, decide: Decision, tick: Tick) -> Answer:
    """A member's answer on a grid, where its sums are."""
    own = member.procedure
    sliding = Sliding(prepared.image, member.engine, own.window, tick, prepared.outside, unseen=own.decide.unseen)
    assert isinstance(sliding.sums, DecidingSums)  # an engine that samples on a device decides there
    order = [own.decide.values.index(value) for value in decide.values]
    part = prepared.image.grid
    task = Spreading(on, part, prepared.wanted, own.interpolation, own.decide, order, decide, decide.unseen)
    answer = sliding.sums.answer(task)
    for box, slab in sliding.boxes(planes_on_a_device):
        answer.take(box, slab)
    return answer


def _channels(own: NDArray[np.float32], have: Decision, want: Decision) -> NDArray[np.float32]:
    """Logits, or what the others have: probabilities."""
    return probabilities(own, have) if want.are_probabilities else own


def _mean(
    slabs: Iterator[Volume], common: Prepared, answers: list[OnDisk], have: Decision, decide: Decision
) -> Iterator[Volume]:
    """The first member's slabs as the mean of all, with the share of members that decide otherwise behind it."""
    for slab in slabs:
        box = common.image.grid.box_of(slab.grid)
        own = _channels(slab.data[: len(decide.values)], have, decide)
        yield Volume(_joined([own, *(_part(answer, box) for answer in answers)], decide), slab.grid)


def _means(grid: Grid, answers: list[OnDisk], decide: Decision) -> Iterator[Volume]:
    """The mean of answers on a grid, in slabs that each begin with the last plane of the one before."""
    planes = max(1, _VALUES // (len(decide.values) * math.prod(grid.shape[1:])))
    for box, slab in _boxes(grid, planes):
        yield Volume(_joined([_part(answer, box) for answer in answers], decide), slab)


def _boxes(grid: Grid, planes: int) -> Iterator[tuple[Box, Grid]]:
    """A grid in slabs that add so many planes, each of which begins with the last plane of the one before."""
    depth, h, w = grid.shape
    for first in range(0, max(1, depth - 1), planes):
        box = (slice(first, min(first + planes + 1, depth)), slice(0, h), slice(0, w))
        yield box, grid.crop(box)


def _part(answer: OnDisk, box: Box) -> NDArray[np.float32]:
    """A copy of what an answer (K, ...) has in a box."""
    here = np.array(answer[(slice(None), *box)])
    answer.release()
    return here


def _joined(answers: Sequence[NDArray[np.float32]], decide: Decision) -> NDArray[np.float32]:
    """The mean (K + 1, d, h, w) of answers, with the share of them that decide otherwise behind it."""
    count = len(decide.values)
    joined = np.empty((count + 1, *answers[0].shape[1:]), np.float32)
    joined[:count] = sum(answers[1:], start=answers[0])
    joined[:count] /= len(answers)
    together = winners(joined[:count], decide)
    joined[count] = np.mean([winners(answer, decide) != together for answer in answers], axis=0)
    return joined
