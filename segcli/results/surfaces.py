"""Surfaces of structures: where they are, how large, and how far two of them are apart.

Surfaces and distances are those of Nikolov et al. 2021 (doi:10.2196/26151), the `surface-distance` package: surface
elements where the eight voxels around a corner differ, weighted by their area under marching cubes. They sit on the
corner itself, so the distance of two curved surfaces is half a voxel short.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from segcli.space.volume import Box, Grid

SAME_LENGTH = 1e-6  # part by which two lengths may differ through rounding alone; a grid's spacing may be float32
_CUBE = tuple(itertools.product((0, 1), repeat=3))  # corner of bit 0, 1, ...: the last axis runs fastest


@dataclass(frozen=True, eq=False)
class Surface:
    """A structure's surface elements, one for each corner of voxels where in and out meet.

    points  (n, 3) LPS mm; areas (n,) mm2
    cm2     the whole area
    """

    points: NDArray[np.float64]
    areas: NDArray[np.float64]
    cm2: float


class Surfaces:
    """Finds the surfaces of structures on one grid."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.areas, self.crofton = _areas(grid.affine[:3, :3]), _crofton(grid.affine[:3, :3])

    @property
    def diagonal(self) -> float:
        """The longest line within the grid's outer faces, mm."""
        shape = self.grid.shape
        outer = np.array([[-0.5 if bit == 0 else n - 0.5 for bit, n in zip(c, shape, strict=True)] for c in _CUBE])
        corners = self.grid.world(outer)
        return float(max(np.linalg.norm(p - q) for p in corners for q in corners))

    def of(self, mask: NDArray[np.bool_] | None, box: Box | None) -> Surface:
        """The surface of a structure; what touches the border of the scan ends there: outside is background."""
        if mask is None or box is None:
            return Surface(np.empty((0, 3)), np.empty(0), 0.0)
        padded = np.pad(mask.view(np.uint8), 1)
        d, h, w = padded.shape
        code = np.zeros((d - 1, h - 1, w - 1), np.uint8)
        for bit, (i, j, k) in enumerate(_CUBE):
            code |= padded[i : i + d - 1, j : j + h - 1, k : k + w - 1] << np.uint8(bit)
        at = np.argwhere((code != 0) & (code != 255))
        corner = at + np.array([s.start for s in box]) - 0.5
        kind = code[tuple(at.T)]
        return Surface(self.grid.world(corner), self.areas[kind], float(self.crofton[kind].sum()) / 100)


def distances(a: Surface, b: Surface, tolerance_mm: float) -> tuple[float, float, float]:
    """HD95 and ASSD in mm, and NSD, of two surfaces that are not empty."""
    # Without balancing the trees take as many nodes and a third less time.
    far_a, far_b = (
        cKDTree(there.points, balanced_tree=False, compact_nodes=False).query(here.points)[0]
        for here, there in ((a, b), (b, a))  # from each element to the other surface, mm
    )
    area = a.areas.sum() + b.areas.sum()
    hd95 = max(_percentile_95(far_a, a.areas), _percentile_95(far_b, b.areas))
    assd = float((far_a @ a.areas + far_b @ b.areas) / area)
    near = tolerance_mm * (1 + SAME_LENGTH)
    within = a.areas[far_a <= near].sum() + b.areas[far_b <= near].sum()
    return hd95, assd, float(within / area)


def _percentile_95(distance: NDArray[np.float64], area: NDArray[np.float64]) -> float:
    """The distance that 95 % of the area does not exceed."""
    order = np.argsort(distance, kind="stable")
    share = np.cumsum(area[order]) / area.sum()
    return float(distance[order][min(int(np.searchsorted(share, 0.95)), len(order) - 1)])


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
