"""What is written beside label map and record when it is asked for: tables, reports, masks, DICOM objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from segcli import formats, outputs
from segcli.card import ModelCard
from segcli.cases import Case
from segcli.errors import UsageError
from segcli.report import Report, csv_text, rows, stats_totalseg
from segcli.volume import Volume

FORMS = ("nifti", "dicom-seg", "rtstruct", "dicom-sr", "probabilities")
REPORTS = ("csv", "tsv", "html", "png")
TABLES = ("slicer", "itksnap", "freesurfer", "bids")
TABLE_ENDINGS = {"slicer": ".ctbl", "itksnap": ".label", "freesurfer": "_lut.txt", "bids": "_dseg.tsv"}
DICOM_ENDINGS = {"dicom-seg": "_seg.dcm", "rtstruct": "_rtstruct.dcm", "dicom-sr": "_sr.dcm"}


def beside(base: Path, ending: str) -> Path:
    """`base` with an ending added to its name, whatever dots the name has."""
    return base.with_name(base.name + ending)


@dataclass(frozen=True)
class Destination:
    """Where outputs go and which of them are made.

    folder    None: beside each input
    layout    "flat", or "bids" for a derivatives tree
    """

    folder: Path | None = None
    overwrite: bool = False
    forms: tuple[str, ...] = ("nifti",)
    reports: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    split: bool = False
    layout: Literal[flat, bids] = "flat"
    stats: Literal[segcli, totalseg] = "segcli"
    seg_type: Literal[binary, fractional, labelmap] = "binary"
    identifiers: bool = False
    fail_on_review: bool = False

    def base(self, case: Case, model: str) -> Path:
        """Outputs of a case are this path with something added to its name."""
        folder = self.folder or case.beside
        if self.layout == "bids":
            head, _, suffix = Path(case.name).name.rpartition("_")
            name = head if head and suffix[:1].isalnum() and "-" not in suffix else Path(case.name).name
            return folder / Path(case.name).parent / f"{name}_seg-{''.join(c for c in model if c.isalnum())}"
        return folder / case.name

    def labels(self, case: Case, model: str) -> Path:
        ending = "_dseg.nii.gz" if self.layout == "bids" else "_seg.nii.gz"
        return beside(self.base(case, model), ending)

    def record(self, case: Case, model: str) -> Path:
        return beside(self.base(case, model), "_dseg.json" if self.layout == "bids" else "_seg.json")


def paths(base: Path, card: ModelCard, to: Destination) -> list[Path]:
    """Every file that `write` makes for these wishes, so that a finished case can be known by them."""
    found = [beside(base, f"_seg.{form}") for form in to.reports]
    found += [beside(base, TABLE_ENDINGS[form]) for form in to.tables]
    found += [beside(base, DICOM_ENDINGS[form]) for form in to.forms if form in DICOM_ENDINGS]
    if to.layout == "bids":
        found.append(beside(base, TABLE_ENDINGS["bids"]))
    if to.stats == "totalseg":
        found.append(beside(base, "_statistics.json"))
    if to.split:
        found += [beside(base, "_seg") / f"{label.name}.nii.gz" for label in card.structures]
    return list(dict.fromkeys(found))


def write(
    base: Path,
    scan: Volume,
    labels: Volume,
    card: ModelCard,
    to: Destination,
    report: Report,
    facts: Mapping[str, Any],
) -> list[Path]:
    """Write what was asked for beside `base`; returns the paths, in the order of `paths`."""
    from segcli.formats import tables

    written = []
    for path in paths(base, card, to):
        name = path.name[len(base.name) :] if path.parent == base.parent else ""
        if name in ("_seg.csv", "_seg.tsv"):
            outputs.write_bytes(path, csv_text(rows(report), "\t" if name.endswith("tsv") else ",").encode())
        elif name == "_seg.png":
            from segcli.picture import montage

            montage(scan, labels, card.labels, path)
        elif name == "_seg.html":
            from segcli.page import case_page

            outputs.write_bytes(path, case_page(scan, labels, card, facts))
        elif name == "_statistics.json":
            from segcli.record import to_json

            outputs.write_bytes(path, to_json(stats_totalseg(report)))
        elif form := next((f for f, ending in TABLE_ENDINGS.items() if name == ending), None):
            tables.write(card.labels, form, path)
        elif form := next((f for f, ending in DICOM_ENDINGS.items() if name == ending), None):
            _dicom(form, path, labels, scan, card, to, report, facts)
        else:
            number = next(label.id for label in card.structures if f"{label.name}.nii.gz" == path.name)
            mask = Volume((labels.data == number).astype(np.uint8), labels.grid)
            formats.write(mask, (), path, scan.source, description=f"segcli {card.name}")
        written.append(path)
    return written


def _dicom(
    form: str,
    path: Path,
    labels: Volume,
    scan: Volume,
    card: ModelCard,
    to: Destination,
    report: Report,
    facts: Mapping[str, Any],
) -> None:
    if scan.source is None or scan.source.kind != "dicom":
        raise UsageError(
            f"{path.name}: a DICOM object needs a DICOM scan to refer to", hint="leave --write away for NIfTI input"
        )
    from segcli.formats import dicomseg, dicomsr, rtstruct

    placed = Volume(labels.data, labels.grid, scan.source)
    maker: dict[str, Callable[..., Any]] = {
        "dicom-seg": dicomseg.write,
        "rtstruct": rtstruct.write,
        "dicom-sr": dicomsr.write,
    }
    more = {"kind": to.seg_type} if form == "dicom-seg" else {}
    maker[form](placed, card.structures, path, algorithm=card.name, version=str(facts["model"]["sha256"])[:16], **more)
