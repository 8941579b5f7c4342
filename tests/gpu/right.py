"""Whether a device answers as the CPU: every network, each step down, labels decided there; what has to be."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from checking import Check
from torch import Tensor

from segcli.bench.certificates import card_of
from segcli.engines.averaged import Ensemble
from segcli.engines.mirrored import Mirrored
from segcli.engines.torch_decide import Decider
from segcli.engines.torch_memory import Device
from segcli.errors import OutOfMemory
from segcli.inference.decide import Decision, labels_on
from segcli.inference.deciding import Task
from segcli.inference.segment import segment
from segcli.inference.windows import sums_shape
from segcli.models.card import ModelCard
from segcli.models.weights import network_of
from segcli.networks.deform_uxnet import deform_conv3d
from segcli.networks.registry import small_networks
from segcli.space.resample import LINEAR
from segcli.space.volume import Box, Grid, Volume

# Precision -> the largest error of logits beside the CPU's float32 (L2, of theirs), the least share of equal labels.
# In bfloat16 a CPU gave 0.002 to 0.015, and 0.993 to 1.
LIMITS = {"float32": (3e-4, 0.999), "tf32": (1e-2, 0.985), "float16": (1e-2, 0.985), "bfloat16": (5e-2, 0.97)}
_APART = 2e-4  # share of voxels, of nearly equal logits, that other batches and steps down may label otherwise


def families(check: Check) -> None:
    """Every network in each precision, with drawn weights and widths cut down."""
    for family, small in small_networks().items():
        if check.left < 60 and not check.dry:
            return check.say("a: no time left")
        folder = check.work / "families" / family
        folder.mkdir(parents=True)
        card = card_of(family, folder)
        count = 1 if check.dry else 2
        draw = np.random.default_rng(1)
        x = torch.from_numpy(draw.standard_normal((count, card.inputs, *small.size), np.float32))
        with torch.no_grad():
            wanted = network_of(card)(x)
        facts: dict[str, Any] = {}
        right = True
        for precision in ("float32",) if check.dry else LIMITS:
            try:
                found = torch.from_numpy(check.engine(card, precision, batch=2).run(x.numpy()))
            except Exception as error:  # whatever torch raises is the finding
                facts[f"{precision} error"], right = f"{type(error).__name__}: {str(error)[:160]}", False
                continue
            apart = float((found - wanted).norm() / wanted.norm())
            equal = float((found.argmax(1) == wanted.argmax(1)).float().mean())
            facts |= {precision: apart, f"{precision} equal": equal}
            most, least = LIMITS[precision]
            right &= apart <= most and equal >= least  # no NaN passes
        check.judge("a", family, right, **facts)
    return None


def deformed(check: Check) -> None:
    """The deformable convolution in float32 beside the CPU's float64, its taps near by and far outside the volume."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x, weight, bias, offset = draw(2, 4, 7, 8, 9), draw(4, 1, 3, 3, 3), draw(4), draw(2, 81, 7, 8, 9)
    for what, reach in {"near": 0.7, "far": 40.0}.items():
        wanted = deform_conv3d(x, reach * offset, weight, bias)
        found = deform_conv3d(*(one.float().to(check.place) for one in (x, reach * offset, weight, bias)))
        apart = float((found.cpu() - wanted).norm() / wanted.norm())
        check.judge("a", f"deformable convolution, {what} taps", apart < 1e-4, error=apart)


def onnx_runtime(check: Check) -> None:
    """A model through ONNX Runtime in torch's memory, where it has a provider for the device."""
    from segcli.engines.choose import open_engine
    from segcli.engines.onnx_providers import unusable

    if check.dry or unusable(str(check.place)):
        return check.row("a", "ONNX Runtime on the device: not installed")
    card = check.model(14, 16, 96)
    x = np.random.default_rng(0).standard_normal((1, 1, *card.window.size)).astype(np.float32)
    wanted = open_engine(card, engine="torch", device="cpu").engine.run(x)
    found = open_engine(card, engine="onnx", device=str(check.place), precision="float32").engine.run(x)
    apart = float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))
    check.judge("a", "ONNX Runtime on the device", apart < 3e-4, error=apart)
    return None


def phantom(shape: tuple[int, int, int], noise: float = 0.0) -> np.ndarray:
    """Hounsfield units of a body with an organ that winds along it."""
    voxels = np.empty(shape, np.int16)
    y, x = np.ogrid[-1 : 1 : shape[1] * 1j, -1 : 1 : shape[2] * 1j]
    body = (x / 0.8) ** 2 + (y / 0.55) ** 2 < 1
    for i, plane in enumerate(voxels):
        turn = 2 * np.pi * i / 200
        organ = (x - 0.3 * np.cos(turn)) ** 2 + (y - 0.2 * np.sin(turn)) ** 2 < 0.04 * (1.5 + np.sin(3 * turn))
        plane[:] = np.where(organ, 150, np.where(body, 40, -1000))
    if noise:
        voxels += (noise * np.random.default_rng(0).standard_normal(shape, np.float32)).astype(np.int16)
    return voxels


def memory(check: Check) -> None:
    """Equal bytes from run to run; each step down, forced by a limit, and equal labels after it."""
    shape = (32, 32, 32) if check.dry else (150, 200, 200)
    scan = Volume(phantom(shape, 10)[None], Grid(shape, np.diag([1.5, 1.5, 1.5, 1.0])))
    card = check.model(33, 16, 96)
    check.fresh()
    wanted = _labels(check, scan, card, batch=1)
    peak = check.peak
    check.judge("c", "another engine gives the same bytes", bool((_labels(check, scan, card, batch=1) == wanted).all()))
    apart = float((_mirrored(check, scan, card, 8) != _mirrored(check, scan, card, 1)).mean())
    check.judge("c", "mirror images are one batch", apart < _APART, differ=apart)
    check.fresh()
    apart = float((_labels_of_folds(check, scan, card) != wanted).mean())
    both = check.peak
    check.judge("c", "two equal folds label as one", apart < _APART, differ=apart)
    if check.dry:
        return None
    weights = sum(card.file(name).stat().st_size for name in card.weights)
    sums = bytes_of_sums(card, shape)
    levels = limits(peak, sums, weights, str(check.place))
    for what, (batch, limit, device, refused) in levels.items():
        if check.left < 60:
            return check.say("c: no time left")
        _forced(check, what, scan, card, wanted, (batch, limit, device), refused)
    _, limit, _, _ = limits(both, sums, 2 * weights, "")["sums go to the host"]
    check.fresh()
    apart = float((_labels_of_folds(check, scan, card, limit) != wanted).mean())
    check.judge("c", "sums of two folds go to the host", apart < _APART, differ=apart, limit_mb=limit / 1e6)
    return None


def bytes_of_sums(card: ModelCard, shape: tuple[int, int, int]) -> int:
    """Of a model's logits over an image, on a device."""
    return 4 * len(card.decide.values) * math.prod(sums_shape(shape, card.procedure.window, 1))


def limits(peak: int, sums: int, weights: int, device: str) -> dict[str, tuple[int, int, str, bool]]:
    """For each step down: windows at a time, the limit of memory that forces it, the device, whether it is refused.

    peak   bytes that tensors had at most where windows went one by one; of these `sums` and `weights`

    torch counts whole blocks against a limit, more than tensors have: a step has room to spare, half of the sums.
    """
    window = max(peak - sums - weights, 1)
    return {
        "windows are halved": (16, peak + 2 * window, device, False),
        "sums go to the host": (4, peak - sums // 2, device, False),
        "the CPU goes on": (4, weights + int(0.35 * window), "auto", False),
        "refused with 71": (4, weights + int(0.35 * window), device, True),
    }


def _mirrored(check: Check, scan: Volume, card: ModelCard, batch: int) -> np.ndarray:
    axes = (0,) if check.dry else (0, 1, 2)
    engine = Mirrored(check.engine(card, batch=batch), axes, None, ())
    found: np.ndarray = segment(scan, card.procedure, engine).labels.data
    return found


def _labels_of_folds(check: Check, scan: Volume, card: ModelCard, limit: int | None = None) -> np.ndarray:
    """Labels of the mean of two engines of a model, which share a device and one window of its memory at a time."""
    common: dict[str, object] = {}
    folds = [check.engine(card, batch=1, max_vram=limit, common=common) for _ in range(2)]
    found: np.ndarray = segment(scan, card.procedure, Ensemble(folds, card.decide, votes=False)).labels.data
    return found


def _labels(check: Check, scan: Volume, card: ModelCard, **how: Any) -> np.ndarray:
    found: np.ndarray = segment(scan, card.procedure, check.engine(card, **how)).labels.data
    return found


def _forced(
    check: Check,
    what: str,
    scan: Volume,
    card: ModelCard,
    wanted: np.ndarray,
    run: tuple[int, int, str],
    refused: bool,
) -> None:
    from segcli.engines.choose import open_engine

    batch, limit, device = run
    check.fresh()
    start = time.perf_counter()
    try:
        engine = open_engine(card, device=device, precision="float32", batch=batch, max_vram=limit).engine
        found = segment(scan, card.procedure, engine).labels.data
    except OutOfMemory as error:
        return check.judge("c", what, refused, said=error.message, limit_mb=limit / 1e6)
    except Exception as error:
        return check.judge("c", what, False, error=f"{type(error).__name__}: {str(error)[:200]}")
    differ = float((found != wanted).mean())
    facts = {"differ": differ, "steps": list(engine.fallbacks), "seconds": time.perf_counter() - start}
    return check.judge("c", what, not refused and differ < _APART and bool(engine.fallbacks), **facts)


def blobs(check: Check, classes: int, shape: tuple[int, int, int]) -> Callable[[Box], Tensor]:
    """Logits of balls, as a trained network's are: background where there is none."""
    rng = np.random.default_rng(0)
    centres, radii = rng.uniform(0.1, 0.9, (classes, 3)) * shape, rng.uniform(8, 25, classes)

    def slab(box: Box) -> Tensor:
        z, y, x = (torch.arange(s.start, s.stop, device=check.place, dtype=torch.float32) for s in box)
        out = torch.empty((classes, len(z), len(y), len(x)), device=check.place)
        out[0] = 2
        for k in range(1, classes):
            c = centres[k].tolist()
            r = ((z[:, None, None] - c[0]) ** 2 + (y[:, None] - c[1]) ** 2 + (x - c[2]) ** 2).sqrt()
            out[k] = (8 - 6 * r / float(radii[k])).clamp_min(-12)
        return out

    return slab


def deciding(check: Check) -> None:
    """Labels that the device decides are the host's bytes; and the seconds of a whole CT, 14 and 118 classes."""
    scan_shape, shape = ((24, 40, 40), (16, 20, 20)) if check.dry else ((400, 512, 512), (267, 273, 273))
    scan = Grid(scan_shape, np.diag([1.0, 0.8, 0.8, 1.0]))
    steps = [n * s / m for n, s, m in zip(scan_shape, scan.spacing, shape, strict=True)]
    part = Grid(shape, np.diag([*steps, 1.0]))
    for classes in (3,) if check.dry else (14, 118):
        if check.left < 60 and not check.dry:
            return check.say("f: no time left")
        make, decide = blobs(check, classes, shape), Decision(tuple(range(classes)))
        task = Task(scan, scan, part, part, LINEAR, decide, False)
        planes = shape[0] // 2
        box = (slice(planes - 6, planes + 6), slice(0, shape[1]), slice(0, shape[2]))
        own = _decider(check, make, task)
        own.take(box, part.crop(box))
        start = time.perf_counter()
        host = labels_on(scan, [Volume(make(box).cpu().numpy(), part.crop(box))], decide, part, part).data[0]
        there = time.perf_counter() - start
        same = bool((own.labels() == host).all())
        check.judge("f", f"labels of {classes} classes are the host's bytes", same, host_s=there * shape[0] / 12)
        _whole(check, _decider(check, make, task), part, classes)
    return None


def _decider(check: Check, make: Callable[[Box], Tensor], task: Task) -> Decider:
    return Decider(Device(str(check.place)), lambda box, grid: make(box), task)


def _whole(check: Check, decider: Decider, part: Grid, classes: int) -> None:
    check.fresh()
    check.wait()
    start = time.perf_counter()
    for low in range(0, part.shape[0] - 1, 8):
        box = (slice(low, min(low + 9, part.shape[0])), slice(0, part.shape[1]), slice(0, part.shape[2]))
        decider.take(box, part.crop(box))
    check.wait()
    both = time.perf_counter() - start
    make = blobs(check, classes, part.shape)
    start = time.perf_counter()
    for low in range(0, part.shape[0] - 1, 8):  # what making the logits takes by itself
        make((slice(low, min(low + 9, part.shape[0])), slice(0, part.shape[1]), slice(0, part.shape[2])))
    check.wait()
    made = time.perf_counter() - start
    start = time.perf_counter()
    decider.labels()
    facts = {"seconds": both - made, "to_host_s": time.perf_counter() - start, "peak_mb": check.peak / 1e6}
    check.row("f", f"labels and margins of a whole CT on the device, {classes} classes", **facts)
