"""What the benchmarks run on: a synthetic CT and 3D UX-Nets with drawn weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from safetensors.torch import save

from segcli.engines.export.graph import certified
from segcli.formats.atomic import write_bytes
from segcli.models.card import CARD_FILE, ModelCard
from segcli.models.library import read_card
from segcli.networks.registry import build

NETWORK = "uxnet3d.UXNet3D"
SMALL, OFFICIAL = 16, 48  # features of the default model, and of the published 3D UX-Net
SPACING = (2.0, 0.8, 0.8)  # of the scan, mm along its slices, rows, columns
WANTED = 1.5  # of the model, mm
WINDOW = 96
LOW, HIGH = -175.0, 250.0  # HU


def scan(folder: Path, shape: tuple[int, int, int]) -> Path:
    """A CT of an ellipse of soft tissue with noise and brighter ellipsoids, air around it."""
    path = folder / f"ct_{'x'.join(map(str, shape))}.nii.gz"
    if path.is_file():
        return path
    rng = np.random.default_rng(0)
    z, y, x = np.ogrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j, -1 : 1 : shape[2] * 1j]
    voxels = np.full(shape, -1000.0, np.float32)
    body = np.broadcast_to((x / 0.75) ** 2 + (y / 0.55) ** 2 < 1, shape)
    voxels[body] = 40
    for _ in range(13):
        a, b, c = rng.uniform(-0.45, 0.45, 3)
        r, s, t = rng.uniform(0.08, 0.25, 3)
        organ = ((z - a) / (2 * r)) ** 2 + ((y - b) / s) ** 2 + ((x - c) / t) ** 2 < 1
        voxels[organ & body] = rng.uniform(-100, 250)
    voxels += 15 * rng.standard_normal(shape, np.float32)
    image = sitk.GetImageFromArray(voxels.astype(np.int16))
    image.SetSpacing(SPACING[::-1])
    sitk.WriteImage(image, str(path))
    return path


def long_scan(folder: Path, slices: int) -> Path:
    """A CT of 512 x 512 voxels a slice, 0.8 x 0.8 x 1 mm, not compressed; made slice by slice.

    Without noise: drawn weights make millions of specks of it, as no trained network does.
    """
    path = folder / f"ct_long_{slices}.nii"
    if path.is_file():
        return path
    voxels = np.empty((slices, 512, 512), np.int16)
    y, x = np.ogrid[-1:1:512j, -1:1:512j]
    body = (x / 0.8) ** 2 + (y / 0.55) ** 2 < 1
    for i, plane in enumerate(voxels):
        turn = 2 * np.pi * i / 200
        organ = (x - 0.3 * np.cos(turn)) ** 2 + (y - 0.2 * np.sin(turn)) ** 2 < 0.04 * (1.5 + np.sin(3 * turn))
        plane[:] = np.where(organ, 150, np.where(body, 40, -1000))
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((0.8, 0.8, 1.0))
    sitk.WriteImage(image, str(path))
    return path


def model(
    folder: Path,
    classes: int,
    *,
    features: int = SMALL,
    window: int = WINDOW,
    spacing: float = WANTED,
    crop: bool = False,
    blend: str = "constant",
    onnx: bool = True,
) -> ModelCard:
    """A model folder, its ONNX file beside the weights."""
    own = folder / f"uxnet{features}_{classes}_{window}_{spacing:g}mm{'_crop' if crop else ''}_{blend}"
    if not (own / CARD_FILE).is_file():
        own.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(0)
        arguments: dict[str, object] = {
            "in_chans": 1,
            "out_chans": classes,
            "feat_size": [features * 2**i for i in range(4)],
            "hidden_size": 16 * features,
        }
        net = build(NETWORK, arguments)
        data = save({name: tensor.contiguous() for name, tensor in net.state_dict().items()})
        write_bytes(own / "weights.safetensors", data)
        document = {
            "format": 1,
            "name": own.name,
            "architecture": {"name": NETWORK, **arguments},
            "weights": "weights.safetensors",
            "sha256": hashlib.sha256(data).hexdigest(),
            "channels": ["CT"],
            "orientation": "RAS",
            "spacing": [spacing] * 3,
            "anchor": "edges",
            "intensity": [
                {"step": "clip", "low": LOW, "high": HIGH},
                {"step": "scale", "low": 0, "high": 1},
            ],
            "crop": "positive" if crop else "none",
            "patch_size": [window] * 3,
            "blend": blend,
            "labels": {"background": 0, **{f"organ_{i}": i for i in range(1, classes)}},
        }
        write_bytes(own / CARD_FILE, json.dumps(document).encode())
        if onnx:
            write_bytes(own / "model.onnx", certified(read_card(own), {}, count=1))
            write_bytes(own / CARD_FILE, json.dumps({**document, "onnx": "model.onnx"}).encode())
    return read_card(own)
