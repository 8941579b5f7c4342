"""What an exported ONNX file says of itself: how it compares with torch, and a digest of the rest. Needs no torch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from segcli import __version__
from segcli.engines.export.onnx_file import props
from segcli.engines.table import Choice, Graph, Run, installed, libraries
from segcli.models.card import ModelCard
from segcli.packages import version_of
from segcli.space.volume import Voxels

DIGEST_KEY = "segcli_digest"
SAMPLES = 1024  # logits of the first window that the certificate keeps, to find a drifting runtime without torch

Windows = Mapping[str, NDArray[np.float32]]  # "seeded 0" -> (1, C, d, h, w)


def seeded(card: ModelCard, seed: int) -> NDArray[np.float32]:
    """One window (1, C, d, h, w) of noise, smooth on the scale of a few voxels, with mean 0 and deviation 1."""
    noise = np.random.default_rng(seed).standard_normal((1, card.inputs, *card.window.size))
    for axis in (2, 3, 4):
        noise = noise + np.roll(noise, 1, axis) + np.roll(noise, 2, axis)
    window: NDArray[np.float32] = ((noise - noise.mean()) / noise.std()).astype(np.float32)
    return window


def runtimes() -> list[str]:
    """The libraries of the engines for ONNX files on a CPU that are installed."""
    return [spec.library for spec in installed() if spec.reads == "graph"]


def answer(
    card: ModelCard, data: bytes, runtime: str, windows: Windows, threads: int = 1
) -> dict[str, NDArray[np.float32]]:
    """Logits (N, K, d, h, w) of windows (N, C, d, h, w) by a runtime, through the very engine that predicts.

    They repeat with one number of threads.
    """
    spec = next(spec for spec in installed() if spec.library == runtime)
    chosen = Choice(spec, "cpu", "", Graph(f"{card.name}.onnx", data))
    engine, _ = spec.open(card, chosen, Run(threads=threads, batch=1))
    return {name: np.array(engine.run(x)) for name, x in windows.items()}


def current_samples(card: ModelCard, data: bytes, runtime: str) -> NDArray[np.float32]:
    """The logits that a certificate keeps, (SAMPLES,), as a runtime gives them now."""
    return samples(answer(card, data, runtime, {"seeded 0": seeded(card, 0)})["seeded 0"])


def relative_error(found: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    """Largest difference of two arrays of one shape as a share of the largest logit that is wanted."""
    return float(np.abs(found - wanted).max() / max(float(np.abs(wanted).max()), 1e-30))


def digest(model: Any) -> str:
    """sha256 of a model without the digest that it holds."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    helper.set_model_props(bare, {k: v for k, v in props(model).items() if k != DIGEST_KEY})
    return hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()


def versions() -> dict[str, str]:
    """Of what an export depends on, as far as it is installed."""
    return {"segcli": __version__} | {
        name: version_of(name) for name in dict.fromkeys(("torch", "onnx", *libraries())) if find_spec(name)
    }


def shorten(model: Any, half: bool) -> None:
    """Store float32 initialisers as float16 and cast them on loading: those that lose nothing, with `half` all.

    Engines fold the casts when they load the file, so only its size changes.
    """
    casts = []
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < 64:
            continue
        small = values.astype(np.float16)
        if not np.isfinite(small).all() or not (half or np.array_equal(small.astype(np.float32), values)):
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(small, f"{name}.float16"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], f"{name}.cast", to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def compare(
    card: ModelCard, data: bytes, shown: Windows, wanted: Windows, runtime: str, threads: int
) -> dict[str, float]:
    """How far a runtime's logits and labels are from torch's, over all windows shown."""
    found = answer(card, data, runtime, shown, threads)
    errors = [relative_error(found[name], wanted[name]) for name in shown]
    equal = [_decided(card, found[name]) == _decided(card, wanted[name]) for name in shown]
    return {
        "max_relative_error": _up(max(errors)),
        "agreement": math.floor(min(float(e.mean()) for e in equal) * 1e4) / 1e4,
    }


def _decided(card: ModelCard, logits: NDArray[np.float32]) -> Voxels:
    return logits > 0 if card.decide.rule == "regions" else logits.argmax(1)


def _up(value: float) -> float:
    if value == 0:
        return 0.0
    unit = 10.0 ** math.floor(math.log10(value))
    return float(f"{math.ceil(value / unit) * unit:.0e}")


def samples(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits at fixed places all over an array of any shape, (SAMPLES,)."""
    flat = logits.reshape(-1)
    places = np.random.default_rng(1).integers(0, flat.size, SAMPLES)
    picked: NDArray[np.float32] = flat[places]
    return picked


def tensor_digest(model: Any) -> str:
    """sha256 over names, shapes and bytes of the tensors, in the order of their names."""
    total = hashlib.sha256()
    for tensor in sorted(model.graph.initializer, key=lambda t: t.name):
        values = np.ascontiguousarray(numpy_helper.to_array(tensor))
        total.update(f"{tensor.name} {values.dtype.str} {values.shape}\n".encode())
        total.update(values.tobytes())
    return total.hexdigest()
