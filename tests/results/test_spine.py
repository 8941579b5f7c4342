"""Vertebrae that touch are numbered anew, and structures grow into background; each row is counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from test_after import left, row, volume

from segcli.models.after import GrowStep, SpineStep
from segcli.space.volume import Grid, Volume

DOWN = ("one", "two", "three")  # from the head down; a row runs from the feet up


@pytest.mark.parametrize(
    ("before", "wanted"),
    [
        ([3, 3, 2, 0, 2, 0, 1], [3, 3, 3, 0, 2, 0, 1]),  # from below, where the last one is found
        ([2, 2, 1, 0, 2, 0, 1], [3, 3, 3, 0, 2, 0, 1]),  # from above, where the first one is found and the last not
        ([3, 2, 0, 2, 0, 2, 0], [3, 3, 0, 2, 0, 1, 0]),
        ([1, 2, 0, 3, 0, 2, 0, 1], [3, 3, 0, 2, 0, 1, 0, 0]),  # a piece too many
        ([3, 0, 1, 0, 1, 0, 2], [3, 0, 1, 0, 1, 0, 2]),  # nothing touches: nothing is mixed up
        ([0, 0, 0], [0, 0, 0]),
    ],
)
def test_pieces_of_all_together_are_one_vertebra_each_in_the_order_of_the_spine(before, wanted):
    assert left(row(*before), SpineStep(structures=DOWN, mm3=1)) == wanted


def test_pieces_below_a_volume_are_no_vertebrae():
    assert left(row(3, 2, 0, 2, 0, 1), SpineStep(structures=DOWN, mm3=2)) == [3, 3, 0, 0, 0, 0]
    assert left(row(3, 2, 0, 2, 0, 1), SpineStep(structures=DOWN, mm3=3)) == [0, 0, 0, 0, 0, 0]


def test_other_structures_are_left_alone():
    assert left(row(2, 1, 0, 2, 3), SpineStep(structures=("one", "two"), mm3=1)) == [2, 2, 0, 1, 3]


def test_up_is_where_the_grid_says():
    affine = np.diag([1.0, 1.0, -1.0, 1.0])
    upside_down = Volume(np.array([1, 0, 2, 0, 2, 3, 3], np.uint8).reshape(1, 1, 1, -1), Grid((1, 1, 7), affine))
    assert left(upside_down, SpineStep(structures=DOWN, mm3=1)) == [1, 0, 2, 0, 3, 3, 3]


def test_structures_grow_into_background_and_the_first_takes_first():
    assert left(row(0, 0, 0, 1, 0, 0, 0, 2), GrowStep(structures=DOWN, mm=2)) == [0, 1, 1, 1, 1, 1, 2, 2]
    assert left(row(0, 0, 1, 0, 2), GrowStep(structures=("two", "one"), mm=1)) == [0, 1, 1, 2, 2]
    assert left(row(0, 1, 0), GrowStep(structures=("one",), mm=0.5)) == [0, 1, 0]


def test_what_grows_is_an_ellipsoid_of_whole_voxels():
    data = np.zeros((5, 5, 5))
    data[2, 2, 2] = 1
    grown = np.array(left(volume(data), GrowStep(structures=("one",), mm=1.5))).reshape(5, 5, 5)
    assert grown.sum() == 19, "the middle, 6 across faces and 12 across edges at 1.41 mm; corners are 1.73 mm away"
