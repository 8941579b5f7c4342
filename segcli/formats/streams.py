"""Bytes of scan files: regular files only, whole or refused, never more than announced.

Common image readers fill what is missing with zeros (water, in CT) and follow names to pipes and devices. So nothing
is opened here that is not a regular file, compressed data is read to the end of its stream (which verifies checksum
and length), and what a header announces is compared with what is there before memory is taken.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from segcli import memory, system
from segcli.errors import Denied, InputError, InputMissing, OutOfMemory, OutputError, SegcliError
from segcli.formats.atomic import whole_file
from segcli.formats.strangers import broken_link
from segcli.space.volume import Grid, Voxels

Wrap = Literal["gzip", "zlib"]
GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 20
_NO_STDIN = "`segcli predict -` and `segcli info -` alone read stdin"
_SURPLUS = 1_000_000  # bytes beyond the announced ones that are forgiven
_DEFLATE_RATIO = 1032  # no deflate stream unpacks to more times its size than this
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS


def refusal(error: OSError, path: Path) -> SegcliError:
    """What is said of a file or folder that the system does not let us read: the error's own, else `path`."""
    name = Path(os.fsdecode(error.filename)).name if error.filename is not None else path.name
    if error.errno in (errno.EACCES, errno.EPERM):
        return Denied(f"{name}: cannot be read: permission denied", hint="make it readable for you, or leave it out")
    return InputError(f"{name}: cannot be read: {error.strerror or error}")


def bytes_of(path: Path, kind: type[SegcliError]) -> bytes:
    """A small file's bytes; errors: Denied where they may not be read, and of `kind` whatever else is in the way."""
    try:
        return system.bytes_of(path)
    except OSError as error:
        said = refusal(error, path)
        raise (said if isinstance(said, Denied) else kind(said.message, hint=said.hint)) from error


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn the system's errors about an input into the refusal that names it."""
    try:
        yield
    except SegcliError:
        raise
    except OSError as error:
        raise refusal(error, path) from error


def regular_size(path: Path) -> int:
    """Size in bytes of a regular file; anything else is refused without being opened."""
    found = _status(path)
    if stat.S_ISDIR(found.st_mode):
        raise InputError(f"{path.name}: is a folder, not a file")
    if not stat.S_ISREG(found.st_mode):
        raise InputError(
            f"{path.name}: not a regular file but a {_special(found.st_mode)}", hint="copy it to a file first"
        )
    return found.st_size


def is_folder(path: Path) -> bool:
    return stat.S_ISDIR(_status(path).st_mode)


def _status(path: Path) -> os.stat_result:
    """What the system says of a path, links followed; nothing is opened."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise broken_link(path, path.name) from None
        check = _NO_STDIN if str(path) == "-" else "check the path"
        hint = system.too_long(path) or check
        raise InputMissing(f"{path.name}: no such file or folder", hint=hint) from None
    except PermissionError as error:
        raise refusal(error, path) from error
    except OSError as error:
        raise InputError(f"{path.name}: cannot be opened: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path.name!r}: not a file name: {error}") from error


def head(path: Path, size: int) -> bytes:
    """The first `size` bytes, unpacked if the file is gzip; fewer when the file is shorter."""
    with opened(path) as file:
        start = file.read(size)
    if not start.startswith(GZIP_MAGIC):
        return start
    out = b""
    for chunk in unpacked(path, 0, [], size):
        out += chunk
        if len(out) >= size:
            break
    return out[:size]


def unpacked_size(path: Path, most: int) -> int:
    """How many bytes a file has, unpacked if it is gzip; not counted much beyond `most`."""
    if not is_gzip(path):
        return regular_size(path)
    size = 0
    for chunk in unpacked(path, 0, []):
        size += len(chunk)
        if size >= most:
            break
    return size


def is_gzip(path: Path) -> bool:
    with opened(path) as file:
        return file.read(2) == GZIP_MAGIC


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A regular file, open for reading; the system's errors become a refusal with the file's name."""
    regular_size(path)
    with reading(path), path.open("rb") as file:
        yield file


def read_voxels(
    path: Path,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    *,
    offset: int,
    start: int = 0,
    packed: bool,
    warnings: list[str],
    trailer: bool = False,
) -> Voxels:
    """All voxels of a file, in the machine's byte order.

    dtype     with the file's byte order
    offset    bytes before the voxels: in the unpacked stream, or in the file when it is not packed
    start     where the packed stream begins in the file
    packed    gzip or zlib
    trailer   whether the format may have more after the voxels; otherwise that is a warning
    errors    InputError when one byte is missing, a checksum is wrong or over 1 MB too much is there
    """
    count = int(np.prod(shape, dtype=object)) * dtype.itemsize
    buffer = (_packed if packed else _plain)(path, offset, start, count, warnings, trailer)
    data = buffer.view(dtype).reshape(shape)
    if not dtype.isnative:
        data = data.byteswap(inplace=True).view(dtype.newbyteorder("="))
    return data


def scale(data: Voxels, slope: float, inter: float) -> Voxels:
    """slope * data + inter as float32; a slope of 0 or NaN means unscaled, and then the intercept counts no more.

    Unscaled integers stay what they are up to 32 bits; wider ones become int32 when their values fit, else float32.
    """
    unscaled = slope == 0 or not np.isfinite(slope) or (slope == 1 and inter == 0)
    if unscaled and data.dtype.kind in "iu":
        if data.dtype.itemsize < 4 or data.dtype == np.int32:
            return data
        limits = np.iinfo(np.int32)
        if data.min() >= limits.min and data.max() <= limits.max:
            return data.astype(np.int32)
    if unscaled:
        with np.errstate(over="ignore"):  # beyond float32 is infinite, which is counted and replaced later
            return data.astype(np.float32, copy=False)
    offset = inter if np.isfinite(inter) else 0.0
    scaled = np.empty(data.shape, np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        for index in np.ndindex(data.shape[:2]):  # one slice at a time: float64 for exactness, not for the whole
            scaled[index] = data[index].astype(np.float64) * slope + offset
    return scaled


def shear_warning(path: Path, grid: Grid) -> tuple[str, ...]:
    """What the user should know of a grid that is not right-angled."""
    if not grid.sheared:
        return ()
    return (f"{path.name}: its axes are sheared (cosine {grid.shear:.4f} between two); the shear is processed in full",)


def _plain(path: Path, offset: int, start: int, count: int, warnings: list[str], trailer: bool) -> NDArray[np.uint8]:
    have = regular_size(path) - offset
    if have < count:
        raise _truncated(path, count, max(have, 0))
    if have > count and not trailer:
        warnings.append(f"{path.name}: {have - count:,} bytes more than the header announces; they are ignored")
    buffer = _room(path, count)
    with opened(path) as file:
        file.seek(offset)
        view, filled = buffer.data, 0
        while filled < count:
            got = file.readinto(view[filled : filled + 64 * _CHUNK])  # type: ignore[attr-defined]
            if not got:
                raise _truncated(path, count, filled)
            filled += got
    return buffer


def _packed(path: Path, offset: int, start: int, count: int, warnings: list[str], trailer: bool) -> NDArray[np.uint8]:
    size = regular_size(path) - start
    if offset + count > size * _DEFLATE_RATIO + _CHUNK:
        raise InputError(
            f"{path.name}: truncated: {size:,} packed bytes cannot hold the {count:,} bytes of voxels that the "
            "header announces"
        )
    buffer = _room(path, count)
    view, at = buffer.data, -offset  # `at`: bytes of voxels so far, negative in the header
    for chunk in unpacked(path, start, warnings):
        if at < count and at + len(chunk) > 0:
            part = memoryview(chunk)[max(-at, 0) : count - at]
            view[max(at, 0) : max(at, 0) + len(part)] = part
        at += len(chunk)
        if at > count + _SURPLUS:
            raise InputError(
                f"{path.name}: unpacks to over 1 MB more than the {count:,} bytes of voxels that its header announces"
            )
    if at < count:
        raise _truncated(path, count, max(at, 0))
    if at > count and not trailer:
        warnings.append(f"{path.name}: {at - count:,} bytes more than the header announces; they are ignored")
    return buffer


def unpacked(path: Path, start: int, warnings: list[str], most: int = _CHUNK) -> Iterator[bytes]:
    """The unpacked bytes of a gzip (also of several members) or zlib stream, in chunks of at most `most` bytes.

    zlib checks length and checksum of each member when it reaches the member's end; a stream without its end is
    refused.
    """
    with opened(path) as file:
        file.seek(start)
        decoder, data = zlib.decompressobj(_GZIP_OR_ZLIB), file.read(_CHUNK)
        while True:
            try:
                out = decoder.decompress(data, most)
            except zlib.error as error:
                raise InputError(
                    f"{path.name}: the compressed data is corrupt or truncated ({error})",
                    hint="copy or export the file again",
                ) from error
            if out:
                yield out
            if decoder.eof:
                data = decoder.unused_data
                if len(data) < len(GZIP_MAGIC):
                    data += file.read(_CHUNK)
                data = data.lstrip(b"\0")  # padding, as tapes and some archivers leave it
                if not data:
                    return
                if not data.startswith(GZIP_MAGIC):
                    warnings.append(f"{path.name}: {len(data):,} bytes or more after the compressed data are ignored")
                    return
                decoder = zlib.decompressobj(_GZIP_OR_ZLIB)
                continue
            data = decoder.unconsumed_tail or file.read(_CHUNK)
            if not data and not out:
                raise InputError(
                    f"{path.name}: truncated: the compressed data ends before its end mark",
                    hint="copy or export the file again",
                )


def write_whole(
    path: Path,
    plain: bytes,
    packed: bytes,
    data: Voxels,
    *,
    wrap: Wrap | None,
    grid: Grid,
    grid_of: Callable[[Path], Grid],
) -> Path:
    """Write a header and voxels as one file, read back in full before it gets its name.

    plain    bytes at the start of the file, as they are
    packed   bytes between them and the voxels; with `wrap` they are compressed together with the voxels
    data     voxels in file order and byte order
    grid     where the voxels are, which the header as `grid_of` reads it must say

    There is no name and no time in the gzip header, so equal results are equal bytes.
    """
    pieces = [np.frombuffer(packed, np.uint8)] if packed else []
    pieces.append(np.ascontiguousarray(data).reshape(-1).view(np.uint8))

    def same(temporary: Path) -> bool:
        with system.opened(temporary) as file:
            begins = file.read(len(plain)) == plain
        if not begins or not _equal(_stored(temporary, len(plain), wrap is not None), pieces):
            return False
        try:
            kept = grid_of(temporary).same_as(grid)
        except InputError as error:
            raise OutputError(f"{path.name}: what was written cannot be read again: {error.message}") from error
        if not kept:
            raise OutputError(f"{path.name}: its grid as written is not the scan's grid")
        return True

    with whole_file(path, same) as file:
        file.write(plain)
        for chunk in _chunks(pieces, wrap):
            file.write(chunk)
    return path


def packed_size(data: Voxels, wrap: Wrap) -> int:
    """How many bytes `write_whole` makes of voxels alone."""
    return sum(len(chunk) for chunk in _chunks([np.ascontiguousarray(data).reshape(-1).view(np.uint8)], wrap))


def _chunks(pieces: list[NDArray[np.uint8]], wrap: Wrap | None) -> Iterator[bytes | memoryview]:
    wbits = {"gzip": 16 + zlib.MAX_WBITS, "zlib": zlib.MAX_WBITS}
    encoder = zlib.compressobj(1, zlib.DEFLATED, wbits[wrap]) if wrap else None
    for piece in pieces:
        for at in range(0, piece.size, _CHUNK):
            part = piece[at : at + _CHUNK].data
            yield encoder.compress(part) if encoder else part
    if encoder:
        yield encoder.flush()


def _stored(path: Path, start: int, packed: bool) -> Iterator[bytes]:
    if packed:
        yield from unpacked(path, start, [])
        return
    with system.opened(path) as file:
        file.seek(start)
        while chunk := file.read(_CHUNK):
            yield chunk


def _equal(chunks: Iterator[bytes], pieces: list[NDArray[np.uint8]]) -> bool:
    """Whether the chunks, one after another, are the pieces, one after another."""
    left = list(pieces)
    for chunk in chunks:
        view = np.frombuffer(chunk, np.uint8)
        while view.size:
            if not left:
                return False
            size = min(view.size, left[0].size)
            if not np.array_equal(view[:size], left[0][:size]):
                return False
            view, left[0] = view[size:], left[0][size:]
            if not left[0].size:
                left.pop(0)
    return not left


def _truncated(path: Path, want: int, have: int) -> InputError:
    return InputError(
        f"{path.name}: truncated: the header announces {want:,} bytes of voxels, {have:,} are there",
        hint="copy or export the file again",
    )


def _room(path: Path, count: int) -> NDArray[np.uint8]:
    """Memory for the voxels; refused before it is taken when the machine has less."""
    free = memory.available()
    if count > free:
        raise OutOfMemory(
            f"{path.name}: too large: its voxels need {count / 2**20:,.0f} MiB of memory, {free / 2**20:,.0f} are free",
            hint=memory.remedy("close other programs, or use a machine with more memory"),
        )
    return np.empty(count, np.uint8)


def _special(mode: int) -> str:
    kinds = {stat.S_ISFIFO: "named pipe", stat.S_ISSOCK: "socket", stat.S_ISCHR: "device", stat.S_ISBLK: "device"}
    return next((name for test, name in kinds.items() if test(mode)), "special file")
