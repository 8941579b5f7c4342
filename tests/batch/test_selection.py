"""Which of many scans are meant: by series and rules of their headers, by patterns of paths, by BIDS's entities."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from dicom_phantom import phantom, series
from scan_files import nifti
from typer.testing import CliRunner

from segcli import formats
from segcli.batch.cases import Case, cases
from segcli.batch.selection import Selection
from segcli.commands.app import app
from segcli.errors import InputError, InputMissing, UsageError


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole study in one folder, as a receiver leaves it: four volumes and a report."""
    folder = tmp_path_factory.mktemp("in") / "study"
    said = {
        1: {"SeriesDescription": "T1 MPRAGE sag", "ImageType": ["ORIGINAL", "PRIMARY"]},
        2: {"SeriesDescription": "t1 mpr, 3 mm", "ImageType": ["DERIVED", "SECONDARY", "MPR"]},
        3: {"SeriesDescription": "T2 FLAIR", "ImageType": ["ORIGINAL", "PRIMARY"]},
    }
    for number, tags in said.items():
        series(folder, phantom() + number, uid=f"mr{number}", modality="MR", SeriesNumber=number, **tags)
    series(folder, uid="ct", SeriesNumber=4, SeriesDescription="t1 level")
    series(folder, phantom()[:1], uid="sr", SeriesNumber=5, Modality="SR", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33")
    return folder


def numbers(found: list[Case]) -> list[int]:
    return [int(case.name.split("-")[1]) for case in found]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"series": ("3",)}, [3]),
        ({"series": ("3", "001")}, [1, 3]),
        ({"series": ("all",)}, [1, 2, 3, 4]),
        ({"where": ("Modality=MR,SeriesDescription~=(?i)t1,ImageType!~DERIVED",)}, [1]),
        ({"where": ("Modality=MR,SeriesDescription~=(?i)t1",)}, [1, 2]),
        ({"where": ("ImageType=MPR", "Modality!=MR")}, [2, 4]),
        ({"where": ("SeriesDescription~=mpr, 3,Modality=MR",)}, [2]),
        ({"where": ("SeriesNumber=03.0",)}, [3]),
        ({"series": ("2", "4"), "where": ("Modality=CT",)}, [4]),
    ],
)
def test_a_flat_folder_with_a_study_is_a_tree_of_the_series_that_are_chosen(flat, asked, found):
    made = cases([str(flat)], select=Selection(**asked))
    assert numbers(made) == found
    for case in made:
        assert case.name == case.series
        scan = formats.read(case.paths, series=case.series)
        expected = phantom() if case.name.startswith("series-004") else phantom() + numbers([case])[0]
        np.testing.assert_array_equal(scan.data[0], expected)


def test_4_14_what_is_not_there_is_told_with_what_is(flat):
    for asked, why in (({"series": ("9",)}, "no series called 9"), ({"where": ("Modality=PT",)}, "no series fits")):
        with pytest.raises(InputError, match=why) as refused:
            cases([str(flat)], select=Selection(**asked))
        assert refused.value.hint.count("--series series-") == 5


def test_a_chosen_series_that_is_no_volume_is_refused_as_what_it_is(flat):
    with pytest.raises(InputError, match="none of which is a volume: a report"):
        cases([str(flat)], select=Selection(series=("5",)))


def test_without_a_choice_a_flat_folder_of_several_series_is_still_refused_with_their_list(flat):
    (case,) = cases([str(flat)])
    assert case.name == "study"
    with pytest.raises(InputError, match="4 series could be the volume"):
        formats.read(case.paths)


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ("Modality", "not of the form ATTRIBUTE=VALUE"),
        ("Modalty=MR", "DICOM knows no attribute Modalty"),
        ("SeriesDescription~=(t1", "is no regular expression"),
    ],
)
def test_a_rule_that_is_none_is_a_mistake_of_the_command(rule, why):
    error = CliRunner().invoke(app, ["predict", "no-such-folder", "--where", rule]).exception
    assert isinstance(error, UsageError)
    assert why in error.message


def test_several_series_and_patterns_are_options_that_may_be_repeated():
    words = "--series 1 --series 2,3 --where Modality=MR --where Modality=CT --include a* --exclude b* --exclude c*"
    assert isinstance(CliRunner().invoke(app, ["predict", "no-such-folder", *words.split()]).exception, InputMissing)


def test_4_14_a_series_is_meant_whole_where_one_of_its_files_fits_a_pattern(tmp_path):
    series(tmp_path / "p1" / "ct", uid="one")
    series(tmp_path / "p2" / "ct", uid="two")
    (case,) = cases([str(tmp_path)], select=Selection(include=("p1/*/one-003.dcm",)))
    assert case.name.startswith("p1/ct/")
    assert formats.read(case.paths, series=case.series).grid.shape[0] == 6
    (case,) = cases([str(tmp_path)], select=Selection(exclude=("p1/*",)))
    assert case.name.startswith("p2/ct/")
    with pytest.raises(InputMissing, match="no DICOM series fits"):
        cases([str(tmp_path)], select=Selection(include=("*.nii",)))


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A BIDS dataset: anatomy, an fMRI run, a diffusion series and its mean."""
    root = tmp_path / "ds"
    root.mkdir()
    (root / "dataset_description.json").write_text("{}")
    plain, several = np.zeros((3, 4, 5), "i2"), np.zeros((3, 4, 5, 6), "i2")
    for subject in ("01", "02"):
        for session in ("a", "b"):
            folder = root / f"sub-{subject}" / f"ses-{session}"
            name = f"sub-{subject}_ses-{session}"
            for kind, rest, data in (
                ("anat", "T1w", plain),
                ("anat", "T2w", plain),
                ("func", "task-rest_bold", several),
                ("func", "sbref", plain),
                ("dwi", "dwi", several),
            ):
                (folder / kind).mkdir(parents=True, exist_ok=True)
                nifti(folder / kind / f"{name}_{rest}.nii.gz", data)
    return root


def test_images_of_several_volumes_in_func_and_dwi_are_left_out_with_their_names(dataset):
    said: list[str] = []
    found = cases([str(dataset)], tell=said.append)
    assert {case.name.rsplit("_", 1)[1] for case in found} == {"T1w", "T2w", "sbref"}
    first = "sub-01_ses-a_dwi.nii.gz, sub-01_ses-a_task-rest_bold.nii.gz, sub-01_ses-b_dwi.nii.gz ..."
    assert said == [f"8 images of several volumes in func, dwi or perf are left out: {first}"]
    one: list[str] = []
    cases([str(dataset / "sub-01" / "ses-a" / "func")], tell=one.append)
    name = "sub-01_ses-a_task-rest_bold.nii.gz"
    assert one == [f"1 image of several volumes in func, dwi or perf is left out: {name}"]
    below = cases([str(dataset / "sub-01")], tell=said.append)
    assert len(below) == 6
    named = cases([str(dataset / "sub-01" / "ses-a" / "dwi" / "sub-01_ses-a_dwi.nii.gz")])
    assert len(named) == 1  # one that is named is not left out


def test_a_dataset_of_nothing_else_has_no_scan(dataset):
    with pytest.raises(InputMissing, match="none of its 1 images is meant") as refused:
        cases([str(dataset / "sub-01" / "ses-a" / "dwi")])
    assert refused.value.hint == "name the file of a series itself, with --volume N"


@pytest.mark.parametrize(
    ("asked", "count"),
    [
        ({"participants": ("02",)}, 6),
        ({"participants": ("sub-02", "01"), "sessions": ("ses-a",)}, 6),
        ({"suffixes": ("T1w",)}, 4),
        ({"participants": ("01",), "sessions": ("b",), "suffixes": ("T1w", "T2w")}, 2),
        ({"include": ("*_T1w.nii.gz",)}, 4),
        ({"include": ("sub-01/*/anat/*",), "exclude": ("*T2w*",)}, 2),
    ],
)
def test_scans_of_a_tree_are_chosen_by_labels_suffixes_and_patterns(dataset, asked, count):
    assert len(cases([str(dataset)], select=Selection(**asked))) == count


def test_a_participant_who_is_not_there_is_missing_input(dataset):
    with pytest.raises(InputMissing, match="none of its 20 images is meant"):
        cases([str(dataset)], select=Selection(participants=("99",)))


def test_labels_that_no_image_of_a_dataset_has_are_told_beside_those_that_are_done(dataset):
    said = []
    asked = Selection(participants=("01", "sub-99"), sessions=("ses-a",), suffixes=("T1w", "T3w"))
    assert len(cases([str(dataset)], select=asked, tell=said.append)) == 1
    name = dataset.name
    assert f"{name}: no image that fits what was asked for has --participant-label 99" in said
    assert f"{name}: no image that fits what was asked for has --suffix T3w" in said
    assert not any("--session-label" in line or " 01" in line for line in said)


def test_a_participant_without_an_image_of_the_session_that_was_asked_for_is_told(dataset):
    shutil.rmtree(dataset / "sub-02" / "ses-a")
    said = []
    asked = Selection(participants=("01", "02"), sessions=("a",), suffixes=("T1w",))
    assert len(cases([str(dataset)], select=asked, tell=said.append)) == 1
    assert said == [f"{dataset.name}: no image that fits what was asked for has --participant-label 02"]


@pytest.mark.parametrize(
    ("asked", "there"),
    [
        ({"participants": ("07",), "suffixes": ("T1W",)}, "there are --participant-label 01, 02; --suffix FLAIR, T1w"),
        ({"sessions": ("1",)}, "its files are not called as BIDS calls them"),
        ({"include": ("*.mgz",)}, "check the patterns"),
    ],
)
def test_where_nothing_of_a_dataset_is_meant_the_labels_that_there_are_are_told(tmp_path, asked, there):
    for name in ("sub-01/anat/sub-01_T1w.nii.gz", "sub-02/anat/sub-02_FLAIR.nii.gz"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    with pytest.raises(InputMissing, match="none of its 2 images is meant") as refused:
        cases([str(tmp_path)], select=Selection(**asked))
    assert refused.value.hint == there
