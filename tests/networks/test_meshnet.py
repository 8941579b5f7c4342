"""MeshNet answers as brainchop's runtime does, and brainchop's folders become models in one step."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from segcli.engines.choose import open_engine
from segcli.engines.export.verified import export_onnx
from segcli.errors import ModelError
from segcli.inference.segment import segment
from segcli.models import imports, library
from segcli.networks.registry import build, infer
from segcli.space.volume import Grid, Volume

STORED = load_file(Path(__file__).parents[1] / "data" / "meshnet" / "tinygrad.safetensors")
FORMS = {"elu": (False, False, True), "gelu": (True, True, False), "relu": (True, False, False)}
DILATIONS = [1, 2, 3]


def part(form: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(f"{form}/"): tensor for name, tensor in STORED.items() if name.startswith(f"{form}/")}


def arguments(form: str) -> dict[str, Any]:
    norm, affine, bias = FORMS[form]
    sizes = {"in_channels": 1, "out_channels": 2, "channels": [3, 3, 3], "dilations": DILATIONS}
    return {**sizes, "act": form, "norm": norm, "affine": affine, "bias": bias, "last_bias": True}


@pytest.mark.parametrize("form", FORMS)
def test_logits_are_those_of_brainchops_runtime(form: str) -> None:
    tensors = {name: torch.from_numpy(array) for name, array in part(form).items()}
    expected = tensors.pop("logits")
    net = build("meshnet", arguments(form))
    net.load_state_dict(tensors)
    with torch.inference_mode():
        found = net(torch.from_numpy(STORED["image"]))
    assert (found - expected).abs().max() < 2e-5


@pytest.mark.parametrize("form", FORMS)
def test_sizes_are_told_by_the_tensors_and_the_rest_is_said_to_be_unsure(form: str) -> None:
    (guess,) = infer({name: array.shape for name, array in part(form).items() if name != "logits"})
    told = {"in_channels", "out_channels", "channels", "bias", "last_bias", "affine"}
    assert {name: guess.config[name] for name in told} == {name: arguments(form)[name] for name in told}
    assert "the dilations" in guess.unsure["dilations"]
    assert guess.unsure["act"] == "the activation: ELU"


def brainchop(folder: Path, form: str, *, names: str = "model.{}", **changes: Any) -> Path:
    """A folder as brainchop has it, the tensors under other names in the same order."""
    norm, affine, bias = FORMS[form]
    folder.mkdir()
    layers = [
        {"in_channels": 3 if i else 1, "out_channels": 3, "kernel_size": 3, "padding": d, "stride": 1, "dilation": d}
        for i, d in enumerate(DILATIONS)
    ]
    layers.append({"in_channels": 3, "out_channels": 2, "kernel_size": 1, "padding": 0, "stride": 1, "dilation": 1})
    layers[-1]["bias"] = True
    described = {"header": "a test", "bnorm": norm, "affine": affine, "bias": bias, form: True, "layers": layers}
    (folder / "model.json").write_text(json.dumps(described | changes))
    (folder / "colormap.json").write_text(json.dumps({"R": [0, 1], "labels": ["Unknown", "Grey Matter"]}))
    layers_of = sorted({name.rpartition(".")[0] for name in part(form)} - {""})
    own = [f"{layer}.{kind}" for layer in layers_of for kind in ("weight", "bias") if f"{layer}.{kind}" in part(form)]
    numbers = {layer: i for i, layer in enumerate(layers_of)}
    spelt = {
        f"{names.format(numbers[layer])}.{kind}": part(form)[f"{layer}.{kind}"]
        for layer, _, kind in (name.rpartition(".") for name in own)
    }
    torch.save({name: torch.from_numpy(array) for name, array in spelt.items()}, folder / "model.pth")
    return folder


@pytest.mark.parametrize("form", FORMS)
def test_a_folder_of_brainchop_is_a_model_in_one_step(tmp_path: Path, form: str) -> None:
    folder = brainchop(tmp_path / "b", form)
    for path in (folder, folder / "model.pth"):
        notes: list[str] = []
        made = library.read_card(
            imports.adopt(
                path, to=tmp_path, name="mesh", given={"patch_size": [16] * 3}, replace=True, tell=notes.append
            )
        )
        assert dict(made.architecture.arguments) == arguments(form)
        assert (made.channels, made.grid.axes, made.grid.spacing) == (("T1",), "LIA", (1.0, 1.0, 1.0))
        assert [label.name for label in made.labels] == ["background", "grey_matter"]
        assert (made.grid.anchor, made.grid.shape, made.after_at) == ("conformed", (256, 256, 256), "model")
        assert any("what lies beyond these 256 mm is background" in note for note in notes)
        assert [step.together for step in made.after] == [True], "its largest piece of all labels as one stays"
        assert made.faithful == "nearest"
    found = imports.inspect(folder)
    assert found.found["patch_size"] == [256, 256, 256]


def test_weights_in_safetensors_under_the_name_of_a_pickle_are_read(tmp_path: Path) -> None:
    folder = brainchop(tmp_path / "b", "gelu")
    tensors = {name: array for name, array in part("gelu").items() if name != "logits"}
    save_file(tensors, folder / "model.pth")
    assert imports.inspect(folder).network == "meshnet"


def test_a_hidden_file_beside_the_weights_is_none_of_them(tmp_path: Path) -> None:
    folder = brainchop(tmp_path / "b", "gelu")
    (folder / "._model.pth").write_bytes(b"\0\5\x16\7")
    assert imports.inspect(folder).network == "meshnet"


def test_tensors_in_any_order_of_the_file_are_those_of_their_layers(tmp_path: Path) -> None:
    folder = brainchop(tmp_path / "b", "gelu")
    tensors = {name: torch.from_numpy(array) for name, array in part("gelu").items() if name != "logits"}
    torch.save(dict(reversed(tensors.items())), folder / "model.pth")
    assert imports.inspect(folder).arguments == imports.inspect(brainchop(tmp_path / "c", "gelu")).arguments


def test_layers_that_are_no_meshnets_are_refused(tmp_path: Path) -> None:
    folder = brainchop(tmp_path / "b", "elu", bias=False)
    with pytest.raises(ModelError, match=r"8 tensors, where the layers of model\.json have 5"):
        imports.inspect(folder)
    described = json.loads((folder / "model.json").read_text())
    described["layers"][0]["stride"] = 2
    (folder / "model.json").write_text(json.dumps(described))
    with pytest.raises(ModelError, match="layers that are no MeshNet's"):
        imports.inspect(folder)


def test_a_meshnet_runs_in_both_engines_and_labels_a_scan(tmp_path: Path) -> None:
    folder = brainchop(tmp_path / "b", "gelu")
    small = {"patch_size": [16] * 3, "shape": [24] * 3}
    made = library.read_card(imports.adopt(folder, to=tmp_path, name="mesh", given=small))
    proof = export_onnx(made, tmp_path / "mesh.onnx")
    assert proof
    scan = Volume(
        np.random.default_rng(1).integers(0, 255, (1, 18, 17, 16)).astype(np.int16), Grid((18, 17, 16), np.eye(4))
    )
    torch_labels = segment(scan, made.procedure, open_engine(made, engine="torch", device="cpu").engine).labels.data
    exported = library.find(str(tmp_path / "mesh.onnx"))
    onnx_labels = segment(
        scan, exported.procedure, open_engine(exported, engine="onnx", device="cpu").engine
    ).labels.data
    assert 0 < (torch_labels > 0).mean() < 1
    assert (torch_labels == onnx_labels).mean() > 0.999
