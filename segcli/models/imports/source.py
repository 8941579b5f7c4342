"""What a reader finds at a path: tensors and statements, nothing decided yet; and how statements are read."""

from __future__ import annotations

import itertools
import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from segcli.documents import Content, Document, Facts
from segcli.errors import ModelError
from segcli.formats.streams import bytes_of
from segcli.models.checkpoint import Tensors
from segcli.models.imports.graph import Ends

if TYPE_CHECKING:
    from segcli.models.imports.recognise import Recognised
    from segcli.networks.registry import Inferred

# Facts that no tensor tells: the card's field, and the options that give it.
NEEDED = {
    "channels": "--channels CT",
    "orientation": '--orientation RAS, or for the order of the file "file" (nnU-Net\'s) or "ijk" (MONAI\'s)',
    "spacing": '--spacing 1.5,1.5,2.0 in mm, or "keep"',
    "intensity": "--window LOW,HIGH (to 0..1), --normalise zscore, nonzero, none or LOW,HIGH,MEAN,SD, or --recipe NAME",
    "patch_size": "--patch 96,96,96",
    "labels": "--labels background,liver,spleen in the order of the network's outputs",
}


@dataclass(frozen=True)
class WhichModel:
    """Which of several models at a path is wanted; None where the user leaves it open.

    table          the key of a table of tensors, in a checkpoint with several networks
    configuration  of nnU-Net ("3d_fullres"), as its folders are called, and likewise the next two
    trainer        "nnUNetTrainer"
    plans          "nnUNetPlans"
    folds          of nnU-Net, "0" to "4" or "all"; empty for all that are there
    config         the file in a MONAI bundle's configs/, "inference_segresnet"
    """

    table: str | None = None
    configuration: str | None = None
    trainer: str | None = None
    plans: str | None = None
    folds: tuple[str, ...] = ()
    config: str | None = None

    @property
    def of_nnunet(self) -> dict[str, str]:
        """What is wanted of nnU-Net's folders, by option."""
        named = {"--configuration": self.configuration, "--trainer": self.trainer, "--plans": self.plans}
        return {option: value for option, value in named.items() if value is not None}


@dataclass(frozen=True)
class Named:
    """The network that a container names.

    kind     as refusals call it: "the bundle's UNet"
    network  as it is built here
    """

    kind: str
    network: Inferred


@dataclass(frozen=True)
class Stated:
    """What a container states of a card.

    fields    of the card, as far as they are stated
    notes     what was dropped, taken or not understood, a sentence each
    lacks     fields that are stated in a way that segcli has no equal of: name -> the sentence that says so
    replaced  tensors of the first fold in another form than the file's
    """

    fields: Facts
    notes: Sequence[str] = ()
    lacks: Mapping[str, str] = field(default_factory=dict)
    replaced: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelSource:
    """What a reader found.

    container  in words, for the user
    where      how refusals call the tensors
    folds      the tensors of each fold under the file's own names; empty for a graph
    states     what the container states of a card whose network is the recognised one
    named      the network that the container names; None where its tensors alone tell
    layers     arguments of that network which the container states and no tensor tells
    size       the windows of its training, for a network that is built for one size
    notes      what was not understood while it was read, a sentence each
    onnx       the graph's file, where there are no tensors
    ends       what a graph without a card inside states of them
    previous   of a cascade's second model: the folder of the first
    alone      whether the tensors are those of a network and of nothing else, as its program writes them
    """

    container: str
    where: str
    folds: Sequence[Tensors]
    states: Callable[[Recognised], Stated]
    named: Named | None = None
    layers: Facts = field(default_factory=dict)
    size: Sequence[int] | None = None
    notes: Sequence[str] = ()
    onnx: Path | None = None
    ends: Ends | None = None
    previous: Path | None = None
    alone: bool = False


def object_of(path: Path, kind: str = "JSON", parse: Callable[[bytes], Content] = json.loads) -> Document:
    """The object with named fields that a file holds.

    errors   Denied; ModelError: it cannot be read, or is not of its kind, or holds something else
    """
    try:
        found = parse(bytes_of(path, ModelError))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path.name}: cannot be read as {kind}: {error}") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path.name}: is not a {kind} object")
    return found


def slug(text: str) -> str:
    """A name in ASCII snake_case."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_") or "unnamed"


# Signs that tell two names apart which are alike without them: "tumour+" and "tumour-".
_SIGNS = {"+": "plus", "<": "below", ">": "above", "=": "equal", "&": "and", "%": "percent", "*": "star", "#": "number"}


def label_names(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names of labels in snake_case, letters of any script kept, no two alike; a sentence about those that changed."""
    plain = [_snake(name) for name in names]
    alike = {name for name in plain if plain.count(name) > 1}
    spelt = [_snake(_spelt(name)) if snake in alike else snake for name, snake in zip(names, plain, strict=True)]
    out: list[str] = []
    for name in spelt:
        numbered = (f"{name}_{count}" for count in itertools.count(2))
        out.append(name if name not in out else next(other for other in numbered if other not in {*out, *spelt}))
    changed = [f"{old!r} {new}" for old, new in zip(names, out, strict=True) if old != new]
    return out, [f"labels are called in another way: {', '.join(changed)}"] if changed else []


def _snake(name: str) -> str:
    """Letters, digits and their accents, small, with one "_" in place of what lies between them."""
    kept = (c if unicodedata.category(c)[0] in "LMN" else "_" for c in unicodedata.normalize("NFKC", name).lower())
    return re.sub("_+", "_", "".join(kept)).strip("_") or "unnamed"


def _spelt(name: str) -> str:
    """A name with its signs as words; a "-" at its end is a minus, between words it joins them."""
    name = re.sub(r"[-\u2212]$", " minus", name.strip())
    return "".join(f" {_SIGNS[c]} " if c in _SIGNS else c for c in name)
