"""How nnU-Net v2's plans resample scans and outputs, in fields of a card."""

from __future__ import annotations

from segcli.documents import Document, Facts
from segcli.errors import ModelError

# Functions that take orders of splines; the first one is meant where plans name none.
BY_ORDER = ("resample_data_or_seg_to_shape", "resample_data_or_seg_to_spacing")
_NOT_RESAMPLING = (
    "no_resampling_hack", "no_resampling_data_or_seg_to_shape", "no_resampling_data_or_seg_to_spacing",
)  # fmt: skip
_ORDERS = {"is_seg", "order", "order_z", "force_separate_z", "separate_z_anisotropy_threshold"}
_MODES = {"is_seg", "num_threads", "device", "memefficient_seg_resampling", "mode"}
# The options of each resampling function.
_RESAMPLING = {
    **dict.fromkeys(BY_ORDER, _ORDERS),
    "resample_torch_simple": _MODES,
    "resample_torch_fornnunet": {*_MODES, "force_separate_z", "separate_z_anisotropy_threshold", "aniso_axis_mode"},
}


def resampling(chosen: Facts) -> Document:
    """Fields `interpolation` and `coarse` of the card, and `spacing` where scans stay on their own grid.

    errors   ModelError for functions or options that segcli has no equal of
    """
    image = _resampler(chosen, "resampling_fn_data")
    if "resampling_fn_probabilities" not in chosen:
        return image
    logits = _resampler(chosen, "resampling_fn_probabilities")
    # segcli brings logits back linearly, slices apart as they were apart for the image.
    wanted = {**image, "interpolation": "linear"} if "interpolation" in image else image
    if logits != wanted:
        raise ModelError(
            "the plans resample the network's output in a way that segcli lacks: "
            f"{_described(chosen, 'resampling_fn_probabilities')}, the image by "
            f"{_described(chosen, 'resampling_fn_data')}"
        )
    return image


def _resampler(chosen: Facts, field: str) -> Document:
    """What one of nnU-Net's resampling functions does, in fields of the card.

    errors   ModelError for what segcli lacks
    """
    function = str(chosen.get(field, BY_ORDER[0]))
    stated = chosen.get(f"{field}_kwargs", {"force_separate_z": None})  # what the planner writes, and then the defaults
    options = {"order": 3, "force_separate_z": None if "torch" in function else False, **stated}
    if function in _NOT_RESAMPLING:
        return {"spacing": None}
    if stated.get("is_seg") or stated.keys() - _RESAMPLING.get(
        function, stated.keys()
    ):  # label by label, or unheard of
        how, apart = None, False
    elif function in BY_ORDER:
        how = {0: "nearest", 1: "linear", 3: "cubic"}.get(options["order"])
        apart = options.get("order_z", 0) == 0
    elif function in ("resample_torch_fornnunet", "resample_torch_simple"):
        how = "linear" if options.get("mode", "linear") == "linear" else None
        apart = options.get("aniso_axis_mode", "nearest-exact") == "nearest-exact"
        if function == "resample_torch_simple":
            options["force_separate_z"] = False
    else:
        how, apart = None, False
    separate = options["force_separate_z"]
    if how is None or separate not in (None, False) or (separate is None and not apart):
        raise ModelError(f"the plans resample in a way that segcli lacks: {_described(chosen, field)}")
    coarse = {"coarse": options.get("separate_z_anisotropy_threshold", 3)} if separate is None else {}
    return {"interpolation": how, **coarse}


def _described(chosen: Facts, field: str) -> str:
    options = ", ".join(f"{k}={v}" for k, v in (chosen.get(f"{field}_kwargs") or {}).items())
    return f"{chosen.get(field, 'resample_data_or_seg_to_shape')}({options})"
