"""Files inside an archive, read where they lie: zip and tar; nothing is unpacked to disk but a packed tar.

No path of an archive is ever used as one: members are only read, so they lead nowhere. Links and devices are no
members. What is announced is compared with what is there before memory is taken, and checksums are checked.
"""

from __future__ import annotations

import io
import shutil
import struct
import tarfile
import tempfile
import threading
import weakref
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from segcli import memory
from segcli.errors import InputError, OutOfMemory
from segcli.formats import streams
from segcli.formats.atomic import temporary_place

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz")  # of the names of such files
_ZIP, _TAR, _TAR_AT = (b"PK\x03\x04", b"PK\x05\x06"), b"ustar", 257
_STORED, _DEFLATED = 0, 8
_END = (1 << 16) + 128  # bytes at the end of a zip in which its last records lie, a comment included
_BLOCK = 512  # bytes: what a tar is made of
_RATIO = 1032  # no deflate stream unpacks to more times its size
_MOST = 1_000_000  # members
_SPARE = 1 << 30  # bytes of the disk that an unpacked tar leaves free


@dataclass(frozen=True, eq=False)
class Unpacked:
    """The tar in a packed one: a temporary file without a name, so that it goes however the process ends.

    size    bytes
    """

    file: BinaryIO
    size: int
    _one: threading.Lock = field(default_factory=threading.Lock)

    def read(self, start: int, count: int) -> bytes:
        """Some of its bytes; threads wait for each other."""
        with self._one:
            self.file.seek(start)
            return self.file.read(count)


@dataclass(frozen=True)
class ArchiveMember:
    """One file in an archive.

    origin  the archive that was named; inside: the member's name in it
    store   what its bytes are in, from `start`, `packed` of them: the archive, or what a packed tar held
    size    bytes of the file; crc: their checksum, None where the archive has none
    """

    origin: Path
    inside: str
    store: Path | Unpacked
    start: int
    packed: int
    size: int
    crc: int | None
    deflated: bool

    @property
    def name(self) -> str:
        return PurePosixPath(self.inside).name

    @property
    def parent(self) -> PurePosixPath:
        return PurePosixPath(self.inside).parent

    @property
    def hidden(self) -> str | None:
        """The hidden folder that it lies in, as the archive calls it; None outside any."""
        return hidden_in(self.inside)

    def head(self, count: int) -> bytes:
        """The first bytes of the file."""
        data = self._bytes(min(self.packed, count + 4096 if self.deflated else count))
        try:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, count) if self.deflated else data
        except zlib.error:
            return b""

    def read(self) -> bytes:
        """All bytes of the file, as many and of the checksum as the archive says."""
        if self.size > memory.available():
            raise OutOfMemory(f"{self.name}: its {self.size / 2**20:,.0f} MiB need more memory than there is")
        data = self._bytes(self.packed)
        if self.deflated:
            unpacking = zlib.decompressobj(-zlib.MAX_WBITS)
            try:
                data = unpacking.decompress(data, self.size + 1)
            except zlib.error as error:
                raise self._corrupt() from error
        if len(data) != self.size or (self.crc is not None and zlib.crc32(data) != self.crc):
            raise self._corrupt()
        return data

    def _bytes(self, count: int) -> bytes:
        """The first of its bytes in the store."""
        if isinstance(self.store, Unpacked):
            return self.store.read(self.start, count)
        with self.store.open("rb") as file:
            file.seek(self.start)
            return file.read(count)

    def _corrupt(self) -> InputError:
        return InputError(
            f"{self.origin.name}: corrupt: {self.name} in it is damaged", hint="make or download the archive again"
        )


Place = Path | ArchiveMember


@contextmanager
def opened(place: Place) -> Iterator[BinaryIO]:
    """A file, or a member as if it were one, open for reading."""
    if isinstance(place, ArchiveMember):
        yield io.BytesIO(place.read())
    else:
        with place.open("rb") as file:
            yield file


def hidden_in(inside: str) -> str | None:
    """The hidden folder in the path of an entry; such are searched in archives as little as on disks."""
    parts = PurePosixPath(inside).parts[:-1]
    at = next((i for i, part in enumerate(parts) if part.startswith(".") and part != ".."), None)
    return None if at is None else "/".join(parts[: at + 1])


def is_archive(path: Path) -> bool:
    """Whether a file starts like a zip or a tar, also a packed one."""
    if not path.is_file():
        return False
    try:
        head = streams.head(path, _BLOCK)
    except InputError:
        return False
    return head.startswith(_ZIP) or head[_TAR_AT:].startswith(_TAR) or _is_old_tar(head)


def _is_old_tar(head: bytes) -> bool:
    """Whether a block is a member's header of a tar from before "ustar" stood in it: by its checksum."""
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def stem(path: Path) -> str:
    """The archive's name without its ending."""
    low = path.name.lower()
    ending = next((e for e in ENDINGS if low.endswith(e) and len(low) > len(e)), "")
    return path.name[: len(path.name) - len(ending)] if ending else path.name


def members(path: Path) -> tuple[tuple[ArchiveMember, ...], tuple[str, ...]]:
    """The files in an archive, in the order of their names, and the names of what else is in it (links, devices).

    errors   InputError: not whole, encrypted, packed in a way that is not read, or announcing more than it can hold
    """
    status = path.stat()
    return _listed(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=2)
def _listed(path: Path, changed: int, size: int) -> tuple[tuple[ArchiveMember, ...], tuple[str, ...]]:
    with streams.reading(path):
        zipped = streams.head(path, 4).startswith(_ZIP)
        found, others = _in_zip(path, size) if zipped else _in_tar(path)
    return tuple(sorted(found, key=lambda m: m.inside)), tuple(others)


def _in_zip(path: Path, size: int) -> tuple[list[ArchiveMember], list[str]]:
    try:
        with zipfile.ZipFile(path) as archive:
            # A list that is damaged may begin at a later entry. Old writers count 65,536 entries as none.
            if (len(archive.infolist()) - _announced(path, size)) % (1 << 16):
                raise ValueError("its list of files has not as many as it should")
            infos = [info for info in archive.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, IndexError, NotImplementedError, ValueError, struct.error) as error:
        raise InputError(f"{path.name}: corrupt or truncated archive: {error}", hint="download it again") from error
    if len(infos) > _MOST or sum(info.compress_size for info in infos) > size:
        raise InputError(f"{path.name}: its entries overlap, or are too many: not an archive that is read")
    found, others = [], []
    with path.open("rb") as file:
        for info in infos:
            if info.flag_bits & 1:
                raise InputError(f"{path.name}: is encrypted", hint="unpack it first")
            if info.compress_type not in (_STORED, _DEFLATED):
                raise InputError(f"{path.name}: is packed by a method that is not read", hint="unpack it first")
            if (info.external_attr >> 28) not in (0, 8):  # neither without a kind, nor a regular file
                others.append(info.filename)
                continue
            deflated = info.compress_type == _DEFLATED
            if info.file_size > (info.compress_size * _RATIO if deflated else info.compress_size):
                raise InputError(f"{path.name}: corrupt: an entry announces more than it can hold")
            file.seek(info.header_offset)
            local = file.read(30)
            if len(local) != 30 or local[:4] != _ZIP[0]:
                raise InputError(f"{path.name}: corrupt: an entry is not where it should be")
            start = info.header_offset + 30 + sum(struct.unpack("<HH", local[26:30]))
            found.append(
                ArchiveMember(path, info.filename, path, start, info.compress_size, info.file_size, info.CRC, deflated)
            )
    return found, others


def _announced(path: Path, size: int) -> int:
    """How many entries a zip says that it has, in the record at its end (APPNOTE.TXT 4.3.14 and 4.3.16)."""
    with path.open("rb") as file:
        file.seek(max(0, size - _END))
        end = file.read()
    at = end.rfind(b"PK\x05\x06")
    count: int = struct.unpack_from("<H", end, at + 10)[0]
    large = end.rfind(b"PK\x06\x06", 0, at)
    return struct.unpack_from("<Q", end, large + 32)[0] if count == 0xFFFF and large >= 0 else count


def _in_tar(path: Path) -> tuple[list[ArchiveMember], list[str]]:
    store = _unpacked(path) if streams.is_gzip(path) else path
    size = store.size if isinstance(store, Unpacked) else store.stat().st_size
    found: list[ArchiveMember] = []
    others: list[str] = []
    end = 0
    try:
        with _opened(store) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for info in archive:
                length = info.size if info.isreg() else 0
                end = info.offset_data + (length + _BLOCK - 1) // _BLOCK * _BLOCK
                if info.isreg() and not info.issparse():
                    found.append(
                        ArchiveMember(path, info.name, store, info.offset_data, info.size, info.size, None, False)
                    )
                elif not info.isdir():
                    others.append(info.name)
                if info.offset_data + length > size or len(found) > _MOST:
                    raise InputError(f"{path.name}: truncated: {info.name} in it is not whole")
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise InputError(f"{path.name}: corrupt or truncated archive: {error}", hint="download it again") from error
    with _opened(store) as file:  # a reader of tar takes a damaged header for the end
        file.seek(end)
        after, last = file.read(_BLOCK), found[-1].name if found else "its start"
    if after.strip(b"\0"):
        raise InputError(f"{path.name}: corrupt: what follows {last} is no entry")
    if len(after) < _BLOCK:  # one that was cut between two entries has no other sign of it
        told = f"{path.name}: truncated: the block that ends an archive does not follow {last}"
        raise InputError(told, hint="copy or download the archive again")
    return found, others


@contextmanager
def _opened(store: Path | Unpacked) -> Iterator[BinaryIO]:
    """A store from its beginning, before others read it."""
    if isinstance(store, Unpacked):
        store.file.seek(0)
        yield store.file
    else:
        with store.open("rb") as file:
            yield file


def _unpacked(path: Path) -> Unpacked:
    folder = temporary_place()
    room, written = shutil.disk_usage(folder).free - _SPARE, 0
    with ExitStack() as stack:
        file = stack.enter_context(tempfile.TemporaryFile(prefix="segcli-"))
        for chunk in streams.unpacked(path, 0, []):
            written += len(chunk)
            if written > room:
                raise InputError(
                    f"{path.name}: unpacks to over {max(room, 0) / 1e9:.1f} GB, which {folder} has no room for",
                    hint="name a larger folder in TMPDIR, or unpack the archive first",
                )
            file.write(chunk)
        found = Unpacked(file, written)
        weakref.finalize(found, stack.pop_all().close)  # when no member refers to it any more
    return found
