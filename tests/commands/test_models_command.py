"""What `segcli models` says of a folder."""

import json
import os
from pathlib import Path

import pytest
from models import organs

from segcli.commands import models as answer
from segcli.commands.app import app
from segcli.engines.export.verified import export_onnx
from segcli.errors import InputError, ModelError, UsageError
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
    assert "brainchop-model18cls" in rows["meshnet"]["public"]
    assert "stunet-total-huge" in rows["stunet"]["public"]
    assert rows["mednext"]["weights"].startswith("none: its authors published none")
    assert "strides" in rows["stunet"]["untold"]
    names = {name for row in rows.values() for name in row["names"]}
    assert {entry.network for entry in catalogue.entries().values()} - {""} <= names
    answer.networks()
    assert "    public weights  none: its authors published none (MIC-DKFZ/MedNeXt)\n" in capsys.readouterr().out


def test_the_lists_of_models_are_a_table_or_one_document(tmp_path, monkeypatch, capsys):
    organs(tmp_path / "models" / "organs")
    monkeypatch.setenv("SEGCLI_WEIGHTS", str(tmp_path / "models"))
    answer.show(json=True)
    document = json.loads(capsys.readouterr().out)
    assert document["models"][0]["name"] == "organs"
    assert document["looked_in"][0] == str(tmp_path / "models")
    answer.show()
    out, told = capsys.readouterr()
    assert "organs" in out
    assert f"looked in: {tmp_path / 'models'}" in told
    answer.show(available=True, json=True)
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["models"]}
    assert rows["totalsegmentator"]["installed"] is False
    answer.show(available=True)
    out, told = capsys.readouterr()
    assert "totalsegmentator" in out
    assert "nothing is downloaded without it" in told


@pytest.mark.parametrize("words", [("--available", "list"), ("--json", "list"), ("--json", "info", "organs")])
def test_an_option_before_the_command_that_it_is_of_is_refused_and_not_passed_over(words):
    with pytest.raises(UsageError, match=f"{words[0]} stands behind the command"):
        app(["models", *words], standalone_mode=False)


def test_a_setting_of_the_list_is_none_of_the_commands_beside_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("segcli.toml").write_text("[models]\njson = true\n", encoding="utf-8")
    app(["models", "info", "uxnet"], standalone_mode=False)
    assert capsys.readouterr().out.startswith("name ")
    app(["models"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["models"]


def test_a_model_is_described_whether_it_is_here_or_only_known(tmp_path, monkeypatch, capsys):
    organs(tmp_path / "models" / "organs")
    monkeypatch.setenv("SEGCLI_WEIGHTS", str(tmp_path / "models"))
    answer.info("organs", json=True)
    here = json.loads(capsys.readouterr().out)
    assert (here["here"], here["citation"], here["structures"][:2]) == (True, None, ["body", "liver"])
    assert (here["network"], here["folds"], here["overlap"]) == ("pointwise.Pointwise", 1, 0.5)
    assert here["window_voxels"] == [32, 32, 32]
    answer.info("totalsegmentator", json=True)
    known = json.loads(capsys.readouterr().out)
    assert known["here"] is False
    assert known["citation"]
    answer.info("totalsegmentator")
    out = capsys.readouterr().out
    assert "citation    " in out
    assert "looks_where" not in out
    answer.info("organs")
    assert "structures     1 body, 2 liver, " in capsys.readouterr().out


def test_what_a_file_is_is_printed_without_what_it_lacks(tmp_path, capsys):
    weights = organs(tmp_path / "organs") / "weights.safetensors"
    answer.inspect(weights, json=True)
    found = json.loads(capsys.readouterr().out)
    assert (found["path"], found["notes"]) == ("weights.safetensors", [])
    answer.inspect(weights)
    out = capsys.readouterr().out
    assert out.startswith("path        weights.safetensors")
    assert "notes" not in out


@pytest.mark.parametrize("left", [0, -9])
def test_an_onnx_file_that_broke_off_is_not_described_as_a_graph(tmp_path, left):
    graph = organs(tmp_path / "organs") / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:left])
    with pytest.raises(ModelError, match=r"^model\.onnx: not an ONNX file, or truncated$"):
        answer.inspect(graph)


def test_a_file_that_was_exported_is_verified_alone(tmp_path, capsys):
    export_onnx(read_card(organs(tmp_path / "organs", onnx=False)), tmp_path / "alone.onnx")
    answer.verify(tmp_path / "alone.onnx", json=True)
    assert json.loads(capsys.readouterr().out)["certificate"]
