"""The network that a MONAI bundle's configuration names, with its arguments in the terms of the networks here."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

from segcli.documents import Document, Facts, legible
from segcli.errors import ModelError
from segcli.models import checkpoint
from segcli.models.imports.bundle_config import References, Unknown
from segcli.models.imports.source import Named
from segcli.networks.registry import Inferred
from segcli.system import is_plain

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
    "DiNTS": "dints",
    "AttentionUnet": "attentionunet",
    "VNet": "vnet",
}


def network(config: References, version: Any, notes: list[str], models: Path) -> tuple[str, Named | None]:
    """The class of the network, and the network where the configuration tells it; else the tensors have to.

    version   of MONAI, as the bundle states it
    models    the bundle's folder of weights, where the code of a searched network lies too
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
        if kind == "DiNTS":
            arguments = _searched(arguments, config.get("arch_ckpt_path"), models)
        for name in {"act", "act_name"} & arguments.keys():
            arguments[name] = _activation(arguments[name])
        unknown = sorted(k for k, v in arguments.items() if has_unknown(v))
        if unknown:
            notes.append(f"arguments of {kind} are Python and were not evaluated: {', '.join(unknown)}")
            return kind, None
        arguments = _renamed(kind, arguments)
        if kind == "SwinUNETR" and arguments.get("downsample", "merging") == "merging":
            arguments |= _merging(version, notes)
        return kind, Named(f"the bundle's {kind}", Inferred(_FAMILIES[kind], arguments))
    return "", None


def _searched(arguments: Document, path: Any, models: Path) -> Document:
    """The arguments of a DiNTS with the code of its architecture, from the file beside the weights that holds it.

    path     of that file, as the configuration states it
    errors   ModelError for a file that is missing, or is not what a search leaves
    """
    if not has_unknown(arguments):
        return arguments
    file = models / PurePosixPath(path if isinstance(path, str) else "search_code.pt").name
    if not is_plain(file.name) or not file.is_file():
        raise ModelError(
            f"{models.parent.name}: models/{file.name} is missing, which holds the code of the DiNTS's architecture",
            hint="it is published beside the weights: large_files.yml says where",
        )
    with legible(f"models/{file.name}"):
        found = checkpoint.read(file).content
        opened, chosen, node_a = (_whole(found[key]) for key in ("arch_code_a", "arch_code_c", "node_a"))
    space: Facts = arguments.get("dints_space") or {}
    kept = {k: v for k, v in space.items() if not k.startswith("_") and k not in ("num_blocks", "num_depths", "device")}
    own = {k: v for k, v in arguments.items() if k != "dints_space"}
    return {**kept, **own, "arch_code": [opened, chosen], "node_a": node_a}


def _activation(value: Any) -> Any:
    """An activation that is given as a class, alone or with its options, by its name; another value as it is."""
    if isinstance(value, list) and value:
        return [_activation(value[0]), *value[1:]]
    text = value.text if isinstance(value, Unknown) else value
    found = (
        re.fullmatch(r"(?:\w+\.)*(?:nn(?:\.modules(?:\.\w+)?)?|Act)\.(\w+)", text) if isinstance(text, str) else None
    )
    if found is None:
        return value
    return "swish" if found[1].lower() == "silu" else found[1].lower()  # MONAI's name for it


def _whole(table: Any) -> list[list[int]]:
    """A table of numbers, an array or a tensor, as lists of whole ones."""
    return [[int(number) for number in row] for row in table]


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
