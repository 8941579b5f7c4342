"""Devices that are there and cannot be used, played by stand-ins: 69 when named, a warning and the CPU when not."""

import ctypes
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from segcli.commands import doctor
from segcli.engines import choose, driver, table, torch_cuda, torch_devices
from segcli.engines.choose import open_engine
from segcli.errors import EngineError
from segcli.models.card import ModelCard

H200 = ["sm_80", "sm_90", "compute_90"]
NO_KERNEL = "CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors might be reported"
BUSY = "CUDA error: CUDA-capable device(s) is/are busy or unavailable"


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver with one device and a torch that is built for it; its convolutions run on the CPU."""
    plain = torch_cuda.convolved
    monkeypatch.setattr(choose, "driver_devices", lambda: 1)
    monkeypatch.setattr(torch_cuda, "driver_version", lambda: "12.4")
    monkeypatch.setattr(torch_cuda, "convolved", lambda cube, device: plain(cube, "cpu"))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: H200)


def refused(card: ModelCard, *words: str) -> None:
    """Named, the device is refused with 69 and these words; else they are a warning, and the CPU is taken."""
    with pytest.raises(EngineError) as refusal:
        open_engine(card, engine="torch", device="cuda:0")
    opened = open_engine(card)
    assert opened.engine.name == "openvino cpu"
    for word in words:
        assert word in refusal.value.message
        assert word in opened.warnings[0]


def test_6_8_a_device_that_convolves_is_used(card: ModelCard, there: None) -> None:
    assert torch_cuda.unusable("cuda:0") is None


def test_6_8_a_driver_too_old_for_this_torch_is_named_with_both_versions(
    card: ModelCard, there: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told() -> bool:
        said = "CUDA initialization: The NVIDIA driver on your system is too old (found version 12040)."
        warnings.warn(said, stacklevel=2)
        return False

    words = "for CUDA 13.0", "The NVIDIA driver on your system is too old", "the driver is for CUDA 12.4"
    monkeypatch.setattr(torch_cuda, "_said", list(torch_cuda._said))
    monkeypatch.setattr(torch.cuda, "is_available", told)
    refused(card, *words)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # torch says it once, models are opened one by one
    refused(card, *words)


def test_6_8_a_device_without_kernels_in_this_torch_is_named_with_its_capability(
    card: ModelCard, there: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    refused(card, "NVIDIA H200, compute capability 6.1", "kernels for sm_80, sm_90, compute_90")


@pytest.mark.parametrize("said", [NO_KERNEL, BUSY, "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"])
def test_6_8_a_device_that_does_not_convolve_is_refused_with_what_it_says(
    card: ModelCard, there: None, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    def broken(cube: Any, device: str) -> None:
        raise getattr(torch, "AcceleratorError", RuntimeError)(said)

    monkeypatch.setattr(torch_cuda, "convolved", broken)
    refused(card, said.partition("\n")[0], "the driver is for CUDA 12.4")


def test_6_8_a_device_that_torch_cannot_begin_with_is_refused_as_well(
    card: ModelCard, there: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = (
        "CUDA call failed lazily at initialization with error: device >= 0 && device < num_gpus INTERNAL ASSERT FAILED"
    )

    def broken(device: str) -> None:
        raise torch.cuda.DeferredCudaCallError(said)

    monkeypatch.setattr(torch.cuda, "get_device_capability", broken)
    refused(card, "CUDA call failed lazily at initialization")


def test_6_8_a_device_that_fails_when_the_model_is_sent_there_is_refused_as_well(
    card: ModelCard, there: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Busy(torch_devices.TorchDevice):
        def __init__(self, *given: Any, **how: Any) -> None:
            raise getattr(torch, "AcceleratorError", RuntimeError)(BUSY)

    monkeypatch.setattr(torch_devices, "TorchDevice", Busy)
    refused(card, f"cuda:0 cannot be used: {BUSY}")


def test_6_8_an_index_beyond_those_of_torch_is_named(
    card: ModelCard, there: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    refused(card, "cuda:0 is not among its 0 devices")


@pytest.mark.parametrize(
    ("capability", "built", "runs"),
    [
        ((8, 6), ["sm_80"], True),  # a later one of the same generation
        ((8, 0), ["sm_86"], False),
        ((9, 0), ["sm_80"], False),
        ((9, 0), ["sm_80", "compute_80"], True),  # compiled when it is loaded
        ((12, 0), ["sm_90a", "sm_120"], True),
        ((5, 0), ["sm_75", "compute_90"], False),
        ((9, 4), ["gfx90a"], True),  # ROCm has other names
    ],
)
def test_which_kernels_run_on_which_device(capability: tuple[int, int], built: list[str], runs: bool) -> None:
    assert (torch_cuda._lacking(capability, built) == "") is runs


# ---- what drivers show


class Driver:
    """NVIDIA's driver library, of two devices."""

    def __init__(self, ready: int = 0) -> None:
        self.ready = ready

    def cuInit(self, flags: int) -> int:
        return self.ready

    def cuDeviceGetCount(self, count: Any) -> int:
        ctypes.cast(count, ctypes.POINTER(ctypes.c_int))[0] = 2
        return 0

    def cuDriverGetVersion(self, number: Any) -> int:
        ctypes.cast(number, ctypes.POINTER(ctypes.c_int))[0] = 12040
        return 0


def test_devices_and_version_are_those_of_nvidias_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_cuda", Driver)
    assert (driver.driver_devices(), driver.driver_version()) == (2, "12.4")
    monkeypatch.setattr(driver, "_cuda", lambda: Driver(ready=100))
    assert driver.driver_devices() == 0
    monkeypatch.setattr(driver, "_cuda", lambda: None)
    assert (driver.driver_devices(), driver.driver_version()) == (0, "")


def test_amds_devices_count_where_torch_is_built_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for node, units in enumerate((0, 304, 304)):  # a processor has none
        (tmp_path / str(node)).mkdir()
        (tmp_path / str(node) / "properties").write_text(f"cpu_cores_count 8\nsimd_count {units}\n")
    monkeypatch.setattr(driver, "_cuda", lambda: None)
    monkeypatch.setattr(driver, "_ROCM", tmp_path)
    for version, wanted in (("2.13.0+rocm6.4", 2), ("2.13.0+cpu", 0), ("2.13.0", 0)):
        monkeypatch.setattr(driver, "version", lambda name, version=version: version)
        assert driver.driver_devices() == wanted


def test_doctor_names_device_capability_wheel_and_driver(there: None) -> None:
    (row,) = (row for row in doctor.diagnosis()["engines"] if row["engine"] == "torch cuda")
    assert row["works"]
    assert row["note"] == "NVIDIA H200, compute capability 9.0; torch for CUDA 13.0; the driver is for CUDA 12.4"


def test_doctor_says_why_a_device_does_not_work(there: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (5, 0))
    (row,) = (row for row in doctor.diagnosis()["engines"] if row["engine"] == "torch cuda")
    assert not row["works"]
    assert "compute capability 5.0" in row["note"]
    assert table.engines()["torch"].notes
