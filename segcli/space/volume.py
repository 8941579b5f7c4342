"""Grid and Volume: voxels, and where in the patient they are.

Array order is (C, D, H, W) and never says anything about anatomy; the affine does. World is LPS+ millimetres
(left, posterior, superior), as in DICOM and ITK. NIfTI's RAS+ is converted inside `formats/` and exists nowhere else.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from segcli.documents import Document

Array = Any  # an array of numpy or of an engine's own library; said once, here
Box = tuple[slice, slice, slice]  # part of a grid, in voxels of its D, H, W axes, both ends given

# A dot product of two unit axes beyond this is shear, which is processed in full; below it is rounding in the file.
SHEAR_TOLERANCE = 1e-3
LPS_OF_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])  # from RAS+ to LPS+, and back: two axes point the other way
_LETTERS = (("R", "L"), ("A", "P"), ("I", "S"))  # negative, positive direction of LPS x, y, z
OPPOSITE = dict(zip("RLAPIS", "LRPASI", strict=True))  # letter of an axis -> of the other way along it


Voxels = NDArray[Any]  # of any number type


@dataclass(frozen=True, eq=False)
class Grid:
    """The voxel centres of a volume in the patient.

    shape    (D, H, W), each at least 1
    affine   (4, 4) float64: (d, h, w, 1) -> LPS mm of the voxel's centre; may be oblique, mirrored or sheared

    >>> grid = segcli.Grid((10, 20, 30), [[0, 0, 1, -15], [0, 1, 0, -10], [3, 0, 0, 40], [0, 0, 0, 1]])
    >>> grid.axes, grid.spacing
    ('SPL', (3.0, 1.0, 1.0))
    >>> grid.world([2, 0, 0]).tolist()
    [-15.0, -10.0, 46.0]
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        affine = np.array(self.affine, dtype=np.float64, order="C")  # sums of another order may round otherwise
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"a grid has three axes of at least one voxel, not {self.shape}")
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or not np.array_equal(affine[3], [0, 0, 0, 1]):
            raise ValueError(f"not an affine: {affine.tolist()}")
        with np.errstate(all="ignore"):  # of steps of 0, or too small or too large for their squares
            directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
            flat = abs(np.linalg.det(directions))  # 1 for axes at right angles, 0 for axes in one plane
        if not flat >= 1e-12:
            raise ValueError(f"the affine is singular: {affine[:3, :3].tolist()}")
        affine.setflags(write=False)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", affine)

    @cached_property
    def spacing(self) -> tuple[float, float, float]:
        """Length of one step along each array axis, mm."""
        return _three(np.linalg.norm(self.affine[:3, :3], axis=0))

    @cached_property
    def directions(self) -> NDArray[np.float64]:
        """(3, 3) unit vectors in LPS; column i is where array axis i points."""
        directions: NDArray[np.float64] = self.affine[:3, :3] / np.array(self.spacing)
        return directions

    @cached_property
    def axes(self) -> str:
        """Where each array axis points, in array order: a plain axial read is "SPL".

        Each axis gets another letter: the assignment with the largest sum of cosines, so that an axis at 45
        degrees cannot take the letter of its neighbour.
        """
        best = max(_PERMUTATIONS, key=lambda p: sum(abs(self.directions[p[i], i]) for i in range(3)))
        return "".join(_LETTERS[best[i]][int(self.directions[best[i], i] > 0)] for i in range(3))

    @cached_property
    def shear(self) -> float:
        """Largest |dot product| of two unit axes; 0 for right-angled voxels."""
        d = self.directions
        return float(max(abs(d[:, i] @ d[:, j]) for i, j in ((0, 1), (0, 2), (1, 2))))

    @property
    def sheared(self) -> bool:
        return self.shear > SHEAR_TOLERANCE

    @cached_property
    def voxel_mm3(self) -> float:
        """Volume of one voxel: |det| of the affine, right for sheared voxels too."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    @property
    def size(self) -> int:
        return math.prod(self.shape)  # NumPy's whole numbers would wrap round at 2^63

    def world(self, index: ArrayLike) -> NDArray[np.float64]:
        """LPS mm (..., 3) of voxel coordinates (..., 3)."""
        points: NDArray[np.float64] = np.asarray(index, float) @ self.affine[:3, :3].T + self.affine[:3, 3]
        return points

    def index(self, world: ArrayLike) -> NDArray[np.float64]:
        """Voxel coordinates (..., 3), fractional, of LPS mm (..., 3)."""
        matrix = np.linalg.inv(self.affine[:3, :3])
        points: NDArray[np.float64] = (np.asarray(world, float) - self.affine[:3, 3]) @ matrix.T
        return points

    def start_of(self, part: Grid) -> NDArray[np.int64]:
        """(3,) the voxel of this grid that is the first one of a grid cut out of it, or of one that goes beyond it."""
        return np.round(self.index(part.affine[:3, 3])).astype(np.int64)

    def box_of(self, part: Grid) -> Box:
        """Where a grid that was cut out of this one lies in it."""
        d, h, w = (slice(a, a + n) for a, n in zip(self.start_of(part).tolist(), part.shape, strict=True))
        return d, h, w

    def to(self, other: Grid) -> NDArray[np.float64]:
        """(4, 4) from this grid's voxel coordinates to the other's."""
        matrix: NDArray[np.float64] = np.linalg.inv(other.affine) @ self.affine
        return matrix

    def corners(self, least: int = 1) -> NDArray[np.float64]:
        """(8, 3) LPS mm of the centres of the corner voxels, as if each axis had at least so many voxels."""
        last = np.maximum(self.shape, least) - 1
        bits = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
        return self.world(bits * last)

    def crop(self, box: Box) -> Grid:
        """The grid of a part; a start below 0 or an end beyond the shape makes it larger."""
        start = [s.start for s in box]
        return Grid(
            (box[0].stop - box[0].start, box[1].stop - box[1].start, box[2].stop - box[2].start),
            _moved(self.affine, self.world(start)),
        )

    def same_as(self, other: Grid, tolerance: float = 1e-3) -> bool:
        """Whether the shapes are equal and no corner differs by more than `tolerance` voxels.

        Along an axis of one voxel its step counts: slices of other thickness are other grids.
        """
        if self.shape != other.shape:
            return False
        apart = np.linalg.norm(self.corners(2) - other.corners(2), axis=1).max()
        return bool(apart <= tolerance * min(*self.spacing, *other.spacing))


@dataclass(frozen=True)
class Source:
    """The files that a volume came from; only `formats/` looks at `header`.

    paths    the files, in channel order (NIfTI and the like) or in slice order (DICOM)
    kind     "nifti", "mgh", "nrrd", "metaimage", "dicom" or "memory"
    header   what the writer of the same format needs to put labels on the very same grid
    warnings sentences that the user should see and the record keep
    facts    what the record says of the input beyond its grid (file counts, units, modality)
    """

    paths: tuple[Any, ...]
    kind: str
    header: Any = None
    warnings: tuple[str, ...] = ()
    facts: Document | None = None


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels on a grid.

    data    (C, D, H, W), also when C is 1

    >>> grid = segcli.Grid((10, 20, 30), [[0, 0, 1, 0], [0, 1, 0, 0], [3, 0, 0, 0], [0, 0, 0, 1]])
    >>> scan = segcli.Volume(numpy.zeros((1, 10, 20, 30), numpy.float32), grid)
    >>> scan.crop((slice(4, 6), slice(0, 20), slice(0, 30))).grid.world([0, 0, 0]).tolist()
    [0.0, 0.0, 12.0]
    >>> scan
    <Volume of shape (1, 10, 20, 30), float32: 3 x 1 x 1 mm, axes SPL>
    """

    data: Voxels
    grid: Grid
    source: Source | None = None

    def __post_init__(self) -> None:
        if self.data.ndim != 4 or self.data.shape[1:] != self.grid.shape:
            raise ValueError(f"data of shape {self.data.shape} is not (C, D, H, W) on a grid {self.grid.shape}")

    def __repr__(self) -> str:
        mm = " x ".join(f"{step:.4g}" for step in self.grid.spacing)
        return f"<Volume of shape {self.data.shape}, {self.data.dtype}: {mm} mm, axes {self.grid.axes}>"

    def crop(self, box: Box) -> Volume:
        """The voxels in the box, still in place; the box must lie inside."""
        inside = all(0 <= s.start < s.stop <= n for s, n in zip(box, self.grid.shape, strict=True))
        if not inside:
            raise ValueError(f"{box} is not inside {self.grid.shape}")
        return Volume(self.data[(slice(None), *box)], self.grid.crop(box), self.source)


def among(labels: Voxels, values: Collection[int]) -> NDArray[np.bool_]:
    """Where labels, integers of any shape, are one of some values: as `np.isin`, which takes 5 to 11 bytes a voxel."""
    if labels.dtype.kind != "u" or labels.dtype.itemsize > 2:
        return np.isin(labels, list(values))
    table = np.zeros(1 << 8 * labels.dtype.itemsize, bool)
    table[[value for value in values if 0 <= value < len(table)]] = True
    return table[labels]


def whole(grid: Grid) -> Box:
    """The box that holds all of a grid."""
    d, h, w = grid.shape
    return slice(0, d), slice(0, h), slice(0, w)


def extent(voxels: Voxels) -> Box | None:
    """The smallest box that holds all voxels (D, H, W) that are not 0; None where all are."""
    plane = np.asarray(voxels.any(axis=0))
    found = [np.flatnonzero(along) for along in (voxels.any(axis=(1, 2)), plane.any(axis=1), plane.any(axis=0))]
    if not found[0].size:
        return None
    d, h, w = (slice(int(there[0]), int(there[-1]) + 1) for there in found)
    return d, h, w


def widened(box: Box, margin: Sequence[int], shape: Sequence[int]) -> Box:
    """A box with so many voxels more at both ends of each axis, as far as a grid of a shape goes."""
    d, h, w = (
        slice(max(0, side.start - more), min(n, side.stop + more))
        for side, more, n in zip(box, margin, shape, strict=True)
    )
    return d, h, w


def turned(grid: Grid, axes: str) -> Grid:
    """The same voxel centres with the array axes permuted and reversed to point along `axes`, e.g. "RAS"."""
    order, flips = turning(grid.axes, axes)
    matrix = grid.affine[:3, :3][:, order].copy()
    origin = grid.affine[:3, 3].copy()
    shape = [grid.shape[i] for i in order]
    for i, flip in enumerate(flips):
        if flip:
            origin += matrix[:, i] * (shape[i] - 1)
            matrix[:, i] *= -1
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = matrix, origin
    return Grid((shape[0], shape[1], shape[2]), affine)


def turning(have: str, want: str) -> tuple[list[int], list[bool]]:
    """For each wanted axis: which axis of `have` it is, and whether it runs the other way."""
    opposite = {a: b for pair in _LETTERS for a, b in (pair, pair[::-1])}
    order = [next(i for i, h in enumerate(have) if h in (w, opposite[w])) for w in want]
    return order, [have[i] != w for i, w in zip(order, want, strict=True)]


_PERMUTATIONS = tuple(itertools.permutations(range(3)))
AXES_CODES = tuple(  # all 48, for options and tests
    "".join(_LETTERS[p[i]][bits >> i & 1] for i in range(3)) for p in _PERMUTATIONS for bits in range(8)
)


def _three(values: ArrayLike) -> tuple[float, float, float]:
    a, b, c = (float(v) for v in np.asarray(values))
    return a, b, c


def _moved(affine: NDArray[np.float64], origin: NDArray[np.float64]) -> NDArray[np.float64]:
    out = affine.copy()
    out[:3, 3] = origin
    return out
