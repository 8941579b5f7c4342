"""MGH is read whole and in place, as nibabel reads it."""

import gzip
import struct
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scan_files import counting

from segcli import formats
from segcli.errors import InputError
from segcli.space.volume import Volume


def read(path: Path) -> Volume:
    return formats.read([path])


def mgh(path: Path, dtype: str = "i2", **put: object) -> Path:
    """A small .mgz by nibabel, with header fields changed: name=(offset, format, value)."""
    image = nibabel.MGHImage(counting(dtype=dtype), np.diag([-2.0, -3, 4, 1]))
    nibabel.save(image, path)
    content = bytearray(gzip.decompress(path.read_bytes()))
    for at, fmt, value in put.values():  # type: ignore[misc]
        struct.pack_into(">" + fmt, content, at, value)
    path.write_bytes(gzip.compress(content))
    return path


@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "f4"])
def test_an_mgz_lies_where_nibabel_says(tmp_path: Path, dtype: str) -> None:
    scan = read(mgh(tmp_path / "a.mgz", dtype))
    assert scan.data.dtype == np.dtype(dtype)
    assert np.array_equal(scan.data[0].ravel(), np.arange(60))
    assert scan.grid.axes == "SPL"
    assert np.allclose(scan.grid.affine, [[0, 0, 2, 0], [0, 3, 0, 0], [4, 0, 0, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize("purpose", [1, 2, 0xFFFF])
def test_an_mgz_that_says_what_it_is_for_is_read_as_another(tmp_path: Path, purpose: int) -> None:
    plain, said = (read(mgh(tmp_path / f"{p}.mgz", version=(0, "I", p << 8 | 1))) for p in (0, purpose))
    assert np.array_equal(said.data, plain.data)
    assert said.grid.same_as(plain.grid)
    with pytest.raises(InputError, match="not a format that segcli reads"):
        read(mgh(tmp_path / "b.mgz", version=(0, "I", purpose << 8 | 2)))


@pytest.mark.parametrize(
    ("put", "message"),
    [
        ({"sizes": (8, "i", 0)}, "dimension of 0 voxels: 5 x 0 x 3 x 1"),
        ({"frames": (16, "i", 2)}, "4-D image with 2 volumes"),
        ({"depth": (12, "i", 9)}, "truncated: the header announces 360 bytes"),
        ({"type": (20, "i", 7)}, "data type 7"),
        ({"flag": (28, "h", 0)}, "orientation is not stated"),
        ({"spacing": (30, "f", 0.0)}, "voxel spacing of 0 x 3 x 4"),
        ({"cosine": (42, "f", np.nan)}, "voxel spacing"),
        ({"cosine": (42, "f", 0.0)}, "singular"),
    ],
)
def test_3_2_an_mgz_header_that_is_no_volume_is_refused(tmp_path: Path, put: dict, message: str) -> None:
    with pytest.raises(InputError, match=rf"a\.mgz: .*{message}"):
        read(mgh(tmp_path / "a.mgz", **put))
