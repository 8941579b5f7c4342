"""What the checks of structures look at: a label map, its structures as they were measured, and the model's card."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from segcli.formats.stated import Stated
from segcli.models.card import ModelCard
from segcli.results.measure import Structure, Tally
from segcli.results.ranges import Ranges, usual
from segcli.space.volume import Volume
from segcli.structures import Label, side_of

WRONG_SIDE_MM = 2.0  # a left structure may lie this far to the right of its right one
DIFFUSE = {"csf", "fluid", "fat", "tissue"}  # whose edges nobody is sure of
# Whose pieces lie about by nature.
PIECES = {"csf", "fluid", "vessel", "vessels", "ventricle", "lesion", "lesions", "bowel", "colon", "rib", "ribs"}


@dataclass(frozen=True, eq=False)
class Scene:
    """A label map under examination.

    by_id         each structure by its label; counted: the same as `tallied` counts it
    image         the scan on the grid of the labels, (C, D, H, W), where it is there; said: of it, beside its voxels
    confidence    mean softmax margin of each label value, 0..1
    disagreement  share of an ensemble's members that decide otherwise, mean over each label value's voxels, 0..1
    foreign       whether the scan is of another modality than the model's, and its brightness says nothing
    """

    labels: Volume
    structures: Sequence[Label]
    by_id: Mapping[int, Structure]
    counted: Mapping[int, Tally]
    card: ModelCard
    image: Volume | None = None
    said: Stated = field(default_factory=Stated)
    confidence: Mapping[int, float] = field(default_factory=dict)
    disagreement: Mapping[int, float] = field(default_factory=dict)
    foreign: bool = False

    @cached_property
    def usual(self) -> Ranges:
        """The usual volumes at the size of what the map shows."""
        return usual(self.card, self.by_id.values())

    def __getitem__(self, name: str) -> Structure | None:
        """A structure that is there, else None."""
        return next((s for s in self.by_id.values() if s.name == name and s.voxels), None)

    def pairs(self) -> list[tuple[str, str]]:
        """Names (left, right) of the pairs whose both structures are looked for."""
        names = {x.name for x in self.structures}
        return [(x.name, x.pair) for x in self.structures if x.pair in names and side_of(x.name) == "left"]


def x_of(s: Structure) -> float:
    return s.centroid_mm[0] if s.centroid_mm else math.nan


def midplane(scene: Scene) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """A point, LPS mm, and the unit vector to the left of the plane between the pairs; None with fewer than two."""
    both = [
        (np.array(a.centroid_mm), np.array(b.centroid_mm))
        for left, right in scene.pairs()
        if (a := scene[left]) and (b := scene[right]) and x_of(a) > x_of(b)
    ]
    if len(both) < 2:
        return None
    towards = np.median([a - b for a, b in both], axis=0)
    return np.median([(a + b) / 2 for a, b in both], axis=0), towards / np.linalg.norm(towards)
