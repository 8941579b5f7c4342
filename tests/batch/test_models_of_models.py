"""plan, info, --tta, workers of a cluster, and a run that was broken off, with parts behind a rough model."""

import json
from pathlib import Path

import kill
import pytest
from models import of_models, organs
from runs import files, in_process, scan

from segcli.batch.cases import Case
from segcli.batch.outputs import Destination
from segcli.batch.stages import Options
from segcli.batch.worker import work
from segcli.engines.held import Held
from segcli.engines.mirrored import Mirrored
from segcli.engines.opening import Opening
from segcli.errors import ModelError
from segcli.models.library import find


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return of_models(tmp_path / "models")


@pytest.mark.slow
@pytest.mark.usefixtures("briefly")
def test_plan_and_info_know_all_networks(tmp_path: Path, model: Path) -> None:
    path = scan(tmp_path / "a.nii.gz")
    words = ("--model", model, "--json")
    planned = in_process("plan", path, "--engine", "onnx", *words)
    assert planned.returncode == 0, planned.stderr
    assert json.loads(planned.stdout)["windows"] == 3
    assert b"both looks where rough finds spleen: at most this is needed" in planned.stderr
    told = in_process("info", path, *words)
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["model"] == "both"
    card = json.loads(in_process("models", "info", model, "--json").stdout)
    assert card["parts"] == ["soft", "hard"]
    assert card["looks_where"] == "rough"


def test_models_that_have_axes_for_it_are_mirrored(model: Path) -> None:
    opened = Opening((str(model),), engine="onnx", mirror=True).open(find(str(model)))
    assert [isinstance(own.engine, Mirrored) for _, own in opened.models(find(str(model)))] == [False, True, False]
    fine = find(str(organs(model.parent / "fine", name="fine", rough={"model": "rough", "structures": ["spleen"]})))
    with pytest.raises(ModelError, match="none of its models names an axis to mirror"):
        Opening((str(fine.folder),), engine="onnx", mirror=True).open(fine)


def test_the_record_says_what_to_cite_of_each_model_that_ran(tmp_path: Path, model: Path) -> None:
    for name in ("rough", "soft", "hard"):
        card = model.parent / name / "model.json"
        card.write_text(json.dumps({**json.loads(card.read_text()), "source": f"{name}'s paper"}))
    opening = Opening((str(model),), engine="onnx", device="cpu")
    to = Destination(tmp_path / "out")
    outcome = work(Case("a", (scan(tmp_path / "a.nii.gz"),), tmp_path), opening, to, Options())
    assert outcome.record is not None
    whole = {"both": find(str(model)).source}
    cited = {name: f"{name}'s paper" for name in ("rough", "soft", "hard")}
    assert outcome.record["model_sources"] == whole | cited
    members = [str(model.parent / "rough"), str(organs(model.parent / "other", name="other", source="other's paper"))]
    card = organs(model.parent / "mean", onnx=False) / "model.json"
    own = {k: v for k, v in json.loads(card.read_text()).items() if k not in ("weights", "sha256")}
    card.write_text(json.dumps({**own, "name": "mean", "source": "ours", "ensemble": members}))
    opening = Opening((str(card.parent),), engine="onnx", device="cpu")
    outcome = work(Case("b", (tmp_path / "a.nii.gz",), tmp_path), opening, to, Options())
    assert outcome.record is not None
    assert outcome.record["model_sources"] == {"mean": "ours", "rough": "rough's paper", "other": "other's paper"}


def test_a_worker_of_a_cluster_gives_the_same_files(tmp_path: Path, model: Path) -> None:
    path = scan(tmp_path / "a.nii.gz")
    opening = Opening((str(model),), engine="onnx", device="cpu", classes=("liver",))
    outcome = work(Case("a", (path,), tmp_path), opening, Destination(tmp_path / "worker"), Options(classes=("liver",)))
    assert outcome.error is None
    words = ("--classes", "liver", "--engine", "onnx", "--device", "cpu", "-o", tmp_path / "own")
    run = in_process("predict", path, "--model", model, *words)
    assert run.returncode == 0, run.stderr
    worker, own = files(tmp_path / "worker"), files(tmp_path / "own")
    assert worker == own
    assert [m["name"] for m in own["a_seg.json"]["model"]["members"]] == ["rough", "soft"], "hard labels no liver"


def test_a_run_that_breaks_off_between_two_networks_leaves_nothing_and_is_done_again(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, to = scan(tmp_path / "a.nii.gz"), Destination(tmp_path / "out")
    monkeypatch.setattr("segcli.engines.opening._OF_THE_ROOM", 0)
    opening = Opening((str(model),), engine="onnx", device="cpu")
    true, loaded = Held._engine, list[Held]()

    def third_fails(self: Held) -> object:
        loaded.extend([self] if self not in loaded else [])
        if len(loaded) == 3:
            raise ModelError("the file of the network is gone")
        return true(self)

    case = Case("a", (path,), tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr(Held, "_engine", third_fails)
        assert work(case, opening, to, Options()).status == "failed"
    assert not files(tmp_path / "out")
    assert work(case, opening, to, Options()).status == "done"
    assert work(case, opening, to, Options()).status == "skipped"


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_nothing_that_a_second_run_does_not_make_whole(tmp_path: Path) -> None:
    assert kill.kills(tmp_path, 3, 17, of_models) == 0
