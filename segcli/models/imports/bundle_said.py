"""What is gathered from a MONAI bundle's configuration, entry by entry, and how its entries are called."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from segcli.documents import Content, Document, Facts
from segcli.models.checkpoint import Tensors

if TYPE_CHECKING:
    from segcli.models.imports.recognise import Recognised

LITTLE = (  # transforms that change neither voxels nor places in a way that matters here
    "LoadImage",
    "EnsureChannelFirst",
    "AddChannel",
    "AsChannelFirst",
    "EnsureType",
    "ToTensor",
    "CastToType",
    "Identity",
    "ToDevice",
    "SelectItems",
    "DeleteItems",
    "CopyItems",
    "ToNumpy",
    "FromMetaTensor",
    "ToMetaTensor",
    "DataStats",
    "SimulateDelay",
    "OrientationGuidanceMultipleLabelDeepEdit",  # these three move a person's clicks, and there are none
    "AddGuidanceFromPointsDeepEdit",
    "ResizeGuidanceMultipleLabelDeepEdit",
)
_LABEL = "label"  # monai.utils.CommonKeys.LABEL
PADS = ("SpatialPad", "DivisiblePad", "BorderPad")


@dataclass
class Said:
    """What is gathered from a configuration, entry by entry (see `Stated`)."""

    network: Recognised
    card: Document
    notes: list[str] = field(default_factory=list)
    lacks: dict[str, str] = field(default_factory=dict)
    replaced: Tensors = field(default_factory=dict)

    def lack(self, kind: str, sentence: str) -> None:
        """Say why the intensity steps are not known, and the field of the transform itself where it has one."""
        for name in {"intensity", kind} & {"intensity", "orientation", "spacing"}:
            self.lacks[name] = "; ".join(filter(None, [self.lacks.get(name), sentence]))


def kind_of(item: Content) -> str:
    """A component's class without its package and without the "d" of dictionary transforms."""
    target = item.get("_target_", item.get("name", "")) if isinstance(item, dict) else ""
    name = str(target).rpartition(".")[2]
    name = re.sub("(Dict|D)$", "d", name)
    return name if name in PADS else name.removesuffix("d")  # SpatialPad ends with a "d" of its own


def listed(value: Content) -> list[Content]:
    return value if isinstance(value, list) else [value]


def images(item: Facts) -> list[Content]:
    """What a transform is done with, but for the label, which is there in evaluation alone; [None] where it is open."""
    return [key for key in listed(item.get("keys")) if key != _LABEL]


def of_image(item: Facts, option: str, usual: Content) -> Content:
    """An option for the first image where a transform has one for each of its keys."""
    values, keys = listed(item.get(option, usual)), listed(item.get("keys"))
    return values[keys.index(images(item)[0])] if len(values) == len(keys) and images(item) else values[0]
