"""Pieces of a page: escaped text, tables that sort, bars and dots; HTML in, HTML out, no voxels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from segcli import __version__

_SIGN = {"fail": "✖ fail", "review": "⚠ review", "pass": "✔ pass"}
_NO_NETWORK = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
_VIEWER_TOO = "; img-src data: blob:; connect-src data: blob:; worker-src blob: data:; font-src data: blob:"


def page(title: str, body: str, scripts: Sequence[str] = (), *, viewer: bool = False) -> bytes:
    """A whole page; its policy lets the browser load nothing that is not inside it."""
    policy = _NO_NETWORK
    if viewer:
        policy = policy.replace("; img-src data:", _VIEWER_TOO).replace("script-src", "script-src 'wasm-unsafe-eval'")
    return (
        Template(asset("page.html"))
        .substitute(
            policy=policy,
            title=escape(title),
            css=asset("page.css"),
            body=body,
            version=__version__,
            scripts="\n".join([*scripts, script(asset("page.js"))]),
        )
        .encode()
    )


def is_page(head: bytes) -> bool:
    """Whether a file that begins with these bytes is a page of segcli."""
    return b'<meta name="generator" content="segcli">' in head


def asset(name: str) -> str:
    return (files("segcli.results.page") / name).read_text(encoding="utf-8")


def script(code: str) -> str:
    return "<script>\n" + code.replace("</script", r"<\/script") + "\n</script>"


def data(name: str, json: str) -> str:
    """JSON for the scripts; `<` is escaped so that no text in it can end the element."""
    return f'<script type="application/json" id="{name}">' + json.replace("<", r"\u003c") + "</script>"


def badge(verdict: str) -> str:
    return f'<span class="verdict {escape(verdict)}">{escape(_SIGN.get(verdict, verdict))}</span>'


def finding_list(findings: Sequence[Mapping[str, Any]], warnings: Sequence[str]) -> str:
    """What to look at first: failed checks, doubtful ones, warnings of the run."""
    items = [(str(f["severity"]), str(f["code"]), str(f["sentence"])) for f in findings]
    items += [("review", "warning", text) for text in warnings]
    if not items:
        return '<p class="faint">No check raised a doubt, and the run gave no warning.</p>'
    lines = "".join(
        f'<li class="{escape(severity)}"><b>{escape(_SIGN.get(severity, severity))}: {escape(code)}</b>'
        f"{escape(sentence)}</li>"
        for severity, code, sentence in items
    )
    return f'<ul class="findings">{lines}</ul>'


@dataclass(frozen=True)
class Cell:
    """A table's cell: `html` is shown, `value` is sorted by; None is unknown and sorts last."""

    html: str
    value: float | str | None = None
    number: bool = False


def text(value: Any) -> Cell:
    return Cell(escape(str(value)), str(value))


def number(value: float | None, form: str = ".2f") -> Cell:
    return Cell("n/a" if value is None else format(value, form), value, True)


def table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[Cell]], dim: Sequence[bool] = ()) -> str:
    """A table that every column sorts; `dim` marks rows to print faintly."""
    right = [bool(rows) and cell.number for cell in (rows[0] if rows else [Cell("")] * len(heads))]
    head = "".join(
        f'<th scope="col"{" class=n" if r else ""}><button type="button">{escape(h)}</button></th>'
        for h, r in zip(heads, right, strict=True)
    )
    body = []
    for i, row in enumerate(rows):
        cells = "".join(_td(c) for c in row)
        body.append(f"<tr{' class=absent' if i < len(dim) and dim[i] else ''}>{cells}</tr>")
    return (
        f'<div class="scroll"><table class="sortable"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _td(cell: Cell) -> str:
    value = "" if cell.value is None else escape(str(cell.value))
    return f'<td{" class=n" if cell.number else ""} data-v="{value}">{cell.html}</td>'


def swatch(label: int, colour: tuple[int, int, int]) -> str:
    """A structure's number on its colour, black or white by what reads better."""
    light = 0.2126 * colour[0] + 0.7152 * colour[1] + 0.0722 * colour[2] > 140
    ink = "#000" if light else "#fff"
    return f'<span class="swatch" style="background:{css_colour(colour)};color:{ink}">{label}</span>'


def css_colour(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def definitions(title: str, facts: Mapping[str, Any]) -> str:
    """Names and values; what is nested is joined, what is empty left out."""
    lines = "".join(
        f"<dt>{escape(name.replace('_', ' '))}</dt><dd>{escape(_plain(value))}</dd>"
        for name, value in facts.items()
        if value not in (None, "", [], {}, ())
    )
    return f"<section><h2>{escape(title)}</h2><dl>{lines}</dl></section>" if lines else ""


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k}: {_plain(v)}" for k, v in value.items() if v not in (None, "", [], {}, ()))
    if isinstance(value, list | tuple):
        return ", ".join(_plain(v) for v in value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


# ---- charts: the drawing has a title for screen readers, and its numbers stand in the table as well ----------------


def bars(rows: Sequence[tuple[str, float, tuple[int, int, int], tuple[float, float] | None]], source: str) -> str:
    """Volumes as bars on a logarithmic axis, with the reference range as a line.

    rows   name, mL, colour, (low, high) or None; only volumes above 0 have a bar
    """
    values = [v for _, v, _, r in rows for v in (v, *(r or ())) if v > 0]
    if not values:
        return ""
    first, last = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    last = max(last, first + 1)
    left, wide, step = 250, 640, 19

    def x(ml: float) -> float:
        return round(left + wide * (math.log10(max(ml, 10.0**first)) - first) / (last - first), 1)

    parts = []
    bottom = 22 + step * len(rows)
    for power in range(first, last + 1):
        at = x(10.0**power)
        parts.append(f'<line x1="{at}" x2="{at}" y1="18" y2="{bottom}"/>')
        parts.append(f'<text class="axis" x="{at}" y="12" text-anchor="middle">{10.0**power:g} mL</text>')
    for i, (name, ml, colour, span) in enumerate(rows):
        y = 22 + step * i
        parts.append(f'<text x="{left - 8}" y="{y + 13}" text-anchor="end">{escape(name)}</text>')
        if ml > 0:
            size = round(max(x(ml) - left, 1), 1)
            paint = f'fill="{css_colour(colour)}" class="outline"'
            parts.append(f'<rect x="{left}" y="{y + 3}" width="{size}" height="{step - 6}" {paint}/>')
        if span and 0 < span[0] < span[1]:
            a, b, middle = x(span[0]), x(span[1]), y + step / 2
            path = f"M{a} {middle}H{b}M{a} {y + 4}V{y + step - 4}M{b} {y + 4}V{y + step - 4}"
            parts.append(f'<path class="halo" d="{path}"/><path class="range" d="{path}"/>')
        tip = max(x(ml) if ml > 0 else left, x(span[1]) if span else 0)
        parts.append(f'<text x="{tip + 6}" y="{y + 13}">{ml:.2f}</text>')
    note = "Volumes in millilitres on a logarithmic axis" + (f"; lines: reference range, {source}" if source else "")
    return (
        f'<p class="faint">{escape(note)}.</p><svg viewBox="0 0 {left + wide + 70} {bottom + 6}" role="img" '
        f'width="{left + wide + 70}"><title>Volume of each structure</title>{"".join(parts)}</svg>'
    )


def strip(values: Sequence[tuple[str, float]], unit: str) -> str:
    """One dot for each case on a line from the least to the most."""
    low, high = min(v for _, v in values), max(v for _, v in values)
    room = (high - low) or 1.0

    def x(value: float) -> float:
        return round(8 + 244 * (value - low) / room, 1)

    dots = "".join(
        f'<circle class="dot" cx="{x(v)}" cy="10" r="4"><title>{escape(name)}: {v:g} {escape(unit)}</title></circle>'
        for name, v in values
    )
    title = f"<title>{low:g} to {high:g} {escape(unit)}</title>"
    return f'<svg viewBox="0 0 260 20" width="260" role="img">{title}{dots}</svg>'
