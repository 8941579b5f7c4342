"""The configuration of a MONAI bundle, JSON or YAML: literals are read, references followed, nothing is evaluated.

Values that begin with "$" are Python. Of those references and literals are read ("$@network_def",
"$@bundle_root + '/models/model.pt'", "$len(@labels)"); the rest is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePath

from segcli.documents import Content, Document, Facts, legible, text_of
from segcli.errors import ModelError
from segcli.models.imports.bundle_literals import Unsaid, said
from segcli.models.imports.source import object_of

_ENDINGS = (".json", ".yaml", ".yml")
# What inference is run with; where there is no file for that, evaluation is training with some entries changed.
_CONFIGS = (("inference",), ("train", "evaluate"))
_DEPTH = 20  # of references to references
_MOST = 100_000  # values that a configuration may unfold to; the largest of MONAI's has a few hundred


class Unknown:
    """A value that only running Python would tell."""

    def __init__(self, text: str) -> None:
        self.text = text


class References:
    """A configuration whose references are followed; what would have to be evaluated becomes Unknown.

    Understood: "@id", "@id::sub" and "@id#sub", the same with "%" (MONAI's copies), and "$" with what
    `bundle_literals` knows: literals, their sums, lengths and choices, and references among them.
    """

    def __init__(self, config: Facts) -> None:
        self.config = config
        self._left = _MOST

    def get(self, *names: str) -> Content:
        """The entry of the first of several ids that is there, None without one."""
        for name in names:
            if not isinstance(found := self._followed(name, _DEPTH), Unknown) or name in self.config:
                return found
        return None

    def resolve(self, value: Content, depth: int = _DEPTH) -> Content:
        """A value with its references followed.

        errors   ModelError where references to references unfold without end
        """
        self._left -= 1
        if self._left < 0:
            raise ModelError(f"the bundle's references unfold to more than {_MOST} values: not allowed")
        if depth == 0:
            return Unknown("references that go round in a circle")
        if isinstance(value, dict):
            return {k: self.resolve(v, depth - 1) for k, v in value.items()}
        if isinstance(value, list):
            return [self.resolve(v, depth - 1) for v in value]
        if not isinstance(value, str):
            return value
        if value.startswith(("@", "%")):
            return self._followed(value[1:], depth - 1)
        if not value.startswith("$"):
            return value
        return self._said(" ".join(value[1:].split()), depth)

    def _said(self, text: str, depth: int) -> Content:
        """What a "$" text says by its literals and references; it is never evaluated."""
        known: dict[str, Content] = {}

        def name(match: re.Match[str]) -> str:
            name = f"_{len(known)}"
            known[name] = self._followed(match[0][1:], depth - 1)
            return name

        named = re.sub(_ID, name, text)
        told = {name: value for name, value in known.items() if not isinstance(value, Unknown)}
        try:
            return known[named] if named in known else said(named, told)
        except Unsaid:
            return Unknown(text)

    def _followed(self, name: str, depth: int) -> Content:
        place: Content = self.config
        for part in re.split(r"#|::", name):
            if isinstance(place, str):  # an entry that is itself a reference
                place = self.resolve(place, depth)
            if isinstance(place, dict) and part in place:
                place = place[part]
            elif isinstance(place, list) and part.isdecimal() and int(part) < len(place):
                place = place[int(part)]
            else:
                return Unknown(f"@{name}")
        return self.resolve(place, depth)


_ID = r"@[A-Za-z_]\w*(?:(?:#|::)\w+)*"


def is_bundle(folder: Path) -> bool:
    """Whether a folder has the configuration of a bundle, or says in its metadata that it is one."""
    return any(files(folder / "configs", (name,)) for names in (*_CONFIGS, ("metadata",)) for name in names)


def configuration(folder: Path, wanted: str | None = None) -> tuple[References, list[str]]:
    """The configuration that inference is run with, of one file or of several laid over each other.

    wanted   the name of one of several files, with or without its ending
    returns  and a sentence about other files for inference, where none was asked for
    """
    others = sorted(p.name for p in folder.glob("inference*") if p.suffix in _ENDINGS)
    if wanted is not None:
        name = wanted.removesuffix(next((end for end in _ENDINGS if wanted.endswith(end)), ""))
        if PurePath(name).name == name and (found := files(folder, (name,))):
            return References(merged(found)), []
        raise ModelError(f"{folder.parent.name}: has no configs/{wanted}", hint=f"there are: {', '.join(others)}")
    for names in _CONFIGS:
        if found := files(folder, names):
            also = ", ".join(name for name in others if Path(name).stem != "inference")
            said = [f"configs/{found[0].name} is taken; there is also {also} (--config)"] if also else []
            return References(merged(found)), said
    raise ModelError(f"{folder.parent.name}: has no configs/inference.json (or .yaml)")


def files(folder: Path, names: Sequence[str]) -> list[Path]:
    """The files of these names, JSON before YAML where there are both."""
    found = [[folder / f"{name}{ending}" for ending in _ENDINGS] for name in names]
    return [next(p for p in paths if p.is_file()) for paths in found if any(p.is_file() for p in paths)]


def merged(paths: Sequence[Path]) -> Document:
    """Entries of several files: a later one replaces an earlier one, at "a::b" in a; "+a" adds to a (as MONAI has it).

    errors   ModelError for a file that cannot be read
    """
    merged: Document = {}
    for path in paths:
        with legible(path.name):
            found = object_of(path) if path.suffix == ".json" else object_of(path, "YAML", _yaml)
            for key, value in found.items():
                *places, last = re.split(r"#|::", key.removeprefix("+"))
                inside: Content = merged
                for part in places:
                    inside = inside[int(part)] if isinstance(inside, list) else inside.setdefault(part, {})
                at: Content = int(last) if isinstance(inside, list) else last
                old = inside[at] if isinstance(inside, list) else inside.get(at)
                if key.startswith("+") and isinstance(old, dict) and isinstance(value, dict):
                    inside[at] = {**old, **value}
                elif key.startswith("+") and isinstance(old, list) and isinstance(value, list):
                    inside[at] = [*old, *value]
                else:
                    inside[at] = value
    return merged


def _yaml(data: bytes) -> Content:
    """The JSON that a YAML document says, as MONAI reads it: yes, no, on and off are booleans.

    errors   ValueError: not YAML, or with a tag that would make a Python object
    """
    import yaml

    try:
        found = yaml.safe_load(text_of(data))
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    left = _MOST

    def plain(value: Content) -> Content:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError(f"its aliases unfold to more than {_MOST} values: not allowed")
        if isinstance(value, dict):
            return {str(k): plain(v) for k, v in value.items()}  # YAML's 0: is JSON's "0":
        if isinstance(value, list):
            return [plain(v) for v in value]
        if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", value):
            return float(value)  # YAML 1.1 takes 1e-5 for a text
        return value if value is None or isinstance(value, str | int | float) else str(value)  # a date, a set

    return plain(found)
