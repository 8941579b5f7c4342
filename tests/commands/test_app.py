"""How a command is declared: found without a list, made when it is called, its options in groups."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer
from runs import in_process
from typer.testing import CliRunner

from segcli import commands
from segcli.commands import synonyms
from segcli.commands.app import CommandTable, app
from segcli.commands.options import Commands, from_groups
from segcli.errors import InputMissing, UsageError

MODULE = '''
from segcli.commands.options import Commands

commands = Commands("weigh")


@commands.command()
def weigh(grams: int = 7) -> None:
    """Say what something weighs."""
    print(f"{grams} g")
'''


@pytest.fixture
def weigh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A file with a command beside the others."""
    (tmp_path / "weigh.py").write_text(MODULE)
    monkeypatch.setattr(commands, "__path__", [*commands.__path__, str(tmp_path)])
    yield
    monkeypatch.delitem(__import__("sys").modules, "segcli.commands.weigh")
    del commands.weigh


@pytest.mark.usefixtures("weigh")
def test_a_file_that_declares_a_command_is_all_that_it_needs():
    runner = CliRunner()
    done = runner.invoke(app, ["weigh", "--grams", "3"])
    assert (done.exit_code, done.stdout) == (0, "3 g\n")
    assert "weigh        Say what something weighs." in runner.invoke(app, ["--help"]).stdout


def test_the_help_makes_no_command(monkeypatch):
    def made(*_: object) -> None:
        raise AssertionError("a command was made")

    monkeypatch.setattr(CommandTable, "__getitem__", made)
    done = CliRunner().invoke(app, ["--help"])
    assert done.exit_code == 0
    assert "predict      Label every voxel of each scan; write label map, record" in done.stdout


def test_no_summary_is_cut():
    told = " ".join(CliRunner().invoke(app, ["--help"]).stdout.partition("Commands:")[2].split())
    for declared in CommandTable().declared.values():
        assert " ".join(declared.summary.split()) in told
    assert "..." not in told


@dataclass(frozen=True)
class Weight:
    """How heavy"""

    grams: Annotated[int, typer.Option("--grams", help="Of it.")] = 7
    pounds: Annotated[int, typer.Option("--pounds", help="Of them.")] = 0


@dataclass(frozen=True)
class Colour:
    """How bright"""

    red: Annotated[bool, typer.Option("--red", help="Or blue.")] = False


def test_groups_of_options_are_options_for_typer_and_values_for_the_command():
    group = Commands("thing")
    seen = []

    @group.command()
    @from_groups("red")
    def thing(context: typer.Context, weight: Weight, colour: Colour) -> None:
        """A thing."""
        seen.append((context.info_name, weight, colour))

    runner = CliRunner()
    assert runner.invoke(group, ["--pounds", "2", "--red"]).exit_code == 0
    assert seen == [("thing", Weight(7, 2), Colour(True))]
    told = runner.invoke(group, ["--help"]).stdout
    assert told.index("Options:") < told.index("--red") < told.index("How heavy:") < told.index("--grams")
    assert "How bright:" not in told


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["info", "a.nii", "--series", "1", "--series", "2"], "--series"),
        (["predict", "a.nii", "--classes", "liver", "--classes=spleen"], "--classes"),
        (["predict", "a.nii", "-o", "x", "--output", "x"], "--output"),
        (["info", "a.nii", "--model", "a", "-m", "b"], "-m"),
        (["models", "import", "a.pth", "--patch", "1,2,3", "--patch", "4,5,6"], "--patch"),
    ],
)
def test_the_last_of_two_values_is_never_silently_the_only_one(words, option):
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, UsageError)
    assert done.exception.message == f"{option}: is given twice, and takes one value"


def test_what_takes_several_values_and_switches_may_be_repeated():
    words = ["predict", "--report", "csv", "--report", "html", "-v", "-v", "--tta", "--tta", "no-such.nii"]
    assert isinstance(CliRunner().invoke(app, words).exception, InputMissing)


@pytest.mark.parametrize(
    ("command", "word", "ours"),
    [
        ("predict", "--gpu", "--device cuda"),
        ("predict", "--force", "--overwrite"),
        ("report", "--scan", "--image"),
        ("evaluate", "--report", "--html"),
    ],
)
def test_an_option_that_does_not_exist_is_answered_by_what_is_meant(command, word, ours):
    from runs import command as run

    done = run(command, "a.nii", word)
    assert done.returncode == 2
    assert f"No such option: {word}; did you mean {ours}?" in done.stderr.decode()


def test_an_option_before_the_command_is_told_where_it_stands():
    from runs import command as run

    done = run("--modell", "uxnet", "a.nii")
    assert done.returncode == 2
    assert "No such option: --modell: options stand behind a command" in done.stderr.decode()


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("--resume", "--resume: what is done already and verified is skipped"),
        ("-i", "-i: files are named without an option"),
        ("--continue_prediction", "--continue_prediction: what is done already and verified is skipped"),
        ("--ml", "--ml: one label map of all structures is what is written"),
        ("--disable_tta", "--disable_tta: mirrored copies are averaged with --tta alone"),
        ("--roi_subset", "--roi_subset; did you mean --classes?"),
        ("-precision", "-precision; did you mean --precision?"),
        ("--save_probabilities", "--save_probabilities; did you mean --write probabilities?"),
        ("--dry-run", "--dry-run: `segcli plan` says beforehand what a run needs"),
        ("-o", "-o: the result goes to stdout, and into a file with > FILE"),
        ("--precission", "--precission; did you mean --precision?"),
        ("--quick", "--quick; did you mean --fast?"),
        ("--fast-mode", "--fast-mode; did you mean --fast?"),
        ("--folds", "--folds"),  # --fill-holes is spelt no more like it than many are
        ("-Z", "-Z"),
    ],
)
def test_an_option_is_suggested_only_where_it_is_likely_to_be_meant(word, told):
    from segcli.commands.synonyms import advice

    known = {"--precision", "--fast", "--fill-holes", "--series-number", "--classes", "--write", "-h"}
    assert word + advice(word, known) == told


@pytest.mark.parametrize(
    ("word", "ours"),
    [("segment", "predict"), ("a.nii", "predict a.nii"), ("get", "models get"), ("version", "--version")],
)
def test_a_command_that_does_not_exist_is_answered_by_what_is_meant(word, ours, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.nii").touch()
    refused = CliRunner().invoke(app, [word]).exception
    assert isinstance(refused, UsageError)
    assert refused.message == f"no command is called {word!r}; did you mean `segcli {ours}`?"


def test_an_option_with_one_dash_is_told_whole(tmp_path):
    """nnU-Net's -step_size was "No such option: -s"."""
    for word, ours in (("-step_size", "--overlap"), ("-device", "--device"), ("-d", "--model")):
        done = in_process("predict", "a.nii", word, "0", cwd=tmp_path)
        assert done.returncode == 2
        assert f"No such option: {word}; did you mean {ours}?" in done.stderr.decode()


def test_each_command_that_is_meant_exists():
    table = CommandTable()
    for ours in synonyms._COMMANDS:
        command, *inner = ours.split()
        assert command in table or command == "--version"
        assert not inner or inner[0] in table[command].commands


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["a.nii", "out"], "-o out"),
        (["a.nii", "-o", "x", "--participant-label", "sub-01", "sub-02"], "--participant-label 01,02"),
        (["a.nii", "-o", "x", "--classes", "thalamus", "hippocampus"], "--classes thalamus,hippocampus"),
        (["a.nii", "-o", "x", "--report", "csv", "html"], "--report csv,html"),
        (["a.nii", "-o", "x", "--tables", "slicer", "bids"], "--tables slicer,bids"),
    ],
)
def test_a_word_that_was_meant_for_an_option_is_told_before_a_scan_is_labelled(words, hint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.nii").touch()
    refused = CliRunner().invoke(app, ["predict", *words]).exception
    assert isinstance(refused, UsageError)
    assert refused.message == f"{words[-1]}: no such file or folder"
    assert hint in refused.hint


def test_each_option_that_is_meant_exists():
    flags = {
        flag
        for declared in CommandTable().declared.values()
        for command in [typer.main.get_command(declared)]
        for one in getattr(command, "commands", {"": command}).values()
        for parameter in one.params
        for flag in parameter.opts
    }
    assert {ours.split()[0] for ours in synonyms._MEANT} <= flags
    assert not {word for words in synonyms._MEANT.values() for word in words.split()} & {"--json", "--device"}


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("info", "a" * 300), 65),
        (("info", "a.nii", "-m", "a" * 5000), 65),
        (("evaluate", "a" * 300, "b.nii"), 65),
        (("models", "import", "weights.pth", "--recipe", "deep.json"), 78),
    ],
    ids=["scan", "model", "labels", "recipe"],
)
def test_1_4_a_name_that_no_file_can_have_and_a_bottomless_document_are_no_internal_errors(tmp_path, words, code):
    from runs import scan

    scan(tmp_path / "a.nii")
    (tmp_path / "weights.pth").write_bytes(b"none")
    (tmp_path / "deep.json").write_text("[" * 100_000)
    done = in_process(*words, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert b"internal error" not in done.stderr


@pytest.mark.parametrize(
    "words", ["predict a.nii", "report a.nii", "export-onnx", "models import a.pt", "models get a"]
)
def test_an_output_with_an_empty_name_is_refused_and_is_not_the_working_folder(words):
    run = CliRunner().invoke(app, [*words.split(), "-o", ""])
    assert run.exit_code == 2
    assert "'-o' / '--output': has an empty name: give a folder or a file; . is this folder" in run.output
    run = CliRunner().invoke(app, [*words.split(), "-o=out"])
    assert run.exit_code == 2
    assert "'-o' / '--output': begins with =: write -o out" in run.output


@pytest.mark.parametrize("name", ["predict", "plan", "evaluate", "report", "models"])
def test_the_help_has_no_types_of_python(name):
    def told(*words):
        return CliRunner().invoke(app, [*words, "--help"]).output

    text = told(name) if name != "models" else told("models", "import")
    assert not re.search(r"<\w|\[str\]|\[default: 0\]", text)
    assert "TEXT" in text
