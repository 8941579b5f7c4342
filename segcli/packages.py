"""What packages add: formats, engines, networks, kinds of output, checks, commands, their faults; versions."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Hashable
from pathlib import PurePath
from typing import Literal, TypeVar, get_args

from segcli.errors import EngineError, cause_of

What = Literal["check", "command", "engine", "format", "network", "output"]
Kind = TypeVar("Kind")


def added(
    what: What, kind: type[Kind], names: Callable[[Kind], Collection[Hashable]], taken: Collection[Hashable]
) -> dict[str, Kind]:
    """What the entry points of the group `segcli.<what>s` stand for, by their names and in the order of these.

    kind    what an entry point has to give
    names   what no two of a kind may share; taken: those of segcli's own
    errors  EngineError (69), with the package in it: one that cannot be loaded, is something else, or has a taken name
    """
    from importlib.metadata import entry_points  # which takes as long to import as the rest of `segcli --help`

    found: dict[str, Kind] = {}
    all_taken = set(taken)
    for point in sorted(entry_points(group=f"segcli.{what}s"), key=lambda point: point.name):
        package = point.dist.name if point.dist else point.module
        said = f"the {what} {point.name!r} of the package {package}"
        hint = f"update or uninstall {package}"
        try:
            one = point.load()
        except Exception as error:  # it is not our code
            raise EngineError(f"{said} cannot be loaded: {cause_of(error)}", hint=hint) from error
        if not isinstance(one, kind):
            raise EngineError(f"{said} is of type {type(one).__name__}, and segcli takes {kind.__name__}", hint=hint)
        own = {point.name, *names(one)}
        if own & all_taken:
            raise EngineError(f"{said} has the name of another one", hint=hint)
        all_taken |= own
        found[point.name] = one
    return found


def at_fault(error: BaseException) -> EngineError | None:
    """The refusal that names the installed package in whose code an error arose; None for an error of segcli's own.

    Of the functions that had been called the last one counts that is segcli's or such a package's: what other
    libraries raise is the fault of the one that called them.
    """
    from importlib.metadata import entry_points  # as above
    from traceback import walk_tb

    points = [point for what in get_args(What) for point in entry_points(group=f"segcli.{what}s")]
    owners = {point.module.partition(".")[0]: point.dist.name if point.dist else point.module for point in points}
    for frame, line in reversed(list(walk_tb(error.__traceback__))):
        module = str(frame.f_globals.get("__name__")).partition(".")[0]
        if module == "segcli":
            break
        if module in owners:
            package, file = owners[module], PurePath(frame.f_code.co_filename).name
            told = f"the package {package} fails in line {line} of {file}: {type(error).__name__}: {error}"
            return EngineError(told, hint=f"update or uninstall {package}")
    return None


_PART = re.compile(r"\.(so|dll|dylib|pyd)\b|\bDLL\b")  # of a library, in what is said of it
_NO_ROOM = re.compile(r"map segment|allocate memory")


def not_loaded(name: str, error: Exception) -> EngineError | None:
    """The refusal to go on without a library that is installed and cannot be loaded; None for any other error."""
    of_system = isinstance(error, OSError) and error.filename is None and _PART.search(str(error))
    of_python = isinstance(error, ImportError) and (error.name or "").partition(".")[0] != "segcli"
    if not of_python and not of_system:
        return None
    hint = (
        f"pip install --force-reinstall {name}"
        if name
        else "`segcli doctor` shows what is there, `pip check` what is missing"
    )
    if _NO_ROOM.search(str(error)):
        hint = "the process may not have so much address space (`ulimit -v`, `h_vmem` of a cluster): ask for more"
    if not name and isinstance(error, ModuleNotFoundError) and "." not in (error.name or "."):
        return EngineError(f"{error.name} is not installed, and segcli needs it", hint=hint)
    return EngineError(f"{name or 'a library'} cannot be loaded: {cause_of(error)}", hint=hint)


def version_of(library: str) -> str:
    """The version of an installed library, also where it came under another name, as onnxruntime in onnxruntime-gpu.

    errors   ImportError: it is not installed
    """
    from importlib import import_module
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(library)
    except PackageNotFoundError:
        return str(getattr(import_module(library), "__version__", "unknown"))
