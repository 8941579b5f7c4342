"""Logits averaged over several engines, one answer at a time, and where they would decide otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np

from segcli.engines.blended import Axes, Blending
from segcli.engines.wrapped import Wrapped
from segcli.inference.decide import Decision
from segcli.space.volume import Array, Box


class Ensemble(Wrapped):
    """Members of one kind, on one device; the first one owns the sums.

    votes   whether answers have one channel more: the share of members whose own decision, in this window, is
            another than that of the mean. It is blended over windows and mirror images as logits are
    """

    def __init__(self, members: Sequence[Blending], decide: Decision, votes: bool) -> None:
        super().__init__(members[0])
        self.members, self.decide, self.votes = list(members), decide, votes

    @property
    def batch(self) -> int:
        return min(member.batch for member in self.members)

    @property
    def fallbacks(self) -> Sequence[str]:
        sources = [member.fallbacks for member in self.members]  # one, of members that share a device
        return [said for own in {id(own): own for own in sources}.values() for said in own]

    @property
    def repeated(self) -> int:
        return sum(member.repeated for member in self.members)

    def answer(self, held: Array, at: Sequence[Box], flips: Sequence[Axes] = ()) -> Array:
        first, *others = self.members
        total = first.owned(first.answer(held, at, flips))
        own = [self._decided(total)] if self.votes else []
        for member in others:
            logits = member.answer(held, at, flips)
            if self.votes:
                own.append(self._decided(logits))
            total = self.beside(total, logits)
            total += logits
        total /= len(self.members)
        if not self.votes:
            return total
        together = self._decided(total)
        return _with(total, [self.beside(votes, together) != together for votes in own])

    def owned(self, logits: Array) -> Array:
        return logits

    @contextmanager
    def exact(self, windows: int) -> Iterator[None]:
        with ExitStack() as stack:
            for i, member in enumerate(self.members):
                stack.enter_context(member.exact(0 if i else windows))
            yield

    def rest(self) -> None:
        for member in self.members:
            member.rest()

    def _decided(self, logits: Array) -> Array:
        """The winning channel (N, d, h, w); with regions, one more than the last channel above one half."""
        if self.decide.rule == "argmax":
            return logits.argmax(1)
        last = 0 * logits[:, 0]
        for k in range(len(self.decide.values)):
            here = logits[:, k] > self.decide.half
            last[here] = k + 1
        return last


def _with(logits: Array, differs: list[Array]) -> Array:
    """Logits with the mean of `differs` (N, d, h, w) as one more channel, in NumPy's or torch's arrays."""
    shape = (logits.shape[0], logits.shape[1] + 1, *logits.shape[2:])
    joined = logits.new_zeros(shape) if hasattr(logits, "new_zeros") else np.zeros(shape, np.float32)
    joined[:, :-1] = logits
    for here in differs:
        joined[:, -1] += here
    joined[:, -1] /= len(differs)
    return joined
