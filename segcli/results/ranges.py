"""The usual range of each structure's volume in a card, at the size of the head or body that a label map shows.

One range is tested, printed and drawn: every number here has the three digits that people are shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from segcli.models.card import ModelCard
from segcli.results.measure import Structure

# Times beyond its range up to which a volume is told, but no doubt. Of each of 20 adult heads against the 19 others 46
# of 620 volumes are outside and 4 beyond this; of 7 real heads 30 of 217 and 2.
NEAR = 1.3
TELLING = 5  # structures that tell the size together, at least


@dataclass(frozen=True)
class Ranges:
    """What is usual here.

    size  how many times the usual volumes the structures have together; None where too few are there
    ml    structure -> least and greatest usual volume
    """

    size: float | None
    ml: Mapping[str, tuple[float, float]]


def usual(card: ModelCard, structures: Iterable[Structure]) -> Ranges:
    """The ranges of a card for structures that were measured, of those in `volumes_by_size` times the size.

    The size is the median over the structures of volume over the middle of its range: one that is missing or far too
    large does not draw it. Where it is not known, such a structure may have any size that the card allows (`scale`).
    """
    telling = card.volumes_by_size or tuple(card.volumes_ml)
    times = []
    for s in structures:
        low, high = card.volumes_ml.get(s.name, (0.0, 0.0))
        if s.name in telling and s.voxels and not s.truncated and 0 < low < high:
            times.append(s.volume_ml / math.sqrt(low * high))
    size = float(np.median(times)) if len(times) >= TELLING else None
    any_size = card.limits.scale or 1.0
    least, most = (size, size) if size else (1 / any_size, any_size)
    grows = set(card.volumes_by_size)
    return Ranges(
        size,
        {
            name: (_short(low * least), _short(high * most)) if name in grows else (_short(low), _short(high))
            for name, (low, high) in card.volumes_ml.items()
        },
    )


def _short(ml: float) -> float:
    return float(f"{ml:.3g}")
