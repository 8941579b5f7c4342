"""nnU-Net's model folders, version 2 (plans.json) and 1 (plans.pkl), as drafts of a card.

Array order is z, y, x there as it is here. What the two versions do before and after the network is in networks.md
sections 8.3 and 13: non-zero crop, cubic resampling with the through-plane axis apart, even steps, Gaussian weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segcli.errors import ModelError
from segcli.models import unpickle, weights
from segcli.models.imports.draft import Draft, distinct, legible, network_in, recognised, resized, shapes_of, slug
from segcli.models.weights import Tensors
from segcli.networks import registry
from segcli.networks.registry import Inferred

_FINAL_V2 = ("checkpoint_final.pth", "checkpoint_best.pth")
_FINAL_V1 = ("model_final_checkpoint.model", "model_best.model")
_CLASSES = {
    "PlainConvUNet": "nnunet_plain",
    "ResidualEncoderUNet": "nnunet_resenc",
}
# Axes codes of the arrays that each reader hands over, in array order; None is the file's own order.
_READERS = {
    "SimpleITKIO": None,
    "NibabelIO": None,
    "SimpleITKIOWithReorient": "SAR",
    "NibabelIOWithReorient": "SAR",
}
# Version 1 normalises after resampling, version 2 before. Padding comes last, with 0 whatever air has become by then.
_CROP: dict[str, Any] = {"step": "crop", "above": None}
_RESAMPLE: dict[str, Any] = {"step": "resample"}
_PAD: dict[str, Any] = {"step": "outside", "value": 0}


# ---- version 2 ------------------------------------------------------------------------------------------------------


def v2_folder(folder: Path) -> Draft:
    """The draft of a folder with plans.json, dataset.json and fold_X/checkpoint_final.pth."""
    plans, dataset = _json(folder / "plans.json"), _json(folder / "dataset.json")
    files = _fold_files(folder, _FINAL_V2)
    stored = [weights.read(path) for path in files]
    with legible("plans.json and dataset.json"):
        draft = v2(plans, dataset, stored, folder.name.rpartition("__")[2])
    draft.container = f"nnU-Net v2 folder, {_folds(files)}"
    draft.card["source"] = f"nnU-Net v2, {plans.get('dataset_name', folder.name)}, plans.json"
    return draft


def v2_file(stored: weights.Stored) -> Draft:
    """The draft of a checkpoint alone, which carries plans and dataset.json in itself."""
    init = stored.content["init_args"]
    with legible(f"{stored.name}: its plans and dataset.json"):
        draft = v2(init["plans"], init["dataset_json"], [stored], "")
    draft.container = "nnU-Net v2 checkpoint"
    draft.card["source"] = f"nnU-Net v2, {init['plans'].get('dataset_name', stored.name)}, plans in the checkpoint"
    return draft


def v2(
    plans: Mapping[str, Any], dataset: Mapping[str, Any], stored: Sequence[weights.Stored], configuration: str
) -> Draft:
    """The draft that plans, dataset.json and the checkpoints of some folds make."""
    content = stored[0].content
    init = content.get("init_args", {}) if isinstance(content, dict) else {}
    name = str(init.get("configuration") or configuration)
    chosen = _configuration(plans, name)
    if chosen.get("previous_stage"):
        raise ModelError(
            f"the configuration {name} is the second stage of a cascade, which needs the labels of the first",
            hint="import the folder of its 3d_fullres or 3d_lowres configuration",
        )
    folds = [weights.table(one) for one in stored]
    named = dataset.get("channel_names") or dataset["modality"]
    channels = [str(named[number]) for number in sorted(named, key=int)]
    if len(set(channels)) < len(channels):
        channels = [f"{name}_{number}" for number, name in enumerate(channels)]
    fields, outputs = _labels(dataset)
    family, arguments = _architecture(chosen, len(channels), outputs, shapes_of(folds[0]))
    draft = Draft("nnU-Net v2", family, arguments, folds)
    draft.card = {
        **_common(plans, channels, chosen["spacing"], chosen["patch_size"]),
        **_resampling(chosen, draft.notes),
        **fields,
        "floor": 6e-9,  # the smallest number above 0 of float16, in which the weights up to 10 are kept there
        "average": "logits",
    }
    reader = str(plans.get("image_reader_writer", "SimpleITKIO"))
    if reader in _READERS:
        draft.card |= _turned(_READERS[reader], draft.card["transpose"])
    else:
        draft.notes.append(f"the orientation that the reader {reader} hands over is not known")
    steps = _normalisation(
        len(channels),
        chosen["normalization_schemes"],
        chosen.get("use_mask_for_norm", []),
        plans.get("foreground_intensity_properties_per_channel", {}),
        draft.notes,
    )
    if steps is not None:
        draft.card["intensity"] = [_CROP, *steps, _RESAMPLE, _PAD]
    axes = content.get("inference_allowed_mirroring_axes") if isinstance(content, dict) else None
    if axes:
        draft.card["mirror"] = [int(a) + 3 - len(chosen["patch_size"]) for a in axes]
    return draft


def _turned(axes: str | None, transpose: Sequence[int]) -> dict[str, Any]:
    """Fields `orientation` and `transpose`; the axes code of a reader that turns scans says the order after both."""
    if axes is None:
        return {"orientation": None}
    return {"orientation": "".join(axes[a] for a in transpose), "transpose": [0, 1, 2]}


def _configuration(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """One configuration with what it inherits."""
    table = plans.get("configurations", {})
    if name not in table:
        if len(table) == 1:
            name = next(iter(table))
        else:
            raise ModelError(
                f"plans.json has the configurations {', '.join(table) or 'none'}, and {name!r} is not among them",
                hint="a folder is called TRAINER__PLANS__CONFIGURATION",
            )
    chosen: dict[str, Any] = {}
    seen: list[str] = []
    while name:
        if name in seen or name not in table:
            raise ModelError(f"plans.json: the configuration {name!r} inherits from itself or from none that is there")
        seen.append(name)
        chosen = {**table[name], **chosen}
        name = table[name].get("inherits_from", "")
    return chosen


def _architecture(
    chosen: Mapping[str, Any], inputs: int, outputs: int, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[str, dict[str, Any]]:
    """The family and arguments of a configuration, before version 2.4 rebuilt from the plans' own fields."""
    described = chosen.get("architecture")
    if described is not None:
        given = str(described["network_class_name"]).rpartition(".")[2]
        arguments = dict(described["arch_kwargs"])
    else:
        given = str(chosen.get("UNet_class_name", "PlainConvUNet"))
        strides = chosen["pool_op_kernel_sizes"]
        base, most = int(chosen["UNet_base_num_features"]), int(chosen["unet_max_num_features"])
        units = "n_blocks_per_stage" if given == "ResidualEncoderUNet" else "n_conv_per_stage"
        arguments = {
            "n_stages": len(strides),
            "features_per_stage": [min(base * 2**i, most) for i in range(len(strides))],
            "conv_op": f"torch.nn.Conv{len(strides[0])}d",
            "kernel_sizes": chosen["conv_kernel_sizes"],
            "strides": strides,
            units: chosen["n_conv_per_stage_encoder"],
            "n_conv_per_stage_decoder": chosen["n_conv_per_stage_decoder"],
            "conv_bias": True,
            "norm_op": f"torch.nn.InstanceNorm{len(strides[0])}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        }
    if given not in _CLASSES:
        guess = recognised(shapes, None, f"a network of the class {given}")
        return guess.family, guess.config
    arguments.pop("dropout_op_kwargs", None)
    arguments.pop("dropout_op", None)
    return _CLASSES[given], {**arguments, "input_channels": inputs, "num_classes": outputs}


def _labels(dataset: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """Fields `labels` and `regions` of the card, and how many outputs the network has."""
    table = {str(k): v for k, v in dataset["labels"].items()}
    if all(k.isdecimal() and isinstance(v, str) for k, v in table.items()):
        table = {v: int(k) for k, v in table.items()}  # version 1's order
    table = {k: v for k, v in table.items() if k != "ignore"}
    names = distinct(list(table))
    # A list of one value is that value, until some list has more.
    sets = [v if isinstance(v, list | tuple) else [v] for v in table.values()]
    if all(len(values) == 1 for values in sets):
        pairs = sorted(zip(names, (int(values[0]) for values in sets), strict=True), key=lambda pair: pair[1])
        return {"labels": dict(pairs)}, len(pairs)
    structures = [(n, v) for n, v in zip(names, sets, strict=True) if set(v) != {0}]
    order = [int(v) for v in dataset["regions_class_order"]]
    if len(order) != len(structures):
        raise ModelError(f"dataset.json: {len(structures)} regions and {len(order)} values in regions_class_order")
    values = {n: value for (n, _), value in zip(structures, order, strict=True)}
    return {"labels": {"background": 0, **values}, "regions": order}, len(order)


def _resampling(chosen: Mapping[str, Any], notes: list[str]) -> dict[str, Any]:
    """Fields `interpolation` and `coarse`: order 3 in plane, order 0 through thick slices."""
    function = str(chosen.get("resampling_fn_data", "resample_data_or_seg_to_shape"))
    options = chosen.get("resampling_fn_data_kwargs", {})
    how = {0: "nearest", 1: "linear", 3: "cubic"}.get(options.get("order", 3))
    if function != "resample_data_or_seg_to_shape" or how is None or options.get("force_separate_z") is True:
        notes.append(f"the resampling {function} with {options} is not one that segcli has: cubic is taken")
        how = "cubic"
    fields: dict[str, Any] = {"interpolation": how}
    if options.get("force_separate_z") is not False:
        if options.get("order_z", 0) != 0:
            notes.append(f"slices apart are resampled with order {options['order_z']}; segcli takes the nearest")
        fields["coarse"] = 3
    return fields


def _normalisation(
    channels: int, schemes: Sequence[str], masks: Sequence[bool], properties: Mapping[Any, Any], notes: list[str]
) -> list[dict[str, Any]] | None:
    """Intensity steps, one channel after the other; None where a scheme is not known."""
    if len(schemes) != channels:
        raise ModelError(f"the plans have {len(schemes)} normalisations for {channels} channels")
    steps: list[dict[str, Any]] = []
    for c, scheme in enumerate(schemes):
        masked = bool(masks[c]) if c < len(masks) else False
        where = {"where": "inside"} if masked else {}
        one = {} if len(schemes) == 1 else {"channels": [c]}
        if scheme in ("CTNormalization", "CT"):
            known = properties.get(str(c), properties.get(c))
            if known is None:
                raise ModelError(f"the plans lack the intensity properties of channel {c}")
            low, high = float(known["percentile_00_5"]), float(known["percentile_99_5"])
            mean, sd = float(known["mean"]), max(float(known.get("std", known.get("sd", 0))), 1e-8)
            steps += [
                {"step": "clip", "low": low, "high": high, **one},
                {"step": "standardise", "mean": mean, "sd": sd, **one},
            ]
        elif scheme in ("ZScoreNormalization", "nonCT"):
            steps.append({"step": "standardise", **where, **one})
        elif scheme == "RescaleTo01Normalization":
            steps.append({"step": "scale", "low": 0, "high": 1, **one})
        elif scheme == "RGBTo01Normalization":
            steps.append({"step": "scale", "from": [0, 255], "low": 0, "high": 1, **one})
        elif scheme not in ("NoNormalization", "noNorm"):
            notes.append(f"the normalisation {scheme} of channel {c} is not one that segcli has")
            return None
    return steps


# ---- version 1 ------------------------------------------------------------------------------------------------------


def v1_folder(folder: Path, expected: Inferred | None = None) -> Draft:
    """The draft of a folder with plans.pkl and fold_X/NAME.model (UNETR++, nnFormer)."""
    files = _fold_files(folder, _FINAL_V1)
    beside = Path(f"{files[0]}.pkl")  # it knows its stage, plans.pkl does not
    plans, stage = _plans(beside if beside.is_file() else folder / "plans.pkl")
    with legible("the plans"):
        draft = _v1(plans, stage, files, expected)
    draft.container = f"nnU-Net v1 folder, {_folds(files)}"
    return draft


def v1_file(path: Path, expected: Inferred | None = None) -> Draft:
    """The draft of a .model file with its .model.pkl beside it."""
    with legible(f"{path.name}.pkl"):
        draft = _v1(*_plans(Path(f"{path}.pkl")), [path], expected)
    draft.container = "nnU-Net v1 checkpoint with its plans"
    return draft


def _v1(plans: Mapping[str, Any], number: int, files: Sequence[Path], expected: Inferred | None) -> Draft:
    folds = [renamed(weights.table(weights.read(path))) for path in files]
    stage = plans["plans_per_stage"][number]
    shapes = shapes_of(folds[0])
    guess = network_in(shapes, None, expected, files[0].name)
    planned = [int(n) for n in stage["patch_size"]]
    guess, patch = _sized(guess, planned, shapes)
    draft = Draft("nnU-Net v1", guess.family, guess.config, folds)
    if patch != planned:
        draft.notes.append(f"the plans' patch {planned} is not the network's {patch}: its trainer has its own")
    modalities = plans.get("modalities") or plans["dataset_properties"]["modalities"]
    channels = [str(modalities[c]) for c in sorted(modalities)]
    draft.card = {
        **_common(plans, channels, stage["current_spacing"], patch),
        "source": f"nnU-Net v1, {plans.get('data_identifier', 'plans.pkl')}",
        "orientation": None,
        "interpolation": "cubic",
        "coarse": 3,
        "mirror": [1, 2] if len(patch) == 2 else [0, 1, 2],
        # Each window, mirror image and fold goes through softmax there before the mean is taken.
        "average": "probabilities",
        "floor": 1e-11,  # less than the product of three Gaussians at a corner: there is none
    }
    schemes = plans["normalization_schemes"]
    masks = plans.get("use_mask_for_norm") or {}
    if any(masks.values()):
        draft.notes.append(
            "the mask of the normalisation is made after resampling, nnU-Net v1 resamples the mask itself"
        )
    steps = _normalisation(
        len(channels),
        [schemes[c] for c in sorted(schemes)],
        [bool(masks.get(c, False)) for c in sorted(schemes)],
        plans["dataset_properties"].get("intensityproperties") or {},
        draft.notes,
    )
    if steps is not None:
        draft.card["intensity"] = [_CROP, _RESAMPLE, *steps, _PAD]
    return draft


def _sized(guess: Inferred, planned: list[int], shapes: Mapping[str, tuple[int, ...]]) -> tuple[Inferred, list[int]]:
    """The network with the plans' patch where its tensors allow that, else with the one that its tensors tell."""
    own = Draft("", guess.family, guess.config, []).size()
    if own is None:
        return guess, planned
    with_plans = resized(guess, planned, shapes)
    return (with_plans, planned) if with_plans else (guess, own)


def renamed(tensors: Tensors) -> Tensors:
    """Tensors of nnU-Net v1's own network under the names of v2's PlainConvUNet; those of other networks as they are.

    The two compute the same but for two things, both made good without loss: v1 has no bias where it transposes and
    where it ends, so there it is 0; and its decoder has the kernel of the level below, so that smaller kernels of the
    encoder are laid into larger ones that are 0 around them.
    """
    if "conv_blocks_context.0.blocks.0.conv.weight" not in tensors or "tu.0.weight" not in tensors:
        return tensors
    levels = registry.length(tensors, "tu.") + 1
    out: Tensors = {}
    for i in range(levels):
        rows = [f"conv_blocks_context.{i}."] if i < levels - 1 else [f"conv_blocks_context.{i}.{k}." for k in (0, 1)]
        _units(tensors, rows, f"encoder.stages.{i}.0.convs.", out)
    for s in range(levels - 1):
        _units(tensors, [f"conv_blocks_localization.{s}.{k}." for k in (0, 1)], f"decoder.stages.{s}.convs.", out)
        for old, new in ((f"tu.{s}", f"decoder.transpconvs.{s}"), (f"seg_outputs.{s}", f"decoder.seg_layers.{s}")):
            weight = tensors[f"{old}.weight"]
            width = weight.shape[1] if old.startswith("tu") else weight.shape[0]
            out[f"{new}.weight"] = weight
            out[f"{new}.bias"] = tensors.get(f"{old}.bias", weight.new_zeros(width))
        level = levels - 2 - s
        both = (f"encoder.stages.{level}.", f"decoder.stages.{s}.")
        convolutions = [n for n in out if n.startswith(both) and n.endswith("conv.weight")]
        kernel = [max(out[n].shape[2 + axis] for n in convolutions) for axis in range(out[convolutions[0]].ndim - 2)]
        for name in convolutions:
            out[name] = _grown(out[name], kernel)
    return out


def _units(tensors: Tensors, rows: Sequence[str], new: str, out: Tensors) -> None:
    """Convolution and norm of the units in some rows, numbered on from row to row."""
    count = 0
    for row in rows:
        for j in range(registry.length(tensors, f"{row}blocks.")):
            for old, name in (("conv", "conv"), ("instnorm", "norm")):
                prefix = f"{row}blocks.{j}.{old}."
                for key in [n for n in tensors if n.startswith(prefix)]:
                    out[f"{new}{count}.{name}.{key.removeprefix(prefix)}"] = tensors[key]
            count += 1


def _grown(weight: Tensor, kernel: Sequence[int]) -> Tensor:
    """A kernel with zeros around it; both have odd edges."""
    missing = [(k - n) // 2 for k, n in zip(kernel, weight.shape[2:], strict=True)]
    return torch.nn.functional.pad(weight, [m for side in reversed(missing) for m in (side, side)])


def _plans(path: Path) -> tuple[Mapping[str, Any], int]:
    """The plans and the number of the stage: the file's own where it says, else the last."""
    if not path.is_file():
        raise ModelError(
            f"{path.name}: not found beside the checkpoint",
            hint="without its plans give a recipe: --recipe NAME",
        )
    found = unpickle.plain_pickle(path.read_bytes(), path.name)
    plans = found.get("plans", found) if isinstance(found, dict) else None
    if not isinstance(plans, dict) or "plans_per_stage" not in plans:
        raise ModelError(f"{path.name}: holds no plans of nnU-Net v1")
    numbers = sorted(plans["plans_per_stage"])
    init = found.get("init", ())  # plans file, fold, two folders, batch_dice, stage, ...
    return plans, init[5] if len(init) > 5 and init[5] in numbers else numbers[-1]


# ---- both -----------------------------------------------------------------------------------------------------------


def _fold_files(folder: Path, names: Sequence[str]) -> list[Path]:
    """The checkpoint of each fold, the final one where there is one; all folds alone when there is no other."""
    found: dict[str, Path] = {}
    for place in _fold_folders(folder):
        path = next((place / name for name in names if (place / name).is_file()), None)
        if path is not None:
            found[place.name] = path
    numbered = [path for name, path in found.items() if name not in ("fold_all", "all")]
    chosen = numbered or list(found.values())
    if not chosen:
        raise ModelError(f"{folder.name}: has no fold_X/{names[0]}", hint="give the folder that holds the folds")
    return chosen


def has_folds(folder: Path) -> bool:
    """Whether there are folds beside the plans."""
    return bool(_fold_folders(folder))


def _fold_folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and re.fullmatch(r"fold_\d+|fold_all|all", p.name))


def _folds(files: Sequence[Path]) -> str:
    return f"{len(files)} folds" if len(files) > 1 else files[0].parent.name


def _common(
    plans: Mapping[str, Any], channels: Sequence[str], spacing: Sequence[Any], patch: Sequence[Any]
) -> dict[str, Any]:
    """Fields of the card that both versions have; in 2-D the slices are the first axis, and keep their distance."""
    flat = len(patch) == 2
    steps = [float(s) for s in spacing]
    return {
        "anchor": "edges",
        "overlap": 0.5,
        "steps": "even",
        "blend": "gaussian",
        "sigma": 0.125,
        "centre": "voxel",
        "channels": channels,
        **_modality(channels),
        "transpose": [int(a) for a in plans.get("transpose_forward", (0, 1, 2))],
        "spacing": [None, *steps[-2:]] if flat else steps,
        "patch_size": [1] * flat + [int(n) for n in patch],
        **({"slice_axis": 0} if flat else {}),
    }


def _modality(channels: Sequence[str]) -> dict[str, str]:
    """The modality that channel names tell."""
    names = {slug(name) for name in channels}
    if names == {"ct"}:
        return {"modality": "CT"}
    return {"modality": "MR"} if names & {"mr", "mri", "t1", "t2", "flair", "t1w", "t2w"} else {}


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path.name}: cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise ModelError(f"{path.name}: is not a JSON object")
    return found
