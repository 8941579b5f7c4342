"""What a scan may be from Python, and how its voxels come onto their grid without a change."""

from __future__ import annotations

import hashlib
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike, fsdecode
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from segcli import formats
from segcli.api.words import in_python, said
from segcli.batch.cases import Case, cases
from segcli.batch.selection import Selection
from segcli.errors import InputError, UsageError, cause_of
from segcli.formats import nifti
from segcli.formats.steps import placed
from segcli.formats.streams import scale
from segcli.formats.table import Form, stem
from segcli.space.volume import LPS_OF_RAS, Grid, Source, Volume, Voxels

Space = Literal["RAS", "LPS"]
PathName = str | PathLike[str]
# Of one scan: a path (a file, a DICOM folder), a Volume, a SimpleITK.Image, a nibabel image, an array with `affine`; or
# several of them, one for each channel of the model; or channel -> path.
Scan = Any

_NAME = "scan"  # of one that has none


@dataclass(frozen=True, eq=False)
class InMemory:
    """A scan that a program holds.

    turned   whether its own arrays have the axes i, j, k, where `volume` has k, j, i
    """

    volume: Volume
    name: str
    turned: bool

    @property
    def sum(self) -> str:
        """sha256 over voxels and affine, by which a record knows the scan."""
        found = hashlib.sha256(str((self.volume.data.dtype.str, self.volume.data.shape)).encode())
        found.update(self.volume.grid.affine.tobytes())
        for channel in self.volume.data:
            found.update(np.ascontiguousarray(channel).data)
        return found.hexdigest()


def is_path(scan: Scan) -> bool:
    """Whether a scan, or each channel of it, is named and not held."""
    if isinstance(scan, Mapping):
        return True
    if isinstance(scan, list | tuple):
        return bool(scan) and all(isinstance(part, str | PathLike) for part in scan)
    return isinstance(scan, str | PathLike)


def form(affine: ArrayLike | str | None) -> Form | None:
    """Which statement of a NIfTI header counts, where that was said in place of an array's affine."""
    if not isinstance(affine, str):
        return None
    if affine not in get_args(Form):
        raise UsageError(f"affine={affine!r}: is sform, qform, pixdim, or of an array a (4, 4) matrix")
    return cast(Form, affine)


def warn(sentence: str) -> None:
    """Warn of what a command would tell, at the place in the user's program that called segcli.

    An option of `predict` is named as the argument that it is here.
    """
    level, frame = 1, sys._getframe()  # warnings.warn can leave files out by their names from Python 3.12 on
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "segcli":
        level, frame = level + 1, frame.f_back
    warnings.warn(said(sentence), stacklevel=level)


def meant(scan: Scan, affine: ArrayLike | str | None, series: Sequence[str], volume: int | None) -> None:
    """Refuse options that mean nothing for such a scan: UsageError."""
    filed = isinstance(scan, Case) or is_path(scan)
    if filed and affine is not None and not isinstance(affine, str):
        raise UsageError("affine= is for an array, and a file says itself where its voxels are")
    if not filed and (series or volume is not None):
        raise UsageError("series=, where= and volume= are for files, and this scan is in memory")
    if volume is not None and type(volume) is not int:  # it goes into the record
        raise UsageError(f"volume={volume!r}: is no int")


@in_python
def named(
    scan: Scan, channels: Sequence[str], select: Selection, volume: int | None = None, *, label_maps: bool = False
) -> Sequence[Case]:
    """The cases that a path means: of a file one, of a folder each scan in it; of several paths one with channels.

    select      which of the scans in a folder
    label_maps  whether label maps in a folder are scans; what is left out of it is warned of

    errors   as of `batch.cases.cases`
    """
    if isinstance(scan, str | PathLike):
        return cases([fsdecode(scan)], channels, select=select, volume=volume, label_maps=label_maps, tell=warn)
    if not isinstance(scan, Mapping):
        if len(scan) != len(channels):
            told = f"{len(scan)} paths for a model of {len(channels)} channel{'s' * (len(channels) != 1)}"
            raise UsageError(told, hint="several scans are for `segment_many`")
        scan = dict(zip(channels, scan, strict=True))
    if not all(isinstance(path, str | PathLike) for path in scan.values()):
        raise UsageError("{channel: path} names files", hint="channels in memory are a list, in the model's order")
    files = {channel: fsdecode(path) for channel, path in scan.items()}
    return cases([], channels, named=files, select=select, volume=volume)


def held(scan: Scan, affine: ArrayLike | str | None, space: Space) -> InMemory:
    """The voxels of a scan in memory on their grid; several are the channels of one.

    affine   of an array: (4, 4), from indices of its own axes to mm in `space`; of a nibabel image None, or which
             statement of its header counts
    errors   InputError: not numbers on a grid, or on different ones; UsageError: an affine where there is one already
    """
    if isinstance(scan, list | tuple):
        if not scan:
            raise UsageError("no scan was given")
        parts = [_one(part, affine, space) for part in scan]
        found = InMemory(formats.joined([part.volume for part in parts]), parts[0].name, parts[0].turned)
    else:
        found = _one(scan, affine, space)
    placed("the scan's grid", found.volume.grid)
    return found


def _one(scan: Scan, affine: ArrayLike | str | None, space: Space) -> InMemory:
    # Whoever has an object of a library has loaded the library.
    sitk, nibabel = sys.modules.get("SimpleITK"), sys.modules.get("nibabel")
    if nibabel is not None and isinstance(scan, nibabel.spatialimages.SpatialImage):
        return _nibabel(scan, affine)
    if isinstance(scan, str | PathLike):
        raise UsageError("paths and scans in memory are the channels of one scan", hint="read them first: segcli.read")
    array = not isinstance(scan, Volume) and not (sitk is not None and isinstance(scan, sitk.Image))
    if array:
        return _array(_as_array(scan), affine, space)
    if affine is not None:
        raise UsageError("affine= is for an array, and this scan says itself where it is")
    if isinstance(scan, Volume):
        return InMemory(replace(scan, data=_plain(scan.data, "the Volume")), _NAME, turned=False)
    return _sitk(scan)


def _nibabel(image: Any, affine: ArrayLike | str | None) -> InMemory:
    """A nibabel image as the file would be read that nibabel would make of it: scaled, with its units, forms and codes.

    errors   InputError: of Analyze, whose affine nibabel guesses; a guess may be a mirror image
    """
    import nibabel

    if affine is not None and not isinstance(affine, str):
        raise UsageError("affine= is for an array, and this image says itself where it is")
    name = image.get_filename()
    shown = Path(name).name if name else "the nibabel image"
    analyze = isinstance(image.header, nibabel.analyze.AnalyzeHeader)  # NIfTI's are of that kind too
    changed = analyze and image.affine is not None and not _alike(image.affine, image.header.get_best_affine())
    if isinstance(image.header, nibabel.Nifti1Header):
        if changed:  # since it was loaded: nibabel brings the header up to it when the image is saved
            _grid(image.affine, image.shape[:3], "RAS", reverse=True)
            image = type(image)(image.dataobj, image.affine, image.header)
        grid, source = nifti.in_memory(shown, image.header.binaryblock, affine=form(affine))
    elif analyze and not changed:
        raise InputError(
            f"{shown}: an Analyze 7.5 image, not a NIfTI: it does not state its orientation",
            hint="convert it to NIfTI with the orientation you know it to have",
        )
    else:
        grid = _grid(image.affine, image.shape[:3], "RAS", reverse=True)
        source = Source((), "memory", facts={"format": type(image).__name__})
    proxy = image.dataobj
    raw = proxy.get_unscaled() if hasattr(proxy, "get_unscaled") else np.asarray(proxy)
    slope, inter = (getattr(proxy, key, default) for key, default in (("slope", 1.0), ("inter", 0.0)))
    channels = np.asarray(raw).reshape((*image.shape[:3], -1), order="F").transpose(3, 2, 1, 0)
    volume = Volume(scale(_numbers(channels, shown), slope, inter), grid, source)
    return InMemory(volume, stem(Path(name)) if name else _NAME, turned=True)


def _alike(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Whether nibabel takes two affines for one."""
    return bool(np.allclose(one, other, equal_nan=True))


def _sitk(image: Any) -> InMemory:
    from segcli.space.itk_image import voxels_of

    data, ijk = voxels_of(image)
    grid = _grid(ijk, image.GetSize(), "LPS", reverse=True)
    source = Source((), "memory", facts={"format": "SimpleITK.Image"})
    return InMemory(Volume(_plain(data, "the SimpleITK image"), grid, source), _NAME, turned=False)


def _as_array(scan: Scan) -> NDArray[Any]:
    """What has become an array of NumPy: one, a tensor on the processor, numbers in lists.

    errors   InputError: NumPy takes it for none, or some of its voxels are masked, so that it does not say their values
    """
    try:
        array = np.asarray(scan)
    except (TypeError, ValueError, RuntimeError) as error:
        told = f"{type(scan).__name__}: cannot become an array of NumPy: {cause_of(error)}"
        raise InputError(told, hint="give a numpy.ndarray of real numbers") from error
    if np.ma.is_masked(scan):
        count = int(np.ma.getmaskarray(scan).sum())
        raise InputError(
            f"the array: {count} of {array.size} voxels are masked, so their values are unknown",
            hint="give it with values in their place: array.filled(VALUE)",
        )
    return array


def _array(array: NDArray[Any], affine: ArrayLike | str | None, space: Space) -> InMemory:
    """An array on the grid that `affine` states for its own axes.

    One in RAS+ is taken for (i, j, k) as nibabel has it and looked at from behind, so that the network sees what it
    would see of the file; one in LPS+ is taken for (k, j, i) as ITK has it.
    """
    if space not in ("RAS", "LPS"):
        raise UsageError(f"space={space!r}: is RAS or LPS, the direction of the affine's axes")
    if array.ndim == 0:
        given = type(array.item()).__name__
        raise InputError(
            f"{given}: is no scan", hint="give a path, a Volume, an image of nibabel or SimpleITK, an array"
        )
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != 3:
        told = f"an array of shape {array.shape}, where three axes are expected"
        raise InputError(told, hint="several channels are a list of arrays")
    if affine is None or isinstance(affine, str):
        raise UsageError(
            "an array does not say where its voxels are",
            hint="give affine=, (4, 4) from its indices to mm, and space='LPS' if that is not RAS+",
        )
    turned = space == "RAS"
    grid = _grid(affine, array.shape, space, reverse=turned)
    data = array.transpose(2, 1, 0) if turned else array
    source = Source((), "memory", facts={"format": "array", "space": space})
    return InMemory(Volume(_plain(data[None], "the array"), grid, source), _NAME, turned)


def _grid(affine: ArrayLike, shape: Sequence[int], space: Space, *, reverse: bool) -> Grid:
    """The grid of an affine over the axes of `shape`, in LPS; with its axes in reverse order where that is wanted."""
    try:
        matrix = np.asarray(affine, np.float64)
        if matrix.shape != (4, 4):
            raise ValueError(f"an affine of shape {matrix.shape}, where (4, 4) is expected")
        lps = LPS_OF_RAS @ matrix if space == "RAS" else matrix
        order = [2, 1, 0] if reverse else [0, 1, 2]
        d, h, w = (int(shape[i]) for i in order)
        return Grid((d, h, w), lps[:, [*order, 3]])
    except (ValueError, IndexError, TypeError, RuntimeError) as error:  # the last of a tensor that NumPy may not have
        raise InputError(f"the scan's grid: {error}") from error


def _plain(data: Voxels, name: str) -> Voxels:
    return scale(_numbers(data, name), 1.0, 0.0)


def _numbers(data: Voxels, name: str) -> Voxels:
    """Real numbers in the machine's byte order; truth values become 0 and 1."""
    if data.dtype.kind not in "iufb":
        raise InputError(f"{name}: voxels of type {data.dtype}; one real number per voxel is expected")
    wanted = np.dtype(np.uint8) if data.dtype.kind == "b" else data.dtype.newbyteorder("=")
    return data.astype(wanted, copy=False)
