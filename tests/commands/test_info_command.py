"""What `segcli info` says of a scan."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from models import organs
from runs import in_process, scan

from segcli.commands import info as answer
from segcli.errors import CasesFailed, InputError, UsageError

from dicom_phantom import series  # isort: skip - runs makes their folders known
from scan_files import nifti  # isort: skip


def looked_at(path: Path, model: str, capsys: pytest.CaptureFixture[str]) -> dict:
    answer.info(path, model, json=True)
    return json.loads(capsys.readouterr().out)


def test_the_range_of_a_scan_is_that_of_its_finite_voxels(model, tmp_path, capsys):
    data = np.full((4, 4, 4), -5, "f4")
    data[0, 0], data[1, 1, 1] = np.nan, 7
    found = looked_at(nifti(tmp_path / "a.nii.gz", data), str(model), capsys)
    assert found["range"] == [-5.0, 7.0]
    assert "4 of 64 voxels are NaN or infinite" in found["warnings"][0]


def test_a_file_of_the_name_that_means_stdin_is_read_by_a_path(model, tmp_path, monkeypatch, capsys):
    scan(tmp_path / "a.nii").rename(tmp_path / "-")
    monkeypatch.chdir(tmp_path)
    answer.info("./-", model, json=True)
    assert json.loads(capsys.readouterr().out)["file"] == "-"


def test_a_scan_without_a_finite_voxel_is_refused_by_name(model, tmp_path, capsys):
    path = nifti(tmp_path / "a.nii.gz", np.full((4, 4, 4), np.nan, "f4"))
    with pytest.raises(InputError, match=r"a.nii.gz: not one voxel"):
        looked_at(path, str(model), capsys)


def test_a_label_map_of_segcli_can_be_looked_at(model, tmp_path, capsys):
    scan(tmp_path / "a_seg.nii.gz")
    (tmp_path / "a_seg.json").write_text('{"segcli_record": 1}')
    assert looked_at(tmp_path / "a_seg.nii.gz", str(model), capsys)["file"] == "a_seg.nii.gz"


def test_what_predict_refuses_as_a_label_map_is_told_so(model, tmp_path, capsys):
    labels = np.zeros((20, 20, 20), "u1")
    labels[4:12, 4:12, 4:12], labels[13:18, 4:12, 4:12] = 1, 2
    path = nifti(tmp_path / "labels.nii.gz", labels)
    with pytest.raises(InputError, match=r"labels.nii.gz: is a label map by its looks"):
        answer.info(path, model)
    shown = capsys.readouterr().out
    assert "\nrange" in shown
    assert "\npredict" not in shown
    with pytest.raises(InputError, match=r"labels.nii.gz: is a label map by its looks"):
        answer.info(path, model, json=True)
    found = json.loads(capsys.readouterr().out)
    assert "--allow-label-map" in found["refused"]
    assert "windows" not in found
    answer.info(scan(tmp_path / "scan.nii.gz"), model, json=True)
    assert "refused" not in json.loads(capsys.readouterr().out)


def test_a_4_d_file_with_the_channels_of_the_model_is_one_scan(tmp_path, capsys):
    two = organs(tmp_path / "two", onnx=False, channels=["T1", "T2"])
    card = json.loads((two / "model.json").read_text())
    card["architecture"]["in_chans"] = 2
    (two / "model.json").write_text(json.dumps(card))
    found = looked_at(nifti(tmp_path / "a.nii.gz", np.zeros((4, 4, 4, 2), "i2")), str(two), capsys)
    assert found["channels"] == 2
    assert "windows" in found


def test_axes_are_those_of_nibabel_and_those_of_arrays(model, tmp_path, capsys):
    import nibabel

    path = nifti(tmp_path / "a.nii.gz", np.zeros((4, 5, 6), "i2"))
    wanted = "".join(nibabel.aff2axcodes(nibabel.load(path).affine))
    assert looked_at(path, model, capsys)["axes_ijk"] == wanted
    answer.info(path, model)
    assert f"axes     {wanted} (where i, j, k point, as nibabel says it)" in capsys.readouterr().out


def test_of_a_scan_without_a_picture_no_other_model_is_said_to_fit(model, tmp_path, capsys):
    path = nifti(tmp_path / "a.nii.gz", np.zeros((16, 14, 12), "i2"))
    assert looked_at(path, model, capsys)["warnings"] == ["every voxel of the scan is 0: there is no picture"]


def test_a_scan_of_another_modality_is_told_with_the_command_that_lists_models(model, tmp_path, capsys):
    data = np.full((16, 14, 12), 0, "i2")
    data[2:-2, 2:-2, 2:-2] = 900
    path = nifti(tmp_path / "a.nii.gz", data + np.random.default_rng(0).integers(0, 9, data.shape, "i2"))
    (warning,) = looked_at(path, model, capsys)["warnings"]
    assert "not Hounsfield units" in warning
    assert warning.endswith("? `segcli models --available` lists models with their modality")
    answer.info(path, model)
    assert f"warning: {warning}" in capsys.readouterr().err


@pytest.mark.slow
def test_a_scan_whose_millimetres_are_called_metres_is_refused_as_geometry_by_every_command(tmp_path: Path) -> None:
    path, model = scan(tmp_path / "a.nii.gz", xyzt_units=1), organs(tmp_path / "model")
    for words in (("info", path), ("plan", path), ("predict", path, "-o", tmp_path / "out")):
        done = in_process(*words, "--model", model)
        assert done.returncode == 65
        assert b"voxels of 2000 x 3000 x 4000 mm: no scan has such" in done.stderr


def test_a_scan_with_other_channels_than_the_model_wants_is_described_and_told_as_refused(model, tmp_path, capsys):
    path = nifti(tmp_path / "a.nii.gz", np.zeros((4, 4, 4, 2), "i2"))
    two = organs(tmp_path / "two", onnx=False, channels=["T1", "T2"])
    document = json.loads((two / "model.json").read_text())
    document["architecture"]["in_chans"] = 2
    (two / "model.json").write_text(json.dumps(document))
    data = np.zeros((4, 4, 4), "f4")
    data[1, 1, 1] = np.nan
    one = nifti(tmp_path / "b.nii.gz", data)
    with pytest.raises(InputError, match=r"b.nii.gz: has 1 channel, and organs wants 2 channels: T1, T2"):
        answer.info(one, str(two))
    out, told = capsys.readouterr()
    assert "\nrange    0 to 0\n" in out
    assert "warning: 1 of 64 voxels are NaN or infinite" in told
    with pytest.raises(InputError, match=r"a\.nii\.gz"):
        answer.info(path, str(model))


def test_images_beside_dicom_are_listed_too(model, tmp_path, capsys):
    series(tmp_path / "both" / "dicom")
    scan(tmp_path / "both" / "b.nii.gz")
    answer.info(tmp_path / "both", str(model), json=True)
    found = json.loads(capsys.readouterr().out)
    assert len(found["series"]) == 1
    assert found["images"] == [{"image": "b", "files": "b.nii.gz"}]
    answer.info(tmp_path / "both", str(model))
    assert "both: other images" in capsys.readouterr().out


def test_archives_beside_dicom_are_named(model, tmp_path, capsys):
    inbox = tmp_path / "inbox"
    series(inbox / "loose", uid="a")
    packed = Path(shutil.make_archive(str(inbox / "day" / "packed"), "zip", series(tmp_path / "other", uid="b")))
    (inbox / "broken.zip").write_bytes(packed.read_bytes()[:2000])
    answer.info(inbox, str(model), json=True)
    found = json.loads(capsys.readouterr().out)
    assert len(found["series"]) == 1
    assert {row["archive"] for row in found["archives"]} == {"broken.zip", "day/packed.zip"}
    answer.info(inbox, str(model))
    out = capsys.readouterr().out
    assert "inbox: archives; info of one lists what is in it" in out
    assert "day/packed.zip" in out


def test_a_folder_of_several_series_is_described_by_its_series(model, tmp_path, capsys):
    for name in "ab":
        series(tmp_path / "both" / name, uid=name)
    answer.info(tmp_path / "both", str(model), json=True)
    rows = json.loads(capsys.readouterr().out)["series"]
    assert [(row["slices"], row["problem"]) for row in rows] == [(6, None)] * 2
    answer.info(tmp_path / "both", str(model))
    assert "both: DICOM series" in capsys.readouterr().out


def test_an_archive_of_several_series_is_described_by_its_series(model, tmp_path, capsys):
    """Its sentence beside DICOM says so, and predict takes each of them."""
    for name in "ab":
        series(tmp_path / "study" / name, uid=name)
    packed = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "study"))
    answer.info(packed, str(model), json=True)
    found = json.loads(capsys.readouterr().out)
    assert [(row["slices"], row["problem"]) for row in found["series"]] == [(6, None)] * 2
    assert (found["images"], found["archives"]) == ([], [])


def without(folder: Path, name: str) -> Path:
    """A series of the phantom with a slice missing in its middle."""
    return series(folder / name, uid=name, each=lambda ds, k: k != 3)


@pytest.mark.parametrize("json_asked", [False, True])
def test_a_folder_whose_only_series_is_refused_ends_with_its_exit_code(model, tmp_path, capsys, json_asked):
    without(tmp_path / "scan", "a")
    with pytest.raises(InputError, match=r"^(scan|series-[^:]*): .*missing") as refused:
        answer.info(tmp_path / "scan", str(model), json=json_asked)
    assert refused.value.exit_code == 65
    listed = capsys.readouterr().out  # the list is printed all the same
    assert "missing" in listed
    assert json_asked or listed.count("series-") == 1  # the row has its name once


def test_a_folder_some_of_whose_series_are_refused_ends_with_1_and_one_of_none_with_65(model, tmp_path, capsys):
    without(tmp_path / "scan", "a")
    series(tmp_path / "scan" / "b", uid="b")
    with pytest.raises(CasesFailed, match=r"^scan: 1 of 2 DICOM series cannot be read: .*missing"):
        answer.info(tmp_path / "scan", str(model))
    without(tmp_path / "none", "a")
    without(tmp_path / "none", "c")
    with pytest.raises(InputError, match=r"^none: 2 DICOM series, none of which is a volume: .*missing"):
        answer.info(tmp_path / "none", str(model))
    capsys.readouterr()
    done = in_process("info", tmp_path / "scan", "--model", model)
    assert (done.returncode, b"error: scan: 1 of 2 DICOM series" in done.stderr) == (1, True)


def test_a_scout_beside_a_volume_is_no_fault_of_the_folder_and_alone_it_is(model, tmp_path, capsys):
    scout = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    series(tmp_path / "scan" / "scout", uid="scout", each=lambda ds, k: k == 0, ImageType=scout)
    with pytest.raises(InputError):
        answer.info(tmp_path / "scan", str(model))
    series(tmp_path / "scan" / "b", uid="b")
    answer.info(tmp_path / "scan", str(model))
    assert "DICOM series" in capsys.readouterr().out


def test_a_folder_of_several_scans_is_told_as_that_and_one_of_one_scan_is_looked_at(model, tmp_path, capsys):
    folder = scan(tmp_path / "in" / "a.nii.gz").parent
    answer.info(folder, str(model))
    assert "voxels   12 x 14 x 16" in capsys.readouterr().out
    scan(folder / "b.nii.gz")
    with pytest.raises(UsageError, match="info takes one scan, and in has 2: the first are a and b"):
        answer.info(folder, str(model))
