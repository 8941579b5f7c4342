"""What the user says of DICOM objects, which scans they can refer to, and the day on which a picture is made."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, TypedDict

from segcli.errors import UsageError

if TYPE_CHECKING:
    from segcli.formats.dicom.objects import About
    from segcli.space.volume import Source


class Signed(TypedDict):
    """What each writer of DICOM objects takes beside the labels."""

    algorithm: str
    version: str
    about: About


@dataclass(frozen=True)
class Objects:
    """What is said in DICOM objects of themselves; see `formats.dicom.objects.About`."""

    description: str | None = None
    number: int | None = None
    dates: Literal["source", "now"] = "source"
    anonymous: bool = False

    def signed(self, algorithm: str, version: str) -> Signed:
        """With who made them: the model's name and hash."""
        from segcli.formats.dicom.objects import About

        moment = datetime.now() if self.dates == "now" else None  # local, as all times of a source without a zone
        about = About(self.description, self.number, moment, self.anonymous)
        return {"algorithm": algorithm, "version": version, "about": about}

    @property
    def choices(self) -> dict[str, str | int | bool | None] | None:
        """What a record has of it; None for the usual."""
        return None if self == Objects() else asdict(self)


def today() -> str:
    """The day on which a picture is made, 2026-01-31, in UTC, so that the time zone changes no byte.

    Where the environment has SOURCE_DATE_EPOCH, seconds since 1970 as of reproducible builds, they say the day.
    """
    seconds = epoch_of(os.environ.get("SOURCE_DATE_EPOCH", ""))
    return (datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)).date().isoformat()


def epoch_of(said: str) -> int | None:
    """Seconds since 1970 as SOURCE_DATE_EPOCH states them, up to the year 5138; None for any other text."""
    return int(said) if said.isascii() and said.isdecimal() and len(said) <= 11 else None


def refuse_unreferable(source: Source | None, kind: str) -> None:
    """Refuse a scan that no DICOM object of a kind can refer to; errors as of `referable`."""
    from segcli.formats.dicom.objects import referable

    if source is None or source.kind != "dicom":
        told = f"--write {kind}: a DICOM object refers to a DICOM scan, and this one is none"
        raise UsageError(told, hint="leave it away for such input")
    referable(source, "a DICOM object")
