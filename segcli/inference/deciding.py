"""What an engine is asked for that decides labels where its sums are, so that logits never cross to the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from segcli.inference.decide import Decision
from segcli.space.resample import Interpolation
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
    probabilities  (K, D, H, W) on the scan's grid, 255 for 1, to be filled where they are wanted
    own      where answers are averaged in other terms than those of the sums' channels: what these are
    """

    target: Grid
    scan: Grid
    part: Grid
    wanted: Grid
    rule: Interpolation
    decide: Decision
    votes: bool
    probabilities: NDArray[np.uint8] | None = None
    own: Decision | None = None


@dataclass(frozen=True, eq=False)
class Spreading:
    """A model's answer that is wanted on another grid.

    on       that grid
    part     the grid that slabs make together; `wanted` the one that it was cropped from
    rule     how logits come there
    have     how the model's channels become labels; `order` of them that is wanted
    want     the decision of the answer: in the same values, logits or probabilities
    beyond   what each channel is beyond the part
    """

    on: Grid
    part: Grid
    wanted: Grid
    rule: Interpolation
    have: Decision
    order: Sequence[int]
    want: Decision
    beyond: Sequence[float]


class Deciding(Protocol):
    """Labels and what is said of them, gathered on a device."""

    def take(self, box: Box, slab: Grid) -> None:
        """Decide what lies in a slab: a box of the image that sums have finished, and its grid."""
        ...

    def labels(self) -> NDArray[np.integer]:
        """(D, H, W) on the task's target, in the decision's dtype: as `labels_on` gives them of these slabs.

        Its very bytes where the grids run along each other and no exponentials were taken.
        """
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


class Answer(Protocol):
    """A model's answer on another grid, gathered on a device."""

    def take(self, box: Box, slab: Grid) -> None:
        """Bring what lies in a slab there: a box of the image that sums have finished, and its grid."""
        ...

    def decider(self, task: Task, others: Sequence[Answer]) -> Deciding:
        """Decide of the mean of answers on one grid, slab by slab, with the share of them that decide otherwise."""
        ...


@runtime_checkable
class DecidingSums(Protocol):
    """Sums that decide where they are."""

    def decider(self, task: Task, others: Sequence[Answer] = ()) -> Deciding:
        """Decide of what is summed, or of its mean with other models' answers on the same grid."""
        ...

    def answer(self, task: Spreading) -> Answer: ...
