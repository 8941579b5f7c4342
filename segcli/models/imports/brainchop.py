"""What brainchop's folders state: a MeshNet's tensors with a model.json of its layers beside them.

The names of the tensors are those of the program that trained it, and not always the same; their order is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segcli.documents import Document, Facts, content_of, legible
from segcli.errors import ModelError
from segcli.models import checkpoint
from segcli.models.checkpoint import Stored, Tensors
from segcli.models.imports.source import ModelSource, Named, Stated, label_names
from segcli.networks.registry import Inferred

LAYERS_FILE = "model.json"
_ENDINGS = (".pth", ".pt", ".bin", ".safetensors")
# The image as niimath's conform makes it, which the network sees whole: 256 grey values at 256 voxels of 1 mm along
# each of the patient's axes, which point left, down and forward.
_GIVEN: Document = {
    "channels": ["T1"],
    "modality": "MR",
    "orientation": "LIA",
    "anchor": "conformed",
    "spacing": [1.0, 1.0, 1.0],
    "shape": [256, 256, 256],
    "intensity": [
        {"step": "histogram", "low": 0.0, "high": 255.0, "share": 0.98},
        {"step": "outside", "value": 0},
        {"step": "resample", "whole": "rounded"},
        {"step": "percentiles", "low": 2.0, "high": 98.0, "epsilon": 1e-3},
        {"step": "clip", "low": 0.0, "high": 1.0},
        {"step": "outside", "value": 0},
    ],
    "patch_size": [256, 256, 256],
    "blend": "constant",
    "after": [{"step": "largest", "together": True, "neighbours": 26}],
    "faithful": "nearest",
    "after_at": "model",
}
_NOTES = (
    "brainchop's layout: the image is conformed to 256 grey values and 256 voxels of 1 mm along each of the patient's "
    "axes and shown whole; what lies beyond these 256 mm is background",
    "brainchop writes its labels on the conformed image; with --faithful segcli brings the same labels to the scan's "
    "voxels as brainchop --inverse-conform does, without it the network's answers are interpolated there",
)


def layers(folder: Path) -> Facts | None:
    """The layers that a folder's model.json describes; None where there is none, or it is another document."""
    found = content_of(folder / LAYERS_FILE)
    rows = found.get("layers") if isinstance(found, dict) else None
    listed = isinstance(rows, list) and len(rows) > 1 and all(isinstance(r, dict) and "dilation" in r for r in rows)
    return found if listed else None


def weights_beside(folder: Path) -> Path:
    """The one file of weights in brainchop's folder.

    errors   ModelError for none, or several
    """
    found = [p for p in sorted(folder.iterdir()) if p.suffix in _ENDINGS and p.is_file() and p.name[0] != "."]
    if len(found) != 1:
        raise ModelError(f"{folder.name}: {len(found)} files of weights beside {LAYERS_FILE}, one is wanted")
    return found[0]


def source(path: Path, stored: Stored, described: Facts) -> ModelSource:
    """The MeshNet of a file with its layers beside it.

    errors   ModelError: layers that are no MeshNet's; tensors that are not as many as its
    """
    with legible(LAYERS_FILE):
        arguments = _arguments(described)
    tensors = _in_order(checkpoint.innermost_table(stored), arguments)
    names, changed = label_names(_names(path.parent))
    fields = dict(_GIVEN)
    if len(names) == arguments["out_channels"]:
        fields["labels"] = {name if i else "background": i for i, name in enumerate(names)}
    header = str(described.get("header", "")).strip()
    fields["source"] = f"brainchop's MeshNet: {header}" if header else "brainchop's MeshNet"
    return ModelSource(
        f"brainchop's MeshNet ({stored.container}), {LAYERS_FILE} beside it",
        where=path.name,
        folds=[tensors],
        states=lambda _: Stated(fields, notes=[*_NOTES, *changed]),
        named=Named("the MeshNet of model.json", Inferred("meshnet", arguments)),
    )


def _arguments(described: Facts) -> Document:
    rows = described["layers"]
    hidden, last = rows[:-1], rows[-1]
    dilations = [int(row["dilation"]) for row in hidden]
    same = all(int(row["padding"]) == int(row["dilation"]) for row in hidden) and int(last["padding"]) == 0
    sizes = [int(row["kernel_size"]) for row in rows]
    if not same or sizes != [3] * len(hidden) + [1] or any(int(row.get("stride", 1)) != 1 for row in rows):
        raise ModelError(f"{LAYERS_FILE}: has layers that are no MeshNet's: 3×3×3 on the full grid, the last of 1×1×1")
    bias = bool(described.get("bias", False))
    act = "elu" if described.get("elu") else "gelu" if described.get("gelu") else "relu"
    return {
        "in_channels": int(hidden[0]["in_channels"]),
        "out_channels": int(last["out_channels"]),
        "channels": [int(row["out_channels"]) for row in hidden],
        "dilations": dilations,
        "act": act,
        "norm": bool(described.get("bnorm", False)),
        "affine": bool(described.get("affine", False)),
        "bias": bias,
        "last_bias": bool(last.get("bias", bias)),
    }


def _in_order(tensors: Tensors, arguments: Document) -> Tensors:
    """The tensors under the network's own names, by their order; sizes that model.json leaves open (-1) by theirs."""
    ordered = _numbered(tensors)
    kernels = [tensor for tensor in ordered if tensor.ndim == 5]
    if len(kernels) != len(arguments["dilations"]) + 1:
        raise ModelError(f"{len(kernels)} convolutions, where {LAYERS_FILE} has {len(arguments['dilations']) + 1}")
    arguments["in_channels"], arguments["out_channels"] = int(kernels[0].shape[1]), int(kernels[-1].shape[0])
    arguments["channels"] = [int(kernel.shape[0]) for kernel in kernels[:-1]]
    names: list[str] = []
    for i in range(len(arguments["dilations"])):
        names += [f"model.{i}.0.weight", *([f"model.{i}.0.bias"] if arguments["bias"] else [])]
        names += [f"model.{i}.1.{part}" for part in ("weight", "bias") if arguments["norm"] and arguments["affine"]]
    last = f"model.{len(arguments['dilations'])}"
    names += [f"{last}.weight", *([f"{last}.bias"] if arguments["last_bias"] else [])]
    if len(names) != len(tensors):
        raise ModelError(f"{len(tensors)} tensors, where the layers of {LAYERS_FILE} have {len(names)}")
    return dict(zip(names, ordered, strict=True))


def _numbered(tensors: Tensors) -> list[Any]:
    """Tensors by the numbers in their names, weight before bias: a file need not keep the order."""

    def place(name: str) -> tuple[list[int], bool]:
        return [int(part) for part in name.split(".") if part.isdecimal()], name.endswith("bias")

    return [tensors[name] for name in sorted(tensors, key=place)]


def _names(folder: Path) -> list[str]:
    """The names of the labels: colormap.json or labels.json beside the file, {"0": "Unknown", ...}; else none."""
    for file in ("labels.json", "colormap.json"):
        found = content_of(folder / file)
        found = found.get("labels", found) if isinstance(found, dict) else found
        if isinstance(found, list) and all(isinstance(name, str) for name in found):
            return found
        if isinstance(found, dict) and sorted(found) == sorted(map(str, range(len(found)))):
            return [str(found[str(i)]) for i in range(len(found))]
    return []
