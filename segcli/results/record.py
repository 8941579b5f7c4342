"""What is written about a run: hashes, engine, grid, timings; and whether a case is done.

A record is `{stem}_seg.json` beside the label map. All but its "run" part (times, memory) is the same, byte for
byte, whenever the same input meets the same model, options and versions.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segcli import __version__, formats
from segcli.engines.table import libraries
from segcli.formats.streams import is_folder, reading, refusal, walk
from segcli.models.card import ModelCard
from segcli.models.library import file_sha256
from segcli.space.volume import Grid

SCHEMA = 1
_LIBRARIES = ("numpy", "SimpleITK", "pydicom")


@dataclass(frozen=True)
class Inputs:
    """The files of a case by name, and one hash over all their bytes.

    sha256  of the file, or of the files' sums one after the other, in name order for a folder
    """

    files: tuple[str, ...]
    sha256: str


def hash_inputs(paths: Sequence[Path], mine: Callable[[Path], bool] = lambda path: False) -> Inputs:
    """Names without folders, and the hash that says whether the input is still the same.

    A header with detached data counts with its data file, whichever of the two was named. Of a folder, files that
    are segcli's own (`mine`) do not count: outputs may lie among the slices.
    """
    files: list[Path] = []
    for path in paths:
        if is_folder(path):
            files += sorted(p for p in _below(path) if p.is_file() and not mine(p))
        else:
            files += formats.files_of(path)
    sums = [_sum(p) for p in files]
    whole = sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()
    names = tuple(p.name for p in paths)
    return Inputs(names, whole)


def _below(folder: Path) -> Iterator[Path]:
    """Every file below a folder; refused where one of its folders cannot be read."""

    def refuse(error: OSError) -> None:
        raise refusal(error, folder) from error

    return (here / name for here, _, names in walk(folder, refuse) for name in names)


def _sum(path: Path) -> str:
    with reading(path):
        return file_sha256(path)


def model_hash(card: ModelCard, hashes: Mapping[str, str]) -> str:
    """One hash of the card and of the weights that were loaded (reported by the engine)."""
    text = json.dumps([card.document, sorted(hashes.values())])
    return hashlib.sha256(text.encode()).hexdigest()


def model_facts(members: Sequence[tuple[ModelCard, Mapping[str, str]]]) -> dict[str, Any]:
    """Name, hash and licence of a model; of several as one, with each of them under "members"."""
    each = [{"name": c.name, "sha256": model_hash(c, hashes), "licence": c.licence} for c, hashes in members]
    if len(each) == 1:
        return each[0]
    whole = hashlib.sha256("".join(facts["sha256"] for facts in each).encode()).hexdigest()
    names, licences = ([facts[key] for facts in each] for key in ("name", "licence"))
    return {
        "name": "+".join(names),
        "sha256": whole,
        "licence": " + ".join(dict.fromkeys(licences)),
        "members": each,
    }


def grid_facts(grid: Grid) -> dict[str, Any]:
    """A grid for the record: array order D, H, W; LPS mm."""
    return {
        "shape": list(grid.shape),
        "spacing_mm": [round(s, 6) for s in grid.spacing],
        "axes": grid.axes,
        "affine_lps": [[round(float(v), 9) for v in row] for row in grid.affine],
        "sheared": grid.sheared,
    }


def versions(engine: str = "") -> dict[str, str]:
    """Versions of segcli, Python, what reads and resamples, and the engine's library; not of what else is loaded.

    engine  its name: "onnxruntime cpu"
    """
    found = {"segcli": __version__, "python": ".".join(map(str, sys.version_info[:3]))}
    for name in (*_LIBRARIES, *(library for library in libraries() if engine.startswith(library))):
        found[name] = importlib.metadata.version(name)
    return found


def to_json(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, indent=1, ensure_ascii=True) + "\n").encode()


def read_record(path: Path) -> dict[str, Any] | None:
    """A record of segcli, or None when the file is absent or something else."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) and "segcli_record" in document else None


def is_done(record: Path, labels: Path, key: Mapping[str, Any]) -> bool:
    """Whether both files are there and the record matches input, model, options and the label map's own bytes.

    Existence alone is never taken for done (reliability.md 2.4).
    """
    found = read_record(record)
    if found is None or not labels.is_file():
        return False
    same = all(found.get(name) == json.loads(json.dumps(value)) for name, value in key.items())
    stated = found.get("labels")
    return same and isinstance(stated, dict) and stated.get("sha256") == file_sha256(labels)


def has_extras(record: Path, files: Sequence[Path], choices: Mapping[str, Any]) -> bool:
    """Whether the files beside a record are those that it states, made with the same choices."""
    if not files:
        return True
    stated = (read_record(record) or {}).get("extras")
    if not isinstance(stated, dict) or any(stated.get(k) != v for k, v in choices.items()):
        return False
    sums = stated.get("files")
    return isinstance(sums, dict) and all(
        path.is_file() and sums.get(path.relative_to(record.parent).as_posix()) == file_sha256(path) for path in files
    )


SEG = "_seg"


def is_masks(folder: Path) -> bool:
    """Whether a folder is one of masks, NAME_seg, that segcli made of a case."""
    return folder.name.endswith(SEG) and has_record(folder.with_name(folder.name.removesuffix(SEG)))


def has_record(base: Path) -> bool:
    """Whether the record of a case lies beside its outputs, in the flat layout or in that of BIDS."""
    return any(_is_record(base.with_name(f"{base.name}{end}.json")) for end in (SEG, "_dseg"))


def _is_record(path: Path) -> bool:
    """Whether a file begins as every record does; a folder of masks asks this once a file, so no more is read."""
    try:
        with path.open("rb") as file:
            return b'"segcli_record"' in file.read(64)
    except OSError:
        return False
