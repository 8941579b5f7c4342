"""What `segcli report` refuses, and what it says of label maps that others made."""

import copy
import json
import os
import shutil
import time
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from dicom_phantom import series
from models import LABELS, organs
from runs import in_process, scan

import segcli
from segcli import formats
from segcli.batch import existing_scan, outputs
from segcli.commands import report as answer
from segcli.commands.evaluate import evaluate
from segcli.errors import InputError, ModelError, OutputError, OutputExists, UsageError
from segcli.formats import freesurfer
from segcli.models.library import file_sha256

from scan_files import nifti  # isort: skip - runs makes its folder known


def test_a_label_map_of_another_model_is_not_reported_under_wrong_names(model, tmp_path):
    path = nifti(tmp_path / "a_seg.nii.gz", np.zeros((4, 4, 4), "u1"))
    (tmp_path / "a_seg.json").write_text('{"segcli_record": 1, "model": {"name": "uxnet"}}')
    with pytest.raises(InputError, match=r"a_seg.nii.gz: its record says that uxnet made it, not organs"):
        answer.report(path, str(model), output=tmp_path)


def test_another_model_of_the_name_does_not_give_a_label_map_its_names(tmp_path, monkeypatch):
    labels = {"brain" if name == "body" else name: number for name, number in LABELS.items()}
    model = organs(tmp_path / "models" / "organs", labels=labels)
    monkeypatch.setenv("SEGCLI_WEIGHTS", str(model.parent))
    path = nifti(tmp_path / "a_seg.nii.gz", np.eye(4, dtype="u1")[None].repeat(4, 0))
    rows = {"segcli_record": 1, "model": {"name": "organs"}, "structures": [{"label": 1, "name": "body"}]}
    (tmp_path / "a_seg.json").write_text(json.dumps(rows))
    for named in (None, str(model)):
        with pytest.raises(InputError, match="its record calls the number 1 body, organs calls it brain"):
            answer.report(path, named, output=tmp_path)


def test_the_record_names_the_model_where_nobody_does(model, tmp_path, capsys, monkeypatch):
    places = (model.parent, organs(tmp_path / "models" / "t1+t2", name="t1+t2").parent)
    monkeypatch.setenv("SEGCLI_WEIGHTS", os.pathsep.join(map(str, places)))
    path = nifti(tmp_path / "a_seg.nii.gz", np.eye(4, dtype="u1")[None].repeat(4, 0))
    for name in ("organs", "organs+others", "t1+t2"):
        (tmp_path / "a_seg.json").write_text(json.dumps({"segcli_record": 1, "model": {"name": name}}))
        answer.report(path, output=tmp_path / name, json=True)
        assert json.loads(capsys.readouterr().out)["record"]["structures"][0]["name"] == "body"
    (tmp_path / "a_seg.json").write_text('{"segcli_record": 1, "model": {"name": "elsewhere"}}')
    with pytest.raises(ModelError, match=r"a_seg.nii.gz: its record says that elsewhere made it: no model 'elsewhere'"):
        answer.report(path, output=tmp_path / "elsewhere")


def test_a_folder_of_results_is_told_to_be_no_label_map(tmp_path):
    for name in ("a", "b_seg"):
        nifti(tmp_path / f"{name}.nii.gz", np.zeros((4, 4, 4), "u1"))
    (tmp_path / "b_seg.json").write_text('{"segcli_record": 1, "model": {"name": "uxnet"}}')
    with pytest.raises(InputError, match="is a folder, and report takes one label map") as refused:
        answer.report(tmp_path)
    assert refused.value.hint == f"give one: {tmp_path / 'b_seg.nii.gz'}"


def test_a_label_map_of_any_program_is_reported_by_a_table_of_names(tmp_path, capsys):
    data = np.zeros((6, 6, 6), "i2")
    data[1, 1:3, 1:3], data[4, 1:3, 1:3], data[0, 0, 0] = 1001, 2001, 7
    path = nifti(tmp_path / "aparc.nii.gz", data)
    (tmp_path / "lut.txt").write_text("1001 ctx-lh-cuneus 1 2 3 0\n2001 ctx-rh-cuneus 1 2 3 0\n9 other 1 2 3 0\n")
    answer.report(path, labels=str(tmp_path / "lut.txt"), output=tmp_path, json=True)
    out, told = capsys.readouterr()
    document = json.loads(out)
    found = {s["name"]: s["voxels"] for s in document["record"]["structures"]}
    assert found == {"ctx_lh_cuneus": 4, "ctx_rh_cuneus": 4, "label_7": 1}
    assert document["record"]["model"] == {"name": "lut.txt", "sha256": None, "licence": "unknown"}
    assert "warning: lut.txt has no name for 7" in told
    page = (tmp_path / "aparc_seg.html").read_text()
    assert "labels named by lut.txt" in page
    assert "ctx cuneus" in page


def test_totalsegmentators_numbers_are_known(tmp_path, capsys):
    data = np.zeros((6, 6, 6), "u1")
    data[1], data[3], data[5] = 5, 2, 3
    answer.report(nifti(tmp_path / "total.nii.gz", data), labels="totalsegmentator", output=tmp_path, json=True)
    structures = json.loads(capsys.readouterr().out)["record"]["structures"]
    assert [s["name"] for s in structures] == ["kidney_right", "kidney_left", "liver"]


def test_a_map_of_several_channels_is_no_label_map(model, tmp_path):
    path = nifti(tmp_path / "a.nii.gz", np.zeros((4, 4, 4, 2), "u1"))
    with pytest.raises(InputError, match=r"a.nii.gz: holds 2 images .* label map is expected \(take one"):
        answer.report(path, str(model), output=tmp_path)


@pytest.mark.parametrize(("values", "told"), [((-1, 1), "-1"), ((0, 90), "90"), ((2, 3), "3")])
def test_values_that_the_model_never_writes_are_refused(tmp_path, values, told):
    card = organs(tmp_path / "organs", labels={**LABELS, "liver": 7, "spleen": 2, "heart": 4}, codes={})
    data = np.zeros((4, 4, 4), "i2")
    data[0, 0, 0], data[1, 1, 1] = values
    path = nifti(tmp_path / "a.nii.gz", data)
    with pytest.raises(InputError, match=rf"a.nii.gz: not a label map of organs: it holds {told}, and no label has"):
        answer.report(path, str(card), output=tmp_path)


def test_the_mask_of_one_structure_is_not_reported_under_the_name_of_another(model, tmp_path):
    scan(tmp_path / "a.nii.gz")
    assert in_process("predict", "a.nii.gz", "-m", model, "-o", "out", "--split", cwd=tmp_path).returncode == 0
    with pytest.raises(InputError, match=r"liver.nii.gz: the mask of one structure, as --split writes it"):
        answer.report(tmp_path / "out" / "a_seg" / "liver.nii.gz", str(model), output=tmp_path)


def test_a_table_names_no_values_below_0(tmp_path):
    (tmp_path / "lut.txt").write_text("9 other 1 2 3 0\n")
    path = nifti(tmp_path / "a.nii.gz", np.full((4, 4, 4), -3, "i2"))
    with pytest.raises(InputError, match=r"lut.txt: names no values below 0, and the label map holds -3"):
        answer.report(path, labels=str(tmp_path / "lut.txt"), output=tmp_path)


def test_a_scan_on_another_grid_than_its_label_map_is_refused(model, tmp_path):
    labels = nifti(tmp_path / "a_seg.nii.gz", np.zeros((4, 4, 4), "u1"))
    scan = nifti(tmp_path / "a.nii.gz", np.zeros((4, 4, 5), "i2"))
    with pytest.raises(InputError, match=r"a_seg.nii.gz and a.nii.gz are not on one grid"):
        answer.report(labels, str(model), image=scan, output=tmp_path)


def test_what_speaks_against_a_label_map_is_printed_beside_the_files(model, tmp_path, capsys):
    labels = nifti(tmp_path / "a_seg.nii.gz", np.zeros((4, 4, 4), "u1"))
    answer.report(labels, str(model), output=tmp_path)
    out, told = capsys.readouterr()
    assert out.split() == [str(tmp_path / "a_seg.html")]
    print(repr(told))
    assert "no structure was found" in told


def test_structures_that_a_label_map_was_not_made_of_are_unknown_and_not_0(model, tmp_path, capsys):
    data = np.zeros((8, 8, 8), "u1")
    data[2:4, 2:6, 2:6], data[5:7, 2:6, 2:6] = 2, 3
    path = nifti(tmp_path / "a_seg.nii.gz", data)
    made = {"segcli_record": 1, "case": "a", "model": {"name": "organs"}, "options": {"classes": ["liver"]}}
    (tmp_path / "a_seg.json").write_text(json.dumps(made))
    answer.report(path, str(model), output=tmp_path, forms=["csv"], json=True)
    record = json.loads(capsys.readouterr().out)["record"]
    assert [s["name"] for s in record["structures"]] == ["liver", "spleen"]  # which somebody has drawn since
    assert record["options"] == {"classes": ["liver", "spleen"]}
    assert not [check for check in record["checks"] if check["code"] == "missing"]
    assert len((tmp_path / "a_seg.csv").read_text().splitlines()) == 3


def test_a_label_map_that_somebody_has_changed_is_not_said_to_be_the_models(model, tmp_path, capsys):
    path = nifti(tmp_path / "a_seg.nii.gz", np.ones((6, 6, 6), "u1"))
    for sha256, known in ((file_sha256(path), "1" * 64), ("0" * 64, None)):
        made = {"segcli_record": 1, "model": {"name": "organs", "sha256": "1" * 64}, "labels": {"sha256": sha256}}
        (tmp_path / "a_seg.json").write_text(json.dumps(made))
        answer.report(path, str(model), output=tmp_path, forms=["html"], json=True)
        out, told = capsys.readouterr()
        assert json.loads(out)["record"]["model"]["sha256"] == known
        assert ("warning: a_seg.nii.gz has been changed since organs made it" in told) == (known is None)
        page = (tmp_path / "a_seg.html").read_text()
        assert ("segmented by organs" in page, "labels named by organs" in page) == (known is not None, known is None)


def test_a_segmentation_is_reported_and_scored_on_the_grid_of_its_scan(model, tmp_path, capsys):
    words = ("--engine", "onnx", "--model", model, "--classes", "liver,spleen", "-q")
    done = in_process("predict", series(tmp_path / "ct"), "-o", tmp_path / "out", "--write", "dicom-seg", *words)
    assert done.returncode == 0, done.stderr
    one, labels = tmp_path / "out" / "ct_seg.dcm", tmp_path / "out" / "ct_seg.nii.gz"
    for path, name in ((one, "a"), (labels, "b")):
        answer.report(path, str(model), image=tmp_path / "ct", output=tmp_path / name, forms=["csv"])
    assert (tmp_path / "a" / "ct_seg.csv").read_bytes() == (tmp_path / "b" / "ct_seg.csv").read_bytes()
    with pytest.raises(UsageError, match=r"ct_seg\.dcm: is a DICOM Segmentation") as refused:
        answer.report(one, str(model))
    assert "--image" in str(refused.value.hint)
    capsys.readouterr()
    for pair in ((one, labels), (labels, one)):
        evaluate(*pair, model=str(model), json=True)
        scores = json.loads(capsys.readouterr().out)["scores"]
        assert {s["dice"] for s in scores if s["status"] != "absent"} == {1.0}
    (truth := tmp_path / "truth" / "ct").mkdir(parents=True)
    (truth / "1-1.dcm").write_bytes(one.read_bytes())
    evaluate(tmp_path / "out", truth.parent, model=str(model), json=True)
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert {(s["case"], s["dice"]) for s in scores if s["status"] != "absent"} == {("ct", 1.0)}
    with pytest.raises(InputError, match="numbered from 1 to 2, which are not those of freesurfer"):
        evaluate(labels, one, model=str(model), reference_labels="freesurfer")
    evaluate(one, labels, json=True)
    told = "note: ct_seg.dcm: its segments are compared by their own numbers (1 liver, 2 spleen), with --model by names"
    out, err = capsys.readouterr()
    assert told in err
    assert [s["name"] for s in json.loads(out)["scores"]] == ["liver", "spleen", "label_3"]


def test_two_segmentations_of_one_grid_are_compared_by_the_names_of_their_segments(model, tmp_path, capsys):
    words = ("--engine", "onnx", "--model", model, "--classes", "liver,spleen", "-q")
    done = in_process("predict", series(tmp_path / "ct"), "-o", tmp_path / "out", "--write", "dicom-seg", *words)
    assert done.returncode == 0, done.stderr
    one, labels, theirs = tmp_path / "out" / "ct_seg.dcm", tmp_path / "out" / "ct_seg.nii.gz", tmp_path / "theirs.dcm"
    evaluate(one, one, model=str(model), json=True)
    assert {s["dice"] for s in json.loads(capsys.readouterr().out)["scores"] if s["status"] != "absent"} == {1.0}
    evaluate(labels, labels, json=True)
    volumes = {s["name"]: s["volume_ml"] for s in json.loads(capsys.readouterr().out)["scores"]}
    with pytest.raises(UsageError, match="--labels liver: is no number"):  # the record has other numbers than segments
        evaluate(one, labels, labels="liver")
    file = pydicom.dcmread(one)
    for segment, name in zip(file.SegmentSequence, ("Spleen", "liver"), strict=True):  # numbers mean something else
        segment.SegmentLabel = name
    file.save_as(theirs)
    evaluate(one, theirs, json=True)
    scores = {s["name"]: s for s in json.loads(capsys.readouterr().out)["scores"]}
    assert {name: s["status"] for name, s in scores.items()} == {
        "Spleen": "missed",
        "liver": "both",
        "spleen": "invented",
    }
    assert [scores[n]["volume_ml"] for n in ("liver", "spleen")] == [volumes["liver"], volumes["spleen"]]
    for segment, name in zip(file.SegmentSequence, ("Leber", "Milz"), strict=True):
        segment.SegmentLabel = name
    file.save_as(theirs)
    with pytest.raises(InputError, match="no segments of one have a name of the other's: liver, spleen and Leber, Mi"):
        evaluate(one, theirs)
    shared = file.SharedFunctionalGroupsSequence[0]
    shared.PixelMeasuresSequence[0].PixelSpacing = [1.5, 1.5]
    file.save_as(theirs)
    with pytest.raises(InputError, match=r"ct_seg\.dcm and theirs\.dcm: do not lie on one grid"):
        evaluate(one, theirs)


def predicted(model, home, *names, reports="html"):
    """Cases in the folder out of `home`, whose scans lie in `home`; the words that predict them again."""
    for name in names:
        scan(home / f"{name}.nii.gz", len(name))
    scans = [f"{name}.nii.gz" for name in names]
    words = ("predict", *scans, "--model", str(model), "--engine", "onnx", "-o", "out", "--report", reports)
    done = in_process(*words, cwd=home)
    assert done.returncode == 0, done.stderr
    return words


def test_a_page_that_report_makes_of_a_result_is_the_one_of_predict(model, tmp_path, capsys):
    predicted(model, tmp_path, "a")
    page = tmp_path / "out" / "a_seg.html"
    first = page.read_bytes()
    assert b"confidence" in first
    page.unlink()
    answer.report(tmp_path / "out" / "a_seg.nii.gz", str(model))
    assert page.read_bytes() == first
    told = capsys.readouterr().err
    assert f"note: the scan is {tmp_path / 'a.nii.gz'}, as the record of a_seg.nii.gz says" in told
    assert [line.split()[1] for line in told.splitlines() if line.split()[0].isdigit()] == ["body", "liver", "spleen"]


@pytest.mark.parametrize("which", [(), "3"])
def test_the_dicom_folder_beside_a_label_map_is_its_scan_and_its_headers_are_read_once(
    model, tmp_path, capsys, monkeypatch, which
):
    series(tmp_path / "ct")
    if which:
        series(tmp_path / "ct", uid="b", SeriesNumber=9)
    segcli.load(model, engine="onnx").segment(tmp_path / "ct", series=which).save(tmp_path / "a_seg.nii.gz")
    names, known, now = [], pydicom.dcmread, time.time_ns
    monkeypatch.setattr(pydicom, "dcmread", lambda file, **how: names.append(file.name) or known(file, **how))
    monkeypatch.setattr(time, "time_ns", lambda: now() + 10**10)  # files that came just now are read again
    answer.report(tmp_path / "a_seg.nii.gz", str(model))
    assert f"note: the scan is {tmp_path / 'ct'}, as the record" in capsys.readouterr().err
    assert len(names) == len(set(names)) == len(list((tmp_path / "ct").iterdir()))


def test_no_scan_is_looked_for_in_all_that_lies_around_a_label_map_of_a_folder_named_by_a_dot(
    model, tmp_path, monkeypatch
):
    monkeypatch.chdir(series(tmp_path / "ct"))
    segcli.load(model, engine="onnx").segment(".").save(tmp_path / "a_seg.nii.gz")
    searched = []
    monkeypatch.setattr(existing_scan, "hash_inputs", lambda paths, *_: searched.append(paths))
    answer.report(tmp_path / "a_seg.nii.gz", str(model))
    assert searched == []


def test_files_beside_a_label_map_of_BIDS_are_called_as_predict_calls_them(tmp_path):
    path = nifti(tmp_path / "sub-1_dseg.nii.gz", np.ones((4, 4, 4), "u1"))
    answer.report(path, labels="freesurfer", forms=["html"], tables="bids")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"sub-1_dseg.nii.gz", "sub-1_dseg.tsv", "sub-1_seg.html"}


def test_a_page_that_shows_the_scan_is_not_replaced_by_one_without_it(model, tmp_path):
    predicted(model, tmp_path, "a")
    page, labels = tmp_path / "out" / "a_seg.html", tmp_path / "out" / "a_seg.nii.gz"
    first = page.read_bytes()
    scan(tmp_path / "a.nii.gz", 3)  # another one under its name
    with pytest.raises(OutputExists, match=r"a_seg\.html: shows the scan") as refused:
        answer.report(labels, str(model))
    assert "--image" in str(refused.value.hint)
    assert page.read_bytes() == first
    answer.report(labels, str(model), overwrite=True)
    assert "<th" in page.read_text()
    assert "confidence" in page.read_text()
    answer.report(labels, str(model))  # one without the scan is replaced by another


def test_2_4_what_report_makes_beside_a_record_is_ours_and_a_copied_page_is_not(model, tmp_path):
    words = predicted(model, tmp_path, "a")
    out = tmp_path / "out"
    answer.report(out / "a_seg.nii.gz", str(model), forms=["csv,html,png"], tables="slicer,bids")
    page = (out / "a_seg.html").read_bytes()
    again = in_process(*words, cwd=tmp_path)
    assert (again.returncode, b"already done" in again.stderr) == (0, True), again.stderr
    more = in_process(*words, "--report", "csv", "--tables", "slicer", cwd=tmp_path)
    assert more.returncode == 0, more.stderr
    (out / "a_seg.html").write_bytes(page.replace(b"<h1>a", b"<h1>b"))
    copied = in_process(*words, cwd=tmp_path)
    assert (copied.returncode, b"a_seg.html: has been changed since" in copied.stderr) == (73, True), copied.stderr


def test_a_page_of_another_label_map_of_that_name_is_not_replaced(model, tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        data = np.zeros((6, 6, 6), "u1")
        data[1, 1:3, 1 : 3 + (name == "b")] = 2
        nifti(tmp_path / name / "aseg.nii.gz", data)
    for _ in range(2):
        answer.report(tmp_path / "a" / "aseg.nii.gz", str(model), output=tmp_path / "out", forms=["html,csv"])
    with pytest.raises(OutputExists, match=r"aseg_seg\.\w+: exists already"):
        answer.report(tmp_path / "b" / "aseg.nii.gz", str(model), output=tmp_path / "out", forms=["html,csv"])
    assert "liver" in (tmp_path / "out" / "aseg_seg.csv").read_text()


def test_a_label_map_that_is_corrected_by_hand_has_its_page_made_anew(model, tmp_path):
    predicted(model, tmp_path, "a")
    labels = tmp_path / "out" / "a_seg.nii.gz"
    for row in (3, 4):
        image = nibabel.load(labels)
        data = np.asarray(image.dataobj).copy()
        data[row, row] = 2
        nibabel.save(nibabel.Nifti1Image(data, image.affine, image.header), labels)
        answer.report(labels, str(model), image=tmp_path / "a.nii.gz")


def test_a_segmentation_of_another_program_is_reported_by_its_own_names(model, tmp_path, capsys):
    words = ("--engine", "onnx", "--model", model, "--classes", "liver,spleen", "-q")
    done = in_process("predict", series(tmp_path / "ct"), "-o", tmp_path / "out", "--write", "dicom-seg", *words)
    assert done.returncode == 0, done.stderr
    file = pydicom.dcmread(tmp_path / "out" / "ct_seg.dcm")
    for segment, name in zip(file.SegmentSequence, ("Leber (links)", "Milz"), strict=True):
        segment.SegmentLabel = name
    file.save_as(tmp_path / "theirs.dcm")
    with pytest.raises(InputError, match="its segment Leber") as refused:
        answer.report(tmp_path / "theirs.dcm", str(model), image=tmp_path / "ct", output=tmp_path)
    assert "--labels theirs.dcm" in str(refused.value.hint)
    theirs = tmp_path / "theirs.dcm"
    answer.report(theirs, str(model), labels=str(theirs), image=tmp_path / "ct", output=tmp_path, json=True)
    found = {s["name"]: s["voxels"] for s in json.loads(capsys.readouterr().out)["record"]["structures"]}
    answer.report(tmp_path / "out" / "ct_seg.nii.gz", str(model), output=tmp_path / "own", json=True)
    own = {s["name"]: s["voxels"] for s in json.loads(capsys.readouterr().out)["record"]["structures"]}
    assert found == {"leber_links": own["liver"], "milz": own["spleen"]}


def test_with_a_table_of_names_no_model_is_looked_for(tmp_path, capsys):
    path = nifti(tmp_path / "aseg.nii.gz", np.full((4, 4, 4), 17, "u1"))
    answer.report(path, "no-such-model", labels="freesurfer", output=tmp_path, json=True)
    assert [s["name"] for s in json.loads(capsys.readouterr().out)["record"]["structures"]] == ["left_hippocampus"]


def test_freesurfers_numbers_are_known(tmp_path, capsys):
    data = np.zeros((6, 6, 6), "i2")
    for plane, value in enumerate((17, 53, 1035, 2001, 254, 11101)):
        data[plane] = value
    path = nifti(tmp_path / "aparc+aseg.nii.gz", data)
    answer.report(path, labels="freesurfer", output=tmp_path, json=True)
    out, told = capsys.readouterr()
    assert [s["name"] for s in json.loads(out)["record"]["structures"]] == [
        "left_hippocampus",
        "right_hippocampus",
        "cc_mid_anterior",
        "ctx_lh_insula",
        "ctx_rh_bankssts",
        "label_11101",
    ]
    assert "warning: freesurfer has no name for 11101" in told
    with pytest.raises(InputError) as refused:
        answer.report(path, "uxnet", output=tmp_path)
    assert "freesurfer" in str(refused.value.hint)


def test_parcels_stand_in_the_order_of_freesurfers_own_table():
    table = nibabel.load(Path(nibabel.__file__).parent / "gifti" / "tests" / "data" / "rh.aparc.annot.gii").labeltable
    ours = freesurfer.names()
    assert [f"ctx-rh-{label.label}" for label in table.labels] == [ours[2000 + k] for k in range(len(table.labels))]


def test_kinds_with_a_space_between_are_told_to_have_commas(tmp_path):
    for option, first, second in (("--report", "png", "html"), ("--tables", "slicer", "itksnap")):
        done = in_process("report", tmp_path / "a.nii.gz", option, first, second)
        assert done.returncode == 2
        assert f"several kinds have commas between them: {option} {first},{second}" in done.stderr.decode()


@pytest.fixture(scope="module")
def segmented(model, tmp_path_factory):
    """A folder with a CT, ct, and a Segmentation of its liver and spleen, ct_seg.dcm."""
    home = tmp_path_factory.mktemp("segmented")
    words = ("--engine", "onnx", "--model", model, "--classes", "liver,spleen", "-q")
    done = in_process("predict", series(home / "ct"), "-o", home, "--write", "dicom-seg", *words)
    assert done.returncode == 0, done.stderr
    return home


def foreign(segmented, path, change, image="ct"):
    """The Segmentation as another program may have written it, reported by its own names: the record."""
    file = pydicom.dcmread(segmented / "ct_seg.dcm")
    change(file)
    file.save_as(path)
    answer.report(path, labels=str(path), image=segmented / image, output=path.parent, json=True)


def call(*names):
    def change(file):
        for segment, name in zip(file.SegmentSequence, names, strict=True):
            segment.SegmentLabel = name

    return change


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (("Lesion", "Lesion"), ["lesion", "lesion_2"]),
        (("background", "<b>a/b</b>"), ["background_1", "b_a_b_b"]),
        ((" ", ""), ["label_1", "label_2"]),
    ],
)
def test_whatever_the_segments_of_another_program_are_called_each_is_shown(segmented, tmp_path, capsys, names, shown):
    foreign(segmented, tmp_path / "theirs.dcm", call(*names))
    structures = json.loads(capsys.readouterr().out)["record"]["structures"]
    assert [s["name"] for s in structures] == shown
    assert all(s["voxels"] for s in structures)
    assert "<b>a" not in (tmp_path / "theirs_seg.html").read_text()


def test_a_segment_without_a_voxel_has_no_volume_and_is_not_left_out(segmented, tmp_path, capsys):
    def change(file):
        file.SegmentSequence.append(copy.deepcopy(file.SegmentSequence[0]))
        file.SegmentSequence[2].SegmentNumber, file.SegmentSequence[2].SegmentLabel = 3, "Niere"
        file.SegmentSequence[1].__delattr__("SegmentLabel")

    foreign(segmented, tmp_path / "theirs.dcm", change)
    structures = json.loads(capsys.readouterr().out)["record"]["structures"]
    assert [(s["name"], s["voxels"] > 0) for s in structures] == [("liver", True), ("label_2", True), ("niere", False)]


def test_two_segments_of_one_number_are_refused_by_their_names(segmented, tmp_path):
    with pytest.raises(InputError) as refused:
        foreign(segmented, tmp_path / "x.dcm", lambda file: setattr(file.SegmentSequence[1], "SegmentNumber", 1))
    assert refused.value.message == "x.dcm: two of its segments, liver and spleen, have the number 1"


def test_a_segmentation_without_segments_is_refused_by_evaluate_too(segmented, tmp_path):
    file = pydicom.dcmread(segmented / "ct_seg.dcm")
    del file.SegmentSequence
    file.save_as(tmp_path / "x.dcm")
    with pytest.raises(InputError, match=r"x\.dcm: cannot be read as a DICOM Segmentation"):
        evaluate(tmp_path / "x.dcm", segmented / "ct_seg.nii.gz")


@pytest.mark.parametrize("own_names", [True, False])
def test_the_scan_of_a_segmentation_is_read_once(segmented, model, tmp_path, monkeypatch, own_names):
    reads, read = [], formats.read
    monkeypatch.setattr(formats, "read", lambda paths, **how: reads.append(paths) or read(paths, **how))
    path = segmented / "ct_seg.dcm"
    answer.report(
        path, str(model), labels=str(path) if own_names else None, image=segmented / "ct", output=tmp_path, json=True
    )
    assert reads == [[segmented / "ct"]]


@pytest.mark.parametrize("image", ["ct", "ct.zip"])
def test_a_segmentation_in_another_frame_of_reference_than_the_scan_is_told(segmented, tmp_path, capsys, image):
    shutil.make_archive(str(segmented / "ct"), "zip", segmented / "ct")
    told = "x.dcm: its positions are in another frame of reference than those of "
    for uid, warned in (("1.2.3.4", True), (None, False)):
        foreign(
            segmented,
            tmp_path / "x.dcm",
            lambda file, uid=uid: setattr(file, "FrameOfReferenceUID", uid or file.FrameOfReferenceUID),
            image,
        )
        assert (told in capsys.readouterr().err) == warned


@pytest.mark.parametrize(
    "edit",
    [
        lambda scan, record: scan.write_bytes(b"no scan"),
        lambda scan, record: scan.write_bytes(b""),
        lambda scan, record: record["input"].update(files=["../odd/a.nii.gz"]),
        lambda scan, record: record["input"].update(series="3"),
        lambda scan, record: record["options"].update(affine="foo"),
    ],
)
def test_a_scan_that_cannot_be_read_as_the_record_says_is_none(model, tmp_path, edit, capsys):
    predicted(model, tmp_path, "a", reports="csv")
    written = tmp_path / "out" / "a_seg.json"
    document = json.loads(written.read_bytes())
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "a.nii.gz").write_bytes(b"no scan")
    edit(tmp_path / "a.nii.gz", document)
    written.write_text(json.dumps(document))
    answer.report(tmp_path / "out" / "a_seg.nii.gz", str(model))
    assert ("note: the scan is" in capsys.readouterr().err) == ("odd" in written.read_text())


def test_a_series_that_is_named_as_the_scan_is_read_as_the_record_says(model, tmp_path):
    one = nibabel.load(scan(tmp_path / "one.nii.gz"))
    several = np.stack([np.zeros(one.shape, "i2"), np.asarray(one.dataobj)], -1)
    nibabel.save(nibabel.Nifti1Image(several, one.affine), tmp_path / "a.nii.gz")
    segcli.load(model, engine="onnx").segment(tmp_path / "a.nii.gz", volume=2).save(tmp_path / "a_seg.nii.gz")
    shutil.move(tmp_path / "a.nii.gz", elsewhere := tmp_path / "bold.nii.gz")
    answer.report(tmp_path / "a_seg.nii.gz", str(model), image=elsewhere, forms=["html"])
    assert (tmp_path / "a_seg.html").is_file()


@pytest.mark.parametrize("form", ["html", "png"])
def test_a_page_that_somebody_has_written_in_is_not_replaced(model, tmp_path, form):
    predicted(model, tmp_path, "a", reports=form)
    page = tmp_path / "out" / f"a_seg.{form}"
    page.write_bytes(page.read_bytes() + b"<!-- looks odd, call me -->")
    with pytest.raises(OutputExists, match=rf"a_seg\.{form}: has been changed since its record was written"):
        answer.report(tmp_path / "out" / "a_seg.nii.gz", str(model), image=tmp_path / "a.nii.gz", forms=[form])
    assert page.read_bytes().endswith(b"call me -->")


def test_a_record_that_another_process_writes_meanwhile_stays_as_it_is(model, tmp_path, monkeypatch):
    predicted(model, tmp_path, "a", reports="csv")
    written = tmp_path / "out" / "a_seg.json"
    newer = json.dumps({**json.loads(written.read_bytes()), "case": "newer"})
    make = outputs.write
    monkeypatch.setattr(outputs, "write", lambda case: [make(case), written.write_text(newer)][0])
    with pytest.raises(OutputError, match=r"a_seg\.json: has been changed while its files were made"):
        answer.report(tmp_path / "out" / "a_seg.nii.gz", str(model))
    assert written.read_text() == newer
    assert not (tmp_path / "out" / "a_seg.html").exists()


def test_numbers_choose_no_segments_of_two_segmentations(segmented):
    """Whose numbers are their own: a 2 of one may be a 1 of the other."""
    one = segmented / "ct_seg.dcm"
    with pytest.raises(UsageError, match="go by their names, and --labels has numbers"):
        evaluate(one, one, labels="2")


def test_two_segmentations_in_different_frames_of_reference_are_told(segmented, tmp_path, capsys):
    file = pydicom.dcmread(segmented / "ct_seg.dcm")
    file.FrameOfReferenceUID = "1.2.3.4"
    file.save_as(tmp_path / "x.dcm")
    evaluate(segmented / "ct_seg.dcm", tmp_path / "x.dcm", json=True)
    assert "warning: ct_seg.dcm and x.dcm: their positions are in different frames of ref" in capsys.readouterr().err
    evaluate(segmented / "ct_seg.dcm", segmented / "ct_seg.dcm", json=True)
    assert "frames of reference" not in capsys.readouterr().err


def test_a_segmentation_whose_frames_lie_a_kilometre_apart_is_refused(segmented, tmp_path):
    file = pydicom.dcmread(segmented / "ct_seg.dcm")
    place = file.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0]
    step = np.cross(
        *np.reshape(file.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0][0x200037].value, (2, 3))
    )
    place.ImagePositionPatient = [*(np.array(place.ImagePositionPatient, float) + 3e6 * step)]
    file.save_as(tmp_path / "x.dcm")
    with pytest.raises(InputError, match=r"x\.dcm: their frames lie 3,000,0\d\d mm apart"):
        evaluate(segmented / "ct_seg.dcm", tmp_path / "x.dcm")


@pytest.mark.parametrize(
    ("moved", "every", "told"),
    [(1.5, 1, "their planes are not evenly apart"), (0, 2, "their planes are 3 and 6 mm apart")],
)
def test_two_segmentations_with_planes_of_their_own_are_not_compared(segmented, tmp_path, moved, every, told):
    """Half-way between the other's, or on each second one: with all their planes in one grid hardly a label agrees."""
    file = pydicom.dcmread(segmented / "ct_seg.dcm")
    shared, frames = file.SharedFunctionalGroupsSequence[0], file.PerFrameFunctionalGroupsSequence
    step = np.cross(*np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3)).astype(float))
    first = np.array(frames[0].PlanePositionSequence[0].ImagePositionPatient, float)
    for frame in frames:
        place = frame.PlanePositionSequence[0]
        from_first = np.array(place.ImagePositionPatient, float) - first
        place.ImagePositionPatient = [*(first + from_first * every + step * moved)]
    shared.PixelMeasuresSequence[0].SpacingBetweenSlices = 3 * every
    file.save_as(tmp_path / "x.dcm")
    with pytest.raises(InputError, match=rf"ct_seg\.dcm and x\.dcm: {told}"):
        evaluate(segmented / "ct_seg.dcm", tmp_path / "x.dcm")
