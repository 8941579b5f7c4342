"""What JSON, YAML and plans hold: objects with named fields, whose values are looked at where they are used."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

Content = Any  # what stands at a place of one, or in a pickle
Document = dict[str, Any]  # one that is being made, or was just read
Facts = Mapping[str, Any]  # one that is only read


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
