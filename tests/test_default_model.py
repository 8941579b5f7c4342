"""The default model on a real scan: the engines agree, and the labels are where FreeSurfer has them."""

from pathlib import Path

import numpy as np
import pytest

from segcli import formats
from segcli.engines.choose import open_engine
from segcli.inference.segment import segment
from segcli.models.library import find

DATA = Path(__file__).parent / "data" / "brain_t1"


@pytest.fixture(scope="module")
def labels() -> dict[str, np.ndarray]:
    card, scan = find("uxnet"), formats.read([DATA / "subB_t1_brain.nii.gz"])
    return {
        name: segment(scan, card.procedure, open_engine(card, engine=name).engine).labels.data[0]
        for name in ("openvino", "onnx", "torch")
    }


@pytest.mark.parametrize("other", ["onnx", "torch"])
def test_6_7_engines_agree_on_999_of_1000_labelled_voxels(labels: dict[str, np.ndarray], other: str) -> None:
    one, two = labels["openvino"], labels[other]
    labelled = (one > 0) | (two > 0)
    assert labelled.sum() > 1_000_000
    assert (one == two)[labelled].mean() >= 0.999


def test_white_matter_and_cortex_lie_where_freesurfer_has_them_left_and_right(labels: dict[str, np.ndarray]) -> None:
    reference = formats.read([DATA / "subB_aseg.nii.gz"]).data[0]
    for value in (2, 41, 3, 42, 8, 47):
        guess, truth = labels["openvino"] == value, reference == value
        assert 2 * (guess & truth).sum() / (guess.sum() + truth.sum()) > 0.7, value
