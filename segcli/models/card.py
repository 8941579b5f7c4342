"""ModelCard: what a model promises and needs, made of a document whose fields agree with each other.

The same JSON document stands in a folder's model.json and, under the key "segcli", in the metadata of exported ONNX
and safetensors files.
"""

from __future__ import annotations

import colorsys
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from segcli.documents import Facts
from segcli.errors import ModelError
from segcli.inference.cascade import Rule
from segcli.inference.decide import Decision
from segcli.inference.intensity import Preparation
from segcli.inference.prepare import Procedure
from segcli.inference.windows import WindowPlan
from segcli.models import after
from segcli.models.arguments import no_argument
from segcli.models.document import CardDocument, Smooth, read, wrong
from segcli.models.expected import Limits, MadeFor
from segcli.models.preparation import Refuse, preparation
from segcli.models.rough import Rough
from segcli.models.rules import RULES, listed
from segcli.space.grids import GridSpec
from segcli.space.resample import Interpolation
from segcli.structures import Label, named_pairs
from segcli.system import is_plain

CARD_FILE = "model.json"
_IN_DICOM = {"PET": "PT", "MRI": "MR"}  # as scans say their modality
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ +-]*")  # of a model: outputs and folders are named by it


@dataclass(frozen=True)
class Architecture:
    """The network by its module and class (or family), and the constructor's arguments."""

    name: str
    arguments: Facts


@dataclass(frozen=True)
class ModelCard:
    """What a model promises and needs, checked.

    prepare     intensity steps in order, with the crop and the resampling at their place
    outside     value of what lies beyond the image, before the steps that follow the crop
    weights     one file, or one for each fold of an ensemble; names inside `folder`
    engines     those that answer with the ONNX file as it is meant; None for all that read one
    mirror      array axes (of the network's input) that mirrored inference may flip
    slice_axis  with a 2-D network: the array axis of the model's grid along which slices are taken; else None
    slices      neighbouring slices that a 2-D network sees at once as channels, the middle one being labelled
    half        whether half precision keeps the labels: true for float16 and bfloat16, false for neither, "bfloat16"
                for that one alone; None where nobody knows
    average     what is averaged over windows, mirror images and folds: logits, or the softmax of each of them
    after       steps that are done with the labels, in order
    after_at    where: at the scan's voxels, or at the model's where its labels come back as labels
    faithful    how labels come back where they shall be as the model's authors have them; None for as they do anyway
    sums        what windows are added up in where it shall be done as the model's authors do; else it is float32
    ensemble_average  over several models: logits on the first one's grid, or probabilities on the scan's
    volumes_ml  plausible volume of a structure: (low, high); of those in volumes_by_size in a head of middle size
    centroids_mm  where structures usually lie among each other: LPS mm, about any point
    limits      of the checks of a result, as far as they were calibrated for this model
    previous    of a cascade's second model: the first, whose labels it sees as further channels
    previous_by  how these are resampled, see `cascade.label_channels`
    blank       further channels that are 0: where a person's clicks would be (DeepEdit)
    parts       models that this one is made of, in order: each labels the structures that it has in common with this
                card, by their names, and a later one has the last word
    fusion      how their labels are put together: a later part's stand "over" those before it, or all labels lie
                "within" a later part's, which themselves take what was left open
    rough       the model that finds where this one looks; None for everywhere
    """

    name: str
    licence: str
    source: str
    architecture: Architecture
    weights: tuple[str, ...]
    sha256: tuple[str, ...]
    onnx: str | None
    onnx_sha256: str | None
    engines: tuple[str, ...] | None
    channels: tuple[str, ...]
    modality: str | None
    made_for: MadeFor
    grid: GridSpec
    interpolation: Interpolation
    prepare: tuple[Preparation, ...]
    outside: float
    window: WindowPlan
    slice_axis: int | None
    slices: int
    mirror: tuple[int, ...]
    half: bool | Literal["bfloat16"] | None
    average: Literal["logits", "probabilities"]
    ensemble_average: Literal["logits", "probabilities"]
    labels: tuple[Label, ...]
    decide: Decision
    after: tuple[after.AfterStep, ...]
    not_scored: tuple[str, ...]
    after_at: Literal["scan", "model"]
    faithful: Literal["area", "nearest", "values"] | None
    sums: Literal["float32", "float16"]
    volumes_ml: Mapping[str, tuple[float, float]]
    volumes_by_size: tuple[str, ...]
    volumes_source: str
    centroids_mm: Mapping[str, tuple[float, float, float]]
    limits: Limits
    ensemble: tuple[str, ...]
    previous: str | None
    previous_by: Rule
    blank: int
    parts: tuple[str, ...]
    fusion: Literal["over", "within"]
    rough: Rough | None
    folder: Path | None
    document: Facts = field(repr=False)

    @property
    def structures(self) -> tuple[Label, ...]:
        """All labels but the background and those that are dropped from the result."""
        gone = after.dropped(self.after)
        return tuple(label for label in self.labels if label.id != 0 and label.name not in gone)

    @property
    def inputs(self) -> int:
        """Input channels of the network: the image's, once for each slice that it sees."""
        return self.procedure.inputs

    @property
    def procedure(self) -> Procedure:
        """What inference knows of the model."""
        return Procedure(
            name=self.name,
            channels=self.channels,
            labels=self.labels,
            grid=self.grid,
            interpolation=self.interpolation,
            steps=self.prepare,
            outside=self.outside,
            slice_axis=self.slice_axis,
            slices=self.slices,
            window=self.window,
            decide=self.decide,
            earlier_by=self.previous_by,
            earlier=tuple(sorted(x.id for x in self.labels if x.id != 0))
            if self.previous
            else tuple(range(self.blank)),
        )

    def file(self, name: str) -> Path:
        """A part of the model: a plain name inside its folder, which is closed.

        errors   ModelError for absolute paths, `..`, links that lead out, or a missing file
        """
        if self.folder is None:
            raise ModelError(f"{self.name}: a model without a folder has no file {name!r}")
        return part(self.folder, name)


def part(folder: Path, name: str) -> Path:
    """The path of a plain name inside a model folder, refused if it leads elsewhere."""
    if not is_plain(name):
        raise ModelError(f"{folder.name}: {name!r} leads outside the model's folder: not allowed")
    path = folder / name
    try:
        linked, there = path.is_symlink(), path.is_file()
    except OSError as error:  # a name that no file can have
        raise ModelError(f"{folder.name}: {name[:60]!r} cannot be a file: {error.strerror}") from error
    if linked and path.resolve().parent not in (folder.resolve(), _blobs(folder.resolve())):
        raise ModelError(f"{folder.name}: {name!r} is a link that leads outside the model's folder: not allowed")
    if not there:
        raise ModelError(f"{folder.name}: {name} not found in the model's folder", hint="the model lacks this file")
    return path


def _blobs(folder: Path) -> Path | None:
    """Where the files lie that a folder links to in Hugging Face's cache: models--.../snapshots/REVISION/."""
    snapshots = folder.parent
    return snapshots.parent / "blobs" if snapshots.name == "snapshots" else None


# ---- from a document to a card -----------------------------------------------------------------------------------


def parse(document: Any, folder: Path | None = None) -> ModelCard:
    """The card of a document, checked field by field and the fields against each other.

    errors   ModelError that names the field, its value and what it should be; unknown fields with the nearest known
    """
    where = f"{folder.name}/{CARD_FILE}" if folder else CARD_FILE
    given = read(document, where)
    refuse = partial(wrong, document, where)
    for key, broken, what in RULES:
        if broken(given):
            raise refuse(key, what)
    weights, sums, onnx, onnx_sum = _files(given)
    return ModelCard(
        name=given.name,
        licence=given.licence,
        source=given.source,
        architecture=_architecture(document, refuse),
        weights=weights,
        sha256=sums,
        onnx=onnx,
        onnx_sha256=onnx_sum,
        engines=given.engines,
        channels=given.channels,
        modality=_IN_DICOM.get(given.modality or "", given.modality) or ("CT" if given.channels == ("CT",) else None),
        made_for=given.made_for or MadeFor(),
        grid=GridSpec(given.orientation, given.spacing, given.anchor, given.transpose, given.shape),
        interpolation=_interpolation(given),
        prepare=preparation(given, refuse),
        outside=given.outside or 0.0,
        window=_windows(given),
        slice_axis=given.slice_axis,
        slices=given.slices or 1,
        mirror=given.mirror,
        half=given.half,
        average=given.average,
        ensemble_average=given.ensemble_average,
        labels=_labels(given, refuse),
        decide=_decision(given),
        after=after.named_steps(given.after, given.labels, partial(refuse, "after")),
        not_scored=given.not_scored,
        after_at=given.after_at,
        faithful=given.faithful or ("nearest" if given.anchor == "corners" else None),
        sums=given.sums,
        volumes_ml=given.volumes_ml or {},
        volumes_by_size=given.volumes_by_size,
        volumes_source=given.volumes_source,
        centroids_mm=given.centroids_mm or {},
        limits=given.checks or Limits(),
        ensemble=given.ensemble,
        previous=given.previous,
        previous_by=given.previous_by,
        blank=given.blank,
        parts=given.parts,
        fusion=given.fusion,
        rough=given.rough,
        folder=folder,
        document=document,
    )


def _architecture(document: Facts, refuse: Refuse) -> Architecture:
    """The network and the arguments of its constructor, as they stand in the document."""
    arguments = dict(document["architecture"])
    network = Architecture(arguments.pop("name"), arguments)
    if (said := no_argument(network.arguments)) is not None:
        raise refuse("architecture", said)
    return network


def _interpolation(given: CardDocument) -> Interpolation:
    smooth, edges = given.smooth or Smooth(), given.spacing if given.anchor == "edges" else None
    return Interpolation(given.interpolation, smooth.sigma, smooth.finer, given.coarse or None, edges)


def _decision(given: CardDocument) -> Decision:
    """How the outputs become labels: the largest wins, or each region overwrites the ones before."""
    return Decision(
        values=tuple(given.labels.values()) if given.regions is None else given.regions,
        rule="argmax" if given.regions is None else "regions",
        back=given.back,
        are_probabilities=given.average == "probabilities",
    )


def _files(card: CardDocument) -> tuple[tuple[str, ...], tuple[str, ...], str | None, str | None]:
    """Names and sums of the weights, and of the ONNX file: a model may be an ONNX file and nothing else."""
    weights, sums = listed(card.weights), tuple(total.lower() for total in listed(card.sha256))
    if len(weights) == 1 and weights[0].endswith(".onnx"):
        return (), (), weights[0], sums[0] if sums else None
    return weights, sums, card.onnx, card.onnx_sha256.lower() if card.onnx_sha256 else None


def _windows(card: CardDocument) -> WindowPlan:
    def number(value: float | None, default: float) -> float:
        return default if value is None else value

    return WindowPlan(
        size=card.patch_size,
        overlap=number(card.overlap, 0.5),
        blend=card.blend,
        sigma=number(card.sigma, 0.125),
        centre=card.centre,
        floor=number(card.floor, 1e-3),
        stride=card.steps,
        padding=card.padding,
        skip=card.skip,
        whole=card.whole,
    )


def _labels(card: CardDocument, refuse: Refuse) -> tuple[Label, ...]:
    """Labels in channel order, background first."""
    _apart(card.labels, refuse)
    for key in ("codes", "colours", "not_scored", "volumes_ml", "volumes_by_size", "centroids_mm"):
        if extra := set(getattr(card, key) or ()) - card.labels.keys():
            raise refuse(key, f"names {min(extra)!r}, which is not among the labels")
    for name, (low, high) in (card.volumes_ml or {}).items():
        if low >= high:
            raise refuse("volumes_ml", f"gives {name!r} the range {low:g} to {high:g}: the first is not below")
    pairs = _pairs(card, refuse)
    codes, colours = card.codes or {}, card.colours or {}
    return tuple(Label(v, n, codes.get(n), _colour(colours.get(n), v), pairs.get(n)) for n, v in card.labels.items())


def _apart(labels: Mapping[str, int], refuse: Refuse) -> None:
    """Refuse labels that one cannot tell apart: by value, by name as it is read, by a name that is another's value."""
    values: dict[int, str] = {}
    names: dict[str, str] = {}
    for name, value in labels.items():
        if value in values:
            raise refuse("labels", f"gives the value {value} to {values[value]} and {name}")
        values[value] = name
        read_as = unicodedata.normalize("NFC", name)
        if read_as in names:
            raise refuse("labels", f"has {name!r} twice, written with other characters")
        names[read_as] = name
    for name, value in labels.items():
        if re.fullmatch("[0-9]+", name) and int(name) in values and int(name) != value:
            other = values[int(name)]
            raise refuse("labels", f"calls the label {value} {name!r}, which is the number of {other!r}")


def _pairs(card: CardDocument, refuse: Refuse) -> dict[str, str]:
    """The other side of each label that has one; from the names where the card says nothing and has an orientation."""
    pairs: dict[str, str] = {}
    given = card.pairs
    if given is None:
        given = tuple(named_pairs(list(card.labels))) if card.orientation is not None else ()
    for left, right in given:
        if left == right or not {left, right} <= card.labels.keys() or 0 in (card.labels[left], card.labels[right]):
            raise refuse("pairs", f"holds {[left, right]!r}, which is not two names of labels")
        for own, other in ((left, right), (right, left)):
            if pairs.setdefault(own, other) != other:
                raise refuse("pairs", f"gives {own!r} two partners, {pairs[own]!r} and {other!r}")
    return pairs


def _colour(text: str | None, value: int) -> tuple[int, int, int]:
    """The card's colour, else one of a fixed wheel: neighbours in number differ by the golden angle in hue."""
    if text is not None:
        return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)
    if value == 0:
        return (0, 0, 0)
    r, g, b = colorsys.hsv_to_rgb(value * 0.61803398875 % 1, 0.65, 0.6 + 0.35 * (value % 3) / 2)
    return round(r * 255), round(g * 255), round(b * 255)
