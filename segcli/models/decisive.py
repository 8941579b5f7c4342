"""What of a model decides its labels, stated in one way however its card states it, and the hash of that."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from functools import cache
from importlib.resources import files

import msgspec

from segcli.documents import Content, Document
from segcli.models.card import Architecture, ModelCard, parse
from segcli.models.document import FORMAT
from segcli.models.library import find, previous_of

# Fields of a card that change no label: names and texts, what the checks compare with, the names of the weights' files,
# whose bytes are hashed, and how the models are called that a model is made of, which have hashes of their own.
_DESCRIBES = {
    "name", "licence", "source", "weights", "sha256", "onnx", "onnx_sha256", "engines", "modality", "made_for",
    "not_scored", "volumes_ml", "volumes_by_size", "volumes_source", "centroids_mm", "limits", "ensemble", "parts",
    "previous", "folder", "document",
}  # fmt: skip
# The same, as versions up to 0.1 told them apart in a card's document.
_DESCRIBED_BEFORE = {
    "format", "name", "licence", "source", "weights", "sha256", "onnx", "onnx_sha256", "modality", "made_for", "codes",
    "colours", "not_scored", "volumes_ml", "volumes_by_size", "volumes_source", "centroids_mm", "checks", "notes",
}  # fmt: skip


def model_hash(card: ModelCard, hashes: Mapping[str, str]) -> str:
    """One hash of what decides the labels: the weights that were loaded (reported by the engine), and the card.

    Cards that mean the same have one hash: the order of their keys, what only describes, numbers as 3 or 3.0, and
    defaults that are stated or left out do not count. The labels' order does: they are the network's outputs.
    """
    return _hash([decisive(parse(card.document, card.folder)), sorted(hashes.values())])


def hash_as_decided(card: ModelCard, hashes: Mapping[str, str]) -> str:
    """The hash of a model as earlier versions recorded it, over what decides of the document as it was written."""
    decides = {key: value for key, value in card.document.items() if key not in _DESCRIBED_BEFORE}
    decides["labels"] = list(decides["labels"].items())
    return _hash([decides, sorted(hashes.values())])


def hash_as_written(card: ModelCard, hashes: Mapping[str, str]) -> str:
    """The hash of a model as versions up to 0.1 recorded it, over the whole document as it was written."""
    return hashlib.sha256(json.dumps([card.document, sorted(hashes.values())]).encode()).hexdigest()


def decisive(card: ModelCard) -> Document:
    """What of a card changes labels, in JSON's types: fields that have their default are left out.

    Of the members of an ensemble what its own card does not say of all of them. A field that comes later, with a
    default under which older cards mean what they meant, changes nothing here.
    """
    usual = _usual()
    return {key: value for key, value in _stated(card).items() if key not in usual or value != usual[key]}


@cache
def _usual() -> Document:
    """The same of the smallest card there can be."""
    smallest = {
        "format": FORMAT,
        "name": "smallest",
        "architecture": {"name": "smallest"},
        "channels": ["CT"],
        "patch_size": [1, 1, 1],
        "labels": {"background": 0},
    }
    return _stated(parse(smallest))


def _stated(card: ModelCard) -> Document:
    stated = {f.name: getattr(card, f.name) for f in fields(card) if f.name not in _DESCRIBES}
    stated["architecture"] = built(card.architecture)
    stated["interpolation"] = replace(card.interpolation, spacing=None)  # which the grid says
    stated["labels"] = [(label.id, label.name, label.pair) for label in card.labels]
    stated["members"] = [[built(m.architecture), m.slice_axis, m.half] for m in map(find, card.ensemble)]
    stated["first"] = decisive(previous_of(card)) if card.previous else None
    stated["mirror"] = sorted(card.mirror)
    made: Document = _plain(stated)
    if card.rough is not None:
        del made["rough"]["model"]
    return made


def built(architecture: Architecture) -> Document:
    """The class of a network and the arguments that are not its defaults; of an unknown network what the card says."""
    known = networks()
    name = architecture.name
    families = [family for family in known if name == family or name.startswith(f"{family}_")]
    if not families:
        return {"class": name, "arguments": _plain(architecture.arguments)}
    family = known[max(families, key=len)]
    given = _plain({**family["fixed"], **architecture.arguments})
    usual = _plain(family["defaults"])
    return {"class": family["class"], "arguments": {k: v for k, v in given.items() if k not in usual or v != usual[k]}}


@cache
def networks() -> Mapping[str, Document]:
    """segcli's own networks by family and by class: the class, its defaults, and what the family fixes of them.

    They are known without torch, from a file that this writes:

        python -m segcli.networks.registry > segcli/schemas/networks.json
    """
    text = (files("segcli") / "schemas" / "networks.json").read_text(encoding="utf-8")
    found: Mapping[str, Document] = json.loads(text)
    return found


def _plain(value: Content) -> Content:
    """A value as JSON has it, without fields that have their default; 3.0 is 3."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if is_dataclass(value):
        own = {f.name: getattr(value, f.name) for f in fields(value) if getattr(value, f.name) != f.default}
        return {"kind": type(value).__name__, **_plain(own)}
    if isinstance(value, msgspec.Struct):
        given = {f.name: (getattr(value, f.name), f.default) for f in msgspec.structs.fields(value)}
        return {"kind": type(value).__name__, **_plain({k: v for k, (v, usual) in given.items() if v != usual})}
    if isinstance(value, Mapping):
        return {str(key): _plain(own) for key, own in value.items()}
    return [_plain(own) for own in value] if isinstance(value, list | tuple) else value


def _hash(value: Content) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
