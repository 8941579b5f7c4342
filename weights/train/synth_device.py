"""The images of synth.py drawn in batches on a device, where the label maps lie: the same recipe, other noise.

The host draws what is small (shapes, contrasts, amounts); all that has a number for each voxel is the device's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.random import Generator
from synth import (
    Contrast,
    Head,
    Normal,
    Shape,
    Table,
    any_contrast,
    mr_like,
    normalised,
    sample_points,
    strip,
    t1_like,
    worsen,
)
from torch import Tensor


@dataclass(frozen=True, eq=False)
class DeviceMaps:
    """Label maps on a device, as uint8 row numbers of the table.

    heads     for their boxes
    rows      of each; young: with smaller ventricles
    target, mirror   of the table
    """

    heads: Sequence[Head]
    rows: list[Tensor]
    young: list[Tensor]
    target: Tensor
    mirror: Tensor

    @property
    def device(self) -> torch.device:
        return self.target.device


def on_device(heads: Sequence[Head], table: Table, device: str) -> DeviceMaps:
    """The maps sent there once: 17 heads take a third of a gigabyte."""
    rows, young = ([torch.from_numpy(one).to(device) for one in ones] for ones in _both(heads))
    return DeviceMaps(heads, rows, young, table.target.to(device), table.mirror.to(device))


def _both(heads: Sequence[Head]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    return [head.rows for head in heads], [head.young for head in heads]


def sample_batch(
    maps: DeviceMaps, table: Table, rng: Generator, count: int, shape: Shape, vox: float, t1: float
) -> tuple[Tensor, Tensor]:
    """Images with the labels of their voxels, as `synth.sample` draws them.

    returns  images (N, 1, X, Y, Z) float32; channels (N, X, Y, Z) int64
    """
    generator = torch.Generator(maps.device).manual_seed(int(rng.integers(2**62)))

    def normal(size: Sequence[int]) -> Tensor:
        return torch.randn(tuple(size), generator=generator, device=maps.device)

    pairs = [_pair(maps, table, rng, normal, shape, vox, t1) for _ in range(count)]
    return torch.cat([image for image, _ in pairs]), torch.stack([target for _, target in pairs])


def _pair(
    maps: DeviceMaps, table: Table, rng: Generator, normal: Normal, shape: Shape, vox: float, t1: float
) -> tuple[Tensor, Tensor]:
    """Image (1, 1, X, Y, Z) and channels (X, Y, Z), in the steps of `synth.pair`."""
    which = int(rng.integers(len(maps.heads)))
    points = sample_points(maps.heads[which], shape, vox, rng, maps.device)
    kind = rng.choice(3, p=[t1, 0.8 * (1 - t1), 0.2 * (1 - t1)])
    contrast = (t1_like, mr_like, any_contrast)[kind](table, rng)
    rows = (maps.young if rng.random() < 0.3 else maps.rows)[which]
    stripped = strip(contrast, table, rng)
    image, where = _drawn(rows, points, stripped, normal)
    image = normalised(worsen(image, contrast, rng, normal), rng)
    target = maps.target[where]
    if rng.random() < 0.5:
        image, target = image.flip(2), maps.mirror[target].flip(0)
    return image, target


def _drawn(rows: Tensor, points: Tensor, contrast: Contrast, normal: Normal) -> tuple[Tensor, Tensor]:
    """Intensities (1, 1, X, Y, Z) with partial volume and noise of the tissue, and the table's rows (X, Y, Z).

    The whole head is filtered: to cut it where the points lie, the device would have to be waited for.
    """
    mean, deviation = (v.to(points.device) for v in (contrast.mean, contrast.deviation))
    fine = mean[rows.long()]
    for axis in range(3):
        n = fine.shape[axis] - 2
        inner = (fine.narrow(axis, 0, n) + fine.narrow(axis, 1, n) + fine.narrow(axis, 2, n)) / 3
        fine = torch.cat([fine.narrow(axis, 0, 1), inner, fine.narrow(axis, n + 1, 1)], axis)
    size = torch.tensor(rows.shape, device=points.device)
    grid = (2 * points / (size - 1) - 1).flip(-1)[None]
    beyond = "zeros" if float(contrast.mean[0]) < 15 else "border"
    image = F.grid_sample(fine[None, None], grid, mode="bilinear", padding_mode=beyond, align_corners=True)
    near = points.round().long()
    inside = ((near >= 0) & (near < size)).all(-1)
    x, y, z = torch.minimum(near.clamp_min(0), size - 1).unbind(-1)
    where = rows[x, y, z].long() * inside
    return image + 0.6 * deviation[where] * normal(where.shape), where
