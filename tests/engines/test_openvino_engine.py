"""OpenVINO's logits do not depend on the number of threads (PROMISES.md 6.6)."""

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

pytest.importorskip("openvino")

from segcli.engines.export.certificate import seeded
from segcli.engines.export.onnx_file import OnnxFile, read
from segcli.engines.openvino_engine import OpenVINOEngine
from segcli.models.library import find

SHAPE = (8, 40, 44, 48)
GROUPS = [1, 2, 8]


def _file(groups: int) -> OnnxFile:
    """A convolution, so that OpenVINO puts the channels last, and the norm of some groups of its channels."""
    channels = SHAPE[0]
    image, logits = (helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, *SHAPE)) for name in ("x", "y"))
    weights = np.random.default_rng(3).standard_normal((channels, channels, 3, 3, 3)) / 20
    constants = [
        helper.make_tensor("w", TensorProto.FLOAT, weights.shape, weights.ravel()),
        helper.make_tensor("scale", TensorProto.FLOAT, (groups,), np.linspace(0.5, 2, groups)),
        helper.make_tensor("offset", TensorProto.FLOAT, (groups,), np.linspace(-1, 1, groups)),
        helper.make_tensor("rows", TensorProto.INT64, (3,), (1, groups, -1)),
        helper.make_tensor("volume", TensorProto.INT64, (5,), (1, *SHAPE)),
    ]
    convolved = helper.make_node("Conv", ["x", "w"], ["c"], pads=[1] * 6)
    if groups == channels:
        nodes = [convolved, helper.make_node("InstanceNormalization", ["c", "scale", "offset"], ["y"])]
    else:
        nodes = [
            convolved,
            helper.make_node("Reshape", ["c", "rows"], ["r"]),
            helper.make_node("InstanceNormalization", ["r", "scale", "offset"], ["n"]),
            helper.make_node("Reshape", ["n", "volume"], ["y"]),
        ]
    graph = helper.make_graph(nodes, "norm", [image], [logits], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return OnnxFile("norm.onnx", model.SerializeToString(), {}, SHAPE, channels, "x")


def _logits(file: OnnxFile, threads: int) -> NDArray[np.float32]:
    x = np.random.default_rng(4).standard_normal((1, *SHAPE)).astype(np.float32) + 3
    return np.array(OpenVINOEngine(file, threads=threads, batch=1).run(x))


@pytest.mark.parametrize("groups", GROUPS)
def test_6_6_a_norm_over_a_window_is_the_same_with_any_number_of_threads(groups: int) -> None:
    file = _file(groups)
    one, *more = (_logits(file, threads) for threads in (1, 2, 3, 4))
    assert all(one.tobytes() == other.tobytes() for other in more)


@pytest.mark.slow
def test_6_6_the_default_model_answers_the_same_with_any_number_of_threads() -> None:
    card = find("uxnet")
    data = card.file("model.onnx").read_bytes()
    file = read(data, "model.onnx", card)
    one, two = (OpenVINOEngine(file, threads=threads, batch=1).run(seeded(card, 0)).tobytes() for threads in (1, 2))
    assert one == two


@pytest.mark.parametrize("groups", GROUPS)
def test_a_norm_over_a_window_keeps_its_digits(groups: int) -> None:
    found = _logits(_file(groups), 2).astype(float)
    rows = found.reshape(groups, -1)
    assert np.abs(rows.mean(1) - np.linspace(-1, 1, groups)).max() < 1e-4
    assert np.abs(rows.std(1) / np.linspace(0.5, 2, groups) - 1).max() < 1e-4


def test_a_layer_norm_is_left_as_it_is() -> None:
    rows = SHAPE[-1]
    image, logits = (helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, *SHAPE)) for name in ("x", "y"))
    scale = helper.make_tensor("scale", TensorProto.FLOAT, (rows,), np.ones(rows))
    node = helper.make_node("LayerNormalization", ["x", "scale"], ["y"], axis=-1)
    graph = helper.make_graph([node], "norm", [image], [logits], [scale])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    found = _logits(OnnxFile("norm.onnx", model.SerializeToString(), {}, SHAPE, SHAPE[0], "x"), 2)
    assert np.abs(found.mean(-1)).max() < 1e-5
    assert np.abs(found.std(-1) - 1).max() < 1e-3
