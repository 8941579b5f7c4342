"""The steps down for want of GPU memory, on a network whose device is played by the CPU; the rest needs one."""

import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from segcli.engines import torch_cuda, torch_memory, torch_state
from segcli.engines.averaged import Ensemble
from segcli.engines.blended import cut
from segcli.engines.mirrored import Mirrored
from segcli.engines.quicker import in_its_order
from segcli.engines.torch_devices import TorchCPU, TorchDevice
from segcli.engines.torch_memory import Device
from segcli.errors import OutOfMemory
from segcli.inference.decide import Decision

SHAPE = (1, 4, 4, 4)


class StandIn(TorchDevice):
    """A network whose device is played by the CPU, with room for `room` windows."""

    def __init__(self, device: Device, seed: int = 0) -> None:
        torch.manual_seed(seed)
        super().__init__(nn.Conv3d(1, 2, 1), device, threads=1, batch=8)
        self.room = 8

    def _forward(self, patches: torch.Tensor, *, exact: bool = False) -> torch.Tensor:
        if len(patches) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        logits: torch.Tensor = self._network(patches)
        if self.precision == "float16" and not exact:
            logits[(patches > 2).flatten(1).any(1)] = torch.inf
        return logits


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    return Device("cpu")


@pytest.fixture
def engine(device: Device) -> Any:
    return StandIn(device)


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
    total = engine.device.zeros((2, 4, 4, 4))
    total.data += 1
    before = total.data
    engine.room = 0
    with pytest.raises(OutOfMemory):
        engine.run(patches(1))
    assert engine.fallbacks == ["out of GPU memory: logits are added up in the computer's memory"]
    assert total.data is not before
    assert total.data.min() == 1


def test_6_2_then_the_cpu_goes_on_where_no_device_was_named(engine: Any) -> None:
    wanted = engine.run(patches(1))
    engine.room, engine.device._may_leave = 0, True
    np.testing.assert_allclose(engine.run(patches(1)), wanted, rtol=1e-5, atol=1e-6)
    assert engine.fallbacks[-1] == "out of GPU memory: the CPU goes on"
    assert engine.name == "torch cpu"


def test_6_2_another_runtime_error_is_no_want_of_memory(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(patches: torch.Tensor, *, exact: bool = False) -> torch.Tensor:
        raise RuntimeError("cuDNN error: CUDNN_STATUS_BAD_PARAM")

    monkeypatch.setattr(engine, "_forward", broken)
    with pytest.raises(RuntimeError, match="BAD_PARAM"):
        engine.run(patches(1))
    assert engine.fallbacks == []


@pytest.mark.parametrize(
    "said",
    [
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        "MIOpen Error: miopenStatusAllocFailed",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA error: out of memory",
        "HIP error: out of memory",
        "CUDA error: HIPBLAS_STATUS_ALLOC_FAILED when calling `hipblasCreate(handle)`",
        "MPS backend out of memory (MPS allocated: 9.00 GB, other allocations: 8.00 MB, max allowed: 9.07 GB)",
        "Invalid buffer size: 19.38 GiB",
        "level_zero backend failed with error: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)",
        "level_zero backend failed with error: 40 (UR_RESULT_ERROR_OUT_OF_RESOURCES)",
        "GET was unable to find an engine to execute this computation",
    ],
)
def test_6_2_every_way_to_say_that_memory_is_short_leads_a_step_down(
    engine: Any, monkeypatch: pytest.MonkeyPatch, said: str
) -> None:
    plain = engine._forward

    def forward(patches: torch.Tensor, *, exact: bool = False) -> torch.Tensor:
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

    def forward(patches: torch.Tensor, *, exact: bool = False) -> torch.Tensor:
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
    total = engine.device.zeros((2, 4, 4, 4))
    total.data += 1
    engine.room, engine.device._max_ram = 0, 1
    with pytest.raises(OutOfMemory):
        engine.run(patches(1))
    assert any("temporary file" in sentence for sentence in engine.fallbacks)
    assert total.data.min() == 1


def test_6_2_an_answer_without_room_on_the_device_lies_on_the_host_and_sums_stay(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*shape: Any, **how: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    sums = device.zeros((2, 4, 4, 4))
    before = sums.data
    with monkeypatch.context() as short:
        short.setattr(torch, "zeros", full)
        answer = device.answers((3, 4, 4, 4))
    assert answer.data.shape == (3, 4, 4, 4)
    assert device.taken == ["out of GPU memory: a model's answer lies in the computer's memory"]
    assert sums.data is before


def test_5_8_of_half_precision_only_the_windows_that_overflow_are_computed_again_in_float32(engine: Any) -> None:
    shown = patches(8)
    over = (shown > 2).any((1, 2, 3, 4))
    assert 0 < over.sum() < 8
    wanted = engine.run(shown)
    engine.precision = "float16"
    np.testing.assert_array_equal(engine.run(shown), wanted)
    assert (engine.repeated, engine.precision) == (over.sum(), "float16")


def test_6_2_of_two_folds_the_second_ones_shortage_moves_the_sums_of_the_first(device: Device) -> None:
    first, second = StandIn(device), StandIn(device, 1)
    both = Ensemble([first, second], Decision((0, 1)), votes=True)
    wanted = both.run(patches(1))
    total = device.zeros((2, 4, 4, 4))
    total.data += 1
    plain = second._forward

    def forward(patches: torch.Tensor, *, exact: bool = False) -> torch.Tensor:
        if not device._sums_on_host:  # one window fits once the sums have left the device
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return plain(patches)

    second._forward = forward  # type: ignore[method-assign]
    np.testing.assert_array_equal(both.run(patches(1)), wanted)
    assert both.fallbacks == ["out of GPU memory: logits are added up in the computer's memory"]
    assert total.data.min() == 1


def test_6_2_where_one_fold_leaves_the_device_all_do_and_their_sentence_is_told_once(device: Device) -> None:
    device._may_leave = True
    first, second = StandIn(device), StandIn(device, 1)
    both = Ensemble([first, second], Decision((0, 1)), votes=False)
    wanted = both.run(patches(2))
    second.room = 0
    np.testing.assert_allclose(both.run(patches(2)), wanted, rtol=1e-5, atol=1e-6)
    assert (first.name, second.name, first.batch) == ("torch cpu", "torch cpu", 1)
    assert [step.partition(": ")[2] for step in both.fallbacks] == [
        "1 windows at a time",
        "logits are added up in the computer's memory",
        "the CPU goes on",
    ]
    third = StandIn(device, 2)
    assert third.name == "torch cpu"


class Moving(StandIn):
    """Answers from another device at first: as one does that the CPU takes over from."""

    asked = 0

    def answer(self, held: Any, at: Any, flips: Any = ()) -> torch.Tensor:
        logits = super().answer(held, at, flips)
        self.asked += 1
        return logits.to("meta") if self.asked == 1 else logits

    def beside(self, array: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        self.seen = (array.device.type, other.device.type)
        return torch.zeros(array.shape) if array.is_meta else super().beside(array, other)


def test_6_2_mirror_images_before_and_after_the_step_to_the_cpu_are_added_up_in_one_place(device: Device) -> None:
    inner = Moving(device)
    device.most = 1
    found = Mirrored(inner, (0,), None, ()).run(patches(1))
    assert inner.seen == ("meta", "cpu")
    assert found.shape == (1, 2, 4, 4, 4)


@pytest.mark.parametrize(("room", "shown"), [(8, [8]), (4, [8, 4, 4]), (1, [8, 4, 2, 1, *[1] * 7])])
def test_6_2_mirror_images_are_one_batch_where_the_device_has_room_and_smaller_ones_where_not(
    device: Device, room: int, shown: list[int]
) -> None:
    image = patches(1)
    alone = StandIn(device)
    alone._likes = 1
    wanted = Mirrored(alone, (0, 1, 2), None, ()).run(image)
    inner, seen = StandIn(device), list[int]()
    inner.room, plain = room, inner._forward

    def forward(some: torch.Tensor, *, exact: bool = False) -> torch.Tensor:
        seen.append(len(some))
        return plain(some, exact=exact)

    inner._forward = forward  # type: ignore[method-assign]
    np.testing.assert_allclose(Mirrored(inner, (0, 1, 2), None, ()).run(image), wanted, rtol=1e-6, atol=1e-6)
    assert seen == shown
    assert len(inner.fallbacks) == [8, 4, 2, 1].index(room)


def test_6_2_members_before_and_after_the_step_to_the_cpu_are_added_up_in_one_place(device: Device) -> None:
    first, second = Moving(device), StandIn(device, 1)
    found = Ensemble([first, second], Decision((0, 1)), votes=False).run(patches(1))
    assert first.seen == ("meta", "cpu")
    assert found.shape == (1, 2, 4, 4, 4)


def test_an_image_without_room_on_the_device_stays_on_the_host_and_nothing_else_changes(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: torch.Tensor, *where: Any, **how: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as short:
        short.setattr(torch.Tensor, "to", full)
        assert engine.hold(patches(1)[0]).data.device.type == "cpu"
    assert engine.fallbacks == []


def test_windows_are_cut_and_flipped_where_the_image_is(engine: Any) -> None:
    image = np.random.default_rng(1).standard_normal((1, 6, 7, 8)).astype(np.float32)
    at = [(slice(1, 5), slice(0, 4), slice(3, 7)), (slice(2, 6), slice(3, 7), slice(0, 4))]
    for flips in ((), ((0,), (0,)), ((), (0, 2)), ((1,), ())):
        wanted = engine._network(torch.from_numpy(cut(image, at, flips))).detach()
        wanted = torch.stack(
            [own.flip([axis + 1 for axis in flip]) for own, flip in zip(wanted, flips or ((), ()), strict=True)]
        )
        torch.testing.assert_close(engine.answer(engine.hold(image), at, flips), wanted, rtol=0, atol=0)


def test_the_batch_is_what_a_device_is_quickest_with_whatever_memory_is_free(device: Device) -> None:
    engine = StandIn(device)
    assert engine.batch == 8
    device.most = 2
    assert engine.batch == 2


# ---- settings of the whole process


def flags() -> list[Any]:
    backends: Any = torch.backends
    names = [(backends.cudnn, "benchmark"), (backends.cudnn, "deterministic")]
    names += [(backends.cudnn, "allow_tf32"), (backends.cuda.matmul, "allow_tf32")]
    return [torch.get_num_threads(), *(getattr(owner, name) for owner, name in names)]


@pytest.mark.parametrize(("precision", "tf32"), [("float32", False), ("tf32", True), ("float16", False)])
def test_settings_of_the_process_hold_while_a_network_runs_and_are_put_back(
    device: Device, monkeypatch: pytest.MonkeyPatch, precision: str, tf32: bool
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    before, seen = flags(), list[Any]()
    engine = StandIn(device)
    engine.precision, engine.threads = precision, 3
    plain = engine._forward

    def forward(patches: torch.Tensor, *, exact: bool = False) -> torch.Tensor:
        seen.append([torch.get_num_threads(), torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic])
        mkldnn: Any = torch.backends.mkldnn
        host = [getattr(mkldnn, name, None) for name in ("conv", "matmul")]
        every = [(owner, name) for owner, name, _ in torch_state._flags(precision) if "32" in name]
        named = [(owner, name) for owner, name in every if owner not in host]
        assert len(named) == 2
        assert all(getattr(owner, name) == "ieee" for owner, name in every if owner in host)
        seen.append([getattr(owner, name) for owner, name in named])
        return plain(patches, exact=exact)

    engine._forward = forward  # type: ignore[method-assign]
    assert flags() == before  # an engine that was opened has changed nothing
    engine.run(patches(1))
    assert seen[0] == [3, False, True]
    assert all(word in (("tf32", True) if tf32 else ("ieee", False)) for word in seen[1])
    assert flags() == before


def test_settings_of_the_process_are_put_back_after_an_error_too(device: Device) -> None:
    before, engine = flags(), StandIn(device)
    engine.room = 0
    with pytest.raises(OutOfMemory):
        engine.run(patches(1))
    assert flags() == before


def test_the_share_of_the_devices_memory_holds_for_the_run_and_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    now = {"share": 0.9}
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: now["share"], raising=False)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, device: now.update(share=share))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (5 << 30, 8 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 1 << 30)
    device = Device("cuda:0", max_vram=2 << 30)
    assert device.tried(lambda: device.tried(lambda: now["share"])) == 0.25  # whatever takes memory, and within that
    assert now["share"] == 0.9
    assert Device("cuda:0").tried(lambda: now["share"]) == 0.9
    monkeypatch.setattr(torch_memory.sys, "platform", "win32")  # what is free, and what a network before has taken
    assert Device("cuda:0").tried(lambda: now["share"]) == 0.75


def test_the_processor_works_with_the_runs_threads_while_a_device_is_used() -> None:
    before = torch.get_num_threads()
    assert Device("cpu", threads=before + 1).tried(torch.get_num_threads) == before + 1
    assert torch.get_num_threads() == before


def test_a_network_on_the_cpu_leaves_the_callers_threads_alone() -> None:
    before = torch.get_num_threads()
    engine = TorchCPU(nn.Conv3d(1, 2, 1), threads=before + 1, batch=1)
    engine.run(patches(1))
    assert torch.get_num_threads() == before


# ---- layout


@pytest.mark.parametrize(
    ("norm", "wanted"),
    [
        (nn.InstanceNorm3d(8), True),  # replaced by one that leaves the order
        (nn.InstanceNorm3d(8, track_running_stats=True), False),
        (nn.GroupNorm(2, 8), False),
        (nn.BatchNorm3d(8), True),
        (nn.Identity(), True),
    ],
)
def test_only_networks_whose_norms_keep_it_are_in_channels_last_order_on_a_device(
    device: Device, norm: nn.Module, wanted: bool
) -> None:
    net = nn.Sequential(nn.Conv3d(1, 8, 3), norm, nn.Conv3d(8, 2, 3))
    engine = TorchDevice(net, device, threads=1, batch=1)
    assert (engine._form == torch.channels_last_3d) is wanted
    assert net[-1].weight.is_contiguous() is not wanted


def test_an_instance_norm_on_a_device_leaves_the_order_of_its_data_and_answers_as_torchs(device: Device) -> None:
    norm = nn.InstanceNorm3d(8, affine=True)
    norm.weight.data, norm.bias.data = torch.rand(8), torch.rand(8)
    x = torch.randn(2, 8, 5, 6, 7).contiguous(memory_format=torch.channels_last_3d)
    found = in_its_order(nn.Sequential(norm))(x)
    assert found.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(found, norm(x), rtol=1e-4, atol=1e-5)


def test_an_instance_norm_on_a_device_is_not_cudnns_which_may_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, plain = list[bool](), torch.batch_norm

    def watched(*given: Any, **how: Any) -> torch.Tensor:
        asked.append(how.get("cudnn_enabled", given[-1]))
        return plain(*given, **how)

    monkeypatch.setattr(torch, "batch_norm", watched)
    in_its_order(nn.Sequential(nn.InstanceNorm3d(8, affine=True)))(torch.randn(2, 8, 5, 6, 7))
    assert asked == [False, False]


def test_a_device_is_tried_with_the_kernels_that_a_run_takes_and_flags_are_put_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen, plain = list[bool](), torch.nn.functional.conv3d

    def watched(*given: Any, **how: Any) -> torch.Tensor:
        seen.append(torch.backends.cudnn.deterministic)
        return plain(*given, **how)

    monkeypatch.setattr(torch.nn.functional, "conv3d", watched)
    assert torch_cuda.convolved(np.ones((1, 1, 4, 4, 4), np.float32), "cpu")[0, 0, 1, 1, 1] == 27
    assert (seen, torch.backends.cudnn.deterministic) == ([True], False)


@pytest.mark.cuda
@pytest.mark.filterwarnings("default")  # of cuDNN's plans that do not suit, say: torch takes another
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    ("precision", "most"), [("float32", 1e-4), ("tf32", 1e-2), ("float16", 1e-2), ("bfloat16", 5e-2)]
)
def test_a_cuda_device_answers_as_the_cpu(precision: str, most: float) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv3d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv3d(8, 2, 1))
    with torch.no_grad():
        wanted = net(torch.from_numpy(patches(3)))
    engine = TorchDevice(net, Device("cuda:0"), threads=1, batch=2, precision=precision)
    logits = engine.logits(patches(3))
    assert (logits.cpu() - wanted).abs().max() <= most * wanted.abs().max()
    np.testing.assert_array_equal(engine.get(logits[0]), logits[0].cpu().numpy())
