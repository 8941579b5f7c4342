"""ModelCard: what a model promises and needs; and finding one by name or path.

The same JSON document stands in a folder's model.json and, under the key "segcli", in the metadata of exported ONNX
and safetensors files.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path, PurePath
from typing import Any, Literal, cast

from segcli.errors import ModelError, near
from segcli.inference.decide import Decision
from segcli.inference.intensity import Clip, Crop, Outside, Percentiles, Preparation, Resample, Scale, Standardise
from segcli.inference.prepare import Procedure
from segcli.inference.windows import WindowPlan
from segcli.space.grids import Anchor, GridSpec, Spacing
from segcli.space.resample import How, Interpolation
from segcli.space.volume import AXES_CODES
from segcli.structures import Label, named_pairs

FORMAT = 1
CARD_FILE = "model.json"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ +-]*")  # of a model: outputs and folders are named by it
_KEYS = {
    "format", "name", "licence", "source", "architecture", "weights", "sha256", "onnx", "onnx_sha256", "channels",
    "modality", "orientation", "transpose", "spacing", "anchor", "interpolation", "smooth", "coarse", "intensity",
    "crop", "outside", "patch_size", "overlap", "blend", "sigma", "centre", "floor", "steps", "padding", "skip",
    "slice_axis", "slices", "mirror", "half", "average", "back", "labels", "regions", "codes", "colours", "pairs",
    "volumes_ml", "volumes_source", "centroids_mm", "ensemble", "notes",
}  # fmt: skip
_NEEDED = {"format", "name", "architecture", "channels", "labels", "patch_size"}


@dataclass(frozen=True)
class Architecture:
    """The network by its module and class (or family), and the constructor's arguments."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class ModelCard:
    """What a model promises and needs, checked.

    prepare     intensity steps in order, with the crop and the resampling at their place
    outside     value of what lies beyond the image, before the steps that follow the crop
    weights     one file, or one for each fold of an ensemble; names inside `folder`
    mirror      array axes (of the network's input) that mirrored inference may flip
    slice_axis  with a 2-D network: the array axis of the model's grid along which slices are taken; else None
    slices      neighbouring slices that a 2-D network sees at once as channels, the middle one being labelled
    half        whether float16 is known to keep the labels
    average     what is averaged over windows, mirror images and folds: logits, or the softmax of each of them
    volumes_ml  plausible volume of a structure: (low, high)
    centroids_mm  where structures usually lie among each other: LPS mm, about any point
    """

    name: str
    licence: str
    source: str
    architecture: Architecture
    weights: tuple[str, ...]
    sha256: tuple[str, ...]
    onnx: str | None
    onnx_sha256: str | None
    channels: tuple[str, ...]
    modality: str | None
    grid: GridSpec
    interpolation: Interpolation
    prepare: tuple[Preparation, ...]
    outside: float
    window: WindowPlan
    slice_axis: int | None
    slices: int
    mirror: tuple[int, ...]
    half: bool
    average: Literal["logits", "probabilities"]
    labels: tuple[Label, ...]
    decide: Decision
    volumes_ml: Mapping[str, tuple[float, float]]
    volumes_source: str
    centroids_mm: Mapping[str, tuple[float, float, float]]
    ensemble: tuple[str, ...]
    folder: Path | None
    document: Mapping[str, Any] = field(repr=False)

    @property
    def structures(self) -> tuple[Label, ...]:
        """All labels but the background."""
        return tuple(label for label in self.labels if label.id != 0)

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
        )

    def file(self, name: str) -> Path:
        """A part of the model: a plain name inside its folder (reliability.md 5.2).

        errors   ModelError for absolute paths, `..`, links that lead out, or a missing file
        """
        if self.folder is None:
            raise ModelError(f"{self.name}: a model without a folder has no file {name!r}")
        return part(self.folder, name)


def part(folder: Path, name: str) -> Path:
    """The path of a plain name inside a model folder, refused if it leads elsewhere."""
    if PurePath(name).name != name or name in ("", ".", ".."):
        raise ModelError(f"{folder.name}: {name!r} leads outside the model's folder: not allowed")
    path = folder / name
    try:
        linked, there = path.is_symlink(), path.is_file()
    except OSError as error:  # a name that no file can have
        raise ModelError(f"{folder.name}: {name[:60]!r} cannot be a file: {error.strerror}") from error
    if linked and path.resolve().parent != folder.resolve():
        raise ModelError(f"{folder.name}: {name!r} is a link that leads outside the model's folder: not allowed")
    if not there:
        raise ModelError(f"{folder.name}: {name} not found in the model's folder", hint="the model lacks this file")
    return path


# ---- finding a model --------------------------------------------------------------------------------------------


# ---- checking a card --------------------------------------------------------------------------------------------


def parse(document: Any, folder: Path | None = None) -> ModelCard:
    """Check a card's document field by field.

    errors   ModelError that names the field, its value and what it should be; unknown fields with the nearest known
    """
    where = f"{folder.name}/{CARD_FILE}" if folder else CARD_FILE
    if not isinstance(document, dict):
        raise ModelError(f"{where}: a card is a JSON object with fields, not {type(document).__name__}")
    read = _Reader(where, document)
    read.known(_KEYS)
    for key in sorted(_NEEDED - document.keys()):
        raise read.wrong(key, "is missing")
    if document["format"] != FORMAT:
        raise read.wrong("format", f"is not {FORMAT}, the only one this version of segcli knows")

    weights = document.get("weights", [])
    weights = [weights] if isinstance(weights, str) else weights
    sums = document.get("sha256") or []
    sums = [sums] if isinstance(sums, str) else sums
    if not _texts(weights) or not _texts(sums) or (sums and len(sums) != len(weights)):
        raise read.wrong("weights", "and sha256 are a file name and its sum, or lists of equal length")
    onnx, onnx_sum = read.optional("onnx", str), read.optional("onnx_sha256", str)
    if len(weights) == 1 and weights[0].endswith(".onnx"):  # a model that is an ONNX file and nothing else
        onnx, onnx_sum, weights, sums = weights[0], (sums or [None])[0], [], []
    labels, decision = _labels(read)
    patch = _patch(read)
    slice_axis = read.optional("slice_axis", int)
    if slice_axis is not None and (slice_axis not in (0, 1, 2) or patch[slice_axis] != 1):
        raise read.wrong("slice_axis", "is 0, 1 or 2, and patch_size is 1 there")
    slices = read.optional("slices", int)
    slices = 1 if slices is None else slices
    if slices < 1 or slices % 2 == 0 or (slices > 1 and slice_axis is None):
        raise read.wrong("slices", "is an odd number, above 1 only with a slice_axis")
    overlap = read.number("overlap", 0.5)
    if not 0 <= overlap < 1:
        raise read.wrong("overlap", "is at least 0 and below 1")
    spacing = _spacing(read)
    axes = document.get("orientation")
    if axes is not None and axes not in AXES_CODES:
        raise read.wrong("orientation", 'is null or an axes code such as "RAS"')
    transpose = document.get("transpose", [0, 1, 2])
    if not _wholes(transpose) or sorted(transpose) != [0, 1, 2]:
        raise read.wrong("transpose", "is an order of 0, 1, 2")
    mirror = document.get("mirror", [])
    if not _wholes(mirror) or not set(mirror) <= {0, 1, 2}:
        raise read.wrong("mirror", "lists array axes 0, 1, 2")
    smooth = document.get("smooth") or {}
    if (
        not isinstance(smooth, dict)
        or not smooth.keys() <= {"sigma", "finer"}
        or not all(map(_finite, smooth.values()))
    ):
        raise read.wrong("smooth", 'is {"sigma": voxels of the model\'s grid, "finer": ratio}')
    how = cast("How", read.choice("interpolation", ("linear", "cubic", "nearest"), "linear"))
    blend = read.choice("blend", ("gaussian", "constant"), "gaussian")
    steps = read.choice("steps", ("regular", "even"), "regular")
    centre = read.choice("centre", ("middle", "voxel"), "middle")
    padding = read.choice("padding", ("constant", "edge"), "constant")
    average = read.choice("average", ("logits", "probabilities"), "logits")
    plan = WindowPlan(
        size=patch,
        overlap=overlap,
        blend="gaussian" if blend == "gaussian" else "constant",
        sigma=read.number("sigma", 0.125, positive=True),
        centre="voxel" if centre == "voxel" else "middle",
        floor=read.number("floor", 1e-3, positive=True),
        steps="regular" if steps == "regular" else "even",
        padding="edge" if padding == "edge" else "constant",
        skip=bool(document.get("skip", False)),
    )
    architecture = document["architecture"]
    if not isinstance(architecture, dict) or not isinstance(architecture.get("name"), str):
        raise read.wrong("architecture", 'has a "name" and the constructor\'s arguments')
    channels = document["channels"]
    if not isinstance(channels, list) or not channels or not all(isinstance(c, str) for c in channels):
        raise read.wrong("channels", "is a list of names, one for each input channel")
    usual = document.get("volumes_ml") or {}
    if not all(isinstance(v, list) and len(v) == 2 and all(map(_finite, v)) for v in usual.values()):
        raise read.wrong("volumes_ml", "gives labels two numbers, the least and the greatest usual volume")
    volumes = {str(k): (float(v[0]), float(v[1])) for k, v in usual.items()}
    places = document.get("centroids_mm") or {}
    if not all(isinstance(v, list) and len(v) == 3 and all(map(_finite, v)) for v in places.values()):
        raise read.wrong("centroids_mm", "gives labels three numbers: left, posterior, superior")
    ensemble = document.get("ensemble", [])
    if not _texts(ensemble):
        raise read.wrong("ensemble", "is a list of models")
    name = read.text("name")
    if not NAME.fullmatch(name):
        raise read.wrong("name", "is made of letters, digits, spaces and . _ + -, for outputs are named by it")
    return ModelCard(
        name=name,
        licence=read.text("licence", "unknown"),
        source=read.text("source", "unknown"),
        architecture=Architecture(architecture["name"], {k: v for k, v in architecture.items() if k != "name"}),
        weights=tuple(weights),
        sha256=tuple(sums),
        onnx=onnx,
        onnx_sha256=onnx_sum,
        channels=tuple(channels),
        modality=read.optional("modality", str) or ("CT" if channels == ["CT"] else None),
        grid=GridSpec(
            axes=axes,
            spacing=spacing,
            anchor=cast("Anchor", read.choice("anchor", ("edges", "stored", "oriented", "within"), "edges")),
            transpose=(transpose[0], transpose[1], transpose[2]),
        ),
        interpolation=Interpolation(
            how,
            smooth=float(smooth.get("sigma", 0.0)),
            finer=float(smooth.get("finer", 0.75)),
            coarse=read.number("coarse", 0.0) or None,
        ),
        prepare=_preparation(read, len(channels)),
        outside=read.number("outside", 0.0),
        window=plan,
        slice_axis=slice_axis,
        slices=slices,
        mirror=tuple(mirror),
        half=bool(document.get("half", False)),
        average="probabilities" if average == "probabilities" else "logits",
        labels=labels,
        decide=replace(decision, shares=average == "probabilities"),
        volumes_ml=volumes,
        volumes_source=read.text("volumes_source", ""),
        centroids_mm={str(k): (float(v[0]), float(v[1]), float(v[2])) for k, v in places.items()},
        ensemble=tuple(ensemble),
        folder=folder,
        document=document,
    )


def _patch(read: _Reader) -> tuple[int, int, int]:
    """Voxels of a window."""
    given = read.document["patch_size"]
    if not _wholes(given) or len(given) != 3 or not all(map(_finite, given)):
        raise read.wrong("patch_size", "is not a list of 3 whole numbers")
    if min(given) < 1:
        raise read.wrong("patch_size", "has values that are not above 0")
    d, h, w = given
    return d, h, w


def _spacing(read: _Reader) -> Spacing | None:
    """Three steps in mm; null for an axis that keeps the scan's own (between the slices of a 2-D model)."""
    given = read.document.get("spacing")
    if given is None:
        return None
    if not isinstance(given, list) or len(given) != 3:
        raise read.wrong("spacing", "is a list of 3 numbers")
    for step in given:
        if step is not None and (not _finite(step) or step <= 0):
            raise read.wrong("spacing", "has values that are not finite numbers above 0")
    d, h, w = (None if step is None else float(step) for step in given)
    return d, h, w


def _labels(read: _Reader) -> tuple[tuple[Label, ...], Decision]:
    """Labels in channel order, background first, and the rule that decides among them."""
    table = read.document["labels"]
    if not isinstance(table, dict) or not table:
        raise read.wrong("labels", "maps names to numbers")
    for name, value in table.items():
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
            raise read.wrong("labels", f"gives {name!r} the value {value!r}, which is not a whole number")
    if list(table.values()).count(0) != 1 or next(iter(table.values())) != 0:
        raise read.wrong("labels", "begins with background, the only label with the value 0")
    values = list(table.values())
    for value in values:
        if values.count(value) > 1:
            both = [n for n, v in table.items() if v == value]
            raise read.wrong("labels", f"gives the value {value} to {' and '.join(both)}")
    for key in ("codes", "colours", "volumes_ml", "centroids_mm"):
        named = read.document.get(key) or {}
        if not isinstance(named, dict):
            raise read.wrong(key, "maps names of labels to what it says of them")
        if extra := named.keys() - table.keys():
            raise read.wrong(key, f"names {min(extra)!r}, which is not among the labels")
    pairs: dict[str, str] = {}
    given_pairs = read.document.get("pairs")
    if given_pairs is None and read.document.get("orientation") is not None:
        given_pairs = [list(pair) for pair in named_pairs(list(table))]
    given_pairs = given_pairs or []
    if not isinstance(given_pairs, list):
        raise read.wrong("pairs", "is a list of pairs of labels")
    for pair in given_pairs:
        if not _texts(pair) or len(pair) != 2 or not set(pair) <= table.keys():
            raise read.wrong("pairs", f"holds {pair!r}, which is not two names of labels")
        pairs[pair[0]], pairs[pair[1]] = pair[1], pair[0]
    codes, colours = read.document.get("codes") or {}, read.document.get("colours") or {}
    labels = tuple(
        Label(v, n, codes.get(n), _colour(read, n, colours.get(n), v), pairs.get(n)) for n, v in table.items()
    )
    regions = read.document.get("regions")
    given = read.choice("back", ("logits", "probabilities"), "logits")
    back: Literal["logits", "probabilities"] = "probabilities" if given == "probabilities" else "logits"
    if regions is None:
        return labels, Decision(tuple(values), back=back)
    if not _wholes(regions) or not set(regions) <= set(values):
        raise read.wrong("regions", "lists the label value of each output channel, in the order of writing")
    return labels, Decision(tuple(regions), "regions", back)


def _colour(read: _Reader, name: str, text: Any, value: int) -> tuple[int, int, int]:
    """The card's colour, else one of a fixed wheel: neighbours in number differ by the golden angle in hue."""
    if text is None:
        if value == 0:
            return (0, 0, 0)
        import colorsys

        r, g, b = colorsys.hsv_to_rgb(value * 0.61803398875 % 1, 0.65, 0.6 + 0.35 * (value % 3) / 2)
        return round(r * 255), round(g * 255), round(b * 255)
    if not isinstance(text, str) or not re.fullmatch("#[0-9a-fA-F]{6}", text):
        raise read.wrong("colours", f'gives {name!r} {text!r}, not "#rrggbb"')
    return int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16)


# What each step may say, and what makes it.
_STEPS: dict[str, tuple[type[Any], dict[str, str]]] = {
    "clip": (Clip, {"low": "low", "high": "high"}),
    "scale": (Scale, {"low": "low", "high": "high", "from": "source"}),
    "percentiles": (Percentiles, {"low": "low", "high": "high", "epsilon": "epsilon"}),
    "standardise": (Standardise, {"mean": "mean", "sd": "sd", "where": "where", "epsilon": "epsilon"}),
    "crop": (Crop, {"above": "above", "margin": "margin", "outside": "outside"}),
    "outside": (Outside, {"value": "value"}),
    "resample": (Resample, {}),
}


def _preparation(read: _Reader, channels: int) -> tuple[Preparation, ...]:
    """The steps of "intensity", with the resampling first and the crop last where they are not among them."""
    given = read.document.get("intensity") or []
    if not isinstance(given, list):
        raise read.wrong("intensity", "is a list of steps")
    steps: list[Preparation] = []
    for item in given:
        kind = item.get("step") if isinstance(item, dict) else None
        if not isinstance(kind, str) or kind not in _STEPS:
            raise read.wrong("intensity", f"has the step {kind!r}, not one of {', '.join(_STEPS)}")
        steps.append(_step(read, kind, {k: v for k, v in item.items() if k != "step"}, channels))
    if not any(isinstance(s, Resample) for s in steps):
        steps.insert(0, Resample())
    crop = read.choice("crop", ("positive", "nonzero", "none"), "none")
    if crop != "none":
        steps.append(Crop(above=0.0 if crop == "positive" else None))
    for i, (a, b) in enumerate(pairwise(steps), 1):
        if isinstance(a, Clip) and isinstance(b, Scale) and b.source is None and a.channels == b.channels:
            # The scale after a clip refers to the window that was clipped to, not to what this scan reached.
            steps[i] = replace(b, source=(a.low, a.high))
    return tuple(steps)


def _step(read: _Reader, kind: str, item: dict[str, Any], channels: int) -> Preparation:
    make, names = _STEPS[kind]
    unknown = set(item) - names.keys() - {"channels"}
    if unknown:
        raise read.wrong("intensity", f"the step {kind} knows no {min(unknown)!r}, only {', '.join(names)}")
    for key, value in item.items():
        if key in ("low", "high", "mean", "sd", "epsilon", "margin", "value") and not _finite(value):
            raise read.wrong("intensity", f"the step {kind} has {key} = {value!r}, not a number")
        if key in ("above", "outside") and value is not None and not _finite(value):
            raise read.wrong("intensity", f"the step {kind} has {key} = {value!r}, neither null nor a number")
    if kind in ("clip", "scale", "percentiles"):
        if not {"low", "high"} <= item.keys():
            raise read.wrong("intensity", f"the step {kind} needs the values low and high")
        if item["low"] >= item["high"]:
            raise read.wrong("intensity", f"the step {kind} has low {item['low']} not below high {item['high']}")
    if kind == "outside" and "value" not in item:
        raise read.wrong("intensity", "the step outside needs a value")
    if item.get("where", "image") not in ("image", "nonzero", "inside"):
        raise read.wrong("intensity", f"the step {kind} has where = {item['where']!r}, not image, nonzero or inside")
    if kind == "standardise" and item.get("sd") is not None and item["sd"] <= 0:
        raise read.wrong("intensity", f"the step standardise has the deviation {item['sd']}, not above 0")
    values: dict[str, Any] = {names[k]: v for k, v in item.items() if k in names}
    if values.get("source") is not None:
        source = values["source"]
        if not isinstance(source, list) or len(source) != 2 or not all(map(_finite, source)):
            raise read.wrong("intensity", f"the step {kind} has from = {source!r}, not two numbers")
        values["source"] = tuple(source)
    if item.get("channels") is not None:
        if not _wholes(item["channels"]):
            raise read.wrong("intensity", f"the step {kind} has channels = {item['channels']!r}, not a list of numbers")
        values["channels"] = tuple(item["channels"])
        if not all(0 <= c < channels for c in values["channels"]):
            raise read.wrong("intensity", f"the step {kind} names a channel beyond the {channels} there are")
    return cast("Preparation", make(**values))


def _finite(value: Any) -> bool:
    """A number that a float can hold; JSON has larger ones, and calls true what Python calls 1."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, str) for v in value)


def _wholes(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, int) and not isinstance(v, bool) for v in value)


class _Reader:
    """Takes fields out of a card's document and refuses, by name, those that are not what they should be."""

    def __init__(self, where: str, document: dict[str, Any]) -> None:
        self.where, self.document = where, document

    def wrong(self, key: str, what: str) -> ModelError:
        value = self.document.get(key)
        shown = "" if key not in self.document else f" ({str(value)[:60]})"
        return ModelError(f"{self.where}: the field {key}{shown} {what}")

    def known(self, keys: set[str]) -> None:
        for key in self.document:
            if key not in keys:
                raise ModelError(f"{self.where}: unknown field {key!r}" + near(str(key), keys))

    def text(self, key: str, default: str | None = None) -> str:
        value = self.document.get(key, default)
        if not isinstance(value, str):
            raise self.wrong(key, "is not a text")
        return value

    def optional(self, key: str, kind: type[Any]) -> Any:
        value = self.document.get(key)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise self.wrong(key, f"is not {'a text' if kind is str else 'a whole number'}")
        return value

    def choice(self, key: str, choices: Sequence[str], default: str) -> str:
        value = self.document.get(key, default)
        if value not in choices:
            raise self.wrong(key, f"is not one of {', '.join(choices)}")
        return str(value)

    def number(self, key: str, default: float, positive: bool = False) -> float:
        value = self.document.get(key)
        if value is None:
            return default
        if not _finite(value):
            raise self.wrong(key, "is not a number")
        if positive and value <= 0:
            raise self.wrong(key, "is not above 0")
        return float(value)
