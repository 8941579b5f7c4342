import io
import json
import warnings
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from small import UXNET, model

import segcli.engines.export.verified
from segcli.engines.choose import open_engine
from segcli.engines.export import certificate, graph
from segcli.engines.export.verified import export_onnx, verify
from segcli.errors import ModelError
from segcli.models.card import ModelCard
from segcli.models.library import find


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelCard, Path, dict[str, Any]]:
    """A card, its exported file, and the certificate."""
    folder = tmp_path_factory.mktemp("models")
    card = model(folder / "small", codes={"liver": "SCT 10200004"})
    return card, folder / "small.onnx", export_onnx(card, folder / "small.onnx")


def test_an_export_is_certified_by_both_cpu_engines(made: tuple[ModelCard, Path, dict[str, Any]]) -> None:
    _, _, found = made
    assert set(found["engines"]) == {"onnxruntime", "openvino"}
    assert 0 < found["max_relative_error"] <= 1e-3
    assert found["agreement"] >= 0.999
    assert found["windows"] == ["seeded 0", "seeded 1"]


def test_the_file_alone_is_a_model_with_its_card(made: tuple[ModelCard, Path, dict[str, Any]]) -> None:
    card, path, _ = made
    alone = find(str(path))
    assert [label.code for label in alone.labels] == [None, "SCT 10200004", None]
    x = np.random.default_rng(3).standard_normal((2, 1, 32, 32, 32)).astype(np.float32)
    wanted = np.asarray(open_engine(card, engine="torch").engine.run(x)).argmax(1)
    assert (np.asarray(open_engine(alone).engine.run(x)).argmax(1) == wanted).mean() >= 0.999


def test_the_same_model_gives_the_same_bytes(made: tuple[ModelCard, Path, dict[str, Any]], tmp_path: Path) -> None:
    card, path, _ = made
    export_onnx(card, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()


def test_the_graph_has_standard_operators_one_output_and_any_batch(
    made: tuple[ModelCard, Path, dict[str, Any]],
) -> None:
    loaded = onnx.load(made[1])
    assert [d.dim_param or d.dim_value for d in loaded.graph.input[0].type.tensor_type.shape.dim] == [
        "batch", 1, 32, 32, 32,
    ]  # fmt: skip
    assert len(loaded.graph.output) == 1
    assert {node.domain for node in loaded.graph.node} == {""}
    assert loaded.opset_import[0].version == 17


@pytest.mark.slow
def test_weights_that_lose_nothing_are_stored_in_16_bits(tmp_path: Path) -> None:
    card = model(tmp_path / "plain")
    export_onnx(card, tmp_path / "plain.onnx")
    half = export_onnx(card, tmp_path / "half.onnx", half=True)
    kinds = {t.data_type for t in onnx.load(tmp_path / "half.onnx").graph.initializer if np.prod(t.dims) >= 64}
    assert kinds == {onnx.TensorProto.FLOAT16}
    assert (tmp_path / "half.onnx").stat().st_size < 0.8 * (tmp_path / "plain.onnx").stat().st_size
    assert half["agreement"] >= 0.98
    loaded = onnx.load(tmp_path / "half.onnx")
    again = onnx.load(tmp_path / "half.onnx")
    certificate.shorten(again, half=False)
    assert len(again.graph.node) == len(loaded.graph.node)


@pytest.mark.slow
def test_windows_of_a_scan_are_compared_too(tmp_path: Path) -> None:
    data = np.random.default_rng(0).standard_normal((40, 36, 33)).astype(np.float32)
    nibabel.Nifti1Image(data, np.diag([2.0, 2, 2, 1])).to_filename(tmp_path / "scan.nii.gz")
    card = model(tmp_path / "small")
    found = export_onnx(card, tmp_path / "small.onnx", verify=tmp_path / "scan.nii.gz")
    assert [w.split()[0] for w in found["windows"]] == ["seeded", "seeded", "scan", "scan"]


def test_verify_returns_the_certificate_without_torch_or_weights(
    made: tuple[ModelCard, Path, dict[str, Any]], tmp_path: Path
) -> None:
    copy = tmp_path / "elsewhere.onnx"
    copy.write_bytes(made[1].read_bytes())
    assert verify(copy) == made[2]


def test_a_weight_that_was_changed_is_found(made: tuple[ModelCard, Path, dict[str, Any]], tmp_path: Path) -> None:
    loaded = onnx.load(made[1])
    tensor = loaded.graph.initializer[0]
    values = numpy_helper.to_array(tensor).copy()
    values.flat[0] += 1
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(loaded, tmp_path / "changed.onnx")
    with pytest.raises(ModelError, match="was changed after its export"):
        verify(tmp_path / "changed.onnx")


def test_a_label_that_was_changed_is_found(made: tuple[ModelCard, Path, dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "changed.onnx").write_bytes(made[1].read_bytes().replace(b"spleen", b"splean"))
    with pytest.raises(ModelError, match="was changed after its export"):
        verify(tmp_path / "changed.onnx")


def test_a_file_cut_short_and_a_file_of_others_are_refused(
    made: tuple[ModelCard, Path, dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "short.onnx").write_bytes(made[1].read_bytes()[:-7])
    with pytest.raises(ModelError, match="not an ONNX file, or truncated"):
        verify(tmp_path / "short.onnx")
    loaded = onnx.load(made[1])
    del loaded.metadata_props[:]
    onnx.save(loaded, tmp_path / "other.onnx")
    with pytest.raises(ModelError, match="not exported by segcli"):
        verify(tmp_path / "other.onnx")


def test_a_runtime_that_drifted_is_found(
    made: tuple[ModelCard, Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = segcli.engines.export.verified.current_samples
    monkeypatch.setattr(segcli.engines.export.verified, "current_samples", lambda *a: now(*a) * np.float32(1.01))
    with pytest.raises(ModelError, match="drifted from the certificate"):
        verify(made[1])


def test_5_9_a_graph_that_answers_otherwise_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = model(tmp_path / "small")

    def spoilt(network: Any, **_: Any) -> Any:
        torch.nn.init.normal_(network.get_parameter("out.conv.conv.weight"))
        return network

    monkeypatch.setattr(graph, "plainer", spoilt)
    with pytest.raises(ModelError, match="answers otherwise"):
        export_onnx(card, tmp_path / "small.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["small"]


def test_the_certificate_names_the_weights_it_was_made_from(made: tuple[ModelCard, Path, dict[str, Any]]) -> None:
    card, path, found = made
    assert found["sources"] == list(card.sha256)
    assert json.loads({e.key: e.value for e in onnx.load(path).metadata_props}["segcli"])["architecture"] == UXNET


@pytest.mark.parametrize("affine", [True, False])
def test_a_norm_with_sums_of_sums_is_the_group_norm(affine: bool) -> None:
    torch.manual_seed(0)
    stock = torch.nn.Sequential(torch.nn.GroupNorm(3, 3, affine=affine))
    if affine:
        torch.nn.init.normal_(stock.get_parameter("0.weight"))
        torch.nn.init.normal_(stock.get_parameter("0.bias"))
    x = torch.randn(2, 3, 4, 5, 6)
    expected = stock(x)
    assert graph.plainer(stock) is stock
    assert type(stock[0]) is torch.nn.GroupNorm
    assert torch.allclose(graph.plainer(stock, many=True)(x), expected, atol=1e-5)
    assert type(stock[0]) is not torch.nn.GroupNorm


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_norm_over_a_whole_volume_keeps_its_digits_in_both_runtimes(runtime: str) -> None:
    # Mostly one value, as air is: the group norm as it stands was off by 0.12 here, of 5.
    x = torch.full((1, 1, 256, 256, 256), 0.3137)
    x[:, :, 80:170, 70:180, 90:170] = torch.randn(90, 110, 80, generator=torch.Generator().manual_seed(0)) * 0.2 + 0.9
    exact = x.double()
    expected = ((exact - exact.mean()) / torch.sqrt(exact.var(unbiased=False) + 1e-5)).float().numpy()
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = graph.plainer(torch.nn.Sequential(torch.nn.GroupNorm(1, 1)), many=True).eval()
        torch.onnx.export(net, (x,), buffer, dynamo=False, opset_version=17, input_names=["x"])  # type: ignore[arg-type]
    if runtime == "onnxruntime":
        session = pytest.importorskip("onnxruntime").InferenceSession(buffer.getvalue())
        found = session.run(None, {"x": x.numpy()})[0]
    else:
        core = pytest.importorskip("openvino").Core()
        found = core.compile_model(core.read_model(buffer.getvalue()), "CPU")(x.numpy())[0]
    assert np.abs(found - expected).max() < 5e-5
