"""Files that hold several images on one grid: they are the channels of one scan, or one of them is chosen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segcli.errors import InputError, UsageError
from segcli.space.volume import Voxels


@dataclass(frozen=True)
class Held:
    """The images that a file holds on one grid.

    count   how many
    said    what the file is, as a sentence says it: "a 4-D image with 3 volumes"
    series  whether each is a volume by itself (a time point, an echo), and not a part of each voxel's value
    """

    count: int
    said: str
    series: bool


def taken(name: str, held: Held, channels: int, volume: int | None) -> slice:
    """Which of the images are read: as many as the model has channels, or the one volume that was asked for.

    name      the file, as sentences call it
    channels  how many the model wants
    volume    1, 2, ...: as of a DICOM series; means nothing where there is but one image
    errors    InputError: other numbers, or no such volume; UsageError: a volume for a model of several channels
    """
    if held.count == 1 or (volume is None and held.count == channels):
        return slice(held.count)
    if volume is None:
        choose = held.series and channels == 1
        raise InputError(
            f"{name}: {held.said}, where one 3-D image is expected"
            + (f" or {channels} channels" if channels > 1 else ""),
            hint=f"`predict --volume N` takes one of them, N from 1 to {held.count}"
            if choose
            else "take one of them out first",
        )
    if not held.series:
        raise InputError(
            f"{name}: {held.said}, which are not known to be volumes of a series: --volume chooses none of them",
            hint="take one of them out first",
        )
    if channels > 1:
        raise UsageError(
            f"{name}: {held.said}, of which --volume {volume} is one, and the model wants {channels} channels",
            hint="leave --volume away: it is for models of one channel",
        )
    if not 1 <= volume <= held.count:
        raise InputError(f"{name}: there is no volume {volume}, only 1 to {held.count}")
    return slice(volume - 1, volume)


def only(data: Voxels, chosen: slice) -> Voxels:
    """The chosen ones of the images along the first axis, contiguous; the memory of the others is free then."""
    kept = data[chosen]
    return np.ascontiguousarray(kept) if len(kept) == len(data) else kept.copy()
