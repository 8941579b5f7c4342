"""The usual range of a volume: at the size of the head, in the digits that people are shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import pytest
from models import CARD

from segcli.models.card import ModelCard, parse
from segcli.models.library import find
from segcli.results import checks
from segcli.results.measure import Structure
from segcli.results.page.case import case_page
from segcli.results.ranges import NEAR, usual
from segcli.space.volume import Grid, Volume

NAMES = [f"part_{x}" for x in "abcdefg"]


def card(**changes: Any) -> ModelCard:
    """Seven parts of usually 10 to 20 mL that grow with the size, and a fluid of 1 to 9 mL that does not."""
    return parse(
        {
            **{k: v for k, v in CARD.items() if k not in ("codes", "colours", "pairs")},
            "labels": {"background": 0} | {name: i for i, name in enumerate([*NAMES, "fluid"], 1)},
            "volumes_ml": {name: [10, 20] for name in NAMES} | {"fluid": [1, 9]},
            "volumes_by_size": NAMES,
            "volumes_source": "seven people",
            "checks": {"scale": 2},
            **changes,
        }
    )


def structure(name: str, ml: float, truncated: bool = False) -> Structure:
    return Structure(name, 1, round(ml * 1000), ml * 1000, ml, None, None, None, None, truncated)


def measured(ml: Mapping[str, float]) -> list[Structure]:
    return [structure(name, value) for name, value in ml.items()]


def test_a_range_has_the_size_of_the_head_where_it_grows_with_it() -> None:
    middle = 200**0.5
    found = usual(card(), measured(dict.fromkeys(NAMES, 1.5 * middle) | {"fluid": 30.0}))
    assert found.size == pytest.approx(1.5)
    assert found.ml["part_a"] == (15.0, 30.0)
    assert found.ml["fluid"] == (1.0, 9.0)


def test_what_is_missing_exploded_or_cut_off_does_not_change_the_size() -> None:
    middle = 200**0.5
    plain = measured(dict.fromkeys(NAMES, middle))
    assert usual(card(), [*plain[:4], structure("part_e", 0.0), structure("part_f", 900.0), plain[6]]).size == (
        pytest.approx(1.0)
    )
    cut = [*plain[:5], *(structure(name, 1.0, truncated=True) for name in NAMES[5:])]
    assert usual(card(), cut).size == pytest.approx(1.0)


def test_where_few_structures_are_there_any_size_that_the_card_allows_is_usual() -> None:
    found = usual(card(), measured(dict.fromkeys(NAMES[:4], 14.0)))
    assert found.size is None
    assert found.ml["part_a"] == (5.0, 40.0)
    assert usual(card(checks={}), []).ml["part_a"] == (10.0, 20.0)


def test_without_structures_that_grow_all_tell_the_size_and_no_range_changes() -> None:
    found = usual(card(volumes_by_size=[]), measured(dict.fromkeys(NAMES, 3 * 200**0.5)))
    assert found.size == pytest.approx(3)
    assert found.ml["part_a"] == (10.0, 20.0)


def blocks(ml: Mapping[str, float]) -> tuple[Volume, ModelCard]:
    """Each structure a row of voxels of 1 mL in its own plane, away from the border."""
    model = card()
    data = np.zeros((1, 2 + len(model.labels), 3, 60), np.uint8)
    for label in model.structures:
        data[0, label.id, 1, 1 : 1 + round(ml.get(label.name, 0))] = label.id
    return Volume(data, Grid(data.shape[1:], np.diag([10.0, 10, 10, 1]))), model


def test_one_range_is_tested_told_printed_and_drawn() -> None:
    labels, model = blocks(dict.fromkeys(NAMES[:5], 21) | {"part_f": 31, "part_g": 45, "fluid": 5})
    found = [f for f in checks.run(labels, None, model) if f.code == "volume"]
    low, high = (float(f"{x * 21 / 200**0.5:.3g}") for x in (10, 20))
    assert [(f.severity, f.sentence) for f in found] == [
        ("review", f"part_g: 45 mL, outside {low:g} to {high:g} mL"),
        ("note", f"part_f: 31 mL, just outside {low:g} to {high:g} mL"),
    ]
    from segcli.results.measure import measure

    structures = msgspec.to_builtins(measure(labels, model.labels).structures)
    facts = {"case": "a", "structures": structures, "checks": [], "verdict": "review"}
    html = case_page(Volume(labels.data.astype(np.float32), labels.grid), labels, model, facts).decode()
    assert html.count(f"<div>{low:.1f} to {high:.1f}</div>") == 7
    assert html.count("<div>1.00 to 9.00</div>") == 1
    assert html.count("seven people") == 1
    assert "for 1.48 times the middle size" in html
    assert f"above the most times {NEAR:g}, it is a doubt" in html
    first, last = 250, 250 + 640  # the axis: 1 to 100 mL
    at = [f"{round(first + (last - first) * np.log10(ml) / 2, 1):g}" for ml in (low, high)]
    assert f"M{at[0]} " in html
    assert f"H{at[1]}M" in html


def test_the_ranges_of_the_default_model_span_less_than_a_factor_of_forty() -> None:
    ranges = find("uxnet").volumes_ml
    assert len(ranges) == 31
    assert max(high / low for low, high in ranges.values()) < 40
    assert all(ranges[f"left_{x}"] == ranges[f"right_{x}"] for x in ("hippocampus", "lateral_ventricle", "pallidum"))
