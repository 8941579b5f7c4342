"""A cascade: the labels of a first model are shown to a second one, as a channel of 0 and 1 for each structure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from segcli.space.corners import turned_to
from segcli.space.resample import LINEAR, Interpolation, axis_rules, onto, parallel, positions, taps_for
from segcli.space.volume import Grid, Volume, Voxels

Rule = Literal["largest", "half"]


def label_channels(
    labels: Volume,
    values: Sequence[int],
    inside: Volume,
    want: Grid,
    apart: Interpolation | None,
    rule: Rule = "largest",
) -> NDArray[np.float32]:
    """A channel (L, d, h, w) on a grid for each of several label values, as nnU-Net resamples label maps.

    labels   (1, D, H, W) on the scan's grid
    inside   (1, D', H', W') whether there is something, of the part of the scan that is resampled: beyond that part
             its border goes on, and background where there is nothing is a label of its own
    apart    says which slices are resampled one by one, see `Interpolation.coarse`; None for none

    Each label's mask is interpolated linearly, in float64, and the largest wins; of equal ones the label of the nearest
    voxel, where it is among them, else the least. With the rule "half" (version 1) it is the last label that has one
    half at least, background where none has, and slices count like the rest.
    """
    order = parallel(want.to(inside.grid))
    have = inside.grid if order is None else turned_to(inside.grid, want, order)
    cut, body = (onto(v, have, Interpolation("nearest")).data[0] for v in (labels, inside))
    if rule == "half":
        cut = cut.astype(np.int32)
        found = np.zeros(want.shape, np.int32)
        for value in np.unique(cut):
            found[_resized(cut == value, have, want, 1, None) >= 0.5] = value
        return _channels(found, values)
    cut = np.where((cut == 0) & ~body, -1, cut.astype(np.int32))
    nearest = _resized(cut, have, want, 0, apart).astype(np.int32)
    best = np.full(want.shape, -1.0)
    found = np.zeros(want.shape, np.int32)
    among = np.zeros(want.shape, bool)  # whether the nearest voxel's label is one of the best
    for value in np.unique(cut):
        share = np.clip(_resized(cut == value, have, want, 1, apart), 0, 1)
        better, equal = share > best, share == best
        among = np.where(better, nearest == value, among | (equal & (nearest == value)))
        found[better] = value
        np.maximum(best, share, out=best)
    found = np.where(among, nearest, found)
    return _channels(found, values)


def _channels(found: NDArray[np.int32], values: Sequence[int]) -> NDArray[np.float32]:
    return np.stack([(found == value).astype(np.float32) for value in values])


def _resized(data: Voxels, have: Grid, want: Grid, order: int, apart: Interpolation | None) -> NDArray[np.float64]:
    """(d, h, w) on a grid of parallel axes that covers the same body, by splines of an order, as skimage's resize."""
    from scipy.ndimage import zoom

    if parallel(want.to(have)) is None:
        rule = Interpolation("linear" if order else "nearest")
        slanted: NDArray[np.float64] = onto(Volume(data[None].astype(np.float32), have), want, rule).data[0]
        return slanted
    hows = axis_rules(have, want, LINEAR if apart is None else replace(apart, how="linear"))
    factors = [1.0 if how == "nearest" else n / m for how, n, m in zip(hows, want.shape, have.shape, strict=True)]
    out: NDArray[np.float64] = zoom(data.astype(np.float64), factors, order=order, mode="nearest", grid_mode=True)
    if "nearest" in hows:
        axis, matrix = hows.index("nearest"), want.to(have)
        along = positions(float(matrix[axis, 3]), float(matrix[axis, axis]), want.shape[axis], "nearest")
        slices: NDArray[np.float64] = np.take(out, taps_for(along, have.shape[axis], "nearest").index[0], axis)
        return slices
    return out
