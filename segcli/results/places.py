"""Where structures lie among each other, and how a scan is stretched against that."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segcli.space.volume import Grid


def fitted(usual: NDArray[np.float64], places: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The affine map that takes usual places, (n, 3) mm, to those of a scan, and where it takes each of them.

    returns  its matrix (3, 3), and the expected places (n, 3) mm

    Least squares with weights that fall with a structure's distance (Geman and McClure), so that one that lies
    elsewhere does not draw the others with it.
    """
    rows = np.hstack([usual, np.ones((len(usual), 1))])
    weight = np.ones(len(usual))
    for _ in range(10):
        root = np.sqrt(weight)[:, None]
        solution = np.linalg.lstsq(rows * root, places * root, rcond=None)[0]
        expected = rows @ solution
        off = np.linalg.norm(expected - places, axis=1)
        weight = 1 / (1 + (off / (1.5 * np.median(off) + 0.3)) ** 2) ** 2
    return solution[:3].T, expected


def stretches(matrix: NDArray[np.float64], grid: Grid) -> NDArray[np.float64]:
    """How much longer things became along each array axis of a grid than along the other two, by a matrix (3, 3)."""
    axes = grid.affine[:3, :3] / grid.spacing
    along = np.maximum(np.sqrt(np.einsum("ia,ij,ja->a", axes, matrix @ matrix.T, axes)), 1e-3)  # not 0, in one plane
    ratios: NDArray[np.float64] = (along**3 / along.prod()) ** 0.5
    return ratios
