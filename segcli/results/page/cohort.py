"""The page of many cases: verdicts first, then each structure's spread over the cases of each model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from statistics import fmean, stdev
from urllib.parse import quote

from segcli.documents import Document, Facts
from segcli.results.page import charts
from segcli.results.page.parts import page, words
from segcli.results.recorded import model_names
from segcli.results.tissues import tissues_of

_ORDER = {"fail": 0, "review": 1}


def cohort_page(records: Sequence[Facts], folder: Path | None = None, failed: Sequence[Facts] = ()) -> bytes:
    """The page of many cases.

    records   those of the cases, whose own pages lie where their label maps do
    folder    where the page will lie; cases that have no page of their own there have no link
    failed    of each case that this run, or an earlier one, could not segment `case`, `model` and `reason`
    """
    models = model_names([*records, *failed])
    known = sorted(zip(models, records, strict=False), key=lambda x: (_order(x[1]), str(x[1]["case"]), x[0]))
    lacking = zip(models[len(records) :], failed, strict=True)
    cases = [_case(record, model, folder) for model, record in known]
    of = {model: [record for name, record in known if name == model] for model, _ in known}
    groups = [_group(model, of[model], cases) for model in sorted(of)]
    return page(
        "cohort.html",
        title=f"{len(cases)} cases{f', {len(failed)} not segmented' if failed else ''}",
        cases=cases,
        failed=sorted((str(record["case"]), model, str(record["reason"])) for model, record in lacking),
        several=len({*models}) > 1,
        counts={v: sum(c["verdict"] == v for c in cases) for v in ("fail", "review", "pass")},
        groups=groups,
    )


def _group(model: str, records: Sequence[Facts], cases: Sequence[Document]) -> Document:
    """The cases of one model: volumes of two models are never put together."""
    mine = [case for case in cases if case["model"] == model]
    names = list(dict.fromkeys(str(s["name"]) for r in records for s in r["structures"]))
    return {
        "model": model,
        "cases": mine,
        "names": names,
        "words": [words(name) for name in names],
        "sums": list(dict.fromkeys(kind for c in mine for kind in c["sums"])),
        "fewer": any(name not in c["volumes"] for c in mine for name in names),
        "structures": _spread(records),
    }


def _case(record: Facts, model: str, folder: Path | None) -> Document:
    found = [finding for finding in record.get("checks", ()) if finding["severity"] != "note"]
    volumes = {str(s["name"]): float(s["volume_ml"]) if s["voxels"] else None for s in record["structures"]}
    own = _page_of(record)
    return {
        "volumes": volumes,
        "sums": tissues_of(record, {name: ml for name, ml in volumes.items() if ml is not None}),
        "name": str(record["case"]),
        "model": model,
        "page": "./" + quote(str(own)) if folder is None or (folder / own).is_file() else "",
        "verdict": str(record.get("verdict", "")),
        "order": _order(record),
        "doubts": len(found),
        "structures": sum(s["voxels"] > 0 for s in record["structures"]),
        "total_ml": sum(float(s["volume_ml"]) for s in record["structures"]),
        "first": str(found[0]["sentence"]) if found else "",
    }


def _order(record: Facts) -> int:
    return _ORDER.get(str(record.get("verdict")), 2)


def _page_of(record: Facts) -> PurePosixPath:
    """The case's own page, seen from the cohort's folder."""
    file = str(record.get("labels", {}).get("file", "")) or f"{PurePosixPath(str(record['case'])).name}_seg.nii.gz"
    stem = file.removesuffix(".nii.gz").removesuffix("_dseg").removesuffix("_seg")
    return PurePosixPath(str(record["case"])).parent / f"{stem}_seg.html"


def _spread(records: Sequence[Facts]) -> list[Document]:
    """Mean, deviation, range and a dot for each case; absent structures are counted apart, not as 0 mL."""
    volumes: dict[str, list[tuple[str, float]]] = {}
    looked: dict[str, int] = {}
    for r in records:
        for s in r["structures"]:
            volumes.setdefault(str(s["name"]), [])
            looked[str(s["name"])] = looked.get(str(s["name"]), 0) + 1
            if s["voxels"]:
                volumes[str(s["name"])].append((str(r["case"]), float(s["volume_ml"])))
    rows = []
    for name, found in volumes.items():
        ml = [v for _, v in found]
        rows.append(
            {
                "words": words(name),
                "found": len(ml),
                "looked": looked[name],
                "mean": fmean(ml) if ml else None,
                "sd": stdev(ml) if len(ml) > 1 else None,
                "least": min(ml, default=None),
                "most": max(ml, default=None),
                "strip": charts.strip(found, "mL") if found else "",
            }
        )
    return rows
