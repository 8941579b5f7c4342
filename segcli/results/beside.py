"""The files beside a label map that its record states: whether they are there, and whether one is segcli's own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from segcli.documents import Facts
from segcli.models.library import file_sha256
from segcli.results.record import to_json
from segcli.results.recorded import IN_SIDECAR
from segcli.system import bytes_of


def lacking(found: Facts, folder: Path, files: Sequence[Path], choices: Facts) -> list[Path]:
    """The files that are not those that the record in a folder states, made with the same choices.

    One that `segcli report` has made of the same labels in place of such a file is as good.
    """
    stated = found.get("extras")
    if not isinstance(stated, dict) or any(stated.get(k) != v for k, v in choices.items()):
        return list(files)
    of_run, known = stated_files(found, "extras"), known_files(found)

    def is_there(path: Path) -> bool:
        name = path.relative_to(folder).as_posix()
        return name in of_run and path.is_file() and file_sha256(path) in known[name]

    return [path for path in files if not is_there(path)]


# Where a record states files beside its label map: those of its run; those of earlier runs, and those of `report`.
_FILES: Mapping[Literal["extras", "run"], str] = {"extras": "files", "run": "earlier"}


def stated_files(found: Facts, part: Literal["extras", "run"]) -> dict[str, str]:
    """The sums of the files beside a label map that a part of its record states, by their names from its folder on."""
    stated = found.get(part)
    sums = stated.get(_FILES[part]) if isinstance(stated, dict) else None
    return sums if isinstance(sums, dict) else {}


def known_files(found: Facts) -> dict[str, set[str]]:
    """The sums that a file beside a label map may have and be segcli's own, by its name from the record's folder on."""
    known: dict[str, set[str]] = {}
    for part in _FILES:
        for name, made in stated_files(found, part).items():
            known.setdefault(name, set()).add(str(made))
    return known


def with_files(written: Path, sums: Mapping[str, str]) -> bytes:
    """A record, or a sidecar with one, that also states files which `segcli report` has made of its label map."""
    document = json.loads(bytes_of(written))
    found = document[IN_SIDECAR] if isinstance(document.get(IN_SIDECAR), dict) else document
    stated = stated_files(found, "extras")
    new = {name: made for name, made in sums.items() if stated.get(name) != made}
    found["run"]["earlier"] = {**stated_files(found, "run"), **new}
    return to_json(document)
