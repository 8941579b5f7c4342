"""An image sampled axis by axis on a device, products and sums apart, as the host has them: its very bytes."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcli.engines.torch_memory import Device, short
from segcli.space.resample import Taps, apply
from segcli.space.volume import Voxels

Held: TypeAlias = Tensor | NDArray[np.generic]
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

    def get(self, data: Held) -> Voxels:
        return data.cpu().numpy() if isinstance(data, Tensor) else data


def sent(taps: Taps, device: torch.device) -> tuple[Tensor, Tensor]:
    """(T, n) indices and weights where data is."""
    return torch.from_numpy(taps.index).to(device), torch.from_numpy(taps.weights).to(device)


def summed(data: Tensor, index: Tensor, weights: Tensor, axis: int) -> Tensor:
    """Data in float32 with one axis sampled; products and sums apart."""
    row = [1] * data.dim()
    row[axis] = -1
    total = data.index_select(axis, index[0]) * weights[0].view(row)
    for one, weight in zip(index[1:], weights[1:], strict=True):
        total += data.index_select(axis, one) * weight.view(row)
    return total
