"""From the labels that the models decide to the answer: the card's steps, the structures wanted, the options' steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from segcli.memory import give_back
from segcli.models.after import AfterStep, LargestStep, SmallStep
from segcli.results.after import Effect
from segcli.results.islands import Change
from segcli.space.volume import Volume

if TYPE_CHECKING:
    from segcli.batch.stages import Job, Options
    from segcli.models.card import ModelCard


def finished(
    job: Job, scan: Volume, labels: Volume, done: list[Effect] | None = None
) -> tuple[Volume, list[Effect], list[Change]]:
    """The labels of the answer, the effects of the card's steps, and what the options' post-processing changed.

    done   the effects of the card's steps, where they were taken on the model's grid
    """
    give_back()  # what deciding the labels has left
    own, effects = _as_the_card_says(job, scan, _scanned(labels)) if done is None else (_scanned(labels), done)
    answer, changed = _postprocessed(job, _wanted(job, own))
    return answer, effects, changed


def _scanned(labels: Volume) -> Volume:
    """The labels without those on slices that only fill a gap."""
    if labels.source is None or not (labels.source.facts or {}).get("filled_slices"):
        return labels
    from segcli.formats.dicom import series

    scanned = np.zeros(labels.grid.shape[0], bool)
    scanned[series.real_slices(labels)] = True
    return Volume(labels.data * scanned[:, None, None], labels.grid, labels.source)


def _as_the_card_says(job: Job, scan: Volume, labels: Volume) -> tuple[Volume, list[Effect]]:
    """The labels after the steps that the model's card lists, and what each changed."""
    steps = steps_of(job.card, job.options)
    if not steps:
        return labels, []
    from segcli.results.after import after

    return after(labels, job.card.labels, steps, scan)


def steps_of(card: ModelCard, options: Options) -> tuple[AfterStep, ...]:
    """The card's steps, without those that take pieces away where the user keeps them."""
    gone = LargestStep | SmallStep if options.keep_islands else ()
    return tuple(step for step in card.after if not isinstance(step, gone))


def _wanted(job: Job, labels: Volume) -> Volume:
    """The labels of the structures that were asked for; the others become background."""
    if not job.options.classes:
        return labels
    keep = np.zeros(max(label.id for label in job.card.labels) + 1, labels.data.dtype)
    for structure in job.shown.structures:
        keep[structure.id] = structure.id
    return Volume(keep[labels.data], labels.grid, labels.source)


def _postprocessed(job: Job, labels: Volume) -> tuple[Volume, list[Change]]:
    """The labels after the post-processing that was asked for, and what it changed, structure by structure."""
    options, names = job.options, job.card.structures
    if not (options.largest or options.min_size_ml or options.fill_holes):
        return labels, []
    from segcli.results.islands import changes, postprocess

    after = postprocess(
        labels, names, largest=options.largest, min_size_ml=options.min_size_ml, fill_holes=options.fill_holes
    )
    return after, changes(labels, after, names)
