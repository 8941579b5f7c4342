"""Grids and phantoms that several tests use."""

import numpy as np

from segcli.space.volume import Grid


def rotation(degrees: float, axis: int) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    r = np.eye(3)
    i, j = [(1, 2), (2, 0), (0, 1)][axis]
    r[i, i] = r[j, j] = c
    r[i, j], r[j, i] = -s, s
    return r


def grid(
    shape: tuple[int, int, int] = (20, 24, 22),
    spacing: tuple[float, float, float] = (2.0, 1.5, 1.5),
    tilt: tuple[float, float, float] = (0.0, 0.0, 0.0),
    shear: float = 0.0,
) -> Grid:
    """A grid centred on the origin: axial ("SPL"), turned by angles about x, y, z, its slices shifted by `shear`."""
    base = np.array([[0, 0, 1.0], [0, 1.0, 0], [1.0, 0, 0]])  # D up, H back, W left
    base[1, 0] = shear
    matrix = rotation(tilt[0], 0) @ rotation(tilt[1], 1) @ rotation(tilt[2], 2) @ base * np.array(spacing)
    affine = np.eye(4)
    affine[:3, :3] = matrix
    affine[:3, 3] = -matrix @ (np.array(shape) - 1) / 2
    return Grid(shape, affine)


def distances(on: Grid, centre: tuple[float, float, float]) -> np.ndarray:
    """mm of every voxel centre from a point, (D, H, W)."""
    index = np.stack(np.indices(on.shape), -1)
    return np.linalg.norm(on.world(index) - np.array(centre), axis=-1)
