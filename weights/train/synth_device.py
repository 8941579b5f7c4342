"""The images of synth.py drawn in batches on a device, where the label maps lie: the same recipe, other noise.

The host draws what is small (shapes, contrasts, amounts); all that has a number for each voxel is the device's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from anatomy import Head, Table
from numpy.random import Generator
from synth import Contrast, Normal, Shape, field_of_view, normalised, planned, sample_points, strip, unevenness, worsen
from torch import Tensor


@dataclass(frozen=True, eq=False)
class DeviceMaps:
    """Label maps on a device, as uint8 row numbers of the table.

    heads     for their boxes and ways
    kinds     of each head, as `Head.kinds`
    target, mirror   of the table
    """

    heads: Sequence[Head]
    kinds: list[list[Tensor]]
    target: Tensor
    mirror: Tensor

    @property
    def device(self) -> torch.device:
        return self.target.device


def on_device(heads: Sequence[Head], table: Table, device: str) -> DeviceMaps:
    """The maps sent there once: 17 heads take 0.8 GB."""
    kinds = [[torch.from_numpy(rows).to(device) for rows in head.kinds] for head in heads]
    heads = [replace(head, ways=tuple(way.to(device) for way in head.ways)) for head in heads]
    return DeviceMaps(heads, kinds, table.target.to(device), table.mirror.to(device))


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
    plan = planned(table, rng, t1)
    points, below = sample_points(maps.heads[which], shape, vox, rng, plan.size, maps.device)
    stripped = strip(plan.contrast, table, rng)
    image, where = _drawn(maps.kinds[which][plan.kind], points, stripped, rng, normal)
    seen = field_of_view(shape, rng, maps.device)
    image = normalised(worsen(image, plan.contrast, rng, normal) * seen, rng)
    target = maps.target[where * (seen & ~below)]
    if rng.random() < 0.5:
        image, target = image.flip(2), maps.mirror[target].flip(0)
    return image, target


def _drawn(rows: Tensor, points: Tensor, contrast: Contrast, rng: Generator, normal: Normal) -> tuple[Tensor, Tensor]:
    """Intensities (1, 1, X, Y, Z) with partial volume and noise of the tissue, and the table's rows (X, Y, Z).

    The whole head is filtered: to cut it where the points lie, the device would have to be waited for.
    """
    mean, deviation, whole = (v.to(points.device) for v in (contrast.mean, contrast.deviation, contrast.whole))
    there = replace(contrast, mean=mean, deviation=deviation, whole=whole)
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
    return image + unevenness(where, there, rng, normal), where
