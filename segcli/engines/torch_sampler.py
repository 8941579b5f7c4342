"""An image sampled axis by axis on a device, products and sums apart, as the host has them: its very bytes."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcli.engines.torch_memory import Device, short
from segcli.space.resample import REPEATED, Taps, apply, coefficients
from segcli.space.volume import Voxels

Held: TypeAlias = Tensor | NDArray[np.generic]
WITHOUT_FLOAT64 = ("mps", "xpu")  # kinds of device that have no float64, or not all of them
_POLE = math.sqrt(3.0) - 2.0  # of the filter of splines of order 3
_GAIN = (1.0 - _POLE) * (1.0 - 1.0 / _POLE)
_REACH = 100  # voxels: further away the pole's power is nothing to a float64
_AS_THEY_ARE = ("u1", "i1", "i2", "f4")  # what crosses to the device; other numbers become float32 first


class DeviceSampler:
    """`space.resample.Sampler` on a device; where its memory does not suffice, on the host from there on."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def send(self, data: Voxels) -> Held:
        kept = data.dtype.str[1:] in _AS_THEY_ARE
        here = np.require(data, data.dtype.newbyteorder("=") if kept else np.float32, ["C", "W"])
        if self._device.left:
            return here
        try:
            with self._device.within():
                return torch.from_numpy(here).to(self._device.place)
        except RuntimeError as error:
            short(error)
        return here

    def apply(self, data: Held, taps: Taps, axis: int) -> Held:
        if isinstance(data, Tensor):
            try:
                with self._device.within():
                    return summed(data.float(), *sent(taps, data.device), axis)
            except RuntimeError as error:
                short(error)
            data = self.get(data)
        return apply(data, taps, axis)

    def spline(self, data: Held, axis: int) -> Held:
        if isinstance(data, Tensor):
            try:
                if data.device.type not in WITHOUT_FLOAT64:
                    with self._device.within():
                        return spline(data, axis)
            except RuntimeError as error:
                short(error)
            data = self.get(data)
        return coefficients(data, axis)

    def get(self, data: Held) -> Voxels:
        return data.cpu().numpy() if isinstance(data, Tensor) else data


def spline(data: Tensor, axis: int) -> Tensor:
    """What `space.resample.coefficients` makes of it: scipy's recursion along the axis, plane by plane in float64.

    Of a scan in float64 it sees the float32 that was sent.
    """
    n = data.shape[axis]
    first, last = data.narrow(axis, 0, 1), data.narrow(axis, n - 1, 1)
    whole = torch.cat([*[first] * REPEATED, data, *[last] * REPEATED], axis).double() * _GAIN
    c, n = whole.unbind(axis), n + 2 * REPEATED
    all_along = _POLE**n  # what is left of a voxel at the other end
    start, power = c[0] + all_along * c[n - 1], _POLE
    for i in range(1, min(n, _REACH)):
        start += power * (c[i] + all_along * c[n - 1 - i])
        power *= _POLE
    c[0].add_(start * (_POLE / (1 - all_along * all_along)))
    for i in range(1, n):
        c[i].add_(_POLE * c[i - 1])
    c[n - 1].mul_(_POLE / (_POLE - 1))
    for i in range(n - 2, -1, -1):
        c[i].copy_(_POLE * (c[i + 1] - c[i]))
    return whole.float()


def sent(taps: Taps, device: torch.device) -> tuple[Tensor, Tensor]:
    """(T, n) indices and weights where data is."""
    return torch.from_numpy(taps.index).to(device), torch.from_numpy(taps.weights).to(device)


def summed(data: Tensor, index: Tensor, weights: Tensor, axis: int) -> Tensor:
    """Data (..., n, ...) in float32 with one axis sampled by `sent` taps; products and sums apart."""
    row = [1] * data.dim()
    row[axis] = -1
    total = data.index_select(axis, index[0]) * weights[0].view(row)
    for one, weight in zip(index[1:], weights[1:], strict=True):
        total += data.index_select(axis, one) * weight.view(row)
    return total
