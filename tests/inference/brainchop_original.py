"""Labels that brainchop gives to scans made here with a small network of drawn weights, for test_conformed.py.

    python tests/inference/brainchop_original.py FILE.npz [FOLDER]

It needs brainchop 0.2.5 with the command that it calls, niimath 1.0.20261016, and a compiler (clang, or CC). The file
gets the last layer's bias; of each scan and at every fourth voxel the image that niimath conforms and brainchop's
labels on it; and all labels brought back to the scan, as `brainchop --inverse-conform` does. Scans that the file has
are left out. FOLDER gets a file of each scan with every voxel of the first two.
"""

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation
from torch.nn import functional

DILATIONS, CHANNELS, CLASSES = (1, 3), 3, 4
THIN = (slice(1, None, 4),) * 3
# Name -> voxels along i, j, k; their steps in mm; the angles about the patient's axes in degrees.
SCANS = {
    "upright": ((90, 111, 75), (1.0, 0.9, 2.0), (0, 0, 0)),
    "oblique": ((83, 64, 60), (1.7, 2.1, 2.5), (11, -7, 16)),
    "thick": ((110, 26, 100), (1.5, 6.5, 1.6), (-4, 9, 3)),  # slices of 6.5 mm, at an angle
    "long": ((40, 44, 150), (3.0, 3.5, 2.0), (0, 0, 0)),  # 300 mm: longer than the conformed image
}


def scan(name: str) -> nibabel.Nifti1Image:
    """A smooth, noisy ball in air, whose grey values go beyond 16 bits of what is shown."""
    shape, steps, angles = SCANS[name]
    i, j, k = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    away = np.sqrt(i**2 + j**2 + k**2)
    noise = gaussian_filter(np.random.default_rng(3).normal(size=shape), 2)
    image = 900 * np.exp(-2 * away) + 120 * np.sin(7 * i) * np.cos(5 * j) + 90 * noise / noise.std()
    image = np.where(away < 0.9, image, 0).clip(0, 2000).round().astype(np.int16)
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag(steps)
    affine[:3, 3] = (3.3, -12.7, 8.1) - affine[:3, :3] @ (np.array(shape) / 2)
    made = nibabel.Nifti1Image(image, affine)
    made.set_sform(affine, 1)
    made.set_qform(affine, 1)
    return made


def model(folder: Path, last_bias: NDArray[np.float32] | None = None) -> Path:
    """brainchop's folder of a network of drawn weights: model.json, model.pth, and the names of the labels."""
    folder.mkdir()
    rng = np.random.default_rng(11)
    tensors, before = {}, 1
    rows: list[dict[str, Any]] = []
    for n, d in enumerate(DILATIONS):
        tensors[f"model.{n}.0.weight"] = rng.normal(size=(CHANNELS, before, 3, 3, 3)) / np.sqrt(27 * before)
        rows.append({"in_channels": before, "out_channels": CHANNELS, "kernel_size": 3, "padding": d, "dilation": d})
        before = CHANNELS
    tensors[f"model.{len(DILATIONS)}.weight"] = rng.normal(size=(CLASSES, CHANNELS, 1, 1, 1))
    tensors[f"model.{len(DILATIONS)}.bias"] = np.zeros(CLASSES) if last_bias is None else last_bias
    rows.append({"in_channels": CHANNELS, "out_channels": CLASSES, "kernel_size": 1, "padding": 0, "dilation": 1})
    rows[-1]["bias"] = True
    described = {"header": "drawn", "bnorm": True, "gelu": True, "dropout_p": 0, "bias": False}
    described["layers"] = [{**row, "stride": 1} for row in rows]
    (folder / "model.json").write_text(json.dumps(described))
    (folder / "labels.json").write_text(json.dumps({str(n): f"part {n}" if n else "Unknown" for n in range(CLASSES)}))
    torch.save({key: torch.tensor(value, dtype=torch.float32) for key, value in tensors.items()}, folder / "model.pth")
    return folder


def last_bias(program: Any, folder: Path, files: Sequence[Path]) -> NDArray[np.float32]:
    """The last layer's bias with which air is background in each scan, and all labels occur in the first one.

    The answers that it is made for are torch's.
    """
    weights = torch.load(folder / "model.pth")
    airs, bias = [], np.zeros(CLASSES)
    for file in reversed(files):
        image = program.load(str(file)).data.permute(2, 1, 0).cast("float32").rearrange("... -> 1 1 ...")
        x = torch.from_numpy(import_module("brainchop.tiny_meshnet").qnormalize(image).numpy())
        for n, d in enumerate(DILATIONS):
            x = functional.conv3d(x, weights[f"model.{n}.0.weight"], padding=d, dilation=d)
            x = functional.gelu(functional.group_norm(x, CHANNELS), approximate="tanh")
        logits = functional.conv3d(x, weights[f"model.{len(DILATIONS)}.weight"])[0].numpy()
        airs.append(logits[:, 10, 10, 10])
        bias = -np.median(logits[:, 100:156, 100:156, 100:156].reshape(CLASSES, -1), 1)
    bias[0] = max((air[1:] + bias[1:]).max() - air[0] for air in airs) + 0.1
    return bias.astype(np.float32)


def main() -> None:
    made = Path(sys.argv[1])
    found: dict[str, NDArray[Any]] = dict(np.load(made)) if made.exists() else {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        listing = folder / ".cache" / "brainchop" / "models.json"
        listing.parent.mkdir(parents=True)
        listing.write_text("{}")
        os.environ["HOME"] = name  # where it looks for the list of models before it fetches one
        program, cli = import_module("brainchop.api"), import_module("brainchop.cli")
        files = {key: folder / f"{key}.nii.gz" for key in SCANS}
        for key, file in files.items():
            nibabel.save(scan(key), file)
            # brainchop's axes are k, j, i; the network's, as here, i, j, k.
            found[f"{key}/conformed"] = program.load(str(file)).data.numpy().transpose()[THIN]
        if "last_bias" not in found:
            found["last_bias"] = last_bias(program, model(folder / "even"), list(files.values()))
            np.savez_compressed(made, **found)
        drawn = model(folder / "model", found["last_bias"])
        for key, file in files.items():
            if f"{key}/back" in found:
                continue
            volume = program.load(str(file))
            answer = program.segment(volume, str(drawn))
            cli._save_inverse_conform(answer, str(file), str(folder / "back.nii.gz"))
            back = np.asarray(nibabel.load(folder / "back.nii.gz").dataobj).astype(np.uint8)
            conformed, labels = (cube.data.numpy().astype(np.uint8).transpose() for cube in (volume, answer))
            found |= {f"{key}/labels": labels[THIN], f"{key}/back": back}
            print(key, np.bincount(labels.ravel()), np.bincount(back.ravel()))
            np.savez_compressed(made, **found)
            if len(sys.argv) > 2:
                np.savez_compressed(Path(sys.argv[2]) / f"{key}.npz", conformed=conformed, labels=labels)


if __name__ == "__main__":
    main()
