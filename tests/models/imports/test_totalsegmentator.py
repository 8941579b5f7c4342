"""Where TotalSegmentator runs nnU-Net's models: in RAS, sampled between the outermost voxel centres."""

from segcli.models.imports.totalsegmentator import around

PLANS = {
    "orientation": None,
    "transpose": [0, 1, 2],
    "spacing": [1.5, 0.8, 0.7],
    "anchor": "edges",
    "interpolation": "cubic",
    "coarse": 3,
    "intensity": [{"step": "crop", "above": None}, {"step": "clip", "low": 0, "high": 1}, {"step": "resample"}],
}


def test_the_scan_is_sampled_before_all_steps_and_whole_numbers_are_left() -> None:
    found = around(PLANS, (0.7, 0.8, 1.5))
    assert found["intensity"] == [{"step": "resample", "whole": True}, *PLANS["intensity"][:2]]
    assert (found["anchor"], found["interpolation"], found["coarse"]) == ("corners", "linear", None)
    assert (found["orientation"], found["spacing"]) == ("SAR", [1.5, 0.8, 0.7])


def test_axes_that_the_plans_transpose_keep_their_steps() -> None:
    found = around({**PLANS, "transpose": [2, 0, 1]}, (0.7, 0.8, 1.5))
    assert (found["orientation"], found["spacing"], found["transpose"]) == ("RSA", [0.7, 1.5, 0.8], [0, 1, 2])


def test_without_a_spacing_the_scan_is_turned_and_sampled_by_nnunet() -> None:
    assert around(PLANS, ()) == {"orientation": "SAR", "transpose": [0, 1, 2]}


def test_labels_are_called_as_totalsegmentator_calls_them_by_their_numbers() -> None:
    labels = {"background": 0, "trunk": 1, "ARMS": 2, "help": 3}
    found = around({**PLANS, "labels": labels}, (), ("body_trunc", "body_extremities"))
    assert found["labels"] == {"background": 0, "body_trunc": 1, "body_extremities": 2, "help": 3}
