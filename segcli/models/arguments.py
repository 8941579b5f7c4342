"""What a card may give to the constructor of a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from segcli.documents import shown

_LARGEST = 1_000_000  # no network has a size beyond it
_DEPTH = 8  # of lists and objects inside one another


def no_argument(value: Any, depth: int = 0) -> str | None:
    """Why a value can be no argument of a network; None where it can."""
    if isinstance(value, bool | str) or value is None:
        return None
    if isinstance(value, int | float):
        fits = -_LARGEST <= value <= _LARGEST  # NaN is not within
        return None if fits else f"has the number {shown(value)}, not one from -{_LARGEST} to {_LARGEST}"
    if depth == _DEPTH:
        return f"has lists and objects more than {_DEPTH} deep"
    inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else None
    if inside is None:
        return f"has {shown(value, repr)}, which JSON does not have"
    return next((said for own in inside if (said := no_argument(own, depth + 1))), None)
