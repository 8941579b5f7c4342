"""Read golden files: what the official networks answer, with stored weights or with those of a formula."""

import hashlib
import json
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from segcli.networks.registry import build, live

DATA = Path(__file__).parent.parent / "data" / "golden"
SHARED = Path(os.environ["SEGCLI_SHARED"]) / "golden" if "SEGCLI_SHARED" in os.environ else None


@dataclass(frozen=True)
class Golden:
    """One official network: its arguments, its weights, an input and what it made of it.

    outputs  in the official order; every `stride`-th voxel of each spatial axis
    allowed  the largest absolute error that still counts as equal
    """

    name: str
    config: dict[str, Any]
    weights: dict[str, Tensor]
    input: Tensor
    outputs: tuple[Tensor, ...]
    stride: int
    allowed: float

    def load(self, net: nn.Module) -> nn.Module:
        """The network with these weights: nothing missing, nothing left over but inert tensors."""
        weights = {name: self.weights[name] for name in live(self.name, self.weights)}
        computed = {name for name, tensor in net.state_dict().items() if not tensor.is_floating_point()}
        missing, unexpected = net.load_state_dict(weights, strict=False)
        assert not unexpected
        assert set(missing) <= computed, set(missing) - computed
        return net.eval()

    def error(self, logits: Tensor, output: int = 0) -> float:
        """The largest absolute difference from one of the official outputs."""
        step = slice(None, None, self.stride)
        ours = logits[(slice(None), slice(None), *[step] * (logits.ndim - 2))]
        assert ours.shape == self.outputs[output].shape
        return float((ours - self.outputs[output]).abs().max())


def files(pattern: str, where: Path | None = DATA) -> list[Path]:
    """Golden files of a folder and of its `formula` folder, by name; none when the folder is not there."""
    return (
        sorted([*where.glob(f"{pattern}.safetensors"), *where.glob(f"formula/{pattern}.safetensors")]) if where else []
    )


def key_lists(pattern: str, where: Path | None = DATA) -> list[Path]:
    """Lists of the tensors of published checkpoints, by name."""
    return sorted(where.glob(f"keys/{pattern}.json")) if where else []


def read(path: Path) -> Golden:
    """A golden file, weights and input as float32."""
    with safe_open(path, "pt") as file:
        meta = file.metadata()
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    stored = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in stored.items()}
    outputs = [stored.pop("__output__")]
    while f"__output_{len(outputs)}__" in stored:
        outputs.append(stored.pop(f"__output_{len(outputs)}__"))
    if "procedural_tag" in meta:
        stored = formula_weights(meta)
    # Full-size files do not state the rounding noise: there it counts as none.
    noise = float(meta.get("max_abs_diff_float32_vs_float64", 0))
    return Golden(
        name=path.stem,
        config=json.loads(meta["config"]),
        input=stored.pop("__input__"),
        weights=stored,
        outputs=tuple(outputs),
        stride=int(meta.get("output_stride", 1)),
        allowed=1e-4 * max(1.0, float(meta["output_std"])) + 10 * noise,
    )


def name(path: Path) -> str:
    """What a test of this file is called."""
    return path.stem


def agree(path: Path) -> None:
    """Assert that our network gives every output of the official one."""
    golden = read(path)
    net = golden.load(build(golden.name, golden.config))
    with torch.inference_mode():
        # forward gives the first of the official outputs, UNet++ (whose deepest decoder is its last) the last one
        main = -1 if golden.name.startswith(("unetpp_", "basicunetplusplus_")) else 0
        assert golden.error(net(golden.input), main) <= golden.allowed
        if len(golden.outputs) > 1:
            heads = net.heads(golden.input)
            assert len(heads) == len(golden.outputs)
            assert max(golden.error(logits, i) for i, logits in enumerate(heads)) <= golden.allowed


def listed(path: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of each tensor of a published checkpoint."""
    return {key: tuple(shape) for key, shape in json.loads(path.read_text(encoding="utf-8"))["keys"].items()}


@dataclass(frozen=True)
class Exported:
    """A model file, an input of three items and what torch answers."""

    model: Path
    x: Tensor
    answer: Tensor
    allowed: float

    def in_onnx_runtime(self) -> None:
        """ONNX Runtime answers as torch does."""
        session = onnxruntime.InferenceSession(self.model, providers=["CPUExecutionProvider"])
        self.check(session.run(None, {"x": self.x.numpy()})[0])

    def in_openvino(self, times: float = 1) -> None:
        """OpenVINO answers one item after the other as torch does; `times` as far from it as the golden file allows.

        Of a fixed number of items, as the engine runs it: only then constants are maps that a graph could overwrite.
        """
        openvino = pytest.importorskip("openvino", reason="OpenVINO is not made for this machine")
        model = openvino.Core().read_model(self.model)
        model.reshape([1, *self.x.shape[1:]])
        compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        answers = [compiled([self.x[i : i + 1].numpy()])[0] for i in range(len(self.x))]
        self.check(np.concatenate(answers), times)

    def check(self, answer: Any, times: float = 1) -> None:
        assert torch.from_numpy(answer).allclose(self.answer, rtol=0, atol=times * self.allowed)


def export(path: Path, model: Path) -> Exported:
    """Write a golden file's network as ONNX to `model`, the number of its items left open."""
    golden = read(path)
    net = golden.load(build(golden.name, golden.config))
    one = golden.input[:1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter warns of itself
        batch = {"x": {0: "N"}}
        torch.onnx.export(net, (one,), model, dynamo=False, opset_version=17, input_names=["x"], dynamic_axes=batch)
    three = torch.cat((one, -one, one.flip(-1)))
    with torch.inference_mode():
        return Exported(model, three, net(three), golden.allowed)


def formula_weights(meta: dict[str, str]) -> dict[str, Tensor]:
    """The tensors of a formula file, `__input__` among them; integer buffers are left to the network."""
    tag, shapes = meta["procedural_tag"], json.loads(meta["shapes"])
    ranges = {name: span for name, span in json.loads(meta["procedural_ranges"]).items() if span is not None}
    made = json.loads(meta["procedural_input"])
    tensors = {"__input__": uniform(tag, "__input__", made["shape"], *made["range"])}
    for name, span in ranges.items():
        if isinstance(span, list):
            tensors[name] = uniform(tag, name, shapes[name], *span)
    for name, span in ranges.items():
        if isinstance(span, dict):
            tensors[name] = tensors[span["alias"]]
    return tensors


def uniform(tag: str, name: str, shape: list[int], low: float, high: float) -> Tensor:
    """Numbers between low and high that only the two names and the position decide (SplitMix64)."""
    seed = int.from_bytes(hashlib.sha256(f"{tag}:{name}".encode()).digest()[:8], "little")
    count = int(np.prod(shape, dtype=np.int64))
    z = np.arange(1, count + 1, dtype=np.uint64)
    z *= np.uint64(0x9E3779B97F4A7C15)
    z += np.uint64(seed)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    u = (z >> np.uint64(40)).astype(np.float64) / 2**24
    return torch.from_numpy((low + (high - low) * u).astype(np.float32).reshape(shape))
