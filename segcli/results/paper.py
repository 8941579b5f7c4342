"""The summary of an evaluation as a table for a paper: means with their 95 % intervals."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from segcli.documents import Facts
from segcli.results.measure import csv_text

# Heading, key and decimals of each score that is shown.
_SCORES = (("Dice", "dice", 3), ("NSD", "nsd", 3), ("HD95 mm", "hd95_mm", 2), ("ASSD mm", "assd_mm", 2))


def _markdown(summary: Sequence[Facts]) -> str:
    lines = [_headings(), ["---", *["---:"] * (len(_headings()) - 1)], *(_cells(row, " to ") for row in summary)]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _latex(summary: Sequence[Facts]) -> str:
    lines = [[_for_latex(cell) for cell in line] for line in (_headings(), *(_cells(row, "--") for row in summary))]
    head, *body = (f"{' & '.join(line)} \\\\" for line in lines)
    columns = f"l{'r' * (len(_headings()) - 1)}"
    return "\n".join(
        [f"\\begin{{tabular}}{{{columns}}}", "\\hline", head, "\\hline", *body, "\\hline", "\\end{tabular}", ""]
    )


FORMS: dict[str, Callable[[Sequence[Facts]], str]] = {"csv": csv_text, "markdown": _markdown, "latex": _latex}


def marked(name: str, apart: Collection[str]) -> str:
    """A structure's name as tables have it, which say of those `apart` that the mean of all leaves them out."""
    return f"{name} (not in all)" if name in apart else name


def _headings() -> list[str]:
    return ["Structure", "Cases", "Missed", "Invented", *(heading for heading, _, _ in _SCORES)]


def _cells(row: Facts, to: str) -> list[str]:
    scores = [_score(row, key, decimals, to) for _, key, decimals in _SCORES]
    return [row["name"].replace("_", " "), *(str(row[key]) for key in ("cases", "missed", "invented")), *scores]


def _score(row: Facts, key: str, decimals: int, to: str) -> str:
    """0.912 (0.900 to 0.921), the mean alone where there is no interval, n/a where there is none."""
    mean, low, high = (row[name] for name in (key, f"{key}_low", f"{key}_high"))
    if mean is None:
        return "n/a"
    told = f"{mean:.{decimals}f}"
    return told if low is None else f"{told} ({low:.{decimals}f}{to}{high:.{decimals}f})"


def _for_latex(text: str) -> str:
    signs = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    return "".join(signs.get(sign, f"\\{sign}" if sign in "&%$#_{}" else sign) for sign in text)
