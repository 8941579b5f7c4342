"""Move voxels from one grid onto another.

Between grids whose axes are parallel (turned, spaced, shifted: nearly always) each axis is a short sum of shifted
samples, the same operations in the same order for every voxel: a part of a volume gets the very values the whole
would get, whatever the number of threads. Grids at an angle go through SimpleITK in index coordinates, since its
images hold no shear and its transforms do.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Literal, Protocol

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from segcli.parallel import each
from segcli.space.volume import Array, Grid, Volume, Voxels

How = Literal["nearest", "linear", "cubic", "area"]
REPEATED = 12  # times that scipy repeats the border before it filters
_MOST_VOXELS = 4096  # along an axis; ratios of such numbers are 6e-8 apart or more


@dataclass(frozen=True)
class Interpolation:
    """How samples between voxels are made.

    how       "linear", "cubic" (B-spline of order 3 through the voxels, kept within the range of what it goes
              through, as nnU-Net), "nearest", or "area": the mean of all voxels that a voxel of the wanted grid
              touches, between grids that share their outer faces (torch's adaptive pooling)
    smooth    sigma of a Gaussian, in voxels of the wanted grid, along axes where the scan is finer; 0 for none
    finer     an axis is finer when its step is below `finer` times the wanted one
    coarse    an axis whose step is more than `coarse` times the finest, in the scan or else in the wanted grid, is
              sampled by the nearest voxel, whatever `how` says (nnU-Net's separate z, 3 there); None for never
    spacing   mm, that the model asks for along its grid's axes: `coarse` goes by these steps, and not by those of the
              grid, which are stretched to whole numbers of voxels; None, or None for one axis, for the grid's own
    """

    how: How = "linear"
    smooth: float = 0.0
    finer: float = 0.75
    coarse: float | None = None
    spacing: tuple[float | None, float | None, float | None] | None = None


LINEAR = Interpolation()


@dataclass(frozen=True, eq=False)
class Taps:
    """One axis as a sum: output o is sum over t of weights[t, o] * input[index[t, o]].

    index    (T, n_out) int64, already inside the input
    weights  (T, n_out) float32
    """

    index: NDArray[np.int64]
    weights: NDArray[np.float32]


class Sampler(Protocol):
    """Where an image is sampled axis by axis: sums of products, each axis a `Taps`."""

    def send(self, data: Voxels) -> Array:
        """An image (C, D, H, W) where it is sampled."""
        ...

    def apply(self, data: Array, taps: Taps, axis: int) -> Array:
        """What the function `apply` makes of it, to the last bit."""
        ...

    def spline(self, data: Array, axis: int) -> Array:
        """What the function `coefficients` makes of it, to the last bit."""
        ...

    def get(self, data: Array) -> Voxels:
        """The image on the host."""
        ...


def onto(volume: Volume, grid: Grid, rule: Interpolation = LINEAR, on: Sampler | None = None) -> Volume:
    """Sample a volume at the voxel centres of another grid.

    volume   (C, D, H, W), any dtype; "nearest" and turns by 90 degrees keep it, the others give float32
    on       a device; grids at an angle are the host's, as all is without one
    returns  (C, *grid.shape) on `grid`

    Outside the volume the border voxel is repeated: a CT does not turn into water at its edge.
    """
    matrix = grid.to(volume.grid)
    order = parallel(matrix)
    if order is None:
        data = np.stack([oblique(channel, matrix, grid.shape, rule.how) for channel in volume.data])
        return Volume(data, grid, volume.source)
    scale = [float(matrix[axis, i]) for i, axis in enumerate(order)]
    start = [float(matrix[axis, 3]) for axis in order]
    turned = np.transpose(volume.data, (0, *(1 + axis for axis in order)))
    if _only_turned(scale, start, grid.shape, turned.shape[1:]):
        first = [round(s) for s in start]
        step = [round(s) for s in scale]
        cut = tuple(_steps(a, b, n) for a, b, n in zip(first, step, grid.shape, strict=True))
        return Volume(np.ascontiguousarray(turned[(slice(None), *cut)]), grid, volume.source)
    hows = axis_rules(volume.grid, grid, rule)
    coordinates = [positions(start[i], scale[i], n, hows[i]) for i, n in enumerate(grid.shape)]
    fine = [abs(scale[i]) > 1 / rule.finer for i in range(3)]
    there = _HOST if on is None else on
    out = there.send(turned)
    for i in sorted(range(3), key=lambda i: -round(abs(scale[i]), 6)):  # what shrinks most goes first
        n = turned.shape[1 + i]
        if np.array_equal(coordinates[i], np.arange(n)) and not (rule.smooth and fine[i]):
            continue
        if hows[i] == "cubic":
            out, taps = there.spline(out, 1 + i), _spline_taps(coordinates[i], n)
        elif hows[i] == "area":
            taps = areas(n, grid.shape[i], backwards=scale[i] < 0)
        else:
            taps = taps_for(coordinates[i], n, hows[i], rule.smooth * abs(scale[i]) if fine[i] else 0.0)
        if rule.how == "nearest" and there is _HOST and len(taps.index) == 1:
            out = out.take(taps.index[0], 1 + i)  # of its own type: float32 does not hold every label's number
        else:
            out = there.apply(out, taps, 1 + i)
    out = there.get(out)
    if "cubic" in hows:
        out = _kept(out, turned, coordinates, hows)
    dtype = volume.data.dtype if rule.how == "nearest" else np.float32
    return Volume(np.ascontiguousarray(out, dtype), grid, volume.source)


class _Host:
    """The sampler of this machine's own cores."""

    def send(self, data: Voxels) -> Voxels:
        return data

    def apply(self, data: Voxels, taps: Taps, axis: int) -> Voxels:
        return apply(data, taps, axis)

    def spline(self, data: Voxels, axis: int) -> Voxels:
        return coefficients(data, axis)

    def get(self, data: Voxels) -> Voxels:
        return data


_HOST = _Host()


def parallel(matrix: NDArray[np.float64]) -> list[int] | None:
    """For each output axis the one input axis it runs along; None when the grids are at an angle.

    matrix   (4, 4), output index -> input index

    An axis counts as parallel when straying from it over 1000 voxels changes no coordinate by 1/1000 voxel.
    """
    m = np.abs(matrix[:3, :3])
    order = [int(i) for i in m.argmax(0)]
    rest = m.copy()
    rest[order, range(3)] = 0
    return order if sorted(order) == [0, 1, 2] and rest.max() < 1e-6 else None


def positions(start: float, scale: float, count: int, how: How) -> NDArray[np.float64]:
    """Where the samples 0, 1, ... of an axis lie in the input, (count,) in its voxels: start + scale * i.

    A sample half-way between two voxels belongs to the upper one, and which sample is half-way must not be left to the
    rounding of two affines. So for "nearest", where grids share a face and their steps are as their numbers of voxels,
    n / m, the positions are n / m * (i + 0.5) - 0.5 in this very order, as nnU-Net and scikit-image compute them.
    """
    index = np.arange(count, dtype=np.float64)
    if how == "nearest" and scale > 0:
        ratio = Fraction(scale).limit_denominator(_MOST_VOXELS)
        first = (start + 0.5) / scale - 0.5  # of the samples counted from the shared face
        if abs(float(ratio) / scale - 1) < 1e-9 and abs(first - round(first)) < 1e-6:
            return float(ratio) * (index + round(first) + 0.5) - 0.5
    return start + scale * index


def axis_rules(have: Grid, want: Grid, rule: Interpolation, *, back: bool = False) -> list[How]:
    """The interpolation along each axis of `want` when voxels of `have` are moved there.

    back   whether `have` is the model's grid, and not `want`
    """
    hows: list[How] = [rule.how] * 3
    if rule.coarse is None:
        return hows
    order = parallel(want.to(have))
    asked = rule.spacing or (None, None, None)
    stretched = have.spacing if back else want.spacing
    model = [step if own is None else own for own, step in zip(asked, stretched, strict=True)]
    source, target = (model, list(want.spacing)) if back else (list(have.spacing), model)
    for spacing in ([source[i] for i in order or (0, 1, 2)], target):
        if max(spacing) / min(spacing) > rule.coarse:
            widest = [i for i in range(3) if spacing[i] == max(spacing)]
            if len(widest) == 1:
                hows[widest[0]] = "nearest"
            return hows
    return hows


def taps_for(coordinates: NDArray[np.float64], n: int, how: How = "linear", sigma: float = 0.0) -> Taps:
    """The sums that sample an axis of n voxels at fractional coordinates, (m,), the border repeated.

    sigma    voxels of the input; the Gaussian is cut at 3 sigma and applied before the interpolation. Below 0.2
             voxels it would change nothing and is left out.
    """
    inside = np.clip(coordinates, 0, n - 1)
    if how == "nearest":
        low = np.floor(inside + 0.5).astype(np.int64)
        index, weights = low[None], np.ones((1, len(low)))
    else:
        low = np.floor(inside).astype(np.int64)
        part = inside - low
        index, weights = np.stack([low, low + 1]), np.stack([1 - part, part])
    if sigma >= 0.2:
        radius = int(np.ceil(3 * sigma))
        shifts = np.arange(-radius, radius + 1)
        kernel = np.exp(-0.5 * (shifts / sigma) ** 2)
        kernel /= kernel.sum()
        wide = np.zeros((len(shifts) + len(index) - 1, len(low)))
        for t in range(len(index)):
            wide[t : t + len(shifts)] += kernel[:, None] * weights[t]
        index, weights = low[None] + np.arange(-radius, radius + len(index))[:, None], wide
    return Taps(np.clip(index, 0, n - 1), weights.astype(np.float32))


def areas(have: int, want: int, *, backwards: bool = False) -> Taps:
    """The sums that make an axis of `want` voxels of one of `have` between the same faces: means of all they touch.

    backwards   whether the axis runs the other way
    """
    index = np.arange(want)
    first, stop = index * have // want, -(-(index + 1) * have // want)
    counts = stop - first
    place = np.arange(counts.max())[:, None]
    weights = np.where(place < counts, 1 / counts, 0).astype(np.float32)
    at = np.minimum(first + place, stop - 1)
    return Taps(have - 1 - at if backwards else at, weights)


def apply(data: Voxels, taps: Taps, axis: int) -> NDArray[np.float32]:
    """`data`, (C, D, H, W) or fewer axes, with one of them sampled by `taps`; float32 whatever comes in.

    The first spatial axis that is not sampled is cut into pieces for two or more threads; each voxel's sum stays
    the same.
    """
    shape = list(data.shape)
    shape[axis] = taps.index.shape[1]
    out = np.empty(shape, np.float32)
    across = 1 if axis != 1 else 2

    def part(piece: slice) -> None:
        at = tuple(piece if i == across else slice(None) for i in range(data.ndim))
        _sum(data[at], taps, axis, out[at])

    each(part, _pieces(shape[across], out.size))
    return out


def _sum(data: Voxels, taps: Taps, axis: int, out: NDArray[np.float32]) -> None:
    row = [1] * data.ndim
    row[axis] = -1
    scratch = np.empty(out.shape, np.float32)  # written again by each tap: fresh memory costs more than the sums
    data = np.ascontiguousarray(data, np.float32)  # else each tap would make one of its own
    for t, (index, weights) in enumerate(zip(taps.index, taps.weights, strict=True)):
        np.take(data, index, axis, out=scratch, mode="clip")  # of indices that are inside: no other mode takes `out`
        np.multiply(scratch, weights.reshape(row), out=out if t == 0 else scratch)
        if t > 0:
            out += scratch


def _pieces(n: int, size: int) -> list[slice]:
    """Cuts of an axis of n, small enough to stay near the cache and to share among threads."""
    count = int(min(n, max(1, size // (1 << 20))))
    if count == 1:
        return [slice(0, n)]
    edges = np.linspace(0, n, count + 1).astype(int)
    return [slice(int(a), int(b)) for a, b in pairwise(edges)]


def coefficients(data: Voxels, axis: int) -> NDArray[np.float32]:
    """B-spline coefficients of order 3 along an axis, of data whose border is repeated `REPEATED` times at both ends.

    So scipy's `zoom(order=3, mode="nearest")` has them, which is nnU-Net's resampling.
    """
    from scipy.ndimage import spline_filter1d

    pad = [(0, 0)] * data.ndim
    pad[axis] = (REPEATED, REPEATED)
    found: NDArray[np.float32] = spline_filter1d(np.pad(data, pad, mode="edge"), 3, axis, np.float32, mode="nearest")
    return found


def _spline_taps(coordinates: NDArray[np.float64], n: int) -> Taps:
    """The sums of coefficients that are the spline at coordinates of an axis of n voxels."""
    last = n + 2 * REPEATED - 1
    x = np.clip(coordinates + REPEATED, 0, last)  # beyond the border the spline goes on through its repeated voxels
    low = np.floor(x).astype(np.int64)
    u = x - low
    weights = np.stack(
        [
            (1 - u) ** 3 / 6,
            (4 - 6 * u**2 + 3 * u**3) / 6,
            (1 + 3 * u + 3 * u**2 - 3 * u**3) / 6,
            u**3 / 6,
        ]
    )
    index = np.clip(low[None] + np.arange(-1, 3)[:, None], 0, last)
    return Taps(index, weights.astype(np.float32))


def _kept(
    out: NDArray[np.float32], source: Voxels, coordinates: list[NDArray[np.float64]], hows: list[How]
) -> NDArray[np.float32]:
    """Values within the range of the channel they come from, or of its slice where slices are resampled one by one.

    A spline overshoots at edges: a CT that was clipped to a window would leave it.
    """
    axes = tuple(1 + i for i in range(3) if hows[i] == "cubic")
    low, high = (extreme(source, axis=axes, keepdims=True) for extreme in (np.min, np.max))
    for i in range(3):
        if hows[i] == "nearest":
            at = taps_for(coordinates[i], source.shape[1 + i], "nearest").index[0]
            low, high = np.take(low, at, 1 + i), np.take(high, at, 1 + i)
    clipped: NDArray[np.float32] = np.clip(out, low, high)
    return clipped


def oblique(channel: Voxels, matrix: NDArray[np.float64], shape: tuple[int, int, int], how: How) -> Voxels:
    """Sample (D, H, W) at output index @ matrix, through SimpleITK in index coordinates."""
    image = sitk.GetImageFromArray(channel if how == "nearest" else channel.astype(np.float32, copy=False))
    reverse = matrix[:3, :3][::-1, ::-1]  # SimpleITK counts i, j, k: our W, H, D
    transform = sitk.AffineTransform(reverse.ravel().tolist(), matrix[:3, 3][::-1].tolist())
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize([int(n) for n in shape[::-1]])
    resampler.SetTransform(transform)
    resampler.SetUseNearestNeighborExtrapolator(True)
    resampler.SetInterpolator(
        {"nearest": sitk.sitkNearestNeighbor, "cubic": sitk.sitkBSpline}.get(how, sitk.sitkLinear)
    )
    out: Voxels = sitk.GetArrayFromImage(resampler.Execute(image))
    return out


def _only_turned(scale: list[float], start: list[float], shape: tuple[int, ...], have: tuple[int, ...]) -> bool:
    """Whether every sample lies on a voxel of the input, one step apart."""
    last = [a + s * (n - 1) for a, s, n in zip(start, scale, shape, strict=True)]
    return (
        all(abs(abs(s) - 1) < 1e-6 for s in scale)
        and all(abs(v - round(v)) < 1e-3 for v in (*start, *last))
        and all(0 <= round(v) < n for a, n in zip(zip(start, last, strict=True), have, strict=True) for v in a)
    )


def _steps(first: int, step: int, count: int) -> slice:
    stop = first + step * count
    return slice(first, stop if stop >= 0 else None, step)
