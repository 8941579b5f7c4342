"""Heads to draw from: label maps, and what the same heads look like with other anatomy.

Seventeen adults are few. So each head is kept in several kinds, as borders between its structures move by a voxel, and
knows the way to some other heads: points that go a part of it see an anatomy between the two.
"""

import csv
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

# nibabel and SimpleITK come in where maps are read: `heads_of` needs neither.


@dataclass(frozen=True)
class Table:
    """What `labels.csv` says; an array has one entry for each of its rows unless it says otherwise.

    Rows come after those of the file: the outermost 2 mm of white matter under the cortex, which is myelinated last.

    values    number in the maps; OUTERMOST and more where the row is not the file's
    outputs   label of each network channel (0, the background, first)
    target    network channel
    tissue    generation class: rows of one class, and those of the two sides, share one random intensity
    t1        T1 class, an index into `prior`
    prior     (T1 classes, 4): mean and deviation of the mean, mean and deviation of the deviation, 0..255
    brain     whether it is a structure of the brain; csf: whether it is fluid outside the ventricles
    ventricle whether it is a ventricle or the choroid plexus in one
    weight    (channels,) of the cross-entropy: rarer structures count more, within bounds
    mirror    (channels,) the channel on the other side
    """

    values: np.ndarray
    outputs: list[int]
    target: Tensor
    tissue: np.ndarray
    t1: np.ndarray
    prior: np.ndarray
    brain: np.ndarray
    csf: np.ndarray
    ventricle: np.ndarray
    weight: Tensor
    mirror: Tensor

    @property
    def whole(self) -> np.ndarray:
        """(rows,) the row that each is a part of: the outermost white matter belongs to the white matter below it."""
        row_of = {int(value): row for row, value in enumerate(self.values)}
        return np.array([row_of[int(v) - OUTERMOST if v > OUTERMOST else int(v)] for v in self.values])

    def among(self, *values: int) -> np.ndarray:
        """(rows,) whether a row's number in the maps is one of these."""
        return np.isin(self.values, values)


VENTRICLES = (4, 5, 14, 15, 43, 44)
WHITE, CORTEX, CSF = (2, 41), (3, 42), 24
OUTERMOST = 10_000  # and the number of the white matter whose outermost part a row is
PRIOR = ("t1_mean_of_means", "t1_std_of_means", "t1_mean_of_stds", "t1_std_of_stds")


def read_table(path: Path) -> Table:
    """The table of a folder of label maps."""
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    outputs = sorted({0, *(int(row["output_label"]) for row in rows)})
    ml = np.array([sum(float(r["median_ml"]) for r in rows if int(r["output_label"]) == v) for v in outputs])
    ml = np.maximum(ml, 0.05)
    weight = np.clip(np.sqrt(np.median(ml) / ml), 0.1, 4)
    tissue_of = {int(row["label"]): int(row["generation_class"]) for row in rows}
    rows += [row | {"label": str(OUTERMOST + v)} for row in rows if (v := int(row["label"])) in WHITE]

    def column(name: str) -> np.ndarray:
        return np.array([int(row[name]) for row in rows])

    values, output, t1 = column("label"), column("output_label"), column("t1_class")
    priors = {int(row["t1_class"]): [float(row[name]) for name in PRIOR] for row in rows}
    output_of = dict(zip(values.tolist(), output.tolist(), strict=True))
    other = {output_of[int(r["label"])]: output_of[int(r["mirror_label"])] for r in rows}
    return Table(
        values,
        outputs,
        torch.tensor([outputs.index(v) for v in output]),
        np.array([min(int(r["generation_class"]), tissue_of[int(r["mirror_label"])]) for r in rows]),
        t1,
        np.array([priors.get(i, [0.0] * 4) for i in range(max(priors) + 1)]),
        output != 0,
        values == CSF,
        np.isin(output, VENTRICLES),
        torch.tensor(weight, dtype=torch.float32),
        torch.tensor([outputs.index(other.get(v, v)) for v in outputs]),
    )


COARSE = 4  # mm, the grid of a way to another head
NEIGHBOURS = 3  # heads that each head knows the way to
SHARES = (0.51, 0.2, 0.04, 0.15, 0.1)  # how often a kind of head is drawn
OLD = 2  # the kind that is atrophied


@dataclass(frozen=True)
class Head:
    """A label map, and what it may become.

    kinds      (X, Y, Z) uint8, row numbers of the table; RAS, 1 mm, cut to the head: as it is; with ventricles that are
               1 mm smaller all around; with ventricles 2 mm larger and a cortex that has lost 1 mm outside;
               with a cortex that is 1 mm thicker, or thinner, at the cost of the white matter, or to its gain
    ways       (3, x, y, z) float32 for each of some other heads: how far to go from a place, in voxels, to find there
               what the other head has at the place; places are `COARSE` voxels apart
    low, high  (3,) the brain in it, voxels
    """

    kinds: tuple[np.ndarray, ...]
    ways: tuple[Tensor, ...]
    low: np.ndarray
    high: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.kinds[0].shape

    @property
    def middle(self) -> np.ndarray:
        """(3,) of the brain, voxels."""
        return (self.low + self.high - 1) / 2


def read_maps(paths: list[Path], table: Table) -> list[Head]:
    """Label maps, ready for drawing; 17 of them take a minute of one core and 1 GB."""
    whole = []
    for path in paths:
        rows = rows_of(path, table)
        head = np.argwhere(rows > 0)
        box = tuple(slice(a, b) for a, b in zip(head.min(0), head.max(0) + 1, strict=True))
        whole.append(head_of(with_outermost(np.ascontiguousarray(rows[box]), table), (), table))
    seen = [coarse(head.kinds[0], table) for head in whole]
    ways = []
    for one, head in enumerate(whole):
        others = [(one + i + 1) % len(whole) for i in range(min(NEIGHBOURS, len(whole) - 1))]
        ways.append(tuple(way(seen[one], seen[other], whole[other].middle - head.middle) for other in others))
    return [replace(head, ways=to) for head, to in zip(whole, ways, strict=True)]


def head_of(rows: np.ndarray, ways: tuple[Tensor, ...], table: Table) -> Head:
    """The head of a map that is cut to it, (X, Y, Z) rows of the table."""
    brain = np.argwhere((table.brain & ~table.csf)[rows])
    return Head(kinds_of(rows, table), ways, brain.min(0), brain.max(0) + 1)


def keep(heads: list[Head], path: Path) -> None:
    """The heads in one file, for a machine that has neither the maps nor what reads them; ways in eighths of a voxel.

    17 heads take 21 MB.
    """
    parts = {f"rows {i}": head.kinds[0] for i, head in enumerate(heads)}
    for i, head in enumerate(heads):
        parts |= {f"way {i} {j}": np.rint(8 * way.numpy()).astype(np.int16) for j, way in enumerate(head.ways)}
    np.savez_compressed(path, **parts)


def heads_of(path: Path, table: Table) -> list[Head]:
    """The heads of a file that `keep` has written; the cores share the work."""
    with np.load(path) as file:
        parts = {name: file[name] for name in file.files}

    def head(i: int) -> Head:
        ways = [torch.from_numpy(part / np.float32(8)) for name, part in parts.items() if name.startswith(f"way {i} ")]
        return head_of(parts[f"rows {i}"], tuple(ways), table)

    with ThreadPoolExecutor() as pool:
        return list(pool.map(head, range(sum(name.startswith("rows ") for name in parts))))


def rows_of(path: Path, table: Table) -> np.ndarray:
    """A label map as (X, Y, Z) uint8 row numbers of the table; RAS."""
    import nibabel as nib

    lookup = np.zeros(table.values.max() + 1, np.uint8)
    lookup[table.values] = np.arange(len(table.values))
    return lookup[np.asarray(nib.as_closest_canonical(nib.load(path)).dataobj).astype(int)]


def with_outermost(rows: np.ndarray, table: Table) -> np.ndarray:
    """The rows with white matter that is within 2 voxels of the cortex as its outermost part."""
    near = wider(wider(table.among(*CORTEX)[rows]))
    out = rows.copy()
    for value in WHITE:
        for number in np.flatnonzero(table.among(OUTERMOST + value)):
            out[near & table.among(value)[rows]] = number
    return out


def kinds_of(rows: np.ndarray, table: Table) -> tuple[np.ndarray, ...]:
    """The kinds of a head, in the order of `Head.kinds`."""
    ventricle, cortex = table.ventricle, table.among(*CORTEX)
    outermost = table.values > OUTERMOST
    white = outermost | table.among(*WHITE)
    young = moved(rows, ventricle, ~ventricle)
    old = moved(moved(moved(rows, white, ventricle), white, ventricle), cortex, table.csf)
    return (rows, young, old, moved(young, outermost, cortex), moved(rows, cortex, outermost))


def wider(inside: np.ndarray) -> np.ndarray:
    """The voxels of a mask, and those that touch one of them with a face."""
    out = inside.copy()
    for axis in range(3):
        for step in (1, -1):
            out |= np.roll(inside, step, axis)
    return out


def moved(rows: np.ndarray, these: np.ndarray, those: np.ndarray) -> np.ndarray:
    """The rows with a border one voxel further on: voxels of `these` that touch `those` become what they touch.

    these, those   (rows of the table,) bool
    """
    out, losing, winning = rows.copy(), these[rows], those[rows]
    for axis in range(3):
        for step in (1, -1):
            touching = losing & np.roll(winning, step, axis)
            out[touching] = np.roll(rows, step, axis)[touching]
    return out


def coarse(rows: np.ndarray, table: Table) -> np.ndarray:
    """T1 means of (x, y, z) blocks of `COARSE` voxels, float32."""
    bright = table.prior[table.t1, 0].astype(np.float32)[rows]
    bright = np.pad(bright, [(0, -n % COARSE) for n in rows.shape])
    x, y, z = (n // COARSE for n in bright.shape)
    return bright.reshape(x, COARSE, y, COARSE, z, COARSE).mean((1, 3, 5))


def way(here: np.ndarray, there: np.ndarray, offset: np.ndarray) -> Tensor:
    """How far to go from each place of a head to find what another head has there, (3, x, y, z) in voxels.

    Demons (Vercauteren et al., NeuroImage 2009), as SimpleITK has them, on T1 means.

    offset   (3,) from the middle of the brain here to that there, both in voxels of their maps
    """
    import SimpleITK as sitk

    image, other = (sitk.GetImageFromArray(each) for each in (here, there))
    shift = sitk.TranslationTransform(3, (offset[::-1] / COARSE).tolist())
    other = sitk.Resample(other, image, shift, sitk.sitkLinear, 0.0)
    demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
    demons.SetNumberOfIterations(60)
    demons.SetStandardDeviations(1.5)
    field = sitk.GetArrayFromImage(demons.Execute(other, image))[..., ::-1] * COARSE
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(field, -1, 0), np.float32))
