"""Voxels move onto other grids without losing their place."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates
from shapes import grid

from segcli.space.grids import GridSpec, model_grid, straightened
from segcli.space.resample import Interpolation, apply, axis_rules, onto, positions, taps_for
from segcli.space.volume import AXES_CODES, Grid, Volume, turned


def ramp(on: Grid) -> Volume:
    """A linear function of world position: linear interpolation gives it back exactly."""
    world = on.world(np.stack(np.indices(on.shape), -1))
    return Volume((world @ [1.0, 2.0, -0.5])[None].astype(np.float32), on)


@given(code=st.sampled_from(AXES_CODES))
def test_turning_is_a_copy_that_keeps_every_voxel_in_the_patient(code: str) -> None:
    scan = Volume(np.arange(3 * 4 * 5, dtype=np.int16).reshape(1, 3, 4, 5), grid((3, 4, 5), (2, 1, 3), (7, 0, 30)))
    there = onto(scan, turned(scan.grid, code))
    assert there.data.dtype == np.int16
    assert np.array_equal(onto(there, scan.grid).data, scan.data)
    spot = np.unravel_index(np.argmax(there.data[0]), there.grid.shape)
    assert there.grid.world(spot) == pytest.approx(scan.grid.world([2, 3, 4]))


@settings(deadline=None, max_examples=20)
@given(
    code=st.sampled_from(AXES_CODES),
    tilt=st.floats(-40, 40),
    shear=st.sampled_from([0.0, 0.3]),
    spacing=st.tuples(*[st.floats(0.7, 3)] * 3),
)
def test_a_ramp_stays_a_ramp_on_any_grid(code: str, tilt: float, shear: float, spacing: tuple) -> None:
    scan = ramp(turned(grid((18, 20, 16), (2.0, 1.5, 1.0), (tilt, 5, -tilt), shear), code))
    wanted = grid((9, 8, 7), spacing, (3, tilt, 0))
    got, expected = onto(scan, wanted).data[0], ramp(wanted).data[0]
    index = scan.grid.index(wanted.world(np.stack(np.indices(wanted.shape), -1)))
    inside = ((index >= 0) & (index <= np.array(scan.grid.shape) - 1)).all(-1)
    assert np.abs(got - expected)[inside].max(initial=0) < 1e-3


def test_beyond_the_edge_the_border_voxel_is_repeated() -> None:
    scan = Volume(np.array([5.0, 7.0], np.float32).reshape(1, 2, 1, 1), Grid((2, 1, 1), np.eye(4)))
    wider = Grid((4, 1, 1), np.array([[1, 0, 0, -1.0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    assert onto(scan, wider).data.ravel().tolist() == [5, 5, 7, 7]
    tilted = Grid((4, 1, 1), np.array([[1, 0.01, 0, -1.0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    assert onto(scan, tilted).data.ravel() == pytest.approx([5, 5, 7, 7])


def test_nearest_invents_no_label() -> None:
    rng = np.random.default_rng(0)
    labels = Volume(rng.choice([0, 3, 900], (1, 8, 8, 8)).astype(np.uint16), grid((8, 8, 8)))
    got = onto(labels, grid((11, 7, 5), (1.3, 2.2, 3.1), (12, 0, 4)), Interpolation("nearest"))
    assert got.data.dtype == np.uint16
    assert set(np.unique(got.data)) <= {0, 3, 900}


def test_nearest_keeps_numbers_that_float32_does_not_hold() -> None:
    ids = np.array([16777217, 312782547, 614454277], np.int32).reshape(1, 3, 1, 1)  # as in Allen's atlas
    half = np.diag([0.5, 1, 1, 1])
    half[0, 3] = -0.25
    moved = onto(Volume(ids, Grid((3, 1, 1), np.eye(4))), Grid((6, 1, 1), half), Interpolation("nearest"))
    assert moved.data.dtype == np.int32
    assert moved.data.ravel().tolist() == np.repeat(ids, 2).tolist()


def test_a_part_gets_the_very_values_that_the_whole_would_get() -> None:
    rng = np.random.default_rng(1)
    scan = Volume(rng.normal(size=(1, 12, 13, 14)).astype(np.float32), grid((12, 13, 14)))
    wanted = grid((30, 31, 29), (0.7, 0.6, 0.9))
    box = (slice(7, 19), slice(3, 30), slice(11, 12))
    whole = onto(scan, wanted).data[(slice(None), *box)]
    assert np.abs(whole - onto(scan, wanted.crop(box)).data).max() < 1e-6


def test_cubic_agrees_with_scipys_zoom_that_nnunet_uses() -> None:
    from scipy.ndimage import zoom

    rng = np.random.default_rng(2)
    data = rng.normal(size=(10, 12, 9)).astype(np.float32)
    scan = Volume(data[None], Grid((10, 12, 9), np.diag([2.0, 1.0, 1.0, 1.0])))
    ratio = np.array([20 / 10, 9 / 12, 13 / 9])
    expected = zoom(data.astype(np.float64), ratio, order=3, mode="nearest", grid_mode=True)
    step = np.array(data.shape) / np.array(expected.shape)
    affine = np.diag([*(step * [2.0, 1.0, 1.0]), 1.0])
    affine[:3, 3] = (step / 2 - 0.5) * [2.0, 1.0, 1.0]
    got = onto(scan, Grid(expected.shape, affine), Interpolation("cubic")).data[0]
    assert np.abs(got - expected).max() < 1e-4


@pytest.mark.parametrize("code", ["SPL", "LAI", "RPS"])
def test_a_mean_of_areas_is_torchs_adaptive_pooling_along_axes_that_run_either_way(code: str) -> None:
    torch = pytest.importorskip("torch")
    scan = grid((9, 14, 11), (4.5, 1.3, 2.7))
    wanted = model_grid(scan, GridSpec(code, shape=(7, 13, 20)))
    data = np.random.default_rng(1).normal(size=(1, *scan.shape)).astype(np.float32)
    turned_data = onto(Volume(data, scan), turned(scan, code)).data
    expected = torch.nn.functional.adaptive_avg_pool3d(torch.as_tensor(turned_data), (7, 13, 20)).numpy()
    np.testing.assert_allclose(onto(Volume(data, scan), wanted, Interpolation("area")).data, expected, atol=1e-6)
    outer = [turned(scan, code).world([-0.5] * 3), wanted.world([-0.5] * 3)]
    np.testing.assert_allclose(*outer, atol=1e-9)


def test_a_coarse_axis_is_sampled_by_the_nearest_slice() -> None:
    data = np.arange(4, dtype=np.float32).reshape(1, 4, 1, 1) * np.ones((1, 4, 6, 6), np.float32)
    scan = Volume(data, Grid((4, 6, 6), np.diag([5.0, 1.0, 1.0, 1.0])))
    wanted = Grid((8, 6, 6), np.array([[2.5, 0, 0, -1.25], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
    got = onto(scan, wanted, Interpolation("cubic", coarse=3.0)).data[0, :, 0, 0]
    assert got.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_smoothing_is_a_normalised_gaussian_cut_at_three_sigma() -> None:
    taps = taps_for(np.array([10.0]), 21, sigma=1.0)
    kernel = np.exp(-0.5 * np.arange(-3, 4) ** 2)
    kernel /= kernel.sum()
    spike = np.zeros((21, 1, 1), np.float32)
    for offset, weight in zip(range(-3, 4), kernel, strict=True):
        spike[:] = 0
        spike[10 + offset] = 1
        assert apply(spike, taps, 0)[0, 0, 0] == pytest.approx(weight, abs=1e-6)


@pytest.mark.parametrize("shear", [1.1e-3, 2e-3, 5e-3, 1e-2])
def test_a_scan_whose_axes_are_nearly_right_angled_changes_by_as_little_as_its_shear(shear: float) -> None:
    data = np.zeros((1, 20, 24, 28), np.float32)
    data[:, 5:15, 6:18, 7:21] = 1
    scan = Volume(data, grid((20, 24, 28), (3.0, 3.0, 3.0), shear=shear))
    assert scan.grid.sheared
    moved = onto(scan, straightened(scan.grid))
    assert moved.data.shape == data.shape
    assert np.abs(moved.data - data).max() <= 1.1 * shear * 28 / 2  # edges of height 1, moved by so many voxels


def axis_of(have: float, want: float, n: int) -> tuple[int, float, float]:
    """Voxels along the coarse axis of a model's grid; where its first lies in the scan, and its step, in voxels."""
    affine = np.eye(4)
    affine[:3, :3] = np.diag([have, 0.9, 0.9]).astype(np.float32)
    affine[:3, 3] = [-71.3, -101.7, 33.3]
    scan = Grid((n, 60, 60), affine)
    wanted = model_grid(scan, GridSpec(None, (want, 0.9, 0.9), "edges"))
    matrix = wanted.to(scan)
    return wanted.shape[0], float(matrix[0, 3]), float(matrix[0, 0])


@pytest.mark.parametrize("want", [3.0, 4.0, 5.0, 6.0, 7.5])
def test_a_sample_half_way_between_two_slices_is_the_one_that_the_original_takes(want: float) -> None:
    ties = 0
    for have in (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 3.75):
        for n in range(20, 140, 7):
            m, start, step = axis_of(have, want, n)
            theirs = n / m * (np.arange(m) + 0.5) - 0.5  # nnU-Net, resample_data_or_seg
            ours = positions(start, step, m, "nearest")
            taken = map_coordinates(np.arange(n, dtype=float), [theirs], order=0, mode="nearest").astype(int)
            assert taps_for(ours, n, "nearest").index[0].tolist() == taken.tolist(), (have, n)
            ties += int((np.abs(theirs % 1 - 0.5) < 1e-9).sum())
            back = m / n * (np.arange(n) + 0.5) - 0.5
            assert np.array_equal(positions((1 / step - 1) / 2, 1 / step, n, "nearest"), back)
    assert ties > 50


def test_half_way_is_the_upper_slice_also_in_a_part_of_the_grid() -> None:
    # 24 slices become 12: the samples lie at 0.5, 2.5, ..., each of them half-way
    whole = positions(0.5 - 1e-15, 2.0 + 1e-15, 12, "nearest")
    assert whole.tolist() == [0.5 + 2 * i for i in range(12)]
    assert taps_for(whole, 24, "nearest").index[0].tolist() == [1 + 2 * i for i in range(12)]
    part = positions(8.5 - 2e-15, 2.0 + 1e-15, 8, "nearest")  # without the first four samples
    assert part.tolist() == whole[4:].tolist()
    thirds = positions(-1 / 3 - 1e-15, 1 / 3 + 1e-16, 9, "nearest")
    assert thirds.tolist() == (3 / 9 * (np.arange(9) + 0.5) - 0.5).tolist()


@pytest.mark.parametrize("how", ["linear", "cubic"])
def test_other_interpolations_and_other_grids_keep_their_positions(how: str) -> None:
    assert positions(0.5 - 1e-13, 2.0, 3, how)[0] == 0.5 - 1e-13  # type: ignore[arg-type]
    assert positions(0.2, 1.7, 3, "nearest").tolist() == [0.2, 0.2 + 1.7, 0.2 + 3.4]
    assert positions(9.0, -1.0, 3, "nearest").tolist() == [9, 8, 7]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_only_axes_along_which_the_scan_is_finer_are_smoothed(axis: int) -> None:
    """Steps of 1, 1.6 and 2 mm onto 2 mm: only the first is below 0.75 of the wanted one."""
    steps = [1.0, 1.6, 2.0]
    shape = tuple(round(32 / step) for step in steps)
    along = np.random.default_rng(0).normal(size=shape[axis]).astype(np.float32)
    data = np.zeros((1, *shape), np.float32) + along.reshape([-1 if i == axis else 1 for i in range(3)])
    scan, wanted = Volume(data, Grid(shape, np.diag([*steps, 1]))), Grid((16, 16, 16), np.diag([2.0, 2, 2, 1]))
    plain, smooth = (onto(scan, wanted, Interpolation(smooth=sigma)).data for sigma in (0.0, 0.5))
    assert np.allclose(plain, smooth, atol=1e-5) == (axis > 0)
    wider = onto(scan, wanted, Interpolation(smooth=0.5, finer=0.9)).data
    assert np.allclose(plain, wider, atol=1e-5) == (axis > 1)


def test_whether_slices_are_apart_is_told_by_the_models_spacing_and_not_by_its_stretched_steps() -> None:
    """Of 7 voxels of 1 mm 2 of 3 mm become 3.5 mm, nnU-Net goes by 3: which is not more than 3 times the finest."""
    scan = Grid((7, 4, 4), np.eye(4))
    spec = GridSpec(spacing=(3.0, 1.0, 1.0))
    model = model_grid(scan, spec)
    assert model.spacing == (3.5, 1.0, 1.0)
    rule = Interpolation("linear", coarse=3, spacing=spec.spacing)
    assert axis_rules(scan, model, rule) == ["linear"] * 3
    assert axis_rules(model, scan, rule, back=True) == ["linear"] * 3
    wider = Interpolation("linear", coarse=3, spacing=(3.1, 1.0, 1.0))
    assert axis_rules(scan, model, wider)[0] == axis_rules(model, scan, wider, back=True)[0] == "nearest"


def test_of_two_axes_that_the_model_wants_equally_wide_none_is_apart() -> None:
    scan = Grid((14, 21, 9), np.eye(4))
    spec = GridSpec(spacing=(5.0, 5.0, 1.0))
    model = model_grid(scan, spec)
    assert model.spacing[0] != model.spacing[1]
    assert axis_rules(scan, model, Interpolation("cubic", coarse=3, spacing=spec.spacing)) == ["cubic"] * 3
    assert axis_rules(scan, model, Interpolation("cubic", coarse=3, spacing=(None, 5.0, 1.0)))[1] == "nearest"
