"""What is gathered from a MONAI bundle's configuration, entry by entry, and how its entries are called."""

from __future__ import annotations

import re
from collections.abc import Sequence
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
CONCATENATIONS = ("ConcatItems", "ConcatImages")
_IMAGE, _LABEL = "image", "label"  # monai.utils.CommonKeys
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


def alike(item: Facts, option: str) -> bool:
    """Whether an option is the same for all images that a transform is done with."""
    values, keys = listed(item.get(option)), listed(item.get("keys"))
    if len(values) != len(keys):
        return len(values) == 1
    return len({str(value) for value, key in zip(values, keys, strict=True) if key in images(item)}) <= 1


def touched(items: Sequence[Facts]) -> tuple[list[frozenset[int] | None], int]:
    """Which of the images that are put together for the network each transform is done with, by their places.

    Read from the last transform to the first: before images are put together each has a place of its own, and what is
    done with an image before it is copied is done with the copy too. What is done with other images is done with none.

    returns  None for a transform of the network's whole image; and how many images are put together, 1 where none are
    """
    named = [[key for key in images(item) if isinstance(key, str)] for item in items]
    made = [str(item.get("name", _IMAGE)) for item in items if kind_of(item) in CONCATENATIONS]
    if not made and not any(_IMAGE in keys for keys in named):  # the one image has another name
        return [None if images(item) else frozenset() for item in items], 1
    shown = _IMAGE if _IMAGE in made or not made else made[-1]
    places: dict[str, frozenset[int]] = {shown: frozenset({0})}
    count, whole = 1, True
    found: list[frozenset[int] | None] = []
    for item, keys in zip(reversed(items), reversed(named), strict=True):
        if kind_of(item) == "CopyItems" and keys:
            for place, copy in enumerate(listed(item.get("names"))):
                original = keys[place % len(keys)]
                places[original] = places.get(original, frozenset()) | places.pop(str(copy), frozenset())
        open_keys = not keys and bool(images(item))
        at = frozenset().union(*(seen for key, seen in places.items() if key in keys or open_keys))
        if kind_of(item) in CONCATENATIONS and whole and str(item.get("name", _IMAGE)) == shown:
            parts = listed(item.get("keys_merge", item.get("keys")))
            count, places = len(parts), {str(key): frozenset({place}) for place, key in enumerate(parts)}
            found.append(None)
            whole = False
        else:
            found.append(None if whole and at else at)
    return found[::-1], count
