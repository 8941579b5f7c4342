"""Slices of a scan with its labels drawn over them, of which the montage and the page are made.

Views are radiological: the patient's left is on the right of axial and coronal slices, and sagittal ones look to the
left. Slices run along the scan's own axes, turned to the nearest anatomical ones; nothing is interpolated between
slices. Colour is never alone: every structure that has room for it has a number, and neighbouring numbers have other
lines, the two sides of a pair the same one.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo
from scipy.ndimage import distance_transform_edt, maximum_filter1d

from segcli.results.islands import islands
from segcli.results.lettering import font_of
from segcli.space.volume import Volume, Voxels, turned, turning
from segcli.structures import Label, words_of

View = Literal["axial", "coronal", "sagittal"]
VIEWS: tuple[View, ...] = ("axial", "coronal", "sagittal")
# Of a scan turned to "SPL": the axis cut along, and whether its first plane axis is drawn upwards.
_LAYOUT: dict[View, tuple[int, bool]] = {"axial": (0, False), "coronal": (1, True), "sagittal": (2, True)}
_ASIDE = 0.26  # cosine: a direction that leans by more than 15 degrees has a second letter, as R and RA
_WORLD = {"axial": (2, "S", "I"), "coronal": (1, "P", "A"), "sagittal": (0, "L", "R")}  # LPS coordinate, its two sides
_SOFT_TISSUE = (-160.0, 240.0)  # HU
_CT_WINDOWS: tuple[tuple[frozenset[str], tuple[float, float]], ...] = (  # words of a region's structures, HU
    (frozenset({"lung", "lungs", "lobe", "bronchus", "bronchi", "trachea", "airway", "nodule"}), (-1350.0, 150.0)),
    (frozenset({"brain", "cerebral", "cerebellum", "ventricle", "thalamus", "putamen", "hemorrhage"}), (0.0, 80.0)),
    (frozenset({"vertebra", "vertebrae", "rib", "ribs", "bone", "femur", "hip", "sacrum", "skull", "sternum",
                "humerus", "scapula", "clavicula", "tibia", "mandible", "teeth"}), (-450.0, 1050.0)),
)  # fmt: skip
_RIM = 10.0  # mm around what is labelled, whose values count for the window
_FILL = 0.35  # opacity of a structure's area
_FAINT_FILL = 0.12  # of one whose own colour is a grey, as those of white matter and csf are
_GREYISH = 40  # least difference of the channels of a colour that is told from the scan
_TINT = (70, 170, 255)  # what a grey colour is mixed with
_NUMBERED = 60  # pixels that a structure must have to be given its number
_ROOM = 4.0  # pixels from a number's middle to the structure's edge: less is a shell, on which no number can stand
_EDGES = (0.02, 0.98)  # of the voxels of the main piece, between which the montage's slices lie
_TEXT = 10  # pixels of letters in a slice
_TILE = 300  # pixels of the longer side in the montage
_RULERS = (1, 2, 5, 10, 20, 50, 100, 200, 500)  # mm, of scale bars
_RULED = 60  # pixels: lower slices have no scale bar


@dataclass(frozen=True, eq=False)
class Section:
    """One slice as it is drawn, with square pixels.

    grey      (h, w) uint8, windowed
    labels    (h, w), the nearest voxel's
    position  where it lies, mm and the side: "34.5 mm S"
    letters   what is at the left, right, top and bottom: L, or LP where the scan is oblique, and so on
    scale     pixels in a millimetre
    """

    view: View
    index: int
    grey: NDArray[np.uint8]
    labels: NDArray[np.integer]
    position: str
    letters: tuple[str, str, str, str]
    scale: float


def sections(
    image: Volume,
    labels: Volume,
    count: int,
    size: int = _TILE,
    *,
    names: Sequence[Label] = (),
    whole: bool = False,
) -> dict[View, list[Section]]:
    """At most `count` slices for each view, spread evenly over the main piece of what is labelled.

    image   (C, D, H, W), its first channel is drawn; labels (1, D, H, W) on the same grid
    size    pixels of the longest side of the scan; all views have one scale
    names   what the labels are, which chooses the window of a CT
    whole   spread them over everything that is labelled, small pieces far away included
    """
    grey, marks = _upright(image), _upright(labels)
    grid = turned(labels.grid, "SPL")
    spacing = np.array(grid.spacing)
    scale = size / float(max(np.array(grid.shape) * spacing))  # pixels in a millimetre
    low, high = display_window(image, names, labels)
    within = dict(zip(VIEWS, extent(labels, (0.0, 1.0) if whole else _EDGES, main=not whole), strict=True))
    out: dict[View, list[Section]] = {}
    for view, (axis, upwards) in _LAYOUT.items():
        rest = [i for i in range(3) if i != axis]
        down, right = (grid.directions[:, i] for i in rest)
        down = -down if upwards else down
        letters = (_letters(-right), _letters(right), _letters(-down), _letters(down))
        shape = [max(1, round(grid.shape[i] * spacing[i] * scale)) for i in rest]
        first, last = within[view]
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
            out[view].append(Section(view, index, drawn, marked, _position(view, grid.world(at)), letters, scale))
    return out


def extent(labels: Volume, parts: tuple[float, float], *, main: bool = True) -> list[tuple[int, int]]:
    """For each view, the planes below which `parts` of the labelled voxels lie; all planes of an empty map.

    main   count the largest connected piece of what is labelled alone
    """
    pieces = islands(Volume((labels.data != 0).astype(np.uint8), labels.grid))
    chosen = np.full(len(pieces.island), True) if not main else pieces.island == next(iter(pieces.of(1)), -1)
    starts, length = pieces.starts[chosen].astype(np.int64), pieces.length[chosen]
    d, h, w = labels.grid.shape
    steps = np.bincount(starts % w, minlength=w + 1) - np.bincount(starts % w + length, minlength=w + 1)
    counts = [
        np.bincount(starts // (h * w), length, d),
        np.bincount(starts // w % h, length, h),
        np.cumsum(steps)[:w].astype(float),
    ]
    order, flips = turning(labels.grid.axes, "SPL")
    found = []
    for axis, flip in zip(order, flips, strict=True):
        count = counts[axis][::-1] if flip else counts[axis]
        there = np.flatnonzero(count)
        if len(there) == 0:
            found.append((0, len(count) - 1))
            continue
        reached = np.cumsum(count) / count.sum()
        first, last = (int(np.searchsorted(reached, part - 1e-9)) for part in parts)
        found.append((max(first, int(there[0])), min(last, int(there[-1]))))
    return found


def _upright(volume: Volume) -> Voxels:
    """The first channel with its axes permuted and reversed, as a view, to point along S, P, L."""
    order, flips = turning(volume.grid.axes, "SPL")
    data = np.transpose(volume.data[0], order)
    return data[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]


def _plane(data: Voxels, index: int, axis: int) -> Voxels:
    """One plane of a turned array; `np.take` would copy all of it first."""
    plane: Voxels = np.moveaxis(data, axis, 0)[index]
    return plane


def _position(view: View, world: NDArray[np.float64]) -> str:
    axis, above, below = _WORLD[view]
    value = round(float(world[axis]), 1)
    return f"{abs(value):.1f} mm {above if value >= 0 else below}"


def _letters(direction: NDArray[np.float64]) -> str:
    """Where a direction in LPS points: its largest part first, and each other one that is not small."""
    parts = sorted(zip(direction.tolist(), ("LR", "PA", "SI"), strict=True), key=lambda part: -abs(part[0]))
    return "".join(sides[value < 0] for k, (value, sides) in enumerate(parts) if k == 0 or abs(value) > _ASIDE)


def display_window(image: Volume, names: Sequence[Label] = (), labels: Volume | None = None) -> tuple[float, float]:
    """The values drawn black and white: in Hounsfield units those for the region, else those of what is labelled.

    names   what is labelled, which tells the region: lungs, head or bones; any other is drawn as soft tissue
    labels  (1, D, H, W) on the grid of the image; without any label its values from 1 to 99.5 percent count
    """
    step = max(1, math.ceil((image.data[0].size / 1e6) ** (1 / 3)))
    values = image.data[0, ::step, ::step, ::step]
    finite = np.isfinite(values)
    if not finite.any():
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(values[finite], (1, 99.5)))
    if low >= -300:  # no air of a CT
        if labels is None:
            return low, high
        marked = finite & (labels.data[0, ::step, ::step, ::step] != 0)
        return _around(values, marked, finite, [s * step for s in image.grid.spacing]) or (low, high)
    spoken = [set(words_of(label.name)) for label in names if label.id != 0]
    for region, values_shown in _CT_WINDOWS:
        if 2 * sum(bool(words & region) for words in spoken) > len(spoken):
            return values_shown
    return _SOFT_TISSUE


def _around(
    values: Voxels, marked: NDArray[np.bool_], finite: NDArray[np.bool_], spacing: Sequence[float]
) -> tuple[float, float] | None:
    """The values of marked voxels and of a rim around them, drawn black and white; None where they are all one.

    Neither bright fat that a part of the rim shows makes what is marked dark, nor does dark fluid, where that is what
    is marked, make its surroundings white.
    """
    if not marked.any():
        return None
    near = marked
    for axis, size in enumerate(spacing):
        near = maximum_filter1d(near, 2 * math.ceil(_RIM / size) + 1, axis=axis, mode="constant")
    inside, both = values[marked], values[near & finite]
    low, high = float(np.percentile(both, 1)), float(max(np.percentile(inside, 99.5), np.percentile(both, 90)))
    return (low, high) if high > low else None


def overlay(labels: NDArray[np.integer], names: Sequence[Label], text: int = _TEXT) -> Image.Image:
    """A slice's structures as an RGBA picture: area, contour in the structure's kind of line, and number.

    text   pixels of a number's letters

    Both sides of a pair have one kind of line. No two numbers overlap; one that has no room is left out.
    """
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
    unknown = [Label(i, f"label_{i}") for i in sorted(here - {x.id for x in names} - {0})]
    every = [*(x for x in names if x.id != 0), *unknown]
    kinds = _kinds_of_line(every)
    areas: dict[int, NDArray[np.bool_]] = {}
    for label in every:
        if label.id not in here:
            continue
        area = labels == label.id
        weak = is_grey(label.colour) and label.name not in (x.name for x in unknown)
        rgba[area] = (*drawn_colour(label.colour), round(255 * (_FAINT_FILL if weak else _FILL)))
        rgba[area & lines[kinds[label.name]], 3] = 255
        areas[label.id] = area
    drawn = Image.fromarray(rgba)
    pen = ImageDraw.Draw(drawn)
    for label_id, (y, x) in number_places(areas, text).items():
        pen.text((x, y), str(label_id), font=font_of(text), anchor="mm", fill=(255, 255, 255, 255), stroke_width=1,
                 stroke_fill=(0, 0, 0, 220))  # fmt: skip
    return drawn


def _kinds_of_line(names: Sequence[Label]) -> dict[str, int]:
    """One of four kinds for each structure, in turn; a structure and its partner have one."""
    kinds: dict[str, int] = {}
    pairs = 0
    for label in names:
        if label.name not in kinds:
            kinds[label.name] = kinds[label.pair or label.name] = pairs % 4
            pairs += 1
    return kinds


def number_places(areas: Mapping[int, NDArray[np.bool_]], text: int = _TEXT) -> dict[int, tuple[int, int]]:
    """Where each structure's number stands, (row, column): well inside, the roomiest first, none over another."""
    depth: dict[int, NDArray[np.float64]] = {}
    corner: dict[int, tuple[int, int]] = {}
    for label_id, area in areas.items():
        rows, columns = np.flatnonzero(area.any(axis=1)), np.flatnonzero(area.any(axis=0))
        box = area[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        if min(box.shape) >= 2 * _ROOM - 1 and np.count_nonzero(box) >= _NUMBERED:
            depth[label_id] = distance_transform_edt(np.pad(box, 1))[1:-1, 1:-1]
            corner[label_id] = int(rows[0]), int(columns[0])
    taken: list[tuple[int, int, int, int]] = []
    found: dict[int, tuple[int, int]] = {}
    for label_id in sorted(depth, key=lambda i: -float(depth[i].max())):
        inside = np.argwhere(depth[label_id] >= _ROOM)
        best = inside[np.argsort(-depth[label_id][tuple(inside.T)], kind="stable")]
        for y, x in (best[:: max(1, len(best) // 40)] + corner[label_id]).tolist():
            place = _number_box(label_id, y, x, text)
            if not any(_overlap(place, other) for other in taken):
                taken.append(place)
                found[label_id] = (y, x)
                break
    return found


def _number_box(label_id: int, y: int, x: int, text: int) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of a number that is written around a pixel, its rim included."""
    high, wide = round(0.6 * text), round(0.3 * text * len(str(label_id))) + 2
    return y - high, y + high, x - wide, x + wide


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3]


def is_grey(colour: tuple[int, int, int]) -> bool:
    """Whether a colour cannot be told from the scan itself."""
    return max(colour) - min(colour) < _GREYISH


def drawn_colour(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """A structure's colour as pictures and tables show it: light enough on black, and never a grey."""
    if is_grey(colour):
        level = 0.35 + 0.65 * max(colour) / 255
        r, g, b = (round(level * (0.35 * 255 + 0.65 * tint)) for tint in _TINT)
        colour = (r, g, b)
    return bright(colour)


def bright(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """The colour, light enough to be seen on black."""
    light = 0.2126 * colour[0] + 0.7152 * colour[1] + 0.0722 * colour[2]
    if light >= 90:
        return colour
    part = (90 - light) / (255 - light)
    r, g, b = (round(c + (255 - c) * part) for c in colour)
    return r, g, b


def ruled(section: Section, text: int = _TEXT) -> NDArray[np.uint8]:
    """A slice in grey with a scale bar in its lower right corner, where it has room for one; `text`: pixels of it."""
    drawn = Image.fromarray(np.ascontiguousarray(section.grey))
    w, h = drawn.size
    fitting = [mm for mm in _RULERS if mm * section.scale <= w / 3]
    if h >= _RULED and fitting:
        pen = ImageDraw.Draw(drawn)
        long, right, low = round(fitting[-1] * section.scale), w - 8, h - 8
        pen.rectangle((right - long - 1, low - 4, right + 1, low + 1), fill=0)
        pen.line((right - long, low, right, low), fill=255)
        for x in (right - long, right):
            pen.line((x, low - 3, x, low), fill=255)
        name = f"{fitting[-1]} mm" if fitting[-1] < 10 else f"{fitting[-1] // 10} cm"
        pen.text((right, low - 5), name, font=font_of(text), anchor="rs", fill=255, stroke_width=1, stroke_fill=0)
    return np.asarray(drawn)


def png(picture: Image.Image, says: Mapping[str, str] = MappingProxyType({})) -> bytes:
    """The file's bytes, the same for the same picture; `says`: texts by their names, which stand before the pixels."""
    out, texts = io.BytesIO(), PngInfo()
    for name, text in says.items():
        texts.add_text(name, text)
    picture.save(out, "PNG", compress_level=6, pnginfo=texts)
    return out.getvalue()


def jpeg(grey: NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(grey)).save(out, "JPEG", quality=82)
    return out.getvalue()


def significant(value: float, digits: int = 3) -> str:
    """A number with so many significant digits, none before the point lost: 0.204, 11.6, 1548."""
    if value == 0:
        return "0"
    decimals = digits - 1 - math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    return f"{value:.{max(0, decimals)}f}"
