"""ONNX Runtime in torch's memory: the CPU plays the device, the session and its bound memory are real."""

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch

from segcli.engines import choose, onnx_engine, onnx_providers, torch_cuda, torch_memory
from segcli.engines.choose import open_engine
from segcli.engines.export.onnx_file import OnnxFile, read
from segcli.engines.export.verified import export_onnx
from segcli.engines.onnx_bound import Bound
from segcli.engines.torch_devices import TorchDevice
from segcli.engines.torch_memory import Device
from segcli.errors import ModelError, OutOfMemory
from segcli.models.card import ModelCard

ARENA = "onnxruntime::BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 9"


@pytest.fixture(scope="module")
def file(card: ModelCard, tmp_path_factory: pytest.TempPathFactory) -> OnnxFile:
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(card, path)
    return read(path.read_bytes(), path.name, card)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    return Device("cpu")


def patches(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, 1, 32, 32, 32)).astype(np.float32)


def bound(file: OnnxFile, device: Device, session: Any = None, batch: int = 2) -> TorchDevice:
    made = session or onnx_providers.session(file.data, file.name, "cpu", threads=1)
    return TorchDevice(Bound(made, file), device, threads=1, batch=batch, library="onnxruntime")


def test_a_bound_session_answers_as_one_that_takes_the_hosts_arrays(
    card: ModelCard, file: OnnxFile, device: Device
) -> None:
    engine = bound(file, device)
    wanted = open_engine(card, engine="onnx", device="cpu").engine.run(patches(3))
    np.testing.assert_allclose(engine.run(patches(3)), wanted, rtol=1e-4, atol=1e-5)
    assert engine.name == "onnxruntime cpu"


def test_a_graph_of_a_fixed_batch_is_filled_up_with_its_last_window() -> None:
    class Doubling:
        """A session for two windows at a time, which doubles them."""

        def __init__(self) -> None:
            self.shown: list[int] = []

        def get_outputs(self) -> list[Any]:
            return [type("Output", (), {"name": "y"})]

        def io_binding(self) -> Any:
            named = "bind_input", "bind_output", "synchronize_outputs"
            return type("Binding", (), {name: lambda self, *given: None for name in named})()

        def run_with_iobinding(self, binding: Any) -> None:
            self.shown.append(1)

    session = Doubling()
    network = Bound(session, OnnxFile("two.onnx", b"", {}, (1, 4, 4, 4), 3, "x", batch=2))
    assert network(torch.zeros(5, 1, 4, 4, 4)).shape == (5, 3, 4, 4, 4)
    assert len(session.shown) == 3


class Short:
    """A session that has no memory for more than `room` windows."""

    def __init__(self, inner: Any, room: int, said: str = ARENA) -> None:
        self._inner, self.room, self.said = inner, room, said
        self.count = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def io_binding(self) -> Any:
        binding, session = self._inner.io_binding(), self

        class Counting:
            def __getattr__(self, name: str) -> Any:
                return getattr(binding, name)

            def bind_input(self, name: str, kind: str, index: int, dtype: Any, shape: tuple[int, ...], at: int) -> None:
                session.count = shape[0]
                binding.bind_input(name, kind, index, dtype, shape, at)

        self.binding = binding
        return Counting()

    def run_with_iobinding(self, binding: Any) -> None:
        from onnxruntime.capi.onnxruntime_pybind11_state import Fail

        if self.count > self.room:
            raise Fail(self.said)
        self._inner.run_with_iobinding(self.binding)


def test_6_2_a_session_that_runs_short_takes_the_steps_that_torch_takes(file: OnnxFile, device: Device) -> None:
    made = onnx_providers.session(file.data, file.name, "cpu", threads=1)
    engine, plain = bound(file, device, Short(made, 1)), bound(file, Device("cpu"))
    np.testing.assert_allclose(engine.run(patches(2)), plain.run(patches(2)), rtol=1e-4, atol=1e-5)
    assert engine.fallbacks == ["out of GPU memory: 1 windows at a time"]


@pytest.mark.parametrize(
    "said",
    [
        "BFCArena::AllocateRawInternal Available memory of 387667456 is smaller than requested bytes of 390021120",
        "CUDNN failure 4004: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED ; GPU=0",
    ],
)
def test_6_2_every_way_of_a_session_to_say_that_memory_is_short_leads_a_step_down(
    file: OnnxFile, device: Device, said: str
) -> None:
    made = onnx_providers.session(file.data, file.name, "cpu", threads=1)
    engine = bound(file, device, Short(made, 1, said))
    engine.run(patches(2))
    assert engine.fallbacks == ["out of GPU memory: 1 windows at a time"]


@pytest.mark.parametrize("room", [3, 1, 0])
def test_6_2_without_torch_a_session_that_runs_short_is_shown_fewer_windows_at_a_time(
    file: OnnxFile, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = onnx_engine.OnnxEngine(file, device="cpu", threads=1, batch=4)
    wanted, session = engine.run(patches(7)), engine._session

    class Full:
        def run(self, names: Any, feed: Any) -> Any:
            from onnxruntime.capi.onnxruntime_pybind11_state import Fail

            (shown,) = feed.values()
            if len(shown) > room:
                raise Fail(ARENA)
            return session.run(names, feed)

    monkeypatch.setattr(engine, "_session", Full())
    if room == 0:
        with pytest.raises(OutOfMemory, match="one window does not fit into the memory of cpu"):
            engine.run(patches(7))
        return
    for _ in range(2):  # and the next windows at once
        np.testing.assert_allclose(engine.run(patches(7)), wanted, rtol=1e-4, atol=1e-5)
    told = ["out of memory: 3 windows at a time", "out of memory: 1 windows at a time"]
    assert (engine.batch, engine.fallbacks) == (room, told[: 1 if room == 3 else 2])
    assert not engine._file.data


def test_6_2_a_session_without_room_for_one_window_ends_with_71(file: OnnxFile, device: Device) -> None:
    made = onnx_providers.session(file.data, file.name, "cpu", threads=1)
    with pytest.raises(OutOfMemory, match="Failed to allocate memory"):
        bound(file, device, Short(made, 0)).run(patches(1))


def test_another_error_of_a_bound_session_names_its_file(file: OnnxFile, device: Device) -> None:
    made = onnx_providers.session(file.data, file.name, "cpu", threads=1)
    with pytest.raises(ModelError, match=r"model\.onnx: ONNX Runtime cannot run it: some kernel"):
        bound(file, device, Short(made, 0, "some kernel")).run(patches(1))


@pytest.mark.parametrize(
    "said",
    [
        ARENA,
        "CUDA failure 2: out of memory ; GPU=0",
        "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED",
        "CUDNN failure 2: CUDNN_STATUS_ALLOC_FAILED ; GPU=0",
        "Exception(1) tid(2) 8007000E Not enough memory resources are available to complete this operation.",
    ],
)
def test_6_2_on_the_hosts_arrays_too_want_of_memory_ends_with_71(card: ModelCard, said: str) -> None:
    engine: Any = open_engine(card, engine="onnx", device="cpu").engine

    class Failing:
        def run(self, *given: Any) -> None:
            from onnxruntime.capi.onnxruntime_pybind11_state import RuntimeException

            raise RuntimeException(said)

    engine._session = Failing()
    with pytest.raises(OutOfMemory, match="one window does not fit into the memory of cpu"):
        engine.run(patches(1))


def test_on_cuda_the_session_is_bound_to_torchs_memory_with_torchs_batch_and_its_steps(
    card: ModelCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def opened(data: bytes, name: str, device: str, **how: Any) -> Any:
        seen.append((device, how["precision"]))
        return type("Session", (), {"get_outputs": lambda self: [type("Output", (), {"name": "y"})]})()

    monkeypatch.setattr(choose, "driver_devices", lambda: 1)
    monkeypatch.setattr(torch_cuda, "unusable", lambda device: None)
    built = type("Runtime", (), {"get_available_providers": lambda self: ["CUDAExecutionProvider"]})
    monkeypatch.setattr(onnx_providers, "silent", lambda: nullcontext(built()))
    monkeypatch.setattr(onnx_engine, "session", opened)
    monkeypatch.setattr(torch_memory.torch, "device", lambda name, plain=torch.device: plain("cpu"))
    common: dict[str, object] = {}
    engine: Any = open_engine(card, engine="onnx", device="cuda", precision="tf32", common=common).engine
    assert isinstance(engine, TorchDevice)
    assert seen == [("cuda:0", "tf32")]
    assert engine.precision == "tf32"
    assert engine._likes == max(1, min(16, 2 * 96**3 // 32**3))
    assert common["cuda:0"] is engine.device
