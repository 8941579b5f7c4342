"""The second stage of an nnU-Net cascade: where its first stage lies, and whether segcli shows its labels likewise."""

from __future__ import annotations

from pathlib import Path

from segcli.documents import Facts
from segcli.errors import ModelError
from segcli.models.imports.nnunet_resampling import BY_ORDER


def first_stage(chosen: Facts, name: str, folder: Path | None) -> Path | None:
    """The folder of the first stage, beside that of the second; None for a configuration that is no second stage.

    folder   of the second stage; None for a checkpoint alone
    errors   ModelError where it is not there, or its labels are resampled in another way than segcli's
    """
    stage = chosen.get("previous_stage")
    if not stage:
        return None
    first = folder.with_name(f"{folder.name.rpartition('__')[0]}__{stage}") if folder else None
    if first is None or not (first / "plans.json").is_file():
        raise ModelError(
            f"the configuration {name} is the second stage of a cascade, which needs the labels of the first",
            hint=f"put the folder of its {stage} configuration beside its own, or import its 3d_fullres or 3d_lowres",
        )
    if (said := _otherwise(chosen)) is not None:
        raise ModelError(f"the plans resample the labels of the first stage in a way that segcli lacks: {said}")
    return first


def first_stage_v1(folder: Path, trainer: str) -> Path | None:
    """The folder of version 1's first stage, beside that of the second: .../3d_lowres/TASK/TRAINER__PLANS.

    errors   ModelError where a second stage has none beside it
    """
    if "CascadeFullRes" not in trainer and folder.parent.parent.name != "3d_cascade_fullres":
        return None
    beside = folder.parent.parent.with_name("3d_lowres") / folder.parent.name
    plans = folder.name.rpartition("__")[2]
    found = sorted(path.parent for path in beside.glob(f"*__{plans}/plans.pkl"))
    if len(found) != 1:
        raise ModelError(
            f"{folder.name}: is the second stage of a cascade, which needs the labels of the first; "
            f"{len(found) or 'none'} of its plans in 3d_lowres/{folder.parent.name} beside 3d_cascade_fullres",
            hint="keep nnU-Net's folders 3d_lowres and 3d_cascade_fullres beside each other",
        )
    return found[0]


def _otherwise(chosen: Facts) -> str | None:
    """How the first stage's labels are resampled, where that is not linearly, each mask apart, as the image is."""
    image, labels = (str(chosen.get(f"resampling_fn_{kind}", BY_ORDER[0])) for kind in ("data", "seg"))
    of_image, of_labels = (chosen.get(f"resampling_fn_{kind}_kwargs", {}) for kind in ("data", "seg"))
    if image == labels and image not in BY_ORDER and not of_labels:
        return None  # nothing is resampled; what torch does was told by its options
    usual = {"is_seg": True, "order": 1, "order_z": 0}
    alike = all(of_labels.get(k) == of_image.get(k) for k in ("force_separate_z", "separate_z_anisotropy_threshold"))
    plain = all(of_labels.get(k, v) == v for k, v in usual.items())
    if image in BY_ORDER and labels in BY_ORDER and alike and plain:
        return None
    return f"{labels}({', '.join(f'{k}={v}' for k, v in of_labels.items())})"
