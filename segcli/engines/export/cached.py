"""Exports of models that ship weights alone: made once, kept in the user's cache."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from segcli.errors import SegcliError, cause_of
from segcli.formats.atomic import whole_file
from segcli.models.card import ModelCard
from segcli.models.library import cache_home, file_sha256, find, previous_of
from segcli.parallel import cores
from segcli.system import bytes_of


def exported(card: ModelCard, sums: Mapping[str, str]) -> tuple[bytes, str]:
    """The cached ONNX file of a card's weights, and a word on it for those who want more detail.

    Made, and compared with torch on all cores, where it is not there yet, and again where its bytes are not those that
    were made: their sha256 stands in a file beside it. Runs that make it at the same time write under names of their
    own, the same bytes where they may use as many cores, and the last rename wins. A cache that cannot be written to
    changes nothing but the time of the next run.
    """
    path = export_path(card, sums)
    known = path.with_suffix(".sha256")
    damaged = False
    with contextlib.suppress(OSError):
        data, wanted = bytes_of(path), bytes_of(known).decode("ascii", "replace").strip()
        damaged = hashlib.sha256(data).hexdigest() != wanted
        if not damaged:
            return data, ""
    from segcli.engines.export.graph import certified

    data = certified(card, {}, count=1, threads=cores())
    try:
        for place, content in ((path, data), (known, hashlib.sha256(data).hexdigest().encode())):
            with whole_file(place) as file:
                file.write(content)
    except (SegcliError, OSError) as error:
        return data, f"{path}: made for this run alone, for it cannot be kept: {cause_of(error)}"
    return data, f"{path}: was damaged and made anew" if damaged else f"{path}: made for this model"


def sums_of(card: ModelCard) -> dict[str, str]:
    """The weights' files of a card by name, and the sha256 of their bytes."""
    return {name: file_sha256(card.file(name)) for name in card.weights}


def hashes_before(card: ModelCard, hashes: Mapping[str, str]) -> dict[str, str]:
    """What earlier versions reported of a run on cached exports: the sums of these, in place of the weights'."""
    made = dict(hashes)
    members = {f"{name}/": find(name) for name in card.ensemble} or {"": card}
    if card.previous:
        members[f"{card.previous}/"] = previous_of(card)
    for inside, own in members.items():
        sums = {name: hashes[inside + name] for name in own.weights if inside + name in hashes}
        known = export_path(own, sums).with_suffix(".sha256")
        with contextlib.suppress(OSError):
            if len(sums) == len(own.weights):
                total = bytes_of(known).decode("ascii", "replace").strip()
                gone = {inside + name for name in sums}
                made = {**{name: one for name, one in made.items() if name not in gone}, inside: total}
    return made


def export_path(card: ModelCard, sums: Mapping[str, str]) -> Path:
    """The file of an export, named by what it depends on: sha256 over the card and the weights' bytes."""
    total = hashlib.sha256(json.dumps(card.document, sort_keys=True).encode())
    for digest in sums.values():
        total.update(bytes.fromhex(digest))
    return cache_home() / "onnx" / f"{total.hexdigest()}.onnx"
