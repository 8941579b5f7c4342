"""Whole ways over a GPU that the processor plays, strictly: nothing of the host's among the device's, bytes counted.

What these tests cannot know: how fast a device is, and what its own kernels and libraries answer.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from card import Card, played
from torch import nn

from segcli.bench.certificates import card_of
from segcli.engines import choose, torch_engine
from segcli.engines.averaged import Ensemble
from segcli.engines.blended import summed_in
from segcli.engines.choose import open_engine
from segcli.engines.mirrored import Mirrored
from segcli.engines.torch_devices import TorchCPU, TorchDevice
from segcli.engines.torch_memory import Device
from segcli.engines.torch_sums import DeviceSums
from segcli.errors import ModelError, OutOfMemory
from segcli.inference.decide import Decision
from segcli.inference.intensity import Resample, Standardise
from segcli.inference.prepare import Procedure
from segcli.inference.segment import Segmentation, Wishes, segment
from segcli.inference.together import Member, segment_at_the_scan, segment_together
from segcli.inference.windows import WindowPlan
from segcli.models.card import ModelCard
from segcli.models.weights import network_of
from segcli.networks.registry import small_networks
from segcli.space.grids import GridSpec
from segcli.space.resample import LINEAR, Interpolation
from segcli.space.volume import Grid, Volume
from segcli.structures import Label

CUDA, HOST = "cuda:0", "cpu"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Card]:
    with played(monkeypatch) as card:
        yield card


def network(seed: int = 0, classes: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    first, last = nn.Conv3d(1, 8, 3, padding=1), nn.Conv3d(8, classes, 1)
    last.weight.data *= 20  # classes that are apart
    return nn.Sequential(first, nn.InstanceNorm3d(8, affine=True), nn.LeakyReLU(inplace=True), last)


def on(device: str | Device, seed: int = 0, precision: str = "float32", classes: int = 3) -> TorchDevice:
    there = Device(device) if isinstance(device, str) else device
    return TorchDevice(network(seed, classes), there, threads=1, batch=2, precision=precision)


def procedure(decide: Decision = Decision((0, 1, 2)), **changes: Any) -> Procedure:
    how: dict[str, Any] = {
        "name": "small",
        "channels": ("CT",),
        "labels": tuple(Label(f"organ {i}", i) for i in decide.values),
        "grid": GridSpec("RAS", (1.5, 1.5, 1.5)),
        "interpolation": LINEAR,
        "steps": (Resample(), Standardise()),
        "outside": 0.0,
        "slice_axis": None,
        "slices": 1,
        "window": WindowPlan((8, 8, 8)),
        "decide": decide,
    }
    return Procedure(**{**how, **changes})


def scan(shape: tuple[int, int, int] = (16, 20, 18), seed: int = 0, slanted: bool = False) -> Volume:
    """A scan of 1 mm, upright or at an angle."""
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])[[2, 1, 0, 3]]
    if slanted:
        angle = 0.3
        turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
        affine[:3, :3] = turn @ affine[:3, :3]
    data = np.random.default_rng(seed).normal(0, 100, (1, *shape)).astype(np.int16)
    return Volume(data, Grid(shape, affine))


def both(make: Any, asked: Procedure, wishes: Wishes = Wishes(), **how: Any) -> tuple[Segmentation, Segmentation]:
    """Segmented on the card, and by the same engine whose device is the processor."""
    shown = scan(**how)
    return segment(shown, asked, make(CUDA), wishes=wishes), segment(shown, asked, make(HOST), wishes=wishes)


def test_a_card_is_as_strict_as_cudas_kernels_are(gpu: Card) -> None:
    there = torch.ones(2, 2, dtype=torch.int32).to(CUDA)
    with pytest.raises(NotImplementedError, match="int32"):
        there @ there
    counts = there.to(torch.uint16)
    assert counts[0].cpu().tolist() == [1, 1]  # these are copied and viewed, no more
    with pytest.raises(NotImplementedError, match="uint16"):
        counts + 1
    with pytest.raises(AssertionError, match="not arrived yet"):
        there.to("cpu", non_blocking=True)
    with pytest.raises(AssertionError, match="not arrived yet"):
        torch.empty(2, 2).copy_(there, non_blocking=True)


# ---- every network


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch is for CUDA: no card can be played")
def test_a_card_is_played_wherever_torch_is_for_processors_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        with played(monkeypatch) as card:
            assert torch.ones(1, device="cuda").device.type == "cuda"
            assert card.living.most > 0
    except pytest.skip.Exception as error:
        pytest.fail(f"every test on a card would be left out: {error}")


@pytest.mark.slow
@pytest.mark.parametrize("family", small_networks())
def test_a_network_answers_on_a_card_with_nothing_of_the_hosts_among_its_tensors(
    monkeypatch: pytest.MonkeyPatch, family: str, tmp_path: Path
) -> None:
    card = card_of(family, tmp_path)
    draw = np.random.default_rng(1)
    x = torch.from_numpy(draw.standard_normal((1, card.inputs, *small_networks()[family].size), np.float32))
    with torch.no_grad():
        wanted = network_of(card)(x)
    for precision, most in (("float32", 3e-4), ("bfloat16", 5e-2)):
        network = network_of(card)
        with played(monkeypatch) as gpu:
            engine = TorchDevice(network, Device(CUDA), threads=1, batch=2, precision=precision)
            waited = gpu.waits
            logits = engine.logits(x)
            assert (logits.device.type, logits.dtype, gpu.waits) == ("cuda", torch.float32, waited)
            apart = float((logits.cpu() - wanted).norm() / wanted.norm())
        assert apart < most, precision


# ---- the whole way of a scan


def most_that_crosses(found: Segmentation) -> int:
    """Bytes of the labels, or of the resampled image of one channel: a slab of logits has more."""
    return found.labels.data.size * (4 if found.labels.data.dtype != np.uint8 else 2)


DECISIONS = {
    "argmax": Decision((0, 1, 2)),
    "regions": Decision((1, 2, 3), rule="regions"),
    "probabilities": Decision((0, 1, 2), back="probabilities"),
    "labels": Decision((0, 1, 2), back="nearest"),
    "many": Decision((0, 7, 300)),
}


@pytest.mark.parametrize("what", DECISIONS)
@pytest.mark.parametrize("slanted", [False, True])
def test_labels_of_a_scan_are_decided_on_the_card_and_only_they_cross(gpu: Card, what: str, slanted: bool) -> None:
    asked = procedure(DECISIONS[what])
    there, here = both(on, asked, slanted=slanted)
    wrong = (there.labels.data != here.labels.data).mean()
    assert wrong < (1e-3 if slanted or what == "probabilities" else 1e-9)
    assert there.confidence == pytest.approx(here.confidence, rel=1e-3)
    assert len(np.unique(there.labels.data)) > 1
    assert gpu.largest <= most_that_crosses(there)


def test_probabilities_cross_as_the_bytes_that_were_asked_for(gpu: Card) -> None:
    for decide in (DECISIONS["argmax"], DECISIONS["regions"], DECISIONS["probabilities"]):
        there, here = both(on, procedure(decide), Wishes(probabilities=True))
        assert there.probabilities is not None
        assert here.probabilities is not None
        apart = there.probabilities.data.astype(int) - here.probabilities.data
        assert abs(apart).max() <= 1
        assert gpu.largest <= most_that_crosses(there)


def folds(device: str, decide: Decision = DECISIONS["argmax"]) -> Ensemble:
    there = Device(device)
    return Ensemble([on(there, seed) for seed in range(3)], decide, votes=True)


@pytest.mark.parametrize("slanted", [False, True])
@pytest.mark.parametrize("what", ["argmax", "regions"])
def test_folds_and_their_votes_are_averaged_on_the_card(gpu: Card, what: str, slanted: bool) -> None:
    decide = DECISIONS[what]
    there, here = both(lambda device: folds(device, decide), procedure(decide), Wishes(votes=True), slanted=slanted)
    assert (there.labels.data != here.labels.data).mean() < (1e-3 if slanted else 1e-9)
    assert there.votes is not None
    assert here.votes is not None
    assert abs(there.votes.data.astype(int) - here.votes.data).max() <= (1 if slanted else 0)
    assert there.votes.data.any()
    assert gpu.largest <= most_that_crosses(there)


def test_mirror_images_are_turned_and_averaged_on_the_card(gpu: Card) -> None:
    there, here = both(lambda device: Mirrored(on(device), (0, 1, 2), 2, (0, 2, 1)), procedure())
    np.testing.assert_array_equal(there.labels.data, here.labels.data)
    assert gpu.largest <= most_that_crosses(there)


@pytest.mark.parametrize("shape", [(16, 20, 18), (40, 20, 18)])
def test_windows_are_added_up_in_float16_on_the_card_as_the_host_does(gpu: Card, shape: Any) -> None:
    asked = procedure(window=WindowPlan((8, 8, 8), sums="float16"))
    shown = scan(shape)
    there = segment(shown, asked, on(CUDA))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TorchDevice, "summing", partial(summed_in, TorchCPU(nn.Identity(), threads=1, batch=1)))
        here = segment(shown, asked, on(HOST))
    np.testing.assert_array_equal(there.labels.data, here.labels.data)
    assert gpu.largest <= most_that_crosses(there)


def test_sums_in_float16_refuse_what_float16_does_not_hold(gpu: Card) -> None:
    engine = on(CUDA)
    engine._network[-1].bias.data += 1e5
    with pytest.raises(ModelError, match="too large for sums in float16"):
        segment(scan(), procedure(window=WindowPlan((8, 8, 8), sums="float16")), engine)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_half_precision_is_half_precision_on_the_card(gpu: Card, precision: str) -> None:
    there, here = both(lambda device: on(device, precision=precision if device == CUDA else "float32"), procedure())
    assert gpu.casts == 0  # weights lie there in it once
    assert 0 < (there.labels.data != here.labels.data).mean() < 0.05


class Bursting(nn.Module):
    """Logits of a window are beyond float16 where its image has a large voxel."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.large = inner, nn.Conv3d(1, 1, 1, bias=False)
        self.large.weight.data[:] = 1.2e4

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.inner(x) + 1e-9 * self.large(x)
        return logits


@pytest.mark.parametrize("several", [False, True])
def test_5_8_windows_that_overflow_on_the_card_are_computed_again_in_float32(gpu: Card, several: bool) -> None:
    def make(device: str) -> Any:
        there = Device(device)
        precision = "float16" if device == CUDA else "float32"
        made = [TorchDevice(Bursting(network(i)), there, threads=1, batch=2, precision=precision) for i in range(2)]
        return Ensemble(made, DECISIONS["argmax"], votes=False) if several else made[0]

    shown = scan()
    shown.data[0, 3, 4, 5] = 10000  # after standardising, far above all else
    engine = make(CUDA)
    there, here = segment(shown, procedure(), engine), segment(shown, procedure(), make(HOST))
    assert 0 < engine.repeated < there.windows
    assert (there.labels.data != here.labels.data).mean() < 0.05
    assert any("computed again in float32" in words for words in there.warnings)


def test_the_time_that_a_device_is_waited_for_is_the_networks(gpu: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    waited, plain = list[float](), DeviceSums._wrong

    def slowly(self: DeviceSums) -> Any:
        began = time.perf_counter()
        time.sleep(0.3)
        found = plain(self)
        waited.append(time.perf_counter() - began)
        return found

    monkeypatch.setattr(DeviceSums, "_wrong", slowly)
    found = segment(scan((20, 14, 14)), procedure(), on(CUDA))
    assert len(waited) > 1
    assert found.seconds["network"] >= sum(waited)


# ---- want of memory, wherever it shows


def made(device: Device, kind: str) -> Any:
    if kind == "folds":
        return Ensemble([on(device, seed) for seed in range(2)], DECISIONS["argmax"], votes=True)
    precision = "float16" if kind == "overflow" else "float32"
    if kind == "mirrored":
        return Mirrored(on(device), (0, 2), None, ())
    if kind == "overflow":
        return TorchDevice(Bursting(network()), device, threads=1, batch=2, precision=precision)
    return on(device)


@pytest.mark.slow
@pytest.mark.parametrize("may_leave", [False, True])
@pytest.mark.parametrize("kind", ["plain", "folds", "mirrored", "overflow", "float16 sums"])
def test_6_2_however_little_memory_a_card_has_labels_are_the_same_or_it_is_said(
    monkeypatch: pytest.MonkeyPatch, kind: str, may_leave: bool
) -> None:
    """Each size of memory runs short at another place: the image, a window, sums, labels, what is computed again."""
    shown = scan((10, 14, 12))
    shown.data[0, 3, 4, 5] = 10000
    plan = WindowPlan((8, 8, 8), sums="float16" if kind == "float16 sums" else "float32")
    asked = procedure(window=plan)
    wishes = Wishes(votes=kind == "folds")
    with played(monkeypatch) as card:
        wanted = segment(shown, asked, made(Device(CUDA), kind), wishes=wishes)
        most = card.living.most
    ends = set()
    for share in np.linspace(0.02, 1.0, 15):
        with played(monkeypatch, round(share * most)) as card:
            device = Device(CUDA, may_leave=may_leave)
            try:
                found = segment(shown, asked, made(device, kind), wishes=wishes)
            except OutOfMemory:
                ends.add("refused")
                assert not may_leave
                continue
            ends.add(device.taken[-1].partition(": ")[2] if device.taken else "whole")
            unlike = (found.labels.data != wanted.labels.data).mean()
            assert unlike <= (0.05 if device.left and kind == "overflow" else 2e-3), (share, device.taken)
    assert "whole" in ends
    assert len(ends) >= 3
    assert ("refused" in ends) is not may_leave


def test_6_2_an_image_leaves_the_device_with_the_sums_where_a_window_needs_its_room(gpu: Card) -> None:
    image = np.random.default_rng(0).standard_normal((1, 40, 40, 40)).astype(np.float32)
    engine, at = on(CUDA), [(slice(3, 11), slice(0, 8), slice(30, 38))]
    held, before = engine.hold(image), gpu.living.now
    wanted = engine.answer(held, at, [(1,)]).cpu()
    engine.device._step_down("CUDA out of memory", 1)
    assert gpu.living.now == before - image.nbytes
    torch.testing.assert_close(engine.answer(held, at, [(1,)]).cpu(), wanted, rtol=0, atol=0)
    assert engine.name == "torch cuda:0"


@pytest.mark.parametrize("kind", ["folds", "mirrored"])
def test_6_2_windows_that_are_only_compared_take_the_steps_down_too(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    shown = np.random.default_rng(0).standard_normal((2, 1, 8, 8, 8)).astype(np.float32)
    with played(monkeypatch) as card:
        wanted = made(Device(CUDA), kind).run(shown)
        most = card.living.most
    ends = set()
    for share in np.linspace(0.05, 1.0, 25):
        with played(monkeypatch, round(share * most)):
            device = Device(CUDA, may_leave=True)
            np.testing.assert_allclose(made(device, kind).run(shown), wanted, rtol=1e-4, atol=1e-4)
            ends.add(device.left)
    assert ends == {False, True}


@pytest.mark.parametrize("kind", ["plain", "overflow"])
def test_6_2_a_scan_that_was_too_large_costs_the_next_one_nothing(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    shown, asked = scan((10, 14, 12)), procedure()
    with played(monkeypatch) as card:
        wanted = segment(shown, asked, made(Device(CUDA), kind))
        most = card.living.most
        device = Device(CUDA, may_leave=True)
        engine = made(device, kind)
        card.room = most // 4  # of a program beside this one
        first = segment(shown, asked, engine)
        assert (engine.name, device.left, engine.precision) == ("torch cpu", True, "float32")
        assert device.taken[-1] == "out of GPU memory: the CPU goes on"
        steps, again = len(device.taken), segment(shown, asked, engine)
        assert device.taken[steps:] == device.taken[:steps]  # the record of each scan has its own
        card.room = None
        second = segment(shown, asked, engine)
    assert (engine.name, device.left, len(device.taken)) == ("torch cuda:0", False, 2 * steps)
    assert engine.precision == ("float16" if kind == "overflow" else "float32")
    np.testing.assert_array_equal(second.labels.data, wanted.labels.data)
    np.testing.assert_array_equal(first.labels.data, again.labels.data)


# ---- several models


def members(device: str, softened: bool = False) -> list[Member]:
    """Two models, the second on another grid and with its labels in another order."""
    there = Device(device)
    first = procedure(Decision((0, 1, 2), are_probabilities=False))
    second = procedure(
        Decision((2, 0, 1), are_probabilities=softened), grid=GridSpec("LPS", (1.2, 1.4, 1.6)), steps=(Resample(),)
    )
    return [Member(first, on(there)), Member(second, on(there, 1))]


@pytest.mark.parametrize("softened", [False, True])
@pytest.mark.parametrize("together", [segment_together, segment_at_the_scan])
def test_answers_of_several_models_are_averaged_on_the_card(gpu: Card, together: Any, softened: bool) -> None:
    shown, wishes = scan(), Wishes(votes=True, probabilities=True)
    there = together(shown, members(CUDA, softened), wishes=wishes)
    with pytest.MonkeyPatch.context() as patch:  # the host's way
        patch.setattr(TorchDevice, "sampler", None)
        patch.setattr(TorchDevice, "summing", partial(summed_in, TorchCPU(nn.Identity(), threads=1, batch=1)))
        here = together(shown, members(HOST, softened), wishes=wishes)
    exact = together is segment_together and not softened
    assert (there.labels.data != here.labels.data).mean() <= (0 if exact else 2e-3)
    assert len(np.unique(there.labels.data)) == 3
    assert there.confidence == pytest.approx(here.confidence, rel=1e-3)
    assert there.disagreement == pytest.approx(here.disagreement, rel=1e-2)
    for one, other in ((there.votes, here.votes), (there.probabilities, here.probabilities)):
        assert one is not None
        assert other is not None
        assert (abs(one.data.astype(int) - other.data) > 1).mean() <= (0 if exact else 2e-3)
    assert there.windows == here.windows
    assert there.seconds.keys() == here.seconds.keys()
    assert gpu.largest <= most_that_crosses(there)


@pytest.mark.slow
def test_without_room_for_them_answers_lie_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = scan()
    with played(monkeypatch) as card:
        wanted = segment_together(shown, members(CUDA))
        most = card.living.most
    moved = 0
    for share in (0.6, 0.7, 0.8, 0.9):
        with played(monkeypatch, int(share * most)):
            own = members(CUDA)
            try:
                found = segment_together(shown, own)
            except OutOfMemory:
                continue
            moved += any("computer's memory" in step for step in own[0].engine.fallbacks)
        np.testing.assert_array_equal(found.labels.data, wanted.labels.data)
    assert moved


def test_areas_are_averaged_and_decided_on_the_card(gpu: Card) -> None:
    grid = GridSpec(axes="RAS", shape=(12, 12, 12))
    for rule in ("argmax", "regions"):
        decide = replace(DECISIONS[rule], back="area")
        there, here = both(on, procedure(decide, grid=grid, interpolation=Interpolation("area")))
        assert (there.labels.data != here.labels.data).mean() < 1e-3
        assert gpu.largest <= most_that_crosses(there)


# ---- a model that is opened as the command opens it


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_model_is_opened_on_a_card_that_the_driver_shows(
    monkeypatch: pytest.MonkeyPatch, card: ModelCard, precision: Any
) -> None:
    shown = scan((36, 20, 20))
    wanted = segment(shown, card.procedure, open_engine(card, engine="torch", device="cpu").engine)
    monkeypatch.setattr(choose, "driver_devices", lambda: 2)
    with played(monkeypatch):
        for device in ("auto", "cuda", "cuda:1"):
            opened = open_engine(card, device=device, precision=precision)
            assert opened.engine.name == ("torch cuda:1" if device == "cuda:1" else "torch cuda:0")
            assert (opened.engine.precision, opened.warnings) == (precision, ())
        found = segment(shown, card.procedure, opened.engine)
        assert (found.labels.data != wanted.labels.data).mean() < (1e-4 if precision == "float32" else 0.02)
        assert found.windows > 1
        assert "a card played by the processor, compute capability 9.0" in torch_engine.ENGINE.notes["torch cuda"]()


@pytest.mark.parametrize("slanted", [False, True])
def test_on_intels_devices_nothing_of_the_hosts_and_no_float64_is_among_the_tensors(
    gpu: Card, monkeypatch: pytest.MonkeyPatch, slanted: bool
) -> None:
    monkeypatch.setattr(torch.xpu, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.xpu, "_lazy_init", lambda: None)
    asked, shown = procedure(), scan(slanted=slanted)
    there, here = segment(shown, asked, on("xpu:0")), segment(shown, asked, on(HOST))
    assert (there.labels.data != here.labels.data).mean() < (1e-3 if slanted else 1e-9)
    assert there.confidence == pytest.approx(here.confidence, rel=1e-3)
