"""Slices that are cut to the body in them, each to a box of its own, and brought to one size: lungmask's way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcli.space.resample import Interpolation, onto
from segcli.space.volume import Grid, Volume

_COARSE = 128  # rows and columns of the small slice that the body is looked for in
_ROUNDS = 2  # of erosion, which takes the table off, and of dilation after it

Part = tuple[slice, slice]


@dataclass(frozen=True)
class Frame:
    """Cut each slice to the body in it and bring it to a size, linearly, its outermost voxel centres kept.

    above   what is above this in the first channel may be body; the largest piece is
    size    rows and columns
    whole   values are rounded to whole numbers, as those of a CT are
    """

    above: float
    size: tuple[int, int]
    whole: bool = False


@dataclass(frozen=True, eq=False)
class Frames:
    """Where the slices of a scan were cut.

    grid    of the scan before, turned as the model sees it
    axis    along which slices are taken
    parts   rows and columns of each slice
    """

    grid: Grid
    axis: int
    parts: tuple[Part, ...]

    def back(self, labels: Volume, scan: Grid) -> Volume:
        """Labels (1, ...) of the cut slices on the scan's grid, each voxel by the nearest; beyond the cuts 0."""
        from scipy.ndimage import zoom

        shape = np.delete(self.grid.shape, self.axis)
        slices = np.zeros((len(self.parts), *shape), labels.data.dtype)
        for found, into, part in zip(np.moveaxis(labels.data[0], self.axis, 0), slices, self.parts, strict=True):
            there = into[part]
            there[...] = zoom(found, np.divide(there.shape, found.shape), order=0)
        whole = Volume(np.moveaxis(slices, 0, self.axis)[None], self.grid)
        return onto(whole, scan, Interpolation("nearest"))


def framed(image: Volume, rule: Frame, axis: int) -> tuple[Volume, Frames]:
    """The slices (C, ...) of an image cut to the body and brought to the rule's size.

    returns   on a grid of that size over the whole of each slice, which is not where their voxels are: `Frames` knows
    """
    from scipy.ndimage import zoom

    slices = np.moveaxis(image.data, 1 + axis, 0)  # (slices, C, rows, columns)
    parts = tuple(_body(one[0], rule.above) for one in slices)
    made = np.empty((*slices.shape[:2], *rule.size), np.float32)
    for one, into, part in zip(slices, made, parts, strict=True):
        for channel, there in zip(one, into, strict=True):
            cut = np.rint(channel[part]).astype(np.int32) if rule.whole else channel[part]
            there[...] = zoom(cut, np.divide(rule.size, cut.shape), order=1)
    grid = _spread(image.grid, axis, rule.size)
    return Volume(np.moveaxis(made, 0, 1 + axis), grid, image.source), Frames(image.grid, axis, parts)


def _body(image: NDArray[Any], above: float) -> Part:
    """The box of the largest piece above a value in a slice, holes filled; the whole slice where there is none."""
    from scipy import ndimage

    small = ndimage.zoom(image, _COARSE / np.array(image.shape), order=0)
    mask = ndimage.binary_fill_holes(ndimage.binary_closing(small > above), np.ones((3, 3)))
    pieces, count = ndimage.label(ndimage.binary_erosion(mask, iterations=_ROUNDS))
    if count == 0:
        return slice(0, image.shape[0]), slice(0, image.shape[1])
    largest = 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    body = ndimage.binary_dilation(pieces == largest, iterations=_ROUNDS)
    whole = ndimage.zoom(body, np.array(image.shape) / _COARSE, order=0)
    rows, columns = ndimage.find_objects(ndimage.label(whole, np.ones((3, 3)))[0])[0]
    return rows, columns


def _spread(grid: Grid, axis: int, size: tuple[int, int]) -> Grid:
    """A grid over the same field with other numbers of rows and columns."""
    affine, shape = grid.affine.copy(), list(grid.shape)
    for along, count in zip([a for a in range(3) if a != axis], size, strict=True):
        step = affine[:3, along] * grid.shape[along] / count
        affine[:3, 3] += (step - affine[:3, along]) / 2
        affine[:3, along], shape[along] = step, count
    return Grid((shape[0], shape[1], shape[2]), affine)
