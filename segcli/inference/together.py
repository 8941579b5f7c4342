"""Several models label one scan together, each on its own grid.

Their logits are averaged on the first one's grid, slab by slab, or their probabilities at the scan's voxels, which is
how nnU-Net's ensembles do it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from segcli.errors import ModelError
from segcli.inference.certainty import winners
from segcli.inference.decide import Decision, Spread, probabilities
from segcli.inference.engine import UNSEEN, Engine, sampler_of
from segcli.inference.frames import Frame
from segcli.inference.prepare import Prepared, Procedure, check_channels, finite, prepare
from segcli.inference.segment import Segmentation, Wishes, decided, said_of, segment, window_count
from segcli.inference.windows import Tick, no_tick, slide
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
    each class and voxel of the first member's cropped grid.
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
    before = sum(member.engine.repeated for member in members)
    theirs = _answers(scan, [(member, decide) for member in others], prepared.image.grid, tick, len(members))
    last = later(tick, len(others), len(members))
    slabs = slide(prepared.image, first.engine, own.window, last, prepared.outside)
    mean = _mean(slabs, prepared, theirs.answers, own.decide, decide)
    found = decided(scan, prepared, mean, decide, own.interpolation, wishes)
    if holes is not None:
        found.labels.data[:, holes] = 0
    seconds = added(prepared.seconds, theirs.seconds)
    seconds = {**found.seconds, **seconds, "network": seconds["network"] + found.seconds["network"]}
    count = theirs.windows + window_count(prepared.image.grid, own.window)
    warnings += said_of(sum(member.engine.repeated for member in members) - before)
    return with_earlier(replace(found, seconds=seconds, windows=count, warnings=tuple(warnings)), earlier)


def segment_at_the_scan(
    scan: Volume, members: Sequence[Member], tick: Tick = no_tick, wishes: Wishes = Wishes()
) -> Segmentation:
    """Label every voxel of the scan by the mean of the members' probabilities there.

    Each member's logits are interpolated to the scan's voxels, and become probabilities there. Beyond its crop a member
    votes for background. Confidence and disagreement are those of the scan's voxels.

    Memory holds one slab and one image; the answers of all lie in temporary files, 4 bytes for each class and voxel of
    the scan.
    errors   as `segment`
    """
    own = members[0].procedure
    check_channels(scan, own)
    scan, holes, warnings = finite(scan)
    before = sum(member.engine.repeated for member in members)
    wanted = [
        (member, replace(own.decide, are_probabilities=member.procedure.decide.are_probabilities)) for member in members
    ]
    theirs = _answers(scan, wanted, scan.grid, tick, len(members))
    for answer, (_, have) in zip(theirs.answers, wanted, strict=True):
        for plane in range(scan.grid.shape[0]):
            answer[:, plane] = probabilities(np.asarray(answer[:, plane]), have)
    decide = replace(own.decide, are_probabilities=True)
    there = Prepared(scan, scan.grid, np.zeros(len(scan.data), np.float32), {})
    found = decided(scan, there, _means(scan.grid, theirs.answers, decide), decide, LINEAR, wishes)
    if holes is not None:
        found.labels.data[:, holes] = 0
    seconds = {**theirs.seconds, "decide": found.seconds["network"] + found.seconds["decide"]}
    warnings += said_of(sum(member.engine.repeated for member in members) - before)
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

    answers: list[OnDisk]
    seconds: dict[str, float]
    windows: int


def _answers(scan: Volume, members: Sequence[tuple[Member, Decision]], on: Grid, tick: Tick, models: int) -> _Answers:
    """The answers of members on a grid, each in the terms of its decision; `models` tick in turn."""
    answers: list[OnDisk] = []
    seconds: dict[str, float] = {}
    windows = 0
    for i, (member, decide) in enumerate(members):
        answer, stages, count = _answer(scan, member, on, decide, later(tick, i, models))
        answers.append(answer)
        seconds = added(seconds, stages)
        windows += count
    return _Answers(answers, seconds, windows)


def added(*times: Mapping[str, float]) -> dict[str, float]:
    """The times of each stage, added up."""
    stages = dict.fromkeys(stage for some in times for stage in some)
    return {stage: sum(some.get(stage, 0.0) for some in times) for stage in stages}


def _answer(
    scan: Volume, member: Member, on: Grid, decide: Decision, tick: Tick
) -> tuple[OnDisk, dict[str, float], int]:
    """A member's answer (K, d, h, w) on a grid, mapped from a file; stage times; windows."""
    member, tick, earlier = staged(scan, member, tick)
    procedure = member.procedure
    prepared = prepare(scan, procedure, sampler_of(member.engine))
    began = time.perf_counter()
    answer = mapped((len(decide.values), *on.shape), np.float32).view(OnDisk)
    for channel, value in enumerate(decide.values):
        answer[channel] = float(value == 0) if decide.are_probabilities else 0.0 if value == 0 else UNSEEN
    spread = Spread(on, prepared.image.grid, prepared.wanted, procedure.interpolation)
    order = [procedure.decide.values.index(value) for value in decide.values]
    for slab in slide(prepared.image, member.engine, procedure.window, tick, prepared.outside):
        spread.put(slab.grid, _channels(slab.data[order], procedure.decide, decide), np.asarray(answer))
        answer.release()
    seconds = {**prepared.seconds, "network": time.perf_counter() - began}
    count = window_count(prepared.image.grid, procedure.window)
    if earlier is None:
        return answer, seconds, count
    return answer, added(seconds, earlier.seconds), count + earlier.windows


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
    depth, h, w = grid.shape
    planes = max(1, _VALUES // (len(decide.values) * h * w))
    for first in range(0, max(1, depth - 1), planes):
        box = (slice(first, min(first + planes + 1, depth)), slice(0, h), slice(0, w))
        yield Volume(_joined([_part(answer, box) for answer in answers], decide), grid.crop(box))


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
