"""The document of a model card: every field with its type, its bounds and the sentence that says what it may be.

The JSON Schema that follows from it is stored in segcli/schemas/card.schema.json, for editors and other programs:

    python -m segcli.models.document > segcli/schemas/card.schema.json

FORMAT, the card's own number, follows one rule. A new field has a default under which every older card means what it
meant: the number stays. A field that goes, or changes its meaning, or is needed from now on, raises the number by one,
and the new version of segcli still reads the older number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec import Meta, Struct, ValidationError, field
from msgspec.structs import FieldInfo

from segcli.documents import Content, Document, Facts, shown, undented
from segcli.errors import ModelError, near
from segcli.models.after import AFTER, AfterStep
from segcli.models.expected import Limits, MadeFor
from segcli.models.rough import Rough
from segcli.space.volume import AXES_CODES

FORMAT = 1
_REFUSED = (ValidationError, RecursionError, UnicodeEncodeError)  # the last for half a surrogate pair
_END = r"(?![\s\S])"  # of a text: "$" would allow a line break behind it
# Characters that are no text: XML and terminals have no place for them. Half a surrogate pair is none at all.
_CONTROL = r"\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\ud800-\udfff\ufffe\uffff"
# In names of one line also line breaks, tabs, and what reverses the direction of reading.
_BREAKS = r"\t\n\r\u2028-\u202e\u2066-\u2069"

# Nothing is seen of these; within a name some of them join letters or part them.
_UNSEEN = r"\u00ad\u061c\u180e\u200b-\u200f\u2060-\u2064\ufeff"
# A text that begins so is a formula in a spreadsheet, in some also with the wide signs of East Asian scripts.
_FORMULA = r"=+@\-\uff1d\uff0b\uff0d\uff20"

# Of a text that may stand in place of a list only the length is checked by its type, the rest in segcli.models.card:
# msgspec 0.22 reads other memory for a pattern in a union with a list or an object.
_LONE = Annotated[str, Meta(max_length=20_000)]
Text = Annotated[str, Meta(max_length=20_000, pattern=f"^[^{_CONTROL}]*{_END}", description="a text")]
Line = Annotated[
    str,
    Meta(min_length=1, max_length=255, pattern=f"^[^{_CONTROL}{_BREAKS}]*{_END}", description="a text of one line"),
]
ModelName = Annotated[
    str,
    Meta(
        max_length=128,
        pattern=rf"^[A-Za-z0-9][A-Za-z0-9._ +-]*{_END}",
        description="made of up to 128 letters (a to z), digits, spaces and . _ + -, for outputs are named by it",
    ),
]
# --classes all means every structure.
LabelName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=200,
        pattern=rf"^(?![{_FORMULA}{_UNSEEN}]|\s|[Aa][Ll][Ll]{_END})[^{_CONTROL}{_BREAKS}]*(?<![\s{_UNSEEN}]){_END}",
        description='the name of a structure: a text of one line without blanks around it that is not "all" and does '
        "not begin with = + - or @",
    ),
]
Sum = Annotated[str, Meta(pattern=f"^([0-9a-fA-F]{{64}})?{_END}", description="a SHA-256 of 64 hexadecimal digits")]
Code = Annotated[
    str,
    Meta(
        pattern=rf"^[A-Za-z0-9._-]{{1,16}} [A-Za-z0-9._+-]{{1,64}}{_END}",
        description='a coding scheme and a code, such as "SCT 10200004"',
    ),
]
Colour = Annotated[str, Meta(pattern=f"^#[0-9a-fA-F]{{6}}{_END}", description='"#rrggbb"')]
Value = Annotated[float, Meta(ge=-1e12, le=1e12, description="a number from -1e12 to 1e12")]
Percent = Annotated[float, Meta(ge=0, le=100, description="a number from 0 to 100")]
Axis = Annotated[int, Meta(ge=0, le=2, description="0, 1 or 2")]
LabelValue = Annotated[int, Meta(ge=0, lt=2**31, description="a whole number from 0 to 2147483647")]
Step = Annotated[float, Meta(ge=0.001, le=100, description="a number from 0.001 to 100")]
Back = Literal["area", "nearest", "values"]
Side = Annotated[int, Meta(ge=1, le=8192, description="a whole number from 1 to 8192")]
Millilitres = Annotated[float, Meta(ge=0, le=1e6, description="a number from 0 to 1e6")]
Millimetres = Annotated[float, Meta(ge=-10_000, le=10_000, description="a number from -10000 to 10000")]


class _Kept(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may be said of an object of the card, and nothing else."""


class _StepOf(_Kept, frozen=True, kw_only=True, tag_field="step"):
    """A step of `intensity` that works on some channels, or on all of them."""

    channels: Annotated[
        Annotated[tuple[Annotated[int, Meta(ge=0)], ...], Meta(min_length=1)] | None,
        Meta(description="null or a list of numbers of channels, counted from 0"),
    ] = None


class ClipStep(_StepOf, frozen=True, kw_only=True, tag="clip"):
    low: Value
    high: Value


class ScaleStep(_StepOf, frozen=True, kw_only=True, tag="scale"):
    low: Value
    high: Value
    source: Annotated[tuple[Value, Value] | None, Meta(description="two numbers, the lower one first")] = field(
        name="from", default=None
    )


class PercentilesStep(_StepOf, frozen=True, kw_only=True, tag="percentiles"):
    low: Percent
    high: Percent
    epsilon: Annotated[float, Meta(ge=0, le=1e6, description="a number from 0 to 1e6")] = 0.0


class StandardiseStep(_StepOf, frozen=True, kw_only=True, tag="standardise"):
    mean: Annotated[Value | None, Meta(description="null or a number from -1e12 to 1e12")] = None
    sd: Annotated[
        Annotated[float, Meta(ge=1e-9, le=1e12)] | None,
        Meta(description="null or a number above 0 (from 1e-9 to 1e12)"),
    ] = None
    where: Annotated[Literal["image", "nonzero", "inside"], Meta(description="image, nonzero or inside")] = "image"
    epsilon: Annotated[float, Meta(ge=0, le=1e6, description="a number from 0 to 1e6")] = 1e-8


class OutsideStep(_StepOf, frozen=True, kw_only=True, tag="outside"):
    value: Value


class HistogramStep(_StepOf, frozen=True, kw_only=True, tag="histogram"):
    low: Value
    high: Value
    share: Annotated[float, Meta(gt=0, lt=1, description="a number between 0 and 1")]


class CropStep(_Kept, frozen=True, kw_only=True, tag_field="step", tag="crop"):
    above: Annotated[Value | None, Meta(description="null or a number from -1e12 to 1e12")] = 0.0
    margin: Annotated[int, Meta(ge=0, le=10_000, description="a whole number from 0 to 10000")] = 0
    outside: Annotated[Value | None, Meta(description="null or a number from -1e12 to 1e12")] = None


class ResampleStep(_Kept, frozen=True, kw_only=True, tag_field="step", tag="resample"):
    whole: Annotated[bool | Literal["rounded"], Meta(description='true, false or "rounded"')] = False


class FrameStep(_Kept, frozen=True, kw_only=True, tag_field="step", tag="frame"):
    above: Value
    size: Annotated[tuple[Side, Side], Meta(description="two whole numbers above 0, rows and columns")]
    whole: Annotated[bool, Meta(description="true or false")] = False


IntensityStep = (
    ClipStep
    | ScaleStep
    | PercentilesStep
    | HistogramStep
    | StandardiseStep
    | OutsideStep
    | CropStep
    | ResampleStep
    | FrameStep
)
STEPS: dict[str, type[IntensityStep]] = {str(kind.__struct_config__.tag): kind for kind in get_args(IntensityStep)}
_STEPPED: dict[str, Mapping[str, type[Struct]]] = {"intensity": STEPS, "after": AFTER}


class Smooth(_Kept, frozen=True, kw_only=True):
    sigma: Annotated[float, Meta(ge=0, le=10, description="a number of voxels from 0 to 10")] = 0.0
    finer: Annotated[float, Meta(ge=0.01, le=1, description="a ratio from 0.01 to 1")] = 0.75


class ArchitectureDocument(Struct, frozen=True, kw_only=True):
    """The network's name; the other fields, whatever their names, are its constructor's arguments."""

    name: Line


class CardDocument(_Kept, frozen=True, kw_only=True):
    """A card as JSON states it; what several fields say together is checked in segcli.models.card."""

    format: Annotated[Literal[1], Meta(description=f"{FORMAT}, the only one this version of segcli knows")]
    name: ModelName
    licence: Text = "unknown"
    source: Text = "unknown"
    architecture: Annotated[
        ArchitectureDocument,
        Meta(description='an object with a "name" and the constructor\'s arguments'),
    ]
    weights: Annotated[_LONE | tuple[Line, ...], Meta(description="a file's name, or a list of names")] = ()
    sha256: Annotated[
        _LONE | tuple[Sum, ...] | None,
        Meta(description="the sum (64 hexadecimal digits) of the weights, or a list of sums"),
    ] = None
    onnx: Annotated[Line | None, Meta(description="null or a file's name")] = None
    onnx_sha256: Annotated[Sum | None, Meta(description="null or a sum of 64 hexadecimal digits")] = None
    engines: Annotated[
        Annotated[tuple[Line, ...], Meta(min_length=1, max_length=20)] | None,
        Meta(description="null or a list of names of engines"),
    ] = None
    channels: Annotated[
        tuple[Line, ...],
        Meta(min_length=1, max_length=64, description="a list of names, one for each input channel"),
    ]
    blank: Annotated[Annotated[int, Meta(ge=0, le=64)], Meta(description="a whole number from 0 to 64")] = 0
    modality: Annotated[Line | None, Meta(description="null or a text of one line")] = None
    made_for: Annotated[MadeFor | None, Meta(description=f"an object with {', '.join(MadeFor.__struct_fields__)}")] = (
        None
    )
    orientation: Annotated[
        Annotated[str, Meta(pattern=f"^({'|'.join(AXES_CODES)}){_END}")] | None,
        Meta(description='null or an axes code such as "RAS"'),
    ] = None
    transpose: Annotated[tuple[Axis, Axis, Axis], Meta(description="an order of 0, 1, 2")] = (0, 1, 2)
    spacing: Annotated[
        tuple[Step | None, Step | None, Step | None] | None,
        Meta(description="null or a list of 3 steps from 0.001 to 100 mm, null for an axis that keeps the scan's"),
    ] = None
    shape: Annotated[tuple[Side, Side, Side] | None, Meta(description="null or a list of 3 whole numbers above 0")] = (
        None
    )
    anchor: Annotated[
        Literal["edges", "corners", "stored", "oriented", "within", "monai_stored", "monai", "conformed"],
        Meta(description="one of edges, corners, stored, oriented, within, monai_stored, monai, conformed"),
    ] = "edges"
    interpolation: Annotated[
        Literal["linear", "cubic", "nearest", "area"], Meta(description="one of linear, cubic, nearest, area")
    ] = "linear"
    smooth: Annotated[
        Smooth | None,
        Meta(description='{"sigma": voxels of the model\'s grid from 0 to 10, "finer": ratio from 0.01 to 1}'),
    ] = None
    coarse: Annotated[
        Annotated[float, Meta(ge=0, le=1000)] | None, Meta(description="null, 0 for never, or a ratio from 1 to 1000")
    ] = None
    intensity: Annotated[
        Annotated[tuple[IntensityStep, ...], Meta(max_length=100)] | None,
        Meta(description=f"a list of steps, each of {', '.join(STEPS)}"),
    ] = None
    crop: Annotated[Literal["positive", "nonzero", "none"], Meta(description="one of positive, nonzero, none")] = "none"
    outside: Annotated[Value | None, Meta(description="a number from -1e12 to 1e12")] = None
    patch_size: Annotated[
        tuple[Side, Side, Side],
        Meta(description="a list of 3 whole numbers above 0, with 8192 voxels along an axis and 2^27 in all at most"),
    ]
    overlap: Annotated[Annotated[float, Meta(ge=0, le=0.95)] | None, Meta(description="a number from 0 to 0.95")] = None
    blend: Annotated[Literal["gaussian", "constant"], Meta(description="one of gaussian, constant")] = "gaussian"
    sigma: Annotated[Annotated[float, Meta(gt=0, le=10)] | None, Meta(description="a number above 0, to 10")] = None
    centre: Annotated[Literal["middle", "voxel"], Meta(description="one of middle, voxel")] = "middle"
    floor: Annotated[
        Annotated[float, Meta(ge=1e-30, le=1)] | None, Meta(description="a number above 0 (from 1e-30 to 1)")
    ] = None
    steps: Annotated[Literal["regular", "even"], Meta(description="one of regular, even")] = "regular"
    padding: Annotated[Literal["constant", "edge"], Meta(description="one of constant, edge")] = "constant"
    skip: Annotated[bool, Meta(description="true or false")] = False
    whole: Annotated[bool, Meta(description="true or false")] = False
    slice_axis: Annotated[Axis | None, Meta(description="0, 1 or 2, and patch_size is 1 there")] = None
    slices: Annotated[
        Annotated[int, Meta(ge=1, le=101)] | None,
        Meta(description="an odd number from 1 to 101, above 1 only with a slice_axis"),
    ] = None
    mirror: Annotated[
        tuple[Axis, ...], Meta(max_length=3, description="a list of array axes, 0, 1 or 2, each once at most")
    ] = ()
    half: Annotated[bool | Literal["bfloat16"] | None, Meta(description='true, false or "bfloat16"')] = None
    average: Annotated[Literal["logits", "probabilities"], Meta(description="one of logits, probabilities")] = "logits"
    ensemble_average: Annotated[
        Literal["logits", "probabilities"], Meta(description="one of logits, probabilities")
    ] = "logits"
    back: Annotated[
        Literal["logits", "probabilities"] | Back,
        Meta(description="one of logits, probabilities, area, nearest, values"),
    ] = "logits"
    faithful: Annotated[Back | None, Meta(description="null or one of area, nearest, values")] = None
    sums: Annotated[Literal["float32", "float16"], Meta(description="one of float32, float16")] = "float32"
    labels: Annotated[
        dict[LabelName, LabelValue],
        Meta(min_length=1, max_length=65_536, description="an object that maps names to whole numbers"),
    ]
    regions: Annotated[
        Annotated[tuple[LabelValue, ...], Meta(min_length=1)] | None,
        Meta(description="a list of the label value of each output channel, in the order of writing"),
    ] = None
    outputs: Annotated[
        Annotated[tuple[Annotated[int, Meta(ge=0, le=65_535)], ...], Meta(min_length=1, max_length=65_536)] | None,
        Meta(description="of a recipe: null, or the order in which the network's outputs are put when it is imported"),
    ] = None
    after: Annotated[
        tuple[AfterStep, ...],
        Meta(max_length=100, description=f"a list of steps, each of {', '.join(AFTER)}"),
    ] = ()
    after_at: Annotated[Literal["scan", "model"], Meta(description="one of scan, model")] = "scan"
    codes: Annotated[dict[str, Code] | None, Meta(description="an object that maps names of labels to codes")] = None
    colours: Annotated[
        dict[str, Colour] | None, Meta(description='an object that maps names of labels to "#rrggbb"')
    ] = None
    pairs: Annotated[
        tuple[tuple[str, str], ...] | None,
        Meta(description="a list of pairs of labels, left and right, each label in one pair at most"),
    ] = None
    not_scored: Annotated[
        tuple[LabelName, ...],
        Meta(max_length=65_536, description="a list of labels that references draw by other rules, never averaged"),
    ] = ()
    volumes_ml: Annotated[
        dict[str, tuple[Millilitres, Millilitres]] | None,
        Meta(description="an object that maps labels to two numbers, the least and the greatest usual volume in mL"),
    ] = None
    volumes_by_size: Annotated[
        tuple[LabelName, ...],
        Meta(max_length=65_536, description="a list of labels whose usual volumes grow with the head or the body"),
    ] = ()
    volumes_source: Text = ""
    centroids_mm: Annotated[
        dict[str, tuple[Millimetres, Millimetres, Millimetres]] | None,
        Meta(description="an object that maps labels to three numbers from -10000 to 10000: left, posterior, superior"),
    ] = None
    checks: Annotated[
        Limits | None,
        Meta(description=f"an object with limits of the checks, each a number: {', '.join(Limits.__struct_fields__)}"),
    ] = None
    ensemble: Annotated[tuple[Line, ...], Meta(description="a list of models")] = ()
    previous: Annotated[Line | None, Meta(description="null or a model")] = None
    previous_by: Annotated[Literal["largest", "half"], Meta(description="one of largest, half")] = "largest"
    parts: Annotated[tuple[Line, ...], Meta(max_length=100, description="a list of models")] = ()
    fusion: Annotated[Literal["over", "within"], Meta(description="one of over, within")] = "over"
    rough: Annotated[
        Rough | None,
        Meta(description='null or {"model": a model, "structures": a list of its labels, "margin_mm": 0 to 1000, ...}'),
    ] = None
    notes: Annotated[_LONE | tuple[Text, ...] | None, Meta(description="a text, or a list of texts")] = None


def read(document: Content, where: str) -> CardDocument:
    """The document with each field of its type and within its bounds.

    where    what the sentences call it
    errors   ModelError that names the field, its value and what it may be; unknown fields with the nearest known
    """
    if not isinstance(document, dict):
        raise ModelError(f"{where}: a card is a JSON object with fields, not {type(document).__name__}")
    known = msgspec.structs.fields(CardDocument)
    for key in document:
        if key not in (names := [f.encode_name for f in known]):
            raise ModelError(f"{where}: unknown field {shown(key, repr)}" + near(str(key), names))
    for f in known:
        if f.required and f.encode_name not in document:
            raise wrong(document, where, f.encode_name, "is missing")
    try:
        return msgspec.convert(document, CardDocument)
    except _REFUSED:
        refuse_misfits(document, where)
        raise


def refuse_misfits(document: Facts, where: str) -> None:
    """Refuse a field that is not of its type or beyond its bounds, whatever other fields there are, as `read` does."""
    # Of a library's sentence only that it refuses is used: it names neither the value nor what is possible.
    for f in msgspec.structs.fields(CardDocument):
        if f.encode_name in document and not fits(document[f.encode_name], f.type):
            raise wrong(document, where, f.encode_name, _about(f, document[f.encode_name])) from None


def wrong(document: Facts, where: str, key: str, what: str) -> ModelError:
    """The refusal of a field: file, field, its value, and what is wrong or possible."""
    value = f" ({shown(document[key])})" if key in document else ""
    return ModelError(f"{where}: the field {key}{value} {what}")


def _about(f: FieldInfo, value: Content) -> str:
    """What is wrong with the value of a field, as far inside it as can be said."""
    if f.name in _STEPPED and isinstance(value, list | tuple):
        steps = _STEPPED[f.name]
        return next((said for item in value if (said := _about_step(item, steps))), f"is not {_possible(f.type)}")
    keys_of, values_of = _map_of(f.type)
    if isinstance(value, dict) and value and keys_of is not None:
        for key, own in value.items():
            if not fits(key, keys_of):
                return f"has {shown(key, repr)}, which is not {_possible(keys_of)}"
            if not fits(own, values_of):
                possible = _possible(values_of) or _possible(f.type).partition(" labels to ")[2]
                return f"gives {shown(key, repr)} the value {shown(own, repr)}, which is not {possible}"
    return f"is not {_possible(f.type)}"


def _about_step(item: Content, steps: Mapping[str, type[Struct]]) -> str | None:
    """What is wrong with a step of a list of steps; None for a step that is right."""
    name = item.get("step") if isinstance(item, dict) else None
    if not isinstance(name, str) or name not in steps:
        return f"has the step {shown(name, repr)}, not one of {', '.join(steps)}"
    fields = {f.encode_name: f for f in msgspec.structs.fields(steps[name])}
    for key in item:
        if key != "step" and key not in fields:
            only = f", only {', '.join(fields)}" if fields else ""
            return f"has a step {name} that knows no {shown(key, repr)}{only}"
    needed = [key for key, f in fields.items() if f.required]
    if not item.keys() >= set(needed):
        return f"has a step {name} that needs {' and '.join(needed)}"
    for key, f in fields.items():
        if key in item and not fits(item[key], f.type):
            return f"has a step {name} with {key} = {shown(item[key], repr)}, not {_possible(f.type)}"
    return None


def fits(value: Content, kind: Any) -> bool:
    """Whether a value is of a type and within its bounds."""
    try:
        msgspec.convert(value, kind)
    except _REFUSED:
        return False
    return True


def _possible(kind: Any) -> str:
    """The description that a type was given last, which is the sentence about what its values may be."""
    said = [m.description for m in getattr(kind, "__metadata__", ()) if isinstance(m, Meta) and m.description]
    return said[-1] if said else ""


def _map_of(kind: Any) -> tuple[Content, Content]:
    """The types of the keys and the values of a map, below its annotations; (None, None) of anything else."""
    while get_origin(kind) in (Annotated, Union, UnionType):
        kind = get_args(kind)[0]
    return get_args(kind) if get_origin(kind) is dict else (None, None)


def schema() -> Document:
    """The JSON Schema (2020-12) of a card."""
    made = undented(msgspec.json.schema(CardDocument))
    rule = str(__doc__).partition("follows one rule. ")[2]
    about = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"model.json of segcli, format {FORMAT}",
        "$comment": " ".join(rule.split()),
    }
    return {**about, **made}


if __name__ == "__main__":
    import sys

    sys.stdout.write(json.dumps(schema(), indent=1) + "\n")
