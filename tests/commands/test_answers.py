"""What the other commands answer."""

import json
from pathlib import Path

import numpy as np
import pytest
from models import organs
from runs import command, scan

from segcli.batch.outputs import Destination
from segcli.commands import answers
from segcli.engines.export.verified import export_onnx
from segcli.errors import InputError, ModelError
from segcli.models.library import file_sha256, read_card

from scan_files import nifti  # isort: skip - runs makes its folder known


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(organs(tmp_path_factory.mktemp("model") / "organs"))


def info(path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> dict:
    answers.info(path, model, series=None, volume=None, affine=None, as_json=True)
    return json.loads(capsys.readouterr().out)


def test_the_range_of_a_scan_is_that_of_its_finite_voxels(model, tmp_path, capsys):
    data = np.full((4, 4, 4), -5, "f4")
    data[0, 0], data[1, 1, 1] = np.nan, 7
    found = info(nifti(tmp_path / "a.nii.gz", data), model, capsys)
    assert found["range"] == [-5.0, 7.0]
    assert "4 of 64 voxels are NaN or infinite" in found["warnings"][0]


def test_a_scan_without_a_finite_voxel_is_refused_by_name(model, tmp_path, capsys):
    path = nifti(tmp_path / "a.nii.gz", np.full((4, 4, 4), np.nan, "f4"))
    with pytest.raises(InputError, match=r"a.nii.gz: not one voxel"):
        info(path, model, capsys)


def test_a_label_map_of_segcli_can_be_looked_at(model, tmp_path, capsys):
    scan(tmp_path / "a_seg.nii.gz")
    (tmp_path / "a_seg.json").write_text('{"segcli_record": 1}')
    assert info(tmp_path / "a_seg.nii.gz", model, capsys)["file"] == "a_seg.nii.gz"


def test_a_plan_takes_the_limits_and_models_of_predict(model, tmp_path):
    scan(tmp_path / "a.nii.gz")
    one, two = (
        json.loads(command("plan", "a.nii.gz", *models, *limits, "--engine", "onnx", "--json", cwd=tmp_path).stdout)
        for models, limits in ((("-m", model), ("--max-ram", "64G")), (("-m", model, "-m", model), ("--max-ram", "1")))
    )
    assert two["windows"] == 2 * one["windows"] > 0
    assert (one["sums_on_disk"], two["sums_on_disk"]) == (False, True)


def test_a_plan_is_of_one_scan_and_takes_its_channels(model, tmp_path):
    scan(tmp_path / "a.nii.gz")
    scan(tmp_path / "b.nii.gz")
    for words, code, told in (
        ((".", "-m", model), 2, b"plan takes one scan, not 2"),
        (("--channel", "CT=a.nii.gz", "-m", model), 0, b""),
    ):
        done = command("plan", *words, "--engine", "torch", cwd=tmp_path)
        assert done.returncode == code, done.stderr
        assert told in done.stderr


def test_a_4_d_file_with_the_channels_of_the_model_is_one_scan(tmp_path, capsys):
    two = organs(tmp_path / "two", onnx=False, channels=["T1", "T2"])
    card = json.loads((two / "model.json").read_text())
    card["architecture"]["in_chans"] = 2
    (two / "model.json").write_text(json.dumps(card))
    found = info(nifti(tmp_path / "a.nii.gz", np.zeros((4, 4, 4, 2), "i2")), str(two), capsys)
    assert found["channels"] == 2
    assert "windows" in found


def test_a_label_map_of_another_model_is_not_reported_under_wrong_names(model, tmp_path):
    path = nifti(tmp_path / "a_seg.nii.gz", np.zeros((4, 4, 4), "u1"))
    (tmp_path / "a_seg.json").write_text('{"segcli_record": 1, "model": {"name": "uxnet"}}')
    with pytest.raises(InputError, match=r"a_seg.nii.gz: its record says that uxnet made it, not organs"):
        answers.report(path, model, None, Destination(tmp_path), affine=None, as_json=False)


def test_an_export_of_other_weights_than_the_folders_is_not_verified(tmp_path):
    from safetensors.numpy import load_file, save_file

    folder = organs(tmp_path / "organs", onnx=False)
    card = json.loads((folder / "model.json").read_text())
    export_onnx(read_card(folder), folder / "model.onnx")
    card |= {"onnx": "model.onnx", "onnx_sha256": file_sha256(folder / "model.onnx")}
    (folder / "model.json").write_text(json.dumps(card))
    answers.verify(folder, as_json=True)
    weights = folder / "weights.safetensors"
    save_file({name: 2 * tensor for name, tensor in load_file(weights).items()}, weights)
    (folder / "model.json").write_text(json.dumps(card | {"sha256": file_sha256(weights)}))
    with pytest.raises(ModelError, match=r"model.onnx: was exported from weights with sha256"):
        answers.verify(folder, as_json=True)


def test_label_maps_on_two_grids_are_named(tmp_path):
    one = nifti(tmp_path / "one.nii.gz", np.zeros((4, 4, 4), "u1"))
    other = nifti(tmp_path / "other.nii.gz", np.zeros((4, 4, 5), "u1"))
    with pytest.raises(InputError, match=r"one.nii.gz and other.nii.gz: .* not on one grid"):
        answers.evaluate(
            one,
            other,
            model=None,
            labels=(),
            tolerance=1,
            resample=False,
            affine=None,
            against=None,
            form="json",
            html=None,
        )
