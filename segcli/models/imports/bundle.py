"""What a MONAI bundle (a folder with configs/ and models/) states: literals are read, nothing is evaluated.

Of the Python in a configuration references are followed (`bundle_config`), and one way to make labels of regions is
read by its pattern (`_writing`); the rest is left alone and, where it was needed, named as missing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from segcli.documents import Content, Document, Facts
from segcli.models import weights as checkpoint
from segcli.models.imports.bundle_config import References, Unknown, configuration, files, merged
from segcli.models.imports.bundle_network import has_unknown
from segcli.models.imports.bundle_network import network as network_of
from segcli.models.imports.bundle_weights import weights_file as weights_of
from segcli.models.imports.source import ModelSource, Stated, label_names, legible
from segcli.models.weights import Tensors
from segcli.networks.registry import Inferred

if TYPE_CHECKING:
    from segcli.models.imports.recognise import Recognised

_LITTLE = (  # transforms that change neither voxels nor places in a way that matters here
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
)
_PADS = ("SpatialPad", "DivisiblePad", "BorderPad")


def folder(path: Path, wanted: str | None = None) -> ModelSource:
    """A bundle's folder.

    wanted   the configuration, where there are several for inference
    errors   ModelError when there is no readable configuration or no weights
    """
    metadata = merged(files(path / "configs", ("metadata",)))
    config, notes = configuration(path / "configs", wanted)
    weights = weights_of(path / "models", config)
    stored = checkpoint.read(weights)
    table, said = checkpoint.taken(stored)
    kind, named = network_of(config, metadata.get("monai_version"), notes, path / "models")
    origin = f"MONAI bundle {metadata.get('name', path.name)} {metadata.get('version', '')}".strip()
    return ModelSource(
        f"MONAI bundle, {weights.name}",
        where=f"models/{weights.name}" + (f" ({kind})" if kind and not named else ""),
        folds=[checkpoint.innermost_table(stored, table)],
        states=partial(_stated, config, metadata, origin),
        named=named,
        notes=[*notes, *said],
    )


def _stated(config: References, metadata: Facts, origin: str, network: Recognised) -> Stated:
    """What the configuration states of a card, for a network of these inputs and outputs."""
    said = _Said(network, {"source": origin})
    with legible("the bundle's configuration"):
        names = _formats(metadata, config, said)
        # The names of inference.json, then those of train.json.
        keys = ("preprocessing", "pre_transforms", "transforms", "validate::preprocessing")
        _transforms(_list(config, keys, said.notes), said)
        _inferer(config.get("inferer", "validate::inferer"), metadata, said)
        after = _list(config, ("postprocessing", "post_transforms", "validate::postprocessing"), said.notes)
        _back(after, said)
        _labels(names, after, said)
    return Stated(said.card, said.notes, said.lacks, said.replaced)


@dataclass
class _Said:
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


# ---- what the configuration says ------------------------------------------------------------------------------------


def _kind(item: Content) -> str:
    """A component's class without its package and without the "d" of dictionary transforms."""
    target = item.get("_target_", item.get("name", "")) if isinstance(item, dict) else ""
    name = str(target).rpartition(".")[2]
    name = re.sub("(Dict|D)$", "d", name)
    return name if name in _PADS else name.removesuffix("d")  # SpatialPad ends with a "d" of its own


def _list(config: References, keys: Sequence[str], notes: list[str]) -> list[Document]:
    """The transforms of the first of several entries that is there."""
    found = config.get(*keys)
    if isinstance(found, Unknown):
        notes.append(f"{keys[0]} is Python and was not evaluated: {found.text[:80]}")
    if isinstance(found, dict):
        found = found.get("transforms", [])
    if not isinstance(found, list):
        return []
    return [item for item in found if isinstance(item, dict) and item.get("_disabled_") is not True]


def _formats(metadata: Facts, config: References, said: _Said) -> list[str]:
    """Channels from metadata.json; the names of the outputs are returned, from there or of a mapping with numbers."""
    formats = metadata.get("network_data_format", {})
    image: Document = next(iter(formats.get("inputs", {}).values()), {})
    names = _definition(image.get("channel_def"))
    modality = str(image.get("modality", ""))
    short = {"ct": "CT", "mr": "MR", "mri": "MR"}.get(modality.lower())
    if names:
        said.card["channels"] = [modality] if names == ["image"] and modality else names
    if short:
        said.card["modality"] = short
    outputs: Document = next(iter(formats.get("outputs", {}).values()), {})
    found = _definition(outputs.get("channel_def")) or _definition(outputs.get("label_def"))
    names, changed = label_names(found or _numbered(config.get("labels")) or _numbered(config.get("label_names")))
    said.notes += changed
    return names


def _numbered(found: Content) -> list[str]:
    """The names of a mapping to 0, 1, 2, ..., in that order; empty for anything else."""
    if not isinstance(found, dict) or sorted(map(str, found.values())) != sorted(map(str, range(len(found)))):
        return []
    return sorted(found, key=lambda name: int(found[name]))


def _definition(found: Content) -> list[str]:
    if not isinstance(found, dict) or not all(str(k).isdecimal() for k in found):
        return []
    return [str(found[k]) for k in sorted(found, key=int)]


def _transforms(items: Sequence[Document], said: _Said) -> None:
    """Grid and intensity steps, in their order; what they leave open is left out of the card."""
    steps: list[Document] = []
    order: list[str] = []
    known = True
    for item in items:
        kind = _kind(item)
        if kind in _LITTLE:
            continue
        if kind in ("Orientation", "Spacing"):
            order.append(kind)
        if any(has_unknown(v) for k, v in item.items() if k not in ("keys", "reader", "device")):
            said.lack(kind.lower(), f"{kind} has values that are Python and were not evaluated")
            known = False
        elif kind == "Orientation":
            axes = "RAS" if item.get("as_closest_canonical") else item["axcodes"]
            said.card["orientation"] = "".join(axes)
        elif kind == "Spacing":
            said.card |= _spacing(item, said.notes)
            steps.append({"step": "resample"})
        elif kind == "CropForeground":
            margins = _listed(item.get("margin", 0))
            if len(set(margins)) > 1 or item.get("k_divisible", 1) != 1:
                said.notes.append("the crop's margin is another on each side; segcli takes the largest")
            steps.append({"step": "crop", "above": 0.0, "margin": max(int(n) for n in margins)})
        elif kind in ("ConcatItems", "ConcatImages"):
            _concatenated(item, said)
        elif kind in _PADS:
            said.notes.append(f"the padding of {kind} is left to the windows")
        else:
            found = _intensity(kind, item, said.network.inputs or 1)
            if found is None:
                said.lack("", f"the transform {kind} is not one that segcli has, or not with these options")
                known = False
            steps += found or []
    if items and "Orientation" not in order:
        said.card["orientation"] = None
    if said.card.get("orientation") is None:
        said.card["transpose"] = [2, 1, 0]  # MONAI's arrays are i, j, k of the file, segcli's k, j, i
    if items and "Spacing" not in order:
        said.card["spacing"] = None
    if order:
        said.card["anchor"] = "monai_stored" if order[0] == "Spacing" and len(order) > 1 else "monai"
    if items and known:
        said.card["intensity"] = [*steps, {"step": "outside", "value": 0}]


def _concatenated(item: Facts, said: _Said) -> None:
    """Channels of several images that are put together, by the names of these."""
    keys = _listed(item.get("keys_merge", item.get("keys")))
    if len(keys) == said.network.inputs and len(said.card.get("channels", ())) != len(keys):
        said.card["channels"] = [str(key) for key in keys]


def _spacing(item: Facts, notes: list[str]) -> Document:
    """Fields `spacing` and `interpolation`: 0 and below keep an axis, the last number stands for those that lack."""
    steps = [float(p) if p > 0 else None for p in _listed(item["pixdim"])]
    mode = _listed(item.get("mode", "bilinear"))[0]
    how = {"nearest": "nearest", "bilinear": "linear", 0: "nearest", 1: "linear"}.get(mode)
    if how is None or item.get("diagonal") or item.get("scale_extent"):
        notes.append("Spacing has an interpolation or a corner that segcli has not: linear, between voxel centres")
    return {"spacing": (steps + steps[-1:] * 3)[:3], "interpolation": how or "linear"}


def _intensity(kind: str, item: Facts, channels: int) -> list[Document] | None:
    """One of MONAI's intensity transforms as steps of a card; None for one that segcli has not."""
    clip = bool(item.get("clip", False))
    if kind == "ScaleIntensityRange":
        low, high = float(item["a_min"]), float(item["a_max"])
        bottom, top = item.get("b_min"), item.get("b_max")
        if (bottom is None) != (top is None):
            return None
        if bottom is None or top is None:  # then MONAI clips nothing
            return [{"step": "scale", "from": [low, high], "low": 0.0, "high": 1.0}]
        scale = {"step": "scale", "from": [low, high], "low": float(bottom), "high": float(top)}
        return [{"step": "clip", "low": low, "high": high}, scale] if clip else [scale]
    if kind == "NormalizeIntensity":
        where = {"where": "nonzero"} if item.get("nonzero", False) else {}
        means, widths = item.get("subtrahend"), item.get("divisor")
        if (means is None) != (widths is None):
            return None
        if means is None:
            return [{"step": "standardise", **where}] if _each(item, channels) else None
        pairs = list(zip(_listed(means), _listed(widths), strict=True))
        one = [{"channels": [c]} if len(pairs) > 1 else {} for c in range(len(pairs))]
        return [
            {"step": "standardise", "mean": float(m), "sd": float(w), **where, **which}
            for (m, w), which in zip(pairs, one, strict=True)
        ]
    if kind == "ScaleIntensity" and item.get("factor") is None and _each(item, channels):
        return [{"step": "scale", "low": float(item.get("minv", 0.0)), "high": float(item.get("maxv", 1.0))}]
    unit = (item.get("b_min"), item.get("b_max")) == (0, 1) and not item.get("relative", False)
    if kind == "ScaleIntensityRangePercentiles" and unit and _each(item, channels):
        steps = [{"step": "percentiles", "low": float(item["lower"]), "high": float(item["upper"])}]
        return [*steps, {"step": "clip", "low": 0.0, "high": 1.0}] if clip else steps
    return None


def _each(item: Facts, channels: int) -> bool:
    """Whether a transform looks at one channel at a time, as segcli's steps do."""
    return channels == 1 or bool(item.get("channel_wise", False))


def _listed(value: Content) -> list[Content]:
    return value if isinstance(value, list) else [value]


def _whole(kind: str, roi: Content, metadata: Facts, said: _Said) -> None:
    """The whole image, for a network that takes images of other sizes; else windows in place of it.

    Their size is the one that the inferer states, else the one that the metadata does.
    """
    step = _step(said.network) if kind == "SimpleInferer" and roi is None else None
    if step is not None:
        said.card |= {"whole": True, "patch_size": [step] * 3}
        return
    image: Document = next(iter(metadata.get("network_data_format", {}).get("inputs", {}).values()), {})
    shape = [roi] * 3 if isinstance(roi, int) else roi or image.get("spatial_shape")
    if isinstance(shape, list) and len(shape) == 3 and all(isinstance(n, int) and n > 0 for n in shape):
        said.card["patch_size"] = shape
        size = "×".join(map(str, shape))
        said.notes.append(f"the bundle shows the network whole images ({kind}), segcli windows of {size}")
    else:
        said.lacks["patch_size"] = f"the bundle shows the network whole images ({kind}), segcli windows: give --patch"


def _step(network: Recognised) -> int | None:
    """The number whose multiples the sides of an image may be; None for a network that takes no other sizes."""
    from segcli.models.imports.recognise import answers

    own = Inferred(network.family, dict(network.arguments))
    n = 256  # a multiple of all, and large: the deepest level of a small image may be too small for its norm
    fits = (
        step
        for step in (1, 2, 4, 8, 16, 32, 64, 128)
        if all(answers(own, network.inputs or 1, [n + step * (axis == a) for axis in range(3)], None) for a in range(3))
    )
    return next(fits, None) if network.size() is None else None


def _inferer(item: Content, metadata: Facts, said: _Said) -> None:
    """Windows as the sliding-window inferer has them."""
    if not isinstance(item, dict):
        return
    kind, roi = _kind(item), item.get("roi_size")
    if kind not in ("SlidingWindowInferer", "SlidingWindowInfererAdapt", "SliceInferer"):
        _whole(kind, roi, metadata, said)
        return
    if kind == "SliceInferer":
        axis = item.get("spatial_dim", 0)
        said.card["slice_axis"] = axis
        roi = [*roi[:axis], 1, *roi[axis:]] if isinstance(roi, list) and len(roi) == 2 else None
    roi = [roi] * 3 if isinstance(roi, int) else roi
    if isinstance(roi, list) and len(roi) == 3 and all(isinstance(n, int) and n > 0 for n in roi):
        said.card["patch_size"] = roi
    overlap, sigma, mode = item.get("overlap", 0.25), item.get("sigma_scale", 0.125), item.get("mode", "constant")
    if all(isinstance(v, int | float) for v in (overlap, sigma)) and mode in ("constant", "gaussian"):
        said.card |= {"overlap": overlap, "blend": mode, "sigma": sigma}
    else:
        said.notes.append(f"overlap, sigma_scale or mode of the {kind} is not one that segcli has: its own are taken")
    padding = item.get("padding_mode", "constant")
    if padding == "replicate":
        said.card["padding"] = "edge"
    elif padding != "constant":
        said.notes.append(f"padding by {padding} is not one that segcli has: 0 is taken")


def _back(items: Sequence[Document], said: _Said) -> None:
    """What is interpolated on the way back to the scan; what is done after the network and not here."""
    kinds = [_kind(item) for item in items]
    before = kinds[: kinds.index("Invert")] if "Invert" in kinds else []
    if "AsDiscrete" in before:
        _finished(items[kinds.index("Invert")], items[kinds.index("AsDiscrete")], said)
    elif "Activations" in before:
        said.card["back"] = "probabilities"
    for place, item in enumerate(items):
        if _kind(item) == "KeepLargestConnectedComponent" and (step := _largest(item, items[:place])):
            said.card.setdefault("after", []).append(step)
            said.card |= {"after_at": "model"} if place < len(before) else {}
            continue
        if _kind(item) not in (*_LITTLE, "Activations", "Invert", "AsDiscrete", "SaveImage") and not _writing(item):
            said.notes.append(f"the bundle's {_kind(item)} after the network is left out")
        if item.get("threshold", 0.5) != 0.5:
            said.notes.append(f"the bundle's threshold is {item['threshold']}; segcli's is 0.5")


def _finished(invert: Facts, discrete: Facts, said: _Said) -> None:
    """Field `faithful`, of a bundle that brings finished labels back: the nearest one, or their numbers linearly."""
    nearest = _listed(invert.get("nearest_interp", True))[0] is not False or said.card.get("interpolation") == "nearest"
    if nearest or True in _listed(discrete.get("argmax")):
        said.card["faithful"] = "nearest" if nearest else "values"
        how = "the nearest voxel" if nearest else "interpolating their numbers"
        said.notes.append(
            f"the bundle brings finished labels back by {how}, as --faithful does; segcli brings logits back"
        )
    else:
        said.notes.append("the bundle interpolates outputs of 0 and 1 on their way back; segcli brings logits back")


def _largest(item: Facts, before: Sequence[Document]) -> Document | None:
    """The step of `after` that KeepLargestConnectedComponent is; None where it does what segcli does not.

    before   what is done before it: labels have to stand, not outputs above a threshold
    """
    decided = any(_kind(other) == "AsDiscrete" and True in _listed(other.get("argmax")) for other in before)
    known = {
        "keys",
        "applied_labels",
        "is_onehot",
        "independent",
        "connectivity",
        "num_components",
        "allow_missing_keys",
    }
    plain = item.get("is_onehot") in (None, False) and item.get("num_components", 1) == 1
    neighbours = {1: 6, 3: 26, None: 26}.get(item.get("connectivity"))
    wanted = item.get("applied_labels")
    named = [str(value) for value in _listed(wanted)] if wanted is not None else None
    if not decided or not plain or neighbours is None or {k for k in item if not k.startswith("_")} - known:
        return None
    step: Document = {"step": "largest", "neighbours": neighbours}
    if named is not None:
        step["structures"] = named
    return step if item.get("independent", True) else {**step, "together": True}


def _labels(names: Sequence[str], items: Sequence[Document], said: _Said) -> None:
    """Fields `labels` and `regions`, of the outputs' names and of what is done with the outputs.

    Where the largest output wins, the first one is the background, whatever it is called. Outputs through a sigmoid
    are a region each, also one that is called background.
    """

    def done(kind: str, option: str) -> bool:
        return any(_kind(item) == kind and True in _listed(item.get(option)) for item in items)

    if not names:
        return
    largest, sigmoid = done("AsDiscrete", "argmax") or done("Activations", "softmax"), done("Activations", "sigmoid")
    begins = names[0] == "background"
    if largest or (begins and not sigmoid):
        every = names if begins or len(names) == said.network.outputs else ["background", *names]
        said.card["labels"] = {name: value for value, name in enumerate(every)}
    elif sigmoid and any(_kind(item) == "Lambda" for item in items):
        _merged_labels(names, items, said)
    elif sigmoid:
        structures = [name for name in names if name != "background"]
        labels = {"background": 0, **{name: value for value, name in enumerate(structures, start=1)}}
        said.card["labels"] = labels
        if len(names) == said.network.outputs:
            said.card["regions"] = [labels[name] for name in names]
        said.notes.append("sigmoid outputs overlap: they are written in the order of the outputs, the last one wins")
    else:
        said.notes.append("neither softmax, argmax nor sigmoid tells whether the first output is the background")


def _merged_labels(names: Sequence[str], items: Sequence[Document], said: _Said) -> None:
    """Fields `labels` and `regions` where a Lambda makes labels of regions; left out for one that is not understood.

    A card's regions are written in the order of the outputs, so the network's last layer is put in the Lambda's order.
    """
    from segcli.models.imports.recognise import LAST

    steps = [item for item in items if _kind(item) in ("AsDiscrete", "Lambda")]
    written = _writing(steps[-1])
    order = [channel for channel, _ in written]
    known = [_kind(item) for item in steps] == ["AsDiscrete", "Lambda"] and "background" not in names
    whole = len(names) == said.network.outputs and sorted(order) == list(range(len(names)))
    last = [f"{LAST.get(said.network.family, '')}.{part}" for part in ("weight", "bias")]
    tensors = said.network.folds[0]
    if not (known and whole and tensors.keys() >= set(last)):
        said.lacks["labels"] = (
            "the bundle makes labels of overlapping outputs by Python that was not evaluated (Lambda)"
        )
        return
    said.card["labels"] = {"background": 0, **{names[channel]: value for channel, value in written}}
    said.card["regions"] = [value for _, value in written]
    said.replaced |= {name: tensors[name][order] for name in last}
    told = ", ".join(names[channel] for channel in order)
    said.notes.append(f"the network's outputs are put in the order in which the bundle writes them: {told}")


def _writing(item: Facts) -> list[tuple[int, int]]:
    """Channel and value in the order of writing, of a Lambda that makes labels of outputs by nested `torch.where`.

    "$lambda x: torch.where(x[[2]] > 0, 4, torch.where(x[[0]] > 0, 1, 0))" writes 1 where output 0 says so, then 4 where
    output 2 does. Empty for anything else.
    """
    text = item.get("func")
    match = re.fullmatch(r"lambda(\w):(.+)", "".join(text.text.split())) if isinstance(text, Unknown) else None
    if match is None:
        return []
    variable, rest = match.groups()
    written: list[tuple[int, int]] = []
    while where := re.fullmatch(rf"torch\.where\({variable}\[\[(\d)\]\]>0,([1-9]\d*),(.+)\)", rest):
        written.insert(0, (int(where[1]), int(where[2])))
        rest = where[3]
    return written if rest == "0" else []
