"""Models of an installation of TotalSegmentator, run where they lie: nothing is downloaded, nothing is written there.

Their cards, and their weights in a form that is safe to read, are made when a model is first run and kept in the user's
cache; a model whose files have changed since then is made anew.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from segcli import __version__
from segcli.documents import Document, content_of
from segcli.folders import home
from segcli.formats.atomic import whole_file
from segcli.models import catalogue
from segcli.models.addresses import addresses, file_name
from segcli.models.card import CARD_FILE
from segcli.models.catalogue import Entry, File
from segcli.models.library import cache_home
from segcli.system import one_process


def found(name: str) -> Path | None:
    """The folder of a model of the catalogue whose networks, and those of its rough models, are all installed.

    errors   ModelError (78): what is installed is no model of that name
    """
    chain = _chain(name)
    if not _whole(chain):
        return None
    place = cache_home() / "in-place"
    place.mkdir(parents=True, exist_ok=True)
    models = place / "models"
    networks = [(entry, file) for entry in chain for file in entry.files]
    with one_process(place):
        for entry, file in networks:
            _forget_changed(models, entry, file)
        if not (models / name / CARD_FILE).is_file():
            from segcli.models.obtain import FetchOptions, get  # which needs torch

            get(name, models, FetchOptions(accept_licence=True))
            for entry, file in networks:
                with whole_file(_note(models, entry, file)) as note:
                    note.write(json.dumps(_state(entry, file)).encode())
    return models / name


def is_installed(name: str) -> bool:
    """Whether `found` has such a model."""
    return _whole(_chain(name))


def _whole(chain: list[Entry]) -> bool:
    """Whether every network of some models is installed, and segcli runs all of them."""
    there = [installation(entry, file) for entry in chain for file in entry.files]
    return bool(there) and None not in there and not any(entry.lacks for entry in chain)


def _chain(name: str) -> list[Entry]:
    """A model of TotalSegmentator and the rough ones before it; nothing for another one."""
    entry = catalogue.entries().get(name)
    if entry is None or not entry.around:
        return []
    return [*(_chain(entry.rough) if entry.rough else ()), entry]


def _note(place: Path, entry: Entry, file: File) -> Path:
    return place / f"{folder_of(entry, file)}.made.json"


def _state(entry: Entry, file: File) -> Document:
    """What a model folder depends on: its files by name, size and time, and how they are imported."""
    there = installation(entry, file)
    files = sorted(path for path in there.rglob("*") if path.is_file()) if there else []
    seen = [
        [path.relative_to(there).as_posix(), path.stat().st_size, path.stat().st_mtime_ns] for path in files if there
    ]
    how = [entry.around, dict(entry.chosen), dict(entry.options), list(entry.spacing_mm), dict(entry.card)]
    return {"segcli": __version__, "folder": str(there), "files": seen, "how": how}


def _forget_changed(place: Path, entry: Entry, file: File) -> None:
    """Remove from the cache what was made of other files, or in another way."""
    note = _note(place, entry, file)
    if content_of(note) != json.loads(json.dumps(_state(entry, file))):
        note.unlink(missing_ok=True)
        for folder in {folder_of(entry, file), entry.id}:
            shutil.rmtree(place / folder, ignore_errors=True)


def stem(file: File) -> str:
    """The name of a file without its ending: what TotalSegmentator calls a part's folder."""
    return file.folder or file_name(addresses(file.addresses)[-1]).removesuffix(".zip")


def folder_of(model: Entry, file: File) -> str:
    """What the folder of one file's model is called: a part's has its authors' name."""
    return model.id if len(model.files) == 1 else stem(file)


def installation(model: Entry, file: File) -> Path | None:
    """A model's folder in an installation of TotalSegmentator, which is used as it lies and never written to."""
    own = Path(os.environ.get("TOTALSEG_HOME_DIR") or home() / ".totalsegmentator")
    place = Path(os.environ.get("TOTALSEG_WEIGHTS_PATH") or own / "nnunet" / "results")
    folder = place / stem(file)
    return folder if model.id.startswith("totalsegmentator") and folder.is_dir() else None
