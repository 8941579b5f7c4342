"""Scans are conformed as FreeSurfer's kin do it, and a model of brainchop labels them as brainchop itself."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from brainchop_original import SCANS, THIN, scan
from brainchop_original import model as folder_of
from hypothesis import given
from hypothesis import strategies as st

from segcli import formats
from segcli.engines.choose import open_engine
from segcli.errors import ModelError
from segcli.inference.intensity import Histogram
from segcli.inference.prepare import prepare
from segcli.inference.segment import Wishes, decided, segment
from segcli.models import card, imports, library
from segcli.models.imports.brainchop import _GIVEN
from segcli.results.after import after
from segcli.space.grids import GridSpec, model_grid
from segcli.space.volume import Grid, Volume

STORED = np.load(Path(__file__).parents[1] / "data" / "brainchop" / "labels.npz")
CARD: dict[str, Any] = {
    "format": 1,
    "name": "drawn",
    "architecture": {"name": "meshnet"},
    "labels": {"background": 0, "one": 1, "two": 2, "three": 3},
    **_GIVEN,
}


def read(name: str, folder: Path) -> Volume:
    from nibabel import save

    save(scan(name), folder / f"{name}.nii.gz")
    return formats.read((folder / f"{name}.nii.gz",))


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    """The share of equal labels among the voxels that one or the other labels."""
    either = (one > 0) | (other > 0)
    assert either.sum() > 500
    return float((one == other)[either].mean())


@pytest.mark.parametrize("name", SCANS)
def test_grey_values_and_places_are_those_of_niimaths_conform(tmp_path: Path, name: str) -> None:
    procedure = card.parse(CARD).procedure
    found = prepare(read(name, tmp_path), replace(procedure, steps=procedure.steps[:3])).image.data[0][THIN]
    expected = STORED[f"{name}/conformed"]
    assert expected.any()
    # Of values half-way between two whole ones the last bit of a sum decides which they become.
    assert (found == expected)[expected > 0].mean() > 0.9995
    assert np.abs(found - expected).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SCANS if f"{name}/labels" in STORED])
def test_labels_are_those_of_brainchop_on_the_conformed_image_and_on_the_scan(tmp_path: Path, name: str) -> None:
    made = library.read_card(
        imports.adopt(folder_of(tmp_path / "model", STORED["last_bias"]), to=tmp_path, name="drawn")
    )
    assert (made.after_at, made.faithful) == ("model", "nearest")
    there: list[Volume] = []

    def steps(labels: Volume) -> Volume:
        there.append(after(labels, made.labels, made.after)[0])
        return there[0]

    procedure = replace(made.procedure, decide=replace(made.procedure.decide, back="nearest"))
    engine = open_engine(made, engine="torch", device="cpu").engine
    found = segment(read(name, tmp_path), procedure, engine, wishes=Wishes(steps=steps)).labels.data[0]
    assert agreement(there[0].data[0][THIN], STORED[f"{name}/labels"]) > 0.999
    assert agreement(found.transpose(), STORED[f"{name}/back"]) > 0.999


def conformed(grid: Grid, axes: str, n: int = 8) -> Grid:
    return model_grid(grid, GridSpec(axes, (2.0, 1.0, 1.5), "conformed", shape=(n, n, n)))


@given(st.integers(0, 2**16), st.sampled_from(["LIA", "RAS", "SPL"]))
def test_a_conformed_grid_lies_along_the_patients_axes_around_the_scans_middle(seed: int, axes: str) -> None:
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * rng.uniform(0.5, 4, 3), rng.normal(0, 50, 3)
    grid = Grid(tuple(int(n) for n in rng.integers(1, 30, 3)), affine)
    found = conformed(grid, axes)
    assert (found.axes, found.shape) == (axes, (8, 8, 8))
    assert np.allclose(found.spacing, (2, 1, 1.5))
    assert (np.abs(found.directions) == np.abs(found.directions).max(0)).sum() == 3
    assert np.allclose(found.world([4, 4, 4]), grid.world(np.array(grid.shape) / 2))


def small(**change: Any) -> card.ModelCard:
    own = {"shape": [8, 8, 8], "patch_size": [8, 8, 8], "outside": 7.0}
    return card.parse({**CARD, **own, "intensity": [{"step": "resample"}], **change})


def test_what_lies_beyond_the_scan_has_the_value_of_nothing() -> None:
    image = Volume(np.arange(1, 28.0).reshape(1, 3, 3, 3), Grid((3, 3, 3), np.diag([1.0, 1, 1, 1])))
    found = prepare(image, small(orientation="LPS").procedure)
    # The middle, 1.5 voxels from the first one, is 4 from the first of the 8: they lie half-way between voxels.
    assert (found.image.data == 7).sum() == 8**3 - 2**3
    inner = found.image.data[0, 3:5, 3:5, 3:5]
    assert np.allclose(inner, [[[7.5, 8.5], [10.5, 11.5]], [[16.5, 17.5], [19.5, 20.5]]])


@pytest.mark.parametrize("finish", ["logits", "nearest"])
def test_what_lies_beyond_the_conformed_image_is_background(finish: str) -> None:
    made = small(back=finish, orientation="LPS")
    scan = Volume(np.ones((1, 12, 5, 5), np.float32), Grid((12, 5, 5), np.eye(4)))
    prepared = prepare(scan, made.procedure)
    logits = np.zeros((4, 8, 8, 8), np.float32)
    logits[3] = 1
    found = decided(
        scan,
        prepared,
        iter([Volume(logits, prepared.image.grid)]),
        made.procedure.decide,
        made.procedure.interpolation,
        Wishes(),
    ).labels.data[0]
    assert (found[2:10] == 3).all()
    assert not found[[0, 1, 10, 11]].any()


@given(st.integers(0, 2**16), st.floats(0.5, 0.999), st.booleans())
def test_a_histograms_end_leaves_a_share_of_what_is_not_nothing_above(seed: int, share: float, air: bool) -> None:
    rng = np.random.default_rng(seed)
    values = rng.gamma(2, 40, (9, 8, 7)).astype(np.float32) - 20 * (not air)
    values[:4] = 0 if air else values[:4]
    least, most = float(values.min()), float(values.max())
    found = Histogram(0, 255, share).fit(values, lambda: values > 0)(values.copy())
    assert (found.min(), found.max()) == (0, 255)
    between = (found > 1) & (found < 250)
    end = least + 255 / (found[between] / (values[between] - least)).mean()
    near, wanted = 3 * (most - least) / 1000, (1 - share) * (values != 0).sum()
    assert (values > end + near).sum() <= wanted
    assert (values >= end - near).sum() >= wanted


@pytest.mark.parametrize("value", [0.0, 3.0, -2.0])
def test_an_image_of_one_value_is_brought_to_the_lower_end(value: float) -> None:
    values = np.full((2, 3, 4), value, np.float32)
    assert (Histogram(10, 255, 0.98).fit(values, lambda: values > 0)(values.copy()) == 10).all()


LIES: list[tuple[dict[str, Any], str]] = [
    ({"orientation": None}, "takes an orientation, a shape and a spacing of three steps"),
    ({"shape": None}, "takes an orientation, a shape and a spacing of three steps"),
    ({"spacing": [1, None, 1]}, "takes an orientation, a shape and a spacing of three steps"),
    ({"spacing": None}, "takes an orientation, a shape and a spacing of three steps"),
    ({"anchor": "edges"}, "stands beside a spacing"),
    ({"faithful": "values", "after_at": "scan"}, "is conformed, beside area, values"),
    ({"interpolation": "area"}, "is conformed, beside area, values"),
    ({"shape": [1024, 1024, 1024]}, r"more than 2\^27 voxels"),
    ({"intensity": [{"step": "histogram", "low": 5, "high": 5, "share": 0.9}]}, "low 5 not below high 5"),
    ({"intensity": [{"step": "histogram", "low": 0, "high": 5}]}, "needs low and high and share"),
    ({"intensity": [{"step": "histogram", "low": 0, "high": 5, "share": 0}]}, "share = 0"),
    ({"intensity": [{"step": "histogram", "low": 0, "high": 5, "share": 1}]}, "share = 1"),
    ({"intensity": [{"step": "resample", "whole": "up"}]}, "whole = 'up', not true, false or \"rounded\""),
]


@pytest.mark.parametrize(("change", "words"), LIES)
def test_cards_that_contradict_themselves_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        card.parse({**CARD, **change})
