"""Label maps that lie beside scans are left out of a folder, and are told; a scan never is."""

import json
from pathlib import Path

import numpy as np
import pytest
from models import organs
from runs import in_process, scan
from scan_files import nifti

from segcli.batch.cases import cases
from segcli.errors import InputError

rng = np.random.default_rng(0)
BALL = np.linalg.norm(np.mgrid[:24, :24, :24] - 11.5, axis=0) < 9
LABELS = np.where(BALL, 2, 0).astype("u1")
LABELS[12:] = np.where(BALL[12:], 41, 0)
PICTURE = (np.where(BALL, 180, 20) + rng.normal(0, 9, BALL.shape)).clip(0).astype("i2")


def nrrd(path: Path, data: np.ndarray) -> Path:
    import SimpleITK as sitk

    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(data), str(path), useCompression=True)
    return path


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    folder = tmp_path / "mixed"
    folder.mkdir()
    nifti(folder / "t1.nii.gz", PICTURE)
    nifti(folder / "t2.nii", PICTURE)
    nifti(folder / "mask.nii.gz", LABELS)
    nifti(folder / "aseg.nii", LABELS.astype("f4"))
    nrrd(folder / "sub" / "x_label.nrrd", LABELS)
    return folder


def test_label_maps_in_a_folder_are_left_out_and_told(mixed):
    said: list[str] = []
    assert [case.name for case in cases([str(mixed)], tell=said.append)] == ["t1", "t2"]
    told = "aseg.nii, mask.nii.gz, x_label.nrrd"
    assert said == [
        f"3 images are left out, by the voxels a label map: {told}; `predict --allow-label-map` takes them as scans"
    ]
    every = ["aseg", "mask", "t1", "t2", "sub/x_label"]
    assert [case.name for case in cases([str(mixed)], label_maps=True)] == every
    assert [case.name for case in cases([str(mixed / "mask.nii.gz")])] == ["mask"]
    assert [case.name for case in cases([str(mixed / "*.nii*")])] == ["aseg", "mask", "t1", "t2"]


def test_a_folder_of_label_maps_alone_is_refused(mixed):
    (mixed / "t1.nii.gz").unlink()
    (mixed / "t2.nii").unlink()
    with pytest.raises(InputError, match=r"^mixed: holds no scan, but what looks like label maps: aseg\.nii \.\.\."):
        cases([str(mixed)])


@pytest.mark.parametrize(
    "data",
    [
        PICTURE.astype("u1"),
        PICTURE.astype("f4"),
        np.where(BALL, PICTURE, 0).astype("u1"),
        np.where(BALL, 40, -1000).astype("i2"),
        np.zeros(BALL.shape, "u1"),
    ],
)
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_a_scan_in_a_folder_is_a_case_whatever_it_looks_like(tmp_path, data, name):
    nifti(tmp_path / name, data)
    assert len(cases([str(tmp_path)], tell=pytest.fail)) == 1


def test_what_cannot_be_read_stays_a_case(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"x")
    nifti(tmp_path / "b.nii.gz", np.stack([LABELS, LABELS], -1))
    assert [case.name for case in cases([str(tmp_path)], tell=pytest.fail)] == ["a", "b"]


def test_a_mask_that_is_a_channel_stays(tmp_path):
    nifti(tmp_path / "a_0000.nii.gz", PICTURE)
    nifti(tmp_path / "a_0001.nii.gz", LABELS)
    (case,) = cases([str(tmp_path)], ("T1", "mask"), tell=pytest.fail)
    assert len(case.paths) == 2


@pytest.mark.usefixtures("briefly")
def test_predict_and_plan_agree_on_a_folder_with_label_maps(tmp_path):
    model = organs(tmp_path / "organs")
    scan(tmp_path / "in" / "t1.nii.gz")
    nifti(tmp_path / "in" / "aseg.nii.gz", LABELS)
    one, two = (
        in_process(word, "in", "-m", model, "--engine", "onnx", "--json", cwd=tmp_path) for word in ("predict", "plan")
    )
    assert (one.returncode, two.returncode) == (0, 0)
    assert len(json.loads(one.stdout)["cases"]) == json.loads(two.stdout)["scans"] == 1
    told = "1 image is left out, by the voxels a label map: aseg.nii.gz"
    for done in (one, two):
        assert told in done.stderr.decode()
        (note,) = json.loads(done.stdout)["notes"]
        assert note.startswith(told)
    quiet = in_process("predict", "in", "-m", model, "--engine", "onnx", "--json", "-q", cwd=tmp_path)
    assert (quiet.stderr, json.loads(quiet.stdout)["notes"]) == (b"", [note])
