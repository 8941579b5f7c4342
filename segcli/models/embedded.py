"""The card inside safetensors and ONNX files, read without the libraries that write them."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from segcli.documents import Document, loads
from segcli.errors import ModelError
from segcli.formats.strangers import no_pointer

METADATA_KEY = "segcli"
_FIXED = {1: 8, 5: 4}  # bytes of a field, by the kinds that have always as many
_HEAD = 64  # bytes that tell a pointer to a file from the file


def card_inside(text: str, path: Path) -> Document:
    """The card that a file carries as JSON, not yet checked field by field.

    errors   ModelError (78): no JSON object
    """
    document = loads(text, f"{path.name}: the card inside")
    if not isinstance(document, dict):
        raise ModelError(f"{path.name}: the card inside is a JSON {type(document).__name__}, not an object with fields")
    return document


def safetensors_metadata(path: Path) -> dict[str, str]:
    """The strings in a safetensors header, read without the library: 8 bytes of length, then JSON."""
    with path.open("rb") as file:
        _no_pointer(file, path)
        length = int.from_bytes(file.read(8), "little")
        if length > min(path.stat().st_size, 100_000_000):
            raise ModelError(f"{path.name}: not a safetensors file, or truncated")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{path.name}: not a safetensors file: {error}") from error
    notes = header.get("__metadata__") if isinstance(header, dict) else None
    if not isinstance(notes, dict):
        return {}
    return {str(k): str(v) for k, v in notes.items()}


def onnx_metadata(path: Path) -> dict[str, str]:
    """metadata_props of an ONNX file, walked as protocol buffer fields so that no library has to be loaded.

    ModelProto field 14 is StringStringEntryProto {1: key, 2: value}; everything else is skipped.
    """
    out: dict[str, str] = {}
    with path.open("rb") as file:
        _no_pointer(file, path)
        size = path.stat().st_size
        if not size:
            raise ModelError(f"{path.name}: not an ONNX file, or truncated")
        while file.tell() < size:
            number, kind = divmod(_varint(file.read, path), 8)
            if kind == 0:
                _varint(file.read, path)
            elif kind in _FIXED:
                file.seek(_FIXED[kind], 1)
            elif kind == 2:
                length = _varint(file.read, path)
                if length > size - file.tell():
                    raise ModelError(f"{path.name}: not an ONNX file, or truncated")
                if number == 14 and length < 100_000_000:
                    entry = _strings(file.read(length), path)
                    out[entry.get(1, "")] = entry.get(2, "")
                else:
                    file.seek(length, 1)
            else:
                raise ModelError(f"{path.name}: not an ONNX file")
    return out


def is_export(path: Path) -> bool:
    """Whether an ONNX file has a card inside, as each network that segcli exports has."""
    with suppress(ModelError):
        return METADATA_KEY in onnx_metadata(path)
    return False


def _no_pointer(file: BinaryIO, path: Path) -> None:
    no_pointer(file.read(_HEAD), path.name, ModelError)
    file.seek(0)


def _varint(read: Callable[[int], bytes], path: Path) -> int:
    value = shift = 0
    while True:
        byte = read(1)
        if not byte or shift > 63:
            raise ModelError(f"{path.name}: not an ONNX file, or truncated")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
        shift += 7


def _strings(data: bytes, path: Path) -> dict[int, str]:
    position = 0

    def read(n: int) -> bytes:
        nonlocal position
        position += n
        return data[position - n : position]

    out: dict[int, str] = {}
    while position < len(data):
        number, kind = divmod(_varint(read, path), 8)
        if kind != 2:
            raise ModelError(f"{path.name}: not an ONNX file")
        out[number] = read(_varint(read, path)).decode("utf-8", "replace")
    return out
