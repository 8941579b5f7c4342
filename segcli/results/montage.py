"""The montage: one picture of a scan, its labels and their volumes, to be looked through by the hundred."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from segcli.documents import Facts
from segcli.formats.atomic import write_bytes
from segcli.results.lettering import font_of, length_of, write_line
from segcli.results.measure import measure
from segcli.results.picture import VIEWS, Section, drawn_colour, overlay, png, ruled, sections, significant
from segcli.results.shown import NAME, shown_by
from segcli.space.volume import Volume
from segcli.structures import Label

_Size = Callable[[int], int]  # pixels in the small picture -> pixels in this one
_COLUMNS = 3  # slices of each view in the montage
_THIN = 16  # pixels: a view that is no higher, as of a single slice, is not drawn
_BESIDE = 4  # slices of each view at most, beside which their copies without labels stand
_LARGER = 1.6  # times as large are the letters of a picture with more slices, which is seen from farther away
_LEGEND = 300  # pixels of one column of the legend
_LEGENDS = 3  # columns of the legend at most
_PAPER, _INK, _FAINT = (16, 18, 22), (238, 238, 238), (170, 176, 186)
_VERDICTS = {"fail": (255, 150, 140), "review": (255, 214, 120), "note": (214, 186, 130), "pass": (140, 225, 190)}


def montage(
    image: Volume,
    labels: Volume,
    names: Sequence[Label],
    path: Path,
    facts: Facts | None = None,
    columns: int = _COLUMNS,
    day: str = "",
    *,
    bare: bool = False,
) -> None:
    """Write a PNG with slices of each of three views, with and without labels, and a legend with volumes.

    facts     the record, of which the head of the picture tells case, model, verdict, voxel size and doubts
    columns   slices of each view
    day       on which it is made, for the head
    bare      the scan itself is not there, and `image` is black
    """
    shown = shown_by(facts or {}, scan=not bare)
    write_bytes(
        path, png(montage_picture(image, labels, names, facts, columns, day), {NAME: str(shown)} if shown else {})
    )


def montage_picture(
    image: Volume,
    labels: Volume,
    names: Sequence[Label],
    facts: Facts | None = None,
    columns: int = _COLUMNS,
    day: str = "",
) -> Image.Image:
    """The montage; with more than four slices a view, the copies without labels stand below and not beside."""
    shown = sections(image, labels, columns, names=names)
    head = _head(facts or {}, labels, day)
    beside = columns <= _BESIDE

    def size(pixels: int) -> int:
        """The pixels that letters, and what goes with them, have here which have so many in the small picture."""
        return round(pixels * (1.0 if beside else _LARGER))

    heights = {view: max(s.grey.shape[0] for s in shown[view]) for view in VIEWS}
    drawn = [view for view in VIEWS if heights[view] > _THIN] or list(VIEWS)
    wide = max(s.grey.shape[1] for view in drawn for s in shown[view])
    gap, foot = 8, size(16)
    there = [s for s in measure(labels, names).structures if s.voxels]
    right = gap + columns * (2 if beside else 1) * (wide + gap)
    top = gap + size(20) * len(head)
    rows = sum((1 if beside else 2) * (heights[view] + gap) + foot for view in drawn)
    lines = max(20, (rows - size(40)) // size(17))
    legends = min(_LEGENDS, max(1, math.ceil(len(there) / lines)))
    lines = min(max(lines, math.ceil(len(there) / legends)), 60)
    width = right + legends * size(_LEGEND)
    high = top + max(rows, size(40) + size(17) * min(lines, len(there)))
    sheet = Image.new("RGB", (width, high), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for k, (words, ink) in enumerate(head):
        write_line(pen, (gap, gap + size(20) * k), _fitting(words, width - 2 * gap, size(14)), size(14), ink)
    at = top
    for view in drawn:
        for k, section in enumerate(shown[view]):
            left = gap + k * (2 if beside else 1) * (wide + gap)
            plain_at = (left + wide + gap, at) if beside else (left, at + heights[view] + gap)
            for marked, (x, y) in ((True, (left, at)), (False, plain_at)):
                tile = _tile(section, names if marked else None, size)
                sheet.paste(tile, (x + (wide - tile.width) // 2, y + (heights[view] - tile.height) // 2))
            below = at + heights[view] + (0 if beside else gap + heights[view])
            pen.text((left, below + 2), f"{view}  {section.position}", font=font_of(size(11)), fill=_FAINT)
        at += (1 if beside else 2) * (heights[view] + gap) + foot
    for k in range(legends):
        part, more = there[k * lines : (k + 1) * lines], max(0, len(there) - legends * lines)
        _legend(pen, part, names, right + gap + k * size(_LEGEND), top, more if k == legends - 1 else 0, size)
    return sheet


def _head(facts: Facts, labels: Volume, made: str = "") -> list[tuple[str, tuple[int, int, int]]]:
    """Lines above the slices and their colours: the case; model, verdict, voxel size and dates; doubts and warnings."""
    if not facts:
        return []
    model, verdict = facts.get("model") or {}, str(facts.get("verdict", ""))
    size = " x ".join(f"{s:.3g}" for s in labels.grid.spacing)
    day = str((facts.get("identifiers") or {}).get("StudyDate", ""))  # let in by the user, as all identifiers are
    said = [
        *([f"scan of {day[:4]}-{day[4:6]}-{day[6:]}"] if re.fullmatch(r"\d{8}", day) else []),
        f"{'model' if model.get('sha256') else 'labels named by'} {model.get('name', 'unknown')}",
        f"voxels {size} mm",
        *([f"made {made}"] if made else []),
        "research use only",
    ]
    doubts = [(str(f["sentence"]), str(f["severity"])) for f in facts.get("checks", ())]
    doubts += [(str(text), "note") for text in facts.get("warnings", ())]  # they make no verdict
    more = [(f"and {len(doubts) - 4} more", doubts[4][1])] if len(doubts) > 4 else []
    return [
        (str(facts.get("case", "")), _INK),
        (", ".join([*([f"verdict: {verdict}"] if verdict else []), *said]), _VERDICTS.get(verdict, _FAINT)),
        *((text, _VERDICTS.get(severity, _FAINT)) for text, severity in [*doubts[:4], *more]),
    ]


def _fitting(text: str, wide: int, size: int) -> str:
    """A text in one line, cut where it would go beyond so many pixels."""
    text = "".join(c if c.isprintable() else " " for c in text)
    if length_of(text, size) <= wide:
        return text
    while text and length_of(text + "...", size) > wide:
        text = text[: -max(1, len(text) // 50)]
    return text + "..."


def _tile(section: Section, names: Sequence[Label] | None, size: _Size) -> Image.Image:
    """A slice with its letters, and with its labels unless `names` is None."""
    tile = Image.fromarray(ruled(section, size(10))).convert("RGBA")
    if names is not None:
        tile.alpha_composite(overlay(section.labels, names, size(10)))
    pen = ImageDraw.Draw(tile)
    w, h = tile.size
    spots = (((3, h // 2), "lm"), ((w - 3, h // 2), "rm"), ((w // 2, 3), "ma"), ((w // 2, h - 3), "md"))
    for letter, (at, anchor) in zip(section.letters, spots, strict=True):
        pen.text(at, letter, font=font_of(size(12)), anchor=anchor, fill=_INK, stroke_width=1, stroke_fill=(0, 0, 0))
    return tile.convert("RGB")


def _legend(
    pen: ImageDraw.ImageDraw,
    part: Sequence[Any],
    names: Sequence[Label],
    left: int,
    top: int,
    more: int,
    size: _Size,
) -> None:
    """One column of structures with their volumes, and how many `more` there are that have no line."""
    colours: Mapping[int, tuple[int, int, int]] = {x.id: x.colour for x in names}
    right, small, plain = left + size(280), font_of(size(11)), font_of(size(12))
    pen.text((left, top), "structure", font=small, fill=_FAINT)
    pen.text((right, top), "mL", font=small, fill=_FAINT, anchor="ra")
    for k, s in enumerate(part):
        y = top + size(18) + size(17) * k
        colour = drawn_colour(colours.get(s.label, (128, 128, 128)))
        pen.rectangle((left, y + 1, left + size(11), y + size(12)), fill=colour)
        volume = significant(s.volume_ml)
        room = size(250) - round(plain.getlength(volume))
        name = _fitting(f"{s.label}  {s.name.replace('_', ' ')}", room, size(12))
        write_line(pen, (left + size(18), y), name, size(12), _INK)
        pen.text((right, y), volume, font=plain, fill=_INK, anchor="ra")
    if more:
        pen.text((left, top + size(18) + size(17) * len(part)), f"and {more} more", font=small, fill=_FAINT)
