"""The default model on a real scan: the engines agree, and the labels are where independent tissue maps have them."""

import functools
from pathlib import Path

import numpy as np
import pytest

from segcli import formats
from segcli.engines.choose import open_engine
from segcli.inference.segment import segment
from segcli.models.library import find
from segcli.results.after import after
from segcli.results.measure import measure
from segcli.space.volume import Volume

DATA = Path(__file__).parent / "data" / "mni_icbm152"
CORTEX, WHITE = (3, 42), (2, 41, 7, 46)
GREY = (*CORTEX, 8, 47, 10, 49, 11, 50, 12, 51, 17, 53, 18, 54, 26, 58)  # with cerebellum and deep grey matter


@functools.cache
def labels(engine: str = "openvino") -> np.ndarray:
    """After the card's steps, as `segcli predict` writes them."""
    card, scan = find("uxnet"), formats.read([DATA / "mni_icbm152_t1.nii.gz"])
    found = segment(scan, card.procedure, open_engine(card, engine=engine).engine).labels
    return np.asarray(after(found, card.labels, card.after, scan)[0].data[0])


def tissue(name: str) -> np.ndarray:
    """The probability of a tissue in each voxel, from the makers of the template."""
    return formats.read([DATA / f"mni_icbm152_{name}.nii.gz"]).data[0] / 255


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


@pytest.mark.slow
@pytest.mark.parametrize("other", ["onnx", "torch"])
def test_6_7_engines_agree_on_999_of_1000_labelled_voxels(other: str) -> None:
    one, two = labels(), labels(other)
    labelled = (one > 0) | (two > 0)
    assert labelled.sum() > 1_000_000
    assert (one == two)[labelled].mean() >= 0.999


def test_white_and_grey_matter_lie_where_the_tissue_maps_have_them() -> None:
    """Measured with the weights of 2026-12-01: 0.928 and 0.923, and 0.769 and 0.827 inside; the maps are averages."""
    found, grey, white = labels(), tissue("gm"), tissue("wm")
    assert dice(np.isin(found, WHITE), white > 0.5) > 0.91
    assert dice(np.isin(found, GREY), grey > 0.5) > 0.91
    assert grey[np.isin(found, CORTEX)].mean() > 0.75
    assert white[np.isin(found, WHITE)].mean() > 0.82
    for ours, theirs in ((WHITE, white), (GREY, grey)):
        assert np.isin(found, ours).sum() == pytest.approx((theirs > 0.5).sum(), rel=0.05)


def test_left_structures_are_on_the_left_and_as_large_as_the_right_ones() -> None:
    """The template is symmetric; its columns run from right to left (RAS), the middle plane is column 98."""
    card, scan = find("uxnet"), formats.read([DATA / "mni_icbm152_t1.nii.gz"])
    report = {s.label: s for s in measure(Volume(labels()[None], scan.grid), card.labels).structures}
    for left, right in ((2, 41), (3, 42), (8, 47), (10, 49), (12, 51), (17, 53)):
        assert report[left].centroid_mm[0] > 5 > -5 > report[right].centroid_mm[0]  # LPS: left is positive
        assert report[left].volume_ml == pytest.approx(report[right].volume_ml, rel=0.1)
