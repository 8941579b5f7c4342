"""nnU-Net v1's model folders (plans.pkl; UNETR++, nnFormer), and its own network under the names of version 2's.

Array order is z, y, x there as it is here. Version 1 normalises after resampling, version 2 before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from segcli.documents import Document, Facts, legible
from segcli.errors import ModelError
from segcli.models import checkpoint, unpickle
from segcli.models.checkpoint import Tensors
from segcli.models.imports import nnunet_after, trainers
from segcli.models.imports.nnunet import (
    CROP,
    PAD,
    RESAMPLE,
    common_fields,
    normalisation,
    not_taken,
)
from segcli.models.imports.nnunet_cascade import first_stage_v1
from segcli.models.imports.nnunet_folds import fold_files, fold_notes, folds_in_words
from segcli.models.imports.source import ModelSource, Stated
from segcli.networks import registry

if TYPE_CHECKING:
    from segcli.models.imports.recognise import Recognised

# The last are those that STU-Net publishes.
_FINAL = ("model_final_checkpoint.model", "model_best.model", "*_ep4k.model")
_LATEST = "model_latest.model"


def folder(path: Path, folds: Sequence[str] = ()) -> ModelSource:
    """A folder with plans.pkl and fold_X/NAME.model; `folds` takes some of several."""
    files = fold_files(path, _FINAL, folds, _LATEST)
    beside = Path(f"{files[0]}.pkl")  # it knows its stage, plans.pkl does not
    plans, stage, trainer = _plans(beside if beside.is_file() else path / "plans.pkl")
    after = nnunet_after.found(path, [file.parent.name for file in files])
    with legible("the plans"):
        container = f"nnU-Net v1 folder, {folds_in_words(files)}"
        source = _source(container, "the plans", plans, stage, trainer or path.name, files, after)
        notes = [*source.notes, *fold_notes(path, _FINAL, files, folds)]
        return replace(source, notes=notes, previous=first_stage_v1(path.resolve(), trainer or path.name))


def file(path: Path, table: str | None = None) -> ModelSource:
    """A .model file with its .model.pkl beside it; `table` is the key of another network in it than nnU-Net's own."""
    name = f"{path.name}.pkl"
    with legible(name):
        return _source("nnU-Net v1 checkpoint with its plans", name, *_plans(Path(f"{path}.pkl")), [path], table=table)


def _source(
    container: str,
    said_in: str,
    plans: Facts,
    number: int,
    trainer: str,
    files: Sequence[Path],
    after: Path | None = None,
    table: str | None = None,
) -> ModelSource:
    stored = [checkpoint.read(path) for path in files]
    stage = plans["plans_per_stage"][number]
    named = None
    if trainers.own(trainer):
        inputs, outputs = int(plans["num_modalities"]), int(plans["num_classes"]) + 1
        named = trainers.named(trainer, inputs, outputs, stage["pool_op_kernel_sizes"])
    return ModelSource(
        container,
        where=files[0].name,
        folds=[checkpoint.innermost_table(one, table) for one in stored],
        states=partial(_stated, said_in, plans, stage, after, trainer),
        named=named,
        layers={} if named else trainers.layers_v1(trainer),
        notes=[*nnunet_after.notes(after), *([] if table else not_taken(stored[0]))],
        size=[int(n) for n in stage["patch_size"]],
        alone=True,
    )


def _stated(said_in: str, plans: Facts, stage: Facts, after: Path | None, trainer: str, network: Recognised) -> Stated:
    """What the plans state of a network whose size they may not know: trainers have their own."""
    notes: list[str] = []
    lacks: dict[str, str] = {}
    with legible(said_in):
        planned = [int(n) for n in stage["patch_size"]]
        patch = network.size() or planned
        if patch != planned:
            notes.append(f"the plans' patch {planned} is not the network's {patch}: its trainer has its own")
        modalities = plans.get("modalities") or plans["dataset_properties"]["modalities"]
        channels = [str(modalities[c]) for c in sorted(modalities)]
        fields = {
            **common_fields(plans, channels, stage["current_spacing"], patch),
            **nnunet_after.fields(after, {}),
            "source": f"nnU-Net v1, {plans.get('data_identifier', 'plans.pkl')}",
            "orientation": None,
            "interpolation": "cubic",
            "coarse": 3,
            "mirror": _mirrored(trainer, patch, notes),
            # Each window, mirror image and fold goes through softmax there before the mean is taken.
            "average": "probabilities",
            "previous_by": "half",  # of a cascade's second stage
            "floor": 1e-11,  # less than the product of three Gaussians at a corner: there is none
        }
        steps = _intensity(plans, len(channels), notes, lacks)
        return Stated(fields | ({"intensity": steps} if steps is not None else {}), notes, lacks)


def _mirrored(trainer: str, patch: Sequence[int], notes: list[str]) -> list[int]:
    """Field `mirror`, none for a network that never saw a mirrored image: it would take left for right."""
    if not trainers.mirrors_v1(trainer):
        notes.append(f"the trainer {trainer.partition('__')[0]} did not mirror: there is no --tta")
        return []
    return [1, 2] if len(patch) == 2 else [0, 1, 2]


def _intensity(plans: Facts, channels: int, notes: list[str], lacks: dict[str, str]) -> list[Document] | None:
    schemes = plans["normalization_schemes"]
    masks = plans.get("use_mask_for_norm") or {}
    if any(masks.values()):
        notes.append("the mask of the normalisation is made after resampling, nnU-Net v1 resamples the mask itself")
    steps = normalisation(
        channels,
        [schemes[c] for c in sorted(schemes)],
        [bool(masks.get(c, False)) for c in sorted(schemes)],
        plans["dataset_properties"].get("intensityproperties") or {},
        lacks,
    )
    return None if steps is None else [CROP, RESAMPLE, *steps, PAD]


def _plans(path: Path) -> tuple[Facts, int, str]:
    """The plans, the number of the stage, the file's own where it says, else the last, and the trainer's name or ""."""
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
    trainer = str(found.get("name", ""))
    return plans, init[5] if len(init) > 5 and init[5] in numbers else numbers[-1], trainer


# ---- its own network ------------------------------------------------------------------------------------------------


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
