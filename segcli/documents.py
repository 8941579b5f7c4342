"""What JSON, YAML and plans hold: objects with named fields, whose values are looked at where they are used."""

from __future__ import annotations

import codecs
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from segcli.errors import ModelError, SegcliError
from segcli.system import bytes_of

Content = Any  # what stands at a place of one, or in a pickle
Document = dict[str, Any]  # one that is being made, or was just read
Facts = Mapping[str, Any]  # one that is only read


def text_of(data: bytes) -> str:
    """Text that a person wrote: UTF-8, or as Windows writes it too, with a byte order mark before it, or in UTF-16.

    errors   UnicodeDecodeError: another encoding
    """
    return data.decode("utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig")


def loads(text: str | bytes, where: str) -> Content:
    """What a text in JSON says; bytes are read as `text_of` reads them.

    where    what the sentences call it
    errors   ModelError (78): no JSON, or an object that says two things under one name
    """

    def once(pairs: list[tuple[str, Content]]) -> Document:
        made = dict(pairs)
        if len(made) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ModelError(f"{where} has {shown(twice, repr)} twice in one object")
        return made

    try:
        return json.loads(text if isinstance(text, str) else text_of(text), object_pairs_hook=once)
    except SegcliError:
        raise
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{where} is not JSON: {error}") from error


def content_of(path: Path) -> Content:
    """What a JSON file says; None where there is none, or it cannot be read."""
    try:
        return json.loads(bytes_of(path))
    except (OSError, ValueError, RecursionError):
        return None


def shown(value: Content, how: Callable[[Content], str] = str) -> str:
    """The beginning of a value as a sentence can hold it, without characters that a terminal would obey."""
    try:
        text = how(value)
    except (RecursionError, ValueError):  # nested without end, or a whole number of thousands of digits
        return f"{type(value).__name__} beyond all bounds"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:60])


@contextmanager
def legible(what: str) -> Iterator[None]:
    """Refuse a description in which a field is missing or of another kind than those who write it give it."""
    try:
        yield
    except SegcliError:
        raise
    except KeyError as error:
        raise ModelError(f"{what}: the field {error} is missing") from error
    except (TypeError, ValueError, AttributeError, IndexError, ArithmeticError) as error:  # the last: 1e999 for a count
        raise ModelError(f"{what}: a field is of an unexpected kind: {error}") from error


def undented(part: Content) -> Content:
    """A JSON Schema whose descriptions have no indentation of the code, which some releases of msgspec leave in."""
    if isinstance(part, list):
        return [undented(one) for one in part]
    if not isinstance(part, dict):
        return part
    return {
        key: inspect.cleandoc(value) if key == "description" and isinstance(value, str) else undented(value)
        for key, value in part.items()
    }
