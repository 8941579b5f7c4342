"""Islands and holes of a label map: found, counted, and taken away on request."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects, label
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from segcli.labels import Label
from segcli.report import runs
from segcli.volume import Volume


@dataclass(frozen=True, eq=False)
class Islands:
    """The connected pieces of every structure of a label map; voxels that share a corner are connected.

    starts, length, island   each run of equal labels along the last axis: flat index, voxels, number of its island
    value, size              each island: its label, its voxels
    """

    starts: NDArray[np.int64]
    length: NDArray[np.int64]
    island: NDArray[np.int64]
    value: NDArray[np.int64]
    size: NDArray[np.int64]

    def of(self, structure: int) -> NDArray[np.int64]:
        """The numbers of a structure's islands, largest first; of equal ones the first in the array."""
        mine = np.flatnonzero(self.value == structure)
        return mine[np.argsort(-self.size[mine], kind="stable")]


def islands(labels: Volume) -> Islands:
    """Find the islands by joining runs in neighbouring rows, so time and memory go with the surface, not the scan.

    labels   (1, D, H, W), any integer type
    """
    _, h, w = labels.grid.shape
    starts, length, value = runs(np.ascontiguousarray(labels.data[0]))
    stops = starts + length
    row = starts // w
    high = row % h
    pairs = []
    for planes, step in ((0, -1), (-1, -1), (-1, 0), (-1, 1)):  # the rows before, half of the eight around
        here = np.flatnonzero((high + step >= 0) & (high + step < h) & (row // h + planes >= 0))
        there = row[here] + planes * h + step
        shift = (planes * h + step) * w
        first = np.searchsorted(stops, np.maximum(starts[here] + shift - 1, there * w), side="right")
        last = np.searchsorted(starts, np.minimum(stops[here] + shift + 1, (there + 1) * w), side="left")
        count = np.maximum(last - first, 0)
        one = np.repeat(here, count)
        other = np.arange(len(one)) - np.repeat(np.cumsum(count) - count - first, count)
        same = value[one] == value[other]
        pairs.append((one[same], other[same]))
    a, b = (np.concatenate(side) for side in zip(*pairs, strict=True))
    n = len(starts)
    number, island = connected_components(coo_matrix((np.ones(len(a), bool), (a, b)), (n, n)), directed=False)
    size = np.bincount(island, length, number).astype(np.int64)
    of = np.zeros(number, np.int64)
    of[island] = value
    return Islands(starts, length, island.astype(np.int64), of, size)


@dataclass(frozen=True)
class Change:
    """What was done to one structure, for the record.

    removed_voxels  in `removed_islands` islands, now background
    filled_voxels   in `filled_holes` holes, background before
    """

    name: str
    label: int
    removed_islands: int
    removed_voxels: int
    filled_holes: int
    filled_voxels: int


def clean(
    labels: Volume,
    names: Sequence[Label],
    *,
    largest: Collection[str] = (),
    min_ml: Mapping[str, float] | None = None,
    fill: Collection[str] = (),
) -> tuple[Volume, list[Change]]:
    """The label map without small islands and holes, and what was changed, structure by structure.

    largest  structures of which only the largest island stays
    min_ml   structures and the millilitres below which an island goes; the largest may go too
    fill     structures whose holes (background that they enclose, across faces) become theirs, after the islands
             went; what holds another structure keeps it, and what is open to the scan's border is no hole
    returns  a new map and the changes of the structures named, in the order of `names`
    """
    min_ml = min_ml or {}
    data = labels.data.copy()
    chosen = [x for x in names if x.id != 0 and (x.name in largest or x.name in min_ml or x.name in fill)]
    removed = dict.fromkeys((x.id for x in chosen), (0, 0))
    if any(x.name in largest or x.name in min_ml for x in chosen):
        pieces = islands(labels)
        goes = np.zeros(len(pieces.size), bool)
        for x in chosen:
            mine = pieces.of(x.id)
            if x.name in largest:
                goes[mine[1:]] = True
            limit = min_ml.get(x.name, 0.0) * 1000 / labels.grid.voxel_mm3
            goes[mine[pieces.size[mine] < limit - 1e-9]] = True
            gone = mine[goes[mine]]
            removed[x.id] = (len(gone), int(pieces.size[gone].sum()))
        flat = data.reshape(-1)
        leaves = goes[pieces.island]
        for start, length in zip(pieces.starts[leaves].tolist(), pieces.length[leaves].tolist(), strict=True):
            flat[start : start + length] = 0
    filled = {x.id: _fill(data[0], x.id) for x in chosen if x.name in fill}
    changes = [Change(x.name, x.id, *removed[x.id], *filled.get(x.id, (0, 0))) for x in chosen]
    return Volume(data, labels.grid, labels.source), changes


def _fill(data: NDArray[np.integer], structure: int) -> tuple[int, int]:
    """Give a structure the background that it encloses; how many holes, how many voxels."""
    boxes = find_objects((data == structure).view(np.uint8))
    if not boxes:
        return 0, 0
    part = data[boxes[0]]
    outside, number = label(np.pad(part != structure, 1, constant_values=True))
    outside = outside[1:-1, 1:-1, 1:-1]
    holes = (outside > 1) & (part == 0)  # 1 is what the padding around the box belongs to
    count = len(np.unique(outside[holes])) if number > 1 else 0
    voxels = int(np.count_nonzero(holes))
    part[holes] = structure
    return count, voxels
