"""MONAI bundles (a folder with configs/ and models/) as drafts of a card: literals are read, nothing is evaluated.

Configurations are JSON or YAML. Values that begin with "$" are Python. Of those only references are followed
("$@network_def", "$@bundle_root + '/models/model.pt'"), and one way to make labels of regions is read by its pattern
(`_writing`); the rest is left alone and, where it was needed, named as missing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segcli.errors import ModelError
from segcli.models import weights as checkpoint
from segcli.models.imports.draft import Draft, distinct, legible, recognised, shapes_of
from segcli.networks import registry
from segcli.networks.registry import Inferred

_FAMILIES = {
    "UNet": "monai_unet",
    "Unet": "monai_unet",
    "DynUNet": "dynunet",
    "DynUnet": "dynunet",
    "BasicUNet": "basicunet",
    "BasicUNetPlusPlus": "basicunetplusplus",
    "SegResNet": "segresnet",
    "SegResNetDS": "segresnetds",
    "UNETR": "unetr_monai",
    "SwinUNETR": "swinunetr",
}
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
_WEIGHTS = ("model.pt", "model.pth", "model.safetensors")
_ENDINGS = (".json", ".yaml", ".yml")
# What inference is run with; where there is no file for that, evaluation is training with some entries changed.
_CONFIGS = (("inference",), ("train", "evaluate"))
_DEPTH = 20  # of references to references
_MOST = 100_000  # values that a configuration may unfold to; the largest of MONAI's has a few hundred


def is_bundle(folder: Path) -> bool:
    """Whether a folder has the configuration of a bundle, or says in its metadata that it is one."""
    return any(_files(folder / "configs", (name,)) for names in (*_CONFIGS, ("metadata",)) for name in names)


def folder(path: Path) -> Draft:
    """The draft of a bundle's folder.

    errors   ModelError when there is no readable configuration or no weights, and when the weights are not those of
             the network that the configuration names
    """
    metadata = _merged(_files(path / "configs", ("metadata",)))
    config = _config(path / "configs")
    weights = _weights(path / "models")
    stored = checkpoint.read(weights)
    tensors = checkpoint.table(stored)
    notes: list[str] = []
    guess = _network(config, shapes_of(tensors), notes)
    draft = Draft(f"MONAI bundle, {weights.name}", guess.family, dict(guess.config), [tensors], notes=notes)
    draft.card["source"] = f"MONAI bundle {metadata.get('name', path.name)} {metadata.get('version', '')}".strip()
    with legible("the bundle's configuration"):
        names = _formats(metadata, draft)
        # The names of inference.json, then those of train.json.
        _transforms(
            _list(config, ("preprocessing", "pre_transforms", "transforms", "validate::preprocessing"), notes), draft
        )
        _inferer(config.get("inferer", "validate::inferer"), draft)
        after = _list(config, ("postprocessing", "post_transforms", "validate::postprocessing"), notes)
        _back(after, draft)
        _labels(names, after, draft)
    return draft


# ---- configurations -------------------------------------------------------------------------------------------------


class _Unknown:
    """A value that only running Python would tell."""

    def __init__(self, text: str) -> None:
        self.text = text


class References:
    """A configuration whose references are followed; what would have to be evaluated becomes _Unknown.

    Understood: "@id", "@id::sub" and "@id#sub", the same with "%" (MONAI's copies), "$@id", "$@id + 'text'",
    "$A if @id else B" with literals, and "$[...]" or numbers that are JSON.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = config
        self._left = _MOST

    def get(self, *names: str) -> Any:
        """The entry of the first of several ids that is there, None without one."""
        for name in names:
            if not isinstance(found := self._followed(name, _DEPTH), _Unknown) or name in self.config:
                return found
        return None

    def resolve(self, value: Any, depth: int = _DEPTH) -> Any:
        """A value with its references followed.

        errors   ModelError where references to references unfold without end
        """
        self._left -= 1
        if self._left < 0:
            raise ModelError(f"the bundle's references unfold to more than {_MOST} values: not allowed")
        if depth == 0:
            return _Unknown("references that go round in a circle")
        if isinstance(value, dict):
            return {k: self.resolve(v, depth - 1) for k, v in value.items()}
        if isinstance(value, list):
            return [self.resolve(v, depth - 1) for v in value]
        if not isinstance(value, str):
            return value
        if value.startswith(("@", "%")):
            return self._followed(value[1:], depth - 1)
        if not value.startswith("$"):
            return value
        return self._pattern(" ".join(value[1:].split()), depth)

    def _pattern(self, text: str, depth: int) -> Any:
        """What a "$" text says by one of a few patterns; it is never evaluated."""
        if match := re.fullmatch(rf"({_ID})\.to\([^()]*\)", text):  # a network moved to a device
            return self._followed(match[1][1:], depth - 1)
        if match := re.fullmatch(rf"({_ID})\s*\+\s*('[^']*'|\"[^\"]*\")", text):
            first = self._followed(match[1][1:], depth - 1)
            return first + match[2][1:-1] if isinstance(first, str) else _Unknown(text)
        if match := re.fullmatch(rf"(.+?)\s+if\s+({_ID})\s+else\s+(.+)", text):
            condition = self._followed(match[2][1:], depth - 1)
            if isinstance(condition, bool):
                return self._literal(match[1] if condition else match[3], depth)
            return _Unknown(text)
        return self._literal(text, depth)

    def _literal(self, text: str, depth: int) -> Any:
        if re.fullmatch(_ID, text):
            return self._followed(text[1:], depth - 1)
        plain = {"True": True, "False": False, "None": None}
        if text in plain:
            return plain[text]
        if re.fullmatch(r"'[^']*'", text):
            return text[1:-1]
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            return _Unknown(text)

    def _followed(self, name: str, depth: int) -> Any:
        place: Any = self.config
        for part in re.split(r"#|::", name):
            if isinstance(place, str):  # an entry that is itself a reference
                place = self.resolve(place, depth)
            if isinstance(place, dict) and part in place:
                place = place[part]
            elif isinstance(place, list) and part.isdecimal() and int(part) < len(place):
                place = place[int(part)]
            else:
                return _Unknown(f"@{name}")
        return self.resolve(place, depth)


_ID = r"@[A-Za-z_][\w#:]*"


def _config(folder: Path) -> References:
    """The configuration that inference is run with, of one file or of several laid over each other."""
    for names in _CONFIGS:
        if files := _files(folder, names):
            return References(_merged(files))
    raise ModelError(f"{folder.parent.name}: has no configs/inference.json (or .yaml)")


def _files(folder: Path, names: Sequence[str]) -> list[Path]:
    """The files of these names, JSON before YAML where there are both."""
    found = [[folder / f"{name}{ending}" for ending in _ENDINGS] for name in names]
    return [next(p for p in paths if p.is_file()) for paths in found if any(p.is_file() for p in paths)]


def _merged(files: Sequence[Path]) -> dict[str, Any]:
    """Entries of several files: a later one replaces an earlier one, at "a::b" in a; "+a" adds to a (as MONAI has it).

    errors   ModelError for a file that cannot be read
    """
    merged: dict[str, Any] = {}
    for path in files:
        with legible(path.name):
            for key, value in _document(path).items():
                *places, last = re.split(r"#|::", key.removeprefix("+"))
                inside: Any = merged
                for part in places:
                    inside = inside[int(part)] if isinstance(inside, list) else inside.setdefault(part, {})
                at: Any = int(last) if isinstance(inside, list) else last
                old = inside[at] if isinstance(inside, list) else inside.get(at)
                if key.startswith("+") and isinstance(old, dict) and isinstance(value, dict):
                    inside[at] = {**old, **value}
                elif key.startswith("+") and isinstance(old, list) and isinstance(value, list):
                    inside[at] = [*old, *value]
                else:
                    inside[at] = value
    return merged


def _document(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else _yaml(text)
    except (OSError, ValueError, RecursionError) as error:
        kind = "JSON" if path.suffix == ".json" else "YAML"
        raise ModelError(f"{path.name}: cannot be read as {kind}: {error}") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path.name}: is not an object with fields")
    return found


def _yaml(text: str) -> Any:
    """The JSON that a YAML document says, as MONAI reads it: yes, no, on and off are booleans.

    errors   ValueError: not YAML, or with a tag that would make a Python object
    """
    import yaml

    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    left = _MOST

    def plain(value: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError(f"its aliases unfold to more than {_MOST} values: not allowed")
        if isinstance(value, dict):
            return {str(k): plain(v) for k, v in value.items()}  # YAML's 0: is JSON's "0":
        if isinstance(value, list):
            return [plain(v) for v in value]
        if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
            return float(value)  # YAML 1.1 takes 1e-5 for a text
        return value if value is None or isinstance(value, str | int | float) else str(value)  # a date, a set

    return plain(found)


def _weights(folder: Path) -> Path:
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    there = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    alone = [name for name in there if Path(name).suffix in (".pt", ".pth", ".safetensors")]
    if len(alone) == 1:
        return folder / alone[0]
    if "model.ts" in there:
        raise ModelError(
            f"{folder.parent.name}: only TorchScript (models/model.ts), a program that would run as code: not allowed",
            hint="save its tensors where it was made: torch.save(torch.jit.load('model.ts').state_dict(), 'model.pt')",
        )
    raise ModelError(f"{folder.parent.name}: models/ has no {_WEIGHTS[0]}, only {', '.join(there) or 'nothing'}")


# ---- what the configuration says ------------------------------------------------------------------------------------


def _kind(item: Any) -> str:
    """A component's class without its package and without the "d" of dictionary transforms."""
    target = item.get("_target_", item.get("name", "")) if isinstance(item, dict) else ""
    name = str(target).rpartition(".")[2]
    name = re.sub("(Dict|D)$", "d", name)
    return name if name in _PADS else name.removesuffix("d")  # SpatialPad ends with a "d" of its own


def _list(config: References, keys: Sequence[str], notes: list[str]) -> list[dict[str, Any]]:
    """The transforms of the first of several entries that is there."""
    found = config.get(*keys)
    if isinstance(found, _Unknown):
        notes.append(f"{keys[0]} is Python and was not evaluated: {found.text[:80]}")
    if isinstance(found, dict):
        found = found.get("transforms", [])
    if not isinstance(found, list):
        return []
    return [item for item in found if isinstance(item, dict) and item.get("_disabled_") is not True]


def _network(config: References, shapes: Mapping[str, tuple[int, ...]], notes: list[str]) -> Inferred:
    """The network that the configuration names, checked against the tensors; else the one they tell."""
    for key in ("network_def", "network", "net", "model"):
        found = config.get(key)
        if not isinstance(found, dict) or "_target_" not in found:
            continue
        kind = str(found["_target_"]).rpartition(".")[2]
        if kind not in _FAMILIES:
            notes.append(f"the network {kind} is not known by that name; the tensors tell which it is")
            break
        arguments = {k: v for k, v in found.items() if not k.startswith("_")}
        unknown = sorted(k for k, v in arguments.items() if _has_unknown(v))
        if unknown:
            notes.append(f"arguments of {kind} are Python and were not evaluated: {', '.join(unknown)}")
            break
        guess = Inferred(_FAMILIES[kind], _renamed(kind, arguments))
        differences = registry.differences(guess, shapes)
        if differences:
            name, (ours, theirs) = next(iter(differences.items()))
            raise ModelError(
                f"the weights are not those of the bundle's {kind}: {len(differences)} tensors differ, "
                f"{name} has the shape {theirs}, not {ours}"
            )
        return guess
    return recognised(shapes, None, "models/model.pt")


def _renamed(kind: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments in the terms of today's MONAI: some had other names once, some say nothing about the output."""
    for name in ("save_attn", "preprocess", "norm_name"):
        if name == "save_attn" or not arguments.get(name):
            arguments.pop(name, None)
    if "dimensions" in arguments:
        arguments["spatial_dims"] = arguments.pop("dimensions")
    if kind == "UNETR" and "pos_embed" in arguments:
        arguments["proj_type"] = arguments.pop("pos_embed")
    return arguments


def _has_unknown(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_has_unknown(v) for v in value.values())
    if isinstance(value, list):
        return any(_has_unknown(v) for v in value)
    return isinstance(value, _Unknown)


def _formats(metadata: Mapping[str, Any], draft: Draft) -> list[str]:
    """Channels from metadata.json; the names of the outputs are returned."""
    formats = metadata.get("network_data_format", {})
    image: dict[str, Any] = next(iter(formats.get("inputs", {}).values()), {})
    names = _definition(image.get("channel_def"))
    modality = str(image.get("modality", ""))
    short = {"ct": "CT", "mr": "MR", "mri": "MR"}.get(modality.lower())
    if names:
        draft.card["channels"] = [modality] if names == ["image"] and modality else names
    if short:
        draft.card["modality"] = short
    outputs: dict[str, Any] = next(iter(formats.get("outputs", {}).values()), {})
    return distinct(_definition(outputs.get("channel_def")))


def _definition(found: Any) -> list[str]:
    if not isinstance(found, dict) or not all(str(k).isdecimal() for k in found):
        return []
    return [str(found[k]) for k in sorted(found, key=int)]


def _transforms(items: Sequence[dict[str, Any]], draft: Draft) -> None:
    """Grid and intensity steps, in their order; what they leave open is left out of the card."""
    steps: list[dict[str, Any]] = []
    order: list[str] = []
    known = True
    for item in items:
        kind = _kind(item)
        if kind in _LITTLE:
            continue
        if kind in ("Orientation", "Spacing"):
            order.append(kind)
        if any(_has_unknown(v) for k, v in item.items() if k not in ("keys", "reader", "device")):
            draft.notes.append(f"{kind} has values that are Python and were not evaluated")
            known = False
        elif kind == "Orientation":
            axes = "RAS" if item.get("as_closest_canonical") else item["axcodes"]
            draft.card["orientation"] = "".join(axes)
        elif kind == "Spacing":
            draft.card |= _spacing(item, draft.notes)
            steps.append({"step": "resample"})
        elif kind == "CropForeground":
            margins = _listed(item.get("margin", 0))
            if len(set(margins)) > 1 or item.get("k_divisible", 1) != 1:
                draft.notes.append("the crop's margin is another on each side; segcli takes the largest")
            steps.append({"step": "crop", "above": 0.0, "margin": max(int(n) for n in margins)})
        elif kind in _PADS:
            draft.notes.append(f"the padding of {kind} is left to the windows")
        else:
            found = _intensity(kind, item, draft.inputs or 1)
            if found is None:
                draft.notes.append(f"the transform {kind} is not one that segcli has, or not with these options")
                known = False
            steps += found or []
    if items and "Orientation" not in order:
        draft.card["orientation"] = None
    if draft.card.get("orientation") is None:
        draft.card["transpose"] = [2, 1, 0]  # MONAI's arrays are i, j, k of the file, segcli's k, j, i
    if items and "Spacing" not in order:
        draft.card["spacing"] = None
    if order:
        draft.card["anchor"] = "stored" if order[0] == "Spacing" and len(order) > 1 else "oriented"
    if items and known:
        draft.card["intensity"] = [*steps, {"step": "outside", "value": 0}]


def _spacing(item: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """Fields `spacing` and `interpolation`: 0 and below keep an axis, the last number stands for those that lack."""
    steps = [float(p) if p > 0 else None for p in _listed(item["pixdim"])]
    mode = _listed(item.get("mode", "bilinear"))[0]
    how = {"nearest": "nearest", "bilinear": "linear", 0: "nearest", 1: "linear"}.get(mode)
    if how is None or item.get("diagonal") or item.get("scale_extent"):
        notes.append("Spacing has an interpolation or a corner that segcli has not: linear, between voxel centres")
    return {"spacing": (steps + steps[-1:] * 3)[:3], "interpolation": how or "linear"}


def _intensity(kind: str, item: Mapping[str, Any], channels: int) -> list[dict[str, Any]] | None:
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


def _each(item: Mapping[str, Any], channels: int) -> bool:
    """Whether a transform looks at one channel at a time, as segcli's steps do."""
    return channels == 1 or bool(item.get("channel_wise", False))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _inferer(item: Any, draft: Draft) -> None:
    """Windows as the sliding-window inferer has them."""
    if not isinstance(item, dict):
        return
    kind, roi = _kind(item), item.get("roi_size")
    if kind not in ("SlidingWindowInferer", "SlidingWindowInfererAdapt", "SliceInferer"):
        draft.notes.append(f"the bundle shows the network whole images ({kind}), segcli windows: give --patch")
        return
    if kind == "SliceInferer":
        axis = item.get("spatial_dim", 0)
        draft.card["slice_axis"] = axis
        roi = [*roi[:axis], 1, *roi[axis:]] if isinstance(roi, list) and len(roi) == 2 else None
    roi = [roi] * 3 if isinstance(roi, int) else roi
    if isinstance(roi, list) and len(roi) == 3 and all(isinstance(n, int) and n > 0 for n in roi):
        draft.card["patch_size"] = roi
    overlap, sigma, mode = item.get("overlap", 0.25), item.get("sigma_scale", 0.125), item.get("mode", "constant")
    if all(isinstance(v, int | float) for v in (overlap, sigma)) and mode in ("constant", "gaussian"):
        draft.card |= {"overlap": overlap, "blend": mode, "sigma": sigma}
    else:
        draft.notes.append(f"overlap, sigma_scale or mode of the {kind} is not one that segcli has: its own are taken")
    padding = item.get("padding_mode", "constant")
    if padding == "replicate":
        draft.card["padding"] = "edge"
    elif padding != "constant":
        draft.notes.append(f"padding by {padding} is not one that segcli has: 0 is taken")


def _back(items: Sequence[dict[str, Any]], draft: Draft) -> None:
    """What is interpolated on the way back to the scan; what is done after the network and not here."""
    kinds = [_kind(item) for item in items]
    before = kinds[: kinds.index("Invert")] if "Invert" in kinds else []
    if "AsDiscrete" in before:
        draft.notes.append("the bundle brings finished labels back by the nearest voxel; segcli brings logits back")
    elif "Activations" in before:
        draft.card["back"] = "probabilities"
    for item in items:
        if _kind(item) not in (*_LITTLE, "Activations", "Invert", "AsDiscrete", "SaveImage") and not _writing(item):
            draft.notes.append(f"the bundle's {_kind(item)} after the network is left out")
        if item.get("threshold", 0.5) != 0.5:
            draft.notes.append(f"the bundle's threshold is {item['threshold']}; segcli's is 0.5")


def _labels(names: Sequence[str], items: Sequence[dict[str, Any]], draft: Draft) -> None:
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
        every = names if begins or len(names) == draft.outputs else ["background", *names]
        draft.card["labels"] = {name: value for value, name in enumerate(every)}
    elif sigmoid and any(_kind(item) == "Lambda" for item in items):
        _merged_labels(names, items, draft)
    elif sigmoid:
        structures = [name for name in names if name != "background"]
        labels = {"background": 0, **{name: value for value, name in enumerate(structures, start=1)}}
        draft.card["labels"] = labels
        if len(names) == draft.outputs:
            draft.card["regions"] = [labels[name] for name in names]
        draft.notes.append("sigmoid outputs overlap: they are written in the order of the outputs, the last one wins")
    else:
        draft.notes.append("neither softmax, argmax nor sigmoid tells whether the first output is the background")


def _merged_labels(names: Sequence[str], items: Sequence[dict[str, Any]], draft: Draft) -> None:
    """Fields `labels` and `regions` where a Lambda makes labels of regions; left out for one that is not understood.

    A card's regions are written in the order of the outputs, so the network's last layer is put in the Lambda's order.
    """
    steps = [item for item in items if _kind(item) in ("AsDiscrete", "Lambda")]
    written = _writing(steps[-1])
    order = [channel for channel, _ in written]
    known = [_kind(item) for item in steps] == ["AsDiscrete", "Lambda"] and "background" not in names
    whole = len(names) == draft.outputs and sorted(order) == list(range(len(names)))
    last = [f"conv_final.2.conv.{part}" for part in ("weight", "bias")]  # of a SegResNet
    tensors = draft.folds[0]
    if not (known and whole and tensors.keys() >= set(last)):
        draft.notes.append("the bundle makes labels of overlapping outputs by Python that was not evaluated (Lambda)")
        return
    draft.card["labels"] = {"background": 0, **{names[channel]: value for channel, value in written}}
    draft.card["regions"] = [value for _, value in written]
    tensors |= {name: tensors[name][order] for name in last}
    told = ", ".join(names[channel] for channel in order)
    draft.notes.append(f"the network's outputs are put in the order in which the bundle writes them: {told}")


def _writing(item: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Channel and value in the order of writing, of a Lambda that makes labels of outputs by nested `torch.where`.

    "$lambda x: torch.where(x[[2]] > 0, 4, torch.where(x[[0]] > 0, 1, 0))" writes 1 where output 0 says so, then 4 where
    output 2 does. Empty for anything else.
    """
    text = item.get("func")
    match = re.fullmatch(r"lambda(\w):(.+)", "".join(text.text.split())) if isinstance(text, _Unknown) else None
    if match is None:
        return []
    variable, rest = match.groups()
    written: list[tuple[int, int]] = []
    while where := re.fullmatch(rf"torch\.where\({variable}\[\[(\d)\]\]>0,([1-9]\d*),(.+)\)", rest):
        written.insert(0, (int(where[1]), int(where[2])))
        rest = where[3]
    return written if rest == "0" else []
