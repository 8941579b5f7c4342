"""Every engine on every device in every precision: it computes as it was told, or is refused truly; by stand-ins."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from card import played
from torch import nn

from segcli.engines import choose, onnx_engine, onnx_providers, openvino_engine, precision, torch_others
from segcli.engines.choose import open_engine
from segcli.engines.precision import PRECISIONS
from segcli.errors import EngineError
from segcli.models.card import ModelCard

GPU, NONE, ALONE = "is for GPUs", "does not compute in it", "computes in float32 alone"
NO_BF16 = "cpu has no AVX512-BF16 and no AMX"
OLD = "cuda:0 has compute capability 7.5, and it takes 8.0"
WORDS = (*PRECISIONS, "fast")
# What runs, or the reason why not, in the order of WORDS: auto, float32, tf32, bfloat16, float16, fast.
WANTED: dict[tuple[str, str], tuple[str, ...]] = {
    ("torch", "cpu"): ("float32", "float32", GPU, NO_BF16, GPU, "float32"),
    ("torch", "cpu with bfloat16"): ("float32", "float32", GPU, "bfloat16", GPU, "bfloat16"),
    ("torch", "cuda:0"): ("float16", "float32", "tf32", "bfloat16", "float16", "float16"),
    ("torch", "cuda:0 of 7.5"): ("float16", "float32", OLD, OLD, "float16", "float16"),
    ("torch", "mps"): ("float32", "float32", ALONE, ALONE, ALONE, "float32"),
    ("torch", "xpu:0"): ("float32", "float32", ALONE, ALONE, ALONE, "float32"),
    ("openvino", "cpu"): ("float32", "float32", GPU, NO_BF16, GPU, "float32"),
    ("openvino", "cpu with bfloat16"): ("float32", "float32", GPU, "bfloat16", GPU, "bfloat16"),
    ("onnx", "cpu"): ("float32", "float32", GPU, NONE, NONE, "float32"),
    ("onnx", "cpu with bfloat16"): ("float32", "float32", GPU, NONE, NONE, "float32"),
    ("onnx", "cuda:0"): ("float32", "float32", "tf32", NONE, NONE, "float32"),
    ("onnx", "coreml"): ("float32", "float32", ALONE, NONE, NONE, "float32"),
    ("onnx", "dml:0"): ("float32", "float32", ALONE, NONE, NONE, "float32"),
}
# What an engine never runs on.
ELSEWHERE = {
    "torch": ("coreml", "dml"),
    "openvino": ("cuda", "mps", "xpu", "coreml", "dml"),
    "onnx": ("mps", "xpu"),
}


@contextmanager
def standing(patch: pytest.MonkeyPatch, engine: str, device: str) -> Iterator[None]:
    """The device, played; ONNX Runtime's sessions away from the processor are played by those on it."""
    patch.setattr(precision, "native_bfloat16", lambda: "bfloat16" in device)
    with ExitStack() as stack:
        if device.startswith("cuda"):
            patch.setattr(choose, "driver_devices", lambda: 1)
            stack.enter_context(played(patch))
            if "7.5" in device:
                patch.setattr(torch.cuda, "get_device_capability", lambda device=None: (7, 5))
                patch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_75"])
        if device.startswith(("mps", "xpu")):
            stack.enter_context(played(patch))
            plain = torch_others.convolved
            patch.setattr(torch_others, "convolved", lambda cube, device: plain(cube, "cpu"))
            for owner, name in ((torch.backends.mps, "is_built"), (torch.backends.mps, "is_available")):
                patch.setattr(owner, name, lambda: True)
            for owner, name in ((torch.xpu, "_is_compiled"), (torch.xpu, "is_available"), (torch.xpu, "_lazy_init")):
                patch.setattr(owner, name, lambda: True)
            for owner in (torch.mps, torch.xpu):
                patch.setattr(owner, "device_count", lambda: 1)
                patch.setattr(owner, "empty_cache", lambda: None)
        if engine == "onnx" and not device.startswith("cpu"):
            every = ["CUDAExecutionProvider", "CoreMLExecutionProvider", "DmlExecutionProvider"]
            patch.setattr(onnx_providers, "silent", lambda: nullcontext(_Providers(every)))
            patch.setattr(onnx_engine, "session", lambda *given, **how: _Session())
        yield


class _Providers:
    def __init__(self, every: list[str]) -> None:
        self.get_available_providers = lambda: every


class _Session:
    """What is asked of a session before it runs."""

    def get_outputs(self) -> list[Any]:
        return [type("Output", (), {"name": "logits"})]


def seen_by(network: nn.Module, device: str) -> Callable[[], str]:
    """What the network's convolutions compute in, as torch says while they do."""
    said = list[str]()

    def look(*given: Any) -> None:
        kind = device.partition(":")[0]
        if torch.is_autocast_enabled(kind):
            said.append(str(torch.get_autocast_dtype(kind)).removeprefix("torch."))
        else:
            backends: Any = torch.backends
            newer = hasattr(backends.cudnn, "conv")
            tf32 = backends.cudnn.conv.fp32_precision == "tf32" if newer else backends.cudnn.allow_tf32
            said.append("tf32" if tf32 else "float32")

    network.register_forward_pre_hook(look)

    def first() -> str:
        assert len(set(said)) == 1
        return said[0]

    return first


@pytest.mark.parametrize(
    ("engine", "device"),
    [pytest.param(*one, marks=pytest.mark.slow if "cuda:0" in one[1] and "torch" in one else ()) for one in WANTED],
)
def test_each_precision_runs_as_it_is_named_or_is_refused_with_the_reason(
    card: ModelCard, monkeypatch: pytest.MonkeyPatch, engine: str, device: str
) -> None:
    place, told, ran = device.partition(" ")[0], list[Any](), set[str]()
    x = np.random.default_rng(0).standard_normal((1, 1, 16, 16, 32)).astype(np.float32)
    plain = openvino_engine.OpenVINOEngine._settings
    monkeypatch.setattr(
        openvino_engine.OpenVINOEngine, "_settings", lambda self: told.append(plain(self)) or plain(self)
    )
    with standing(monkeypatch, engine, device):
        for asked, wanted in zip(WORDS, WANTED[engine, device], strict=True):
            if wanted not in PRECISIONS:
                with pytest.raises(EngineError, match=f"^--precision {asked}: .*{wanted}"):
                    open_engine(card, engine=engine, device=place, precision=asked)
                continue
            opened: Any = open_engine(card, engine=engine, device=place, precision=asked).engine
            assert opened.precision == wanted, asked
            assert opened.name.endswith(place)
            if engine == "torch" and place != "mps" and wanted not in ran:  # torch here cannot play its kernels
                network = opened._network if place == "cpu" else opened._there
                computed = seen_by(network, place)
                opened.run(x)
                assert computed() == wanted, asked
                ran.add(wanted)
            if engine == "openvino":
                assert told[-1]["INFERENCE_PRECISION_HINT"] == {"float32": "f32", "bfloat16": "bf16"}[wanted]


@pytest.mark.parametrize(
    ("engine", "device"), [(engine, device) for engine, some in ELSEWHERE.items() for device in some]
)
def test_an_engine_is_refused_on_a_device_that_it_never_runs_on(card: ModelCard, engine: str, device: str) -> None:
    with pytest.raises(EngineError, match="runs on the") as refusal:
        open_engine(card, engine=engine, device=device)
    assert f"with --device {device}" in (refusal.value.hint or "")


def test_the_table_has_every_engine_with_each_of_its_devices() -> None:
    from segcli.engines.table import engines

    there = {(name, kind) for name, spec in engines().items() for kind in spec.devices}
    assert there == {(engine, device.partition(" ")[0].partition(":")[0]) for engine, device in WANTED}
    kinds = {"cpu", "cuda", "mps", "xpu", "coreml", "dml"}
    assert {name: kinds - {*spec.devices} for name, spec in engines().items()} == {
        k: {*v} for k, v in ELSEWHERE.items()
    }
