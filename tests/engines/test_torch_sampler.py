"""Scans resampled on a device, which the CPU plays: the host's very bytes."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shapes import grid

from segcli.engines.torch_memory import Device
from segcli.engines.torch_sampler import DeviceSampler
from segcli.space.resample import Interpolation, onto
from segcli.space.volume import AXES_CODES, Volume, turned

KINDS = ("u1", "i1", "i2", ">i2", "u2", "i4", "f4", ">f4", "f8")


@settings(max_examples=60)
@given(
    code=st.sampled_from(AXES_CODES),
    kind=st.sampled_from(KINDS),
    rule=st.sampled_from(
        [
            Interpolation(),
            Interpolation("nearest"),
            Interpolation("cubic"),
            Interpolation(smooth=0.4),
            Interpolation(coarse=1.5),
        ]
    ),
    spacing=st.tuples(*[st.sampled_from([0.8, 1.0, 1.7, 3.0])] * 3),
)
def test_a_scan_resampled_on_a_device_has_the_hosts_bytes(
    code: str, kind: str, rule: Interpolation, spacing: Any
) -> None:
    have = grid((9, 12, 10), spacing)
    data = np.random.default_rng(0).integers(-120, 120, (2, *have.shape)).astype(kind)
    scan, want = Volume(data, have), turned(grid((11, 9, 12), (1.1, 1.4, 0.9)), code)
    found = onto(scan, want, rule, DeviceSampler(Device("cpu")))
    wanted = onto(scan, want, rule)
    assert found.data.dtype == wanted.data.dtype
    np.testing.assert_array_equal(found.data, wanted.data)


@pytest.mark.parametrize("at", ["to", "index_select"])
def test_6_2_without_room_there_the_host_goes_on_and_the_bytes_are_the_same(
    monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    def full(self: torch.Tensor, *given: Any, **how: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    have, want = grid((9, 12, 10), (1.0, 1.3, 0.7)), grid((7, 9, 8), (1.4, 1.6, 1.1))
    scan = Volume(np.random.default_rng(0).standard_normal((1, *have.shape)).astype(np.float32), have)
    wanted, device = onto(scan, want), Device("cpu")
    monkeypatch.setattr(torch.Tensor, at, full)
    np.testing.assert_array_equal(onto(scan, want, on=DeviceSampler(device)).data, wanted.data)
    assert device.taken == []


def test_where_the_cpu_has_taken_over_nothing_is_sent() -> None:
    device = Device("cpu")
    device.left = True
    assert isinstance(DeviceSampler(device).send(np.zeros((1, 2, 2, 2), np.float32)), np.ndarray)
