"""--tta through the command: left and right stay apart, and what cannot be mirrored safely is refused."""

import hashlib
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from models import CARD
from onnx import TensorProto, helper, numpy_helper
from runs import in_process
from shapes import distances, grid

from segcli.formats import write_image
from segcli.space.volume import Volume, turned

SIDES = {"background": 0, "kidney_left": 1, "kidney_right": 2}
N = 24


def sided(folder: Path, right: float = 1.0, **changes: Any) -> Path:
    """A network that calls what is bright in the left half of its window a left kidney, in the other half a right one.

    right   how much the right kidney is believed; 1 makes the network its own mirror image
    """
    mask = np.zeros((1, 3, N, N, N), np.float32)  # RAS: the first axis runs to the right
    mask[:, 1, : N // 2], mask[:, 2, N // 2 :] = 1, right
    bias = np.array([0.5, 0, 0], np.float32).reshape(1, 3, 1, 1, 1)
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "mask"], ["m"]), helper.make_node("Add", ["m", "bias"], ["y"])],
        "sided",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, N, N, N])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, N, N, N])],
        [numpy_helper.from_array(mask, "mask"), numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data = model.SerializeToString(deterministic=True)
    folder.mkdir()
    (folder / "model.onnx").write_bytes(data)
    pairs = {"labels": SIDES, "codes": {}, "pairs": [["kidney_left", "kidney_right"]], "mirror": [0, 1, 2]}
    own = {**CARD, **pairs, "weights": [], "onnx": "model.onnx", "onnx_sha256": hashlib.sha256(data).hexdigest()}
    sizes = {"spacing": None, "patch_size": [N, N, N], "intensity": []}
    (folder / "model.json").write_text(json.dumps({**own, **sizes, **changes}))
    return folder


def kidneys(path: Path, axes: str = "SPL", left_only: bool = False) -> Path:
    """Two balls, each the mirror image of the other, in a file with its axes in any order."""
    on = turned(grid((N, N, N), (3, 3, 3)), axes)
    near = distances(on, (18, 3, 0)) <= 9  # LPS: the patient's left
    far = distances(on, (-18, 3, 0)) <= 9
    write_image(Volume((near | far & (not left_only)).astype(np.float32)[None], on), path)
    return path


def labels(folder: Path, model: Path, image: Path, *words: str) -> np.ndarray:
    done = in_process("predict", image, "-o", folder, "--engine", "onnx", "--model", model, "--allow-label-map", *words)
    assert done.returncode == 0, done.stderr.decode()
    return np.asarray(nibabel.load(folder / image.name.replace(".nii.gz", "_seg.nii.gz")).dataobj)


@pytest.mark.slow
@pytest.mark.parametrize("axes", ["SPL", "LAS", "IRP"])
def test_a_symmetric_network_says_the_same_with_and_without_mirroring(tmp_path: Path, axes: str) -> None:
    model, image = sided(tmp_path / "sided"), kidneys(tmp_path / "t1.nii.gz", axes)
    plain = labels(tmp_path / "plain", model, image)
    assert set(np.unique(plain)) == {0, 1, 2}
    assert np.array_equal(labels(tmp_path / "tta", model, image, "--tta"), plain)


@pytest.mark.slow
def test_a_left_kidney_alone_stays_the_left_one_and_is_believed_as_the_mean_of_both_sides(tmp_path: Path) -> None:
    image = kidneys(tmp_path / "t1.nii.gz", left_only=True)
    # The network believes a right kidney only if it is mirrored into the left: (1 + 0.2) / 2 = 0.6 > 0.5.
    plain = labels(tmp_path / "plain", sided(tmp_path / "half", 0.2), image)
    tta = labels(tmp_path / "tta", tmp_path / "half", image, "--tta")
    assert set(np.unique(plain)) == {0, 1}
    assert np.array_equal(tta, plain)
    both = kidneys(tmp_path / "t2.nii.gz")
    assert set(np.unique(labels(tmp_path / "plain", tmp_path / "half", both))) == {0, 1}
    assert set(np.unique(labels(tmp_path / "tta", tmp_path / "half", both, "--tta"))) == {0, 1, 2}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mirror": []}, b"names no axis"),
        ({"pairs": []}, b"kidney_left has a side but no pair, so axis 0 cannot be mirrored"),
        ({"orientation": None}, b"does not say which axis runs from left to right"),
    ],
)
def test_what_would_mix_left_and_right_ends_with_78_and_writes_nothing(
    tmp_path: Path, changes: dict[str, Any], words: bytes
) -> None:
    model, image = sided(tmp_path / "sided", **changes), kidneys(tmp_path / "t1.nii.gz")
    done = in_process(
        "predict", image, "-o", tmp_path / "out", "--engine", "onnx", "--model", model, "--allow-label-map", "--tta"
    )
    assert done.returncode == 78
    assert words in done.stderr
    assert b"--tta" in done.stderr
    assert not (tmp_path / "out").exists()


def test_axes_that_keep_sides_apart_may_be_mirrored_without_pairs(tmp_path: Path) -> None:
    model, image = sided(tmp_path / "sided", pairs=[], mirror=[1, 2]), kidneys(tmp_path / "t1.nii.gz")
    plain = labels(tmp_path / "plain", model, image)
    assert np.array_equal(labels(tmp_path / "tta", model, image, "--tta"), plain)
