"""The command line: finds what the modules of this folder declare, and makes the command that is called."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Annotated, Any

import typer

from segcli import __version__, commands
from segcli.commands.options import Commands, Group
from segcli.commands.synonyms import command_meant
from segcli.documents import Document, Facts
from segcli.errors import ModelError, UsageError
from segcli.packages import added

FIRST = ("predict", "info", "plan", "report", "evaluate")  # in the help, before the others


class CommandTable(Facts):
    """The commands by their names; one is made when it is asked for, which takes as long as all the help does."""

    def __init__(self) -> None:
        modules = [import_module(f"{commands.__name__}.{m.name}") for m in pkgutil.iter_modules(commands.__path__)]
        declared = {c.name: c for m in modules if isinstance(c := getattr(m, "commands", None), Commands)}
        order = [name for name in FIRST if name in declared] + sorted(declared.keys() - {*FIRST})
        self.declared = {name: declared[name] for name in order}
        self._made: Document = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            declared = self.declared.get(name) or self._added()[name]
            self._made[name] = typer.main.get_command(declared)
        return self._made[name]

    def _added(self) -> Mapping[str, Commands]:
        """The commands of installed packages, which are looked for only when no command of segcli's own is meant."""
        return {c.name: c for c in added("command", Commands, lambda c: (c.name,), self.declared).values()}

    def __iter__(self) -> Iterator[str]:
        return iter(self.declared)

    def __len__(self) -> int:
        return len(self.declared)


class Everything(Group):
    """All commands of segcli."""

    def __init__(self, **how: Any) -> None:
        super().__init__(**how)
        self.commands = self.found = CommandTable()  # type: ignore[assignment]  # nothing is ever added to it

    def summaries(self) -> list[tuple[str, str]]:
        return [(name, declared.summary) for name, declared in self.found.declared.items()]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the first word names; UsageError with what is meant, where that is known."""
        if not ctx.resilient_parsing and self.get_command(ctx, args[0]) is None and (ours := command_meant(args[0])):
            raise UsageError(f"no command is called {args[0]!r}; did you mean `segcli {ours}`?")
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="segcli",
    cls=Everything,
    help="Segment NIfTI and DICOM volumes on the scan's own grid. For research; not a medical device.",
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"segcli {__version__}")
        raise typer.Exit


@app.callback()
def settings(
    context: typer.Context,
    _: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_version)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; may stand anywhere. [SEGCLI_DEBUG]")] = False,
) -> None:
    from segcli.commands.settings import defaults, files, flag, for_parameters
    from segcli.engines.loading import silent

    context.obj = {"debug": debug}
    if not debug:
        silent()
    if files():
        found: Facts = context.command.commands  # type: ignore[attr-defined]
        options = {name: {flag(p): p for p in c.params if flag(p)} for name, c in found.items()}
        flags = {name: {flag: p.name for flag, p in own.items()} for name, own in options.items()}
        by_name = {name: {p.name: p for p in own.values()} for name, own in options.items()}
        context.default_map = {
            name: {p: _setting(name, by_name[name][p], v) for p, v in values.items()}
            for name, values in for_parameters(defaults(), flags).items()
        }


def _setting(command: str, parameter: Any, value: Any) -> Any:
    """A value of a settings file as the command line would have it: a list, or its items with commas between.

    errors   ModelError (78) for true and false of an option that is no switch, for anything else of one, and for a NUL,
             which no command line can hold
    """
    from segcli.commands.settings import FILE, flag

    if any("\0" in str(part) for part in (value if isinstance(value, list) else [value])):
        raise ModelError(f"{FILE}: {command}: {flag(parameter)} cannot hold a NUL")
    if isinstance(value, bool) != bool(getattr(parameter, "is_flag", False)):
        raise ModelError(f"{FILE}: {command}: {flag(parameter)} cannot be {str(value).lower()}")
    if getattr(parameter, "multiple", False):
        return value if isinstance(value, list) else [value]
    return ",".join(map(str, value)) if isinstance(value, list) else value
