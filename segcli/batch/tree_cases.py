"""The scans in a folder that is searched through: images, archives, DICOM."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from segcli.batch.bids import set_aside
from segcli.batch.case import Case
from segcli.batch.dicom_cases import in_file, in_folder, is_collection, whole
from segcli.batch.label_maps import without_label_maps
from segcli.batch.names import is_own
from segcli.batch.search import Search, Tell
from segcli.batch.selection import without_time_series
from segcli.errors import Denied, InputError, InputMissing, OutOfMemory, SegcliError
from segcli.formats.dicom.archive import ENDINGS, is_archive
from segcli.formats.dicom.places import unlisted
from segcli.formats.strangers import broken_link
from segcli.formats.table import endings, stem
from segcli.formats.walk import name_of, not_searched, walk
from segcli.system import keys_of

_CHANNEL = re.compile(r"^(?P<stem>.+)_(?P<channel>\d{4})$")
# Made by others or by segcli, never a scan: label maps, masks, probabilities.
_DERIVED = re.compile(r"_(dseg|probseg|mask|defacemask|seg|label-[^_]+_roi)$")


def in_tree(path: Path, search: Search) -> list[Case]:
    """The scans below a folder, each with the folders between; errors as of `cases.cases`.

    A folder below it that cannot be listed, and what is called as an archive and is none, are cases with a fault.
    """
    select, tell = search.select, search.tell
    for folder in set_aside(path):
        if folder.name == "sourcedata":
            tell(f"{name_of(path)}: sourcedata, of which the dataset was made, is left out")
    hidden: list[Path] = []
    lost: dict[Path, OSError] = {}
    there = _without_derived(_images(path, search.output, hidden=hidden.append, lost=lost.setdefault), tell)
    packed = archives(path, search.output, lost.setdefault)
    for said in not_searched(path, hidden):
        tell(said)
    meant = [file for file in there if select.takes(PurePosixPath(file.relative_to(path)))]
    files = without_time_series(meant, tell) if len(search.channels) == 1 else meant
    grouped = _grouped(path, files, search.channels)
    scans = grouped if search.label_maps else without_label_maps(grouped, tell)
    found = [replace(case, series=select.of_series, volume=search.volume) for case in scans]
    for file in packed:
        found += _in_archive(path, file, search)
    found += in_folder(path, search, [*there, *packed])
    found += [Case(_below(path, one), (one,), path, fault=unlisted(one, error)) for one, error in lost.items()]
    if not found and grouped:
        said = f"{name_of(path)}: holds no scan, but what looks like label maps: {grouped[0].paths[0].name}"
        hint = "name the folder of the scans; `predict --allow-label-map` takes label maps as scans"
        raise InputError(f"{said}{' ...' * (len(grouped) > 1)}", hint=hint)
    if not found:
        hint = "name the file of a series itself, with --volume N" if meant else select.instead(there)
        raise InputMissing(f"{name_of(path)}: none of its {len(there)} images is meant", hint=hint)
    for said in select.lacking(meant):
        tell(f"{name_of(path)}: {said}")
    return found


def images(folder: Path, channels: Sequence[str], tell: Tell) -> list[Case]:
    """The scans in a folder tree that are no DICOM; `tell` as of `cases`."""
    there = _without_derived(_images(folder, None), tell)
    return without_label_maps(_grouped(folder, there, channels), tell)


def _without_derived(found: Sequence[Path], tell: Tell) -> list[Path]:
    """The files without those that are called as what others make of scans; they are counted."""
    kept = [path for path in found if not _DERIVED.search(stem(path))]
    if left := len(found) - len(kept):
        first = next(path.name for path in found if _DERIVED.search(stem(path)))
        number = "1 image is" if left == 1 else f"{left} images are"
        tell(f"{number} left out, by the name a label map, a mask or probabilities: {first}{' ...' * (left > 1)}")
    return kept


def _unheeded(folder: Path, error: OSError) -> None:
    """Of a folder that cannot be listed: says nothing."""


def archives(folder: Path, output: Path | None, lost: Callable[[Path, OSError], object] = _unheeded) -> list[Path]:
    """Archives of DICOM files in a folder tree, those that are not whole, and what is called as one and is none.

    lost   as of `_images`
    """

    def could(path: Path) -> bool:
        try:
            return not is_archive(path) or is_collection(path)
        except (InputError, Denied):
            return True  # its own reading refuses it

    return [path for path in _images(folder, output, ENDINGS, lost=lost) if could(path)]


def _in_archive(folder: Path, file: Path, search: Search) -> list[Case]:
    """The scans in an archive of a tree, which costs no other case."""
    where = PurePosixPath(*file.relative_to(folder).parts[:-1])
    try:
        if not file.exists():
            raise broken_link(file, file.name)
        if not is_archive(file):
            told = f"{file.name}: has the name of an archive, and its first bytes are those of none"
            raise InputError(told, hint="copy it again, or take it away")
        found = in_file(file, search)
    except (InputError, Denied, OutOfMemory) as error:
        return [Case(str(where / whole(file)), (file,), folder, None, search.volume, error)]
    return [replace(case, name=str(where / case.name), beside=folder) for case in found]


def _images(
    folder: Path,
    output: Path | None,
    called: tuple[str, ...] = (),
    hidden: Callable[[Path], object] = lambda folder: None,
    lost: Callable[[Path, OSError], object] = _unheeded,
) -> list[Path]:
    """Files in a folder tree that could be scans by their names, sorted; never outputs, reports or temporary files.

    called   what their names end with, instead of the endings of the formats
    hidden   is told of each hidden folder, which is not searched, but for the output folder
    lost     is told of each folder that cannot be listed; that of the tree itself is an error
    """
    found: list[Path] = []

    def refuse(error: OSError) -> None:
        if Path(error.filename) == folder:
            raise error
        lost(Path(error.filename), error)

    skipped = {key for p in (output, *set_aside(folder)) if p is not None for key in keys_of(p)} - keys_of(folder)
    known = called or endings()

    def not_entered(hides: Path) -> None:
        if not keys_of(hides) & skipped:
            hidden(hides)

    for root, folders, names in walk(folder, refuse, not_entered):
        folders[:] = [f for f in folders if not keys_of(root / f) & skipped]
        for name in names:
            path = root / name
            low = name.lower()
            if (
                low.endswith(known)
                and not name.startswith(".")
                and not os.path.isdir(path)  # noqa: PTH112 - where it may not be asked, reading refuses it
                and not is_own(path)
            ):
                found.append(path)
    return found


def _grouped(folder: Path, files: Sequence[Path], channels: Sequence[str]) -> list[Case]:
    """One case a file, or one for each set of _0000, _0001, ... when the model has several channels."""
    if len(channels) == 1:
        return [Case(_below(folder, f), (f,), folder) for f in files]
    groups: dict[str, dict[int, list[Path]]] = {}
    out: list[Case] = []
    for file in files:
        name = _below(folder, file)
        match = _CHANNEL.match(name)
        if match:
            groups.setdefault(match["stem"], {}).setdefault(int(match["channel"]), []).append(file)
        else:
            out.append(Case(name, (file,), folder))
    for name, members in groups.items():
        paths = tuple(members[i][0] for i in range(len(channels)) if i in members) or next(iter(members.values()))[:1]
        out.append(Case(name, tuple(paths), folder, fault=_ungrouped(name, members, channels, folder)))
    return sorted(out, key=lambda c: c.name)


def _ungrouped(
    name: str, members: Mapping[int, Sequence[Path]], channels: Sequence[str], folder: Path
) -> SegcliError | None:
    """Why files that are called as the channels of one scan are not those of the model; None where they are."""
    for i, channel in enumerate(channels):
        if i not in members:
            return InputMissing(f"{name}: the channel _{i:04d} ({channel}) is missing in {folder.name}")
    for i, files in sorted(members.items()):
        if len(files) > 1:
            said = f"{name}: {files[0].name} and {files[1].name} are both the channel _{i:04d}"
            return InputError(said, hint="take one of them away")
    if (most := max(members)) >= len(channels):
        said = f"{name}: there is a channel _{most:04d}, and the model has {len(channels)}: {', '.join(channels)}"
        return InputError(said, hint="--channel NAME=FILE names the files of one scan")
    return None


def _below(folder: Path, file: Path) -> str:
    parts = file.relative_to(folder).parts[:-1]
    return str(PurePosixPath(*parts, stem(file)))
