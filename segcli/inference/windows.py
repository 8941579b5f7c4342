"""Plan overlapping windows, run an engine over them, blend, and let go of what is finished."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from segcli.inference.engine import Engine, Sums, Weights
from segcli.inference.half_sums import half_weights
from segcli.inference.intensity import Beyond, beyond
from segcli.parallel import cores
from segcli.space.volume import Box, Grid, Volume

Tick = Callable[[int, int], None]  # windows done, windows in all
_SLICES = 8  # that a slab of a 2-D network has at least: each slab repeats one of them
_THICK, _THICK_BYTES = 2, 1 << 25  # planes for each core that a slab adds at least, as far as they are no more bytes
_LEAST_BYTES = 1 << 27  # that those planes may have, however few cores there are
_MOST_CORES = 16  # that a slab grows with


def no_tick(done: int, total: int) -> None:
    """Progress that nobody follows."""


@dataclass(frozen=True)
class Window:
    """One window's place in the (padded) image."""

    at: Box


@dataclass(frozen=True)
class WindowPlan:
    """How an image is cut into windows and put together again.

    size     (d, h, w) voxels; 1 along the slice axis of a 2-D network
    whole    the image is one window, its sides made multiples of those of `size`
    overlap  share of a window that the next one covers, 0 <= overlap < 1
    blend    "gaussian" or "constant" weights
    sigma    of the Gaussian, as a share of the window's edge (nnU-Net, MONAI: 1/8)
    centre   where the Gaussian is largest: the "middle" of the window, between two voxels when its edge is even
             (MONAI from 0.9), or the "voxel" at half its edge (nnU-Net, MONAI before 0.9)
    floor    smallest weight; the Gaussian itself is 1 at its centre
    stride   "regular": fixed steps, the last window moved back to the edge (MONAI);
             "even": steps of equal length, rounded (nnU-Net)
    padding  what lies beyond an image that is smaller than a window: the "constant" of the intensity steps, or the
             "edge": its last voxels, repeated
    sums     what windows are added up in; "float16" as nnU-Net v2 does, in the order of the first axis
    skip     windows in which every voxel has the value beyond the image are taken for background, unseen; only
             where the card says that this is exact, or the user asks
    """

    size: tuple[int, int, int]
    overlap: float = 0.5
    blend: Literal["gaussian", "constant"] = "gaussian"
    sigma: float = 0.125
    centre: Literal["middle", "voxel"] = "middle"
    floor: float = 1e-3
    stride: Literal["regular", "even"] = "regular"
    padding: Literal["constant", "edge"] = "constant"
    sums: Literal["float32", "float16"] = "float32"
    skip: bool = False
    whole: bool = False


def fitted(plan: WindowPlan, shape: tuple[int, int, int]) -> WindowPlan:
    """The plan for an image of a shape: where the network sees whole images, one window of it.

    At its deepest level an image of one step along each axis would be one voxel, which no norm takes: it gets two.
    """
    if not plan.whole:
        return plan
    d, h, w = (-(-n // step) * step for n, step in zip(shape, plan.size, strict=True))
    d = 2 * d if (d, h, w) == plan.size else d
    return replace(plan, size=(d, h, w), blend="constant", whole=False)


def windows(shape: tuple[int, int, int], plan: WindowPlan) -> list[Window]:
    """Windows that cover a shape, each axis at least the plan's size, in order of the first axis."""
    axes = [starts(n, size, plan) for n, size in zip(shape, plan.size, strict=True)]
    return [
        Window((slice(a, a + plan.size[0]), slice(b, b + plan.size[1]), slice(c, c + plan.size[2])))
        for a, b, c in product(*axes)
    ]


def starts(n: int, size: int, plan: WindowPlan) -> list[int]:
    """First voxels of the windows along an axis of n >= size voxels; the last one ends at the edge."""
    step = max(1, int(size * (1 - plan.overlap)))
    if plan.stride == "regular":
        return [*range(0, n - size, step), n - size]
    count = int(np.ceil((n - size) / max(size * (1 - plan.overlap), 1e-9))) + 1
    exact = (n - size) / max(count - 1, 1)
    return sorted({round(exact * i) for i in range(count)})


def blend_weights(plan: WindowPlan) -> Weights:
    """Weight of each voxel of a window, (d, h, w), in what windows are added up in."""
    weight = _weights(plan)
    return half_weights(weight) if plan.sums == "float16" else weight.astype(np.float32)


def _weights(plan: WindowPlan) -> NDArray[np.float64]:
    if plan.blend == "constant":
        return np.ones(plan.size)
    rows = []
    for size in plan.size:
        x = np.arange(size) - (size // 2 if plan.centre == "voxel" else (size - 1) / 2)
        rows.append(np.exp(-0.5 * (x / max(plan.sigma * size, 1e-3)) ** 2))
    weight: NDArray[np.float64] = np.einsum("i,j,k->ijk", *rows)
    floored: NDArray[np.float64] = np.maximum(weight, plan.floor)
    return floored


def padded(image: Volume, plan: WindowPlan, outside: Beyond) -> tuple[Volume, Box]:
    """The image made at least as large as a window, equally on both sides, and the box in it that is the image.

    outside  the value of each channel beyond the image, or one for all
    """
    missing = [max(0, s - n) for s, n in zip(plan.size, image.grid.shape, strict=True)]
    before = [m // 2 for m in missing]
    ends = [b + n for b, n in zip(before, image.grid.shape, strict=True)]
    inner = (slice(before[0], ends[0]), slice(before[1], ends[1]), slice(before[2], ends[2]))
    if not any(missing):
        return image, inner
    if plan.padding == "edge":
        data = np.pad(image.data, [(0, 0), *((b, m - b) for b, m in zip(before, missing, strict=True))], "edge")
    else:
        shape = (len(image.data), *(n + m for n, m in zip(image.grid.shape, missing, strict=True)))
        data = np.empty(shape, image.data.dtype)
        data[:] = beyond(outside, len(data))[:, None, None, None]
        data[(slice(None), *inner)] = image.data
    grid = image.grid.crop(
        tuple(slice(-b, n + m - b) for b, m, n in zip(before, missing, image.grid.shape, strict=True))  # type: ignore[arg-type]
    )
    return Volume(data, grid, image.source), inner


def stream_axis(shape: tuple[int, int, int], plan: WindowPlan) -> int:
    """The axis along which logits are finished plane by plane: the one that keeps the sums smallest.

    Where the order in which windows are added up counts, it is the first one, or that of the slices.
    """
    if plan.sums == "float16":
        return plan.size.index(1) if 1 in plan.size else 0
    sums_shape = [min(n, s) / n for n, s in zip(shape, plan.size, strict=True)]
    return sums_shape.index(min(sums_shape))


def sums_shape(shape: tuple[int, int, int], plan: WindowPlan, batch: int) -> tuple[int, int, int]:
    """The shape of the sums for a (padded) image: along its streaming axis, the planes that are not finished yet."""
    axis = stream_axis(shape, plan)
    keep = [*shape]
    keep[axis] = _held(_parts(windows(shape, plan), axis, batch if plan.size[axis] == 1 else None), axis)
    return keep[0], keep[1], keep[2]


class Sliding:
    """The windows of an image on their way through an engine; what is finished stays in its sums until it is taken.

    image    (C, D, H, W) float32
    outside  value of each channel beyond the image, or one for all; not used where its edge is repeated
    unseen   logits where windows were skipped, see `Sums`
    rests    whether the engine gives back its memory after the last window
    sums     of the engine

    The sums hold one window's length of planes, K * size * H * W floats, however long the image is; of slices (a
    window of one plane) as many as make a batch, eight at least.
    """

    def __init__(
        self,
        image: Volume,
        engine: Engine,
        plan: WindowPlan,
        tick: Tick = no_tick,
        outside: Beyond = 0.0,
        *,
        unseen: Sequence[float] = (),
        rests: bool = False,
    ) -> None:
        self._rests = rests
        self._plan, self._tick, self._outside, self._engine = fitted(plan, image.grid.shape), tick, outside, engine
        self._full, self._inner = padded(image, self._plan, outside)
        shape = self._full.grid.shape
        self._axis = stream_axis(shape, self._plan)
        self._every = windows(shape, self._plan)
        self._parts = _parts(self._every, self._axis, engine.batch if self._plan.size[self._axis] == 1 else None)
        keep = [*shape]
        keep[self._axis] = _held(self._parts, self._axis)
        self._plane = math.prod(keep) // keep[self._axis]
        data, held = self._full.data, (keep[0], keep[1], keep[2])
        self.sums: Sums = engine.sums(data, held, self._axis, blend_weights(self._plan))
        self.sums.unseen = unseen

    def volumes(self) -> Iterator[Volume]:
        """Blended logits of the whole image as finished slabs on the host, in order along one axis.

        yields   (K, d, h, w) float32; each slab begins with the plane that the one before ended with, so that what
                 lies between them can be interpolated from one slab
        errors   ModelError when logits are not finite: they are never turned into background
        """
        for box, grid in self.boxes(new_planes):
            yield Volume(self.sums.finished(box), grid)

    def boxes(self, thickness: Callable[[int], int]) -> Iterator[tuple[Box, Grid]]:
        """Boxes of the (padded) image that the sums have finished, with their grids, as `volumes` has them.

        thickness   planes that a slab adds to the one before, by the bytes of one
        """
        done, axis = 0, self._axis
        for position, part in enumerate(self._parts):
            start = part[0].at[axis].start
            for batch in _batches(part, self._engine.batch):
                shown = [w.at for w in batch if not (self._plan.skip and _is_constant(self._full, w, self._outside))]
                if shown:
                    self.sums.add(shown)
                done += len(batch)
                self._tick(done, len(self._every))
            self.sums.settle()
            final = position == len(self._parts) - 1
            if final and self._rests:
                self._engine.rest()  # what windows took is free for the last slabs
            step = (part[-1].at[axis].stop if final else self._parts[position + 1][0].at[axis].start) - start
            if self.sums.classes:  # else every window so far was background, unseen
                most = thickness(4 * self.sums.classes * self._plane)
                for low, high in _slabs(0 if position else 1, step + 1, most):
                    cut = _inside(self._inner, axis, start - 1 + low, start - 1 + high)
                    if cut is not None:
                        yield cut, self._full.grid.crop(cut)
            if not final:
                self.sums.advance(step)


def _slabs(low: int, high: int, most: int) -> Iterator[tuple[int, int]]:
    """Cut low..high into slabs that add so many planes; each begins with the last plane of the one before."""
    while True:
        end = min(high, low + 1 + most)
        yield low, end
        if end == high:
            return
        low = end - 1


def slab_bytes(plane_bytes: int) -> int:
    """Of the largest slab, by the bytes of one plane."""
    return (1 + new_planes(plane_bytes)) * plane_bytes


def new_planes(plane_bytes: int) -> int:
    """Planes that a slab on the host adds to the one before.

    A slab grows with the cores: threads that share a thin one among them wait for the interpreter most of the time.
    """
    share = _cores()
    thick = min(_THICK * share, max(_LEAST_BYTES, _THICK_BYTES * share) // plane_bytes)
    return max(1, thick, finished_bytes() // plane_bytes)


def finished_bytes() -> int:
    """Of logits that are finished at a time, work for every core: fewer repeat more planes, more leave the cache."""
    return (1 << 23) * _cores()


def _cores() -> int:
    return max(2, min(cores(), _MOST_CORES))


def _parts(items: list[Window], axis: int, batch: int | None) -> list[list[Window]]:
    """Windows by their place along an axis, in order; with a batch, as many places together as fill whole batches."""
    places: dict[int, list[Window]] = {}
    for window in items:
        places.setdefault(window.at[axis].start, []).append(window)
    each = [places[start] for start in sorted(places)]
    if batch is None:
        return each
    full = -(-batch // len(each[0]))
    count = full * -(-_SLICES // full)
    return [[w for place in each[i : i + count] for w in place] for i in range(0, len(each), count)]


def _held(parts: list[list[Window]], axis: int) -> int:
    """Planes of the windows that are worked on together, and before them the last one that was finished."""
    return 1 + max(int(part[-1].at[axis].stop - part[0].at[axis].start) for part in parts)


def _is_constant(full: Volume, window: Window, outside: Beyond) -> bool:
    patch = full.data[(slice(None), *window.at)]
    return bool((patch == beyond(outside, len(patch))[:, None, None, None]).all())


def _inside(inner: Box, axis: int, first: int, stop: int) -> Box | None:
    """The planes first..stop of the padded image without its padding; None when nothing is left."""
    low, high = max(first, inner[axis].start), min(stop, inner[axis].stop)
    if low >= high:
        return None
    cut = list(inner)
    cut[axis] = slice(low, high)
    return cut[0], cut[1], cut[2]


def _batches(items: list[Window], size: int) -> Iterator[list[Window]]:
    for i in range(0, len(items), max(1, size)):
        yield items[i : i + max(1, size)]


def at_overlap(plan: WindowPlan, overlap: float | None) -> WindowPlan:
    """The plan with the user's overlap instead of the card's, where one was given."""
    return plan if overlap is None else replace(plan, overlap=overlap)
