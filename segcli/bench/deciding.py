"""Labels of a CT from logits that are there: how the cores share the work, and what one of them does alone."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np

from segcli import parallel
from segcli.bench.results import Row
from segcli.inference.decide import Decision
from segcli.inference.place import Place, blocks
from segcli.inference.prepare import Prepared
from segcli.inference.segment import Wishes, decided
from segcli.inference.windows import new_planes
from segcli.space.grids import GridSpec, model_grid
from segcli.space.resample import LINEAR
from segcli.space.volume import Grid, Volume

SHAPE, SPACING = (400, 512), (1.0, 0.8, 0.8)  # slices and rows; mm of all three
WANTED = 1.5  # mm, of the model
RADII, EDGE = (8.0, 25.0), 3.4  # of a structure in the model's voxels; how many radii away its logit is the least
MOST, LEAST = 8.0, -12.0  # of logits


def table(threads: int, columns: int, classes: Sequence[int] = (14, 118)) -> Iterator[Row]:
    """Rows of so many columns of a CT: with one thread, with two, and so on doubled up to all."""
    counts = sorted({1, threads, *(2**i for i in range(threads.bit_length()) if 2**i < threads)})
    for many in classes:
        for count in counts:
            parallel.use(count)
            try:
                yield {"classes": many, "threads": parallel.cores(), **_decided(columns, many)}
            finally:
                parallel.use()


def _decided(columns: int, classes: int) -> Row:
    grid = Grid((*SHAPE, columns), np.diag([*SPACING, 1.0])[[2, 1, 0, 3]])
    scan = Volume(np.broadcast_to(np.int16(0), (1, *grid.shape)), grid)
    part = model_grid(grid, GridSpec("RAS", (WANTED,) * 3))
    shown = Prepared(Volume(np.broadcast_to(np.float32(0), (1, *part.shape)), part), part, np.zeros(1, np.float32), {})
    decide, slabs = Decision(tuple(range(classes))), _Slabs(part, classes)
    began = time.process_time(), time.thread_time()
    found = decided(scan, shown, iter(slabs), decide, LINEAR, Wishes())
    every, alone = time.process_time() - began[0] - slabs.cpu, time.thread_time() - began[1] - slabs.cpu
    row = {
        "slabs": slabs.count,
        "blocks": slabs.blocks(Place(grid, part, part, LINEAR), part),
        "seconds": round(found.seconds["decide"], 2),
        "cpu_s": round(every, 2),
    }
    return row if parallel.cores() == 1 else {**row, "alone": round(alone / every, 3)}


class _Slabs:
    """Slabs of logits of balls on the background, as windows finish them.

    cpu      seconds that making them took
    count    how many there were
    """

    def __init__(self, part: Grid, classes: int) -> None:
        draw = np.random.default_rng(0)
        self._part = part
        self._centres = draw.uniform(0.1, 0.9, (classes, 3)) * part.shape
        self._radii = draw.uniform(*RADII, classes)
        self.cpu, self.count = 0.0, 0
        self._last: Volume | None = None

    def __iter__(self) -> Iterator[Volume]:
        d, h, w = self._part.shape
        step, low = new_planes(4 * len(self._radii) * h * w), 0
        while low < d - 1:
            began, high = time.thread_time(), min(d, low + 1 + step)
            self._last = Volume(self._logits(low, high), self._part.crop((slice(low, high), slice(0, h), slice(0, w))))
            self.cpu, self.count, low = self.cpu + time.thread_time() - began, self.count + 1, high - 1
            yield self._last

    def blocks(self, place: Place, part: Grid) -> int:
        """Of the last slab: what threads take one after the other."""
        assert self._last is not None
        slab = self._last
        pieces = place.pieces(part.start_of(slab.grid), slab.grid.shape)
        return sum(1 for piece in pieces for _ in blocks(piece, slab.data))

    def _logits(self, low: int, high: int) -> np.ndarray:
        _, h, w = self._part.shape
        slab = np.full((len(self._radii), high - low, h, w), LEAST, np.float32)
        slab[0] = 2
        for channel, centre, radius in zip(slab[1:], self._centres[1:], self._radii[1:], strict=True):
            box = [
                slice(max(0, int(c - EDGE * radius) - first), max(0, min(n, int(c + EDGE * radius) + 1 - first)))
                for c, first, n in zip(centre, (low, 0, 0), channel.shape, strict=True)
            ]
            z, y, x = (
                np.arange(s.start + first, s.stop + first, dtype=np.float32) - np.float32(c)
                for s, first, c in zip(box, (low, 0, 0), centre, strict=True)
            )
            far = np.sqrt(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2)
            channel[tuple(box)] = np.maximum(MOST - 6 * far / np.float32(radius), LEAST)
        return slab
