"""A model of models as a folder: one ONNX file for each network, its card inside, and one card for all of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from segcli.documents import Document
from segcli.errors import ModelError
from segcli.models.card import ModelCard
from segcli.models.imports import written
from segcli.models.library import file_sha256, parts_of, previous_of, rough_of

_FILES = ("weights", "sha256", "onnx", "onnx_sha256", "ensemble")
Export = Callable[[ModelCard, Path], Document]  # writes a card's network to a file, and gives its certificate


def export_folder(card: ModelCard, folder: Path, export: Export) -> dict[str, Document]:
    """Write the networks of a model, of its parts, its rough models and a cascade's first, and the model's card.

    The folder is a model: `--model FOLDER`. A rough model of parts has a folder of its own inside it.

    returns  the certificate of each file, by its path in the folder
    errors   ModelError (78): not exportable, or two networks of one name; OutputExists (73): the folder is there
    """
    made: dict[str, Document] = {}
    with written.whole_folder(folder, replace=False) as temporary:
        _all(card, temporary, export, made, "")
    return made


def file_of(name: str) -> str:
    """The file of a model's network; the name comes from a card."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name) + ".onnx"


def _all(card: ModelCard, place: Path, export: Export, made: dict[str, Document], inside: str) -> None:
    """A model's card in a folder of its own, with its networks beside it."""
    if card.parts:
        parts = [_network(part, place, export, made, inside) for part in parts_of(card)]
        document = {**_before(card, place, export, made, inside), "parts": parts}
    else:
        name = _network(card, place, export, made, inside)
        kept = {k: v for k, v in _before(card, place, export, {}, inside).items() if k not in _FILES}
        document = {**kept, "onnx": name, "onnx_sha256": file_sha256(place / name)}
    written.write_card(document, place)


def _network(card: ModelCard, place: Path, export: Export, made: dict[str, Document], inside: str) -> str:
    """A card's network as a file in a folder, and its name."""
    name = file_of(card.name)
    if (place / name).exists():
        raise ModelError(f"two networks are called {card.name}: they cannot be files of one folder")
    document = _before(card, place, export, made, inside)
    made[inside + name] = export(replace(card, document=document), place / name)
    return name


def _before(card: ModelCard, place: Path, export: Export, made: dict[str, Document], inside: str) -> Document:
    """Write a cascade's first model and a card's rough model into the folder; the card's document, with their names."""
    document = dict(card.document)
    if card.previous is not None:
        earlier = previous_of(card)
        document["previous"] = file_of(earlier.name)
        if not (place / document["previous"]).exists():
            _network(earlier, place, export, made, inside)
    rough = rough_of(card)
    if rough is None:
        return document
    name = file_of(rough.name)
    if rough.parts:
        name = name.removesuffix(".onnx")
        if not (place / name).exists():
            (place / name).mkdir()
            _all(rough, place / name, export, made, f"{inside}{name}/")
    elif not (place / name).exists():
        _network(rough, place, export, made, inside)
    return {**document, "rough": {**card.document["rough"], "model": name}}
