"""Charts as SVG: each has a title for screen readers, and its numbers stand in a table as well.

What they return is Markup that was made here; texts go into it through `Markup.format`, which escapes them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import quantiles

from markupsafe import Markup

from segcli.results.page.parts import css_colour
from segcli.results.picture import significant

_NAMES, _BARS, _ROW, _NUMBERS = 250, 640, 19, 70  # pixels: names, bars, height of a row, numbers
_TOP = 22


def bars(
    rows: Sequence[tuple[str, float, tuple[int, int, int], tuple[float, float] | None]], *, ranged: bool
) -> Markup:
    """Volumes as bars on a logarithmic axis, with the reference range as a line.

    rows   name, mL, colour, (low, high) or None; only volumes above 0 have a bar
    ranged whether the lines are explained
    """
    values = [v for _, v, _, r in rows for v in (v, *(r or ())) if v > 0]
    if not values:
        return Markup("")
    first = math.floor(math.log10(min(values)))
    last = max(math.ceil(math.log10(max(values))), first + 1)

    def x(ml: float) -> float:
        part = (math.log10(max(ml, 10.0**first)) - first) / (last - first)
        return round(_NAMES + _BARS * part, 1)

    bottom = _TOP + _ROW * len(rows)
    drawn = []
    for power in range(first, last + 1):
        at = x(10.0**power)
        drawn.append(Markup('<line x1="{0}" x2="{0}" y1="18" y2="{1}"/>').format(at, bottom))
        drawn.append(
            Markup('<text class="axis" x="{}" y="12" text-anchor="middle">{:g} mL</text>').format(at, 10.0**power)
        )
    for i, (name, ml, colour, span) in enumerate(rows):
        y = _TOP + _ROW * i
        drawn.append(Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(_NAMES - 8, y + 13, name))
        if ml > 0:
            size = round(max(x(ml) - _NAMES, 1), 1)
            drawn.append(
                Markup('<rect x="{}" y="{}" width="{}" height="{}" fill="{}" class="outline"/>').format(
                    _NAMES, y + 3, size, _ROW - 6, css_colour(colour)
                )
            )
        if span and 0 < span[0] < span[1]:
            a, b, middle = x(span[0]), x(span[1]), y + _ROW / 2
            line = f"M{a} {middle}H{b}M{a} {y + 4}V{y + _ROW - 4}M{b} {y + 4}V{y + _ROW - 4}"
            drawn.append(Markup('<path class="halo" d="{0}"/><path class="range" d="{0}"/>').format(line))
        tip = max(x(ml) if ml > 0 else _NAMES, x(span[1]) if span else 0)
        drawn.append(Markup('<text x="{}" y="{}">{}</text>').format(tip + 6, y + 13, significant(ml)))
    wide = _NAMES + _BARS + _NUMBERS
    note = "Volumes in millilitres on a logarithmic axis" + ("; lines: reference range *" if ranged else "")
    return Markup(
        '<p class="faint">{}.</p><div class="scroll" tabindex="0" role="region" aria-label="Chart of volumes">'
        '<svg viewBox="0 0 {} {}" role="img" width="{}">'
        "<title>Volume of each structure</title>{}</svg></div>"
    ).format(note, wide, bottom + 6, wide, Markup("").join(drawn))


_WIDE = 300  # pixels of a strip, of which this many at each end are for half a number
_END = 24


def strip(values: Sequence[tuple[str, float]], unit: str) -> Markup:
    """One dot for each case on a line from the least to the most, over the middle half of the cases and the median."""
    found = sorted(v for _, v in values)
    low, high = found[0], found[-1]
    room = (high - low) or 1.0

    def x(value: float) -> float:
        return round(_END + (_WIDE - 2 * _END) * (value - low) / room, 1)

    dot = Markup('<circle class="dot" cx="{}" cy="10" r="4"><title>{}: {} {}</title></circle>')
    dots = Markup("").join(dot.format(x(v), name, significant(v), unit) for name, v in values)
    quarters = quantiles(found, n=4, method="inclusive") if len(found) > 1 else [low] * 3
    box = Markup('<rect class="half" x="{}" y="3" width="{}" height="14"/><path class="median" d="M{} 2V18"/>').format(
        x(quarters[0]), round(max(x(quarters[2]) - x(quarters[0]), 1), 1), x(quarters[1])
    )
    ticks = sorted({low, high}) if high - low < 0.02 * high else [low, (low + high) / 2, high]
    tick = Markup(
        '<path class="tick" d="M{0} 20V23"/><text class="axis" x="{0}" y="34" text-anchor="middle">{1}</text>'
    )
    scale = Markup("").join(tick.format(x(v), significant(v)) for v in ticks)
    return Markup(
        '<svg viewBox="0 0 {0} 36" width="{0}" role="img"><title>{1} to {2} {3}, median {4}</title>'
        '<path class="tick" d="M{5} 20H{6}"/>{7}{8}{9}</svg>'
    ).format(
        _WIDE, significant(low), significant(high), unit, significant(quarters[1]), _END, _WIDE - _END, scale, box, dots
    )
