"""Several models, one of them made of models, label one scan together: by their probabilities at its voxels."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from models import LABELS, of_models, organs
from runs import in_process, scan

from segcli.inference.decide import Decision
from segcli.inference.segment import Segmentation, Wishes
from segcli.inference.whole_models import mean_of
from segcli.space.volume import Grid, Volume

GRID = Grid((1, 1, 3), np.eye(4))


def answer(labels: list[int], shares: list[list[int]], sure: float = 0.5) -> Segmentation:
    """Of three voxels; the channels' shares are in percent."""
    probabilities = np.rint(np.array(shares) * 2.55).astype(np.uint8).reshape(-1, 1, 1, 3)
    seconds = {"network": 1.0}
    confidence = {1: sure}
    data = np.array(labels, np.uint8).reshape(1, 1, 1, 3)
    return Segmentation(Volume(data, GRID), seconds, 2, confidence, ("a",), Volume(probabilities, GRID))


def test_where_all_agree_their_label_stands_and_elsewhere_the_mean_decides() -> None:
    decide = Decision((0, 1, 2))
    one = answer([1, 1, 2], [[0, 10, 0], [100, 50, 40], [0, 40, 60]])
    other = answer([1, 2, 0], [[0, 10, 90], [100, 20, 0], [0, 70, 10]], 0.7)
    found = mean_of([(one, decide), (other, decide)], [[1, 2]], Wishes(votes=True, probabilities=True))
    assert found.labels.data.ravel().tolist() == [1, 2, 0]
    assert found.votes is not None
    assert found.votes.data.ravel().tolist() == [0, 128, 128]
    assert found.disagreement == {0: 128 / 255, 1: 0.0, 2: 128 / 255}
    assert (found.windows, found.seconds, found.warnings) == (4, {"network": 2.0}, ("a",))
    assert found.confidence[1] == pytest.approx(0.6)
    assert found.probabilities is not None
    assert found.probabilities.data[1].ravel().tolist() == [255, 89, 51]


def test_channels_are_matched_by_their_labels() -> None:
    one = answer([1, 1, 1], [[0, 0, 0], [60, 60, 60], [40, 40, 40]])
    other = answer([2, 2, 2], [[0, 0, 0], [100, 100, 100], [0, 0, 0]])
    found = mean_of([(one, Decision((0, 1, 2))), (other, Decision((0, 2, 1)))], [[1, 2]], Wishes())
    assert found.labels.data.ravel().tolist() == [2, 2, 2]


def test_structures_of_one_part_compete_among_each_other_and_a_later_part_has_the_last_word() -> None:
    decide = Decision((0, 1, 2))
    # the first voxel: each part alone finds something; the second: only the first; the third: neither has a half
    one = answer([2, 1, 0], [[0, 10, 20], [90, 60, 40], [60, 30, 40]])
    other = answer([1, 0, 1], [[0, 10, 20], [90, 60, 40], [60, 30, 40]])
    found = mean_of([(one, decide), (other, decide)], [[1], [2]], Wishes())
    assert found.labels.data.ravel().tolist() == [2, 1, 0]


def test_nested_regions_are_those_above_one_half() -> None:
    decide = Decision((2, 1), rule="regions")
    one, other = answer([1, 2, 0], [[90, 90, 40], [80, 20, 40]]), answer([2, 1, 2], [[90, 90, 52], [30, 70, 10]])
    found = mean_of([(one, decide), (other, decide)], [[2, 1]], Wishes())
    assert found.labels.data.ravel().tolist() == [1, 2, 0]


@pytest.mark.slow
def test_a_model_of_models_is_averaged_with_another_one_and_twice_with_itself(tmp_path: Path) -> None:
    both, path = of_models(tmp_path / "models"), scan(tmp_path / "a.nii.gz")
    plain = organs(tmp_path / "plain", name="plain", spacing=[5.0, 5.0, 5.0])

    def run(*models: Path, more: tuple[str, ...] = ()) -> tuple[np.ndarray, dict]:
        out = tmp_path / "-".join(model.name for model in models)
        words = [word for model in models for word in ("--model", model)]
        done = in_process("predict", path, *words, "--engine", "onnx", "--keep-islands", *more, "-o", out)
        assert done.returncode == 0, done.stderr
        record = json.loads((out / "a_seg.json").read_text())
        return np.asarray(nibabel.load(out / "a_seg.nii.gz").dataobj), record

    alone, record = run(both)
    twice, twice_record = run(both, both)
    assert np.array_equal(alone, twice), "one model twice is that model"
    assert twice_record["windows"] == 2 * record["windows"]
    assert twice_record["options"]["average"] == "probabilities"
    assert len(twice_record["crops"]) == 2
    mixed, mixed_record = run(both, plain, more=("--write", "disagreement"))
    other, _ = run(plain)
    agree = alone == other
    assert np.array_equal(mixed[agree], alone[agree])
    assert ((mixed == alone) | (mixed == other) | (mixed == 0)).all()
    assert (mixed != alone).any()
    assert (mixed != other).any()
    assert [m["name"] for m in mixed_record["model"]["members"]] == ["rough", "soft", "hard", "plain"]
    assert mixed_record["model"]["name"] == "both+plain"
    votes = np.asarray(nibabel.load(tmp_path / "both-plain" / "a_disagreement.nii.gz").dataobj)
    assert np.array_equal(votes > 0, (alone != mixed) | (other != mixed))
    some, record = run(both, plain, more=("--classes", "liver", "--overwrite"))
    assert set(np.unique(some)) <= {0, LABELS["liver"]}
    assert [m["name"] for m in record["model"]["members"]] == ["rough", "soft", "plain"]


def test_logits_of_models_of_models_are_not_averaged(tmp_path: Path) -> None:
    both, path = of_models(tmp_path / "models"), scan(tmp_path / "a.nii.gz")
    words = ("--model", both, "--model", both, "--average", "logits", "--engine", "onnx", "-o", tmp_path / "out")
    refused = in_process("predict", path, *words)
    assert refused.returncode == 2
    assert b"a model that is made of models has probabilities alone in common" in refused.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("briefly")
def test_a_plan_counts_the_windows_of_all(tmp_path: Path) -> None:
    both, path = of_models(tmp_path / "models"), scan(tmp_path / "a.nii.gz")
    planned = in_process("plan", path, "--model", both, "--model", both, "--engine", "onnx", "--json")
    assert planned.returncode == 0, planned.stderr
    assert json.loads(planned.stdout)["windows"] == 6
