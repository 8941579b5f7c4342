"""What a person named -> scans to segment: files, folders, series, lists, channels."""

from __future__ import annotations

import codecs
import glob
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from segcli.batch.case import Case as Case
from segcli.batch.clashes import one_label_map, one_name
from segcli.batch.dicom_cases import in_file, is_collection, whole
from segcli.batch.names import is_own
from segcli.batch.outputs import Destination
from segcli.batch.search import Search, Tell
from segcli.batch.selection import DATASET, Selection
from segcli.batch.tree_cases import in_tree
from segcli.errors import Denied, InputError, InputMissing, OutOfMemory, UsageError
from segcli.folders import at_home
from segcli.formats.strangers import broken_link
from segcli.formats.streams import bytes_of, reading
from segcli.formats.table import endings
from segcli.formats.table import stem as stem
from segcli.results.recorded import SEG, read_record
from segcli.system import key_of

_OPEN = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")  # files that this process has open already


@dataclass(frozen=True)
class Given:
    """What a person named: inputs and lists of them, channels, which of the scans in them, a part of all.

    channels    channel -> file, for one case of several channels
    files_from  a file with a list of further inputs, "-" for stdin; null: its names stand between NULs
    shard       as `shard` takes it
    label_maps  whether what looks like a label map is taken for a scan
    """

    inputs: tuple[str, ...]
    channels: Mapping[str, str]
    files_from: str | None = None
    null: bool = False
    select: Selection = field(default_factory=Selection)
    volume: int | None = None
    shard: str | None = None
    label_maps: bool = False

    def cases(self, channels: Sequence[str], to: Destination, tell: Tell = str) -> list[Case]:
        """The scans, for a model of these channels; errors and `tell` as in `cases`."""
        inputs = list(self.inputs)
        if self.files_from is not None:
            inputs += listed(_list(self.files_from), self.null)
        if to.file is not None and (several := len({os.path.abspath(at_home(text)) for text in inputs})) > 1:  # noqa: PTH100
            raise one_label_map(to, several)
        found = cases(
            inputs,
            channels,
            named=self.channels,
            select=self.select,
            volume=self.volume,
            output=to.folder,
            bids=to.layout == "bids",
            label_maps=self.label_maps,
            tell=tell,
        )
        if not self.shard:
            return found
        part = shard(found, self.shard)
        if not part:
            tell(f"--shard {self.shard}: this part is empty, nothing is to be done (scans in all: {len(found)})")
        return part


def _list(name: str) -> bytes:
    if name == "-":
        return sys.stdin.buffer.read()
    path = Path(name)
    if name.startswith(_OPEN) and path.is_fifo():  # a shell's <(...); other pipes may have nobody at the other end
        return path.read_bytes()
    return bytes_of(path, InputMissing)


def cases(
    inputs: Sequence[str],
    channels: Sequence[str] = ("image",),
    *,
    named: Mapping[str, str] | None = None,
    select: Selection = Selection(),
    volume: int | None = None,
    output: Path | None = None,
    bids: bool = False,
    label_maps: bool = False,
    tell: Tell = str,
) -> list[Case]:
    """Every scan that the inputs name, in a fixed order.

    inputs    files, folders (searched through), DICOM folders, archives and indices, patterns
    channels  the model's; with more than one, files in a folder are grouped by nnU-Net's _0000, _0001, ...
    named     channel -> file, for one case of several channels
    select    which of the scans in folders and archives are meant
    output    the output folder, so that what lies in it is never taken for input
    bids      whether a name has the folders sub-*/[ses-*/]<datatype> that a scan lies in, however it was named; only
              with an output folder
    label_maps  whether what looks like a label map is a scan also where a folder is searched; a file that was named
              is always one, which is judged when it is read
    tell      gets a sentence for each DICOM series that is left out, for images of several volumes, for label maps, for
              a series that has had another name
    errors    InputMissing (66): nothing there, with what was seen; Denied (77): it may not be read;
              UsageError (2): two inputs, one output name

    Of several inputs and matches of a pattern, one that is missing or holds no scan becomes a case with a fault, so
    that it costs no other.
    """
    inputs = [at_home(text) for text in inputs]
    search = Search(channels, select, volume, output, label_maps, tell)
    found: list[Case] = []
    if named:
        named = {channel: at_home(file) for channel, file in named.items()}
        found.append(_from_channels(named, channels, select.of_series, volume))
    if "" in inputs:  # as of a shell's variable that is not set; as a path it would be this whole folder
        raise UsageError("an input has an empty name", hint="give a file or a folder; . is this one")
    for text in [match for given in inputs for match in _matches(given)]:
        try:
            with reading(Path(text)):
                found += _expand(text, search)
        except (InputError, Denied, OutOfMemory) as error:
            if [text] == list(inputs):
                raise
            path = Path(text)
            found.append(Case(whole(path) or "input", (path,), path.parent, select.of_series, volume, error))
    if not found:
        raise InputMissing("no scan was named", hint="give a file, a folder, or --files-from")
    if bids and output is not None:
        found = [_in_dataset(case) for case in found]
    found = distinct(found, output)
    for said in _labelled_alone(found, output):
        tell(said)
    return found


def _labelled_alone(found: Sequence[Case], output: Path | None) -> Iterator[str]:
    """A sentence for each series that an earlier run called as its folder or archive, which had no other then."""
    for case in found:
        if case.series is None or "/" not in case.name:
            continue
        place = (output or case.beside) / PurePosixPath(case.name).parent
        source = (read_record(place.with_name(f"{place.name}{SEG}.json")) or {}).get("source")
        if isinstance(source, dict) and source.get("series") == case.series:
            yield (
                f"{case.name}: was labelled as {place.name} when no other series was there: it is twice in the folder "
                f"and in the cohort's tables, until {place.name}{SEG} is taken away; --series all gives a series one "
                "name from its first run on"
            )


def _in_dataset(case: Case) -> Case:
    """The case named from the root of its BIDS dataset, unless its name begins there or above; others as they are."""
    name = PurePosixPath(case.name)
    folder = Path(os.path.abspath(case.beside / name.parent))  # noqa: PTH100 - links are followed nowhere here
    match = DATASET.search(folder.as_posix())
    if match is None:
        return case
    full = PurePosixPath(match["folders"], name.name)
    if len(full.parts) <= len(name.parts):
        return case
    return replace(case, name=str(full), beside=folder.parents[len(full.parts) - 2])


def distinct(found: Sequence[Case], output: Path | None) -> list[Case]:
    """The cases, the same input once; refused when two inputs would make one output. One with a fault makes none.

    The same files are one input however they were found, by name or in a folder: the name that comes first counts.
    """
    inputs: dict[object, Case] = {}
    for case in map(_nameable, found):
        inputs.setdefault(_input(case), case)
    owners: dict[object, Case] = {}
    for case in inputs.values():
        target = (output or case.beside) / f"{case.name}{SEG}.nii.gz"
        if case.fault is None and (other := owners.setdefault(key_of(target), case)) is not case:
            raise one_name(other, case, target.name)
    return list(inputs.values())


def _nameable(case: Case) -> Case:
    """The case, refused where its name is no text, or nothing."""
    if case.fault is not None:
        return case
    for name in (*(path.name for path in case.paths), case.name):
        shown = os.fsencode(name).decode("utf-8", "backslashreplace")  # caf\xe9.nii.gz
        if shown != name and shown.encode() == os.fsencode(name):
            reads = sys.getfilesystemencoding()
            told = f"{case.paths[0].name}: the name is UTF-8 ({shown}), and Python reads names as {reads} here"
            return replace(case, fault=InputError(told, hint="set LC_ALL=C.UTF-8, or PYTHONUTF8=1"))
        if shown != name:
            told = f"{case.paths[0].name}: the name is not UTF-8 ({shown}), so tables and records cannot hold it"
            return replace(case, fault=InputError(told, hint="rename it"))
    if case.paths[0].name.lower() in endings() or not Path(case.name).name.strip("."):
        told = f"{case.paths[0].name}: the name is all ending, so its outputs would be hidden files without a name"
        return replace(case, fault=InputError(told, hint="rename it"))
    return case


def _input(case: Case) -> tuple[object, ...]:
    """Equal for two cases that are one, however their paths are spelt and whether or not that was told of a fault."""
    places = tuple(os.path.abspath(path) for path in case.paths)  # noqa: PTH100 - links are followed nowhere here
    if case.fault is not None:  # of several in an archive each has a name
        return places, PurePosixPath(case.name).name
    return places, case.series, case.volume


def shard(found: Sequence[Case], part: str) -> list[Case]:
    """Every n-th case: "3/16" is the third of sixteen parts; "slurm" reads the job array's variables.

    The parts are disjoint and together hold all cases, whatever their number.
    """
    if part == "slurm":
        first, step = _slurm("MIN", "0"), _slurm("STEP", "1") or 1
        index, count = (_slurm("ID") - first) // step, _slurm("COUNT")
    else:
        match = re.fullmatch(r"(\d+)/(\d+)", part)
        if not match:
            raise UsageError(f"--shard {part}: not of the form 3/16")
        index, count = int(match[1]) - 1, int(match[2])
    if not 0 <= index < count:
        gaps = "an --array with gaps has no equal parts: give --shard N/16 with the number of the part"
        told = f"--shard {part}: the part {index + 1} is not among 1 to {count}"
        raise UsageError(told, hint=gaps if part == "slurm" else None)
    return list(found[index::count])


def _slurm(name: str, default: str | None = None) -> int:
    """A number that a SLURM job array says of itself; UsageError where it is not set, or no number."""
    name = f"SLURM_ARRAY_TASK_{name}"
    text = os.environ.get(name, default)
    try:
        if text is not None:
            return int(text)
        told = f"{name} is not set"
    except ValueError:
        told = f"{name} is no number: {text!r}"
    raise UsageError(f"--shard slurm: {told}", hint="submit with `sbatch --array=0-15`, or give --shard 3/16")


def listed(data: bytes, null: bool) -> list[str]:
    """The names in a list of inputs: one a line, or between NULs; blank lines and a byte order mark are nothing.

    There are no comments: a name may begin with #.

    A list in UTF-16 is one too: the PowerShell that comes with Windows writes such.

    errors   InputError: one that is to be read in the other way; on Windows, a list in another encoding
    """
    try:
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            data = data.decode("utf-16").encode()
        data = data.removeprefix(codecs.BOM_UTF8)
        if not null and b"\0" in data:
            hint = "-0 reads such a list; a scan itself is no list"
            raise InputError("the list of inputs has NULs between its names", hint=hint)
        if null and b"\0" not in data and b"\n" in data:
            raise InputError("the list of inputs has lines, and no NUL", hint="without -0 each line is a name")
        parts = data.split(b"\0") if null else data.splitlines()
        return [os.fsdecode(p) for p in parts if p.strip()]
    except UnicodeDecodeError as error:
        hint = "write it in UTF-8"
        raise InputError("the list of inputs: a name in it is in neither UTF-8 nor UTF-16", hint=hint) from error


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


def _matches(text: str) -> list[str]:
    """What a pattern matches, outputs of segcli left out; any other text, and one that matches nothing, is itself."""
    if os.path.lexists(text) or not glob.has_magic(text):
        return [text]
    matches = sorted(glob.glob(text, recursive=True))  # noqa: PTH207 - patterns may be absolute
    return [m for m in matches if os.path.isdir(m) or not is_own(Path(m))] or [text]  # noqa: PTH112


def _expand(text: str, search: Search) -> list[Case]:
    path = Path(text)
    if not os.path.lexists(path) and glob.has_magic(text):
        what = "only outputs of segcli match" if glob.glob(text, recursive=True) else "nothing matches"  # noqa: PTH207
        raise InputMissing(f"{text}: {what} the pattern", hint="check the pattern")
    _exists(path, text)
    if not path.is_dir():
        if is_own(path):
            raise InputError(f"{path.name}: is an output of segcli", hint="name the scan it was made from")
        if is_collection(path):
            return in_file(path, search)
        return [Case(stem(path), (path,), path.parent, search.select.of_series, search.volume)]
    return in_tree(path, search)


def _exists(path: Path, text: str) -> None:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        address = re.match("[a-z]+://", text)
        hint = "an address is no file: fetch it first, as `segcli help dicom` shows" if address else "check the name"
        if text.lstrip().startswith("#"):
            hint += "; a list has no comments: each of its lines is an input"
        if os.path.lexists(text.strip(" \t\"'")):
            hint = "there is such a file without the spaces or quotation marks around the name"
        hint = "`segcli predict - -o FOLDER` takes a scan from stdin, and `segcli info -`" if text == "-" else hint
        raise InputMissing(f"{text}: no such file or folder", hint=hint) from None
    except ValueError as error:  # a list may hold bytes that no name has
        raise InputError(f"{text}: not a file name: {error}") from None
    if not path.exists():
        raise broken_link(path, text)
