"""The step refine: borders between structures follow the scan where a network's voxels are too long to."""

from __future__ import annotations

import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest
from models import CARD
from scipy.ndimage import gaussian_filter1d
from test_after import NAMES

from segcli import parallel
from segcli.errors import ModelError
from segcli.models import card
from segcli.models.after import RefineStep
from segcli.results import refine
from segcli.results.after import after
from segcli.space.volume import Grid, Volume
from segcli.structures import Label

STEP = RefineStep(mm=1, around_mm=16, spread=1.5)
BRIGHT = np.array([0, 100, 60, 140], np.float32)
N = 48


def truth(shape: tuple[int, int, int] = (N, N, N)) -> np.ndarray:
    """A ball of 1 with a wavy shell of 2 around it, and 3 beside them; 0 outside."""
    z, y, x = (
        np.linspace(-1, 1, n).reshape([-1 if i == axis else 1 for i in range(3)]) for axis, n in enumerate(shape)
    )
    r = np.sqrt(x * x + y * y + z * z)
    shell = np.where(r < 0.55 + 0.06 * np.sin(9 * np.arctan2(y, x + 1e-9)), 1, 2)
    return np.where(r > 0.9, 0, np.where(x + 0 * r > 0.6, 3, shell)).astype(np.uint8)


def coarse(labels: np.ndarray, step: int = 2) -> np.ndarray:
    """The same in blocks of the label in their corner: half a block off, as if a network had voxels so long."""
    return labels[::step, ::step, ::step].repeat(step, 0).repeat(step, 1).repeat(step, 2)


def image_of(labels: np.ndarray, noise: float = 5, seed: int = 0) -> np.ndarray:
    return (BRIGHT[labels] + np.random.default_rng(seed).normal(0, noise, labels.shape)).astype(np.float32)


def refined(labels: np.ndarray, image: np.ndarray, step: RefineStep = STEP, steps_mm: Any = (1, 1, 1)) -> np.ndarray:
    """Steps in mm along the axes of the array."""
    grid = Grid(labels.shape, np.diag([*steps_mm[::-1], 1.0]))
    return after(Volume(labels[None], grid), NAMES, [step], Volume(image[None], grid))[0].data[0]


def inside(one: np.ndarray, other: np.ndarray, where: np.ndarray) -> float:
    return float((one == other)[where].mean())


def test_a_border_within_a_voxel_of_the_network_goes_where_the_scan_has_it() -> None:
    right = truth()
    before = coarse(right)
    there = (before > 0) & (right > 0)
    found = refined(before, image_of(right))
    assert inside(before, right, there) < 0.97
    assert inside(found, right, there) > 0.99


@pytest.mark.parametrize(("factor", "offset"), [(-1, 0), (1e-3, 0), (1e4, -3e5), (1, 1e4)])
def test_whatever_the_scale_and_the_order_of_brightness_the_borders_are_the_same(factor: float, offset: float) -> None:
    right = truth()
    image = image_of(right)
    same = refined(coarse(right), image) == refined(coarse(right), image * np.float32(factor) + np.float32(offset))
    assert same.mean() > 0.9999


def test_brightness_that_changes_through_the_scan_is_that_of_what_is_near() -> None:
    """Along x the image grows three times brighter: structure 1 at one end is as bright as 3 at the other."""
    right = truth()
    image = image_of(right) * np.linspace(0.6, 1.8, N, dtype=np.float32)
    there = (coarse(right) > 0) & (right > 0)
    assert inside(refined(coarse(right), image), right, there) > 0.98


def test_the_outline_and_what_is_not_named_stay() -> None:
    right = truth()
    before = coarse(right)
    found = refined(before, image_of(right))
    np.testing.assert_array_equal(found > 0, before > 0)
    found = refined(before, image_of(right), RefineStep(mm=1, around_mm=16, spread=1.5, structures=("one", "two")))
    np.testing.assert_array_equal(found == 3, before == 3)
    assert (found != before).any()


def test_a_scan_that_says_nothing_changes_nothing() -> None:
    before = coarse(truth())
    np.testing.assert_array_equal(refined(before, np.full(before.shape, 7, np.float32)), before)
    np.testing.assert_array_equal(refined(before, np.full(before.shape, np.nan, np.float32)), before)
    nothing = np.zeros_like(before)
    np.testing.assert_array_equal(refined(nothing, image_of(truth())), nothing)


@pytest.mark.parametrize("mm", [1, 3])
def test_a_scan_without_noise_is_followed_also_where_no_structure_varies(mm: float) -> None:
    right = truth()
    before, there = coarse(right), (coarse(right) > 0) & (right > 0)
    found = refined(before, image_of(right, noise=0), RefineStep(mm=mm, around_mm=16, spread=1.5))
    assert inside(found, right, there) > 0.999


def test_structures_of_one_voxel_do_not_tell_how_far_brightness_varies() -> None:
    right = truth()
    specks = [Label(10 + i, f"speck_{i}") for i in range(5)]
    before, grid = coarse(right), Grid(right.shape, np.eye(4))
    alone = refined(before, image_of(right))
    for i in range(len(specks)):
        before[2 * i, 0, 0] = 10 + i
    scan = Volume(image_of(right)[None], grid)
    found = after(Volume(before[None], grid), [*NAMES, *specks], [STEP], scan)[0].data[0]
    np.testing.assert_array_equal(np.where(before < 10, found, 0), alone)


def test_one_voxel_one_slice_and_a_structure_alone_are_no_trouble() -> None:
    for shape in ((1, 1, 1), (1, 9, 9), (9, 1, 9)):
        labels = np.ones(shape, np.uint8)
        np.testing.assert_array_equal(refined(labels, image_of(labels)), labels)
    slab = truth()[N // 2 : N // 2 + 1]
    found = refined(coarse(truth())[N // 2 : N // 2 + 1], image_of(slab), steps_mm=(5, 1, 1))
    assert inside(found, slab, (slab > 0) & (found > 0)) > 0.98


def test_voxels_that_are_no_number_keep_their_label() -> None:
    right = truth()
    before, image = coarse(right), image_of(right)
    lost = np.random.default_rng(1).random(image.shape) < 0.05
    image[lost] = np.where(np.random.default_rng(2).random(int(lost.sum())) < 0.5, np.nan, np.inf)
    found = refined(before, image)
    np.testing.assert_array_equal(found[lost], before[lost])
    assert inside(found, right, (before > 0) & (right > 0) & ~lost) > 0.98


def test_slices_of_5_mm_are_refined_within_themselves() -> None:
    right = truth((10, N, N))
    before = right[:, ::2, ::2].repeat(2, 1).repeat(2, 2)
    there = (before > 0) & (right > 0)
    found = refined(before, image_of(right), steps_mm=(5, 1, 1))
    assert 1 - inside(found, right, there) < (1 - inside(before, right, there)) / 2


@pytest.mark.parametrize("steps_mm", [(1, 1, 1), (0.4, 1, 3)])
def test_labels_do_not_hang_on_how_many_voxels_are_decided_in_one_go(
    monkeypatch: pytest.MonkeyPatch, steps_mm: tuple[float, float, float]
) -> None:
    right = truth()
    whole = refined(coarse(right), image_of(right), steps_mm=steps_mm)
    monkeypatch.setattr(refine, "_SIDE", 7)
    monkeypatch.setattr(refine, "_VOXELS", 3 * N * N)
    np.testing.assert_array_equal(refined(coarse(right), image_of(right), steps_mm=steps_mm), whole)


@pytest.mark.parametrize(("sigma", "reach"), [(0.0, 2), (0.2, 2), (0.25, 2), (1.0, 2), (3.3, 2), (4.0, 4)])
def test_a_gaussian_is_that_of_scipy(sigma: float, reach: float) -> None:
    data = np.random.default_rng(0).random((5, 6, 7))
    for axis in range(3):
        weights = refine._weights(sigma, reach)
        found = refine._smoothed(refine._with_rim(data, len(weights) - 1, axis), weights, axis)
        expected = gaussian_filter1d(data, sigma, axis, mode="constant", truncate=reach) if sigma else data
        np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_memory_is_a_few_bytes_for_each_voxel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: 1)  # each thread has some of its own
    right = truth((96, 96, 96))
    labels, grid = Volume(coarse(right)[None], Grid(right.shape, np.eye(4))), Grid(right.shape, np.eye(4))
    scan, data = Volume(image_of(right)[None], grid), labels.data.copy()
    tracemalloc.start()
    refine.refine(labels, scan, [1, 2, 3], STEP, data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * right.size


def test_nothing_is_imported_that_takes_as_long_as_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("scipy", "scipy.ndimage"):
        monkeypatch.setitem(sys.modules, name, None)
    right = truth()
    assert (refined(coarse(right), image_of(right)) != coarse(right)).any()


def test_the_first_channel_counts_and_the_scan_is_left_as_it_is() -> None:
    right = truth()
    grid = Grid(right.shape, np.eye(4))
    image = np.stack([image_of(right), image_of(np.flip(right, 0))])
    kept, labels = image.copy(), coarse(right)
    found = after(Volume(labels[None], grid), NAMES, [STEP], Volume(image, grid))[0].data[0]
    np.testing.assert_array_equal(found, refined(labels, image[0]))
    np.testing.assert_array_equal(image, kept)
    np.testing.assert_array_equal(labels, coarse(right))


@pytest.mark.parametrize(
    "wrong",
    [
        {"mm": 0},
        {"mm": 11},
        {"around_mm": 0.5},
        {"spread": 0},
        {"spread": None},
        {"structures": ["heard"]},
        {"structures": ["heart"]},
        {"structures": ["heart", str(CARD["labels"]["heart"])]},
        {"sigma": 1},
    ],
)
def test_a_step_with_sizes_out_of_range_or_names_unknown_is_refused(wrong: dict[str, Any]) -> None:
    step = {"step": "refine", "mm": 1, "around_mm": 16, "spread": 1.5}
    assert card.parse({**CARD, "after": [step]}).after == (STEP,)
    with pytest.raises(ModelError, match="after"):
        card.parse({**CARD, "after": [{**step, **wrong}]})


def test_a_model_of_one_structure_has_no_borders_to_refine() -> None:
    step = {"step": "refine", "mm": 1, "around_mm": 16, "spread": 1.5}
    two_channels = {**CARD["architecture"], "out_chans": 2}
    one = {**CARD, "architecture": two_channels, "labels": {"background": 0, "heart": 1}, "codes": {}}
    card.parse(one)
    with pytest.raises(ModelError, match="of one structure"):
        card.parse({**one, "after": [step]})


def test_labels_on_the_models_grid_are_not_refined() -> None:
    step = {"step": "refine", "mm": 1, "around_mm": 16, "spread": 1.5}
    with pytest.raises(ModelError, match="a step refine looks at the scan's own voxels"):
        card.parse({**CARD, "faithful": "values", "after_at": "model", "after": [step]})
