"""brainchop's labels of a scan with a model of 104 classes, to compare segcli's with.

    python tests/inference/brainchop_104.py SCAN FOLDER [CHANNELS]
    segcli models import FOLDER/model -o FOLDER
    segcli predict SCAN --model FOLDER/model --faithful -o FOLDER/out
    python tests/inference/brainchop_104.py compare FOLDER/back.nii.gz FOLDER/out/SCAN_seg.nii.gz

The first needs what brainchop_original.py needs, and 7 GB of memory. The layers are those of brainchop's
model21_104class with drawn weights, the last one such that nearly all classes occur. tests/networks/PROOF.md has what
it printed.
"""

import json
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from torch.nn import functional

DILATIONS = (1, 2, 2, 4, 4, 8, 8, 16)
CHANNELS, CLASSES = 21, 104
INNER = (slice(64, 192, 4),) * 3  # every fourth voxel of the conformed image's middle


def model(folder: Path, image: torch.Tensor, channels: int) -> None:
    """brainchop's folder of a network of drawn weights, for a conformed image (1, 1, 256, 256, 256) of 0 to 1."""
    rng, tensors = np.random.default_rng(104), {}
    rows: list[dict[str, Any]] = []
    x = image
    with torch.inference_mode():
        for n, d in enumerate(DILATIONS):
            drawn = rng.normal(size=(channels, x.shape[1], 3, 3, 3)) * np.sqrt(2 / (27 * x.shape[1]))
            weight, bias = (torch.tensor(a, dtype=torch.float32) for a in (drawn, rng.normal(size=channels) * 0.05))
            tensors |= {f"model.{n}.0.weight": weight, f"model.{n}.0.bias": bias}
            rows.append({"in_channels": x.shape[1], "out_channels": channels, "kernel_size": 3, "padding": d})
            rows[-1] |= {"dilation": d, "stride": 1}
            x = functional.relu(functional.conv3d(x, weight, bias, padding=d, dilation=d))
    air, inside = x[0, :, 0, 0, 0].double(), x[(0, slice(None), *INNER)].flatten(1).double()
    mean = inside.mean(1)
    spread, along = torch.linalg.eigh(torch.cov(inside))
    kept = spread > 1e-4 * spread.max()
    even = (along[:, kept] / spread[kept].sqrt()).T  # what it makes of the maps varies as much in each direction
    last = torch.tensor(rng.normal(size=(CLASSES, int(kept.sum())))) @ even
    towards = functional.normalize(even @ (air - mean), dim=0) @ even
    others = (last[1:] @ (air - mean)).max()
    last[0] = towards * ((others + 0.5) / (towards @ (air - mean))).clamp(min=0.5)  # air is background
    tensors[f"model.{len(DILATIONS)}.weight"] = last.float()[:, :, None, None, None].contiguous()
    tensors[f"model.{len(DILATIONS)}.bias"] = -(last @ mean).float()
    rows.append({"in_channels": channels, "out_channels": CLASSES, "kernel_size": 1, "padding": 0, "dilation": 1})
    rows[-1]["stride"] = 1
    described = {"dropout_p": 0.0, "bnorm": False, "gelu": False, "bias": True, "layers": rows}
    folder.mkdir()
    (folder / "model.json").write_text(json.dumps(described))
    (folder / "labels.json").write_text(json.dumps({str(n): f"part {n}" if n else "Unknown" for n in range(CLASSES)}))
    torch.save(tensors, folder / "model.pth")


def original(scan: Path, folder: Path, channels: int) -> None:
    """Write the model and brainchop's labels on the scan's voxels."""
    listing = folder / ".cache" / "brainchop" / "models.json"
    listing.parent.mkdir(parents=True)
    listing.write_text("{}")
    os.environ |= {"HOME": str(folder), "FUSE_CHUNK": "13"}  # classes of the last layer at a time
    program, cli = import_module("brainchop.api"), import_module("brainchop.cli")
    volume = program.load(str(scan))
    image = volume.data.permute(2, 1, 0).cast("float32").rearrange("... -> 1 1 ...")
    model(
        folder / "model", torch.from_numpy(import_module("brainchop.tiny_meshnet").qnormalize(image).numpy()), channels
    )
    cli._save_inverse_conform(program.segment(volume, str(folder / "model")), str(scan), str(folder / "back.nii.gz"))


def compare(one: Path, other: Path) -> None:
    a, b = (np.asarray(nibabel.load(path).dataobj).astype(int) for path in (one, other))
    either = (a > 0) | (b > 0)
    print(
        f"{len(np.unique(a))} and {len(np.unique(b))} labels; of {either.sum()} voxels that one or the other labels "
        f"{(a == b)[either].mean():.6f} are equal, of all {a.size} {(a == b).mean():.6f}"
    )


if __name__ == "__main__":
    if sys.argv[1] == "compare":
        compare(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        original(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else CHANNELS)
