"""The steps down for want of GPU memory, on a network whose device is played by the CPU; the rest needs one."""

import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from segcli.engines.torch_devices import TorchCUDA
from segcli.errors import OutOfMemory

SHAPE = (1, 4, 4, 4)


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An engine with room for `engine.room` windows, and for sums of `engine.sums` numbers."""
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    made = TorchCUDA(
        nn.Conv3d(1, 2, 1), "cpu", SHAPE, threads=1, batch=8, precision="float32", max_vram=None, may_leave=False
    )
    made.room = 8

    def forward(patches: np.ndarray, *, exact: bool = False) -> torch.Tensor:
        if len(patches) > made.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        logits = made._network(torch.from_numpy(patches))
        if made.precision == "float16" and not exact:
            logits[(patches > 2).any((1, 2, 3, 4))] = torch.inf
        return logits

    monkeypatch.setattr(made, "_forward", forward)
    return made


def patches(count: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, *SHAPE)).astype(np.float32)


def test_6_2_windows_are_halved_until_they_fit_and_the_answer_is_the_same(engine: Any) -> None:
    wanted = engine.run(patches(5))
    engine.room = 1
    np.testing.assert_allclose(engine.run(patches(5)), wanted, rtol=1e-5, atol=1e-6)
    assert engine.batch == 1
    assert engine.fallbacks == [
        "out of GPU memory: 2 windows at a time",
        "out of GPU memory: 1 windows at a time",
    ]


def test_6_2_then_sums_move_to_the_host_and_keep_their_values(engine: Any) -> None:
    total = engine.zeros((2, 4, 4, 4))
    engine.add(total, (slice(0, 4),) * 3, torch.ones(2, 4, 4, 4), np.ones((4, 4, 4), np.float32))
    engine.room = 0
    with pytest.raises(OutOfMemory):
        engine.run(patches(1))
    assert engine.fallbacks == ["out of GPU memory: logits are added up in the computer's memory"]
    assert engine.get(total).min() == 1


def test_6_2_then_the_cpu_goes_on_where_no_device_was_named(engine: Any) -> None:
    wanted = engine.run(patches(1))
    engine.room, engine._may_leave = 0, True
    np.testing.assert_allclose(engine.run(patches(1)), wanted, rtol=1e-5, atol=1e-6)
    assert engine.fallbacks[-1] == "out of GPU memory: the CPU goes on"
    assert engine.name == "torch cpu"


def test_6_2_another_runtime_error_is_no_want_of_memory(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(patches: np.ndarray, *, exact: bool = False) -> torch.Tensor:
        raise RuntimeError("cuDNN error: CUDNN_STATUS_BAD_PARAM")

    monkeypatch.setattr(engine, "_forward", broken)
    with pytest.raises(RuntimeError, match="BAD_PARAM"):
        engine.run(patches(1))
    assert engine.fallbacks == []


@pytest.mark.parametrize(
    "said",
    [
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA error: out of memory",
        "GET was unable to find an engine to execute this computation",
    ],
)
def test_6_2_every_way_to_say_that_memory_is_short_leads_a_step_down(
    engine: Any, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    plain = engine._forward

    def forward(patches: np.ndarray, *, exact: bool = False) -> torch.Tensor:
        if len(patches) > 1:
            raise RuntimeError(said)
        return plain(patches)

    wanted = engine.run(patches(2))
    monkeypatch.setattr(engine, "_forward", forward)
    np.testing.assert_allclose(engine.run(patches(2)), wanted, rtol=1e-5, atol=1e-6)
    assert engine.fallbacks == ["out of GPU memory: 1 windows at a time"]


def test_6_2_what_a_failed_pass_held_is_gone_before_memory_is_given_back(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[weakref.ref[torch.Tensor]] = []
    alive: list[bool] = []
    plain = engine._forward

    def forward(patches: np.ndarray, *, exact: bool = False) -> torch.Tensor:
        activation = torch.zeros(1000)
        if len(patches) > 2:
            held.append(weakref.ref(activation))
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(patches)

    monkeypatch.setattr(engine, "_forward", forward)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: alive.append(held[-1]() is not None))
    engine.run(patches(4))
    assert alive == [False]


def test_6_3_sums_that_move_to_the_host_go_into_a_file_where_max_ram_wants_it(engine: Any) -> None:
    total = engine.zeros((2, 4, 4, 4))
    engine.add(total, (slice(0, 4),) * 3, torch.ones(2, 4, 4, 4), np.ones((4, 4, 4), np.float32))
    engine.room, engine.max_ram = 0, 1
    with pytest.raises(OutOfMemory):
        engine.run(patches(1))
    assert any("temporary file" in sentence for sentence in engine.fallbacks)
    assert engine.get(total).min() == 1


def test_5_8_of_half_precision_only_the_windows_that_overflow_are_computed_again_in_float32(engine: Any) -> None:
    shown = patches(8)
    over = (shown > 2).any((1, 2, 3, 4))
    assert 0 < over.sum() < 8
    wanted = engine.run(shown)
    engine.precision = "float16"
    np.testing.assert_array_equal(engine.run(shown), wanted)
    assert (engine.repeated, engine.precision) == (over.sum(), "float16")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    ("precision", "most"), [("float32", 1e-4), ("tf32", 1e-2), ("float16", 1e-2), ("bfloat16", 5e-2)]
)
def test_a_cuda_device_answers_as_the_cpu(precision: str, most: float) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv3d(8, 2, 1))
    with torch.no_grad():
        wanted = net(torch.from_numpy(patches(3)))
    engine = TorchCUDA(net, "cuda:0", SHAPE, threads=1, batch=None, precision=precision, max_vram=None, may_leave=False)
    total = engine.zeros((2, 4, 4, 4))
    logits = engine.logits(patches(3))
    assert (logits.cpu() - wanted).abs().max() <= most * wanted.abs().max()
    engine.add(total, (slice(0, 4),) * 3, logits[0], np.ones((4, 4, 4), np.float32))
    np.testing.assert_array_equal(engine.get(total), logits[0].cpu().numpy())
