"""Contours along the edges of voxels, in the patient's millimetres."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_phantom import OBLIQUE, affine, enhanced, phantom, series
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from segcli.errors import OutputError
from segcli.formats.dicom import rtstruct
from segcli.formats.dicom import series as dicom
from segcli.space.volume import Volume
from segcli.structures import Label

NAMES = (Label(0, "background"), Label(1, "ring", "SCT 10200004", (1, 2, 3)), Label(7, "dot", "SCT 78961009"))
MADE = {"algorithm": "uxnet", "version": "ab" * 32}


def mask(*rows: str) -> NDArray[np.bool_]:
    return np.array([[c == "#" for c in row] for row in rows])


def area(loop: list[tuple[int, int]]) -> float:
    """By the shoelace formula, in voxels."""
    r, c = np.array(loop).T
    return float(np.sum(c * np.roll(r, -1) - r * np.roll(c, -1))) / 2


def test_one_voxel_has_four_corners() -> None:
    assert rtstruct.contours(mask("..", ".#")) == [[(1, 1), (1, 2), (2, 2), (2, 1)]]


def test_straight_edges_have_no_points_between_their_ends() -> None:
    (loop,) = rtstruct.contours(mask("####", "####"))
    assert len(loop) == 4
    assert area(loop) == 8


def test_voxels_that_touch_at_a_corner_are_two_contours() -> None:
    loops = rtstruct.contours(mask("#.", ".#"))
    assert [area(loop) for loop in loops] == [1, 1]


def test_a_hole_is_joined_by_a_channel_and_the_area_is_that_of_the_voxels() -> None:
    (loop,) = rtstruct.contours(mask("####", "#..#", "####"))
    assert area(loop) == 10
    assert len(loop) == 4 + 4 + 2  # outer corners, inner corners, the door and the way back


def test_two_holes_in_a_row_share_one_contour() -> None:
    (loop,) = rtstruct.contours(mask("#####", "#.#.#", "#####"))
    assert area(loop) == 13


def test_an_island_in_a_hole_is_a_contour_of_its_own() -> None:
    loops = rtstruct.contours(mask("#####", "#...#", "#.#.#", "#...#", "#####"))
    assert sorted(area(loop) for loop in loops) == [1, 16]


@settings(max_examples=200, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_any_mask_is_what_its_contours_hold(voxels: NDArray[np.bool_]) -> None:
    found = np.zeros_like(voxels)
    for loop in rtstruct.contours(voxels):
        found ^= rtstruct.inside(np.array(loop) - 0.5, voxels.shape)
    np.testing.assert_array_equal(found, voxels)
    assert sum(map(area, rtstruct.contours(voxels))) == voxels.sum()


@settings(max_examples=200, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
@example(mask("####", "##.#", "#.##", "####"))  # holes that meet at a corner, where a loop begins and passes again
def test_points_of_contours_are_rounded_to_voxels_of_the_structure(voxels: NDArray[np.bool_]) -> None:
    """Readers that round (rt-utils, platipy) shift contours on the edges themselves by a voxel, or leave the image."""
    found = np.zeros_like(voxels)
    for loop in rtstruct.contours(voxels):
        points = rtstruct.within(loop) - 0.5
        found ^= rtstruct.inside(points, voxels.shape)
        rows, columns = points.round().astype(int).T
        assert voxels[rows, columns].all()
        assert area(points) == pytest.approx(area(loop), rel=0.01)
    np.testing.assert_array_equal(found, voxels)


def test_a_triangle_holds_the_centres_inside_it() -> None:
    found = rtstruct.inside(np.array([[-0.5, -0.5], [3.5, -0.5], [3.5, 3.5]]), (4, 4))
    np.testing.assert_array_equal(found, np.tril(np.ones((4, 4), bool), -1) | np.eye(4, dtype=bool) & False)


def labelled(scan: Volume) -> Volume:
    data = np.zeros(scan.data.shape, np.uint8)
    data[0, 2, 1:6, 1:5] = 1
    data[0, 2, 3, 2:4] = 0
    data[0, 4, 6, 0] = 7
    return Volume(data, scan.grid)


def test_a_contour_lies_on_its_slice_around_its_voxel(tmp_path: Path) -> None:
    """The voxel at slice 4, row 6, column 0: centre (-10, -20 + 6 * 2, -30 + 4 * 3) mm, 1.5 mm wide, 2 mm high."""
    scan = dicom.read(series(tmp_path / "scan"))
    rtstruct.write(labelled(scan), NAMES, tmp_path / "rt.dcm", scan.source, **MADE)
    ds = pydicom.dcmread(tmp_path / "rt.dcm")
    (contour,) = ds.ROIContourSequence[1].ContourSequence
    points = np.array(contour.ContourData, float).reshape(-1, 3)
    np.testing.assert_allclose(points.min(axis=0), [-10.75, -9, -18], atol=0.005)
    np.testing.assert_allclose(points.max(axis=0), [-9.25, -7, -18], atol=0.005)
    assert scan.source is not None
    source = pydicom.dcmread(scan.source.paths[4])
    assert contour.ContourImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert (ds.ROIContourSequence[1].ReferencedROINumber, ds.StructureSetROISequence[1].ROIName) == (7, "dot")
    assert list(ds.ROIContourSequence[0].ROIDisplayColor) == [1, 2, 3]


@pytest.mark.parametrize("kind", ["oblique", "tilted", "enhanced"])
def test_the_voxels_inside_the_contours_are_the_labels(tmp_path: Path, kind: str) -> None:
    world = affine(OBLIQUE, tilt=0.7 if kind == "tilted" else 0)
    if kind == "enhanced":
        scan = dicom.read(enhanced(tmp_path / "mr.dcm", phantom(), world, order=[3, 0, 5, 1, 4, 2]))
    else:
        scan = dicom.read(series(tmp_path / "scan", world=world))
    labels = labelled(scan)
    rtstruct.write(labels, NAMES, tmp_path / "rt.dcm", scan.source, **MADE)
    found = dict(rtstruct.read(tmp_path / "rt.dcm", scan.grid))
    np.testing.assert_array_equal(found[1], labels.data[0] == 1)
    np.testing.assert_array_equal(found[7], labels.data[0] == 7)


def test_a_contour_whose_numbers_exceed_64_kilobytes_is_written_whole(tmp_path: Path) -> None:
    """A plate of 70 x 70 voxels with 1,156 holes is one contour through all of them: over 7,000 points."""
    hu = np.zeros((3, 72, 72), np.int16)
    scan = dicom.read(series(tmp_path / "scan", hu))
    data = np.zeros(scan.data.shape, np.uint8)
    data[0, 1, 1:71, 1:71] = 1
    data[0, 1, 2:70:2, 2:70:2] = 0
    rtstruct.write(Volume(data, scan.grid), NAMES, tmp_path / "rt.dcm", scan.source, **MADE)
    found = dict(rtstruct.read(tmp_path / "rt.dcm", scan.grid))
    np.testing.assert_array_equal(found[1], data[0] == 1)
    (contour,) = pydicom.dcmread(tmp_path / "rt.dcm").ROIContourSequence[0].ContourSequence
    assert len(contour.get_item("ContourData").value) > 1 << 16


def test_6_6_the_same_labels_give_the_same_bytes(tmp_path: Path) -> None:
    scan = dicom.read(series(tmp_path / "scan"))
    for name in ("a.dcm", "b.dcm"):
        rtstruct.write(labelled(scan), NAMES, tmp_path / name, scan.source, **MADE)
    assert (tmp_path / "a.dcm").read_bytes() == (tmp_path / "b.dcm").read_bytes()


def test_2_1_contours_that_read_back_otherwise_do_not_get_their_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = dicom.read(series(tmp_path / "scan"))
    monkeypatch.setattr(rtstruct, "inside", lambda corners, shape: np.zeros(shape, bool))
    with pytest.raises(OutputError, match="ring as read back differs"):
        rtstruct.write(labelled(scan), NAMES, tmp_path / "rt.dcm", scan.source, **MADE)
    assert [p.name for p in tmp_path.iterdir()] == ["scan"]


def test_7_5_a_label_without_a_name_is_not_left_out_in_silence(tmp_path: Path) -> None:
    scan = dicom.read(series(tmp_path / "scan"))
    with pytest.raises(ValueError, match="not in the label table"):
        rtstruct.write(labelled(scan), NAMES[:2], tmp_path / "rt.dcm", scan.source, **MADE)
