"""Models of an installed TotalSegmentator run where they lie: nothing is downloaded, and nothing there is touched."""

import json
from pathlib import Path

import pytest
from runs import in_process, scan
from totalseg import body, fast_body, muscles, state

from segcli.commands import models as answer
from segcli.errors import ModelError
from segcli.models.card import ModelCard
from segcli.models.in_place import is_installed
from segcli.models.library import find, models_of


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGCLI_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TOTALSEG_WEIGHTS_PATH", str(tmp_path / "results"))
    monkeypatch.setenv("SEGCLI_OFFLINE", "1")
    return tmp_path / "results"


def times(card: ModelCard) -> list[int]:
    return [own.file(name).stat().st_mtime_ns for own in models_of(card) for name in own.weights]


@pytest.mark.slow
def test_predict_runs_an_installed_model_with_its_steps_on_its_own_grid(tmp_path: Path, results: Path) -> None:
    body(results)
    before = state(results)
    path = scan(tmp_path / "ct.nii.gz")
    run = in_process("predict", path, "--model", "totalsegmentator-body", "--faithful", "-o", tmp_path / "out")
    assert run.returncode == 0, run.stderr
    assert state(results) == before
    record = json.loads((tmp_path / "out" / "ct_seg.json").read_text())
    assert record["model"]["name"] == "totalsegmentator-body"
    assert [effect["step"]["step"] for effect in record["after"]] == ["largest", "small"]
    assert record["options"]["faithful"] is True


@pytest.mark.slow
def test_what_was_made_of_it_is_kept_until_its_files_change(results: Path) -> None:
    fast_body(results)
    fine = muscles(results)
    first = find("totalsegmentator-abdominal_muscles")
    assert [own.name for own in models_of(first)] == [
        "totalsegmentator-body-fast",
        "totalsegmentator-abdominal_muscles",
    ]
    made = times(first)
    assert times(find("totalsegmentator-abdominal_muscles")) == made
    (fine / "plans.json").write_text((fine / "plans.json").read_text().replace("169.71", "100.25"))
    second = find("totalsegmentator-abdominal_muscles")
    assert second.prepare != first.prepare
    assert times(second)[0] == made[0], "the rough model was left alone"


def test_a_model_that_is_not_whole_there_is_not_taken_and_the_command_that_gets_it_is_said(results: Path) -> None:
    muscles(results)  # without the one that finds where to look
    with pytest.raises(ModelError, match="the model totalsegmentator-abdominal_muscles is not here") as caught:
        find("totalsegmentator-abdominal_muscles")
    assert caught.value.hint is not None
    assert "`segcli models get totalsegmentator-abdominal_muscles`" in caught.value.hint
    for task, way in (("face", "needs a licence number"), ("vertebrae_pp_refined", "not yet: its vertebrae are cut")):
        with pytest.raises(ModelError, match=f"the model totalsegmentator-{task} is not here") as caught:
            find(f"totalsegmentator-{task}")
        assert caught.value.hint is not None
        assert caught.value.hint.startswith(way)
    with pytest.raises(ModelError, match="no model 'totalsegmentator-bdy' found; did you mean 'totalsegmentator-body'"):
        find("totalsegmentator-bdy")
    with pytest.raises(ModelError, match="no model 'nowhere' found"):
        find("nowhere")
    fast_body(results)
    assert [is_installed(f"totalsegmentator-{task}") for task in ("abdominal_muscles", "body-fast", "body")] == [
        True,
        True,
        False,
    ]


def test_one_that_is_used_in_place_is_here(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fast_body(results)
    answer.info("totalsegmentator-body-fast", json=True)
    assert json.loads(capsys.readouterr().out)["here"] is True
    answer.info("totalsegmentator-body-fast")
    assert "fetches it" not in capsys.readouterr().err


def test_a_killed_start_is_taken_up_again(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast_body(results)
    muscles(results)
    place = results.parent / "home" / "cache" / "in-place" / "models"
    find("totalsegmentator-abdominal_muscles")
    for note in place.glob("*.made.json"):
        note.unlink()  # as if the end had not been reached
    assert find("totalsegmentator-abdominal_muscles").rough is not None
    assert len(list(place.glob("*.made.json"))) == 2
