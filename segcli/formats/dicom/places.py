"""Where DICOM files lie: below a folder, in an archive, or where the index of a medium (DICOMDIR) says.

Each file is looked at here before a library does: a reader that meets a dead link or a pipe in a folder may lose the
slices behind it.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from filecmp import cmp
from pathlib import Path
from typing import Literal

from segcli.errors import Denied, InputError, SegcliError
from segcli.formats import streams
from segcli.formats.atomic import is_partial
from segcli.formats.dicom import archive
from segcli.formats.dicom.archive import ArchiveMember, Place
from segcli.formats.walk import walk

INSIDE = " (inside: "  # between the names of an archive and of what is in it and cannot be read
DICOMDIR_CLASS = "1.2.840.10008.1.3.10"
_VRS = frozenset(  # two letters each
    b"AEASATCSDADSDTFDFLISLOLTOBOWPNSHSLSQSSSTTMUIULUNUSUT"[i : i + 2] for i in range(0, 52, 2)
)
Stray = Callable[[Place, SegcliError], object]  # told of a file or folder that may hold slices and cannot be read


def printable(text: str) -> str:
    """The text without control characters and undecodable bytes, so that a terminal shows what is there."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() and not 0xD800 <= ord(c) < 0xE000 else "?" for c in text)


@contextmanager
def reachable(place: Place) -> Iterator[None]:
    """Turn the system's errors about a file into Denied or InputError that name it."""
    try:
        yield
    except SegcliError:
        raise
    except PermissionError as error:
        raise Denied(f"{printable(place.name)}: permission denied", hint="make the file readable for you") from error
    except OSError as error:
        raise InputError(
            f"{printable(place.name)}: cannot be read: {error.strerror or error}",
            hint="check the disk or the network drive, or copy the file again",
        ) from error


def unlisted(folder: Path, error: OSError) -> SegcliError:
    """The refusal of a folder that cannot be listed."""
    told = f"{printable(folder.name)}: the folder cannot be read"
    if isinstance(error, PermissionError):
        return Denied(f"{told}: permission denied", hint="make the folder readable for you")
    hint = "check the disk or the network drive, and run it again"
    return InputError(f"{told}: {error.strerror or error}", hint=hint)


def at_once(place: Place, error: SegcliError) -> None:
    """Refuse all for what cannot be read."""
    raise error


def is_collection(path: Path) -> bool:
    """Whether a file stands for DICOM files: an index, or an archive that holds one, be it in a hidden folder."""
    if not path.is_file():
        return False
    return _is_index(path) or (archive.is_archive(path) and any(kind_of(m) is None for m in archive.members(path)[0]))


def looks_like(path: Path) -> bool:
    """Whether a file starts like DICOM, or a folder or archive holds a file that does."""
    if path.is_dir() or archive.is_archive(path):
        return any(kind_of(p) is None for p in every_file(path))
    return path.exists() and kind_of(path) is None


def every_file(path: Path, stray: Stray = at_once) -> Iterator[Place]:
    """Every file that a folder, an archive or an index stands for; see `files_below` and `_indexed`."""
    if path.is_dir():
        yield from files_below(path, stray)
    elif archive.is_archive(path):
        found, others = archive.members(path)
        yield from (member for member in found if member.hidden is None)
        for name in (name for name in others if archive.hidden_in(name) is None):
            yield path.parent / f"{path.name}{INSIDE}{Path(name).name})"  # a link or a device: never opened
    else:
        yield from _indexed(path)


def files_below(folder: Path, stray: Stray = at_once) -> Iterator[Path]:
    """Every entry below a folder that is not a folder, in the order of names; of links to folders see `walk`.

    stray    gets the refusal of a folder that cannot be listed: slices might lie there
    """

    def refuse(error: OSError) -> None:
        path = Path(error.filename or folder)
        stray(path, unlisted(path, error))

    for here, _, files in walk(folder, refuse):
        yield from (here / name for name in files)


def _is_index(path: Path) -> bool:
    """Whether a file is the index of a medium."""
    with streams.opened(path) as file:
        head = file.read(1024)
    return head[128:132] == b"DICM" and DICOMDIR_CLASS.encode() in head


def _indexed(path: Path) -> Iterator[Path]:
    """The files that an index names, all of which lie below its folder.

    The case of their names does not matter, nor .dcm at their end, or the dot and the version that some discs add.

    errors   InputError: one is not there, so that a slice at an end could be missing without a gap; or several that
             differ may be it
    """
    import pydicom

    exact: dict[str, list[Path]] = {}
    alike: dict[str, list[Path]] = {}
    for file in files_below(path.parent):
        name = file.relative_to(path.parent).as_posix().lower()
        exact.setdefault(name, []).append(file)
        alike.setdefault(_plain(name), []).append(file)
    below = alike | exact
    try:
        records = pydicom.dcmread(path).DirectoryRecordSequence
        named = [record.ReferencedFileID for record in records if record.get("ReferencedFileID")]
    except Exception as error:  # pydicom lets errors of all kinds through for broken files
        raise InputError(f"{path.name}: corrupt: the index cannot be read ({type(error).__name__})") from error
    wanted = ["/".join([name] if isinstance(name, str) else name).lower() for name in named]
    if not wanted:
        raise InputError(f"{path.name}: an index (DICOMDIR) that names no files", hint="give the folder instead")
    missing = [name for name in wanted if name not in below]
    if missing:
        raise InputError(
            f"{path.name}: {len(missing)} of the {len(wanted)} files that the index names are not below its folder",
            hint="copy the whole medium, or give the folder instead",
        )
    for name in sorted(set(wanted)):
        first, *others = below[name]
        for other in others:
            with reachable(other):
                equal = cmp(first, other, shallow=False)
            if not equal:
                told = f"{path.name}: {printable(first.name)} and {printable(other.name)} differ, and either may be"
                raise InputError(f"{told} the {name} that it names", hint="take one of them away")
        yield first


def _plain(name: str) -> str:
    """A file's name as an index has it, without ending and version (PS3.10 8.2): "im1" of "im1.dcm" or "im1.;1"."""
    return re.sub(r"(\.(dcm)?)?(;\d+)?\Z", "", name)


def kind_of(place: Place) -> str | None:
    """Why a file cannot be DICOM, None for one that starts like DICOM; only its first bytes are read."""
    if is_partial(place.name):
        return "a temporary file of segcli"
    if isinstance(place, ArchiveMember):
        head = place.head(140)
    else:
        try:
            mode = place.stat().st_mode
        except PermissionError as error:
            hint = "make its folder readable for you"
            raise Denied(f"{printable(place.name)}: permission denied", hint=hint) from error
        except OSError:
            return "a link that leads nowhere" if place.is_symlink() else "not found"
        if not stat.S_ISREG(mode):
            return "a link to a folder" if stat.S_ISDIR(mode) else "not a regular file"
        with reachable(place), place.open("rb") as file:
            head = file.read(140)
    if not head:
        return "empty"
    return None if head[128:132] == b"DICM" or bare(head) or _spoilt(head) else "not DICOM"


def _spoilt(head: bytes) -> bool:
    """Whether bytes are what a failed copy leaves of a DICOM file: only zeros, or a preamble with a damaged mark."""
    return not head.strip(b"\0") or head[132:138] == b"\2\0\0\0UL"


def bare(head: bytes) -> bool:
    """Whether bytes start like a data set without preamble: a first tag of group 0002 or 0008, VR or length sane."""
    if len(head) < 8:
        return False
    orders: tuple[Literal["little", "big"], ...] = ("little", "big")
    for order in orders:
        group, element, length = (int.from_bytes(head[a:b], order) for a, b in ((0, 2), (2, 4), (4, 8)))
        if (group, element) in ((2, 0), (2, 1), (8, 0), (8, 1), (8, 5), (8, 6), (8, 8), (8, 0x16), (8, 0x18)):
            return head[4:6] in _VRS or (order == "little" and length <= 1024 and length % 2 == 0)
    return False
