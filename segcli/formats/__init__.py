"""read() and write(): pick a format by looking at what is there.

The content decides how a file is read, not its ending alone; `table` knows the formats, and the rooms of those that
need large libraries are imported when a file needs them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from segcli.errors import InputError, UsageError
from segcli.formats import streams
from segcli.formats.steps import placed
from segcli.formats.strangers import TEXT, seems
from segcli.formats.table import Form as Form
from segcli.formats.table import Format, Meaning, Seen, Wanted, known, unseen, written
from segcli.space.volume import Grid, Source, Volume, Voxels

if TYPE_CHECKING:
    from segcli.structures import Label

LABELS = 1002  # NIfTI's intent code
_HEAD = 540  # bytes by which a format is recognised: a header of NIfTI-2


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
    series     which DICOM series; volume: which of the volumes (phases, echoes, time points) in it, or in a file
    channels   how many the model wants: a 4-D file with as many volumes is taken for them
    fill_gaps  whether missing DICOM slices are interpolated instead of refused
    seen       is told the scan's grid before any voxel is read; what it raises ends the reading
    returns    (C, D, H, W): D, H, W are the file's k, j, i; an integer type of the file where nothing is scaled,
               else float32
    errors     InputError: not one whole, readable volume, or channels that do not share one grid;
               UsageError: a series of what is not DICOM, a volume where there is but one
    """
    if not paths:
        raise InputError("no scan was named")
    _has_choice([Path(p) for p in paths], series, volume)
    wanted = Wanted(affine, series, volume, channels, fill_gaps, seen)
    if len(paths) == 1:
        return _read_one(Path(paths[0]), wanted)
    first, *others = (Path(p) for p in paths)
    told = [_read_one(first, replace(wanted, channels=1))]
    return joined([*told, *(_read_one(p, replace(wanted, channels=1, seen=unseen)) for p in others)])


class _Known(Exception):
    """Raised where a grid is known, so that no voxel is read."""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = grid


def grid_of(
    paths: Sequence[Path],
    *,
    affine: Form | None = None,
    series: str | None = None,
    volume: int | None = None,
    channels: int = 1,
) -> Grid:
    """The grid of a scan by the headers of all its files; `read` says what the arguments mean.

    errors   as of `read`, as far as headers show what is wrong
    """
    files = [Path(path) for path in paths]
    _has_choice(files, series, volume)
    wanted = Wanted(affine, series, volume, channels if len(files) == 1 else 1, seen=_stop)
    grids = [_grid_of(file, wanted) for file in files]
    _on_one_grid([(file.name, grid) for file, grid in zip(files, grids, strict=True)])
    return grids[0]


def _stop(grid: Grid) -> None:
    raise _Known(grid)


def _grid_of(path: Path, wanted: Wanted) -> Grid:
    try:
        return _read_one(path, wanted).grid
    except _Known as stopped:
        return stopped.grid


def _has_choice(paths: Sequence[Path], series: str | None, volume: int | None) -> None:
    """Refuse a series or a volume that none of the files could have: UsageError."""
    if (series is None and volume in (None, 1)) or any(format_of(path).series for path in paths):
        return
    hint = "leave it away for such input"
    if series is not None:
        told, hint = f"is not DICOM, and has no series {series}", "leave --series and --where away for such input"
    elif all(format_of(path).count(path) == 1 for path in paths):
        told = f"holds one volume, there is nothing that --volume {volume} could choose"
    else:
        return
    raise UsageError(f"{paths[0].name}: {told}", hint=hint)


def write(
    labels: Volume, names: Sequence[Label], path: Path, like: Source | None = None, *, description: str = "segcli"
) -> Path:
    """Write labels on the scan's very grid; the file is whole and was read back before it has its name.

    labels       (1, D, H, W) integers
    names        the label table that goes into the file where its format has a place for one
    path         its ending chooses the format: one of `table.written()`
    like         where the scan came from: a NIfTI lends its forms, codes and units
    description  tool and model, for the format's description field; nothing else of that kind is written
    """
    if labels.data.shape[0] != 1 or labels.data.dtype.kind not in "iu":
        raise ValueError(f"labels are (1, D, H, W) integers, not {labels.data.dtype} {labels.data.shape}")
    return _write(Volume(_label_type(labels), labels.grid), path, Meaning(like, description, LABELS, names))


def write_image(
    volume: Volume, path: Path, like: Source | None = None, *, description: str = "segcli", slope: float = 1
) -> Path:
    """Write an image or probabilities, (C, D, H, W) float32 or integers, on the grid; otherwise as `write`.

    slope   what the stored numbers are multiplied with when they are read (1 / 255 for probabilities in uint8)
    """
    return _write(volume, path, Meaning(like, description, slope=slope))


def refuse_unwritable(path: Path, grid: Grid) -> None:
    """Before anything is computed, refuse a file that could not say where the voxels of a grid are: UsageError."""
    found, _ = _writing(path)
    if not found.holds(grid):
        raise UsageError(
            f"{path.name}: the numbers of an {found.name} header have too few digits to say where voxels so small and "
            "so far from the origin are",
            hint="use .nii.gz",
        )


def _writing(path: Path) -> tuple[Format, Callable[[Volume, Path, Meaning], Path]]:
    """The format of a name's ending and its writer; UsageError where none writes such files."""
    name = path.name.lower()
    for one in known():
        if name.endswith(one.written) and one.write is not None:
            return one, one.write
    possible = ", ".join(written())
    raise UsageError(f"{path.name}: no format of that ending can be written", hint=f"use one of {possible}")


def _write(volume: Volume, path: Path, meaning: Meaning) -> Path:
    found, write = _writing(path)
    if meaning.slope != 1 and not found.scales:
        raise UsageError(f"{path.name}: scaled values can only be written as NIfTI", hint="use .nii.gz")
    return write(volume, path, meaning)


def _label_type(labels: Volume) -> Voxels:
    """The labels as they are in uint8, uint16 or int32; others in the first of these that holds them all."""
    if labels.data.dtype in (np.uint8, np.uint16, np.int32):
        return labels.data
    low, high = int(labels.data.min()), int(labels.data.max())
    for dtype in (np.uint8, np.uint16, np.int32):
        if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
            return labels.data.astype(dtype)
    raise ValueError(f"labels from {low} to {high} fit no label type")


def _read_one(path: Path, wanted: Wanted) -> Volume:
    """One file or folder as its format reads it, once its voxels are known to be as far apart as a scan's are."""

    def seen(grid: Grid) -> None:
        placed(path.name, grid)
        wanted.seen(grid)

    return format_of(path).read(path, replace(wanted, seen=seen))


def files_of(path: Path) -> list[Path]:
    """The files that reading one scan file opens: itself, or a header and the voxels that lie in a file beside it.

    errors   InputError: not a format that is read, or its other half is not there
    """
    return format_of(path).files_of(path)


def is_segmentation(path: Path) -> bool:
    """Whether a file is a DICOM Segmentation; `dicom.seg.labels_on` reads its labels."""
    if streams.is_folder(path) or not format_of(path).series:
        return False
    from segcli.formats.dicom.files import open_file
    from segcli.formats.dicom.places import kind_of

    return kind_of(path) is None and open_file(path).text("Modality") == "SEG"


def ending_of(path: Path) -> str:
    """What a file with such bytes is called, for a scan that came without a name; "" where no format has an ending."""
    try:
        endings = format_of(path).endings
    except InputError:
        return ""
    packed = streams.is_gzip(path)
    return next((e for e in endings if e.endswith("z") == packed), "")


def format_of(path: Path) -> Format:
    """The format of a file, by its first bytes, or of a folder.

    errors   InputError: none that is read, and what the file seems to be; InputMissing: nothing is there
    """
    if streams.is_folder(path):
        return next(f for f in known() if f.series and f.looks_like(path, b""))
    if streams.regular_size(path) == 0:
        raise InputError(f"{path.name}: truncated: the file is empty (0 bytes)", hint="copy or export it again")
    head = streams.head(path, _HEAD)
    if not head:
        raise InputError(f"{path.name}: truncated: unpacked, the file is empty", hint="copy or export it again")
    found = next((f for f in known() if f.looks_like(path, head)), None)
    if found is None:
        *names, last = (f.name for f in known())
        twice = head.startswith(streams.GZIP_MAGIC)  # one layer was taken off
        told = "it seems to be packed with gzip twice: unpack it once" if twice else seems(head)
        hint = f"segcli reads {', '.join(names)} and {last}"
        if told == TEXT:
            hint += "; `segcli predict` takes a list of names with --files-from FILE, or --files-from - from stdin"
        raise InputError(f"{path.name}: not a format that segcli reads; {told}", hint=hint)
    return found


def joined(parts: Sequence[Volume]) -> Volume:
    """Several volumes on one grid as the channels of one; InputError where the grids differ."""
    first = parts[0]
    _on_one_grid([(_name(part, number), part.grid) for number, part in enumerate(parts, 1)])
    dtypes = {p.data.dtype for p in parts}
    dtype = dtypes.pop() if len(dtypes) == 1 else np.dtype(np.float32)
    data = np.empty((sum(p.data.shape[0] for p in parts), *first.grid.shape), dtype)
    at = 0
    for part in parts:
        data[at : at + part.data.shape[0]] = part.data
        at += part.data.shape[0]
    sources = [p.source for p in parts if p.source]
    if not sources:
        return Volume(data, first.grid)
    source = Source(
        tuple(path for s in sources for path in s.paths),
        sources[0].kind,
        sources[0].header,
        tuple(dict.fromkeys(w for s in sources for w in s.warnings)),
        sources[0].facts,
    )
    return Volume(data, first.grid, source)


def _on_one_grid(channels: Sequence[tuple[str, Grid]]) -> None:
    """Refuse the channels of one scan, by name, that are not on the grid of the first."""
    (called, first), *others = channels
    for name, grid in others:
        if not first.same_as(grid):
            raise InputError(
                f"{called} and {name} are not on one grid: {_difference(first, grid)}",
                hint="the channels of one scan must be resampled onto one grid first",
            )


def _difference(one: Grid, other: Grid) -> str:
    if one.shape != other.shape:
        return f"{_size(one)} and {_size(other)} voxels"
    apart = np.linalg.norm(one.corners(2) - other.corners(2), axis=1).max()
    return f"up to {apart:.4g} mm apart at a corner"


def _size(grid: Grid) -> str:
    return " x ".join(str(n) for n in grid.shape[::-1])


def _name(volume: Volume, number: int) -> str:
    """A channel as sentences call it: by its first file, where it has one."""
    return Path(volume.source.paths[0]).name if volume.source and volume.source.paths else f"channel {number}"
