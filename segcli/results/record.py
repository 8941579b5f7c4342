"""What is written about a run: hashes, engine, grid, timings.

A record is `{stem}_seg.json` beside the label map; in a BIDS tree it stands in the label map's sidecar, under the key
`segcli`. All but its "run" part (times, memory) is the same, byte for byte, whenever the same input meets the same
model, options and versions.

The JSON Schema that follows from `Record` is stored in segcli/schemas/record.schema.json, for other programs:

    python -m segcli.results.record > segcli/schemas/record.schema.json

The number `segcli_record` follows one rule. A new key is optional, and a record without it means what it meant: the
number stays. A key that goes, or changes its meaning or its type, raises the number, and records of every earlier
number are still read. Readers leave alone what they do not know.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NotRequired, TypedDict

import msgspec
from msgspec import UNSET, Struct, UnsetType

from segcli import __version__
from segcli.documents import Document, Facts, undented
from segcli.engines.export.cached import hashes_before
from segcli.engines.table import libraries
from segcli.formats.table import stem
from segcli.models.card import ModelCard
from segcli.models.decisive import hash_as_decided, hash_as_written, model_hash
from segcli.packages import version_of
from segcli.results import checks
from segcli.results.after import Effect
from segcli.results.islands import Change
from segcli.results.measure import Report, Structure
from segcli.results.recorded import read_record
from segcli.space.volume import Grid

SCHEMA = 1
NOTE = "Research use only; not a medical device."
_LIBRARIES = ("numpy", "SimpleITK", "pydicom")


class InputFacts(TypedDict):
    """The files by name, one hash over their bytes, and which series of a DICOM folder and which volume."""

    files: list[str]
    sha256: str
    series: str | None
    volume: int | None


class MemberFacts(TypedDict):
    """A model of several that label together."""

    name: str
    sha256: str
    licence: str


class ModelFacts(TypedDict):
    """The model; its hash is null where nobody knows which weights made the label map."""

    name: str
    sha256: str | None
    licence: str
    members: NotRequired[list[MemberFacts]]


class LabelsFacts(TypedDict):
    """The label map: its name without folders, and the hash of its bytes."""

    file: str
    sha256: str


class EngineFacts(TypedDict):
    """What ran the network, why it was taken, and the precision of its numbers."""

    name: str
    reason: str
    precision: str


class GridFacts(TypedDict):
    """A grid: array order D, H, W; the affine to LPS mm."""

    shape: list[int]
    spacing_mm: list[float]
    axes: str
    affine_lps: list[list[float]]
    sheared: bool


class ExtrasFacts(TypedDict):
    """What lies beside the label map: name -> hash of its bytes, and what else these files depend on."""

    seg_type: str
    identifiers: bool
    files: dict[str, str]
    dicom: NotRequired[dict[str, str | int | bool | None] | None]


class CropFacts(TypedDict):
    """Where a network looked: the box of a rough model's structures, or the whole scan where it found none of them.

    box   first voxel and the one behind the last along D, H, W
    """

    model: str
    structures: list[str]
    margin_mm: float
    found: bool
    box: list[list[int]]


class RunFacts(TypedDict):
    """Seconds of each stage, the peak of memory, steps down for want of it.

    earlier  files beside the label map that earlier runs made, or `report`, as in `extras`
    """

    seconds: dict[str, float]
    peak_memory_mb: int
    steps: list[str]
    earlier: NotRequired[dict[str, str]]


class Record(Struct, kw_only=True, frozen=True):
    """What is known of a label map and of how it was made; keys that are UNSET are left out.

    input .. windows   of a label map that `predict` made
    model_sources      name of the model, and of each that it is made of -> what to cite, as its card says
    crops              where networks behind a rough one looked, in their order
    confidence         label -> mean softmax margin; disagreement: of ensembles, share of members that decide otherwise
    after              each of the card's steps with the structures that it changed
    postprocessing     structures that the options' changed
    identifiers        of patient and study, where the user let them in
    """

    segcli_record: int = SCHEMA
    case: str
    input: InputFacts | UnsetType = UNSET
    model: ModelFacts
    model_sources: dict[str, str] | UnsetType = UNSET
    options: Document | UnsetType = UNSET
    labels: LabelsFacts
    engine: EngineFacts | UnsetType = UNSET
    grid: GridFacts
    source: Document | UnsetType | None = UNSET
    windows: int | UnsetType = UNSET
    crops: list[CropFacts] | UnsetType = UNSET
    structures: list[Structure]
    confidence: dict[str, float] | UnsetType = UNSET
    disagreement: dict[str, float] | UnsetType = UNSET
    after: list[Effect] | UnsetType = UNSET
    postprocessing: list[Change] | UnsetType = UNSET
    verdict: Literal["pass", "review", "fail"]
    checks: list[checks.Finding]
    warnings: list[str]
    note: str = NOTE
    versions: dict[str, str]
    identifiers: Document | UnsetType = UNSET
    extras: ExtrasFacts | UnsetType = UNSET
    run: RunFacts | UnsetType = UNSET

    @property
    def document(self) -> Document:
        """The record as JSON has it."""
        made: Document = msgspec.to_builtins(self)
        return made


@dataclass(frozen=True, eq=False)
class Measured:
    """What a label map holds: its grid, its structures, and the doubts about them."""

    grid: Grid
    report: Report
    findings: Sequence[checks.Finding]


def about(
    case: str,
    model: ModelFacts,
    labels: LabelsFacts,
    measured: Measured,
    warnings: Sequence[str],
    classes: Sequence[str] = (),
) -> Record:
    """The record of a label map, as far as it does not matter how it was made.

    classes   names of the structures that it was made of, where they are not all of the model's
    """
    return Record(
        case=case,
        model=model,
        options={"classes": list(classes)} if classes else UNSET,
        labels=labels,
        grid=grid_facts(measured.grid),
        structures=list(measured.report.structures),
        verdict=checks.verdict(measured.findings),
        checks=list(measured.findings),
        warnings=list(warnings),
        versions=versions(),
    )


HashOf = Callable[[ModelCard, Mapping[str, str]], str]


def _on_exports(way: HashOf) -> HashOf:
    """A way to hash a model that ran on exports of its weights from the cache."""
    return lambda card, hashes: way(card, hashes_before(card, hashes))


# How earlier versions hashed a model.
WAYS_BEFORE: tuple[HashOf, ...] = (
    hash_as_decided,
    hash_as_written,
    _on_exports(hash_as_decided),
    _on_exports(hash_as_written),
)


def composed_facts(
    card: ModelCard, parts: Sequence[tuple[ModelCard, Mapping[str, str]]], hash_of: HashOf
) -> ModelFacts:
    """Name, hash and licence of a model that is made of parts, with each of them under "members"."""
    whole = model_facts([(card, {}), *parts], hash_of)
    return ModelFacts(name=card.name, sha256=whole["sha256"], licence=whole["licence"], members=whole["members"][1:])


def several_facts(wholes: Sequence[ModelFacts]) -> ModelFacts:
    """Models that are averaged as one, with every network of theirs under "members"; one alone as it is."""
    if len(wholes) == 1:
        return wholes[0]
    members = [
        one
        for w in wholes
        for one in w.get("members") or [MemberFacts(name=w["name"], sha256=str(w["sha256"]), licence=w["licence"])]
    ]
    return ModelFacts(
        name="+".join(w["name"] for w in wholes),
        sha256=hashlib.sha256("".join(str(w["sha256"]) for w in wholes).encode()).hexdigest(),
        licence=" + ".join(dict.fromkeys(w["licence"] for w in wholes)),
        members=members,
    )


def model_facts(members: Sequence[tuple[ModelCard, Mapping[str, str]]], hash_of: HashOf = model_hash) -> ModelFacts:
    """Name, hash and licence of a model; of several as one, with each of them under "members"."""
    return several_facts(
        [ModelFacts(name=c.name, sha256=hash_of(c, hashes), licence=c.licence) for c, hashes in members]
    )


def grid_facts(grid: Grid) -> GridFacts:
    """A grid for the record: array order D, H, W; LPS mm."""
    return GridFacts(
        shape=list(grid.shape),
        spacing_mm=[round(s, 6) for s in grid.spacing],
        axes=grid.axes,
        affine_lps=[[round(float(v), 9) for v in row] for row in grid.affine],
        sheared=grid.sheared,
    )


def versions(engine: str = "") -> dict[str, str]:
    """Versions of segcli, Python, what reads and resamples, and the engine's library; not of what else is loaded.

    engine  its name: "onnxruntime cpu"
    """
    found = {"segcli": __version__, "python": ".".join(map(str, sys.version_info[:3]))}
    for name in (*_LIBRARIES, *(library for library in libraries() if engine.startswith(library))):
        found[name] = version_of(name)
    return found


def to_json(record: Facts) -> bytes:
    return (json.dumps(record, indent=1, ensure_ascii=True) + "\n").encode()


def of_labels(labels: Path, sha256: str) -> Record | None:
    """All that the record beside a label map says; None where none is there, or it is about other bytes than these."""
    try:
        found = msgspec.convert(read_record(labels.with_name(f"{stem(labels)}.json")), Record)
    except msgspec.ValidationError:
        return None
    return found if found.labels["sha256"] == sha256 else None


def schema() -> Document:
    """The JSON Schema (2020-12) of a record."""
    rule = str(__doc__).partition("follows one rule. ")[2]
    told = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"record of segcli, number {SCHEMA}",
        "$comment": " ".join(rule.split()),
    }
    return {**told, **undented(msgspec.json.schema(Record))}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(schema(), indent=1) + "\n")
