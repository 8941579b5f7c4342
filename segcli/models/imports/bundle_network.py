"""The network that a MONAI bundle's configuration names, with its arguments in the terms of the networks here."""

from __future__ import annotations

import re
from typing import Any

from segcli.documents import Document
from segcli.models.imports.bundle_config import References, Unknown
from segcli.models.imports.source import Named
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


def network(config: References, version: Any, notes: list[str]) -> tuple[str, Named | None]:
    """The class of the network, and the network where the configuration tells it; else the tensors have to.

    version   of MONAI, as the bundle states it
    """
    for key in ("network_def", "network", "net", "model"):
        found = config.get(key)
        if isinstance(found, Unknown) and (called := re.match(r"[\w.]*?(\w+)\(", found.text)):
            return called[1], None
        if not isinstance(found, dict) or "_target_" not in found:
            continue
        kind = str(found["_target_"]).rpartition(".")[2]
        if kind not in _FAMILIES:
            notes.append(f"the network {kind} is not known by that name; the tensors tell which it is")
            return kind, None
        arguments = {k: v for k, v in found.items() if not k.startswith("_")}
        unknown = sorted(k for k, v in arguments.items() if has_unknown(v))
        if unknown:
            notes.append(f"arguments of {kind} are Python and were not evaluated: {', '.join(unknown)}")
            return kind, None
        arguments = _renamed(kind, arguments)
        if kind == "SwinUNETR" and arguments.get("downsample", "merging") == "merging":
            arguments |= _merging(version, notes)
        return kind, Named(f"the bundle's {kind}", Inferred(_FAMILIES[kind], arguments))
    return "", None


def _merging(version: Any, notes: list[str]) -> dict[str, bool]:
    """The order of a SwinUNETR's patch merging, which MONAI 1.5 changed and no tensor tells."""
    found = re.match(r"(\d+)\.(\d+)", str(version))
    if found is None:
        notes.append("the order of patch merging: that of MONAI 0.9 to 1.4, since the bundle states no version")
        return {}
    return {} if (int(found[1]), int(found[2])) < (1, 5) else {"legacy_merging": False}


def _renamed(kind: str, arguments: Document) -> Document:
    """Arguments in the terms of today's MONAI: some had other names once, some say nothing about the output."""
    for name in ("save_attn", "preprocess", "norm_name"):
        if name == "save_attn" or not arguments.get(name):
            arguments.pop(name, None)
    if "dimensions" in arguments:
        arguments["spatial_dims"] = arguments.pop("dimensions")
    if kind == "SegResNet" and arguments.get("norm_name") == "group":  # the only one there was
        del arguments["norm_name"]
    if kind == "UNETR" and "pos_embed" in arguments:
        arguments["proj_type"] = arguments.pop("pos_embed")
    return arguments


def has_unknown(value: Any) -> bool:
    if isinstance(value, dict):
        return any(has_unknown(v) for v in value.values())
    if isinstance(value, list):
        return any(has_unknown(v) for v in value)
    return isinstance(value, Unknown)
