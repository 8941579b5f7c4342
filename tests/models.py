"""A small model for tests: one 1x1x1 convolution that tells the phantom's organs apart by their HU.

python tests/models.py FOLDER        writes it, for use as a base model of other programs
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

# Organ -> lowest HU of its interval; the phantom's organs lie in the middle of theirs.
FROM_HU = {"body": -500, "liver": 95, "spleen": 225, "heart": 375, "spine": 575}
LABELS = {"background": 0, **{name: i for i, name in enumerate(FROM_HU, 1)}}
CARD = {
    "format": 1,
    "name": "organs",
    "licence": "Apache-2.0",
    "source": "made for the tests",
    "architecture": {"name": "pointwise.Pointwise", "in_chans": 1, "out_chans": 6},
    "weights": "weights.safetensors",
    "channels": ["CT"],
    "orientation": "RAS",
    "spacing": [3.0, 3.0, 3.0],
    "anchor": "edges",
    "interpolation": "linear",
    "intensity": [{"step": "clip", "low": -1000, "high": 1000}, {"step": "scale", "low": 0, "high": 1}],
    "patch_size": [32, 32, 32],
    "overlap": 0.5,
    "blend": "gaussian",
    "labels": LABELS,
    "codes": {"liver": "SCT 10200004", "spleen": "SCT 78961009", "heart": "SCT 80891009"},
}


def affine() -> tuple[np.ndarray, np.ndarray]:
    """Weight (6, 1, 1, 1, 1) and bias (6,): line k rises by (x - threshold k) over line k - 1, so the k-th wins from
    its threshold on."""
    thresholds = (np.array([0, *FROM_HU.values()]) + 1000) / 2000
    thresholds[0] = 0
    weight = np.arange(6, dtype=np.float32).reshape(6, 1, 1, 1, 1)
    return weight * 100, -100 * np.cumsum(thresholds).astype(np.float32)


def organs(folder: Path, *, onnx: bool = True, **changes: object) -> Path:
    """A model folder; `changes` go over the card's fields."""
    from safetensors.numpy import save

    folder.mkdir(parents=True, exist_ok=True)
    weight, bias = affine()
    data = save({"conv.weight": weight, "conv.bias": bias})
    (folder / "weights.safetensors").write_bytes(data)
    card = {**CARD, "sha256": hashlib.sha256(data).hexdigest()}
    if onnx:
        graph = onnx_file(weight, bias, (32, 32, 32))
        (folder / "model.onnx").write_bytes(graph)
        card |= {"onnx": "model.onnx", "onnx_sha256": hashlib.sha256(graph).hexdigest()}
    (folder / "model.json").write_text(json.dumps({**card, **changes}, indent=1))
    return folder


EACH = {"spacing": None, "orientation": None, "onnx": None, "onnx_sha256": None}


def of_cascade(place: Path) -> Path:
    """A second model that labels as the channels of the first one's labels say, which lies beside it."""
    from safetensors.numpy import save

    organs(place / "organs", **EACH)
    folder = place / "second"
    folder.mkdir()
    weight = np.zeros((6, 6, 1, 1, 1), np.float32)
    weight[np.arange(1, 6), np.arange(1, 6)] = 10
    data = save({"conv.weight": weight, "conv.bias": np.array([5, 0, 0, 0, 0, 0], np.float32)})
    (folder / "weights.safetensors").write_bytes(data)
    network = {"name": "pointwise.Pointwise", "in_chans": 6, "out_chans": 6}
    sums = {"sha256": hashlib.sha256(data).hexdigest()}
    document = {**CARD, **EACH, **sums, "name": "second", "architecture": network, "previous": "organs"}
    (folder / "model.json").write_text(json.dumps(document))
    return folder


def of_models(place: Path) -> Path:
    """A model of two parts that look where a rough model finds the spleen; all lie in `place`, one may be mirrored."""
    organs(place / "rough", name="rough")
    for name, kept, mirror in (("soft", ("liver", "body"), [0]), ("hard", ("spleen", "spine"), [])):
        labels = {x if x in kept or v == 0 else f"not {x}": v for x, v in LABELS.items()}
        organs(place / name, name=name, labels=labels, codes={}, mirror=mirror)
    document = json.loads((place / "soft" / "model.json").read_text())
    own = {k: v for k, v in document.items() if k not in ("weights", "sha256", "onnx", "onnx_sha256", "mirror")}
    own |= {"name": "both", "architecture": {"name": "parts"}, "labels": LABELS, "parts": ["soft", "hard"]}
    own["rough"] = {"model": "rough", "structures": ["spleen"], "margin_mm": 10}
    (place / "both").mkdir()
    (place / "both" / "model.json").write_text(json.dumps(own))
    return place / "both"


def onnx_file(weight: np.ndarray, bias: np.ndarray, size: tuple[int, int, int]) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    k, c = weight.shape[:2]
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"])],
        "pointwise",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", c, *size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", k, *size])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString(deterministic=True)


if __name__ == "__main__":
    organs(Path(sys.argv[1]), onnx="--no-onnx" not in sys.argv)
