"""What the network is shown: the scan on the model's grid, with the model's intensities."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segcli.errors import InputError
from segcli.inference.cascade import Rule, label_channels
from segcli.inference.decide import Decision
from segcli.inference.frames import Frame, Frames, framed
from segcli.inference.intensity import Crop, Preparation, Resample, Step, beyond, enclosed, foreground, normalise
from segcli.inference.windows import WindowPlan
from segcli.space import sampled
from segcli.space.conformed import within
from segcli.space.corners import zoomed
from segcli.space.grids import Anchor, GridSpec, model_grid
from segcli.space.resample import Interpolation, Sampler, onto
from segcli.space.volume import Grid, Volume
from segcli.structures import Label


@dataclass(frozen=True)
class Procedure:
    """How a model sees a scan and what its answers mean: all that inference knows of a model.

    name           for messages
    channels       names of the image's channels, in order
    labels         what the values of `decide` stand for, background first
    grid           orientation and spacing that the network is shown
    interpolation  onto that grid and back
    steps          of the intensities in order, with the crop and the one resampling at their place
    outside        value of what lies beyond the image, before the steps
    slice_axis     with a 2-D network: the array axis of `grid` along which slices are taken; else None
    slices         neighbouring slices that a 2-D network sees at once as channels
    window         how the image is cut into windows and put together again
    decide         how logits become labels
    earlier        of a cascade's second model: the first one's label values that it sees, a channel each
    earlier_by     how these are resampled, see `cascade.label_channels`
    first          labels (1, D, H, W) of the scan by that first model; without them these channels are 0
    """

    name: str
    channels: tuple[str, ...]
    labels: tuple[Label, ...]
    grid: GridSpec
    interpolation: Interpolation
    steps: tuple[Preparation, ...]
    outside: float
    slice_axis: int | None
    slices: int
    window: WindowPlan
    decide: Decision
    earlier: tuple[int, ...] = ()
    earlier_by: Rule = "largest"
    first: Volume | None = None

    @property
    def inputs(self) -> int:
        """Input channels of the network: the image's, once for each slice that it sees, and a first model's labels."""
        return len(self.channels) * self.slices + len(self.earlier)

    @property
    def by_labels(self) -> bool:
        """Whether finished labels come back to the scan, and not logits."""
        return self.decide.finished or any(isinstance(step, Frame) for step in self.steps)


@dataclass(frozen=True, eq=False)
class Prepared:
    """What the network is shown.

    image    (C, d, h, w) float32, normalised, cropped; then the labels of a cascade's first model
    wanted   the grid before the crop
    outside  (C,) of each channel, the value that lies beyond the image
    frames   where slices were cut, each to a box of its own; None where they were not
    anchor   of the grid, see `GridSpec`
    """

    image: Volume
    wanted: Grid
    outside: NDArray[np.float32]
    seconds: Mapping[str, float]
    frames: Frames | None = None
    anchor: Anchor = "edges"


def prepare(scan: Volume, procedure: Procedure, on: Sampler | None = None) -> Prepared:
    """The scan on the model's grid with the model's intensities: the procedure's steps in their order.

    on   the device that resamples; the host without one
    """
    seconds = {"resample": 0.0, "normalise": 0.0}
    began = time.perf_counter()
    image, outside = scan, beyond(procedure.outside, len(scan.data))
    wanted: Grid | None = None
    before = resampled = scan.grid
    cropped_first = False
    frames: Frames | None = None
    pending: list[Step] = []
    for step in (*procedure.steps, None):
        if step is not None and not isinstance(step, Resample | Crop | Frame):
            pending.append(step)
            continue
        if pending:
            image, outside = normalise(image, pending, outside)
            pending = []
        if isinstance(step, Crop):
            cropped_first |= wanted is None
            image = image.crop(foreground(image, step))
            outside = outside if step.outside is None else beyond(step.outside, len(image.data))
        elif isinstance(step, Frame):
            assert procedure.slice_axis is not None  # a card with this step has one
            image, frames = framed(image, step, procedure.slice_axis)
        elif isinstance(step, Resample):
            start = time.perf_counter()
            before, wanted = image.grid, model_grid(image.grid, procedure.grid)
            resampled = wanted
            image = _resampled(image, wanted, procedure, outside, on)
            if step.whole:
                cut = np.rint if step.whole == "rounded" else np.trunc
                image = Volume(cut(image.data), image.grid, image.source)
            seconds["resample"] += time.perf_counter() - start
    assert wanted is not None  # every procedure has one resampling
    if image.data.dtype != np.float32:
        image = Volume(image.data.astype(np.float32), image.grid, image.source)
    if cropped_first or procedure.grid.anchor == "conformed":
        wanted = _endless(image.grid)
    if frames is not None:
        wanted = image.grid
    if procedure.slice_axis is not None and procedure.slices > 1:
        image = neighbours(image, procedure.slice_axis, procedure.slices)
        outside = np.tile(outside, procedure.slices)
    if procedure.earlier:
        image = _with_labels(image, scan, procedure, before, resampled)
        outside = np.append(outside, np.zeros(len(procedure.earlier), np.float32))
    seconds["normalise"] = time.perf_counter() - began - seconds["resample"]
    return Prepared(image, wanted, outside, seconds, frames, procedure.grid.anchor)


def _resampled(
    image: Volume, wanted: Grid, procedure: Procedure, outside: NDArray[np.float32], on: Sampler | None
) -> Volume:
    """The image on the wanted grid, by the rule that the grid's anchor asks for.

    outside  (C,) of each channel, the value of what a conformed grid has beyond the image
    """
    rule, anchor = procedure.interpolation, procedure.grid.anchor
    if anchor == "corners" and rule.how == "linear":
        return zoomed(image, wanted)
    if anchor in ("monai", "monai_stored") and rule.how == "nearest":
        return sampled.nearest(image, wanted, stored=anchor == "monai_stored")
    if anchor == "conformed":
        return within(image, wanted, rule, outside, on)
    return onto(image, wanted, rule, on)


def _with_labels(image: Volume, scan: Volume, procedure: Procedure, before: Grid, after: Grid) -> Volume:
    """The prepared image with the labels of a cascade's first model behind it.

    before   the grid that the image was resampled from; after: the one that it was resampled to
    """
    if procedure.first is None:
        told = np.zeros((len(procedure.earlier), *image.grid.shape), np.float32)
    else:
        nearest = Interpolation("nearest")
        inside = Volume(enclosed(onto(scan, before, nearest).data)[None], before)
        whole = label_channels(
            procedure.first, procedure.earlier, inside, after, procedure.interpolation, procedure.earlier_by
        )
        told = onto(Volume(whole, after), image.grid, nearest).data
    return Volume(np.concatenate([image.data, told]), image.grid, image.source)


def neighbours(image: Volume, axis: int, count: int) -> Volume:
    """Each slice of an image (C, d, h, w) with those around it as channels: (count * C, d, h, w).

    The slices before come first, then the slice itself; at the ends the last one is repeated.
    """
    n, half = image.grid.shape[axis], count // 2
    seen = [np.clip(np.arange(n) + shift, 0, n - 1) for shift in range(-half, half + 1)]
    return Volume(np.concatenate([image.data.take(at, 1 + axis) for at in seen]), image.grid, image.source)


def _endless(part: Grid) -> Grid:
    """A grid around `part` that no scan reaches the end of: all beyond the part is background."""
    far = 1_000_000
    d, h, w = (slice(-far, n + far) for n in part.shape)
    return part.crop((d, h, w))


def finite(scan: Volume) -> tuple[Volume, NDArray[np.bool_] | None, list[str]]:
    """The scan without NaN and infinity, where one of its channels had them, (D, H, W), and a sentence about them.

    They become the lowest finite value of their channel: air in a CT, nothing in an MR.
    """
    if scan.data.dtype.kind != "f":
        return scan, None, []
    bad = ~np.isfinite(scan.data)
    count = int(bad.sum())
    if count == 0:
        return scan, None, []
    data = scan.data.copy()
    for channel, here in zip(data, bad, strict=True):
        if here.all():
            raise InputError("not one voxel has a finite value", hint="the scan holds only NaN or infinity")
        channel[here] = channel[~here].min()
    sentence = f"{count} of {bad.size} voxels are NaN or infinite; they are labelled background"
    return Volume(data, scan.grid, scan.source), np.logical_or.reduce(bad), [sentence]


def check_channels(scan: Volume, procedure: Procedure) -> None:
    """Refuse a scan with other channels than the model's."""
    have, want = scan.data.shape[0], len(procedure.channels)
    if have != want:
        raise InputError(
            f"the scan has {have} channel{'s' * (have != 1)}, the model {procedure.name} wants {want}: "
            f"{', '.join(procedure.channels)}",
            hint="name them with --channel NAME=FILE",
        )


def at_least(shape: tuple[int, int, int], size: tuple[int, int, int]) -> tuple[int, int, int]:
    """A shape after padding to the window's size."""
    d, h, w = (max(n, s) for n, s in zip(shape, size, strict=True))
    return d, h, w
