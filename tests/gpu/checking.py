"""What the parts of the check share: the device or what plays it, the clock, the rows that are found, and models."""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from segcli.bench import material
from segcli.engines.choose import open_engine
from segcli.engines.torch_devices import TorchDevice
from segcli.engines.torch_memory import Device
from segcli.models.card import ModelCard
from segcli.models.weights import network_of

REPOSITORY = Path(__file__).parents[2]


@dataclass
class Check:
    """One run of the check.

    place    the device; the CPU plays it where `dry`, with tiny sizes
    seconds  that the run may take
    out      folder for check.json, written after each row
    """

    place: torch.device
    seconds: float
    out: Path
    dry: bool = False
    rows: list[dict[str, Any]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    began: float = field(default_factory=time.perf_counter)

    @cached_property
    def work(self) -> Path:
        """A folder for models and scans."""
        return Path(tempfile.mkdtemp(prefix="segcli-gpu-"))

    @property
    def left(self) -> float:
        """Seconds."""
        return self.seconds - (time.perf_counter() - self.began)

    def say(self, text: str) -> None:
        print(f"[{time.perf_counter() - self.began:6.1f}] {text}", file=sys.stderr, flush=True)

    def row(self, part: str, what: str, **facts: Any) -> None:
        """Keep what was found, and show it."""
        self.rows.append({"part": part, "what": what, **facts})
        shown = "  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in facts.items())
        self.say(f"{part} {what}: {shown}")
        self.out.mkdir(parents=True, exist_ok=True)
        found = {"rows": self.rows, "failed": self.failed}
        (self.out / "check.json").write_text(json.dumps(found, indent=1, default=str))

    def judge(self, part: str, what: str, right: bool, **facts: Any) -> None:
        """The same, of something that has to be."""
        if not right:
            self.failed.append(f"{part} {what}")
        self.row(part, what, right=bool(right), **facts)

    # ---- the device

    def wait(self) -> None:
        if self.place.type == "cuda":
            torch.cuda.synchronize(self.place)

    def fresh(self) -> None:
        """What was before is gone, and peak memory counts from here on."""
        gc.collect()  # an engine in a cycle would keep its memory, and a limit would be too narrow for the next one
        if self.place.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.place)

    @property
    def peak(self) -> int:
        """Bytes that tensors have had at most."""
        return torch.cuda.max_memory_allocated(self.place) if self.place.type == "cuda" else 0

    def timed(self, work: Callable[[], Any], repeats: int = 5) -> tuple[float, float]:
        """Seconds of the first call, and the median of the next ones in milliseconds."""
        times = []
        for _ in range(1 if self.dry else 1 + repeats):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            times.append(time.perf_counter() - start)
            if times[0] > 20:
                break
        return times[0], 1e3 * statistics.median(times[1:] or times)

    # ---- what runs on it

    def engine(self, card: ModelCard, precision: str = "float32", **how: Any) -> Any:
        """The engine that `segcli predict --engine torch --device cuda:0` has of a card; or one that the CPU plays."""
        if not self.dry:
            return open_engine(card, engine="torch", device=str(self.place), precision=precision, **how).engine
        return self.on_device(network_of(card), precision, how.get("batch") or 1)

    def on_device(self, network: nn.Module, precision: str = "float32", batch: int = 1) -> TorchDevice:
        return TorchDevice(network, Device(str(self.place)), threads=2, batch=batch, precision=precision)

    def model(self, classes: int, features: int, window: int) -> ModelCard:
        """A 3D UX-Net with drawn weights; small on a dry run."""
        small = (3, 4, 32) if self.dry else (classes, features, window)
        return material.model(self.work, small[0], features=small[1], window=small[2], blend="gaussian", onnx=False)


def machine(check: Check) -> None:
    """What stands on the first line of a report."""
    from segcli.engines.driver import driver_devices, driver_version

    facts: dict[str, Any] = {"torch": torch.__version__, "cuda": torch.version.cuda, "driver": driver_version()}
    facts |= {"cudnn": torch.backends.cudnn.version(), "devices": driver_devices(), "cores": os.cpu_count()}
    if check.place.type == "cuda":
        about = torch.cuda.get_device_properties(check.place)
        facts |= {"gpu": about.name, "gib": about.total_memory / 2**30, "sm": about.multi_processor_count}
        facts["capability"] = torch.cuda.get_device_capability(check.place)
    check.row("0", "machine", **facts)
