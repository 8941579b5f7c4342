"""NRRD (.nrrd, .nhdr): teem.sourceforge.net/nrrd/format.html."""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segcli.errors import InputError
from segcli.formats import streams, tables, text_headers
from segcli.formats.table import Format
from segcli.formats.text_headers import MILLIMETRES, Stored, beginning, data_file, integer, lps_grid, text_of
from segcli.space.volume import Grid, Volume
from segcli.structures import Label

_TYPES = {
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
_DTYPES = {name: dtype for dtype, names in _TYPES.items() for name in names.split(", ")}
_NAMES = {np.dtype(dtype).name: names.split(", ")[0] for dtype, names in _TYPES.items()}
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


def looks_like(path: Path, head: bytes) -> bool:
    return head.removeprefix(BOM_UTF8).startswith(b"NRRD000")


def write(volume: Volume, path: Path, names: Sequence[Label]) -> Path:
    """Write one channel, packed, with the labels' names as 3D Slicer's segments; read back before it has its name."""
    data = text_headers.to_write(volume, path)
    header = _header(volume) + tables.segments(names, volume.grid.shape) + "\n"
    return text_headers.write(path, header, data, volume.grid, parse, "gzip")


def segment_names(path: Path) -> dict[int, str]:
    """Value -> name of the segments that 3D Slicer's keys in the header of an NRRD state; nothing of any other file."""
    if streams.is_folder(path):
        return {}
    head = beginning(path)
    if not looks_like(path, head):
        return {}
    text = re.split(rb"\r?\n\r?\n", head, maxsplit=1)[0].decode("utf-8", "replace")
    found = dict(re.findall(r"^(Segment\d+_(?:Name|LabelValue)):=(.*?)\r?$", text, re.M))
    values = {key.removesuffix("_LabelValue"): value for key, value in found.items() if key.endswith("_LabelValue")}
    return {
        int(value): found[f"{segment}_Name"].replace("\\\\", "\\")
        for segment, value in values.items()
        if re.fullmatch(r"-?\d{1,10}", value) and f"{segment}_Name" in found
    }


def parse(path: Path, head: bytes) -> tuple[Grid, Stored, str, list[str]]:
    """The grid in LPS mm, where the voxels lie, the format's name, and warnings; as `text_headers.Parse`.

    head     the first bytes of the file, which hold its header
    errors   InputError: not one 3-D volume of plain numbers (or several on one grid), or a header that leaves open how
             or where its voxels lie
    """
    fields, length = _fields(path, head)
    sizes = [integer(path, "sizes", n) for n in fields.get("sizes", "").split()]
    if min(sizes, default=0) < 1:
        raise InputError(
            f"{path.name}: a dimension of {min(sizes, default=0)} voxels: sizes {fields.get('sizes', 'missing')}"
        )
    kind = fields.get("type", "").lower()
    if kind not in _DTYPES:
        raise InputError(f"{path.name}: data type {kind!r} is not one real number per voxel")
    grid, axis, kind_of_axis = _grid(path, fields, sizes)
    count = int(np.prod(sizes, dtype=object)) // grid.size
    dtype = np.dtype(_DTYPES[kind])
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
        file, start = data_file(path, fields["data file"]), 0
    if integer(path, "line skip", fields.get("line skip", "0")):
        raise InputError(f"{path.name}: 'line skip' is not supported", hint="save it without a foreign header")
    skip = integer(path, "byte skip", fields.get("byte skip", "0"))
    if skip == -1 and encoding == "raw":
        start = max(streams.regular_size(file) - dtype.itemsize * int(np.prod(sizes, dtype=object)), start)
        skip = 0
    if skip < 0:
        raise InputError(f"{path.name}: 'byte skip' of {skip} bytes")
    start += 0 if packed else skip
    series = kind_of_axis in _SERIES_KINDS
    voxels = Stored(file, dtype, start, skip, packed, text, channels=count, axis=axis, series=series)
    return grid, voxels, "NRRD", _quantised(path, fields)


def _quantised(path: Path, fields: dict[str, str]) -> list[str]:
    """A warning where the values are said to have been others before they were stored."""
    said = {key: fields.get(key) or fields.get(key.replace(" ", "")) for key in ("old min", "old max")}
    if not any(said.values()):
        return []
    shown = ", ".join(f"{key} {value}" for key, value in said.items() if value)
    return [f"{path.name}: its values were once others ({shown}); they are taken as they are stored"]


def _fields(path: Path, head: bytes) -> tuple[dict[str, str], int]:
    """The `field: value` lines, and the length of the header with its blank line."""
    end = re.search(rb"\r?\n\r?\n", head)
    text = head[: end.start()] if end else head
    if end is None and b"data file" not in head and b"datafile" not in head:
        raise InputError(f"{path.name}: truncated: the NRRD header has no end (a blank line)")
    fields: dict[str, str] = {}
    for line in text_of(text).split("\n")[1:]:
        key, colon, value = line.partition(":")
        if colon and not line.startswith("#") and not value.startswith("="):
            key, value = key.strip().lower(), value.strip()
            if fields.setdefault(key, value) != value:
                raise InputError(f"{path.name}: its header says two things of {key}: {fields[key]!r} and {value!r}")
    for name, alias in (("data file", "datafile"), ("byte skip", "byteskip"), ("line skip", "lineskip")):
        if alias in fields:
            fields[name] = fields.pop(alias)
    return fields, end.end() if end else len(head)


def _grid(path: Path, fields: dict[str, str], sizes: list[int]) -> tuple[Grid, int, str]:
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
    factor = _unit(path, fields)
    matrix = np.array([_vector(path, "a space direction", d) for d in directions if d != "none"]).T * factor
    origin = np.array(_vector(path, "space origin", fields.get("space origin", ""))) * factor
    i, j, k = (n for n, d in zip(sizes, directions, strict=True) if d != "none")
    return lps_grid(path, (k, j, i), np.diag(_SPACES[space]) @ matrix, np.array(_SPACES[space]) * origin), axis, stated


def _unit(path: Path, fields: dict[str, str]) -> float:
    units = {unit.removesuffix("s") for unit in re.findall(r'"([^"]*)"', fields.get("space units", ""))} - {""}
    if len(units) > 1 or any(u not in MILLIMETRES for u in units):
        raise InputError(
            f"{path.name}: space units {fields['space units']} are not one unit of length for all axes, of those that "
            "are known here: mm, um, cm, m"
        )
    return MILLIMETRES[units.pop()] if units else 1.0


def _vector(path: Path, key: str, text: str) -> list[float]:
    try:
        numbers = [float(x) for x in text.strip("() ").split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 3:
        raise InputError(f"{path.name}: {key} is {text or 'missing'!r}, not three numbers")
    return numbers


def _header(volume: Volume) -> str:
    def vector(v: NDArray[np.float64]) -> str:
        return "(" + ",".join(repr(float(x)) for x in v) + ")"

    affine, (d, h, w) = volume.grid.affine, volume.grid.shape
    return (
        "NRRD0004\n"
        f"type: {_NAMES[volume.data.dtype.name]}\n"
        "dimension: 3\n"
        "space: left-posterior-superior\n"
        f"sizes: {w} {h} {d}\n"
        f"space directions: {vector(affine[:3, 2])} {vector(affine[:3, 1])} {vector(affine[:3, 0])}\n"
        "kinds: domain domain domain\n"
        "endian: little\n"
        "encoding: gzip\n"
        f"space origin: {vector(affine[:3, 3])}\n"
    )


FORMAT = Format(
    "NRRD",
    (".nrrd", ".nhdr"),
    looks_like,
    lambda path, wanted: text_headers.read(path, wanted, parse),
    lambda path: text_headers.files_of(path, parse),
    lambda volume, path, meaning: write(volume, path, meaning.names),
    (".nrrd",),
    count=lambda path: text_headers.examine(path, parse)[2].channels,
)
