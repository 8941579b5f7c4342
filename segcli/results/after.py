"""What a card asks for once the labels stand: its steps in their order, and what each of them changed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from segcli.documents import Document
from segcli.memory import give_back
from segcli.models.after import (
    AfterStep,
    DropStep,
    FillStep,
    GrowStep,
    JoinStep,
    LargestStep,
    RefineStep,
    SmallStep,
    SpineStep,
    WithinStep,
)
from segcli.results.islands import Change, changes, filled, islands
from segcli.results.refine import refine
from segcli.results.spine import grow, numbered_anew
from segcli.space.volume import Volume, among
from segcli.structures import Label

_ROUNDING = 1e-6  # mm3, within which two volumes are equal
_SPECK = 3  # voxels; a piece that is smaller is not joined, as in lungmask


@dataclass(frozen=True)
class Effect:
    """A step as the card states it, and the structures that it changed."""

    step: Document
    changed: list[Change]


def after(
    labels: Volume, names: Sequence[Label], steps: Sequence[AfterStep], scan: Volume | None = None
) -> tuple[Volume, list[Effect]]:
    """The labels after all steps, as a new label map, and the effect of each.

    labels   (1, D, H, W), any integer type, on any grid: lengths and volumes are those of its voxels
    scan     (C, D, H, W) on the same grid, which steps need that look at brightness
    """
    effects = []
    for step in steps:
        made = Volume(_done(labels, names, step, scan), labels.grid, labels.source)
        effects.append(Effect(msgspec.json.decode(msgspec.json.encode(step)), changes(labels, made, names)))
        labels = made  # those before it are let go: the next step needs room for its own
    return labels, effects


def _done(labels: Volume, names: Sequence[Label], step: AfterStep, scan: Volume | None) -> NDArray[np.integer]:
    wanted = [x.id for x in names if x.id != 0 and (step.structures is None or x.name in step.structures)]
    data = labels.data.copy()
    match step:
        case LargestStep():
            _keep_largest(labels, wanted, step, data)
        case SmallStep():
            _drop_small(labels, wanted, step, data)
        case FillStep():
            filled(data[0], wanted, others=step.others, flat=step.flat, neighbours=step.neighbours)
        case JoinStep():
            _join(data[0], wanted, [x.id for x in names if x.name in (step.dissolved or ())])
        case SpineStep():
            numbered_anew(labels, _in_order(step.structures, names), step.mm3, data)
        case GrowStep():
            for value in _in_order(step.structures, names):
                grow(Volume(data, labels.grid), value, step.mm)
        case RefineStep():
            if scan is None:
                raise TypeError("the step refine looks at the scan")
            refine(labels, scan, wanted, step, data)
            give_back()
        case DropStep():
            data[among(data, wanted)] = 0
        case WithinStep():
            data[among(data, wanted) & ~grown(labels, [x.id for x in names if x.name in step.of], step.mm)] = 0
    return data


def _in_order(structures: Sequence[str], names: Sequence[Label]) -> list[int]:
    """The values of structures in the order in which a step names them."""
    values = {label.name: label.id for label in names}
    return [values[name] for name in structures]


def _keep_largest(labels: Volume, wanted: Collection[int], step: LargestStep, data: NDArray[np.integer]) -> None:
    """Of each structure, or of all as one, take away all pieces but the largest ones and those that are spared."""
    if step.together:
        mask = among(labels.data, wanted)
        pieces = islands(Volume(mask.view(np.uint8), labels.grid), [1], step.neighbours)
    else:
        pieces = islands(labels, wanted, step.neighbours)
    spared = np.inf if step.spare is None else step.spare - _ROUNDING
    goes = pieces.size * labels.grid.voxel_mm3 < spared
    for value in np.unique(pieces.value).tolist():
        mine = pieces.of(value)
        largest = mine[pieces.size[mine] == pieces.size[mine[0]]]
        goes[largest[-1:] if step.equal == "last" else largest] = False
    pieces.clear(data, goes)


def _drop_small(labels: Volume, wanted: Collection[int], step: SmallStep, data: NDArray[np.integer]) -> None:
    pieces = islands(labels, wanted, step.neighbours)
    pieces.clear(data, pieces.size * labels.grid.voxel_mm3 <= step.mm3 + _ROUNDING)


def _join(data: NDArray[np.integer], wanted: Collection[int], dissolved: Collection[int]) -> None:
    """Give pieces beside the largest of their structure to the structure that they touch most, in place.

    dissolved   values whose pieces are all given away, as if they were one structure; what is left of them becomes 0
    """
    from scipy.ndimage import binary_dilation, find_objects

    structures = [[value] for value in wanted if value not in dissolved]
    pieces, values = _pieces(data, [*structures, list(dissolved)] if dissolved else structures)
    count = len(values) - 1
    loose = np.isin(values, list(dissolved))
    size = np.bincount(pieces.ravel(), minlength=count + 1)
    boxes = find_objects(pieces)
    growing = sorted(range(1, count + 1), key=lambda one: int(size[one]))
    largest, gone = dict.fromkeys(values, 0), loose.copy()
    for i in growing:  # of equally large pieces of a structure the first alone keeps its name, as in lungmask
        gone[i] |= size[i] <= largest[values[i]]
        largest[values[i]] = max(largest[values[i]], int(size[i]))
    for i in growing:
        if size[i] < _SPECK or (size[i] >= largest[values[i]] and not loose[i]):
            continue
        box = tuple(slice(max(0, along.start - 1), along.stop + 1) for along in boxes[i - 1])
        around = pieces[box]
        own = around == i
        touched = np.bincount(around[binary_dilation(own) & ~own], minlength=1)
        touched[0] = 0
        touched[loose[: len(touched)]] = 0
        if touched.any():
            other = int(touched.argmax())
            grows = size[other] == largest[values[other]]
            around[own] = other
            size[other] += size[i]
            boxes[other - 1] = tuple(
                slice(min(a.start, b.start), max(a.stop, b.stop))
                for a, b in zip(boxes[other - 1], boxes[i - 1], strict=True)
            )
            if grows:
                largest[values[other]] = int(size[other])
    mine = pieces > 0
    data[mine] = np.where(gone, 0, values).astype(data.dtype)[pieces[mine]]


def _pieces(data: NDArray[np.integer], structures: Sequence[Sequence[int]]) -> tuple[NDArray[np.int32], list[int]]:
    """The pieces of structures, numbered from 1 by their first voxels, and of which structure each is.

    structures   the label values of each; the first of them stands for all
    """
    from scipy.ndimage import label

    pieces, values = np.zeros(data.shape, np.int32), [0]
    for own_values in structures:
        own, found = label(among(data, own_values), np.ones((3, 3, 3)))
        np.copyto(pieces, own + (len(values) - 1), where=own > 0)
        values += [own_values[0]] * found
    flat = pieces.ravel()
    places = np.flatnonzero(flat)
    first = np.full(len(values), -1)
    first[flat[places[::-1]]] = places[::-1]  # of several places of one piece the last that is written stays
    order = np.argsort(first, kind="stable")
    number = np.empty(len(values), np.int32)
    number[order] = np.arange(len(values))
    return number[pieces], [values[i] for i in order]


def grown(labels: Volume, values: Collection[int], mm: float) -> NDArray[np.bool_]:
    """Where structures are, (1, D, H, W), grown by a length, in whole voxels of the mean step."""
    from scipy.ndimage import binary_dilation

    mask = among(labels.data, values)
    voxels = int(mm / np.mean(labels.grid.spacing) + 1e-6)
    if voxels:
        mask[0] = binary_dilation(mask[0], iterations=voxels)
    return mask
