"""Do labels lie where the scan shows their structures: no other place of theirs may explain its brightness better."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from segcli.results.scan_checks import Finding
from segcli.results.scene import Scene
from segcli.space.volume import Grid, Voxels

STRUCTURES = 8  # that are there, at least: the brightness of few says little of their place
FAR_MM = (6.0, 12.0, 18.0, 24.0, 30.0)  # where it is looked for first, along each axis and all of them at once
NEAR_MM = (4.0, 2.0)  # then from the best of these on, ROUNDS times each
ROUNDS = 2
_ALIKE = 0.02  # parts of the variance that differ by less are as good as each other
_VOXELS = 20_000  # labelled ones that are looked at
_WAYS = (("to the left", "to the right"), ("backwards", "forwards"), ("upwards", "downwards"))  # of LPS, growing first


def moved(scene: Scene) -> Iterator[Finding]:
    """Labels that would fit the scan better elsewhere, where the card says how much better that has to be.

    How well they fit is the part of the labelled voxels' variance that is explained by which structure each is in.
    """
    least = scene.card.limits.moved
    there = {s.label: s.voxels for s in scene.by_id.values() if s.voxels}
    if least is None or scene.image is None or scene.foreign or len(there) < STRUCTURES:
        return
    labels, image, grid = scene.labels.data[0], scene.image.data[0], scene.labels.grid
    every = max(1, round((sum(there.values()) / _VOXELS) ** (1 / 3)))
    part = labels[::every, ::every, ::every]
    at = np.argwhere(np.isin(part, [*there]))
    values = part[tuple(at.T)].astype(np.intp)
    at *= every
    own = reached = _explained(values, image, at)
    best = np.zeros(3, np.intp)
    for steps in (_steps(grid, FAR_MM), *[_steps(grid, (mm,)) for mm in NEAR_MM for _ in range(ROUNDS)]):
        found = np.array([_explained(values, image, at + best + step) for step in steps])
        if found.max() > reached:
            i = int(np.argmax(found > found.max() - _ALIKE))  # the first, and so the shortest, of those
            reached, best = float(found[i]), best + steps[i]
        elif not best.any():
            return  # of labels that lie where they belong no step at all is better
    if reached > least * max(own, 0.0) and reached > own + 0.1:
        way = grid.affine[:3, :3] @ best
        sentence = f"moved by {_told(way)} the structures would explain {reached:.0%} of the scan's brightness, "
        sentence += f"{max(own, 0.0):.0%} where they lie: do scan and labels belong together?"
        yield Finding("misplaced", "fail", None, sentence)


def _steps(grid: Grid, sizes_mm: Sequence[float]) -> list[NDArray[np.intp]]:
    """Array steps of these sizes along every axis, both ways, then along two and three of them at once."""
    ways = sorted((way for way in itertools.product((-1, 0, 1), repeat=3) if any(way)), key=np.count_nonzero)
    return [
        np.array([way * max(1, round(mm / spacing)) for way, spacing in zip(each, grid.spacing, strict=True)], np.intp)
        for mm in sizes_mm
        for each in ways
    ]


def _explained(values: NDArray[np.intp], image: Voxels, at: NDArray[np.intp]) -> float:
    """The part of the variance at some voxels that lies between the structures; -1 where most are outside the image.

    values  (n,) the structure of each; at  (n, 3) its array index, which may be outside
    """
    inside = ((at >= 0) & (at < image.shape)).all(axis=1)
    bright = image[tuple(at[inside].T)].astype(np.float64)
    known = np.isfinite(bright)
    bright, own = bright[known], values[inside][known]
    if len(bright) < 0.6 * len(values):
        return -1.0
    bright -= bright.mean()
    whole = float(bright @ bright)
    counts, sums = np.bincount(own), np.bincount(own, bright)
    between = float((sums[counts > 0] ** 2 / counts[counts > 0]).sum())
    return between / whole if whole else -1.0


def _told(way: NDArray[np.float64]) -> str:
    """A move in LPS mm in words: 20 mm to the left and 12 mm forwards."""
    parts = [f"{abs(mm):.0f} mm {names[int(mm < 0)]}" for mm, names in zip(way, _WAYS, strict=True) if abs(mm) >= 1]
    return " and ".join(parts)
