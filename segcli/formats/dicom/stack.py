"""The slices of a volume: whether they lie on an even grid, and their values on it.

No voxel is read before the positions of all slices are known to make a grid.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from segcli.errors import InputError, OutOfMemory
from segcli.formats.dicom.files import DicomFile
from segcli.formats.dicom.frames import Frame, tile_of
from segcli.formats.dicom.pixels import voxels
from segcli.formats.steps import believable
from segcli.space.volume import Grid, Voxels

POSITION_TOLERANCE = 0.01  # of the slice spacing, or that many mm, whichever is more
ROUNDING_LIMIT = 0.05  # of the slice spacing: no rounding of positions is believed beyond it


class Uneven(InputError):
    """The slices are not evenly spaced."""


def along(frames: Sequence[Frame]) -> NDArray[np.float64]:
    """Position of each slice along the normal of the first, mm."""
    normal = np.cross(frames[0].row, frames[0].column)
    found: NDArray[np.float64] = np.array([f.position for f in frames]) @ normal
    return found


def stack_grid(frames: Sequence[Frame], name: str, *, fill_gaps: bool = False) -> tuple[Grid, tuple[Frame | None, ...]]:
    """The grid of a stack of slices, and its frames in the order of the planes.

    Gaps are filled, where that is wished, with as many planes as their length is a whole multiple of the spacing.
    """
    at_normal = along(frames)
    order = np.argsort(at_normal, kind="stable")
    planes: list[Frame | None] = [frames[i] for i in order]
    first = frames[order[0]]
    positions = np.array([frames[i].position for i in order])
    normal = np.cross(first.row, first.column)
    if len(frames) == 1:
        if first.thickness is None:
            raise InputError(f"{name}: one slice without a thickness: no spacing")
        origin, step = positions[0], normal * first.thickness
    else:
        gaps = np.diff(at_normal[order])
        usual = float(np.median(gaps)) if not fill_gaps else float(gaps.min())
        steps = np.round(gaps / usual).astype(int) if fill_gaps else np.ones(len(gaps), int)
        at = np.concatenate([[0], np.cumsum(steps)])
        if at[-1] + 1 > 2 * len(frames):
            raise Uneven(_uneven(name, gaps, usual)[0], hint="more slices are missing than are there")
        origin, step = _line(name, positions, at, gaps, usual)
        filled: list[Frame | None] = [None] * (int(at[-1]) + 1)
        for k, frame in zip(at, planes, strict=True):
            filled[k] = frame
        planes = filled
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = np.array(first.column) * first.spacing[0]
    affine[:3, 2] = np.array(first.row) * first.spacing[1]
    affine[:3, 3] = origin
    believable(name, np.linalg.norm(affine[:3, :3], axis=0).tolist())
    return Grid((len(planes), *first.shape), affine), tuple(planes)


def farthest(spacing: float) -> float:
    """How far, in mm, a slice of a volume may lie off its plane: rounding of its position was believed so far."""
    return max(ROUNDING_LIMIT * spacing, POSITION_TOLERANCE) + 1e-6


def _tolerance(spacing: float) -> float:
    """How far, in mm, a slice may lie off the even line of positions without a word."""
    return max(POSITION_TOLERANCE * spacing, POSITION_TOLERANCE)


def _line(
    name: str, positions: NDArray[np.float64], at: NDArray[np.int64], gaps: NDArray[np.float64], usual: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The first position and the step of the even line that the slices (n, 3), at whole numbers of steps, lie on.

    From the first slice to the last where all lie on it; else the fitted line, where no slice is farther from it than
    the rounding of its position explains.
    """
    tolerance = _tolerance(usual)
    step = (positions[-1] - positions[0]) / at[-1]
    astray = np.linalg.norm(positions - positions[0] - at[:, None] * step, axis=1)
    uneven = np.abs(gaps - np.diff(at) * usual).max() > tolerance
    if not uneven and astray.max() <= tolerance:
        return positions[0], step
    (origin, fitted), *_ = np.linalg.lstsq(np.column_stack([np.ones(len(at)), at]), positions, rcond=None)
    off = np.abs(positions - origin - at[:, None] * fitted)
    if (off <= _rounding(positions) + 1e-6).all() and np.linalg.norm(off, axis=1).max() <= ROUNDING_LIMIT * usual:
        return origin, fitted
    if uneven:
        told, hint = _uneven(name, gaps, usual)
        raise Uneven(told, hint=hint)
    k = int(astray.argmax())
    raise InputError(
        f"{name}: slice {k + 1} of {len(positions)} lies {astray[k]:.3g} mm off the even line of positions",
        hint="its position cannot be right: export the series again",
    )


def _rounding(positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """(3,) mm: the coarsest of 1, 0.5, 0.1, 0.05, 0.01 that all differences of x, of y and of z are multiples of.

    The numbers themselves may have more decimals: a whole series may be shifted after it was rounded.
    """
    apart = positions - positions[0]

    def coarsest(values: NDArray[np.float64]) -> float:
        return next((q for q in (1, 0.5, 0.1, 0.05, 0.01) if np.abs(values / q - np.round(values / q)).max() < 0.01), 0)

    return np.array([coarsest(apart[:, axis]) for axis in range(3)])


def _uneven(name: str, gaps: NDArray[np.float64], usual: float) -> tuple[str, str]:
    """Which gaps differ from the usual one, with slice numbers (from 1, along the normal) and distances; and a hint.

    Slices are missing where each wrong gap is as long as several; else they lie unevenly.
    """
    if np.abs(gaps - usual).min() > ROUNDING_LIMIT * usual:  # the middle of an even number, between two kinds of gaps
        usual = float(gaps[gaps < usual].max())
    off = np.abs(gaps - usual)
    far = bool((off > ROUNDING_LIMIT * usual).any())  # then what rounding may have done is no news
    wrong = np.flatnonzero(off > (ROUNDING_LIMIT * usual if far else _tolerance(usual)))
    shown = ", ".join(f"{gaps[k]:.4g} mm after slice {k + 1}" for k in wrong[:5])
    more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
    told = f"{name}: {len(gaps) + 1} slices unevenly spaced: {shown}{more}, while the usual gap is {usual:.4g} mm: "
    times = gaps[wrong] / usual
    if far and (np.abs(times - np.round(times)) <= ROUNDING_LIMIT).all() and times.min() > 1.5:
        lost = int((np.round(times) - 1).sum())
        return (
            f"{told}{'a slice is' if lost == 1 else f'{lost} slices are'} missing",
            "add the missing slices or export the series again; --fill-gaps interpolates whole missing slices",
        )
    return (
        f"{told}the slices were acquired at uneven positions, or their positions are wrong",
        "export the series with even spacing; --fill-gaps cannot help, for the gaps are no whole number of slices",
    )


def values_of(planes: Sequence[Frame | None], shape: tuple[int, int, int]) -> Voxels:
    """(D, H, W) rescaled slice by slice: int16 as long as all values fit, float32 otherwise."""
    data: Voxels = _room(shape, np.int16)
    file: DicomFile | None = None
    stored: Voxels = np.empty(0)
    for k, plane in enumerate(planes):
        if plane is None:
            continue
        if plane.file is not file:
            file, stored = plane.file, voxels(plane.file)
        image = tile_of(stored, plane)
        if data.dtype == np.int16 and not _fits(image, plane):
            whole, data = data, _room(shape, np.float32)
            data[:k] = whole[:k]
        if data.dtype == np.int16:
            scaled = image if plane.slope == 1 else image * np.int64(plane.slope)
            np.add(scaled.astype(np.int16, copy=False), np.int16(plane.intercept), out=data[k])
        else:
            data[k] = image * plane.slope + plane.intercept
    return _filled(data, planes)


def _room(shape: tuple[int, int, int], dtype: type[np.generic]) -> Voxels:
    try:
        return np.empty(shape, dtype)
    except MemoryError as error:
        need = math.prod(shape) * np.dtype(dtype).itemsize / 2**30
        raise OutOfMemory(f"a series of {' x '.join(map(str, shape))} voxels needs {need:,.1f} GiB") from error


def _fits(image: Voxels, plane: Frame) -> bool:
    """Whether the rescaled values are whole numbers within int16."""
    if not (plane.slope.is_integer() and plane.intercept.is_integer()):
        return False
    low, high = np.iinfo(image.dtype).min, (1 << plane.file.count("BitsStored", 16)) - 1
    return _ends(low, high, plane) or _ends(int(image.min()), int(image.max()), plane)


def _ends(low: int, high: int, plane: Frame) -> bool:
    """Whether both ends of a range of stored values, and the intercept on its own, fit int16 when rescaled."""
    slope, intercept = int(plane.slope), int(plane.intercept)
    values = (low * slope + intercept, high * slope + intercept, intercept)
    return min(values) >= -32768 and max(values) <= 32767


def _filled(data: Voxels, planes: Sequence[Frame | None]) -> Voxels:
    """Planes without a file become the linear mix of their neighbours."""
    real = [k for k, plane in enumerate(planes) if plane is not None]
    if len(real) == len(planes):
        return data
    for below, above in itertools.pairwise(real):
        for k in range(below + 1, above):
            part = (k - below) / (above - below)
            mix = data[below] * (1 - part) + data[above] * part
            data[k] = np.round(mix) if data.dtype == np.int16 else mix
    return data
