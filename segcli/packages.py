"""What installed packages add to segcli: formats, engines, networks, kinds of output, checks, commands; versions."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Hashable
from typing import Literal, TypeVar

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
