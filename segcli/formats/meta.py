"""MetaImage (.mha, .mhd): ITK's MetaIO documentation."""

from __future__ import annotations

import math
import re
from codecs import BOM_UTF8
from pathlib import Path
from typing import Any

import numpy as np

from segcli.errors import InputError
from segcli.formats import streams, text_headers
from segcli.formats.table import Format
from segcli.formats.text_headers import MILLIMETRES, Stored, data_file, integer, lps_grid, text_of
from segcli.space.volume import Grid, Volume

_DTYPES = {
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
_NAMES = {np.dtype(dtype).name: name for name, dtype in _DTYPES.items()}


def looks_like(path: Path, head: bytes) -> bool:
    return re.match(rb"\s*(ObjectType|NDims|Comment|ObjectSubType)\s*=", head.removeprefix(BOM_UTF8)) is not None


def write(volume: Volume, path: Path) -> Path:
    """Write one channel, packed; read back before it has its name."""
    data = text_headers.to_write(volume, path)
    # ITK reads noise unless the header says how many packed bytes follow
    header = _header(volume, streams.packed_size(data, "zlib"))
    return text_headers.write(path, header, data, volume.grid, parse, "zlib")


def parse(path: Path, head: bytes) -> tuple[Grid, Stored, str, list[str]]:
    """The grid in LPS mm, where the voxels lie, the format's name, and warnings; as `text_headers.Parse`.

    head     the first bytes of the file, which hold its header
    errors   InputError: not one 3-D volume of plain numbers (or several on one grid), or a header that leaves open how
             or where its voxels lie
    """
    fields, length = _fields(path, head)
    if fields.get("objecttype", "image").lower() != "image":
        raise InputError(f"{path.name}: a MetaIO {fields['objecttype']}, not an image")
    sizes = [integer(path, "DimSize", n) for n in fields.get("dimsize", "").split()]
    dims = integer(path, "NDims", fields.get("ndims", ""))
    if dims != len(sizes) or min(sizes, default=0) < 1:
        raise InputError(f"{path.name}: {dims} dimensions with sizes {fields.get('dimsize', 'missing')}")
    components = integer(path, "ElementNumberOfChannels", fields.get("elementnumberofchannels", "1"))
    lists = [n for n in (components, *sizes[3:]) if n != 1]
    if dims < 3 or len(lists) > 1 or components < 1:
        raise InputError(
            f"{path.name}: a {dims}-D image of {' x '.join(map(str, sizes))} with {components} components per voxel; "
            "a 3-D volume is expected"
        )
    kind = fields.get("elementtype", "").upper()
    dtype = _dtype(path, fields, kind)
    if not _flag(fields, "binarydata", True):
        raise InputError(f"{path.name}: voxels as text are not supported", hint="save it in binary form")
    grid, warnings = _grid(path, fields, dims, sizes)
    target = fields["elementdatafile"]
    file, start = path, length
    if target.upper() != "LOCAL":
        file, start = data_file(path, target), 0
    packed = _flag(fields, "compresseddata", False)
    announced = dtype.itemsize * grid.size * math.prod(lists)
    if kind in ("MET_LONG", "MET_ULONG") and not packed and streams.regular_size(file) - start >= 2 * announced:
        raise InputError(
            f"{path.name}: voxels of {kind} have 4 bytes, and there is room for 8 each: which are meant?",
            hint="save it with another type, as MET_INT or MET_LONG_LONG",
        )
    skip = integer(path, "HeaderSize", fields.get("headersize", "0"))
    if skip == -1 and not packed:
        start = max(streams.regular_size(file) - announced, start)
    elif skip < 0:
        raise InputError(f"{path.name}: a HeaderSize of {skip} bytes")
    elif skip and file == path:
        start = _behind(path, length, skip, announced, packed)
    else:
        start += skip
    scaling = {"elementtointensityfunctionslope": "1", "elementtointensityfunctionoffset": "0", **fields}
    voxels = Stored(
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


def _dtype(path: Path, fields: dict[str, str], kind: str) -> np.dtype[Any]:
    """The type of a voxel, in the byte order that the header states."""
    if kind not in _DTYPES:
        raise InputError(f"{path.name}: data type {kind!r} is not one real number per voxel")
    big = _flag(fields, "elementbyteordermsb", _flag(fields, "binarydatabyteordermsb", False))
    if np.dtype(_DTYPES[kind]).itemsize > 1 and big != _flag(fields, "binarydatabyteordermsb", big):
        raise InputError(
            f"{path.name}: ElementByteOrderMSB and BinaryDataByteOrderMSB contradict each other: the order of "
            "its bytes cannot be told",
            hint="take the wrong one of them out of the header",
        )
    return np.dtype(_DTYPES[kind]).newbyteorder(">" if big else "<")


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


def _fields(path: Path, head: bytes) -> tuple[dict[str, str], int]:
    """The `Key = value` lines up to ElementDataFile, which is the last one, and the header's length."""
    fields: dict[str, str] = {}
    at = 0
    while at < len(head):
        end = head.find(b"\n", at)
        end = len(head) if end < 0 else end
        key, equals, value = text_of(head[at:end]).partition("=")
        at = end + 1
        if equals:
            fields[key.strip().lower()] = value.strip()
        if equals and key.strip().lower() == "elementdatafile":
            return fields, min(at, len(head))
    raise InputError(f"{path.name}: truncated: the MetaImage header has no ElementDataFile")


def _grid(path: Path, fields: dict[str, str], dims: int, sizes: list[int]) -> tuple[Grid, list[str]]:
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
    if unit not in MILLIMETRES:
        raise InputError(f"{path.name}: DistanceUnits {unit!r} is not a unit of length")
    factor = MILLIMETRES[unit]
    i, j, k = sizes[:3]
    return lps_grid(path, (k, j, i), rows[:3, :3].T * spacing * factor, origin * factor), warnings


def _header(volume: Volume, packed: int) -> str:
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
        f"ElementType = {_NAMES[volume.data.dtype.name]}\n"
        "ElementDataFile = LOCAL\n"
    )


def _flag(fields: dict[str, str], key: str, default: bool) -> bool:
    return fields[key].lower().startswith(("t", "1")) if key in fields else default


def _numbers(path: Path, fields: dict[str, str], key: str, count: int) -> list[float]:
    try:
        numbers = [float(x) for x in fields.get(key, "").split()]
    except ValueError:
        numbers = []
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise InputError(f"{path.name}: {key} is {fields.get(key, 'missing')!r}, not {count} numbers")
    return numbers


FORMAT = Format(
    "MetaImage",
    (".mha", ".mhd"),
    looks_like,
    lambda path, wanted: text_headers.read(path, wanted, parse),
    lambda path: text_headers.files_of(path, parse),
    lambda volume, path, _: write(volume, path),
    (".mha",),
    count=lambda path: text_headers.examine(path, parse)[2].channels,
)
