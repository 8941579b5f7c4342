"""What the user says of the DICOM objects that are made, and of their date, which pictures have too."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal, TypedDict

if TYPE_CHECKING:
    from segcli.formats.dicom.objects import About


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

        moment = datetime.now() if self.dates == "now" else None  # local, as all times of an object without a zone
        about = About(self.description, self.number, moment, self.anonymous)
        return {"algorithm": algorithm, "version": version, "about": about}

    @property
    def day(self) -> str:
        """The day of the run, 2026-01-31, for a picture; "" unless it is wanted: equal runs make equal bytes."""
        return datetime.now().date().isoformat() if self.dates == "now" else ""

    @property
    def choices(self) -> dict[str, str | int | bool | None] | None:
        """What a record has of it; None for the usual."""
        return None if self == Objects() else asdict(self)
