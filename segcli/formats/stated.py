"""What is said of patient and acquisition beside the voxels: in DICOM headers; in sidecars, tables and names of BIDS.

In a BIDS tree every JSON file counts that applies to a scan: from the root down to the scan's folder, of its suffix,
without an entity that the scan's name lacks; the nearest counts most, key by key. Ages stand in the tables of sessions
and participants too. A file that cannot be read says nothing.
"""

from __future__ import annotations

import csv
import json
import math
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from segcli.documents import text_of
from segcli.formats.table import stem
from segcli.space.volume import Source

_LARGEST = 1 << 24  # bytes of a sidecar or of a table of participants
_YEARS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
_UNITS = {"year": "Y", "yr": "Y", "month": "M", "week": "W", "day": "D"}  # of the age in a table
_NO_AGENT = {"NO", "NONE", "N", "FALSE", "0", "NATIVE", "WITHOUT", "UNENHANCED"}
# How sequences are called in descriptions, the first that is found counts: a T2-FLAIR is a FLAIR.
_SEQUENCES = (
    ("FLAIR", r"flair|dark.?fluid"),
    ("DWI", r"dwi|diffusion|dti|trace"),
    ("ADC", r"adc"),
    ("BOLD", r"bold|fmri"),
    ("SWI", r"swi|swan|t2star|t2\*"),
    ("TOF", r"tof"),
    ("T1", r"t1w?|mprage|mp.?rage|bravo|mp2rage|ir.?fspgr"),
    ("T2", r"t2w?"),
    ("PD", r"pdw?|proton"),
)


@dataclass(frozen=True)
class Stated:
    """What is said of a scan; None and "" where nothing is.

    modality   "CT", "MR", ... as DICOM has it
    years      age of the patient, and what says it: the scan or a table beside it
    body_part  as it is written
    contrast   whether a contrast agent was given
    sequence   one of "T1", "T2", "FLAIR", "PD", "DWI", "ADC", "BOLD", "SWI", "TOF"
    """

    modality: str = ""
    years: float | None = None
    body_part: str = ""
    contrast: bool | None = None
    sequence: str = ""
    years_from: str = "the scan"


def stated(source: Source | None) -> Stated:
    """What is said of the scan of a source; of several files what the first says."""
    if source is None or not source.paths:
        return Stated()
    if source.kind == "dicom" and source.header is not None:
        file = next(plane for plane in source.header.planes if plane is not None).file
        return _of(file.text, "")
    path = Path(source.paths[0]).absolute()
    known = _sidecars(path)

    def text(key: str) -> str:
        value = known.get(key, "")
        return _plain(str(value)) if isinstance(value, str | int | float) else ""

    found = _of(text, stem(path))
    return found if found.years is not None else _of_table(found, path)


def _of(text: Callable[[str], str], name: str) -> Stated:
    """What a header's or a sidecar's texts say, and a name after the rules of BIDS."""
    agent = next((t for key in ("ContrastBolusAgent", "ContrastBolusIngredient") if (t := text(key))), "")
    words = " ".join(map(text, ("SeriesDescription", "ProtocolName", "PulseSequenceName", "SequenceName")))
    named = name.rpartition("_")[2] if re.match(r"sub-[A-Za-z0-9]+_", name) else ""
    return Stated(
        modality=text("Modality"),
        years=_years(text("PatientAge")) or _between(text("PatientBirthDate"), text("StudyDate")),
        body_part=_plain(text("BodyPartExamined")),
        contrast=agent.upper() not in _NO_AGENT if agent else True if "_ce-" in name else None,
        sequence=_sequence(named) or _sequence(words),
    )


# ---- BIDS ------------------------------------------------------------------------------------------------------------


def _sidecars(scan: Path) -> dict[str, object]:
    """What the JSON files say that apply to a scan: that of its own name, and in BIDS those that it inherits."""
    *entities, suffix = stem(scan).split("_")
    if _subject(scan) is None:
        return _json(scan.with_name(f"{stem(scan)}.json"))
    found: dict[str, object] = {}
    for folder in _folders(scan):
        inherited = [(f.stem.split("_"), f) for f in _listed(folder) if f.stem.split("_")[-1] == suffix]
        for words, file in sorted(inherited, key=lambda x: len(x[0])):
            if set(words[:-1]) <= set(entities):
                found |= _json(file)
    return found


def _of_table(found: Stated, scan: Path) -> Stated:
    """With the age that the nearest table of a BIDS tree has: of the session, else of the participant."""
    subject = _subject(scan)
    if subject is None:
        return found
    session = next((word for word in stem(scan).split("_") if word.startswith("ses-")), "")
    for folder in reversed(_folders(scan)):
        for name, key, value in (
            (f"{subject}_sessions", "session_id", session),
            ("participants", "participant_id", subject),
        ):
            said = _json(folder / f"{name}.json").get("age")
            unit = str(said.get("Units", "years")) if isinstance(said, dict) else "years"
            years = _aged(_row(folder / f"{name}.tsv", key, value).get("age", ""), unit) if value else None
            if years is not None:
                return replace(found, years=years, years_from=f"{name}.tsv")
    return found


def _subject(scan: Path) -> str | None:
    """sub-01 of a name after the rules of BIDS."""
    named = re.match(r"sub-[A-Za-z0-9]+(?=_)", scan.name)
    return named[0] if named else None


def _folders(scan: Path) -> list[Path]:
    """Those from the root of a scan's BIDS tree down to the one that it lies in; that alone, if it is in no tree."""
    above = list(scan.parents)
    depth = next((i + 1 for i, folder in enumerate(above[:-1]) if folder.name == _subject(scan)), 0)
    return above[depth::-1]


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == ".json")
    except OSError:
        return []


def _json(path: Path) -> dict[str, object]:
    try:
        found = json.loads(_read(path))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _row(path: Path, key: str, value: str) -> Mapping[str, str]:
    """The row of a table whose column `key` has that value, or has it without what stands before its hyphen."""
    head, *lines = _read(path).splitlines() or [""]
    heads = _cells(head)
    for line in lines:
        row = dict(zip(heads, _cells(line), strict=False))
        if row.get(key) in (value, value.partition("-")[2]):
            return row
    return {}


def _cells(line: str) -> list[str]:
    """The texts of a table's line; R puts them in quotes."""
    try:
        return next(csv.reader([line], delimiter="\t"), [])
    except csv.Error:  # no table
        return []


def _read(path: Path) -> str:
    """The text of a plain file that is not too long; "" of anything else."""
    try:
        kind = path.stat()
        if not stat.S_ISREG(kind.st_mode) or kind.st_size > _LARGEST:
            return ""
        data = path.read_bytes()
    except OSError:
        return ""
    try:
        return text_of(data)
    except UnicodeDecodeError:
        return data.decode("utf-8", "replace")


def _aged(age: str, unit: str) -> float | None:
    """Years of an age as tables have it, 34, 34.5, 34,5 or 89+, in years, months, weeks or days; None of any other."""
    found = re.fullmatch(r"\s*(\d{1,4}(?:[.,]\d+)?)\s*\+?\s*", age)
    times = _YEARS.get(_UNITS.get(unit.strip().lower().removesuffix("s"), ""), math.nan)
    years = float(found[1].replace(",", ".")) * times if found else math.nan
    return years if years < 130 else None


# ---- texts -----------------------------------------------------------------------------------------------------------


def _plain(text: str) -> str:
    """A text of one short line."""
    return "".join(c if c.isprintable() else " " for c in text[:200]).strip()


def _years(age: str) -> float | None:
    """An age as DICOM writes it: 003Y, 018M, 006W, 021D."""
    found = re.fullmatch(r"\s*(\d{1,3})\s*([YMWD])\s*", age, re.IGNORECASE)
    return int(found[1]) * _YEARS[found[2].upper()] if found else None


def _between(birth: str, study: str) -> float | None:
    """Years between two dates as DICOM writes them, 20260131."""
    try:
        days = (date.fromisoformat(study) - date.fromisoformat(birth)).days
    except ValueError:
        return None
    return days / 365.25 if 0 <= days < 130 * 366 else None


def _sequence(words: str) -> str:
    for name, pattern in _SEQUENCES:
        if re.search(rf"(?<![a-z0-9])(?:{pattern})(?![a-z0-9*])", words.lower()):
            return name
    return ""
