"""How logits become labels on any grid."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from segcli.inference.engine import UNSEEN
from segcli.inference.place import Piece, Place, blocks
from segcli.memory import mapped
from segcli.parallel import each
from segcli.space.resample import LINEAR, Interpolation, Taps, apply, oblique
from segcli.space.volume import Box, Grid, Volume, Voxels, extent


@dataclass(frozen=True)
class Decision:
    """How logits become labels.

    values   the label value of each channel of logits
    rule     "argmax": the largest channel wins; "regions": channels are taken in order, and each one above 0
             (probability one half) overwrites what came before, so nested regions end up whole (nnU-Net)
    back     what comes to the scan's grid: interpolated "logits" (nnU-Net) or "probabilities" (MONAI), or these as the
             mean of the "area" of each voxel between shared faces (MONAI's Resize); or finished labels, that of the
             "nearest" voxel (TotalSegmentator) or their interpolated "values", rounded
    are_probabilities  whether the channels are that already, and no logits
    """

    values: tuple[int, ...]
    rule: Literal["argmax", "regions"] = "argmax"
    back: Literal["logits", "probabilities", "area", "nearest", "values"] = "logits"
    are_probabilities: bool = False

    @property
    def finished(self) -> bool:
        """Whether labels are decided on the model's grid, and come back as labels."""
        return self.back in ("nearest", "values")

    @property
    def softened(self) -> bool:
        """Whether probabilities come back, where logits are what there is."""
        return self.back in ("probabilities", "area") and not self.are_probabilities

    @property
    def half(self) -> float:
        """The value that stands for a probability of one half."""
        return 0.5 if self.are_probabilities else 0.0

    @property
    def unseen(self) -> list[float]:
        """What each channel is where a model did not look: background."""
        if self.are_probabilities:
            return [float(value == 0) for value in self.values]
        return [0.0 if value == 0 else UNSEEN for value in self.values]

    @property
    def dtype(self) -> type[np.uint8] | type[np.uint16] | type[np.int32]:
        """The smallest of uint8, uint16, int32 that holds every value."""
        top = max(self.values)
        return np.uint8 if top < 256 else np.uint16 if top < 65536 else np.int32


def labels_on(
    grid: Grid,
    logits: Iterable[Volume],
    decide: Decision,
    part: Grid,
    wanted: Grid,
    rule: Interpolation = LINEAR,
) -> Volume:
    """Labels at the voxel centres of a scan, from logits that come as slabs on the model's grid.

    grid     the scan's
    logits   (K, d, h, w) slabs that together cover `part`, each beginning with the last plane of the one before;
             or probabilities, where the decision says so
    part     the grid that the slabs make together (the foreground's)
    wanted   the grid that `part` was cropped from: beyond `part` is background, beyond `wanted` the border goes on
    returns  (1, D, H, W) in the decision's dtype

    Logits are interpolated linearly, one class at a time, into the best value so far. A class is tried only in the
    box of cells where it can win: where its largest corner is not below the largest smallest corner of the others.
    The cores share the blocks of a slab.
    """
    labels = np.zeros(grid.shape, decide.dtype)
    place = Place(grid, part, wanted, rule)
    for slab in logits:
        first = part.start_of(slab.grid)
        for piece in place.pieces(first, slab.grid.shape):
            each(lambda block: _decide(labels, *block, decide), blocks(piece, slab.data))
    return Volume(labels[None], grid)


class Spread:
    """Channels of slabs brought to the voxel centres of another grid, linearly, as the slabs go by.

    grid     whose voxels are wanted; `part` and `wanted` as in `labels_on`
    """

    def __init__(self, grid: Grid, part: Grid, wanted: Grid, rule: Interpolation = LINEAR) -> None:
        self._part, self._place = part, Place(grid, part, wanted, rule)

    def put(self, slab: Grid, channels: NDArray[np.float32], into: Voxels) -> None:
        """Write channels (K, d, h, w) of a slab into (K, D, H, W), where that lies in the slab.

        into     float32, or uint8 for probabilities: 255 for 1
        """
        first = self._part.start_of(slab)
        everything = tuple(slice(0, max(1, n - 1)) for n in slab.shape)
        for piece in self._place.pieces(first, slab.shape):
            for channel, whole in zip(channels, into, strict=True):
                here = piece.of(whole)
                at, values = _values(channel, piece, everything, here.shape)  # type: ignore[arg-type]
                if values is not None:
                    seen = True if piece.mask is None else piece.mask[at]
                    scaled = np.round(values * 255).astype(np.uint8) if into.dtype == np.uint8 else values
                    np.copyto(here[at], scaled, where=seen)


class Probabilities:
    """Probabilities at the voxel centres of a scan, gathered while slabs go by on their way to `labels_on`.

    volume   (K, D, H, W) uint8, 255 for 1: softmax for "argmax", a sigmoid of each channel for "regions"; beyond the
             part the first channel has it all. Kept in a temporary file, for it grows with classes x scan.
    """

    def __init__(self, grid: Grid, decide: Decision, part: Grid, wanted: Grid, rule: Interpolation = LINEAR) -> None:
        self._decide, self._spread = decide, Spread(grid, part, wanted, rule)
        self.volume = Volume(no_probabilities(grid, decide), grid)

    def watch(self, slabs: Iterable[Volume]) -> Iterator[Volume]:
        for slab in slabs:
            self._spread.put(slab.grid, probabilities(slab.data, self._decide), self.volume.data)
            yield slab


def no_probabilities(grid: Grid, decide: Decision) -> NDArray[np.uint8]:
    """Of a scan that no model has looked at yet, (K, D, H, W) in a temporary file: the first channel has it all."""
    blank: NDArray[np.uint8] = mapped((len(decide.values), *grid.shape), np.uint8)
    if decide.rule == "argmax":
        blank[0] = 255
    return blank


def probabilities(channels: NDArray[np.float32], decide: Decision) -> NDArray[np.float32]:
    """Probabilities (K, d, h, w): the softmax of logits, or the sigmoid of each; unchanged where they are that."""
    powers: NDArray[np.float32]
    if decide.are_probabilities:
        return channels
    if decide.rule == "regions":
        powers = np.exp(-channels)
        powers += 1
        return np.reciprocal(powers, out=powers)
    powers = np.exp(channels - channels.max(axis=0))
    powers /= powers.sum(axis=0)
    return powers


def as_probabilities(slabs: Iterable[Volume], decide: Decision) -> Iterator[Volume]:
    """Slabs of logits as slabs of probabilities; channels behind the decision's own stay as they are."""
    count = len(decide.values)
    for slab in slabs:
        data = slab.data.copy("K")

        def soften(plane: NDArray[np.float32]) -> None:
            plane[:count] = probabilities(plane[:count], decide)

        each(soften, planes(data))
        yield Volume(data, slab.grid)


def planes(data: Voxels) -> Voxels:
    """A view of (K, d, h, w) as its planes across the shortest of the three axes: (n, K, ...)."""
    return np.moveaxis(data, 1 + int(np.argmin(data.shape[1:])), 0)


def _decide(whole: NDArray[np.integer], piece: Piece, slab: NDArray[np.float32], decide: Decision) -> None:
    """Write the labels of one piece of a slab (K, d, h, w) into the whole label map."""
    there = piece.of(whole)
    labels = np.zeros(there.shape, there.dtype) if piece.mask is None else there.copy()
    cells = _winning_boxes(slab, decide)
    best = np.full(labels.shape, -np.inf, np.float32) if decide.rule == "argmax" else None
    for k, cell_box in enumerate(cells):
        if cell_box is None:
            continue
        at, values = _values(slab[k], piece, cell_box, labels.shape)
        if values is None:
            continue
        better = values > (decide.half if best is None else best[at])
        if piece.mask is not None:
            better &= piece.mask[at]
        put(labels[at], better, decide.values[k])
        if best is not None:
            np.maximum(best[at], values, out=best[at])
    there[...] = labels


def put(into: NDArray[np.integer], where: NDArray[np.bool_], value: int) -> None:
    """into[where] = value, of one shape, without a branch for each voxel.

    np.copyto takes 4 ns each where the mask is noise, this a tenth.
    """
    into ^= (into ^ into.dtype.type(value)) * where.view(np.uint8)


def _values(
    logits: NDArray[np.float32], piece: Piece, cells: Box, shape: tuple[int, ...]
) -> tuple[Box, NDArray[np.float32] | None]:
    """One class's logits in the part of the piece that touches a box of cells, and where that part is."""
    if piece.mask is not None:
        everything = (slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2]))
        return everything, oblique(logits, piece.matrix, (shape[0], shape[1], shape[2]), "linear")
    spans = []
    for cell, coordinates in zip(cells, piece.coordinates, strict=True):
        here = np.flatnonzero((coordinates >= cell.start) & (coordinates <= cell.stop))
        if len(here) == 0:
            return (slice(0, 0),) * 3, None
        spans.append(slice(int(here[0]), int(here[-1]) + 1))
    values = _voxels(logits, cells)
    for axis in piece.sequence:
        index = piece.taps[axis].index[:, spans[axis]] - cells[axis].start
        weights = piece.taps[axis].weights[:, spans[axis]]
        values = apply(values, Taps(np.minimum(index, values.shape[axis] - 1), weights), axis)
    return (spans[0], spans[1], spans[2]), values


def _winning_boxes(slab: NDArray[np.float32], decide: Decision) -> list[Box | None]:
    """For each class the box of cells (between neighbouring voxels) in which it can win; None for nowhere.

    A linear interpolation lies between its corners: a class whose largest corner is below another's smallest one
    cannot win in that cell. A box start..stop means the voxels start to stop, both included.
    """
    if decide.rule != "argmax":
        return [extent(_corners(channel, np.maximum) >= decide.half) for channel in slab]
    highest = slab.max(axis=(1, 2, 3))
    rounding = 1e-4 + 1e-5 * np.abs(highest).max()  # while interpolating
    floor = np.full([max(1, n - 1) for n in slab.shape[1:]], -np.inf, np.float32)
    tried: dict[int, Box] = {}  # channel -> the cells outside which it neither wins nor raises the floor
    for k in np.argsort(-highest):
        least = floor.min() - rounding
        if highest[k] < least:
            break
        cells = _touched(slab[k] >= least)
        np.maximum(floor[cells], _corners(_voxels(slab[k], cells), np.minimum), out=floor[cells])
        tried[int(k)] = cells
    floor -= rounding
    boxes: list[Box | None] = [None] * len(slab)
    for k, cells in tried.items():
        here = extent(_corners(_voxels(slab[k], cells), np.maximum) >= floor[cells])
        if here is not None:
            d, h, w = (slice(a.start + b.start, a.start + b.stop) for a, b in zip(cells, here, strict=True))
            boxes[k] = d, h, w
    return boxes


def _touched(voxels: NDArray[np.bool_]) -> Box:
    """The box of cells that have one of these voxels at a corner; there is one at least."""
    box = extent(voxels)
    assert box is not None
    d, h, w = (
        slice(max(0, span.start - 1), max(1, min(span.stop, n - 1))) for span, n in zip(box, voxels.shape, strict=True)
    )
    return d, h, w


def _voxels(values: NDArray[np.float32], cells: Box) -> NDArray[np.float32]:
    """The corners of a box of cells."""
    return values[tuple(slice(cell.start, cell.stop + 1) for cell in cells)]


def _corners(values: NDArray[np.float32], best: np.ufunc) -> NDArray[np.float32]:
    """The extreme of the eight corners of each cell; an axis of one voxel has one cell."""
    for axis in range(3):
        n = values.shape[axis]
        if n > 1:
            low = tuple(slice(0, n - 1) if i == axis else slice(None) for i in range(3))
            high = tuple(slice(1, n) if i == axis else slice(None) for i in range(3))
            values = best(values[low], values[high])
    return values if values.base is None else values.copy()
