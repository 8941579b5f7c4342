"""Exports of models that ship weights alone: made once, kept in the user's cache."""

from __future__ import annotations

import contextlib
import hashlib
import json

from segcli.errors import SegcliError
from segcli.formats.atomic import whole_file
from segcli.models.card import ModelCard
from segcli.models.library import cache_home, file_sha256


def exported(card: ModelCard) -> tuple[bytes, str]:
    """The cached ONNX file of a card's weights, and a word on it for those who want more detail.

    Made, and compared with torch, where it is not there yet, and again where its bytes are not those that were made:
    their sha256 stands in a file beside it. Runs that make it at the same time write the same bytes under names of
    their own, and the last rename wins. A cache that cannot be written to changes nothing but the time of the next run.
    """
    path = cache_home() / "onnx" / f"{_key(card)}.onnx"
    known = path.with_suffix(".sha256")
    damaged = False
    with contextlib.suppress(OSError):
        data, wanted = path.read_bytes(), known.read_text(encoding="ascii", errors="replace").strip()
        damaged = hashlib.sha256(data).hexdigest() != wanted
        if not damaged:
            return data, ""
    from segcli.engines.export.graph import certified

    data = certified(card, {}, count=1)
    with contextlib.suppress(SegcliError, OSError):
        for place, content in ((path, data), (known, hashlib.sha256(data).hexdigest().encode())):
            with whole_file(place) as file:
                file.write(content)
    return data, f"{path}: was damaged and made anew" if damaged else f"{path}: made for this model"


def _key(card: ModelCard) -> str:
    """What an export depends on: sha256 over the card and the weights' bytes."""
    total = hashlib.sha256(json.dumps(card.document, sort_keys=True).encode())
    for name in card.weights:
        total.update(bytes.fromhex(file_sha256(card.file(name))))
    return total.hexdigest()
