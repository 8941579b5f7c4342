"""What a person sees, and that no name can take part in it."""

import io
import sys

import pytest

from segcli.commands import terminal
from segcli.commands.harmless import Harmless
from segcli.commands.terminal import plain, print_facts, say, table


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


def test_where_colours_are_forced_a_pipe_gets_tables_in_their_full_width(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    table("", [{"name": "liver", "title": "word " * 30}])
    assert len(capsys.readouterr().out.splitlines()) == 2


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
