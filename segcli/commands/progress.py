"""How a run is followed: a bar on a terminal, lines now and then where there is none, events as JSON lines."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TextIO

from segcli.commands.terminal import SCHEMA, plain, print_line, say, talk

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from segcli.batch.case import Case
    from segcli.batch.events import Event

EVERY = 10.0  # seconds between lines about progress, where there is no bar
SELDOM = 300.0  # the same in a log, which has a line for each case that ends


class Show:
    """Follows a run: a bar per case on a terminal, in a log a line for each case that ends; JSON lines where asked for.

    events   a stream for one JSON object a line: schema, event, time, case, and the event's facts. `unwritten` says
             why it could not take one; none is written after that
    """

    def __init__(self, total: int, *, quiet: bool, verbose: int, events: TextIO | None) -> None:
        self.total, self.quiet, self.verbose, self.events = total, quiet, verbose, events
        self.unwritten: OSError | None = None
        self.console, self.log = talk(), not sys.stderr.isatty() and not quiet
        self.progress: Progress | None = None
        self._bars: dict[Case, TaskID] = {}
        self.last = "opening the model"
        self._told = time.monotonic()
        self._writing = threading.Lock()  # stages of several cases report at once
        self.beat()
        if sys.stderr.isatty() and not quiet and not self.console.is_dumb_terminal:
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
            )

            self.progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("windows"),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
                redirect_stdout=False,  # it would send data to stderr, which may go elsewhere
            )
            self.progress.start()

    def watch(self, event: Event) -> None:
        """Takes the events of predict()."""
        name, case, facts = event.name, event.case, event.facts
        self.last = f"{name} of {case.name}"
        self.beat()
        if self.events is not None:
            import json

            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            line = json.dumps({"schema": SCHEMA, "event": name, "time": now, "case": case.name, **facts}, default=str)
            with self._writing:
                self._write(line)
        if name == "doubt" and not self.quiet:
            self.line(f"warning: {case.name}: {event.sentence}")
        told = ("read", "segment", "write", "done", "skipped") if self.verbose else ()
        if name in told or (self.log and name in ("done", "failed")):
            verdict = f", {event.verdict}" if name == "done" and event.verdict else ""
            more = f" {facts}" if self.verbose > 1 and facts else ""
            self.line(f"{self._time()}{case.name}: {name}{verdict}{more}")
        if self.progress is None:
            self._tell_now_and_then(event)
            return
        if name == "segment":
            self._bars[case] = self.progress.add_task(plain(case.name), total=None)
        elif name == "window" and case in self._bars:
            self.progress.update(self._bars[case], completed=event.done, total=event.total)
        if (name == "failed" or (name == "window" and event.done == event.total)) and case in self._bars:
            self.progress.remove_task(self._bars.pop(case))

    def _write(self, line: str) -> None:
        """Write one event; only one thread at a time, for the one before may have found the disk full."""
        try:
            if self.events is not None:
                self.events.write(line + "\n")
                self.events.flush()
        except (OSError, ValueError) as error:
            self.events = None
            self.unwritten = error if isinstance(error, OSError) else None

    def _tell_now_and_then(self, event: Event) -> None:
        """Where there is no bar, a line says now and then how far a case is."""
        every = SELDOM if self.log and not self.verbose else EVERY
        if event.name == "window" and not self.quiet and time.monotonic() - self._told >= every:
            self._told = time.monotonic()
            self.line(f"{self._time()}{event.case.name}: {event.done} of {event.total} windows")

    def _time(self) -> str:
        """The time of day at the beginning of a log's line; nothing on a terminal."""
        return f"{datetime.now():%Y-%m-%d %H:%M:%S} " if self.log else ""

    def beat(self) -> None:
        """Something happened just now."""
        self._beat = time.monotonic()

    def still_for(self) -> float:
        """Seconds since something happened."""
        return time.monotonic() - self._beat

    def line(self, text: str) -> None:
        """A line on stderr that does not tear the bar."""
        if self.progress is not None:
            from rich.text import Text

            self.console.print(Text(plain(text)), soft_wrap=True)  # a path that is copied has no line ends in it
        else:
            say(text)

    def data(self, text: str) -> None:
        """A line of data on stdout; where that is a terminal too, one that does not tear the bar."""
        if self.progress is not None and sys.stdout.isatty():
            self.line(text)
        else:
            print_line(text)

    def close(self) -> None:
        if self.progress is not None:
            self.progress.stop()


@contextlib.contextmanager
def downloading() -> Iterator[Callable[[int, int | None], None]]:
    """What is told of a download: a bar with rate and time left on a terminal, nothing otherwise."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    console = talk()
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, redirect_stdout=False) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
