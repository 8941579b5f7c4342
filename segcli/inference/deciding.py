"""What an engine is asked for that decides labels where its sums are, so that logits never cross to the host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from segcli.inference.decide import Decision
from segcli.space.resample import Interpolation, parallel
from segcli.space.volume import Box, Grid


@dataclass(frozen=True, eq=False)
class Task:
    """What is decided of slabs as they are finished.

    target   the grid of the labels: the scan's, or the model's where finished labels come back
    scan     the grid of the votes
    part     the grid that the slabs make together; `wanted` the one that it was cropped from
    rule     how logits come to the target
    decide   how they become labels; where probabilities come back, slabs become probabilities first
    votes    whether the slabs' last channel, the share of members that decide otherwise, is wanted as a map
    """

    target: Grid
    scan: Grid
    part: Grid
    wanted: Grid
    rule: Interpolation
    decide: Decision
    votes: bool

    @property
    def straight(self) -> bool:
        """Whether the grids run along each other: at an angle they are sampled by the host alone."""
        grids = (self.target, self.scan) if self.votes else (self.target,)
        return all(parallel(grid.to(self.part)) is not None for grid in grids)


class Deciding(Protocol):
    """Labels and what is said of them, gathered on a device."""

    def take(self, box: Box, slab: Grid) -> None:
        """Decide what lies in a slab: a box of the image that sums have finished, and its grid."""
        ...

    def labels(self) -> NDArray[np.integer]:
        """(D, H, W) on the task's target, in the decision's dtype: the bytes that `labels_on` gives of these slabs."""
        ...

    def votes(self) -> NDArray[np.uint8] | None:
        """(D, H, W) on the scan, 255 for all members; None where they were not asked for."""
        ...

    def margins(self) -> Mapping[int, float]:
        """As `Means` has them, but for the order in which they are added up."""
        ...

    def disagreement(self) -> Mapping[int, float]:
        """As `Means` has it, likewise."""
        ...


@runtime_checkable
class DecidingSums(Protocol):
    """Sums that decide where they are."""

    def decider(self, task: Task) -> Deciding: ...
