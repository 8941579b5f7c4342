"""Where events go: stderr, stdout, or a file that holds nothing but events."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO, get_args

from segcli.errors import OutputExists

STREAMS = ("stderr", "stdout", "-")  # that events can go to; all else is a file's name


def are_events(head: bytes) -> bool:
    """Whether a file that begins with these bytes is empty, or holds events by what its first line says."""
    import json

    from segcli.batch.events import EventName

    if not head:
        return True
    try:
        first = json.loads(head.split(b"\n")[0])
    except (ValueError, RecursionError):
        return False
    if not isinstance(first, dict) or not isinstance(first.get("schema"), int):
        return False
    return list(first)[:4] == ["schema", "event", "time", "case"] and first["event"] in get_args(EventName)


@contextlib.contextmanager
def events_to(target: str | None) -> Iterator[TextIO | None]:
    """Where events go; an error of closing it is none, because every event has been flushed."""
    if target is None:
        yield None
    elif target in STREAMS:
        yield sys.stderr if target == "stderr" else sys.stdout
    else:
        from segcli.formats import atomic

        path = Path(target)
        with atomic.translated(path):
            file = _appended(path)
        try:
            yield file
        finally:
            with contextlib.suppress(OSError):  # what it could not take is lost
                file.close()


def _appended(path: Path) -> TextIO:
    """A file that events are added to: a new one, one that holds events already, or what is no file, as a pipe.

    errors   OutputExists (73): somebody else's file, a link to one, or a folder
    """
    from segcli.formats import atomic

    if path.is_dir():
        raise OutputExists(f"{path.name}: is a folder, and events go into a file", hint=atomic.ANOTHER)
    if path.exists() and not path.is_file():
        return path.open("a", encoding="utf-8", newline="\n")
    try:
        file = open(path, "a+b", opener=atomic.no_link)  # noqa: SIM115 - the stream is the caller's
    except OSError as error:
        if path.is_symlink():
            raise OutputExists(
                f"{path.name}: is a link, and events go into no file behind one", hint=atomic.ANOTHER
            ) from error
        raise
    # Judged by what was opened: another file may have the name since.
    file.seek(0)
    head = file.read(4096)
    if not are_events(head):
        file.close()
        raise atomic.claimed(path)
    if head:
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":  # a run was killed within a line
            file.write(b"\n")
    return io.TextIOWrapper(file, encoding="utf-8", newline="\n")
