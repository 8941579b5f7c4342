"""Clip, scale, standardise, and find the foreground: what happens to values before a network sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from segcli.inference.frames import Frame
from segcli.space.volume import Box, Volume, Voxels, extent, whole, widened

Values = NDArray[np.float32]
Beyond = float | NDArray[np.float32]  # the value beyond an image: one, or (C,) one for each channel
Map = Callable[[Values], Values]
Mask = NDArray[np.bool_]
_BINS = 1000
_NOTHING = 1e-15  # what is nearer to 0 counts as 0
Inside = Callable[[], Mask]  # of the whole image, made when a step asks for it


class Step(Protocol):
    """One step on the values of one channel."""

    @property
    def channels(self) -> tuple[int, ...] | None: ...

    def fit(self, values: Values, inside: Inside) -> Map:
        """The function that the step is for these values, (D, H, W); it may work in place."""
        ...


@dataclass(frozen=True)
class Clip:
    """Bring values below `low` to `low`, above `high` to `high`."""

    low: float
    high: float
    channels: tuple[int, ...] | None = None

    def fit(self, values: Values, inside: Inside) -> Map:
        return lambda v: np.clip(v, np.float32(self.low), np.float32(self.high), out=v)


@dataclass(frozen=True)
class Scale:
    """Map a range linearly to `low`..`high`.

    The range is what the clip step before it kept, or `source` where the card gives it, or the image's own.
    """

    low: float
    high: float
    source: tuple[float, float] | None = None
    channels: tuple[int, ...] | None = None

    def fit(self, values: Values, inside: Inside) -> Map:
        low, high = self.source or (float(values.min()), float(values.max()))
        factor = (self.high - self.low) / (high - low) if high > low else 0.0
        return _linear(low, factor, self.low)


@dataclass(frozen=True)
class Percentiles:
    """Map two percentiles of the image to 0 and 1; `epsilon` keeps a constant image finite."""

    low: float
    high: float
    epsilon: float = 0.0
    channels: tuple[int, ...] | None = None

    def fit(self, values: Values, inside: Inside) -> Map:
        low, high = np.percentile(values, [self.low, self.high])
        width = float(high - low) + self.epsilon
        factor = 1 / width if width > 0 else 0.0
        return _linear(float(low), factor)


@dataclass(frozen=True)
class Histogram:
    """Map the image's least value to `low`, the end of its histogram to `high`, and clip (FreeSurfer's conform).

    share    of the voxels that are not 0: so much of them, and all that are 0, lies below the histogram's end. Of its
             1000 bins the end is the lower edge of the one before that which reaches this, as FastSurfer counts.
    """

    low: float
    high: float
    share: float
    channels: tuple[int, ...] | None = None

    def fit(self, values: Values, inside: Inside) -> Map:
        least, width = values.min(), (values.max() - values.min()) / np.float32(_BINS)
        low, high = np.float32(self.low), np.float32(self.high)
        reach = np.float32(self._end(values, least, width)) * width
        change = _linear(float(least), float((high - low) / reach) if reach > 0 else 1.0, self.low)
        return lambda v: np.clip(change(v), low, high, out=v)

    def _end(self, values: Values, least: np.float32, width: np.float32) -> int:
        """The bin at whose lower edge the histogram ends; 0 for an image of one value."""
        if not width > 0:
            return 0
        bins = np.minimum(((values - least) / width).astype(np.int64), _BINS - 1)
        below = np.cumsum(np.bincount(bins.ravel(), minlength=_BINS))
        above = int((1 - self.share) * np.count_nonzero(np.abs(values) >= _NOTHING))
        return min(int(np.searchsorted(below[1:], values.size - above)), _BINS - 1)


@dataclass(frozen=True)
class Standardise:
    """Subtract the mean and divide by the deviation: given numbers, or those of the image itself.

    where    "image" for all voxels, "nonzero" for voxels that are not 0 (the rest keep their 0), "inside" for voxels
             that were not 0 in one channel or another before the first step, and the holes that they enclose
             (nnU-Net's mask)
    """

    mean: float | None = None
    sd: float | None = None
    where: str = "image"
    epsilon: float = 1e-8
    channels: tuple[int, ...] | None = None

    def fit(self, values: Values, inside: Inside) -> Map:
        here = None if self.where == "image" else values != 0 if self.where == "nonzero" else inside()
        chosen = values if here is None else values[here]
        if self.mean is not None and self.sd is not None:
            mean, sd = self.mean, self.sd
        elif chosen.size == 0:
            mean, sd = 0.0, 1.0
        else:
            mean, sd = float(chosen.mean(dtype=np.float64)), float(chosen.std(dtype=np.float64))
        factor = 1 / max(sd, self.epsilon) if sd > 0 else 0.0
        change = _linear(mean, factor)
        if here is None:
            return change

        def masked(v: Values) -> Values:
            at = here if v.shape == here.shape else v != 0  # one voxel beyond the image has no place in it
            v[at] = change(v[at])
            return v

        return masked


@dataclass(frozen=True)
class Outside:
    """From here on, what lies beyond the image has this value; the image is left alone.

    nnU-Net and MONAI pad after all other steps with 0, whatever air has become by then.
    """

    value: float
    channels: tuple[int, ...] | None = None

    def fit(self, values: Values, inside: Inside) -> Map:
        return lambda v: v


@dataclass(frozen=True)
class Crop:
    """Keep the box of voxels above a value; what is left out counts as `outside` from then on.

    above    voxels above this are foreground; None means voxels that are not 0 (nnU-Net)
    margin   voxels added on each side, inside the volume
    """

    above: float | None = 0.0
    margin: int = 0
    outside: float | None = None


def normalise(image: Volume, steps: Sequence[Step], outside: Beyond = 0.0) -> tuple[Volume, NDArray[np.float32]]:
    """The image after the steps, and what the values beyond the image have become of them.

    image    (C, D, H, W), any dtype
    outside  of each channel, or one for all
    returns  float32, and (C,) float32
    """
    data = np.array(image.data, np.float32)  # a copy: the steps work in place
    values = beyond(outside, len(data))
    inside = cache(lambda: enclosed(image.data))
    for c, channel in enumerate(data):
        own = values[c].reshape(1, 1, 1).copy()
        for step in steps:
            if step.channels is None or c in step.channels:
                change = step.fit(channel, inside)
                channel = change(channel)
                if isinstance(step, Outside):
                    own[:] = step.value
                else:
                    own = change(own)
        data[c], values[c] = channel, own[0, 0, 0]
    return Volume(data, image.grid, image.source), values


def beyond(outside: Beyond, channels: int) -> NDArray[np.float32]:
    """The value beyond the image of each of its channels, (C,)."""
    return np.array(np.broadcast_to(outside, channels), np.float32)


def foreground(image: Volume, rule: Crop) -> Box:
    """The smallest box with all foreground of any channel, and the rule's margin; the whole image if there is none."""
    here = np.zeros(image.grid.shape, bool)
    for channel in image.data:
        here |= channel != 0 if rule.above is None else channel > rule.above
    box = extent(here)
    return whole(image.grid) if box is None else widened(box, [rule.margin] * 3, image.grid.shape)


def enclosed(channels: Voxels) -> Mask:
    """Voxels of (C, D, H, W) that are not 0 in one channel or another, and the holes that they enclose: (D, H, W)."""
    from scipy.ndimage import binary_fill_holes

    filled: Mask = binary_fill_holes(channels.any(axis=0))
    return filled


def _linear(origin: float, factor: float, low: float = 0.0) -> Map:
    """(v - origin) * factor + low, in this order: a voxel at the origin becomes `low` exactly, so that a crop that
    keeps what is above it leaves the air of a clipped CT out."""

    def change(v: Values) -> Values:
        v -= np.float32(origin)
        v *= np.float32(factor)
        if low:
            v += np.float32(low)
        return v

    return change


@dataclass(frozen=True)
class Resample:
    """The place of the resampling among the intensity steps, where a card says that it is not the first.

    whole    its values become whole numbers: the part behind the point left away (TotalSegmentator), or "rounded"
    """

    whole: bool | Literal["rounded"] = False


Preparation = Step | Crop | Resample | Frame
