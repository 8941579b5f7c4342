"""Which prediction is compared with which reference: by name, by what DICOM refers to, and nothing left out unsaid."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SegmentationStorage
from scan_files import nifti

from segcli.errors import InputError, InputMissing
from segcli.formats.dicom.search import digits
from segcli.formats.walk import walk
from segcli.results import pairing
from segcli.results.pairing import pair_folders
from segcli.system import WINDOWS


def lacking(pred: Path, ref: Path) -> list[str]:
    """The names of references without a prediction."""
    return [name for name, mine, _ in pair_folders(pred, ref)[0] if mine is None]


def test_a_reference_without_a_prediction_is_a_case_and_where_none_has_one_that_is_refused(tmp_path: Path) -> None:
    """All others were refused with it."""
    pred, ref = made(tmp_path / "pred", "a_seg.nii.gz"), made(tmp_path / "ref", "a.nii.gz", "b.nii.gz")
    pairs, told = pair_folders(pred, ref)
    assert pairs == [("a", pred / "a_seg.nii.gz", ref / "a.nii.gz"), ("b", None, ref / "b.nii.gz")]
    assert told == []
    (ref / "a.nii.gz").unlink()
    with pytest.raises(InputMissing, match=r"1 of 1 references have no prediction of the same name: b"):
        pair_folders(pred, ref)


def test_hidden_folders_of_references_are_told(tmp_path: Path) -> None:
    """References in them were left out of the means without a word."""
    for name in ("pred/a_seg.nii.gz", "ref/a.nii.gz", "ref/.hidden/b.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    pairs, told = pair_folders(tmp_path / "pred", tmp_path / "ref")
    assert [case for case, _, _ in pairs] == ["a"]
    assert told == ["ref: hidden folders are not searched: .hidden"]


def test_folders_are_paired_by_name_without_endings_and_roles(tmp_path: Path) -> None:
    for name in ("pred/a_seg.nii.gz", "pred/b.x_seg.nrrd", "pred/c.nii", "ref/a_label.mha", "ref/b.x.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    pairs, extra = pair_folders(tmp_path / "pred", tmp_path / "ref")
    assert [(case, p.name, r.name) for case, p, r in pairs] == [
        ("a", "a_seg.nii.gz", "a_label.mha"),
        ("b.x", "b.x_seg.nrrd", "b.x.nii.gz"),
    ]
    assert extra == ["c.nii has no reference and is not scored"]


def test_derivatives_are_paired_with_references_that_another_program_made_or_nobody_named(tmp_path: Path) -> None:
    def paired(pred: tuple[str, ...], ref: tuple[str, ...]) -> list[str]:
        """The names of the cases that have a prediction."""
        with TemporaryDirectory(dir=tmp_path) as folder:
            for part, names in (("pred", pred), ("ref", ref)):
                for name in names:
                    path = Path(folder, part, name)
                    path.parent.mkdir(exist_ok=True, parents=True)
                    path.touch()
            pairs, _ = pair_folders(Path(folder, "pred"), Path(folder, "ref"))
            return [case for case, mine, _ in pairs if mine is not None]

    ours = ("sub-1/anat/sub-1_seg-uxnet_dseg.nii.gz", "sub-2/anat/sub-2_seg-uxnet_desc-FLAIR_dseg.nii.gz")
    assert paired(ours, ("sub-1/anat/sub-1_dseg.nii.gz",)) == ["sub-1/anat/sub-1"]
    theirs = tuple(name.replace("uxnet", "aseg") for name in ours)
    assert paired(ours, theirs) == ["sub-1/anat/sub-1_seg-aseg", "sub-2/anat/sub-2_seg-aseg_desc-FLAIR"]
    assert paired(ours, theirs) == paired(theirs, theirs)  # so that two predictions can be compared
    several = ("sub-1_seg-a_dseg.nii.gz", "sub-1_seg-b_dseg.nii.gz")
    assert paired(several, several) == ["sub-1_seg-a", "sub-1_seg-b"]
    for pred, ref in ((several, ("sub-1_dseg.nii.gz",)), (("sub-1_seg-c_dseg.nii.gz",), several)):
        with pytest.raises(InputMissing, match="have no prediction of the same name"):
            paired(pred, ref)
    # One has its own name: no other is guessed.
    assert paired(("1_seg-a.nii", "2_seg-a.nii"), ("1_seg-a.nii", "2_seg-b.nii")) == ["1_seg-a"]


def made(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).touch()
    return folder


def test_names_of_bids_are_compared_more_loosely_where_none_is_in_both_and_that_is_told(tmp_path: Path) -> None:
    pred = made(tmp_path / "pred", "sub-1_seg-uxnet_dseg.nii.gz", "sub-2_seg-uxnet_dseg.nii.gz")
    for number, name in enumerate(("sub-{}_T1w_seg.nii.gz", "sub-{}_desc-manual_dseg.nii.gz")):
        ref = made(tmp_path / f"ref{number}", name.format(1), name.format(2))
        pairs, told = pair_folders(pred, ref)
        assert [truth.name for _, _, truth in pairs] == [name.format(k) for k in (1, 2)]
        said = "seg- and desc-" if number else "seg-"
        first = f"sub-1_seg-uxnet_dseg.nii.gz with {name.format(1)}"
        assert told == [f"names are compared without {said}: {first}"]
    elsewhere = made(tmp_path / "ref", "sub-1_space-MNI152_dseg.nii.gz", "sub-2_space-MNI152_dseg.nii.gz")
    with pytest.raises(InputMissing, match="2 of 2 references"):
        pair_folders(pred, elsewhere)


def test_names_are_equal_however_accents_are_put_together_and_slicers_ending_is_none_of_them(tmp_path: Path) -> None:
    pred = made(tmp_path / "pred", "cafe\u0301_seg.nii.gz", "b.seg.nrrd")
    ref = made(tmp_path / "ref", "caf\u00e9.nii.gz", "b.nii.gz")
    assert [case for case, _, _ in pair_folders(pred, ref)[0]] == ["b", "caf\u00e9"]


def test_a_reference_that_is_a_broken_link_or_behind_a_link_is_not_left_out(tmp_path: Path) -> None:
    made(tmp_path / "store", "b.nii.gz")
    pred, ref = made(tmp_path / "pred", "a.nii.gz"), made(tmp_path / "ref", "a.nii.gz")
    (ref / "more").symlink_to(tmp_path / "store")
    assert lacking(pred, ref) == ["more/b"]
    (ref / "more").unlink()
    (ref / "b.nii.gz").symlink_to(tmp_path / "nowhere")
    assert lacking(pred, ref) == ["b"]


def segmentation(path: Path, series: str, patient: str = "p", number: int = 1) -> None:
    """What a DICOM Segmentation says of what it is of; without labels."""
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = SegmentationStorage
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = f"1.2.{number}"
    made.Modality, made.PatientID, made.StudyInstanceUID, made.SeriesInstanceUID = "SEG", patient, "1.3", "1.4"
    made.ReferencedSeriesSequence = [Dataset()]
    made.ReferencedSeriesSequence[0].SeriesInstanceUID = series
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save_as(path, enforce_file_format=True)


def test_dicom_segmentations_are_paired_by_what_they_refer_to_and_by_name(tmp_path: Path) -> None:
    made(pred := tmp_path / "pred", "x/series-003-one_seg.nii.gz", "b_seg.nii.gz", "c.nii.gz", "p4.nii.gz")
    facts = {"segcli_record": 1, "source": {"series": f"series-003-{digits('1.2.3')}"}}
    (pred / "x" / "series-003-one_seg.json").write_text(json.dumps(facts))
    segmentation(tmp_path / "ref" / "IM000001", "1.2.3")
    segmentation(tmp_path / "ref" / "b_seg.dcm", "1.9")
    segmentation(tmp_path / "ref" / "c" / "1-1.dcm", "1.9")
    segmentation(tmp_path / "ref" / "1-4.dcm", "1.9", "p4")
    pairs, told = pair_folders(pred, tmp_path / "ref")
    assert {case: (mine.name, truth.name) for case, mine, truth in pairs} == {
        "IM000001": ("series-003-one_seg.nii.gz", "IM000001"),
        "b": ("b_seg.nii.gz", "b_seg.dcm"),
        "c": ("c.nii.gz", "1-1.dcm"),
        "1-4": ("p4.nii.gz", "1-4.dcm"),
    }
    assert told == []
    segmentation(tmp_path / "ref" / "again.dcm", "1.2.3")
    with pytest.raises(InputError, match=r"ref: IM000001 and again.dcm are of one prediction, series-003-one_seg"):
        pair_folders(pred, tmp_path / "ref")
    for spoilt in (b"", b"no DICOM at all"):  # is refused by its own reading, and costs no other case
        (tmp_path / "ref" / "again.dcm").write_bytes(spoilt)
        again, *others = pair_folders(pred, tmp_path / "ref")[0]
        assert (again, len(others)) == (("again", None, tmp_path / "ref" / "again.dcm"), 4)
    (tmp_path / "ref" / "again.dcm").unlink()
    (pred / "b_seg.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match=r"IM000001: .* are of the series that it refers to"):
        pair_folders(pred, tmp_path / "ref")


def test_a_folder_of_dicom_files_without_a_segmentation_holds_no_references(tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match="no label map found"):
        pair_folders(made(tmp_path / "pred", "a.nii.gz"), made(tmp_path / "ref", "a.txt"))


def test_predictions_in_subfolders_are_named_where_the_references_lie_in_none(tmp_path: Path) -> None:
    with pytest.raises(InputMissing) as refused:
        pair_folders(made(tmp_path / "pred", "x/a_seg.nii.gz"), made(tmp_path / "ref", "a.nii.gz"))
    assert "predictions in subfolders (x/a_seg.nii.gz)" in str(refused.value.hint)


def test_what_lies_beside_label_maps_of_two_runs_is_no_case(tmp_path: Path) -> None:
    for run in ("one", "other"):
        (tmp_path / run).mkdir()
        for name in ("a_seg.nii.gz", "a_probseg.nii.gz", "a_disagreement.nii.gz"):
            (tmp_path / run / name).touch()
    pairs, extra = pair_folders(tmp_path / "one", tmp_path / "other")
    assert [case for case, _, _ in pairs] == ["a"]
    assert extra == []


def test_references_in_subfolders_are_paired_by_their_folders_too(tmp_path: Path) -> None:
    for name in ("pred/x/a_seg.nii.gz", "pred/y/a_seg.nii.gz", "pred/z.nii", "ref/x/a.nii.gz", "ref/y/a.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    pairs, extra = pair_folders(tmp_path / "pred", tmp_path / "ref")
    assert [(case, p.parent.name, r.parent.name) for case, p, r in pairs] == [("x/a", "x", "x"), ("y/a", "y", "y")]
    assert extra == ["z.nii has no reference and is not scored"]


def test_a_reference_in_a_subfolder_counts_beside_those_above_and_masks_are_no_cases(tmp_path: Path) -> None:
    names = ["ref/a.nii.gz", "ref/x/b.nii.gz", "pred/a_seg.nii.gz", "pred/a_seg.dcm", "pred/a_seg/liver.nii.gz"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    (tmp_path / "pred" / "a_seg.json").write_text('{"segcli_record": 1}')
    assert lacking(tmp_path / "pred", tmp_path / "ref") == ["x/b"]
    (tmp_path / "pred" / "x").mkdir()
    (tmp_path / "pred" / "x" / "b_seg.nii.gz").touch()
    pairs, extra = pair_folders(tmp_path / "pred", tmp_path / "ref")
    assert [case for case, _, _ in pairs] == ["a", "x/b"]
    assert extra == []
    masks = tmp_path / "pred" / "a_seg"
    assert pair_folders(masks, masks) == ([("liver", masks / "liver.nii.gz", masks / "liver.nii.gz")], [])


def test_two_files_of_one_name_in_a_folder_are_refused(tmp_path: Path) -> None:
    for name in ("ref/a.nii.gz", "ref/a_seg.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"a\.nii\.gz and a_seg\.nii\.gz would both be the case 'a'"):
        pair_folders(tmp_path / "ref", tmp_path / "ref")


def filled(path: Path, *, scan: bool) -> None:
    """A file of noise as a scan's, or of one box as a label map's."""
    data = np.zeros((6, 6, 6), "u1")
    data[1:5, 1:5, 1:5] = np.random.default_rng(0).integers(0, 200, (4, 4, 4)) if scan else 1
    path.parent.mkdir(exist_ok=True)
    nifti(path, data)


def test_of_a_scan_and_a_label_map_of_one_case_the_label_map_is_taken(tmp_path: Path) -> None:
    """The scan was compared as labels where its name was the prediction's, and refused beside x_seg."""
    pred, ref = tmp_path / "pred", tmp_path / "ref"
    for name in ("pred/a_seg.nii.gz", "pred/b_seg.nii.gz", "ref/a_aseg.nii.gz", "ref/b_seg.nii.gz"):
        filled(tmp_path / name, scan=False)
    for name in ("pred/b.nii.gz", "ref/a.nii.gz", "ref/b.nii.gz", "ref/c.nii.gz"):
        filled(tmp_path / name, scan=True)
    pairs, told = pair_folders(pred, ref)
    assert pairs == [
        ("a", pred / "a_seg.nii.gz", ref / "a_aseg.nii.gz"),
        ("b", pred / "b_seg.nii.gz", ref / "b_seg.nii.gz"),
    ]
    assert told == [
        "b.nii.gz looks like a scan: its label map b_seg.nii.gz is taken",
        "b.nii.gz looks like a scan: its label map b_seg.nii.gz is taken",
        "a.nii.gz looks like a scan: its label map a_aseg.nii.gz is taken",
        "c.nii.gz looks like a scan, has no prediction and is left out",
    ]
    filled(ref / "a_wmparc.nii.gz", scan=False)
    with pytest.raises(InputError, match=r"a.nii.gz: looks like a scan, .* may be a_aseg.nii.gz, a_wmparc.nii.gz"):
        pair_folders(pred, ref)


@pytest.mark.parametrize("reference", ["sub{}/mri/aseg.mgz", "sub{}.nii.gz"])
def test_freesurfers_folders_of_subjects_are_predictions_too(tmp_path: Path, reference: str) -> None:
    """As of two versions of FreeSurfer, or of FreeSurfer against what was drawn by hand."""
    files = [f"sub{x}/mri/{name}.mgz" for x in "ABC" for name in ("aparc+aseg", "aseg", "T1")]
    pred, ref = made(tmp_path / "pred", *files), made(tmp_path / "ref", *map(reference.format, "AB"))
    pairs, told = pair_folders(pred, ref)
    assert [tuple(pair) for pair in pairs] == [
        (f"sub{x}", pred / f"sub{x}/mri/aseg.mgz", ref / reference.format(x)) for x in "AB"
    ]
    assert told == [
        "of a subject's label maps (aparc+aseg.mgz, aseg.mgz) aseg.mgz is compared",
        "subC/mri/aseg.mgz has no reference and is not scored",
    ]


def test_label_maps_of_freesurfer_are_called_as_their_subjects(tmp_path: Path) -> None:
    """They were subB/mri/aseg, which no prediction is called."""
    beside = ("subA/mri/T1.mgz", "subA/mri/orig/001.mgz", "subA/surf/lh.area.mgh", "fsaverage/mri/aseg.mgz")
    ref = made(tmp_path / "fs", "c.mgz", "d/mri/T1.mgz", "subA/mri/aseg.mgz", "subB/mri/aparc+aseg.mgz", *beside)
    pred = made(tmp_path / "pred", "c.nii", "subA_seg.nii.gz", "subB/mri/orig_seg.nii.gz")
    pairs, told = pair_folders(pred, ref)
    assert pairs == [
        ("c", pred / "c.nii", ref / "c.mgz"),
        ("subA", pred / "subA_seg.nii.gz", ref / "subA/mri/aseg.mgz"),
        ("subB", pred / "subB/mri/orig_seg.nii.gz", ref / "subB/mri/aparc+aseg.mgz"),
    ]
    assert told == [
        "d/mri has no aseg, aparc or wmparc and is left out",
        "fsaverage is FreeSurfer's template and is left out",
    ]
    assert [case for case, *_ in pair_folders(made(tmp_path / "one", "subA.nii.gz"), ref / "subA")[0]] == ["subA"]


def test_of_several_label_maps_of_a_subject_it_is_aseg_and_that_is_told_once(tmp_path: Path) -> None:
    files = [f"sub{x}/mri/{name}.mgz" for x in "AB" for name in ("wmparc", "aparc+aseg", "aseg", "T1")]
    ref, pred = made(tmp_path / "fs", *files), made(tmp_path / "pred", "subA.nii.gz", "subB.nii.gz")
    pairs, told = pair_folders(pred, ref)
    assert [of for _, _, of in pairs] == [ref / "subA/mri/aseg.mgz", ref / "subB/mri/aseg.mgz"]
    assert told == ["of a subject's label maps (aparc+aseg.mgz, aseg.mgz, wmparc.mgz) aseg.mgz is compared"]


@pytest.mark.skipif(WINDOWS, reason="the command is one of a shell that Windows has not")
def test_which_of_several_label_maps_of_a_subject_is_meant_is_asked_and_the_command_in_the_answer_works(
    tmp_path: Path,
) -> None:
    files = [f"sub{x}/mri/{name}.mgz" for x in "AB" for name in ("aparc.a2009s+aseg", "wmparc")]
    ref, pred = made(tmp_path / "f s", *files), made(tmp_path / "pred", "subA.nii.gz", "subB.nii.gz")
    with pytest.raises(
        InputError, match=r"subA/mri: which one is compared is not said: aparc.a2009s\+aseg.mgz, wmparc.mgz"
    ) as no:
        pair_folders(pred, ref)
    subprocess.run(["sh", "-c", str(no.value.hint).partition(": ")[2]], cwd=tmp_path, check=True)
    assert [case for case, *_ in pair_folders(pred, tmp_path / "aparc.a2009s+aseg")[0]] == ["subA", "subB"]


def test_a_folder_of_references_is_walked_through_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pred/ct/seg.dcm", "ref/ct/1-1.dcm"):
        segmentation(tmp_path / name, series="1.2.3")
    walked: list[Path] = []

    def noted(folder: Path, *how: Any) -> Any:
        walked.append(folder)
        return walk(folder, *how)

    monkeypatch.setattr(pairing, "walk", noted)
    assert len(pair_folders(tmp_path / "pred", tmp_path / "ref")[0]) == 1
    assert walked.count(tmp_path / "ref") == 1
