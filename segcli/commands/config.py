"""segcli config: settings, and where each comes from."""

from __future__ import annotations

import typer

from segcli.commands.options import Commands, Json
from segcli.commands.predict import commands as predict
from segcli.commands.settings import flag, origins
from segcli.commands.terminal import SCHEMA, print_json, table

commands = Commands("config", help="Settings and where they come from.", no_args_is_help=True)


@commands.callback()
def config() -> None:
    """A group, though it has one command."""


@commands.command("show")
def show(json: Json = False) -> None:
    """Each setting of predict with its value and where it comes from."""
    options = [p for p in typer.main.get_command(predict).params if flag(p)]
    variables = {flag(p): str(p.envvar) for p in options if p.envvar}
    known = {flag(p): _plain(p.default) for p in options if not callable(p.default)}
    rows = origins("predict", known, variables)
    if json:
        print_json({"schema": SCHEMA, "settings": rows})
    else:
        table("", [{k: _typed(v) for k, v in row.items()} for row in rows])


def _plain(value: object) -> object:
    """A default as a settings file would have it."""
    return [str(v) for v in value] if isinstance(value, tuple | list) else value


def _typed(value: object) -> str:
    """A value as it would be typed; what is not set is nothing."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ",".join(map(str, value))
    return "" if value is None else str(value)
