"""Every network exported and compared with torch in every CPU engine, with drawn weights, widths cut down."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch
from safetensors.torch import save

from segcli.documents import Document
from segcli.engines.export.graph import certified
from segcli.engines.export.onnx_file import CERTIFICATE_KEY, props
from segcli.formats.atomic import write_bytes
from segcli.models.card import CARD_FILE, ModelCard
from segcli.models.library import read_card
from segcli.networks.registry import CLASSES, build, small_networks


def card_of(family: str, folder: Path) -> ModelCard:
    """The card of a new model folder with a small network of a family, its weights drawn."""
    small = small_networks()[family]
    torch.manual_seed(1)
    network = build(family, small.all_arguments)
    for parameter in network.parameters():  # norms begin as identities, some heads as zeros
        parameter.data += 0.05 * torch.randn(parameter.shape)
    data = save({name: tensor.contiguous().clone() for name, tensor in network.state_dict().items()})
    write_bytes(folder / "weights.safetensors", data)
    document = {
        "format": 1,
        "name": family,
        "architecture": {"name": family, **small.all_arguments},
        "weights": "weights.safetensors",
        "sha256": hashlib.sha256(data).hexdigest(),
        "channels": [f"channel_{i}" for i in range(small.channels)],
        "orientation": "RAS",
        "patch_size": list(small.size),
        **({"slice_axis": 0} if small.size[0] == 1 else {}),
        "labels": {"background": 0, **{f"organ_{i}": i for i in range(1, CLASSES)}},
    }
    write_bytes(folder / CARD_FILE, json.dumps(document).encode())
    return read_card(folder)


def certificates(folder: Path) -> Iterator[Document]:
    """For each network with a small size its window, and how far each engine's logits and labels are from torch's.

    errors   ModelError (78) of the first network that has no graph, or whose graph answers otherwise
    """
    for family, small in small_networks().items():
        own = folder / family
        own.mkdir(exist_ok=True)
        began = time.perf_counter()
        found = certificate(card_of(family, own))
        yield {
            "network": family,
            "window": "x".join(map(str, small.size)),
            **{f"{name} error": engine["max_relative_error"] for name, engine in found["engines"].items()},
            **{f"{name} equal": engine["agreement"] for name, engine in found["engines"].items()},
            "seconds": time.perf_counter() - began,
        }


def certificate(card: ModelCard) -> Document:
    """What the export of a card says of itself."""
    model = onnx.load_model_from_string(certified(card, {}, count=1))
    told: Document = json.loads(props(model)[CERTIFICATE_KEY])
    return told
