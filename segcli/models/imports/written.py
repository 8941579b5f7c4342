"""A model folder of a card, whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch

from segcli.errors import OutputExists
from segcli.formats.atomic import partial_name, translated, write_bytes
from segcli.models import card, weights
from segcli.models.card import CARD_FILE
from segcli.models.embedded import METADATA_KEY
from segcli.models.imports.recognise import Recognised
from segcli.models.library import file_sha256
from segcli.networks import registry

DIGEST_KEY = "tensors_sha256"


def write(document: dict[str, Any], network: Recognised, onnx: Path | None, folder: Path, *, replace: bool) -> Path:
    """Write card and weights in a hidden folder beside the final one, check that they load, and rename it."""
    if folder.exists() and not replace:
        raise OutputExists(f"{folder} is there already", hint="choose another --name, or remove it first")
    temporary = folder.with_name(partial_name(folder.name))
    try:
        with translated(folder):
            temporary.mkdir(parents=True)
            if onnx is not None:
                shutil.copyfile(onnx, temporary / "model.onnx")
                document |= {"onnx": "model.onnx", "onnx_sha256": file_sha256(temporary / "model.onnx")}
                del document["weights"], document["sha256"]
            else:
                _write_weights(document, network, temporary)
            write_bytes(temporary / CARD_FILE, (json.dumps(document, indent=1) + "\n").encode())
            made = card.parse(document, temporary)
            for fold in range(len(made.weights)):
                weights.network_of(made, fold)
            if folder.exists():
                shutil.rmtree(folder)
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _write_weights(document: dict[str, Any], network: Recognised, folder: Path) -> None:
    """One safetensors file for each fold, the card and the tensors' digest inside; names and sums into the card."""
    several = len(network.folds) > 1
    names = [f"fold_{i}.safetensors" for i in range(len(network.folds))] if several else ["weights.safetensors"]
    inside = json.dumps({k: v for k, v in document.items() if k not in ("weights", "sha256")})
    sums = []
    for name, fold in zip(names, network.folds, strict=True):
        # A copy of each: safetensors keeps no tensors that share memory.
        tensors = {n: fold[n].detach().clone().contiguous() for n in registry.live(network.family, fold)}
        weights.finite(tensors, name)
        metadata = {"format": "pt", METADATA_KEY: inside, DIGEST_KEY: weights.digest(tensors)}
        safetensors.torch.save_file(tensors, folder / name, metadata)
        sums.append(file_sha256(folder / name))
    document["weights"] = names if several else names[0]
    document["sha256"] = sums if several else sums[0]


def json_able(value: Any) -> Any:
    """The same with tuples as lists and NumPy's numbers as Python's."""
    if isinstance(value, Mapping):
        return {str(k): json_able(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [json_able(v) for v in value]
    return value.item() if hasattr(value, "item") else value
