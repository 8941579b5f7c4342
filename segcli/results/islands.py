"""Islands and holes of a label map: found, counted, and taken away on request."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from segcli.parallel import each
from segcli.results.measure import runs
from segcli.space.volume import Volume
from segcli.structures import Label

_CHUNK = 1 << 18  # runs whose neighbours are looked for in one go
_VOXELS = 1 << 20  # voxels whose runs are looked for in one go


@dataclass(frozen=True, eq=False)
class Islands:
    """The connected pieces of every structure of a label map.

    starts, length, island   each run of equal labels along the last axis: flat index, voxels, number of its island;
                             structure by structure, and in the order of the array within each. int32 where the
                             scan's indices fit, else int64
    value, size              each island: its label, its voxels
    """

    starts: NDArray[np.signedinteger]
    length: NDArray[np.signedinteger]
    island: NDArray[np.signedinteger]
    value: NDArray[np.int64]
    size: NDArray[np.int64]

    def of(self, structure: int) -> NDArray[np.int64]:
        """The numbers of a structure's islands, largest first; of equal ones the first in the array."""
        mine = np.flatnonzero(self.value == structure)
        return mine[np.argsort(-self.size[mine], kind="stable")]

    def clear(self, data: NDArray[np.integer], goes: NDArray[np.bool_]) -> None:
        """Make background, in place, of the islands that go in a label map of the same shape, in C order.

        goes     (islands,)
        """
        flat = data.reshape(-1)
        leaves = goes[self.island]
        for start, length in zip(self.starts[leaves].tolist(), self.length[leaves].tolist(), strict=True):
            flat[start : start + length] = 0


def islands(labels: Volume, only: Collection[int] | None = None, neighbours: Literal[6, 26] = 26) -> Islands:
    """Find the islands by joining runs in neighbouring rows, so time and memory go with the surface, not the scan.

    labels   (1, D, H, W), any integer type
    only     values whose islands are wanted; None for all
    neighbours  26: voxels that share a corner are connected; 6: those that share a face
    """
    _, h, w = labels.grid.shape
    starts, length, value = _runs(labels, only)
    order = np.argsort(value, kind="stable")
    starts, length, value = starts[order], length[order], value[order]
    edges = [0, *(np.flatnonzero(value[1:] != value[:-1]) + 1), len(value)]
    root = np.zeros_like(starts)

    def join(mine: slice) -> None:
        root[mine] = mine.start + _joined(len(starts[mine]), _neighbours(starts[mine], length[mine], h, w, neighbours))

    each(join, sorted((slice(a, b) for a, b in pairwise(edges)), key=lambda mine: mine.start - mine.stop))
    own = root == np.arange(len(root))
    island = (np.cumsum(own, dtype=root.dtype) - 1)[root]
    size = np.bincount(island, length).astype(np.int64)
    return Islands(starts, length, island, value[own].astype(np.int64), size)


def _neighbours(
    starts: NDArray[np.signedinteger], length: NDArray[np.signedinteger], h: int, w: int, neighbours: Literal[6, 26]
) -> NDArray[np.int32]:
    """Pairs (2, any) of one structure's runs, the later one first, that touch in rows side by side of planes h x w."""
    stops, n = starts + length, len(starts)
    begins = np.append(starts, np.iinfo(starts.dtype).max)  # behind the last one nothing touches
    pairs = [np.zeros((2, 0), np.int32)]
    # The rows before, half of those around; a run reaches one voxel further where corners count.
    rows_before = ((0, -1), (-1, 0)) if neighbours == 6 else ((0, -1), (-1, -1), (-1, 0), (-1, 1))
    reach = int(neighbours == 26)
    for i in range(0, n, _CHUNK):
        start, stop = starts[i : i + _CHUNK], stops[i : i + _CHUNK]
        plane, row = np.divmod(start // w, h)
        edge = (plane * h + row) * w
        low, high = np.maximum(start - reach, edge), np.minimum(stop + reach, edge + w)
        for planes, rows in rows_before:
            shift = (planes * h + rows) * w
            there = (plane + planes >= 0) & (row + rows >= 0) & (row + rows < h)
            here = np.arange(i, i + len(start))
            other = np.searchsorted(stops, low + shift, side="right")
            end = np.where(there, high + shift, 0)
            while len(here):  # the first run that touches each, the next ones, until none has more
                touch = begins[other] < end
                here, other, end = here[touch], other[touch], end[touch]
                pairs.append(np.stack([here, other]).astype(np.int32))
                other = other + 1
    return np.concatenate(pairs, axis=1)


def _runs(
    labels: Volume, only: Collection[int] | None
) -> tuple[NDArray[np.signedinteger], NDArray[np.signedinteger], NDArray[np.integer]]:
    """The runs of a label map as `runs` gives them, found in a few planes at a time."""
    depth, h, w = labels.grid.shape
    planes = max(1, _VOXELS // (h * w))
    index = np.int32 if labels.grid.size < 1 << 31 else np.int64

    def found(first: int) -> tuple[NDArray[np.signedinteger], NDArray[np.signedinteger], NDArray[np.integer]]:
        starts, length, value = runs(np.ascontiguousarray(labels.data[0, first : first + planes]))
        if only is not None:
            mine = np.isin(value, list(only))
            starts, length, value = starts[mine], length[mine], value[mine]
        return (starts + first * h * w).astype(index), length.astype(index), value

    starts, length, value = (np.concatenate(part) for part in zip(*each(found, range(0, depth, planes)), strict=True))
    return starts, length, value


def _joined(n: int, pairs: NDArray[np.int32]) -> NDArray[np.int32]:
    """For each of n items the first one that pairs, (2, any), connect it with, itself included.

    In each round every item that has a smaller neighbour follows it to the end; what is left to join halves at least.
    """
    root = np.arange(n, dtype=np.int32)
    while pairs.size:
        root[np.maximum(pairs[0], pairs[1])] = np.minimum(pairs[0], pairs[1])
        while not np.array_equal(further := root[root], root):
            root = further
        pairs = root[pairs]
        pairs = pairs[:, pairs[0] != pairs[1]]
    return root


def postprocess(
    labels: Volume,
    names: Sequence[Label],
    *,
    largest: Collection[str] = (),
    min_size_ml: float = 0.0,
    fill_holes: Collection[str] = (),
) -> Volume:
    """The label map without small islands and holes, as a new one.

    largest      structures of which only the largest island stays; "all" for every one
    min_size_ml  islands of any structure below this become background, the largest too
    fill_holes   structures that get the background they enclose, once the islands are gone; "all" for every one.
                 Another structure inside keeps its voxels, and what is open to the scan's border is no hole
    """
    data = labels.data.copy()
    structures = [x for x in names if x.id != 0]
    if largest or min_size_ml > 0:
        pieces = islands(labels)
        goes = np.zeros(len(pieces.size), bool)
        for x in structures:
            mine = pieces.of(x.id)
            if x.name in largest or "all" in largest:
                goes[mine[1:]] = True
            goes[mine[pieces.size[mine] * labels.grid.voxel_mm3 < min_size_ml * 1000 - 1e-6]] = True
        pieces.clear(data, goes)
    for x in structures:
        if x.name in fill_holes or "all" in fill_holes:
            filled(data[0], [x.id], others=False, flat=None)
    return Volume(data, labels.grid, labels.source)


@dataclass(frozen=True)
class Change:
    """What post-processing did to one structure, for the record: voxels that it lost, and that it got.

    What goes from one structure to another is lost by the one and got by the other.
    """

    name: str
    label: int
    removed_voxels: int
    removed_ml: float
    filled_voxels: int
    filled_ml: float


def changes(before: Volume, after: Volume, names: Sequence[Label]) -> list[Change]:
    """The structures that post-processing changed, in the order of `names`."""
    differs = before.data != after.data
    removed, filled = np.bincount(before.data[differs]), np.bincount(after.data[differs])
    ml = before.grid.voxel_mm3 / 1000
    out = []
    for x in names:
        away, more = (int(n[x.id]) if x.id < len(n) else 0 for n in (removed, filled))
        if x.id != 0 and (away or more):
            out.append(Change(x.name, x.id, away, round(away * ml, 3), more, round(more * ml, 3)))
    return out


def filled(
    data: NDArray[np.integer], structures: Iterable[int], *, others: bool, flat: int | None, neighbours: int = 6
) -> None:
    """Give structures, in place, the background that they enclose.

    data     (D, H, W) labels
    others   and parts of other structures: each structure counts as it was, and the highest value comes last
    flat     of data with one plane; it and `neighbours`: see `enclosed`
    """
    before = data.copy()
    for value in sorted(structures) if others else structures:
        mask = before == value
        holes = enclosed(mask, flat, neighbours)
        data[holes | mask if others else holes & (data == 0)] = value


def enclosed(mask: NDArray[np.bool_], flat: int | None = None, neighbours: int = 6) -> NDArray[np.bool_]:
    """The voxels (D, H, W) that no way through faces leads from to beyond the mask; with 26 neighbours through corners.

    flat   in one plane, where each voxel is beside what is beyond it: the holes in it of less than so many voxels
    """
    from scipy.ndimage import find_objects, label

    holes = np.zeros_like(mask)
    boxes = find_objects(mask.view(np.uint8))
    if boxes:
        least = flat if mask.shape.count(1) == 1 else None
        around = [int(n > 1 or least is None) for n in mask.shape]
        free = np.pad(~mask[boxes[0]], [(n, n) for n in around], constant_values=True)
        pieces, _ = label(free, None if neighbours == 6 else np.ones((3, 3, 3)))
        # 1 is the piece that the padding around the box belongs to.
        own = pieces[tuple(slice(n, -n or None) for n in around)]
        holes[boxes[0]] = own > 1
        if least is not None:
            holes[boxes[0]] &= (np.bincount(pieces.ravel()) < least)[own]
    return holes
