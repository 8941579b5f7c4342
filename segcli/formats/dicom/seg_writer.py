"""Labels to a DICOM Segmentation on the planes of their series.

Each frame lies on a plane of the source and refers to the source's own instance (and frame). What is written is read
back by other code than wrote it, and compared, before the file gets its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import highdicom as hd
import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless

import segcli
from segcli.formats.atomic import whole_file
from segcli.formats.dicom.objects import (
    AS_SOURCE,
    MANUFACTURER,
    About,
    Maker,
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
from segcli.formats.dicom.seg import frames_in
from segcli.formats.dicom.texts import without_warnings
from segcli.space.volume import Grid, Source, Volume, Voxels
from segcli.structures import Label, structures

Kind = Literal["binary", "fractional", "labelmap"]


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
    scan = Scan(labels, like, "a DICOM segmentation", Maker(algorithm, version), about)
    wanted = structures(names)
    if labels.data.dtype.kind != "f":
        all_named(labels, names)
    stored = _segments(labels.data, wanted, scan, kind)
    identity = fingerprint(scan, stored, names, kind)
    with without_warnings():
        segmentation = _object(scan, stored, wanted, identity, kind)

    with whole_file(path, lambda temporary: _holds(temporary, labels.grid, scan, stored, kind)) as file:
        segmentation.save_as(file, enforce_file_format=True)
    return remarks(names)


def _holds(path: Path, grid: Grid, scan: Scan, stored: Voxels, kind: Kind) -> bool:
    """Whether each frame of a file is what was to be stored, and no other plane had anything; one frame at a time."""
    at = {k: i for i, k in enumerate(scan.numbers)}
    found = 0
    for segment, k, image in frames_in(path, grid)[2]:
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


def _object(scan: Scan, stored: Voxels, wanted: Sequence[Label], identity: str, kind: Kind) -> hd.seg.Segmentation:
    """The object with everything that depends on the clock or on chance replaced by what depends on its content."""
    made_by = identification(scan.maker)
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
        manufacturer_model_name=scan.maker.algorithm[:64],
        software_versions=segcli.__version__,
        device_serial_number=scan.maker.version[:16] or "none",
        content_label="SEGMENTATION",
        content_description=f"by {scan.maker.algorithm}"[:64],
        series_description=scan.description,
        transfer_syntax_uid=RLELossless if kind == "labelmap" else ExplicitVRLittleEndian,
    )
    if len(slices[used]) == 1:  # of which the library says 1 mm
        measures = segmentation.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        measures.SpacingBetweenSlices = _decimal(scan.grid.spacing[0])
    scan.sign(segmentation)
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
