"""Settings and where each comes from: flag, environment, the project's segcli.toml, the user's, the default."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from segcli.errors import ModelError

FILE = "segcli.toml"


def files() -> list[Path]:
    """Settings files that exist, the nearest first: segcli.toml here, then the user's."""
    if own := os.environ.get("SEGCLI_HOME"):
        user = Path(own) / FILE
    else:
        user = (
            Path(os.environ.get("XDG_CONFIG_HOME") or Path(os.environ.get("HOME", "/")) / ".config") / "segcli" / FILE
        )
    return [p for p in (Path(FILE), user) if p.is_file()]


def defaults() -> dict[str, dict[str, Any]]:
    """command -> option -> value, from the settings files.

    A file has a table for each command: [predict] model = "uxnet". An option's name is the long flag's, with
    underscores. Unknown commands are errors (78); unknown options are found by the command itself.
    """
    out: dict[str, dict[str, Any]] = {}
    for path in reversed(files()):
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, OSError, UnicodeDecodeError) as error:
            raise ModelError(f"{path}: not a settings file: {error}") from error
        for command, options in document.items():
            if not isinstance(options, dict):
                raise ModelError(f"{path}: {command} stands outside a table", hint="write it below [predict]")
            out.setdefault(command, {}).update({k.replace("-", "_"): v for k, v in options.items()})
    return out


def origins(command: str, options: dict[str, Any]) -> list[dict[str, Any]]:
    """For each option of a command: its value and where that comes from."""
    found = []
    tables = [(str(p), tomllib.loads(p.read_text(encoding="utf-8")).get(command, {})) for p in files()]
    for name, default in options.items():
        variable = f"SEGCLI_{name.upper()}"
        if variable in os.environ:
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
