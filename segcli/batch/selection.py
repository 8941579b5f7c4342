"""Which of the scans that lie in what was named are meant: by patterns of paths, by BIDS's names, by DICOM series."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from segcli.errors import InputError, SegcliError, first_few
from segcli.formats import nifti
from segcli.formats.table import stem

if TYPE_CHECKING:
    from segcli.formats.dicom.search import Series

_SHOWN = 8  # labels of a kind that a refusal names
_FEW = 3  # names of files in a sentence
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
    def labels(self) -> dict[str, set[str]]:
        """What was asked for of a BIDS dataset, by the options that ask."""
        return {
            "--participant-label": {label.removeprefix("sub-") for label in self.participants},
            "--session-label": {label.removeprefix("ses-") for label in self.sessions},
            "--suffix": set(self.suffixes),
        }

    @property
    def of_labels(self) -> bool:
        """Whether anything was asked for of a BIDS dataset."""
        return any(self.labels.values())

    @property
    def of_paths(self) -> bool:
        """Whether anything was asked for of paths."""
        return bool(self.include or self.exclude or self.of_labels)

    def takes(self, below: PurePosixPath) -> bool:
        """Whether a path below what was named is meant."""

        def fits(patterns: Sequence[str]) -> bool:
            return any(fnmatch.fnmatchcase(text, p) for p in patterns for text in (str(below), below.name))

        return (not self.include or fits(self.include)) and not fits(self.exclude) and self._in_bids(below)

    def _in_bids(self, below: PurePosixPath) -> bool:
        """Whether the entities of a name are those that were asked for."""
        said = labels_of(below.name)
        return all(said[option] in wanted for option, wanted in self.labels.items() if wanted)

    def instead(self, there: Sequence[Path]) -> str:
        """What to do where none of the files fits: the labels that there are, for the options that were used."""
        if not self.of_labels:
            return "check the patterns"
        known = {option: sorted({labels_of(path.name)[option] for path in there} - {""}) for option in self.labels}
        found = "; ".join(
            f"{option} {', '.join(labels[:_SHOWN])}{', ...' * (len(labels) > _SHOWN)}"
            for option, labels in known.items()
            if self.labels[option] and labels
        )
        return f"there are {found}" if found else "its files are not called as BIDS calls them"

    def lacking(self, meant: Sequence[Path]) -> list[str]:
        """Sentences about labels that were asked for of a BIDS dataset and that none of the files that fit has."""
        said = [labels_of(path.name) for path in meant]
        return [
            f"no image that fits what was asked for has {option} {label}"
            for option, wanted in self.labels.items()
            for label in sorted(wanted - {labels[option] for labels in said})
        ]

    def chosen(self, there: Sequence[Series], name: str) -> list[Series]:
        """The series of a place that are meant.

        errors   InputError: one that was named is not there, or none fits the rules; what there is
        """
        from segcli.formats.dicom import search as dicom
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


def labels_of(name: str) -> dict[str, str]:
    """What the name of a file of a BIDS dataset says, by the option that asks for it; nothing where it says nothing."""
    parts = stem(Path(name)).split("_")
    entities = dict(part.split("-", 1) for part in parts if "-" in part)
    return {
        "--participant-label": entities.get("sub", ""),
        "--session-label": entities.get("ses", ""),
        "--suffix": parts[-1],
    }


def without_time_series(found: Sequence[Path], tell: Callable[[str], object]) -> list[Path]:
    """The files without the NIfTI files of several volumes in BIDS's folders func, dwi and perf; they are told."""
    left = [path for path in found if _is_time_series(path)]
    if left:
        number, verb = ("1 image", "is") if len(left) == 1 else (f"{len(left)} images", "are")
        names = first_few([path.name for path in left], _FEW)
        tell(f"{number} of several volumes in func, dwi or perf {verb} left out: {names}")
    others = set(left)
    return [path for path in found if path not in others]


def _is_time_series(path: Path) -> bool:
    match = DATASET.search(path.parent.absolute().as_posix())
    if match is None or match["type"] not in _SEVERAL:
        return False
    try:
        return nifti.time_points(path) > 1
    except (SegcliError, OSError):  # what cannot be read is refused by its own reading
        return False
