"""What `segcli evaluate` refuses."""

import csv
import io
import json
import re

import nibabel
import numpy as np
import pytest
from dicom_phantom import series
from runs import command  # noqa: F401 - makes the folder of scan_files known

from segcli import formats
from segcli.commands import evaluate as answer
from segcli.commands import report
from segcli.errors import CasesFailed, InputError, InputMissing, OutputExists, UsageError
from segcli.formats.dicom import seg_writer
from segcli.formats.dicom import series as dicom
from segcli.results import paper
from segcli.results.evaluate import METRICS
from segcli.results.reference_labels import parts
from segcli.space.volume import Grid, Volume
from segcli.structures import Label

from scan_files import nifti  # isort: skip - runs makes its folder known


def test_label_maps_on_two_grids_are_named(tmp_path):
    one = nifti(tmp_path / "one.nii.gz", np.zeros((4, 4, 4), "u1"))
    other = nifti(tmp_path / "other.nii.gz", np.zeros((4, 4, 5), "u1"))
    with pytest.raises(InputError, match=r"one.nii.gz and other.nii.gz: .* not on one grid"):
        answer.evaluate(one, other, json=True)


def test_a_bar_follows_the_cases_on_a_terminal_and_sentences_stand_whole_above_it(tmp_path, capsys, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    data = np.zeros((6, 6, 6), "i2")
    for folder in ("mine", "truth"):
        (tmp_path / folder).mkdir()
        for name in "ab":
            data[1] = 3 if folder == "mine" else 1001
            nifti(tmp_path / folder / f"{name}.nii.gz", data)
    answer.evaluate(tmp_path / "mine", tmp_path / "truth", json=True)
    piped = capsys.readouterr()
    assert "comparing" not in piped.err
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stderr", terminal := Terminal())
    answer.evaluate(tmp_path / "mine", tmp_path / "truth", json=True)
    shown = terminal.getvalue()
    assert "comparing" in shown
    assert "100%" in shown
    assert capsys.readouterr().out == piped.out
    shown = " ".join(re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown).split())  # a terminal wraps lines
    assert piped.err
    assert all(" ".join(line.split()) in shown for line in piped.err.splitlines())


def test_parcels_of_a_reference_count_as_the_whole_and_other_values_are_told_with_their_map(tmp_path, capsys):
    truth, mine = np.zeros((6, 6, 6), "i2"), np.zeros((6, 6, 6), "i2")
    truth[1:3, 1:5, 1:5], truth[3:5, 1:5, 1:5], truth[5, 5, 5] = 1001, 1035, 900
    mine[1:5, 1:5, 1:5], mine[0, 0, 0] = 3, 700
    pred, ref = nifti(tmp_path / "pred.nii.gz", mine), nifti(tmp_path / "ref.nii.gz", truth)
    answer.evaluate(pred, ref, model="uxnet", reference_labels="freesurfer", json=True)
    out, told = capsys.readouterr()
    scores = {s["name"]: s for s in json.loads(out)["scores"]}
    assert scores["left_cerebral_cortex"]["dice"] == 1.0
    assert "values of the prediction that are not scored: 700" in told
    assert "values of the reference that are not scored: 900" in told


def test_parcels_that_are_not_said_to_be_freesurfers_are_told(tmp_path, capsys):
    truth, mine = np.zeros((6, 6, 6), "i2"), np.zeros((6, 6, 6), "i2")
    truth[1:3, 1:5, 1:5], truth[3:5, 1:5, 1:5] = 1001, 1035
    mine[1:5, 1:5, 1:5] = 3
    pred, ref = nifti(tmp_path / "pred.nii.gz", mine), nifti(tmp_path / "ref.nii.gz", truth)
    hint = "1001, 1035 of the reference are numbers of FreeSurfer that the {} does not have: --reference-labels free"
    for model, whose in (("uxnet", "model"), (None, "prediction")):
        answer.evaluate(pred, ref, model=model)
        assert hint.format(whose) in capsys.readouterr().err
    answer.evaluate(ref, ref)
    answer.evaluate(ref, pred)
    assert "FreeSurfer" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("whole", "told"), [({2, 3, 41, 42, 4}, [31, 77]), ({1, 2, 3, 4}, []), ({41, 42}, [])], ids=str
)
def test_small_numbers_are_freesurfers_beside_both_halves_of_a_brain_alone(whole, told):
    assert parts([31, 77, 85, 3], whole) == told


def test_a_structure_that_the_mean_leaves_out_is_marked_in_the_table(tmp_path, capsys):
    data = np.zeros((6, 6, 6), "u1")
    data[1:3], data[4] = 17, 24
    path = nifti(tmp_path / "a.nii.gz", data)
    shown = {"": "csf (not in all)  ", "markdown": "| csf (not in all) |", "latex": "csf (not in all) &"}
    for summary, line in shown.items():
        answer.evaluate(path, path, model="uxnet", summary=summary)
        assert line in capsys.readouterr().out
    answer.evaluate(path, path, model="uxnet", summary="csv")
    rows = {row.split(",")[0]: row.split(",")[-1] for row in capsys.readouterr().out.splitlines()}
    assert (rows["name"], rows["csf"], rows["left_hippocampus"]) == ("averaged", "false", "true")


def test_a_segmentation_may_have_freesurfers_numbers(tmp_path, capsys):
    scan = dicom.read(series(tmp_path / "mr", modality="MR"))
    truth, mine = np.zeros(scan.data.shape, "u2"), np.zeros(scan.data.shape, "u1")
    truth[:, 1:3, 2:6, 2:6], truth[:, 3:5, 2:6, 2:6], mine[:, 1:5, 2:6, 2:6] = 1001, 1035, 3
    formats.write(Volume(mine, scan.grid), (), tmp_path / "mine.nii.gz", scan.source)
    names, ref = [Label(0, "background"), Label(1001, "ctx-lh-a"), Label(1035, "ctx-lh-b")], tmp_path / "ref.dcm"
    seg_writer.write(Volume(truth, scan.grid), names, ref, scan.source, algorithm="a", version="1", kind="labelmap")
    answer.evaluate(tmp_path / "mine.nii.gz", ref, model="uxnet", reference_labels="freesurfer", json=True)
    out, told = capsys.readouterr()
    assert {s["name"]: s["dice"] for s in json.loads(out)["scores"]}["left_cerebral_cortex"] == 1.0
    assert "by their own numbers (1001 ctx-lh-a, 1035 ctx-lh-b), as those of freesurfer" in told


def test_of_a_prediction_that_is_a_segmentation_nothing_is_said_about_the_reference_s_numbers(tmp_path, capsys):
    """Its segments 1 and 2 were refused as no numbers of FreeSurfer's, which only the reference has."""
    scan = dicom.read(series(tmp_path / "mr", modality="MR"))
    labels = np.zeros(scan.data.shape, "u1")
    labels[:, 1:3], labels[:, 3:5] = 1, 2
    formats.write(Volume(labels, scan.grid), (), tmp_path / "ref.nii.gz", scan.source)
    names, mine = [Label(0, "background"), Label(1, "one"), Label(2, "two")], tmp_path / "mine.dcm"
    seg_writer.write(Volume(labels, scan.grid), names, mine, scan.source, algorithm="a", version="1")
    answer.evaluate(mine, tmp_path / "ref.nii.gz", reference_labels="freesurfer", json=True)
    assert "by their own numbers (1 one, 2 two), with --model by names" in capsys.readouterr().err


def test_numbers_of_a_program_that_is_not_known_are_refused(tmp_path):
    with pytest.raises(UsageError, match="--reference-labels free: is not one of freesurfer"):
        answer.evaluate(tmp_path, tmp_path, reference_labels="free")


def boxes(folder, **starts):
    """Label maps of one box of two voxels' depth, by name; the box begins at the number."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, start in starts.items():
        data = np.zeros((6, 6, 6), "u1")
        data[start : start + 2, 1:4, 1:4] = 1
        nifti(folder / f"{name}.nii.gz", data)
    return folder


def test_two_folders_are_compared_pairwise_and_a_file_without_its_like_is_told(tmp_path, capsys):
    truth, mine = boxes(tmp_path / "truth", a=1, b=2), boxes(tmp_path / "mine", a=1, b=2, d=1)
    other = boxes(tmp_path / "other", a=2, b=3)
    answer.evaluate(mine, truth, labels="1", against=other, json=True)
    out, told = capsys.readouterr()
    document = json.loads(out)
    assert [(s["case"], s["name"], s["dice"]) for s in document["scores"]] == [
        ("a", "label_1", 1.0),
        ("b", "label_1", 1.0),
    ]
    assert {row["name"]: row["cases"] for row in document["difference"]}["label_1"] == 2
    assert "warning: d.nii.gz has no reference and is not scored" in told
    assert "values of the" not in told
    answer.evaluate(mine, truth, labels="1", against=other, csv=True)
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    dice = {(row["prediction"], row["case"], row["name"]): float(row["dice"]) for row in rows}
    assert dice == {(str(of), case, "label_1"): value for of, value in ((mine, 1.0), (other, 0.5)) for case in "ab"}
    answer.evaluate(mine, truth, labels="1", csv=True)
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.parametrize(
    ("mine", "labels", "error", "sentence"),
    [
        ("none.nii.gz", "", InputMissing, r"none.nii.gz: no such file or folder"),
        ("mine/a.nii.gz", "", UsageError, r"a.nii.gz and .*truth: one is a folder, the other a file"),
        ("mine", "", InputMissing, r"mine: 1 of 1 references have no prediction of the same name: b"),
        ("truth", "liver", UsageError, r"--labels liver: is no number: give --model for names"),
        ("truth", "1,00", UsageError, r"--labels: 0 is the background, which is never scored"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path, mine, labels, error, sentence):
    truth = boxes(tmp_path / "truth", b=1)
    boxes(tmp_path / "mine", a=1)
    with pytest.raises(error, match=sentence):
        answer.evaluate(tmp_path / mine, truth, labels=labels)


def test_labels_have_the_names_of_the_predictions_records(tmp_path, capsys):
    truth, mine, other = (boxes(tmp_path / name, a=1, b=2) for name in ("truth", "mine", "other"))
    (mine / "b.nii.gz").unlink()

    def write(folder, case, name):
        rows = {"segcli_record": 1, "case": f"{case}_0000", "structures": [{"label": 1, "name": name}]}
        (folder / f"{case}.json").write_text(json.dumps(rows))

    def names(**how):
        with pytest.raises(CasesFailed, match="without a prediction"):
            answer.evaluate(mine, truth, against=other, json=True, **how)
        document = json.loads(capsys.readouterr().out)
        assert {row["case"]: row["cohort_case"] for row in document["scores"]} == {"a": "a_0000", "b": None}
        return {row["name"] for key in ("scores", "against_scores") for row in document[key]}

    write(mine, "a", "organ")
    assert names() == {"organ"}
    assert names(labels="organ") == {"organ"}
    assert names(labels="01,7") == {"organ", "label_7"}
    write(other, "a", "vessel")
    assert names() == {"label_1"}
    write(other, "a", "organ")
    write(truth, "b", "bone")
    assert names() == {"label_1"}


def test_what_predictions_were_not_made_of_is_told_where_it_counts_as_missed(tmp_path, capsys):
    truth, mine = boxes(tmp_path / "truth", a=1), boxes(tmp_path / "mine", a=1)
    rows = {"segcli_record": 1, "structures": [{"label": 1, "name": "liver"}], "options": {"classes": ["liver"]}}
    (mine / "a.json").write_text(json.dumps(rows))
    answer.evaluate(mine, truth, json=True)
    told = "predictions were made with --classes liver alone: what else references hold counts as missed"
    assert told in capsys.readouterr().err
    answer.evaluate(mine, truth, json=True, labels="liver")
    assert "--classes" not in capsys.readouterr().err


def test_a_negative_label_is_chosen_by_its_number_and_counts_once_however_often_it_is_named(tmp_path, capsys):
    data = np.zeros((6, 6, 6), np.int16)
    data[1:3], data[4:] = -3, 2
    nifti(tmp_path / "a.nii.gz", data)
    answer.evaluate(tmp_path / "a.nii.gz", tmp_path / "a.nii.gz", labels="-3,-3,-03", json=True)
    scores = json.loads(capsys.readouterr().out)["scores"]
    assert [(s["name"], s["label"], s["status"], s["dice"]) for s in scores] == [("label_-3", -3, "both", 1.0)]


def test_labels_of_a_model_are_chosen_by_name(model, tmp_path, capsys):
    folder = boxes(tmp_path / "maps", a=1)
    answer.evaluate(folder, folder, model=str(model), labels="liver", json=True)
    assert [s["name"] for s in json.loads(capsys.readouterr().out)["scores"]] == ["liver"]


def test_numbers_that_another_model_wrote_do_not_get_wrong_names(model, tmp_path, capsys):
    folder = boxes(tmp_path / "maps", a=1)
    record = {"segcli_record": 1, "structures": [{"name": "left_cerebral_cortex", "label": 3, "voxels": 9}, 7]}
    (folder / "a.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match=r"a.nii.gz: its record calls the number 3 left_cerebral_cortex, organs calls"):
        answer.evaluate(folder, folder, model=str(model))
    with pytest.raises(InputError, match="its record calls the number 3"):
        answer.evaluate(folder / "a.nii.gz", folder / "a.nii.gz", model=str(model), labels="liver")
    answer.evaluate(folder, folder, json=True)
    (folder / "a.json").rename(tmp_path / "a_seg.json")
    folder.rename(tmp_path / "a_seg")
    mask = tmp_path / "a_seg" / "a.nii.gz"
    with pytest.raises(InputError, match=r"a.nii.gz: the mask of one structure, so its 1 is no label of organs"):
        answer.evaluate(mask, mask, model=str(model))
    answer.evaluate(mask, mask, json=True)
    assert capsys.readouterr().out.count('"label_1"') > 1


def test_names_of_slicer_that_have_other_numbers_in_the_model_are_refused(model, tmp_path, capsys):
    data = np.zeros((1, 4, 4, 4), "u1")
    data[0, 1:3] = 1
    labels = Volume(data, Grid((4, 4, 4), np.eye(4)))
    drawn, right, free = (tmp_path / f"{name}.seg.nrrd" for name in ("drawn", "right", "free"))
    formats.write(labels, [Label(1, "Spleen")], drawn)
    formats.write(labels, [Label(1, "Body")], right)
    formats.write(labels, [Label(1, "Segment_1")], free)
    for words in ((drawn, right), (right, drawn)):
        with pytest.raises(
            InputError, match=r"drawn.seg.nrrd: its header calls the number 1 spleen, which is 3 of organs"
        ):
            answer.evaluate(*words, model=str(model))
    answer.evaluate(right, free, model=str(model), json=True)
    answer.evaluate(drawn, right, json=True)
    with pytest.raises(InputError, match="its header calls the number 1 spleen"):
        report.report(drawn, str(model), output=tmp_path / "out")


def test_names_in_a_nifti_that_have_other_numbers_in_the_model_are_refused(model, tmp_path):
    """As segcli, TotalSegmentator and Workbench write them: a label table in an extension."""
    labels = Volume(np.ones((1, 4, 4, 4), "u1"), Grid((4, 4, 4), np.eye(4)))
    formats.write(labels, [Label(1, "Spleen")], tmp_path / "drawn.nii.gz")
    formats.write(labels, [Label(1, "Body")], tmp_path / "right.nii")
    table = b'<LabelTable><Label Red="1" Key="1"\n Alpha="1"><![CDATA[spleen]]></Label></LabelTable>'
    other = nibabel.Nifti2Image(labels.data[0], np.eye(4))
    other.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"words"))
    other.header.extensions.append(nibabel.nifti1.Nifti1Extension(0, table))
    nibabel.save(other, tmp_path / "other.nii")
    for name in ("drawn.nii.gz", "other.nii"):
        with pytest.raises(
            InputError, match=rf"{name}: its header calls the number 1 spleen, which is 3 of"
        ) as refused:
            answer.evaluate(tmp_path / "right.nii", tmp_path / name, model=str(model))
        assert "leave --model away" in str(refused.value.hint)
    answer.evaluate(tmp_path / "right.nii", tmp_path / "right.nii", model=str(model), json=True)


def test_names_in_a_table_of_BIDS_that_have_other_numbers_in_the_model_are_refused(model, tmp_path):
    labels = Volume(np.ones((1, 4, 4, 4), "u1"), Grid((4, 4, 4), np.eye(4)))
    drawn = formats.write(labels, [], tmp_path / "sub-01_dseg.nii.gz")
    right = formats.write(labels, [], tmp_path / "sub-01_space-T1w_dseg.nii.gz")
    (tmp_path / "sub-01_dseg.tsv").write_text("index\tname\n1\tSpleen\n")
    (tmp_path / "sub-01_space-T1w_dseg.tsv").write_text("no table of labels")
    with pytest.raises(InputError, match=r"sub-01_dseg.nii.gz: its table calls the number 1 spleen, which is 3 of"):
        answer.evaluate(right, drawn, model=str(model))
    answer.evaluate(right, right, model=str(model), json=True)


def test_labels_beyond_a_reference_that_was_cropped_are_told(tmp_path, capsys):
    """As 3D Slicer saves segmentations: no larger than what was drawn."""
    data = np.zeros((1, 8, 8, 8), "u1")
    data[0, 2:6, 2:6, 2:6] = data[0, 0, 0, :3] = 1
    whole = Volume(data, Grid((8, 8, 8), np.diag([2.0, 2, 2, 1])))
    formats.write(whole, [], tmp_path / "a.nii.gz")
    formats.write(whole.crop((slice(2, 6),) * 3), [], tmp_path / "b.seg.nrrd")
    answer.evaluate(tmp_path / "a.nii.gz", tmp_path / "b.seg.nrrd", resample=True, json=True)
    told = "a: 3 labelled voxels of the prediction (0.024 mL) lie beyond the reference's grid and are not scored"
    assert told in capsys.readouterr().err
    answer.evaluate(tmp_path / "b.seg.nrrd", tmp_path / "a.nii.gz", resample=True, json=True)
    told = "3 labelled voxels of the reference (0.024 mL) lie beyond the prediction's grid and count as missed"
    assert told in capsys.readouterr().err


def test_two_documents_on_stdout_are_refused(tmp_path):
    with pytest.raises(UsageError, match="--json and --csv: one of them can have stdout"):
        answer.evaluate(tmp_path, tmp_path, json=True, csv=True)


def test_a_tolerance_without_end_is_no_number_of_mm(tmp_path):
    with pytest.raises(UsageError, match="--tolerance inf: is a number of mm"):
        answer.evaluate(tmp_path, tmp_path, tolerance=float("inf"))


def test_two_predictions_of_one_scan_are_compared_whatever_they_are_called(tmp_path, capsys):
    folder = boxes(tmp_path / "maps", truth=1, first=1, second=2)
    first, second, truth = (folder / f"{name}.nii.gz" for name in ("first", "second", "truth"))
    answer.evaluate(first, truth, against=second, json=True)
    (row,) = [r for r in json.loads(capsys.readouterr().out)["difference"] if r["name"] == "label_1"]
    assert (row["cases"], row["dice"]) == (1, -0.5)


def test_a_label_that_one_prediction_alone_invents_is_scored_as_with_the_model(model, tmp_path, capsys):
    truth, first, second = (boxes(tmp_path / name, a=1, b=1) for name in ("truth", "first", "second"))
    data = np.zeros((6, 6, 6), "u1")
    data[1:3, 1:4, 1:4], data[4:, 4:] = 1, 5
    nifti(second / "b.nii.gz", data)
    found = []
    for named in (None, model):
        answer.evaluate(first, truth, against=second, json=True, model=named)
        rows = json.loads(capsys.readouterr().out)["difference"]
        found.append([{key: row[key] for key in row if key != "name"} for row in rows if row["cases"]])
    assert found[0] == found[1]
    assert [(row["cases"], row["dice"]) for row in found[0]] == [(2, -0.25), (2, 0.0), (1, -1.0)]


def test_a_score_that_is_not_1_is_not_printed_as_1(tmp_path, capsys):
    data = np.zeros((12, 12, 12), "u1")
    data[1:11, 1:11, 1:11] = 1
    first = nifti(tmp_path / "a.nii.gz", data)
    data[1, 1, 1:9] = 0
    answer.evaluate(nifti(tmp_path / "b.nii.gz", data), first)
    assert "0.996" in capsys.readouterr().out.splitlines()[-1].split()  # 1 - 8 / (1000 + 992)


def test_a_page_that_would_take_anothers_place_is_refused_before_the_work(tmp_path, monkeypatch):
    folder, page = boxes(tmp_path / "maps", a=1), tmp_path / "page.html"
    page.write_text("somebody else's")
    monkeypatch.setattr(answer, "_document", lambda *given: pytest.fail("scored first"))
    with pytest.raises(OutputExists, match=r"page.html: exists already"):
        answer.evaluate(folder, folder, html=page)


@pytest.mark.parametrize("value", [3e9, np.inf])
def test_values_that_no_label_map_has_are_refused_and_not_turned_into_others(tmp_path, value):
    path = nifti(tmp_path / "a.nii.gz", np.full((4, 4, 4), value))
    with pytest.raises(InputError, match=r"a.nii.gz: not a label map: it holds"):
        answer.evaluate(path, path)


@pytest.mark.parametrize(
    ("form", "line"),
    [
        ("csv", "label_1,2,0,0,0.75,0.5,1.0,"),
        ("markdown", "| label 1 | 2 | 0 | 0 | 0.750 (0.500 to 1.000) | "),
        ("latex", "label 1 & 2 & 0 & 0 & 0.750 (0.500--1.000) & "),
    ],
)
def test_a_summary_has_means_and_intervals_in_the_form_of_a_paper(tmp_path, capsys, form, line):
    answer.evaluate(boxes(tmp_path / "mine", a=1, b=2), boxes(tmp_path / "truth", a=1, b=3), summary=form)
    assert line in capsys.readouterr().out


def test_what_latex_takes_for_its_own_is_written_as_text():
    scores = dict.fromkeys(f"{key}{end}" for key in METRICS for end in ("", "_low", "_high"))
    row = {"name": "5% & #1_a", "cases": 1, "missed": 0, "invented": 0, **scores}
    assert paper.FORMS["latex"]([row]).splitlines()[4] == r"5\% \& \#1 a & 1 & 0 & 0 & n/a & n/a & n/a & n/a \\"


def test_values_that_were_not_asked_for_are_not_told(tmp_path, capsys):
    data = np.zeros((6, 6, 6), "u1")
    data[0], data[3] = 1, 2
    path = nifti(tmp_path / "a.nii.gz", data)
    answer.evaluate(path, path, labels="1", csv=True)
    assert capsys.readouterr().err == ""


def test_how_a_missed_structure_scores_is_told_where_there_is_one(tmp_path, capsys):
    truth, empty = boxes(tmp_path / "truth", a=1), tmp_path / "mine"
    empty.mkdir()
    nifti(empty / "a.nii.gz", np.zeros((6, 6, 6), "u1"))
    answer.evaluate(empty, truth)
    assert "only the reference has (missed)" in capsys.readouterr().err


def test_predictions_that_are_called_otherwise_are_named(tmp_path):
    truth, mine = boxes(tmp_path / "truth", case1=1), boxes(tmp_path / "mine", patient1=1)
    with pytest.raises(InputMissing) as refused:
        answer.evaluate(mine, truth)
    assert refused.value.hint == "predictions without a reference are called patient1; names must be equal"


def test_a_scan_is_no_reference(tmp_path):
    """Its grey values were compared as labels."""
    grey = np.random.default_rng(0).integers(0, 200, (6, 6, 6)).astype("u1")
    scan, mine = nifti(tmp_path / "scan.nii.gz", grey), boxes(tmp_path / "mine", a=1) / "a.nii.gz"
    for pair in ((mine, scan), (scan, mine)):
        with pytest.raises(InputError, match=r"scan.nii.gz: looks like a scan and is no label map"):
            answer.evaluate(*pair)
    with pytest.raises(InputError, match=r"scan.nii.gz: looks like a scan and is no label map"):
        report.report(scan, labels="freesurfer", output=tmp_path / "out")


def test_parcels_of_a_voxel_each_are_compared_where_all_their_numbers_are_named(tmp_path, capsys):
    path = nifti(tmp_path / "a.nii.gz", np.arange(1, 217, dtype="i2").reshape(6, 6, 6))
    with pytest.raises(InputError, match=r"looks like a scan .*if it is one, name all its numbers with --labels or"):
        answer.evaluate(path, path, labels=",".join(map(str, range(1, 200))))
    answer.evaluate(path, path, labels=",".join(map(str, range(1, 217))), json=True)
    assert json.loads(capsys.readouterr().out)["summary"][0]["dice"] == 1


@pytest.mark.parametrize("reference", ["nii.gz", "dcm"])
def test_a_reference_without_a_prediction_counts_as_missed_beside_the_others(tmp_path, capsys, reference):
    """As after a run in which some scans were refused."""
    scan = dicom.read(series(tmp_path / "mr", modality="MR"))
    labels = np.zeros(scan.data.shape, "u1")
    labels[:, 1:3, 2:6, 2:6] = 1
    for folder, name in (("mine", "a.nii.gz"), ("truth", f"a.{reference}"), ("truth", f"b.{reference}")):
        (tmp_path / folder).mkdir(exist_ok=True)
        names = [Label(0, "background"), Label(1, "one")]
        if name.endswith("dcm"):
            kept = Volume(labels, scan.grid)
            seg_writer.write(kept, names, tmp_path / folder / name, scan.source, algorithm="a", version="1")
        else:
            formats.write(Volume(labels, scan.grid), names, tmp_path / folder / name, scan.source)
    page = tmp_path / "page.html"
    with pytest.raises(CasesFailed, match="references without a prediction, all that they hold counts as missed: b"):
        answer.evaluate(tmp_path / "mine", tmp_path / "truth", json=True, html=page)
    out, told = capsys.readouterr()
    document = json.loads(out)
    assert told.count("compared by their own numbers") == (reference == "dcm")  # of the one that is compared
    assert [(s["case"], s["status"], s["dice"]) for s in document["scores"]] == [("a", "both", 1), ("b", "missed", 0)]
    assert (document["no_prediction"], document["summary"][1]["dice"]) == (["b"], 0.5)
    assert "All counts as missed in cases without a prediction: b." in page.read_text()


def test_a_case_that_cannot_be_compared_costs_no_other_its_scores(tmp_path, capsys):
    truth, mine = boxes(tmp_path / "truth", a=1, b=2, c=1), boxes(tmp_path / "mine", a=1, b=2, c=1)
    page, end = tmp_path / "page.html", "cases that could not be compared are in no mean: b, c in "
    nifti(mine / "b.nii.gz", np.ones((6, 6, 5), "u1"))
    (truth / "c.nii.gz").write_bytes((truth / "c.nii.gz").read_bytes()[:-20])
    with pytest.raises(CasesFailed, match=end):
        answer.evaluate(mine, truth, json=True, html=page)
    out, told = capsys.readouterr()
    document = json.loads(out)
    assert [(s["case"], s["dice"]) for s in document["scores"]] == [("a", 1)]
    assert [(row["case"], "not on one grid" in row["error"]) for row in document["not_compared"]] == [
        ("b", True),
        ("c", False),
    ]
    assert document["summary"][0]["cases"] == 1
    assert "error: b: b.nii.gz and b.nii.gz: prediction and reference are not on one grid: 5 x 6 x 6 voxels" in told
    assert "Not compared" in page.read_text()
    with pytest.raises(CasesFailed, match=end):
        answer.evaluate(mine, truth, csv=True)
    rows = [line.split(",") for line in capsys.readouterr().out.splitlines()]
    assert [(row[0], row[3], row[-1][:8]) for row in rows] == [
        ("case", "status", "error"),
        ("a", "both", "n/a"),
        ("b", "not compared", "b.nii.gz"),
        ("c", "not compared", "c.nii.gz"),
    ]
    with pytest.raises(CasesFailed, match=end):
        answer.evaluate(mine, truth)
    assert "means over the cases without b, c" in capsys.readouterr().out


def test_a_reference_that_cannot_be_read_and_has_no_prediction_does_not_count_as_missed(tmp_path, capsys):
    truth, mine = boxes(tmp_path / "truth", a=1, b=2), boxes(tmp_path / "mine", a=1)
    (truth / "b.nii.gz").write_bytes(b"")
    with pytest.raises(CasesFailed, match=r"no mean: b in [^;]*$"):
        answer.evaluate(mine, truth, json=True)
    document = json.loads(capsys.readouterr().out)
    assert (document["no_prediction"], document["not_compared"][0]["case"]) == ([], "b")


def test_the_difference_of_two_predictions_is_over_the_cases_that_both_have(tmp_path, capsys):
    truth, first, second = (boxes(tmp_path / name, a=1, b=2) for name in ("truth", "first", "second"))
    nifti(second / "b.nii.gz", np.ones((6, 6, 5), "u1"))
    with pytest.raises(CasesFailed, match=f"no mean: b in {re.escape(str(second))}"):
        answer.evaluate(first, truth, against=second, json=True)
    document = json.loads(capsys.readouterr().out)
    assert (document["not_compared"], document["against_not_compared"][0]["case"]) == ([], "b")
    assert document["difference"][0]["cases"] == 1
    assert [(s["case"], s["dice"]) for s in document["against_scores"]] == [("a", 1.0)]
    with pytest.raises(CasesFailed):
        answer.evaluate(first, truth, against=second, csv=True)
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["prediction"], row["case"], row["status"]) for row in rows] == [
        (str(first), "a", "both"),
        (str(first), "b", "both"),
        (str(second), "a", "both"),
        (str(second), "b", "not compared"),
    ]


def test_a_reference_that_cannot_be_read_is_told_once_for_two_predictions(tmp_path, capsys):
    truth, first, second = (boxes(tmp_path / name, a=1, b=2) for name in ("truth", "first", "second"))
    (truth / "b.nii.gz").write_bytes(b"")
    with pytest.raises(CasesFailed):
        answer.evaluate(first, truth, against=second)
    assert capsys.readouterr().err.count("error: b: b.nii.gz") == 1


def test_where_no_case_can_be_compared_its_own_refusal_ends_the_command(tmp_path):
    truth, mine = boxes(tmp_path / "truth", a=1, b=2), boxes(tmp_path / "mine", a=1, b=2)
    for name in "ab":
        nifti(mine / f"{name}.nii.gz", np.ones((6, 6, 5), "u1"))
    with pytest.raises(InputError, match=r"a.nii.gz: .* not on one grid: .* \(and none of 2 cases can be compared\)"):
        answer.evaluate(mine, truth)


def test_a_second_prediction_that_lacks_a_case_is_not_better_for_it(tmp_path, capsys):
    truth, first = boxes(tmp_path / "truth", a=1, b=1), boxes(tmp_path / "first", a=1, b=2)
    second, page = boxes(tmp_path / "second", a=1), tmp_path / "page.html"
    with pytest.raises(CasesFailed, match=f"counts as missed: b in {re.escape(str(second))}"):
        answer.evaluate(first, truth, against=second, json=True, html=page)
    assert "All counts as missed in cases without a second prediction: b." in page.read_text()
    document = json.loads(capsys.readouterr().out)
    assert (document["no_prediction"], document["against_no_prediction"]) == ([], ["b"])
    assert document["difference"][0]["dice"] == -0.25
