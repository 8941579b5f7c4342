"""From a name of the catalogue, an address or a file to a model folder: licence, download, import."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote

from segcli.documents import Facts
from segcli.errors import ModelError, UsageError
from segcli.formats.atomic import partial_name, sweep, translated
from segcli.models import composed, imports
from segcli.models.addresses import addresses, file_name
from segcli.models.card import CARD_FILE, ModelCard
from segcli.models.catalogue import Entry, File, entries, entry
from segcli.models.fetch import Download, Progress, fetch, with_its_file
from segcli.models.imports.document import title
from segcli.models.imports.nnunet_axes import turned
from segcli.models.imports.totalsegmentator import around
from segcli.models.imports.written import unclaimed
from segcli.models.in_place import installation, stem
from segcli.models.library import cache_home, read_card
from segcli.system import insistently

_ADDRESS = re.compile(r"https?://|hf:|gdrive:")
_UNSTATED = "not stated"
# Programs around nnU-Net that only turn a scan before: where the axes of the array then point that nnU-Net gets.
_TURNED = {"lps": "SPL", "ras": "SAR"}


@dataclass(frozen=True)
class FetchOptions:
    """What the user decides of a model that is fetched.

    name            of the model's folder; the catalogue's id where none is given
    accept_licence  whether a licence that asks for more than to be named is accepted
    replace         a model of that name that is there already
    """

    name: str | None = None
    accept_licence: bool = False
    replace: bool = False


def wanted(text: str) -> Entry:
    """What a name, or an address that no list names, stands for; errors: ModelError (78) with the nearest name."""
    if _ADDRESS.match(text) is None:
        return entry(text)
    text = with_its_file(text)
    known = next((e for e in entries().values() if any(text in f.addresses for f in e.files)), None)
    if known is not None:
        return known
    stem = file_name(addresses([text])[0]).partition(".")[0]
    return Entry(stem, stem, "", (), _UNSTATED, "", f"the address {text}", (File((text,)),))


def get(
    text: str,
    to: Path,
    wishes: FetchOptions = FetchOptions(),
    *,
    tell: Callable[[str], None] = lambda _: None,
    progress: Progress = lambda done, total: None,
    tried: Callable[[ModelCard], Sequence[str] | None] = lambda _: None,
) -> Path:
    """Fetch and import a model; its folder in `to`.

    text     a name of the catalogue, also where a file or folder here is called so (an output folder perhaps: write
             ./NAME for it), https://..., hf:OWNER/REPO@REVISION:FILE (without FILE the only one that may be a model),
             or a file or folder on this machine
    tried    is shown the card before the model gets its name, and may refuse it, as in `imports.adopt`
    tell     gets a sentence for the licence, the sum of what was fetched, and each note of the import
    errors   ModelError (78): no such model, or one that cannot be used; UsageError (2): a licence to accept;
             DownloadFailed (69); OutputExists (73): a model of that name is there
    """
    make = Import(to, wishes, tell, tried)
    if _ADDRESS.match(text) is None and text not in entries() and Path(text).exists():
        return make(Path(text))
    model = wanted(text)
    if model.lacks:
        raise ModelError(f"{model.id}: {model.lacks}, which segcli does not run yet")
    if not model.parts and not (
        model.files and all(file.addresses or installation(model, file) for file in model.files)
    ):
        raise ModelError(f"{model.id}: cannot be fetched: {model.by_hand}")
    tell(f"{model.id}: licence {model.licence}" + (f"; please cite {model.citation}" if model.citation else ""))
    if not model.open and not wishes.accept_licence:
        raise UsageError(
            f"{model.id}: its licence ({model.licence}) asks for more than to be named, or is unknown",
            hint="read it, then add --accept-licence",
        )
    name = title(wishes.name or model.id, to)
    if model.laid_out or len(model.files) == 1:
        unclaimed(to / name, replace=wishes.replace)
    else:
        composed.unclaimed(to / name, replace=wishes.replace)
    others = dict.fromkeys(model.parts, "part") | ({model.rough: "rough model"} if model.rough else {})
    for other, what in others.items():
        if (to / other / CARD_FILE).is_file():
            tell(f"{model.id}: its {what} {other} is here already")
        else:
            get(other, to, replace(wishes, name=None), tell=tell, progress=progress, tried=tried)
    if model.laid_out:
        return _laid_out(model, make, name, progress)
    if len(model.files) == 1:
        return _one(model, model.files[0], make, name, progress)
    parts = [read_card(to / part) for part in model.parts]
    for file in model.files:
        own = stem(file)
        if (to / own / CARD_FILE).is_file():
            tell(f"{model.id}: its part {own} is here already")
        else:
            _one(replace(model, card={}), file, make, own, progress)
        parts.append(read_card(to / own))
    return composed.write(name, model.structures, parts, to, fields=model.card, replace=wishes.replace)


def _one(model: Entry, file: File, make: Import, name: str, progress: Progress) -> Path:
    """The folder of what one file of a model holds, taken from an installation where it is there, else fetched."""
    there = installation(model, file)
    if there is not None:
        make.tell(f"{model.id}: taken from {there}, nothing is fetched")
        return make(there, model, "an installation of TotalSegmentator", name)
    downloads = cache_home() / "downloads"
    with _own_folder(downloads) as place:
        got = _fetched(model, file, downloads, place, make, progress)
        try:
            return make(got.path, model, f"{got.address}, SHA-256 {got.sha256}", name)
        except ModelError as error:
            kept = downloads / got.path.name
            with translated(kept):
                insistently(lambda: got.path.replace(kept))
            told = [error.hint] if error.hint else []
            raise ModelError(
                error.message,
                hint="; ".join([*told, f"what was fetched is kept: segcli models import {quote(str(kept))}"]),
            ) from error


def _laid_out(model: Entry, make: Import, name: str, progress: Progress) -> Path:
    """The folder of what the files of a model are together, each in its place."""
    downloads = cache_home() / "downloads" / model.id
    origins = []
    with _own_folder(downloads) as place:
        for file in model.files:
            got = _fetched(model, file, downloads, place, make, progress)
            origins.append(f"{got.address}, SHA-256 {got.sha256}")
            laid = place / model.id / file.place
            laid.parent.mkdir(parents=True, exist_ok=True)
            got.path.replace(laid)
        return make(place / model.id, model, "; ".join(origins), name)


@contextmanager
def _own_folder(downloads: Path) -> Iterator[Path]:
    """A folder of this import alone among the downloads, gone with all that is in it when it is done."""
    with translated(downloads):
        downloads.mkdir(parents=True, exist_ok=True)
        sweep(downloads, ours=lambda folder: True)  # nobody else's lie there
        place = downloads / partial_name("import")
        place.mkdir()
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _fetched(model: Entry, file: File, downloads: Path, into: Path, make: Import, progress: Progress) -> Download:
    got = fetch(file.addresses, downloads, into=into, wanted=file.sum, progress=progress)
    known = "" if got.known else "; no list states it: it is compared next time"
    of = f"{file.place}, " if file.place else ""
    make.tell(f"{model.id}: {of}SHA-256 {got.sha256}{known}")
    return got


@dataclass(frozen=True)
class Import:
    """Imports files into `to` as the user wishes."""

    to: Path
    wishes: FetchOptions
    tell: Callable[[str], None]
    tried: Callable[[ModelCard], Sequence[str] | None]

    def __call__(self, path: Path, model: Entry | None = None, origin: str = "", name: str | None = None) -> Path:
        """The folder of the model that a file or folder holds; the catalogue's entry says what the file does not."""
        options = model.options if model else {}
        given = imports.options(**{k: v for k, v in options.items() if k != "recipe"})
        if model and "recipe" not in options:  # a recipe states these itself
            facts = (model.title, model.citation, origin)
            given = {**given, "licence": model.licence, "source": "; ".join(fact for fact in facts if fact)}
        if model and model.laid_out:  # none of its files names them
            given["labels"] = {"background": 0, **{name: i for i, name in enumerate(model.structures, 1)}}
        if model:
            given = {**given, **model.card}
        return imports.adopt(
            path,
            wanted=_wanted(model),
            around=_around(model),
            name=name or self.wishes.name,
            to=self.to,
            recipe=options.get("recipe"),
            given=given,
            replace=self.wishes.replace,
            tell=self.tell,
            tried=self.tried,
        )


def urls(text: str) -> list[str]:
    """Every address of a model's files, for a machine with a network."""
    model = wanted(text)
    if not model.parts and not any(file.addresses for file in model.files):
        raise ModelError(f"{model.id}: has no address: {model.by_hand}")
    others = (*model.parts, *([model.rough] if model.rough else []))
    before = [address for other in others for address in urls(other)]
    return [*before, *(address for file in model.files for address in addresses(file.addresses))]


def _around(model: Entry | None) -> Callable[[Facts], Facts]:
    """Fields that are other ones where the program of an entry's authors runs the model; a part keeps its own names."""
    if model is None or not model.around:
        return lambda fields: {}
    if (axes := _TURNED.get(model.around)) is not None:
        return lambda fields: turned(axes, fields.get("transpose", (0, 1, 2)))
    names = model.structures if len(model.files) == 1 else ()
    return lambda fields: around(fields, model.spacing_mm, names)


def _wanted(model: Entry | None) -> imports.WhichModel:
    """Which of several of nnU-Net's models that lie together an entry means."""
    said = {key: value for key, value in (model.chosen if model else {}).items() if key != "folds"}
    return imports.WhichModel(folds=tuple(model.chosen.get("folds", ())) if model else (), **said)
