"""Scans that change while they are read, and what an earlier result leaves beside a newer one."""

import json
import shutil
import time
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from dicom_phantom import phantom, series
from runs import card, opened, scan

import segcli
from segcli import formats
from segcli.batch import pipeline
from segcli.batch.cases import cases
from segcli.batch.events import unwatched
from segcli.batch.outputs import Destination
from segcli.batch.selection import Selection
from segcli.batch.stages import Options, Outcome
from segcli.errors import InputError
from segcli.models.card import ModelCard
from segcli.models.library import file_sha256
from segcli.results.beside import with_files


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelCard:
    return card(tmp_path_factory.mktemp("model"))


def run(model, path, out, options=None, watch=unwatched, **to) -> Outcome:
    (case,) = cases([str(path)], output=out)
    (ended,) = pipeline.predict([case], model, opened(), Destination(out, **to), options or Options(), watch)
    return ended


def meanwhile(monkeypatch: pytest.MonkeyPatch, change) -> None:
    """Something happens between the sum of a scan and its reading."""
    read = formats.read

    def after_it(*args, **kwargs):
        change()
        return read(*args, **kwargs)

    monkeypatch.setattr(formats, "read", after_it)


def test_7_7_a_scan_that_changes_while_it_is_read_is_refused_and_not_recorded_as_the_old_one(
    model, tmp_path, monkeypatch
):
    path = scan(tmp_path / "a.nii.gz", 0)
    with monkeypatch.context() as patched:
        meanwhile(patched, lambda: scan(path, 3))
        ended = run(model, path, tmp_path / "out")
        assert ended.error.exit_code == 65
        assert ended.error.message == "a.nii.gz: a.nii.gz came or changed while the scan was read"
        assert [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == []
    assert run(model, path, tmp_path / "out").status == "done"


def test_7_7_voxels_beside_a_header_that_change_are_seen(model, tmp_path, monkeypatch):
    whole = nibabel.load(scan(tmp_path / "whole.nii.gz"))
    header, voxels = tmp_path / "a.hdr", tmp_path / "a.img"
    nibabel.save(nibabel.Nifti1Pair(np.asarray(whole.dataobj), whole.affine), header)
    meanwhile(monkeypatch, lambda: voxels.write_bytes(voxels.read_bytes()[::-1]))
    ended = run(model, header, tmp_path / "out")
    assert "a.img came or changed" in ended.error.message


def test_7_7_a_slice_that_comes_while_a_series_is_read_is_seen_and_a_file_beside_it_is_none(
    model, tmp_path, monkeypatch
):
    folder = series(tmp_path / "ct")
    *_, last = sorted(folder.iterdir())
    late = last.rename(tmp_path / last.name)
    with monkeypatch.context() as patched:
        meanwhile(patched, lambda: (folder / "notes.txt").write_text("of the technician"))
        assert run(model, folder, tmp_path / "first").error is None
    meanwhile(monkeypatch, lambda: shutil.copy(late, folder))
    ended = run(model, folder, tmp_path / "out")
    assert f"{last.name} came or changed" in ended.error.message


def test_7_7_from_python_too(tmp_path, monkeypatch):
    path = scan(tmp_path / "a.nii.gz", 0)
    own = segcli.load(str(card(tmp_path).folder), device="cpu", engine="onnx")
    meanwhile(monkeypatch, lambda: scan(path, 3))
    with pytest.raises(segcli.SegcliError, match="changed while the scan was read"):
        own.segment(path)


def test_files_of_the_labels_that_a_run_replaces_are_told_and_stay(model, tmp_path):
    path, out = scan(tmp_path / "a.nii.gz"), tmp_path / "out"
    said: list[str | None] = []

    def again(**how) -> None:
        said.clear()
        wanted = Options(classes=how.pop("classes", ()))
        ended = run(model, path, out, wanted, lambda event: said.append(event.sentence), overwrite=True, **how)
        assert ended.error is None

    again(reports=("csv",), tables=("slicer",))
    again(reports=("csv",))  # of the same labels the table of names stays true
    assert {*said} == {None}
    again(reports=("csv",), tables=("slicer",))
    again(reports=("csv",), classes=("liver",))
    told = "a.ctbl: made of the labels that this run replaced; ask for them again, or take them away"
    assert {*said} == {None, told}
    assert (out / "a.ctbl").is_file()
    again(reports=("csv",), classes=("spleen",))
    assert {*said} == {None}  # it is in no record any more


def test_2_7_a_file_beside_a_record_that_it_does_not_state_is_kept(model, tmp_path):
    """It may be somebody else's: volumes that were drawn by hand, a reader's segmentation."""
    path, out = scan(tmp_path / "a.nii.gz"), tmp_path / "out"
    assert run(model, path, out, reports=("tsv",)).status == "done"
    (out / "a_seg.csv").write_text("by hand")
    ended = run(model, path, out, reports=("csv",))
    assert "a_seg.csv: exists already and is not a verified result of this run" in ended.error.message
    assert (out / "a_seg.csv").read_text() == "by hand"
    (out / "a_seg.csv").unlink()
    assert [run(model, path, out, reports=(kind,)).status for kind in ("csv", "tsv", "csv")] == ["done"] * 3
    (out / "a_seg.tsv").write_text("by hand")
    assert "has been changed" in run(model, path, out, reports=("tsv",)).error.message


def test_7_7_a_result_that_is_not_repeated_says_what_has_changed_since(model, tmp_path):
    folder, out = series(tmp_path / "ct"), tmp_path / "out"
    *_, last = sorted(folder.iterdir())
    late = last.rename(tmp_path / last.name)
    assert run(model, folder, out).status == "done"

    def refused(*options: Options) -> tuple[str, str]:
        error = run(model, folder, out, *options).error
        assert error.exit_code == 73
        return error.message.partition("is not a verified result of this run: ")[2], str(error.hint)

    assert refused(Options(classes=("liver",), overlap=0.25))[0] == "other options were asked for (overlap, classes)"
    late.rename(last)
    said, hint = refused()
    assert said == "the scan has changed since"
    assert hint == "--overwrite labels the scan anew, -o chooses another folder"
    (record,) = out.glob("*_seg.json")
    document = json.loads(record.read_bytes())
    for change, told in (
        ({"name": "other"}, "the model was other"),
        ({"sha256": "0" * 64}, "the model's card or weights have changed since"),
    ):
        record.write_text(json.dumps(document | {"model": document["model"] | change}))
        assert refused()[0] == f"{said}, {told}"
    record.write_text(json.dumps(document | {"input": document["input"] | {"series": "3"}}))
    assert refused()[0] == "another series or volume was asked for"
    record.write_bytes(json.dumps(document).encode())
    (out / record.name.replace(".json", ".nii.gz")).write_bytes(b"by hand")
    assert "has been changed since its record was written" in run(model, folder, out).error.message


def test_7_7_the_first_volume_of_a_scan_that_has_no_other_is_done(model, tmp_path):
    """As of a folder in which a 4-D file was refused, and which is labelled again with --volume 1."""
    path, out = scan(tmp_path / "a.nii.gz"), tmp_path / "out"
    assert run(model, path, out).status == "done"
    found = cases([str(path)], output=out, volume=1)
    (again,) = pipeline.predict(found, model, opened(), Destination(out), Options())
    assert again.status == "skipped"


def test_2_5_what_lies_in_an_output_folder_among_the_slices_is_no_part_of_the_input(model, tmp_path):
    folder = series(tmp_path / "ct")
    out = folder / "out"
    assert run(model, folder, out).status == "done"
    (out / "cohort.csv").write_text("case,model\n")
    (out / "events.jsonl").write_text("{}\n")
    assert run(model, folder, out).status == "skipped"
    (folder / "notes.txt").write_text("of the technician")
    with pytest.raises(segcli.SegcliError, match="not a verified result"):
        raise run(model, folder, out).error


def test_2_7_a_mask_that_somebody_has_corrected_is_kept_and_a_page_that_report_has_made_anew_is_ours(model, tmp_path):
    path, out = scan(tmp_path / "a.nii.gz"), tmp_path / "out"
    wanted = {"split": True, "reports": ("html",)}
    assert run(model, path, out, **wanted).status == "done"
    page = out / "a_seg.html"
    first = page.read_bytes()
    page.write_bytes(first.replace(b"<h1>", b"<h1>again: "))
    written = out / "a_seg.json"
    written.write_bytes(with_files(written, {page.name: file_sha256(page)}))
    assert run(model, path, out, **wanted).status == "skipped"
    assert page.read_bytes() != first
    (out / "a_seg.nii.gz").unlink()
    assert run(model, path, out, **wanted).status == "done"
    assert page.read_bytes() == first
    assert run(model, path, out, **wanted).status == "skipped"
    mask = out / "a_seg" / "liver.nii.gz"
    corrected = mask.read_bytes() + b"by hand"
    mask.write_bytes(corrected)
    ended = run(model, path, out, **wanted)
    assert ended.error.exit_code == 73
    assert "liver.nii.gz: has been changed since its record was written" in ended.error.message
    assert mask.read_bytes() == corrected
    assert run(model, path, out, overwrite=True, **wanted).status == "done"
    assert mask.read_bytes() != corrected


def test_2_5_a_series_that_comes_into_a_folder_leaves_those_that_are_done(model, tmp_path):
    """The record's sum is over the files of the series that it names."""
    folder, out = tmp_path / "study", tmp_path / "out"
    series(folder, uid="a")
    series(folder, uid="b")

    def statuses() -> list[str]:
        found = cases([str(folder)], select=Selection(series=("all",)), output=out)
        return [o.status for o in pipeline.predict(found, model, opened(), Destination(out), Options(), unwatched)]

    assert statuses() == ["done", "done"]
    series(folder, uid="c")
    (folder / "notes.txt").write_text("of the technician")
    assert sorted(statuses()) == ["done", "skipped", "skipped"]
    (folder / "b-003.dcm").write_bytes((folder / "b-003.dcm").read_bytes() + bytes(2))
    assert sorted(statuses()) == ["failed", "skipped", "skipped"]


def flat(folder, count=3):
    """A folder in which the slices of several series lie beside each other."""
    for n in range(count):
        for file in series(folder / "one", phantom((4, 7, 5)) + n, uid=str(n), SeriesNumber=n).iterdir():
            file.rename(folder / file.name)
    (folder / "one").rmdir()
    return folder


def counted(monkeypatch, later=10):
    """Names of files whose headers are read from now on, some seconds after these were written."""
    names, known, then = [], pydicom.dcmread, time.time_ns()
    monkeypatch.setattr(
        pydicom, "dcmread", lambda file, **how: names.append(Path(file.name).name) or known(file, **how)
    )
    monkeypatch.setattr(time, "time_ns", lambda: then + int(later * 1e9))
    return names


@pytest.mark.parametrize("out", ["out", "in/out", None])
def test_the_headers_of_a_folder_are_not_read_again_for_each_of_its_series(model, tmp_path, monkeypatch, out):
    """They were: once for the list of series, and of all files for each series. Without -o results lie among them."""
    folder = flat(tmp_path / "in")
    names = counted(monkeypatch, 3.01)  # to which results came just now
    found = cases([str(folder)], select=Selection(("all",)))
    to = Destination(None if out is None else tmp_path / out)
    ended = pipeline.predict(found, model, opened(), to, Options(), unwatched)
    assert [one.status for one in ended] == ["done"] * 3
    assert set(Counter(names).values()) == {2}  # to list the series, to read the one
    assert len(set(names)) == 12


def other_values(file):
    ds = pydicom.dcmread(file)
    ds.RescaleIntercept = -1025  # as many bytes
    ds.save_as(file)


def other_series(file):
    ds = pydicom.dcmread(file)
    ds.SeriesInstanceUID = pydicom.dcmread(file.parent / "1-000.dcm").SeriesInstanceUID
    ds.ImagePositionPatient = [-10, -20, -18]
    ds.save_as(file)


@pytest.mark.parametrize(
    ("change", "which", "ends"),
    [
        (other_values, "1-002.dcm", (0, 0, -1, 0)),
        (other_series, "2-001.dcm", (0, 0, 0, 0, None)),
        (Path.unlink, "1-003.dcm", (0, 0, 0)),
        (Path.unlink, "1-002.dcm", "unevenly spaced"),
        (lambda file: file.write_bytes(b""), "1-003.dcm", "the series may be longer"),
        (lambda file: shutil.copy(file, file.with_name("1-004.dcm")), "1-003.dcm", (0, 0, 0, 0)),
    ],
)
def test_what_changes_in_a_folder_after_its_series_were_listed_is_seen(tmp_path, monkeypatch, change, which, ends):
    folder = flat(tmp_path / "in")
    names = counted(monkeypatch)
    case = cases([str(folder)], select=Selection(("all",)))[1]
    change(folder / which)
    names.clear()
    if isinstance(ends, str):
        with pytest.raises(InputError, match=ends):
            formats.read(case.paths, series=case.series)
        return
    read = formats.read(case.paths, series=case.series).data[0]
    off = [int((image - known - 1).max()) for image, known in zip(read, phantom((4, 7, 5)), strict=False)]
    assert (len(read), tuple(off)) == (len(ends), ends[:4])


@pytest.mark.parametrize("later", [0, 10])
def test_headers_of_files_that_came_just_now_are_read_again(tmp_path, monkeypatch, later):
    """Some disks have times in steps of 2 seconds: within these a change may not show."""
    folder = flat(tmp_path / "in", 2)
    names = counted(monkeypatch, later)
    case = cases([str(folder)], select=Selection(("all",)))[0]
    names.clear()
    formats.read(case.paths, series=case.series)
    assert len(names) == (4 if later else 8)
