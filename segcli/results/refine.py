"""Borders between structures, decided again by the scan's own brightness: finer than the voxels of a network.

A network that works at 2 mm knows where in a voxel of its own a border runs no better than its probabilities say, and a
scan of 1 mm shows it. A voxel near a border goes to the structure of largest posterior: the structure's share of the
labels around (a Gaussian), times how likely the voxel's brightness is in the structure's core nearby (Student's t with
3 degrees of freedom, for a voxel may be of two tissues). The outline of all structures together stays.

The Gaussians are computed here: to import SciPy takes as long as half of the step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from segcli.models.after import RefineStep
from segcli.parallel import each
from segcli.results.measure import tallied
from segcli.space.resample import Taps, apply, taps_for
from segcli.space.volume import Box, Grid, Volume, Voxels, extent, widened

_REACH = 2.0  # sigmas beyond which a structure has no share
_NEAR = 4.0  # sigmas beyond which brightness does not count
_CORE = 1.28  # sigmas from a flat border, where nine tenths of what is around is the structure's own
_FEW = 20  # core voxels, below which all voxels of a structure count as its core, and do not tell how it varies
_BLOCKS = 4  # a side of the blocks in which brightness is summed is this part of the distance that counts as near
_FREEDOM = np.float32(3)  # of Student's t; `decided` has its power, 2
_SIDE = 64  # voxels along each axis that are decided in one go, and what shares reach around them
_VOXELS = 1 << 18  # whose brightness is summed in one go


def refine(labels: Volume, scan: Volume, values: Sequence[int], step: RefineStep, data: Voxels) -> None:
    """Decide again which of some structures the voxels near their borders are of, in place.

    labels   (1, D, H, W)
    scan     (C, D, H, W) on the same grid; its first channel counts. Voxels that are not finite keep their label
    values   of the structures that have borders with each other; all others, and background, stay as they are
    data     (1, D, H, W) what is changed: the labels, or a copy of them
    """
    box = extent(labels.data[0])
    if box is None:
        return
    part, image, changed = labels.crop(box), scan.data[0][box], data[0][box]
    number = np.zeros(max(int(part.data.max()), *values) + 1, np.min_scalar_type(len(values)))
    number[list(values)] = np.arange(1, len(values) + 1)
    weights = _shares(part.grid.spacing, step)
    own = np.pad(number[part.data[0]], [(len(x) - 1, len(x) - 1) for x in weights])
    borders = _Borders.of(own, image, weights, part.grid, step)
    if borders is None:
        return
    value = np.array([0, *values], data.dtype)

    def decide(some: Box) -> None:
        won = borders.decided(some)
        if won is not None:
            np.copyto(changed[some], value[won], where=won > 0)

    each(decide, borders.parts())


@dataclass(frozen=True, eq=False)
class _Near:
    """How bright a structure is near each place: the means of its core around blocks of voxels.

    box      where it has a share
    mean     (a, b, c) of the core around each block, counted from where the box begins
    taps     of each axis, which give the voxels of the box what lies between the middles of blocks
    squares  sum over the core of the squared distance from the mean
    count    voxels of the core
    """

    box: Box
    mean: NDArray[np.float32]
    taps: list[Taps]
    squares: float
    count: int

    @classmethod
    def of(cls, core: Voxels, k: int, image: Voxels, box: Box, block: Sequence[int], width: Sequence[float]) -> _Near:
        """Of the voxels of a number, where some are.

        core     (d, h, w) numbers of structures, in the box
        image    (d, h, w), any type
        block    voxels of a block along each axis
        width    sigma of what counts as near, in blocks of each axis
        """
        sums, middle = _sums(core, k, image, block)
        count, total, squared = sums
        around = sums[:2]
        for axis, sigma in enumerate(width, 1):
            weights = _weights(sigma, _NEAR)
            around = _smoothed(_with_rim(around, len(weights) - 1, axis), weights, axis)
        voxels = int(count.sum())
        little = 1e-3 * np.prod(block)  # far from all of the core the mean is that of the whole core
        mean = (around[1] + little * total.sum() / voxels) / (around[0] + little)
        squares = max(0.0, float((squared - 2 * mean * total + mean * mean * count).sum()))
        taps = [
            taps_for((np.arange(n) + 0.5) / size - 0.5, blocks)
            for n, size, blocks in zip(core.shape, block, mean.shape, strict=True)
        ]
        return cls(box, (mean + middle).astype(np.float32), taps, squares, voxels)

    def at(self, box: Box) -> NDArray[np.float32]:
        """The means at the voxels of a part of the box, (d, h, w), linearly between the middles of blocks."""
        taps, blocks = [], []
        for side, whole, own in zip(box, self.box, self.taps, strict=True):
            here = slice(side.start - whole.start, side.stop - whole.start)
            first, last = own.index[0, here][0], own.index[1, here][-1]
            taps.append(Taps(own.index[:, here] - first, own.weights[:, here]))
            blocks.append(slice(first, last + 1))
        mean = self.mean[(None, *blocks)]
        for axis in (3, 2, 1):  # along the last one voxels are taken one by one: there first, while there are few
            mean = apply(mean, taps[axis - 1], axis)
        return np.asarray(mean[0])


def _sums(core: Voxels, k: int, image: Voxels, block: Sequence[int]) -> tuple[NDArray[np.float64], float]:
    """Of the voxels of a number in each block: how many, the sum of their brightness, and that of its square.

    Brightness is told from that of one of the voxels: sums of squares of what is far from 0 are lost in rounding.

    returns  (3, a, b, c), and the brightness from which the others are told
    """
    d, h, w = (np.arange(n) // size for n, size in zip(core.shape, block, strict=True))
    shape = (d[-1] + 1, h[-1] + 1, w[-1] + 1)
    sums, origin = np.zeros((3, np.prod(shape))), None
    planes = max(1, _VOXELS // core[0].size)
    for first in range(0, len(core), planes):
        mine = core[first : first + planes] == k
        bright = image[first : first + planes][mine].astype(np.float64)
        if not bright.size:
            continue
        origin = float(bright[len(bright) // 2]) if origin is None else origin
        bright -= origin
        places = np.flatnonzero(mine)
        rows = places // len(w)
        row_blocks = (d[first : first + planes, None] * shape[1] + h).ravel()
        blocks = row_blocks[rows] * shape[2] + w[places - rows * len(w)]
        for total, weights in zip(sums, (None, bright, bright * bright), strict=True):
            total += np.bincount(blocks, weights, total.size)
    assert origin is not None
    return sums.reshape(3, *shape), origin


@dataclass(frozen=True, eq=False)
class _Borders:
    """All that decides the voxels of a box.

    own      numbers of structures from 1, 0 for what stays; with a rim as wide as the Gaussian of shares reaches
    image    (D, H, W), any type
    weights  of the Gaussian of shares along each axis, from its middle on
    near     of each structure by its number
    spread   the scale of brightness around the means, one for all structures
    """

    own: Voxels
    image: Voxels
    weights: list[NDArray[np.float32]]
    near: dict[int, _Near]
    spread: np.float32

    @classmethod
    def of(
        cls, own: Voxels, image: Voxels, weights: list[NDArray[np.float32]], grid: Grid, step: RefineStep
    ) -> _Borders | None:
        """None where all structures are of one brightness: then the scan says nothing of borders.

        own      as the class has it; where the image is not finite, it becomes 0
        grid     of the image
        """
        spacing, halo = grid.spacing, [len(x) - 1 for x in weights]
        block = [max(1, round(step.around_mm / _BLOCKS / s)) for s in spacing]
        width = [step.around_mm / (size * s) for size, s in zip(block, spacing, strict=True)]
        numbers = own[tuple(slice(n, n + size) for n, size in zip(halo, image.shape, strict=True))]
        if image.dtype.kind == "f":
            numbers *= np.isfinite(image)
        core = _cores(numbers, [round(_CORE * step.mm / s) for s in spacing])
        boxes = {
            k: widened(tally.box, halo, numbers.shape) for k, tally in tallied(Volume(numbers[None], grid)).items()
        }

        def near(k: int) -> _Near:
            box = boxes[k]
            few = np.count_nonzero(core[box] == k) < _FEW
            return _Near.of((numbers if few else core)[box], k, image[box], box, block, width)

        found = dict(zip(boxes, each(near, boxes), strict=True))
        spread = np.float32(step.spread * _deviation(list(found.values())))
        if not spread > 0:
            return None
        return cls(own, image, weights, found, spread)

    @property
    def halo(self) -> list[int]:
        """Voxels that shares reach along each axis."""
        return [len(x) - 1 for x in self.weights]

    def parts(self) -> Iterator[Box]:
        """What is decided in one go."""
        sides = [
            [slice(start, min(n, start + _SIDE + 2 * halo)) for start in range(0, n, _SIDE + 2 * halo)]
            for n, halo in zip(self.image.shape, self.halo, strict=True)
        ]
        return product(*sides)

    def decided(self, part: Box) -> Voxels | None:
        """The number of the structure that has each voxel of a part; 0 where it stays as it is. None where all stay."""
        seen = self.own[_with_halo(part, self.halo)]
        there = [(k, box) for k, near in self.near.items() if _meet(near.box, part) and (box := extent(seen == k))]
        if len(there) < 2:
            return None
        image = np.asarray(self.image[part], np.float32)
        best = np.zeros(image.shape, np.float32)
        won = np.zeros(image.shape, self.own.dtype)
        for k, box in there:
            here = _reached(box, self.halo, image.shape)
            share = (seen[_with_halo(here, self.halo)] == k).astype(np.float32)
            for axis, weights in enumerate(self.weights):
                share = _smoothed(share, weights, axis)
            far = self.near[k].at(_moved(here, part))
            with np.errstate(over="ignore", invalid="ignore"):  # what is endlessly far, or no number, is of nobody
                np.subtract(image[here], far, out=far)
                far *= 1 / self.spread
                far *= far
                far *= 1 / _FREEDOM
                far += 1
                far *= far  # to the power of (degrees of freedom + 1) / 2
                np.divide(share, far, out=far)
            ahead = far > best[here]
            np.copyto(best[here], far, where=ahead)
            won[here][ahead] = k
        own = tuple(slice(n, size + n) for n, size in zip(self.halo, image.shape, strict=True))
        won[seen[own] == 0] = 0
        return won


def _deviation(near: Sequence[_Near]) -> float:
    """How far brightness varies in a structure: the median of their standard deviations, but of those of few voxels.

    Where most are each of one brightness it is the mean, where all are a thousandth of what lies between them; 0 where
    all are of the same.
    """
    told = [x for x in near if x.count >= _FEW] or near
    if not told:
        return 0.0
    own = [math.sqrt(x.squares / x.count) for x in told]
    between = max(float(x.mean.max()) for x in told) - min(float(x.mean.min()) for x in told)
    return float(np.median(own)) or float(np.mean(own)) or between / 1000


def _cores(own: Voxels, reach: Sequence[int]) -> Voxels:
    """The numbers of voxels that are of the same structure as those a few voxels away along each axis; 0 elsewhere.

    reach    voxels along each axis; 0 for an axis that does not count
    """
    core = own.copy()
    for axis, r in enumerate(reach):
        if r:
            along, inside = np.moveaxis(own, axis, 0), np.moveaxis(core, axis, 0)
            same = along[r:] == along[:-r]
            inside[r:] *= same
            inside[:-r] *= same
            inside[:r] = inside[-r:] = 0
            del same  # before the next one takes as much again
    return core


def _shares(spacing: Sequence[float], step: RefineStep) -> list[NDArray[np.float32]]:
    """The weights along each axis of the Gaussian of shares; it stays within voxels that are much longer than it."""
    sigmas = [step.mm / s if step.mm / s >= 0.2 else 0.0 for s in spacing]
    return [_weights(sigma, _REACH).astype(np.float32) for sigma in sigmas]


def _weights(sigma: float, reach: float) -> NDArray[np.float64]:
    """The weights of a Gaussian that is cut at so many sigmas, from its middle on; as SciPy has them."""
    radius = int(reach * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / (sigma or 1)) ** 2)
    return np.asarray((kernel / kernel.sum())[radius:])


def _smoothed(data: Voxels, weights: Voxels, axis: int) -> Voxels:
    """The sums along an axis with weights that are the same to both sides, where all of them lie in the data.

    weights  from the middle on, of the type of the data
    """
    n = len(weights) - 1
    if n == 0:
        return data
    along = np.moveaxis(data, axis, 0)
    count = len(along) - 2 * n
    out = along[n : n + count] * weights[0]
    both = np.empty_like(out)
    for i in range(n, 0, -1):
        np.add(along[n - i :][:count], along[n + i :][:count], out=both)
        both *= weights[i]
        out += both
    return np.moveaxis(out, 0, axis)


def _with_rim(data: Voxels, n: int, axis: int) -> Voxels:
    """With n zeros before and behind along an axis; `np.pad` takes longer than the sums."""
    shape = list(data.shape)
    shape[axis] += 2 * n
    out = np.zeros(shape, data.dtype)
    np.moveaxis(out, axis, 0)[n : n + data.shape[axis]] = np.moveaxis(data, axis, 0)
    return out


def _with_halo(box: Box, halo: Sequence[int]) -> Box:
    """A box and what lies around it, in an array with a rim that begins before the first voxels."""
    d, h, w = (slice(side.start, side.stop + 2 * n) for side, n in zip(box, halo, strict=True))
    return d, h, w


def _reached(box: Box, halo: Sequence[int], shape: Sequence[int]) -> Box:
    """What voxels of a box reach, which is counted in an array with a rim, in a shape without one."""
    d, h, w = (
        slice(max(0, side.start - 2 * n), min(size, side.stop)) for side, n, size in zip(box, halo, shape, strict=True)
    )
    return d, h, w


def _moved(box: Box, within: Box) -> Box:
    """A box that is counted from where another begins, counted as that one is."""
    d, h, w = (slice(a.start + b.start, a.stop + b.start) for a, b in zip(box, within, strict=True))
    return d, h, w


def _meet(one: Box, other: Box) -> bool:
    """Whether two boxes have voxels in common."""
    return all(a.start < b.stop and b.start < a.stop for a, b in zip(one, other, strict=True))
