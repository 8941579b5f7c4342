"""What NRRD and MetaImage share: a text header with the voxels behind it or in a file beside it.

The headers are read here and not by ITK, which follows a detached header to any path, fills what is missing and
straightens sheared axes. Both may state LPS, segcli's own world.
"""

from __future__ import annotations

import math
import unicodedata
from codecs import BOM_UTF8
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcli.errors import InputError, OutputError
from segcli.formats import streams
from segcli.formats.several import Held, only, taken
from segcli.formats.table import Wanted
from segcli.space.volume import Grid, Source, Volume, Voxels
from segcli.system import is_plain

HEADER_LIMIT = 1 << 20  # bytes; no header of one image is longer
_UNITS = {
    1.0: "mm, millimetre, millimeter",
    1e-3: "um, \N{MICRO SIGN}m, \N{GREEK SMALL LETTER MU}m, micron, micrometre, micrometer",
    10.0: "cm, centimetre, centimeter",
    1e3: "m, metre, meter",
}
MILLIMETRES = {name: mm for mm, names in _UNITS.items() for name in names.split(", ")}  # of one such unit


@dataclass(frozen=True)
class Stored:
    """Where and how the voxels are stored.

    path      the header's own file or the one beside it
    start     bytes before the voxels, or before the packed stream that holds them
    skip      bytes in the stream before the voxels
    text      whether they are numbers in decimal digits; slope, inter: what a stored value is multiplied with, and what
              is added then
    channels  how many values each voxel has, and at which axis (0 .. 3, as an array's) they lie in the file
    series    whether each of these is a volume by itself, as of a time series
    """

    path: Path
    dtype: np.dtype[Any]
    start: int
    skip: int
    packed: bool
    text: bool = False
    slope: float = 1.0
    inter: float = 0.0
    channels: int = 1
    axis: int = 0
    series: bool = False


Parse = Callable[[Path, bytes], tuple[Grid, Stored, str, list[str]]]  # grid, voxels, the format's name, warnings


def read(path: Path, wanted: Wanted, parse: Parse) -> Volume:
    """The voxels of a file on their grid: (C, D, H, W), as `wanted` asks for them."""
    grid, source, voxels = examine(path, parse)
    count, many = voxels.channels, "volumes" if voxels.series else "values for each voxel"
    chosen = taken(
        path.name, Held(count, f"an image with {count} {many}", voxels.series), wanted.channels, wanted.volume
    )
    wanted.seen(grid)
    warnings: list[str] = []
    shape = [*grid.shape]
    shape.insert(voxels.axis, voxels.channels)
    if voxels.text:
        data = _text_voxels(voxels, shape, warnings)
    else:
        data = streams.read_voxels(
            voxels.path,
            voxels.dtype,
            tuple(shape),
            offset=voxels.skip if voxels.packed else voxels.start,
            start=voxels.start,
            packed=voxels.packed,
            warnings=warnings,
        )
    data = streams.scale(only(np.moveaxis(data, voxels.axis, 0), chosen), voxels.slope, voxels.inter)
    return Volume(data, grid, Source((path,), source.kind, None, (*source.warnings, *warnings), source.facts))


def to_write(volume: Volume, path: Path) -> Voxels:
    """The voxels of one channel in the byte order in which they are stored."""
    if volume.data.shape[0] != 1:
        raise OutputError(f"{path.name}: {volume.data.shape[0]} channels can only be written as NIfTI")
    return volume.data.astype(volume.data.dtype.newbyteorder("<"), copy=False)


def write(path: Path, header: str, data: Voxels, grid: Grid, parse: Parse, wrap: streams.Wrap) -> Path:
    """Write a header and packed voxels, read back before the file has its name.

    data   (1, D, H, W) as `to_write` gives them; `grid` is theirs, which `parse` is to find again
    """
    return streams.write_whole(
        path, header.encode(), b"", data, wrap=wrap, grid=grid, grid_of=lambda file: examine(file, parse)[0]
    )


def examine(path: Path, parse: Parse) -> tuple[Grid, Source, Stored]:
    """The grid, facts and where the voxels lie, from a checked header."""
    head = beginning(path)
    if head.startswith(streams.GZIP_MAGIC):
        raise InputError(f"{path.name}: an NRRD or MetaImage packed as a whole", hint="unpack it with gunzip first")
    grid, voxels, format_name, warnings = parse(path, head)
    facts = {"format": format_name, "dtype": voxels.dtype.newbyteorder("=").name, "units": "mm"}
    warnings += streams.shear_warning(path, grid)
    return grid, Source((path,), format_name.lower(), None, tuple(warnings), facts), voxels


def beginning(path: Path) -> bytes:
    """The bytes that hold a file's header."""
    with streams.opened(path) as file:
        return file.read(HEADER_LIMIT)


def files_of(path: Path, parse: Parse) -> list[Path]:
    """The file, and the one beside it that holds the voxels of a detached header."""
    return list(dict.fromkeys((path, examine(path, parse)[2].path)))


def text_of(line: bytes) -> str:
    """A header's text in UTF-8; else, as programs on Windows write it, in Latin-1."""
    try:
        return line.removeprefix(BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("latin-1")


def data_file(path: Path, target: str) -> Path:
    """The data file that a header names: a plain file in the header's own folder."""
    unsafe = not is_plain(target.removeprefix("./")) or "\\" in target
    listed = target.upper().startswith("LIST") or "%" in target
    if not unsafe and not listed:
        file = _called(path.parent, target.removeprefix("./"))
        streams.regular_size(file)
        if not file.is_symlink() or file.resolve().parent == path.parent.resolve():
            return file
    raise InputError(
        f"{path.name}: its voxels are said to be in {target!r}, which is not allowed: "
        + ("lists of files are not read" if listed else "the file must lie beside the header, not outside its folder"),
        hint="save the image as one file (.nrrd or .mha)",
    )


def _called(folder: Path, name: str) -> Path:
    """A file of a folder by its name; letters with accents may be written as one character there, or as two (macOS)."""
    if (folder / name).exists() or name.isascii():
        return folder / name
    plain = unicodedata.normalize("NFC", name)
    return next((file for file in folder.iterdir() if unicodedata.normalize("NFC", file.name) == plain), folder / name)


def integer(path: Path, key: str, text: str) -> int:
    """A field of a header as a whole number; InputError, which names the field, where it is none."""
    try:
        return int(text)
    except ValueError:
        raise InputError(f"{path.name}: {key} is {text or 'missing'!r}, not a whole number") from None


def lps_grid(path: Path, shape: tuple[int, int, int], matrix: NDArray[np.float64], origin: NDArray[np.float64]) -> Grid:
    """The grid of a (3, 3) matrix over the file's i, j, k and an origin, both in LPS mm; InputError where it is none.

    shape   (D, H, W): k, j, i
    """
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = matrix[:, ::-1], origin
    try:
        return Grid(shape, affine)
    except ValueError as error:
        raise InputError(f"{path.name}: directions or spacing are singular or not finite: {matrix.tolist()}") from error


def _text_voxels(voxels: Stored, shape: list[int], warnings: list[str]) -> Voxels:
    room = streams.regular_size(voxels.path) - voxels.start
    count = math.prod(shape)
    text = b""
    if room >= 2 * count - 1:  # a digit and a space for each
        with streams.opened(voxels.path) as file:
            file.seek(voxels.start)
            text = file.read()
    words = text.split()
    if len(words) < count:
        raise InputError(
            f"{voxels.path.name}: truncated: the header announces {count:,} voxels, {max(room, 0):,} bytes of "
            f"text with {len(words):,} are there"
        )
    if len(words) == count and not text[-1:].isspace():
        warnings.append(f"{voxels.path.name}: its text ends with its last voxel, of which digits may be missing")
    try:
        return np.array(words[:count]).astype(voxels.dtype).reshape(shape)
    except (ValueError, OverflowError) as error:
        raise InputError(f"{voxels.path.name}: its voxels are not numbers of its type: {error}") from error
