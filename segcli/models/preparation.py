"""The steps of a card's `intensity` as inference does them: what they may say together, and in which order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any, cast

from msgspec.structs import asdict

from segcli.errors import ModelError
from segcli.inference.frames import Frame
from segcli.inference.intensity import (
    Clip,
    Crop,
    Histogram,
    Outside,
    Percentiles,
    Preparation,
    Resample,
    Scale,
    Standardise,
)
from segcli.models import document as documents
from segcli.models.document import CardDocument, IntensityStep

Refuse = Callable[[str, str], ModelError]  # of a field, and what is wrong with it
_WITH_ENDS = documents.ClipStep | documents.ScaleStep | documents.PercentilesStep | documents.HistogramStep
_OF_ALL = documents.CropStep | documents.ResampleStep | documents.FrameStep  # steps of all channels at once

# The step that each entry of "intensity" makes; their fields have the same names.
_MADE: dict[type[IntensityStep], type[Any]] = {
    documents.ClipStep: Clip,
    documents.ScaleStep: Scale,
    documents.PercentilesStep: Percentiles,
    documents.HistogramStep: Histogram,
    documents.StandardiseStep: Standardise,
    documents.CropStep: Crop,
    documents.OutsideStep: Outside,
    documents.ResampleStep: Resample,
    documents.FrameStep: Frame,
}


def preparation(card: CardDocument, refuse: Refuse) -> tuple[Preparation, ...]:
    """The steps of "intensity", with the resampling first and the crop last where they are not among them."""
    steps: list[Preparation] = []
    for step in card.intensity or ():
        if (said := _contradiction(step, len(card.channels))) is not None:
            raise refuse("intensity", said)
        steps.append(cast("Preparation", _MADE[type(step)](**asdict(step))))
    resamplings = sum(isinstance(s, Resample) for s in steps)
    if resamplings > 1:
        raise refuse("intensity", "has the step resample twice")
    if not resamplings:
        steps.insert(0, Resample())
    if (said := _no_frames(steps, card)) is not None:
        raise refuse("intensity", said)
    if card.crop != "none":
        steps.append(Crop(above=0.0 if card.crop == "positive" else None))
    for i, (a, b) in enumerate(pairwise(steps), 1):
        if isinstance(a, Clip) and isinstance(b, Scale) and b.source is None and a.channels == b.channels:
            # The scale after a clip refers to the window that was clipped to, not to what this scan reached.
            steps[i] = replace(b, source=(a.low, a.high))
    return tuple(steps)


def _no_frames(steps: list[Preparation], card: CardDocument) -> str | None:
    """Why slices cannot be cut to the body as the steps say; None where they can, or are not."""
    places = [i for i, step in enumerate(steps) if isinstance(step, Frame)]
    if not places:
        return None
    if len(places) > 1 or any(isinstance(step, Resample | Crop) for step in steps[places[0] :]):
        return "has the step frame twice, or a crop or the resampling behind it"
    return "has the step frame, but the card has no slice_axis" if card.slice_axis is None else None


def _contradiction(step: IntensityStep, channels: int) -> str | None:
    """What the values of a step say against each other; None where they agree."""
    kind = step.__struct_config__.tag
    if isinstance(step, _WITH_ENDS) and step.low >= step.high:
        return f"has a step {kind} with low {step.low:g} not below high {step.high:g}"
    if isinstance(step, documents.ScaleStep) and step.source is not None and step.source[0] >= step.source[1]:
        return f"has a step {kind} with from = {list(step.source)}, whose first number is not below the second"
    if isinstance(step, documents.StandardiseStep) and (step.mean is None) != (step.sd is None):
        return f"has a step {kind} with {'sd' if step.mean is None else 'mean'} alone: both are given, or neither"
    named = () if isinstance(step, _OF_ALL) else step.channels or ()
    if len(set(named)) < len(named):
        return f"has a step {kind} that names a channel twice"
    if any(c >= channels for c in named):
        return f"has a step {kind} that names a channel beyond the {channels} there are"
    return None
