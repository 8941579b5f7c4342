"""What is promised of a classic DICOM series; numbers in names are those of the reliability promises, section 4."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
from dicom_phantom import OBLIQUE, PATIENT, affine, header, phantom, pixels, save, series
from models import organs
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
    SecondaryCaptureImageStorage,
    generate_uid,
)
from runs import in_process

from segcli import formats
from segcli.errors import InputError, InputMissing
from segcli.formats.dicom import series as dicom
from segcli.formats.dicom.rules import fit, rules


def change(**tags: Any) -> Any:
    """Set (or with None delete) attributes of slice 3 only."""

    def each(ds: Dataset, k: int) -> None:
        for tag, value in tags.items() if k == 3 else ():
            if value is None:
                delattr(ds, tag)
            else:
                setattr(ds, tag, value)

    return each


def unused(scan: dicom.Volume) -> dict[str, str]:
    assert scan.source is not None
    assert scan.source.facts is not None
    return {u["file"]: u["reason"] for u in scan.source.facts["unused"]}


def warnings(scan: dicom.Volume) -> str:
    assert scan.source is not None
    return "; ".join(scan.source.warnings)


def test_a_plain_series_gives_its_voxels_on_the_grid_of_its_positions(tmp_path: Path) -> None:
    scan = dicom.read(series(tmp_path / "ct"))
    assert scan.data.dtype == np.int16
    np.testing.assert_array_equal(scan.data[0], phantom())
    np.testing.assert_allclose(scan.grid.affine, affine(), atol=1e-6)
    assert scan.grid.axes == "SPL"
    assert warnings(scan) == ""


def test_an_oblique_series_keeps_its_place(tmp_path: Path) -> None:
    world = affine(OBLIQUE)
    scan = dicom.read(series(tmp_path / "ct", world=world))
    np.testing.assert_allclose(scan.grid.affine, world, atol=1e-6)
    np.testing.assert_array_equal(scan.data[0], phantom())


# ---- 4.1: every file is accounted for


def test_4_1_each_file_that_is_not_used_is_named_with_its_reason(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct")
    (folder / "readme.txt").write_text("hello")
    (folder / "empty.dcm").touch()
    (folder / "old.dcm").symlink_to("gone.dcm")
    os.mkfifo(folder / "a pipe")
    (folder / "elsewhere").symlink_to(tmp_path)
    scan = dicom.read(folder)
    np.testing.assert_array_equal(scan.data[0], phantom())
    assert unused(scan) == {
        "readme.txt": "not DICOM",
        "empty.dcm": "empty",
        "old.dcm": "a link that leads nowhere",
        "a pipe": "not a regular file",
        "elsewhere": "a link to a folder",
    }
    assert warnings(scan).startswith("11 files, 6 used, 5 not: ")
    assert scan.source is not None
    assert scan.source.facts is not None
    assert (scan.source.facts["files"], scan.source.facts["used"]) == (11, 6)


@pytest.mark.parametrize("k", [0, 2, 5])
def test_4_1_a_slice_whose_pixels_end_early_is_refused_wherever_it_lies(tmp_path: Path, k: int) -> None:
    folder = series(tmp_path / "ct")
    file = folder / f"a-00{k}.dcm"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(InputError, match=rf"a-00{k}.dcm: truncated: 50 of 70 bytes of pixels"):
        dicom.read(folder)


@pytest.mark.parametrize("keep", [140, 200, 700])
def test_4_1_a_slice_whose_header_ends_early_is_refused(tmp_path: Path, keep: int) -> None:
    folder = series(tmp_path / "ct")
    file = folder / "a-005.dcm"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"a-005.dcm: (corrupt|incomplete)"):
        dicom.read(folder)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_4_1_a_last_slice_that_ends_anywhere_is_refused_whichever_series_is_asked_for(
    tmp_path: Path, syntax: str
) -> None:
    """Also within its class or its series' identifier, whose rest would be that of no slice, or of another series."""
    folder = series(tmp_path / "ct", syntax=syntax)
    file = folder / "a-005.dcm"
    data, header = file.read_bytes(), pydicom.dcmread(file)
    chosen = header.SeriesInstanceUID
    at = [data.rindex(str(uid).encode()) for uid in (header.SOPClassUID, chosen)]
    ends = {*range(at[0] - 9, at[0] + 32), *range(at[1] - 9, at[1] + len(chosen) + 9), *range(1, len(data) - 1, 37)}
    for end in sorted(ends):
        file.write_bytes(data[:end])
        with pytest.raises(InputError, match=r"a-005.dcm"):
            dicom.read(folder, series=chosen)


def test_a_thickness_that_is_no_number_matters_to_one_slice_alone(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct")
    for file in folder.iterdir():
        data = file.read_bytes()
        at = data.index(b"\x18\x00\x50\x00DS")
        size = int.from_bytes(data[at + 6 : at + 8], "little")
        file.write_bytes(data[: at + 8] + b"3,0"[:size].ljust(size) + data[at + 8 + size :])
    assert dicom.read(folder).grid.shape == (6, 7, 5)
    for file in sorted(folder.iterdir())[1:]:
        file.unlink()
    with pytest.raises(InputError, match="one slice without a thickness"):
        dicom.read(folder)


@pytest.mark.parametrize("what", ["zeros", "mark", "class", "number of samples"])
def test_4_1_what_a_failed_copy_leaves_of_a_slice_is_refused(tmp_path: Path, what: str) -> None:
    folder = series(tmp_path / "ct", each=change(SamplesPerPixel=3) if what.startswith("number") else None)
    file = folder / "a-003.dcm"
    data = file.read_bytes()
    if what == "zeros":
        file.write_bytes(bytes(len(data)))
    elif what == "mark":
        file.write_bytes(data.replace(b"DICM", b"D\0CM"))
    elif what == "class":
        file.write_bytes(data.replace(b"1.2.840.10008.5.1.4.1.1.2\0", b"1.2.840.10008.5.7.4.1.1.2\0"))
    with pytest.raises(InputError, match=r"a-003.dcm: (corrupt|truncated)"):
        dicom.read(folder)


def test_4_1_a_maker_s_own_object_in_the_series_is_left_out(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct", each=change(SOPClassUID="1.3.12.2.1107.5.9.1"))
    (folder / "a-003.dcm").rename(folder / "b.dcm")
    series(folder, each=lambda ds, k: k == 3)
    scan = dicom.read(folder)
    np.testing.assert_array_equal(scan.data[0], phantom())
    assert unused(scan) == {"b.dcm": "1.3.12.2.1107.5.9.1, not a CT, MR or PET image"}


def test_4_1_a_series_in_folders_below_is_found(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct" / "DICOM")
    (tmp_path / "ct" / "more").mkdir()
    for file in sorted(folder.iterdir())[3:]:
        file.rename(tmp_path / "ct" / "more" / file.name)
    np.testing.assert_array_equal(dicom.read(tmp_path / "ct").data[0], phantom())


# ---- 4.2, 4.3, 4.4: order, spacing, tilt


def test_4_2_slices_are_ordered_by_position_not_by_name_or_number(tmp_path: Path) -> None:
    world = affine()
    world[:3, 0], world[:3, 3] = -world[:3, 0], world[:3, 3] + 5 * world[:3, 0]  # the files run downwards
    scan = dicom.read(series(tmp_path / "ct", phantom()[::-1], world, each=shuffled))
    np.testing.assert_array_equal(scan.data[0], phantom())
    np.testing.assert_allclose(scan.grid.affine, affine(), atol=1e-6)


def shuffled(ds: Dataset, k: int) -> None:
    ds.InstanceNumber, ds.SliceLocation = (5 * k) % 6, (k * 7) % 6


def test_the_paths_of_the_source_are_in_the_order_of_the_slices(tmp_path: Path) -> None:
    world = affine()
    world[:3, 0] = -world[:3, 0]
    scan = dicom.read(series(tmp_path / "ct", world=world))
    assert scan.source is not None
    assert [p.name for p in scan.source.paths] == [f"a-00{k}.dcm" for k in (5, 4, 3, 2, 1, 0)]


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_4_2_a_classic_slice_with_an_empty_list_of_frames_lies_where_it_says(tmp_path: Path, syntax: str) -> None:
    empty = {f"{whose}FunctionalGroupsSequence": Sequence([]) for whose in ("Shared", "PerFrame")}
    scan = dicom.read(series(tmp_path / "ct", syntax=syntax, **empty))
    np.testing.assert_array_equal(scan.data[0], phantom())
    np.testing.assert_allclose(scan.grid.affine, affine())


def test_4_2_the_grid_is_right_handed(tmp_path: Path) -> None:
    scan = dicom.read(series(tmp_path / "ct", world=affine(((0, 1, 0), (0, 0, -1)))))
    i, j, k = scan.grid.directions[:, 2], scan.grid.directions[:, 1], scan.grid.directions[:, 0]
    assert np.cross(i, j) @ k == pytest.approx(1)
    assert scan.grid.axes == "RIP"


def test_4_3_a_missing_slice_is_refused_with_its_number_and_distance(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct", each=lambda ds, k: k != 3)
    with pytest.raises(InputError, match=r"ct: 5 slices unevenly spaced: 6 mm after slice 3, .* 3 mm"):
        dicom.read(folder)


@pytest.mark.parametrize(("there", "lost"), [((0, 1, 3), "a slice is"), ((0, 1, 2, 4, 6), "2 slices are")])
def test_4_3_the_usual_gap_is_one_that_there_is(tmp_path: Path, there: tuple[int, ...], lost: str) -> None:
    """Half of the gaps being longer, the middle of them was none: 4.5 mm, and --fill-gaps was said not to help."""
    folder = series(tmp_path / "ct", phantom((7, 7, 5)), each=lambda ds, k: k in there)
    with pytest.raises(InputError, match=f"6 mm after slice .*, while the usual gap is 3 mm: {lost} missing") as caught:
        dicom.read(folder)
    assert "--fill-gaps interpolates" in str(caught.value.hint)
    assert dicom.read(folder, fill_gaps=True).grid.spacing[0] == pytest.approx(3)


@pytest.mark.parametrize(("off", "fine"), [(0.02, True), (0.04, False)])
def test_4_3_spacing_may_deviate_by_one_percent(tmp_path: Path, off: float, fine: bool) -> None:
    folder = series(tmp_path / "ct", each=change(ImagePositionPatient=[-10, -20, -21 + off]))
    if fine:
        assert dicom.read(folder).grid.spacing[0] == pytest.approx(3)
    else:
        with pytest.raises(InputError, match=r"3\.04 mm after slice 3"):
            dicom.read(folder)


def test_4_3_a_slice_shifted_sideways_is_refused(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct", each=change(ImagePositionPatient=[-9, -20, -21]))
    with pytest.raises(InputError, match="slice 4 of 6 lies 1 mm off") as caught:
        dicom.read(folder)
    assert "missing" not in str(caught.value.hint)


def test_4_3_one_slice_has_its_thickness_for_spacing_and_says_so(tmp_path: Path) -> None:
    scan = dicom.read(series(tmp_path / "ct", phantom()[:1]))
    assert scan.grid.spacing == (3, 2, 1.5)
    assert "one slice only: its thickness of 3 mm" in warnings(scan)


def test_4_3_one_slice_without_thickness_is_refused(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct", phantom()[:1], each=lambda ds, k: delattr(ds, "SliceThickness"))
    with pytest.raises(InputError, match="one slice without a thickness"):
        dicom.read(folder)


def test_4_4_a_tilted_gantry_stays_sheared_and_the_angle_is_said(tmp_path: Path) -> None:
    world = affine(tilt=3 * np.tan(np.radians(12)))
    scan = dicom.read(series(tmp_path / "ct", world=world))
    np.testing.assert_allclose(scan.grid.affine, world, atol=1e-6)
    np.testing.assert_array_equal(scan.data[0], phantom())
    assert scan.grid.voxel_mm3 == pytest.approx(9)  # 3 x 2 x 1.5 mm, whatever the tilt
    assert "the gantry was tilted by 12.00 degrees: the slices are sheared" in warnings(scan)
    scan = dicom.read(series(tmp_path / "mr", world=world, modality="MR"))
    assert "each slice is shifted against the one below, by 12.00 degrees: the slices are sheared" in warnings(scan)


def test_gaps_are_filled_only_when_wished_and_marked(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct", each=lambda ds, k: k not in (2, 3))
    scan = dicom.read(folder, fill_gaps=True)
    np.testing.assert_allclose(scan.grid.affine, affine(), atol=1e-6)
    np.testing.assert_array_equal(scan.data[0], phantom())  # the phantom grows evenly: its mean is itself
    assert dicom.real_slices(scan) == [0, 1, 4, 5]
    assert "2 of 6 slices are missing and were interpolated: number 3, 4" in warnings(scan)


def test_more_missing_slices_than_there_are_are_not_filled(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct", phantom((12, 7, 5)), each=lambda ds, k: k in (0, 1, 11))
    with pytest.raises(InputError, match=r"30 mm after slice 2.*more slices are missing than are there"):
        dicom.read(folder, fill_gaps=True)


def test_a_gap_that_is_no_whole_number_of_slices_is_not_filled(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct", each=lambda ds, k: k != 5 or setattr(ds, "ImagePositionPatient", [-10, -20, -13]))
    with pytest.raises(InputError, match="5 mm after slice 5"):
        dicom.read(folder, fill_gaps=True)


# ---- 4.5: geometry is there and alike


@pytest.mark.parametrize("tag", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
def test_4_5_geometry_that_is_missing_is_refused_by_slice(tmp_path: Path, tag: str) -> None:
    with pytest.raises(InputError, match=rf"a-003.dcm: .*{tag}\) is missing"):
        dicom.read(series(tmp_path / "ct", each=change(**{tag: None})))


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"ImageOrientationPatient": [1, 0, 0, 0, 0.99, 0.14]}, "its orientation differs"),
        ({"ImageOrientationPatient": [1, 0, 0, 0, 1.1, 0]}, "lengths 1 and 1.1"),
        ({"ImageOrientationPatient": [1, 0, 0, 0.1, 0.995, 0]}, "dot product 0.1"),
        ({"PixelSpacing": [2, 1.6]}, "pixel spacing 2 x 1.6 mm, other slices differ"),
        ({"PixelSpacing": [0, 1.5]}, "pixel spacing 0 x 1.5"),
        ({"PixelSpacing": [2]}, "not 2 finite numbers"),
        ({"FrameOfReferenceUID": "1.2.3"}, "2 frames of reference"),
        ({"FrameOfReferenceUID": None}, "a-003.dcm: the frame of reference is missing"),
        ({"PatientID": "another"}, "several patients"),
        ({"Modality": "MR"}, "several modalities"),
        ({"StudyInstanceUID": "1.2.3"}, "several studies"),
        ({"RescaleSlope": 0}, "a-003.dcm: rescale slope 0"),
        ({"RescaleIntercept": None}, "a-003.dcm: only one of RescaleSlope and RescaleIntercept"),
        ({"Rows": 5, "Columns": 7}, "5 x 7 pixels, other slices have 7 x 5"),
    ],
)
def test_4_5_a_slice_unlike_the_others_is_refused(tmp_path: Path, tags: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        dicom.read(series(tmp_path / "ct", each=change(**tags)))


def test_4_5_no_frame_of_reference_in_any_slice_is_said(tmp_path: Path) -> None:
    scan = dicom.read(series(tmp_path / "ct", each=lambda ds, k: delattr(ds, "FrameOfReferenceUID")))
    assert "no frame of reference" in warnings(scan)


def test_small_differences_of_orientation_in_every_slice_are_no_scout(tmp_path: Path) -> None:
    def wobble(ds: Dataset, k: int) -> None:
        ds.ImageOrientationPatient = [1, k * 1e-5, 0, -k * 1e-5, 1, 0]

    np.testing.assert_array_equal(dicom.read(series(tmp_path / "ct", each=wobble)).data[0], phantom())


# ---- 4.6: twice the same, and several volumes


def test_4_1_a_slice_of_no_frames_is_refused_for_that(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a-000.dcm: its rows, columns, frames or bits are missing, 0 or no numbers"):
        dicom.read(series(tmp_path / "ct", NumberOfFrames=0))


def test_4_6_the_same_instance_twice_is_used_once(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct")
    shutil.copy(folder / "a-002.dcm", folder / "copy of 2.dcm")
    scan = dicom.read(folder)
    np.testing.assert_array_equal(scan.data[0], phantom())
    assert unused(scan) == {"copy of 2.dcm": "the same instance again"}


def test_4_6_one_instance_with_two_contents_is_refused(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct")
    series(folder, phantom() + 1, first=100, each=lambda ds, k: k == 2)
    with pytest.raises(InputError, match=r"a-102.dcm and a-002.dcm claim to be the same instance"):
        dicom.read(folder)


def test_4_6_a_claimed_UID_that_is_a_path_is_called_unsafe(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct")
    with pydicom.config.disable_value_validation():
        series(folder, first=100, each=lambda ds, k: k in (2, 3), SOPInstanceUID="1.2.3/../../x")
    with pytest.raises(InputError, match=r"claim to be the same instance.*its UID '1\.2\.3/\.\./\.\./x' is unsafe"):
        dicom.read(folder)


def test_4_6_an_instance_with_two_contents_in_a_series_whose_UID_is_a_path_is_called_unsafe(tmp_path: Path) -> None:
    with pydicom.config.disable_value_validation():
        folder = series(tmp_path / "ct", SeriesInstanceUID="../../evil")
        series(folder, phantom() + 1, first=100, each=lambda ds, k: k == 2, SeriesInstanceUID="../../evil")
    with pytest.raises(
        InputError, match="same instance, with other content; the UID of its series is unsafe: not of dig"
    ):
        dicom.read(folder)


def test_identifiers_that_are_none_are_said_once_and_name_nothing(tmp_path: Path) -> None:
    def each(ds: Dataset, k: int) -> None:
        ds.SeriesInstanceUID, ds.FrameOfReferenceUID, ds.SOPInstanceUID = "../../evil", "x y", f"../{k}"

    with pydicom.config.disable_value_validation():
        folder = series(tmp_path / "ct", each=each)
    (said,) = dicom.read(folder).source.warnings
    assert said == (
        "SeriesInstanceUID, FrameOfReferenceUID, SOPInstanceUID: no UIDs (digits and dots, 64 at most): nothing is "
        "named by them, and DICOM objects made of the scan have others in their place"
    )
    (found,) = dicom.find(folder)
    assert re.fullmatch("series-003-[0-9a-f]{8}", found.name)


@pytest.mark.parametrize(("kind", "said"), [("HU", False), ("US", False), ("", False), ("Z_EFF", True), ("MGML", True)])
def test_4_8_a_CT_whose_values_are_no_HU_is_told_as_one(tmp_path: Path, kind: str, said: bool) -> None:
    scan = dicom.read(series(tmp_path / "ct", RescaleType=kind))
    told = f"CT whose values are said to be in {kind}, not in HU: they are taken as they are"
    assert list(scan.source.warnings) == [told] * said


def test_4_8_a_lookup_table_that_is_empty_changes_no_value(tmp_path: Path) -> None:
    scan = dicom.read(series(tmp_path / "ct", ModalityLUTSequence=[]))
    np.testing.assert_array_equal(scan.data[0], phantom())


def test_4_1_a_slice_of_no_bytes_is_called_empty_and_not_only_a_gap(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct")
    (folder / "a-002.dcm").write_bytes(b"")
    with pytest.raises(InputError, match=r"ct: empty files \(0 bytes\): a-002\.dcm; 5 slices unevenly spaced") as told:
        dicom.read(folder)
    assert told.value.hint == "copy the empty files again"


@pytest.mark.parametrize("place", [0, 5])
@pytest.mark.parametrize("lost", ["empty", "a link that leads nowhere", "not DICOM"])
def test_4_1_a_slice_that_was_lost_at_an_end_is_refused_though_no_gap_shows(
    tmp_path: Path, place: int, lost: str
) -> None:
    folder = series(tmp_path / "ct")
    path = folder / f"a-00{place}.dcm"
    path.unlink()
    if lost == "a link that leads nowhere":
        path.symlink_to("../annex")
    else:
        path.write_text("" if lost == "empty" else "version https://git-lfs.github.com/spec/v1")
    with pytest.raises(
        InputError, match=rf"ct: a-00{place}\.dcm: {lost}, and called as the slices are: the series may"
    ):
        dicom.read(folder)


def test_4_1_an_empty_file_of_another_name_is_none_of_the_series(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct")
    (folder / "done").write_bytes(b"")
    assert dicom.read(folder).grid.shape[0] == 6


def test_4_6_one_position_twice_with_other_content_is_refused(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct")
    series(folder, phantom() + 1, first=100, each=lambda ds, k: k == 2 and fresh(ds, k) is None)
    with pytest.raises(InputError, match=r"7 slices at 6 positions, .* there seem to be 2 volumes"):
        dicom.read(folder)


def fresh(ds: Dataset, k: int) -> None:
    ds.SOPInstanceUID = generate_uid(entropy_srcs=["another", str(k)])


def two_phases(folder: Path, **tags: Any) -> Path:
    series(folder)
    return series(folder, phantom() + 100, first=100, each=fresh, **tags)


def test_4_6_two_phases_are_listed_as_volumes_and_one_is_chosen(tmp_path: Path) -> None:
    folder = two_phases(tmp_path / "ct", AcquisitionNumber=2)
    with pytest.raises(InputError, match=r"12 slices, .* 2 volumes .*--volume 2: acquisition number 2, 6 slices"):
        dicom.read(folder)
    scan = dicom.read(folder, volume=2)
    np.testing.assert_array_equal(scan.data[0], phantom() + 100)
    assert set(unused(scan).values()) == {"another volume of the series"}


def test_4_1_a_volume_with_fewer_slices_than_another_of_its_series_is_told(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct", AcquisitionNumber=1)
    series(
        folder,
        phantom() + 100,
        first=100,
        AcquisitionNumber=2,
        each=lambda ds, k: k < 5 and fresh(ds, k) is None,  # the last slice is missing, which no gap gives away
    )
    told = "the volume has 5 slices, another of the series 6: some may be missing"
    assert told in dicom.read(folder, volume=2).source.warnings
    assert not any("another of the series" in said for said in dicom.read(folder, volume=1).source.warnings)


@pytest.mark.parametrize(("every", "after"), [(1, 3), (2, 0)])
def test_a_volume_of_another_part_or_thickness_has_no_slices_missing(tmp_path: Path, every: int, after: int) -> None:
    """A neck beside a chest of the series, or thick slices beside thin ones, share places with them."""
    folder = series(tmp_path / "ct", AcquisitionNumber=1)
    world = affine(origin=(-10.0, -20.0, -30.0 + 3.0 * after))
    some = range(0, 5, every)
    series(
        folder,
        phantom() + 100,
        world,
        first=100,
        AcquisitionNumber=2,
        each=lambda ds, k: k in some and fresh(ds, k) is None,
    )
    scan = dicom.read(folder, volume=2)
    assert not any("another of the series" in said for said in scan.source.warnings)


@pytest.mark.parametrize(("said", "told"), [("E1", "E1"), ("E", "E"), ("-", "-"), ("1.50", "1.5")])
def test_4_6_what_tells_volumes_apart_need_be_no_number(tmp_path: Path, said: str, told: str) -> None:
    with pydicom.config.disable_value_validation():
        folder = two_phases(tmp_path / "ct", ContrastBolusAgentPhase=said)
    (found,) = dicom.find(folder)
    assert {what for what, _ in found.summary.which} == {
        f"contrast bolus agent phase {told}",
        "without contrast bolus agent phase",
    }


def test_volumes_are_told_apart_by_instance_numbers_where_nothing_else_does(tmp_path: Path) -> None:
    folder = tmp_path / "ct"
    series(folder, each=lambda ds, k: setattr(ds, "InstanceNumber", 2 * k + 1))
    series(
        folder,
        phantom() + 9,
        first=100,
        each=lambda ds, k: (fresh(ds, k), setattr(ds, "InstanceNumber", 2 * k + 2)),
    )
    np.testing.assert_array_equal(dicom.read(folder, volume=1).data[0], phantom())
    np.testing.assert_array_equal(dicom.read(folder, volume=2).data[0], phantom() + 9)


def numbered(folder: Path, number: Any) -> Path:
    """Two volumes that nothing but their instance numbers tells apart: `number(n, k)` of slice k of volume n."""
    for n in range(2):

        def each(ds: Dataset, k: int, n: int = n) -> None:
            ds.SOPInstanceUID, ds.InstanceNumber = f"1.2.{n}.{k}", number(n, k)

        series(folder, phantom() + n, first=100 * n, each=each)
    return folder


ANY_ORDER = [4, 0, 3, 1, 5, 2]  # of slices acquired in turns


@pytest.mark.parametrize(
    "number", [lambda n, k: 10 + 6 * n + ANY_ORDER[k], lambda n, k: 2 * ANY_ORDER[k] + n], ids=["volumes", "positions"]
)
def test_4_6_numbers_may_run_volume_by_volume_or_position_by_position(tmp_path: Path, number: Any) -> None:
    for n in range(2):
        scan = dicom.read(numbered(tmp_path / "ct", number), volume=n + 1)
        np.testing.assert_array_equal(scan.data[0], phantom() + n)


def test_4_6_numbers_in_no_order_are_refused(tmp_path: Path) -> None:
    numbers = [0, 4, 11, 5, 9, 2, 1, 8, 10, 3, 6, 7]
    with pytest.raises(InputError, match=r"12 slices at 6 positions, .* nothing tells them apart"):
        dicom.read(numbered(tmp_path / "ct", lambda n, k: numbers[6 * n + k]))


def test_a_volume_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no volume 3, only 1 to 1"):
        dicom.read(series(tmp_path / "ct"), volume=3)


def test_echoes_by_magnitude_and_phase_are_four_volumes(tmp_path: Path) -> None:
    folder = tmp_path / "mr"
    for n in range(4):
        tags = {"EchoTime": 5.0 + n % 2, "ImageType": ["ORIGINAL", "PRIMARY", "MP"[n // 2]]}
        each = lambda ds, k, n=n: setattr(ds, "SOPInstanceUID", f"1.2.{n}.{k}")  # noqa: E731
        series(folder, phantom() + n, modality="MR", first=100 * n, each=each, **tags)
    with pytest.raises(InputError, match=r"4 volumes .*--volume 3: echo time 6, image type .*M, 6 slices"):
        dicom.read(folder)
    np.testing.assert_array_equal(dicom.read(folder, volume=3).data[0], phantom() + 1)


def test_numbers_that_run_across_what_tells_volumes_apart_are_not_trusted(tmp_path: Path) -> None:
    folder = tmp_path / "mr"
    for n in range(3):  # three volumes, of which only two differ in echo time, and that one not in every slice

        def each(ds: Dataset, k: int, n: int = n) -> None:
            ds.SOPInstanceUID, ds.InstanceNumber = f"1.2.{n}.{k}", 3 * k + (n + k) % 3
            ds.EchoTime = 5.0 + (n == 2)

        series(folder, phantom() + n, modality="MR", first=100 * n, each=each)
    with pytest.raises(InputError, match=r"18 slices at 6 positions, .* whole volumes: echo time \(2 values\)"):
        dicom.read(folder)


def directions(folder: Path, odd: bool = False) -> Path:
    """Seven volumes of three slices as a Philips scanner writes them: b 0, five directions of b 2, one of b 2000.

    The numbers run position by position. odd: two directions of one slice are one and the same.
    """
    ways = [(0, (1, 0, 0)), (2000, (0.04, -0.975, 0.219)), *((2, (np.cos(a), np.sin(a), 0)) for a in (1, 2, 3, 4, 5))]
    for n, (b, way) in enumerate(ways):

        def each(ds: Dataset, k: int, n: int = n, b: int = b, way: tuple[float, ...] = way) -> None:
            ds.SOPInstanceUID, ds.InstanceNumber, ds.DiffusionBValue = f"1.2.{n}.{k}", 300 + 7 * k + n, float(b)
            ds.DiffusionGradientOrientation = [float(v) for v in (ways[2][1] if odd and (n, k) == (3, 1) else way)]
            ds.AcquisitionNumber = 19 if (n, k) == (5, 1) else 23  # as one slice of that scanner had

        series(folder, phantom((3, 7, 5)) + n, modality="MR", first=100 * n, each=each)
    return folder


def test_4_6_directions_of_diffusion_tell_volumes_apart(tmp_path: Path) -> None:
    folder = directions(tmp_path / "mr")
    with pytest.raises(InputError, match="there seem to be 7 volumes") as told:
        dicom.read(folder)
    assert "--volume 1: diffusion bvalue 0, diffusion gradient orientation 1 0 0, 3 slices" in str(told.value.hint)
    last = dicom.read(folder, volume=7)  # by their b-values
    np.testing.assert_array_equal(last.data[0], phantom((3, 7, 5)) + 1)
    assert last.source is not None
    assert last.source.facts is not None
    assert last.source.facts["volume"] == "diffusion bvalue 2000, diffusion gradient orientation 0.04 -0.975 0.219"


def test_4_6_what_contradicts_is_named_where_volumes_cannot_be_told_apart(tmp_path: Path) -> None:
    folder = directions(tmp_path / "mr", odd=True)
    with pytest.raises(InputError, match=r"fits no whole volumes: .*diffusion gradient orientation \(7 values\)"):
        dicom.read(folder)


def test_4_6_equal_slices_under_new_identifiers_are_used_once(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct")

    def again(ds: Dataset, k: int) -> None:
        ds.SOPInstanceUID = f"1.2.3.{k}"

    series(folder, first=100, each=again)
    scan = dicom.read(folder)
    np.testing.assert_array_equal(scan.data[0], phantom())
    assert set(unused(scan).values()) == {"the same slice again, under another UID"}
    assert len(unused(scan)) == 6


def test_4_6_one_slice_of_such_copies_that_differs_is_refused(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct")

    def again(ds: Dataset, k: int) -> None:
        ds.SOPInstanceUID = f"1.2.3.{k}"

    other = phantom()
    other[2, 0, 0] += 1
    series(folder, other, first=100, each=again)
    with pytest.raises(InputError, match="there seem to be 2 volumes, and nothing tells them apart"):
        dicom.read(folder)


def test_slices_that_all_lie_at_one_position_are_called_that(tmp_path: Path) -> None:
    def here(ds: Dataset, k: int) -> None:
        ds.ImagePositionPatient = [0, 0, 0]

    with pytest.raises(InputError, match=r"6 slices, all at (one|the same) position"):
        dicom.read(series(tmp_path / "ct", each=here))

    def nothing_else(ds: Dataset, k: int) -> None:
        ds.ImagePositionPatient, ds.InstanceNumber = [0, 0, 0], 1

    with pytest.raises(InputError, match=r"6 slices, all at one position: not a volume"):
        dicom.read(series(tmp_path / "other", each=nothing_else))


def test_the_list_of_volumes_names_ten_and_how_many_more(tmp_path: Path) -> None:
    for n in range(13):

        def each(ds: Dataset, k: int, n: int = n) -> None:
            ds.SOPInstanceUID, ds.TemporalPositionIdentifier = f"1.2.{n}.{k}", n + 1

        series(tmp_path, phantom() + n, modality="MR", first=100 * n, each=each)
    with pytest.raises(InputError, match="there seem to be 13 volumes") as told:
        dicom.read(tmp_path)
    assert str(told.value.hint).count("--volume") == 10
    assert str(told.value.hint).endswith("; and 3 more, which `segcli info --json` lists")
    done = in_process("info", tmp_path, "--model", organs(tmp_path.parent / "model"), "--json")
    (row,) = json.loads(done.stdout)["series"]
    assert [which["volume"] for which in row["which"]] == list(range(1, 14))
    assert row["which"][12] == {"volume": 13, "what": "temporal position identifier 13", "slices": 6}


# ---- 4.7: several series


def test_4_7_two_series_are_listed_and_one_is_chosen_by_number_or_name(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct")
    series(folder, phantom() + 50, uid="b", SeriesNumber=4, SeriesDescription="thin")
    with pytest.raises(InputError, match=r"2 series could be the volume \(choose one: 3 phantom, 6 slices: .* thin"):
        dicom.read(folder)
    np.testing.assert_array_equal(dicom.read(folder, series="4").data[0], phantom() + 50)
    with pytest.raises(InputError, match=r"ct: no series called 9 \(choose one: 3 phantom"):
        dicom.read(folder, series="9")
    name = dicom.find(folder)[0].name
    assert name.startswith("series-003-")
    scan = dicom.read(folder, series=name)
    np.testing.assert_array_equal(scan.data[0], phantom())
    assert set(unused(scan).values()) == {"another series: not the one chosen"}


def test_4_7_a_series_is_meant_by_its_number_its_name_or_its_uid(tmp_path: Path) -> None:
    (one,) = dicom.find(series(tmp_path / "ct"))
    assert one.number == 3
    assert all(dicom.matches(one, wanted) for wanted in ("3", "003", one.name, one.uid))
    assert not any(dicom.matches(one, wanted) for wanted in ("", "4", "30", "-3", "3.0", "\u00b3", "None", "9" * 5000))
    np.testing.assert_array_equal(dicom.read(tmp_path / "ct", series="003").data[0], phantom())
    with pytest.raises(InputError, match="no series called \u00b3"):
        dicom.read(tmp_path / "ct", series="\u00b3")


def test_4_7_scouts_reports_and_captures_beside_a_volume_are_left_out_and_said(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct")
    scout = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    series(folder, phantom()[:2], affine(((1, 0, 0), (0, 0, -1))), uid="scout", ImageType=scout)
    report = header(0, "report")
    report.SOPClassUID, report.Modality = "1.2.840.10008.5.1.4.1.1.88.33", "SR"
    save(report, folder / "report.dcm")
    capture = header(0, "capture")
    capture.SOPClassUID, capture.Modality = SecondaryCaptureImageStorage, "OT"
    pixels(capture, phantom()[0])
    save(capture, folder / "capture.dcm")
    scan = dicom.read(folder)
    np.testing.assert_array_equal(scan.data[0], phantom())
    reasons = unused(scan)
    assert reasons["report.dcm"] == "another series: a report"
    assert reasons["scout-000.dcm"] == "another series: a scout (localizer)"
    assert reasons["capture.dcm"].startswith("another series: Secondary Capture Image")
    assert "10 files, 6 used, 4 not" in warnings(scan)


def test_slices_in_three_directions_are_a_scout_even_if_not_so_called(tmp_path: Path) -> None:
    folder = series(tmp_path / "mr", modality="MR")
    for n, axes in enumerate((((1, 0, 0), (0, 1, 0)), ((1, 0, 0), (0, 0, -1)), ((0, 1, 0), (0, 0, -1)))):
        series(
            folder,
            phantom()[:2],
            affine(axes),
            uid="x",
            modality="MR",
            first=10 * n,
            each=lambda ds, k, n=n: fresh(ds, 10 * n + k),
        )
    np.testing.assert_array_equal(dicom.read(folder).data[0], phantom())


def test_two_scans_of_different_orientation_under_one_uid_are_two_volumes_and_no_scout(tmp_path: Path) -> None:
    folder = series(tmp_path / "mr", modality="MR")
    coronal = affine(((1, 0, 0), (0, 0, -1)))
    other = phantom((8, 4, 9))
    series(folder, other, coronal, modality="MR", first=10, each=fresh)
    told = "--volume 1: axial slices, 6 slices; --volume 2: coronal slices, 8 slices"
    with pytest.raises(InputError, match="there seem to be 2 volumes") as refused:
        dicom.read(folder)
    assert told in refused.value.hint
    np.testing.assert_array_equal(dicom.read(folder, volume=1).data[0], phantom())
    second = dicom.read(folder, volume=2)
    np.testing.assert_array_equal(second.data[0], other)
    np.testing.assert_allclose(second.grid.affine, coronal, atol=1e-6)


# ---- 4.8, 4.9: values


def test_4_8_each_slice_is_rescaled_by_its_own_values(tmp_path: Path) -> None:
    def rescale(ds: Dataset, k: int) -> None:
        if k % 2:
            pixels(ds, ((phantom()[k] + 1010) * 2), 12, signed=False)
            ds.RescaleSlope, ds.RescaleIntercept = 0.5, -1010

    scan = dicom.read(series(tmp_path / "ct", each=rescale))
    assert scan.data.dtype == np.float32
    np.testing.assert_array_equal(scan.data[0], phantom())


def test_4_8_values_beyond_int16_come_as_float32(tmp_path: Path) -> None:
    scan = dicom.read(series(tmp_path / "ct", RescaleSlope=100))
    assert scan.data.dtype == np.float32
    np.testing.assert_array_equal(scan.data[0], (phantom().astype(float) + 1024) * 100 - 1024)


def test_4_8_ct_without_rescale_is_said(tmp_path: Path) -> None:
    def bare(ds: Dataset, k: int) -> None:
        del ds.RescaleSlope, ds.RescaleIntercept

    scan = dicom.read(series(tmp_path / "ct", each=bare))
    np.testing.assert_array_equal(scan.data[0], phantom() + 1024)
    assert "CT without rescale" in warnings(scan)


@pytest.mark.parametrize("bare", [(3,), (0, 1, 3, 4, 5)])
def test_4_8_slices_without_rescale_among_slices_with_it_are_refused(tmp_path: Path, bare: tuple[int, ...]) -> None:
    def some(ds: Dataset, k: int) -> None:
        if k in bare:
            del ds.RescaleSlope, ds.RescaleIntercept

    with pytest.raises(InputError, match=rf"a-00{bare[0]}.dcm: rescale .* are missing, which {6 - len(bare)} of 6"):
        dicom.read(series(tmp_path / "ct", each=some))


def test_4_8_one_volume_of_a_series_may_be_rescaled_and_the_other_not(tmp_path: Path) -> None:
    folder = two_phases(tmp_path / "mr", AcquisitionNumber=2, RescaleSlope=1, RescaleIntercept=0)
    for file in folder.glob("a-0*"):
        ds = pydicom.dcmread(file)
        del ds.RescaleSlope, ds.RescaleIntercept
        ds.save_as(file)
    np.testing.assert_array_equal(dicom.read(folder, volume=1).data[0], phantom() + 1024)
    np.testing.assert_array_equal(dicom.read(folder, volume=2).data[0], phantom() + 1124)


def test_4_8_monochrome1_and_windows_do_not_change_values(tmp_path: Path) -> None:
    shown = {"PhotometricInterpretation": "MONOCHROME1", "WindowCenter": 40, "WindowWidth": 400}
    scan = dicom.read(series(tmp_path / "ct", **shown))
    np.testing.assert_array_equal(scan.data[0], phantom())


def test_4_9_bits_beyond_those_stored_are_masked(tmp_path: Path) -> None:
    def overlay(ds: Dataset, k: int) -> None:
        ds.PixelData = (np.frombuffer(ds.PixelData, "<u2") | 0xA000).tobytes()

    scan = dicom.read(series(tmp_path / "ct", each=overlay))
    np.testing.assert_array_equal(scan.data[0], phantom())


def test_4_9_the_sign_is_that_of_the_highest_stored_bit(tmp_path: Path) -> None:
    def twelve(ds: Dataset, k: int) -> None:
        pixels(ds, phantom()[k] & 0x0FFF, 12, signed=True)

    scan = dicom.read(series(tmp_path / "mr", modality="MR", each=twelve))
    np.testing.assert_array_equal(scan.data[0], phantom())


def test_4_9_palette_colour_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a colour image"):
        dicom.read(series(tmp_path / "ct", PhotometricInterpretation="PALETTE COLOR"))


def test_4_9_colour_is_refused(tmp_path: Path) -> None:
    def colour(ds: Dataset, k: int) -> None:
        ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
        ds.PixelData = ds.PixelData * 3

    with pytest.raises(InputError, match="a colour image"):
        dicom.read(series(tmp_path / "ct", each=colour))


# ---- 4.12, 4.13 and what is no series


def test_4_13_a_dicomdir_is_ignored_in_a_folder_and_refused_on_its_own(tmp_path: Path) -> None:
    medium = series(tmp_path / "medium")
    index = Dataset()
    index.file_meta = FileMetaDataset()
    index.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    index.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["index"])
    index.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    index.FileSetID, index.DirectoryRecordSequence = "SEGCLI", []
    index.save_as(medium / "DICOMDIR", enforce_file_format=True)
    scan = dicom.read(medium)
    np.testing.assert_array_equal(scan.data[0], phantom())
    assert unused(scan) == {"DICOMDIR": "an index (DICOMDIR)"}
    with pytest.raises(InputError, match=r"DICOMDIR: an index .*give the folder"):
        dicom.read(medium / "DICOMDIR")


def test_one_slice_given_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a-002.dcm: one slice of a series.*give the folder"):
        dicom.read(series(tmp_path / "ct") / "a-002.dcm")


def test_a_folder_without_dicom_is_missing_input(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(InputMissing, match="1 files, but no DICOM"):
        dicom.read(tmp_path)


def test_8_1_nothing_that_is_said_names_the_patient(tmp_path: Path) -> None:
    scan = dicom.read(series(tmp_path / "ct", phantom()[:1]))
    assert scan.source is not None
    said = f"{scan.source.warnings} {scan.source.facts} {scan.source.header}"
    assert "CANARY" not in said
    assert str(dicom.find(tmp_path)[0].uid) not in said


# ---- trees


def test_a_tree_lists_what_could_be_a_volume_and_why_the_rest_is_not(tmp_path: Path) -> None:
    series(tmp_path / PATIENT / "one")
    series(tmp_path / PATIENT / "two", uid="b", SeriesNumber=7, each=lambda ds, k: k != 3)
    series(
        tmp_path / "scout",
        phantom()[:2],
        uid="c",
        SeriesNumber=9,
        ImageType=["DERIVED", "PRIMARY", "LOCALIZER"],
    )
    plain, gap, scout = dicom.find(tmp_path)
    assert (plain.number, plain.modality, plain.description) == (3, "CT", "phantom")
    assert plain.summary == dicom.Summary(6, (("the only one", 6),), (6, 7, 5), (3.0, 2.0, 1.5), None)
    assert gap.reason is None
    assert (gap.summary.frames, gap.summary.volumes) == (5, 1)
    assert "unevenly spaced" in str(gap.summary.problem)
    assert scout.summary.frames == 2
    assert scout.reason == "a scout (localizer)"
    assert "CANARY" not in f"{plain.name} {gap.name} {scout.name} {gap.summary}"
    np.testing.assert_array_equal(dicom.read_series(plain).data[0], phantom())


def test_what_looks_like_dicom_is_told_by_content(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct")
    (tmp_path / "text.dcm").write_text("not DICOM, whatever its name says")
    assert dicom.looks_like(folder)
    assert dicom.looks_like(folder / "a-000.dcm")
    assert not dicom.looks_like(tmp_path / "text.dcm")
    assert not dicom.looks_like(tmp_path / "gone")


def test_7_2_the_same_voxels_as_dicom_and_as_nifti_are_the_same_volume(tmp_path: Path) -> None:
    world = affine(OBLIQUE)
    by_dicom = dicom.read(series(tmp_path / "ct", world=world))
    ras = np.diag([-1, -1, 1, 1]) @ world[:, [2, 1, 0, 3]]  # i, j, k are columns, rows, slices
    nib.save(nib.Nifti1Image(phantom().transpose(2, 1, 0), ras), tmp_path / "ct.nii.gz")
    by_nifti = formats.read([tmp_path / "ct.nii.gz"])
    np.testing.assert_array_equal(by_dicom.data, by_nifti.data)
    assert by_dicom.grid.same_as(by_nifti.grid, tolerance=1e-4)


# ---- one patient, and what is no slice


def test_a_name_is_one_whatever_delimiters_and_padding_end_it(tmp_path: Path) -> None:
    names = ("Test^Flat", "Test^Flat^^", "Test^Flat^^=", " Test^Flat ", "Test^Flat", "Test^Flat")
    scan = dicom.read(series(tmp_path / "ct", each=lambda ds, k: setattr(ds, "PatientName", names[k])))
    assert "spelt" not in warnings(scan)


def test_a_name_spelt_in_two_ways_under_one_number_is_one_patient_with_a_warning(tmp_path: Path) -> None:
    def each(ds: Dataset, k: int) -> None:
        ds.PatientName = "CANARY^Jurgen" if k else "CANARY^Juergen"

    scan = dicom.read(series(tmp_path / "ct", each=each))
    assert "the patient's name is spelt in several ways under one patient ID and one study" in warnings(scan)
    assert "CANARY" not in warnings(scan)


def test_two_names_without_a_patient_s_number_are_two_patients(tmp_path: Path) -> None:
    def each(ds: Dataset, k: int) -> None:
        ds.PatientName, ds.PatientID = ("A", "B")[k % 2], ""

    with pytest.raises(InputError, match="several patients"):
        dicom.read(series(tmp_path / "ct", each=each))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
@pytest.mark.parametrize(
    ("letters", "words"),
    [
        ("ISO_IR 100", "T1 Schädel"),
        ("ISO_IR 144", "Голова"),
        ("ISO_IR 192", "头部 T1"),
        ("GB18030", "头部平扫"),
        (["ISO 2022 IR 6", "ISO 2022 IR 87"], "頭部 T1"),
        (["", "ISO 2022 IR 149"], "두부"),
    ],
)
def test_4_14_a_description_is_read_in_the_letters_that_its_header_names(
    tmp_path: Path, letters: str | list[str], words: str, syntax: str
) -> None:
    folder = series(tmp_path / "ct", SpecificCharacterSet=letters, SeriesDescription=words, syntax=syntax)
    (found,) = dicom.find(folder)
    assert found.description == words
    assert fit(found.files[0], [rules(f"SeriesDescription~={words[:2]}")])
    assert not fit(found.files[0], [rules("SeriesDescription~=Thorax")])


@pytest.mark.parametrize("named", [True, False])
def test_4_7_names_that_differ_in_a_letter_beyond_ASCII_are_two_patients(tmp_path: Path, named: bool) -> None:
    def each(ds: Dataset, k: int) -> None:
        ds.SpecificCharacterSet, ds.PatientName, ds.PatientID = "ISO_IR 100", ("Böhm", "Bühm")[k % 2], ""

    folder = series(tmp_path / "ct", each=each)
    for file in folder.iterdir() if not named else ():
        file.write_bytes(file.read_bytes().replace(b"ISO_IR 100", b"          "))
    with pytest.raises(InputError, match="several patients"):
        dicom.read(folder)


@pytest.mark.parametrize("letters", ["utf-8", "latin-1"])
def test_4_14_a_description_is_read_where_its_header_names_no_letters(tmp_path: Path, letters: str) -> None:
    folder = series(tmp_path / "ct", SpecificCharacterSet="ISO_IR 6", SeriesDescription="Schaedel nativ")
    for file in folder.iterdir():
        word = "Schädel".encode(letters)
        file.write_bytes(file.read_bytes().replace(b"Schaedel nativ", word.ljust(14)))
    (found,) = dicom.find(folder)
    assert found.description == "Schädel"


def test_an_object_of_no_series_is_unused_unless_it_may_be_a_slice(tmp_path: Path) -> None:
    def stray(ds: Dataset, k: int) -> bool:
        ds.SOPInstanceUID, ds.SOPClassUID, ds.Modality = "1.2.3", SecondaryCaptureImageStorage, "OT"
        del ds.SeriesInstanceUID
        return k == 0

    folder = series(tmp_path / "ct")
    series(folder, first=100, each=stray)
    scan = dicom.read(folder)
    np.testing.assert_array_equal(scan.data[0], phantom())
    assert unused(scan) == {"a-100.dcm": "Secondary Capture Image, not a CT, MR or PET image, of no series"}
    assert [s.name for s in dicom.find(folder)] == [scan.source.facts["series"]]  # type: ignore[union-attr, index]

    def lost(ds: Dataset, k: int) -> None:
        if k == 2:
            del ds.SeriesInstanceUID

    with pytest.raises(InputError, match=r"a-002\.dcm: its SeriesInstanceUID or SOPClassUID is missing: it cannot be"):
        dicom.read(series(tmp_path / "lost", each=lost))


# ---- 4.3: positions that were rounded


def rounded(step: float, shift: float = 0.0, **moved: float) -> Callable[[Dataset, int], None]:
    """Positions at an oblique angle, rounded to a step and shifted afterwards; `moved` by so many mm, s3=0.2."""
    normal = np.array([0.0, -0.134158, 0.990960])

    def each(ds: Dataset, k: int) -> None:
        place = np.round((np.array([-110.5, -78.3, -72.8]) + normal * 6.97 * k) / step) * step
        place[2] += moved.get(f"s{k}", 0.0) + shift
        ds.ImagePositionPatient = [f"{v:.6g}" for v in place]
        ds.ImageOrientationPatient = [1, 0, 0, 0, 0.990960, 0.134158]

    return each


def test_4_3_positions_that_were_rounded_to_a_tenth_of_a_mm_make_a_volume_with_a_warning(tmp_path: Path) -> None:
    hu = phantom((20, 7, 5))
    scan = dicom.read(series(tmp_path / "mr", hu, each=rounded(0.1, shift=0.0425), modality="MR"))
    np.testing.assert_array_equal(scan.data[0], hu)
    assert scan.grid.spacing[0] == pytest.approx(6.97, abs=0.005)
    assert re.search(r"slice positions are rounded: they lie up to 0\.0\d+ mm off an even line", warnings(scan))
    exact = dicom.read(series(tmp_path / "exact", hu, each=rounded(1e-6), modality="MR"))
    assert "rounded" not in warnings(exact)
    assert np.abs(scan.grid.world([[0, 0, 0], [19, 0, 0]]) - exact.grid.world([[0, 0, 0], [19, 0, 0]])).max() < 0.1


@pytest.mark.parametrize(
    ("how", "told", "hint"),
    [
        (rounded(0.1, s7=0.3), "uneven positions, or their positions are wrong", "--fill-gaps cannot help"),
        (rounded(1e-6, s7=0.3), "uneven positions, or their positions are wrong", "--fill-gaps cannot help"),
        (rounded(1.0), "uneven positions, or their positions are wrong", "--fill-gaps cannot help"),  # 7 % of a step
        (rounded(0.1), "a slice is missing", "--fill-gaps interpolates"),
    ],
)
def test_4_3_what_rounding_does_not_explain_is_refused_for_its_cause(
    tmp_path: Path, how: Callable[[Dataset, int], None], told: str, hint: str
) -> None:
    lost = 9 if "missing" in told else -1

    def each(ds: Dataset, k: int) -> bool:
        how(ds, k)
        return k != lost

    folder = series(tmp_path / "mr", phantom((20, 7, 5)), each=each, modality="MR")
    with pytest.raises(InputError, match=told) as refused:
        dicom.read(folder)
    assert hint in str(refused.value.hint)
    if lost >= 0:
        assert dicom.read(folder, fill_gaps=True).grid.shape[0] == 20


def test_acquisitions_that_lie_between_each_other_are_said(tmp_path: Path) -> None:
    def each(ds: Dataset, k: int) -> None:
        ds.AcquisitionNumber = 1 + k % 2

    scan = dicom.read(series(tmp_path / "mr", each=each, modality="MR"))
    assert "its slices are of 2 acquisitions that lie between each other" in warnings(scan)
    assert "acquisitions" not in warnings(dicom.read(series(tmp_path / "one", modality="MR")))
