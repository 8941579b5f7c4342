"""What the commands share: how one is declared, and options that several have."""

from __future__ import annotations

import inspect
import re
from copy import copy
from dataclasses import fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup
from typer.models import OptionInfo

from segcli.batch.outputs import offered
from segcli.documents import Document
from segcli.engines import own as own_engines
from segcli.engines.devices import NAMES as DEVICES
from segcli.engines.devices import SEVERAL
from segcli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


Run = TypeVar("Run", bound="Callable[..., Any]")

# ---- how a command is declared

_KINDS = {
    "str": " TEXT",
    "path": " PATH",
    "Path": " PATH",
    "int": " N",
    "float": " N",
}  # what the help calls Python's types


class Group(TyperGroup):
    """Commands with their summaries, which are never cut."""

    def summaries(self) -> list[tuple[str, str]]:
        return [(name, command.help or "") for name, command in self.commands.items()]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, " ".join(text.split())) for name, text in self.summaries()])


class Command(TyperCommand):
    """A command whose options stand in the help below the name of their panel; those of no panel first.

    Typer looks at no file itself: its refusals have other codes than those of the room that reads the file.
    """

    def __init__(self, *words: Any, params: Any = None, **how: Any) -> None:
        super().__init__(*words, params=params, **how)
        for parameter in self.params:
            known: Any = parameter
            declared = getattr(known, "type_descriptor", None)  # an older typer has click's type
            (declared.parameter_info if declared else known.type).readable = False

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """What the words mean; UsageError where an option that takes one value is given two."""
        if not ctx.resilient_parsing:
            given: list[Any] = self.make_parser(ctx).parse_args(args=list(args))[2]
            once = [p for p in given if p.param_type_name == "option" and not (p.multiple or p.is_flag or p.count)]
            for parameter in once:
                if once.count(parameter) > 1:
                    raise UsageError(f"{parameter.opts[-1]}: is given twice, and takes one value")
        return super().parse_args(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            panel = "Arguments" if parameter.param_type_name == "argument" else "Options"
            if (shown := parameter.get_help_record(ctx)) is not None:
                names = _without_types(shown[0], panel == "Options")
                panels.setdefault(getattr(parameter, "rich_help_panel", None) or panel, []).append((names, shown[1]))
        for panel, shown_ones in panels.items():
            if shown_ones:
                with formatter.section(panel):
                    formatter.write_dl(shown_ones)


def _without_types(names: str, option: bool) -> str:
    """An option as the help names it, with the kind of its value; an argument alone."""
    kinds = _KINDS if option else {}
    return re.sub(r" <(?:list\[)?(\w+)\]?( range)?>", lambda found: kinds.get(found[1], ""), names)


class Commands(typer.Typer):
    """What a module of this folder declares, under the name `commands`: one command, or a group of them.

    app.py finds it there. Without `help` it is the one command of its name.
    """

    def __init__(self, name: str, **how: Any) -> None:
        plain: Document = {"rich_markup_mode": None, "pretty_exceptions_enable": False, "add_completion": False}
        super().__init__(name=name, cls=Group, **plain, **how)
        self.name = name

    def command(self, name: str | None = None, **how: Any) -> Callable[[Run], Run]:
        return super().command(name, cls=Command, **how)

    @property
    def summary(self) -> str:
        """What the list of commands says: the first paragraph of the help, without making the command."""
        told = self.info.help if isinstance(self.info.help, str) else self.registered_commands[0].callback.__doc__
        return str(told).partition("\n\n")[0]


def from_groups(*usual: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command whose parameters are frozen dataclasses of options; Typer sees each field as an option of its own.

    In the help the fields named in `usual` stand first, and then those of each dataclass below its docstring.
    """
    return lambda run: _Grouped(run, usual)


class _Grouped:
    """What `from_groups` makes of a function; its options are looked at when the command is made, not before."""

    def __init__(self, run: Callable[..., None], usual: Sequence[str]) -> None:
        self._run, self._usual = run, usual
        self.__name__, self.__doc__ = run.__name__, run.__doc__

    def __call__(self, **values: Any) -> None:
        made = {
            name: group(**{f.name: values.pop(f.name) for f in fields(group) if f.name in values})
            for name, group in self._groups.items()
        }
        self._run(**values, **made)

    @cached_property
    def _parameters(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self._run, eval_str=True).parameters

    @cached_property
    def _groups(self) -> Document:
        return {name: p.annotation for name, p in self._parameters.items() if is_dataclass(p.annotation)}

    @cached_property
    def __signature__(self) -> inspect.Signature:
        options = [p.replace(kind=p.KEYWORD_ONLY) for name, p in self._parameters.items() if name not in self._groups]
        for group in self._groups.values():
            hints = get_type_hints(group, include_extras=True)
            options += [_option(f.name, hints[f.name], f.default, group, self._usual) for f in fields(group)]
        places = {name: i for i, name in enumerate(self._usual)}
        options.sort(key=lambda p: places.get(p.name, len(places)))
        return inspect.Signature(options)

    def __getattr__(self, name: str) -> Any:
        if name != "__annotations__":
            raise AttributeError(name)
        return {p.name: p.annotation for p in self.__signature__.parameters.values()}


def _option(name: str, hint: Any, default: Any, group: Any, usual: Sequence[str]) -> inspect.Parameter:
    """A field as the parameter of a function; its panel in the help is the dataclass, unless it is a usual one."""
    kind, declared = get_args(hint)
    if name not in usual and isinstance(declared, OptionInfo):
        declared = copy(declared)
        declared.rich_help_panel = group.__doc__
        hint = Annotated[kind, declared]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)


def output_option(says: str, kind: Callable[[str], Any] = Path) -> Any:
    """The option -o. An empty name, as of a shell's variable that is not set, would be the working folder: refused.

    kind   what its value becomes
    """

    def named(text: str) -> Any:
        if not text:
            raise typer.BadParameter("has an empty name: give a folder or a file; . is this folder")
        if text.startswith("="):  # a short option's value as it comes from -o=NAME
            raise typer.BadParameter(f"begins with =: write -o {text[1:]}, or ./{text} where the name is meant")
        return kind(text)

    return typer.Option("-o", "--output", parser=named, metavar="PATH", help=says)


# ---- options that several commands have

Model = Annotated[str, typer.Option("--model", "-m", envvar="SEGCLI_MODEL", help="Name, folder or file of a model.")]
Models = Annotated[  # paths, so that a variable with several is cut at ":" and not at spaces
    list[Path],
    typer.Option("--model", "-m", envvar="SEGCLI_MODEL", help="Name, folder or file; several: an ensemble."),
]
Channels = Annotated[list[str] | None, typer.Option("--channel", help="NAME=FILE, once for each channel.")]
MaxRAM = Annotated[str | None, typer.Option("--max-ram", help="Such as 4G.", envvar="SEGCLI_MAX_RAM")]
MaxVRAM = Annotated[str | None, typer.Option("--max-vram", help="Such as 6G.", envvar="SEGCLI_MAX_VRAM")]
Engine = Annotated[
    str,
    typer.Option("--engine", envvar="SEGCLI_ENGINE", help=f"auto, {', '.join(own_engines())}, or that of a package."),
]
Device = Annotated[str, typer.Option("--device", envvar="SEGCLI_DEVICE", help=f"{', '.join(DEVICES)}; {SEVERAL}.")]
Arithmetic = Annotated[
    str,
    typer.Option(
        "--precision",
        envvar="SEGCLI_PRECISION",
        help="auto (half on CUDA, float32 on a CPU), float32, tf32, bfloat16 or float16.",
    ),
]
Threads = Annotated[
    int | None, typer.Option("--threads", envvar="SEGCLI_THREADS", min=1, max=1024, help="CPU threads.")
]
Affine = Annotated[str | None, typer.Option("--affine", help="What counts in a NIfTI header: sform, qform or pixdim.")]
AllowLabelMap = Annotated[bool, typer.Option("--allow-label-map", help="Take what looks like a label map for a scan.")]
Average = Annotated[
    str | None, typer.Option("--average", help="Of several models: logits, or probabilities on the scan's grid.")
]
KeepIslands = Annotated[bool, typer.Option("--keep-islands", help="Pieces that the model's card would take away stay.")]
Faithful = Annotated[
    bool,
    typer.Option(
        "--faithful", help="Bring labels back and blend windows as the model's authors do, where its card says how."
    ),
]
Series = Annotated[str | None, typer.Option("--series", help="Number or name of the DICOM series to take.")]
SeveralSeries = Annotated[
    list[str] | None, typer.Option("--series", help="Numbers, names or UIDs of DICOM series, or all; repeatable.")
]
VolumeNumber = Annotated[
    int | None, typer.Option("--volume", min=1, help="Which volume of a series or 4-D file, from 1.")
]
Reports = Annotated[list[str] | None, typer.Option("--report", help=f"{offered('--report')}; repeatable.")]
Tables = Annotated[str, typer.Option("--tables", help=f"{offered('--tables')}; with commas between.")]
Split = Annotated[bool, typer.Option("--split", help="One mask per structure as well.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
