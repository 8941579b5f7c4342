"""The page of many cases: verdicts first, then each structure's spread over the cases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from statistics import fmean, stdev
from urllib.parse import quote

from segcli.documents import Document, Facts
from segcli.results.page import charts
from segcli.results.page.parts import page, words
from segcli.results.tissues import tissues

_ORDER = {"fail": 0, "review": 1}


def cohort_page(records: Sequence[Facts]) -> bytes:
    """The page of many cases.

    records   those of the cases, whose own pages lie where their label maps do
    """
    names = list(dict.fromkeys(str(s["name"]) for r in records for s in r["structures"]))
    cases = sorted((_case(r) for r in records), key=lambda c: (c["order"], c["name"]))
    return page(
        "cohort.html",
        title=f"{len(cases)} cases",
        cases=cases,
        names=names,
        words=[words(name) for name in names],
        sums=list(dict.fromkeys(kind for c in cases for kind in c["sums"])),
        counts={v: sum(c["verdict"] == v for c in cases) for v in ("fail", "review", "pass")},
        models=sorted({str(r.get("model", {}).get("name", "")) for r in records}),
        structures=_spread(sorted(records, key=lambda r: (_order(r), str(r["case"])))),
    )


def _case(record: Facts) -> Document:
    found = [finding for finding in record.get("checks", ()) if finding["severity"] != "note"]
    volumes = {str(s["name"]): float(s["volume_ml"]) if s["voxels"] else None for s in record["structures"]}
    return {
        "volumes": volumes,
        "sums": tissues({name: ml for name, ml in volumes.items() if ml is not None}),
        "name": str(record["case"]),
        "page": _page_of(record),
        "verdict": str(record.get("verdict", "")),
        "order": _order(record),
        "doubts": len(found),
        "structures": sum(s["voxels"] > 0 for s in record["structures"]),
        "total_ml": sum(float(s["volume_ml"]) for s in record["structures"]),
        "first": str(found[0]["sentence"]) if found else "",
    }


def _order(record: Facts) -> int:
    return _ORDER.get(str(record.get("verdict")), 2)


def _page_of(record: Facts) -> str:
    """The case's own page, seen from the cohort's folder; a URL with every odd letter as %XX."""
    file = str(record.get("labels", {}).get("file", "")) or f"{PurePosixPath(str(record['case'])).name}_seg.nii.gz"
    stem = file.removesuffix(".nii.gz").removesuffix("_dseg").removesuffix("_seg")
    return "./" + quote(str(PurePosixPath(str(record["case"])).parent / f"{stem}_seg.html"))


def _spread(records: Sequence[Facts]) -> list[Document]:
    """Mean, deviation, range and a dot for each case; absent structures are counted apart, not as 0 mL."""
    volumes: dict[str, list[tuple[str, float]]] = {}
    for r in records:
        for s in r["structures"]:
            volumes.setdefault(str(s["name"]), [])
            if s["voxels"]:
                volumes[str(s["name"])].append((str(r["case"]), float(s["volume_ml"])))
    rows = []
    for name, found in volumes.items():
        ml = [v for _, v in found]
        rows.append(
            {
                "words": words(name),
                "found": len(ml),
                "mean": fmean(ml) if ml else None,
                "sd": stdev(ml) if len(ml) > 1 else None,
                "least": min(ml, default=None),
                "most": max(ml, default=None),
                "strip": charts.strip(found, "mL") if found else "",
            }
        )
    return rows
