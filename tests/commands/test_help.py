"""The texts of `segcli help` show commands and options that exist, and are all listed."""

import json
import re
from importlib.metadata import requires
from importlib.resources import files

import pytest
import typer

from segcli.commands import terminal
from segcli.commands.app import app
from segcli.errors import SegcliError

TEXTS = {p.name.removesuffix(".md"): p.read_text(encoding="utf-8") for p in (files("segcli") / "help").iterdir()}


@pytest.mark.parametrize("topic", TEXTS)
def test_every_command_and_option_that_a_text_shows_exists(topic: str) -> None:
    lines = re.findall(r"^(?:    )?(segcli .*)$", TEXTS[topic], re.MULTILINE)
    for line in lines:
        command, words = typer.main.get_command(app), line.split()[1:]
        while words and hasattr(command, "commands") and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
        assert {w.split("=")[0] for w in words if w.startswith("-") and w != "-"} <= known, line


def test_the_topics_are_listed_with_their_titles(capsys: pytest.CaptureFixture[str]) -> None:
    app(["help"], standalone_mode=False)
    listed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert listed == {topic: text.partition("\n")[0].lstrip("# ") for topic, text in TEXTS.items()}


def test_a_text_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    app(["help", "exit-codes"], standalone_mode=False)
    assert capsys.readouterr().out == TEXTS["exit-codes"]


def test_on_a_terminal_a_text_is_laid_out_in_its_width_and_commands_stay_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminal, "_width", lambda: 60)
    monkeypatch.setenv("NO_COLOR", "1")
    app(["help", "dicom"], standalone_mode=False)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert max(len(line) for line in lines if not line.startswith("    ")) <= 60
    code = re.findall(r"^    \S.*$", TEXTS["dicom"], re.MULTILINE)
    assert max(map(len, code)) > 100
    assert set(code) <= set(lines)


def test_a_topic_that_is_not_there_is_refused_with_the_nearest() -> None:
    with pytest.raises(SegcliError, match="did you mean 'geometry'"):
        app(["help", "geometri"], standalone_mode=False)


def test_a_command_is_a_topic_too(capsys: pytest.CaptureFixture[str]) -> None:
    app(["help", "predict"], standalone_mode=False)
    told = capsys.readouterr().out
    app(["predict", "--help"], standalone_mode=False)
    assert told.splitlines()[1:] == capsys.readouterr().out.splitlines()[1:]


def test_a_word_that_is_no_topic_is_answered_by_the_texts_that_have_it() -> None:
    with pytest.raises(SegcliError, match="no help on 'Orthanc'; the word stands in: dicom"):
        app(["help", "Orthanc"], standalone_mode=False)


@pytest.mark.parametrize(("topic", "name"), [("card", "CardDocument"), ("card", "Limits"), ("record", "Record")])
def test_every_field_of_card_and_record_is_told_and_no_other(topic: str, name: str) -> None:
    schema = json.loads((files("segcli") / "schemas" / f"{topic}.schema.json").read_text(encoding="utf-8"))
    known = schema["$defs"][name]["properties"].keys()
    if name == "Limits":
        told = re.findall("`([a-z_]+)`", TEXTS[topic].partition("Of `checks`:")[2].partition(". The JSON")[0])
    else:
        first = re.findall(r"^\| (`.*?) \|", TEXTS[topic], re.MULTILINE)
        told = [field for cell in first for field in re.findall("`([a-z0-9_]+)`", cell)]
    assert sorted(told) == sorted(known)


def test_the_card_that_the_text_shows_is_one() -> None:
    from segcli.models import card

    shown = json.loads(re.findall(r"```json\n(.*?)```", TEXTS["card"], re.DOTALL)[0])
    made = card.parse(shown)
    assert [label.name for label in made.structures] == ["kidney_left", "kidney_right"]


def test_the_way_to_install_without_torch_names_every_other_dependency() -> None:
    (listed,) = re.findall(r"^    pip install (numpy .*)$", TEXTS["install"], re.MULTILINE)
    needed = {re.split(r"[^\w.-]", line)[0] for line in requires("segcli") or () if "extra ==" not in line}
    assert {name.lower() for name in listed.split()} | {"torch"} == {name.lower() for name in needed}
