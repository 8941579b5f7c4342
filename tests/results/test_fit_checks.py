"""Labels that lie where the scan shows their structures, and labels that lie beside them."""

from dataclasses import replace

import numpy as np
import pytest

from segcli.formats.stated import Stated
from segcli.models.card import ModelCard, parse
from segcli.results.checks import Finding, run
from segcli.results.fit_checks import STRUCTURES
from segcli.space.volume import Grid, Volume

NAMES = [f"part_{i}" for i in range(1, STRUCTURES + 1)]
LEVELS = np.array([0, 90, 40, 70, 20, 100, 55, 30, 80])
AFFINE = np.array(
    [[0, 0, 2.0, -40], [0, 2.0, 0, -40], [2.0, 0, 0, -40], [0, 0, 0, 1]]
)  # slices up, columns to the left


def card(**limits: float) -> ModelCard:
    return parse(
        {
            "format": 1,
            "name": "parts",
            "architecture": {"name": "pointwise.Pointwise"},
            "channels": ["MR"],
            "labels": {"background": 0} | {name: i for i, name in enumerate(NAMES, 1)},
            "checks": limits,
            "patch_size": [16, 16, 16],
        }
    )


def blocks(noise: float = 5.0) -> tuple[Volume, Volume]:
    """Eight blocks of 32 x 24 x 24 mm side by side, each with a brightness of its own, in surroundings of all kinds."""
    labels = np.zeros((1, 48, 40, 40), np.uint8)
    corners = [(z, y, x) for z in (8, 24) for y in (8, 20) for x in (8, 20)]
    for i, (z, y, x) in enumerate(corners, 1):
        labels[0, z : z + 16, y : y + 12, x : x + 12] = i
    rng = np.random.default_rng(0)
    around = np.kron(rng.integers(0, 100, (12, 10, 10)), np.ones((4, 4, 4)))
    image = np.where(labels == 0, around, LEVELS[labels]) + rng.normal(0, noise, labels.shape)
    grid = Grid((48, 40, 40), AFFINE)
    return Volume(labels, grid), Volume(image.astype(np.float32), grid)


def told(labels: Volume, image: Volume | None, **limits: float) -> list[Finding]:
    return [f for f in run(labels, image, card(**(limits or {"moved": 1.25}))) if f.code == "misplaced"]


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ((6, 0, 0), "moved by 12 mm downwards the"),
        ((0, -5, 0), "moved by 10 mm backwards the"),
        ((0, 0, 5), "moved by 10 mm to the right the"),
        ((-3, 3, -4), "moved by 8 mm to the left and 6 mm forwards and 6 mm upwards the"),
    ],
)
def test_labels_that_lie_beside_their_structures_are_told_with_the_way_back(
    steps: tuple[int, int, int], words: str
) -> None:
    labels, image = blocks()
    beside = Volume(np.roll(labels.data, steps, (1, 2, 3)), labels.grid)
    (finding,) = told(beside, image)
    assert (finding.severity, finding.structure) == ("fail", None)
    assert finding.sentence.startswith(words)
    assert "do scan and labels belong together?" in finding.sentence


@pytest.mark.parametrize("noise", [0.0, 5.0, 40.0])
def test_labels_where_they_belong_are_no_doubt(noise: float) -> None:
    assert told(*blocks(noise)) == []


def test_of_a_scan_of_another_modality_it_is_not_said_where_its_brightness_would_fit() -> None:
    labels, image = blocks()
    other = Volume(np.roll(labels.data, 6, 1), labels.grid)
    model = replace(card(moved=1.25), modality="MR")
    (moved,) = (f.sentence for f in run(other, image, model, said=Stated("MR")) if f.code == "misplaced")
    assert moved.startswith("moved by")
    codes = {f.code for f in run(other, image, model, said=Stated("CT"))}
    assert "modality" in codes
    assert "misplaced" not in codes


def test_labels_of_a_scan_that_shows_nothing_of_them_are_no_doubt() -> None:
    labels, image = blocks()
    noise = np.random.default_rng(1).normal(50, 10, image.data.shape).astype(np.float32)
    assert told(labels, Volume(noise, image.grid)) == []
    gap = image.data.copy()
    gap[:, ::2] = np.nan
    assert told(labels, Volume(gap, image.grid)) == []


def test_nothing_is_said_without_a_scan_or_a_limit_or_enough_structures() -> None:
    labels, image = blocks()
    beside = Volume(np.roll(labels.data, 6, 1), labels.grid)
    assert told(beside, None) == []
    assert told(beside, image, scale=1.7) == []
    fewer = Volume(np.where(beside.data == 8, 7, beside.data).astype(np.uint8), beside.grid)
    assert told(fewer, image) == []
