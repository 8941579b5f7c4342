"""Answers of several models on one grid, and their mean, where a device has them: no logits cross to the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from segcli.engines.torch_decide import Decider, Slab, decided, soften
from segcli.engines.torch_memory import Device
from segcli.engines.torch_spots import kept, spots
from segcli.inference.decide import Decision
from segcli.inference.deciding import Answer, Deciding, Spreading, Task
from segcli.inference.place import Place
from segcli.space.volume import Box, Grid


class DeviceAnswer:
    """What `inference.deciding.Answer` asks for: 4 bytes for each class and voxel of the grid.

    slab   the finished logits (K, d, h, w) of a box of the image, a tensor of its own
    """

    def __init__(self, device: Device, slab: Callable[[Box], Tensor], task: Spreading) -> None:
        self._device, self._slab, self._task = device, slab, task
        self._place = Place(task.on, task.part, task.wanted, task.rule)
        self._answer = device.answers((len(task.beyond), *task.on.shape))
        for channel, value in zip(self._answer.data, task.beyond, strict=True):
            channel.fill_(value)

    def take(self, box: Box, slab: Grid) -> None:
        self._device.tried(lambda: self._take(box, slab))

    def decider(self, task: Task, others: Sequence[Answer]) -> Deciding:
        return mean_decider(self._device, lambda box, grid: self.slab(grid, task.decide), task, others)

    def slab(self, grid: Grid, decide: Decision) -> Tensor:
        """A copy (K, d, h, w) of what the answer has in a slab of its grid, in the terms of a decision."""
        slab = self._answer.data[(slice(None), *self._task.on.box_of(grid))].to(self._device.now, copy=True)
        return in_terms(slab, self._task.want, decide)

    def _take(self, box: Box, grid: Grid) -> None:
        slab, task = self._slab(box).to(self._device.now), self._task
        channels = in_terms(torch.stack([slab[i] for i in task.order]), task.have, task.want)
        for spot in spots(self._place, task.part, grid, channels):
            for channel, whole in zip(channels, self._answer.data, strict=True):
                there = spot.of(whole)
                there.copy_(kept(spot, spot.sampled(channel), there))


def mean_decider(device: Device, own: Slab, task: Task, others: Sequence[Answer]) -> Decider:
    """Decides of the mean of a model's own slabs and of other models' answers."""
    answers = [other for other in others if isinstance(other, DeviceAnswer)]

    def slab(box: Box, grid: Grid) -> Tensor:
        return joined(
            [own(box, grid).to(device.now), *(answer.slab(grid, task.decide) for answer in answers)], task.decide
        )

    return Decider(device, slab, task)


def in_terms(channels: Tensor, have: Decision, want: Decision) -> Tensor:
    """Logits (K, d, h, w), or, where these are wanted of them, probabilities in their place."""
    if want.are_probabilities and not have.are_probabilities:
        soften(channels, have)
    return channels


def joined(answers: Sequence[Tensor], decide: Decision) -> Tensor:
    """The mean (K + 1, d, h, w) of answers, with the share of them that decide otherwise behind it."""
    first, *others = answers
    mean = first.clone()
    for other in others:
        mean += other
    mean /= len(answers)
    together = _winners(mean, decide)
    apart = torch.zeros_like(mean[0])
    for answer in answers:
        apart += _winners(answer, decide) != together
    return torch.cat([mean, (apart / len(answers))[None]])


def _winners(channels: Tensor, decide: Decision) -> Tensor:
    """The winning channel of each voxel, of equal ones the first; with regions 1 + the last above one half, or 0."""
    start = int(decide.rule == "regions")
    values = tuple(range(start, start + len(decide.values)))
    labels = torch.zeros(channels.shape[1:], dtype=torch.int16, device=channels.device)
    return decided(channels, labels, values, decide)
