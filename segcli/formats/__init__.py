"""read() and write(): pick a room by looking at what is there.

The content decides, not the ending alone (reliability.md 3.14); the rooms are imported when a file needs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from segcli.errors import InputError, UsageError
from segcli.formats.streams import Seen, unseen
from segcli.space.volume import Grid, Source, Volume

if TYPE_CHECKING:
    from segcli.structures import Label

Form = Literal["pixdim", "sform", "qform"]
LABELS, NO_INTENT = 1002, 0  # NIfTI intent codes
_READ = "NIfTI, .mgz, NRRD, MetaImage and DICOM"
_OTHERS = {  # first bytes of what people hand in by mistake
    b"PK\x03\x04": "a zip archive: unpack it first",
    b"PK\x05\x06": "an empty zip archive",
    b"Rar!": "a rar archive: unpack it first",
    b"7z\xbc\xaf": "a 7z archive: unpack it first",
    b"BZh": "packed with bzip2: unpack it first",
    b"\xfd7zXZ": "packed with xz: unpack it first",
    b"\x28\xb5\x2f\xfd": "packed with zstd: unpack it first",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"%PDF": "a PDF document",
    b"\x89HDF": "HDF5 (MINC 2, perhaps)",
    b"CDF": "netCDF (MINC 1, perhaps)",
    b"II*\0": "a TIFF picture",
    b"MM\0*": "a TIFF picture",
    b"<?xml": "XML (GIFTI, perhaps)",
    b"\x93NUMPY": "a NumPy array",
}
ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mgz", ".mgh")  # that write() knows


def read(
    paths: Sequence[Path],
    *,
    affine: Form | None = None,
    series: str | None = None,
    volume: int | None = None,
    channels: int = 1,
    fill_gaps: bool = False,
    seen: Seen = unseen,
) -> Volume:
    """One scan: its voxels as the file means them, on their grid.

    paths      one file or DICOM folder; or one for each channel, all on one grid
    affine     which statement of a NIfTI header counts, where the header leaves it open
    series     which DICOM series; volume: which of the volumes (phases, echoes) in it
    channels   how many the model wants: a 4-D file with as many volumes is taken for them
    fill_gaps  whether missing DICOM slices are interpolated instead of refused
    seen       is told the scan's grid before any voxel is read; what it raises ends the reading
    returns    (C, D, H, W): D, H, W are the file's k, j, i; an integer type of the file where nothing is scaled,
               else float32
    errors     InputError: not one whole, readable volume, or channels that do not share one grid;
               UsageError: a series or volume of what is not DICOM
    """
    if not paths:
        raise InputError("no scan was named")
    for option, value in (("--series", series), ("--volume", volume)):
        if value is not None and all(_kind(Path(p)) != "dicom" for p in paths):
            raise UsageError(
                f"{option} {value}: {Path(paths[0]).name} is not DICOM, there is none to choose",
                hint="leave it away for such input",
            )
    if len(paths) > 1:
        first, *others = (Path(p) for p in paths)
        told = [_read_one(first, affine, series, volume, 1, fill_gaps, seen)]
        return _joined([*told, *(_read_one(p, affine, series, volume, 1, fill_gaps) for p in others)])
    return _read_one(Path(paths[0]), affine, series, volume, channels, fill_gaps, seen)


def write(
    labels: Volume, names: Sequence[Label], path: Path, like: Source | None = None, *, description: str = "segcli"
) -> Path:
    """Write labels on the scan's very grid; the file is whole and was read back before it has its name.

    labels       (1, D, H, W) integers
    names        the label table that goes into the file where its format has a place for one
    path         its ending chooses the format: one of ENDINGS
    like         where the scan came from: a NIfTI lends its forms, codes and units
    description  tool and model, for the format's description field; nothing else of that kind is written
    """
    if labels.data.shape[0] != 1 or labels.data.dtype.kind not in "iu":
        raise ValueError(f"labels are (1, D, H, W) integers, not {labels.data.dtype} {labels.data.shape}")
    from segcli.formats import tables

    small = Volume(_label_type(labels), labels.grid)
    table = tables.caret(names) if names else b""
    return _write(small, path, like, description, intent=LABELS, extension=table, slope=1)


def write_image(
    volume: Volume, path: Path, like: Source | None = None, *, description: str = "segcli", slope: float = 1
) -> Path:
    """Write an image or probabilities, (C, D, H, W) float32 or integers, on the grid; otherwise as `write`.

    slope   what the stored numbers are multiplied with when they are read (1 / 255 for probabilities in uint8)
    """
    return _write(volume, path, like, description, intent=NO_INTENT, extension=b"", slope=slope)


def _write(
    volume: Volume, path: Path, like: Source | None, description: str, *, intent: int, extension: bytes, slope: float
) -> Path:
    name = path.name.lower()
    ending = next((e for e in ENDINGS if name.endswith(e)), None)
    if ending in (".nii", ".nii.gz"):
        from segcli.formats import nifti

        return nifti.write(volume, path, like, description=description, intent=intent, extension=extension, slope=slope)
    if slope != 1:
        raise UsageError(f"{path.name}: scaled values can only be written as NIfTI", hint="use .nii.gz")
    if ending in (".mgz", ".mgh"):
        from segcli.formats import mgh

        return mgh.write(volume, path)
    if ending in (".nrrd", ".mha"):
        from segcli.formats import itk

        return itk.write(volume, path)
    raise UsageError(f"{path.name}: no format of that ending can be written", hint="use one of " + ", ".join(ENDINGS))


def _label_type(labels: Volume) -> NDArray[Any]:
    """The labels as they are in uint8, uint16 or int32; others in the first of these that holds them all."""
    if labels.data.dtype in (np.uint8, np.uint16, np.int32):
        return labels.data
    low, high = int(labels.data.min()), int(labels.data.max())
    for dtype in (np.uint8, np.uint16, np.int32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return labels.data.astype(dtype)
    raise ValueError(f"labels from {low} to {high} fit no label type")


def _read_one(
    path: Path,
    affine: Form | None,
    series: str | None,
    volume: int | None,
    channels: int,
    fill_gaps: bool,
    seen: Seen = unseen,
) -> Volume:
    kind = _kind(path)
    if kind == "nifti":
        from segcli.formats import nifti

        return nifti.read(path, affine=affine, channels=channels, seen=seen)
    if kind == "mgh":
        from segcli.formats import mgh

        return mgh.read(path, channels=channels, seen=seen)
    if kind == "itk":
        from segcli.formats import itk

        return itk.read(path, seen=seen)
    from segcli.formats.dicom import series as dicom

    return dicom.read(path, series=series, volume=volume, fill_gaps=fill_gaps, seen=seen)


def files_of(path: Path) -> list[Path]:
    """The files that reading one scan file opens: itself, or a header and the voxels that lie in a file beside it.

    errors   InputError: not a format that is read, or its other half is not there
    """
    kind = _kind(path)
    if kind == "nifti":
        from segcli.formats import nifti

        return nifti.files_of(path)
    if kind == "itk":
        from segcli.formats import itk

        return itk.files_of(path)
    return [path]


def _kind(path: Path) -> str:
    """ "nifti", "mgh", "itk" or "dicom", by the first bytes; a folder is DICOM."""
    from segcli.formats import itk, mgh, nifti, streams

    if streams.is_folder(path):
        return "dicom"
    if streams.regular_size(path) == 0:
        raise InputError(f"{path.name}: truncated: the file is empty (0 bytes)", hint="copy or export it again")
    head = streams.head(path, nifti.HEAD)
    if not head:
        raise InputError(f"{path.name}: truncated: unpacked, the file is empty", hint="copy or export it again")
    if path.name.lower().endswith((".img", ".img.gz")) and nifti.has_header_beside(path):
        return "nifti"  # voxels; what they begin with means nothing
    for kind, room in (("nifti", nifti), ("itk", itk), ("mgh", mgh)):
        if room.looks_like(head):
            return kind
    from segcli.formats.dicom import series as dicom

    if dicom.looks_like(path):
        return "dicom"
    raise InputError(f"{path.name}: not a format that segcli reads; {_seems(head)}", hint=f"segcli reads {_READ}")


def _seems(head: bytes) -> str:
    """What a refused file seems to be."""
    for magic, what in _OTHERS.items():
        if head.startswith(magic):
            return f"it seems to be {what}"
    if head[257:262] == b"ustar":
        return "it seems to be a tar archive: unpack it first"
    if all(byte >= 32 or byte in b"\t\n\r" for byte in head):
        return "it seems to be text"
    return f"it begins with the bytes {head[:8].hex(' ')}"


def _joined(parts: Sequence[Volume]) -> Volume:
    """Several volumes on one grid as the channels of one."""
    first = parts[0]
    for part in parts[1:]:
        if not first.grid.same_as(part.grid):
            raise InputError(
                f"{_name(first)} and {_name(part)} are not on one grid: {_difference(first.grid, part.grid)}",
                hint="the channels of one scan must be resampled onto one grid first",
            )
    dtypes = {p.data.dtype for p in parts}
    dtype = dtypes.pop() if len(dtypes) == 1 else np.dtype(np.float32)
    data = np.empty((sum(p.data.shape[0] for p in parts), *first.grid.shape), dtype)
    at = 0
    for part in parts:
        data[at : at + part.data.shape[0]] = part.data
        at += part.data.shape[0]
    sources = [p.source for p in parts if p.source]
    source = Source(
        tuple(path for s in sources for path in s.paths),
        sources[0].kind,
        sources[0].header,
        tuple(dict.fromkeys(w for s in sources for w in s.warnings)),
        sources[0].facts,
    )
    return Volume(data, first.grid, source)


def _difference(one: Grid, other: Grid) -> str:
    if one.shape != other.shape:
        return f"{_size(one)} and {_size(other)} voxels"
    apart = np.linalg.norm(one.corners() - other.corners(), axis=1).max()
    return f"up to {apart:.4g} mm apart at a corner"


def _size(grid: Grid) -> str:
    return " x ".join(str(n) for n in grid.shape[::-1])


def _name(volume: Volume) -> str:
    return Path(volume.source.paths[0]).name if volume.source else "a volume in memory"
