"""Logits become labels in place: slab by slab as for the whole, on any grid."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shapes import distances, grid

from segcli.inference import certainty, decide, place
from segcli.inference.decide import Decision, Probabilities, _winning_boxes, labels_on
from segcli.space.resample import onto
from segcli.space.volume import AXES_CODES, Grid, Volume, turned
from segcli.structures import side_of

THREE = Decision((0, 7, 300))


def cut(whole: Volume, lengths: list[int], axis: int = 0) -> list[Volume]:
    """A volume as slabs along an axis, each beginning with the last plane of the one before."""
    out, start, n = [], 0, whole.grid.shape[axis]
    for length in [*lengths, n]:
        stop = min(n, start + length)
        box = [slice(0, m) for m in whole.grid.shape]
        box[axis] = slice(max(0, start - 1), stop)
        out.append(whole.crop(tuple(box)))
        start = stop
        if start >= n:
            return out
    return out


def plain(scan: Grid, logits: Volume, values: tuple[int, ...]) -> np.ndarray:
    """The slow way: every class on the scan's grid at once, then the largest."""
    return np.array(values)[onto(logits, scan).data.argmax(0)]


@settings(deadline=None, max_examples=30)
@given(
    code=st.sampled_from(AXES_CODES),
    tilt=st.sampled_from([0.0, 17.0]),
    shear=st.sampled_from([0.0, 0.2]),
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=8),
    axis=st.integers(0, 2),
)
def test_labels_by_slabs_equal_labels_of_the_whole(code, tilt, shear, lengths, axis) -> None:
    rng = np.random.default_rng(0)
    model = grid((11, 9, 10), (2.0, 2.0, 2.0))
    logits = Volume(rng.normal(size=(3, *model.shape)).astype(np.float32), model)
    scan = turned(grid((15, 13, 14), (1.1, 1.4, 1.3), (tilt, 0, tilt / 2), shear), code)
    whole = labels_on(scan, [logits], THREE, model, model).data[0]
    parts = labels_on(scan, cut(logits, lengths, axis), THREE, model, model).data[0]
    assert np.array_equal(whole, parts)
    assert (whole != plain(scan, logits, THREE.values)).mean() < 1e-3  # rounding at ties only


def test_beyond_the_crop_is_background_and_beyond_the_scan_the_border_goes_on() -> None:
    wanted = Grid((10, 1, 1), np.diag([2.0, 1, 1, 1]))
    part = wanted.crop((slice(4, 10), slice(0, 1), slice(0, 1)))
    logits = Volume(np.stack([np.zeros(part.shape), np.ones(part.shape)]).astype(np.float32), part)
    scan = Grid((24, 1, 1), np.eye(4))
    labels = labels_on(scan, [logits], Decision((0, 5)), part, wanted).data.ravel()
    # The part's faces are at model voxel 3.5, which is 7 mm; the scan goes on to 23 mm, past the model's 18 mm.
    assert labels.tolist() == [0] * 7 + [5] * 17


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("left_kidney", "left"),
        ("Left-Kidney", "left"),
        ("kidney right", "right"),
        ("ctx-rh-cuneus", "right"),
        ("kidney.L", "left"),
        ("vertebrae_L1", None),
        ("cleft", None),
    ],
)
def test_a_name_states_a_side_in_a_word_of_its_own(name: str, side: str | None) -> None:
    assert side_of(name) == side


def test_regions_are_written_in_order_so_that_the_inner_one_stays() -> None:
    on = Grid((1, 1, 3), np.eye(4))
    logits = Volume(np.array([[-1, 1, 1], [-1, -1, 2]], np.float32).reshape(2, 1, 1, 3), on)
    decide = Decision((1, 2), "regions")
    assert labels_on(on, [logits], decide, on, on).data.ravel().tolist() == [0, 1, 2]


def test_label_values_beyond_255_do_not_wrap() -> None:
    on = Grid((1, 1, 2), np.eye(4))
    logits = Volume(np.array([[0, 0], [0, 1]], np.float32).reshape(2, 1, 1, 2), on)
    got = labels_on(on, [logits], Decision((0, 256)), on, on).data
    assert got.dtype == np.uint16
    assert got.ravel().tolist() == [0, 256]


@pytest.mark.parametrize(("tilt", "shear", "code"), [(0, 0, "SPL"), (20, 0, "SPL"), (15, 0.25, "SPL"), (12, 0, "RAS")])
def test_a_ball_comes_back_in_place_and_in_millilitres(tilt: float, shear: float, code: str) -> None:
    model = grid((30, 30, 30), (2.0, 2.0, 2.0))
    inside = 15.0 - distances(model, (4.0, -3.0, 2.0))
    logits = Volume(np.stack([-inside, inside]).astype(np.float32), model)
    scan = turned(grid((50, 52, 48), (1.0, 0.9, 1.1), (tilt, 0, 0), shear), code)
    labels = labels_on(scan, [logits], Decision((0, 1)), model, model).data[0]
    expected = distances(scan, (4.0, -3.0, 2.0)) < 15.0
    both = 2 * (expected & (labels == 1)).sum() / (expected.sum() + (labels == 1).sum())
    assert both > 0.98
    centre = scan.world(np.argwhere(labels)).mean(0)
    assert np.abs(centre - [4.0, -3.0, 2.0]).max() < 0.1
    assert labels.sum() * scan.voxel_mm3 / 1000 == pytest.approx(4 / 3 * np.pi * 1.5**3, rel=0.02)


@pytest.mark.parametrize("shape", [(1, 5, 6), (4, 1, 1), (1, 1, 1)])
def test_axes_of_one_voxel_work(shape: tuple[int, int, int]) -> None:
    model = grid(shape, (2.0, 2.0, 2.0))
    logits = Volume(np.stack([np.zeros(shape), np.ones(shape)]).astype(np.float32), model)
    scan = grid((3, 3, 3), (0.5, 0.5, 0.5))
    assert (labels_on(scan, [logits], Decision((0, 1)), model, model).data == 1).all()


def test_probabilities_are_the_softmax_in_256_steps_and_background_beyond_the_part() -> None:
    wanted = Grid((6, 1, 1), np.eye(4))
    part = wanted.crop((slice(1, 5), slice(0, 1), slice(0, 1)))
    odds = np.array([0, np.log(3), 0, 0], np.float32).reshape(1, 4, 1, 1)
    logits = Volume(np.concatenate([np.zeros_like(odds), odds]), part)
    shares = Probabilities(wanted, Decision((0, 9)), part, wanted)
    labels_on(wanted, shares.watch([logits]), Decision((0, 9)), part, wanted)
    assert shares.volume.data[1].ravel().tolist() == [0, 128, 191, 128, 128, 0]  # 0.75 * 255 = 191.25
    assert shares.volume.data[0].ravel().tolist() == [255, 128, 64, 128, 128, 255]


def test_shares_are_decided_at_one_half_and_told_as_they_are() -> None:
    on = grid((1, 1, 3))
    nested = Decision((1, 2), "regions", are_probabilities=True)
    logits = Volume(np.array([[[[0.6, 0.7, 0.4]]], [[[0.2, 0.6, 0.5]]]], np.float32), on)
    told = Probabilities(on, nested, on, on)
    assert labels_on(on, told.watch([logits]), nested, on, on).data.tolist() == [[[[1, 2, 0]]]]
    assert told.volume.data[:, 0, 0].tolist() == [[153, 178, 102], [51, 153, 128]]


def test_a_class_is_tried_only_in_cells_where_it_can_win() -> None:
    """Along one axis of four voxels: the second class can win between the second and the third voxel alone."""
    rows = [[5, 5, 0, 0], [1, 1, 1, 1], [0, 0, 5, 5], [-9, -9, -9, -9]]
    slab = np.array(rows, np.float32).reshape(4, 4, 1, 1)
    boxes = _winning_boxes(slab, Decision((0, 1, 2, 3)))
    assert [None if box is None else (box[0].start, box[0].stop) for box in boxes] == [(0, 2), (1, 2), (1, 3), None]


def test_a_class_that_is_behind_by_no_more_than_rounding_is_tried() -> None:
    """Interpolated, it may be level with the other, and then the first one wins."""
    slab = np.zeros((3, 4, 4, 4), np.float32)
    slab[1] -= 5e-5
    slab[2] -= 1
    boxes = _winning_boxes(slab, Decision((0, 1, 2)))
    assert [box is not None for box in boxes] == [True, True, False]


def test_between_voxels_of_two_others_a_class_wins_that_is_the_largest_at_neither() -> None:
    rows = np.array([[4, 0], [3, 3], [0, 4]], np.float32).reshape(3, 2, 1, 1)
    model, scan = Grid((2, 1, 1), np.diag([2.0, 1, 1, 1])), Grid((3, 1, 1), np.eye(4))
    labels = labels_on(scan, [Volume(rows, model)], THREE, model, model)
    assert labels.data.ravel().tolist() == [0, 7, 300]


def test_many_classes_give_each_core_a_block_and_the_same_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slabs of two planes, as they are of a hundred classes: cut along the other axis, for 1 core and for 16."""
    shared: list[int] = []

    def each(work: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
        todo = list(items)
        shared.append(len(todo))
        return [work(item) for item in todo]

    model = grid((3, 80, 90), (2.0, 2.0, 2.0))
    logits = Volume(np.random.default_rng(0).normal(size=(9, *model.shape)).astype(np.float32), model)
    scan, found = grid((5, 150, 170), (1.1, 1.1, 1.1)), {}
    monkeypatch.setattr(decide, "each", each)
    for many in (1, 16):
        monkeypatch.setattr(place, "cores", lambda many=many: many)
        shared.clear()
        found[many] = labels_on(scan, cut(logits, [2]), Decision(tuple(range(9))), model, model).data
        assert min(shared) == many
    assert np.array_equal(found[1], found[16])


def test_118_classes_of_a_large_scan_are_work_for_16_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "cores", lambda: 16)
    model, scan = grid((4, 273, 273), (1.5, 1.5, 1.5)), grid((6, 512, 512), (1.0, 0.8, 0.8))
    slab = np.broadcast_to(np.float32(0), (118, *model.shape))
    pieces = place.Place(scan, model, model, decide.LINEAR).pieces(np.zeros(3, np.int64), model.shape)
    (blocks,) = [list(place.blocks(piece, slab)) for piece in pieces]
    assert len(blocks) == 16
    assert len(list(certainty._rows(slab, slab[:1]))) >= 32


@pytest.mark.parametrize("shares", [False, True])
def test_margins_are_the_best_share_less_the_second_best(shares: bool) -> None:
    channels = np.random.default_rng(0).normal(size=(7, 5, 6)).astype(np.float32)
    channels[2] = channels[4]  # of equal ones the first wins, by nothing
    if shares:
        channels = np.exp(channels) / np.exp(channels).sum(0)
    means = certainty.Means(Decision(tuple(range(7)), are_probabilities=shares))
    order, at, margin = means._margin(channels, np.zeros((5, 6), bool))
    p = channels if shares else np.exp(channels) / np.exp(channels).sum(0)
    np.testing.assert_array_equal(order, channels.argmax(0))
    np.testing.assert_array_equal(at, np.flatnonzero(order))  # of the background, what is asked for
    wanted = (np.sort(p, 0)[-1] - np.sort(p, 0)[-2]).ravel()[at]
    np.testing.assert_allclose(margin, wanted, rtol=1e-4, atol=1e-6)
    assert (margin[order.ravel()[at] == 2] == 0).all()
    assert (order == 2).any()


def test_the_same_voxels_of_the_background_are_looked_at_however_slabs_are_cut() -> None:
    model = grid((9, 10, 11))
    logits = Volume(np.random.default_rng(0).normal(size=(3, *model.shape)).astype(np.float32), model)
    found, counts = [], []
    for edges in ([], [4], [2, 3, 7]):
        means = certainty.Means(Decision((0, 1, 2)))
        list(means.watch(cut(logits, edges), None, None))
        found.append(means.margins())
        counts.append((means._seen.tolist(), means._counts.tolist()))
    assert counts[0] == counts[1] == counts[2]
    (background, *rest), (every, *all_of_the_rest) = counts[0]
    assert rest == all_of_the_rest
    assert 0.2 < background / every < 0.3
    for other in found[1:]:
        assert found[0] == pytest.approx(other, rel=1e-12)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_plane_that_is_a_slab_of_its_own_is_counted_once(axis: int) -> None:
    """So begins what windows finish that lie one plane apart; where padding ends one may come that is known."""
    model = grid((4, 5, 6))
    logits = Volume(np.random.default_rng(0).normal(size=(3, *model.shape)).astype(np.float32), model)
    whole = certainty.Means(Decision((0, 1, 2)))
    list(whole.watch([logits], None, None))
    n = model.shape[axis]
    for ends in ([(0, 1), (0, 2), (1, n)], [(0, 1), (0, 1), (0, n)], [(0, n), (n - 1, n)]):
        boxes = [[slice(*end) if i == axis else slice(0, m) for i, m in enumerate(model.shape)] for end in ends]
        means = certainty.Means(Decision((0, 1, 2)))
        list(means.watch([logits.crop((d, h, w)) for d, h, w in boxes], None, None))
        assert (means._seen.tolist(), means._counts.tolist()) == (whole._seen.tolist(), whole._counts.tolist())


def test_margins_of_a_plane_are_gathered_in_parts_and_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = Volume(np.random.default_rng(0).normal(size=(9, 2, 40, 30)).astype(np.float32), grid((2, 40, 30)))
    found = []
    for values in (1 << 20, 9 * 30 * 4):
        monkeypatch.setattr(certainty, "_CACHED", values)
        means = certainty.Means(Decision(tuple(range(9))))
        list(means.watch([logits], None, None))
        assert len(list(certainty._rows(logits.data, logits.data[:1]))) == (2 if values == 1 << 20 else 20)
        found.append(means.margins())
    assert found[0] == pytest.approx(found[1], rel=1e-12)


@pytest.mark.parametrize("below", [5e-5, 5e-4])
def test_a_class_below_another_by_no_more_than_rounding_is_still_compared(below: float) -> None:
    slab = np.stack([np.full((2, 2, 2), 1.0), np.full((2, 2, 2), 1.0 - below)]).astype(np.float32)
    first, second = _winning_boxes(slab, Decision((0, 1)))
    assert first is not None
    assert (second is not None) == (below < 1e-4)  # what interpolation in float32 may add
