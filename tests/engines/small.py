"""Model folders of a few thousand weights, with any network of the project."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from segcli.models.card import ModelCard
from segcli.models.library import read_card
from segcli.networks.registry import build

UXNET = {"name": "uxnet3d.UXNet3D", "in_chans": 1, "out_chans": 3, "depths": [1, 1, 1, 1]} | {
    "feat_size": [4, 6, 8, 10],
    "hidden_size": 12,
}


def model(
    folder: Path, architecture: dict[str, Any] = UXNET, size: tuple[int, int, int] = (32, 32, 32), **changes: Any
) -> ModelCard:
    """The card of a new folder; weights are drawn with seed 0, one file for each name in `weights`."""
    folder.mkdir(parents=True, exist_ok=True)
    arguments = {k: v for k, v in architecture.items() if k != "name"}
    names = changes.get("weights", "weights.safetensors")
    names = [names] if isinstance(names, str) else names
    sums = []
    for seed, name in enumerate(names):
        torch.manual_seed(seed)
        net = build(architecture["name"], arguments)
        for p in net.parameters():
            p.data += 0.1 * torch.randn(p.shape)
        data = save({k: v.contiguous() for k, v in net.state_dict().items()})
        (folder / name).write_bytes(data)
        sums.append(hashlib.sha256(data).hexdigest())
    document = {
        "format": 1,
        "name": folder.name,
        "architecture": architecture,
        "weights": names if len(names) > 1 else names[0],
        "sha256": sums if len(sums) > 1 else sums[0],
        "channels": ["CT"],
        "orientation": "RAS",
        "patch_size": list(size),
        "labels": {"background": 0, "liver": 1, "spleen": 2},
        **changes,
    }
    (folder / "model.json").write_text(json.dumps(document))
    return read_card(folder)
