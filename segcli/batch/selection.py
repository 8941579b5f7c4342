"""Which of the scans that lie in what was named are meant: by patterns of paths, by BIDS's names, by DICOM series."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from segcli.errors import InputError, SegcliError
from segcli.formats import nifti
from segcli.formats.table import stem

if TYPE_CHECKING:
    from segcli.formats.dicom.series import Series

_SEVERAL = ("func", "dwi", "perf")  # the folders of a BIDS dataset whose images are series of volumes
# The folders of a BIDS dataset that a scan lies in, the last one called by the type of its data: sub-01/ses-1/pet.
DATASET = re.compile(r"(?:^|/)(?P<folders>sub-[^/]+/(?:ses-[^/]+/)?(?P<type>[a-z]+))\Z")


@dataclass(frozen=True)
class Selection:
    """What was asked for of many; nothing of a kind: all.

    series        numbers, names or UIDs of DICOM series, or "all"
    where         rules for DICOM series, as `dicom.rules.rules` reads them; several are alternatives
    include       patterns of paths below what was named, or of names; exclude: likewise, those that are not meant
    participants  labels of a BIDS dataset, with "sub-" or without; sessions: likewise with "ses-"; suffixes: T1w, ...
    """

    series: tuple[str, ...] = ()
    where: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    participants: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()

    @property
    def of_series(self) -> str | None:
        """What was asked for of DICOM series, in words; None where nothing was."""
        return ", ".join((*self.series, *self.where)) or None

    @property
    def of_paths(self) -> bool:
        """Whether anything was asked for of paths."""
        return bool(self.include or self.exclude or self.of_labels)

    @property
    def of_labels(self) -> bool:
        """Whether labels of a BIDS dataset were asked for."""
        return bool(self.participants or self.sessions or self.suffixes)

    def takes(self, below: PurePosixPath) -> bool:
        """Whether a path below what was named is meant."""

        def fits(patterns: Sequence[str]) -> bool:
            return any(fnmatch.fnmatchcase(text, p) for p in patterns for text in (str(below), below.name))

        return (not self.include or fits(self.include)) and not fits(self.exclude) and self._in_bids(below)

    def _in_bids(self, below: PurePosixPath) -> bool:
        """Whether the entities of a name are those that were asked for."""
        parts = stem(Path(below.name)).split("_")
        entities = dict(part.split("-", 1) for part in parts if "-" in part)
        for key, wanted in (("sub", self.participants), ("ses", self.sessions)):
            if wanted and entities.get(key) not in {label.removeprefix(f"{key}-") for label in wanted}:
                return False
        return not self.suffixes or parts[-1] in self.suffixes

    def chosen(self, there: Sequence[Series], name: str) -> list[Series]:
        """The series of a place that are meant.

        errors   InputError: one that was named is not there, or none fits the rules; what there is
        """
        from segcli.formats.dicom import series as dicom
        from segcli.formats.dicom.rules import fit, rules

        listed = f"choose one: {'; '.join(s.line() for s in there)}"
        named = set[int]()
        for wanted in self.series:
            found = {i for i, s in enumerate(there) if wanted == "all" or dicom.matches(s, wanted)}
            if there and not found:
                raise InputError(f"{name}: no series called {wanted}", hint=listed)
            named |= found
        where = [rules(text) for text in self.where]
        kept = [s for i, s in enumerate(there) if (not self.series or i in named) and fit(s.files[0], where)]
        if there and not kept:
            raise InputError(f"{name}: no series fits --where {' or '.join(self.where)}", hint=listed)
        return kept


def without_time_series(found: Sequence[Path], tell: Callable[[str], object]) -> list[Path]:
    """The files without the NIfTI files of several volumes in BIDS's folders func, dwi and perf; they are counted."""
    kept = [path for path in found if not _is_time_series(path)]
    if len(kept) < len(found):
        tell(f"{len(found) - len(kept)} images of several volumes in func, dwi or perf are left out")
    return kept


def _is_time_series(path: Path) -> bool:
    match = DATASET.search(path.parent.absolute().as_posix())
    if match is None or match["type"] not in _SEVERAL:
        return False
    try:
        return nifti.time_points(path) > 1
    except (SegcliError, OSError):  # what cannot be read is refused by its own reading
        return False
