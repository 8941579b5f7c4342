"""How well label maps agree with reference ones, structure by structure, with nothing dropped.

The rule for what is missing (`RULE` says it) makes every score of a missed or an invented structure the worst there
is, so taking a structure out of a prediction never improves a score of a structure that the reference has. What a
surface and its distances are is said in `surfaces`.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from segcli.documents import Document
from segcli.errors import InputError
from segcli.results.surfaces import SAME_LENGTH, Surfaces, distances
from segcli.space.resample import Interpolation, onto
from segcli.space.volume import Box, Grid, Volume, turned, turning
from segcli.structures import Label

METRICS = ("dice", "iou", "hd95_mm", "assd_mm", "nsd", "volume_error")
RULE = (
    "A structure that only the reference has (missed) or only the prediction has (invented) scores Dice, IoU and NSD "
    "0, HD95 and ASSD the diagonal of the scan, and a volume error of 2, the most there is. One that neither has is "
    "not scored. So a structure that the reference has never scores better for being left out."
)
_RESAMPLES = 2000
_SEED = 20210713


@dataclass(frozen=True)
class Score:
    """One structure of one case.

    status        "both", "missed" (only in the reference), "invented" (only in the prediction), "absent" (in neither)
    dice, iou     overlap of voxels
    hd95_mm       the larger of the two directed 95th percentiles of surface distance
    assd_mm       mean distance of all surface elements of both to the other surface
    nsd           part of both surfaces that is within the tolerance of the other
    surface_cm2   area, estimated without the excess of a staircase (`surfaces._crofton`); reference_cm2 the reference's
    bias_ml       prediction minus reference
    volume_error  |prediction - reference| over the mean of the two, 0 .. 2
    """

    name: str
    label: int
    status: Literal["both", "missed", "invented", "absent"]
    dice: float | None
    iou: float | None
    hd95_mm: float | None
    assd_mm: float | None
    nsd: float | None
    volume_ml: float
    reference_ml: float
    surface_cm2: float
    reference_cm2: float
    bias_ml: float
    volume_error: float | None


def evaluate(
    pred: Volume,
    ref: Volume,
    names: Sequence[Label] = (),
    tolerance_mm: float = 1.0,
    *,
    resample: bool = False,
    called: Mapping[int, str] = MappingProxyType({}),
) -> list[Score]:
    """The scores of each named structure; without names, of each value that either map holds.

    pred, ref   (1, D, H, W) labels; the axes may run in another order, the voxel centres must be the same
    called      value -> name, where there are no names; a value that has none is label_7
    resample    move a prediction on another grid onto the reference's (nearest voxel) instead of refusing it
    errors      InputError (65) when the grids differ
    """
    pred = aligned(pred, ref, resample=resample)
    a, b = pred.data[0], ref.data[0]
    boxes_a, boxes_b = _boxes(a), _boxes(b)
    if not names:
        names = [Label(i, called.get(i, f"label_{i}")) for i in sorted(boxes_a.keys() | boxes_b.keys())]
    pair = _Pair(ref.grid, tolerance_mm)
    return [pair.score(label, a, b, boxes_a.get(label.id), boxes_b.get(label.id)) for label in names if label.id != 0]


def unscored(pred: Volume, ref: Volume, names: Sequence[Label]) -> tuple[list[int], list[int]]:
    """Values that the prediction holds, and those that the reference holds, which `names` has not: not evaluated."""
    known = {label.id for label in names}
    return sorted(_boxes(pred.data[0]).keys() - known), sorted(_boxes(ref.data[0]).keys() - known)


def aligned(pred: Volume, ref: Volume, *, resample: bool = False) -> Volume:
    """The prediction in the reference's array order, its voxels untouched unless `resample` moves them."""
    if pred.grid.same_as(ref.grid):  # at 45 degrees rounding alone decides between the letters of two axes
        return Volume(pred.data[:1], ref.grid, pred.source)
    there = turned(pred.grid, ref.grid.axes)
    if there.same_as(ref.grid):
        order, flips = turning(pred.grid.axes, ref.grid.axes)
        data = np.transpose(pred.data[0], order)
        return Volume(np.flip(data, tuple(i for i, flip in enumerate(flips) if flip))[None], ref.grid, pred.source)
    if resample:
        return _moved(pred, ref.grid)
    if there.shape != ref.grid.shape:
        what = f"{_sizes(there.shape)} voxels against {_sizes(ref.grid.shape)}"
    else:
        apart = float(np.linalg.norm(there.corners(2) - ref.grid.corners(2), axis=1).max())
        what = f"the same size, but corners up to {apart:.4g} mm apart"
    raise InputError(
        f"prediction and reference are not on one grid: {what}",
        hint="--resample moves the prediction onto the reference's grid (nearest voxel)",
    )


def lost(pred: Volume, grid: Grid) -> int:
    """How many labelled voxels of a prediction lie beyond another grid, and go where it is moved onto that."""
    return sum(int(np.count_nonzero(pred.data[0, k][away])) for k, away in enumerate(_beyond(pred.grid, grid)))


def _moved(pred: Volume, grid: Grid) -> Volume:
    """Nearest labels on another grid, background beyond the prediction's outer faces."""
    moved = onto(pred, grid, Interpolation("nearest"))
    data = moved.data.copy()
    for plane, away in enumerate(_beyond(grid, pred.grid)):
        data[0, plane][away] = 0
    return Volume(data, grid, pred.source)


def _beyond(grid: Grid, other: Grid) -> Iterator[NDArray[np.bool_]]:
    """For each plane of a grid, (H, W): whether its voxel centres lie beyond another grid's outer faces.

    Of two opposite faces the first is inside alone, as in ITK: centres that lie on both would be a volume too large.
    """
    d, h, w = grid.shape
    row = np.stack(np.meshgrid(np.arange(h), np.arange(w), indexing="ij"), axis=-1)
    matrix = grid.to(other)
    for plane in range(d):
        at = plane * matrix[:3, 0] + row @ matrix[:3, 1:3].T + matrix[:3, 3]
        outside = (at < -0.5 - SAME_LENGTH) | (at > np.array(other.shape) - 0.5 - SAME_LENGTH)
        yield np.logical_or.reduce(outside, axis=-1)


def _sizes(shape: tuple[int, int, int]) -> str:
    return " x ".join(str(n) for n in shape)


def _boxes(data: NDArray[np.integer]) -> dict[int, Box]:
    """The box of each value but 0, in the order of the values."""
    if data.min() < 0 or data.max() >= 1 << 16:  # find_objects passes over values below 0 and lists all up to the most
        values, codes = np.unique(data, return_inverse=True)
        data = codes.reshape(data.shape) + 1
    else:
        values = np.arange(1, int(data.max()) + 1)
    boxes = zip(values.tolist(), find_objects(data), strict=True)
    return {value: box for value, box in boxes if value != 0 and box is not None}


class _Pair:
    """Scores the structures of two label maps on one grid."""

    def __init__(self, grid: Grid, tolerance_mm: float) -> None:
        self.grid, self.tolerance, self.surfaces = grid, tolerance_mm, Surfaces(grid)
        self.diagonal = self.surfaces.diagonal

    def score(
        self, label: Label, a: NDArray[np.integer], b: NDArray[np.integer], in_a: Box | None, in_b: Box | None
    ) -> Score:
        mask_a = None if in_a is None else a[in_a] == label.id
        mask_b = None if in_b is None else b[in_b] == label.id
        ml = self.grid.voxel_mm3 / 1000
        n_a = 0 if mask_a is None else int(np.count_nonzero(mask_a))
        n_b = 0 if mask_b is None else int(np.count_nonzero(mask_b))
        surface_a, surface_b = self.surfaces.of(mask_a, in_a), self.surfaces.of(mask_b, in_b)
        far = round(self.diagonal, 4)
        score = Score(
            name=label.name,
            label=label.id,
            status="missed" if n_b else "invented",
            dice=0.0,
            iou=0.0,
            hd95_mm=far,
            assd_mm=far,
            nsd=0.0,
            volume_ml=round(n_a * ml, 3),
            reference_ml=round(n_b * ml, 3),
            surface_cm2=round(surface_a.cm2, 3),
            reference_cm2=round(surface_b.cm2, 3),
            bias_ml=round((n_a - n_b) * ml, 3),
            volume_error=2.0,
        )
        if n_a + n_b == 0:
            return _absent(score)
        if in_a is None or in_b is None or mask_a is None or mask_b is None:
            return score
        both = _overlap(mask_a, mask_b, in_a, in_b)
        hd95, assd, nsd = distances(surface_a, surface_b, self.tolerance)
        return replace(
            score,
            status="both",
            dice=round(2 * both / (n_a + n_b), 6),
            iou=round(both / (n_a + n_b - both), 6),
            hd95_mm=round(hd95, 4),
            assd_mm=round(assd, 4),
            nsd=round(nsd, 6),
            volume_error=round(2 * abs(n_a - n_b) / (n_a + n_b), 6),
        )


def _overlap(mask_a: NDArray[np.bool_], mask_b: NDArray[np.bool_], in_a: Box, in_b: Box) -> int:
    low = [max(s.start, t.start) for s, t in zip(in_a, in_b, strict=True)]
    high = [min(s.stop, t.stop) for s, t in zip(in_a, in_b, strict=True)]
    if any(x >= y for x, y in zip(low, high, strict=True)):
        return 0
    part_a = mask_a[tuple(slice(x - s.start, y - s.start) for x, y, s in zip(low, high, in_a, strict=True))]
    part_b = mask_b[tuple(slice(x - s.start, y - s.start) for x, y, s in zip(low, high, in_b, strict=True))]
    return int(np.count_nonzero(part_a & part_b))


# ---- many cases ---------------------------------------------------------------------------------------------------


def rows(cases: Mapping[str, Sequence[Score]], cohort: Mapping[str, str | None]) -> list[Document]:
    """One row for each case and structure; `cohort`: what the cohort's tables call a case."""
    return [
        {"case": case, **asdict(score), "cohort_case": cohort.get(case)}
        for case, scores in cases.items()
        for score in scores
    ]


def summarise(cases: Mapping[str, Sequence[Score]], apart: Collection[str] = ()) -> list[Document]:
    """Mean and 95 % interval over cases, for each structure and for the mean of all ("all", first) but those `apart`.

    The interval is the percentile bootstrap over cases (2000 draws, seeded: the same scores give the same interval);
    with one case there is none.
    """
    names = list(dict.fromkeys(score.name for scores in cases.values() for score in scores))
    out = []
    for name in ["all", *names]:
        chosen = [[s for s in scores if _counts(s, name, apart)] for scores in cases.values()]
        row: Document = {"name": name}
        row["cases"] = sum(any(s.status != "absent" for s in scores) for scores in chosen)
        for status in ("missed", "invented"):
            row[status] = sum(s.status == status for scores in chosen for s in scores)
        for metric in METRICS:
            values = np.array([v for scores in chosen if (v := _mean(scores, metric)) is not None])
            row[metric] = round(float(values.mean()), 6) if len(values) else None
            row[f"{metric}_low"], row[f"{metric}_high"] = _interval(values)
        biases = [s.bias_ml for scores in chosen for s in scores if s.status != "absent"]
        row["bias_ml"] = round(float(np.mean(biases)), 3) if biases and name != "all" else None
        out.append(row)
    return out


def compare(
    first: Mapping[str, Sequence[Score]], second: Mapping[str, Sequence[Score]], apart: Collection[str] = ()
) -> list[Document]:
    """The second model minus the first, case by case: mean, 95 % interval and p of a sign-flip test.

    A structure that the reference has not counts as right for the model that leaves it out (Dice 1, distance 0), so
    that inventing it costs the other one, which may have no score of it at all.

    errors   InputError (65) when the two were not scored on the same cases and structures of the references
    """
    first, second = _with_absent(first, second), _with_absent(second, first)
    keys = [{(case, s.name) for case, scores in x.items() for s in scores} for x in (first, second)]
    if keys[0] != keys[1]:
        odd = sorted(keys[0] ^ keys[1])
        raise InputError(
            f"two models can be compared on the same cases and structures only: {len(odd)} are in one of them, "
            f"the first is {odd[0][1]!r} of case {odd[0][0]!r}",
            hint="they are called otherwise: give --model for the names of both",
        )
    names = list(dict.fromkeys(score.name for scores in first.values() for score in scores))
    out = []
    for name in ["all", *names]:
        row: Document = {"name": name, "cases": 0}
        for metric in METRICS:
            gaps = []
            for case, scores in first.items():
                both = [(s, t) for s in scores for t in second[case] if s.name == t.name and _counts(s, name, apart)]
                seen = [(s, t) for s, t in both if (s.status, t.status) != ("absent", "absent")]
                if seen:
                    gaps.append(float(np.mean([_value(t, metric) - _value(s, metric) for s, t in seen])))
            values = np.array(gaps)
            row["cases"] = len(values)
            row[metric] = round(float(values.mean()), 6) if len(values) else None
            row[f"{metric}_low"], row[f"{metric}_high"] = _interval(values)
            row[f"{metric}_p"] = _sign_flips(values)
        out.append(row)
    return out


def _with_absent(mine: Mapping[str, Sequence[Score]], other: Mapping[str, Sequence[Score]]) -> dict[str, list[Score]]:
    """Scores with those structures as absent that in a case the other model alone holds, and no reference does."""
    found = {}
    for case, scores in mine.items():
        names = {score.name for score in scores}
        lacking = [s for s in other.get(case, ()) if s.name not in names and s.status == "invented"]
        found[case] = [*scores, *map(_absent, lacking)]
    return found


def _absent(score: Score) -> Score:
    """The score of a structure that neither map holds, from that of another pair."""
    return Score(score.name, score.label, "absent", None, None, None, None, None, 0.0, 0.0, 0.0, 0.0, 0.0, None)


def _counts(score: Score, name: str, apart: Collection[str]) -> bool:
    """Whether a score is one of a structure's, or of the mean of all."""
    return score.name == name or (name == "all" and score.name not in apart)


def _mean(scores: Sequence[Score], metric: str) -> float | None:
    values = [v for s in scores if (v := getattr(s, metric)) is not None]
    return float(np.mean(values)) if values else None


def _value(score: Score, metric: str) -> float:
    value = getattr(score, metric)
    if value is None:
        return 1.0 if metric in ("dice", "iou", "nsd") else 0.0
    return float(value)


def _interval(values: NDArray[np.float64]) -> tuple[float | None, float | None]:
    if len(values) < 2:
        return None, None
    draws = np.random.default_rng(_SEED).integers(0, len(values), (_RESAMPLES, len(values)))
    low, high = np.percentile(values[draws].mean(axis=1), (2.5, 97.5))
    return round(float(low), 6), round(float(high), 6)


def _sign_flips(gaps: NDArray[np.float64]) -> float | None:
    """Two-sided p that the mean gap is 0: all 2^n signs up to 12 cases, else 10000 seeded ones and the one seen."""
    n = len(gaps)
    if n < 2:
        return None
    if n <= 12:
        signs = np.array(list(itertools.product((-1, 1), repeat=n)))
    else:
        drawn = np.random.default_rng(_SEED).choice((-1, 1), (10_000, n))
        signs = np.concatenate([np.ones((1, n), drawn.dtype), drawn])
    extreme = np.abs(signs @ gaps) >= abs(gaps.sum()) - 1e-12
    return round(float(extreme.mean()), 6)
