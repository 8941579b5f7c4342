"""The Dice that a 2 mm network can reach on subA and subB: their labels taken to 2 mm and back.

    python bounds.py DATA

At 2 mm a voxel has the label of its middle (what `train.py` teaches), or shares of the labels in and around it (what
`train.py --between` leads to). On the way back either goes linearly to the scan's voxels, as the card says.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from evaluate import CSF, FREESURFER, freesurfer
from scoring import dice, mean
from torch import Tensor

from segcli.formats import read


def whole(x: Tensor) -> Tensor:
    """Every second voxel of (X, Y, Z)."""
    return x[::2, ::2, ::2]


def shares(x: Tensor) -> Tensor:
    """The same with a quarter of each neighbour along each axis."""
    taps = torch.tensor([0.25, 0.5, 0.25])
    kernel = taps[:, None, None] * taps[:, None] * taps
    return F.conv3d(F.pad(x, (1,) * 6)[None, None], kernel[None, None], stride=2)[0, 0]


def back(truth: np.ndarray, down: Callable[[Tensor], Tensor]) -> np.ndarray:
    """The label with the most at each voxel, after `down` and linearly back."""
    labels = np.unique(truth)
    axes = [2 * torch.arange(n) / (2 * ((n + 1) // 2 - 1)) - 1 for n in truth.shape]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flip(-1)[None]
    most, found = torch.full(truth.shape, -1.0), np.zeros(truth.shape, int)
    for label in labels:
        coarse = down(torch.from_numpy(truth == label).float())
        fine = F.grid_sample(coarse[None, None], grid, padding_mode="border", align_corners=True)[0, 0]
        found[(fine > most).numpy()] = label
        most = torch.maximum(most, fine)
    return found


def main() -> None:
    print("| scan | label of the middle | shares |\n| --- | --- | --- |")
    for name, (_, reference) in FREESURFER.items():
        path = Path(sys.argv[1]) / "brain_t1_freesurfer" / f"{reference}.nii.gz"
        truth = freesurfer(read([path]).data[0])
        some = np.argwhere(truth > 0)
        truth = truth[tuple(slice(a, b) for a, b in zip(some.min(0) - 4, some.max(0) + 5, strict=True))]
        scores = [mean(dice(back(truth, down), truth, (CSF,))) for down in (whole, shares)]
        print(f"| {name} | {scores[0]:.3f} | {scores[1]:.3f} |", flush=True)


if __name__ == "__main__":
    main()
