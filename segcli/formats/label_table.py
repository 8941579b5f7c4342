"""Reading the names of a label map: FreeSurfer's lookup tables, those of Slicer and ITK-SNAP, CSV, and TSV of BIDS."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from segcli.documents import text_of
from segcli.errors import InputError
from segcli.formats.streams import regular_size
from segcli.structures import Label, named_pairs

_GREY = (128, 128, 128)
_WHOLE = r"(\d{1,10})"  # no label map holds a number of more digits
_LOOKUP = re.compile(
    rf"{_WHOLE}\s+(\S+)\s+{_WHOLE}\s+{_WHOLE}\s+{_WHOLE}(?:\s+\d+)?$"
)  # number name R G B A: FreeSurfer, Slicer
_ITKSNAP = re.compile(
    rf'{_WHOLE}\s+{_WHOLE}\s+{_WHOLE}\s+{_WHOLE}\s+[\d.]+\s+[01]\s+[01]\s+"(.*)"$'
)  # number R G B A VIS MSH "name"
_NUMBERS = ("index", "value", "id", "number", "no", "label")  # headings of a column of numbers, the first that is there
_NAMES = ("name", "structure", "label_name", "label")


def read(path: Path) -> list[Label]:
    """The labels that a table names, in the order of its lines, without the background; sides of pairs know each other.

    Names become lower case with underscores: Left-Cerebral-Cortex is left_cerebral_cortex.
    errors   InputMissing; InputError for what is no regular file or none of these tables, or names a value twice
    """
    regular_size(path)
    try:
        text = text_of(path.read_bytes())
    except UnicodeDecodeError as error:
        raise InputError(f"{path.name}: not a table of labels: it is no text") from error
    rows = _columns(path, text) if path.suffix.lower() in (".csv", ".tsv") else _lines(path, text)
    found: dict[int, tuple[str, tuple[int, int, int]]] = {}
    try:
        for value, name, colour in rows:
            if value in found:
                raise InputError(f"{path.name}: names the value {value} twice: {found[value][0]!r} and {name!r}")
            found[value] = (name, colour)
    except csv.Error as error:
        raise InputError(f"{path.name}: not a table of labels: {error}") from error
    found.pop(0, None)
    if not found:
        raise InputError(f"{path.name}: not a table of labels: it names no value above 0")
    return labels({value: name for value, (name, _) in found.items()}, {v: colour for v, (_, colour) in found.items()})


def labels(names: dict[int, str], colours: dict[int, tuple[int, int, int]] | None = None) -> list[Label]:
    """Labels of values and names, each name made one of its own; sides of pairs know each other."""
    plain: dict[int, str] = {}
    for value, name in names.items():
        word = re.sub(r"\W+", "_", name).strip("_").lower() or f"label_{value}"
        while word in plain.values():
            word += f"_{value}"
        plain[value] = word
    pairs = dict(named_pairs(list(plain.values())))
    pairs |= {right: left for left, right in pairs.items()}
    return [Label(v, name, None, (colours or {}).get(v, _GREY), pairs.get(name)) for v, name in plain.items()]


def _lines(path: Path, text: str) -> Iterator[tuple[int, str, tuple[int, int, int]]]:
    """Value, name and colour of each line that is neither empty nor a comment."""
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith(("#", "//")):
            continue
        if (found := _ITKSNAP.match(line)) is not None:
            value, r, g, b = (int(found[i]) for i in range(1, 5))
            name = found[5]
        elif (found := _LOOKUP.match(line)) is not None:
            value, r, g, b = (int(found[i]) for i in (1, 3, 4, 5))
            name = found[2]
        else:
            raise InputError(
                f"{path.name}: line {number} is not one of a table of labels: {line[:60]!r}",
                hint="NUMBER NAME R G B A as FreeSurfer and Slicer write it, or a .csv or .tsv with headings",
            )
        yield value, name, (min(r, 255), min(g, 255), min(b, 255))


def _columns(path: Path, text: str) -> Iterator[tuple[int, str, tuple[int, int, int]]]:
    """Value, name and colour of each row of a table whose first line has the headings."""
    rows = csv.DictReader(text.splitlines(), delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    heads = {head.strip().lower(): head for head in rows.fieldnames or ()}
    number = next((heads[h] for h in _NUMBERS if h in heads), None)
    name = next((heads[h] for h in _NAMES if h in heads and heads[h] != number), None)
    if number is None or name is None:
        raise InputError(
            f"{path.name}: not a table of labels: its headings are {', '.join(heads) or 'none'}",
            hint=f"a column of numbers ({', '.join(_NUMBERS)}) and one of names ({', '.join(_NAMES)})",
        )
    colour = heads.get("color") or heads.get("colour")
    for row in rows:
        if not re.fullmatch(rf"\s*{_WHOLE}\s*", row[number] or ""):
            raise InputError(f"{path.name}: line {rows.line_num}: {row[number]!r} is no number of a label")
        code = re.fullmatch(r"#?([0-9a-fA-F]{6})", (row.get(colour) or "").strip()) if colour else None
        red, green, blue = bytes.fromhex(code[1]) if code else _GREY
        yield int(row[number]), row[name] or "", (red, green, blue)
