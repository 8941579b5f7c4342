"""What records say that were written before, whether a case is done by its own, and which files have one."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from segcli.documents import Document, Facts, content_of
from segcli.formats.table import stem
from segcli.models.library import file_sha256
from segcli.system import opened

if TYPE_CHECKING:
    from segcli.results.record import ModelFacts

IN_SIDECAR = "segcli"  # the key of a record in the sidecar of a BIDS label map: no entity of BIDS
SEG = "_seg"


def read_record(path: Path) -> Document | None:
    """A record of segcli as JSON has it, also out of a sidecar; None when the file is absent or something else."""
    document = content_of(path)
    if isinstance(document, dict) and isinstance(document.get(IN_SIDECAR), dict):
        document = document[IN_SIDECAR]
    return document if isinstance(document, dict) and "segcli_record" in document else None


def maker(record: Path) -> ModelFacts | None:
    """The model that made a label map, as the record beside it says; None without a record."""
    made = (read_record(record) or {}).get("model")
    if not isinstance(made, dict) or not isinstance(made.get("name"), str):
        return None
    return cast("ModelFacts", {"name": "", "sha256": None, "licence": "", **made})


def case_of(record: Path) -> str | None:
    """What the record beside a label map, and so the cohort's tables, call its case; None without a record."""
    name = (read_record(record) or {}).get("case")
    return name if isinstance(name, str) else None


def kept(record: Path) -> tuple[str, ...]:
    """The structures that were asked for in a label map, as the record beside it says; nothing where all were."""
    options = (read_record(record) or {}).get("options")
    names = options.get("classes") if isinstance(options, dict) else None
    return tuple(name for name in names if isinstance(name, str)) if isinstance(names, list) else ()


def model_names(records: Sequence[Facts]) -> list[str]:
    """The model of each record: its name, with the first digits of its hash where several have that name."""
    made = [(str(record["model"]["name"]), str(record["model"].get("sha256"))[:8]) for record in records]
    several = {name for name, _ in made if len({own for other, own in made if other == name}) > 1}
    return [f"{name} {own}" if name in several else name for name, own in made]


def is_done(
    found: Facts | None, labels: Path, key: Facts, defaults: Facts | None = None, precision: str = "float32"
) -> bool:
    """Whether a record and its label map are there and it matches input, model, options and the map's own bytes.

    Existence alone is never taken for done. An option that the record does not know yet had its default then. What
    the network computed in is the same where the same word asked for it, or where it is `precision`, that of this run.
    """
    if found is None or not labels.is_file():
        return False
    stated = found.get("labels")
    same = not differing(found, key, defaults, precision)
    return same and isinstance(stated, dict) and stated.get("sha256") == file_sha256(labels)


def differing(
    found: Facts, key: Facts, defaults: Facts | None = None, precision: str = "float32"
) -> dict[str, tuple[object, object]]:
    """What of a key a record has otherwise, by its name: what the record has, and the key; as `is_done` compares."""
    wanted = json.loads(json.dumps(key))
    if isinstance(found.get("options"), dict) and "options" in key:
        today = _as_today(found, json.loads(json.dumps(defaults or {})), key["options"], precision)
        found = {**found, "options": today}
    return {name: (found.get(name), value) for name, value in wanted.items() if found.get(name) != value}


def _as_today(found: Facts, defaults: Facts, asked: Facts, runs: str) -> Document:
    """The options of a record under the names of today, with those that it does not know at their defaults."""
    options: Document = {**defaults, **found["options"]}
    if "precision" in asked:
        options.pop("half", None)  # of version 0.1, which knew no other word for it
        ran = (found.get("engine") or {}).get("precision", "float32")
        options["precision"] = asked["precision"] if ran == runs else found["options"].get("precision", ran)
    return options


def base_of(labels: str) -> str:
    """How files beside a label map begin, by its name without ending: with "a" beside a_seg, a_dseg and a.seg."""
    return re.sub(r"(?<=.)(_d?seg|\.seg)$", "", labels)


def is_masks(folder: Path) -> bool:
    """Whether a folder is one of masks, NAME_seg, that segcli made of a case."""
    return folder.name.endswith(SEG) and has_record(folder.with_name(folder.name.removesuffix(SEG)))


def has_record(base: Path) -> bool:
    """Whether the record of a case lies beside its outputs: in the flat layout, in that of BIDS, or of a named file."""
    return any(_is_record(base.with_name(f"{base.name}{end}.json")) for end in (SEG, "_dseg", "", ".seg"))


def is_named(path: Path) -> bool:
    """Whether a file is a label map that the user gave a name of its own, or the record beside one."""
    record = path if path.suffix == ".json" else path.with_name(f"{stem(path)}.json")
    labels = (read_record(record) or {}).get("labels") if _is_record(record) else None
    return isinstance(labels, dict) and (path == record or labels.get("file") == path.name)


def _is_record(path: Path) -> bool:
    """Whether a file begins as every record does; a folder of masks asks this once a file, so no more is read."""
    try:
        with opened(path) as file:
            return b'"segcli_record"' in file.read(64)
    except OSError:
        return False
