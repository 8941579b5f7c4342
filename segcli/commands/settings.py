"""Settings and where each comes from: flag, environment, the project's segcli.toml, the user's, the default."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segcli.documents import Document, Facts, text_of
from segcli.errors import Denied, ModelError, near
from segcli.folders import at_home, user_folder

FILE = "segcli.toml"


def files() -> list[Path]:
    """Settings files that exist, the nearest first: segcli.toml here, then the user's."""
    user = user_folder("config") / FILE
    return [p for p in (Path(FILE), user) if os.path.isfile(p)]  # noqa: PTH113 - False also where one may not look


def defaults() -> dict[str, Document]:
    """command -> option -> value, from the settings files.

    A file has a table for each command: [predict] model = "uxnet". An option's name is the long flag's, with
    underscores.
    """
    import tomllib  # not before there is a file to read

    out: dict[str, Document] = {}
    for path in reversed(files()):
        try:
            document = tomllib.loads(text_of(path.read_bytes()))
        except PermissionError as error:
            raise Denied(f"{path}: cannot be read: permission denied", hint="make it readable for you") from error
        except (tomllib.TOMLDecodeError, OSError, UnicodeDecodeError, RecursionError) as error:
            raise ModelError(f"{path}: not a settings file: {error}") from error
        for command, options in document.items():
            if not isinstance(options, dict):
                raise ModelError(f"{path}: {command} stands outside a table", hint="write it below [predict]")
            out.setdefault(command, {}).update({k.replace("-", "_"): v for k, v in options.items()})
    return out


def for_parameters(found: Mapping[str, Facts], flags: Mapping[str, Mapping[str, str]]) -> dict[str, Document]:
    """The settings by the names of the commands' parameters; what is misspelt, and would do nothing, is refused (78).

    flags  command -> long flag without dashes, with underscores -> parameter
    """
    for command, options in found.items():
        if command not in flags:
            raise ModelError(f"{FILE}: there is no command {command!r}{near(command, flags)}")
        for option in options:
            if option not in flags[command]:
                raise ModelError(f"{FILE}: {command} has no option {option!r}{near(option, flags[command])}")
    return {command: {flags[command][o]: _at_home(v) for o, v in options.items()} for command, options in found.items()}


def _at_home(value: object) -> object:
    """A value whose path begins with ~/ below the home folder, also in a list."""
    if isinstance(value, list):
        return [_at_home(one) for one in value]
    return at_home(value) if isinstance(value, str) else value


def origins(command: str, options: Facts, variables: Mapping[str, str]) -> list[Document]:
    """For each option of a command: its value and where that comes from.

    options    name -> default
    variables  name -> environment variable, of the options that have one
    """
    import tomllib

    found = []
    tables = [(str(p), tomllib.loads(text_of(p.read_bytes())).get(command, {})) for p in files()]
    for name, default in options.items():
        variable = variables.get(name)
        if variable is not None and os.environ.get(variable):  # an empty one is as if it were not there
            found.append({"option": name, "value": os.environ[variable], "from": variable})
            continue
        for path, table in tables:
            plain = {k.replace("-", "_"): v for k, v in table.items()}
            if name in plain:
                found.append({"option": name, "value": plain[name], "from": path})
                break
        else:
            found.append({"option": name, "value": default, "from": "default"})
    return found


def flag(parameter: Any) -> str:
    """The long flag of an option without dashes, with underscores; nothing for an argument."""
    long = next((flag for flag in parameter.opts if flag.startswith("--")), "")
    return str(long[2:].replace("-", "_"))
