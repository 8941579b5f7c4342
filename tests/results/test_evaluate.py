"""evaluate: analytic shapes, the rule for what is missing, and agreement with other programs where installed."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from segcli.errors import InputError
from segcli.results.evaluate import METRICS, Score, aligned, compare, evaluate, lost, rows, summarise, unscored
from segcli.results.reference_labels import merged
from segcli.space.volume import AXES_CODES, Grid, Volume, turned, turning
from segcli.structures import Label

ONE = (Label(1, "one"),)
TWO = (*ONE, Label(2, "two"))
HIGHER_IS_BETTER = {"dice": True, "iou": True, "nsd": True, "hd95_mm": False, "assd_mm": False, "volume_error": False}


def grid(shape: tuple[int, int, int], spacing: tuple[float, float, float] = (1, 1, 1)) -> Grid:
    affine = np.eye(4)
    affine[:3, :3] = np.diag(spacing[::-1])[:, ::-1]
    return Grid(shape, affine)


def volume(data: np.ndarray, spacing: tuple[float, float, float] = (1, 1, 1)) -> Volume:
    return Volume(data[None].astype(np.uint8), grid(data.shape, spacing))


def ball(radius_mm: float, size: int, spacing: tuple[float, float, float], shift_mm: float = 0.0) -> Volume:
    axes = [(np.arange(round(size / s)) - (round(size / s) - 1) / 2) * s for s in spacing]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return volume(z**2 + y**2 + (x - shift_mm) ** 2 <= radius_mm**2, spacing)


def blobs(seed: int, shape: tuple[int, int, int], noise: float) -> tuple[np.ndarray, np.ndarray]:
    """A random shape and a version of it with other edges."""
    rng = np.random.default_rng(seed)
    smooth = gaussian_filter(rng.standard_normal(shape), 3)
    other = smooth + noise * smooth.std() * gaussian_filter(rng.standard_normal(shape), 1.5) * 3
    inside = np.pad(np.ones([n - 4 for n in shape], bool), 2)  # programs differ on surfaces at the border
    return (smooth > smooth.std()) & inside, (other > smooth.std()) & inside


def test_two_overlapping_boxes_by_hand() -> None:
    a, b = np.zeros((6, 6, 8)), np.zeros((6, 6, 8))
    a[1:5, 1:5, 1:5], b[1:5, 1:5, 2:6] = 1, 1  # 64 voxels each, 48 shared
    (score,) = evaluate(volume(a), volume(b), ONE)
    assert (score.dice, score.iou) == (0.75, 0.6)
    assert (score.bias_ml, score.volume_error) == (0.0, 0.0)


def test_a_shift_along_the_normal_is_the_distance_of_the_two_flat_faces() -> None:
    a, b = np.zeros((42, 42, 12)), np.zeros((42, 42, 12))
    a[1:41, 1:41, 2:4], b[1:41, 1:41, 4:6] = 1, 1
    (score,) = evaluate(volume(a, (1, 1, 2.5)), volume(b, (1, 1, 2.5)), ONE)
    assert score.hd95_mm == 5.0  # two voxels of 2.5 mm


def test_equal_maps_score_best() -> None:
    a, _ = blobs(0, (20, 20, 20), 1)
    (score,) = evaluate(volume(a), volume(a), ONE)
    assert (score.dice, score.iou, score.nsd, score.hd95_mm, score.assd_mm) == (1, 1, 1, 0, 0)


@pytest.mark.parametrize("spacing", [(1, 1, 1), (2.5, 0.8, 0.8)])
def test_concentric_balls_are_as_far_apart_as_their_radii(spacing: tuple[float, float, float]) -> None:
    inner, outer = ball(20, 60, spacing), ball(25, 60, spacing)
    (score,) = evaluate(inner, outer, ONE, 1.0)
    assert score.volume_ml == pytest.approx(4 / 3 * math.pi * 20**3 / 1000, rel=0.005)
    assert score.reference_ml == pytest.approx(4 / 3 * math.pi * 25**3 / 1000, rel=0.005)
    assert score.assd_mm == pytest.approx(5, abs=max(spacing) / 2 + 0.01)
    assert score.dice == pytest.approx(2 * 20**3 / (20**3 + 25**3), rel=0.005)
    assert score.nsd == 0.0


@pytest.mark.parametrize("spacing", [(1, 1, 1), (1.5, 0.8, 0.8), (1, 1.3, 0.7)])
def test_the_surface_of_a_ball_is_four_pi_r_squared(spacing: tuple[float, float, float]) -> None:
    (score,) = evaluate(ball(20, 60, spacing), ball(25, 60, spacing), ONE)
    assert score.surface_cm2 == pytest.approx(4 * math.pi * 2.0**2, rel=0.02)
    assert score.reference_cm2 == pytest.approx(4 * math.pi * 2.5**2, rel=0.02)


def test_a_sheared_ball_has_the_distances_and_area_of_a_straight_one() -> None:
    affine = np.eye(4)[[2, 1, 0, 3]].astype(float)
    affine[1, 0] = 0.4  # the slices slide along P
    skewed = Grid((60, 90, 60), affine)
    at = skewed.world(np.stack(np.meshgrid(*(np.arange(n) for n in skewed.shape), indexing="ij"), axis=-1))
    middle = skewed.world(np.array(skewed.shape) / 2 - 0.5)
    r = np.linalg.norm(at - middle, axis=-1)[None]
    (score,) = evaluate(Volume((r <= 20).astype(np.uint8), skewed), Volume((r <= 25).astype(np.uint8), skewed), ONE)
    assert score.surface_cm2 == pytest.approx(4 * math.pi * 2.0**2, rel=0.02)
    assert score.assd_mm == pytest.approx(5, abs=0.6)


@pytest.mark.parametrize("swapped", [False, True])
def test_hd95_is_the_larger_of_both_directions(swapped: bool) -> None:
    one, two = np.zeros((8, 8, 30)), np.zeros((8, 8, 30))
    one[2:6, 2:6, 2:6] = two[2:6, 2:6, 2:6] = two[2:6, 2:6, 22:26] = 1
    # The second cube's far face, a twelfth of the surface of both, lies 20 mm beyond the first one's; back it is 0 mm.
    pair = [volume(one), volume(two)]
    (score,) = evaluate(*(reversed(pair) if swapped else pair), ONE)
    assert score.hd95_mm == 20.0


def test_a_tolerance_of_a_voxel_holds_on_a_grid_whose_spacing_was_rounded() -> None:
    a, b = np.zeros((12, 12, 12)), np.zeros((12, 12, 12))
    a[2:9, 3:9, 3:9], b[3:10, 3:9, 3:9] = 1, 1
    c, s = np.cos(0.3), np.sin(0.3)
    turn = np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    tilt = np.array([[1, 0, 0, 0], [0, c, -s, 0], [0, s, c, 0], [0, 0, 0, 1]])
    upright = grid((12, 12, 12), (0.9, 0.9, 0.9))
    oblique = Grid(upright.shape, (turn @ tilt @ upright.affine).astype(np.float32).astype(np.float64))
    scores = [
        evaluate(Volume(a[None].astype(np.uint8), g), Volume(b[None].astype(np.uint8), g), ONE, 0.9)[0]
        for g in (upright, oblique)
    ]
    assert scores[0].nsd == scores[1].nsd == 1.0


def test_a_shifted_ball_has_the_overlap_of_two_caps() -> None:
    a, b = ball(20, 64, (1, 1, 1)), ball(20, 64, (1, 1, 1), shift_mm=8)
    (score,) = evaluate(a, b, ONE)
    overlap = math.pi * (4 * 20 + 8) * (2 * 20 - 8) ** 2 / 12
    assert score.dice == pytest.approx(overlap / (4 / 3 * math.pi * 20**3), rel=0.005)


def test_a_missed_structure_scores_zero_and_the_diagonal() -> None:
    data = np.zeros((4, 4, 4))
    data[1:3, 1:3, 1:3] = 1
    (score,) = evaluate(volume(data * 0), volume(data), ONE)
    assert score.status == "missed"
    assert (score.dice, score.iou, score.nsd) == (0, 0, 0)
    assert score.hd95_mm == score.assd_mm == pytest.approx(math.sqrt(48), abs=1e-4)
    assert (score.bias_ml, score.volume_error) == (-0.008, 2.0)


def test_an_invented_structure_scores_zero_and_an_absent_one_nothing() -> None:
    data = np.zeros((4, 4, 4))
    data[1, 1, 1] = 1
    one, two = evaluate(volume(data), volume(data * 0), TWO)
    assert (one.status, one.dice, one.volume_error) == ("invented", 0, 2.0)
    assert (two.status, two.dice, two.hd95_mm, two.volume_error) == ("absent", None, None, None)


@given(seed=st.integers(0, 2**16))
@settings(max_examples=25, deadline=None)
def test_taking_a_structure_out_never_improves_a_score(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ref = rng.integers(0, 3, (5, 6, 4)) * (rng.random((5, 6, 4)) < rng.random())
    pred = rng.integers(0, 3, (5, 6, 4)) * (rng.random((5, 6, 4)) < rng.random())
    names = [label for label in TWO if (ref == label.id).any()]
    before = evaluate(volume(pred), volume(ref), names)
    for label in names:
        after = evaluate(volume(np.where(pred == label.id, 0, pred)), volume(ref), names)
        for metric, higher in HIGHER_IS_BETTER.items():
            for old, new in zip(before, after, strict=True):
                gain = getattr(new, metric) - getattr(old, metric)
                assert (gain if higher else -gain) <= 0


@pytest.mark.parametrize("code", AXES_CODES[::5])
def test_a_prediction_stored_in_other_axes_scores_the_same(code: str) -> None:
    a, b = blobs(3, (12, 14, 10), 1)
    pred, ref = volume(a, (2, 1, 0.7)), volume(b, (2, 1, 0.7))
    order, flips = turning(ref.grid.axes, code)
    data = np.flip(np.transpose(pred.data[0], order), [i for i, flip in enumerate(flips) if flip])
    there = Volume(np.ascontiguousarray(data)[None], turned(ref.grid, code))
    assert evaluate(there, ref, ONE) == evaluate(pred, ref, ONE)


def test_another_grid_is_refused_with_numbers() -> None:
    a, _ = blobs(3, (12, 14, 10), 1)
    moved = Volume(volume(a).data, grid((12, 14, 10)).crop((slice(1, 13), slice(0, 14), slice(0, 10))))
    with pytest.raises(InputError, match="the same size, but corners up to 1 mm apart"):
        evaluate(moved, volume(a), ONE)
    with pytest.raises(InputError, match="12 x 14 x 10 voxels against 12 x 14 x 9"):
        evaluate(volume(a), volume(a[:, :, :9]), ONE)


def test_resampling_on_request_compares_in_place_and_adds_nothing_outside() -> None:
    a = np.ones((4, 4, 4))
    small = Volume(volume(a).data, grid((8, 8, 8)).crop((slice(2, 6),) * 3))
    ref = np.zeros((8, 8, 8))
    ref[2:6, 2:6, 2:6] = 1
    (score,) = evaluate(small, volume(ref), ONE, resample=True)
    assert score.dice == 1.0


def test_a_voxel_on_a_finer_grid_keeps_its_volume_where_centres_lie_on_its_faces():
    """As by SimpleITK's nearest neighbour: one of 5 mm is 125 of 1 mm, and not the 216 that touch it."""
    one = Volume(np.ones((1, 1, 1, 1), np.uint8), Grid((1, 1, 1), np.diag([5.0, 5, 5, 1])))
    place = np.eye(4)
    place[:3, 3] = -5.5
    (score,) = evaluate(one, Volume(np.zeros((1, 12, 12, 12), np.uint8), Grid((12, 12, 12), place)), ONE, resample=True)
    assert score.volume_ml == 0.125


def test_labels_beyond_the_grid_that_a_prediction_is_moved_onto_are_counted() -> None:
    pred = np.zeros((8, 8, 8))
    pred[2:6, 2:6, 2:6] = pred[0, 0, :3] = 1
    part = grid((8, 8, 8)).crop((slice(2, 6),) * 3)
    assert lost(volume(pred), part) == 3
    assert lost(volume(pred), grid((8, 8, 8))) == 0


def test_without_names_every_value_is_scored_and_with_names_the_others_are_told() -> None:
    ref = np.zeros((4, 4, 4))
    ref[0, 0, 0], ref[3, 3, 3] = 1, 9
    assert [s.name for s in evaluate(volume(ref), volume(ref))] == ["label_1", "label_9"]
    assert unscored(volume(ref * (ref < 9)), volume(ref), ONE) == ([], [9])


@pytest.mark.parametrize("value", [-3, -(2**15), 2**31 - 1])
def test_values_below_zero_and_vast_ones_have_a_row_too(value: int) -> None:
    ref, pred = np.zeros((1, 4, 4, 4), np.int32), np.zeros((1, 4, 4, 4), np.int32)
    ref[0, 1, 1, :2], ref[0, 3, 3, 3] = value, 2
    pred[0, 1, 1, 1:3] = value
    there, here = Volume(pred, grid((4, 4, 4))), Volume(ref, grid((4, 4, 4)))
    found = {s.label: s for s in evaluate(there, here)}
    assert (found[value].name, found[value].dice, found[value].status) == (f"label_{value}", 0.5, "both")
    assert found[2].status == "missed"
    assert unscored(there, here, TWO) == ([value], [value])


@pytest.mark.parametrize(
    ("value", "becomes"),
    [(1001, 3), (2035, 42), (11175, 3), (12101, 42), (3001, 2), (4035, 41), (253, 2), (17, 17), (999, 999)],
)
def test_parcels_of_freesurfer_are_the_structure_that_they_are_parts_of(value: int, becomes: int) -> None:
    labels = Volume(np.full((1, 2, 2, 2), value, np.int32), grid((2, 2, 2)))
    assert np.unique(merged(labels, "freesurfer").data).tolist() == [becomes]


def score(name: str, dice: float | None, status: str = "both") -> Score:
    far = None if dice is None else 1 - dice
    return Score(name, 1, status, dice, dice, far, far, dice, 1.0, 1.0, 1.0, 1.0, 0.0, far)  # type: ignore[arg-type]


def test_the_summary_counts_what_was_missed_and_has_an_interval_around_the_mean() -> None:
    cases = {"a": [score("one", 0.8)], "b": [score("one", 0.0, "missed")], "c": [score("one", None, "absent")]}
    everything, one = summarise(cases)
    assert (one["cases"], one["missed"], one["dice"]) == (2, 1, 0.4)
    assert (one["dice_low"], one["dice_high"]) == (0.0, 0.8)
    assert everything["dice"] == 0.4
    assert summarise(cases) == summarise(cases)


def test_one_case_has_no_interval() -> None:
    assert summarise({"a": [score("one", 0.8)]})[1]["dice_low"] is None


def test_a_paired_comparison_flips_every_sign() -> None:
    first = {str(i): [score("one", 0.5)] for i in range(5)}
    second = {str(i): [score("one", 0.6)] for i in range(5)}
    row = compare(first, second)[1]
    assert row["dice"] == pytest.approx(0.1)
    assert row["dice_p"] == 2 / 32  # only all plus and all minus are as extreme


def test_inventing_a_structure_costs_in_a_comparison() -> None:
    first = {"a": [score("one", None, "absent")], "b": [score("one", 0.5)]}
    second = {"a": [score("one", 0.0, "invented")], "b": [score("one", 0.5)]}
    row = compare(first, second)[1]
    assert (row["cases"], row["dice"]) == (2, -0.5)


def test_what_one_model_alone_invents_is_absent_for_the_other_and_no_refusal() -> None:
    invented = score("two", 0.0, "invented")
    first, second = {"a": [score("one", 0.5), invented]}, {"a": [score("one", 0.5)]}
    for former, latter, gap in ((first, second, 1.0), (second, first, -1.0)):
        assert [(row["name"], row["cases"], row["dice"]) for row in compare(former, latter)] == [
            ("all", 1, gap / 2), ("one", 1, 0.0), ("two", 1, gap)
        ]  # fmt: skip
    with pytest.raises(InputError, match="the first is 'two' of case 'a'"):  # a reference that has it, has it for both
        compare({"a": [score("one", 0.5), score("two", 0.0, "missed")]}, second)


def test_what_the_card_says_is_not_scored_is_listed_and_never_averaged() -> None:
    first = {"a": [score("one", 0.5), score("csf", 0.1)], "b": [score("one", 0.7), score("csf", 0.1)]}
    second = {"a": [score("one", 0.6), score("csf", 0.9)], "b": [score("one", 0.8), score("csf", 0.9)]}
    whole, one, csf = summarise(first, ["csf"])
    assert (whole["name"], whole["dice"], one["dice"], csf["dice"]) == ("all", 0.6, 0.6, 0.1)
    assert summarise(first)[0]["dice"] == pytest.approx(0.35)
    assert [row["dice"] for row in compare(first, second, ["csf"])] == [0.1, 0.1, 0.8]


def test_models_scored_on_other_cases_are_not_compared() -> None:
    with pytest.raises(InputError, match="1 are in one of them"):
        compare({"a": [score("one", 0.5)]}, {"a": [score("one", 0.5)], "b": [score("one", 0.5)]} | {})


def test_a_row_has_the_case_and_every_metric() -> None:
    (row,) = rows({"a": [score("one", 0.5)]}, {"a": "a_0000"})
    assert (row["case"], row["cohort_case"]) == ("a", "a_0000")
    assert set(METRICS) < row.keys()
    assert asdict(score("one", 0.5)).keys() < row.keys()


# ---- agreement with other programs --------------------------------------------------------------------------------

SHAPES = [(seed, spacing) for seed in range(4) for spacing in ((1.0, 1.0, 1.0), (3.0, 0.9, 0.7))]


@pytest.mark.parametrize(("seed", "spacing"), SHAPES)
@pytest.mark.filterwarnings("ignore")
def test_agrees_with_surface_distance(seed: int, spacing: tuple[float, float, float]) -> None:
    other = pytest.importorskip("surface_distance", reason="the package surface-distance is not installed")
    a, b = blobs(seed, (26, 30, 28), 0.8)
    (ours,) = evaluate(volume(a, spacing), volume(b, spacing), ONE, 1.2)
    theirs = other.compute_surface_distances(b, a, spacing)
    assert ours.hd95_mm == pytest.approx(other.compute_robust_hausdorff(theirs, 95), abs=1e-4)
    assert ours.nsd == pytest.approx(other.compute_surface_dice_at_tolerance(theirs, 1.2), abs=1e-5)
    sides = [
        (theirs[f"distances_{x}"], theirs[f"surfel_areas_{y}"])
        for x, y in (("gt_to_pred", "gt"), ("pred_to_gt", "pred"))
    ]
    assd = sum(d @ area for d, area in sides) / sum(area.sum() for _, area in sides)
    assert ours.assd_mm == pytest.approx(assd, abs=1e-4)
    assert ours.dice == pytest.approx(other.compute_dice_coefficient(a, b), abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("seed", "spacing"), SHAPES)
@pytest.mark.filterwarnings("ignore")
def test_agrees_with_monai(seed: int, spacing: tuple[float, float, float]) -> None:
    other = pytest.importorskip("monai.metrics", reason="MONAI is not installed")
    torch = pytest.importorskip("torch", reason="torch is not installed")
    a, b = blobs(seed, (26, 30, 28), 0.8)
    (ours,) = evaluate(volume(a, spacing), volume(b, spacing), ONE, 1.2)
    x, y = (torch.from_numpy(m[None, None].astype(np.uint8)) for m in (a, b))
    assert ours.dice == pytest.approx(float(other.compute_dice(x, y)), abs=1e-6)
    assert ours.iou == pytest.approx(float(other.compute_iou(x, y)), abs=1e-6)
    nsd = other.compute_surface_dice(x, y, [1.2], True, spacing=spacing, use_subvoxels=True)
    assert ours.nsd == pytest.approx(float(nsd), abs=1e-5)
    # MONAI's surface is that of voxel centres without areas, so distances agree within a voxel only.
    hd95 = other.compute_hausdorff_distance(x, y, True, percentile=95, spacing=spacing)
    assert ours.hd95_mm == pytest.approx(float(hd95), abs=max(spacing))
    assd = other.compute_average_surface_distance(x, y, True, symmetric=True, spacing=spacing)
    assert ours.assd_mm == pytest.approx(float(assd), abs=max(spacing) / 2)


def test_grids_turned_by_45_degrees_are_one_grid_however_they_were_rounded() -> None:
    data = np.arange(60, dtype=np.uint8).reshape(1, 3, 4, 5)
    one, other = (_turned_by(np.pi / 4 + off) for off in (-1e-7, 1e-7))
    assert one.axes != other.axes
    np.testing.assert_array_equal(aligned(Volume(data, one), Volume(data, other)).data, data)


def _turned_by(angle: float) -> Grid:
    affine = np.diag([1.0, 2, 1, 1])
    affine[:2, :2] = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return Grid((3, 4, 5), affine)


def test_slices_of_another_thickness_are_another_grid_and_told_as_that() -> None:
    data = np.ones((1, 1, 4, 5), np.uint8)
    one, other = (Volume(data, Grid((1, 4, 5), np.diag([thick, 1.0, 1, 1]))) for thick in (2.0, 5.0))
    with pytest.raises(InputError, match="the same size, but corners up to 3 mm apart"):
        aligned(one, other)
