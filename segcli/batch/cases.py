"""What a person named -> scans to segment: files, folders, series, lists, channels."""

from __future__ import annotations

import codecs
import glob
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from segcli.batch.outputs import Destination, is_own
from segcli.errors import Denied, InputError, InputMissing, SegcliError, UsageError
from segcli.formats.streams import reading, walk
from segcli.formats.table import endings
from segcli.formats.table import stem as stem
from segcli.results.record import SEG, is_masks

_CHANNEL = re.compile(r"^(?P<stem>.+)_(?P<channel>\d{4})$")
# Made by others or by segcli, never a scan: label maps, masks, probabilities.
_DERIVED = re.compile(r"_(dseg|probseg|mask|seg)$")
# The folders of a BIDS dataset that a scan lies in: sub-01/anat, sub-01/ses-1/pet.
_DATASET = re.compile(r"(?:^|/)(?P<folders>sub-[^/]+/(?:ses-[^/]+/)?[a-z]+)\Z")


@dataclass(frozen=True)
class Case:
    """One scan to segment.

    name     stem of the outputs, with the folders below the input folder: "sub-01/anat/sub-01_T1w"
    paths    its files, one for each channel, or one DICOM folder
    beside   the folder that `name` is below when no output folder is named
    fault    why it is refused already, where it is one of several
    """

    name: str
    paths: tuple[Path, ...]
    beside: Path
    series: str | None = None
    volume: int | None = None
    fault: SegcliError | None = None


@dataclass(frozen=True)
class Given:
    """What a person named: inputs and lists of them, channels, one of several series, a part of all.

    channels    channel -> file, for one case of several channels
    files_from  a file with a list of further inputs, "-" for stdin; null: its names stand between NULs
    shard       as `shard` takes it
    """

    inputs: tuple[str, ...]
    channels: Mapping[str, str]
    files_from: str | None = None
    null: bool = False
    series: str | None = None
    volume: int | None = None
    shard: str | None = None

    def cases(self, channels: Sequence[str], to: Destination, tell: Callable[[str], object] = str) -> list[Case]:
        """The scans, for a model of these channels; errors and `tell` as in `cases`."""
        inputs = list(self.inputs)
        if self.files_from is not None:
            inputs += listed(_list(self.files_from), self.null)
        found = cases(
            inputs,
            channels,
            named=self.channels,
            series=self.series,
            volume=self.volume,
            output=to.folder,
            bids=to.layout == "bids",
            tell=tell,
        )
        return shard(found, self.shard) if self.shard else found


def _list(name: str) -> bytes:
    if name == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise InputMissing(f"{name}: the list cannot be read: {error.strerror}") from error


def cases(
    inputs: Sequence[str],
    channels: Sequence[str] = ("image",),
    *,
    named: Mapping[str, str] | None = None,
    series: str | None = None,
    volume: int | None = None,
    output: Path | None = None,
    bids: bool = False,
    tell: Callable[[str], object] = str,
) -> list[Case]:
    """Every scan that the inputs name, in a fixed order.

    inputs    files, folders (searched through), DICOM folders, patterns
    channels  the model's; with more than one, files in a folder are grouped by nnU-Net's _0000, _0001, ...
    named     channel -> file, for one case of several channels
    output    the output folder, so that what lies in it is never taken for input
    bids      whether a name has the folders sub-*/[ses-*/]<datatype> that a scan lies in, however it was named; only
              with an output folder
    tell      gets a sentence for each DICOM series that is left out
    errors    InputMissing (66): nothing there, with what was seen; Denied (77): it may not be read;
              UsageError (2): two inputs, one output name

    Of several inputs, one that is missing or holds no scan becomes a case with a fault, so that it costs no other.
    """
    found: list[Case] = []
    if named:
        found.append(_from_channels(named, channels, series, volume))
    for text in inputs:
        try:
            with reading(Path(text)):
                found += _expand(text, channels, series, volume, output, tell)
        except (InputError, Denied) as error:
            if len(inputs) == 1:
                raise
            path = Path(text)
            found.append(Case(stem(path) or "input", (path,), path.parent, series, volume, error))
    if not found:
        raise InputMissing("no scan was named", hint="give a file, a folder, or --files-from")
    if bids and output is not None:
        found = [_in_dataset(case) for case in found]
    return distinct(found, output)


def _in_dataset(case: Case) -> Case:
    """The case named from the root of its BIDS dataset, unless its name begins there or above; others as they are."""
    name = PurePosixPath(case.name)
    folder = Path(os.path.abspath(case.beside / name.parent))  # noqa: PTH100 - links are followed nowhere here
    match = _DATASET.search(folder.as_posix())
    if match is None:
        return case
    full = PurePosixPath(match["folders"], name.name)
    if len(full.parts) <= len(name.parts):
        return case
    return replace(case, name=str(full), beside=folder.parents[len(full.parts) - 2])


def distinct(found: Sequence[Case], output: Path | None) -> list[Case]:
    """The cases, the same input once; refused when two inputs would make one output."""
    owners: dict[Path, Case] = {}
    for case in map(_nameable, found):
        target = (output or case.beside) / f"{case.name}{SEG}.nii.gz"
        key = Path(os.path.abspath(target))  # noqa: PTH100 - links are followed nowhere here
        other = owners.get(key)
        if other is None:
            owners[key] = case
        elif _input(other) != _input(case):
            raise UsageError(
                f"{other.paths[0]} and {case.paths[0]} would both be written as {target.name}",
                hint="rename one, or run them with different -o",
            )
    return list(owners.values())


def _nameable(case: Case) -> Case:
    """The case, refused where its name is no text, or nothing."""
    if case.fault is not None:
        return case
    for name in (*(path.name for path in case.paths), case.name):
        shown = os.fsencode(name).decode("utf-8", "backslashreplace")  # caf\xe9.nii.gz
        if shown != name:
            told = f"{case.paths[0].name}: the name is not UTF-8 ({shown}), so tables and records cannot hold it"
            return replace(case, fault=InputError(told, hint="rename it"))
    if case.paths[0].name.lower() in endings():
        told = f"{case.paths[0].name}: the name is all ending, so its outputs would be hidden files without a name"
        return replace(case, fault=InputError(told, hint="rename it"))
    return case


def _input(case: Case) -> tuple[object, ...]:
    """Equal for two cases that are one, however their paths are spelt."""
    return [os.path.abspath(path) for path in case.paths], case.series, case.volume  # noqa: PTH100 - as in distinct


def shard(found: Sequence[Case], part: str) -> list[Case]:
    """Every n-th case: "3/16" is the third of sixteen parts; "slurm" reads the job array's variables.

    The parts are disjoint and together hold all cases, whatever their number.
    """
    if part == "slurm":
        try:
            first = int(os.environ.get("SLURM_ARRAY_TASK_MIN", "0"))
            step = int(os.environ.get("SLURM_ARRAY_TASK_STEP", "1")) or 1
            index = (int(os.environ["SLURM_ARRAY_TASK_ID"]) - first) // step
            count = int(os.environ["SLURM_ARRAY_TASK_COUNT"])
        except (KeyError, ValueError):
            raise UsageError(
                "--shard slurm: SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT are not set",
                hint="submit with `sbatch --array=0-15`, or give --shard 3/16",
            ) from None
    else:
        match = re.fullmatch(r"(\d+)/(\d+)", part)
        if not match:
            raise UsageError(f"--shard {part}: not of the form 3/16")
        index, count = int(match[1]) - 1, int(match[2])
    if not 0 <= index < count:
        raise UsageError(f"--shard {part}: the part {index + 1} is not among 1 to {count}")
    return list(found[index::count])


def listed(data: bytes, null: bool) -> list[str]:
    """The names in a list of inputs: one a line, or between NULs; blank lines and a byte order mark are nothing."""
    data = data.removeprefix(codecs.BOM_UTF8)
    parts = data.split(b"\0") if null else data.splitlines()
    return [os.fsdecode(p) for p in parts if p.strip()]


def _from_channels(named: Mapping[str, str], channels: Sequence[str], series: str | None, volume: int | None) -> Case:
    known = {c.lower(): c for c in channels}
    given = {known.get(k.lower(), k): Path(v) for k, v in named.items()}
    unknown = [k for k in given if k not in channels]
    lacking = [c for c in channels if c not in given]
    if unknown or lacking:
        raise UsageError(
            f"the model's channels are {', '.join(channels)}"
            + (f"; unknown: {', '.join(unknown)}" if unknown else "")
            + (f"; missing: {', '.join(lacking)}" if lacking else "")
        )
    paths = tuple(given[c] for c in channels)
    for path in paths:
        with reading(path):
            _exists(path, str(path))
    return Case(stem(paths[0]), paths, paths[0].parent, series, volume)


def _expand(
    text: str,
    channels: Sequence[str],
    series: str | None,
    volume: int | None,
    output: Path | None,
    tell: Callable[[str], object],
) -> list[Case]:
    path = Path(text)
    if not os.path.lexists(path) and glob.has_magic(text):
        matches = sorted(glob.glob(text, recursive=True))  # noqa: PTH207 - patterns may be absolute
        scans = [m for m in matches if os.path.isdir(m) or not is_own(Path(m))]  # noqa: PTH112
        if not scans:
            what = "only outputs of segcli match" if matches else "nothing matches"
            raise InputMissing(f"{text}: {what} the pattern", hint="check the pattern")
        return [case for match in scans for case in _expand(match, channels, series, volume, output, tell)]
    _exists(path, text)
    if not path.is_dir():
        if is_own(path):
            raise InputError(f"{path.name}: is an output of segcli", hint="name the scan it was made from")
        return [Case(stem(path), (path,), path.parent, series, volume)]
    files = _images(path, output)
    found = [replace(case, series=series, volume=volume) for case in _grouped(path, files, channels)]
    return found + _dicom(path, series, volume, output, tell, files)


def _exists(path: Path, text: str) -> None:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        raise InputMissing(f"{text}: no such file or folder", hint="check the name") from None
    if not path.exists():
        raise InputMissing(f"{text}: a broken link: what it points to does not exist")


def _images(folder: Path, output: Path | None) -> list[Path]:
    """Files in a folder tree that could be scans by their names, sorted; never outputs, reports or temporary files."""
    found: list[Path] = []

    def refuse(error: OSError) -> None:
        if Path(error.filename) == folder:  # one below it costs no other: `_dicom` makes it a case
            raise error

    bids = os.path.isfile(folder / "dataset_description.json")  # noqa: PTH113 - False where it may not be asked
    derivatives = folder / "derivatives" if bids else None
    skipped = {os.path.realpath(p) for p in (output, derivatives) if p is not None}
    skipped.discard(os.path.realpath(folder))
    known = endings()
    for root, folders, names in walk(folder, refuse):
        folders[:] = [f for f in folders if os.path.realpath(root / f) not in skipped]
        for name in names:
            path = root / name
            low = name.lower()
            if (
                low.endswith(known)
                and not name.startswith(".")
                and not os.path.isdir(path)  # noqa: PTH112 - where it may not be asked, reading refuses it
                and not is_own(path)
                and not _DERIVED.search(stem(path))
            ):
                found.append(path)
    return found


def _grouped(folder: Path, files: Sequence[Path], channels: Sequence[str]) -> list[Case]:
    """One case a file, or one for each set of _0000, _0001, ... when the model has several channels."""
    if len(channels) == 1:
        return [Case(_below(folder, f), (f,), folder) for f in files]
    groups: dict[str, dict[int, Path]] = {}
    out: list[Case] = []
    for file in files:
        name = _below(folder, file)
        match = _CHANNEL.match(name)
        if match:
            groups.setdefault(match["stem"], {})[int(match["channel"])] = file
        else:
            out.append(Case(name, (file,), folder))
    for name, members in groups.items():
        lacking = [f"_{i:04d}" for i in range(len(channels)) if i not in members]
        paths = tuple(members[i] for i in range(len(channels)) if i in members) or tuple(members.values())
        fault = None
        if lacking:
            channel = channels[int(lacking[0][1:])]
            fault = InputMissing(f"{name}: the channel {lacking[0]} ({channel}) is missing in {folder.name}")
        out.append(Case(name, paths, folder, fault=fault))
    return sorted(out, key=lambda c: c.name)


def _below(folder: Path, file: Path) -> str:
    parts = file.relative_to(folder).parts[:-1]
    return str(PurePosixPath(*parts, stem(file)))


def _dicom(
    folder: Path,
    series: str | None,
    volume: int | None,
    output: Path | None,
    tell: Callable[[str], object],
    images: Sequence[Path],
) -> list[Case]:
    """DICOM below a folder: the folder itself when its files lie in it, else one case for each series in the tree.

    A flat folder with several series stays one case, so that reading refuses it with the list and --series. Series
    that could be a volume and are not whole are cases too: reading refuses them. Output folders are no part of a tree.
    Beside `images` that are cases already, and in a tree, what cannot be read costs no other case.
    """
    from segcli.formats.dicom import series as dicom

    alone = not images
    if alone and not any(p.is_dir() and not _is_output(p, output) for p in folder.iterdir()):
        if not any(folder.iterdir()):
            raise InputMissing(f"{folder.name}: the folder is empty")
        if not dicom.looks_like(folder):
            raise InputMissing(f"{folder.name}: no images in the folder: {_seen(folder)}")
        named = folder if folder.name not in ("", "..") else folder.resolve()
        return [Case(named.name, (folder,), named.parent, series, volume)]
    strays: dict[Path, SegcliError] = {}
    there = dicom.find(folder, strays.setdefault)
    found = [s for s in there if series is None or dicom.matches(s, series)]
    if there and not found:
        listed = "; ".join(s.line() for s in there)
        raise InputError(f"{folder.name}: no series called {series}", hint=f"choose one: {listed}")
    usable = [s for s in found if s.reason is None and (s.copy is None or series is not None)]
    if alone and not usable:
        if strays:
            raise next(iter(strays.values()))
        if found:
            raise InputError(
                f"{folder.name}: {len(found)} DICOM series, none of which is a volume: {found[0].summary.problem}"
            )
        raise InputMissing(f"{folder.name}: no images in the folder: {_seen(folder)}")
    for one in found:
        if one not in usable:
            tell(f"{folder.name}: the DICOM series {one.name} is left out: {one.left_out}")
    out = []
    for one in usable:
        home = Path(os.path.commonpath([f.path.parent for f in one.files]))
        if output is None or output.resolve() not in (home.resolve(), *home.resolve().parents):
            name = str(PurePosixPath(*home.relative_to(folder).parts, one.name))
            out.append(Case(name, (home,), folder, one.name, volume))
    told = {*images, *(home for case in out for home in case.paths)}  # their own reading refuses them
    for path, error in strays.items():
        if told.isdisjoint((path, *path.parents)):
            out.append(Case(_below(folder, path), (path,), folder, fault=error))
    return out


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
