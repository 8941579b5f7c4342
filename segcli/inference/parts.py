"""A model made of models: each labels structures of its own, and their labels are put together on the scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from segcli.inference.prepare import Prepared, Procedure, check_channels, finite, prepare
from segcli.inference.segment import Segmentation, Wishes, decided, said_of, window_count
from segcli.inference.together import Member, later
from segcli.inference.windows import Tick, no_tick, slide
from segcli.space.volume import Volume


@dataclass(frozen=True, eq=False)
class Part:
    """One of the models, and what its label values are in the answer; those that are not named are no answer."""

    member: Member
    values: Mapping[int, int]


def segment_parts(scan: Volume, parts: Sequence[Part], dtype: DTypeLike, tick: Tick = no_tick) -> Segmentation:
    """Label every voxel of the scan: what a later part labels stands over what an earlier one says.

    Parts that follow each other and see the scan alike share one preparation. Each network gives back its memory
    before the next one runs.

    scan     (C, D, H, W), intensities as in the file
    dtype    of the labels
    errors   as `segment`
    """
    check_channels(scan, parts[0].member.procedure)
    scan, holes, warnings = finite(scan)
    labels = np.zeros((1, *scan.grid.shape), dtype)
    seconds = dict.fromkeys(("resample", "normalise", "network", "decide"), 0.0)
    confidence: dict[int, float] = {}
    prepared: Prepared | None = None
    count = repeated = 0
    for i, part in enumerate(parts):
        own, engine = part.member.procedure, part.member.engine
        if prepared is None or _view(own) != _view(parts[i - 1].member.procedure):
            prepared = prepare(scan, own)
            for stage, spent in prepared.seconds.items():
                seconds[stage] += spent
        before = engine.repeated
        slabs = slide(prepared.image, engine, own.window, later(tick, i, len(parts)), prepared.outside)
        found = decided(scan, prepared, slabs, own.decide, own.interpolation, Wishes())
        table = np.zeros(max(own.decide.values) + 1, dtype)
        for value, final in part.values.items():
            table[value] = final
        here = table[found.labels.data]
        np.copyto(labels, here, where=here != 0)
        confidence |= {part.values[value]: m for value, m in found.confidence.items() if value in part.values}
        for stage in ("network", "decide"):
            seconds[stage] += found.seconds[stage]
        count += window_count(prepared.image.grid, own.window)
        repeated += engine.repeated - before
        engine.rest()
    if holes is not None:
        labels[:, holes] = 0
    answer = Volume(labels, scan.grid, scan.source)
    return Segmentation(answer, seconds, count, confidence, (*warnings, *said_of(repeated)))


def _view(procedure: Procedure) -> tuple[object, ...]:
    """All that decides what a model is shown of a scan."""
    p = procedure
    return p.grid, p.interpolation, p.steps, p.outside, p.slice_axis, p.slices
