"""What a MONAI bundle (a folder with configs/ and models/) states: literals are read, nothing is evaluated.

Of the Python in a configuration references are followed (`bundle_config`), and two ways to make labels of regions are
known (`bundle_after`); the rest is left alone and, where it was needed, named as missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from segcli.documents import Content, Document, Facts, legible
from segcli.models import checkpoint
from segcli.models.imports import bundle_vista3d as vista3d
from segcli.models.imports.bundle_after import labels_of, way_back
from segcli.models.imports.bundle_config import References, Unknown, configuration, files, merged
from segcli.models.imports.bundle_network import has_unknown
from segcli.models.imports.bundle_network import network as network_of
from segcli.models.imports.bundle_said import (
    CONCATENATIONS,
    LITTLE,
    PADS,
    Said,
    alike,
    images,
    kind_of,
    listed,
    of_image,
    touched,
)
from segcli.models.imports.bundle_weights import weights_file as weights_of
from segcli.models.imports.source import ModelSource, Stated, label_names
from segcli.networks.registry import Inferred

if TYPE_CHECKING:
    from segcli.models.imports.recognise import Recognised


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
    said = Said(network, {"source": origin})
    with legible("the bundle's configuration"):
        names = _formats(metadata, config, said)
        # The names of inference.json, then those of train.json.
        keys = ("preprocessing", "pre_transforms", "transforms", "validate::preprocessing")
        _transforms(_list(config, keys, said.notes), said)
        _inferer(vista3d.plain(config.get("inferer", "validate::inferer")), metadata, said)
        after = _list(config, ("postprocessing", "post_transforms", "validate::postprocessing"), said.notes)
        way_back(after, said)
        labels_of(names, after, said)
    return Stated(said.card, said.notes, said.lacks, said.replaced)


# ---- what the configuration says ------------------------------------------------------------------------------------


def _list(config: References, keys: Sequence[str], notes: list[str]) -> list[Document]:
    """The transforms of the first of several entries that is there."""
    found = config.get(*keys)
    if isinstance(found, Unknown):
        notes.append(f"{keys[0]} is Python and was not evaluated: {found.text[:80]}")
    if isinstance(found, dict):
        found = found.get("transforms", [])
    if not isinstance(found, list):
        return []
    shown = (vista3d.plain(item) for item in found)
    return [item for item in shown if isinstance(item, dict) and item.get("_disabled_") is not True]


def _formats(metadata: Facts, config: References, said: Said) -> list[str]:
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


def _transforms(items: Sequence[Document], said: Said) -> None:
    """Grid and intensity steps, in their order; what they leave open is left out of the card."""
    steps: list[Document] = []
    order: list[str] = []
    known, padded = True, False
    places, parts = touched(items)
    apart = parts == said.network.inputs  # each of the images that are put together is one channel
    for item, at in zip(items, places, strict=True):
        kind, shown = kind_of(item), images(item)
        if at == frozenset() or (kind in LITTLE and not _rounds(item)):
            continue
        if kind in ("Orientation", "Spacing"):
            order.append(kind)
        some = {} if at is None or len(at) == parts else {"channels": sorted(at)}
        if some and (not apart or kind in ("Orientation", "Spacing", "CropForeground", "Resize")):
            said.lack(kind.lower(), f"{kind} is done with some of the network's images alone")
            known = False
        elif any(has_unknown(v) for k, v in item.items() if k not in ("keys", "reader", "device")):
            said.lack(kind.lower(), f"{kind} has values that are Python and were not evaluated")
            known = False
        elif kind == "Orientation" and _fits_a_card(item, order):
            axes = "RAS" if item.get("as_closest_canonical") else item["axcodes"]
            said.card["orientation"] = "".join(axes)
        elif kind == "Spacing" and alike(item, "mode") and not said.card.get("shape") and order.count(kind) == 1:
            said.card |= _spacing(item, said.notes)
            steps.append({"step": "resample"})
        elif kind == "CropForeground":
            crop = _crop(item, shown, said)
            known &= crop is not None
            steps += [crop] if crop else []
        elif kind == "Resize" and alike(item, "mode") and (shape := _resized(item)) and "Spacing" not in order:
            said.card |= shape
            steps.append({"step": "resample"})
        elif kind == "AddGuidanceSignalDeepEdit":
            said.card["blank"] = (said.network.inputs or 1) - int(item.get("number_intensity_ch", 1))
            said.notes.append("channels of a person's clicks are 0: the network labels without any")
        elif kind in CONCATENATIONS:
            _concatenated(item, said)
        elif kind in PADS:
            said.notes.append(f"the padding of {kind} is left to the windows")
            padded = True
        else:
            found = _intensity(kind, item, 1 if apart and at is not None else said.network.inputs or 1)
            if found is None:
                said.lack(kind.lower(), f"the transform {kind} is not one that segcli has, or not with these options")
                known = False
            elif padded and any(_of_all(step) for step in found):
                said.lack("", f"{kind} goes by all voxels, also those of a padding before it, which segcli leaves out")
                known = False
            steps += [{**step, **some} for step in found or []]
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


def _crop(item: Facts, shown: Sequence[str], said: Said) -> Document | None:
    """The step of a CropForeground; None where it goes by no image that the network is shown."""
    margins = listed(item.get("margin", 0))
    said.notes += _other_box(item, margins)
    if (item.get("channel_indices") is not None or len(shown) > 1) and (said.network.inputs or 1) > 1:
        said.notes.append("the crop looks at some of the channels; segcli's keeps what is above 0 in any of them")
    source = item.get("source_key")
    if source is not None and source not in shown:
        said.lack("", f"CropForeground goes by {source!r}, which is no image that the network is shown")
        return None
    return {"step": "crop", "above": 0.0, "margin": max(int(n) for n in margins)}


def _fits_a_card(item: Facts, order: Sequence[str]) -> bool:
    """Whether a card can say what an Orientation does: one with MONAI's names of axes, and no other before a spacing.

    order   of the turning and spacing transforms up to this one
    """
    usual = item.get("labels") in (None, [["L", "R"], ["P", "A"], ["I", "S"]])
    return usual and (order[0] == "Spacing" or order.count("Orientation") == 1)


def _rounds(item: Facts) -> bool:
    """Whether a transform of `LITTLE` makes whole numbers of the image's values."""
    kind = of_image(item, "dtype", None)
    return isinstance(kind, str) and kind.rpartition(".")[2].startswith(("int", "uint"))


def _of_all(step: Facts) -> bool:
    """Whether what a step does hangs on all of the image's voxels."""
    if step["step"] == "standardise":
        return "mean" not in step and step.get("where") != "nonzero"
    return step["step"] == "percentiles" or (step["step"] == "scale" and "from" not in step)


def _other_box(item: Facts, margins: Sequence[Content]) -> list[str]:
    """What is said of a CropForeground whose box is not segcli's."""
    told = []
    if len(set(margins)) > 1:
        told.append("the crop's margin is another on each side; segcli takes the largest")
    if any(margins) and item.get("allow_smaller") is not True:
        told.append("MONAI from 1.5 pads where the crop's margin goes beyond the scan; segcli's ends with the scan")
    if set(listed(item.get("k_divisible", 1))) != {1}:
        told.append("the crop makes its sides multiples of k_divisible, and segcli does not")
    return told


def _resized(item: Facts) -> Document | None:
    """Fields `shape` and `interpolation` of a Resize; None for one that segcli has not."""
    shape, mode = _sides(item.get("spatial_size")), of_image(item, "mode", "area")
    how = {"area": "area", "trilinear": "linear"}.get(mode) if isinstance(mode, str) else None
    others = {
        k
        for k, v in item.items()
        if k in ("align_corners", "anti_aliasing", "size_mode") and v not in (None, False, "all")
    }
    return {"shape": shape, "interpolation": how} if how and shape and not others else None


def _concatenated(item: Facts, said: Said) -> None:
    """Channels of several images that are put together, by the names of these."""
    keys = listed(item.get("keys_merge", item.get("keys")))
    if len(keys) == said.network.inputs and len(said.card.get("channels", ())) != len(keys):
        said.card["channels"] = [str(key) for key in keys]


def _spacing(item: Facts, notes: list[str]) -> Document:
    """Fields `spacing` and `interpolation`: 0 and below keep an axis, the last number stands for those that lack."""
    steps = [float(p) if p > 0 else None for p in listed(item["pixdim"])]
    mode = of_image(item, "mode", "bilinear")
    how = {"nearest": "nearest", "bilinear": "linear", 0: "nearest", 1: "linear"}.get(mode)
    if (beyond := of_image(item, "padding_mode", "border")) not in ("border", "nearest"):
        notes.append(f"Spacing takes {beyond!r} for what lies beyond the scan; segcli repeats its outermost voxels")
    if how is None or item.get("diagonal") or item.get("scale_extent"):
        notes.append("Spacing has an interpolation or a corner that segcli has not: linear, between voxel centres")
    if bounds := [name for name in ("min_pixdim", "max_pixdim") if item.get(name) is not None]:
        notes.append(f"Spacing leaves scans beyond its {' and '.join(bounds)} as they are; segcli resamples all")
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
        pairs = list(zip(listed(means), listed(widths), strict=True))
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


def _whole(kind: str, roi: Content, metadata: Facts, said: Said) -> None:
    """The whole image, for a network that takes images of other sizes; else windows in place of it.

    Their size is the one that the inferer states, else the one that the metadata does.
    """
    if (shape := said.card.get("shape")) and roi is None:
        said.card["patch_size"] = shape
        return
    step = _step(said.network) if kind == "SimpleInferer" and roi is None else None
    if step is not None:
        said.card |= {"whole": True, "patch_size": [step] * 3}
        return
    image: Document = next(iter(metadata.get("network_data_format", {}).get("inputs", {}).values()), {})
    if shape := _sides(roi or image.get("spatial_shape")):
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


def _inferer(item: Content, metadata: Facts, said: Said) -> None:
    """Windows as the sliding-window inferer has them."""
    if not isinstance(item, dict):
        return
    kind, roi = kind_of(item), item.get("roi_size")
    if kind not in ("SlidingWindowInferer", "SlidingWindowInfererAdapt", "SliceInferer"):
        _whole(kind, roi, metadata, said)
        return
    if kind == "SliceInferer":
        axis = item.get("spatial_dim", 0)
        said.card["slice_axis"] = axis
        roi = [*roi[:axis], 1, *roi[axis:]] if isinstance(roi, list) and len(roi) == 2 else None
    if size := _sides(roi):
        said.card["patch_size"] = size
    overlap, sigma = (_alike(item.get(option, usual)) for option, usual in (("overlap", 0.25), ("sigma_scale", 0.125)))
    mode = item.get("mode", "constant")
    if all(isinstance(v, int | float) for v in (overlap, sigma)) and mode in ("constant", "gaussian"):
        said.card |= {"overlap": overlap, "blend": mode, "sigma": sigma}
    else:
        said.notes.append(f"overlap, sigma_scale or mode of the {kind} is not one that segcli has: its own are taken")
    padding = item.get("padding_mode", "constant")
    if padding == "replicate":
        said.card["padding"] = "edge"
    elif padding != "constant":
        said.notes.append(f"padding by {padding} is not one that segcli has: 0 is taken")
    elif isinstance(value := item.get("cval", 0), int | float) and said.card.get("intensity"):
        said.card["intensity"][-1]["value"] = value


def _alike(value: Content) -> Content:
    """A number that each axis has, of a list with nothing else; any other value as it is."""
    return value[0] if isinstance(value, list) and value and value == value[:1] * len(value) else value


def _sides(size: Content) -> list[int] | None:
    """Three sides in voxels, of a list of them or of one number for all; None of anything else."""
    sides = [size] * 3 if isinstance(size, int) else size
    fits = isinstance(sides, list) and len(sides) == 3 and all(isinstance(n, int) and n > 0 for n in sides)
    return sides if fits else None
