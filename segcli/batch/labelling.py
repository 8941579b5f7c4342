"""The labels of a scan by a model of any shape: one network, several together, parts, and a rough model before them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from segcli.batch import budget
from segcli.batch.answer import steps_of
from segcli.engines.opened import Opened
from segcli.inference.decide import Decision
from segcli.inference.engine import Engine
from segcli.inference.parts import Part, segment_parts
from segcli.inference.prepare import check_channels, finite
from segcli.inference.region import around, at_edges, on_whole_scan
from segcli.inference.segment import Segmentation, Wishes
from segcli.inference.together import Member, added, later, segment_at_the_scan, segment_together
from segcli.inference.whole_models import mean_of
from segcli.inference.windows import Tick, at_overlap
from segcli.models.card import ModelCard
from segcli.models.rough import Rough
from segcli.results.after import Effect, after, grown
from segcli.results.record import CropFacts
from segcli.space.grids import GridSpec
from segcli.space.volume import Box, Grid, Volume, whole

if TYPE_CHECKING:
    from segcli.batch.stages import Job, Options


@dataclass(frozen=True, eq=False)
class Found:
    """The labels as the networks decide them, and as the card's steps leave them where those are done already.

    effects   of the card's steps; None where they are still to be done
    crops     where each network behind a rough one looked
    """

    result: Segmentation
    effects: list[Effect] | None = None
    crops: tuple[CropFacts, ...] = ()


@dataclass(frozen=True, eq=False)
class _How:
    options: Options
    wishes: Wishes
    max_ram: int | None

    @property
    def before(self) -> _How:
        """The same for a rough model, of which only labels are wanted, as its own steps leave them."""
        return replace(self, options=replace(self.options, keep_islands=False, classes=()), wishes=Wishes())


def labels_of(job: Job, scan: Volume, tick: Tick) -> Found:
    """The labels of a scan by the job's model.

    errors   as `segment`; OutOfMemory: what a rough model found is too large
    """
    how = _How(job.options, Wishes(probabilities=job.to.probabilities, votes=job.to.votes), job.opened.max_ram)
    opened = job.running
    if not opened.beside:
        return _labelled(job.card, opened, scan, tick, how)
    wholes = [(job.card, replace(opened, beside=())), *opened.beside]
    asked = replace(how, options=replace(how.options, average=None), wishes=Wishes(probabilities=True))
    found = [_labelled(own, other, scan, later(tick, i, len(wholes)), asked) for i, (own, other) in enumerate(wholes)]
    answers = [(one.result, own.decide) for one, (own, _) in zip(found, wholes, strict=True)]
    crops = tuple(crop for one in found for crop in one.crops)
    return Found(mean_of(answers, _groups(job.card, opened), how.wishes), None, crops)


def _groups(card: ModelCard, opened: Opened) -> list[list[int]]:
    """The label values that compete among each other: those of each part, or all."""
    values = {label.name: label.id for label in card.structures}
    parts = [[values[label.name] for label in own.structures if label.name in values] for own, _ in opened.parts]
    return parts or [[value for value in card.decide.values if value != 0]]


def _labelled(card: ModelCard, opened: Opened, scan: Volume, tick: Tick, how: _How) -> Found:
    if opened.rough is None or card.rough is None:
        return _fine(card, opened, scan, tick, how)
    check_channels(scan, card.procedure)
    scan, holes, warnings = finite(scan)
    own, other = opened.rough
    first = _labelled(own, other, scan, later(tick, 0, 2), how.before)
    labels = first.result.labels
    if first.effects is None:
        labels = after(labels, own.labels, own.after, scan)[0]
    _rest(other.models(own))
    wanted = [label.id for label in own.labels if label.name in card.rough.structures]
    box = around(labels, wanted, card.rough.margin_mm)
    if box is None:
        named = ", ".join(card.rough.structures)
        warnings.append(f"{own.name} found no {named}: {card.name} looked through the whole scan")
    crop = _facts(card.rough, own, box, scan.grid)
    box = box or whole(scan.grid)
    part = scan.crop(box)
    for model, _ in opened.fine(card):
        budget.refuse_too_large(part.grid, part.data.itemsize, model, limit=how.max_ram)
    found = _fine(card, opened, part, later(tick, 1, 2), how)
    _rest(opened.fine(card))
    result = on_whole_scan(found.result, scan, box, card.decide)
    if card.rough.within is not None:
        near = [label.id for label in own.labels if label.name in card.rough.within.structures]
        if not np.isin(labels.data, near).any():
            named = ", ".join(card.rough.within.structures)
            warnings.append(
                f"{own.name} found no {named}; {card.name} labels only what is near these, so nothing is labelled"
            )
        _forget(result, ~grown(labels, near, card.rough.within.mm), card.decide)
    if holes is not None:
        result.labels.data[:, holes] = 0
    edges, kept = at_edges(result.labels, box), how.options.classes or [label.name for label in card.structures]
    if cut := [label.name for label in card.structures if label.id in edges and label.name in kept]:
        more = f" and {len(cut) - 5} more" if len(cut) > 5 else ""
        warnings.append(
            f"{', '.join(cut[:5])}{more}: cut off at the edge of the part that {card.name} looked at, "
            f"{card.rough.margin_mm:g} mm around what {own.name} found"
        )
    result = replace(
        result,
        seconds=added(first.result.seconds, result.seconds),
        windows=first.result.windows + result.windows,
        warnings=(*warnings, *first.result.warnings, *result.warnings),
    )
    return Found(result, found.effects, (*first.crops, crop))


def _forget(found: Segmentation, where: NDArray[np.bool_], decide: Decision) -> None:
    """Make some voxels (1, D, H, W) background, for certain."""
    found.labels.data[where] = 0
    if found.probabilities is not None:
        for value, share in zip(decide.values, found.probabilities.data, strict=True):
            share[where[0]] = 255 * (value == 0)


def _facts(rough: Rough, model: ModelCard, box: Box | None, scan: Grid) -> CropFacts:
    return CropFacts(
        model=model.name,
        structures=list(rough.structures),
        margin_mm=rough.margin_mm,
        found=box is not None,
        box=[[side.start, side.stop] for side in box or whole(scan)],
    )


def _rest(models: Sequence[tuple[ModelCard, Opened]]) -> None:
    for _, opened in models:
        opened.engine.rest()


def _fine(card: ModelCard, opened: Opened, scan: Volume, tick: Tick, how: _How) -> Found:
    """What the models behind a rough one say of a scan, or of the part of it that they look at."""
    members = [_cascaded(how.options, own, other) for own, other in opened.fine(card)]
    if opened.parts:
        parts = _parts(card, opened.parts, members, how.options)
        return Found(segment_parts(scan, parts, card.decide, tick, how.wishes, card.fusion))
    if how.options.average == "probabilities":
        return Found(segment_at_the_scan(scan, members, tick, how.wishes))
    if opened.others or card.after_at == "scan" or not members[0].procedure.by_labels:
        return Found(segment_together(scan, members, tick, how.wishes))
    effects: list[Effect] = []
    steps = _steps(card, how.options, effects)
    return Found(segment_together(scan, members, tick, replace(how.wishes, steps=steps)), effects)


def _steps(card: ModelCard, options: Options, effects: list[Effect]) -> Callable[[Volume], Volume]:
    """A card's steps with labels on its own grid; the effect of each is added to `effects`."""

    def steps(labels: Volume) -> Volume:
        done, found = after(_as_stated(labels, card.grid), card.labels, steps_of(card, options))
        effects.extend(found)
        return Volume(done.data, labels.grid)

    return steps


def _as_stated(labels: Volume, spec: GridSpec) -> Volume:
    """Labels on a grid of exactly the card's spacing, which a grid that keeps a scan's corners has only nearly."""
    steps = [
        own if stated is None else stated
        for own, stated in zip(labels.grid.spacing, spec.spacing or labels.grid.spacing, strict=True)
    ]
    affine = labels.grid.affine.copy()
    affine[:3, :3] *= np.array(steps) / labels.grid.spacing
    return Volume(labels.data, Grid(labels.grid.shape, affine))


def _cascaded(options: Options, card: ModelCard, opened: Opened) -> Member:
    """A model as the options want it, of a cascade's second one the first with it."""
    member = _member(options, card, opened.engine)
    if opened.earlier is None:
        return member
    return replace(member, first=_member(options, opened.earlier[0], opened.earlier[1].engine))


def _member(options: Options, card: ModelCard, engine: Engine) -> Member:
    plan = at_overlap(card.window, options.overlap)
    window = replace(plan, skip=plan.skip or options.skip, sums=card.sums if options.faithful else plan.sums)
    procedure = replace(card.procedure, window=window)
    if options.faithful and card.faithful:
        procedure = replace(procedure, decide=replace(procedure.decide, back=card.faithful))
    return Member(procedure, engine)


def _parts(
    card: ModelCard, parts: Sequence[tuple[ModelCard, Opened]], members: Sequence[Member], options: Options
) -> list[Part]:
    """Each part with its own steps, and the values that its structures have in the whole model."""
    values = {label.name: label.id for label in card.labels if label.id != 0}
    return [
        Part(
            member,
            {label.id: values[label.name] for label in own.structures if label.name in values},
            _steps(own, options, []) if own.after else None,
        )
        for (own, _), member in zip(parts, members, strict=True)
    ]
