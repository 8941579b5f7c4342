"""What a card asks for once the labels stand: its steps in their order, and what each of them changed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from segcli.documents import Document
from segcli.models.after import AfterStep, DropStep, FillStep, JoinStep, LargestStep, SmallStep, WithinStep
from segcli.results.islands import Change, changes, filled, islands
from segcli.space.volume import Volume
from segcli.structures import Label

_ROUNDING = 1e-6  # mm3, within which two volumes are equal
_SPECK = 3  # voxels; what is smaller is joined to nothing


@dataclass(frozen=True)
class Effect:
    """A step as the card states it, and the structures that it changed."""

    step: Document
    changed: list[Change]


def after(labels: Volume, names: Sequence[Label], steps: Sequence[AfterStep]) -> tuple[Volume, list[Effect]]:
    """The labels after all steps, as a new label map, and the effect of each.

    labels   (1, D, H, W), any integer type, on any grid: lengths and volumes are those of its voxels
    """
    effects = []
    for step in steps:
        before, labels = labels, Volume(_done(labels, names, step), labels.grid, labels.source)
        effects.append(Effect(msgspec.json.decode(msgspec.json.encode(step)), changes(before, labels, names)))
    return labels, effects


def _done(labels: Volume, names: Sequence[Label], step: AfterStep) -> NDArray[np.integer]:
    wanted = [x.id for x in names if x.id != 0 and (step.structures is None or x.name in step.structures)]
    data = labels.data.copy()
    match step:
        case LargestStep():
            for values in [wanted] if step.together else [[value] for value in wanted]:
                _keep_largest(labels, values, step, data)
        case SmallStep():
            _drop_small(labels, wanted, step, data)
        case FillStep():
            for value in wanted:
                filled(data[0], value)
        case JoinStep():
            _join(data[0], wanted)
        case DropStep():
            data[np.isin(data, wanted)] = 0
        case WithinStep():
            data[np.isin(data, wanted) & ~grown(labels, [x.id for x in names if x.name in step.of], step.mm)] = 0
    return data


def _keep_largest(labels: Volume, values: Collection[int], step: LargestStep, data: NDArray[np.integer]) -> None:
    """Of structures as one, take away all pieces but the largest ones and those that are spared."""
    mask = np.isin(labels.data, list(values))
    pieces = islands(Volume(mask.view(np.uint8), labels.grid), [1], step.neighbours)
    if len(pieces.size):
        spared = np.inf if step.spare is None else step.spare - _ROUNDING
        goes = (pieces.size < pieces.size.max()) & (pieces.size * labels.grid.voxel_mm3 < spared)
        pieces.clear(data, goes)


def _drop_small(labels: Volume, wanted: Collection[int], step: SmallStep, data: NDArray[np.integer]) -> None:
    pieces = islands(labels, wanted, step.neighbours)
    pieces.clear(data, pieces.size * labels.grid.voxel_mm3 <= step.mm3 + _ROUNDING)


def _join(data: NDArray[np.integer], wanted: Collection[int]) -> None:
    """Give pieces beside the largest of their structure to the structure that they touch most, in place."""
    from scipy.ndimage import binary_dilation, find_objects, label

    pieces, values, count = np.zeros(data.shape, np.int32), [0], 0
    for value in wanted:
        own, found = label(data == value, np.ones((3, 3, 3)))
        np.copyto(pieces, own + count, where=own > 0)
        values += [value] * found
        count += found
    size = np.bincount(pieces.ravel(), minlength=count + 1)
    boxes = find_objects(pieces)
    largest = dict.fromkeys(wanted, 0)
    for value, voxels in zip(values[1:], size[1:].tolist(), strict=True):
        largest[value] = max(largest[value], voxels)
    for i in sorted(range(1, count + 1), key=lambda one: int(size[one])):
        if size[i] < _SPECK or size[i] >= largest[values[i]]:
            continue
        box = tuple(slice(max(0, along.start - 1), along.stop + 1) for along in boxes[i - 1])
        around = pieces[box]
        own = around == i
        touched = np.bincount(around[binary_dilation(own) & ~own], minlength=1)
        touched[0] = 0
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
    data[mine] = np.array(values, data.dtype)[pieces[mine]]


def grown(labels: Volume, values: Collection[int], mm: float) -> NDArray[np.bool_]:
    """Where structures are, grown by a length, in whole voxels of the mean step."""
    from scipy.ndimage import binary_dilation

    mask: NDArray[np.bool_] = np.isin(labels.data, list(values))
    voxels = int(mm / np.mean(labels.grid.spacing) + 1e-6)
    if voxels:
        mask[0] = binary_dilation(mask[0], iterations=voxels)
    return mask
