"""Labels and what their names say: side, words, pairs; and which of them a user named."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from segcli.errors import ModelError, UsageError, near
from segcli.system import folded, is_device


@dataclass(frozen=True)
class Label:
    """One structure of a label map.

    id       its value in the map; 0 is background
    name     a text of one line in any script; snake_case in segcli's own models
    code     "SCT 10200004" (SNOMED CT), None when there is none
    colour   red, green, blue, 0..255
    pair     the name of the same structure on the other side, None for midline structures

    >>> segcli.Label(17, "left_hippocampus", "SCT 5366008", pair="right_hippocampus").colour
    (128, 128, 128)
    """

    id: int
    name: str
    code: str | None = None
    colour: tuple[int, int, int] = (128, 128, 128)
    pair: str | None = None


def chosen(labels: Sequence[Label], wanted: Iterable[str], option: str) -> list[Label]:
    """The labels that a user names by name, number or code ("SCT 10200004", or its last part), in their order.

    Large letters, and what stands between words, do not matter: "Third Ventricle" is third_ventricle. A name without a
    side means both: "hippocampus" is hippocampus_left and hippocampus_right. A pattern means all that it fits:
    "*ventricle*".

    option   of the command line, for the sentence
    errors   UsageError for what none has, with the nearest name
    """
    found: list[Label] = []
    for word in wanted:
        own = [label for label in labels if word in (label.name, str(label.id))][:1]
        own = own or [label for label in labels if label.code and word in (label.code, label.code.split()[-1])][:1]
        own = own or [label for label in structures(labels) if fnmatchcase(label.name, word)]
        own = own or [x for x in structures(labels) if words_of(word) in (words_of(x.name), _sideless(x.name))]
        if not own:
            names = [name for label in labels for name in (label.name, "_".join(_sideless(label.name))) if name]
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


_MASK_BYTES = 255 - len(".nii.gz")  # of a file's name; more than most disks take


def file_names(model: str, structures: Iterable[Label]) -> dict[str, int]:
    """Name of a file for each structure -> its number: letters and digits of any script in NFC, ".", "_" and "-".

    Names that a disk takes for one, without regard to case, end in "_" and the number of their structure. Those of
    devices of Windows (aux, con) begin with "_".

    errors   ModelError for a name that begins with a dot or has no such character
    """
    plain = {label.id: _file_name(model, label) for label in structures}
    return {name: id for id, name in told_apart(plain, _ended, folded).items()}


def told_apart(
    names: Mapping[int, str], ended: Callable[[str, str], str], alike: Callable[[str], str] = str
) -> dict[int, str]:
    """Names by their numbers, no two of which are alike: those that would be end in "_" and their number.

    ended    a name with an ending, cut before it where it would be too long
    alike    what is equal of two names that are taken for one
    """
    numbered = set[int]()
    while True:
        made = {id: ended(name, f"_{id}" if id in numbered else "") for id, name in names.items()}
        count = Counter(map(alike, made.values()))
        more = {id for id, name in made.items() if count[alike(name)] > 1} - numbered
        if not more:
            return made
        numbered |= more


def renamed(structures: Iterable[Label], called: Mapping[int, str], told: str) -> tuple[str, ...]:
    """A sentence that says which structures are called otherwise than in the card; none where all keep their names."""
    other = [f"{s.name} is {called[s.id]}" for s in structures if called[s.id] != unicodedata.normalize("NFC", s.name)]
    return (f"{told}: {', '.join(other)}",) if other else ()


def _file_name(model: str, label: Label) -> str:
    kept = unicodedata.normalize("NFC", label.name)
    name = _ended("".join(c if c in "._-" or unicodedata.category(c)[0] in "LMN" else "_" for c in kept), "")
    if name.startswith(".") or not name.strip("_"):
        told = f"no mask can be called {label.name!r}: it begins with a dot, or is empty"
        hint = "leave --split away, or give the structure another name in model.json"
        raise ModelError(f"{model}: {told}", hint=hint)
    return _ended(f"_{name}", "") if is_device(name) else name


def _ended(name: str, ending: str) -> str:
    """A name with an ending, cut before it between characters where it would be too long for a file."""
    return name.encode()[: _MASK_BYTES - len(ending)].decode(errors="ignore") + ending
