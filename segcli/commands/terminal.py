"""Everything a person sees on stderr, and tables on request: progress, results, errors."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, TextIO, get_args

from segcli.documents import Document, Facts
from segcli.errors import OutputExists, SegcliError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID
    from rich.table import Table

    from segcli.batch.case import Case
    from segcli.batch.events import Event

SCHEMA = 1  # of the JSON documents on stdout
STREAMS = ("stderr", "stdout", "-")  # that events can go to; all else is a file's name
EVERY = 10.0  # seconds between lines about progress, where there is no bar
_SHORT = 12  # characters of a column that is never cut
_LEAST = 8  # characters of a column of texts
_GAP = 2  # characters between columns
_NARROWEST = 40  # characters of a line: less, or the 0 that some terminals say, would leave nothing of a table
_PAGE = 110  # characters of the longest line of a text


def plain(text: str) -> str:
    """Text from outside made printable: control and escape characters shown, not obeyed."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text.encode("utf-8", "replace").decode())


def print_json(document: Facts) -> None:
    """One JSON document on stdout."""
    import json

    print_line(json.dumps(document, indent=1, default=str))


def print_line(text: str) -> None:
    """A line of data on stdout."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """A line on stderr."""
    sys.stderr.write(plain(text) + "\n")
    sys.stderr.flush()


def show_error(error: SegcliError) -> None:
    """One short paragraph: what is wrong with numbers, and the next step."""
    say(f"error: {error.message}")
    if error.hint:
        say(f"  {error.hint}")


class Show:
    """Follows a run: a bar per case on a terminal, nothing otherwise; JSON lines where asked for.

    events   a stream for one JSON object a line: schema, event, time, case, and the event's facts. `unwritten` says
             why it could not take one; none is written after that
    """

    def __init__(self, total: int, *, quiet: bool, verbose: int, events: TextIO | None) -> None:
        self.total, self.quiet, self.verbose, self.events = total, quiet, verbose, events
        self.unwritten: OSError | None = None
        self.console = _console(stderr=True)
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
        if self.verbose and name in ("read", "segment", "write", "done", "skipped"):
            self.line(f"{case.name}: {name}" + (f" {facts}" if self.verbose > 1 and facts else ""))
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
        """Where there is no bar, a line every ten seconds says how far a case is."""
        if event.name == "window" and not self.quiet and time.monotonic() - self._told >= EVERY:
            self._told = time.monotonic()
            self.line(f"{event.case.name}: {event.done} of {event.total} windows")

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

    console = _console(stderr=True)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, redirect_stdout=False) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def table(
    title: str,
    rows: Sequence[Facts],
    *,
    on: Console | None = None,
    one_line: bool = False,
    decimals: Mapping[str, int] = MappingProxyType({}),
) -> None:
    """Rows of equal keys as a table, numbers to the right. Neither numbers nor the first column, whose names are typed,
    are ever cut: on a terminal that is too narrow for all columns the others follow in a further table below.

    on         where it is printed; None for stdout
    one_line   on a terminal that is narrower than a row, long texts are cut rather than continued below
    decimals   of numbers below 1000 in a column, where they are not two
    """
    from rich.text import Text

    console = on or _console(stderr=False)
    if title:
        console.print(Text(plain(title)))
    if not rows:
        return
    columns = {key: _Column(key, [row[key] for row in rows], decimals.get(key, 2)) for key in rows[0]}
    for part in _parts(columns, console.width):
        console.print(_made(part, one_line, bold=not console.no_color))


def talk() -> Console:
    """Where tables go that are no data: stderr."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    """Where tables and bars go, in the width of the terminal."""
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False, markup=False)
    if not console.file.isatty():
        console.width = 400  # a pipe has no width to cut names at, whatever colours are forced
    elif console.width < _NARROWEST:
        console.width = _NARROWEST
    return console


class _Column:
    """A column of a table as it is printed."""

    def __init__(self, name: str, values: Sequence[Any], decimals: int) -> None:
        self.name = name
        self.cells = [plain(_cell(value, decimals)) for value in values]
        self.width = max(map(len, (name, *self.cells)))
        self.numbers = all(value is None or isinstance(value, int | float) for value in values)

    @property
    def least(self) -> int:
        """The characters that it needs at least: numbers are whole, texts go on below."""
        return self.width if self.numbers else min(self.width, _LEAST)


def _parts(columns: Mapping[str, _Column], room: int) -> list[list[_Column]]:
    """The columns in tables of at most so many characters, each of which begins with the first column."""
    first, *others = columns.values()
    parts, left = [[first]], room - first.width
    for column in others:
        if column.least + _GAP > left and len(parts[-1]) > 1:
            parts.append([first])
            left = room - first.width
        parts[-1].append(column)
        left -= column.least + _GAP
    return parts


def _made(columns: Sequence[_Column], one_line: bool, *, bold: bool) -> Table:
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="bold" if bold else None)
    for i, column in enumerate(columns):
        whole = i == 0 or column.numbers or (one_line and column.width <= _SHORT)
        made.add_column(column.name, justify="right" if column.numbers else "left", no_wrap=whole)
    for row in zip(*(column.cells for column in columns), strict=True):
        made.add_row(*(Text(cell, no_wrap=one_line, overflow="ellipsis") for cell in row))
    return made


def _cell(value: Any, decimals: int = 2) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, float):
        return f"{value:z,.{decimals}f}" if abs(value) < 1000 else f"{value:z,.0f}"
    return "" if value is None else str(value)


def structure_rows(structures: Sequence[Facts]) -> list[Document]:
    """What the terminal shows of a report: structures that were found."""
    return [
        {
            "label": s["label"],
            "structure": s["name"],
            "mL": s["volume_ml"],
            "voxels": s["voxels"],
            "mean": s["mean"],
            "cut off": s["truncated"],
        }
        for s in structures
        if s["voxels"]
    ]


def times(values: Sequence[float] | None) -> str:
    """Sizes along the axes: 16 x 14 x 12."""
    return " x ".join(f"{v:g}" for v in values or ())


def print_markdown(text: str) -> None:
    """A text in Markdown on stdout: on a terminal laid out in its width, tables too; in a pipe as it is.

    Lines of code stay whole, however long they are, for they are copied.
    """
    width = _width()
    if width is None:
        print_line(text)
        return
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.markdown import CodeBlock, Markdown
    from rich.text import Text
    from rich.theme import Theme

    class Code(CodeBlock):
        def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
            for line in str(self.text).rstrip().splitlines():
                yield Text(f"    {line}", style="bold", no_wrap=True, overflow="ignore")

    class Page(Markdown):
        elements: ClassVar = {**Markdown.elements, "fence": Code, "code_block": Code}

    console = Console(width=min(width, _PAGE), highlight=False, theme=Theme({"markdown.code": "bold"}))
    console.print(Page(text, hyperlinks=False), crop=False)


def print_facts(facts: Facts) -> None:
    """What is known of something on stdout, a fact a line; facts of facts are indented below their name.

    On a terminal a long fact goes on below, behind its name; in a pipe it stays one line.
    """
    width = _width()
    for line in _lines_of(facts, width):
        print_line(line)


def _width() -> int | None:
    """The characters of a line of stdout; None where it is no terminal."""
    import shutil

    return max(shutil.get_terminal_size().columns, _NARROWEST) if sys.stdout.isatty() else None


def _lines_of(facts: Facts, width: int | None) -> Iterator[str]:
    import textwrap

    known = {key: value for key, value in facts.items() if not (value is None or value in ("", [], {}, ()))}
    margin = max(map(len, known), default=0) + 2
    for key, value in known.items():
        if isinstance(value, Mapping) and any(isinstance(inner, Mapping | list) for inner in value.values()):
            yield key
            yield from (f"  {line}" for line in _lines_of(value, width and width - 2))
            continue
        text = plain(_words_of(value))
        lines = textwrap.wrap(text, max(width - margin, _SHORT)) if width else [text]
        for name, line in zip([key, *[""] * len(lines)], lines, strict=False):
            yield f"{name:{margin}}{line}"


def _words_of(value: Any) -> str:
    """A value in words: yes and no, 1, 2 for a list, a 1, b 2 for what has names."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words_of(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        between = "; " if any(isinstance(inner, Mapping | list | tuple) for inner in value) else ", "
        return between.join(map(_words_of, value))
    return str(value)


def counted(number: int, word: str) -> str:
    """1 channel, 2 channels."""
    return f"{number} {word}" + "s" * (number != 1)


def duration(seconds: float) -> str:
    """A time as a person says it: 48 s, 12 min, 5 h 20 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


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
