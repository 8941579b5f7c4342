"""Labels to a DICOM Segmentation on the planes of their series, and back.

Each frame lies on a plane of the source and refers to the source's own instance (and frame). What is written is read
back by other code than wrote it, and compared, before the file gets its name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import highdicom as hd
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless

import segcli
from segcli.errors import InputError, OutputError, cause_of
from segcli.formats.atomic import whole_file
from segcli.formats.dicom.files import BIG_ENDIAN, DEFLATED, NATIVE
from segcli.formats.dicom.objects import (
    AS_SOURCE,
    MANUFACTURER,
    About,
    Scan,
    all_named,
    concept,
    fingerprint,
    identification,
    remarks,
    short_names,
    term,
    uid,
)
from segcli.formats.dicom.stack import farthest
from segcli.formats.dicom.texts import SPOILT, text_of, without_warnings
from segcli.space.volume import Grid, Source, Volume, Voxels, turned, turning
from segcli.structures import Label, structures

Kind = Literal["binary", "fractional", "labelmap"]
_BACKGROUND = "125040"  # of DICOM's own terms (DCM)


def write(
    labels: Volume,
    names: Sequence[Label],
    path: Path,
    like: Source | None,
    *,
    algorithm: str,
    version: str,
    kind: Kind = "binary",
    about: About = AS_SOURCE,
) -> tuple[str, ...]:
    """Write labels as a Segmentation object; the warnings say which structures have no code of their own.

    labels     (1, D, H, W) integers on the grid of `like`; for "fractional" also (K, D, H, W) float32 from 0 to 1,
               one channel for each structure of `names` in the order of their values
    algorithm  the model's name; version: its hash
    kind       binary and fractional: segments 1, 2, ... in the order of the label values; labelmap: the values, packed
    errors     UsageError for another source than DICOM, InputError without a frame of reference, OutputError
    """
    scan = Scan(labels, like, "a DICOM segmentation", about)
    wanted = structures(names)
    if labels.data.dtype.kind != "f":
        all_named(labels, names)
    stored = _segments(labels.data, wanted, scan, kind)
    identity = fingerprint(scan, stored, names, algorithm, version, kind)
    with without_warnings():
        segmentation = _object(scan, stored, wanted, identity, algorithm, version, kind)

    def check(temporary: Path) -> None:
        if not _holds(temporary, labels.grid, scan, stored, kind):
            raise OutputError(f"{path.name}: what was read back differs from what was written")

    with whole_file(path, check) as file:
        segmentation.save_as(file, enforce_file_format=True)
    return remarks(names)


def read(path: Path, grid: Grid) -> Voxels:
    """What a Segmentation object says on the planes of a grid, other planes 0.

    returns  (D, H, W) segment numbers for binary and labelmap, (K, D, H, W) 0..1 for fractional
    """
    kind, count, frames = _frames(path, grid)
    out = np.zeros(
        (count, *grid.shape) if kind == "FRACTIONAL" else grid.shape, np.float32 if kind == "FRACTIONAL" else np.uint16
    )
    for segment, k, image in frames:
        if kind == "FRACTIONAL":
            out[segment - 1, k] = image
        elif kind == "BINARY":
            out[k][image != 0] = segment
        else:
            out[k] = image
    return out


def labels_on(path: Path, grid: Grid, names: Sequence[Label] = ()) -> Volume:
    """The labels of a Segmentation on the grid of its scan; planes without a frame have none. (1, D, H, W)

    grid     of the scan, its axes in any order
    names    labels by whose names the segments have their values; without them the numbers of the segments count
    errors   InputError: it lies on another grid, holds probabilities, its segments overlap, or one is none of the names
    """
    try:
        data = _labels(path, grid, names)
    except InputError:
        raise
    except OutputError as error:
        raise InputError(error.message) from error
    except (AttributeError, LookupError, *SPOILT) as error:
        raise InputError(f"{path.name}: cannot be read as a DICOM Segmentation: {cause_of(error)}") from error
    return Volume(data[None], grid, Source((path,), "dicom segmentation"))


def segments_in(path: Path) -> dict[int, str]:
    """Number -> name of the segments of a Segmentation but for the background, whether any voxel is theirs or none."""
    with without_warnings():
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        background = _background(ds)
        return {number: name for number, name in _named(ds).items() if number != background}


def common_grid(paths: Sequence[Path]) -> Grid:
    """The grid of the planes on which some Segmentations have frames, and of those between them.

    The distance of planes is SpacingBetweenSlices where that fits all of them, else the smallest one between two, and
    of a single plane its thickness.

    errors   InputError: they do not lie on one grid, or cannot be read
    """
    told = " and ".join(path.name for path in paths)
    try:
        return _planes([_placed(path) for path in paths], told)
    except (AttributeError, LookupError, *SPOILT) as error:
        raise InputError(f"{told}: cannot be read as DICOM Segmentations: {cause_of(error)}") from error


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
    turned = max(np.abs(one.axes - first.axes).max() * max(first.shape) for one in placed)
    if any(one.shape != first.shape for one in placed) or turned > small or aside > small:
        raise InputError(f"{told}: do not lie on one grid", hint="give one of them as a label map, with --resample")
    planes = np.unique(np.round(np.sort(heights - heights.min()), 3))
    gaps = np.diff(planes)
    stated, thick = ([abs(one.apart[i]) for one in placed] for i in (0, 1))
    for apart in (*stated, gaps[gaps > farthest(1.0)].min(initial=np.inf), *thick):
        steps = planes / apart if 0 < apart < np.inf else planes + np.inf
        if np.abs(steps - np.round(steps)).max() < 0.05:
            affine = np.eye(4)
            affine[:3] = np.column_stack([normal * apart, first.axes[:, 1:], start])
            return Grid((round(float(steps[-1])) + 1, *first.shape), affine)
    raise InputError(f"{told}: their planes are not evenly apart", hint="give one of them as a label map")


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


def _named(ds: Dataset) -> dict[int, str]:
    return {int(segment.SegmentNumber): str(segment.SegmentLabel) for segment in ds.SegmentSequence}


def _labels(path: Path, grid: Grid, names: Sequence[Label]) -> Voxels:
    """(D, H, W) on the grid; errors as of `labels_on`, and those of what is missing in the header."""
    with without_warnings():
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        shared = ds.SharedFunctionalGroupsSequence[0]
        row, column = np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3)).astype(float)
        down, right = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    if ds.file_meta.TransferSyntaxUID not in (*NATIVE - {BIG_ENDIAN}, DEFLATED, RLELossless):
        raise InputError(f"{path.name}: its pixels are packed in a way that is not read of a Segmentation")
    own = turned(grid, _axes(row, column))
    apart = np.abs(own.affine[:3, 1:3] - np.stack([column * down, row * right], axis=1)).max()
    if own.shape[1:] != (int(ds.Rows), int(ds.Columns)) or apart * max(own.shape) > 0.1 * min(own.spacing):
        raise InputError(f"{path.name}: lies on another grid than the scan or label map that it is read with")
    value = _values(ds, names, path.name)
    kind, _, frames = _frames(path, own)
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


def _axes(row: NDArray[np.float64], column: NDArray[np.float64]) -> str:
    """Where the array axes of frames point: along the normal, down the rows, along a row."""
    affine = np.eye(4)
    affine[:3, :3] = np.stack([np.cross(row, column), column, row], axis=1)
    return Grid((1, 1, 1), affine).axes


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


def _frames(path: Path, grid: Grid) -> tuple[str, int, Iterator[tuple[int, int, Voxels]]]:
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


def _holds(path: Path, grid: Grid, scan: Scan, stored: Voxels, kind: Kind) -> bool:
    """Whether each frame of a file is what was to be stored, and no other plane had anything; one frame at a time."""
    at = {k: i for i, k in enumerate(scan.numbers)}
    found = 0
    for segment, k, image in _frames(path, grid)[2]:
        plane = stored[at[k]] if k in at else np.zeros(0)
        if kind == "labelmap":
            expected = plane
        elif plane.ndim == 3:
            expected = np.around(plane[..., segment - 1] * np.float32(255)) / np.float32(255)
        else:
            expected = plane == segment
        if not np.array_equal(image, expected):
            return False
        found += int(np.count_nonzero(image))
    return found == int(np.count_nonzero(np.around(stored * np.float32(255)) if stored.ndim == 4 else stored))


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


def _segments(data: Voxels, wanted: Sequence[Label], scan: Scan, kind: Kind) -> Voxels:
    """The real planes as highdicom wants them: (planes, H, W) numbers, or (planes, H, W, K) parts of 1."""
    real: Voxels = data[:, scan.numbers]
    if data.dtype.kind == "f":
        return np.moveaxis(real, 0, -1)
    if kind == "labelmap":
        values: Voxels = real[0].astype(np.uint16 if max(n.id for n in wanted) > 255 else np.uint8)
        return values
    table: Voxels = np.zeros(max(n.id for n in wanted) + 1, np.uint16 if len(wanted) > 255 else np.uint8)
    for number, label in enumerate(wanted, 1):
        table[label.id] = number
    numbers: Voxels = table[real[0]]
    return numbers


def _object(
    scan: Scan,
    stored: Voxels,
    wanted: Sequence[Label],
    identity: str,
    algorithm: str,
    version: str,
    kind: Kind,
) -> hd.seg.Segmentation:
    """The object with everything that depends on the clock or on chance replaced by what depends on its content."""
    made_by = identification(algorithm, version)
    slices, short = _slices(scan), short_names(wanted)
    empty = not stored.any()  # one plane says so; otherwise each segment would come on all planes
    used = slice(0, 1) if empty else slice(None)
    segmentation = hd.seg.Segmentation(
        source_images=slices[used],
        pixel_array=stored[used],
        segmentation_type=kind.upper(),
        segment_descriptions=[
            _described(label, short[label.id], label.id if kind == "labelmap" else number, made_by)
            for number, label in enumerate(wanted, 1)
        ],
        series_instance_uid=uid(identity, "series"),
        series_number=scan.number("segmentation"),
        sop_instance_uid=uid(identity, "instance"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=algorithm[:64],
        software_versions=segcli.__version__,
        device_serial_number=version[:16] or "none",
        content_label="SEGMENTATION",
        content_description=f"by {algorithm}"[:64],
        series_description=scan.description(algorithm),
        transfer_syntax_uid=RLELossless if kind == "labelmap" else ExplicitVRLittleEndian,
    )
    if len(slices[used]) == 1:  # of which the library says 1 mm
        measures = segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        measures.SpacingBetweenSlices = _decimal(scan.grid.spacing[0])
    scan.sign(segmentation, algorithm, version)
    scan.lend(segmentation, wanted)
    scan.date(segmentation)
    segmentation.ContentCreatorName = ""
    organisation = uid(identity, "dimensions")
    for item in (*segmentation.DimensionOrganizationSequence, *segmentation.DimensionIndexSequence):
        item.DimensionOrganizationUID = organisation
    _refer(segmentation, scan)
    return segmentation


def _slices(scan: Scan) -> list[Dataset]:
    """Each plane as a classic slice, whatever holds it; its number stands for its identity until `_refer`.

    Orientation and spacing are those of the first plane: differences in the last digits, which the reader let pass,
    are refused by the library. The two axes are at right angles exactly, as the standard asks.
    """
    first = scan.frames[0]
    axes = orthonormal(first.row, first.column)
    out = []
    for k, frame in enumerate(scan.frames):
        ds = scan.blank()
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, f"1.{k}"
        ds.SeriesInstanceUID, ds.FrameOfReferenceUID = "1.0", scan.frame_of_reference
        ds.PositionReferenceIndicator = scan.files[0].text("PositionReferenceIndicator")
        ds.Modality = scan.files[0].text("Modality")
        ds.Rows, ds.Columns = frame.shape
        ds.ImageOrientationPatient = [_decimal(v) for v in axes]
        ds.ImagePositionPatient = [_decimal(v) for v in frame.position]
        ds.PixelSpacing = [_decimal(v) for v in first.spacing]
        ds.SliceThickness = _decimal(frame.thickness or scan.grid.spacing[0])
        ds.update(scan.loss)
        out.append(ds)
    return out


def orthonormal(row: Sequence[float], column: Sequence[float]) -> list[float]:
    """The six cosines of two unit vectors, each turned by the same half of what they lack to a right angle."""
    u, v = np.array(row), np.array(column)
    lean = float(u @ v) / 2
    u, v = u - lean * v, v - lean * u
    u /= np.linalg.norm(u)
    v -= (u @ v) * u
    return [float(x) for x in (*u, *(v / np.linalg.norm(v)))]


def _decimal(value: float) -> str:
    """A decimal string of at most 16 characters."""
    return next(t for digits in range(15, 0, -1) if len(t := f"{value:.{digits}g}") <= 16)


def _described(
    label: Label, name: str, number: int, made_by: hd.AlgorithmIdentificationSequence
) -> hd.seg.SegmentDescription:
    meant = term(label)
    description = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=name,
        segmented_property_category=concept(meant.category),
        segmented_property_type=concept(meant.kind),
        algorithm_type="AUTOMATIC",
        algorithm_identification=made_by,
        display_color=hd.color.CIELabColor.from_rgb(*label.colour),
    )
    description.SegmentAlgorithmName = made_by[0].AlgorithmName
    if meant.side is not None:
        kind = description.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [concept(meant.side)]
    return description


def _refer(segmentation: Dataset, scan: Scan) -> None:
    """Put the source's instances and frames where the stand-ins of `_slices` are named."""
    references = [scan.reference(f) for f in scan.files]
    segmentation.SourceImageSequence = references
    series = Dataset()
    series.SeriesInstanceUID = scan.uid_of("SeriesInstanceUID")
    series.ReferencedInstanceSequence = references
    segmentation.ReferencedSeriesSequence = [series]
    items = {  # by identity: the frames of one plane share their item
        id(item): item
        for group in segmentation.PerFrameFunctionalGroupsSequence
        for derivation in group.get("DerivationImageSequence", ())
        for item in derivation.SourceImageSequence
    }
    for item in items.values():
        frame = scan.frames[int(item.ReferencedSOPInstanceUID.removeprefix("1."))]
        item.ReferencedSOPClassUID = frame.file.text("SOPClassUID")
        item.ReferencedSOPInstanceUID = scan.uid_of("SOPInstanceUID", frame.file)
        if frame.file.count("NumberOfFrames") > 1:
            item.ReferencedFrameNumber = frame.index + 1
        if frame.tile is not None:
            item.SpatialLocationsPreserved = "NO"
