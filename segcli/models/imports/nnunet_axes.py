"""Where the axes of the arrays point that nnU-Net is given: its readers, and programs around it, may turn scans."""

from __future__ import annotations

from collections.abc import Sequence

from segcli.documents import Document, Facts
from segcli.space.volume import AXES_CODES

# Axes codes of the arrays that each reader hands over, in array order; None is the file's own order.
READERS = {
    "SimpleITKIO": None,
    "NibabelIO": None,
    "SimpleITKIOWithReorient": "SAR",
    "NibabelIOWithReorient": "SAR",
}


def oriented(dataset: Facts, transpose: Sequence[int], notes: list[str]) -> Document:
    """Field `orientation` where dataset.json says where a scan's i, j, k point once its program has turned it.

    TotalVibeSegmentator's does so; nnU-Net alone does not read that.
    """
    stated = dataset.get("orientation")
    axes = "".join(map(str, stated)) if isinstance(stated, str | list) else ""
    if axes not in AXES_CODES:
        return {}
    notes.append(f"scans are turned to {axes}, the orientation that dataset.json states")
    return turned(axes[::-1], transpose)


def turned(axes: str | None, transpose: Sequence[int]) -> Document:
    """Fields `orientation` and `transpose`; the axes code of a reader that turns scans says the order after both."""
    if axes is None:
        return {"orientation": None}
    return {"orientation": "".join(axes[a] for a in transpose), "transpose": [0, 1, 2]}
