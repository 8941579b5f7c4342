"""What the fields of a card say together: a table of the rules that no field's own type can state."""

from __future__ import annotations

import math
from collections.abc import Callable

from segcli.models.after import RefineStep
from segcli.models.document import CardDocument, FrameStep, Line, ResampleStep, Sum, Text, fits

_FINISHED = ("nearest", "values")


def listed(value: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """One text as a list of one, nothing as a list of none."""
    return (value,) if isinstance(value, str) and value else value if isinstance(value, tuple) else ()


def _comes_as_labels(card: CardDocument) -> bool:
    """Whether labels come back to the scan as labels, always or with --faithful."""
    cut = any(isinstance(step, FrameStep) for step in card.intensity or ())
    return cut or card.anchor == "corners" or card.faithful is not None or card.back in _FINISHED


# What fields say together: the field that is named, whether its rule is broken, and the sentence about it.
RULES: tuple[tuple[str, Callable[[CardDocument], bool], str], ...] = (
    ("weights", lambda c: not fits(listed(c.weights), tuple[Line, ...]), "is not a file's name, or a list of names"),
    ("sha256", lambda c: not fits(listed(c.sha256), tuple[Sum, ...]), "is not 64 hexadecimal digits, or a list of it"),
    (
        "after_at",
        lambda c: c.after_at == "model" and not _comes_as_labels(c),
        "is model, for cards whose labels come back as labels",
    ),
    (
        "after_at",
        lambda c: c.after_at == "model" and bool(c.parts),
        "is model, and parts have no model's grid in common",
    ),
    (
        "after_at",
        lambda c: c.after_at == "model" and any(isinstance(x, RefineStep) for x in c.after),
        "is model, and a step refine looks at the scan's own voxels",
    ),
    (
        "anchor",
        lambda c: c.anchor == "corners" and any(isinstance(x, ResampleStep) for x in (c.intensity or ())[1:]),
        "is corners, but the first step of intensity is not resample",
    ),
    ("notes", lambda c: not fits(listed(c.notes), tuple[Text, ...]), "is not a text, or a list of texts"),
    (
        "weights",
        lambda c: len(listed(c.sha256)) not in (0, len(listed(c.weights))),
        "and sha256 are a file name and its sum, or lists of equal length",
    ),
    ("channels", lambda c: len(set(c.channels)) < len(c.channels), "names two channels alike"),
    (
        "channels",  # files of a case are told apart by these names, on some systems without regard to case
        lambda c: len({name.lower() for name in c.channels}) < len(c.channels),
        "names two channels that differ only in capital letters",
    ),
    (
        "made_for",
        lambda c: c.made_for is not None and c.made_for.ages is not None and c.made_for.ages[0] >= c.made_for.ages[1],
        "has ages whose first is not below the second",
    ),
    ("transpose", lambda c: sorted(c.transpose) != [0, 1, 2], "is not an order of 0, 1, 2"),
    (
        "spacing",
        lambda c: not any(c.spacing or ()) and c.smooth is not None and c.smooth.sigma > 0,
        "is null on every axis, but the card smooths scans that are finer: give the steps in mm",
    ),
    (
        "shape",
        lambda c: (
            c.shape is not None and ((c.spacing is not None and c.anchor != "conformed") or math.prod(c.shape) > 2**27)
        ),
        "stands beside a spacing, or has more than 2^27 voxels in all",
    ),
    (
        "anchor",
        lambda c: c.anchor == "conformed" and not (c.orientation and c.shape and c.spacing and all(c.spacing)),
        "is conformed, which takes an orientation, a shape and a spacing of three steps",
    ),
    (
        "anchor",
        lambda c: (
            c.anchor == "conformed"
            and (bool({"area", "values"} & {c.interpolation, c.back, c.faithful}) or bool(c.previous))
        ),
        "is conformed, beside area, values or a previous model, which are for grids that cover the scan",
    ),
    (
        "shape",
        lambda c: c.shape is None and "area" in (c.interpolation, c.back, c.faithful),
        "is null, but interpolation, back or faithful is area, which is between grids with the same faces",
    ),
    ("coarse", lambda c: 0 < (c.coarse or 0) < 1, "is not null, 0 for never, or a ratio from 1 to 1000"),
    ("patch_size", lambda c: math.prod(c.patch_size) > 2**27, "has more than 2^27 voxels in all"),
    (
        "slice_axis",
        lambda c: c.slice_axis is not None and c.patch_size[c.slice_axis] != 1,
        "is not an axis along which patch_size is 1",
    ),
    (
        "slices",
        lambda c: (c.slices or 1) % 2 == 0 or ((c.slices or 1) > 1 and c.slice_axis is None),
        "is not an odd number, or above 1 without a slice_axis",
    ),
    (
        "whole",
        lambda c: c.whole and (c.slice_axis is not None or bool(c.onnx) or str(c.weights).endswith(".onnx")),
        "is true, which is for networks of three axes without an ONNX file: that takes windows of one size",
    ),
    ("mirror", lambda c: len(set(c.mirror)) < len(c.mirror), "names an array axis twice"),
    (
        "labels",
        lambda c: next(iter(c.labels.values())) != 0 or list(c.labels.values()).count(0) != 1,
        "does not begin with background, the only label with the value 0",
    ),
    (
        "regions",
        lambda c: not set(c.regions or ()) <= set(c.labels.values()),
        "lists the label value of each output channel, in the order of writing",
    ),
    (
        "outputs",
        lambda c: (
            c.outputs is not None
            and (bool(c.weights or c.onnx) or sorted(c.outputs) != list(range(len(c.regions or c.labels))))
        ),
        "is no order of the network's outputs, or stands beside weights: it is for recipes, which have none",
    ),
    (
        "ensemble",
        lambda c: len(set(c.ensemble)) < len(c.ensemble),
        "names a model twice",
    ),
    (
        "previous",
        lambda c: c.previous is not None and (c.slice_axis is not None or bool(c.ensemble or c.parts)),
        "is a cascade's first model, of a network of three axes that is neither an ensemble nor made of parts",
    ),
    (
        "blank",
        lambda c: c.blank > 0 and (c.previous is not None or c.slice_axis is not None or bool(c.ensemble or c.parts)),
        "is above 0, of a network of three axes that is neither a cascade's second one, an ensemble nor made of parts",
    ),
    ("parts", lambda c: len(set(c.parts)) < len(c.parts), "names a model twice"),
    (
        "parts",
        lambda c: bool(c.parts) and bool(c.weights or c.onnx or c.ensemble or c.regions),
        "stands beside weights, onnx, ensemble or regions: a model of parts has no network of its own",
    ),
    ("fusion", lambda c: c.fusion == "within" and not c.parts, "is within, and the card has no parts"),
)
