"""The grid a model wants, worked out by hand for each anchor."""

from typing import Literal, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import expm
from shapes import grid

from segcli.space.grids import Anchor, GridSpec, model_grid, straightened
from segcli.space.resample import Interpolation, onto
from segcli.space.volume import AXES_CODES, Grid, Volume, turned


def faces(g, axis):
    """World positions of the outer faces along an array axis."""
    lead = [0.0, 0.0, 0.0]
    low, high = lead.copy(), lead.copy()
    low[axis], high[axis] = -0.5, g.shape[axis] - 0.5
    return g.world(low), g.world(high)


def test_edges_keep_the_outer_faces_and_stretch_the_step() -> None:
    scan = grid((10, 10, 10), (3.0, 1.0, 1.0))
    wanted = model_grid(scan, GridSpec(None, (2.0, 2.0, 2.0), "edges"))
    assert wanted.shape == (15, 5, 5)
    for axis in range(3):
        for a, b in zip(faces(scan, axis), faces(wanted, axis), strict=True):
            assert a[axis if axis == 1 else 2 - axis] == pytest.approx(b[axis if axis == 1 else 2 - axis])


def test_edges_never_round_an_axis_to_nothing() -> None:
    assert model_grid(grid((1, 8, 8), (1, 1, 1)), GridSpec(None, (5.0, 1.0, 1.0))).shape == (1, 8, 8)


def test_oriented_keeps_the_first_voxel_after_turning() -> None:
    scan = grid((10, 11, 12), (3.0, 1.0, 1.0))
    wanted = model_grid(scan, GridSpec("RAS", (1.5, 1.5, 2.0), "oriented"))
    assert wanted.axes == "RAS"
    assert wanted.spacing == pytest.approx((1.5, 1.5, 2.0))
    assert wanted.world([0, 0, 0]) == pytest.approx(turned(scan, "RAS").world([0, 0, 0]))
    # 12 voxels of 1 mm: (12 - 1) / 1.5 + 1 = 8.33; 11: 7.67; 10 of 3 mm: 27 / 2 + 1 = 14.5, half to even
    assert wanted.shape == (8, 8, 14)


def test_stored_reads_the_spacing_along_the_files_own_axes() -> None:
    scan = grid((10, 11, 12), (3.0, 1.0, 1.0))  # i = W points left, k = D up
    wanted = model_grid(turned(scan, "LPS"), GridSpec("RAS", (1.5, 1.5, 2.0), "stored"))
    # the file's k is the patient's left here, so 2 mm goes there
    assert wanted.axes == "RAS"
    assert wanted.spacing == pytest.approx((2.0, 1.5, 1.5))


def test_monai_keeps_the_first_voxel_of_an_upright_scan() -> None:
    scan = grid((10, 11, 12), (3.0, 1.0, 1.0))
    for ours, theirs in (("oriented", "monai"), ("stored", "monai_stored")):
        specs = [GridSpec("RAS", (1.5, 1.5, 2.0), anchor) for anchor in (ours, theirs)]  # type: ignore[arg-type]
        one, other = (model_grid(scan, spec) for spec in specs)
        assert one.shape == other.shape
        np.testing.assert_allclose(one.affine, other.affine, atol=1e-9)


def test_monai_keeps_the_middle_where_rounding_leaves_no_corner_first() -> None:
    c, s = np.cos(0.3), np.sin(0.3)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ np.diag([1.0, 1.0, 3.0])
    affine[0, 1] -= 1e-7  # as a file in float32 has it; it tilts the second axis towards the first
    scan = Grid((12, 11, 10), affine)
    wanted = model_grid(scan, GridSpec(None, (1.5, 1.5, 2.0), "monai"))
    assert wanted.shape == (8, 8, 14)
    np.testing.assert_allclose(wanted.world([4, 4, 7]), scan.world([6, 5.5, 5]), atol=1e-6)  # the middles n/2


def test_monai_leaves_a_step_alone_that_is_within_a_micrometre() -> None:
    scan = grid((10, 11, 12), (3.0, 1.0004, 1.0))
    assert model_grid(scan, GridSpec("LPS", (1.0, 1.0, 3.0), "monai")).spacing == pytest.approx((1.0, 1.0004, 3.0))


@pytest.mark.slow
@pytest.mark.parametrize("anchor", ["monai", "monai_stored"])
def test_grids_of_oblique_scans_are_those_of_monais_spacing(anchor: Literal["monai", "monai_stored"]) -> None:
    transforms = pytest.importorskip("monai.transforms")
    metatensor = pytest.importorskip("monai.data").MetaTensor
    rng = np.random.default_rng(3)
    for _ in range(20):
        x, y, z = rng.uniform(-0.3, 0.3, 3)
        turn = expm([[0, -z, y], [z, 0, -x], [-y, x, 0]])[:, rng.permutation(3)] * rng.choice([-1, 1], 3)
        ras = np.eye(4)
        ras[:3, :3] = (turn * rng.uniform(0.5, 4, 3)).astype(np.float32)
        ras[:3, 3] = rng.normal(size=3) * 50
        shape = [int(n) for n in rng.integers(5, 30, 3)]  # i, j, k
        image = metatensor(np.zeros((1, *shape)), affine=ras)
        steps = [transforms.Orientation("RAS", labels=None), transforms.Spacing((1.5, 1.2, 2.0))]
        for step in steps if anchor == "monai" else steps[::-1]:
            image = step(image)
        lps = np.diag([-1.0, -1, 1, 1])
        scan = Grid((shape[2], shape[1], shape[0]), (lps @ ras)[:, [2, 1, 0, 3]])
        ours = model_grid(scan, GridSpec("RAS", (1.5, 1.2, 2.0), anchor))
        assert ours.shape == tuple(image.shape[1:])
        np.testing.assert_allclose(lps @ ours.affine, image.affine.numpy(), atol=1e-5)


def test_within_has_no_sample_beyond_the_last_voxel() -> None:
    scan = grid((256, 10, 10), (1.0, 1.0, 1.0))
    wanted = model_grid(scan, GridSpec("SPL", (2.0, 2.0, 2.0), "within"))
    assert wanted.shape == (128, 5, 5)


def test_a_transpose_reorders_the_files_axes() -> None:
    scan = grid((10, 11, 12), (3.0, 1.0, 2.0))
    assert model_grid(scan, GridSpec(transpose=(2, 0, 1))).shape == (12, 10, 11)


@given(code=st.sampled_from(AXES_CODES))
def test_a_turned_scan_gives_the_same_model_grid(code: str) -> None:
    scan = grid((9, 10, 11), (2.0, 1.0, 1.5), (10, -20, 5))
    spec = GridSpec("RAS", (1.7, 1.7, 1.7), "edges")
    assert model_grid(turned(scan, code), spec).same_as(model_grid(scan, spec))


def test_a_sheared_scan_gets_a_right_angled_grid_around_all_of_it() -> None:
    scan = grid((10, 12, 14), (5.0, 1.0, 1.0), shear=0.25)
    straight = straightened(scan)
    assert scan.sheared
    assert not straight.sheared
    inside = straight.index(scan.corners())
    assert (inside > -0.51).all()
    assert (inside < np.array(straight.shape) - 0.49).all()
    assert straight.spacing[0] == pytest.approx(5.0)  # along the normal, not along the slope


@pytest.mark.parametrize("shear", [0.0, 9e-4, 1.1e-3, 2e-3, 5e-3, 1e-2, 0.05, 0.25])
@pytest.mark.parametrize("code", ["SPL", "RAS", "LIA"])
def test_the_right_angled_grid_is_as_near_to_the_scan_s_as_the_scan_is_to_being_right_angled(
    shear: float, code: str
) -> None:
    scan = turned(grid((36, 44, 40), (3.0, 3.0, 3.0), (5, -7, 9), shear=shear), code)
    straight = straightened(scan)
    more = np.array(straight.shape) - scan.shape
    assert (more % 2 == 0).all()  # as many at both ends
    apart = straight.index(scan.corners()) - scan.index(scan.corners()) - more / 2
    assert np.abs(apart).max() <= 1.1 * shear * 44 / 2 + 1e-9


def test_a_grid_that_is_nearly_right_angled_has_as_many_voxels_as_the_scan() -> None:
    for shear in (1e-3, 1.1e-3, 1e-2, 0.02):
        assert straightened(grid((40, 44, 36), (3.0, 3.0, 3.0), shear=shear)).shape == (40, 44, 36)


@pytest.mark.parametrize("anchor", get_args(Anchor))
def test_a_scan_of_one_slice_lies_between_its_faces_on_a_finer_grid(anchor: Anchor) -> None:
    """Its two outermost voxel centres are one, and no step lies between them."""
    scan = Grid((1, 6, 5), np.diag([9.0, 2.0, 2.0, 1.0]))
    grid = model_grid(scan, GridSpec(None, (2.0, 2.0, 2.0), anchor))
    if anchor in ("edges", "corners"):
        assert (grid.shape[0], grid.spacing[0]) == (4, 2.25)
        np.testing.assert_allclose(faces(grid, 0), faces(scan, 0), atol=1e-9)
    shown = onto(Volume(np.full((1, *scan.shape), 7, np.float32), scan), grid, Interpolation())
    assert (shown.data == 7).all()


@pytest.mark.parametrize("anchor", get_args(Anchor))
def test_steps_that_are_null_on_each_axis_are_no_spacing(anchor: Anchor) -> None:
    scan = Grid((4, 6, 5), np.array([[0, 2.0, 0.1, 3], [0.5, 0, 2, 4], [3, 0, 0, 5], [0, 0, 0, 1]]))
    for axes in (None, "RAS"):
        one, other = (model_grid(scan, GridSpec(axes, spacing, anchor)) for spacing in (None, (None, None, None)))
        assert one.shape == other.shape
        np.testing.assert_allclose(one.affine, other.affine, atol=1e-9)
