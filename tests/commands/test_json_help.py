"""`segcli help json` tells every key that --json and --events print, and no other."""

import json
import re
import shutil
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from models import organs
from runs import scan
from scan_files import nifti

from segcli.batch.case import Case
from segcli.batch.events import Event, EventName
from segcli.commands.app import app
from segcli.errors import InputError

TEXT = (files("segcli") / "help" / "json.md").read_text(encoding="utf-8")


def keys(begin: str) -> set[str]:
    """The keys in the first cells of the first table after some words of the text."""
    table = re.findall(r"(?:^\|.*\n)+", TEXT.partition(begin)[2], re.MULTILINE)[0]
    return set(re.findall("`([a-z0-9_]+)`", "".join(line.split("|")[1] for line in table.splitlines())))


def told(capsys: pytest.CaptureFixture[str], *words: object) -> dict:
    """The document that a command prints."""
    capsys.readouterr()
    with suppress(InputError):  # info prints what it knows of a scan that predict would refuse
        app([*map(str, words), "--json"], standalone_mode=False)
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model, a scan that it takes, one of a single value, one that is refused."""
    monkeypatch.chdir(tmp_path)
    organs(tmp_path / "organs")
    scan(tmp_path / "in" / "a.nii.gz")
    nifti(tmp_path / "in" / "zeros.nii.gz", np.zeros((16, 14, 12), "i2"))
    nifti(tmp_path / "in" / "bad.nii.gz", np.full((16, 14, 12), np.nan, "f4"))
    return tmp_path


def test_every_key_of_predict_and_its_events_is_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("predict", "in", "-m", "organs", "-o", "out", "--engine", "onnx", "--events", "events")
    for run in (told(capsys, *words, "--fail-on", "fail") for _ in range(2)):
        assert run.keys() == keys("## `predict --json`")
        assert {key for case in run["cases"] for key in case} == keys("Of each case:")
        assert run["summary"].keys() == keys("Of the summary:")
        by_name = {case["case"]: case for case in run["cases"]}
        assert ("error" in by_name["a"], by_name["bad"]["status"]) == (False, "failed")
        assert (by_name["zeros"]["exit_code"], by_name["zeros"]["status"] == "failed") == (1, False)
    events = [json.loads(line) for line in (place / "events").read_text().splitlines()]
    every = keys("## `predict --events`")
    rows = re.findall(r"^\| `(\w+)` \|.*\| (.*?) ?\|$", TEXT.partition("| event |")[2], re.MULTILINE)
    beside = {name: set(re.findall("`([a-z_]+)`", cell)) for name, cell in rows if name in get_args(EventName)}
    assert beside.keys() == set(get_args(EventName))
    assert {e["event"] for e in events} == beside.keys() - {"queued"}
    assert all(e.keys() == every | beside[e["event"]] for e in events)
    facts = Event.__dataclass_fields__.keys() - {"name", "case"}
    assert set.union(*beside.values()) == facts
    assert Event("queued", Case("a", (), Path())).facts == {}


@pytest.mark.usefixtures("briefly")
def test_every_key_of_the_other_documents_is_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fits = told(capsys, "info", "in/a.nii.gz", "-m", "organs")
    nifti(place / "map.nii.gz", np.kron((np.arange(8) % 6).reshape(2, 2, 2), np.ones((8, 8, 8))).astype("u1"))
    refused = told(capsys, "info", "map.nii.gz", "-m", "organs")
    assert fits.keys() | refused.keys() == keys("## `info --json`")
    assert fits.keys() == keys("## `info --json`") - {"refused"}
    assert told(capsys, "plan", "in/a.nii.gz", "-m", "organs", "--engine", "onnx").keys() == keys("## `plan --json`")
    report = told(capsys, "report", "map.nii.gz", "-m", "organs", "-o", "report")
    assert report.keys() == keys("## `report --json`")
    scores = told(capsys, "evaluate", "map.nii.gz", "map.nii.gz", "-m", "organs", "--against", "map.nii.gz")
    assert scores.keys() == keys("## `evaluate --json`")
    assert scores["scores"][0].keys() == keys("Of each row of `scores`")


def test_every_key_of_a_list_of_series_is_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dicom_phantom import phantom, series

    folder = series(place / "ct")
    series(folder, phantom() + 50, uid="b", SeriesNumber=4)
    shutil.make_archive(str(folder / "packed"), "zip", series(place / "other", uid="c"))
    scan(folder / "a.nii.gz")
    document = told(capsys, "info", "ct", "-m", "organs")
    sentence = re.search(r"Of a folder or archive of several DICOM series it prints (.*?)\.\n", TEXT, re.DOTALL)
    assert sentence is not None
    listed = set(re.findall("`([a-z]+)`", sentence[1]))
    lists = [document[name][0].keys() for name in ("series", "images", "archives")]
    assert listed == set(document).union(*lists)
