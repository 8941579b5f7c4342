"""Labels of a DICOM Segmentation, on the grid of its scan or one of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import RLELossless

from segcli.errors import InputError, OutputError, cause_of
from segcli.formats.dicom.files import BIG_ENDIAN, DEFLATED, NATIVE
from segcli.formats.dicom.objects import short_names
from segcli.formats.dicom.stack import farthest
from segcli.formats.dicom.texts import SPOILT, text_of, without_warnings
from segcli.space.volume import OPPOSITE, Grid, Source, Volume, Voxels, turned, turning
from segcli.structures import Label, structures

_FRAME = "FrameOfReferenceUID"
_PLANES = 20_000  # more than any scan has
_AS_LABEL_MAP = "give one of them as a label map, with --resample"
_BACKGROUND = "125040"  # of DICOM's own terms (DCM)


def labels_on(path: Path, grid: Grid, names: Sequence[Label] = ()) -> Volume:
    """The labels of a Segmentation on the grid of its scan; planes without a frame have none. (1, D, H, W)

    grid     of the scan, its axes in any order
    names    labels by whose names the segments have their values; without them the numbers of the segments count
    errors   InputError: it lies on another grid, holds probabilities, its segments overlap, or one is none of the names
    """
    with _reading(path.name):
        data = _labels(path, grid, names)
    return Volume(data[None], grid, Source((path,), "dicom segmentation"))


def segments_in(path: Path) -> dict[int, str]:
    """Number -> name of the segments of a Segmentation but for the background, whether any voxel is theirs or none."""
    with _reading(path.name), without_warnings():
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        background = _background(ds)
        return {number: name for number, name in _named(ds).items() if number != background}


def common_grid(paths: Sequence[Path]) -> Grid:
    """The grid of the planes on which some Segmentations have frames, and of those between them.

    The distance of planes is SpacingBetweenSlices where that fits those of a Segmentation, else the smallest one
    between two of them, and of single planes their thickness. It is never one between planes of two Segmentations:
    slices half-way between the other's, or thicker ones, have labels on planes where the other can have none.

    errors   InputError: they do not lie on one grid, or cannot be read
    """
    told = " and ".join(path.name for path in paths)
    with _reading(told):
        return _planes([_placed(path) for path in paths], told)


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Refuse, with InputError, what a Segmentation lacks of all that is read of it."""
    try:
        yield
    except InputError:
        raise
    except OutputError as error:
        raise InputError(error.message) from error
    except (AttributeError, LookupError, *SPOILT) as error:
        raise InputError(f"{name}: cannot be read as a DICOM Segmentation: {cause_of(error)}") from error


@dataclass(frozen=True, eq=False)
class _Placed:
    """Where the frames of a Segmentation lie, in mm.

    shape      rows and columns
    axes       (3, 3) the normal, a step down the rows, a step along a row, as columns
    positions  (frames, 3) of the first pixel of each
    apart      SpacingBetweenSlices and SliceThickness; 0 where they are not stated
    """

    shape: tuple[int, int]
    axes: NDArray[np.float64]
    positions: NDArray[np.float64]
    apart: tuple[float, float]


def _placed(path: Path) -> _Placed:
    with without_warnings():
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        shared = ds.SharedFunctionalGroupsSequence[0]
        row, column = np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3)).astype(float)
        measures = shared.PixelMeasuresSequence[0]
        down, right = map(float, measures.PixelSpacing)
        apart = float(measures.get("SpacingBetweenSlices") or 0), float(measures.get("SliceThickness") or 0)
        axes = np.stack([np.cross(row, column), column * down, row * right], axis=1)
        positions = np.array([_position(g, shared) for g in ds.PerFrameFunctionalGroupsSequence])
        return _Placed((int(ds.Rows), int(ds.Columns)), axes, positions, apart)


def _planes(placed: Sequence[_Placed], told: str) -> Grid:
    """The grid of all their planes; `told` names the files."""
    first = placed[0]
    normal, small = first.axes[:, 0], 0.1 * np.linalg.norm(first.axes[:, 1:], axis=0).min()
    positions = np.concatenate([one.positions for one in placed])
    heights = (positions - first.positions[0]) @ normal
    start = first.positions[0] + normal * heights.min()
    aside = np.linalg.norm(positions - start - np.outer(heights - heights.min(), normal), axis=1).max()
    leaning = max(np.abs(one.axes - first.axes).max() * max(first.shape) for one in placed)
    if any(one.shape != first.shape for one in placed) or leaning > small or aside > small:
        raise InputError(f"{told}: do not lie on one grid", hint=_AS_LABEL_MAP)
    own = [apart for one in placed if (apart := _distance(one, normal)) is not None]
    if own and max(own) - min(own) > farthest(min(own)):
        raise InputError(f"{told}: their planes are {own[0]:g} and {own[1]:g} mm apart", hint=_AS_LABEL_MAP)
    planes = _heights(positions, normal)
    for apart in (*own, *(abs(one.apart[1]) for one in placed)):
        if _are_whole(planes, apart):
            count = round(float(planes[-1] / apart)) + 1
            if count > _PLANES:
                raise InputError(f"{told}: their frames lie {planes[-1]:,.0f} mm apart, with planes each {apart:g} mm")
            affine = np.eye(4)
            affine[:3] = np.column_stack([normal * apart, first.axes[:, 1:], start])
            return Grid((count, *first.shape), affine)
    raise InputError(f"{told}: their planes are not evenly apart", hint=_AS_LABEL_MAP)


def _distance(one: _Placed, normal: NDArray[np.float64]) -> float | None:
    """How far the planes of a Segmentation are apart, mm; None where neither it says that nor two of its planes."""
    planes = _heights(one.positions, normal)
    gaps = np.diff(planes)
    smallest = float(gaps[gaps > farthest(1.0)].min(initial=np.inf))
    return next((apart for apart in (abs(one.apart[0]), smallest) if _are_whole(planes, apart)), None)


def _heights(positions: NDArray[np.float64], normal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where planes lie along a normal, mm above the lowest, each once."""
    along = np.sort(positions @ normal)
    return np.unique(np.round(along - along[0], 3))


def _are_whole(planes: NDArray[np.float64], apart: float) -> bool:
    """Whether planes are whole numbers of a distance away from the first."""
    if not farthest(1.0) < apart < np.inf:
        return False
    steps = planes / apart
    return bool(np.abs(steps - np.round(steps)).max() < 0.05)


def refers_to(path: Path) -> tuple[str, str, str]:
    """UID of the series that a Segmentation is of, the patient's ID, UID of the study; "" for what is not said."""
    with without_warnings():
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        series = ds.get("ReferencedSeriesSequence") or [Dataset()]
        return text_of(series[0], "SeriesInstanceUID"), text_of(ds, "PatientID"), text_of(ds, "StudyInstanceUID")


def structures_in(path: Path, names: Sequence[Label]) -> list[Label]:
    """Of some labels those that a Segmentation has segments of."""
    there, short = segments_in(path).values(), short_names(names)
    return [label for label in structures(names) if short[label.id] in there]


def in_other_frame(path: Path, source: Source) -> bool:
    """Whether a Segmentation and a scan from DICOM each name a frame of reference, and not the same one."""
    if source.kind != "dicom":
        return False
    slices = next(plane.file for plane in source.header.planes if plane is not None)
    return len({_frame_of(path), slices.text(_FRAME)} - {""}) > 1


def in_other_frames(paths: Sequence[Path]) -> bool:
    """Whether some Segmentations name frames of reference, and not all the same one."""
    return len({*map(_frame_of, paths)} - {""}) > 1


def _frame_of(path: Path) -> str:
    with without_warnings():
        return text_of(pydicom.dcmread(path, stop_before_pixels=True, specific_tags=[_FRAME]), _FRAME)


def _named(ds: Dataset) -> dict[int, str]:
    """Number -> name of each segment, "" of one without; InputError where two have one number."""
    found: dict[int, str] = {}
    for segment in ds.SegmentSequence:
        number = int(segment.SegmentNumber)
        if number in found:
            told = (
                f"two of its segments, {found[number]} and {text_of(segment, 'SegmentLabel')}, have the number {number}"
            )
            raise InputError(f"{Path(str(ds.filename)).name}: {told}")
        found[number] = text_of(segment, "SegmentLabel")
    return found


def _labels(path: Path, grid: Grid, names: Sequence[Label]) -> Voxels:
    """(D, H, W) on the grid; errors as of `labels_on`, and those of what is missing in the header."""
    with without_warnings():
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        shared = ds.SharedFunctionalGroupsSequence[0]
        row, column = np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3)).astype(float)
        down, right = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    if ds.file_meta.TransferSyntaxUID not in (*NATIVE - {BIG_ENDIAN}, DEFLATED, RLELossless):
        raise InputError(f"{path.name}: its pixels are packed in a way that is not read of a Segmentation")
    own = turned(grid, _axes(grid, row, column))
    apart = np.abs(own.affine[:3, 1:3] - np.stack([column * down, row * right], axis=1)).max()
    if own.shape[1:] != (int(ds.Rows), int(ds.Columns)) or apart * max(own.shape) > 0.1 * min(own.spacing):
        raise InputError(f"{path.name}: lies on another grid than the scan or label map that it is read with")
    value = _values(ds, names, path.name)
    kind, _, frames = frames_in(path, own)
    if kind == "FRACTIONAL":
        raise InputError(f"{path.name}: holds probabilities, and no labels", hint="give the label map itself")
    data = np.zeros(own.shape, np.uint16)
    for segment, k, image in frames:
        labels = value[np.where(image != 0, segment, 0) if kind == "BINARY" else image]
        if labels.min() < 0:
            raise InputError(f"{path.name}: holds a segment that it does not describe")
        there = labels != 0
        if data[k][there].any():
            raise InputError(f"{path.name}: its segments overlap, so they make no label map")
        data[k][there] = labels[there]
    back, flips = turning(own.axes, grid.axes)
    return np.ascontiguousarray(np.flip(data.transpose(back), tuple(i for i, flip in enumerate(flips) if flip)))


def _axes(grid: Grid, row: NDArray[np.float64], column: NDArray[np.float64]) -> str:
    """The letters of a grid's axes turned to lie along the normal of frames, down their rows and along a row.

    The slices of a sheared grid may be nearer to a column than to the normal: rows and columns are found first.
    """
    cosines = np.stack([np.cross(row, column), column, row]) @ grid.directions
    down, right = (int(np.abs(along).argmax()) for along in cosines[1:])
    right = right if right != down else (down + 1) % 3  # on another grid, which the distances tell
    order = (3 - down - right, down, right)
    ahead = [cosines[k, i] > 0 for k, i in enumerate(order)]
    return "".join(grid.axes[i] if on else OPPOSITE[grid.axes[i]] for i, on in zip(order, ahead, strict=True))


def _values(ds: Dataset, names: Sequence[Label], file: str) -> NDArray[np.int32]:
    """The label of each segment's number, -1 for a number that is no segment's.

    errors   InputError: a segment is none of the names, or has the number 0 and none are given
    """
    known = {name: number for number, name in short_names(names).items()} if names else {}
    value: NDArray[np.int32] = np.full(1 << 16, -1, np.int32)
    background = _background(ds)
    value[[0, background or 0]] = 0
    for number, name in _named(ds).items():
        if number == background:
            continue
        if names and name not in known:
            raise InputError(
                f"{file}: its segment {name} is none of the model's structures",
                hint=f"name its model; `segcli report` takes the file's own names with --labels {file}",
            )
        if not names and number == 0:
            told = f"{file}: its segment {name} has the number 0, which is the background in a label map"
            raise InputError(told, hint="name its model, so that segments are told apart by their names")
        value[number] = known.get(name, number)
    return value


def _background(ds: Dataset) -> int | None:
    """The number of a label map's pixels that are background (PS3.3 C.8.20.2), None where all are structures.

    Those without a Pixel Padding Value, as dcmqi wrote them until 2026, say it by the type of their segment 0.
    """
    if ds.SegmentationType != "LABELMAP":
        return None
    if (stated := ds.get("PixelPaddingValue")) is not None:
        return int(stated) % (1 << 16)  # -1 of a writer that takes it for signed
    for segment in ds.SegmentSequence:
        if segment.SegmentNumber == 0 and segment.SegmentedPropertyTypeCodeSequence[0].CodeValue == _BACKGROUND:
            return 0
    return None


def frames_in(path: Path, grid: Grid) -> tuple[str, int, Iterator[tuple[int, int, Voxels]]]:
    """The kind of a Segmentation, how many segments it has, and of each frame its segment, plane and pixels.

    Segments count from 1 and are 0 in a label map; fractions are parts of 1.
    """
    with without_warnings():
        ds = pydicom.dcmread(path)
        shared = ds.SharedFunctionalGroupsSequence[0]
        groups = ds.PerFrameFunctionalGroupsSequence
        positions = np.array([_position(g, shared) for g in groups])
        planes = grid.index(positions)[:, 0].round().astype(int)
        apart = np.linalg.norm(positions - grid.world(planes[:, None] * [1, 0, 0]), axis=1).max()
        if apart > farthest(grid.spacing[0]) or not 0 <= planes.min() <= planes.max() < grid.shape[0]:
            raise OutputError(f"{path.name}: its frames do not lie on the planes of the series")
        segments = [_segment(g, shared) for g in groups]
        pixels = _pixels(ds)
    whole = np.float32(ds.MaximumFractionalValue) if ds.SegmentationType == "FRACTIONAL" else None
    images = (image if whole is None else image / whole for image in pixels)
    return str(ds.SegmentationType), len(ds.SegmentSequence), zip(segments, planes.tolist(), images, strict=True)


def _position(frame: Dataset, shared: Dataset) -> list[float]:
    group = frame if "PlanePositionSequence" in frame else shared
    return [float(v) for v in group.PlanePositionSequence[0].ImagePositionPatient]


def _segment(frame: Dataset, shared: Dataset) -> int:
    for group in (frame, shared):
        if "SegmentIdentificationSequence" in group:
            return int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber)
    return 0


def _pixels(ds: Dataset) -> Voxels:
    """(frames, rows, columns); single bits are unpacked, the first pixel in the lowest one."""
    shape = (int(ds.NumberOfFrames), int(ds.Rows), int(ds.Columns))
    if ds.file_meta.TransferSyntaxUID == RLELossless:
        return np.asarray(ds.pixel_array).reshape(shape)
    if ds.BitsAllocated == 1:
        bits = np.unpackbits(np.frombuffer(ds.PixelData, np.uint8), bitorder="little")
        return bits[: np.prod(shape)].reshape(shape)
    kind = np.dtype(f"<u{ds.BitsAllocated // 8}")
    return np.frombuffer(ds.PixelData, kind, count=int(np.prod(shape))).reshape(shape)
