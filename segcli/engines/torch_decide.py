"""Labels, margins, votes and probabilities by torch, where the sums are: the host's sums in the host's order.

Each step is one operation for all voxels of a slab, class after class: what the host does voxel by voxel in boxes of
cells where a class can win (inference/decide.py), a device does for every voxel. Between grids that run along each
other the labels are the host's bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segcli.engines.torch_memory import Device
from segcli.engines.torch_sampler import WITHOUT_FLOAT64, sent, summed
from segcli.engines.torch_spots import kept, spots
from segcli.inference.area import Faces
from segcli.inference.certainty import shared_axis
from segcli.inference.decide import Decision
from segcli.inference.deciding import Task
from segcli.inference.place import Place
from segcli.space.volume import Box, Grid

Slab = Callable[[Box, Grid], Tensor]
_CLASSES = 256  # that a uint8 can count


class Decider:
    """What `inference.deciding.Deciding` asks for.

    slab   the finished logits (K, d, h, w) of a box of the image and its grid, a tensor of its own
    """

    def __init__(self, device: Device, slab: Slab, task: Task) -> None:
        self._device, self._slab, self._task = device, slab, task
        own = task.decide
        self._soften = own.softened
        self.decide = replace(own, are_probabilities=True) if self._soften else own
        self._place = Place(task.target, task.part, task.wanted, task.rule)
        self._beside = Place(task.scan, task.part, task.wanted, task.rule)
        self._labels = self._map(task.target.shape, torch.uint8 if max(own.values) < _CLASSES else torch.int32)
        self._votes = self._map(task.scan.shape, torch.uint8) if task.votes else None
        self._means = _Sums(self.decide)

    def take(self, box: Box, slab: Grid) -> None:
        self._device.tried(lambda: self._take(box, slab))

    def labels(self) -> NDArray[np.integer]:
        found: NDArray[np.integer] = self._labels.cpu().numpy().astype(self.decide.dtype, copy=False)
        return found

    def votes(self) -> NDArray[np.uint8] | None:
        return None if self._votes is None else self._votes.cpu().numpy()

    def margins(self) -> dict[int, float]:
        argmax = self.decide.rule == "argmax" and len(self.decide.values) > 1
        return self._means.margins() if argmax else {}

    def disagreement(self) -> dict[int, float]:
        return self._means.disagreement()

    def _map(self, shape: tuple[int, int, int], dtype: torch.dtype) -> Tensor:
        """Zeros where labels are gathered; on the host where the device has no room for them."""
        return self._device.tried(lambda: torch.zeros(shape, dtype=dtype, device=self._device.now))

    def _take(self, box: Box, grid: Grid) -> None:
        """All is computed before anything is kept, so that a step down in between can begin again."""
        k = len(self.decide.values)
        slab = self._slab(box, grid).to(self._device.now)
        if self._soften:
            soften(slab[:k], self.decide)
        slab[k:].clamp_min_(0)  # windows that were skipped have no votes
        keep = self._decided(slab, grid)
        votes = self._votes
        if votes is not None and len(slab) > k:
            for spot in spots(self._beside, self._task.part, grid, slab):
                keep.append((spot.of(votes), kept(spot, _byte(spot.sampled(slab[k])), spot.of(votes))))
        if self._task.probabilities is not None:
            self._share(self._task.probabilities, slab[:k], grid)
        self._means.add(slab, grid)
        for there, found in keep:
            there.copy_(found)

    def _decided(self, slab: Tensor, grid: Grid) -> list[tuple[Tensor, Tensor]]:
        """Where in the labels something is decided, and what."""
        found = []
        for spot in spots(self._place, self._task.part, grid, slab):
            there = spot.of(self._labels)
            before = there.to(slab.device, copy=True, memory_format=torch.contiguous_format)
            labels = decided((spot.sampled(channel) for channel in slab), before, self.decide.values, self.decide)
            found.append((there, kept(spot, labels, there)))
        return found

    def _share(self, into: NDArray[np.uint8], channels: Tensor, grid: Grid) -> None:
        """Write the probabilities of a slab's channels (K, d, h, w); of all that is made here, only they cross."""
        if not self.decide.are_probabilities:
            channels = channels.clone()
            soften(channels, self.decide)
        for spot in spots(self._beside, self._task.part, grid, channels):
            where = True if spot.mask is None else spot.mask.cpu().numpy()
            for channel, whole in zip(channels, into, strict=True):
                np.copyto(spot.on_host(whole), _byte(spot.sampled(channel)).cpu().numpy(), where=where)


def decided(channels: Iterable[Tensor], labels: Tensor, values: Sequence[int], decide: Decision) -> Tensor:
    """Labels (d, h, w) of channels that come one by one, written over those that are there where regions leave them.

    values   the label of each channel
    """
    best: Tensor | None = None
    for value, channel in zip(values, channels, strict=False):
        if decide.rule != "argmax":
            labels.masked_fill_(channel > decide.half, value)
        elif best is None:
            best = channel.clone()
            labels.fill_(value)
        else:
            labels.masked_fill_(channel > best, value)
            torch.maximum(best, channel, out=best)
    return labels


def _byte(share: Tensor) -> Tensor:
    return torch.round(share * 255).to(torch.uint8)


class AreaDecider(Decider):
    """Labels of probabilities that are averaged over the area of each voxel (inference/area.py)."""

    def __init__(self, device: Device, slab: Slab, task: Task) -> None:
        super().__init__(device, slab, task)
        self._faces = Faces(task.scan, task.wanted)
        self._whole = device.zeros((len(task.decide.values), *task.wanted.shape))

    def labels(self) -> NDArray[np.integer]:
        return self._faces.back(self._device.tried(self._averaged).cpu().numpy().astype(self.decide.dtype))

    def _decided(self, slab: Tensor, grid: Grid) -> list[tuple[Tensor, Tensor]]:
        there = self._whole.data[(slice(None), *self._task.wanted.box_of(grid))]
        return [(there, slab[: len(there)])]

    def _averaged(self) -> Tensor:
        whole = self._whole.data
        sums = [sent(taps, whole.device) for taps in self._faces.taps]

        def sampled(channel: Tensor) -> Tensor:
            for axis, taps in enumerate(sums):
                channel = summed(channel, *taps, axis)
            return channel

        labels = torch.zeros(self._faces.like.shape, dtype=self._labels.dtype, device=whole.device)
        return decided(map(sampled, whole), labels, self.decide.values, self.decide)


def soften(channels: Tensor, decide: Decision) -> None:
    """Logits (K, d, h, w) become probabilities in place: their softmax, or the sigmoid of each."""
    if decide.rule == "regions":
        channels.neg_().exp_().add_(1).reciprocal_()
        return
    channels -= channels.amax(0)
    channels.exp_()
    whole = channels[0].clone()
    for channel in channels[1:]:  # in this order, as the host adds them up
        whole += channel
    channels /= whole


class _Sums:
    """Counts and sums over the model's voxels of each label value, one row for each slab: the host adds them up."""

    def __init__(self, decide: Decision) -> None:
        self.decide = decide
        self.values = decide.values if decide.rule == "argmax" else (0, *decide.values)
        self._rows: list[Tensor] = []  # (4, values) of counts, of what was looked at, of its margins, and of votes
        self._background = decide.values.index(0) if 0 in decide.values else -1
        self._previous: Grid | None = None
        self._first = np.zeros(3, np.int64)
        self._voted = False

    def add(self, slab: Tensor, grid: Grid) -> None:
        """Add a slab (K, d, h, w); its first plane was the last of the slab before."""
        shift = None if self._previous is None else self._previous.start_of(grid)
        first = self._first if shift is None else self._first + shift
        row = self._row(slab, first, None if self._previous is None else shared_axis(self._previous, grid))
        self._previous, self._first = grid, first
        if row is not None:
            self._rows.append(row)

    def margins(self) -> dict[int, float]:
        return self._quotients(2, 1)

    def disagreement(self) -> dict[int, float]:
        return self._quotients(3, 0) if self._voted else {}

    def _quotients(self, sums: int, counts: int) -> dict[int, float]:
        if not self._rows:
            return {}
        whole = torch.stack([row.cpu().double() for row in self._rows]).sum(0).tolist()
        pairs = zip(self.values, whole[sums], whole[counts], strict=True)
        return {value: s / n for value, s, n in pairs if n > 0}

    def _row(self, slab: Tensor, first: NDArray[np.int64], shared: int | None) -> Tensor | None:
        k = len(self.decide.values)
        sure = self.decide.rule == "argmax" and k > 1
        self._voted |= len(slab) > k
        if not sure and not self._voted:
            return None
        if shared is not None:
            slab = slab.narrow(1 + shared, 1, slab.shape[1 + shared] - 1)
            first = first + (np.arange(3) == shared)
        order, margin = self._margin(slab[:k]) if sure else (self._regions(slab[:k]), None)
        looked = (order != self._background) | self._diagonals(slab, first)
        # A float64 where there is one: a float32 counts to 2^24.
        dtype = torch.float32 if slab.device.type in WITHOUT_FLOAT64 else torch.float64
        rows = []
        for i in range(len(self.values)):
            here = order == i
            seen = here & looked
            rows += [
                here.sum().to(dtype),
                seen.sum().to(dtype),
                slab.new_zeros((), dtype=dtype) if margin is None else torch.where(seen, margin, 0).sum(dtype=dtype),
                torch.where(here, slab[k], 0).sum(dtype=dtype) if len(slab) > k else slab.new_zeros((), dtype=dtype),
            ]
        return torch.stack(rows).view(len(self.values), 4).T

    def _margin(self, channels: Tensor) -> tuple[Tensor, Tensor]:
        """The winning channel of each voxel, of equal ones the first; how far its share is above the second best's."""
        best, second = channels[0].clone(), torch.full_like(channels[0], -torch.inf)
        order = torch.zeros(best.shape, dtype=torch.int16, device=best.device)
        for i, channel in enumerate(channels[1:], 1):
            order.masked_fill_(channel > best, i)
            torch.maximum(second, torch.minimum(best, channel), out=second)
            torch.maximum(best, channel, out=best)
        whole = torch.zeros_like(best)
        for channel in channels:
            whole += channel if self.decide.are_probabilities else (channel - best).exp_()
        if self.decide.are_probabilities:
            return order, (best - second) / whole
        return order, (1 - (second - best).exp_()) / whole

    def _regions(self, channels: Tensor) -> Tensor:
        """1 + the last channel above one half, 0 for none."""
        last = torch.zeros(channels.shape[1:], dtype=torch.int16, device=channels.device)
        for i, channel in enumerate(channels, 1):
            last.masked_fill_(channel > self.decide.half, i)
        return last

    def _diagonals(self, slab: Tensor, first: NDArray[np.int64]) -> Tensor:
        """Every fourth voxel (d, h, w) of the image."""
        d, h, w = (
            torch.arange(a, a + n, device=slab.device) for a, n in zip(first.tolist(), slab.shape[1:], strict=True)
        )
        return ((d[:, None, None] + h[:, None] + w) & 3) == 0
