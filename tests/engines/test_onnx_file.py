from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models import affine, onnx_file, organs
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import convert_model_to_external_data

from segcli.engines.choose import open_engine
from segcli.engines.export.onnx_file import read
from segcli.errors import ModelError
from segcli.models.card import ModelCard
from segcli.models.library import read_card


@pytest.fixture
def card(tmp_path: Path) -> ModelCard:
    return read_card(organs(tmp_path / "organs"))


def graph(card: ModelCard) -> Any:
    return onnx.load(card.file("model.onnx"))


def refused(card: ModelCard, model: Any) -> str:
    with pytest.raises(ModelError) as refusal:
        read(model.SerializeToString(), "model.onnx", card)
    return refusal.value.message


def test_what_is_no_onnx_file_is_refused(card: ModelCard) -> None:
    with pytest.raises(ModelError, match="not an ONNX file"):
        read(b"PK\3\4 this is a zip", "model.onnx", card)


def test_5_7_an_operator_outside_the_standard_is_refused(card: ModelCard) -> None:
    model = graph(card)
    model.graph.node[0].domain = "com.example"
    assert "com.example.Conv is not a standard one" in refused(card, model)


def test_5_7_an_operator_outside_the_standard_is_found_in_a_branch(card: ModelCard) -> None:
    model = graph(card)
    inner = helper.make_graph([helper.make_node("Odd", ["x"], ["z"], domain="com.example")], "inner", [], [])
    model.graph.node.append(helper.make_node("If", ["x"], ["z"], then_branch=inner, else_branch=inner))
    assert "com.example.Odd is not a standard one" in refused(card, model)


@pytest.mark.parametrize("opset", [7, 99])
def test_5_7_an_unsupported_opset_is_refused(card: ModelCard, opset: int) -> None:
    model = graph(card)
    model.opset_import[0].version = opset
    assert f"opset {opset} is not one of" in refused(card, model)


@pytest.mark.parametrize(("kind", "size"), [("Conv", 5), ("Conv", 7), ("ConvTranspose", 5)])
def test_5_7_a_bias_of_another_length_than_its_channels_is_refused(card: ModelCard, kind: str, size: int) -> None:
    model = graph(card)
    node = model.graph.node[0]
    node.op_type, node.name = kind, "the only one"
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[2])
    bias.CopyFrom(numpy_helper.from_array(np.zeros(size, "f4"), bias.name))
    assert (
        f"the convolution 'the only one' of {6 if kind == 'Conv' else 1} channels has a bias of ({size},)"
        in refused(card, model)
    )


def test_5_7_two_inputs_or_outputs_are_refused(card: ModelCard) -> None:
    model = graph(card)
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    assert "1 inputs and 2 outputs" in refused(card, model)


@pytest.mark.parametrize(
    ("kind", "shape", "words"),
    [
        (TensorProto.DOUBLE, ["n", 1, 32, 32, 32], "is double, not float32"),
        (TensorProto.FLOAT, ["n", 1, 32, 32], "has 4 axes, not 5"),
        (TensorProto.FLOAT, ["n", 2, 32, 32, 32], "the card says"),
        (TensorProto.FLOAT, ["n", 1, 32, 32, 64], "the card says"),
    ],
)
def test_5_7_an_input_that_is_not_one_window_is_refused(
    card: ModelCard, kind: int, shape: list[Any], words: str
) -> None:
    model = graph(card)
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", kind, shape))
    assert words in refused(card, model)


def test_5_7_an_output_with_other_channels_is_refused(card: ModelCard) -> None:
    model = graph(card)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5, 32, 32, 32]))
    assert "(5, 32, 32, 32), the card says (6, 32, 32, 32)" in refused(card, model)


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_5_7_an_output_whose_size_is_not_stated_is_checked_when_it_is_there(tmp_path: Path, kind: Any) -> None:
    folder = organs(tmp_path / "organs", onnx_sha256=None)
    weight, bias = affine()
    model = onnx.load_model_from_string(onnx_file(weight, bias, (32, 32, 32)))
    model.graph.node[0].attribute.append(helper.make_attribute("strides", [2, 2, 2]))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "k", "a", "b", "c"]))
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"\(\d, 6, 16, 16, 16\), the card says \(\d, 6, 32, 32, 32\)"):
        open_engine(read_card(folder), engine=kind).engine.run(np.zeros((1, 1, 32, 32, 32), np.float32))


def test_5_2_external_data_in_the_folder_is_loaded_and_hashed(tmp_path: Path) -> None:
    folder = organs(tmp_path / "organs", onnx_sha256=None)
    wanted = np.array(open_engine(read_card(folder)).engine.run(np.ones((1, 1, 32, 32, 32), np.float32)))
    moved(folder, "weights.bin")
    opened = open_engine(read_card(folder))
    assert set(opened.hashes) == {"model.onnx", "weights.bin"}
    np.testing.assert_array_equal(opened.engine.run(np.ones((1, 1, 32, 32, 32), np.float32)), wanted)


@pytest.mark.parametrize("location", ["../weights.bin", "/etc/hostname", "missing.bin"])
def test_5_2_external_data_outside_the_folder_is_refused(tmp_path: Path, location: str) -> None:
    folder = organs(tmp_path / "organs", onnx_sha256=None)
    moved(folder, "weights.bin")
    (folder / "weights.bin").rename(tmp_path / "weights.bin")
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"not allowed|not found"):
        open_engine(read_card(folder))


@pytest.mark.parametrize("damage", ["short", "empty", "offset", "length"])
def test_5_2_external_data_beyond_the_end_of_its_file_is_refused(tmp_path: Path, damage: str) -> None:
    folder = organs(tmp_path / "organs", onnx_sha256=None)
    moved(folder, "weights.bin")
    data = (folder / "weights.bin").read_bytes()
    if damage in ("short", "empty"):
        (folder / "weights.bin").write_bytes(data[:-3] if damage == "short" else b"")
    else:
        model = onnx.load(folder / "model.onnx", load_external_data=False)
        for entry in model.graph.initializer[0].external_data:
            if entry.key == damage:
                entry.value = str(10**9)
        (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"model\.onnx: .* weights\.bin"):
        open_engine(read_card(folder))


@pytest.mark.parametrize("kind", ["onnx", "openvino"])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_graph_with_a_fixed_number_of_windows_runs_any_number(tmp_path: Path, kind: Any, batch: int) -> None:
    folder = organs(tmp_path / "organs", onnx_sha256=None)
    patches = np.random.default_rng(0).normal(size=(5, 1, 32, 32, 32)).astype(np.float32)
    wanted = open_engine(read_card(folder), engine=kind).engine.run(patches).copy()
    model = onnx.load_model_from_string((folder / "model.onnx").read_bytes())
    for value in (model.graph.input[0], model.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    engine = open_engine(read_card(folder), engine=kind, batch=4).engine
    np.testing.assert_allclose(engine.run(patches), wanted, rtol=1e-6, atol=1e-5)
    assert engine.run(patches[:1]).shape == (1, 6, 32, 32, 32)


@pytest.mark.parametrize("batch", [-1, 65, 32767, 2**40])
def test_a_graph_that_is_made_for_no_usual_number_of_windows_is_refused(card: ModelCard, batch: int) -> None:
    model = graph(card)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    assert f"is made for {batch} windows at a time, not for 1 to 64" in refused(card, model)


def moved(folder: Path, name: str) -> None:
    """Move the weights of a folder's ONNX file into a file of their own."""
    model = onnx.load(folder / "model.onnx")
    convert_model_to_external_data(model, location=name, size_threshold=0)
    onnx.save(model, folder / "model.onnx")


def test_an_export_of_other_weights_than_the_cards_is_refused(card: ModelCard) -> None:
    model = graph(card)
    helper.set_model_props(model, {"segcli_certificate": '{"sources": ["00ff"]}'})
    assert "exported from weights with sha256 00ff, the card says" in refused(card, model)


def test_a_tensor_that_lies_inside_needs_no_folder(card: ModelCard) -> None:
    model = graph(card)
    file = read(model.SerializeToString(), "model.onnx", card)
    assert file.shape == (1, 32, 32, 32)
    assert numpy_helper.to_array(model.graph.initializer[0]).shape == (6, 1, 1, 1, 1)
