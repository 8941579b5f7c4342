"""The page of one case: what to look at first, slices, structures, volumes, and where all of it came from."""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcli.documents import Document, Facts
from segcli.formats import nifti
from segcli.models.card import ModelCard
from segcli.results.measure import from_json
from segcli.results.page import charts
from segcli.results.page.parts import css_colour, in_one_line, is_empty, page, words
from segcli.results.picture import (
    VIEWS,
    Section,
    View,
    display_window,
    drawn_colour,
    extent,
    jpeg,
    overlay,
    png,
    ruled,
    sections,
)
from segcli.results.ranges import NEAR, Ranges, usual
from segcli.results.shown import shown_by
from segcli.results.tissues import SAYS, tissues_of
from segcli.space.volume import Grid, Volume, turned
from segcli.structures import Label, side_of

SLICES = 24  # for each view
_SIZE = 320  # pixels of the longest side
_VIEWER_EDGE = 200  # voxels along each axis that the interactive viewer gets at most
_GREY = (128, 128, 128)  # of a structure that the card does not name


def case_page(
    scan: Volume, labels: Volume, card: ModelCard, facts: Facts, niivue: str = "", *, bare: bool = False
) -> bytes:
    """The page of one case.

    scan     (C, D, H, W), its first channel is shown; labels (1, D, H, W) on the same grid
    facts    the record: case, structures, verdict, checks, warnings, grid, model, input, ...
    niivue   the script of the interactive viewer, as `niivue.script` gives it; the page then holds both volumes too
    bare     the scan itself is not there, and `scan` is black
    """
    shown = sections(scan, labels, SLICES, _SIZE, names=card.labels, whole=True)
    ranges = usual(card, from_json(facts["structures"]).structures)
    structures = _structures(card, facts, shown, turned(labels.grid, "SPL"), ranges.ml)
    rows = _rows(structures, card.labels)
    case, verdict = str(facts.get("case", "case")), str(facts.get("verdict", ""))
    bright, confident = any(s["mean"] is not None for s in structures), bool(facts.get("confidence"))
    paired = any(len(row["sides"]) > 1 for row in rows)
    heads = [("structure", False), *([("side", False)] if paired else []), ("mL", True)]
    heads += [*([("asymmetry %", True)] if paired else [])]
    heads += [("reference mL *", True)] if card.volumes_ml else []
    heads += [("mean", True), ("sd", True)] if bright else []
    heads += [("confidence", True)] if confident else []
    return page(
        "case.html",
        shown=shown_by(facts, scan=not bare),
        title=f"{case}: {verdict or 'segmentation'}",
        case=case,
        verdict=verdict,
        model=facts.get("model", {}).get("name", card.name),
        made=bool(facts.get("model", {}).get("sha256")),
        findings=_findings(facts),
        pictures=_pictures(shown, card.labels),
        first=_first(shown, labels),
        letters={view: shown[view][0].letters for view in VIEWS},
        heads=[*heads, ("flags", False)],
        rows=rows,
        paired=paired,
        sums=tissues_of(facts, {s["name"]: s["volume_ml"] for s in structures}),
        sums_say=SAYS,
        footnote=_footnote(card, ranges),
        bright=bright,
        confident=confident,
        volumes=charts.bars(
            [
                (s["words"], s["volume_ml"], s["colour"], s["range"])
                for row in rows
                for s in row["sides"]
                if s["voxels"] or s["range"]
            ],
            ranged=bool(card.volumes_ml),
        ),
        spacing=" x ".join(f"{v:.3g}" for v in labels.grid.spacing),
        grid=_grid(facts.get("grid") or {}),
        known=_known(facts),
        # Times and memory differ from run to run.
        record=json.dumps({k: v for k, v in facts.items() if k != "run"}, indent=1, default=str),
        viewer=bool(niivue),
        viewed=_volumes(scan, labels, card.labels) if niivue else None,
        bundle=niivue,
    )


def _findings(facts: Facts) -> list[Document]:
    """What to look at first: failed checks, doubtful ones, notes; warnings make no verdict and are notes too."""
    warnings = [{"severity": "note", "code": "", "sentence": text} for text in facts.get("warnings", ())]
    return [*facts.get("checks", ()), *warnings]


def _pictures(shown: Mapping[View, Sequence[Section]], names: Sequence[Label]) -> dict[str, list[dict[str, str]]]:
    """Each view's slices as pictures for an `img`, and where they lie.

    All have one size, around slices that are smaller: the page shows each as large as it can, and so in one scale.
    """
    size = np.max([s.grey.shape for view in VIEWS for s in shown[view]], axis=0)

    def framed(picture: NDArray[Any]) -> NDArray[Any]:
        return np.pad(picture, [((n - m) // 2, n - m - (n - m) // 2) for n, m in zip(size, picture.shape, strict=True)])

    return {
        view: [
            {
                "grey": _inline("image/jpeg", jpeg(framed(ruled(s)))),
                "marks": _inline("image/png", png(overlay(framed(s.labels), names))),
                "at": s.position,
            }
            for s in shown[view]
        ]
        for view in VIEWS
    }


def _inline(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _footnote(card: ModelCard, ranges: Ranges) -> str:
    """Whose the reference ranges are, how the head's size comes into them, and what is told of volumes outside."""
    if not card.volumes_ml:
        return ""
    size = ""
    if card.volumes_by_size:
        known = f"{ranges.size:.2f} times the middle size" if ranges.size else "any size"
        size = f" Ranges that depend on the size of the head or body are for {known}."
    return (
        f"{card.volumes_source or 'from the model card'}.{size} A volume outside its range is a note; "
        f"below the least divided by {NEAR:g}, or above the most times {NEAR:g}, it is a doubt."
    )


def _structures(
    card: ModelCard,
    facts: Facts,
    shown: Mapping[View, Sequence[Section]],
    grid: Grid,
    ranges: Mapping[str, tuple[float, float]],
) -> list[Document]:
    """The record's structures with what the table shows beside: colour, range, confidence, flags, nearest slices."""
    colours = {x.id: x.colour for x in card.labels}
    confidence = {int(k): float(v) for k, v in (facts.get("confidence") or {}).items()}
    flags: dict[str, list[tuple[str, str]]] = {}
    for finding in facts.get("checks", ()):
        for name in str(finding["structure"] or "").split(", "):
            flags.setdefault(name, []).append((finding["severity"], finding["code"]))
    rows = []
    for s in facts["structures"]:
        colour = drawn_colour(colours.get(s["label"], _GREY))
        raised = list(dict.fromkeys(flags.get(s["name"], [])))
        if s["truncated"] and ("review", "truncated") not in raised:
            raised.append(("", "cut off"))
        row = {
            "words": words(s["name"]),
            "colour": colour,
            "paper": css_colour(colour),
            "ink": _ink(colour),
            "range": ranges.get(s["name"]),
            "confidence": confidence.get(s["label"]),
            "flags": raised,
            "go": _nearest(shown, grid, s["centroid_mm"]) if s["centroid_mm"] else None,
        }
        rows.append({**s, **row})
    return rows


def _rows(structures: Sequence[Facts], names: Sequence[Label]) -> list[Document]:
    """The table's rows: a pair in one, left before right, with its asymmetry; every other structure in its own.

    asymmetry   percent of the mean of both sides by which the left one is larger; None where one is missing
    """
    partner = {x.name: x.pair for x in names}
    by_name = {s["name"]: s for s in structures}
    rows, done = [], set()
    for s in structures:
        if s["name"] in done:
            continue
        other = by_name.get(partner.get(s["name"]) or "")
        sides = [s] if other is None else sorted((s, other), key=lambda x: side_of(x["name"]) or "")
        done |= {x["name"] for x in sides}
        ml = [x["volume_ml"] for x in sides]
        rows.append(
            {
                "words": without_side(s["name"]) if other is not None else s["words"],
                "sides": [{**x, "side": side_of(x["name"]) or ""} for x in sides],
                "asymmetry": 200 * (ml[0] - ml[1]) / sum(ml) if len(ml) == 2 and min(ml) > 0 else None,
                "absent": not any(x["voxels"] for x in sides),
            }
        )
    return rows


def without_side(name: str) -> str:
    """A structure's name as it is read, without the word for its side."""
    sides = ("left", "right", "l", "r", "lh", "rh")
    return " ".join(word for word in words(name).split() if word.lower() not in sides) or words(name)


def _first(shown: Mapping[View, Sequence[Section]], labels: Volume) -> dict[str, int]:
    """For each view the number of the slice that is nearest to the middle of the main piece of what is labelled."""
    middles = [middle for middle, _ in extent(labels, (0.5, 0.5))]
    return {
        view: min(range(len(shown[view])), key=lambda k: abs(shown[view][k].index - middle))
        for view, middle in zip(VIEWS, middles, strict=True)
    }


def _ink(paper: tuple[int, int, int]) -> str:
    """Black or white, whichever has more contrast with a colour: at least 4.5 to 1 (WCAG 2)."""
    r, g, b = (v / 3294.6 if v <= 10 else ((v / 255 + 0.055) / 1.055) ** 2.4 for v in paper)
    light = 0.2126 * r + 0.7152 * g + 0.0722 * b
    return "#000" if (light + 0.05) / 0.05 > 1.05 / (light + 0.05) else "#fff"


def _nearest(shown: Mapping[View, Sequence[Section]], grid: Grid, centre_mm: Sequence[float]) -> dict[str, int]:
    """For each view the number of the slice that is nearest to a point in LPS mm; `grid` runs along S, P, L."""
    at = grid.index(centre_mm)
    return {
        view: min(range(len(shown[view])), key=lambda k: abs(shown[view][k].index - at[axis]))
        for axis, view in enumerate(VIEWS)
    }


def _grid(grid: Facts) -> dict[str, str]:
    lines = dict(grid)
    for name in ("shape", "spacing_mm"):
        lines[name] = " x ".join(f"{v:g}" for v in grid.get(name, ()))
    lines["affine_lps"] = "; ".join(" ".join(f"{v:.6g}" for v in row) for row in grid.get("affine_lps", ()))
    return {name: in_one_line(value) for name, value in lines.items() if not is_empty(value)}


def _known(facts: Facts) -> dict[str, str]:
    names = ("model", "input", "labels", "engine", "source", "options", "versions")
    return {name: in_one_line(facts[name]) for name in names if not is_empty(facts.get(name))}


# ---- what the interactive viewer is given ----------------------------------------------------------------------------


def _volumes(scan: Volume, labels: Volume, names: Sequence[Label]) -> Document:
    """Both volumes as NIfTI in base64, every n-th voxel where there are many, and NiiVue's table of labels."""
    low, high = display_window(scan, names, labels)
    step = [max(1, math.ceil(n / _VIEWER_EDGE)) for n in scan.grid.shape]
    every = tuple(slice(None, None, s) for s in step)
    level = (np.nan_to_num(scan.data[0][every].astype(np.float32), nan=low) - low) / max(high - low, 1e-9)
    grey, marks = np.clip(level, 0, 1) * 255, labels.data[0][every]
    affine = np.array(scan.grid.affine)
    affine[:3, :3] *= step
    grid = Grid(grey.shape, affine)
    known = sorted(names, key=lambda x: x.id)
    return {
        "image": _packed(Volume(grey.astype(np.uint8)[None], grid)),
        "labels": _packed(Volume(marks.astype(np.uint8 if known[-1].id < 256 else np.int16)[None], grid)),
        "colours": {
            **{c: [drawn_colour(x.colour)[i] for x in known] for i, c in enumerate("RGB")},
            "A": [0 if x.id == 0 else 255 for x in known],
            "I": [x.id for x in known],
            "labels": [words(x.name) for x in known],
        },
    }


def _packed(volume: Volume) -> str:
    """A gzipped NIfTI file in base64, the same for the same volume."""
    return base64.b64encode(gzip.compress(nifti.packed(volume), mtime=0)).decode()
