"""What `segcli models` says of a folder."""

import json
import os
from pathlib import Path

import pytest
from models import organs

from segcli.commands import models as answer
from segcli.engines.export.verified import export_onnx
from segcli.errors import InputError, ModelError
from segcli.models import catalogue
from segcli.models.library import file_sha256, read_card


def test_an_export_of_other_weights_than_the_folders_is_not_verified(tmp_path):
    from safetensors.numpy import load_file, save_file

    folder = organs(tmp_path / "organs", onnx=False)
    card = json.loads((folder / "model.json").read_text())
    export_onnx(read_card(folder), folder / "model.onnx")
    card |= {"onnx": "model.onnx", "onnx_sha256": file_sha256(folder / "model.onnx")}
    (folder / "model.json").write_text(json.dumps(card))
    answer.verify(folder, json=True)
    weights = folder / "weights.safetensors"
    save_file({name: 2 * tensor for name, tensor in load_file(weights).items()}, weights)
    (folder / "model.json").write_text(json.dumps(card | {"sha256": file_sha256(weights)}))
    with pytest.raises(ModelError, match=r"model.onnx: was exported from weights with sha256"):
        answer.verify(folder, json=True)


def test_a_model_is_verified_by_its_name(tmp_path, monkeypatch, capsys):
    organs(tmp_path / "models" / "organs")
    monkeypatch.setenv("SEGCLI_WEIGHTS", str(tmp_path / "models"))
    monkeypatch.chdir(tmp_path)
    answer.verify(Path("organs"))
    assert capsys.readouterr().out == "organs: verified\n"
    with pytest.raises(ModelError, match="organz"):
        answer.verify(Path("organz"))


def test_1_7_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(InputError, match=r"pipe\.onnx: not a regular file"):
        answer.verify(tmp_path / "pipe.onnx")


def test_every_network_is_listed_with_its_paper_and_its_public_weights(capsys):
    answer.networks(json=True)
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["networks"]}
    assert all(row["title"] and row["paper"] and row["form"] for row in rows.values())
    assert {"stunet", "mednext", "dints", "unest", "meshnet", "lungmask"} <= rows.keys()
    assert "monai-pancreas-dints" in rows["dints"]["public"]
    assert "strides" in rows["stunet"]["untold"]
    names = {name for row in rows.values() for name in row["names"]}
    assert {entry.network for entry in catalogue.entries().values()} - {""} <= names
