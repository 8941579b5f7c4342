"""Which structures a user names."""

import pytest

from segcli.errors import UsageError
from segcli.structures import Label, chosen

NAMES = (
    "background", "hippocampus_left", "hippocampus_right", "lateral_ventricle_left", "third_ventricle", "lh_cortex",
    "rh_cortex", "body",
)  # fmt: skip
LABELS = [Label(i, name, code="SCT 1" if name == "body" else None) for i, name in enumerate(NAMES)]


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("third_ventricle", ["third_ventricle"]),
        ("7", ["body"]),
        ("SCT 1", ["body"]),
        ("hippocampus", ["hippocampus_left", "hippocampus_right"]),
        ("cortex", ["lh_cortex", "rh_cortex"]),
        ("*ventricle*", ["lateral_ventricle_left", "third_ventricle"]),
        ("*_left", ["hippocampus_left", "lateral_ventricle_left"]),
        ("Lateral Ventricle", ["lateral_ventricle_left"]),
        ("Third Ventricle", ["third_ventricle"]),
        ("LH-Cortex", ["lh_cortex"]),
        ("BODY", ["body"]),
    ],
)
def test_structures_are_named_by_name_number_code_pattern_or_without_their_side(word, names):
    assert [label.name for label in chosen(LABELS, [word], "--classes")] == names


def test_what_is_named_twice_comes_once():
    found = chosen(LABELS, ["hippocampus_right", "hippocampus"], "--classes")
    assert [label.name for label in found] == ["hippocampus_right", "hippocampus_left"]


@pytest.mark.parametrize("word", ["ventricle", "hippocampus_middle", "*liver*", "left"])
def test_a_word_that_means_nothing_is_refused(word):
    with pytest.raises(UsageError, match="no structure has that name, number or code"):
        chosen(LABELS, [word], "--classes")


@pytest.mark.parametrize("word", ["hipocampus", "HIPOCAMPUS", "Hipocampus"])
def test_a_slip_in_a_name_without_a_side_is_answered_by_that_name(word):
    with pytest.raises(UsageError, match="did you mean 'hippocampus'"):
        chosen(LABELS, [word], "--classes")
