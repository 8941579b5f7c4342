"""Slices to volumes: which belong to one, whether they lie on an even grid, and their values on it.

No voxel is read before the positions of all slices are known to make a grid.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcli.errors import InputError, OutOfMemory
from segcli.formats.dicom.files import DicomFile, unsafe, voxels
from segcli.formats.dicom.frames import DISTINGUISHING, Frame, comparable, frames_of, tile_of
from segcli.formats.dicom.kinds import DIRECTION, are_scans
from segcli.formats.dicom.places import printable
from segcli.formats.steps import believable
from segcli.space.volume import Grid, Voxels

POSITION_TOLERANCE = 0.01  # of the slice spacing, or that many mm, whichever is more
ROUNDING_LIMIT = 0.05  # of the slice spacing: no rounding of positions is believed beyond it
ALIKE = 1e-3  # largest difference of direction cosines, and of pixel spacings relative to them, within a series
_ALONE = "the only one"
_PLANES = ("sagittal slices", "coronal slices", "axial slices")  # by the axis that is nearest to their normal


class Uneven(InputError):
    """The slices are not evenly spaced."""


@dataclass(frozen=True, eq=False)
class Stack:
    """The slices of one volume, and what tells it apart from the others of its series; its direction, where it does."""

    frames: tuple[Frame, ...]
    what: str
    direction: str = ""


def stacks_of(files: Sequence[DicomFile]) -> tuple[Stack, ...]:
    """The volumes that the images of a series hold; InputError names the slice that makes them none."""
    for file in files:
        if file.fault is not None:
            raise InputError(f"{file.name}: {file.fault}", hint="export or copy the series again")
    _one_patient(files)
    frames = [frame for file in _once(files) for frame in frames_of(file)]
    stacks = []
    for what, group in _directions(frames).items():
        _alike(group)
        stacks += [Stack(stack.frames, _joined(what, stack.what), what) for stack in _split(group)]
    for stack in stacks:
        _rescaled_alike(stack.frames)
    return tuple(stacks)


def _directions(frames: Sequence[Frame]) -> dict[str, list[Frame]]:
    """The frames by what is said of their direction: one group, unless there is a whole scan in each of several."""
    groups: list[list[Frame]] = []
    for frame in frames:
        for group in groups:
            cosines = zip((*frame.row, *frame.column), (*group[0].row, *group[0].column), strict=True)
            if max(abs(a - b) for a, b in cosines) <= DIRECTION:
                group.append(frame)
                break
        else:
            groups.append([frame])
    if not are_scans([len(group) for group in groups]):
        return {"": list(frames)}
    named: dict[str, list[Frame]] = {}
    for group in groups:
        normal = np.cross(group[0].row, group[0].column)
        plain = _PLANES[int(np.abs(normal).argmax())]
        twin = f"{plain}, normal {' '.join(f'{v:.2f}' for v in normal + 0.0)}"
        named[twin if plain in named else plain] = group
    return named


def _joined(*words: str) -> str:
    """What is said of a volume: of its direction, and of what else tells it apart."""
    return ", ".join(word for word in words if word and word != _ALONE) or _ALONE


def _one_patient(files: Sequence[DicomFile]) -> None:
    """Two patients or two frames of reference under one series are refused; the values are not told."""
    for keyword, what in (("PatientID", "patients"), ("StudyInstanceUID", "studies")):
        if len({f.text(keyword) for f in files}) > 1:
            raise InputError(f"its slices are of several {what}", hint="export the series again")
    if len(names_of(files)) > 1 and not files[0].text("PatientID"):
        raise InputError("its slices are of several patients", hint="export the series again")
    frames = {f.text("FrameOfReferenceUID") for f in files}
    if "" in frames and len(frames) > 1:
        missing = next(f.name for f in files if not f.text("FrameOfReferenceUID"))
        raise InputError(f"{missing}: the frame of reference is missing: no geometry")
    if len(frames) > 1:
        raise InputError(f"its slices are in {len(frames)} frames of reference: no common geometry")


def names_of(files: Sequence[DicomFile]) -> set[str]:
    """The patients' names, as the standard compares them: padding and delimiters at the end of a part do not count."""

    def plain(group: str) -> str:
        return "^".join(part.strip() for part in group.split("^")).rstrip("^")

    names = {file.text("PatientName") for file in files}
    return {"=".join(map(plain, name.split("="))).rstrip("=") for name in names}


def _once(files: Sequence[DicomFile]) -> list[DicomFile]:
    """Each instance once; two files that claim to be one instance must hold the same."""
    kept: dict[str, DicomFile] = {}
    for file in files:
        uid = file.text("SOPInstanceUID") or str(file.path)
        other = kept.setdefault(uid, file)
        if other is not file and not _same(file, other):
            raise InputError(
                f"{file.name} and {other.name} claim to be the same instance, with other content{unsafe(file)}",
                hint="export the series again",
            )
    return list(kept.values())


def _same(a: DicomFile, b: DicomFile) -> bool:
    places = (
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "RescaleSlope",
        "RescaleIntercept",
    )
    return all(a.text(k) == b.text(k) for k in places) and np.array_equal(voxels(a), voxels(b))


def _alike(frames: Sequence[Frame]) -> None:
    """All slices have the size, the orientation and the pixel spacing that most of them have."""
    shape = Counter(f.shape for f in frames).most_common(1)[0][0]
    axes = np.array([[*f.row, *f.column, *f.spacing] for f in frames])
    for f, off in zip(frames, np.abs(axes - np.median(axes, axis=0)), strict=True):
        if f.shape != shape:
            raise InputError(f"{f.name}: {f.shape[0]} x {f.shape[1]} pixels, other slices have {shape[0]} x {shape[1]}")
        if off[:6].max() > ALIKE:
            raise InputError(f"{f.name}: its orientation differs from that of other slices (by {off[:6].max():.3g})")
        if off[6:].max() > ALIKE * min(f.spacing):
            raise InputError(f"{f.name}: pixel spacing {f.spacing[0]:g} x {f.spacing[1]:g} mm, other slices differ")


def _rescaled_alike(frames: Sequence[Frame]) -> None:
    """All slices of a volume say how their values are rescaled, or none does: a CT would be 1,024 HU off in a slice."""
    bare = [f.name for f in frames if not f.rescaled]
    if 0 < len(bare) < len(frames):
        raise InputError(
            f"{bare[0]}: rescale slope and intercept are missing, which {len(frames) - len(bare)} of {len(frames)} "
            "slices have: its values cannot be told",
            hint="export the series again",
        )


def _along(frames: Sequence[Frame]) -> NDArray[np.float64]:
    """Position of each slice along the normal of the first, mm."""
    normal = np.cross(frames[0].row, frames[0].column)
    along: NDArray[np.float64] = np.array([f.position for f in frames]) @ normal
    return along


def _split(frames: list[Frame]) -> list[Stack]:
    """The volumes of a series: one, or as many as share each position, told apart by one attribute or by number."""
    place = np.round(_along(frames) / POSITION_TOLERANCE).astype(np.int64)
    order = np.argsort(place, kind="stable")
    spots = np.cumsum(np.diff(place[order], prepend=place[order[0]]) > 1)  # within one tolerance is one position
    spot = np.empty(len(frames), np.int64)
    spot[order] = spots
    most = int(np.bincount(spot).max())
    if most == 1:
        return [Stack(tuple(frames), _ALONE)]
    said_of = {key: [f.key(key) for f in frames] for key in DISTINGUISHING} | _dimensions(frames)
    telling = {  # keys with no more values than there are volumes; more is a slice's own
        key: values for key, values in said_of.items() if len(set(values)) <= most and _differ(values, spot)
    }
    direction, value = "DiffusionGradientOrientation", "DiffusionBValue"
    alone = [(value, key) if key == direction and value in telling else (key,) for key in telling]
    for keys in (*alone, tuple(telling)):
        said = list(zip(*(telling[key] for key in keys), strict=True))
        kinds = sorted(set(said), key=lambda kind: [(v is None, isinstance(v, str), v or 0) for v in kind])
        groups = [[i for i, kind in enumerate(said) if kind == one] for one in kinds]
        if len(kinds) == most and all(len({spot[i] for i in g}) == len(g) for g in groups):
            words = [", ".join(map(_words, keys, kind)) for kind in kinds]
            return [Stack(tuple(frames[i] for i in g), w) for g, w in zip(groups, words, strict=True)]
    once = _without_copies(frames, spot)
    if len(once) < len(frames):
        return _split(once)
    return _by_number(frames, spot, most, telling)


def _without_copies(frames: list[Frame], spot: NDArray[np.int64]) -> list[Frame]:
    """One of each slice that is there several times, equal in place and voxels, under other identifiers."""
    kept: dict[int, list[Frame]] = {}
    for frame, at in zip(frames, spot.tolist(), strict=True):
        others = kept.setdefault(at, [])
        alone = not frame.tile and frame.file.count("NumberOfFrames") == 1
        if not (alone and any(o.shape == frame.shape and _same(o.file, frame.file) for o in others)):
            others.append(frame)
    return [frame for at in sorted(kept) for frame in kept[at]]


def _dimensions(frames: Sequence[Frame]) -> dict[str, list[Any]]:
    """The index of each frame in each dimension of a multi-frame file (time, echo, place in the stack)."""
    each = [f.dimensions for f in frames]
    if len({len(indices) for indices in each}) > 1:
        return {}
    columns = zip(*each, strict=True)
    return {f"dimension {n} index": list(column) for n, column in enumerate(columns, 1)}


def _differ(values: Sequence[Any], spot: NDArray[np.int64]) -> bool:
    """Whether slices at one position have several of the values: what goes with the position tells no volumes apart."""
    return len(set(zip(spot.tolist(), values, strict=True))) > len(set(spot.tolist()))


def _words_of(key: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", key).lower()


def _words(key: str, value: Any) -> str:
    what = _words_of(key)
    if value is None:
        return f"without {what}"
    if isinstance(value, float):
        return f"{what} {value:g}"
    parts = [comparable(part) for part in str(value).split("\\")]
    numbers = [round(part, 3) + 0 for part in parts if isinstance(part, float)]
    return f"{what} {' '.join(f'{n:g}' for n in numbers) if len(numbers) == len(parts) else printable(str(value))}"


def _by_number(frames: list[Frame], spot: NDArray[np.int64], most: int, telling: dict[str, list[Any]]) -> list[Stack]:
    """Volumes in the order of the instance numbers at each position, where each position has the same many.

    The numbers must run volume by volume or position by position, and what may tell volumes apart must be one within
    each of them: else they run across volumes. The frames of a multi-frame file have no such number: the order in
    which they are stored means nothing.
    """
    counts = np.bincount(spot)
    numbers = [(-1 if f.number is None else f.number, f.index) for f in frames]
    places: list[list[int]] = [[] for _ in counts]
    for i in sorted(range(len(frames)), key=lambda i: numbers[i]):
        places[spot[i]].append(i)
    ranks = [[place[k] for place in places if k < len(place)] for k in range(most)]
    mixed = any(len({values[i] for i in rank}) > 1 for values in telling.values() for rank in ranks)
    unnumbered = len({(f.file, s) for f, s in zip(frames, spot.tolist(), strict=True)}) < len(frames)
    in_runs = any(_in_runs([[numbers[i] for i in group] for group in groups]) for groups in (ranks, places))
    if len(counts) == 1 and len(frames) > 1:
        raise InputError(
            f"{len(frames)} slices, all at one position: not a volume",
            hint="name a series whose slices lie side by side",
        )
    if counts.min() != most or len(set(numbers)) != len(numbers) or mixed or unnumbered or not in_runs:
        raise InputError(
            f"{len(frames)} slices at {len(counts)} positions, up to {most} with other content at the same position: "
            f"there seem to be {most} volumes, and {_contradicting(telling)}",
            hint="export the series again, one volume in each",
        )
    return [Stack(tuple(frames[i] for i in r), f"number {k} at each position") for k, r in enumerate(ranks, 1)]


def _contradicting(telling: dict[str, list[Any]]) -> str:
    """Why the attributes of the slices tell no volumes apart, with those that differ at one position."""
    if not telling:
        return "nothing tells them apart"
    shown = ", ".join(f"{_words_of(key)} ({len(set(values))} values)" for key, values in list(telling.items())[:5])
    return f"what differs between them fits no whole volumes: {shown}"


def _in_runs(groups: Sequence[Sequence[tuple[int, int]]]) -> bool:
    """Whether each group's numbers all come before or all after those of any other group."""
    spans = sorted((min(group), max(group)) for group in groups)
    return all(a[1] < b[0] for a, b in itertools.pairwise(spans))


def stack_grid(frames: Sequence[Frame], name: str, *, fill_gaps: bool = False) -> tuple[Grid, tuple[Frame | None, ...]]:
    """The grid of a stack of slices, and its frames in the order of the planes.

    Gaps are filled, where that is wished, with as many planes as their length is a whole multiple of the spacing.
    """
    along = _along(frames)
    order = np.argsort(along, kind="stable")
    planes: list[Frame | None] = [frames[i] for i in order]
    first = frames[order[0]]
    positions = np.array([frames[i].position for i in order])
    normal = np.cross(first.row, first.column)
    if len(frames) == 1:
        if first.thickness is None:
            raise InputError(f"{name}: one slice without a thickness: no spacing")
        origin, step = positions[0], normal * first.thickness
    else:
        gaps = np.diff(along[order])
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
