"""The user's own folders: $SEGCLI_HOME, else $XDG_..._HOME, else where the platform keeps such things; paths with ~."""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path
from typing import Literal

Kind = Literal["config", "data", "cache"]


def user_folder(kind: Kind) -> Path:
    """Where settings ("config"), models ("data"), or what can be made again ("cache") lie; it need not be there.

    Below $SEGCLI_HOME settings lie directly, the others in folders of their own. The XDG variables count on every
    platform.
    """
    if own := os.environ.get("SEGCLI_HOME"):
        return Path(at_home(own)) if kind == "config" else Path(at_home(own)) / kind
    xdg = Path(os.environ.get(f"XDG_{kind.upper()}_HOME", ""))
    if xdg.is_absolute():  # its specification: any other is not to be used
        return xdg / "segcli"
    if home() == Path("/"):
        usual = {"config": ".config", "data": ".local/share", "cache": ".cache"}
        return Path("/", usual[kind], "segcli")  # platformdirs knows none where nobody says which home it is
    import platformdirs  # not where a variable says it

    folders = {
        "config": platformdirs.user_config_path,
        "data": platformdirs.user_data_path,
        "cache": platformdirs.user_cache_path,
    }
    return folders[kind]("segcli", appauthor=False)


def home() -> Path:
    """The user's home; the root where nobody says which it is, as containers have it for a user without a name."""
    found = Path(os.path.expanduser("~"))  # noqa: PTH111 - Path.expanduser raises where there is none
    return found if found.is_absolute() else Path("/")


def at_home(path: str | PathLike[str]) -> str:
    """A path that begins with ~/ below the user's home: in settings, variables and quotes no shell has seen it."""
    text = os.fspath(path)
    below = text.startswith("~/") or (os.name == "nt" and text.startswith("~\\"))
    return f"{home()}{text[1:]}" if below or text == "~" else text


def each_at_home(paths: str) -> str:
    """The same of each of several paths in one variable."""
    return os.pathsep.join(map(at_home, paths.split(os.pathsep)))
