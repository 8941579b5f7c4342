"""The folder of a model that is made of models: a card alone, whose parts lie beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

from segcli.documents import Facts
from segcli.errors import ModelError, OutputExists
from segcli.models.card import CARD_FILE, ModelCard, parse
from segcli.models.imports import written
from segcli.models.library import parts_of

# Fields of the first part's card that are its own: its files, and what is said of its labels.
_OWN = (
    "weights", "sha256", "onnx", "onnx_sha256", "engines", "regions", "after", "codes", "colours", "pairs",
    "not_scored", "volumes_ml", "volumes_by_size", "volumes_source", "centroids_mm", "checks", "ensemble",
    "ensemble_average", "notes", "after_at", "rough",
)  # fmt: skip


def unclaimed(folder: Path, *, replace: bool) -> None:
    """Refuse a name that is taken; with `replace` a card of a model of parts, and nothing else, gives way.

    errors   OutputExists (73)
    """
    written.unclaimed(folder, replace=True)
    if folder.exists() and [path.name for path in folder.iterdir()] != [CARD_FILE]:
        raise OutputExists(
            f"{folder} is there already, and has a network of its own", hint="choose another --name, or move it away"
        )
    written.unclaimed(folder, replace=replace)


def write(
    name: str,
    structures: Sequence[str],
    parts: Sequence[ModelCard],
    place: Path,
    *,
    fields: Facts = MappingProxyType({}),
    replace: bool,
) -> Path:
    """The folder of a model of parts that lie in `place`, its structures numbered from 1 in their order.

    Structures are called as the parts call them, whose names were perhaps written small when they were imported.
    What a card needs beside its labels (channels, grid, windows) is the first part's, and says what `plan` and the
    checks of a scan start from; each part keeps its own.

    fields   of the card beside those
    errors   ModelError (78): a structure that no part labels; OutputExists (73)
    """
    named = {label.name.casefold(): label.name for part in parts for label in part.structures}
    if lacking := [structure for structure in structures if structure.casefold() not in named]:
        raise ModelError(f"{name}: none of its parts labels {lacking[0]}")
    first = {key: value for key, value in parts[0].document.items() if key not in _OWN}
    document = {
        **first,
        "name": name,
        "architecture": {"name": "parts"},
        "labels": {"background": 0, **{named[structure.casefold()]: i for i, structure in enumerate(structures, 1)}},
        "parts": [part.name for part in parts],
        **fields,
    }
    folder = place / name
    unclaimed(folder, replace=replace)
    parts_of(parse(document, folder))
    with written.whole_folder(folder, replace=replace) as temporary:
        written.write_card(document, temporary)
    return folder
