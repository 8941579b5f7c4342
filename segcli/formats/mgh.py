"""FreeSurfer's .mgh and .mgz: one volume on its grid.

Layout: surfer.nmr.mgh.harvard.edu/fswiki/FsTutorial/MghFormat. Big-endian throughout; voxels begin at byte 284, and
what follows them (scan parameters, command lines, colour tables) is not read. In newer files the two bytes above that
of the version say what the voxels are meant for (an image, labels, a warp).
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from segcli.errors import InputError, OutputError
from segcli.formats import streams
from segcli.formats.several import Held, only, taken
from segcli.formats.steps import believable
from segcli.formats.table import Format, Seen, unseen
from segcli.space.volume import LPS_OF_RAS, Grid, Source, Volume, Voxels

HEAD = 284
_FIELDS = ">7ih15f"
_TYPES = {0: "u1", 1: "i4", 3: "f4", 4: "i2", 10: "u2"}
_PURPOSE = 0xFFFF00  # of the version: what the voxels are meant for
_CODES = {"uint8": 0, "int32": 1, "float32": 3, "int16": 4, "int8": 4, "uint16": 1}  # the narrowest that holds it


def looks_like(_: Path, head: bytes) -> bool:
    """Whether the unpacked first bytes are those of an MGH header: version 1, whatever it is for, and a voxel type."""
    if len(head) < HEAD:
        return False
    fields = struct.unpack_from(">7i", head)
    return fields[0] & ~_PURPOSE == 1 and fields[5] in (*_TYPES, 2, 5, 6, 7, 8, 9)


def read(path: Path, *, channels: int = 1, volume: int | None = None, seen: Seen = unseen) -> Volume:
    """The voxels of a file on their grid; (C, D, H, W), the file's own type. `seen` is told the grid before.

    channels, volume   which of several volumes are read: all of so many, or one, from 1
    """
    grid, count, source = examine(path)
    chosen = taken(path.name, Held(count, f"a 4-D image with {count} volumes", series=True), channels, volume)
    seen(grid)
    warnings: list[str] = []
    data = streams.read_voxels(
        path,
        np.dtype(source.facts["dtype"] if source.facts else "u1").newbyteorder(">"),
        (count, *grid.shape),
        offset=HEAD,
        packed=streams.is_gzip(path),
        warnings=warnings,
        trailer=True,
    )
    return Volume(only(data, chosen), grid, Source((path,), "mgh", None, (*source.warnings, *warnings), source.facts))


def examine(path: Path) -> tuple[Grid, int, Source]:
    """The grid, the number of volumes and facts, from a checked header."""
    return _parsed(path, streams.head(path, HEAD))


def _parsed(path: Path, head: bytes) -> tuple[Grid, int, Source]:
    if not looks_like(path, head):
        raise InputError(f"{path.name}: not a whole MGH header: truncated, or not of version 1 ({len(head)} bytes)")
    _, width, height, depth, count, code, _, good, *numbers = struct.unpack_from(_FIELDS, head)
    sizes = (width, height, depth, count)
    if min(sizes) < 1:
        raise InputError(f"{path.name}: a dimension of {min(sizes)} voxels: {' x '.join(map(str, sizes))}")
    if code not in _TYPES:
        raise InputError(f"{path.name}: data type {code} of MGH is none of uint8, int16, uint16, int32 and float32")
    if good != 1:
        raise InputError(f"{path.name}: its orientation is not stated (goodRASFlag is {good})")
    spacing, cosines, centre = np.array(numbers[:3]), np.array(numbers[3:12]).reshape(3, 3).T, np.array(numbers[12:])
    if not (np.isfinite(numbers).all() and (spacing > 0).all()):
        raise InputError(f"{path.name}: voxel spacing of {' x '.join(f'{s:g}' for s in spacing)} mm in its header")
    believable(path.name, spacing[::-1].tolist())
    matrix = cosines * spacing
    ras = np.eye(4)
    ras[:3, :3], ras[:3, 3] = matrix, centre - matrix @ (np.array(sizes[:3]) / 2)
    try:
        grid = Grid((depth, height, width), (LPS_OF_RAS @ ras)[:, [2, 1, 0, 3]])
    except ValueError as error:
        raise InputError(f"{path.name}: its direction cosines are singular: {cosines.round(4).tolist()}") from error
    warnings = streams.shear_warning(path, grid)
    facts = {"format": "MGH", "dtype": np.dtype(_TYPES[code]).name, "units": "mm"}
    return grid, count, Source((path,), "mgh", None, warnings, facts)


def write(volume: Volume, path: Path) -> Path:
    """Write a volume, packed when the name ends in .mgz, read back before it has its name."""
    name = volume.data.dtype.name
    if name not in _CODES:
        raise OutputError(f"{path.name}: voxels of type {name} cannot be written as MGH")
    code = _CODES[name]
    head = _header(volume.grid, volume.data.shape[0], code)

    gzip = path.name.lower().endswith(".mgz")
    data = volume.data.astype(np.dtype(_TYPES[code]).newbyteorder(">"))
    return streams.write_whole(
        path,
        b"" if gzip else head,
        head if gzip else b"",
        data,
        wrap="gzip" if gzip else None,
        grid=volume.grid,
        grid_of=lambda file: examine(file)[0],
    )


def holds(grid: Grid) -> bool:
    """Whether a header, whose numbers are float32, says where the voxels of a grid are."""
    return _parsed(Path("x.mgh"), _header(grid, 1, 0))[0].same_as(grid)


def _header(grid: Grid, count: int, code: int) -> bytes:
    depth, height, width = grid.shape
    ras = LPS_OF_RAS @ grid.affine[:, [2, 1, 0, 3]]
    spacing = np.linalg.norm(ras[:3, :3], axis=0)
    centre = ras[:3, 3] + ras[:3, :3] @ (np.array([width, height, depth]) / 2)
    cosines: Voxels = ras[:3, :3] / spacing
    head = struct.pack(_FIELDS, 1, width, height, depth, count, code, 0, 1, *spacing, *cosines.T.ravel(), *centre)
    return head.ljust(HEAD, b"\0")


FORMAT = Format(
    "MGH",
    (".mgz", ".mgh"),
    looks_like,
    lambda path, wanted: read(path, channels=wanted.channels, volume=wanted.volume, seen=wanted.seen),
    write=lambda volume, path, _: write(volume, path),
    written=(".mgz", ".mgh"),
    count=lambda path: examine(path)[1],
    holds=holds,
)
