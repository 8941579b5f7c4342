"""segcli help: texts on one matter each, which ship with the package."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from segcli.commands.options import Commands
from segcli.commands.terminal import print_line, print_markdown
from segcli.errors import UsageError, near

commands = Commands("help")


@commands.command()
def help(
    context: typer.Context,
    topic: Annotated[
        str | None, typer.Argument(help="What it is about, or a command; without one, the topics are listed.")
    ] = None,
) -> None:
    """Read about geometry, DICOM, models and their cards, engines, records, JSON, clusters, exit codes, Python."""
    from importlib.resources import files

    texts = {p.name.removesuffix(".md"): p for p in (files("segcli") / "help").iterdir() if p.name.endswith(".md")}
    if topic is None:
        for name in sorted(texts):
            title = texts[name].read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
            print_line(f"{name:12} {title}")
        return
    if topic in texts:
        print_markdown(texts[topic].read_text(encoding="utf-8").rstrip())
        return
    root: Any = context.find_root()
    if (command := root.command.get_command(root, topic)) is not None:
        print_line(command.get_help(command.context_class(command, parent=root, info_name=topic)))
        return
    having = [name for name in sorted(texts) if topic.lower() in texts[name].read_text(encoding="utf-8").lower()]
    found = f"; the word stands in: {', '.join(having)}" if having else near(topic, texts)
    raise UsageError(f"no help on {topic!r}{found}", hint="`segcli help` lists the topics")
