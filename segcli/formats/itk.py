"""NRRD (.nrrd, .nhdr) and MetaImage (.mha, .mhd).

Both are a text header with the voxels behind it or in a file beside it. The headers are read here and not by ITK,
which follows a detached header to any path, fills what is missing and straightens sheared axes.
Formats: teem.sourceforge.net/nrrd/format.html; ITK's MetaIO documentation. Both may state LPS, segcli's own world.
"""

from __future__ import annotations

import math
import re
import unicodedata
from codecs import BOM_UTF8
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcli.errors import InputError, OutputError
from segcli.formats import streams, tables
from segcli.formats.several import Held, only, taken
from segcli.formats.table import Format, Seen, unseen
from segcli.space.volume import Grid, Source, Volume, Voxels
from segcli.structures import Label
from segcli.system import is_plain

_HEADER_LIMIT = 1 << 20  # bytes; no header of one image is longer

_NRRD_TYPES = {
    "u1": "uchar, unsigned char, uint8, uint8_t",
    "i1": "signed char, int8, int8_t",
    "i2": "short, short int, signed short, signed short int, int16, int16_t",
    "u2": "ushort, unsigned short, unsigned short int, uint16, uint16_t",
    "i4": "int, signed int, int32, int32_t",
    "u4": "uint, unsigned int, uint32, uint32_t",
    "i8": "longlong, long long, long long int, signed long long, signed long long int, int64, int64_t",
    "u8": "ulonglong, unsigned long long, unsigned long long int, uint64, uint64_t",
    "f4": "float",
    "f8": "double",
}
_NRRD_DTYPES = {name: dtype for dtype, names in _NRRD_TYPES.items() for name in names.split(", ")}
_NRRD_NAMES = {np.dtype(dtype).name: names.split(", ")[0] for dtype, names in _NRRD_TYPES.items()}
_META_DTYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_LONG": "i4",  # four bytes on every machine, says MetaIO
    "MET_ULONG": "u4",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_META_NAMES = {np.dtype(dtype).name: name for name, dtype in _META_DTYPES.items()}
# LPS = sign * stated coordinates
_SPACES = {
    "left-posterior-superior": (1, 1, 1),
    "lps": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1),
    "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
    "las": (1, -1, 1),
}
# What an axis beside the three of space may be: a number of its own for each channel, and no colour or tensor.
_CHANNEL_KINDS = re.compile(r"list|vector|\d-vector|covariant-vector|time|none|\?\?\?|domain")
_SERIES_KINDS = ("list", "time", "domain")  # those of an axis along which volumes follow one another
_UNITS = {
    1.0: "mm, millimetre, millimeter",
    1e-3: "um, \N{MICRO SIGN}m, \N{GREEK SMALL LETTER MU}m, micron, micrometre, micrometer",
    10.0: "cm, centimetre, centimeter",
    1e3: "m, metre, meter",
}
_MILLIMETRES = {name: mm for mm, names in _UNITS.items() for name in names.split(", ")}  # of one such unit


@dataclass(frozen=True)
class _Voxels:
    """Where and how the voxels are stored.

    path     the header's own file or the one beside it
    channels how many values each voxel has, and at which axis (0 .. 3, as an array's) they lie in the file
    series   whether each of these is a volume by itself, as of a time series
    start    bytes before the voxels, or before the packed stream that holds them
    skip     bytes in the stream before the voxels
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


def read(path: Path, *, channels: int = 1, volume: int | None = None, seen: Seen = unseen) -> Volume:
    """The voxels of a file on their grid: (C, D, H, W). `seen` is told the grid before.

    channels  how many values for each voxel, or volumes, are taken for the channels of one scan
    volume    which of several volumes is read, from 1
    """
    grid, source, voxels = examine(path)
    count, many = voxels.channels, "volumes" if voxels.series else "values for each voxel"
    chosen = taken(path.name, Held(count, f"an image with {count} {many}", voxels.series), channels, volume)
    seen(grid)
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
    return Volume(data, grid, Source((path,), "itk", None, (*source.warnings, *warnings), source.facts))


def write(volume: Volume, path: Path, names: Sequence[Label] = ()) -> Path:
    """Write one channel, packed, in the format of the name's ending; read back before it has its name.

    names   of the labels, which go into an NRRD as 3D Slicer's segments
    """
    if volume.data.shape[0] != 1:
        raise OutputError(f"{path.name}: {volume.data.shape[0]} channels can only be written as NIfTI")
    data = volume.data.astype(volume.data.dtype.newbyteorder("<"), copy=False)

    def check(temporary: Path) -> None:
        if not examine(temporary)[0].same_as(volume.grid):
            raise OutputError(f"{path.name}: its grid as written is not the scan's grid")

    if not path.name.lower().endswith(".mha"):
        header = (_nrrd_header(volume) + tables.segments(names, volume.grid.shape) + "\n").encode()
        return streams.write_whole(path, header, b"", data, wrap="gzip", check=check)
    # ITK reads noise unless the header says how many packed bytes follow
    header = _meta_header(volume, streams.packed_size(data, "zlib")).encode()
    return streams.write_whole(path, header, b"", data, wrap="zlib", check=check)


def examine(path: Path) -> tuple[Grid, Source, _Voxels]:
    """The grid, facts and where the voxels lie, from a checked header."""
    with streams.opened(path) as file:
        head = file.read(_HEADER_LIMIT)
    if head.startswith(streams.GZIP_MAGIC):
        raise InputError(f"{path.name}: an NRRD or MetaImage packed as a whole", hint="unpack it with gunzip first")
    grid, voxels, format_name, warnings = (_nrrd if _is_nrrd(head) else _meta)(path, head)
    facts = {"format": format_name, "dtype": voxels.dtype.newbyteorder("=").name, "units": "mm"}
    return grid, Source((path,), "itk", None, (*warnings, *streams.shear_warning(path, grid)), facts), voxels


def files_of(path: Path) -> list[Path]:
    """The file, and the one beside it that holds the voxels of a detached header."""
    return list(dict.fromkeys((path, examine(path)[2].path)))


def segment_names(path: Path) -> dict[int, str]:
    """Value -> name of the segments that 3D Slicer's keys in the header of an NRRD state; nothing of any other file."""
    if streams.is_folder(path):
        return {}
    with streams.opened(path) as file:
        head = file.read(_HEADER_LIMIT)
    if not _is_nrrd(head):
        return {}
    text = re.split(rb"\r?\n\r?\n", head, maxsplit=1)[0].decode("utf-8", "replace")
    found = dict(re.findall(r"^(Segment\d+_(?:Name|LabelValue)):=(.*?)\r?$", text, re.M))
    values = {key.removesuffix("_LabelValue"): value for key, value in found.items() if key.endswith("_LabelValue")}
    return {
        int(value): found[f"{segment}_Name"].replace("\\\\", "\\")
        for segment, value in values.items()
        if re.fullmatch(r"-?\d{1,10}", value) and f"{segment}_Name" in found
    }


def _is_nrrd(head: bytes) -> bool:
    return head.removeprefix(BOM_UTF8).startswith(b"NRRD000")


def _is_meta(head: bytes) -> bool:
    return re.match(rb"\s*(ObjectType|NDims|Comment|ObjectSubType)\s*=", head.removeprefix(BOM_UTF8)) is not None


def _text(line: bytes) -> str:
    """A header's text in UTF-8; else, as programs on Windows write it, in Latin-1."""
    try:
        return line.removeprefix(BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("latin-1")


# NRRD ---------------------------------------------------------------------------------------------------------------


def _nrrd(path: Path, head: bytes) -> tuple[Grid, _Voxels, str, list[str]]:
    fields, length = _nrrd_fields(path, head)
    sizes = [_integer(path, "sizes", n) for n in fields.get("sizes", "").split()]
    if min(sizes, default=0) < 1:
        raise InputError(
            f"{path.name}: a dimension of {min(sizes, default=0)} voxels: sizes {fields.get('sizes', 'missing')}"
        )
    kind = fields.get("type", "").lower()
    if kind not in _NRRD_DTYPES:
        raise InputError(f"{path.name}: data type {kind!r} is not one real number per voxel")
    grid, axis, kind_of_axis = _nrrd_grid(path, fields, sizes)
    count = int(np.prod(sizes, dtype=object)) // grid.size
    dtype = np.dtype(_NRRD_DTYPES[kind])
    encoding = fields.get("encoding", "").lower()
    if encoding not in ("raw", "gzip", "gz", "txt", "text", "ascii"):
        raise InputError(f"{path.name}: encoding {encoding!r} is not supported", hint="save it as raw or gzip")
    packed, text = encoding in ("gzip", "gz"), encoding in ("txt", "text", "ascii")
    if dtype.itemsize > 1 and not text:
        endian = fields.get("endian", "").lower()
        if endian not in ("little", "big"):
            raise InputError(f"{path.name}: endian is {endian!r}; its {dtype.itemsize}-byte voxels need little or big")
        dtype = dtype.newbyteorder("<" if endian == "little" else ">")
    file, start = path, length
    if "data file" in fields:
        file, start = _beside(path, fields["data file"]), 0
    if _integer(path, "line skip", fields.get("line skip", "0")):
        raise InputError(f"{path.name}: 'line skip' is not supported", hint="save it without a foreign header")
    skip = _integer(path, "byte skip", fields.get("byte skip", "0"))
    if skip == -1 and encoding == "raw":
        start = max(streams.regular_size(file) - dtype.itemsize * int(np.prod(sizes, dtype=object)), start)
        skip = 0
    if skip < 0:
        raise InputError(f"{path.name}: 'byte skip' of {skip} bytes")
    start += 0 if packed else skip
    series = kind_of_axis in _SERIES_KINDS
    voxels = _Voxels(file, dtype, start, skip, packed, text, channels=count, axis=axis, series=series)
    return grid, voxels, "NRRD", _quantised(path, fields)


def _quantised(path: Path, fields: dict[str, str]) -> list[str]:
    """A warning where the values are said to have been others before they were stored."""
    said = {key: fields.get(key) or fields.get(key.replace(" ", "")) for key in ("old min", "old max")}
    if not any(said.values()):
        return []
    shown = ", ".join(f"{key} {value}" for key, value in said.items() if value)
    return [f"{path.name}: its values were once others ({shown}); they are taken as they are stored"]


def _nrrd_fields(path: Path, head: bytes) -> tuple[dict[str, str], int]:
    """The `field: value` lines, and the length of the header with its blank line."""
    end = re.search(rb"\r?\n\r?\n", head)
    text = head[: end.start()] if end else head
    if end is None and b"data file" not in head and b"datafile" not in head:
        raise InputError(f"{path.name}: truncated: the NRRD header has no end (a blank line)")
    fields: dict[str, str] = {}
    for line in _text(text).split("\n")[1:]:
        key, colon, value = line.partition(":")
        if colon and not line.startswith("#") and not value.startswith("="):
            key, value = key.strip().lower(), value.strip()
            if fields.setdefault(key, value) != value:
                raise InputError(f"{path.name}: its header says two things of {key}: {fields[key]!r} and {value!r}")
    for name, alias in (("data file", "datafile"), ("byte skip", "byteskip"), ("line skip", "lineskip")):
        if alias in fields:
            fields[name] = fields.pop(alias)
    return fields, end.end() if end else len(head)


def _nrrd_grid(path: Path, fields: dict[str, str], sizes: list[int]) -> tuple[Grid, int, str]:
    """The grid, the axis of the array that channels lie along, and of which kind that is said to be."""
    space = fields.get("space", "").lower()
    if space not in _SPACES:
        raise InputError(
            f"{path.name}: its orientation is not stated: space is {space or 'missing'!r}, "
            "not left-posterior-superior, RAS or LAS"
        )
    directions = re.findall(r"none|\([^)]*\)", fields.get("space directions", "").lower())
    if len(directions) != len(sizes):
        raise InputError(f"{path.name}: {len(sizes)} dimensions but {len(directions)} space directions")
    kinds = fields.get("kinds", "").lower().split()
    extra = [n for n, d in enumerate(directions) if d == "none" and sizes[n] > 1]
    plain = all(n >= len(kinds) or _CHANNEL_KINDS.fullmatch(kinds[n]) for n in extra)
    if len(directions) - directions.count("none") != 3 or len(extra) > 1 or not plain:
        raise InputError(
            f"{path.name}: a {len(sizes)}-D image of {' x '.join(map(str, sizes))} "
            f"(kinds: {fields.get('kinds', 'not stated')}); a 3-D volume of plain numbers is expected"
        )
    axis = sum(d != "none" for d in directions[extra[0] :]) if extra else 0  # the file's first axis is the array's last
    stated = kinds[extra[0]] if extra and extra[0] < len(kinds) else ""
    factor = _nrrd_unit(path, fields)
    matrix = np.array([_vector(path, "a space direction", d) for d in directions if d != "none"]).T * factor
    origin = np.array(_vector(path, "space origin", fields.get("space origin", ""))) * factor
    i, j, k = (n for n, d in zip(sizes, directions, strict=True) if d != "none")
    return _grid(path, (k, j, i), np.diag(_SPACES[space]) @ matrix, np.array(_SPACES[space]) * origin), axis, stated


def _nrrd_unit(path: Path, fields: dict[str, str]) -> float:
    units = {unit.removesuffix("s") for unit in re.findall(r'"([^"]*)"', fields.get("space units", ""))} - {""}
    if len(units) > 1 or any(u not in _MILLIMETRES for u in units):
        raise InputError(
            f"{path.name}: space units {fields['space units']} are not one unit of length for all axes, of those that "
            "are known here: mm, um, cm, m"
        )
    return _MILLIMETRES[units.pop()] if units else 1.0


def _vector(path: Path, key: str, text: str) -> list[float]:
    try:
        numbers = [float(x) for x in text.strip("() ").split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 3:
        raise InputError(f"{path.name}: {key} is {text or 'missing'!r}, not three numbers")
    return numbers


def _nrrd_header(volume: Volume) -> str:
    def vector(v: NDArray[np.float64]) -> str:
        return "(" + ",".join(repr(float(x)) for x in v) + ")"

    affine, (d, h, w) = volume.grid.affine, volume.grid.shape
    return (
        "NRRD0004\n"
        f"type: {_NRRD_NAMES[volume.data.dtype.name]}\n"
        "dimension: 3\n"
        "space: left-posterior-superior\n"
        f"sizes: {w} {h} {d}\n"
        f"space directions: {vector(affine[:3, 2])} {vector(affine[:3, 1])} {vector(affine[:3, 0])}\n"
        "kinds: domain domain domain\n"
        "endian: little\n"
        "encoding: gzip\n"
        f"space origin: {vector(affine[:3, 3])}\n"
    )


# MetaImage ----------------------------------------------------------------------------------------------------------


def _meta(path: Path, head: bytes) -> tuple[Grid, _Voxels, str, list[str]]:
    fields, length = _meta_fields(path, head)
    if fields.get("objecttype", "image").lower() != "image":
        raise InputError(f"{path.name}: a MetaIO {fields['objecttype']}, not an image")
    sizes = [_integer(path, "DimSize", n) for n in fields.get("dimsize", "").split()]
    dims = _integer(path, "NDims", fields.get("ndims", ""))
    if dims != len(sizes) or min(sizes, default=0) < 1:
        raise InputError(f"{path.name}: {dims} dimensions with sizes {fields.get('dimsize', 'missing')}")
    components = _integer(path, "ElementNumberOfChannels", fields.get("elementnumberofchannels", "1"))
    lists = [n for n in (components, *sizes[3:]) if n != 1]
    if dims < 3 or len(lists) > 1 or components < 1:
        raise InputError(
            f"{path.name}: a {dims}-D image of {' x '.join(map(str, sizes))} with {components} components per voxel; "
            "a 3-D volume is expected"
        )
    kind = fields.get("elementtype", "").upper()
    if kind not in _META_DTYPES:
        raise InputError(f"{path.name}: data type {kind!r} is not one real number per voxel")
    big = _flag(fields, "elementbyteordermsb", _flag(fields, "binarydatabyteordermsb", False))
    if np.dtype(_META_DTYPES[kind]).itemsize > 1 and big != _flag(fields, "binarydatabyteordermsb", big):
        raise InputError(
            f"{path.name}: ElementByteOrderMSB and BinaryDataByteOrderMSB contradict each other: the order of "
            "its bytes cannot be told",
            hint="take the wrong one of them out of the header",
        )
    dtype = np.dtype(_META_DTYPES[kind]).newbyteorder(">" if big else "<")
    if not _flag(fields, "binarydata", True):
        raise InputError(f"{path.name}: voxels as text are not supported", hint="save it in binary form")
    grid, warnings = _meta_grid(path, fields, dims, sizes)
    target = fields["elementdatafile"]
    file, start = path, length
    if target.upper() != "LOCAL":
        file, start = _beside(path, target), 0
    packed = _flag(fields, "compresseddata", False)
    announced = dtype.itemsize * grid.size * math.prod(lists)
    if kind in ("MET_LONG", "MET_ULONG") and not packed and streams.regular_size(file) - start >= 2 * announced:
        raise InputError(
            f"{path.name}: voxels of {kind} have 4 bytes, and there is room for 8 each: which are meant?",
            hint="save it with another type, as MET_INT or MET_LONG_LONG",
        )
    skip = _integer(path, "HeaderSize", fields.get("headersize", "0"))
    if skip == -1 and not packed:
        start = max(streams.regular_size(file) - announced, start)
    elif skip < 0:
        raise InputError(f"{path.name}: a HeaderSize of {skip} bytes")
    elif skip and file == path:
        start = _behind(path, length, skip, announced, packed)
    else:
        start += skip
    scaling = {"elementtointensityfunctionslope": "1", "elementtointensityfunctionoffset": "0", **fields}
    voxels = _Voxels(
        file,
        dtype,
        start,
        0,
        packed,
        slope=_numbers(path, scaling, "elementtointensityfunctionslope", 1)[0],
        inter=_numbers(path, scaling, "elementtointensityfunctionoffset", 1)[0],
        channels=math.prod(lists),
        axis=3 if components > 1 else 0,
        series=components == 1,
    )
    return grid, voxels, "MetaImage", warnings


def _behind(path: Path, length: int, skip: int, announced: int, packed: bool) -> int:
    """Where voxels begin that lie in the header's own file, of which HeaderSize bytes are to be skipped.

    MetaIO counts them from the beginning of the file, other programs from the end of the header: the one counts after
    which exactly the voxels follow.
    """
    size = streams.regular_size(path)
    possible = {at for at in (skip, length + skip) if at >= length and size - at == announced}
    if packed or len(possible) != 1:
        raise InputError(
            f"{path.name}: a HeaderSize of {skip} bytes with the voxels in the header's own file: where they begin "
            "cannot be told",
            hint="leave HeaderSize away where they follow the header",
        )
    return possible.pop()


def _meta_fields(path: Path, head: bytes) -> tuple[dict[str, str], int]:
    """The `Key = value` lines up to ElementDataFile, which is the last one, and the header's length."""
    fields: dict[str, str] = {}
    at = 0
    while at < len(head):
        end = head.find(b"\n", at)
        end = len(head) if end < 0 else end
        key, equals, value = _text(head[at:end]).partition("=")
        at = end + 1
        if equals:
            fields[key.strip().lower()] = value.strip()
        if equals and key.strip().lower() == "elementdatafile":
            return fields, min(at, len(head))
    raise InputError(f"{path.name}: truncated: the MetaImage header has no ElementDataFile")


def _meta_grid(path: Path, fields: dict[str, str], dims: int, sizes: list[int]) -> tuple[Grid, list[str]]:
    def first(*names: str) -> str | None:
        return next((n for n in names if n in fields), None)

    spacing_key = first("elementspacing", "elementsize")
    origin_key = first("offset", "position", "origin")
    matrix_key = first("transformmatrix", "rotation", "orientation")
    if spacing_key is None:
        raise InputError(f"{path.name}: the voxel spacing is missing (no ElementSpacing)")
    spacing = _numbers(path, fields, spacing_key, dims)[:3]
    if min(spacing) <= 0:
        raise InputError(f"{path.name}: a voxel spacing of {fields[spacing_key]}; all must be above 0")
    warnings = []
    if matrix_key is None or origin_key is None:
        lacking = " and ".join(n for n, k in (("TransformMatrix", matrix_key), ("Offset", origin_key)) if k is None)
        warnings.append(f"{path.name}: no {lacking} in the header; MetaImage's default (axes along LPS, 0) counts")
    # one row for each axis of the file: where it points
    rows = np.reshape(_numbers(path, fields, matrix_key, dims * dims), (dims, dims)) if matrix_key else np.eye(dims)
    origin = np.array(_numbers(path, fields, origin_key, dims)[:3] if origin_key else (0.0, 0.0, 0.0))
    unit = fields.get("distanceunits", "mm").lower()
    if unit not in _MILLIMETRES:
        raise InputError(f"{path.name}: DistanceUnits {unit!r} is not a unit of length")
    factor = _MILLIMETRES[unit]
    i, j, k = sizes[:3]
    return _grid(path, (k, j, i), rows[:3, :3].T * spacing * factor, origin * factor), warnings


def _meta_header(volume: Volume, packed: int) -> str:
    def row(values: Any) -> str:
        return " ".join(repr(float(x)) for x in values)

    grid, (d, h, w) = volume.grid, volume.grid.shape
    return (
        "ObjectType = Image\n"
        "NDims = 3\n"
        "BinaryData = True\n"
        "BinaryDataByteOrderMSB = False\n"
        "CompressedData = True\n"
        f"CompressedDataSize = {packed}\n"
        f"TransformMatrix = {row(grid.directions[:, ::-1].T.ravel())}\n"
        f"Offset = {row(grid.affine[:3, 3])}\n"
        "CenterOfRotation = 0 0 0\n"
        f"ElementSpacing = {row(grid.spacing[::-1])}\n"
        f"DimSize = {w} {h} {d}\n"
        f"ElementType = {_META_NAMES[volume.data.dtype.name]}\n"
        "ElementDataFile = LOCAL\n"
    )


def _flag(fields: dict[str, str], key: str, default: bool) -> bool:
    return fields[key].lower().startswith(("t", "1")) if key in fields else default


# Both ---------------------------------------------------------------------------------------------------------------


def _beside(path: Path, target: str) -> Path:
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


def _numbers(path: Path, fields: dict[str, str], key: str, count: int | None = None) -> list[float]:
    try:
        numbers = [float(x) for x in fields.get(key, "").split()]
    except ValueError:
        numbers = []
    if not numbers or (count is not None and len(numbers) != count) or not np.isfinite(numbers).all():
        raise InputError(f"{path.name}: {key} is {fields.get(key, 'missing')!r}, not {count or 'some'} numbers")
    return numbers


def _integer(path: Path, key: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InputError(f"{path.name}: {key} is {text or 'missing'!r}, not a whole number") from None


def _grid(path: Path, shape: tuple[int, int, int], matrix: NDArray[np.float64], origin: NDArray[np.float64]) -> Grid:
    """The grid of a (3, 3) LPS matrix over the file's i, j, k."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = matrix[:, ::-1], origin
    try:
        return Grid(shape, affine)
    except ValueError as error:
        raise InputError(f"{path.name}: directions or spacing are singular or not finite: {matrix.tolist()}") from error


def _text_voxels(voxels: _Voxels, shape: list[int], warnings: list[str]) -> Voxels:
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


def _count(path: Path) -> int:
    return examine(path)[2].channels


NRRD = Format(
    "NRRD",
    (".nrrd", ".nhdr"),
    lambda _, head: _is_nrrd(head),
    lambda path, wanted: read(path, channels=wanted.channels, volume=wanted.volume, seen=wanted.seen),
    files_of,
    lambda volume, path, meaning: write(volume, path, meaning.names),
    (".nrrd",),
    count=_count,
)
META = Format(
    "MetaImage",
    (".mha", ".mhd"),
    lambda _, head: _is_meta(head),
    lambda path, wanted: read(path, channels=wanted.channels, volume=wanted.volume, seen=wanted.seen),
    files_of,
    lambda volume, path, _: write(volume, path),
    (".mha",),
    count=_count,
)
