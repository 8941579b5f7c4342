"""postprocess: islands and holes, counted by hand and against scipy's own labelling."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import label

from segcli.results.islands import Change, changes, islands, postprocess
from segcli.space.volume import Grid, Volume
from segcli.structures import Label

NAMES = (Label(0, "background"), Label(1, "one"), Label(2, "two"))


def volume(data: np.ndarray, edge_mm: float = 10.0) -> Volume:
    """Voxels of 1 mL at 10 mm."""
    return Volume(data[None].astype(np.uint8), Grid(data.shape, np.diag([edge_mm] * 3 + [1.0])))


def two_islands() -> np.ndarray:
    data = np.zeros((5, 6, 7))
    data[0:2, 0:2, 0:2] = 1  # 8 voxels
    data[4, 5, 4:7] = 1  # 3 voxels
    data[3, 3, 3] = 2
    return data


def test_voxels_that_share_a_corner_are_one_island() -> None:
    data = np.zeros((3, 3, 3))
    data[0, 0, 0] = data[1, 1, 1] = data[2, 0, 2] = 1
    assert islands(volume(data)).size.tolist() == [3]


def test_rows_do_not_join_across_their_ends() -> None:
    data = np.zeros((2, 2, 6))
    data[0, 0, 5] = data[0, 1, 0] = 1  # neighbours in memory only
    assert sorted(islands(volume(data)).size.tolist()) == [1, 1]


@given(seed=st.integers(0, 2**16), shape=st.tuples(*[st.integers(1, 7)] * 3), share=st.floats(0.02, 0.9))
@settings(max_examples=60, deadline=None)
def test_islands_are_those_of_a_plain_labelling(seed: int, shape: tuple[int, int, int], share: float) -> None:
    rng = np.random.default_rng(seed)
    data = rng.integers(1, 3, shape) * (rng.random(shape) < share)
    found = islands(volume(data))
    for value in (1, 2):
        plain, n = label(data == value, np.ones((3, 3, 3)))
        assert sorted(found.size[found.of(value)]) == sorted(np.bincount(plain.ravel())[1 : n + 1])


def test_islands_of_some_values_are_theirs_alone_whatever_the_planes_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segcli.results.islands._VOXELS", 1)
    found = islands(volume(two_islands()), [1])
    assert found.value.tolist() == [1, 1]
    assert found.size.tolist() == [8, 3]
    assert found.starts[-1] == (4 * 6 + 5) * 7 + 4


def test_only_the_largest_island_of_a_named_structure_stays() -> None:
    labels = volume(two_islands())
    cleaned = postprocess(labels, NAMES, largest=["one"])
    assert np.count_nonzero(cleaned.data == 1) == 8
    assert changes(labels, cleaned, NAMES) == [Change("one", 1, 3, 3.0, 0, 0.0)]


def test_islands_below_the_millilitres_go_even_the_largest() -> None:
    labels = volume(two_islands())
    assert np.count_nonzero(postprocess(labels, NAMES, min_size_ml=3.0).data == 1) == 11  # 3 mL is not below 3 mL
    assert changes(labels, postprocess(labels, NAMES, min_size_ml=3.0), NAMES) == [Change("two", 2, 1, 1.0, 0, 0.0)]


def test_a_hole_is_filled_but_another_structure_in_it_stays() -> None:
    data = np.zeros((7, 7, 7))
    data[1:6, 1:6, 1:6] = 1
    data[3, 3, 2:5] = 0, 2, 0
    cleaned = postprocess(volume(data), NAMES, fill_holes=["all"])
    assert cleaned.data[0, 3, 3, 2:5].tolist() == [1, 2, 1]
    assert changes(volume(data), cleaned, NAMES) == [Change("one", 1, 0, 0.0, 2, 2.0)]


def test_a_cavity_open_to_the_border_is_no_hole() -> None:
    data = np.ones((3, 3, 3))
    data[1, 1, :2] = 0
    labels = volume(data)
    assert changes(labels, postprocess(labels, NAMES, fill_holes=["one"]), NAMES) == []


def test_the_map_given_is_left_as_it_was() -> None:
    labels = volume(two_islands())
    postprocess(labels, NAMES, largest=["all"], fill_holes=["all"])
    assert np.array_equal(labels.data[0], two_islands())


def test_an_absent_structure_is_no_trouble() -> None:
    labels = volume(np.zeros((2, 2, 2)))
    assert not postprocess(labels, NAMES, largest=["one"], min_size_ml=1.0, fill_holes=["one"]).data.any()
