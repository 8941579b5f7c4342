"""The fields of a NIfTI header, version 1 or 2, taken apart and checked.

Field names and offsets: nifti1.h and nifti2.h, nifti.nimh.nih.gov.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcli.errors import InputError
from segcli.formats.table import Form

HEAD = 544  # bytes that hold a header of either version, and the four behind it that announce extensions
TYPES = {2: "u1", 256: "i1", 4: "i2", 512: "u2", 8: "i4", 768: "u4", 1024: "i8", 1280: "u8", 16: "f4", 64: "f8"}
_REFUSED_TYPES = {
    0: "unknown",
    1: "one bit",
    32: "complex",
    128: "RGB colour",
    1536: "128-bit float",
    1792: "complex",
    2048: "complex",
    2304: "RGBA colour",
}
CODES = {np.dtype(name): code for code, name in TYPES.items()}
UNITS = {0: ("unknown, taken as mm", 1.0), 1: ("m", 1e3), 2: ("mm", 1.0), 3: ("um", 1e-3)}


@dataclass(frozen=True, eq=False)
class Header:
    """The fields of a NIfTI header that say where the voxels are, in the file and in the world.

    order     of the bytes, as `struct` has it: "<" or ">"
    dim       as in the file: number of axes, then sizes i, j, k, ...
    pixdim    as in the file: qfac, then voxel sizes i, j, k, ...; `srow` is (3, 4), RAS, in the file's units
    extended  whether extensions are said to follow the header
    counts    which of the three says where the voxels are: "sform", "qform" or "pixdim"
    chosen    whether the user said so (--affine), and not the header's codes
    """

    version: int
    order: str
    magic: bytes
    dim: tuple[int, ...]
    datatype: int
    intent: int
    pixdim: tuple[float, ...]
    vox_offset: float
    slope: float
    inter: float
    units: int
    qform_code: int
    sform_code: int
    quatern: tuple[float, ...]
    qoffset: tuple[float, ...]
    srow: NDArray[np.float64]
    extended: bool = False
    counts: Form = "sform"
    chosen: bool = False

    @property
    def pair(self) -> bool:
        return self.magic[:2] == b"ni"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(D, H, W): k, j, i."""
        return self.dim[3], self.dim[2], self.dim[1]


def parse(path: Path, head: bytes) -> Header:
    """The header's fields, after its size and magic are known to be NIfTI's; InputError where they are not."""
    if len(head) < 348:
        raise InputError(f"{path.name}: truncated: {len(head)} bytes are too short for a NIfTI header of 348")
    order = next((o for o in "<>" if struct.unpack(f"{o}i", head[:4])[0] in (348, 540)), None)
    if order is None:
        raise InputError(f"{path.name}: not a NIfTI file: it does not begin with a header size of 348 or 540")
    if struct.unpack(f"{order}i", head[:4])[0] == 540:
        return _parse_2(path, head, order)
    magic = head[344:348]
    if magic not in (b"n+1\0", b"ni1\0"):
        if magic == b"\0\0\0\0":
            raise InputError(
                f"{path.name}: an Analyze 7.5 file, not a NIfTI: it does not state its orientation",
                hint="convert it to NIfTI with the orientation you know it to have",
            )
        raise InputError(f"{path.name}: not a NIfTI file: its magic is {magic!r}, not 'n+1' or 'ni1'")

    def get(fmt: str, at: int) -> tuple[Any, ...]:
        return struct.unpack_from(order + fmt, head, at)

    return Header(
        version=1,
        order=order,
        magic=magic,
        dim=get("8h", 40),
        intent=get("h", 68)[0],
        datatype=get("h", 70)[0],
        pixdim=get("8f", 76),
        vox_offset=get("f", 108)[0],
        slope=get("f", 112)[0],
        inter=get("f", 116)[0],
        units=head[123],
        qform_code=get("h", 252)[0],
        sform_code=get("h", 254)[0],
        quatern=get("3f", 256),
        qoffset=get("3f", 268),
        srow=np.array(get("12f", 280)).reshape(3, 4),
        extended=head[348:349] not in (b"", b"\0"),
    )


def _parse_2(path: Path, head: bytes, order: str) -> Header:
    if len(head) < 540:
        raise InputError(f"{path.name}: truncated: {len(head)} bytes are too short for a NIfTI-2 header of 540")
    magic = head[4:12]
    if magic not in (b"n+2\0\r\n\x1a\n", b"ni2\0\r\n\x1a\n"):
        raise InputError(f"{path.name}: not a NIfTI-2 file: its magic is {magic!r}")

    def get(fmt: str, at: int) -> tuple[Any, ...]:
        return struct.unpack_from(order + fmt, head, at)

    return Header(
        version=2,
        order=order,
        magic=magic,
        datatype=get("h", 12)[0],
        dim=get("8q", 16),
        pixdim=get("8d", 104),
        vox_offset=get("q", 168)[0],
        slope=get("d", 176)[0],
        inter=get("d", 184)[0],
        qform_code=get("i", 344)[0],
        sform_code=get("i", 348)[0],
        quatern=get("3d", 352),
        qoffset=get("3d", 376),
        srow=np.array(get("12d", 400)).reshape(3, 4),
        units=get("i", 500)[0] & 0xFF,
        intent=get("i", 504)[0],
        extended=head[540:541] not in (b"", b"\0"),
    )


def checked(path: Path, header: Header) -> Header:
    """The header; InputError unless it is of one 3-D volume (or several on one grid) of plain numbers."""
    axes = header.dim[0]
    if not 1 <= axes <= 7:
        raise InputError(f"{path.name}: the header announces {axes} dimensions; 1 to 7 are possible")
    sizes = header.dim[1 : axes + 1]
    if min(sizes) < 1:
        raise InputError(f"{path.name}: a dimension of {min(sizes)} voxels: the header says {_times(sizes)}")
    if header.datatype in _REFUSED_TYPES:
        raise InputError(
            f"{path.name}: data type {header.datatype} ({_REFUSED_TYPES[header.datatype]}); "
            "one real number per voxel is expected"
        )
    if header.datatype not in TYPES:
        raise InputError(f"{path.name}: data type {header.datatype} is not one of NIfTI's")
    if axes < 3:
        raise InputError(f"{path.name}: a {axes}-D image of {_times(sizes)} pixels; a 3-D volume is expected")
    if sum(size > 1 for size in sizes[3:]) > 1:
        raise InputError(
            f"{path.name}: a {axes}-D image of {_times(sizes)} voxels (intent {header.intent}), "
            "where one 3-D image is expected"
        )
    if max(abs(header.sform_code), abs(header.qform_code)) > 32767:  # NIfTI-1 has 16 bits for them
        raise InputError(
            f"{path.name}: sform code {header.sform_code} and qform code {header.qform_code}; 0 to 5 are possible"
        )
    scaled = header.slope != 0 and np.isfinite(header.slope)
    if scaled and not np.isfinite(header.inter):
        raise InputError(
            f"{path.name}: its values are said to be the stored ones times {header.slope:g} plus {header.inter:g}",
            hint="repair scl_inter",
        )
    return header


def _times(sizes: tuple[int, ...]) -> str:
    return " x ".join(str(s) for s in sizes)
