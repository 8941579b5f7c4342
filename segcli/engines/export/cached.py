"""Exports of models that ship weights alone: made once, kept in the user's cache."""

from __future__ import annotations

import contextlib
import hashlib
import json

from segcli.errors import OutputError
from segcli.formats.atomic import whole_file
from segcli.models.card import ModelCard
from segcli.models.library import cache_home, file_sha256


def exported(card: ModelCard) -> bytes:
    """The cached ONNX file of a card's weights; made, and compared with torch, where it is not there yet.

    Runs that make it at the same time write the same bytes under names of their own, and the last rename wins. A
    cache that cannot be written to changes nothing but the time of the next run.
    """
    path = cache_home() / "onnx" / f"{_key(card)}.onnx"
    with contextlib.suppress(OSError):
        return path.read_bytes()
    from segcli.engines.export.graph import certified

    data = certified(card, {}, count=1)
    with contextlib.suppress(OutputError, OSError), whole_file(path) as file:
        file.write(data)
    return data


def _key(card: ModelCard) -> str:
    """What an export depends on: sha256 over the card and the weights' bytes."""
    total = hashlib.sha256(json.dumps(card.document, sort_keys=True).encode())
    for name in card.weights:
        total.update(bytes.fromhex(file_sha256(card.file(name))))
    return total.hexdigest()
