"""How a run is followed: bars, lines now and then, events as JSON lines."""

import io
import json
import re
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from models import organs
from runs import command, line, scan

from segcli.batch.cases import Case
from segcli.batch.events import Event
from segcli.commands import progress
from segcli.commands.progress import Show

CASE = Case("a", (Path("a.nii"),), Path())


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_events_are_json_lines_with_schema_event_time_and_case():
    stream = io.StringIO()
    show = Show(1, quiet=True, verbose=0, events=stream)
    show.watch(Event("window", CASE, done=1, total=2))
    show.watch(Event("done", CASE))
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert {k: first[k] for k in ("schema", "event", "case", "done", "total")} == {
        "schema": 1,
        "event": "window",
        "case": "a",
        "done": 1,
        "total": 2,
    }
    assert second["event"] == "done"
    assert first["time"] <= second["time"]


def test_6_5_events_to_a_stream_that_fails_stop_and_do_no_harm():
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    show = Show(1, quiet=True, verbose=0, events=Broken())
    show.watch(Event("done", CASE))
    assert show.events is None


def test_6_5_a_stage_that_waits_to_tell_something_is_not_harmed_by_the_one_that_finds_the_disk_full():
    writing, waited = threading.Event(), threading.Event()

    class Filling(io.StringIO):
        def write(self, text: str) -> int:
            writing.set()
            waited.wait(5)
            raise OSError(28, "No space left on device")

    show, raised = Show(1, quiet=True, verbose=0, events=Filling()), []

    def tell() -> None:
        try:
            show.watch(Event("read", CASE))
        except BaseException as error:
            raised.append(error)

    first, second = threading.Thread(target=tell), threading.Thread(target=tell)
    first.start()
    writing.wait(5)
    second.start()
    second.join(0.2)  # it has seen that there is a stream, and waits for its turn
    waited.set()
    first.join()
    second.join()
    assert raised == []
    assert show.unwritten is not None


@pytest.mark.parametrize("out", [io.StringIO, Terminal])
def test_while_a_bar_is_on_the_terminal_a_pipe_gets_its_data_and_a_long_path_stays_whole(out, monkeypatch):
    stdout, stderr = out(), Terminal()
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "60")
    show = Show(1, quiet=False, verbose=0, events=None)
    assert show.progress is not None
    show.watch(Event("segment", CASE))
    path = "/".join(["a-folder-with-a-long-name"] * 8)
    show.data(path)
    print("of a library")
    show.close()
    assert stdout.getvalue() == ("" if stdout.isatty() else f"{path}\n") + "of a library\n"
    assert (path in stderr.getvalue()) == stdout.isatty()


@pytest.mark.parametrize("columns", ["1", "0"])
def test_a_terminal_that_says_it_has_no_width_is_told_all(monkeypatch, columns):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", columns)
    show = Show(1, quiet=False, verbose=0, events=None)
    show.line("a sentence of some words")
    show.close()
    assert "a sentence of some words" in sys.stderr.getvalue()


def test_the_bar_of_a_case_that_fails_goes_and_that_of_another_stays(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    show = Show(3, quiet=False, verbose=0, events=None)
    other = replace(CASE, name="b")
    assert show.progress is not None
    for case in (CASE, other):
        show.watch(Event("segment", case))
    show.watch(Event("failed", replace(CASE, name="c")))  # while it was read ahead
    show.watch(Event("window", CASE, done=1, total=2))
    show.watch(Event("failed", CASE))
    assert [task.description for task in show.progress.tasks] == ["b"]
    show.watch(Event("window", other, done=2, total=2))
    assert show.progress.tasks == []
    show.close()


@pytest.mark.parametrize("quiet", [True, False])
def test_6_5_events_that_a_full_disk_does_not_take_are_told_once_and_cost_no_label_map(tmp_path, quiet):
    model, _ = organs(tmp_path / "organs"), scan(tmp_path / "a.nii.gz")
    words = ["predict", "a.nii.gz", "--model", model, "-o", "out", "--engine", "onnx", "--events", "/dev/full"]
    done = command(*words, *["-q"] * quiet, cwd=tmp_path)
    said = [x for x in done.stderr.decode().splitlines() if x.startswith("error")]
    lost = "error: full: No space left on device: not all events were written; files that were made are whole"
    assert (done.returncode, said) == (74, [lost])
    assert (tmp_path / "out" / "a_seg.nii.gz").is_file()


def test_6_5_events_to_a_pipe_that_nobody_reads_any_more_are_no_fault(tmp_path):
    model, _ = organs(tmp_path / "organs"), scan(tmp_path / "a.nii.gz")
    words = line("predict", "a.nii.gz", "--model", model, "-o", "out", "--engine", "onnx", "-q", "--events")
    done = subprocess.run(["bash", "-c", '"$@" >(head -c 1 > one)', "-", *words], cwd=tmp_path, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


def test_no_bar_where_there_is_no_terminal_whatever_colours_are_forced(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    show = Show(1, quiet=False, verbose=0, events=None)
    show.watch(Event("segment", CASE))
    show.watch(Event("window", CASE, done=1, total=2))
    show.close()
    assert show.progress is None
    assert capsys.readouterr().err == ""


def test_the_watchdog_knows_the_stage_and_the_case():
    show = Show(1, quiet=True, verbose=0, events=None)
    show.watch(Event("segment", CASE))
    assert show.last == "segment of a"
    assert show.still_for() < 60


TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "


def test_where_there_is_no_bar_a_line_says_how_far_a_case_is_now_and_then(capsys, monkeypatch):
    for every, quiet, verbose, lines in (
        ("SELDOM", False, 0, ["a: 1 of 2 windows", "a: 2 of 2 windows"]),
        ("EVERY", False, 1, ["a: 1 of 2 windows", "a: 2 of 2 windows"]),
        ("EVERY", False, 0, []),
        ("SELDOM", True, 0, []),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(progress, every, 0.0)
            show = Show(1, quiet=quiet, verbose=verbose, events=None)
            show.watch(Event("window", CASE, done=1, total=2))
            show.watch(Event("window", CASE, done=2, total=2))
        said = capsys.readouterr().err.splitlines()
        assert [re.sub(f"^{TIME}", "", one) for one in said] == lines
        assert all(re.match(TIME, one) for one in said)


@pytest.mark.parametrize("terminal", [False, True])
def test_a_log_has_the_time_at_which_each_case_ended_and_a_terminal_has_not(monkeypatch, terminal):
    monkeypatch.setattr(sys, "stderr", Terminal() if terminal else io.StringIO())
    monkeypatch.setenv("TERM", "dumb")
    show = Show(2, quiet=False, verbose=0, events=None)
    show.watch(Event("read", CASE))
    show.watch(Event("done", CASE, labels="a_seg.nii.gz", verdict="review", seconds={}))
    show.watch(Event("failed", replace(CASE, name="b"), error="b: is none", exit_code=65))
    found = re.sub(TIME, "TIME ", sys.stderr.getvalue())
    assert found == ("" if terminal else "TIME a: done, review\nTIME b: failed\n")
