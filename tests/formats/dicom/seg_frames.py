"""The frames of a Segmentation as one array, for tests that compare what was written."""

from pathlib import Path

import numpy as np

from segcli.formats.dicom import seg
from segcli.space.volume import Grid, Voxels


def read_seg(path: Path, grid: Grid) -> Voxels:
    """What a Segmentation object says on the planes of a grid, other planes 0.

    returns  (D, H, W) segment numbers for binary and labelmap, (K, D, H, W) 0..1 for fractional
    """
    kind, count, frames = seg.frames_in(path, grid)
    out = np.zeros(
        (count, *grid.shape) if kind == "FRACTIONAL" else grid.shape, np.float32 if kind == "FRACTIONAL" else np.uint16
    )
    for segment, k, image in frames:
        if kind == "FRACTIONAL":
            out[segment - 1, k] = image
        elif kind == "BINARY":
            out[k][image != 0] = segment
        else:
            out[k] = image
    return out
