"""What a page or a picture of a case says at its beginning: which label map it shows, and whether the scan under it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import quote, unquote

from segcli.documents import Facts

NAME = "segcli-shown"  # of the element in a page, and of the text in a PNG
_MARK = re.compile(NAME.encode() + rb"[^a-z]{1,3}(?:content=\")?(scan|labels) ([0-9a-f]{64}) ([\w.~%-]*);")


@dataclass(frozen=True)
class Shown:
    """A label map by its name without folders and the sum of its bytes; without `scan` it lies on black."""

    file: str
    sha256: str
    scan: bool

    def __str__(self) -> str:
        return f"{'scan' if self.scan else 'labels'} {self.sha256} {quote(self.file, safe='')};"


def shown_by(facts: Facts, *, scan: bool) -> Shown | None:
    """What is shown of a record's label map; None where the record names none."""
    labels = facts.get("labels") or {}
    return Shown(str(labels["file"]), str(labels["sha256"]), scan) if {"file", "sha256"} <= {*labels} else None


def shown_in(head: bytes) -> Shown | None:
    """What a file that begins with these bytes says that it shows; None where it says nothing."""
    found = _MARK.search(head)
    return Shown(unquote(found[3].decode()), found[2].decode(), found[1] == b"scan") if found else None
