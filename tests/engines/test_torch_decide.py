"""Sums, labels, margins and votes where a device has them, the device played by the CPU: the host's very bytes."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from segcli.batch import budget
from segcli.engines import torch_decide, torch_devices
from segcli.engines.averaged import Ensemble
from segcli.engines.blended import summed_in
from segcli.engines.mirrored import Mirrored
from segcli.engines.torch_devices import TorchCPU, TorchDevice
from segcli.engines.torch_memory import Device
from segcli.engines.torch_sums import DeviceSums
from segcli.errors import ModelError
from segcli.inference import segment as story
from segcli.inference.decide import Decision
from segcli.inference.prepare import Prepared
from segcli.inference.segment import Segmentation, Wishes, decided, labelled
from segcli.inference.windows import Sliding, WindowPlan
from segcli.space.resample import LINEAR, Interpolation, onto
from segcli.space.volume import AXES_CODES, Box, Grid, Volume, turned

PLAN = WindowPlan((8, 8, 8), 0.5)
DECISIONS = [
    Decision((0, 1, 2)),
    Decision((0, 7, 300, 2)),  # labels beyond a byte
    Decision((1, 2, 3), rule="regions"),
    Decision((0, 1, 2), back="nearest"),
    Decision((0, 1, 4), back="values"),
]


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)


class Net(nn.Module):
    """Answers that differ from voxel to voxel and from class to class, and are equal here and there."""

    def __init__(self, classes: int, seed: int = 0) -> None:
        super().__init__()
        draw = np.random.default_rng(seed)
        self.factor = torch.tensor(draw.standard_normal((1, classes, 1, 1, 1)).round(1), dtype=torch.float32)
        self.phase = torch.tensor(draw.standard_normal((1, classes, 1, 1, 1)).round(1), dtype=torch.float32)
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (4 * torch.sin(3 * x * self.factor + self.phase)).round(decimals=2)


def engine(classes: int, seed: int = 0, device: Device | None = None, **how: Any) -> TorchDevice:
    return TorchDevice(Net(classes, seed), device or Device("cpu"), threads=1, batch=2, **how)


def prepared(shape: tuple[int, int, int], seed: int = 0, crop: Box | None = None) -> Prepared:
    """An image on a model's grid of 2 mm, or a part of it."""
    whole = Grid(shape, np.diag([-2.0, -2.0, 2.0, 1.0])[[2, 1, 0, 3]])
    data = np.random.default_rng(seed).standard_normal((1, *shape)).astype(np.float32)
    image = Volume(data, whole)
    return Prepared(image.crop(crop) if crop else image, whole, np.zeros(1, np.float32), {})


def scan_of(model: Grid, code: str, factors: tuple[float, float, float]) -> Volume:
    """A scan over a model's grid, in an order of axes and with steps of its own."""
    like = turned(model, code)
    shape = tuple(max(2, round(n / f)) for n, f in zip(like.shape, factors, strict=True))
    affine = like.affine.copy()
    affine[:3, :3] *= [n / m for n, m in zip(like.shape, shape, strict=True)]
    return Volume(np.zeros((1, *shape), np.uint8), Grid(shape, affine))  # type: ignore[arg-type]


class Asked:
    """What `labelled` reads of a procedure."""

    def __init__(self, decide: Decision, rule: Interpolation, plan: WindowPlan) -> None:
        self.decide, self.interpolation, self.window = decide, rule, plan


def both(
    scan: Volume, image: Prepared, run: Any, decide: Decision, rule: Interpolation, votes: bool = False
) -> tuple[Segmentation, Segmentation]:
    """Decided on the device, and by the host from the same engine's sums."""
    asked: Any = Asked(decide, rule, PLAN)
    there = labelled(scan, image, asked, run, story.no_tick, Wishes(votes=votes))
    slabs = Sliding(image.image, run, PLAN).volumes()
    return there, decided(scan, image, slabs, decide, rule, Wishes(votes=votes))


def equal(there: Segmentation, here: Segmentation) -> None:
    assert there.labels.data.dtype == here.labels.data.dtype
    np.testing.assert_array_equal(there.labels.data, here.labels.data)
    assert there.confidence == pytest.approx(here.confidence, rel=1e-5)
    assert there.disagreement == pytest.approx(here.disagreement, rel=1e-5)


@pytest.mark.parametrize("decide", DECISIONS)
@settings(max_examples=25)
@given(
    code=st.sampled_from(AXES_CODES),
    factors=st.tuples(*[st.sampled_from([0.4, 0.7, 1.0, 1.6])] * 3),
    coarse=st.sampled_from([None, 1.5]),
    shape=st.sampled_from([(9, 12, 10), (20, 9, 8), (8, 8, 8), (10, 8, 21)]),
)
def test_labels_decided_on_a_device_are_the_hosts_bytes(
    decide: Decision, code: str, factors: tuple[float, float, float], coarse: float | None, shape: Any
) -> None:
    image = prepared(shape)
    scan = scan_of(image.image.grid, code, factors)
    equal(*both(scan, image, engine(len(decide.values)), decide, Interpolation("linear", coarse=coarse)))


def test_beyond_a_crop_all_is_background_on_a_device_too() -> None:
    image = prepared((20, 18, 16), crop=(slice(3, 14), slice(4, 16), slice(2, 15)))
    scan = scan_of(image.wanted, image.wanted.axes, (0.7, 0.6, 1.0))
    there, here = both(scan, image, engine(3), Decision((0, 1, 2)), LINEAR)
    equal(there, here)
    assert (there.labels.data[0, :2] == 0).all()


@pytest.mark.parametrize("rule", ["argmax", "regions"])
def test_where_probabilities_come_back_labels_are_equal_but_for_the_rounding_of_exponentials(rule: Any) -> None:
    image = prepared((14, 12, 10))
    scan = scan_of(image.image.grid, "LPS", (0.5, 0.6, 0.7))
    decide = Decision((0, 1, 2) if rule == "argmax" else (1, 2, 3), rule=rule, back="probabilities")
    there, here = both(scan, image, engine(3), decide, LINEAR)
    assert (there.labels.data != here.labels.data).mean() < 1e-3
    assert there.confidence == pytest.approx(here.confidence, rel=1e-3)


@pytest.mark.parametrize("rule", ["argmax", "regions"])
def test_votes_of_folds_are_the_hosts_bytes(rule: Any) -> None:
    device = Device("cpu")
    decide = Decision((0, 1, 2) if rule == "argmax" else (1, 2, 3), rule=rule)
    run = Ensemble([engine(3, 0, device), engine(3, 1, device), engine(3, 2, device)], decide, votes=True)
    image = prepared((12, 10, 14))
    there, here = both(scan_of(image.image.grid, "SPL", (0.6, 1.3, 0.7)), image, run, decide, LINEAR, votes=True)
    equal(there, here)
    assert there.votes is not None
    assert here.votes is not None
    np.testing.assert_array_equal(there.votes.data, here.votes.data)
    assert there.votes.data.max() > 0


@settings(max_examples=8)
@given(thick=st.integers(1, 40))
def test_labels_do_not_depend_on_how_many_planes_a_slab_has(thick: int) -> None:
    image = prepared((21, 9, 10))
    scan = scan_of(image.image.grid, "RAS", (0.6, 0.7, 0.8))
    asked: Any = Asked(Decision((0, 1, 2)), LINEAR, PLAN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(story, "_PLANES", thick)
        found = labelled(scan, image, asked, engine(3), story.no_tick, Wishes())
    wanted = labelled(scan, image, asked, engine(3), story.no_tick, Wishes())
    np.testing.assert_array_equal(found.labels.data, wanted.labels.data)


def test_no_logits_come_to_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    def crossed(self: DeviceSums, box: Box) -> None:
        raise AssertionError("logits crossed to the host")

    monkeypatch.setattr(DeviceSums, "finished", crossed)
    image = prepared((12, 10, 14))
    asked: Any = Asked(Decision((0, 1, 2)), LINEAR, PLAN)
    scan = scan_of(image.image.grid, "RAS", (0.6, 0.7, 0.8))
    labelled(scan, image, asked, engine(3), story.no_tick, Wishes())
    slanted = scan.grid.affine.copy()
    slanted[:3, :3] = slanted[:3, :3] @ [[1, 0.1, 0], [0, 1, 0], [0, 0, 1]]
    oblique = Volume(scan.data, Grid(scan.grid.shape, slanted))
    labelled(oblique, image, asked, engine(3), story.no_tick, Wishes(probabilities=True))


# ---- sums


@settings(max_examples=20)
@given(
    shape=st.tuples(*[st.integers(8, 23)] * 3),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.75]),
    seed=st.integers(0, 5),
)
def test_the_ring_has_what_sums_that_are_moved_have(shape: tuple[int, int, int], overlap: float, seed: int) -> None:
    image, run = prepared(shape, seed).image, engine(3)
    plan = replace(PLAN, overlap=overlap)
    there = list(Sliding(image, run, plan).volumes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            TorchDevice, "summing", staticmethod(partial(summed_in, TorchCPU(nn.Identity(), threads=1, batch=1)))
        )
        here = list(Sliding(image, run, plan).volumes())
    for own, wanted in zip(there, here, strict=True):
        np.testing.assert_allclose(own.data, wanted.data, rtol=1e-5, atol=1e-5)


class Overflowing(TorchDevice):
    """Half precision gives infinity where the image is above 2."""

    asked: list[bool]

    def _forward(self, patches: torch.Tensor, *, exact: bool = False) -> torch.Tensor:
        logits: torch.Tensor = self._network(patches)
        if self.precision == "float16" and not exact:
            logits[(patches > 2.5).flatten(1).any(1)] = torch.inf
        self.asked.append(exact)
        return logits


def overflowing(device: Device, seed: int = 0, precision: str = "float16") -> Overflowing:
    made = Overflowing(Net(3, seed), device, threads=1, batch=2, precision=precision)
    made.asked = []
    return made


def test_5_8_windows_that_overflow_are_computed_again_alone_when_a_row_is_done() -> None:
    image = prepared((12, 16, 16)).image
    image.data.clip(-2, 2, out=image.data)[0, 2, 3, 3] = 3
    wanted = list(Sliding(image, engine(3), PLAN).volumes())
    run = overflowing(Device("cpu"))
    found = list(Sliding(image, run, PLAN).volumes())
    for own, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(own.data, other.data, rtol=1e-4, atol=1e-4)
    assert 0 < run.repeated == sum(run.asked) < 18
    assert (run.precision, torch_devices._exact.get()) == ("float16", False)


@pytest.mark.parametrize("kind", ["folds", "mirrored"])
def test_5_8_a_window_of_folds_or_mirror_images_counts_once(kind: str) -> None:
    image, device = prepared((9, 8, 8)).image, Device("cpu")
    if kind == "folds":
        members = [overflowing(device), overflowing(device, 1)]
        run: Any = Ensemble(members, Decision((0, 1, 2)), votes=False)
        plain: Any = Ensemble([engine(3, 0), engine(3, 1)], Decision((0, 1, 2)), votes=False)
    else:
        run, plain = (Mirrored(one, (0, 2), None, ()) for one in (overflowing(device), engine(3)))
    found, wanted = (list(Sliding(image, one, PLAN).volumes()) for one in (run, plain))
    for own, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(own.data, other.data, rtol=1e-4, atol=1e-4)
    assert 0 < run.repeated <= 2


def test_5_8_logits_that_are_not_finite_in_float32_are_refused_with_their_window() -> None:
    image = prepared((9, 8, 8)).image
    image.data[0, 8, 3, 3] = np.nan
    for precision in ("float32", "float16"):
        with pytest.raises(ModelError, match=r"not finite in the window at voxels 1\.\.8, 0\.\.7, 0\.\.7"):
            list(Sliding(image, overflowing(Device("cpu"), precision=precision), PLAN).volumes())


class Leaving(Overflowing):
    """Overflows in its first windows, and has no memory for any further one: the CPU takes over."""

    def _forward(self, patches: torch.Tensor, *, exact: bool = False) -> torch.Tensor:
        if len(self.asked) >= 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super()._forward(patches, exact=exact)


def test_5_8_windows_that_overflowed_before_the_cpu_took_over_are_computed_again_too() -> None:
    image = prepared((12, 16, 16)).image
    image.data.clip(-2, 2, out=image.data)[0, 2, 3, 3] = 3
    wanted = list(Sliding(image, engine(3), PLAN).volumes())
    run = Leaving(Net(3), Device("cpu", may_leave=True), threads=1, batch=2, precision="float16")
    run.asked = []
    found = list(Sliding(image, run, PLAN).volumes())
    assert (run.name, run.precision, run.asked) == ("torch cpu", "float32", [False, False])
    assert run.repeated > 0
    for own, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(own.data, other.data, rtol=1e-4, atol=1e-4)


class Running(TorchDevice):
    """Has no memory for more than `room` windows after so many."""

    room, after = 8, 3

    def _forward(self, patches: torch.Tensor, *, exact: bool = False) -> torch.Tensor:
        self.after -= 1
        if self.after < 0 and len(patches) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        logits: torch.Tensor = self._network(patches)
        return logits


@pytest.mark.parametrize(("room", "last"), [(1, "1 windows at a time"), (0, "the CPU goes on")])
def test_6_2_steps_down_in_the_midst_of_a_scan_change_no_label(room: int, last: str) -> None:
    image = prepared((21, 12, 10))
    scan = scan_of(image.image.grid, "RAS", (0.6, 0.7, 0.8))
    asked: Any = Asked(Decision((0, 1, 2)), LINEAR, PLAN)
    wanted = labelled(scan, image, asked, engine(3), story.no_tick, Wishes())
    run = Running(Net(3), Device("cpu", may_leave=True), threads=1, batch=2)
    run.room = room
    found = labelled(scan, image, asked, run, story.no_tick, Wishes())
    np.testing.assert_array_equal(found.labels.data, wanted.labels.data)
    assert run.fallbacks[-1].endswith(last)


def test_6_2_want_of_memory_while_labels_are_decided_moves_the_sums_and_changes_no_label(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = prepared((12, 12, 10))
    scan = scan_of(image.image.grid, "RAS", (0.6, 0.7, 0.8))
    asked: Any = Asked(Decision((0, 1, 2)), LINEAR, PLAN)
    wanted = labelled(scan, image, asked, engine(3), story.no_tick, Wishes())
    plain, told = torch.maximum, list[int]()

    def short(*given: Any, **how: Any) -> torch.Tensor:
        told.append(1)
        if len(told) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(*given, **how)

    run = engine(3)
    monkeypatch.setattr(torch, "maximum", short)
    found = labelled(scan, image, asked, run, story.no_tick, Wishes())
    np.testing.assert_array_equal(found.labels.data, wanted.labels.data)
    assert found.confidence == wanted.confidence
    assert run.fallbacks == ["out of GPU memory: logits are added up in the computer's memory"]


def test_a_scan_of_one_skipped_window_is_background() -> None:
    image = prepared((8, 8, 8))
    image.image.data[:] = 0
    asked: Any = Asked(Decision((0, 1, 2)), LINEAR, replace(PLAN, skip=True))
    found = labelled(scan_of(image.image.grid, "RAS", (1, 1, 1)), image, asked, engine(3), story.no_tick, Wishes())
    assert not found.labels.data.any()
    assert found.confidence == {}


@pytest.mark.parametrize("where", ["device", "host"])
@pytest.mark.parametrize(
    "decide",
    [
        Decision((0, 1, 2)),
        Decision((0, 1, 2), are_probabilities=True),
        Decision((1, 2, 3), rule="regions"),
        Decision((1, 2, 3), rule="regions", are_probabilities=True),
    ],
)
def test_probabilities_where_windows_were_skipped_are_those_of_background(decide: Decision, where: str) -> None:
    image = prepared((24, 8, 8))
    image.image.data[:, :14] = 0
    asked: Any = Asked(decide, LINEAR, replace(PLAN, skip=True))
    scan, net = scan_of(image.image.grid, "RAS", (1, 1, 1)), nn.Sequential(Net(3))
    if decide.are_probabilities:
        net.append(nn.Softmax(1))
    run: Any = TorchDevice(net, Device("cpu"), threads=1, batch=2)
    if where == "host":
        run = TorchCPU(net, threads=1, batch=2)
    found = labelled(scan, image, asked, run, story.no_tick, Wishes(probabilities=True))
    assert found.probabilities is not None
    empty = turned_to_model(found.probabilities, image.image.grid)[:, :8]
    assert [set(np.unique(channel)) for channel in empty] == [{255 * (value == 0)} for value in decide.values]
    assert all(0 <= margin <= 1 for margin in found.confidence.values())


def turned_to_model(volume: Volume, model: Grid) -> np.ndarray:
    return onto(volume, model, Interpolation("nearest")).data


def test_the_cost_of_a_window_is_learnt_from_sums_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "_LEARNING", 0.0)
    card: Any = SimpleNamespace(window=PLAN, inputs=1, decide=Decision((0, 1, 2)))
    rates = budget.window_cost(card, engine(3))
    assert rates.batch == 2
    assert rates.seconds > 0


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_plane_that_is_a_slab_of_its_own_is_counted_once(axis: int) -> None:
    shape = (4, 5, 6)
    model, logits = Grid(shape, np.eye(4)), torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    found = []
    for ends in (
        [(0, shape[axis])],
        [(0, 1), (0, 2), (1, shape[axis])],
        [(0, shape[axis]), (shape[axis] - 1, shape[axis])],
    ):
        sums = torch_decide._Sums(Decision((0, 1, 2)))
        for low, high in ends:
            box = tuple(slice(low, high) if i == axis else slice(0, n) for i, n in enumerate(shape))
            sums.add(logits[(slice(None), *box)], model.crop((box[0], box[1], box[2])))
        found.append(sums.margins())
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    assert found[0] == pytest.approx(found[2], rel=1e-6)
