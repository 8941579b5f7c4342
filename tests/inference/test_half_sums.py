"""Windows are added up in float16 exactly as nnU-Net v2 does it."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from shapes import grid
from test_windows import Numpy, joined

from segcli import memory
from segcli.engines.torch_devices import TorchCPU, TorchDevice
from segcli.engines.torch_memory import Device
from segcli.errors import ModelError
from segcli.inference.windows import Sliding, WindowPlan, starts
from segcli.space.volume import Volume

PLAN = WindowPlan((8, 6, 8), centre="voxel", floor=6e-9, stride="even", sums="float16")


def network(x: np.ndarray) -> np.ndarray:
    """Three channels whose values hang on where in its window a voxel lies, so that no two windows agree."""
    d, h, w = x.shape[2:]
    ramp = np.linspace(-3, 3, d * h * w, dtype=np.float32).reshape(1, 1, d, h, w)
    return np.concatenate([x, x * ramp, ramp + 0 * x], axis=1) * np.float32(7.3)


def as_nnunet_does(image: np.ndarray, plan: WindowPlan) -> np.ndarray:
    """nnU-Net's loop, in torch: weights up to 10 in float16, sums in float16, windows in order of the first axis."""
    weight = np.zeros(plan.size)
    weight[tuple(n // 2 for n in plan.size)] = 1
    weight = gaussian_filter(weight, [n / 8 for n in plan.size], 0, mode="constant", cval=0)
    gaussian = torch.from_numpy(weight / (weight.max() / 10)).half()
    gaussian[gaussian == 0] = gaussian[gaussian != 0].min()
    total = torch.zeros((3, *image.shape[1:]), dtype=torch.half)
    norm = torch.zeros(image.shape[1:], dtype=torch.half)
    places = (starts(n, size, plan) for n, size in zip(image.shape[1:], plan.size, strict=True))
    for first in product(*places):
        at = tuple(slice(a, a + size) for a, size in zip(first, plan.size, strict=True))
        logits = torch.from_numpy(network(image[None][(slice(None), slice(None), *at)])[0])
        logits *= gaussian
        total[(slice(None), *at)] += logits
        norm[at] += gaussian
    torch.div(total, norm, out=total)
    return total.float().numpy()


@pytest.mark.parametrize("shape", [(23, 17, 20), (8, 40, 9), (9, 6, 31)], ids=["blocky", "wide", "long"])
def test_the_sums_are_nnunets_to_the_last_bit(shape):
    image = np.random.default_rng(1).normal(size=(1, *shape)).astype(np.float32)
    found = joined(list(Sliding(Volume(image, grid(shape)), Numpy(network, batch=3), PLAN).volumes()), grid(shape))
    assert np.array_equal(found, as_nnunet_does(image, PLAN))


class Net(torch.nn.Module):
    """The same network on a device."""

    def forward(self, x):
        return torch.from_numpy(network(x.numpy()))


@pytest.mark.parametrize("shape", [(23, 17, 20), (8, 40, 9), (9, 6, 31)], ids=["blocky", "wide", "long"])
def test_the_sums_of_a_device_are_nnunets_to_the_last_bit(shape):
    image = np.random.default_rng(1).normal(size=(1, *shape)).astype(np.float32)
    engine = TorchDevice(Net(), Device("cpu"), threads=1, batch=3)
    found = joined(list(Sliding(Volume(image, grid(shape)), engine, PLAN).volumes()), grid(shape))
    assert np.array_equal(found, as_nnunet_does(image, PLAN))


def on_a_processor() -> TorchCPU:
    return TorchCPU(Net(), threads=1, batch=1)


@pytest.mark.parametrize("make", [lambda: Numpy(network), on_a_processor], ids=["numpy", "torch"])
@pytest.mark.parametrize("limit", [None, 1 << 20, 1 << 50], ids=["memory", "--max-ram", "neither"])
def test_sums_that_memory_or_max_ram_has_no_room_for_lie_in_a_file_and_the_engine_says_so(make, limit, monkeypatch):
    shape = (23, 17, 20)
    image = np.random.default_rng(1).normal(size=(1, *shape)).astype(np.float32)
    made: list[tuple[object, ...]] = []
    true = memory.mapped
    monkeypatch.setattr(memory, "available", lambda: 0)
    monkeypatch.setattr(memory, "mapped", lambda *words: (made.append(words), true(*words))[1])
    engine = make()
    engine.max_ram = limit
    found = joined(list(Sliding(Volume(image, grid(shape)), engine, PLAN).volumes()), grid(shape))
    on_file = limit != 1 << 50
    assert made == [((3, 9, 17, 20), np.float16)] * on_file
    assert [said.partition(":")[0] for said in engine.fallbacks] == [
        "sums of 0.0 GB are kept in a temporary file"
    ] * on_file
    assert np.array_equal(found, as_nnunet_does(image, PLAN))


def test_sums_of_slices_are_in_float16_too():
    shape = (12, 20, 11)
    image = np.random.default_rng(2).normal(size=(1, *shape)).astype(np.float32)
    plan = replace(PLAN, size=(1, 8, 8))
    found = joined(list(Sliding(Volume(image, grid(shape)), Numpy(network, batch=4), plan).volumes()), grid(shape))
    for d in range(12):
        alone = image[:, d : d + 1]
        assert np.array_equal(found[:, d : d + 1], as_nnunet_does(alone, plan))


def test_windows_that_are_not_run_are_background():
    image = np.zeros((1, 30, 6, 8), np.float32)
    image[:, :8] = 1
    plan = replace(PLAN, skip=True)
    engine = Numpy(network)
    found = joined(list(Sliding(Volume(image, grid((30, 6, 8))), engine, plan).volumes()), grid((30, 6, 8)))
    assert engine.seen < len(starts(30, 8, plan))
    assert (found[:, 20:].argmax(0) == 0).all()


@pytest.mark.parametrize(("factor", "says"), [(np.nan, "not finite"), (1e5, "too large for sums in float16")])
def test_logits_that_float16_cannot_hold_are_refused(factor, says):
    image = Volume(np.full((1, 8, 6, 8), factor, np.float32), grid((8, 6, 8)))
    with pytest.raises(ModelError, match=says):
        list(Sliding(image, Numpy(), PLAN).volumes())
