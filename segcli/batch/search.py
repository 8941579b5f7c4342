"""How the places that a person named are searched for scans."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from segcli.batch.selection import Selection

Tell = Callable[[str], object]


@dataclass(frozen=True)
class Search:
    """What is looked for, and how; each field as `cases.cases` takes it."""

    channels: Sequence[str]
    select: Selection
    volume: int | None
    output: Path | None
    label_maps: bool
    tell: Tell
