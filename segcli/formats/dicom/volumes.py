"""Which slices of a series belong to one volume, and what tells its volumes apart."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcli.errors import InputError
from segcli.formats.dicom.files import DicomFile, unsafe
from segcli.formats.dicom.frames import DISTINGUISHING, Frame, comparable, frames_of
from segcli.formats.dicom.kinds import DIRECTION, are_scans
from segcli.formats.dicom.pixels import voxels
from segcli.formats.dicom.places import printable
from segcli.formats.dicom.stack import POSITION_TOLERANCE, along, stack_grid

ALIKE = 1e-3  # largest difference of direction cosines, and of pixel spacings relative to them, within a series
_ALONE = "the only one"
_STACK = "StackID"  # of slices that belong together, as a multi-frame file says
_PLANES = ("sagittal slices", "coronal slices", "axial slices")  # by the axis that is nearest to their normal


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
    groups = _directions(frames)
    several = len(groups) > 1
    if not several and _unlike(frames) is not None:
        groups = _each_alike(frames)
    stacks = []
    for what, group in groups.items():
        if (told := _unlike(group)) is not None:
            raise InputError(told)
        for stack in _split(group):
            parts = [part for each in _of_one_kind(stack) for part in _of_one_line(each)]
            words = [_joined(what, stack.what, part.what) for part in parts]
            stacks += [Stack(p.frames, w, what if several else "") for p, w in zip(parts, words, strict=True)]
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


def _each_alike(frames: Sequence[Frame]) -> dict[str, list[Frame]]:
    """The frames by their kind of image (original, derived) or by what stack they are said to be of (StackID).

    One group, where by neither each has a geometry of its own.
    """
    said_of = {"ImageType": [f.kind["ImageType"] for f in frames], _STACK: [f.key(_STACK) for f in frames]}
    for keyword, values in said_of.items():
        groups = _by_value(frames, values)
        if not any(map(_unlike, groups.values())):
            return {in_words(keyword, value): group for value, group in groups.items()}
    return {"": list(frames)}


def _by_value(frames: Sequence[Frame], values: Sequence[object]) -> dict[object, list[Frame]]:
    """The frames of each of the values that they have of an attribute, in the order of the values."""
    kinds = sorted(set(values), key=lambda value: _rank([value]))
    return {one: [f for f, v in zip(frames, values, strict=True) if v == one] for one in kinds}


def _joined(*words: str) -> str:
    """What is said of a volume: of its direction, and of what else tells it apart."""
    return ", ".join(word for word in words if word and word != _ALONE) or _ALONE


def _one_patient(files: Sequence[DicomFile]) -> None:
    """Two patients or two frames of reference under one series are refused; the values are not told."""
    for keyword, what in (("PatientID", "patients"), ("StudyInstanceUID", "studies"), ("Modality", "modalities")):
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


def _unlike(frames: Sequence[Frame]) -> str | None:
    """What is said of a slice without the size, the orientation or the pixel spacing that most have; None for none."""
    shape = Counter(f.shape for f in frames).most_common(1)[0][0]
    axes = np.array([[*f.row, *f.column, *f.spacing] for f in frames])
    for f, off in zip(frames, np.abs(axes - np.median(axes, axis=0)), strict=True):
        if f.shape != shape:
            return f"{f.name}: {f.shape[0]} x {f.shape[1]} pixels, other slices have {shape[0]} x {shape[1]}"
        if off[:6].max() > ALIKE:
            return f"{f.name}: its orientation differs from that of other slices (by {off[:6].max():.3g})"
        if off[6:].max() > ALIKE * min(f.spacing):
            return f"{f.name}: pixel spacing {f.spacing[0]:g} x {f.spacing[1]:g} mm, other slices differ"
    return None


def _rescaled_alike(frames: Sequence[Frame]) -> None:
    """All slices of a volume say how their values are rescaled, or none does: a CT would be 1,024 HU off in a slice."""
    bare = [f.name for f in frames if not f.rescaled]
    if 0 < len(bare) < len(frames):
        raise InputError(
            f"{bare[0]}: rescale slope and intercept are missing, which {len(frames) - len(bare)} of {len(frames)} "
            "slices have: its values cannot be told",
            hint="export the series again",
        )


def _split(frames: list[Frame]) -> list[Stack]:
    """The volumes of a series: one, or as many as share each position, told apart by one attribute or by number."""
    spot = _spots(frames)
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
        kinds = sorted(set(said), key=_rank)
        groups = [[i for i, kind in enumerate(said) if kind == one] for one in kinds]
        if len(kinds) == most and all(len({spot[i] for i in g}) == len(g) for g in groups):
            words = [", ".join(map(in_words, keys, kind)) for kind in kinds]
            return [Stack(tuple(frames[i] for i in g), w) for g, w in zip(groups, words, strict=True)]
    once = _without_copies(frames, spot)
    if len(once) < len(frames) and len(set(np.bincount(_spots(once)).tolist())) == 1:  # else some are equal by chance
        return _split(once)
    return _by_number(frames, spot, most, telling)


def _spots(frames: Sequence[Frame]) -> NDArray[np.int64]:
    """The number of the position at which each slice lies, from 0 along the normal."""
    place = np.round(along(frames) / POSITION_TOLERANCE).astype(np.int64)
    order = np.argsort(place, kind="stable")
    spot = np.empty(len(frames), np.int64)
    spot[order] = np.cumsum(np.diff(place[order], prepend=place[order[0]]) > 1)  # within one tolerance is one position
    return spot


def _of_one_kind(stack: Stack) -> list[Stack]:
    """A volume whose slices show different things (echoes, b-values, phase beside magnitude), parted by them.

    A value of its own in each slice is a slice's and tells no volumes apart.
    """
    frames = stack.frames
    each = [frame.kind for frame in frames]
    said = {name: _merged([kind[name] for kind in each]) for name in each[0]}
    telling = {name: values for name, values in said.items() if 1 < len(set(values)) < len(frames)}
    kinds = list(zip(*telling.values(), strict=True)) or [()] * len(frames)
    parts = {
        kind: [f for f, k in zip(frames, kinds, strict=True) if k == kind] for kind in sorted(set(kinds), key=_rank)
    }
    return [Stack(tuple(part), ", ".join(map(in_words, telling, kind)) or _ALONE) for kind, part in parts.items()]


def _of_one_line(stack: Stack) -> list[Stack]:
    """A volume whose slices lie on no even line together, parted by what stacks they are said to be of (StackID).

    Where whole slices of one line are missing it stays one volume, and reading it tells that.
    """
    values = [frame.key(_STACK) for frame in stack.frames]
    if len(set(values)) in (1, len(values)):
        return [stack]
    try:
        stack_grid(stack.frames, "", fill_gaps=True)
    except InputError:
        parts = _by_value(stack.frames, values)
        return [Stack(tuple(part), _joined(stack.what, in_words(_STACK, one))) for one, part in parts.items()]
    return [stack]


def _merged(values: Sequence[object]) -> list[object]:
    """The values, of numbers that differ by no more than rounding (1 %) the least."""
    least: dict[object, object] = {}
    numbers = sorted({v for v in values if isinstance(v, float)})
    for before, number in zip([None, *numbers], numbers, strict=False):
        near = before is not None and number - before <= 0.01 * abs(number)
        least[number] = least[before] if near else number
    return [least.get(v, v) for v in values]


def _rank(kind: Sequence[Any]) -> list[tuple[bool, bool, Any]]:
    """The place of a kind among others: numbers before texts, both before nothing."""
    return [(v is None, isinstance(v, str), v or 0) for v in kind]


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


def in_words(key: str, value: Any) -> str:
    """An attribute and its value, as a person reads them."""
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


def shorter(stack: Stack, others: Sequence[Stack]) -> list[str]:
    """A sentence where another volume of the series has the slices of this one, in a row, and more; else nothing."""
    have = len(stack.frames)
    most = max((len(o.frames) for o in others if len(o.frames) > have and _holds(o, stack)), default=0)
    return [f"the volume has {have} slices, another of the series {most}: some may be missing"] if most else []


def _holds(other: Stack, stack: Stack) -> bool:
    """Whether another volume has a slice where each of a volume's is, and no further one between these."""
    if other.direction != stack.direction:
        return False
    at = along([*stack.frames, *other.frames])
    own, there = np.sort(at[: len(stack.frames)]), np.sort(at[len(stack.frames) :])
    near = 2 * POSITION_TOLERANCE  # a slice of each volume may be off by one
    between = there[(there >= own[0] - near) & (there <= own[-1] + near)]
    return len(between) == len(own) and bool((np.abs(between - own) <= near).all())
