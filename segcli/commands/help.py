"""segcli help: texts on one matter each, which ship with the package."""

from __future__ import annotations

from typing import Annotated

import typer

from segcli.commands.options import Commands
from segcli.commands.terminal import print_line
from segcli.errors import UsageError, near

commands = Commands("help")


@commands.command()
def help(
    topic: Annotated[str | None, typer.Argument(help="What it is about; without one, the topics are listed.")] = None,
) -> None:
    """Read about geometry, DICOM, models and their cards, engines, records, clusters, exit codes, Python."""
    from importlib.resources import files

    texts = {p.name.removesuffix(".md"): p for p in (files("segcli") / "help").iterdir() if p.name.endswith(".md")}
    if topic is None:
        for name in sorted(texts):
            title = texts[name].read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
            print_line(f"{name:12} {title}")
        return
    if topic not in texts:
        raise UsageError(f"no help on {topic!r}{near(topic, texts)}", hint="`segcli help` lists the topics")
    print_line(texts[topic].read_text(encoding="utf-8").rstrip())
