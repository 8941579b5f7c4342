"""Slices of a scan with its labels drawn over them: the montage, and the pieces that the page is made of.

Views are radiological: the patient's left is on the right of axial and coronal slices, and sagittal ones look to the
left. Slices run along the scan's own axes, turned to the nearest anatomical ones; nothing is interpolated between
slices. Colour is never alone: every structure has a number, and neighbouring numbers have other lines.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from segcli.formats.atomic import write_bytes
from segcli.results.measure import measure
from segcli.space.volume import Volume, turned, turning
from segcli.structures import Label

View = Literal["axial", "coronal", "sagittal"]
VIEWS: tuple[View, ...] = ("axial", "coronal", "sagittal")
# Of a scan turned to "SPL": the axis cut along, whether its first plane axis is drawn upwards, and the letters at the
# left, right, top and bottom of the picture.
_LAYOUT: dict[View, tuple[int, bool, str]] = {
    "axial": (0, False, "RLAP"),
    "coronal": (1, True, "RLSI"),
    "sagittal": (2, True, "APSI"),
}
_WORLD = {"axial": (2, "S", "I"), "coronal": (1, "P", "A"), "sagittal": (0, "L", "R")}  # LPS coordinate, its two sides
_SOFT_TISSUE = (-160.0, 240.0)  # HU
_FILL = 0.35  # opacity of a structure's area
_NUMBERED = 60  # pixels that a structure must have to be given its number
_COLUMNS = 3  # slices of each view in the montage
_TILE = 300  # pixels of the longer side in the montage
_PAPER, _INK, _FAINT = (16, 18, 22), (238, 238, 238), (170, 176, 186)


@dataclass(frozen=True, eq=False)
class Section:
    """One slice as it is drawn, with square pixels.

    grey      (h, w) uint8, windowed
    labels    (h, w), the nearest voxel's
    position  where it lies, mm and the side: "34.5 mm S"
    letters   what is at the left, right, top and bottom
    """

    view: View
    index: int
    grey: NDArray[np.uint8]
    labels: NDArray[np.integer]
    position: str
    letters: str


def sections(image: Volume, labels: Volume, count: int, size: int = _TILE) -> dict[View, list[Section]]:
    """At most `count` slices for each view, spread evenly over where the labels are (over the scan without any).

    image   (C, D, H, W), its first channel is drawn; labels (1, D, H, W) on the same grid
    size    pixels of the longest side of the scan; all views have one scale
    """
    grey = _upright(image, 0)
    marks = _upright(labels, 0)
    grid = turned(labels.grid, "SPL")
    spacing = np.array(grid.spacing)
    scale = size / float(max(np.array(grid.shape) * spacing))  # pixels in a millimetre
    low, high = window(image)
    out: dict[View, list[Section]] = {}
    for view, (axis, upwards, letters) in _LAYOUT.items():
        rest = [i for i in range(3) if i != axis]
        shape = [max(1, round(grid.shape[i] * spacing[i] * scale)) for i in rest]
        here = np.flatnonzero(marks.any(axis=tuple(rest)))
        first, last = (int(here[0]), int(here[-1])) if len(here) else (0, grid.shape[axis] - 1)
        steps = min(count, last - first + 1)
        indices = sorted({round(first + (last - first) * (k + 0.5) / steps) for k in range(steps)})
        out[view] = []
        for index in indices:
            at = np.array([(n - 1) / 2 for n in grid.shape])
            at[axis] = index
            plane = _plane(grey, index, axis).astype(np.float32)
            level = (np.nan_to_num(plane, nan=low) - low) / max(high - low, 1e-9)
            shown = (np.clip(level, 0, 1) * 255).astype(np.uint8)
            drawn = np.asarray(Image.fromarray(shown).resize((shape[1], shape[0]), Image.Resampling.BILINEAR))
            rows, columns = (
                ((np.arange(n) + 0.5) / n * grid.shape[i]).astype(int) for n, i in zip(shape, rest, strict=True)
            )
            marked = _plane(marks, index, axis)[np.ix_(rows, columns)]
            if upwards:
                drawn, marked = drawn[::-1], marked[::-1]
            out[view].append(Section(view, index, drawn, marked, _position(view, grid.world(at)), letters))
    return out


def _upright(volume: Volume, channel: int) -> NDArray[Any]:
    """A channel with its axes permuted and reversed, as a view, to point along S, P, L."""
    order, flips = turning(volume.grid.axes, "SPL")
    data = np.transpose(volume.data[channel], order)
    return data[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]


def _plane(data: NDArray[Any], index: int, axis: int) -> NDArray[Any]:
    """One plane of a turned array; `np.take` would copy all of it first."""
    plane: NDArray[Any] = np.moveaxis(data, axis, 0)[index]
    return plane


def _position(view: View, world: NDArray[np.float64]) -> str:
    axis, above, below = _WORLD[view]
    value = round(float(world[axis]), 1)
    return f"{abs(value):.1f} mm {above if value >= 0 else below}"


def window(image: Volume) -> tuple[float, float]:
    """The values drawn black and white: soft tissue where there is air in Hounsfield units, else 1 to 99.5 percent."""
    step = max(1, math.ceil((image.data[0].size / 1e6) ** (1 / 3)))
    values = image.data[0, ::step, ::step, ::step]
    values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(values, (1, 99.5)))
    return _SOFT_TISSUE if low < -300 else (low, high)


def overlay(labels: NDArray[np.integer], names: Sequence[Label]) -> Image.Image:
    """A slice's structures as an RGBA picture: area, contour in the structure's kind of line, and number."""
    h, w = labels.shape
    rgba = np.zeros((h, w, 4), np.uint8)
    edge = np.zeros((h, w), bool)
    edge[1:] |= labels[1:] != labels[:-1]
    edge[:-1] |= labels[1:] != labels[:-1]
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge[:, :-1] |= labels[:, 1:] != labels[:, :-1]
    along = np.add.outer(np.arange(h), np.arange(w))
    # Solid, dashed, dotted or long-dashed, in turn.
    lines = (edge, edge & (along % 6 < 3), edge & (along % 3 == 0), edge & (along % 9 < 7))
    here = set(np.unique(labels).tolist())
    spots: dict[int, tuple[int, int]] = {}
    unknown = [Label(i, f"label_{i}") for i in sorted(here - {x.id for x in names} - {0})]
    for order, label in enumerate([*(x for x in names if x.id != 0), *unknown]):
        if label.id not in here:
            continue
        area = labels == label.id
        rgba[area] = (*bright(label.colour), round(255 * _FILL))
        rgba[area & lines[order % 4], 3] = 255
        if np.count_nonzero(area) >= _NUMBERED:
            spots[label.id] = _inside(area)
    drawn = Image.fromarray(rgba)
    pen = ImageDraw.Draw(drawn)
    font = _font(10)
    for label_id, (y, x) in spots.items():
        pen.text((x, y), str(label_id), font=font, anchor="mm", fill=(255, 255, 255, 255), stroke_width=1,
                 stroke_fill=(0, 0, 0, 220))  # fmt: skip
    return drawn


def _inside(area: NDArray[np.bool_]) -> tuple[int, int]:
    """The pixel of an area nearest to its centre, so that a number lies on a ring too."""
    at = np.argwhere(area)
    nearest = np.argmin(((at - at.mean(axis=0)) ** 2).sum(axis=1))
    return int(at[nearest][0]), int(at[nearest][1])


def bright(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """The colour, light enough to be seen on black."""
    light = 0.2126 * colour[0] + 0.7152 * colour[1] + 0.0722 * colour[2]
    if light >= 90:
        return colour
    part = (90 - light) / (255 - light)
    r, g, b = (round(c + (255 - c) * part) for c in colour)
    return r, g, b


def png(picture: Image.Image) -> bytes:
    """The file's bytes, the same for the same picture."""
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=6)
    return out.getvalue()


def jpeg(grey: NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(grey)).save(out, "JPEG", quality=82)
    return out.getvalue()


# ---- the montage -------------------------------------------------------------------------------------------------


def montage(image: Volume, labels: Volume, names: Sequence[Label], path: Path) -> None:
    """Write a PNG with three slices of each of three views, labels over them, and a legend with volumes."""
    write_bytes(path, png(montage_picture(image, labels, names)))


def montage_picture(image: Volume, labels: Volume, names: Sequence[Label]) -> Image.Image:
    shown = sections(image, labels, _COLUMNS)
    heights = {view: max(s.grey.shape[0] for s in shown[view]) for view in VIEWS}
    wide = max(s.grey.shape[1] for view in VIEWS for s in shown[view])
    gap, foot, legend = 8, 16, 300
    report = measure(labels, names)
    there = [s for s in report.structures if s.voxels]
    high = gap + sum(heights[view] + foot + gap for view in VIEWS)
    high = max(high, 40 + 17 * min(len(there), 60))
    sheet = Image.new("RGB", (gap + _COLUMNS * (wide + gap) + legend, high), _PAPER)
    pen = ImageDraw.Draw(sheet)
    top = gap
    for view in VIEWS:
        for k, section in enumerate(shown[view]):
            tile = _tile(section, names)
            left = gap + k * (wide + gap)
            sheet.paste(tile, (left + (wide - tile.width) // 2, top + (heights[view] - tile.height) // 2))
            pen.text((left, top + heights[view] + 2), f"{view}  {section.position}", font=_font(11), fill=_FAINT)
        top += heights[view] + foot + gap
    _legend(pen, there, names, gap + _COLUMNS * (wide + gap) + gap, gap, high)
    return sheet


def _tile(section: Section, names: Sequence[Label]) -> Image.Image:
    tile = Image.fromarray(np.ascontiguousarray(section.grey)).convert("RGBA")
    tile.alpha_composite(overlay(section.labels, names))
    pen = ImageDraw.Draw(tile)
    w, h = tile.size
    spots = (((3, h // 2), "lm"), ((w - 3, h // 2), "rm"), ((w // 2, 3), "ma"), ((w // 2, h - 3), "md"))
    for letter, (at, anchor) in zip(section.letters, spots, strict=True):
        pen.text(at, letter, font=_font(12), anchor=anchor, fill=_INK, stroke_width=1, stroke_fill=(0, 0, 0))
    return tile.convert("RGB")


def _legend(
    pen: ImageDraw.ImageDraw, there: Sequence[Any], names: Sequence[Label], left: int, top: int, high: int
) -> None:
    colours: Mapping[int, tuple[int, int, int]] = {x.id: x.colour for x in names}
    pen.text((left, top), "structure", font=_font(11), fill=_FAINT)
    pen.text((left + 280, top), "mL", font=_font(11), fill=_FAINT, anchor="ra")
    rows = (high - top - 24) // 17
    for k, s in enumerate(there[:rows]):
        y = top + 18 + 17 * k
        pen.rectangle((left, y + 1, left + 11, y + 12), fill=bright(colours.get(s.label, (128, 128, 128))))
        name = f"{s.label}  {s.name.replace('_', ' ')}"
        pen.text((left + 18, y), name if len(name) < 36 else name[:34] + "...", font=_font(12), fill=_INK)
        pen.text((left + 280, y), f"{s.volume_ml:.2f}", font=_font(12), fill=_INK, anchor="ra")
    if len(there) > rows:
        pen.text((left, high - 16), f"and {len(there) - rows} more", font=_font(11), fill=_FAINT)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
