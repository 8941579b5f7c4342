"""Grid and Volume: hand-worked positions, axes codes, crops."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segcli.space.volume import AXES_CODES, Grid, Volume, among, extent, turned, widened

AXIAL = Grid(
    (3, 4, 5),
    np.array([[0, 0, 0.5, 10.0], [0, 1.0, 0, 20.0], [2.0, 0, 0, 30.0], [0, 0, 0, 1]]),
)


def test_a_plain_axial_read_points_to_superior_posterior_left() -> None:
    assert AXIAL.axes == "SPL"
    assert AXIAL.spacing == (2.0, 1.0, 0.5)
    assert AXIAL.voxel_mm3 == pytest.approx(1.0)


def test_a_voxel_index_becomes_the_millimetres_worked_out_by_hand() -> None:
    assert AXIAL.world([1, 2, 4]) == pytest.approx([12.0, 22.0, 32.0])
    assert AXIAL.index([12.0, 22.0, 32.0]) == pytest.approx([1, 2, 4])


def test_a_crop_stays_in_place() -> None:
    volume = Volume(np.arange(60).reshape(1, 3, 4, 5), AXIAL)
    part = volume.crop((slice(1, 3), slice(2, 4), slice(3, 5)))
    assert part.data[0, 0, 0, 0] == volume.data[0, 1, 2, 3]
    assert part.grid.world([0, 0, 0]) == pytest.approx(AXIAL.world([1, 2, 3]))


def test_a_box_outside_the_volume_is_refused() -> None:
    with pytest.raises(ValueError, match="not inside"):
        Volume(np.zeros((1, 3, 4, 5)), AXIAL).crop((slice(0, 4), slice(0, 4), slice(0, 5)))


def test_an_axis_at_forty_five_degrees_does_not_take_its_neighbours_letter() -> None:
    c = np.cos(np.pi / 4)
    grid = Grid((2, 2, 2), np.array([[c, c, 0, 0], [c, -c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
    assert sorted("LP".find(a) >= 0 or "RA".find(a) >= 0 for a in grid.axes) == [False, True, True]


def test_sheared_voxels_have_the_volume_of_the_determinant() -> None:
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    affine[0, 1] = 1.0
    grid = Grid((2, 2, 2), affine)
    assert grid.sheared
    assert grid.voxel_mm3 == pytest.approx(24.0)


@pytest.mark.parametrize("affine", [np.zeros((4, 4)), np.diag([1, 1, 0, 1]), np.full((4, 4), np.nan)])
def test_what_is_no_affine_is_refused(affine: np.ndarray) -> None:
    with pytest.raises(ValueError, match="affine"):
        Grid((1, 1, 1), affine)


@given(code=st.sampled_from(AXES_CODES), back=st.sampled_from(AXES_CODES))
def test_turning_keeps_every_corner_in_the_patient(code: str, back: str) -> None:
    grid = turned(turned(AXIAL, code), back)
    assert grid.axes == back
    assert sorted(map(tuple, np.round(grid.corners(), 9))) == sorted(map(tuple, np.round(AXIAL.corners(), 9)))


def test_equal_grids_are_the_same_and_a_shift_of_a_hundredth_of_a_voxel_is_not() -> None:
    affine = AXIAL.affine.copy()
    affine[0, 3] += 0.005
    assert AXIAL.same_as(Grid(AXIAL.shape, AXIAL.affine))
    assert not AXIAL.same_as(Grid(AXIAL.shape, affine))


def test_grids_of_one_slice_are_the_same_only_with_the_same_thickness() -> None:
    thicker = np.diag([2.0, 1, 1, 1])
    assert Grid((1, 4, 5), thicker).same_as(Grid((1, 4, 5), thicker))
    assert not Grid((1, 4, 5), thicker).same_as(Grid((1, 4, 5), np.eye(4)))


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16, np.int32])
@pytest.mark.parametrize("values", [[], [0], [3, 200], [200, 70_000, -1]])
def test_labels_are_among_values_as_numpy_says(kind: type[np.integer], values: list[int]) -> None:
    labels = np.random.default_rng(0).choice([0, 1, 3, 127], (3, 4, 5)).astype(kind)
    if kind != np.uint8:
        labels[0, 0, 0] = 200
    if np.issubdtype(kind, np.signedinteger):
        labels[0, 0, 1] = -1
    np.testing.assert_array_equal(among(labels, values), np.isin(labels, values))


def test_to_look_for_labels_takes_a_byte_a_voxel() -> None:
    labels = np.random.default_rng(0).integers(0, 60, (64, 64, 64)).astype(np.uint8)
    tracemalloc.start()
    among(labels, [0, 3, 40])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * labels.size


def test_the_extent_of_voxels_has_all_that_are_not_0_and_a_wider_box_ends_with_the_grid() -> None:
    voxels = np.zeros((5, 6, 7), np.uint8)
    assert extent(voxels) is None
    voxels[1, 2, 6] = voxels[3, 2, 4] = 9
    box = slice(1, 4), slice(2, 3), slice(4, 7)
    assert extent(voxels) == extent(voxels > 0) == box
    assert widened(box, [2, 1, 3], voxels.shape) == (slice(0, 5), slice(1, 4), slice(1, 7))
