"""Apple's, Intel's and Windows's devices, which no machine of the tests has, played by stand-ins."""

import importlib
import os
import subprocess
import sys
import warnings
from typing import Any

import pytest
import torch
from torch import nn

from segcli.commands import doctor
from segcli.engines import choose, onnx_providers, torch_devices, torch_others
from segcli.engines.choose import open_engine
from segcli.engines.devices import NAMES, kind_of, place_of
from segcli.engines.loading import environment
from segcli.engines.onnx_providers import provider_for
from segcli.engines.torch_devices import TorchDevice
from segcli.engines.torch_memory import Device
from segcli.errors import EngineError, UsageError
from segcli.models.card import ModelCard


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch that is built for mps and xpu, each with one device whose convolutions run on the CPU."""
    importlib.import_module("torch._dynamo.device_interface")  # from 2.15 on it asks what torch is built for, by itself
    plain = torch_others.convolved
    monkeypatch.setattr(torch_others, "convolved", lambda cube, device: plain(cube, "cpu"))
    for owner, name in (
        (torch.backends.mps, "is_built"),
        (torch.backends.mps, "is_available"),
        (torch.xpu, "_is_compiled"),
        (torch.xpu, "is_available"),
    ):
        monkeypatch.setattr(owner, name, lambda: True)
    for owner in (torch.mps, torch.xpu):
        monkeypatch.setattr(owner, "device_count", lambda: 1)
        monkeypatch.setattr(owner, "empty_cache", lambda: None)


class There(TorchDevice):
    """A network whose device is played by the CPU, but for its name."""

    def __init__(self, network: nn.Module, device: Device, **how: Any) -> None:
        self.seen = {**how, "device": str(device.place)}
        device.place = torch.device("cpu")
        super().__init__(network, device, **how)
        device.place = torch.device(self.seen["device"])


@pytest.mark.parametrize(("asked", "place"), [("mps", "mps"), ("xpu", "xpu:0"), ("xpu:0", "xpu:0")])
def test_torch_runs_a_model_in_float32_on_a_named_device_of_apple_or_intel(
    card: ModelCard, played: None, monkeypatch: pytest.MonkeyPatch, asked: str, place: str
) -> None:
    monkeypatch.setattr(torch_devices, "TorchDevice", There)
    monkeypatch.setattr(torch_devices.TorchDevice, "_send", lambda self: None)
    opened = open_engine(card, device=asked)
    assert opened.engine.name == f"torch {place}"
    assert opened.engine.precision == "float32"
    assert opened.reason == "the device was named"


@pytest.mark.parametrize(
    ("device", "precision", "words"),
    [
        ("mps", "float16", "--precision float16: mps computes in float32 alone"),
        ("xpu:0", "bfloat16", "--precision bfloat16: xpu:0 computes in float32 alone"),
    ],
)
def test_less_than_float32_is_refused_there(
    card: ModelCard, played: None, device: str, precision: str, words: str
) -> None:
    with pytest.raises(EngineError, match=words):
        open_engine(card, device=device, precision=precision)


def test_6_8_a_device_of_another_maker_that_is_not_there_is_refused_with_the_reason(
    card: ModelCard, played: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EngineError, match="xpu:3: there is none that it finds"):
        open_engine(card, device="xpu:3")
    monkeypatch.setattr(torch.backends.mps, "is_built", lambda: False)
    with pytest.raises(EngineError, match="cannot use mps: it is not built for Apple's devices"):
        open_engine(card, device="mps")

    def broken(cube: Any, device: str) -> None:
        raise NotImplementedError("The operator 'aten::conv3d' is not currently implemented for the XPU device.")

    monkeypatch.setattr(torch_others, "convolved", broken)
    with pytest.raises(EngineError, match="cannot use xpu:0: The operator 'aten::conv3d'"):
        open_engine(card, device="xpu")


def test_auto_never_takes_such_a_device(card: ModelCard, played: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choose, "driver_devices", lambda: 0)
    assert open_engine(card).engine.name == "openvino cpu"


@pytest.mark.parametrize(
    "name", ["gpu", "mps:0", "cuda:x", "cuda:", "xpu:-1", "dml:1:2", "", "CUDA", "cpu:0", "cuda:²", "cuda:00"]
)
def test_what_is_no_device_is_refused_with_all_that_there_are(card: ModelCard, name: str) -> None:
    with pytest.raises(UsageError, match="no device is called") as refusal:
        open_engine(card, device=name)
    assert refusal.value.hint == f"there are {', '.join(NAMES)}"


def test_a_kind_without_a_number_is_the_first_of_its_devices() -> None:
    assert [place_of(name) for name in ("cuda", "cuda:2", "xpu", "mps", "coreml", "dml:1")] == [
        "cuda:0",
        "cuda:2",
        "xpu:0",
        "mps",
        "coreml",
        "dml:1",
    ]
    assert kind_of("dml:1") == "dml"


# ---- operators that are missing


class Lacking(nn.Module):
    """A network whose device has no operator for it: torch leaves it to the CPU, or does not."""

    def __init__(self, said: Exception | None) -> None:
        super().__init__()
        self.said = said

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.said is not None:
            raise self.said
        warnings.warn(
            "The operator 'aten::upsample_trilinear3d.out' is not currently supported on the MPS backend and will "
            "fall back to run on the CPU. This may have performance implications.",
            stacklevel=1,
        )
        return x


def on_mps(said: Exception | None) -> TorchDevice:
    made = There(Lacking(said), Device("mps"), threads=1, batch=1)
    made._forward = lambda patches, exact=False: made._network(patches)  # type: ignore[method-assign]
    return made


def test_an_operator_that_the_cpu_computes_is_named_once_in_the_record(played: None) -> None:
    engine = on_mps(None)
    for _ in range(2):
        engine.logits(torch.zeros(1, 1, 4, 4, 4))
    assert engine.fallbacks == ["the CPU computes aten::upsample_trilinear3d.out, which torch has not on mps"]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (
            NotImplementedError("The operator 'aten::x.out' is not currently implemented for the MPS device. If you"),
            "mps: torch has no aten::x.out there",
        ),
        (RuntimeError("Conv3D is not supported on MPS. Use CPU"), "mps: torch has no Conv3D is not supported on MPS"),
    ],
)
def test_an_operator_that_nobody_computes_is_a_refusal_that_names_it(played: None, said: Exception, words: str) -> None:
    with pytest.raises(EngineError, match=words):
        on_mps(said).logits(torch.zeros(1, 1, 4, 4, 4))


def test_another_error_there_is_no_missing_operator(played: None) -> None:
    with pytest.raises(RuntimeError, match="something else"):
        on_mps(RuntimeError("something else")).logits(torch.zeros(1, 1, 4, 4, 4))


def test_torch_is_loaded_with_the_cpu_behind_apples_devices_and_the_environment_is_as_it_was() -> None:
    program = """if True:
        import os, sys
        from segcli.engines import table
        spec = table.engines()["torch"]
        seen = []
        class Watch:
            def find_spec(self, name, *more):
                if name == "torch":
                    names = "PYTORCH_ENABLE_MPS_FALLBACK", "PYTORCH_DEBUG_XPU_FALLBACK"
                    seen.append([os.environ.get(variable) for variable in names])
        sys.meta_path.insert(0, Watch())
        print(spec.unusable("mps") is not None, seen[0], "PYTORCH_ENABLE_MPS_FALLBACK" in os.environ)
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "True ['1', '1'] False"


def test_what_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGCLI_TRIED", "0")
    with environment(SEGCLI_TRIED="1", SEGCLI_OTHER="1"):
        assert (os.environ["SEGCLI_TRIED"], os.environ["SEGCLI_OTHER"]) == ("0", "1")
    assert (os.environ["SEGCLI_TRIED"], "SEGCLI_OTHER" in os.environ) == ("0", False)


# ---- ONNX Runtime's providers


def test_coreml_keeps_the_graphs_float32_and_directml_takes_the_named_device() -> None:
    name, settings = provider_for("coreml")
    assert (name, settings["ModelFormat"], settings["MLComputeUnits"]) == (
        "CoreMLExecutionProvider",
        "MLProgram",
        "CPUAndGPU",
    )
    assert provider_for("dml:1") == ("DmlExecutionProvider", {"device_id": "1"})


class Session:
    """An ONNX Runtime with every provider, whose sessions take the one that is asked for."""

    def __init__(self, providers: list[str]) -> None:
        self.providers = providers
        self.made: list[tuple[Any, dict[str, Any]]] = []

    class SessionOptions:
        pass

    def get_available_providers(self) -> list[str]:
        return self.providers

    def preload_dlls(self) -> None:
        self.made.append(("dlls", {}))

    def InferenceSession(self, data: bytes, options: Any, providers: Any, enable_fallback: int) -> Any:
        self.made.append((providers[0], vars(options)))
        made = type("Made", (), {"get_providers": lambda self: [providers[0][0]]})
        return made()


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Session:
    made = Session(["CoreMLExecutionProvider", "DmlExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(onnx_providers.importlib, "import_module", lambda name: made)
    return made


@pytest.mark.parametrize(
    ("device", "provider"), [("coreml", "CoreMLExecutionProvider"), ("dml:1", "DmlExecutionProvider")]
)
def test_onnx_runtime_runs_a_model_on_apples_and_windowss_provider(
    card: ModelCard, runtime: Session, device: str, provider: str
) -> None:
    opened = open_engine(card, engine="onnx", device=device)
    assert opened.engine.name == f"onnxruntime {device}"
    assert opened.engine.precision == "float32"
    ((name, _), options) = runtime.made[-1]
    assert name == provider
    assert options["enable_mem_pattern"] is not device.startswith("dml")  # which it does not take


def test_cudas_libraries_out_of_pips_packages_are_loaded_before_a_session_on_cuda(runtime: Session) -> None:
    onnx_providers.session(b"", "model.onnx", "cuda:0")
    assert next(made[0] for made in runtime.made) == "dlls"
    onnx_providers.session(b"", "model.onnx", "cpu")
    assert [made[0] for made in runtime.made].count("dlls") == 1


def test_what_onnx_runtime_prints_of_cudas_libraries_is_no_result_and_explains_a_refusal(
    runtime: Session, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    printed = "Failed to load libcudnn.so.9: no such file\nPlease follow https://onnxruntime.ai"
    monkeypatch.setattr(runtime, "preload_dlls", lambda: print(printed), raising=False)
    onnx_providers.session(b"", "model.onnx", "cuda:0")
    on_cpu = type("Made", (), {"get_providers": lambda self: ["CPUExecutionProvider"]})
    monkeypatch.setattr(runtime, "InferenceSession", lambda *given, **how: on_cpu(), raising=False)
    with pytest.raises(EngineError, match=r"instead of CUDAExecutionProvider: Failed to load libcudnn.so.9: no such"):
        onnx_providers.session(b"", "model.onnx", "cuda:0")
    assert capsys.readouterr().out == ""


def test_doctor_names_every_device_and_what_it_lacks() -> None:
    rows = {row["engine"]: row for row in doctor.diagnosis()["engines"]}
    for name, words in {
        "torch mps": "not built for Apple's devices",
        "torch xpu": "not built for Intel's devices",
        "onnx cuda": "no CUDAExecutionProvider",
        "onnx coreml": "no CoreMLExecutionProvider",
        "onnx dml": "no DmlExecutionProvider",
    }.items():
        assert not rows[name]["works"]
        assert words in rows[name]["note"]
