"""Logits averaged over mirror images of each window, left and right kept apart."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from segcli.engines.blended import Axes, Blending
from segcli.engines.wrapped import Wrapped
from segcli.errors import ModelError
from segcli.models.card import ModelCard
from segcli.space.volume import Array, Box
from segcli.structures import side_of


class Mirrored(Wrapped):
    """An engine that shows its inner engine every combination of flips.

    axes   array axes of the window that are flipped
    sided  the one of them whose flip exchanges channels; None when none does
    order  for each channel the one it is exchanged with
    """

    def __init__(self, inner: Blending, axes: tuple[int, ...], sided: int | None, order: tuple[int, ...]) -> None:
        super().__init__(inner)
        self.axes, self.sided, self.order = axes, sided, order

    def answer(self, held: Array, at: Sequence[Box], flips: Sequence[Axes] = ()) -> Array:
        """As many mirror images of windows at a time as the inner engine likes: its batches are full."""
        own, count = flips or [()] * len(at), len(at)
        mirrors = [more for n in range(len(self.axes) + 1) for more in combinations(self.axes, n)]
        shown = [(i, more) for more in mirrors for i in range(count)]  # at first all windows as they are
        total: Array | None = None
        while shown:
            size = max(count, self.inner.batch)
            some, shown = shown[:size], shown[size:]
            flipped = [tuple(sorted({*own[i]} ^ {*more})) for i, more in some]
            logits = self.inner.answer(held, [at[i] for i, _ in some], flipped)
            first = count if total is None else 0
            total = self.inner.owned(logits[:count]) if total is None else self.inner.beside(total, logits)
            for (i, more), one in zip(some[first:], logits[first:], strict=True):
                self._add(total[i], one, exchanged=self.sided in more)
        assert total is not None  # a network is shown one window at least
        total /= len(mirrors)
        return total

    def _add(self, total: Array, logits: Array, *, exchanged: bool) -> None:
        """total += logits (K, d, h, w), left and right exchanged if so; channels behind those of labels stay.

        Channel by channel: a list of them would be sent to a device each time.
        """
        if not exchanged:
            total += logits
            return
        for channel, other in enumerate([*self.order, *range(len(self.order), len(logits))]):
            total[channel] += logits[other]


def mirrored(inner: Blending, card: ModelCard) -> Mirrored:
    """An engine mirrored along the card's axes.

    errors   ModelError for a card without mirror axes, and where left and right would be mixed: the orientation is
             not stated though labels are paired, or a label has a side in its name and no pair
    """
    if not card.mirror:
        raise ModelError(f"{card.name}: the card names no axis that may be mirrored", hint="leave --tta out")
    by_value = {label.id: label for label in card.labels}
    channels = [by_value[value] for value in card.decide.values]
    paired = [label for label in channels if label.pair]
    if card.grid.axes is None:
        if paired:
            raise ModelError(
                f"{card.name}: {paired[0].name} has a side, and the card does not say which axis runs from left to "
                "right",
                hint="leave --tta out, or state the orientation in the card",
            )
        return Mirrored(inner, card.mirror, None, ())  # the network was trained with plain flips of these axes
    sided = next(axis for axis, letter in enumerate(card.grid.axes) if letter in "RL")
    lonely = [label for label in channels if side_of(label.name) and not label.pair]
    if sided in card.mirror and lonely:
        raise ModelError(
            f"{card.name}: {lonely[0].name} has a side but no pair, so axis {sided} cannot be mirrored",
            hint="leave --tta out, or name the pair in the card",
        )
    position = {label.name: i for i, label in enumerate(channels)}
    for label in paired:
        if label.pair not in position:
            raise ModelError(f"{card.name}: {label.pair}, the pair of {label.name}, is no output of the network")
    order = tuple(position[label.pair or label.name] for label in channels)
    return Mirrored(inner, card.mirror, sided if paired else None, order)
