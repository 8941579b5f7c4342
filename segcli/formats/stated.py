"""What is said of patient and acquisition beside the voxels: in DICOM headers, in a BIDS sidecar, in a BIDS name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from segcli.formats.table import stem
from segcli.space.volume import Source

_LARGEST = 1 << 20  # bytes of a sidecar
_YEARS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
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
    years      age of the patient
    body_part  as it is written
    contrast   whether a contrast agent was given
    sequence   one of "T1", "T2", "FLAIR", "PD", "DWI", "ADC", "BOLD", "SWI", "TOF"
    """

    modality: str = ""
    years: float | None = None
    body_part: str = ""
    contrast: bool | None = None
    sequence: str = ""


def stated(source: Source | None) -> Stated:
    """What is said of the scan of a source; of several files what the first says."""
    if source is None or not source.paths:
        return Stated()
    if source.kind == "dicom" and source.header is not None:
        file = next(plane for plane in source.header.planes if plane is not None).file
        return _of(file.text, "")
    path = Path(source.paths[0])
    known = _sidecar(path)

    def text(key: str) -> str:
        value = known.get(key, "")
        return _plain(str(value)) if isinstance(value, str | int | float) else ""

    return _of(text, stem(path))


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


def _sidecar(path: Path) -> dict[str, object]:
    """The JSON file of the same name beside a scan; nothing where there is none that can be read, or another's."""
    beside = path.with_name(f"{stem(path)}.json")
    try:
        if beside.stat().st_size > _LARGEST:
            return {}
        found = json.loads(beside.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


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
