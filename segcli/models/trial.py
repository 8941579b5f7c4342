"""The image that a graph is tried with before its model gets a name: numbers as a scan's are once they are prepared."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from segcli.inference.intensity import Clip, Histogram, Percentiles, Scale, Standardise
from segcli.models.card import ModelCard

_STORED = {"CT": (-1024.0, 3071.0)}  # numbers of a scan as it is stored, in HU; of others mostly these:
_OTHERS = (0.0, 1000.0)
_OF_VALUES = Clip | Scale | Percentiles | Histogram | Standardise


def window(card: ModelCard) -> NDArray[np.float32]:
    """A window in whose channels the values of a scan lie evenly, through the card's own steps: (1, C, d, h, w).

    A network that answers numbers below 0 with NaN can be right for a card that shows it none, and one that answers
    small numbers alone is of no use where it is shown others. A first model's labels, and clicks, are 0 and 1.
    """
    voxels = math.prod(card.window.size)
    stored = np.linspace(*_STORED.get(card.modality or "", _OTHERS), voxels, dtype=np.float32)
    image = np.tile(stored, (len(card.channels), 1))

    def inside() -> NDArray[np.bool_]:
        return np.ones(voxels, bool)

    for step in card.prepare:
        if isinstance(step, _OF_VALUES):
            for channel in range(len(image)) if step.channels is None else step.channels:
                image[channel] = step.fit(image[channel], inside)(image[channel])
    rest = card.inputs - len(image) * card.slices
    labels = np.arange(voxels, dtype=np.float32) % 2
    shown = np.concatenate([np.tile(image, (card.slices, 1)), np.tile(labels, (rest, 1))])
    return shown.reshape(1, card.inputs, *card.window.size)
