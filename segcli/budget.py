"""Time and memory of a run before it begins, and what is changed when the memory would not suffice."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import psutil

from segcli.card import ModelCard
from segcli.engines import Opened
from segcli.errors import OutOfMemory
from segcli.grids import model_grid
from segcli.segmentation import at_least, prepare
from segcli.volume import Grid
from segcli.windows import SLAB_BYTES, Engine, WindowPlan, stream_axis, windows

# Seconds per voxel of what is not the network, measured on two cores: class scores brought back to the scan and
# compared (per class and voxel of the model's grid), labels measured, checked and written (per voxel of the scan).
_DECIDE, _WRITE = 6e-9, 45e-9


@dataclass(frozen=True)
class Rates:
    """What one window costs on this machine.

    seconds  of a window, the network and the adding up
    ram      largest resident size of the process so far, the engine's own work included
    vram     the same on a CUDA device, 0 without one
    """

    seconds: float
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

    max_ram: int | None

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
    on_disk = bool(fitting(scan.grid, itemsize, card, rates.ram, part=part, limit=opening.max_ram))
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
    decide = _DECIDE * len(card.decide.values) * part.size
    return Budget(
        windows=count,
        seconds=before + count * rates.seconds + decide + _WRITE * scan.size,
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
        4 * part.size * channels
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


def fit(
    engine: Any, scan: Grid, itemsize: int, card: ModelCard, *, window: WindowPlan | None = None, limit: int | None
) -> tuple[str, ...]:
    """Set up an engine so that a case stays within a limit, and say what was changed; no result changes.

    limit    bytes of resident memory; what the machine and the process's control group have to give when None
    errors   OutOfMemory (71) with the need and the limit when no way is left
    """
    used = psutil.Process().memory_info().rss
    steps = fitting(scan, itemsize, card, used, window=window, limit=limit)
    engine.sums_limit = 0 if steps else None
    return steps


def fitting(
    scan: Grid,
    itemsize: int,
    card: ModelCard,
    used: int,
    *,
    part: Grid | None = None,
    window: WindowPlan | None = None,
    limit: int | None = None,
) -> tuple[str, ...]:
    """The steps down that bring a case within a limit, of which there is one: sums in a temporary file."""
    window = window or card.window
    part = part or model_grid(scan, card.grid)
    room = limit if limit is not None else used + available()
    if used + host_bytes(scan, itemsize, card, part, window, False) <= room:
        return ()
    need = used + host_bytes(scan, itemsize, card, part, window, True)
    if need > room:
        raise OutOfMemory(
            f"{need / 1e9:.1f} GB of memory are needed, {room / 1e9:.1f} GB may be used",
            hint="use a machine with more memory, or give more --max-ram",
        )
    sums = sums_bytes(card, part, window)
    return (f"sums of {sums / 1e9:.1f} GB are kept in a temporary file in {Path(tempfile.gettempdir()).name}",)


def available() -> int:
    """Bytes that the machine, and the process's control group, still have to give."""
    free = int(psutil.virtual_memory().available)
    for most, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            limit, current = Path(most).read_text().strip(), int(Path(used).read_text())
        except (OSError, ValueError):
            continue
        if limit.isdigit():
            free = min(free, max(0, int(limit) - current))
    return free


def measured(card: ModelCard, engine: Engine) -> Rates:
    """The cost of one window, of two that are run; the first one warms up."""
    rng = np.random.default_rng(0)
    patch = rng.standard_normal((1, len(card.channels), *card.window.size), np.float32)
    weight = np.ones(card.window.size, np.float32)
    d, h, w = card.window.size
    total = engine.zeros((len(card.decide.values), d, h, w))
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        engine.add(total, (slice(0, d), slice(0, h), slice(0, w)), engine.run(patch)[0], weight)
        engine.get(total[:, :1])  # waits for a device
        seconds = time.perf_counter() - start
    return Rates(seconds, psutil.Process().memory_info().rss, _vram(engine.name))


def _vram(name: str) -> int:
    """Bytes that torch holds on a CUDA device at most; other engines do not say."""
    if not name.startswith("torch cuda"):
        return 0
    from segcli.engines.torch_engine import device_peak

    return device_peak(name.removeprefix("torch "))
