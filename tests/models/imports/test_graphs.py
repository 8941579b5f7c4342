"""An ONNX file becomes a model only when it answers a window as its card says, alone in its folder."""

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models import LABELS, affine, onnx_file
from onnx import TensorProto, helper, numpy_helper

from segcli.commands import graph_trial
from segcli.engines.choose import open_engine
from segcli.errors import EngineError, ModelError
from segcli.models import card, imports, library, trial

SIZE = [32, 32, 32]
FACTS = imports.options(
    labels=",".join(LABELS), spacing="3,3,3", orientation="RAS", window="-1000,1000", patch="32,32,32", channels="CT"
)


def imported(path: Path, to: Path) -> Path:
    return imports.adopt(path, to=to, name="m", given=FACTS, tried=graph_trial.gives_logits)


def graph(path: Path, nodes: list[Any], ends: list[Any], kind: int = TensorProto.FLOAT, bias: float = 0) -> Path:
    """A graph of one convolution and more nodes."""
    number = np.float16 if kind == TensorProto.FLOAT16 else np.float32
    weight, shift = (array.astype(number) for array in affine())
    inside = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(shift + number(bias), "b")]
    start = helper.make_tensor_value_info("x", kind, ["n", 1, *SIZE])
    convolution = helper.make_node("Conv", ["x", "w", "b"], ["y"])
    made = helper.make_graph([convolution, *nodes], "g", [start], ends, inside)
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def end(name: str, kind: int, shape: list[Any]) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def apart(folder: Path, location: str = "net.onnx.data") -> Path:
    """A graph whose weights lie in a file beside it, as exporters write it by default."""
    folder.mkdir()
    model = onnx.load_model_from_string(onnx_file(*affine(), (32, 32, 32)))
    onnx.save(model, folder / "net.onnx", save_as_external_data=True, location=location, size_threshold=0)
    return folder / "net.onnx"


def test_weights_beside_a_graph_come_along(tmp_path: Path) -> None:
    made = imported(apart(tmp_path / "net"), tmp_path / "models")
    assert sorted(path.name for path in made.iterdir()) == ["model.json", "model.onnx"]
    for path in (tmp_path / "net").iterdir():
        path.unlink()
    card = imports.verify(made)
    engine = open_engine(card, engine="onnx", device="cpu").engine
    x = np.linspace(0, 1, 32**3, dtype=np.float32).reshape(1, 1, 32, 32, 32)
    weight, bias = affine()
    expected = x * weight.reshape(1, 6, 1, 1, 1) + bias.reshape(1, 6, 1, 1, 1)
    assert np.abs(np.asarray(engine.run(x)) - expected).max() < 1e-3


def test_a_graph_without_the_file_beside_it_is_refused(tmp_path: Path) -> None:
    path = apart(tmp_path / "net")
    (tmp_path / "net" / "net.onnx.data").unlink()
    with pytest.raises(ModelError, match=r"its weights lie in net\.onnx\.data, which is not beside it"):
        imported(path, tmp_path / "models")
    assert not (tmp_path / "models" / "m").exists()


def test_weights_that_are_a_link_or_elsewhere_are_refused(tmp_path: Path) -> None:
    path = apart(tmp_path / "net")
    data = tmp_path / "net" / "net.onnx.data"
    data.rename(tmp_path / "secret")
    data.symlink_to(tmp_path / "secret")
    with pytest.raises(ModelError, match="which is not beside it"):
        imported(path, tmp_path / "models")
    path.write_bytes(path.read_bytes().replace(b"net.onnx.data", b"../a/net.data"))
    with pytest.raises(ModelError, match="no plain name of a file beside it: not allowed"):
        imported(path, tmp_path / "models")


def test_weights_that_end_too_early_are_refused(tmp_path: Path) -> None:
    path = apart(tmp_path / "net")
    data = tmp_path / "net" / "net.onnx.data"
    data.write_bytes(data.read_bytes()[:8])
    with pytest.raises(ModelError, match="cannot be taken in"):
        imported(path, tmp_path / "models")


LOGITS = end("y", TensorProto.FLOAT, ["n", 6, *SIZE])
ANSWERS = end("z", TensorProto.FLOAT, ["n", 6, *SIZE])
LAST = [  # softmax as it was exported before opset 13
    helper.make_node("Transpose", ["y"], ["t"], perm=[0, 2, 3, 4, 1]),
    helper.make_node("Softmax", ["t"], ["s"], axis=4),
    helper.make_node("Transpose", ["s"], ["z"], perm=[0, 4, 1, 2, 3]),
]


@pytest.mark.parametrize(
    ("nodes", "average"),
    [
        ([helper.make_node("Softmax", ["y"], ["z"], axis=1)], "probabilities"),
        (
            [helper.make_node("Softmax", ["y"], ["s"], axis=-4), helper.make_node("Identity", ["s"], ["z"])],
            "probabilities",
        ),
        (LAST, "probabilities"),
        ([helper.make_node("Sigmoid", ["y"], ["z"])], "probabilities"),
        ([helper.make_node("Softmax", ["y"], ["z"], axis=-1)], "logits"),
        ([helper.make_node("Relu", ["y"], ["z"])], "logits"),
    ],
)
def test_what_a_graph_ends_with_tells_whether_it_gives_probabilities(
    tmp_path: Path, nodes: list[Any], average: str
) -> None:
    made = library.read_card(imported(graph(tmp_path / "net.onnx", nodes, [ANSWERS]), tmp_path / "models"))
    assert (made.average, made.decide.are_probabilities) == (average, average == "probabilities")
    assert ("is taken for probabilities" in made.document.get("notes", "")) == (average == "probabilities")


@pytest.mark.parametrize(("end_with", "half"), [("Relu", 0.0), ("Sigmoid", 0.5)])
def test_a_graph_with_an_output_fewer_than_labels_gives_overlapping_ones(
    tmp_path: Path, end_with: str, half: float
) -> None:
    path = graph(tmp_path / "net.onnx", [helper.make_node(end_with, ["y"], ["z"])], [ANSWERS])
    facts = {**FACTS, **imports.options(labels="background,a,b,c,d,e,f")}
    made = library.read_card(imports.adopt(path, to=tmp_path, name="m", given=facts, tried=graph_trial.gives_logits))
    assert (made.decide.rule, made.decide.values, made.decide.half) == ("regions", (1, 2, 3, 4, 5, 6), half)


def test_of_a_softmax_every_output_is_named(tmp_path: Path) -> None:
    path = graph(tmp_path / "net.onnx", [helper.make_node("Softmax", ["y"], ["z"], axis=1)], [ANSWERS])
    facts = {**FACTS, **imports.options(labels="background,a,b,c,d,e,f")}
    with pytest.raises(ModelError, match="the network has 6 outputs, not 7"):
        imports.adopt(path, to=tmp_path, name="m", given=facts)


def test_a_graph_states_its_channels_and_its_window(tmp_path: Path) -> None:
    path = graph(tmp_path / "net.onnx", [], [LOGITS])
    found = imports.inspect(path)
    assert (found.inputs, found.outputs, "patch_size" in found.missing) == (1, 6, True)
    facts = {name: value for name, value in FACTS.items() if name != "patch_size"}
    assert imports.adopt(path, to=tmp_path, name="m", given=facts).is_dir()
    with pytest.raises(ModelError, match=r"the network has 1 input channels, not 2 \(T1, T2\)"):
        imports.adopt(path, to=tmp_path, name="n", given={**facts, "channels": ["T1", "T2"]})


def test_a_graph_with_its_channels_last_is_told_the_order(tmp_path: Path) -> None:
    model = onnx.load_model_from_string(onnx_file(*affine(), (32, 32, 32)))
    model.graph.input[0].name = "last"
    for d, size in zip(model.graph.input[0].type.tensor_type.shape.dim[1:], [*SIZE, 1], strict=True):
        d.dim_value = size
    model.graph.node.insert(0, helper.make_node("Transpose", ["last"], ["x"], perm=[0, 4, 1, 2, 3]))
    model.graph.node[1].input[0] = "x"
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(ModelError, match=r"'last' has the shape \(32, 32, 32, 1\)") as refused:
        imported(tmp_path / "net.onnx", tmp_path / "models")
    assert "whose order is channels, d, h, w" in str(refused.value.hint)


@pytest.mark.parametrize(
    ("nodes", "ends", "kind", "bias", "words"),
    [
        (
            [],
            [end("y", TensorProto.FLOAT16, ["n", 6, *SIZE])],
            TensorProto.FLOAT16,
            0,
            "the input 'x' is float16, not float32",
        ),
        (
            [helper.make_node("Relu", ["y"], ["z"])],
            [LOGITS, end("z", TensorProto.FLOAT, ["n", 6, *SIZE])],
            TensorProto.FLOAT,
            0,
            "has 1 inputs and 2 outputs",
        ),
        (
            [helper.make_node("ArgMax", ["y"], ["am"], axis=1, keepdims=0)],
            [end("am", TensorProto.INT64, ["n", *SIZE])],
            TensorProto.FLOAT,
            0,
            "the output 'am' is int64, not float32",
        ),
        ([], [LOGITS], TensorProto.FLOAT, np.nan, "with NaN or infinity"),
    ],
)
def test_a_graph_that_can_never_run_with_its_card_is_refused_at_import(
    tmp_path: Path, nodes: list[Any], ends: list[Any], kind: int, bias: float, words: str
) -> None:
    path = graph(tmp_path / "net.onnx", nodes, ends, kind, bias)
    with pytest.raises(ModelError, match=words) as refused:
        imported(path, tmp_path / "models")
    assert refused.value.hint
    assert list((tmp_path / "models").iterdir()) == []


NONE_BELOW_0 = [helper.make_node("Sqrt", ["x"], ["s"])]
ONLY_SMALL = [helper.make_node("Exp", ["x"], ["s"])]


def of_root(path: Path, nodes: list[Any]) -> Path:
    """A graph that sees another number in place of each of the image's."""
    model = onnx.load_model_from_string(onnx_file(*affine(), (32, 32, 32)))
    model.graph.node[0].input[0] = "s"
    model.graph.node.insert(0, nodes[0])
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("nodes", "intensity", "refused"),
    [
        (NONE_BELOW_0, {"window": "-1000,1000"}, None),
        (
            NONE_BELOW_0,
            {"normalise": "zscore"},
            r"values between -1\.73\d* and 1\.73\d*, as the card prepares a scan's",
        ),
        (NONE_BELOW_0, {"normalise": "none"}, "values between -1024 and 3071"),
        (ONLY_SMALL, {"window": "-1000,1000"}, None),
        (ONLY_SMALL, {"normalise": "none"}, "with NaN or infinity"),
        (ONLY_SMALL, {"normalise": "-100,400,-90,2"}, "values between -5 and 245"),
    ],
)
def test_a_graph_is_tried_with_values_as_its_card_prepares_them(
    tmp_path: Path, nodes: list[Any], intensity: dict[str, str], refused: str | None
) -> None:
    facts = {k: v for k, v in FACTS.items() if k != "intensity"} | imports.options(**intensity)
    path = of_root(tmp_path / "net.onnx", nodes)
    if refused is None:
        assert imports.adopt(path, to=tmp_path, name="m", given=facts, tried=graph_trial.gives_logits).is_dir()
        return
    with pytest.raises(ModelError, match=refused):
        imports.adopt(path, to=tmp_path, name="m", given=facts, tried=graph_trial.gives_logits)


def test_a_graph_is_tried_with_each_channel_of_its_own(tmp_path: Path) -> None:
    two = {**FACTS, "channels": ["CT", "PET"], "patch_size": [2, 2, 3], "blank": 1}
    steps = [{"step": "clip", "low": 0, "high": 100, "channels": [0]}, {"step": "standardise", "where": "inside"}]
    document = {"format": 1, "name": "m", "architecture": {"name": "x"}, **two, "intensity": steps}
    window = trial.window(card.parse(document))
    assert window.shape == (1, 3, 2, 2, 3)
    assert np.allclose(window[0, :2].mean((1, 2, 3)), 0, atol=1e-6)
    assert set(np.unique(window[0, 2])) == {0, 1}


def test_a_graph_that_answers_is_imported(tmp_path: Path) -> None:
    made = imported(graph(tmp_path / "net.onnx", [], [LOGITS]), tmp_path / "models")
    assert library.read_card(made).onnx == "model.onnx"


ONES = helper.make_node("MaxPool", ["x"], ["z", "at"], kernel_shape=[1, 1, 1])


def with_reshape(path: Path, stated: int | str, inside: int) -> Path:
    """A graph that is made for `inside` windows, as an export without dynamic axes is, and states another number."""
    model = onnx.load_model_from_string(onnx_file(*affine(), (32, 32, 32)))
    model.graph.initializer.append(numpy_helper.from_array(np.array([inside, 1, *SIZE]), "shape"))
    model.graph.node[0].input[0] = "z"
    model.graph.node.insert(0, helper.make_node("Reshape", ["x", "shape"], ["z"]))
    if isinstance(stated, int):
        for value in (model.graph.input[0], model.graph.output[0]):
            value.type.tensor_type.shape.dim[0].dim_value = stated
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_a_graph_whose_inside_is_made_for_a_number_of_windows_answers_any_number(
    tmp_path: Path, engine: Any, batch: int
) -> None:
    pytest.importorskip("openvino" if engine == "openvino" else "onnxruntime")
    made = imported(with_reshape(tmp_path / "net.onnx", batch, batch), tmp_path / "models")
    opened = open_engine(library.read_card(made), engine=engine, device="cpu").engine
    assert opened.batch == batch
    weight, bias = (array.reshape(1, 6, 1, 1, 1) for array in affine())
    for count in (1, 2, 3, 5):
        x = np.linspace(0, 1, count * 32**3, dtype=np.float32).reshape(count, 1, 32, 32, 32)
        assert np.abs(np.asarray(opened.run(x)) - (x * weight + bias)).max() < 1e-3


def test_a_graph_that_promises_any_number_of_windows_and_takes_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"answers one window, but not \d+ at a time, as its input allows: "):
        imported(with_reshape(tmp_path / "net.onnx", "n", 1), tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []


def test_an_operator_that_one_engine_lacks_is_named_and_the_other_one_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openvino")
    back = helper.make_node("MaxUnpool", ["z", "at"], ["y0"], kernel_shape=[1, 1, 1])
    model = onnx.load_model_from_string(onnx_file(*affine(), (32, 32, 32)))
    model.graph.node[0].input[0] = "y0"
    for node in (back, ONES):
        model.graph.node.insert(0, node)
    onnx.save(model, tmp_path / "net.onnx")
    made = imported(tmp_path / "net.onnx", tmp_path / "models")
    # OpenVINO, since some release and before it
    lacks = "No conversion rule found for operations: MaxUnpool-17|The input data tensor's rank has to be known"
    said = rf"note: model.onnx: OpenVINO cannot load it: ({lacks}).*: ONNX Runtime is taken"
    assert re.search(said, capsys.readouterr().err)
    card = library.read_card(made)
    assert card.engines == ("onnx",)
    assert open_engine(card, device="cpu").engine.name == "onnxruntime cpu"
    with pytest.raises(EngineError, match="openvino does not answer with its ONNX file as it is meant") as refused:
        open_engine(card, engine="openvino", device="cpu")
    assert refused.value.hint == "use --engine onnx"


def test_an_engine_that_cannot_be_loaded_hinders_no_import_and_is_not_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segcli.engines.table.find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "openvino", None)
    path = graph(tmp_path / "net.onnx", [], [LOGITS])
    assert library.read_card(imported(path, tmp_path / "models")).engines is None
    assert re.search("note: openvino cannot be loaded: .*: it is not compared", capsys.readouterr().err)


def test_an_engine_that_answers_otherwise_than_onnx_runtime_is_not_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino")
    path = graph(tmp_path / "net.onnx", [], [LOGITS])
    assert library.read_card(imported(path, tmp_path / "alike")).engines is None
    answer = graph_trial._answers
    monkeypatch.setattr(
        graph_trial, "_answers", lambda card, name: answer(card, name) * (1.1 if name == "openvino" else 1)
    )
    made = library.read_card(imported(path, tmp_path / "other"))
    assert made.engines == ("onnx",)
    said = r"note: model.onnx: OpenVINO answers otherwise, by 28\.\d where the most is 288: ONNX Runtime is taken"
    assert re.search(said, capsys.readouterr().err)
    assert open_engine(made, device="cpu").engine.name == "onnxruntime cpu"


def test_a_file_of_nothing_is_no_onnx_file(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"")
    with pytest.raises(ModelError, match="not an ONNX file, or truncated"):
        imported(tmp_path / "net.onnx", tmp_path / "models")
