"""Time and memory of a run before it begins, and what is changed when the memory would not suffice."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import psutil

from segcli.card import ModelCard
from segcli.engines import Opened
from segcli.engines.host import RESERVE, available
from segcli.errors import OutOfMemory
from segcli.grids import model_grid
from segcli.resample import apply, taps_for
from segcli.segmentation import at_least, prepare
from segcli.volume import Grid
from segcli.windows import SLAB_BYTES, Engine, WindowPlan, stream_axis, windows

# What is not the network takes so many times as long, for each voxel of the scan, as one interpolated voxel: class
# scores brought back and compared; labels measured, checked and written. Measured on brain and body scans.
_DECIDE, _DECIDE_CLASS, _WRITE = 20.0, 1.0, 40.0


@dataclass(frozen=True)
class Rates:
    """What one window costs on this machine.

    seconds  of a window, the network and the adding up
    pace     seconds of one interpolated voxel
    ram      largest resident size of the process so far, the engine's own work included
    vram     the same on a CUDA device, 0 without one
    """

    seconds: float
    pace: float
    ram: int
    vram: int = 0


@dataclass(frozen=True)
class Budget:
    """What a case needs; disk counts the outputs and sums in a temporary file."""

    windows: int
    seconds: float
    ram_bytes: int
    vram_bytes: int
    disk_bytes: int


class Opening(Protocol):
    """The options of a run that concern its engine."""

    @property
    def max_ram(self) -> int | None: ...

    def open(self, card: ModelCard) -> Opened: ...


def plan_case(path: Path, card: ModelCard, opening: Opening) -> dict[str, Any]:
    """What predicting a scan would need: read and prepared as then, one window run to learn what one costs."""
    from segcli import formats

    opened = opening.open(card)
    rates = measured(card, opened.engine)
    start = time.perf_counter()
    scan = formats.read([path], channels=len(card.channels))
    read = time.perf_counter() - start
    prepared = prepare(scan, card)
    seconds = read + sum(prepared.seconds.values())
    part, itemsize = prepared.image.grid, scan.data.dtype.itemsize
    room = available() if opening.max_ram is None else opening.max_ram - psutil.Process().memory_info().rss
    on_disk = sums_bytes(card, part, card.window) + RESERVE > room
    budget = plan(scan.grid, itemsize, card, rates, part=part, before=seconds, on_disk=on_disk)
    return {
        "engine": opened.engine.name,
        "windows": budget.windows,
        "seconds": round(budget.seconds, 1),
        "ram_mb": round(budget.ram_bytes / 1e6),
        "vram_mb": round(budget.vram_bytes / 1e6),
        "disk_mb": round(budget.disk_bytes / 1e6, 2),
        "sums_on_disk": on_disk,
    }


def plan(
    scan: Grid,
    itemsize: int,
    card: ModelCard,
    rates: Rates,
    *,
    part: Grid | None = None,
    window: WindowPlan | None = None,
    before: float = 0.0,
    on_disk: bool = False,
) -> Budget:
    """What a case needs, from geometry and rates.

    itemsize  bytes of a voxel as the file has it
    part      the grid that the network sees; without it the crop is not known and the whole scan is taken
    before    seconds of reading and preparing
    on_disk   whether sums live in a temporary file
    """
    window = window or card.window
    part = part or model_grid(scan, card.grid)
    count = len(windows(at_least(part.shape, window.size), window))
    host = host_bytes(scan, itemsize, card, part, window, on_disk)
    sums = sums_bytes(card, part, window)
    after = rates.pace * scan.size * (_DECIDE + _DECIDE_CLASS * len(card.decide.values) + _WRITE)
    return Budget(
        windows=count,
        seconds=before + count * rates.seconds + after,
        ram_bytes=rates.ram + host - (sums if rates.vram else 0),
        vram_bytes=rates.vram + sums if rates.vram else 0,
        disk_bytes=scan.size // 100 + 65536 + (sums if on_disk else 0),
    )


def host_bytes(scan: Grid, itemsize: int, card: ModelCard, part: Grid, window: WindowPlan, on_disk: bool) -> int:
    """Memory of a case beyond the engine's own, at its peak."""
    channels = len(card.channels)
    source = scan.size * itemsize * channels
    whole = model_grid(scan, card.grid).size
    preparing = 3 * 4 * whole * channels  # as resampled, as the step before left it, and the step's own
    axis = stream_axis(at_least(part.shape, window.size), window)
    step = min(window.size[axis], part.shape[axis]) + 1
    slab = 4 * len(card.decide.values) * step * part.size // part.shape[axis]
    plane = slab // step
    share = min(1.0, max(SLAB_BYTES, 2 * plane) / slab) * min(1.0, step / part.shape[axis])
    running = (
        4 * part.size * card.inputs
        + (0 if on_disk else sums_bytes(card, part, window))
        + 2 * min(slab, max(SLAB_BYTES, 2 * plane))  # one on its way to labels, the next being finished
        + scan.size * np.dtype(card.decide.dtype).itemsize
        + int(12 * scan.size * share)  # of the scan's voxels in a slab: values, the best so far, what is better
    )
    return source + max(preparing, running)


def sums_bytes(card: ModelCard, part: Grid, window: WindowPlan) -> int:
    """The sums of logits and of weights: planes of one window and the one before."""
    shape = list(at_least(part.shape, window.size))
    axis = stream_axis((shape[0], shape[1], shape[2]), window)
    shape[axis] = window.size[axis] + 1
    return 4 * (len(card.decide.values) + 1) * int(np.prod(shape, dtype=np.int64))


def check(scan: Grid, itemsize: int, card: ModelCard, *, limit: int | None = None) -> None:
    """Refuse a scan, before its voxels are read, that would not fit even with its sums in a temporary file.

    limit    bytes that the process may have resident; what there is when None
    errors   OutOfMemory (71) with the need and what there is
    """
    used = psutil.Process().memory_info().rss
    room = used + available() if limit is None else limit
    part = model_grid(scan, card.grid)
    need = used + host_bytes(scan, itemsize, card, part, card.window, on_disk=True)
    if need > room:
        raise OutOfMemory(
            f"{need / 1e9:.1f} GB of memory are needed, {room / 1e9:.1f} GB may be used",
            hint="use a machine with more memory" if limit is None else "give more --max-ram",
        )


def measured(card: ModelCard, engine: Engine) -> Rates:
    """The cost of one window, of two that are run; the first one warms up."""
    rng = np.random.default_rng(0)
    patch = rng.standard_normal((1, card.inputs, *card.window.size), np.float32)
    weight = np.ones(card.window.size, np.float32)
    d, h, w = card.window.size
    total = engine.zeros((len(card.decide.values), d, h, w))
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        engine.add(total, (slice(0, d), slice(0, h), slice(0, w)), engine.run(patch)[0], weight)
        engine.get(total[:, :1])  # waits for a device
        seconds = time.perf_counter() - start
    return Rates(seconds, _pace(), psutil.Process().memory_info().rss, _vram(engine.name))


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
    """Bytes that torch holds on a CUDA device at most; other engines do not say."""
    if not name.startswith("torch cuda"):
        return 0
    from segcli.engines.torch_engine import device_peak

    return device_peak(name.removeprefix("torch "))
