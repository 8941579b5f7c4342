"""Where segcli's time goes, and how it grows."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from segcli.bench import material
from segcli.bench.results import Row
from segcli.bench.sgemm import peak
from segcli.engines.choose import open_engine
from segcli.engines.export.certificate import relative_error
from segcli.engines.host import HostEngine
from segcli.inference.engine import Engine
from segcli.inference.segment import segment
from segcli.models.card import ModelCard
from segcli.space.volume import Grid, Volume


def start(folder: Path, threads: int, repeats: int = 5) -> list[Row]:
    """Seconds from the start of a process to its end, or to its first finished window; the median of warm runs.

    The windows are those of the default model on a scan of 2 million voxels: opening the model, reading and preparing
    the scan lie before the first one. Small windows go several at a time; the first ones are done together.
    """
    program = [sys.executable, "-m", "segcli"]
    rows: list[Row] = []
    for words in (["--version"], ["--help"], ["predict", "--help"]):
        rows.append(
            {"what": " ".join(["segcli", *words]), "seconds": median(partial(run, [*program, *words]), repeats)}
        )
    scan = material.scan(folder, (40, 224, 224))
    for engine in ("openvino", "onnx", "torch"):
        words = [*program, "predict", str(scan), "-o", str(folder / f"start_{engine}"), "--overwrite"]
        words += ["--engine", engine, "--threads", str(threads), "--quiet", "--events", "stderr"]
        seconds = median(partial(first_window, words), repeats)
        rows.append({"what": f"the first window, {engine}", "seconds": seconds})
    return rows


def first_window(words: Sequence[str]) -> None:
    """Run a command that reports events on stderr until its first window is done, and no longer."""
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8") as process:
        assert process.stderr is not None  # it is a pipe
        said = ""
        for line in process.stderr:
            said += line
            if line.startswith("{") and json.loads(line)["event"] == "window":
                process.kill()
                return
    raise SystemExit(f"{' '.join(words)}\n{said[-2000:]}")


def network(card: ModelCard, threads: int, repeats: int = 3) -> list[Row]:
    """One window in each CPU engine, beside the same network in torch as it comes, all in float32.

    of_peak  the network's own work in each second, as a share of the fastest float32 matrix product of this machine,
             measured before and after: the better one counts. The work is that of `flops`, whatever an engine makes
             of the graph, so that what an engine saves counts for it and what it adds does not
    apart    largest difference from torch's logits, as a share of the largest logit
    """
    from segcli.models.weights import network_of

    before, work = peak(threads), flops(card)
    torch.set_num_threads(threads)
    patch = np.random.default_rng(0).standard_normal((1, 1, *card.window.size)).astype(np.float32)
    net = network_of(card)
    with torch.no_grad():
        wanted = net(torch.from_numpy(patch)).numpy()
        seconds = {"torch, as it comes": best(lambda: net(torch.from_numpy(patch)), repeats, warm=False)}
        apart = {"torch, as it comes": 0.0}
        for kind in ("torch", "onnx", "openvino"):
            engine = open_engine(card, engine=kind, threads=threads).engine
            found = np.asarray(engine.run(patch))
            apart[engine.name] = relative_error(found, wanted)
            seconds[engine.name] = best(partial(engine.run, patch), repeats, warm=False)
    most = max(*before.values(), *peak(threads).values())
    plain = seconds["torch, as it comes"]
    return [
        {"network": card.name, "gflop": work, "engine": name, "seconds": s, "ratio": plain / s}
        | {"gflops": work / s, "sgemm": most, "of_peak": work / s / most, "apart": apart[name]}
        for name, s in seconds.items()
    ]


def flops(card: ModelCard) -> float:
    """10^9 multiplications and additions of the convolutions and matrix products for one window.

    Of the network as it is written, 2 for each product that is added; norms and activations are left out, as in what
    publications give.
    """
    from torch.utils.flop_counter import FlopCounterMode

    from segcli.models.weights import network_of

    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network_of(card)(torch.zeros(1, len(card.channels), *card.window.size))
    return float(counter.get_total_flops()) / 1e9


def whole(scan: Path, card: ModelCard, out: Path, threads: int, engine: str, *more: str, title: str = "") -> Row:
    """`segcli predict` as a process: its stages, wall time and peak memory from the record.

    title    what the row is called, where it is not the engine
    start    what the process takes before and after the stages: imports, above all
    beside   share of the stages that is not the network
    """
    words = [
        sys.executable, "-m", "segcli", "predict", str(scan), "--model", str(card.folder), "-o", str(out),
        "--engine", engine, "--threads", str(threads), "--quiet", *more,
    ]  # fmt: skip
    shutil.rmtree(out, ignore_errors=True)  # what is there and verified would not be done again
    began = time.perf_counter()
    run(words)
    seconds = time.perf_counter() - began
    record = json.loads((out / f"{scan.name.partition('.')[0]}_seg.json").read_text(encoding="utf-8"))
    stages = record["run"]["seconds"]
    return {
        "pipeline": f"segcli {title or engine}",
        "seconds": round(seconds, 2),
        "peak_mb": record["run"]["peak_memory_mb"],
        "windows": record["windows"],
        **stages,
        "start": round(seconds - sum(stages.values()), 2),
        "beside": 1 - stages["network"] / sum(stages.values()),
        **{f"step {i}": step for i, step in enumerate(record["run"]["steps"], 1)},
    }


def big(folder: Path, threads: int, slices: int) -> Row:
    """A CT of 512 x 512 x `slices` voxels with 118 classes under 4 GiB; the disk that it took, others' use included."""
    scan = material.long_scan(folder, slices)
    card = material.model(folder, 118, features=8, window=64, spacing=2.0, blend="gaussian")
    free, least, done = shutil.disk_usage(tempfile.gettempdir()).free, [0], threading.Event()
    least[0] = free

    def watch() -> None:
        while not done.wait(0.5):
            least[0] = min(least[0], shutil.disk_usage(tempfile.gettempdir()).free)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        row = whole(scan, card, folder / "out_big", threads, "openvino", "--max-ram", "4G")
    finally:
        done.set()
        watching.join()
    return {"voxels": f"{slices}x512x512", "classes": 118, **row, "disk_mb": round((free - least[0]) / 1e6)}


def peer(name: str, scan: Path, card: ModelCard, threads: int) -> Row:
    """A peer's run of the same scan, network and weights."""
    words = [sys.executable, "-m", "segcli.bench.peers", name, str(scan), str(card.folder), str(threads)]
    began = time.perf_counter()
    found = json.loads(run(words).splitlines()[-1])
    return {
        "pipeline": name,
        "seconds": round(time.perf_counter() - began, 2),
        "peak_mb": found["peak_mb"],
        **found["stages"],
    }


class Copies(HostEngine):
    """An engine without a network: each class is the image times a number, so that all but the network is timed."""

    name = "copies"

    def __init__(self, classes: int, threads: int) -> None:
        super().__init__(threads)
        self.factors = np.linspace(-1, 1, classes, dtype=np.float32).reshape(1, -1, 1, 1, 1)

    def run(self, patches: np.ndarray) -> np.ndarray:
        logits: np.ndarray = patches * self.factors
        return logits


def scaling(folder: Path, threads: int, full: bool = False) -> dict[str, list[tuple[float, float]]]:
    """Seconds of all but the network against volume and classes; of the network against windows and threads."""
    curves: dict[str, list[tuple[float, float]]] = {"slices": [], "classes": [], "windows": [], "threads": []}
    for depth in (64, 128, 256, 512, 1024) if full else (64, 128, 256):
        curves["slices"].append((depth, without_network(folder, (depth, 192, 192), 14, threads)))
    for classes in (2, 14, 59, 118):
        curves["classes"].append((classes, without_network(folder, (64, 192, 192), classes, threads)))
    card = material.model(folder, 14, crop=False)
    patch = np.zeros((1, 1, *card.window.size), np.float32)
    for many in range(1, threads + 1):
        engine = open_engine(card, threads=many).engine
        curves["threads"].append((many, best(partial(engine.run, patch), 3)))
    for count in (1, 2, 4, 8, 16) if full else (1, 2, 4):
        curves["windows"].append((count, timed(partial(several, engine, patch, count))))
    return curves


def several(engine: Engine, patch: np.ndarray, count: int) -> None:
    """The same window, several times."""
    for _ in range(count):
        engine.run(patch)


def without_network(folder: Path, shape: tuple[int, int, int], classes: int, threads: int) -> float:
    card = material.model(folder, classes, crop=False, onnx=False)
    rng = np.random.default_rng(0)
    scan = Volume(rng.uniform(-200, 300, (1, *shape)).astype(np.float32), Grid(shape, np.diag([2.0, 1.5, 1.5, 1])))
    engine = Copies(classes, threads)
    return best(lambda: segment(scan, card.procedure, engine), 1)


def run(words: Sequence[str]) -> str:
    done = subprocess.run(words, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}\n{done.stderr[-2000:]}")
    return done.stdout


def best(work: Callable[[], object], count: int, *, warm: bool = True) -> float:
    """The shortest of `count` runs, after one that warms up."""
    if warm:
        work()
    return min(timed(work) for _ in range(count))


def median(work: Callable[[], object], count: int) -> float:
    """The median of `count` runs, after one that warms up."""
    work()
    return statistics.median(timed(work) for _ in range(count))


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
