"""The scans in a place of DICOM files: a folder, a tree, an archive, the index of a medium."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from segcli.batch.bids import set_aside
from segcli.batch.case import Case
from segcli.batch.search import Search
from segcli.errors import InputError, InputMissing, SegcliError
from segcli.formats.dicom import archive
from segcli.formats.table import stem
from segcli.formats.walk import name_of, not_searched, walk
from segcli.results.recorded import is_masks

if TYPE_CHECKING:
    from segcli.formats.dicom.archive import Place
    from segcli.formats.dicom.search import Series


def is_collection(path: Path) -> bool:
    """Whether a file stands for DICOM files: an archive of some, or the index of a medium."""
    from segcli.formats.dicom import places

    return places.is_collection(path)


def whole(path: Path) -> str:
    """What a case is called that is all of a file: its name without the ending, that of an archive too."""
    return archive.stem(path) if path.name.lower().endswith(archive.ENDINGS) else stem(path)


def in_folder(folder: Path, search: Search, images: Sequence[Path]) -> list[Case]:
    """DICOM below a folder: the folder itself when its files lie in it, else one case for each series in the tree.

    A flat folder with several series is a tree too where some were chosen; else it stays one case, so that reading
    refuses it with the list and --series. Series that could be a volume and are not whole are cases too: reading
    refuses them. Output folders are no part of a tree. Beside `images` that are cases already, and in a tree, what
    cannot be read costs no other case. Their order is that of the folders, in a folder that of the series' numbers.
    """
    from segcli.formats.dicom import places

    output = search.output
    flat = not any(p.is_dir() and not p.name.startswith(".") and not _is_output(p, output) for p in folder.iterdir())
    if not images and flat:
        if not any(folder.iterdir()):
            raise InputMissing(f"{name_of(folder)}: the folder is empty")
        if not places.looks_like(folder):
            raise InputMissing(f"{name_of(folder)}: no images in the folder: {_seen(folder)}")
        if search.select.of_series is None and not search.select.of_paths:
            named = folder if folder.name not in ("", "..") else folder.resolve()
            return [Case(named.name, (folder,), named.parent, None, search.volume)]
    usable, strays = _usable(folder, search, alone=not images)
    out, aside = [], set_aside(folder)
    homes = {one: Path(os.path.commonpath([f.path.parent for f in one.files])) for one in usable}
    for one, home in sorted(homes.items(), key=lambda item: item[1]):
        if not {home, *home.parents}.isdisjoint(aside):
            continue
        if output is None or output.resolve() not in (home.resolve(), *home.resolve().parents):
            name = str(PurePosixPath(*home.relative_to(folder).parts, one.name))
            out.append(Case(name, (home,), folder, one.name, search.volume, files=_files(one)))
    told = {*images, *aside, *(home for case in out for home in case.paths)}  # their own reading refuses them
    for path, error in strays.items():
        if isinstance(path, Path) and told.isdisjoint((path, *path.parents)):
            name = str(PurePosixPath(*path.relative_to(folder).parts[:-1], stem(path)))
            out.append(Case(name, (path,), folder, fault=error))
    return out


def in_file(path: Path, search: Search) -> list[Case]:
    """The scans in an archive or on a medium, named by it: alone, or below it by the names of their series.

    Folders inside are not taken into names, for they may be those of patients. An archive without folders and with
    several series that could be the volume stays one case, which is refused with their list.
    """
    packed = archive.is_archive(path)
    called, place = (archive.stem(path), path) if packed else (path.parent.resolve().name, path.parent)
    beside = path.parent if packed else path.parent.resolve().parent
    volume = search.volume
    hidden = dict.fromkeys(member.hidden for member in archive.members(path)[0] if member.hidden) if packed else {}
    for said in not_searched(path, [path / name for name in hidden]):
        search.tell(said)
    usable, strays = _usable(path, search, alone=True)
    flat = packed and len({f.path.parent for one in usable for f in one.files}) == 1
    if search.select.of_series is None and (len(usable) == 1 or flat):
        return [Case(called, (place,), beside, None if packed else usable[0].name, volume, files=_files(usable[0]))]
    found = [Case(f"{called}/{one.name}", (place,), beside, one.name, volume, files=_files(one)) for one in usable]
    return found + [Case(f"{called}/{p.name}", (path,), beside, fault=error) for p, error in strays.items()]


def _files(series: Series) -> tuple[Path, ...]:
    """The files of a series that lie in a folder; none for those in an archive."""
    return tuple(sorted(file.path for file in series.files if isinstance(file.path, Path)))


def _usable(place: Path, search: Search, *, alone: bool) -> tuple[list[Series], dict[Place, SegcliError]]:
    """The series that are meant and could be volumes, and what cannot be read.

    A series is meant whole where one of its files is. The others are told. `alone`: there is no scan but these.
    """
    from segcli.formats.dicom import search as dicom

    select = search.select
    strays: dict[Place, SegcliError] = {}
    there = dicom.find(place, strays.setdefault)
    root = PurePosixPath(place if place.is_dir() else place.parent)

    def below(path: Place) -> PurePosixPath:
        return PurePosixPath(path).relative_to(root) if isinstance(path, Path) else PurePosixPath(path.inside)

    meant = [s for s in there if not select.of_paths or any(select.takes(below(f.path)) for f in s.files)]
    found = select.chosen(meant, name_of(place))
    usable = [s for s in found if s.reason is None and (s.copy is None or s.name in select.series)]
    if alone and not usable:
        if strays:
            raise next(iter(strays.values()))
        if found:
            raise InputError(
                f"{name_of(place)}: {len(found)} DICOM series, none of which is a volume: {found[0].summary.problem}"
            )
        if there:
            raise InputMissing(f"{name_of(place)}: no DICOM series fits --include and --exclude, of {len(there)}")
        seen = f"in the folder: {_seen(place)}" if place.is_dir() else "in it, outside hidden folders"
        raise InputMissing(f"{name_of(place)}: no images {seen}")
    for one in found:
        if one not in usable:
            search.tell(f"{name_of(place)}: the DICOM series {one.name} is left out: {one.left_out}")
    return usable, strays


def _is_output(folder: Path, output: Path | None) -> bool:
    """Whether a folder is the run's output folder, or one of masks that segcli made."""
    if output is not None and output.exists() and folder.samefile(output):
        return True
    return is_masks(folder)


def _seen(folder: Path) -> str:
    """What is in a folder that has no scan: how many files of which endings."""
    endings: dict[str, int] = {}
    for _, _, names in walk(folder):
        for name in names:
            endings[Path(name).suffix or "no ending"] = endings.get(Path(name).suffix or "no ending", 0) + 1
    shown: Iterable[str] = (f"{n} x {e}" for e, n in sorted(endings.items(), key=lambda item: -item[1])[:5])
    return ", ".join(shown) or "nothing"
