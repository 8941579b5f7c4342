"""One HTML file for a case, for a cohort, for an evaluation: everything inside, nothing loaded, nothing of the clock.

The slices are pictures and need no script to be seen; scripts move the sliders and sort the tables. When a NiiVue
bundle is on this machine (`niivue_bundle`) the page of a case holds it too, with the volumes, as an interactive viewer.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path, PurePosixPath
from statistics import fmean, stdev
from typing import Any
from urllib.parse import quote

import numpy as np

from segcli.formats import nifti
from segcli.models.card import ModelCard
from segcli.models.library import cache_home
from segcli.results.evaluate import RULE
from segcli.results.page import parts
from segcli.results.page.parts import Cell, number, table, text
from segcli.results.picture import VIEWS, Section, View, jpeg, overlay, png, sections, window
from segcli.space.volume import Grid, Volume, turned
from segcli.structures import Label

SLICES = 24  # for each view
_SIZE = 320  # pixels of the longest side
_VIEWER = """<section id="viewer" hidden><h2>Interactive viewer</h2>
<p><button type="button">Open the viewer</button></p>
<div class="canvas" hidden><canvas tabindex="0" aria-label="Interactive views of scan and labels"></canvas></div>
<p role="status" class="faint"></p></section>"""
_VIEWER_EDGE = 200  # voxels along each axis that the interactive viewer gets at most


def case_page(
    scan: Volume, labels: Volume, card: ModelCard, facts: Mapping[str, Any], niivue: Path | None = None
) -> bytes:
    """The page of one case.

    scan     (C, D, H, W), its first channel is shown; labels (1, D, H, W) on the same grid
    facts    the record: case, structures, verdict, checks, warnings, grid, model, input, ...
    niivue   a NiiVue bundle (niivue.umd.js); None: the one that `niivue_bundle` finds, if any
    """
    colours = {x.id: x.colour for x in card.labels}
    shown = sections(scan, labels, SLICES, _SIZE)
    structures: Sequence[Mapping[str, Any]] = facts["structures"]
    case = str(facts.get("case", "case"))
    verdict = str(facts.get("verdict", ""))
    model = facts.get("model", {})
    intro = f"<h1>{escape(case)}</h1><p>{parts.badge(verdict) if verdict else ''} "
    intro += f'<span class="faint">segmented by {escape(str(model.get("name", card.name)))}</span></p>'
    body = [
        intro,
        parts.finding_list(facts.get("checks", ()), facts.get("warnings", ())),
        "<h2>Slices</h2>",
        _figures(shown, card.labels),
        "<h2>Structures</h2>",
        _structures(structures, card, facts, shown, turned(labels.grid, "SPL")),
        "<h2>Volumes</h2>",
        parts.bars(
            [
                (
                    str(s["name"]).replace("_", " "),
                    float(s["volume_ml"]),
                    colours.get(s["label"], (128, 128, 128)),
                    span,
                )
                for s in structures
                for span in (card.volumes_ml.get(s["name"]),)
                if s["voxels"] or span
            ],
            card.volumes_source if card.volumes_ml else "",
        ),
        _provenance(facts),
    ]
    scripts = [parts.data("slices", json.dumps(_pictures(shown, card.labels)))]
    bundle = niivue or niivue_bundle()
    if bundle is not None:
        body.insert(4, _VIEWER)
        scripts += [
            parts.data("volumes", json.dumps(_volumes(scan, labels, card.labels))),
            parts.script(bundle.read_text(encoding="utf-8")),
            parts.script(parts.asset("viewer.js")),
        ]
    return parts.page(f"{case}: {verdict or 'segmentation'}", "\n".join(body), scripts, viewer=bundle is not None)


def niivue_bundle() -> Path | None:
    """niivue.umd.js as $SEGCLI_NIIVUE names it (the file or its folder), else in the cache's folder niivue."""
    given = os.environ.get("SEGCLI_NIIVUE")
    place = Path(given) if given else cache_home() / "niivue"
    path = place / "niivue.umd.js" if place.is_dir() else place
    return path if path.is_file() else None


# ---- the parts of a case's page ------------------------------------------------------------------------------------


def _pictures(shown: Mapping[View, Sequence[Section]], names: Sequence[Label]) -> dict[str, list[dict[str, str]]]:
    return {
        view: [
            {
                "grey": _inline("image/jpeg", jpeg(s.grey)),
                "marks": _inline("image/png", png(overlay(s.labels, names))),
                "at": s.position,
            }
            for s in slices
        ]
        for view, slices in shown.items()
    }


def _inline(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _figures(shown: Mapping[View, Sequence[Section]], names: Sequence[Label]) -> str:
    """The three views, each with its middle slice as a picture and a slider that scripts bring to life."""
    figures = []
    for view in VIEWS:
        slices = shown[view]
        k = len(slices) // 2
        s = slices[k]
        letters = "".join(
            f'<span class="{side}" aria-hidden="true">{letter}</span>'
            for side, letter in zip("lrtb", s.letters, strict=True)
        )
        figures.append(
            f'<figure data-view="{view}"><div class="stack">'
            f'<img class="grey" src="{_inline("image/jpeg", jpeg(s.grey))}" alt="{view} slice at {s.position}">'
            f'<img class="marks" src="{_inline("image/png", png(overlay(s.labels, names)))}" alt="">{letters}</div>'
            f'<figcaption><label>{view} <input type="range" min="0" max="{len(slices) - 1}" value="{k}"> '
            f"<output>{s.position}</output></label></figcaption></figure>"
        )
    return (
        f'<div class="views">{"".join(figures)}</div><div class="controls" hidden><label>Labels '
        '<input id="opacity" type="range" min="0" max="100" value="100"></label>'
        '<span class="faint">Numbers are those of the table; the patient\'s left is on the right.</span></div>'
    )


def _structures(
    structures: Sequence[Mapping[str, Any]],
    card: ModelCard,
    facts: Mapping[str, Any],
    shown: Mapping[View, Sequence[Section]],
    grid: Grid,
) -> str:
    colours = {x.id: x.colour for x in card.labels}
    confidence = {int(k): float(v) for k, v in (facts.get("confidence") or {}).items()}
    flags: dict[str, list[tuple[str, str]]] = {}
    for finding in facts.get("checks", ()):
        for name in str(finding["structure"] or "").split(", "):
            flags.setdefault(name, []).append((finding["severity"], finding["code"]))
    bright = any(s["mean"] is not None for s in structures)
    heads = ["structure", "mL", "reference mL", *(["mean", "sd"] if bright else [])]
    heads += [*(["confidence"] if confidence else []), "flags"]
    rows = []
    for s in structures:
        name = str(s["name"])
        shown_name = escape(name.replace("_", " "))
        if s["centroid_mm"]:
            go = escape(json.dumps(_nearest(shown, grid, s["centroid_mm"])))
            shown_name = f'<button type="button" data-go="{go}" title="Show its middle">{shown_name}</button>'
        span = card.volumes_ml.get(name)
        raised = list(dict.fromkeys(flags.get(name, [])))
        if s["truncated"] and ("review", "truncated") not in raised:
            raised.append(("", "at border"))
        marks = "".join(f'<span class="flag {severity}">{escape(code)}</span>' for severity, code in raised)
        row = [
            Cell(parts.swatch(s["label"], colours.get(s["label"], (128, 128, 128))) + shown_name, name),
            number(s["volume_ml"]),
            Cell("n/a" if span is None else f"{span[0]:g} to {span[1]:g}", None if span is None else span[0], True),
        ]
        if bright:
            row += [number(s["mean"], ".4g"), number(s["sd"], ".3g")]
        if confidence:
            row.append(number(confidence.get(s["label"]), ".2f"))
        rows.append([*row, Cell(marks, " ".join(code for _, code in raised) or None)])
    caption = "Click a heading to sort, a name to see its middle. Volumes are voxels times the size of a voxel."
    return table(caption, heads, rows, [not s["voxels"] for s in structures])


def _nearest(shown: Mapping[View, Sequence[Section]], grid: Grid, centre_mm: Sequence[float]) -> dict[str, int]:
    """For each view the number of the slice that is nearest to a point in LPS mm; `grid` runs along S, P, L."""
    at = grid.index(centre_mm)
    return {
        view: min(range(len(shown[view])), key=lambda k: abs(shown[view][k].index - at[axis]))
        for axis, view in enumerate(VIEWS)
    }


def _provenance(facts: Mapping[str, Any]) -> str:
    grid = dict(facts.get("grid") or {})
    for name in ("shape", "spacing_mm"):
        grid[name] = " x ".join(f"{v:g}" for v in grid.get(name, ()))
    grid["affine_lps"] = "; ".join(" ".join(f"{v:.6g}" for v in row) for row in grid.get("affine_lps", ()))
    known = {k: facts.get(k) for k in ("model", "input", "labels", "engine", "source", "options", "versions")}
    record = {k: v for k, v in facts.items() if k != "run"}  # times and memory differ from run to run
    whole = escape(json.dumps(record, indent=1, default=str))
    return (
        f'<div class="two">{parts.definitions("Grid (array order, LPS mm)", grid)}'
        f"{parts.definitions('Where it came from', known)}</div>"
        f"<details><summary>The whole record</summary><pre>{whole}</pre></details>"
    )


# ---- what the interactive viewer is given ----------------------------------------------------------------------------


def _volumes(scan: Volume, labels: Volume, names: Sequence[Label]) -> dict[str, Any]:
    """Both volumes as NIfTI in base64, every n-th voxel where there are many, and NiiVue's table of labels."""
    low, high = window(scan)
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
            **{c: [x.colour[i] for x in known] for i, c in enumerate("RGB")},
            "A": [0 if x.id == 0 else 255 for x in known],
            "I": [x.id for x in known],
            "labels": [x.name.replace("_", " ") for x in known],
        },
    }


def _packed(volume: Volume) -> str:
    """A gzipped NIfTI file in base64, the same for the same volume."""
    return base64.b64encode(gzip.compress(nifti.packed(volume), mtime=0)).decode()


# ---- cohort and evaluation -------------------------------------------------------------------------------------------


def cohort_page(records: Sequence[Mapping[str, Any]]) -> bytes:
    """The page of many cases: verdicts first, then each structure's spread over the cases.

    records   those of the cases, whose own pages lie where their label maps do
    """
    order = {"fail": 0, "review": 1}
    cases = sorted(records, key=lambda r: (order.get(str(r.get("verdict")), 2), str(r["case"])))
    count = {v: sum(r.get("verdict") == v for r in cases) for v in ("fail", "review", "pass")}
    rows = []
    for r in cases:
        verdict = str(r.get("verdict", ""))
        found = list(r.get("checks", ()))
        first = str(found[0]["sentence"]) if found else ""
        total = sum(float(s["volume_ml"]) for s in r["structures"])
        rows.append(
            [
                Cell(f'<a href="{escape(_page_of(r))}">{escape(str(r["case"]))}</a>', str(r["case"])),
                Cell(parts.badge(verdict), order.get(verdict, 2)),
                Cell(str(len(found)), len(found), True),
                Cell(
                    str(sum(s["voxels"] > 0 for s in r["structures"])),
                    sum(s["voxels"] > 0 for s in r["structures"]),
                    True,
                ),
                number(total, ".1f"),
                text(first),
            ]
        )
    heads = ["case", "verdict", "doubts", "structures", "all, mL", "first doubt"]
    models = sorted({str(r.get("model", {}).get("name", "")) for r in cases})
    body = [
        f"<h1>{len(cases)} cases</h1>",
        "<p>" + " ".join(f"{parts.badge(v)} {n}" for v, n in count.items()) + "</p>",
        f'<p class="faint">Segmented by {escape(", ".join(models))}.</p>',
        "<h2>Cases</h2>",
        table("Those to look at come first.", heads, rows),
        "<h2>Structures</h2>",
        _spread(cases),
    ]
    return parts.page(f"{len(cases)} cases", "\n".join(body))


def _page_of(record: Mapping[str, Any]) -> str:
    """The case's own page, seen from the cohort's folder; a URL with every odd letter as %XX."""
    file = str(record.get("labels", {}).get("file", "")) or f"{PurePosixPath(str(record['case'])).name}_seg.nii.gz"
    stem = file.removesuffix(".nii.gz").removesuffix("_dseg").removesuffix("_seg")
    return "./" + quote(str(PurePosixPath(str(record["case"])).parent / f"{stem}_seg.html"))


def _spread(cases: Sequence[Mapping[str, Any]]) -> str:
    """Mean, deviation, range and a dot for each case; absent structures are counted apart, not as 0 mL."""
    volumes: dict[str, list[tuple[str, float]]] = {}
    for r in cases:
        for s in r["structures"]:
            volumes.setdefault(str(s["name"]), [])
            if s["voxels"]:
                volumes[str(s["name"])].append((str(r["case"]), float(s["volume_ml"])))
    rows = []
    for name, found in volumes.items():
        ml = [v for _, v in found]
        rows.append(
            [
                text(name.replace("_", " ")),
                Cell(f"{len(ml)} of {len(cases)}", len(ml), True),
                number(fmean(ml) if ml else None),
                number(stdev(ml) if len(ml) > 1 else None),
                number(min(ml) if ml else None),
                number(max(ml) if ml else None),
                Cell(parts.strip(found, "mL") if found else ""),
            ]
        )
    heads = ["structure", "found in", "mean mL", "sd", "least", "most", "each case"]
    return table("Over the cases in which a structure was found.", heads, rows, [not v for v in volumes.values()])


_SCORES = {  # heading and format of each metric
    "dice": ("Dice", ".3f"),
    "iou": ("IoU", ".3f"),
    "nsd": ("NSD", ".3f"),
    "hd95_mm": ("HD95 mm", ".2f"),
    "assd_mm": ("ASSD mm", ".2f"),
    "volume_error": ("volume error", ".3f"),
}


def evaluation_page(document: Mapping[str, Any]) -> bytes:
    """The page of an evaluation.

    document   tolerance_mm, scores (`evaluate.rows`), summary (`evaluate.summarise`), and with a second model
               difference (`evaluate.compare`)
    """
    summary = document["summary"]
    cases = len({s["case"] for s in document["scores"]})
    heads = ["structure", "cases", "missed", "invented", *(h for h, _ in _SCORES.values()), "bias mL"]
    rows = [
        [
            text(str(r["name"]).replace("_", " ")),
            *(Cell(str(r[k]), r[k], True) for k in ("cases", "missed", "invented")),
            *(_interval(r, metric, form) for metric, (_, form) in _SCORES.items()),
            number(r.get("bias_ml"), "+.2f"),
        ]
        for r in summary
    ]
    tolerance = f"NSD at {document['tolerance_mm']:g} mm"
    body = [
        f"<h1>Evaluation of {cases} case{'' if cases == 1 else 's'}</h1>",
        f'<p class="faint">{escape(RULE)}</p>',
        "<h2>Summary</h2>",
        table(f"Mean over cases, with the 95 % bootstrap interval below; {tolerance}.", heads, rows),
    ]
    if document.get("difference"):
        body += [
            "<h2>Second model minus the first</h2>",
            table(
                "Mean of the paired differences, with 95 % interval and p of a sign-flip test below.",
                ["structure", "cases", *(h for h, _ in _SCORES.values())],
                [
                    [
                        text(str(r["name"]).replace("_", " ")),
                        Cell(str(r["cases"]), r["cases"], True),
                        *(_interval(r, metric, "+" + form) for metric, (_, form) in _SCORES.items()),
                    ]
                    for r in document["difference"]
                ],
            ),
        ]
    detail = [
        [
            text(s["case"]),
            text(str(s["name"]).replace("_", " ")),
            Cell(
                f'<span class="flag {"" if s["status"] in ("both", "absent") else "review"}">{s["status"]}</span>',
                s["status"],
            ),
            *(number(s[metric], form) for metric, (_, form) in _SCORES.items()),
            number(s["volume_ml"]),
            number(s["reference_ml"]),
        ]
        for s in document["scores"]
    ]
    heads = ["case", "structure", "found", *(h for h, _ in _SCORES.values()), "mL", "reference mL"]
    body += ["<h2>Every case and structure</h2>", table(tolerance, heads, detail)]
    return parts.page("Evaluation", "\n".join(body))


def _interval(row: Mapping[str, Any], metric: str, form: str) -> Cell:
    value, low, high, p = (row.get(f"{metric}{end}") for end in ("", "_low", "_high", "_p"))
    if value is None:
        return number(None)
    span = "" if low is None else f"{low:{form}} to {high:{form}}"
    span += "" if p is None else f"<br>p {p:.3f}"
    return Cell(f'{value:{form}}<br><small class="faint">{span}</small>', value, True)
