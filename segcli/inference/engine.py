"""What inference asks of whatever runs a network: the whole protocol, in NumPy's arrays and boxes alone.

What an engine keeps on its device, the image and the sums, is behind `Sums`: a window's logits never cross.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from segcli.errors import ModelError
from segcli.space.resample import Sampler
from segcli.space.volume import Box

Weights = NDArray[np.float32] | NDArray[np.float16]
UNSEEN = -20.0  # logit of a structure where no window was, or where a model did not look, beside 0 for background


class Taking(Protocol):
    """Whatever takes steps down for want of memory."""

    @property
    def fallbacks(self) -> Sequence[str]: ...


class Sums(Protocol):
    """Logits of an image's windows, added up over the planes that further windows may still change.

    The planes move along one axis of the image: the first of them is at first the one before the image.

    unseen   each channel's value where no window was, see `Decision.unseen`; empty: background by 20
    """

    unseen: Sequence[float]

    @property
    def classes(self) -> int:
        """Channels of the answers; 0 before the first window."""
        ...

    def add(self, windows: Sequence[Box]) -> None:
        """Run the network on windows of the image, and add their weighted logits where they lie.

        errors   `not_finite`, here or at the latest when they are settled
        """
        ...

    def settle(self) -> None:
        """Have all windows so far added: a device is waited for, so that its time counts as the network's.

        errors   `not_finite`
        """
        ...

    def finished(self, box: Box) -> NDArray[np.float32]:
        """The weighted mean (K, d, h, w) in a box of the image, a copy; `unseen` where no window was."""
        ...

    def advance(self, planes: int) -> None:
        """Forget the first planes, and cover as many further ones."""
        ...


@runtime_checkable
class Engine(Protocol):
    """Runs a network on windows, and owns the memory that their logits are added up in."""

    @property
    def name(self) -> str:
        """For the record, its library first: "torch cuda:0", "openvino cpu"."""
        ...

    @property
    def precision(self) -> str:
        """Of the network's arithmetic, for the record: "float32", "float16"."""
        ...

    @property
    def batch(self) -> int:
        """Windows at a time that it likes."""
        ...

    @property
    def fallbacks(self) -> Sequence[str]:
        """A sentence for each way to need less memory that was taken so far; none of them changes a result."""
        ...

    @property
    def repeated(self) -> int:
        """Windows so far that were computed again in float32, for less precision gave values that are not finite."""
        ...

    def run(self, patches: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (N, K, d, h, w) of windows (N, C, d, h, w) on the host, as comparisons and measurements want them."""
        ...

    def sums(self, image: NDArray[np.float32], shape: tuple[int, int, int], axis: int, weight: Weights) -> Sums:
        """Empty sums for the windows of an image (C, D, H, W).

        shape    of the planes that are summed at a time; `axis` is the one they move along
        weight   (d, h, w) of each voxel of a window; where they are float16, so are the sums (half_sums.py)
        """
        ...

    def rest(self) -> None:
        """Give back what only the network needs of memory; the next window takes it again."""
        ...


def where_unseen(unseen: Sequence[float], channels: int) -> list[float]:
    """The value of each of so many channels where no window was; those behind the given ones, of votes, are 0."""
    known = list(unseen) or [0.0, *[UNSEEN] * (channels - 1)]
    return [*known, *[0.0] * (channels - len(known))]


def on_planes(at: Box, axis: int, first: int) -> Box:
    """A box of an image among planes along an axis, of which `first` is the first one."""
    box = list(at)
    box[axis] = slice(at[axis].start - first, at[axis].stop - first)
    return box[0], box[1], box[2]


def counted(engines: Sequence[Taking]) -> list[Counter[str]]:
    """How often each engine has said each sentence of its `fallbacks` so far."""
    return [Counter(engine.fallbacks) for engine in engines]


def said_since(before: Sequence[Counter[str]], engines: Sequence[Taking]) -> list[str]:
    """What engines have said since they were `counted`: each sentence once, whichever of them said it."""
    now = counted(engines)
    return list(dict.fromkeys(said for was, own in zip(before, now, strict=True) for said in own - was))


def not_finite(at: Box) -> ModelError:
    """The refusal of a window's logits: they are never turned into background."""
    place = ", ".join(f"{s.start}..{s.stop - 1}" for s in at)
    return ModelError(
        f"the network gave values that are not finite in the window at voxels {place}",
        hint="the model's weights or its intensity steps do not suit this scan",
    )


@runtime_checkable
class Sampling(Protocol):
    """An engine whose device can resample an image too."""

    @property
    def sampler(self) -> Sampler | None: ...


def sampler_of(engine: Engine) -> Sampler | None:
    """Where an engine's images are resampled; None for the host."""
    return engine.sampler if isinstance(engine, Sampling) else None
