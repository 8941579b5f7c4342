"""Labels and what their names say: side, words, pairs; and which of them a user named."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from segcli.errors import ModelError, UsageError, near


@dataclass(frozen=True)
class Label:
    """One structure of a label map.

    id       its value in the map; 0 is background
    name     ASCII snake_case
    code     "SCT 10200004" (SNOMED CT), None when there is none
    colour   red, green, blue, 0..255
    pair     the name of the same structure on the other side, None for midline structures
    """

    id: int
    name: str
    code: str | None = None
    colour: tuple[int, int, int] = (128, 128, 128)
    pair: str | None = None


def chosen(labels: Sequence[Label], wanted: Iterable[str], option: str) -> list[Label]:
    """The labels that a user names by name, number or code ("SCT 10200004", or its last part), in their order.

    A name without a side means both: "hippocampus" is hippocampus_left and hippocampus_right. A pattern means all that
    it fits: "*ventricle*".

    option   of the command line, for the sentence
    errors   UsageError for what none has, with the nearest name
    """
    found: list[Label] = []
    for word in wanted:
        own = [label for label in labels if word in (label.name, str(label.id))][:1]
        own = own or [label for label in labels if label.code and word in (label.code, label.code.split()[-1])][:1]
        own = own or [label for label in structures(labels) if fnmatchcase(label.name, word)]
        own = own or [label for label in structures(labels) if _sideless(label.name) == words_of(word)]
        if not own:
            names = [label.name for label in labels]
            raise UsageError(f"{option} {word}: no structure has that name, number or code" + near(word, names))
        found += [label for label in own if label not in found]
    return found


def _sideless(name: str) -> list[str]:
    """The words of a name that states a side, without it; none where it states none."""
    return [word for word in words_of(name) if side_of(word) is None] if side_of(name) else []


def words_of(name: str) -> list[str]:
    """The words of a structure's name in lower case, between underscores, hyphens, dots and spaces."""
    return re.split(r"[_\-. ]+", name.lower())


def side_of(name: str) -> Literal["left", "right"] | None:
    """The side that a structure's name states: left, l or lh; right, r or rh."""
    words = words_of(name)
    if any(word in words for word in ("left", "l", "lh")):
        return "left"
    return "right" if any(word in words for word in ("right", "r", "rh")) else None


def structures(names: Iterable[Label]) -> list[Label]:
    """The labels without the background, in the order of their values."""
    return sorted((n for n in names if n.id != 0), key=lambda n: n.id)


_CHAMBER = re.compile(r"atri|heart|cardi|myocard|(?<!lateral.)ventricle")


_RIGHT = {"left": "right", "Left": "Right", "LEFT": "RIGHT", "lh": "rh", "LH": "RH", "l": "r", "L": "R"}


def named_pairs(names: Sequence[str]) -> list[tuple[str, str]]:
    """Names that differ in their side only: ("kidney_left", "kidney_right"), ("lh_cortex", "rh_cortex").

    Chambers of the heart are no pair: a mirrored heart has no left atrium where the right one was.
    """
    found = []
    for name in names:
        words = re.split(r"([_\-. ]+)", name)
        if side_of(name) == "left" and not _CHAMBER.search(name.lower()):
            other = "".join(_RIGHT.get(word, word) for word in words)
            if other in names:
                found.append((name, other))
    return found


def file_names(model: str, structures: Iterable[Label]) -> dict[str, int]:
    """Name of a file for each structure -> its number; only letters, digits, ".", "_" and "-" of a name are left.

    errors   ModelError for a name that is no file name, and for two that are one
    """
    found: dict[str, int] = {}
    for label in structures:
        name = re.sub(r"[^A-Za-z0-9._-]", "_", label.name)
        if name.startswith(".") or not name.strip("_") or name.lower() in map(str.lower, found):
            told = f"no mask can be called {label.name!r}: it begins with a dot, is empty, or another one has that name"
            hint = "leave --split away, or give the structure another name in model.json"
            raise ModelError(f"{model}: {told}", hint=hint)
        found[name] = label.id
    return found
