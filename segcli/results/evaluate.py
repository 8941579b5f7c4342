"""How well label maps agree with reference ones, structure by structure, with nothing dropped.

The rule for what is missing (`RULE` says it) makes every score of a missed or an invented structure the worst there
is, so taking a structure out of a prediction never improves a score of a structure that the reference has.

Surfaces and distances are those of Nikolov et al. 2021 (doi:10.2196/26151), the `surface-distance` package: surface
elements where the eight voxels around a corner differ, weighted by their area under marching cubes. They sit on the
corner itself, so the distance of two curved surfaces is half a voxel short.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects
from scipy.spatial import cKDTree

from segcli.errors import InputError, InputMissing
from segcli.formats.table import endings, stem
from segcli.results.record import is_masks
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
    surface_cm2   area, estimated without the excess of a staircase (`_crofton`); reference_cm2 the reference's
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
) -> list[Score]:
    """The scores of each named structure; without names, of each value that either map holds.

    pred, ref   (1, D, H, W) labels; the axes may run in another order, the voxel centres must be the same
    resample    move a prediction on another grid onto the reference's (nearest voxel) instead of refusing it
    errors      InputError (65) when the grids differ
    """
    pred = aligned(pred, ref, resample=resample)
    a, b = pred.data[0], ref.data[0]
    boxes_a, boxes_b = _boxes(a), _boxes(b)
    if not names:
        names = [Label(i, f"label_{i}") for i in sorted(boxes_a.keys() | boxes_b.keys())]
    pair = _Pair(ref.grid, tolerance_mm)
    return [pair.score(label, a, b, boxes_a.get(label.id), boxes_b.get(label.id)) for label in names if label.id != 0]


def unscored(pred: Volume, ref: Volume, names: Sequence[Label]) -> list[int]:
    """Values that either map holds and `names` does not, which `evaluate` leaves out."""
    found = _boxes(pred.data[0]).keys() | _boxes(ref.data[0]).keys()
    return sorted(found - {label.id for label in names})


def aligned(pred: Volume, ref: Volume, *, resample: bool = False) -> Volume:
    """The prediction in the reference's array order, its voxels untouched unless `resample` moves them."""
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
        apart = float(np.linalg.norm(there.corners() - ref.grid.corners(), axis=1).max())
        what = f"the same size, but corners up to {apart:.4g} mm apart"
    raise InputError(
        f"prediction and reference are not on one grid: {what}",
        hint="--resample moves the prediction onto the reference's grid (nearest voxel)",
    )


def _moved(pred: Volume, grid: Grid) -> Volume:
    """Nearest labels on another grid, background beyond the prediction's outer faces."""
    moved = onto(pred, grid, Interpolation("nearest"))
    data = moved.data.copy()
    d, h, w = grid.shape
    row = np.stack(np.meshgrid(np.arange(h), np.arange(w), indexing="ij"), axis=-1)
    matrix = grid.to(pred.grid)
    for plane in range(d):
        at = plane * matrix[:3, 0] + row @ matrix[:3, 1:3].T + matrix[:3, 3]
        data[0, plane][((at < -0.5) | (at > np.array(pred.grid.shape) - 0.5)).any(axis=-1)] = 0
    return Volume(data, grid, pred.source)


def _sizes(shape: tuple[int, int, int]) -> str:
    return " x ".join(str(n) for n in shape)


def _boxes(data: NDArray[np.integer]) -> dict[int, Box]:
    """The box of each value but 0."""
    return {i + 1: box for i, box in enumerate(find_objects(data)) if box is not None}


class _Pair:
    """Scores the structures of two label maps on one grid."""

    def __init__(self, grid: Grid, tolerance_mm: float) -> None:
        self.grid, self.tolerance = grid, tolerance_mm
        self.areas, self.crofton = _areas(grid.affine[:3, :3]), _crofton(grid.affine[:3, :3])
        outer = np.array([[-0.5 if bit == 0 else n - 0.5 for bit, n in zip(c, grid.shape, strict=True)] for c in _CUBE])
        corners = grid.world(outer)
        self.diagonal = float(max(np.linalg.norm(p - q) for p in corners for q in corners))

    def score(
        self, label: Label, a: NDArray[np.integer], b: NDArray[np.integer], in_a: Box | None, in_b: Box | None
    ) -> Score:
        mask_a = None if in_a is None else a[in_a] == label.id
        mask_b = None if in_b is None else b[in_b] == label.id
        ml = self.grid.voxel_mm3 / 1000
        n_a = 0 if mask_a is None else int(np.count_nonzero(mask_a))
        n_b = 0 if mask_b is None else int(np.count_nonzero(mask_b))
        surface_a, surface_b = self._surface(mask_a, in_a), self._surface(mask_b, in_b)
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
            return replace(
                score, status="absent", dice=None, iou=None, hd95_mm=None, assd_mm=None, nsd=None, volume_error=None
            )
        if in_a is None or in_b is None or mask_a is None or mask_b is None:
            return score
        both = _overlap(mask_a, mask_b, in_a, in_b)
        hd95, assd, nsd = self._distances(surface_a, surface_b)
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

    def _distances(self, a: _Surface, b: _Surface) -> tuple[float, float, float]:
        """HD95, ASSD and NSD of two surfaces."""
        # Without balancing the trees take as many nodes and a third less time.
        far_a, far_b = (
            cKDTree(there.points, balanced_tree=False, compact_nodes=False).query(here.points)[0]
            for here, there in ((a, b), (b, a))  # from each element to the other surface, mm
        )
        area = a.areas.sum() + b.areas.sum()
        hd95 = max(_percentile(far_a, a.areas, 0.95), _percentile(far_b, b.areas, 0.95))
        assd = float((far_a @ a.areas + far_b @ b.areas) / area)
        within = a.areas[far_a <= self.tolerance].sum() + b.areas[far_b <= self.tolerance].sum()
        return hd95, assd, float(within / area)

    def _surface(self, mask: NDArray[np.bool_] | None, box: Box | None) -> _Surface:
        """The surface of a structure; what touches the border of the scan ends there: outside is background."""
        if mask is None or box is None:
            return _Surface(np.empty((0, 3)), np.empty(0), 0.0)
        padded = np.pad(mask.view(np.uint8), 1)
        d, h, w = padded.shape
        code = np.zeros((d - 1, h - 1, w - 1), np.uint8)
        for bit, (i, j, k) in enumerate(_CUBE):
            code |= padded[i : i + d - 1, j : j + h - 1, k : k + w - 1] << np.uint8(bit)
        at = np.argwhere((code != 0) & (code != 255))
        corner = at + np.array([s.start for s in box]) - 0.5
        kind = code[tuple(at.T)]
        return _Surface(self.grid.world(corner), self.areas[kind], float(self.crofton[kind].sum()) / 100)


@dataclass(frozen=True, eq=False)
class _Surface:
    """A structure's surface elements, one for each corner of voxels where in and out meet.

    points  (n, 3) LPS mm; areas (n,) mm2
    cm2     the whole area
    """

    points: NDArray[np.float64]
    areas: NDArray[np.float64]
    cm2: float


def _overlap(mask_a: NDArray[np.bool_], mask_b: NDArray[np.bool_], in_a: Box, in_b: Box) -> int:
    low = [max(s.start, t.start) for s, t in zip(in_a, in_b, strict=True)]
    high = [min(s.stop, t.stop) for s, t in zip(in_a, in_b, strict=True)]
    if any(x >= y for x, y in zip(low, high, strict=True)):
        return 0
    part_a = mask_a[tuple(slice(x - s.start, y - s.start) for x, y, s in zip(low, high, in_a, strict=True))]
    part_b = mask_b[tuple(slice(x - s.start, y - s.start) for x, y, s in zip(low, high, in_b, strict=True))]
    return int(np.count_nonzero(part_a & part_b))


def _percentile(distance: NDArray[np.float64], area: NDArray[np.float64], part: float) -> float:
    """The distance that `part` of the area does not exceed."""
    order = np.argsort(distance, kind="stable")
    share = np.cumsum(area[order]) / area.sum()
    return float(distance[order][min(int(np.searchsorted(share, part)), len(order) - 1)])


# ---- the area of a surface between eight voxels ------------------------------------------------------------------

_CUBE = tuple(itertools.product((0, 1), repeat=3))  # corner of bit 0, 1, ...: the last axis runs fastest


def _areas(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """mm2 of the marching-cubes surface in a cell, for each of the 256 ways its corners can be in or out."""
    code, normal, weight = _triangles()
    cofactor = np.linalg.det(matrix) * np.linalg.inv(matrix).T  # what an area vector is multiplied by
    areas = np.zeros(256)
    np.add.at(areas, code, weight * np.linalg.norm(normal @ cofactor.T, axis=1))
    return areas


def _crofton(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """mm2 that a corner of voxels adds to a surface's area, for each of the 256 ways.

    Cauchy and Crofton: an area is twice the mean, over all directions, of how often parallel lines cross it, times
    the area that each line stands for. The directions are the 13 to a voxel's neighbours, each with the share of the
    sphere that is nearest to it (Lehmann and Legland 2012, hdl:10380/3322). Marching cubes would be 8 % too large.
    """
    steps = [np.subtract(q, p) for p, q in itertools.combinations(_CUBE, 2)]
    kinds = {tuple(s.tolist()): s for s in (step * (1 if tuple(step) > (0, 0, 0) else -1) for step in steps)}
    world = np.array([matrix @ s for s in kinds.values()])  # (13, 3) mm
    length = np.linalg.norm(world, axis=1)
    n = 20_000
    height = (np.arange(n) + 0.5) / n  # points spread evenly over half a sphere, on a spiral
    turn = np.pi * (1 + 5**0.5) * np.arange(n)
    flat = np.sqrt(1 - height**2)
    sphere = np.stack([flat * np.cos(turn), flat * np.sin(turn), height], axis=1)
    nearest = np.abs(sphere @ (world / length[:, None]).T).argmax(axis=1)
    share = np.bincount(nearest, minlength=len(world)) / n
    each = 2 * share * abs(np.linalg.det(matrix)) / length
    areas = np.zeros(256)
    for step, area in zip(kinds, each, strict=True):
        shared = 2 ** step.count(0)  # cells that hold the same pair of voxels
        for (i, p), (j, q) in itertools.combinations(enumerate(_CUBE), 2):
            if tuple(np.subtract(q, p)) in (step, tuple(-v for v in step)):
                cells = np.arange(256)
                areas += ((cells >> i ^ cells >> j) & 1) * area / shared
    return areas


@cache
def _triangles() -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Code, area vector and weight of each triangle, in cells of edge 1.

    Vertices are in the middle of edges. Where a face has opposite corners inside, the fewer of the eight corners are
    kept apart. A loop that is not flat is cut into a fan, the widest one; equally wide ones share the weight.
    """
    code, normal, weight = [], [], []
    for cell in range(1, 255):
        few = cell if cell.bit_count() <= 4 else 255 - cell
        for loop in _loops({corner: bool(few >> bit & 1) for bit, corner in enumerate(_CUBE)}):
            fans = [_fan(np.roll(loop, -i, axis=0)) for i in range(len(loop))]
            sizes = [np.linalg.norm(fan, axis=1).sum() for fan in fans]
            widest = [fan for fan, size in zip(fans, sizes, strict=True) if size > max(sizes) - 1e-9]
            for fan in widest:
                code += [cell] * len(fan)
                normal += list(fan)
                weight += [1 / len(widest)] * len(fan)
    return np.array(code), np.array(normal), np.array(weight)


def _fan(loop: NDArray[np.float64]) -> NDArray[np.float64]:
    arms = loop[1:] - loop[0]
    fan: NDArray[np.float64] = np.cross(arms[:-1], arms[1:]) / 2
    return fan


def _loops(inside: Mapping[tuple[int, ...], bool]) -> list[NDArray[np.float64]]:
    """The closed lines around a cell along which its surface meets its six faces, each (n, 3)."""
    pieces: list[list[tuple[float, ...]]] = []
    for axis, side in itertools.product(range(3), (0, 1)):
        around = [(0, 0), (0, 1), (1, 1), (1, 0)]  # the face's corners in a circle
        face = [tuple(np.insert(c, axis, side).tolist()) for c in around]
        middle = [tuple((p + q) / 2 for p, q in zip(face[i], face[(i + 1) % 4], strict=True)) for i in range(4)]
        crossed = [i for i in range(4) if inside[face[i]] != inside[face[(i + 1) % 4]]]
        if len(crossed) == 2:
            pieces.append([middle[i] for i in crossed])
        elif len(crossed) == 4:
            pieces += [[middle[i - 1], middle[i]] for i in range(4) if inside[face[i]]]
    loops = []
    while pieces:
        loop = pieces.pop()
        while loop[0] != loop[-1]:
            piece = next(p for p in pieces if loop[-1] in p)
            pieces.remove(piece)
            loop.append(piece[1] if piece[0] == loop[-1] else piece[0])
        loops.append(np.array(loop[:-1]))
    return loops


# ---- many cases ---------------------------------------------------------------------------------------------------

_ROLES = re.compile(r"(_0000|[_-](d?seg|labels?|mask|gt|pred|ref|reference|groundtruth))+$", re.I)


def pair_folders(pred: Path, ref: Path) -> tuple[list[tuple[str, Path, Path]], list[str]]:
    """Cases that both folders hold, by name, and a sentence for each prediction without a reference.

    A name is the file's without its ending and without `_seg`, `_dseg`, `_label`, `_mask`, `_gt` and the like. Where
    a subfolder of the references holds some, both folders are searched through and a name begins with the subfolder's.

    errors   InputMissing (66) when a reference has no prediction: a case that failed is not left out of a mean;
             InputError (65) when two files of a folder have one name
    """
    deep = len(_label_maps(ref, deep=True)) > len(_label_maps(ref, deep=False))
    have, want = _by_name(pred, deep), _by_name(ref, deep)
    if not want:
        raise InputMissing(f"{ref.name}: no label map found in the folder of references")
    lacking = sorted(want.keys() - have.keys())
    if lacking:
        shown = ", ".join(lacking[:5]) + (" ..." if len(lacking) > 5 else "")
        raise InputMissing(
            f"{pred.name}: {len(lacking)} of {len(want)} references have no prediction of the same name: {shown}",
            hint="predict them, or take them out of the folder of references",
        )
    alone = [f"{have[name].name} has no reference and is not scored" for name in sorted(have.keys() - want.keys())]
    return [(name, have[name], want[name]) for name in sorted(want)], alone


def _label_maps(folder: Path, deep: bool) -> list[Path]:
    """Files below the folder, or in it, that may be label maps: no hidden ones, voxels beside a header or masks."""
    found = sorted(folder.rglob("*") if deep else folder.iterdir()) if folder.is_dir() else []
    known = endings()
    return [
        path
        for path in found
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.name.lower().endswith(known)
        and not is_masks(path.parent)
        and path.is_file()
    ]


def _by_name(folder: Path, deep: bool) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in _label_maps(folder, deep):
        inside = path.relative_to(folder)
        name = (inside.parent / (_ROLES.sub("", stem(path)) or path.name)).as_posix()
        if name in found:
            raise InputError(f"{folder.name}: {found[name].name} and {path.name} would both be the case {name!r}")
        found[name] = path
    return found


def rows(cases: Mapping[str, Sequence[Score]]) -> list[dict[str, Any]]:
    """One row for each case and structure."""
    return [{"case": case, **asdict(score)} for case, scores in cases.items() for score in scores]


def summarise(cases: Mapping[str, Sequence[Score]]) -> list[dict[str, Any]]:
    """Mean and 95 % interval over cases, for each structure and for the mean of all ("all", first).

    The interval is the percentile bootstrap over cases (2000 draws, seeded: the same scores give the same interval);
    with one case there is none.
    """
    names = list(dict.fromkeys(score.name for scores in cases.values() for score in scores))
    out = []
    for name in ["all", *names]:
        chosen = [[s for s in scores if name in ("all", s.name)] for scores in cases.values()]
        row: dict[str, Any] = {"name": name}
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


def compare(first: Mapping[str, Sequence[Score]], second: Mapping[str, Sequence[Score]]) -> list[dict[str, Any]]:
    """The second model minus the first, case by case: mean, 95 % interval and p of a sign-flip test.

    A structure that the reference has not counts as right for the model that leaves it out (Dice 1, distance 0), so
    that inventing it costs the other one.

    errors   InputError (65) when the two were not scored on the same cases and structures
    """
    keys = [{(case, s.name) for case, scores in x.items() for s in scores} for x in (first, second)]
    if keys[0] != keys[1]:
        odd = sorted(keys[0] ^ keys[1])
        raise InputError(
            f"two models can be compared on the same cases and structures only: {len(odd)} are in one of them, "
            f"the first is {odd[0][1]!r} of case {odd[0][0]!r}"
        )
    names = list(dict.fromkeys(score.name for scores in first.values() for score in scores))
    out = []
    for name in ["all", *names]:
        row: dict[str, Any] = {"name": name, "cases": 0}
        for metric in METRICS:
            gaps = []
            for case, scores in first.items():
                both = [(s, t) for s in scores for t in second[case] if s.name == t.name and name in ("all", s.name)]
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
