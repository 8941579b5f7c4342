"""What a person sees, and that no name can take part in it."""

import io
import json
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
from segcli.commands import progress, terminal
from segcli.commands.events import events_to
from segcli.commands.harmless import Harmless
from segcli.commands.progress import Show
from segcli.commands.terminal import plain, print_facts, say, table
from segcli.errors import OutputExists

CASE = Case("a", (Path("a.nii"),), Path())


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("line\nbreak\r", "line\\nbreak\\r"),
        ("[red]a[/red]", "[red]a[/red]"),
        ("left\u202eright", "left\\u202eright"),
        ("Größe 3 × 4", "Größe 3 × 4"),
        ("a\udcffb", "a?b"),
    ],
)
def test_1_5_names_are_printed_literally(text, expected):
    assert plain(text) == expected


def test_1_5_a_table_takes_no_markup_and_no_escapes(capsys):
    table("[b]t[/b]", [{"name": "[red]x[/red]\x1b[31m", "mL": 1234.5}])
    out = capsys.readouterr().out
    assert "[b]t[/b]" in out
    assert "[red]x[/red]\\x1b[31m" in out
    assert "\x1b" not in out


def test_a_number_that_is_rounded_to_zero_has_no_sign(capsys):
    table("", [{"name": "liver", "bias_ml": -0.001}])
    assert capsys.readouterr().out.splitlines()[-1].split() == ["liver", "0.00"]


def test_a_table_without_colours_has_no_escapes_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    table("title", [{"name": "liver"}])
    assert capsys.readouterr().out.splitlines() == ["title", "name ", "liver"]


def shown(monkeypatch, rows, **how):
    """A table as it is on a terminal."""
    monkeypatch.setattr(sys, "stdout", Terminal())
    table("", rows, **how)
    return sys.stdout.getvalue()


def test_on_a_narrow_terminal_what_is_typed_is_never_cut(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    name, words = "a-name-that-is-as-long-as-names-come", "and words " * 9
    rows = [{"name": name, "title": words, "licence": words}] * 2
    assert shown(monkeypatch, rows).count("and") == 36
    _, *lines = shown(monkeypatch, rows, one_line=True).splitlines()
    assert [line.split()[0] for line in lines] == [name] * 2
    assert max(map(len, lines)) <= 60


@pytest.mark.parametrize("columns", ["40", "12", "1", "0"])
def test_on_a_narrow_terminal_numbers_are_whole_and_columns_that_do_not_fit_follow_below(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    name = "left_inferior_lateral_ventricle"
    rows = [{"name": name, "dice": 0.5, "hd95_mm": 1234.5}, {"name": "all", "dice": None, "hd95_mm": 2}]
    first, second = shown(monkeypatch, rows).split("name", 2)[1:]
    assert first.split() == ["dice", name, "0.50", "all"]
    assert second.split() == ["hd95_mm", name, "1,234", "all", "2"]


def test_a_column_of_numbers_is_aligned_right_whatever_its_first_row_lacks(capsys):
    table("", [{"name": "all", "bias_ml": None}, {"name": "liver", "bias_ml": 1.5}])
    assert capsys.readouterr().out.splitlines()[-1] == "liver     1.50"


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


def test_where_colours_are_forced_a_pipe_gets_tables_in_their_full_width(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    table("", [{"name": "liver", "title": "word " * 30}])
    assert len(capsys.readouterr().out.splitlines()) == 2


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


def test_2_7_a_folder_takes_no_events(tmp_path):
    with pytest.raises(OutputExists, match="is a folder, and events go into a file"), events_to(str(tmp_path)):
        pass


def test_6_5_a_harmless_stream_loses_what_it_cannot_write_and_remembers_why(monkeypatch):
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    stream = Harmless(Full())
    monkeypatch.setattr(sys, "stderr", stream)
    say("a")
    say("b")
    assert stream.failed is not None
    assert stream.failed.errno == 28


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


def test_2_7_events_are_added_to_events_and_to_nothing_else_that_begins_like_them(tmp_path):
    path = tmp_path / "events"
    for _ in range(2):
        with events_to(str(path)) as stream:
            Show(1, quiet=True, verbose=0, events=stream).watch(Event("read", CASE))
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == ["read", "read"]
    others = [
        '{"name": "somebody else\'s"}\n',
        '{"schema": 1, "event": "read"}\n',
        '{"schema": 1, "event": "lunch", "time": "12:00", "case": "a"}\n',
        '{"schema": 1, "event": "read", "ti',
        '{"\n',
        "[1]\n",
        "[" * 4000,
    ]
    for text in others:
        path.write_text(text)
        with pytest.raises(OutputExists), events_to(str(path)):
            pass
        assert path.read_text() == text


def test_events_make_no_file_where_a_planted_link_leads(tmp_path):
    (tmp_path / "events").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputExists), events_to(str(tmp_path / "events")):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_where_there_is_no_bar_a_line_says_how_far_a_case_is_now_and_then(capsys, monkeypatch):
    for every, quiet, lines in (
        (0.0, False, ["a: 1 of 2 windows", "a: 2 of 2 windows"]),
        (9.0, False, []),
        (0.0, True, []),
    ):
        monkeypatch.setattr(progress, "EVERY", every)
        show = Show(1, quiet=quiet, verbose=0, events=None)
        show.watch(Event("window", CASE, done=1, total=2))
        show.watch(Event("window", CASE, done=2, total=2))
        assert capsys.readouterr().err.splitlines() == lines


def test_facts_are_a_line_each_and_on_a_terminal_go_on_behind_their_name(capsys, monkeypatch):
    facts = {
        "name": "a",
        "here": True,
        "none": None,
        "labels": ["1 liver", "2 spleen"],
        "crop": {"labels": {"liver": 1}},
    }
    print_facts(facts)
    assert capsys.readouterr().out.splitlines() == [
        "name    a",
        "here    yes",
        "labels  1 liver, 2 spleen",
        "crop",
        "  labels  liver 1",
    ]
    monkeypatch.setattr(terminal, "_width", lambda: 20)
    print_facts({"labels": facts["labels"]})
    assert capsys.readouterr().out.splitlines() == ["labels  1 liver, 2", "        spleen"]
