"""Borders between structures, decided again by the scan's own brightness: finer than the voxels of a network.

A network that works at 2 mm knows where in a voxel of its own a border runs no better than its probabilities say, and a
scan of 1 mm shows it. A voxel near a border goes to the structure of largest posterior: the structure's share of the
labels around (a Gaussian), times how likely the voxel's brightness is in the structure's core nearby (Student's t with
3 degrees of freedom, for a voxel may be of two tissues). The outline of all structures together stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segcli.models.after import RefineStep
from segcli.parallel import each
from segcli.space.resample import apply, taps_for
from segcli.space.volume import Box, Volume, Voxels

_REACH = 2.0  # sigmas beyond which a structure has no share
_CORE = 1.28  # sigmas from a flat border, where nine tenths of what is around is the structure's own
_FEW = 20  # core voxels, below which all voxels of a structure count as its core
_BLOCKS = 4  # a side of the blocks in which brightness is summed is this part of the distance that counts as near
_FREEDOM = np.float32(3)  # of Student's t; `decided` has its power, 2
_VOXELS = 1 << 20  # of the planes that are decided in one go


def refine(labels: Volume, scan: Volume, values: Sequence[int], step: RefineStep, data: Voxels) -> None:
    """Decide again which of some structures the voxels near their borders are of, in place.

    labels   (1, D, H, W)
    scan     (C, D, H, W) on the same grid; its first channel counts. Voxels that are not finite keep their label
    values   of the structures that have borders with each other; all others, and background, stay as they are
    data     (1, D, H, W) what is changed: the labels, or a copy of them
    """
    from scipy.ndimage import find_objects

    number = np.zeros(max(int(labels.data.max()), *values) + 1, np.min_scalar_type(len(values)))
    number[list(values)] = np.arange(1, len(values) + 1)
    own = number[labels.data[0]]
    boxes = find_objects((own > 0).view(np.uint8))
    if not boxes:
        return
    own, changed = own[boxes[0]].copy(), data[0][boxes[0]]
    image = np.ascontiguousarray(scan.data[0][boxes[0]], np.float32)
    own[~np.isfinite(image)] = 0
    borders = _Borders.of(own, image, labels.grid.spacing, step)
    if borders is None:
        return
    value = np.array([0, *values], data.dtype)
    planes = max(1, _VOXELS // own[0].size)

    def decide(first: int) -> None:
        won = borders.decided(first, min(first + planes, len(own)))
        np.copyto(changed[first : first + planes], value[won], where=won > 0)

    each(decide, range(0, len(own), planes))


@dataclass(frozen=True, eq=False)
class _Near:
    """How bright a structure is near each place: the means of its core around blocks of voxels.

    box      where it has a share
    block    voxels of a block along each axis, counted from where the box begins
    mean     (a, b, c) of the core around each block
    squares  sum over the core of the squared distance from the mean
    count    voxels of the core
    """

    box: Box
    block: tuple[int, int, int]
    mean: NDArray[np.float32]
    squares: float
    count: int

    @classmethod
    def of(
        cls, core: NDArray[np.bool_], image: Voxels, box: Box, block: tuple[int, int, int], width: Sequence[float]
    ) -> _Near:
        """Of a structure's core and the image in its box.

        width    sigma of what counts as near, in blocks of each axis
        """
        from scipy.ndimage import gaussian_filter

        shape = tuple(-(-n // size) for n, size in zip(core.shape, block, strict=True))
        places = tuple(at // size for at, size in zip(np.nonzero(core), block, strict=True))
        key, bright = np.ravel_multi_index(places, shape), image[core].astype(np.float64)
        middle = bright[len(bright) // 2]  # of a voxel: sums of squares of what is far from 0 would be lost in rounding
        bright -= middle
        count, total, squared = (
            np.bincount(key, weights, np.prod(shape)).reshape(shape) for weights in (None, bright, bright * bright)
        )
        around, bright_around = (gaussian_filter(x.astype(np.float64), width, mode="constant") for x in (count, total))
        little = 1e-3 * np.prod(block)  # far from all of the core the mean is that of the whole core
        mean = (bright_around + little * bright.mean()) / (around + little)
        squares = max(0.0, float((squared - 2 * mean * total + mean * mean * count).sum()))
        return cls(box, block, (mean + middle).astype(np.float32), squares, len(key))

    def at(self, box: Box) -> NDArray[np.float32]:
        """At the voxels of a part of the box, linearly between the middles of blocks."""
        mean = self.mean[None]
        for axis, (side, start, size) in enumerate(zip(box, (s.start for s in self.box), self.block, strict=True), 1):
            places = (np.arange(side.start, side.stop) - start + 0.5) / size - 0.5
            mean = apply(mean, taps_for(places, mean.shape[axis]), axis)
        return np.asarray(mean[0])


@dataclass(frozen=True, eq=False)
class _Borders:
    """All that decides the voxels of a box.

    own      (D, H, W) numbers of structures from 1; 0 for what stays
    image    (D, H, W)
    sigma    of the Gaussian of shares, in voxels of each axis; 0 where the voxels are much longer
    near     of each structure; None for one that is not there
    spread   the scale of brightness around the means, one for all structures
    """

    own: Voxels
    image: NDArray[np.float32]
    sigma: tuple[float, ...]
    near: list[_Near | None]
    spread: np.float32

    @classmethod
    def of(cls, own: Voxels, image: NDArray[np.float32], spacing: Sequence[float], step: RefineStep) -> _Borders | None:
        """None where each structure is of one brightness: then the scan says nothing of borders.

        spacing  mm along each axis
        """
        from scipy.ndimage import find_objects

        sigma = tuple(step.mm / s if step.mm / s >= 0.2 else 0.0 for s in spacing)
        d, h, w = (max(1, round(step.around_mm / _BLOCKS / s)) for s in spacing)
        block = (d, h, w)
        width = [step.around_mm / (size * s) for size, s in zip(block, spacing, strict=True)]
        core = _cores(own, [round(_CORE * step.mm / s) for s in spacing])

        def near(item: tuple[int, Box | None]) -> _Near | None:
            k, found = item
            if found is None:
                return None
            box = _wider(found, sigma, own.shape)
            return _Near.of(core[box] & (own[box] == k), image[box], box, block, width)

        found = each(near, enumerate(find_objects(own), 1))
        deviations = [np.sqrt(x.squares / x.count) for x in found if x is not None]
        spread = np.float32(step.spread * np.median(deviations)) if deviations else np.float32(0)
        return cls(own, image, sigma, found, spread) if spread > 0 else None

    def decided(self, first: int, stop: int) -> Voxels:
        """The number of the structure that has each voxel of some planes; 0 where it stays as it is."""
        from scipy.ndimage import gaussian_filter

        best = np.zeros((stop - first, *self.own.shape[1:]), np.float32)
        won = np.zeros(best.shape, self.own.dtype)
        halo = _halo(self.sigma[0])
        for k, near in enumerate(self.near, 1):
            if near is None:
                continue
            start, end = max(first, near.box[0].start), min(stop, near.box[0].stop)
            if start >= end:
                continue
            here = (slice(start, end), *near.box[1:])
            seen = (slice(max(0, start - halo), end + halo), *near.box[1:])
            share = gaussian_filter(
                (self.own[seen] == k).astype(np.float32), self.sigma, mode="constant", truncate=_REACH
            )
            share = share[start - seen[0].start :][: end - start]
            far = near.at(here)
            with np.errstate(over="ignore", invalid="ignore"):  # what is endlessly far, or no number, is of nobody
                np.subtract(self.image[here], far, out=far)
                far *= 1 / self.spread
                far *= far
                far *= 1 / _FREEDOM
                far += 1
                far *= far  # to the power of (degrees of freedom + 1) / 2
                np.divide(share, far, out=far)
            there = (slice(start - first, end - first), *near.box[1:])
            ahead = far > best[there]
            np.copyto(best[there], far, where=ahead)
            won[there][ahead] = k
        won[self.own[first:stop] == 0] = 0
        return won


def _cores(own: Voxels, reach: Sequence[int]) -> NDArray[np.bool_]:
    """Voxels that are of the same structure as those a few voxels away along each axis; all of small structures.

    reach    voxels along each axis; 0 for an axis that does not count
    """
    core: NDArray[np.bool_] = own > 0
    for axis, r in enumerate(reach):
        if r:
            along, inside = np.moveaxis(own, axis, 0), np.moveaxis(core, axis, 0)
            same = along[r:] == along[:-r]
            inside[r:] &= same
            inside[:-r] &= same
            inside[:r] = inside[-r:] = False
    few = np.bincount(own[core], minlength=int(own.max()) + 1) < _FEW
    core |= few[own] & (own > 0)
    return core


def _wider(box: Box, sigma: Sequence[float], shape: Sequence[int]) -> Box:
    """The box and what the Gaussian of shares reaches around it, within a shape."""
    one, two, three = (
        slice(max(0, side.start - _halo(s)), min(n, side.stop + _halo(s)))
        for side, s, n in zip(box, sigma, shape, strict=True)
    )
    return one, two, three


def _halo(sigma: float) -> int:
    """Voxels that a Gaussian reaches, as SciPy rounds them."""
    return int(_REACH * sigma + 0.5)
