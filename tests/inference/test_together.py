"""Folds and models label a scan together: means, votes and refusals, worked out by hand and through the command."""

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from models import CARD, affine, organs
from runs import in_process, scan
from shapes import distances, grid

from segcli.batch.stages import Options, with_names
from segcli.engines.averaged import Ensemble
from segcli.engines.choose import open_engine
from segcli.engines.host import HostEngine
from segcli.engines.mirrored import mirrored
from segcli.engines.opening import Opening
from segcli.errors import ModelError, UsageError
from segcli.inference import windows
from segcli.inference.decide import Decision
from segcli.inference.segment import Wishes, segment
from segcli.inference.together import Member, alike, segment_at_the_scan, segment_together
from segcli.inference.windows import WindowPlan
from segcli.models.card import ModelCard, parse
from segcli.models.library import find
from segcli.space.volume import Volume

WEIGHT, BIAS = (part.reshape(1, -1, 1, 1, 1) for part in affine())
OWN = {"spacing": None, "orientation": None}  # the scan's own grid


class Linear(HostEngine):
    """The pointwise model of models.py with its threshold from body to liver moved by some HU."""

    name, batch, precision = "linear", 1, "float32"

    def __init__(self, later_hu: float = 0, softmax: bool = False) -> None:
        super().__init__(threads=1)
        self.bias, self.softmax = BIAS.copy(), softmax
        self.bias[:, 2:] -= later_hu / 20

    def run(self, patches: np.ndarray) -> np.ndarray:
        logits = patches * WEIGHT + self.bias
        if not self.softmax:
            return logits
        powers = np.exp(logits - logits.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)


def card(**changes: Any) -> ModelCard:
    return parse({**CARD, **changes})


def member(later_hu: float = 0, engine: Any = None, **changes: Any) -> Member:
    own = card(**changes)
    return Member(own.procedure, engine or Linear(later_hu, own.average == "probabilities"))


def row(*hu: float) -> Volume:
    """One row of voxels."""
    return Volume(np.array(hu, np.float32).reshape(1, 1, 1, -1), grid((1, 1, len(hu))))


def body() -> Volume:
    """A ball of 300 HU (spleen) in a ball of 0 HU, in air."""
    on = grid((24, 30, 28), (2.5, 1.7, 1.9), (10, -5, 20))
    hu = np.full(on.shape, -1000.0, np.float32)
    hu[distances(on, (0, 0, 0)) <= 21] = 0
    hu[distances(on, (4, 3, -2)) <= 10] = 300
    return Volume(hu[None], on)


# ---- models


def test_logits_of_models_are_averaged_and_those_that_differ_from_the_mean_are_counted() -> None:
    # The body ends at 95 HU for one and at 115 HU for the other, at 105 HU for their mean.
    found = segment_together(row(0, 100, 110, 120), [member(**OWN), member(20, **OWN)], wishes=Wishes(votes=True))
    assert found.labels.data.ravel().tolist() == [1, 1, 2, 2]
    assert found.votes is not None
    assert found.votes.data.ravel().tolist() == [0, 128, 128, 0]
    assert found.disagreement == {1: 0.25, 2: 0.25}
    assert found.windows == 2


def test_where_one_model_averages_probabilities_those_of_all_are_averaged() -> None:
    members = [member(**OWN), member(40, average="probabilities", **OWN)]
    found = segment_together(row(110, 200), members, wishes=Wishes(probabilities=True))
    x = (np.array([110, 200]) + 1000) / 2000
    each = []
    for later in (0, 40):
        logits = WEIGHT.ravel()[:, None] * x + Linear(later).bias.ravel()[:, None]
        each.append(np.exp(logits) / np.exp(logits).sum(0))
    assert found.probabilities is not None
    np.testing.assert_allclose(found.probabilities.data[:, 0, 0] / 255, np.mean(each, axis=0), atol=0.5 / 255)


def test_channels_are_matched_by_their_labels_and_not_by_their_place() -> None:
    names = CARD["labels"]
    turned = {"background": 0, **{name: names[name] for name in reversed([n for n in names if n != "background"])}}

    class Turned(Linear):
        def run(self, patches: np.ndarray) -> np.ndarray:
            return super().run(patches)[:, [0, 5, 4, 3, 2, 1]]

    together = segment_together(body(), [member(), member(engine=Turned(), labels=turned)])
    assert np.array_equal(together.labels.data, segment(body(), card().procedure, Linear()).labels.data)
    assert not any(together.disagreement.values())


@pytest.mark.parametrize(
    "changes",
    [
        {"orientation": "LPS"},
        {"orientation": "SAR", "patch_size": [8, 32, 24]},
        {"spacing": [2.0, 3.0, 4.0]},
        {"crop": "positive"},
        {"intensity": [{"step": "crop", "above": -900}, {"step": "resample"}, *CARD["intensity"]]},
    ],
    ids=["turned", "turned, other windows", "other spacing", "cropped", "cropped before it is resampled"],
)
def test_a_model_and_the_same_model_on_another_grid_agree(changes: dict[str, Any]) -> None:
    plain = segment(body(), card().procedure, Linear()).labels.data
    together = segment_together(body(), [member(), member(**changes)]).labels.data
    allowed = 0 if "spacing" not in changes and "intensity" not in changes else 0.03 * (plain > 0).sum()
    assert (together != plain).sum() <= allowed


def test_beyond_its_crop_a_model_votes_for_background() -> None:
    sees = {"intensity": [{"step": "crop", "above": 90}, {"step": "resample"}, *CARD["intensity"]]}
    found = segment_together(row(0, 0, 150, 0), [member(**OWN), member(**OWN, **sees)])
    # 0 HU: body by a margin of 25 over background; beside (0, -20) of the other one that is 12.5 - 10 > 0.
    assert found.labels.data.ravel().tolist() == [1, 1, 2, 1]
    assert found.disagreement == {1: 0.5, 2: 0}


def test_probabilities_are_averaged_at_the_voxels_of_the_scan() -> None:
    found = segment_at_the_scan(row(110, 200), [member(**OWN), member(40, **OWN)], wishes=Wishes(True, True))
    x = (np.array([110, 200]) + 1000) / 2000
    each = []
    for later in (0, 40):
        logits = WEIGHT.ravel()[:, None] * x + Linear(later).bias.ravel()[:, None]
        each.append(np.exp(logits) / np.exp(logits).sum(0))
    assert found.probabilities is not None
    np.testing.assert_allclose(found.probabilities.data[:, 0, 0] / 255, np.mean(each, axis=0), atol=0.5 / 255)
    assert found.labels.data.ravel().tolist() == np.mean(each, axis=0).argmax(0).tolist()
    assert found.votes is not None
    assert found.votes.data.ravel().tolist() == [128, 0]


def test_one_model_twice_is_that_model_at_the_scan_too() -> None:
    plain = segment(body(), card().procedure, Linear()).labels.data
    found = segment_at_the_scan(body(), [member(), member(orientation="LPS")])
    assert np.array_equal(found.labels.data, plain)
    assert not any(found.disagreement.values())


def test_the_way_that_models_are_averaged_is_the_first_cards_or_the_options() -> None:
    own = card(ensemble_average="probabilities")
    assert with_names(Options(), own, several=True).average == "probabilities"
    assert with_names(Options(average="logits"), own, several=True).average == "logits"
    assert with_names(Options(), card(), several=True).average == "logits"
    assert with_names(Options(), own).average is None
    with pytest.raises(UsageError, match="one model has nothing to average with"):
        with_names(Options(average="logits"), own)


@pytest.mark.slow
def test_memory_holds_no_answer_for_the_whole_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "finished_bytes", lambda: 1 << 18)
    labels = {"background": 0, **{f"s{i}": i for i in range(1, 60)}}
    long = Volume(np.zeros((1, 300, 16, 16), np.int16), grid((300, 16, 16)))
    whole = 60 * long.grid.size * 4

    class Many(HostEngine):
        name, batch = "many", 1

        def run(self, patches: np.ndarray) -> np.ndarray:
            return np.repeat(patches, 60, 1)

    sizes = {"patch_size": [8, 16, 16], "labels": labels, "codes": {}, **OWN}
    members = [member(engine=Many(1), **sizes) for _ in range(3)]
    tracemalloc.start()
    segment_together(long, members, wishes=Wishes(votes=True))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < whole / 3


# ---- what is no ensemble


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"channels": ["MR"]}, "one sees CT, the other MR"),
        ({"labels": {**CARD["labels"], "liver": 7}}, "liver organs calls 2, other calls 7"),
        ({"labels": {k: v for k, v in CARD["labels"].items() if k != "spine"}}, "spine organs calls 5, other does not"),
        ({"labels": {**CARD["labels"], "aorta": 9}}, "aorta organs does not know, other calls 9"),
        ({"regions": [1, 2, 3, 4, 5]}, "nested regions"),
    ],
)
def test_models_with_other_labels_or_channels_are_refused_with_the_first_difference(
    changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ModelError, match=words):
        alike(card().procedure, card(**{"name": "other", "codes": {}, **changes}).procedure)


# ---- folds


class Fixed(HostEngine):
    """Answers with the same logits (K, 1, 1, n) whatever it is shown."""

    name, batch, precision = "fixed", 1, "float32"

    def __init__(self, *channels: list[float]) -> None:
        super().__init__(threads=1)
        self.logits = np.array(channels, np.float32)[None, :, None, None]

    def run(self, patches: np.ndarray) -> np.ndarray:
        return self.logits


PATCH = np.zeros((1, 1, 1, 1, 3), np.float32)
WHOLE = (slice(0, 1), slice(0, 1), slice(0, 3))


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_folds_that_decide_otherwise_than_their_mean_are_counted(library: str) -> None:
    folds: list[Any] = [Fixed([0, 0, 0], [1, 1, -1]), Fixed([0, 0, 0], [1, -2, -1]), Fixed([0, 0, 0], [1, -2, -1])]
    if library == "torch":
        import torch

        for fold in folds:
            fold.logits = torch.from_numpy(fold.logits)
            fold.owned = torch.clone
    answer = np.asarray(Ensemble(folds, Decision((0, 1)), votes=True).answer(PATCH[0], [WHOLE]))
    np.testing.assert_allclose(answer[0, :, 0, 0], [[0, 0, 0], [1, -1, -1], [0, 1 / 3, 0]], atol=1e-6)


def test_of_nested_regions_a_fold_differs_where_its_last_region_does() -> None:
    folds = [Fixed([1, 1, -1], [1, -1, -1]), Fixed([1, 1, -1], [-3, -1, 3])]  # mean: (1, 1, -1), (-1, -1, 1)
    answer = Ensemble(folds, Decision((1, 2), "regions"), votes=True).run(PATCH)
    assert answer[0, 2, 0, 0].tolist() == [0.5, 0, 0.5]


def test_votes_keep_their_channel_when_left_and_right_are_exchanged() -> None:
    sides = {"background": 0, "kidney_left": 1, "kidney_right": 2}
    own = card(labels=sides, codes={}, pairs=[["kidney_left", "kidney_right"]], mirror=[2], orientation="SAR")
    folds = [Fixed([0, 0, 0], [3, 0, 0], [0, 0, 3]), Fixed([0, 0, 0], [-1, 0, 0], [0, 0, 3])]
    answer = mirrored(Ensemble(folds, own.decide, votes=True), own).run(PATCH)
    np.testing.assert_allclose(answer[0, 1, 0, 0], [2, 0, 0])  # of (1, 0, 0) and the turned (3, 0, 0)
    np.testing.assert_allclose(answer[0, 3, 0, 0], [0.25, 0, 0.25])


# ---- through the command


def later(folder: Path, hu: float, **changes: Any) -> Path:
    """The small model with the liver's threshold moved, as one ONNX file or as one fold more in torch's weights."""
    from hashlib import sha256

    from models import onnx_file
    from safetensors.numpy import save

    weight, bias = affine()
    bias[2:] -= hu / 20
    organs(folder, **changes)
    document = json.loads((folder / "model.json").read_text())
    graph, weights = onnx_file(weight, bias, (32, 32, 32)), save({"conv.weight": weight, "conv.bias": bias})
    (folder / "model.onnx").write_bytes(graph)
    (folder / "weights.safetensors").write_bytes(weights)
    document |= {"onnx_sha256": sha256(graph).hexdigest(), "sha256": sha256(weights).hexdigest(), "name": folder.name}
    (folder / "model.json").write_text(json.dumps(document))
    return folder


@pytest.mark.slow
def test_the_command_averages_two_models_writes_where_they_differ_and_knows_both_when_run_again(
    tmp_path: Path,
) -> None:
    # 150 HU is liver for the one and body for the other (from 255 HU on) and for both together (from 175 HU on).
    models = [organs(tmp_path / "a", **OWN), later(tmp_path / "b", 160, **OWN)]
    words = ["predict", scan(tmp_path / "in" / "t1.nii.gz"), "-o", tmp_path / "out", "--engine", "onnx"]
    words += ["--write", "disagreement", "--model", models[0], "--model", models[1]]
    done = in_process(*words)
    assert done.returncode == 0, done.stderr.decode()
    ct = nibabel.load(tmp_path / "in" / "t1.nii.gz").get_fdata()
    labels = nibabel.load(tmp_path / "out" / "t1_seg.nii.gz").get_fdata()
    differing = nibabel.load(tmp_path / "out" / "t1_disagreement.nii.gz")
    assert differing.get_data_dtype() == np.uint8
    assert set(labels[ct == 150]) == {1}
    np.testing.assert_allclose(differing.get_fdata(), (ct == 150) * 0.5, atol=0.005)
    record = json.loads((tmp_path / "out" / "t1_seg.json").read_text())
    assert record["model"]["name"] == "organs+b"
    assert [m["name"] for m in record["model"]["members"]] == ["organs", "b"]
    assert record["disagreement"]["1"] == pytest.approx(0.5 * (ct == 150).sum() / (labels == 1).sum(), abs=1e-4)
    again = in_process(*words)
    assert b"already done" in again.stderr
    later(models[1], 0, **OWN)
    changed = in_process(*words, "--overwrite")
    assert b"already done" not in changed.stderr
    assert json.loads((tmp_path / "out" / "t1_seg.json").read_text())["model"]["sha256"] != record["model"]["sha256"]


def test_models_with_other_labels_end_with_78_before_anything_is_written(tmp_path: Path) -> None:
    first = organs(tmp_path / "a")
    other = organs(tmp_path / "b", labels={**CARD["labels"], "liver": 9})
    given = scan(tmp_path / "t1.nii.gz")
    done = in_process("predict", given, "-o", tmp_path / "out", "--model", first, "--model", other)
    assert done.returncode == 78
    assert b"liver organs calls 2" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_model_of_two_folds_tells_where_they_differ_by_torch_alone(tmp_path: Path) -> None:
    folder, other = organs(tmp_path / "a", **OWN), later(tmp_path / "b", 160, **OWN)
    (folder / "fold1.safetensors").write_bytes((other / "weights.safetensors").read_bytes())
    document = json.loads((folder / "model.json").read_text())
    sums = [json.loads((f / "model.json").read_text())["sha256"] for f in (folder, other)]
    document |= {"weights": ["weights.safetensors", "fold1.safetensors"], "sha256": sums}
    (folder / "model.json").write_text(json.dumps({k: v for k, v in document.items() if "onnx" not in k}))
    own = find(str(folder))
    opening = Opening((str(folder),), votes=True)
    opened = opening.open(own)
    assert (opened.engine.name, opened.reason) == ("torch cpu", "the other engines run the folds as one network")
    assert replace(opening, engine="torch").open(own).reason == "it was named"
    found = segment(row(0, 150, 300), own.procedure, opened.engine, wishes=Wishes(votes=True))
    assert found.labels.data.ravel().tolist() == [1, 1, 3]
    assert found.votes is not None
    assert found.votes.data.ravel().tolist() == [0, 128, 0]
    assert found.disagreement == {1: 0.25, 3: 0}
    plain = open_engine(own, engine="torch").engine
    assert np.array_equal(segment(row(0, 150, 300), own.procedure, plain).labels.data, found.labels.data)
    with pytest.raises(UsageError, match="onnx runs the folds"):
        replace(opening, engine="onnx").open(own)


def test_disagreement_of_one_network_is_refused(tmp_path: Path) -> None:
    folder = organs(tmp_path / "a")
    with pytest.raises(UsageError, match="one network"):
        Opening((str(folder),), votes=True).open(find(str(folder)))


def test_windows_that_were_skipped_have_no_votes() -> None:
    plan = WindowPlan((1, 1, 3), 0, "constant", skip=True)
    folds = Ensemble([Fixed([0, 0, 0], [1, 1, 1]), Fixed([0, 0, 0], [-3, -3, -3])], Decision((0, 1)), votes=True)
    own = card(labels={"background": 0, "liver": 1}, codes={}, intensity=[], patch_size=[1, 1, 3], **OWN)
    found = segment(row(0, 0, 0, 9, 9, 9), replace(own.procedure, window=plan), folds, wishes=Wishes(votes=True))
    assert found.votes is not None
    assert found.votes.data.ravel().tolist() == [0, 0, 0, 128, 128, 128]
