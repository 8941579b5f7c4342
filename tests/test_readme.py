"""The README keeps its promises that can be checked without installing anything."""

import hashlib
import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
TEXT = README.read_text(encoding="utf-8")


def commands() -> list[str]:
    """Every segcli command line that the README shows."""
    blocks = re.findall(r"```(?:sh|console)\n(.*?)```", TEXT, re.S)
    lines = [line.strip().removeprefix("$ ") for block in blocks for line in block.splitlines()]
    return [part for line in lines for part in re.split(r"\s*(?:&&|\|)\s*", line) if part.startswith("segcli ")]


def test_every_command_and_option_that_the_readme_shows_exists() -> None:
    import typer

    from segcli.commands.app import app

    group = typer.main.get_command(app)
    assert len(commands()) > 10
    for line in commands():
        command, words = group, line.split()[1:]
        while words and hasattr(command, "commands") and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
        for word in words:
            if word.startswith("--"):
                assert word.split("=")[0] in known, f"{line}: {word}"


def test_every_command_is_in_the_readme_and_has_a_help_text() -> None:
    import typer

    from segcli.commands.app import app

    group = typer.main.get_command(app)
    for name, command in group.commands.items():
        assert command.help, name
        assert f"segcli {name}" in TEXT, name


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!https?:|#)([^)]+)\)", TEXT))))
def test_files_that_the_readme_points_to_are_there(link: str) -> None:
    assert (README.parent / link.split("#")[0]).exists()


def test_the_scan_of_the_first_command_is_in_the_repository() -> None:
    first = next(line for line in commands() if line.startswith("segcli predict"))
    assert (README.parent / first.split()[2]).is_file()


def test_the_readme_has_the_sums_of_the_default_model() -> None:
    folder = README.parent / "weights" / "uxnet"
    for name in ("weights.safetensors", "model.onnx"):
        found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        assert f"`{name}` `{found}`" in TEXT


def test_the_readme_stays_under_250_lines() -> None:
    assert len(TEXT.splitlines()) < 250
