"""What a checkpoint of MONAI's Auto3DSeg (SegResNet) states in the configuration that its training left in it.

Its scans are turned to RAS, cropped to what is above 0 with a margin of 10 voxels, and resampled, each where the
configuration says so, and then normalised; windows overlap by 0.625. Intensities of a CT go through a sigmoid there,
for which segcli has no step.
"""

from __future__ import annotations

from segcli.documents import Content, Document, Facts, legible
from segcli.models.imports.recognise import Recognised
from segcli.models.imports.source import Stated, label_names

_MODALITIES = {"ct": "CT", "mri": "MR", "mr": "MR", "pet": "PET"}
_NORMALISED: dict[str, list[Document]] = {
    "none": [],
    **{mode: [{"step": "standardise", "where": "nonzero"}] for mode in ("meanstd", "mri")},
}
_CURVES = {**dict.fromkeys(("range", "ct", "pet"), "a sigmoid"), "meanstdtanh": "a tanh"}
_SAID = (
    "modality", "normalize_mode", "intensity_bounds", "orientation_ras", "resample", "resample_resolution", "roi_size",
    "sigmoid", "class_names",
)  # fmt: skip


def configuration(content: Content) -> Facts | None:
    """The configuration inside a checkpoint; None in one of another program."""
    found = content.get("config") if isinstance(content, dict) else None
    return found if isinstance(found, dict) and {"normalize_mode", "roi_size"} <= found.keys() else None


def stated(config: Facts, network: Recognised) -> Stated:
    """Fields of the card; what the configuration leaves to other images or to a sigmoid is for the user to give."""
    said = ", ".join(f"{name} {config[name]}" for name in _SAID if config.get(name) is not None)
    notes = [f"the checkpoint is of MONAI's Auto3DSeg: {said}"]
    lacks: dict[str, str] = {}
    with legible("the configuration in the checkpoint"):
        # It states steps also where `resample` is false; published ones have the steps alone.
        steps = config.get("resample_resolution") if config.get("resample", True) else None
        turned = bool(config.get("orientation_ras"))
        mode = str(config["normalize_mode"])
        fields: Document = {
            "source": "MONAI's Auto3DSeg, SegResNet",
            "orientation": "RAS" if turned else None,
            **({} if turned else {"transpose": [2, 1, 0]}),  # arrays are i, j, k of the file there, k, j, i here
            "anchor": "monai",
            "spacing": [float(step) for step in steps] if steps else None,
            "patch_size": [int(side) for side in config["roi_size"]],
            "overlap": 0.625,
            "blend": "gaussian",
            "back": "probabilities",
        }
        if steps:
            notes.append("scans of nearly these steps are left as they are there; segcli resamples all")
        if network.inputs == 1 and not config.get("extra_modalities"):
            modality = _MODALITIES.get(str(config.get("modality", "")).lower())
            fields |= {"modality": modality, "channels": [modality]} if modality in ("CT", "MR") else {}
            if config.get("custom_data_transforms"):
                lacks["intensity"] = "its training had transforms of its own, which segcli does not know"
            elif mode in _NORMALISED:
                crop = [{"step": "crop", "above": 0.0, "margin": 10}] if config.get("crop_foreground", True) else []
                resample = {"step": "resample"}
                fields["intensity"] = [*crop, resample, *_NORMALISED[mode], {"step": "outside", "value": 0}]
            else:
                curve = _CURVES.get(mode, "what segcli does not know")
                lacks["intensity"] = f"its training normalised by {mode!r}: {curve}, for which segcli has no step"
        names = config.get("class_names")
        if not config.get("sigmoid") and isinstance(names, list) and all(isinstance(name, str) for name in names):
            called, changed = label_names(["background", *names])
            if len(called) == network.outputs:
                fields["labels"] = {name: value for value, name in enumerate(called)}
                notes += changed
    return Stated(fields, notes, lacks)
