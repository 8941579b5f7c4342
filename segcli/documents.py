"""What JSON, YAML and plans hold: objects with named fields, whose values are looked at where they are used."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import msgspec

Content = Any  # what stands at a place of one, or in a pickle
Document = dict[str, Any]  # one that is being made, or was just read
Facts = Mapping[str, Any]  # one that is only read


def json_schema(kind: Any) -> Document:
    """The JSON Schema of a type; its docstrings stand in it without the indentation of the code, by any msgspec."""

    def cleaned(part: Content) -> Content:
        if isinstance(part, list):
            return [cleaned(one) for one in part]
        if not isinstance(part, dict):
            return part
        return {
            key: inspect.cleandoc(value) if key == "description" and isinstance(value, str) else cleaned(value)
            for key, value in part.items()
        }

    made: Document = cleaned(msgspec.json.schema(kind))
    return made
