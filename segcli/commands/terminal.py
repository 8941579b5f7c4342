"""What is printed: lines, errors and JSON, tables, facts, texts in Markdown."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from segcli.documents import Document, Facts
from segcli.errors import SegcliError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


SCHEMA = 1  # of the JSON documents on stdout
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
