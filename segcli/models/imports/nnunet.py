"""nnU-Net v2's model folders and checkpoints, and what version 1 has in common with them.

Array order is z, y, x there as it is here. What the two versions do before and after the network is in networks.md
sections 8.3 and 13: non-zero crop, cubic resampling with the through-plane axis apart, even steps, Gaussian weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from operator import index
from pathlib import Path
from typing import Any, TypeVar

from segcli.documents import Content, Document, Facts, legible
from segcli.errors import ModelError
from segcli.models import checkpoint
from segcli.models.imports import nnunet_after, nnunet_dataset, trainers
from segcli.models.imports.nnunet_axes import READERS, oriented, turned
from segcli.models.imports.nnunet_cascade import first_stage
from segcli.models.imports.nnunet_folds import fold_files, fold_notes, folds_in_words
from segcli.models.imports.nnunet_resampling import resampling
from segcli.models.imports.source import ModelSource, Named, Stated, object_of, slug
from segcli.networks.registry import Inferred

T = TypeVar("T")
_FINAL = ("checkpoint_final.pth", "checkpoint_best.pth")
_LATEST = "checkpoint_latest.pth"
_CLASSES = {
    "PlainConvUNet": "nnunet_plain",
    "ResidualEncoderUNet": "nnunet_resenc",
}
_PROPERTIES = "foreground_intensity_properties_per_channel"  # "..._by_modality" in plans of the first versions of 2
_PREPROCESSOR, _LABEL_MANAGER = "DefaultPreprocessor", "LabelManager"  # some forks bring others
# Version 1 normalises after resampling, version 2 before. Padding comes last, with 0 whatever air has become by then.
CROP: Document = {"step": "crop", "above": None}
RESAMPLE: Document = {"step": "resample"}
PAD: Document = {"step": "outside", "value": 0}


# ---- version 2 ------------------------------------------------------------------------------------------------------


def folder(path: Path, folds: Sequence[str] = ()) -> ModelSource:
    """A folder with plans.json, dataset.json and fold_X/checkpoint_final.pth; `folds` takes some of several."""
    plans, dataset = object_of(path / "plans.json"), object_of(path / "dataset.json")
    files = fold_files(path, _FINAL, folds, _LATEST)
    after = nnunet_after.found(path, [file.parent.name for file in files])
    source = _source(
        f"nnU-Net v2 folder, {folds_in_words(files)}",
        f"nnU-Net v2, {plans.get('dataset_name', path.name)}, plans.json",
        "plans.json and dataset.json",
        (plans, dataset, path.name.rpartition("__")[2]),
        [checkpoint.read(file) for file in files],
        path,
        after,
    )
    return replace(source, notes=[*source.notes, *fold_notes(path, _FINAL, files, folds)])


def is_checkpoint(content: Content) -> bool:
    """Whether what a file holds is a checkpoint of version 2, which carries plans and dataset.json in itself."""
    init = content.get("init_args") if isinstance(content, dict) else None
    return isinstance(init, dict) and {"plans", "dataset_json"} <= init.keys() and "network_weights" in content


def file(stored: checkpoint.Stored, table: str | None = None) -> ModelSource:
    """A checkpoint alone; `table` is the key of another table of tensors than nnU-Net's own."""
    init = stored.content["init_args"]
    return _source(
        "nnU-Net v2 checkpoint",
        f"nnU-Net v2, {init['plans'].get('dataset_name', stored.name)}, plans in the checkpoint",
        f"{stored.name}: its plans and dataset.json",
        (init["plans"], init["dataset_json"], ""),
        [stored],
        table=table,
    )


def _source(
    container: str,
    origin: str,
    said_in: str,
    plan: tuple[Facts, Facts, str],
    stored: Sequence[checkpoint.Stored],
    place: Path | None = None,
    after: Path | None = None,
    table: str | None = None,
) -> ModelSource:
    """What plans, dataset.json and the checkpoints of some folds state.

    origin   the card's field "source"
    said_in  how refusals call the plans
    plan     plans, dataset.json and the configuration that the folder's name says
    place    the folder of the model
    after    the file that says what is done with the labels
    """
    plans, dataset, configuration = plan
    content = stored[0].content if isinstance(stored[0].content, dict) else {}
    with legible(said_in):
        configuration = str(content.get("init_args", {}).get("configuration") or configuration)
        chosen = _configuration(plans, configuration)
        first = first_stage(chosen, configuration, place)
        channels = nnunet_dataset.channels(dataset)
        labels, outputs, notes = nnunet_dataset.labels(dataset)
        nowhere = {f"label_{value}": value for value in nnunet_dataset.unwritten(dataset)} if first else {}
        labels["labels"] |= nowhere
        told = sum(value != 0 for value in labels["labels"].values()) if first else 0
        trainer = str(content.get("trainer_name", ""))
        if trainers.own(trainer):
            where = f"a network of the trainer {trainer}"
            named = trainers.named(trainer, len(channels) + told, outputs, _strides(chosen)[1:])
        else:
            kind, planned = _architecture(chosen, len(channels) + told, outputs)
            where = f"a network of the class {kind}"
            named = Named(f"the plans' {kind}", planned) if planned else None
        lacks: dict[str, str] = {}
        own = _fields(plans, chosen, channels, labels, lacks)
        fields = {
            **own,
            **oriented(dataset, own["transpose"], notes),
            **_mirrored(content, chosen),
            **nnunet_after.fields(after, labels["labels"], nowhere),
            "source": origin,
        }
        if (manager := plans.get("label_manager", _LABEL_MANAGER)) != _LABEL_MANAGER:
            lacks["labels"] = f"the plans make labels by {manager}, which is not nnU-Net's own: segcli does not know it"
            fields = {name: value for name, value in fields.items() if name not in labels}
        notes += [*nnunet_after.notes(after), *([] if table else not_taken(stored[0]))]
    return ModelSource(
        container,
        where=where,
        folds=[checkpoint.innermost_table(one, table) for one in stored],
        states=lambda _: Stated(fields, notes, lacks),
        named=named,
        previous=first,
        alone=True,
    )


def not_taken(stored: checkpoint.Stored) -> list[str]:
    """A sentence about networks of the same kind in a checkpoint, of which nnU-Net uses its own."""
    own, *others = [name for names in checkpoint.sister_tables(stored) for name in names] or [""]
    return [f"the network {own} is taken, as in nnU-Net, not {', '.join(others)}: --table takes one"] if others else []


def _fields(
    plans: Facts,
    chosen: Facts,
    channels: list[str],
    labels: Facts,
    lacks: dict[str, str],
) -> Document:
    """Fields of the card about grid, intensities and labels; what segcli lacks for a field goes into `lacks`."""
    fields = {
        **common_fields(plans, channels, chosen["spacing"], chosen["patch_size"]),
        **resampling(chosen),
        **labels,
        "floor": 6e-9,  # the smallest number above 0 of float16, in which the weights up to 10 are kept there
        "sums": "float16",
        "average": "logits",
    }
    reader = str(plans.get("image_reader_writer", "SimpleITKIO"))
    if reader in READERS:
        fields |= turned(READERS[reader], fields["transpose"])
    else:
        lacks["orientation"] = f"the reader {reader} is not one that segcli knows: its orientation is not known"
    steps = normalisation(
        len(channels),
        chosen["normalization_schemes"],
        chosen.get("use_mask_for_norm", []),
        plans.get(_PROPERTIES) or plans.get("foreground_intensity_properties_by_modality", {}),
        lacks,
    )
    if (own := chosen.get("preprocessor_name", _PREPROCESSOR)) != _PREPROCESSOR:
        lacks["intensity"] = f"the plans prepare scans by {own}, which is not nnU-Net's own: segcli does not know it"
        steps = None
    return fields | ({"intensity": [CROP, *steps, RESAMPLE, PAD]} if steps is not None else {})


def _mirrored(content: Facts, chosen: Facts) -> Document:
    """Field `mirror`; a checkpoint counts the axes of a slice from 0."""
    axes = content.get("inference_allowed_mirroring_axes")
    return {"mirror": [int(a) + 3 - len(chosen["patch_size"]) for a in axes]} if axes else {}


def _configuration(plans: Facts, name: str) -> Document:
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
    chosen: Document = {}
    seen: list[str] = []
    ancestor = name
    while ancestor:
        if ancestor in seen or ancestor not in table:
            raise ModelError(
                f"plans.json: the configuration {ancestor!r} inherits from itself or from none that is there"
            )
        seen.append(ancestor)
        chosen = {**table[ancestor], **chosen}
        ancestor = table[ancestor].get("inherits_from", "")
    return chosen


def _architecture(chosen: Facts, inputs: int, outputs: int) -> tuple[str, Inferred | None]:
    """The class of a configuration's network, and the network; None for a class that is told by its tensors."""
    described = chosen.get("architecture")
    if described is not None:
        kind = str(described["network_class_name"]).rpartition(".")[2]
        arguments = dict(described["arch_kwargs"])
    else:
        kind = str(chosen.get("UNet_class_name", "PlainConvUNet"))
        arguments = _before_2_4(chosen, kind)
    if kind not in _CLASSES:
        return kind, None
    arguments.pop("dropout_op_kwargs", None)
    arguments.pop("dropout_op", None)
    return kind, Inferred(_CLASSES[kind], {**arguments, "input_channels": inputs, "num_classes": outputs})


def _strides(chosen: Facts) -> Sequence[Sequence[int]]:
    """The plans' strides of each level, the first level's among them."""
    described = chosen.get("architecture")
    strides: Sequence[Sequence[int]] = (
        described["arch_kwargs"]["strides"] if described else chosen["pool_op_kernel_sizes"]
    )
    return strides


def _before_2_4(chosen: Facts, kind: str) -> Document:
    """The constructor's arguments rebuilt from the plans' own fields, which had none before version 2.4."""
    strides = chosen["pool_op_kernel_sizes"]
    base, most = int(chosen["UNet_base_num_features"]), int(chosen["unet_max_num_features"])
    units = "n_blocks_per_stage" if kind == "ResidualEncoderUNet" else "n_conv_per_stage"
    return {
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


def normalisation(
    channels: int, schemes: Sequence[str], masks: Sequence[bool], properties: Mapping[Any, Any], lacks: dict[str, str]
) -> list[Document] | None:
    """Intensity steps, one channel after the other; None where a scheme is not known."""
    if len(schemes) != channels:
        raise ModelError(f"the plans have {len(schemes)} normalisations for {channels} channels")
    if not isinstance(masks, list) or any(not isinstance(mask, bool) for mask in masks):
        raise ModelError(f"the plans' use_mask_for_norm is {masks!r}, not a list of true and false")
    steps: list[Document] = []
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
            lacks["intensity"] = f"the normalisation {scheme} of channel {c} is not one that segcli has"
            return None
    return steps


# ---- both versions --------------------------------------------------------------------------------------------------


def common_fields(plans: Facts, channels: Sequence[str], spacing: Sequence[Any], patch: Sequence[Any]) -> Document:
    """Fields of the card that both versions have; in 2-D the slices are the first axis, and keep their distance."""
    flat = isinstance(patch, list | tuple) and len(patch) == 2
    steps = _each(float, spacing, "spacing")
    return {
        "anchor": "edges",
        "overlap": 0.5,
        "steps": "even",
        "blend": "gaussian",
        "sigma": 0.125,
        "ensemble_average": "probabilities",
        "centre": "voxel",
        "channels": channels,
        **_modality(channels),
        "transpose": _transpose(plans),
        "spacing": [None, *steps[-2:]] if flat else steps,
        "patch_size": [1] * flat + _each(index, patch, "patch_size"),
        **({"slice_axis": 0} if flat else {}),
    }


def _each(kind: Callable[[Any], T], values: Any, field: str) -> list[T]:
    """The numbers of a field of the plans; refused by the field's name where it holds something else."""
    try:
        return [kind(value) for value in values]
    except (TypeError, ValueError) as error:
        raise ModelError(f"the plans' {field} is of an unexpected kind: {values!r}") from error


def _transpose(plans: Facts) -> list[int]:
    """The order in which the network sees the file's axes; refused where the way back is not the way back."""
    there = [index(a) for a in plans.get("transpose_forward", (0, 1, 2))]
    if sorted(there) == [0, 1, 2]:  # anything else is refused as the card's
        undone = [there.index(i) for i in range(3)]
        back = [index(a) for a in plans.get("transpose_backward", undone)]
        if back != undone:
            raise ModelError(f"the plans' transpose_backward {back} does not undo their transpose_forward {there}")
    return there


def _modality(channels: Sequence[str]) -> dict[str, str]:
    """The modality that channel names tell."""
    names = {slug(name) for name in channels}
    if names == {"ct"}:
        return {"modality": "CT"}
    return {"modality": "MR"} if names & {"mr", "mri", "t1", "t2", "flair", "t1w", "t2w"} else {}
