"""Choose the grid a model wants its voxels on: geometry only, no voxels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from segcli.space.volume import Grid, Voxels, turned, turning

Spacing = tuple[float | None, float | None, float | None]  # mm; None keeps the scan's step along that axis
Anchor = Literal["edges", "corners", "stored", "oriented", "within", "monai_stored", "monai", "conformed"]
_AS_IT_IS = 1e-3  # mm, and parts of an affine: what is that near to what is wanted MONAI leaves alone


@dataclass(frozen=True)
class GridSpec:
    """What a model asks of its grid.

    axes       where the array axes point, e.g. "RAS"; None keeps the file's order (D, H, W)
    spacing    mm; along the wanted axes, or along the file's i, j, k when the anchor is "stored"; None, or
               None for one axis, keeps the scan's
    anchor     what stays in place when the spacing changes:
               "edges"     the outer faces of the volume (nnU-Net); steps are stretched to fit a whole number
               "corners"   the centres of the outermost voxels, with as many steps as "edges" has (scipy.ndimage.zoom,
                           TotalSegmentator)
               "stored"    the file's first voxel, and the spacing is read along the file's axes (MONAI's
                           spacing before orientation)
               "oriented"  the first voxel after turning (MONAI's orientation before spacing)
               "within"    as "oriented", but no sample lies beyond the last voxel
               "monai_stored", "monai"  as "stored" and "oriented", but where rounding in the file or shear leaves axes
                           off a right angle the middle of the volume stays, as MONAI's Spacing has it
               "conformed" the middle, n/2 voxels from the first one, of a grid of one shape and spacing for every scan
                           whose axes are the patient's own, whatever the scan's angle (FreeSurfer's conform); what
                           lies beyond the scan's outermost voxel centres has the value of nothing
    transpose  with axes None: the order of the file's D, H, W that the network sees (nnU-Net's transpose_forward)
    shape      of every scan's grid: with spacing None as many voxels between its outer faces, else that of "conformed"
    """

    axes: str | None = None
    spacing: Spacing | None = None
    anchor: Anchor = "edges"
    transpose: tuple[int, int, int] = (0, 1, 2)
    shape: tuple[int, int, int] | None = None


def model_grid(scan: Grid, spec: GridSpec) -> Grid:
    """The grid the network wants, covering the scan.

    A sheared scan (gantry tilt) gets a right-angled grid around all of it, since a network knows no shear.
    """
    if spec.anchor == "conformed" and spec.axes and spec.spacing and spec.shape:
        return _conformed(scan, spec.axes, spec.spacing, spec.shape)
    grid = straightened(scan) if scan.sheared else scan
    if spec.anchor == "stored" and spec.spacing is not None:
        grid = _spaced(grid, spec.spacing[::-1], spec.anchor)  # the file's i, j, k are our W, H, D
        return turned(grid, spec.axes) if spec.axes else _transposed(grid, spec.transpose)
    if spec.anchor == "monai_stored" and spec.spacing is not None:
        grid = _as_monai(_transposed(grid, (2, 1, 0)), spec.spacing)
        if spec.axes:
            return turned_as_monai(grid, spec.axes)
        return _transposed(_transposed(grid, (2, 1, 0)), spec.transpose)
    turn = turned_as_monai if spec.anchor == "monai" else turned
    grid = turn(grid, spec.axes) if spec.axes else _transposed(grid, spec.transpose)
    if spec.spacing is None:
        return grid if spec.shape is None else _between_faces(grid, np.array(spec.shape))
    return _as_monai(grid, spec.spacing) if spec.anchor == "monai" else _spaced(grid, spec.spacing, spec.anchor)


def straightened(scan: Grid) -> Grid:
    """A right-angled grid with the scan's rows, columns and slice normal whose voxels cover the scan's.

    The step along the normal is the distance between the slices, not the slanted one between their origins. The grid
    has the scan's middle and its number of voxels, and as many more at both ends of an axis as reach the scan's
    corners: so its voxels are as near to the scan's as the scan is to being right-angled.
    """
    d, h, w = (scan.directions[:, i] for i in range(3))
    h = _unit(h - (h @ w) * w)
    normal = np.cross(h, w)
    normal = normal * np.sign(normal @ d)
    axes = np.stack([normal, h, w], axis=1)
    steps = np.array([abs(scan.affine[:3, 0] @ normal), scan.spacing[1], scan.spacing[2]])
    along = scan.corners() @ axes
    low, high = along.min(0), along.max(0)
    have = np.array(scan.shape)
    beyond = ((high - low) / steps - (have - 1)) / 2  # voxels from the outermost centre to the corner's
    shape = have + 2 * np.ceil(np.maximum(beyond - 0.5 - 1e-6, 0)).astype(int)
    middle = (low + high) / 2 - (shape - 1) / 2 * steps
    return Grid(_shape(shape), _affine(axes * steps, axes @ middle))


def _spaced(grid: Grid, spacing: Spacing, anchor: Anchor) -> Grid:
    have, n = np.array(grid.spacing), np.array(grid.shape)
    want = np.array([h if step is None else step for h, step in zip(grid.spacing, spacing, strict=True)])
    if np.allclose(have, want, rtol=1e-6, atol=0):
        return grid
    matrix, origin = grid.affine[:3, :3], grid.affine[:3, 3]
    if anchor == "edges":
        return _between_faces(grid, np.maximum(1, np.round(have / want * n)))
    if anchor == "corners":
        shape = np.maximum(1, np.round(n * (have / want)))
        step = np.where(shape > 1, (n - 1) / np.maximum(shape - 1, 1), 1)  # in old voxels
        # The two outermost centres of a single voxel are one: several steps lie between its faces, all of its value.
        lone = (n == 1) & (shape > 1)
        step = np.where(lone, 1 / shape, step)
        return Grid(_shape(shape), _affine(matrix * step, origin + matrix @ np.where(lone, (step - 1) / 2, 0)))
    steps = (n - 1) * have / want
    shape = np.floor(steps + 1e-6) + 1 if anchor == "within" else np.round(steps + 1)
    return Grid(_shape(np.maximum(1, shape)), _affine(matrix * (want / have), origin))


def _between_faces(grid: Grid, shape: Voxels) -> Grid:
    """A grid of a shape with the outer faces of another."""
    step = np.array(grid.shape) / shape  # in old voxels
    matrix = grid.affine[:3, :3]
    return Grid(_shape(shape), _affine(matrix * step, grid.affine[:3, 3] + matrix @ (step / 2 - 0.5)))


def _conformed(scan: Grid, axes: str, spacing: Spacing, shape: tuple[int, int, int]) -> Grid:
    """A grid along the patient's axes whose middle, half its shape from the first voxel, is the scan's."""
    matrix = turned(Grid(shape, np.eye(4)), axes).affine[:3, :3] * np.array(spacing, float)
    middle = scan.world(np.array(scan.shape) / 2)
    return Grid(shape, _affine(matrix, middle - matrix @ (np.array(shape) / 2)))


def _as_monai(grid: Grid, spacing: Spacing) -> Grid:
    """A grid in other steps as MONAI's Spacing makes it, whose array axes are in this order.

    Its axes are made right-angled from the first to the last. It begins at the corner that comes first along
    each new axis. Where no corner does, by as little as 1e-8 of a voxel, as with nearly every oblique affine in
    float32, the middles n/2 of both grids fall together: half a step beyond those of the outermost voxels.
    """
    n, affine, matrix = np.array(grid.shape, float), grid.affine, grid.affine[:3, :3]
    steps = np.array(
        [h if w is None or abs(w - h) <= _AS_IT_IS else w for h, w in zip(grid.spacing, spacing, strict=True)]
    )
    upper = np.linalg.cholesky(matrix.T @ matrix).T
    new = _affine(matrix @ np.linalg.inv(upper) * steps, np.zeros(3))
    corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * (n - 1)
    corners = np.concatenate([corners.T, np.ones((1, 8))])
    along = (np.linalg.solve(new, affine) @ corners)[:3].T  # (8, 3) in the new axes
    shape = np.maximum(1, np.round(np.ptp(along, axis=0) + 1))
    first = [c for c, at in zip((affine @ corners)[:3].T, along, strict=True) if np.allclose((along - at).min(0), 0)]
    # Here and below in MONAI's own order of sums, whose rounding decides which of two voxels is the nearest.
    new[:3, 3] = first[0] if first else matrix @ (n / 2) + affine[:3, 3] - new[:3, :3] @ (shape / 2)
    moved = np.linalg.solve(affine, new)
    alike = np.allclose(affine, new, atol=_AS_IT_IS) or np.allclose(moved, np.eye(4), atol=_AS_IT_IS)
    if alike and np.array_equal(shape, n):
        return grid
    return Grid(_shape(shape), as_torch(affine, moved))


def turned_as_monai(grid: Grid, axes: str) -> Grid:
    """The grid that `turned` makes, to the last bit as MONAI's Orientation multiplies its affine."""
    order, flips = turning(grid.axes, axes)
    back = np.eye(4)
    back[:3, :3] = 0
    for new, (old, flip) in enumerate(zip(order, flips, strict=True)):
        back[old, new] = -1.0 if flip else 1.0
        back[old, 3] = grid.shape[old] - 1 if flip else 0.0
    return Grid((grid.shape[order[0]], grid.shape[order[1]], grid.shape[order[2]]), grid.affine @ back)


def as_torch(one: Voxels, other: Voxels) -> NDArray[np.float64]:
    """The product (n, k) of two small matrices in the sums of torch, which rounds each product; NumPy may not."""
    total: NDArray[np.float64] = one[:, :1] * other[0]
    for k in range(1, len(other)):
        total = total + one[:, k : k + 1] * other[k]
    return total


def _transposed(grid: Grid, order: tuple[int, int, int]) -> Grid:
    affine = grid.affine.copy()
    affine[:3, :3] = affine[:3, list(order)]
    return Grid((grid.shape[order[0]], grid.shape[order[1]], grid.shape[order[2]]), affine)


def _affine(matrix: NDArray[np.float64], origin: NDArray[np.float64]) -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = matrix, origin
    return affine


def _shape(values: NDArray[np.float64]) -> tuple[int, int, int]:
    d, h, w = (int(v) for v in values)
    return d, h, w


def _unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    unit: NDArray[np.float64] = vector / np.linalg.norm(vector)
    return unit
