"""open_engine(): which engine, on which device, and why. Libraries are imported when their engine is chosen."""

from __future__ import annotations

import ctypes
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Literal

from segcli.errors import EngineError, ModelError
from segcli.models.card import ModelCard
from segcli.models.library import file_sha256, find
from segcli.parallel import cores

Kind = Literal["auto", "torch", "onnx", "openvino"]
_LIBRARIES = {"torch": "torch", "onnx": "onnxruntime", "openvino": "openvino"}
# Smaller windows go to a processor several at a time. A compiled graph needs a window's memory for each of them and
# gains 2 % from three windows of 64^3; torch has slow kernels for small layers of a single window.
_VOXELS_AT_A_TIME = {"torch": 96**3, "onnx": 64**3, "openvino": 64**3}


@dataclass(frozen=True)
class Opened:
    """An engine, and what the record says of it.

    engine    satisfies windows.Engine; also `precision`, `steps` (steps down for want of memory, as they are taken),
              and `full_precision()`, the engine that computes in float32
    reason    why it was chosen
    hashes    file name -> sha256 of the bytes that were loaded
    others    further models whose answers are averaged with this one's
    """

    engine: Any
    reason: str
    warnings: tuple[str, ...]
    hashes: Mapping[str, str]
    others: tuple[tuple[ModelCard, Opened], ...] = ()


def open_engine(
    card: ModelCard,
    *,
    engine: Kind = "auto",
    device: str = "auto",
    threads: int | None = None,
    batch: int | None = None,
    mirror: bool = False,
    half: bool = False,
    max_vram: int | None = None,
    max_ram: int | None = None,
    votes: bool = False,
) -> Opened:
    """The model loaded into the fastest engine there is, or into the one that was named.

    device    "auto", "cpu", "cuda" or "cuda:N"
    threads   of the CPU; all cores the process may use when None
    batch     windows at a time; None lets the engine choose
    half      float16 where the device gains from it: CUDA
    max_vram  bytes; max_ram: of the process; sums that would exceed it live in a temporary file
    votes     folds and members also say where they would decide otherwise: one channel more (engines/ensemble.py)
    errors    EngineError (69): an engine or device that was named is not there, it is never replaced by another;
              ModelError (78): files that do not match the card
    """
    members = {name: find(name) for name in card.ensemble} or {"": card}
    first = next(iter(members.values()))
    chosen = choose(first, engine, device)
    warnings = list(chosen.warnings)
    if half and chosen.device == "cpu":
        warnings.append("half precision gains nothing on a CPU; the run is in float32")
        half = False
    run = _Run(threads or cores(), batch, half, max_vram, votes and len(members) == 1)
    hashes: dict[str, str] = {}
    engines = []
    for reference, member in members.items():
        _same_windows(member, card)
        # A second member runs where the first one does: their logits are added up in one library's arrays.
        own = chosen if member is first else choose(member, chosen.kind, chosen.device)  # type: ignore[arg-type]
        engine_of = _torch if own.kind == "torch" else _onnx
        loaded, sums = engine_of(member, own, run)
        engines.append(loaded)
        hashes |= {f"{reference}/{name}" if reference else name: digest for name, digest in sums.items()}
    if len(engines) == 1:
        opened = engines[0]
    else:
        from segcli.engines.averaged import Ensemble

        opened = Ensemble(engines, card.decide, votes)
    if mirror:
        from segcli.engines.mirrored import mirrored

        opened = mirrored(opened, card)
    opened.max_ram = max_ram
    return Opened(opened, chosen.reason, tuple(warnings), hashes)


@dataclass(frozen=True)
class _Run:
    """What a run wants of every engine it opens."""

    threads: int
    batch: int | None
    half: bool
    max_vram: int | None
    votes: bool  # of the folds


@dataclass(frozen=True, eq=False)
class Graph:
    """An ONNX file, read once: these very bytes are hashed, checked and loaded."""

    name: str
    data: bytes = field(repr=False)
    sha256: str | None = None


@dataclass(frozen=True)
class Choice:
    """kind: a key of _LIBRARIES; device: "cpu" or "cuda:N"; graph: None where torch runs."""

    kind: str
    device: str
    reason: str
    graph: Graph | None = None
    named_device: bool = False
    warnings: tuple[str, ...] = ()


def choose(card: ModelCard, engine: Kind, device: str) -> Choice:
    """Which engine runs a card where, and why; nothing heavy is imported unless a GPU is there.

    Named engines and devices are taken or refused. Otherwise: torch on a CUDA device; else OpenVINO, else ONNX
    Runtime, on the model's ONNX file or on an export of its weights; else torch.
    """
    if engine not in ("auto", *_LIBRARIES):
        raise EngineError(f"no engine is called {engine!r}", hint=f"there are auto, {', '.join(_LIBRARIES)}")
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise EngineError(f"no device is called {device!r}", hint="there are auto, cpu, cuda, cuda:N")
    named = device != "auto"
    here = {kind for kind, library in _LIBRARIES.items() if find_spec(library)}
    if engine != "auto" and engine not in here:
        raise EngineError(f"{_LIBRARIES[engine]} is not installed", hint=f"pip install {_LIBRARIES[engine]}")
    if engine == "openvino" and device.startswith("cuda"):
        raise EngineError("OpenVINO runs on the CPU", hint="use --engine torch or onnx with --device cuda")
    wants_cuda = device != "cpu" and engine != "openvino"
    index = int(device.partition(":")[2] or 0)
    warnings: tuple[str, ...] = ()
    if wants_cuda:
        count = driver_devices()
        if device != "auto" and index >= count:
            raise EngineError(
                f"{device} is not there: {count} CUDA device{'s' * (count != 1)} found", hint="use --device cpu"
            )
        if count and engine in ("auto", "torch") and "torch" in here and card.weights:
            if _torch_sees(index):
                return Choice("torch", f"cuda:{index}", "a CUDA device is there", None, named)
            if device != "auto":
                raise EngineError("this torch cannot use CUDA", hint="install a build of torch with CUDA")
            warnings = ("a CUDA device is there, but this torch cannot use it",)
        elif count and device != "auto" and engine == "auto":
            engine = "onnx"
        if count and engine == "onnx" and device != "auto":
            return Choice("onnx", f"cuda:{index}", "device and engine were named", graph_of(card, here), True)
    if engine == "torch" or (engine == "auto" and not here & {"openvino", "onnx"}):
        _weights_there(card, here)
        return Choice("torch", "cpu", "it was named" if engine == "torch" else "nothing else is there", None, named)
    if engine != "auto":
        return Choice(engine, "cpu", "it was named", graph_of(card, here), named, warnings)
    best = "openvino" if "openvino" in here else "onnx"
    try:
        graph = graph_of(card, here)
    except ModelError as error:
        if card.onnx is not None or not card.weights:
            raise
        # Weights that torch cannot load either are refused there.
        return Choice("torch", "cpu", f"the model cannot be exported: {error.message}", None, named, warnings)
    return Choice(best, "cpu", "the fastest engine here without a GPU", graph, named, warnings)


def graph_of(card: ModelCard, here: set[str]) -> Graph:
    """The model's ONNX file: its own, else the cached export of its weights, made now if need be."""
    if card.onnx is not None and (not card.weights or (card.folder is not None and (card.folder / card.onnx).exists())):
        return Graph(card.onnx, card.file(card.onnx).read_bytes(), card.onnx_sha256)
    _weights_there(card, here)
    from segcli.engines.export.cached import exported

    return Graph(f"{card.name}.onnx", exported(card))


def driver_devices() -> int:
    """CUDA devices that the driver shows; asked without torch, 0 where there is no driver."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(name)
    except OSError:
        return 0
    count = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def _torch_sees(index: int) -> bool:
    from segcli.engines.torch_engine import device_count

    return device_count() > index


def _weights_there(card: ModelCard, here: set[str]) -> None:
    if not card.weights:
        raise ModelError(f"{card.name}: has an ONNX file and no weights", hint="use --engine openvino or onnx")
    if "torch" not in here:
        raise EngineError(f"{card.name} has no ONNX file, and torch is not installed", hint="pip install torch")


def _onnx(card: ModelCard, chosen: Choice, run: _Run) -> tuple[Any, Mapping[str, str]]:
    from segcli.engines.export.onnx_file import read

    assert chosen.graph is not None  # every choice but torch has one
    file = read(chosen.graph.data, chosen.graph.name, card, chosen.graph.sha256)
    batch = run.batch or cpu_batch(card, chosen.kind)
    if chosen.kind == "openvino":
        from segcli.engines.openvino_engine import OpenVINOEngine

        return OpenVINOEngine(file, threads=run.threads, batch=batch), file.hashes
    from segcli.engines.onnx_engine import OnnxEngine

    return OnnxEngine(file, device=chosen.device, threads=run.threads, batch=batch, max_vram=run.max_vram), file.hashes


def _torch(card: ModelCard, chosen: Choice, run: _Run) -> tuple[Any, Mapping[str, str]]:
    from segcli.engines.averaged import Ensemble
    from segcli.engines.torch_engine import TorchCPU, TorchCUDA
    from segcli.models.weights import network_of

    shape = (card.inputs, *card.window.size)
    batch = run.batch or cpu_batch(card, chosen.kind)
    folds: list[Any] = []
    hashes: dict[str, str] = {}
    for fold, name in enumerate(card.weights):
        network = network_of(card, fold)
        # network_of checked this sum on the bytes that it loaded; a card without sums is hashed here.
        hashes[name] = card.sha256[fold] if card.sha256 else file_sha256(card.file(name))
        if chosen.device == "cpu":
            folds.append(TorchCPU(network, threads=run.threads, batch=batch))
        else:
            folds.append(
                TorchCUDA(
                    network,
                    chosen.device,
                    shape,
                    threads=run.threads,
                    batch=run.batch,
                    half=run.half,
                    max_vram=run.max_vram,
                    may_leave=not chosen.named_device,
                )
            )
    return (folds[0] if len(folds) == 1 else Ensemble(folds, card.decide, run.votes)), hashes


def _same_windows(member: ModelCard, card: ModelCard) -> None:
    """Refuse a member of an ensemble that sees other windows, or answers with other channels, than its card says."""
    for what, own, wanted in (
        ("patch_size", member.window.size, card.window.size),
        ("channels", member.channels, card.channels),
        ("labels", member.decide.values, card.decide.values),
        ("orientation", member.grid, card.grid),
        ("average", member.average, card.average),
    ):
        if own != wanted:
            raise ModelError(f"{card.name}: its member {member.name} has another {what}: {own}, not {wanted}")


def cpu_batch(card: ModelCard, kind: str) -> int:
    """Windows at a time on a CPU: one, but several pictures of a 2-D network or small windows."""
    return max(1, min(16, _VOXELS_AT_A_TIME[kind] // math.prod(card.window.size)))
