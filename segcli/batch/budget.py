"""Time and memory of a run before it begins, and what is changed when the memory would not suffice."""

from __future__ import annotations

import math
import time
import zlib
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from segcli.documents import Document
from segcli.engines.host import room_beside
from segcli.engines.opening import Opening
from segcli.errors import OutOfMemory
from segcli.inference.engine import Engine
from segcli.inference.place import BLOCK
from segcli.inference.prepare import Prepared, at_least, check_channels, prepare
from segcli.inference.segment import Wishes, decided, window_count
from segcli.inference.windows import WindowPlan, fitted, padded, slab_bytes, starts, stream_axis, sums_shape, windows
from segcli.memory import available, peak_memory, remedy, resident
from segcli.models.after import RefineStep
from segcli.models.card import ModelCard
from segcli.parallel import cores
from segcli.results.islands import islands
from segcli.results.measure import tallied
from segcli.results.scan_checks import beforehand
from segcli.space.grids import model_grid
from segcli.space.resample import apply, parallel, taps_for
from segcli.space.volume import Box, Grid, Volume

if TYPE_CHECKING:
    from collections.abc import Sequence

    from segcli.formats import Form

# What comes after the labels, beside what `tried` measures of their structures, takes the time of so many interpolated
# voxels for each of the scan's: 3 to 14 on brain and body scans.
_AFTER = 10.0
_RECORD_BYTES, _STRUCTURE_BYTES = 3000, 310  # of the record, and for each structure in it
_KEPT = 110_000_000  # bytes of freed arrays that the allocator keeps, and of libraries that the last steps load
_PACKED = 1000  # voxels of nothing that become one byte of a label map
_LEARNING = 1.0  # seconds
_TRIED, _TRYING = 12, 5.0  # windows that go all the way to labels, at most, and their network's seconds


@dataclass(frozen=True)
class Rates:
    """What one window costs on this machine.

    seconds  of a window, the network and the adding up
    pace     seconds of one interpolated voxel
    first    seconds that the first window takes more
    decide   seconds from logits to labels, for each voxel that the network sees
    write    seconds in which the structures are counted, their pieces joined and compressed, likewise
    packed   bytes of the compressed label map, likewise
    ram      largest resident size of the process after the first windows, the engine's own work included, without sums
    grown    bytes that further windows add to it
    batch    windows at a time
    vram     the same on a CUDA device, 0 without one
    """

    seconds: float
    pace: float
    ram: int
    grown: int = 0
    first: float = 0.0
    decide: float = 0.0
    write: float = 0.0
    packed: float = 0.0
    batch: int = 1
    vram: int = 0


@dataclass(frozen=True)
class Budget:
    """What a case needs; disk counts the label map, and in temporary files sums and the answers of further models."""

    windows: int
    seconds: float
    ram_bytes: int
    vram_bytes: int
    disk_bytes: int


def plan_case(
    paths: Sequence[Path],
    card: ModelCard,
    opening: Opening,
    *,
    affine: Form | None = None,
    series: str | None = None,
    volume: int | None = None,
    label_map: bool = False,
) -> Document:
    """What predicting a scan would need: read and prepared as then, some windows run to learn what one costs.

    A few of the scan's windows go all the way to labels: how long that takes, and how well the labels compress,
    depends on how many classes are near each other.
    Of several models each is asked; together they need the time of all and the memory of the largest. A network behind
    a rough model is asked for the whole scan, for nobody knows yet how little of it the rough one leaves.

    paths    of one case, a file for each channel; the options are those of `formats.read`
    label_map  whether what looks like a label map is taken for a scan
    returns  the figures, and under "warnings" what speaks against the scan
    errors   InputError for a scan that is refused, or has other channels than the model's
    """
    from segcli import formats

    opened = opening.open(card)
    models = [(own, other.engine) for own, other in opened.running(card)]
    known = []
    for own, engine in models:
        known.append(None if own.window.whole else window_cost(own, engine))
        engine.rest()
    start = time.perf_counter()
    scan = formats.read(paths, affine=affine, series=series, volume=volume, channels=len(card.channels))
    read = time.perf_counter() - start
    check_channels(scan, card.procedure)
    doubts = beforehand(scan, card, paths[0].name, label_map=label_map)
    asked = [
        _of_one(scan, own, engine, rate, opening.max_ram) for (own, engine), rate in zip(models, known, strict=True)
    ]
    parts, needs, on_disk = zip(*asked, strict=True)
    answers = 4 * len(card.decide.values) * parts[0].size * len(opened.others)
    return {
        "engine": opened.engine.name,
        "windows": sum(need.windows for need in needs),
        "seconds": round(read + sum(need.seconds for need in needs), 1),
        "ram_mb": round(max(need.ram_bytes for need in needs) / 1e6),
        "vram_mb": round(max(need.vram_bytes for need in needs) / 1e6),
        "disk_mb": round((max(need.disk_bytes for need in needs) + answers) / 1e6, 3),
        "sums_on_disk": any(on_disk),
        "warnings": doubts,
    }


def _of_one(
    scan: Volume, card: ModelCard, engine: Engine, rate: Rates | None, limit: int | None
) -> tuple[Grid, Budget, bool]:
    """The grid that one of the networks sees of a scan, what it needs, and whether its sums go to a file.

    rate   None where it depends on the scan's size
    """
    prepared = prepare(scan, card.procedure)
    part, itemsize = prepared.image.grid, scan.data.dtype.itemsize
    if rate is None:
        refuse_too_large(scan.grid, itemsize, card, limit=limit, network=whole_bytes(card, part, engine))
        card = replace(card, window=fitted(card.window, part.shape))
        rate = window_cost(card, engine)
    rate = tried(scan.grid, prepared, card, engine, rate)
    room = available() if limit is None else limit - resident()
    on_disk = sums_bytes(card, part, rate.batch) + room_beside(shape_of_sums(card, part, rate.batch)) > room
    before = sum(prepared.seconds.values())
    engine.rest()
    return part, needed(scan.grid, itemsize, card, rate, part=part, before=before, on_disk=on_disk), on_disk


def needed(
    scan: Grid,
    itemsize: int,
    card: ModelCard,
    rates: Rates,
    *,
    part: Grid | None = None,
    before: float = 0.0,
    on_disk: bool = False,
) -> Budget:
    """What a case needs, from geometry and rates.

    itemsize  bytes of a voxel as the file has it
    part      the grid that the network sees; without it the crop is not known and the whole scan is taken
    before    seconds of reading and preparing
    on_disk   whether sums live in a temporary file
    """
    part = part or model_grid(scan, card.grid)
    count = window_count(part, card.window)
    host = host_bytes(scan, itemsize, card, part, on_disk, rates.batch)
    sums = sums_bytes(card, part, rates.batch)
    classes = len(card.decide.values)
    inside = min(scan.size, part.size * part.voxel_mm3 / scan.voxel_mm3)
    after = (rates.decide + rates.write) * part.size + _AFTER * rates.pace * scan.size
    written = rates.packed * part.size + (scan.size - inside) / _PACKED + _RECORD_BYTES + _STRUCTURE_BYTES * classes
    return Budget(
        windows=count,
        seconds=before + rates.first + count * rates.seconds + after,
        ram_bytes=rates.ram + (rates.grown if count > rates.batch else 0) + host - (sums if rates.vram else 0),
        vram_bytes=rates.vram + sums if rates.vram else 0,
        disk_bytes=int(written) + (sums if on_disk else 0),
    )


def host_bytes(scan: Grid, itemsize: int, card: ModelCard, part: Grid, on_disk: bool, batch: int = 1) -> int:
    """Memory of a case beyond the engine's own, at its peak."""
    channels, window = len(card.channels), fitted(card.window, part.shape)
    size = window.size
    source = scan.size * itemsize * channels
    whole = model_grid(scan, card.grid)
    # The image as resampled, as the step before left it, and the step's own.
    preparing = 4 * channels * max(3 * whole.size, resampled(scan, whole))
    axis = stream_axis(at_least(part.shape, size), window)
    step = min(size[axis], part.shape[axis]) + 1
    slab = 4 * len(card.decide.values) * step * part.size // part.shape[axis]
    plane = slab // step
    share = min(1.0, slab_bytes(plane) / slab) * min(1.0, step / part.shape[axis])
    labels = scan.size * np.dtype(card.decide.dtype).itemsize
    running = (
        4 * part.size * card.inputs
        + (0 if on_disk else sums_bytes(card, part, batch))
        # A slab on its way to labels, the next being finished, and probabilities beside the logits.
        + (3 if card.decide.softened else 2) * min(slab, slab_bytes(plane))
        + labels
        # Of the scan's voxels in the blocks of a slab: values, the best so far, what is better.
        + 12 * min(int(scan.size * share), max(4, 2 * cores()) * BLOCK)
    )
    # The network's labels, those before and after a step of the card, and then a mask of what it changed, or what the
    # step refine holds three times of the box around the structures.
    refines = any(isinstance(step, RefineStep) for step in card.after)
    box = min(scan.size, part.size * part.voxel_mm3 / scan.voxel_mm3)
    finishing = labels * (3 if card.after else 1) + max(scan.size, round(3 * box) if refines else 0)
    finishing += min(_KEPT, 2 * scan.size)  # as measured on brain scans of 0.5 mm; little where arrays are small
    return source + max(preparing, running, finishing)


def resampled(scan: Grid, wanted: Grid) -> int:
    """Voxels of the two largest images in a row while a scan is resampled axis by axis, what shrinks most first."""
    order = parallel(wanted.to(scan)) or [0, 1, 2]
    shape = [scan.shape[axis] for axis in order]
    made = []
    for i in sorted(range(3), key=lambda i: wanted.shape[i] / shape[i]):
        if shape[i] != wanted.shape[i]:
            shape[i] = wanted.shape[i]
            made.append(math.prod(shape))
    return max((a + b for a, b in pairwise([*made, 0])), default=0)


def sums_bytes(card: ModelCard, part: Grid, batch: int = 1) -> int:
    """The sums of logits and of weights, of windows or slices that come `batch` at a time."""
    each = 2 if card.window.sums == "float16" else 4
    return each * math.prod(shape_of_sums(card, part, batch))


def shape_of_sums(card: ModelCard, part: Grid, batch: int = 1) -> tuple[int, ...]:
    """(K + 1, d, h, w) of the sums of K classes' logits and, as one class more, of weights; `batch` as there."""
    window = fitted(card.window, part.shape)
    return len(card.decide.values) + 1, *sums_shape(at_least(part.shape, window.size), window, batch)


def whole_bytes(card: ModelCard, part: Grid, engine: Engine) -> int:
    """Memory that the network takes for a whole image; 0 where it sees windows, or has the memory of a device.

    part     the grid that the network sees
    """
    if not card.window.whole or not engine.name.endswith(" cpu"):
        return 0
    from segcli.engines.activations import peak

    return 2 * peak(card, fitted(card.window, part.shape).size)  # kernels hold copies in an order of their own


def refuse_too_large(scan: Grid, itemsize: int, card: ModelCard, *, limit: int | None = None, network: int = 0) -> None:
    """Refuse a scan, before its voxels are read, that would not fit even with its sums in a temporary file.

    limit    bytes that the process may have resident; what there is when None
    network  bytes that the network takes beside
    errors   OutOfMemory (71) with the need and what there is
    """
    used = resident()
    room = used + available() if limit is None else limit
    part = model_grid(scan, card.grid)
    need = used + network + host_bytes(scan, itemsize, card, part, on_disk=True)
    if need > room:
        raise OutOfMemory(
            f"{need / 1e9:.1f} GB of memory are needed, {room / 1e9:.1f} GB may be used",
            hint=remedy() if limit is None else "give more --max-ram",
        )


def window_cost(card: ModelCard, engine: Engine) -> Rates:
    """The cost of one window among as many as the engine takes at a time, over a second or two after one warm run."""
    rng = np.random.default_rng(0)
    d, h, w = card.window.size
    image = rng.standard_normal((card.inputs, engine.batch * d, h, w), np.float32)
    at = [(slice(i * d, (i + 1) * d), slice(0, h), slice(0, w)) for i in range(engine.batch)]
    start = time.perf_counter()
    engine.run(np.stack([image[:, along] for along, _, _ in at]))
    first, ram = time.perf_counter() - start, peak_memory()
    at = at[: engine.batch]  # fewer where memory was short
    sums = engine.sums(image, (len(at) * d + 1, h, w), 0, np.ones(card.window.size, np.float32))
    sums.add(at)  # in memory of their own
    count, start = 0, time.perf_counter()
    while count == 0 or time.perf_counter() - start < _LEARNING:
        sums.add(at)
        sums.finished((slice(0, 1), slice(0, h), slice(0, w)))  # waits for a device
        count += 1
    seconds = (time.perf_counter() - start) / (count * len(at))
    more = max(0.0, first - seconds * len(at))
    vram = _vram(engine.name)
    held = 4 * (len(card.decide.values) + 1) * (len(at) * d + 1) * h * w  # the sums count with the scan's
    own = peak_memory() - (0 if vram else held)
    return Rates(seconds, _pace(), ram, max(0, own - ram), more, batch=len(at), vram=vram)


def tried(scan: Grid, prepared: Prepared, card: ModelCard, engine: Engine, rates: Rates) -> Rates:
    """The rates with what a few windows of a prepared scan, spread over it, cost on the way to a label map.

    Of each window that part is decided which no other window's middle is nearer to: all of them make the scan.
    """
    image, inner = padded(prepared.image, card.window, prepared.outside)
    places = windows(image.grid.shape, card.window)
    parts = cells(image.grid.shape, card.window)
    count = max(1, min(len(places), _TRIED, int(_TRYING / rates.seconds)))
    seconds, writing, packed, size = 0.0, 0.0, 0, 0
    for i in range(count):
        chosen = (2 * i + 1) * len(places) // (2 * count)
        at = places[chosen].at
        logits = engine.run(np.ascontiguousarray(image.data[(slice(None), *at)], np.float32)[None])[0]
        cell = [
            (max(own.start, real.start), min(own.stop, real.stop))
            for own, real in zip(parts[chosen], inner, strict=True)
        ]
        if any(low >= high for low, high in cell):
            continue  # nothing but padding
        # With the next plane, so that what lies between two windows' parts belongs to one of them.
        box = [(a, min(b + 1, own.stop, real.stop)) for (a, b), own, real in zip(cell, at, inner, strict=True)]
        d, h, w = (slice(a, b) for a, b in box)
        part = image.grid.crop((d, h, w))
        mine = tuple(slice(a - own.start, b - own.start) for (a, b), own in zip(box, at, strict=True))
        seen = _around(scan, part)
        blank = Volume(np.broadcast_to(np.uint8(0), (1, *seen.shape)), seen)
        shown = Prepared(Volume(image.data[:, d, h, w], part), prepared.wanted, prepared.outside, {})
        slabs = iter([Volume(np.ascontiguousarray(logits[(slice(None), *mine)]), part)])
        found = decided(blank, shown, slabs, card.decide, card.interpolation, Wishes())
        seconds += found.seconds["decide"]
        start = time.perf_counter()
        tallied(found.labels, blank)
        islands(found.labels)
        packed += _packed(found.labels.data[0], scan.shape)
        writing += time.perf_counter() - start
        size += part.size
    return replace(rates, decide=seconds / size, write=writing / size, packed=packed / size) if size else rates


def cells(shape: tuple[int, int, int], plan: WindowPlan) -> list[Box]:
    """For each of `windows`, the voxels that are nearer to its middle than to any other's; together the shape."""
    axes = []
    for n, size in zip(shape, plan.size, strict=True):
        first = starts(n, size, plan)
        edges = [0, *((a + b + size) // 2 for a, b in pairwise(first)), n]
        axes.append([slice(a, b) for a, b in pairwise(edges)])
    return list(product(*axes))


def _around(scan: Grid, part: Grid) -> Grid:
    """The voxels of a scan whose centres lie in a part of the model's grid, and some around them at an angle."""
    corners = scan.index(part.corners())
    low = np.clip(np.ceil(np.min(corners, 0) - 1e-6), 0, np.array(scan.shape) - 1).astype(int)
    high = np.clip(np.floor(np.max(corners, 0) + 1e-6) + 1, low + 1, scan.shape).astype(int)
    d, h, w = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return scan.crop((d, h, w))


def _packed(labels: NDArray[np.integer], shape: tuple[int, int, int]) -> int:
    """Bytes that a piece (d, h, w) of a label map of a shape takes in the compressed file.

    Deflate looks back 32 KiB, which is less than a plane of a large scan: here it looks back as many rows' share.
    """
    back = 32768 * labels[0].size / (shape[1] * shape[2])
    encoder = zlib.compressobj(1, zlib.DEFLATED, max(9, min(15, math.floor(math.log2(back)))))
    return len(encoder.compress(labels.tobytes())) + len(encoder.flush())


def _pace() -> float:
    """Seconds of one voxel of a linear interpolation along an axis, on this machine as busy as it is."""
    coarse = np.ones((64, 96, 96), np.float32)
    taps = taps_for(np.linspace(0, 63, 128), 64)
    best = np.inf
    for _ in range(4):
        start = time.perf_counter()
        fine = apply(coarse, taps, 0)
        best = min(best, (time.perf_counter() - start) / fine.size)
    return best


def _vram(name: str) -> int:
    """Bytes that torch holds on a device with memory of its own at most; other engines do not say."""
    if not name.startswith(("torch cuda", "torch xpu")):
        return 0
    from segcli.engines.torch_devices import device_peak

    return device_peak(name.removeprefix("torch "))
