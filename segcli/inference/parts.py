"""A model made of models: each labels structures of its own, and their labels are put together on the scan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from segcli.errors import ModelError
from segcli.inference.decide import Decision
from segcli.inference.engine import sampler_of
from segcli.inference.prepare import Prepared, Procedure, check_channels, finite, prepare
from segcli.inference.segment import Segmentation, Wishes, labelled, said_of
from segcli.inference.together import Member, added, later, repeated, staged
from segcli.inference.windows import Tick, no_tick
from segcli.memory import mapped
from segcli.space.volume import Volume, Voxels


@dataclass(frozen=True, eq=False)
class Part:
    """One of the models, and what its label values are in the answer; those that are not named are no answer.

    steps   done with its labels on its own grid, where finished labels come back from there
    """

    member: Member
    values: Mapping[int, int]
    steps: Callable[[Volume], Volume] | None = None


Fusion = Literal["over", "within"]


def segment_parts(
    scan: Volume,
    parts: Sequence[Part],
    decide: Decision,
    tick: Tick = no_tick,
    wishes: Wishes = Wishes(),
    fusion: Fusion = "over",
) -> Segmentation:
    """Label every voxel of the scan.

    What a later part labels stands over what an earlier one says. With the fusion "within" it is the other way round:
    a later part labels what the earlier ones left open, and where it labels nothing there is nothing.

    Parts that follow each other and see the scan alike share one preparation. Each network gives back its memory
    before the next one runs. Probabilities are those that each structure has in its own part; background is what they
    leave.

    scan     (C, D, H, W), intensities as in the file
    decide   of the whole model: what its label values are
    errors   as `segment`; ModelError for probabilities of parts that bound each other
    """
    if fusion == "within" and wishes.probabilities:
        raise ModelError("a model whose parts bound each other gives labels alone", hint="leave probabilities out")
    check_channels(scan, parts[0].member.procedure)
    scan, holes, warnings = finite(scan)
    labels = np.zeros((1, *scan.grid.shape), decide.dtype)
    shares = mapped((len(decide.values), *scan.grid.shape), np.uint8) if wishes.probabilities else None
    times: list[Mapping[str, float]] = []
    confidence: dict[int, float] = {}
    prepared: Prepared | None = None
    seen: tuple[object, ...] = ()
    count = again = 0
    for i, part in enumerate(parts):
        before = repeated([part.member])
        member, ticked, earlier = staged(scan, part.member, later(tick, i, len(parts)))
        own, engine = member.procedure, member.engine
        if prepared is None or _view(own) != seen:
            prepared, seen = prepare(scan, own, sampler_of(engine)), _view(own)
            times.append(prepared.seconds)
        wanted = Wishes(probabilities=wishes.probabilities, steps=part.steps, rests=True)
        found = labelled(scan, prepared, own, engine, ticked, wanted)
        _write(_renumbered(found.labels.data, part.values, labels.dtype), labels, fusion if i else "over")
        if shares is not None and found.probabilities is not None:
            _write_shares(found.probabilities.data, part, shares, decide)
        confidence |= {part.values[value]: m for value, m in found.confidence.items() if value in part.values}
        times.append({stage: found.seconds[stage] for stage in ("network", "decide")})
        count += found.windows
        if earlier is not None:
            times.append(earlier.seconds)
            count += earlier.windows
        again += repeated([part.member]) - before
        engine.rest()
    if holes is not None:
        labels[:, holes] = 0
    if shares is not None:
        shares[0] = 255 - np.minimum(shares.sum(axis=0, dtype=np.uint32), 255)
    return Segmentation(
        Volume(labels, scan.grid, scan.source),
        added(*times),
        count,
        confidence,
        (*warnings, *said_of(again)),
        probabilities=None if shares is None else Volume(shares, scan.grid),
    )


def _write(here: Voxels, labels: Voxels, fusion: Fusion) -> None:
    """Write the labels of a part into those of the parts before it."""
    if fusion == "over":
        np.copyto(labels, here, where=here != 0)
        return
    labels[here == 0] = 0
    np.copyto(labels, here, where=labels == 0)


def _write_shares(found: Voxels, part: Part, shares: Voxels, decide: Decision) -> None:
    """Write the probabilities of a part's structures (K, D, H, W) where the whole model has those structures."""
    for value, channel in zip(part.member.procedure.decide.values, found, strict=True):
        if value in part.values:
            shares[decide.values.index(part.values[value])] = channel


def _renumbered(
    found: NDArray[np.integer], values: Mapping[int, int], dtype: np.dtype[np.integer]
) -> NDArray[np.integer]:
    """What a part has found, in the values of the whole model."""
    table = np.zeros(int(max(found.max(), *values)) + 1, dtype)
    for value, final in values.items():
        table[value] = final
    here: NDArray[np.integer] = table[found]
    return here


def _view(procedure: Procedure) -> tuple[object, ...]:
    """All that decides what a model is shown of a scan."""
    p = procedure
    return p.grid, p.interpolation, p.steps, p.outside, p.slice_axis, p.slices, p.earlier, p.first
