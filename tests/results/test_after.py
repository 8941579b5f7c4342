"""after: the steps of a card, each counted by hand, in their order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from models import CARD
from scipy.ndimage import binary_dilation, generate_binary_structure, label

from segcli.errors import ModelError
from segcli.models import card
from segcli.models.after import DropStep, FillStep, JoinStep, LargestStep, SmallStep, WithinStep
from segcli.results.after import after
from segcli.results.islands import islands
from segcli.space.volume import Grid, Volume
from segcli.structures import Label

NAMES = (Label(0, "background"), Label(1, "one"), Label(2, "two"), Label(3, "three"))


def volume(data: np.ndarray, edge_mm: float = 1.0) -> Volume:
    return Volume(data[None].astype(np.uint8), Grid(data.shape, np.diag([edge_mm] * 3 + [1.0])))


def row(*values: int) -> Volume:
    return volume(np.array(values).reshape(1, 1, -1))


def left(labels: Volume, *steps: Any) -> list[int]:
    return after(labels, NAMES, steps)[0].data.ravel().tolist()


def test_the_largest_piece_of_each_structure_or_of_both_as_one_stays() -> None:
    labels = row(1, 1, 2, 0, 2, 2, 0, 1)
    assert left(labels, LargestStep()) == [1, 1, 0, 0, 2, 2, 0, 0]
    assert left(labels, LargestStep(together=True)) == [1, 1, 2, 0, 0, 0, 0, 0]
    assert left(labels, LargestStep(structures=("two",))) == [1, 1, 0, 0, 2, 2, 0, 1]


def test_of_equal_pieces_all_stay_and_those_of_a_size_are_spared() -> None:
    assert left(row(1, 1, 0, 1, 1, 0, 1), LargestStep()) == [1, 1, 0, 1, 1, 0, 0]
    assert left(row(1, 1, 1, 0, 1, 1, 0, 1), LargestStep(spare=2)) == [1, 1, 1, 0, 1, 1, 0, 0]


def test_of_equal_pieces_the_last_alone_stays_where_the_card_says_so() -> None:
    last = LargestStep(equal="last")
    assert left(row(1, 1, 0, 1, 1, 0, 1, 0, 2, 0, 2), last) == [0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 2]
    assert left(row(1, 1, 1, 0, 1, 1), last) == [1, 1, 1, 0, 0, 0]
    assert left(row(1, 1, 0, 1, 1, 0, 1), LargestStep(equal="last", spare=2)) == [1, 1, 0, 1, 1, 0, 0]


def test_pieces_of_at_most_a_volume_go() -> None:
    assert left(row(1, 1, 0, 1, 0, 2), SmallStep(mm3=1, structures=("one",))) == [1, 1, 0, 0, 0, 2]
    big = volume(np.array([1, 1, 0, 1]).reshape(1, 1, -1), 2.0)  # voxels of 8 mm3
    assert left(big, SmallStep(mm3=7.9)) == [1, 1, 0, 1]
    assert left(big, SmallStep(mm3=8)) == [1, 1, 0, 0]


def test_voxels_that_share_a_corner_are_one_piece_or_two() -> None:
    data = np.zeros((2, 2, 2))
    data[0, 0, 0] = data[1, 1, 1] = 1
    assert left(volume(data), SmallStep(mm3=1)) == data.ravel().tolist()
    assert not any(left(volume(data), SmallStep(mm3=1, neighbours=6)))


def test_structures_that_are_dropped_become_background() -> None:
    assert left(row(1, 2, 0, 1), DropStep(structures=("one",))) == [0, 2, 0, 0]


def test_a_hole_is_filled_once_it_is_one() -> None:
    data = np.ones((3, 3, 3))
    data[1, 1, 1] = 2
    assert left(volume(data), FillStep(structures=("one",))) == data.ravel().tolist()
    assert left(volume(data), SmallStep(mm3=1), FillStep(structures=("one",))) == [1] * 27
    assert left(volume(data), FillStep(structures=("one",)), SmallStep(mm3=1))[13] == 0


def test_a_hole_is_filled_with_what_others_have_in_it() -> None:
    data = np.zeros((5, 5, 5), int)
    data[1:4, 1:4, 1:4] = 1
    data[2, 2, 2] = 2
    everything = FillStep(others=True)
    assert left(volume(data), everything)[62] == 2, "the structure of the higher value has the last word"
    assert left(volume(data), FillStep(others=True, structures=("one",)))[62] == 1
    turned = np.where(data > 0, 3 - data, 0)
    assert left(volume(turned), everything) == np.where(data > 0, 2, 0).ravel().tolist()


def test_holes_of_a_single_slice_are_filled_below_a_size() -> None:
    data = np.ones((1, 7, 9), int)
    data[0, 1:3, 1:3] = data[0, 4:6, 4:8] = 0  # holes of 4 and of 8 voxels
    assert left(volume(data), FillStep()) == data.ravel().tolist(), "each voxel is beside what lies beyond the slice"
    for flat, filled in ((4, 0), (5, 4), (8, 4), (9, 12)):
        assert sum(left(volume(data), FillStep(flat=flat))) == data.sum() + filled
        assert sum(left(volume(np.moveaxis(data, 0, 2)), FillStep(flat=flat))) == data.sum() + filled
    data[0, 0, 1] = 0
    assert sum(left(volume(data), FillStep(flat=9))) == data.sum() + 8, "one of them is open now"
    data[0, 4, 4] = 2
    assert 2 in left(volume(data), FillStep(flat=9))
    thick = np.concatenate([data, data])
    assert left(volume(thick), FillStep(flat=9)) == thick.ravel().tolist()


def test_what_is_outside_of_a_grown_structure_goes() -> None:
    labels = row(2, 2, 2, 1, 2, 2)
    assert left(labels, WithinStep(of=("one",), mm=2.5)) == [0, 2, 2, 1, 2, 2]  # two voxels of 1 mm
    assert left(labels, WithinStep(of=("one",), mm=0.5)) == [0, 0, 0, 1, 0, 0]
    assert left(row(2, 1), WithinStep(of=("one",), mm=0, structures=("one",))) == [2, 1]


def test_each_step_says_what_it_changed() -> None:
    _, effects = after(row(1, 1, 0, 1, 2), NAMES, (LargestStep(neighbours=6), DropStep(structures=("two",))))
    assert [e.step for e in effects] == [
        {"step": "largest", "structures": None, "together": False, "neighbours": 6, "spare": None, "equal": "all"},
        {"step": "drop", "structures": ["two"]},
    ]
    assert [[(c.name, c.removed_voxels) for c in e.changed] for e in effects] == [[("one", 1)], [("two", 1)]]


def test_what_goes_from_one_structure_to_another_is_lost_by_the_one_and_got_by_the_other() -> None:
    _, effects = after(row(1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2), NAMES, (JoinStep(),))
    changed = [(c.name, c.removed_voxels, c.filled_voxels) for c in effects[0].changed]
    assert changed == [("one", 0, 3), ("two", 3, 0)]


@given(seed=st.integers(0, 2**16), shape=st.tuples(*[st.integers(1, 7)] * 3), share=st.floats(0.02, 0.9))
def test_pieces_through_faces_are_those_of_a_plain_labelling(
    seed: int, shape: tuple[int, int, int], share: float
) -> None:
    rng = np.random.default_rng(seed)
    data = rng.integers(1, 3, shape) * (rng.random(shape) < share)
    found = islands(volume(data), neighbours=6)
    for value in (1, 2):
        plain, n = label(data == value, generate_binary_structure(3, 1))
        assert sorted(found.size[found.of(value)]) == sorted(np.bincount(plain.ravel())[1 : n + 1])


LIES = [
    ([{"step": "shrink"}], "has the step 'shrink', not one of largest, small, fill, join, drop, within"),
    ([{"step": "small"}], "needs mm3"),
    ([{"step": "small", "mm3": -1}], "mm3 = -1"),
    ([{"step": "small", "mm3": 1, "neighbours": 18}], "neighbours = 18, not 6 or 26"),
    ([{"step": "largest", "structures": []}], "structures"),
    ([{"step": "largest", "structures": ["lung"]}], "names 'lung', which is no structure among the labels"),
    ([{"step": "drop", "structures": ["background"]}], "names 'background'"),
    ([{"step": "join", "dissolved": ["lung"]}], "has a step join that names 'lung'"),
    ([{"step": "join", "dissolved": ["1", "2", "3", "4", "5"]}], "drops every structure"),
    ([{"step": "within", "of": ["lung"], "mm": 10}], "names 'lung'"),
    ([{"step": "within", "of": ["liver"], "mm": float("nan")}], "mm"),
    ([{"step": "drop", "structures": ["1", "2", "3", "4", "5"]}], "drops every structure"),
    ([{"step": "fill", "flat": 0}], "flat = 0, not null or a whole number"),
    ([{"step": "fill", "others": 1}], "others = 1, not true or false"),
    ({"step": "fill"}, "is not a list of steps"),
]


@pytest.mark.parametrize(("value", "words"), LIES)
def test_a_step_that_is_none_is_refused_by_its_field(value: object, words: str) -> None:
    with pytest.raises(ModelError, match=words) as refusal:
        card.parse({**CARD, "after": value})
    assert "the field after" in refusal.value.message


def test_a_structure_that_is_dropped_is_no_answer_of_the_model() -> None:
    made = card.parse({**CARD, "after": [{"step": "drop", "structures": ["body", "5"]}]})
    assert [x.name for x in made.structures] == ["liver", "spleen", "heart"]
    assert made.after[0].structures == ("body", "spine")


def test_a_small_piece_is_joined_to_the_structure_that_it_touches_most() -> None:
    labels = row(1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2)
    # Of two that are equal the first in the array goes first: the three of two, to the five of one before them.
    assert left(labels, JoinStep()) == [1] * 11 + [2] * 4
    assert left(labels, JoinStep(structures=("one",))) == [1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2]


def test_pieces_that_touch_nothing_stay_and_specks_are_not_joined() -> None:
    labels = row(1, 1, 1, 1, 0, 1, 1, 1, 0, 2, 2, 2, 2, 1, 1, 2, 2, 1, 1)
    assert left(labels, JoinStep()) == [1, 1, 1, 1, 0, 1, 1, 1, 0, 2, 2, 2, 2, 1, 1, 2, 2, 0, 0]
    assert left(labels, JoinStep(), LargestStep()) == [1] * 4 + [0] * 5 + [2] * 4 + [0] * 6
    assert left(row(1, 1, 0, 2, 2, 2, 2), JoinStep()) == [1, 1, 0, 2, 2, 2, 2], "it is the structure's largest"


def test_of_equally_large_pieces_the_first_alone_is_not_joined_and_keeps_its_name() -> None:
    labels = row(1, 1, 1, 1, 0, 1, 1, 1, 1, 0, 2, 2, 2)
    assert left(labels, JoinStep()) == [1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 2, 2, 2]
    grown = row(1, 1, 1, 1, 2, 2, 2, 0, 1, 1, 1, 1, 0, 2, 2, 2, 2)
    # The first has grown by the three of two before the second has its turn, which touches nothing.
    assert left(grown, JoinStep()) == [1] * 7 + [0] * 6 + [2] * 4


def test_structures_that_are_dissolved_go_to_those_that_they_touch_as_one() -> None:
    labels = row(1, 1, 1, 1, 2, 2, 3, 3, 2, 0, 3, 3, 3)
    dissolved = JoinStep(dissolved=("two", "three"))
    assert left(labels, dissolved) == [1] * 9 + [0] * 4
    assert left(row(3, 3, 3, 1, 1, 1, 3, 3, 3, 1, 1, 1, 1), dissolved)[6:9] == [1] * 3
    made = card.parse({**CARD, "after": [{"step": "join", "dissolved": ["body", "5"]}]})
    assert [x.name for x in made.structures] == ["liver", "spleen", "heart"]


@pytest.mark.parametrize(("connectivity", "neighbours"), [(1, 6), (3, 26)])
def test_holes_are_filled_as_monais_FillHoles_does(connectivity: int, neighbours: int) -> None:
    """A structure after the other, also where one encloses another and where a hole is open through a corner alone."""
    data = ((np.random.default_rng(3).random((17, 9, 8)) * 3.7).astype(np.uint8) % 3)[None]
    data[0, 1:6, 1:7, 1:7] = np.maximum(data[0, 1:6, 1:7, 1:7], 1)
    data[0, 7:] = 0
    data[0, 8:12, 1:6, 1:6], data[0, 9:11, 2:5, 2:5], data[0, 9, 3, 3] = 1, 0, 2  # around a hole with another one in it
    data[0, 13:16, 2:5, 2:5], data[0, 14, 3, 3], data[0, 13, 2, 2] = 2, 0, 0  # around a hole that is open at a corner
    before = data.copy()
    steps = [FillStep(structures=(name,), others=True, neighbours=neighbours) for name in ("one", "two")]
    done, _ = after(volume(data[0]), NAMES, steps)
    for value in (1, 2):  # monai.transforms.utils.fill_holes
        way = generate_binary_structure(3, connectivity)
        beyond = binary_dilation(np.zeros(data.shape[1:]), way, -1, mask=data[0] != value, border_value=1)
        data[0, ~beyond] = value
    np.testing.assert_array_equal(done.data, data)
    assert np.all(data[0, 9:11, 2:5, 2:5] == 1)
    assert (data[0, 14, 3, 3] == 2) == (neighbours == 6)
    assert np.count_nonzero(data != before) >= 18
