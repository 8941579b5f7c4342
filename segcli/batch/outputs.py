"""What is written beside label map and record when it is asked for: tables, reports, masks, DICOM objects."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from segcli import __version__, formats
from segcli.errors import ModelError, UsageError
from segcli.formats import atomic
from segcli.formats.atomic import is_partial
from segcli.inference.segment import Segmentation
from segcli.models.card import ModelCard
from segcli.results.measure import Report, csv_text, rows, stats_totalseg
from segcli.results.record import has_record, is_masks, to_json
from segcli.space.volume import Volume

if TYPE_CHECKING:
    from segcli.batch.cases import Case

REPORTS = ("csv", "tsv", "html", "png")
TABLE_ENDINGS = {"slicer": ".ctbl", "itksnap": ".label", "freesurfer": "_lut.txt", "bids": "_dseg.tsv"}
DICOM_FORMS = ("dicom-seg", "rtstruct", "dicom-sr")
ENDINGS = {
    "dicom-seg": "_seg.dcm",
    "rtstruct": "_rtstruct.dcm",
    "dicom-sr": "_sr.dcm",
    "probabilities": "_probseg.nii.gz",
    "disagreement": "_disagreement.nii.gz",
}
TABLES = tuple(TABLE_ENDINGS)
FORMS = ("nifti", *ENDINGS)
# Of the entities of a BIDS name, those that stand after seg-, in the order of the specification (schema, entities).
_AFTER_SEG = re.compile(r"_(?:scale|res|den|label|prov|desc)-")


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
    layout: Literal["flat", "bids"] = "flat"
    stats: Literal["segcli", "totalseg"] = "segcli"
    seg_type: Literal["binary", "fractional", "labelmap"] = "binary"
    identifiers: bool = False

    @property
    def shares(self) -> bool:
        """Whether something that is written needs probabilities."""
        return "probabilities" in self.forms or (self.seg_type == "fractional" and "dicom-seg" in self.forms)

    def base(self, case: Case, model: str) -> Path:
        """Outputs of a case are this path with something added to its name."""
        path = (self.folder or case.beside) / case.name
        if self.layout == "bids":
            return path.with_name(bids_name(path.name, "".join(c for c in model if c.isalnum())))
        return path

    def labels(self, case: Case, model: str) -> Path:
        ending = "_dseg.nii.gz" if self.layout == "bids" else "_seg.nii.gz"
        return beside(self.base(case, model), ending)

    def record(self, case: Case, model: str) -> Path:
        return beside(self.base(case, model), "_dseg.json" if self.layout == "bids" else "_seg.json")


def bids_name(scan: str, model: str) -> str:
    """The name of a BIDS derivative, as far as the suffix (_dseg, _probseg): sub-01_T1w -> sub-01_seg-MODEL.

    The scan's own suffix is left out when it is T1w. Any other becomes desc-, the last of the entities, so that a FLAIR
    of the same subject is told apart: sub-01_FLAIR -> sub-01_seg-MODEL_desc-FLAIR. It is added to a desc- that is there
    already. The scan alone decides, so one has the same name in every run. What follows the last "_" and is not
    letters and digits only is no suffix: it stays.
    """
    source, _, suffix = scan.rpartition("_")
    if not source or not (suffix.isascii() and suffix.isalnum()):
        source, suffix = scan, ""
    later = _AFTER_SEG.search(source)
    place = later.start() if later else len(source)
    entities = source[place:]
    if suffix not in ("", "T1w"):
        entities += suffix if "_desc-" in entities else f"_desc-{suffix}"
    return f"{source[:place]}_seg-{model}{entities}"


def mask_names(card: ModelCard) -> dict[str, int]:
    """File name of each structure's mask -> its number; of a name only letters, digits, ".", "_" and "-" are left.

    errors   ModelError for a name that is no file name, and for two that are one (reliability.md 2.11)
    """
    found: dict[str, int] = {}
    for label in card.structures:
        name = re.sub(r"[^A-Za-z0-9._-]", "_", label.name)
        if name.startswith(".") or not name.strip("_") or name.lower() in map(str.lower, found):
            raise ModelError(
                f"{card.name}: no mask can be called {label.name!r}: it begins with a dot, is empty, or another one "
                "has that name",
                hint="leave --split away, or give the structure another name in model.json",
            )
        found[name] = label.id
    return found


def planned(base: Path, card: ModelCard, to: Destination) -> dict[Path, str]:
    """Every file that `write` makes for these wishes, and what it is, in the order of writing."""
    found = {beside(base, f"_seg.{form}"): form for form in to.reports}
    tables = [*to.tables, *(["bids"] if to.layout == "bids" else [])]
    found |= {beside(base, TABLE_ENDINGS[form]): form for form in tables}
    # The report refers to the segmentation that it was measured on, so that one is written too.
    wanted = {*to.forms, *(["dicom-seg"] if "dicom-sr" in to.forms else [])}
    found |= {beside(base, ending): form for form, ending in ENDINGS.items() if form in wanted}
    if to.layout == "bids" and "probabilities" in to.forms:
        found[beside(base, "_probseg.json")] = "label map"
    if to.stats == "totalseg":
        found[beside(base, "_statistics.json")] = "totalseg"
    if to.split:
        found |= {beside(base, "_seg") / f"{name}.nii.gz": f"mask {id}" for name, id in mask_names(card).items()}
    return found


def describe(folder: Path) -> None:
    """Say at the root of a BIDS derivatives tree what it is, unless that is said already."""
    path = folder / "dataset_description.json"
    if not path.exists():
        document = {
            "Name": "segcli",
            "BIDSVersion": "1.10.0",
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "segcli", "Version": __version__}],
        }
        atomic.write_bytes(path, to_json(document))


def check(scan: Volume, to: Destination) -> None:
    """UsageError, before anything is computed, for a DICOM object of a scan that is not DICOM."""
    for kind in to.forms:
        if kind in DICOM_FORMS and (scan.source is None or scan.source.kind != "dicom"):
            raise UsageError(
                f"--write {kind}: a DICOM object refers to a DICOM scan, and this one is none",
                hint="leave it away for such input",
            )


def write(
    base: Path,
    scan: Volume,
    result: Segmentation,
    card: ModelCard,
    to: Destination,
    report: Report,
    facts: Mapping[str, Any],
) -> tuple[list[Path], list[str]]:
    """Write what was asked for beside `base`; returns the paths, and sentences for the user and the record."""
    wanted = planned(base, card, to)
    said: list[str] = []
    for path, kind in wanted.items():
        said += _write_one(path, kind, scan, result, card, to, report, facts)
    return list(wanted), list(dict.fromkeys(said))


def _write_one(
    path: Path,
    kind: str,
    scan: Volume,
    result: Segmentation,
    card: ModelCard,
    to: Destination,
    report: Report,
    facts: Mapping[str, Any],
) -> tuple[str, ...]:
    labels, described = result.labels, f"segcli {card.name}"
    signed = {"algorithm": card.name, "version": str(facts["model"]["sha256"])}
    if kind in ("csv", "tsv"):
        atomic.write_bytes(path, csv_text(rows(report), "\t" if kind == "tsv" else ",").encode())
    elif kind == "png":
        from segcli.results.picture import montage

        montage(scan, labels, card.labels, path)
    elif kind == "html":
        from segcli.results.page import case_page

        atomic.write_bytes(path, case_page(scan, labels, card, facts))
    elif kind == "totalseg":
        atomic.write_bytes(path, to_json(stats_totalseg(report)))
    elif kind in TABLE_ENDINGS:
        from segcli.formats import tables

        tables.write(card.labels, kind, path)
    elif kind == "probabilities" and result.probabilities is not None:
        formats.write_image(result.probabilities, path, scan.source, description=described, slope=1 / 255)
    elif kind == "label map":
        from segcli.formats import tables

        atomic.write_bytes(path, to_json(tables.bids_volumes(described, card.labels, card.decide.values)))
    elif kind == "disagreement" and result.votes is not None:
        formats.write_image(result.votes, path, scan.source, description=described, slope=1 / 255)
    elif kind == "dicom-seg":
        from segcli.formats.dicom import seg

        shown = _fractions(result, card) if to.seg_type == "fractional" else labels
        return seg.write(shown, card.structures, path, scan.source, kind=to.seg_type, **signed)
    elif kind == "rtstruct":
        from segcli.formats.dicom import rtstruct

        return rtstruct.write(labels, card.structures, path, scan.source, **signed)
    elif kind == "dicom-sr":
        from segcli.formats.dicom import sr

        measured = path.with_name(path.name.removesuffix(ENDINGS[kind]) + ENDINGS["dicom-seg"])
        there = atomic.at_present(measured)
        return sr.write(labels, card.structures, path, scan.source, segmentation=there, **signed)
    else:
        mask = Volume((labels.data == int(kind.removeprefix("mask "))).astype(np.uint8), labels.grid)
        formats.write(mask, (), path, scan.source, description=described)
    return ()


def _fractions(result: Segmentation, card: ModelCard) -> Volume:
    """Probabilities of the card's structures in the order of their values, (K, D, H, W) float32 from 0 to 1."""
    if result.probabilities is None:
        raise UsageError("--seg-type fractional: there are no probabilities for a label map that exists already")
    channels = [card.decide.values.index(value) for value in sorted(label.id for label in card.structures)]
    return Volume(result.probabilities.data[channels].astype(np.float32) / 255, result.labels.grid)


# What segcli writes of a case, by the endings of the names; masks lie in a folder NAME_seg.
_OWN = re.compile(
    r"^(?P<base>.+)_(?:seg\.(?:nii\.gz|json|csv|tsv|html|png|dcm)|dseg\.(?:nii\.gz|json|tsv)"
    r"|probseg\.(?:nii\.gz|json)|disagreement\.nii\.gz|rtstruct\.dcm|sr\.dcm|statistics\.json|lut\.txt)$"
    r"|^(?P<table>.+)\.(?:ctbl|label)$",
    re.DOTALL,
)


def is_own(path: Path) -> bool:
    """Whether a file is an output or a temporary file of segcli: by its name, and by the record that lies beside it."""
    if is_partial(path.name):
        return True
    if is_masks(path.parent):
        return True
    found = _OWN.match(path.name)
    base = found and (found["base"] or found["table"])
    return base is not None and has_record(path.with_name(base))
