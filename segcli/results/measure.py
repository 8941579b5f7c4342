"""How many millilitres each structure of a label map has, where it lies, and how bright it is.

World coordinates are LPS millimetres (left, posterior, superior), as everywhere in segcli.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcli.documents import Document, Facts
from segcli.errors import InputError
from segcli.parallel import each
from segcli.space.volume import Box, Grid, Volume, Voxels
from segcli.structures import Label

# What spreadsheets compute, where a cell begins with it; some do with the wide signs of East Asian scripts too.
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_CHUNK = 1 << 20  # voxels looked at in one go
_EXACT = 1 << 24  # float32, as which scans are read, holds every whole number up to this
_AT_ONCE = 8  # of them, before their tallies are added up


@dataclass(frozen=True)
class Structure:
    """One line of a report; the fields are the record's keys.

    volume_mm3    voxels times |det| of the grid, to 0.01; volume_ml the same to 0.001
    mean, sd      of the image's first channel inside, 6 significant digits; sd of the population; None without image
    centroid_mm   LPS, mean of the voxel centres
    bbox_mm       LPS, (low, high) corners of the box around the outer faces of the structure's range of voxels
    truncated     it touches the border of the scan, so there may be more of it than was scanned
    """

    name: str
    label: int
    voxels: int
    volume_mm3: float
    volume_ml: float
    mean: float | None
    sd: float | None
    centroid_mm: tuple[float, float, float] | None
    bbox_mm: tuple[tuple[float, float, float], tuple[float, float, float]] | None
    truncated: bool


@dataclass(frozen=True)
class Report:
    """Every structure of a model in the order of its labels, absent ones with 0, unknown values at the end."""

    structures: tuple[Structure, ...]

    def __getitem__(self, name: str) -> Structure:
        return next(s for s in self.structures if s.name == name)


def measure(labels: Volume, names: Sequence[Label], image: Volume | None = None) -> Report:
    """Size, place and brightness of each structure, from one pass over the label map.

    labels   (1, D, H, W), any integer type
    names    background is left out; a value of the map that has no name here is listed as `label_<value>`
    image    (C, D, H, W) on the same grid
    errors   ValueError when the image's shape is another

    The map is read as runs of equal labels along its rows: whatever is counted per voxel elsewhere is counted per
    run, in whole numbers, and memory is that of a few planes.
    """
    return summed(tallied(labels, image), names, labels.grid, with_image=image is not None)


def summed(found: Mapping[int, Tally], names: Sequence[Label], grid: Grid, *, with_image: bool = False) -> Report:
    """The report of structures that were counted on a grid; `names` as in `measure`."""
    named = {label.id: label.name for label in names if label.id != 0}
    named |= {i: f"label_{i}" for i in sorted(found) if i not in named}
    return Report(tuple(_structure(name, i, found.get(i), grid, with_image) for i, name in named.items()))


def tallied(labels: Volume, image: Volume | None = None) -> dict[int, Tally]:
    """What is counted of each value in a label map, background left out; arguments and errors as of `measure`."""
    if image is not None and image.grid.shape != labels.grid.shape:
        raise ValueError(f"image {image.grid.shape} and labels {labels.grid.shape} are not on one grid")
    depth, h, w = labels.grid.shape
    planes = max(1, _CHUNK // (h * w))

    def count(start: int) -> dict[int, Tally]:
        part = np.ascontiguousarray(labels.data[0, start : start + planes])
        return _count(part, None if image is None else image.data[0, start : start + planes])

    found: dict[int, Tally] = {}
    starts = range(0, depth, planes)
    for i in range(0, len(starts), _AT_ONCE):
        some = starts[i : i + _AT_ONCE]
        for start, counted in zip(some, each(count, some), strict=True):
            for value, tally in counted.items():
                if value not in found:
                    found[value] = Tally(np.zeros(depth), np.zeros(h), np.zeros(w), np.zeros(w))
                found[value].add(tally, start)
    return found


@dataclass
class Tally:
    """Sums over one structure's runs.

    depth, rows   voxels in each plane, in each row position
    first, last   runs that begin, that end at each position of the last axis
    along         sum of the voxels' positions on the last axis
    total, square sums of intensity and of its square
    """

    depth: NDArray[np.float64]
    rows: NDArray[np.float64]
    first: NDArray[np.float64]
    last: NDArray[np.float64]
    along: float = 0.0
    total: float = 0.0
    square: float = 0.0

    @property
    def areas(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Voxels at each position of each axis."""
        return self.depth, self.rows, np.cumsum(self.first) - np.cumsum(self.last) + self.last

    @property
    def box(self) -> Box:
        """Around all voxels."""
        ends = ((self.depth, self.depth), (self.rows, self.rows), (self.first, self.last))
        d, h, w = (slice(int(np.flatnonzero(a)[0]), int(np.flatnonzero(b)[-1]) + 1) for a, b in ends)
        return d, h, w

    def add(self, part: Tally, plane: int) -> None:
        """Add what was counted in the planes from `plane` on."""
        self.depth[plane : plane + len(part.depth)] += part.depth
        self.rows += part.rows
        self.first += part.first
        self.last += part.last
        self.along += part.along
        self.total += part.total
        self.square += part.square


def _count(part: NDArray[np.integer], image: Voxels | None) -> dict[int, Tally]:
    """The tallies of a few planes, (d, h, w)."""
    d, h, w = part.shape
    starts, length, found = runs(part)
    if len(starts) == 0:
        return {}
    ids = np.unique(found)
    code = np.searchsorted(ids, found)
    row, column = np.divmod(starts, w)
    depth, high = np.divmod(row, h)
    n = len(ids)
    by_depth = np.bincount(code * d + depth, length, n * d).reshape(n, d)
    by_row = np.bincount(code * h + high, length, n * h).reshape(n, h)
    first = np.bincount(code * w + column, None, n * w).reshape(n, w)
    last = np.bincount(code * w + column + length - 1, None, n * w).reshape(n, w)
    along = np.bincount(code, length * column + length * (length - 1) // 2, n)
    total, square = _brightness(image, part, length, code, n)
    return {
        value: Tally(by_depth[i], by_row[i], first[i], last[i], along[i], total[i], square[i])
        for i, value in enumerate(ids.tolist())
    }


def runs(part: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.integer]]:
    """Where equal labels follow each other along the last axis, background left out.

    part     (D, H, W), contiguous
    returns  index of the first voxel in the flat array, number of voxels, label; ordered by index
    """
    d, h, w = part.shape
    begins = np.ones((d * h, w), bool)
    rows = part.reshape(d * h, w)
    np.not_equal(rows[:, 1:], rows[:, :-1], out=begins[:, 1:])
    starts = np.flatnonzero(begins)
    length = np.diff(starts, append=part.size)
    found = part.reshape(-1)[starts]
    inside = found != 0
    return starts[inside], length[inside], found[inside]


def _brightness(
    image: Voxels | None,
    part: NDArray[np.integer],
    length: NDArray[np.int64],
    code: NDArray[np.int64],
    n: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sums of intensity and of its square for each of n structures."""
    if image is None:
        return np.zeros(n), np.zeros(n)
    values = image[part != 0].astype(np.float64)  # run after run
    begins = np.cumsum(length) - length
    out = np.zeros((2, n))
    with np.errstate(invalid="ignore", over="ignore"):  # a voxel that is not finite leaves the mean unknown
        out[0] = np.bincount(code, np.add.reduceat(values, begins), n)
        out[1] = np.bincount(code, np.add.reduceat(values * values, begins), n)
    return out[0], out[1]


def _structure(name: str, label: int, tally: Tally | None, grid: Grid, with_image: bool) -> Structure:
    if tally is None:
        return _absent(name, label)
    voxels = round(tally.depth.sum())
    mm3 = voxels * grid.voxel_mm3
    low = np.array([side.start for side in tally.box])
    high = np.array([side.stop - 1 for side in tally.box])
    centre = [float(p @ np.arange(len(p))) / voxels for p in (tally.depth, tally.rows)] + [tally.along / voxels]
    corners = grid.world([[(low - 0.5, high + 0.5)[c >> i & 1][i] for i in range(3)] for c in range(8)])
    mean = tally.total / voxels if with_image else math.nan
    sd = math.sqrt(max(tally.square / voxels - mean * mean, 0.0)) if math.isfinite(mean) else math.nan
    return Structure(
        name=name,
        label=label,
        voxels=voxels,
        volume_mm3=round(mm3, 2),
        volume_ml=round(mm3 / 1000, 3),
        mean=_short(mean),
        sd=_short(sd),
        centroid_mm=_point(grid.world(centre)),
        bbox_mm=(_point(corners.min(axis=0)), _point(corners.max(axis=0))),
        truncated=bool((low == 0).any() or (high == np.array(grid.shape) - 1).any()),
    )


def _absent(name: str, label: int) -> Structure:
    return Structure(name, label, 0, 0.0, 0.0, None, None, None, None, False)


def _short(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _point(world: NDArray[np.float64]) -> tuple[float, float, float]:
    # Twice: a half is rounded the same way however the axes were added up. + 0.0: no minus zero.
    x, y, z = (round(round(float(v), 9), 2) + 0.0 for v in world)
    return x, y, z


# ---- the report as other programs and people read it -------------------------------------------------------------


def from_json(structures: Sequence[Facts]) -> Report:
    """The report whose structures stand in a record; keys that a later version has added are left alone."""
    known = {field.name for field in fields(Structure)}
    return Report(tuple(Structure(**{k: v for k, v in s.items() if k in known}) for s in structures))


def rows(report: Report) -> list[Document]:
    """One flat row for each structure: points and boxes become columns x, y, z, what is unknown stays None."""
    return [_flat(structure) for structure in report.structures]


def cohort_rows(case: str, model: str, report: Report) -> list[Document]:
    """One row for each structure of a case, case and model first."""
    return [{"case": case, "model": model, **row} for row in rows(report)]


def wide_rows(rows: Sequence[Facts]) -> list[Document]:
    """The rows with the columns of all of them, in the order of their first appearance; unknown ones are None."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return [{key: row.get(key) for key in columns} for row in rows]


def _flat(structure: Structure) -> Document:
    row = asdict(structure)
    centre = row.pop("centroid_mm") or (None,) * 3
    low, high = row.pop("bbox_mm") or ((None,) * 3, (None,) * 3)
    truncated = row.pop("truncated")
    for axis, c, a, b in zip("xyz", centre, low, high, strict=True):
        row |= {f"centroid_{axis}_mm": c, f"low_{axis}_mm": a, f"high_{axis}_mm": b}
    return {**row, "truncated": truncated}


COHORT = tuple(cohort_rows("", "", Report((_absent("", 0),)))[0])  # the columns of these rows


def csv_text(table: Sequence[Facts], delimiter: str = ",", columns: Iterable[str] = ()) -> str:
    """Rows of equal keys as CSV, or as TSV with a tab; what is unknown is `n/a`, as BIDS has it.

    columns   the keys of a table that may have no row

    Control characters of a text become spaces; one that a spreadsheet would take for a formula gets an apostrophe.
    """
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\n")
    keys = [cell(key) for key in (table[0] if table else columns)]
    writer.writerows([keys] if keys else [])
    writer.writerows([cell(value) for value in row.values()] for row in table)
    return out.getvalue()


def cell(value: Any) -> Any:
    """A value as a table writes it."""
    if value is None:
        return "n/a"
    if isinstance(value, str):
        line = re.sub(r"[\x00-\x1f\x7f]", " ", value)
        return f"'{line}" if line.lstrip().startswith(_FORMULA) else line
    return str(value).lower() if isinstance(value, bool) else value


def stats_totalseg(report: Report) -> dict[str, dict[str, float | None]]:
    """The shape of TotalSegmentator's statistics.json: volume in mm3 and mean intensity, null where unknown."""
    return {s.name: {"volume": s.volume_mm3, "intensity": s.mean} for s in report.structures}


def whole_numbers(labels: Volume) -> Volume:
    """A label map in an integer type; refused when it holds anything else."""
    if labels.data.dtype.kind in "iu":
        return labels
    rounded = np.round(labels.data)
    name = labels.source.paths[0].name if labels.source else "a volume"
    if not np.array_equal(rounded, labels.data):
        raise InputError(f"{name}: not a label map: it holds values that are not whole numbers")
    if (most := float(np.abs(rounded).max())) > np.iinfo(np.int32).max:
        raise InputError(f"{name}: not a label map: it holds {most:g}, and labels go to {np.iinfo(np.int32).max}")
    if most > _EXACT:
        told = (
            f"{name}: a label map of floating-point numbers up to {most:.0f}, of which those above {_EXACT} are rounded"
        )
        raise InputError(told, hint="save it in an integer type")
    return replace(labels, data=rounded.astype(np.int32))
