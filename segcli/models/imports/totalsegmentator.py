"""What TotalSegmentator does around nnU-Net, in fields of a card.

It turns every scan to RAS. For most tasks it then samples it linearly, the outermost voxel centres staying in place,
and leaves away what is behind the point: nnU-Net, which comes after that, resamples nothing any more. For the others
nnU-Net samples as its plans have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from segcli.documents import Document, Facts

_RAS = "SAR"  # the axes of a scan in RAS as nnU-Net's reader hands it over: z, y, x


def around(fields: Facts, spacing_xyz: Sequence[float], structures: Sequence[str] = ()) -> Document:
    """The fields of an nnU-Net model's card that are other ones where TotalSegmentator runs it.

    fields       as the plans state them; their axes are transposed as the plans have it
    spacing_xyz  mm that the scan is sampled at; empty where that is left to nnU-Net
    structures   what TotalSegmentator calls the labels from 1 on, whatever the model's own list says; the own names
                 stay where it has fewer
    """
    order = [int(axis) for axis in fields.get("transpose", (0, 1, 2))]
    turned: Document = {"orientation": "".join(_RAS[axis] for axis in order), "transpose": [0, 1, 2]}
    if 0 < len(structures) < len(fields.get("labels", ())):
        own = {value: name for name, value in fields["labels"].items()}
        turned["labels"] = {name: value for value, name in {**own, **dict(enumerate(structures, 1))}.items()}
    if not spacing_xyz:
        return turned
    steps: list[Any] = [step for step in fields.get("intensity", ()) if step["step"] != "resample"]
    return {
        **turned,
        "spacing": [float(spacing_xyz[2 - axis]) for axis in order],
        "anchor": "corners",
        "interpolation": "linear",
        "coarse": None,
        "intensity": [{"step": "resample", "whole": True}, *steps],
    }
