"""What DICOM headers, BIDS sidecars and names say of patient and acquisition, and what is made of it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from dicom_phantom import series
from models import CARD
from scan_files import nifti

from segcli import formats
from segcli.formats.stated import Stated, stated
from segcli.models.card import ModelCard, parse
from segcli.results.scan_checks import SAID_FIRST, beforehand, of_statements


def of_dicom(folder: Path, **tags: Any) -> Stated:
    return stated(formats.read([series(folder, **tags)]).source)


@pytest.mark.parametrize(("age", "years"), [("003Y", 3), ("018M", 1.5), ("026W", 0.5), ("010D", 0.03), ("", 101.1)])
def test_an_age_is_read_in_its_unit_or_made_of_two_dates(tmp_path: Path, age: str, years: float) -> None:
    """The phantom was born on 1900-01-01 and scanned on 2001-02-03."""
    assert of_dicom(tmp_path, PatientAge=age).years == pytest.approx(years, abs=0.05)


def test_a_header_that_says_nothing_is_known_to_say_nothing(tmp_path: Path) -> None:
    said = of_dicom(tmp_path, PatientBirthDate="", SeriesDescription="")
    assert said == Stated(modality="CT")
    assert stated(None) == Stated()


def test_body_part_contrast_and_sequence_are_read(tmp_path: Path) -> None:
    tags = {"BodyPartExamined": "BRAIN", "ContrastBolusAgent": "Gadovist", "SeriesDescription": "t2_FLAIR_sag"}
    said = of_dicom(tmp_path / "a", modality="MR", **tags)
    assert (said.modality, said.body_part, said.contrast, said.sequence) == ("MR", "BRAIN", True, "FLAIR")
    assert of_dicom(tmp_path / "b", ContrastBolusAgent="NONE").contrast is False


@pytest.mark.parametrize(
    ("words", "sequence"),
    [
        ("MPRAGE sag 1mm", "T1"), ("Ax T2 TSE", "T2"), ("T2w_dark-fluid", "FLAIR"), ("ep2d_diff_trace_DWI", "DWI"),
        ("pd_fs", "PD"), ("t2*_gre", "SWI"), ("localizer", ""), ("test1 out2", ""),
    ],
)  # fmt: skip
def test_a_description_names_its_sequence(tmp_path: Path, words: str, sequence: str) -> None:
    assert of_dicom(tmp_path, modality="MR", SeriesDescription=words).sequence == sequence


def test_a_bids_sidecar_and_a_bids_name_say_the_same(tmp_path: Path) -> None:
    scan = nifti(tmp_path / "sub-01_ce-gd_T1w.nii.gz")
    assert stated(formats.read([scan]).source) == Stated(contrast=True, sequence="T1")
    said = {"Modality": "MR", "PatientAge": "003Y", "BodyPartExamined": "KNEE\n", "ContrastBolusIngredient": "none"}
    (tmp_path / "sub-01_ce-gd_T1w.json").write_text(json.dumps(said))
    assert stated(formats.read([scan]).source) == Stated("MR", 3, "KNEE", False, "T1")


@pytest.mark.parametrize("text", ["", "[1]", '{"Modality": ["MR"], "PatientAge": {}}', "{" * 5000, "\0"])
def test_a_sidecar_that_is_none_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    assert stated(formats.read([nifti(tmp_path / "a.nii")]).source) == Stated()


SUBJECT = "ds/sub-01/ses-2/anat/sub-01_ses-2_acq-a_T1w"


def in_dataset(folder: Path, files: dict[str, object], scan: str = SUBJECT) -> Stated:
    """What is said of a scan of a BIDS dataset that has these files: JSON, or the rows of a table."""
    for name, said in files.items():
        path = folder / "ds" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = ["\t".join(row) for row in said] if isinstance(said, list) else []
        path.write_text("\n".join(rows) if rows else json.dumps(said))
    (folder / scan).parent.mkdir(parents=True, exist_ok=True)
    return stated(formats.read([nifti(folder / f"{scan}.nii.gz")]).source)


def test_a_scan_inherits_the_sidecars_above_it_and_the_nearest_counts(tmp_path: Path) -> None:
    said = in_dataset(
        tmp_path,
        {
            "T1w.json": {"Modality": "MR", "BodyPartExamined": "KNEE", "ContrastBolusIngredient": "none"},
            "sub-01/sub-01_T1w.json": {"BodyPartExamined": "HEAD"},
            "sub-01/ses-2/anat/sub-01_ses-2_T1w.json": {"BodyPartExamined": "BRAIN"},
            "sub-01/ses-2/anat/sub-01_ses-2_acq-a_T1w.json": {"ContrastBolusIngredient": "Gadovist"},
        },
    )
    assert said == Stated("MR", None, "BRAIN", True, "T1")


def test_a_sidecar_of_another_suffix_entity_or_place_is_not_inherited(tmp_path: Path) -> None:
    other = {"Modality": "CT"}
    names = ("T2w.json", "acq-b_T1w.json", "sub-02_T1w.json", "run-1_T1w.json", "sub-02/T1w.json", "../T1w.json")
    assert in_dataset(tmp_path, dict.fromkeys(names, other)) == Stated(sequence="T1")
    assert in_dataset(tmp_path, {"a.json": other}, "flat/T1w").modality == ""  # no name of BIDS: only its own


@pytest.mark.parametrize(
    ("age", "said", "years"),
    [
        ("3", {}, 3), ("34.5", {}, 34.5), ("34,5", {}, 34.5), ("89+", {}, 89), ("n/a", {}, None),
        ("-1", {}, None), ("340", {}, None),
        ("18", {"age": {"Units": "months"}}, 1.5), ("22", {"age": {"Units": "fortnights"}}, None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("participant", ["sub-01", "01"])
def test_the_age_of_a_participant_is_read_from_its_table(
    tmp_path: Path, participant: str, age: str, said: dict[str, object], years: float | None
) -> None:
    rows = [["sex", "participant_id", "age"], ["F", "sub-011", "70"], ["M", participant, age]]
    found = in_dataset(tmp_path, {"participants.tsv": rows, "participants.json": said})
    assert found.years == (None if years is None else pytest.approx(years))
    assert found.years_from == ("the scan" if years is None else "participants.tsv")


@pytest.mark.parametrize(("table", "years"), [('"participant_id"\t"age"\n"sub-01"\t7\n', 7), ("a\x00\n", None)])
def test_texts_of_a_table_may_stand_in_quotes_as_R_writes_them(tmp_path: Path, table: str, years: float | None) -> None:
    (tmp_path / "ds").mkdir()
    (tmp_path / "ds/participants.tsv").write_text(table, encoding="utf-8")
    assert in_dataset(tmp_path, {}).years == years


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_tables_and_sidecars_as_windows_writes_text_are_read(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "ds").mkdir()
    (tmp_path / "ds/participants.tsv").write_text("participant_id\tage\r\nsub-01\t7\r\n", encoding=encoding)
    (tmp_path / "ds/T1w.json").write_text('{"BodyPartExamined": "KNEE"}', encoding=encoding)
    found = in_dataset(tmp_path, {})
    assert (found.years, found.body_part) == (7, "KNEE")


def test_an_age_of_the_session_or_of_the_sidecar_comes_before_that_of_the_participant(tmp_path: Path) -> None:
    tables: dict[str, object] = {
        "participants.tsv": [["participant_id", "age"], ["sub-01", "70"]],
        "sub-01/sub-01_sessions.tsv": [["session_id", "age"], ["ses-1", "7"], ["ses-2", "8"]],
    }
    found = in_dataset(tmp_path, tables)
    assert (found.years, found.years_from) == (8, "sub-01_sessions.tsv")
    found = in_dataset(tmp_path, {"sub-01/sub-01_T1w.json": {"PatientAge": "009Y"}})
    assert (found.years, found.years_from) == (9, "the scan")


def test_tables_and_sidecars_that_are_none_say_nothing(tmp_path: Path) -> None:
    (tmp_path / "ds/sub-01/ses-2/anat").mkdir(parents=True)
    os.mkfifo(tmp_path / "ds/T1w.json")  # would be waited for
    (tmp_path / "ds/sub-01/T1w.json").symlink_to("/dev/zero")
    (tmp_path / "ds/participants.tsv").write_bytes(b"\xff\x00participant_id\tage\nsub-01")
    (tmp_path / "ds/sub-01/sub-01_sessions.tsv").mkdir()
    assert in_dataset(tmp_path, {}) == Stated(sequence="T1")


# ---- against a card ------------------------------------------------------------------------------------------------

MADE_FOR = {"ages": [18, 90], "body_parts": ["HEAD", "brain"], "contrast": False, "sequences": ["T1", "T2"]}


def card(**made_for: Any) -> ModelCard:
    return parse({**CARD, "channels": ["MR"], "modality": "MR", "made_for": made_for})


@pytest.mark.parametrize(
    ("said", "code", "severity", "sentence"),
    [
        (Stated("CT"), "modality", "fail", "the scan says CT, organs was made for MR"),
        (Stated(years=3), "age", "review", "the scan says an age of 3 years, organs was made for 18 to 90 years"),
        (Stated(years=0.5), "age", "review", "an age of 6 months, organs"),
        (Stated(years=101), "age", "review", "an age of 90 years or more, organs"),
        (Stated(years=3, years_from="participants.tsv"), "age", "review", "participants.tsv says an age of 3 years"),
        (Stated(body_part="KNEE"), "body part", "review", "it shows KNEE, organs was made for HEAD or brain"),
        (Stated(contrast=True), "contrast", "review", "made with a contrast agent, organs was made for scans without"),
        (Stated(sequence="FLAIR"), "sequence", "review", "it is a FLAIR, organs was made for T1 or T2"),
    ],
)
def test_what_the_model_was_not_made_for_is_told(said: Stated, code: str, severity: str, sentence: str) -> None:
    (found,) = of_statements(card(**MADE_FOR), said)
    assert (found.code, found.severity, found.structure) == (code, severity, None)
    assert code in SAID_FIRST
    assert sentence in found.sentence
    assert not [f for f in of_statements(card(), said) if f.code != "modality"]  # the card says nothing of it


@pytest.mark.parametrize("said", [Stated(), Stated("MR", 18, "Brain/Skull", False, "T1"), Stated(body_part="HEADNECK")])
def test_what_fits_or_is_not_known_is_no_doubt(said: Stated) -> None:
    assert list(of_statements(card(**MADE_FOR), said)) == []


def test_a_child_for_a_model_of_adults_is_told_before_the_network_runs(tmp_path: Path) -> None:
    scan = formats.read([series(tmp_path, modality="MR", PatientAge="003Y")])
    told = [t for t in beforehand(scan, card(ages=[18, 120]), "a") if "age" in t]
    assert told == ["the scan says an age of 3 years, organs was made for 18 to 120 years"]
