"""Logits averaged over several engines, one answer at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcli.engines.wrapped import Wrapped
from segcli.volume import Array


class Ensemble(Wrapped):
    """Members of one kind, on one device; the first one owns the sums."""

    def __init__(self, members: Sequence[Any]) -> None:
        super().__init__(members[0])
        self.members = list(members)

    @property
    def batch(self) -> int:
        return min(int(member.batch) for member in self.members)

    @property
    def steps(self) -> list[str]:
        return [step for member in self.members for step in member.steps]

    def full_precision(self) -> Ensemble:
        return Ensemble([member.full_precision() for member in self.members])

    def run(self, patches: NDArray[np.float32]) -> Array:
        first, *others = self.members
        total = first.owned(first.run(patches))
        for member in others:
            total += member.run(patches)
        total /= len(self.members)
        return total

    def owned(self, logits: Array) -> Array:
        return logits
