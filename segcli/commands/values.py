"""How the words of options become values."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal, TypeVar

from segcli.engines.precision import PRECISIONS, Precision
from segcli.errors import UsageError, near

if TYPE_CHECKING:
    from collections.abc import Sequence

    from segcli.formats import Form

Chosen = TypeVar("Chosen")

_LEAST = 16 << 20  # bytes: the smallest limit of memory that is taken for one that was meant


def several(*values: str) -> tuple[str, ...]:
    """The parts between commas, without spaces around them."""
    return tuple(part.strip() for value in values for part in value.split(",") if part.strip())


def choice(option: str, value: object, choices: tuple[Chosen, ...]) -> Chosen:
    """The value, which is one of the choices; UsageError with the nearest one otherwise."""
    for known in choices:
        if known == value:
            return known
    words = [str(word) for word in choices if word]
    raise UsageError(f"{option} {value}: is not one of {', '.join(words)}{near(str(value), words)}")


def engine_named(name: str) -> str:
    """auto, or the name of an engine that there is."""
    from segcli.engines.table import engines

    return choice("--engine", name, ("auto", *engines()))


def precision_named(word: str) -> Precision:
    """What --precision names."""
    found: Precision = choice("--precision", word, PRECISIONS)
    return found


def all_choices(option: str, values: tuple[str, ...], choices: tuple[str, ...]) -> tuple[str, ...]:
    """The values, each of which is one of the choices."""
    for value in values:
        choice(option, value, choices)
    return values


def averaged(text: str | None) -> Literal["logits", "probabilities"] | None:
    """What --average names."""
    return choice("--average", text, (None, "logits", "probabilities"))


def form(affine: str | None) -> Form | None:
    """What counts in a NIfTI header."""
    return choice("--affine", affine, (None, "sform", "qform", "pixdim"))


def named_channels(texts: Sequence[str] | None) -> dict[str, str]:
    """Channel -> file."""
    found: dict[str, str] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UsageError(f"--channel {text}: is not of the form NAME=FILE")
        if name.lower() in map(str.lower, found):
            raise UsageError(f"--channel {name}: is given twice", hint="several scans of one channel are inputs")
        found[name] = value
    return found


def size(option: str, text: str | None) -> int | None:
    """4G, 500M, 4GiB: powers of 1024; UsageError for less than anything runs in, as of a number without its unit."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", text.strip(), re.IGNORECASE)
    if not match:
        raise UsageError(f"{option} {text}: is not a size such as 4G or 500M")
    found = int(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " "))
    if found < _LEAST:
        hint = f"{option} {match[1]}GB?" if found and not match[2] else f"such as {option} 4GB"
        raise UsageError(f"{option} {text}: is {found:,} bytes, in which nothing can run", hint=hint)
    return found
