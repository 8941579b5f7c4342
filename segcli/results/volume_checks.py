"""Are volumes usual: of each structure, of the sides of a pair, of all together; and is nothing missing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from segcli.results.measure import Structure
from segcli.results.ranges import NEAR, TELLING
from segcli.results.scan_checks import Finding
from segcli.results.scene import Scene

ASYMMETRY = 3.0  # larger over smaller of a pair, where the card has no range; see `asymmetry`
ROOM = (
    1.75  # times the root of high over low that a pair may differ by; 1.68 is the most of the 20 heads of `volumes_ml`
)
EXPLODED = 3.0  # times beyond the reference range that cannot be anatomy
LITTLE = 0.01  # part of the least usual volume of all structures together, below which there is next to nothing


def asymmetry(scene: Scene) -> Iterator[Finding]:
    """Pairs that differ more than anatomy does: by more than the root of high over low of the range and ROOM."""
    for left, right in scene.pairs():
        a, b = scene[left], scene[right]
        if a is None or b is None or a.truncated or b.truncated:
            continue
        large, small = (a, b) if a.voxels > b.voxels else (b, a)
        low, high = scene.card.volumes_ml.get(left, (1.0, ASYMMETRY**2))
        allowed = max(2.0, math.sqrt(high / low) * ROOM) if low > 0 else ASYMMETRY
        ratio = large.voxels / small.voxels
        if ratio > allowed:
            sentence = f"{large.name} is {ratio:.1f} times as large as {small.name} ({large.volume_ml:g} and "
            sentence += f"{small.volume_ml:g} mL); {allowed:.1f} is the most that is not remarkable"
            yield Finding("asymmetry", "review", f"{left}, {right}", sentence)


def missing(scene: Scene) -> Iterator[Finding]:
    """One side of a pair alone; a structure that everyone has, where most others are; next to nothing of any."""
    for left, right in scene.pairs():
        for name, other in ((left, right), (right, left)):
            there = scene[name]
            if there and not there.truncated and scene[other] is None:
                sentence = f"{other} was not found, {name} has {there.volume_ml:g} mL"
                yield Finding("missing", "review", other, sentence)
    ranged = [s for s in scene.by_id.values() if scene.usual.ml.get(s.name, (0.0, 0.0))[0] > 0]
    absent = [s for s in ranged if not s.voxels]
    told = {x.name for x in scene.structures if x.pair and scene[x.pair]}
    if len(absent) >= len(ranged) / 2:
        yield from _next_to_nothing(scene, ranged)
        return
    for s in absent:
        if s.name not in told:
            low = scene.usual.ml[s.name][0]
            sentence = f"{s.name} was not found; {low:g} mL is the least that is usual"
            yield Finding("missing", "review", s.name, sentence)


def _next_to_nothing(scene: Scene, ranged: Sequence[Structure]) -> Iterator[Finding]:
    """Hardly anything of many structures; a scan of a part of the body has at least one of them whole, or much more.

    ranged  the structures that everyone has, of which at least half are absent
    """
    lows = {s.name: scene.usual.ml[s.name][0] for s in ranged}
    together, least = sum(s.volume_ml for s in ranged), sum(lows.values())
    whole = any(s.volume_ml >= lows[s.name] for s in ranged)
    if len(ranged) < TELLING or whole or together >= LITTLE * least:
        return
    there = sum(s.voxels > 0 for s in ranged)
    found = f"{there} of {len(ranged)} structures that everyone has were found, with {together:.3g} mL together"
    sentence = f"{found}; {least:.3g} mL is the least that is usual: does the scan show them?"
    yield Finding("missing", "review", None, sentence)


def volumes(scene: Scene) -> Iterator[Finding]:
    """Volumes outside the usual range at this size, and structures that fill the scan."""
    for s in scene.by_id.values():
        if not s.voxels:
            continue
        part = s.voxels / scene.labels.grid.size
        if s.name not in scene.usual.ml:
            if part > 0.9:
                yield Finding("volume", "review", s.name, f"{s.name} fills {part:.0%} of the scan")
            continue
        low, high = scene.usual.ml[s.name]
        if low <= s.volume_ml <= high or (s.truncated and s.volume_ml < low):
            continue  # of a structure that is cut off less than usual is no surprise
        far = s.volume_ml > high * EXPLODED or s.volume_ml < low / EXPLODED
        near = low / NEAR <= s.volume_ml <= high * NEAR
        sentence = f"{s.name}: {s.volume_ml:g} mL, {'just ' * near}outside {low:g} to {high:g} mL"
        yield Finding("volume", "fail" if far else "note" if near else "review", s.name, sentence)


def scale(scene: Scene) -> Iterator[Finding]:
    """All volumes together too large or too small: then the spacing is wrong rather than the patient."""
    limits, size = scene.card.limits, scene.usual.size
    if limits.scale is None or size is None:
        return
    far = not 1 / limits.scale <= size <= limits.scale
    if far or (limits.smaller is not None and size < 1 / limits.smaller):
        spacing = " x ".join(f"{v:.4g}" for v in scene.labels.grid.spacing)
        sentence = f"the structures together have {size:.2f} times the usual volumes: is the voxel spacing of "
        yield Finding("scale", "fail" if far else "review", None, f"{sentence}{spacing} mm right?")
