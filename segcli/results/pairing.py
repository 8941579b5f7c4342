"""Which prediction is compared with which reference, where folders of them are."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import NamedTuple

from segcli import formats
from segcli.errors import Denied, InputError, InputMissing, SegcliError, first_few
from segcli.formats.streams import refusal
from segcli.formats.table import DICOM, endings, stem
from segcli.formats.walk import not_searched, walk
from segcli.results.recorded import is_masks, read_record
from segcli.results.scan_checks import is_picture
from segcli.results.subjects import one_of_each, subject

_BESIDE = ("_probseg", "_disagreement")
_ONE = "take one of them out of the folder"
_ROLES = re.compile(r"(_0000|[._-](d?seg|labels?|mask|gt|pred|ref|reference|groundtruth))+$", re.I)

# What names of BIDS are compared without, step by step, where no name is in both folders: which segmentation of a scan
# it is, with the suffix that derivatives leave out, and then its description too.
_LOOSER = (
    ("seg-", re.compile(r"(?<=[A-Za-z0-9])_seg-[A-Za-z0-9]+|(?<=[A-Za-z0-9])_T1w$")),
    ("desc-", re.compile(r"(?<=[A-Za-z0-9])_desc-[A-Za-z0-9]+")),
)


class Pair(NamedTuple):
    """A case: its name, its prediction, None where there is none, and its reference."""

    name: str
    prediction: Path | None
    reference: Path


def pair_folders(pred: Path, ref: Path) -> tuple[list[Pair], list[str]]:
    """The cases of two folders, by the reference's name, and sentences.

    These say how names were compared, what is not searched, and what has no score. A reference without a prediction is
    a case too: one that failed is not left out of a mean.

    A name is the file's without its ending and without `_seg`, `_dseg`, `_label`, `_mask`, `_gt` and the like. Where
    a subfolder of the references holds some, both folders are searched through and a name begins with the subfolder's.
    Where no name is in both, those of BIDS are compared without `seg-` and `T1w`, and then without `desc-`.

    A label map in SUBJECT/mri, as FreeSurfer has them, is called SUBJECT, in either folder.

    Scans may lie beside the label maps. Of two files of one name the one that is no picture is taken. A reference that
    is a picture gives way to the one label map whose name goes on behind its own, as x.mgz to x_aseg.mgz; without a
    prediction it is left out.

    A folder without label maps may hold DICOM Segmentations, one for each case, also in folders of their own. One of
    the references belongs to the prediction whose record has the series that it refers to; else to the one that is
    called as its file, its folder, its series, patient or study.

    errors   InputMissing (66) when no reference has a prediction; InputError (65) when two files of a folder have
             one name, a scan or a subject has several label maps, or a folder cannot be searched through
    """
    hidden: list[Path] = []
    told: list[str] = []
    files = _files(ref, deep=True, hidden=hidden.append)
    found = _label_maps(ref, files)
    of_subjects = one_of_each(ref, found, told)
    freesurfer = of_subjects is not None
    below = found if of_subjects is None else of_subjects
    objects = [] if below else _segmentations(files)
    deep = bool(objects) or any(path.parent != ref for path in below)
    mine, by_subjects = _predictions(pred, deep, told)
    have = _by_name(pred, mine, told, freesurfer or by_subjects)
    want = _by_name(ref, objects or below, told, freesurfer)
    if not want:
        raise InputMissing(f"{ref.name}: no label map found in the folder of references")
    called = {path: name for name, path in want.items()}  # whatever a prediction is called: two are compared by cases
    want = _referring(want, have, ref) if objects else want
    have, want, without = _alike(have, want)
    if not want.keys() & have.keys():
        shown = first_few(sorted(want), 5)
        raise InputMissing(
            f"{pred}: {len(want)} of {len(want)} references have no prediction of the same name: {shown}",
            hint=_instead(pred, sorted(have), deep),
        )
    for name in sorted(want.keys() & have.keys()):
        scan = want[name]
        _take_label_map(name, want, want.keys() - have.keys(), told)
        called[want[name]] = called[scan]
    for name in sorted(want.keys() - have.keys()):
        if _is_scan(want[name]):
            told.append(f"{want.pop(name).name} looks like a scan, has no prediction and is left out")
    pairs = [Pair(called[want[name]], have.get(name), want[name]) for name in sorted(want)]
    told += not_searched(ref, hidden)
    if without:
        both = min(want.keys() & have.keys())
        names = f"{have[both].name} with {want[both].name}"
        told.append(f"names are compared without {' and '.join(without)}: {names}")
    alone = [have[name].relative_to(pred).as_posix() for name in sorted(have.keys() - want.keys())]
    told += [f"{path} has no reference and is not scored" for path in alone]
    return pairs, told


def _predictions(pred: Path, deep: bool, told: list[str]) -> tuple[list[Path], bool]:
    """The label maps of a folder of predictions, and whether they lie in FreeSurfer's folders of subjects.

    deep   whether subfolders count; those of subjects do where the folder itself has no label map
    """
    if not deep and (found := _label_maps(pred, _files(pred, deep=False))):
        return found, False
    files, said = _files(pred, deep=True), list[str]()
    below = _label_maps(pred, files)
    of_subjects = one_of_each(pred, below, said)
    if of_subjects is not None:
        told += [sentence for sentence in said if sentence not in told]
        return of_subjects, True
    if deep and below:
        return below, False
    return _segmentations(files), False


def _take_label_map(name: str, want: dict[str, Path], lacking: Collection[str], told: list[str]) -> None:
    """Put a label map without a prediction in the place of a reference that is a picture, where one is called so.

    errors   InputError: several are
    """
    behind = re.compile(re.escape(name) + "[._-][A-Za-z]")
    longer = [other for other in sorted(lacking) if behind.match(other)]
    if not longer or not _is_scan(want[name]):
        return
    maps = [other for other in longer if not _is_scan(want[other])]
    scan = want[name].name
    if len(maps) > 1:
        shown = first_few([want[other].name for other in maps], 5)
        raise InputError(f"{scan}: looks like a scan, whose label map may be {shown}", hint=_ONE)
    if maps:
        want[name] = want.pop(maps[0])
        told.append(f"{scan} looks like a scan: its label map {want[name].name} is taken")


def _is_scan(path: Path) -> bool:
    """Whether the voxels of a file are a picture's; what cannot be read is refused by its own reading."""
    try:
        return is_picture(formats.read([path]))
    except SegcliError:
        return False


def _instead(pred: Path, spare: Sequence[str], deep: bool) -> str:
    """What to do where no reference has a prediction of its name; `spare` are the names of the predictions."""
    if spare:
        return f"predictions without a reference are called {', '.join(spare[:5])}; names must be equal"
    if not deep and (below := _label_maps(pred, _files(pred, deep=True))):
        shown = ", ".join(path.relative_to(pred).as_posix() for path in below[:3])
        return f"predictions in subfolders ({shown}) are compared with references in subfolders of the same names alone"
    return "predict them, or take them out of the folder of references"


def label_maps_in(folder: Path) -> list[Path]:
    """The files of a folder that may be label maps, sorted; errors as of `pair_folders`."""
    return _label_maps(folder, _files(folder, deep=False))


def _label_maps(folder: Path, files: Sequence[Path]) -> list[Path]:
    """Of the files of a folder those that may be label maps: no voxels beside a header.

    What segcli writes beside label maps, as probabilities, is none; nor are masks, unless their own folder is meant. A
    link that leads nowhere may be one: what is missing is not left out of a mean.
    """
    known = endings()
    return [
        path
        for path in files
        if path.name.lower().endswith(known)
        and (path.parent == folder or not is_masks(path.parent))
        and not stem(path).endswith(_BESIDE)
        and (path.is_file() or not path.exists())
    ]


def _files(folder: Path, deep: bool, hidden: Callable[[Path], object] = lambda folder: None) -> list[Path]:
    """Files in a folder, or below it, without hidden ones, sorted; errors as of `pair_folders`.

    hidden   is told of each hidden folder
    """

    def refuse(error: OSError) -> None:
        raise refusal(error, folder)

    found: list[Path] = []
    for here, folders, names in walk(folder, refuse, hidden):
        folders[:] = folders if deep else []
        found += [here / name for name in names if not name.startswith(".")]
    return sorted(found)


def _segmentations(files: Sequence[Path]) -> list[Path]:
    """Of some files those that are DICOM Segmentations, whatever they are called.

    One that is called as DICOM objects are, and cannot be read as anything, counts: its own reading refuses it.
    """
    return [path for path in files if _is_segmentation(path, unread=path.name.lower().endswith(DICOM))]


def _is_segmentation(path: Path, *, unread: bool = False) -> bool:
    """Whether a file is a DICOM Segmentation; `unread` where it cannot be read."""
    try:
        return formats.is_segmentation(path)
    except (InputError, Denied):
        return unread


def _by_name(folder: Path, paths: Sequence[Path], told: list[str], freesurfer: bool) -> dict[str, Path]:
    """Label maps by their names; a Segmentation that is alone in a subfolder by the subfolder's.

    freesurfer   whether what lies in SUBJECT/mri is called as the subject

    errors   InputError: two files have one name, and not one of them alone is a picture
    """
    known = endings()
    objects = [path.parent for path in paths if not path.name.lower().endswith(known)]
    found: dict[str, Path] = {}
    for path in paths:
        inside = path.relative_to(folder)
        alone = objects.count(path.parent) == 1 and path.parent != folder
        own = inside.parent if alone else inside.parent / (_ROLES.sub("", stem(path)) or path.name)
        if freesurfer and (whose := subject(folder, path)):
            own = whose.relative_to(folder) if whose != folder else Path(folder.resolve().name)
        name = unicodedata.normalize("NFC", own.as_posix())  # macOS puts accents together in another way
        if name in found:
            both = [found[name], path]
            scans = [one for one in both if _is_scan(one)]
            if len(scans) != 1:
                shown = " and ".join(one.name for one in both)
                raise InputError(f"{folder.name}: {shown} would both be the case {name!r}", hint=_ONE)
            path = both[1 - both.index(scans[0])]
            told.append(f"{scans[0].name} looks like a scan: its label map {path.name} is taken")
        found[name] = path
    return found


def _referring(want: dict[str, Path], have: dict[str, Path], ref: Path) -> dict[str, Path]:
    """DICOM Segmentations by the names of the predictions that they belong to; by their own where there are none.

    errors   InputError: two of them belong to one prediction, or one to several
    """
    from segcli.formats.dicom.search import digits
    from segcli.formats.dicom.seg import refers_to

    by_series: dict[str, list[str]] = {}
    for name, path in have.items():
        by_series.setdefault(_series(path), []).append(name)
    found: dict[str, Path] = {}
    for own, path in want.items():
        series, patient, study = refers_to(path) if _is_segmentation(path) else ("", "", "")
        mine = by_series.get(digits(series), []) if series else []
        if len(mine) > 1:
            told = f"{path.name}: {have[mine[0]].name} and {have[mine[1]].name} are of the series that it refers to"
            raise InputError(told, hint="take one of them out of the folder of predictions")
        name = next((name for name in (*mine, own, series, patient, study) if name in have), own)
        if name in found:
            told = f"{ref.name}: {found[name].relative_to(ref)} and {path.relative_to(ref)} are of one prediction"
            raise InputError(f"{told}, {have[name].name}", hint=_ONE)
        found[name] = path
    return found


def _series(path: Path) -> str:
    """The digits of the series that a prediction was made of, as the record beside it has them; "" of another one."""
    source = (read_record(path.with_name(f"{stem(path)}.json")) or {}).get("source")
    name = source.get("series") if isinstance(source, dict) else None
    return name.rpartition("-")[2] if isinstance(name, str) else ""


def _alike(have: dict[str, Path], want: dict[str, Path]) -> tuple[dict[str, Path], dict[str, Path], list[str]]:
    """Both by names without as few entities as it takes for some to be equal, and which entities."""
    without: list[str] = []
    for entity, pattern in _LOOSER:
        if not want.keys() & have.keys():
            have, want = _bare(have, pattern), _bare(want, pattern)
            without.append(entity)
    return have, want, without


def _bare(found: dict[str, Path], without: re.Pattern[str]) -> dict[str, Path]:
    """The same by names without an entity by which BIDS tells segmentations of one scan apart.

    Where a scan has several, all names stay.
    """
    bare = {without.sub("", name): path for name, path in found.items()}
    return bare if len(bare) == len(found) else found
