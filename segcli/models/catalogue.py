"""Public models by name: what they label, their licence, and where their authors say that they lie.

The lists are data (`catalogue/*.json` in each place where models are looked for). Nothing in them was tried against the
servers that they name: an address is a claim of its source, and what comes from it is checked when it is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from segcli.documents import Facts, legible, loads
from segcli.errors import ModelError, near
from segcli.formats.streams import bytes_of
from segcli.models.library import places

# Licences that ask for nothing but to be named; every other one is accepted by the user or not at all.
OPEN = ("Apache-2.0", "MIT", "BSD-2-Clause", "BSD-3-Clause", "CC0", "CC BY 3.0", "CC BY 4.0")


@dataclass(frozen=True)
class File:
    """One file of a model.

    addresses  mirrors of the same bytes, in the order in which they are tried
    folder     how an installation of its authors' program calls it, where no address says so
    sum        "sha256:..." or "sha1:..." as the source states it; None where it states none
    place      where it lies in the one folder that all files of the model make; empty for a file that is a model
    """

    addresses: tuple[str, ...]
    sum: str | None = None
    folder: str = ""
    place: str = ""


@dataclass(frozen=True)
class Entry:
    """A public model.

    structures  names of its labels without the background; empty where the source does not list them; in their order
                where its files make one folder
    options     of `segcli models import`, as it needs them for this file
    chosen      which of several of nnU-Net's models: trainer, plans, configuration, folds
    around      the program around the network: "totalsegmentator" samples scans as TotalSegmentator does, "lps" turns
                them so that i, j, k point left, backwards and up, "ras" right, forwards and up (MOOSE since 3.1, of
                which the list's weights are; before it, they pointed left, forwards and up)
    card        fields of its card that neither the file nor an option states
    by_hand     how to get it where segcli cannot fetch it
    parts       ids of models of the catalogue that it is made of, in place of files of its own
    lacks       what it needs that segcli does not run; empty for a model that can be used
    network     its family, as `segcli models networks` calls it; empty where it is not known
    """

    id: str
    title: str
    modality: str
    structures: tuple[str, ...]
    licence: str
    citation: str
    source: str
    files: tuple[File, ...] = ()
    chosen: Facts = field(default_factory=dict)
    options: Facts = field(default_factory=dict)
    around: str = ""
    card: Facts = field(default_factory=dict)
    spacing_mm: tuple[float, ...] = ()
    parts: tuple[str, ...] = ()
    by_hand: str = ""
    lacks: str = ""
    network: str = ""

    @property
    def rough(self) -> str | None:
        """The model of the catalogue that finds where this one looks."""
        return self.card["rough"]["model"] if "rough" in self.card else None

    @property
    def laid_out(self) -> bool:
        """Whether its files make one folder together, as its authors' program has it."""
        return any(file.place for file in self.files)

    @property
    def open(self) -> bool:
        """Whether the licence asks for nothing but to be named."""
        return self.licence in OPEN

    @property
    def way(self) -> str:
        """How one gets it, or why it cannot be used, as a sentence for the user."""
        if self.lacks:
            return f"not yet: {self.lacks}"
        return self.by_hand or f"`segcli models get {self.id}` fetches it"


@cache
def entries() -> Mapping[str, Entry]:
    """Every model of the catalogue by its id; a list in an earlier place wins over a later one's.

    errors   ModelError (78): a list that is damaged
    """
    found: dict[str, Entry] = {}
    for place in places():
        for path in sorted((place / "catalogue").glob("[!.]*.json")):
            with legible(str(path)):
                document = loads(bytes_of(path, ModelError), str(path))
                for raw in document["models"]:
                    entry = _entry({"network": document.get("network", ""), **raw}, document["source"])
                    found.setdefault(entry.id, entry)
    return found


def entry(name: str) -> Entry:
    """The entry of a name; errors: ModelError (78) with the nearest one."""
    known = entries()
    if name not in known:
        raise ModelError(
            f"no model {name!r} in the catalogue{near(name, known)}", hint="`segcli models --available` lists them"
        )
    return known[name]


def _entry(raw: Facts, source: str) -> Entry:
    lists = {key: tuple(raw[key]) for key in ("structures", "spacing_mm", "parts") if key in raw}
    files = tuple(File(**{**f, "addresses": tuple(f["addresses"])}) for f in raw.get("files", ()))
    return Entry(**{**raw, **lists, "files": files, "source": source})
