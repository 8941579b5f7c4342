"""Small scan files made byte by byte, so that no library decides what is in them."""

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segcli.space.volume import AXES_CODES, Grid, turned

IJK = (5, 4, 3)  # sizes along i, j, k of the usual small scan
RAS = np.array([[2.0, 0, 0, -10], [0, 3, 0, 20], [0, 0, 4, 30], [0, 0, 0, 1]])  # its affine, i, j, k to RAS mm
CODES = {
    "u1": 2,
    "i2": 4,
    "i4": 8,
    "f4": 16,
    "c8": 32,
    "f8": 64,
    "i1": 256,
    "u2": 512,
    "u4": 768,
    "i8": 1024,
    "u8": 1280,
}
FIELDS_1 = {
    "sizeof_hdr": (0, "i"),
    "db_name": (14, "18s"),
    "dim": (40, "8h"),
    "intent_code": (68, "h"),
    "datatype": (70, "h"),
    "bitpix": (72, "h"),
    "pixdim": (76, "8f"),
    "vox_offset": (108, "f"),
    "scl_slope": (112, "f"),
    "scl_inter": (116, "f"),
    "xyzt_units": (123, "B"),
    "descrip": (148, "80s"),
    "aux_file": (228, "24s"),
    "qform_code": (252, "h"),
    "sform_code": (254, "h"),
    "quatern": (256, "3f"),
    "qoffset": (268, "3f"),
    "srow": (280, "12f"),
    "intent_name": (328, "16s"),
    "magic": (344, "4s"),
}
FIELDS_2 = {
    "sizeof_hdr": (0, "i"),
    "magic": (4, "8s"),
    "datatype": (12, "h"),
    "bitpix": (14, "h"),
    "dim": (16, "8q"),
    "pixdim": (104, "8d"),
    "vox_offset": (168, "q"),
    "scl_slope": (176, "d"),
    "scl_inter": (184, "d"),
    "descrip": (240, "80s"),
    "qform_code": (344, "i"),
    "sform_code": (348, "i"),
    "quatern": (352, "3d"),
    "qoffset": (376, "3d"),
    "srow": (400, "12d"),
    "xyzt_units": (500, "i"),
    "intent_code": (504, "i"),
}


def counting(shape: tuple[int, ...] = IJK, dtype: str = "i2") -> NDArray[Any]:
    """0, 1, 2, ... with i fastest, as an array over i, j, k."""
    return np.arange(np.prod(shape)).astype(dtype).reshape(shape, order="F")


def nifti_bytes(
    data: NDArray[Any] | None = None, *, order: str = "<", version: int = 1, pair: bool = False, **put: Any
) -> tuple[bytes, bytes]:
    """Header (with its four bytes of extension flag, if single) and voxels; `put` overrides header fields.

    Without overrides: RAS as sform and qform, both with code 1, in mm, unscaled.
    """
    data = counting() if data is None else data
    sizes = (*data.shape, 1, 1, 1, 1, 1)[:7]
    length, magic = (348, b"n+1\0") if version == 1 else (540, b"n+2\0\r\n\x1a\n")
    fields = {
        "sizeof_hdr": length,
        "magic": magic.replace(b"+", b"i") if pair else magic,
        "dim": (data.ndim, *sizes),
        "datatype": CODES[data.dtype.str[1:]],
        "bitpix": data.dtype.itemsize * 8,
        "pixdim": (1, 2, 3, 4, 1, 1, 1, 1),
        "vox_offset": 0 if pair else length + 4,
        "scl_slope": 1,
        "scl_inter": 0,
        "xyzt_units": 2,
        "qform_code": 1,
        "sform_code": 1,
        "quatern": (0, 0, 0),
        "qoffset": RAS[:3, 3],
        "srow": RAS[:3].ravel(),
        **put,
    }
    header = bytearray(length if pair else length + 4)
    for name, value in fields.items():
        at, fmt = (FIELDS_1 if version == 1 else FIELDS_2)[name]
        struct.pack_into(order + fmt, header, at, *(value if isinstance(value, (tuple, np.ndarray)) else (value,)))
    return bytes(header), data.astype(data.dtype.newbyteorder(order)).tobytes(order="F")


def nifti(path: Path, data: NDArray[Any] | None = None, **put: Any) -> Path:
    """A single file; packed when the name ends in .gz."""
    content = b"".join(nifti_bytes(data, **put))
    path.write_bytes(gzip.compress(content, mtime=0) if path.name.endswith(".gz") else content)
    return path


def rotation() -> NDArray[np.float64]:
    """(3, 3), 30 degrees about z, then 20 degrees about x."""
    c, s = np.cos(np.radians([30, 20])), np.sin(np.radians([30, 20]))
    about_z = np.array([[c[0], -s[0], 0], [s[0], c[0], 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, c[1], -s[1]], [0, s[1], c[1]]])
    return about_x @ about_z


def grids() -> dict[str, Grid]:
    """The 48 axis orders of a straight, an oblique and a sheared grid, by name."""
    found = {}
    shear = np.array([[1, 0, 0], [0, 1, 0.3], [0, 0, 1]])
    for name, matrix in (("straight", np.eye(3)), ("oblique", rotation()), ("sheared", rotation() @ shear)):
        affine = np.eye(4)
        affine[:3, :3] = matrix * [1.5, 2, 4]
        affine[:3, 3] = (-30, 12, 7.5)
        base = Grid((3, 4, 5), affine)
        found.update({f"{name}-{axes}": turned(base, axes) for axes in AXES_CODES})
    return found
