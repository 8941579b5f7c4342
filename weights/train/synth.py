"""Random brain images with their labels, drawn from label maps alone.

The recipe is that of SynthSeg (Billot et al., Medical Image Analysis 2023): a random affine and smooth deformation,
one random intensity for each class of tissue, partial volume, noise, sometimes thick slices, a bias field, gamma, and
mirroring with left and right exchanged. All training grids are isotropic; axes are RAS.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from anatomy import COARSE, CORTEX, OUTERMOST, SHARES, WHITE, Head, Table
from numpy.random import Generator
from torch import Tensor

FLUID = 1  # its T1 class
# Structures whose T1 class is the cortex's have a brightness near it: how much of the way from cortex to white matter,
# mean and deviation. Measured on five T1 scans, where the caudate lies 0.08 to 0.36 of the way.
NEAR_CORTEX = {(11, 50): (0.2, 0.12), (26, 58): (0.1, 0.18), (17, 53): (0, 0.1), (18, 54): (0, 0.12)}
# The same of the outermost 2 mm of white matter, least and most: less myelin makes them darker on a T1 scan.
OUTER = (0.8, 1)
# The same of all that T1 scans show alike, least and most, of subA and subB (FreeSurfer's labels), Colin27 and the MNI
# template (the model's own). A pallidum is nearly as bright as the white matter around it.
T1_WAY = {
    (10, 49): (0.35, 0.65),  # thalamus
    (11, 50): (0.07, 0.33),  # caudate
    (12, 51): (0.34, 0.5),  # putamen
    (13, 52): (0.58, 0.86),  # pallidum
    (26, 58): (-0.1, 0.26),  # accumbens
    (17, 53): (-0.15, 0.08),  # hippocampus
    (18, 54): (-0.15, 0.15),  # amygdala
    (28, 60): (0.48, 0.76),  # ventral diencephalon
    (16,): (0.35, 0.52),  # brain stem
    (8, 47): (-0.15, 0),  # cerebellar cortex
    (7, 46): (0.55, 0.7),  # cerebellar white matter
}
T1_SPREAD = 0.06  # of one structure about its place between least and most, which is one place for all of a scan
ALIKE = 0.7  # share of the T1 images that are drawn so; the rest keep the wide priors
KNOTS = (4, 10, 24)  # of the fields that make a structure uneven, along each axis of a crop
SMOOTH_PART = 1.5  # of their greatest weights, in deviations of the structure


@dataclass(frozen=True)
class Contrast:
    """Mean and deviation of the intensity for each row of the table, 0..255; `whole` as the table has it."""

    mean: Tensor
    deviation: Tensor
    stripped: bool
    whole: Tensor


Shape = tuple[int, int, int]
Normal = Callable[[Sequence[int]], Tensor]  # normal noise of a shape


def sample(
    maps: list[Head], table: Table, rng: Generator, shape: Shape, vox: float, t1: float
) -> tuple[Tensor, Tensor]:
    """One image with the labels of its voxels.

    shape    (X, Y, Z) of the crop, voxels of `vox` mm
    t1       share of images that look like T1; of the others four fifths are like MR, the rest has any contrast
    returns  image (1, 1, X, Y, Z) float32 of mean 0 and deviation 1, give or take; channels (1, X, Y, Z) int64
    """
    return pair(maps, table, rng, shape, vox, t1, None)


def sample_between(
    maps: list[Head], table: Table, rng: Generator, shape: Shape, vox: float, t1: float
) -> tuple[Tensor, Tensor, Tensor]:
    """One image with the labels of points between its voxels.

    returns  image as `sample`; channels (1, X-1, Y-1, Z-1); the points' shift (3,) from the voxels, 0..1
    """
    shift = torch.from_numpy(rng.random(3, dtype=np.float32))
    return *pair(maps, table, rng, shape, vox, t1, shift), shift


def pair(
    maps: list[Head], table: Table, rng: Generator, shape: Shape, vox: float, t1: float, shift: Tensor | None
) -> tuple[Tensor, Tensor]:
    """An image and the channels of its voxels, or of the points `shift` of a voxel further on."""
    head = maps[int(rng.integers(len(maps)))]
    plan = planned(table, rng, t1)
    points, below = sample_points(head, shape, vox, rng, plan.size)
    rows = head.kinds[plan.kind]
    image, where = draw(rows, points, strip(plan.contrast, table, rng), rng)
    seen = field_of_view(shape, rng)
    image = normalised(worsen(image, plan.contrast, rng) * seen, rng)
    flipped = rng.random() < 0.5
    if shift is not None:
        where = nearest(rows, between(points, torch.tensor([1 - shift[0], *shift[1:]]) if flipped else shift))
        seen, below = seen[1:, 1:, 1:], below[1:, 1:, 1:]
    target = table.target[where * (seen & ~below)]
    if flipped:
        image, target = image.flip(2), table.mirror[target].flip(0)
    return image, target[None]


@dataclass(frozen=True)
class Plan:
    """Whose head it is: its contrast, which of `Head.kinds`, and its size, where 1 is that of the map."""

    contrast: Contrast
    kind: int
    size: float


def planned(table: Table, rng: Generator, t1: float) -> Plan:
    """A head to draw; one in seven is a child's: small, and its white matter is not myelinated yet."""
    which = rng.choice(3, p=[t1, 0.8 * (1 - t1), 0.2 * (1 - t1)])
    contrast = (t1_like, mr_like, any_contrast)[which](table, rng)
    kind = int(rng.choice(len(SHARES), p=SHARES))
    if rng.random() < 0.15:
        return Plan(immature(contrast, table, rng), kind, rng.uniform(0.75, 1))
    return Plan(contrast, kind, rng.uniform(0.8, 1.15) if rng.random() < 0.2 else 1)


def sample_points(
    head: Head, shape: Shape, vox: float, rng: Generator, size: float = 1, device: str | torch.device = "cpu"
) -> tuple[Tensor, Tensor]:
    """(X, Y, Z, 3) places in voxels of the head: a turned, stretched and bent box; computed on a device.

    Most boxes lie at the brain and reach 20 mm and more past it; three in ten lie anywhere, also in face, neck,
    shoulders and air. Of some heads the places are those of an anatomy between this head and another.

    size      of the head, where 1 is that of the map
    returns   the places; (X, Y, Z) bool, whether a place is below the map, where nothing is labelled
    """
    affine = rotation(rng, 15 if rng.random() < 0.7 else 30) @ np.diag(rng.uniform(0.85, 1.15, 3)) + rng.uniform(
        -0.01, 0.01, (3, 3)
    )
    affine /= size
    low, high = (head.low - 20, head.high + 20) if rng.random() < 0.7 else (np.zeros(3), np.array(head.shape))
    room = np.maximum((high - low) / 2 - np.array(shape) * vox / 2 * 0.8, 0)
    centre = (low + high) / 2 + rng.uniform(-room, room)
    body = rng.random() < 0.6
    if body and rng.random() < 0.15:
        centre[2] -= rng.uniform(0, centre[2] + 60)
    axes = [(torch.arange(n, dtype=torch.float32, device=device) - (n - 1) / 2) * vox for n in shape]
    box = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    bend = smooth(rng, 3, int(rng.integers(4, 9)), shape, rng.uniform(0, 4), device)[0].permute(1, 2, 3, 0)
    turn, middle = (torch.from_numpy(v.astype(np.float32)).to(device) for v in (affine.T, centre))
    points = box @ turn + bend + middle
    if head.ways and rng.random() < 0.4:
        points = points + rng.uniform(0.2, 1) * along(head.ways[int(rng.integers(len(head.ways)))], points)
    return shoulders(points, head, rng) if body else (points, torch.zeros(shape, dtype=torch.bool, device=device))


def along(way: Tensor, points: Tensor) -> Tensor:
    """(X, Y, Z, 3): how far `anatomy.way` (3, x, y, z) goes from points of its head, both in voxels."""
    size = torch.tensor(way.shape[1:], device=points.device)
    grid = (2 * ((points + 0.5) / COARSE - 0.5) / (size - 1) - 1).flip(-1)[None]
    field = way.to(points.device)[None]
    return F.grid_sample(field, grid, padding_mode="border", align_corners=True)[0].permute(1, 2, 3, 0)


def shoulders(points: Tensor, head: Head, rng: Generator) -> tuple[Tensor, Tensor]:
    """Points below the map brought into its lowest slices, which so go on as a neck that widens into shoulders.

    A map ends in the neck, or below the brain, where a scan may go on.

    returns  the points; (X, Y, Z) bool, which of them were below the map
    """
    depth = (-points[..., 2]).clamp_min(0)
    fold = float(rng.uniform(4, 16))  # the slices are gone through up and down, so that the neck is not one extrusion
    fold = max(1, min(fold, float(head.low[2]) - 2))
    wide = 1 + (depth - float(rng.uniform(0, 60))).clamp_min(0) / float(rng.uniform(10, 60))
    wide = wide.clamp_max(float(rng.uniform(1, 3.5)))
    middle = (torch.tensor(head.shape, device=points.device) - 1) / 2
    x = torch.where(depth > 0, middle[0] + (points[..., 0] - middle[0]) / wide, points[..., 0])
    y = torch.where(depth > 0, middle[1] + (points[..., 1] - middle[1]) / wide.sqrt(), points[..., 1])
    z = torch.where(depth > 0, fold - (depth % (2 * fold) - fold).abs(), points[..., 2])
    return torch.stack([x, y, z], -1), depth > 0


def field_of_view(shape: Shape, rng: Generator, device: str | torch.device = "cpu") -> Tensor:
    """(X, Y, Z) bool, what the scanner saw of a crop: mostly all of it, sometimes nothing beyond a plane."""
    seen = torch.ones(shape, dtype=torch.bool, device=device)
    if rng.random() < 0.12:
        axis = int(rng.integers(3))
        gone = int(shape[axis] * rng.uniform(0, 0.35))
        seen.narrow(axis, 0 if rng.random() < 0.5 else shape[axis] - gone, gone).fill_(False)
    return seen


def rotation(rng: Generator, degrees: float) -> np.ndarray:
    """A rotation by up to `degrees` about each axis."""
    matrix = np.eye(3)
    for a, b in ((1, 2), (0, 2), (0, 1)):
        angle = np.deg2rad(rng.uniform(-degrees, degrees))
        turn = np.eye(3)
        turn[a, a] = turn[b, b] = np.cos(angle)
        turn[a, b], turn[b, a] = -np.sin(angle), np.sin(angle)
        matrix = matrix @ turn
    return matrix


def smooth(
    rng: Generator, channels: int, knots: int, shape: Shape, amplitude: float, device: str | torch.device = "cpu"
) -> Tensor:
    """(1, channels, X, Y, Z): normal noise at `knots`^3 places, linear between them."""
    noise = rng.standard_normal((1, channels, knots, knots, knots)).astype(np.float32) * np.float32(amplitude)
    return F.interpolate(torch.from_numpy(noise).to(device), size=shape, mode="trilinear", align_corners=True)


def t1_like(table: Table, rng: Generator) -> Contrast:
    """A contrast near T1.

    The priors are of whole structures, and `draw` mixes what lies at their borders once more: tissue by itself is more
    even than they say, and fluid darker.
    """
    p = table.prior
    mean = rng.normal(p[:, 0], 1.5 * p[:, 1])
    mean[FLUID] = max(5, mean[FLUID] - rng.uniform(0, p[FLUID, 2]))
    deviation = np.abs(rng.normal(p[:, 2], p[:, 3])) * rng.uniform(0.4, 1)
    mean = apart(mean[table.t1], table, rng)
    return contrast_of(alike(mean, table, rng) if rng.random() < ALIKE else mean, deviation[table.t1], table, rng)


def mr_like(table: Table, rng: Generator) -> Contrast:
    """Fluid, grey and white matter in any order and distance; other structures keep their place between them.

    T2, FLAIR and proton density are of this kind. Outside the brain anything goes.
    """
    p = table.prior
    fluid_grey_white = (44, 100, 160)  # T1 means of the maps' classes
    level = np.interp(rng.normal(p[:, 0], 0.7 * p[:, 1]), fluid_grey_white, rng.uniform(10, 250, 3))
    level += rng.normal(0, rng.uniform(0, 20), len(level))
    outside = rng.uniform(0, 255, table.tissue.max() + 1)[table.tissue]
    mean = np.where(table.brain, apart(level[table.t1], table, rng), outside)
    return contrast_of(mean, rng.uniform(2, 22, len(level))[table.t1], table, rng)


def apart(mean: np.ndarray, table: Table, rng: Generator) -> np.ndarray:
    """(rows,) the same means, those of `NEAR_CORTEX` moved away from the cortex's and of outer white matter towards it.

    A table without cortex or white matter keeps its means.
    """
    if (between := cortex_to_white(mean, table)) is None:
        return mean
    mean, (cortex, span) = mean.copy(), between
    for sides, (middle, deviation) in NEAR_CORTEX.items():
        mean[table.among(*sides)] += rng.normal(middle, deviation) * span
    mean[table.values > OUTERMOST] = cortex + rng.uniform(*OUTER) * span
    return mean


def alike(mean: np.ndarray, table: Table, rng: Generator) -> np.ndarray:
    """(rows,) the same means, those of `T1_WAY` where T1 scans have them between cortex and white matter.

    A table without cortex or white matter keeps its means.
    """
    if (between := cortex_to_white(mean, table)) is None:
        return mean
    mean, (cortex, span), place = mean.copy(), between, rng.uniform(-0.15, 1.15)
    for sides, (least, most) in T1_WAY.items():
        mean[table.among(*sides)] = cortex + (least + place * (most - least) + rng.normal(0, T1_SPREAD)) * span
    return mean


def cortex_to_white(mean: np.ndarray, table: Table) -> tuple[float, float] | None:
    """The mean of the cortex and how far it is from there to white matter's; None without one of them."""
    cortex, white = (mean[table.among(*values)] for values in (CORTEX, WHITE))
    return (cortex[0], white[0] - cortex[0]) if len(cortex) and len(white) else None


def any_contrast(table: Table, rng: Generator) -> Contrast:
    """Any intensity for any class."""
    count = table.tissue.max() + 1
    return contrast_of(rng.uniform(0, 255, count)[table.tissue], rng.uniform(0, 25, count)[table.tissue], table, rng)


def immature(contrast: Contrast, table: Table, rng: Generator) -> Contrast:
    """The same with white matter nearer to the grey, most so under the cortex, as it is while myelin is missing."""
    white, cortex = (np.flatnonzero(table.among(*values)) for values in (WHITE, CORTEX))
    if not len(white) or not len(cortex):
        return contrast
    grey, mean = float(contrast.mean[cortex[0]]), contrast.mean.numpy().copy()
    beyond = table.brain & ~table.ventricle & ~table.csf & ((mean - grey) * (mean[white[0]] - grey) > 0)
    near = float(rng.uniform(0.2, 0.95))
    deep = float(rng.uniform(near, 1))  # stem, thalamus and pallidum are earlier
    outermost = table.values > OUTERMOST
    share = np.where(table.among(*WHITE), near, np.where(outermost, near * rng.uniform(0.2, 1), deep))
    mean = np.where(beyond, grey + (mean - grey) * share, mean)
    return replace(contrast, mean=torch.from_numpy(mean.astype(np.float32)))


def contrast_of(mean: np.ndarray, deviation: np.ndarray, table: Table, rng: Generator) -> Contrast:
    """A contrast whose background is most often dark."""
    if rng.random() < 0.6:
        mean[0], deviation[0] = rng.uniform(0, 10), rng.uniform(0, 5)
    as_tensor = [torch.tensor(v, dtype=torch.float32) for v in (mean, deviation)]
    return Contrast(as_tensor[0], as_tensor[1], bool(rng.random() < 0.35), torch.from_numpy(table.whole))


def strip(contrast: Contrast, table: Table, rng: Generator) -> Contrast:
    """The same with nothing outside the brain, where the contrast is that of a stripped skull."""
    if not contrast.stripped:
        return contrast
    gone = ~table.brain | (table.csf if rng.random() < 0.25 else np.zeros_like(table.csf))
    keep = torch.from_numpy(~gone).float()
    return replace(contrast, mean=contrast.mean * keep, deviation=contrast.deviation * keep)


def draw(rows: np.ndarray, points: Tensor, contrast: Contrast, rng: Generator) -> tuple[Tensor, Tensor]:
    """Intensities (1, 1, X, Y, Z) with partial volume and noise of the tissue, and the table's rows (X, Y, Z)."""
    low = [max(0, int(points[..., a].min()) - 2) for a in range(3)]
    high = [min(rows.shape[a], int(points[..., a].max()) + 4) for a in range(3)]
    box = tuple(slice(min(a, n - 8), max(b, 8)) for a, b, n in zip(low, high, rows.shape, strict=True))
    part = rows[box]
    points = points - torch.tensor([float(s.start) for s in box])

    fine = torch.from_numpy(contrast.mean.numpy()[part])
    for axis in range(3):  # the mean of three voxels, along each axis: torch's pooling takes ten times longer
        n = fine.shape[axis] - 2
        total = fine.narrow(axis, 0, n) + fine.narrow(axis, 1, n)
        total += fine.narrow(axis, 2, n)
        torch.mul(total, 1 / 3, out=fine.narrow(axis, 1, n))
    size = torch.tensor(part.shape)
    beyond = "zeros" if float(contrast.mean[0]) < 15 else "border"
    grid = (2 * points / (size - 1) - 1).flip(-1)[None]
    image = F.grid_sample(fine[None, None], grid, mode="bilinear", padding_mode=beyond, align_corners=True)

    where = nearest(part, points)
    return image + unevenness(where, contrast, rng), where


def unevenness(where: Tensor, contrast: Contrast, rng: Generator, normal: Normal | None = None) -> Tensor:
    """(X, Y, Z) by how much tissue differs from its structure's mean: from voxel to voxel, and smoothly.

    Myelin, iron and vessels make a real thalamus or brain stem darker at one end than at the other, which noise alone
    does not teach. The smooth part is a mixture of fields of some sizes, another one for each row of the table but
    those that are parts of another: no border runs between them.

    where       (X, Y, Z) rows of the table, on the contrast's device
    normal      draws for every voxel where they are; the generator's own on the host without it
    """
    noise = normal(where.shape) if normal else torch.from_numpy(rng.standard_normal(where.shape, dtype=np.float32))
    rows = (len(contrast.deviation), len(KNOTS))
    share = rng.uniform(0, SMOOTH_PART) * rng.standard_normal(rows).astype(np.float32)
    shares = torch.from_numpy(share.astype(np.float32)).to(where.device)[contrast.whole]
    for knots, some in zip(KNOTS, shares.T, strict=True):
        noise = noise + some[where] * smooth(rng, 1, knots, where.shape, 1, where.device)[0, 0]
    return 0.6 * contrast.deviation[where] * noise


def nearest(rows: np.ndarray, points: Tensor) -> Tensor:
    """The table's rows (X, Y, Z) at points (X, Y, Z, 3) of a map; 0 beyond it."""
    size = torch.tensor(rows.shape)
    near = points.round().long()
    inside = ((near >= 0) & (near < size)).all(-1)
    near = torch.minimum(near.clamp_min(0), size - 1)
    return torch.from_numpy(rows[tuple(near.movedim(-1, 0).numpy())]).long() * inside


def between(points: Tensor, shift: Tensor) -> Tensor:
    """(X-1, Y-1, Z-1, 3): points that lie `shift` (3,) of the way to the next along each axis."""
    for axis, s in enumerate(shift.tolist()):
        n = points.shape[axis] - 1
        points = points.narrow(axis, 0, n) * (1 - s) + points.narrow(axis, 1, n) * s
    return points


def worsen(image: Tensor, contrast: Contrast, rng: Generator, normal: Normal | None = None) -> Tensor:
    """Sometimes thick slices along one axis, or a soft scan; a bias field; noise of the scanner.

    normal   draws for every voxel where the image is; the generator's own on the host without it
    """
    if rng.random() < 0.4:
        sigma = np.zeros(3)
        if rng.random() < 0.6:
            sigma[rng.integers(3)] = rng.uniform(0.4, 1.6)
        else:
            sigma[:] = rng.uniform(0.3, 0.8)
        for axis in range(3):
            image = blurred(image, float(sigma[axis]), axis)
    knots, depth = int(rng.integers(2, 6)), rng.uniform(0, 0.35)
    image = image * smooth(rng, 1, knots, image.shape[2:], depth, image.device).exp()
    drawn = normal(image.shape) if normal else torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32))
    noise = drawn * float(rng.uniform(0, 6))
    if contrast.stripped and rng.random() < 0.5:
        noise = noise * (image > 0)
    return artefact((image + noise).clamp_min(0), rng)


def artefact(image: Tensor, rng: Generator) -> Tensor:
    """Seldom a head that moved, one that is wider than the field of view, or slices that are missing."""
    which, axis = rng.random(), int(rng.integers(2, 5))
    n = image.shape[axis]
    if which < 0.05:  # a ghost of the whole, some way along the axis
        return image + float(rng.uniform(0.03, 0.2)) * image.roll(int(rng.integers(n // 8, n - n // 8)), axis)
    if which < 0.08:  # what is beyond one side lies over the other
        k = max(1, int(n * rng.uniform(0.03, 0.2)))
        over = torch.zeros_like(image)
        over.narrow(axis, 0, k).copy_(image.narrow(axis, n - k, k))
        return image + over * float(rng.uniform(0.4, 1))
    if which < 0.1:
        image = image.clone()
        image.narrow(axis, int(rng.integers(n - 1)), int(rng.integers(1, 3))).zero_()
    return image


def blurred(x: Tensor, sigma: float, axis: int) -> Tensor:
    """A Gaussian along one spatial axis of (1, 1, X, Y, Z); sigma in voxels, below 0.2 nothing."""
    if sigma < 0.2:
        return x
    radius = int(np.ceil(3 * sigma))
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float32) / sigma) ** 2)
    shape, pad = [1] * 5, [0] * 6
    shape[2 + axis] = -1
    pad[4 - 2 * axis] = pad[5 - 2 * axis] = radius
    return F.conv3d(F.pad(x, pad, mode="replicate"), (kernel / kernel.sum()).view(shape).to(x.device))


def normalised(image: Tensor, rng: Generator) -> Tensor:
    """0.5 and 99.5 percentiles to 0 and 1, a random gamma, then mean 0 and deviation 1.

    A scan is normalised as a whole, a crop by itself: a random gain and offset stand for the difference.
    """
    low, high = torch.quantile(image.flatten()[::7], torch.tensor([0.005, 0.995], device=image.device))
    image = ((image - low) / (high - low + 1e-3)).clamp(0, 1) ** float(np.exp(rng.normal(0, 0.3)))
    image = (image - image.mean()) / (image.std() + 1e-6)
    return image * float(np.exp(rng.normal(0, 0.12))) + float(rng.normal(0, 0.12))
