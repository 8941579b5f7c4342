"""Labels to a DICOM structure set: closed contours along the edges of voxels, slice by slice, in LPS mm.

A contour follows the outer edges of its voxels, 1/500 of a voxel inside them: its area is theirs, and every voxel's
centre lies clearly inside or outside. A reader that rounds its points to whole voxels comes to the outermost voxels of
the structure; points on the edges themselves would be rounded to either side. A hole is joined to what surrounds it by
a narrow channel (the keyhole technique of PS3.3 C.8.8.6.3).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian, RTStructureSetStorage

from segcli.errors import OutputError
from segcli.formats.atomic import whole_file
from segcli.formats.dicom.objects import (
    AS_SOURCE,
    About,
    Maker,
    Scan,
    all_named,
    fingerprint,
    identification,
    remarks,
    short_names,
    term,
    uid,
)
from segcli.formats.dicom.texts import text_of, without_warnings
from segcli.space.volume import Grid, Source, Volume, Voxels
from segcli.structures import Label, structures

_CONTOUR_DATA = Tag("ContourData")
Vertex = tuple[int, int]  # corner of voxels: (row, column) of the voxel to its lower right
_WITHIN = 0.002  # voxels that a contour lies inside the edges
_IMPLEMENTATION = "2.25.215438237841374102437953022917284623377"  # segcli's own, PS3.7 D.3.3.2
_RIGHT, _DOWN, _LEFT, _UP = (0, 1), (1, 0), (0, -1), (-1, 0)


def write(
    labels: Volume,
    names: Sequence[Label],
    path: Path,
    like: Source | None,
    *,
    algorithm: str,
    version: str,
    about: About = AS_SOURCE,
) -> tuple[str, ...]:
    """Write labels as an RT structure set; the warnings say which structures have no code of their own.

    labels     (1, D, H, W) integers on the grid of `like`
    algorithm  the model's name; version: its hash
    errors     UsageError for another source than DICOM, InputError without a frame of reference, OutputError
    """
    scan = Scan(labels, like, "a structure set", Maker(algorithm, version), about)
    all_named(labels, names)
    wanted = structures(names)
    stored = labels.data[0, scan.numbers]
    ds = _object(scan, stored, wanted, fingerprint(scan, stored, names, "rtstruct"))

    def check(temporary: Path) -> None:
        for (number, voxels), label in zip(read(temporary, labels.grid), wanted, strict=True):
            if number != label.id or not np.array_equal(voxels[scan.numbers], stored == label.id):
                raise OutputError(f"{path.name}: {label.name} as read back differs from what was written")

    with whole_file(path, check) as file:
        ds.save_as(file, enforce_file_format=True)
    return remarks(names)


def read(path: Path, grid: Grid) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """For each structure its ROI number and the voxels of a grid whose centres lie inside its contours, (D, H, W)."""
    with without_warnings():
        ds = pydicom.dcmread(path)
        for roi in ds.ROIContourSequence:
            voxels = np.zeros(grid.shape, bool)
            for contour in roi.get("ContourSequence", ()):
                points = np.array(text_of(contour, "ContourData").split("\\"), float).reshape(-1, 3)
                corners = grid.index(points)
                low = np.maximum(np.floor(corners.min(axis=0)[1:]), 0).astype(int)
                high = np.ceil(corners.max(axis=0)[1:]).astype(int) + 1
                part = voxels[round(float(corners[:, 0].mean())), low[0] : high[0], low[1] : high[1]]
                part ^= inside(corners[:, 1:] - low, part.shape)
            yield int(roi.ReferencedROINumber), voxels


def inside(corners: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """(H, W) which voxel centres a closed polygon of (row, column) corners holds, by the even-odd rule."""
    starts, ends = corners, np.roll(corners, -1, axis=0)
    low = np.clip(np.ceil(np.minimum(starts[:, 0], ends[:, 0])), 0, shape[0]).astype(int)
    high = np.clip(np.ceil(np.maximum(starts[:, 0], ends[:, 0])), 0, shape[0]).astype(int)
    edge = np.repeat(np.arange(len(corners)), high - low)  # one entry for each row centre that an edge crosses
    rows = np.arange(len(edge)) - np.repeat(np.cumsum(high - low) - (high - low), high - low) + low[edge]
    (r0, c0), (r1, c1) = starts[edge].T, ends[edge].T
    columns = np.clip(np.ceil(c0 + (rows - r0) * (c1 - c0) / (r1 - r0)), 0, shape[1]).astype(int)
    crossings = np.zeros((shape[0], shape[1] + 1), np.int64)
    np.add.at(crossings, (rows, columns), 1)
    filled: NDArray[np.bool_] = np.cumsum(crossings, axis=1)[:, :-1] % 2 == 1
    return filled


def contours(mask: NDArray[np.bool_]) -> list[list[Vertex]]:
    """Closed polygons around the voxels of a (H, W) mask, each with its holes joined to it.

    Corners are (row, column) of the voxel to the lower right, so the first voxel's corners are (0, 0) to (1, 1). Voxels
    that touch only at a corner belong to separate contours.
    """
    loops = list(_loops(mask))
    outer = [loop for loop in loops if _area(loop) > 0]
    holes = sorted((loop for loop in loops if _area(loop) < 0), key=lambda loop: min((c, r) for r, c in loop))
    owner = {vertex: k for k, loop in enumerate(outer) for vertex in loop}
    for hole in holes:
        start = hole.index(min(hole, key=lambda v: (v[1], v[0])))
        ring = hole[start:] + hole[:start]
        row, column = ring[0]
        door = next((row, c) for c in range(column - 1, -1, -1) if (row, c) in owner)
        k = owner[door]
        at = outer[k].index(door)
        way = [(row, c) for c in range(door[1], column)]  # from the door to the hole, and back again
        outer[k][at:at] = [*way, *ring, ring[0], *way[:0:-1]]
        owner.update((vertex, k) for vertex in (*ring, *way))
    return [_corners(loop) for loop in outer]


def _loops(mask: NDArray[np.bool_]) -> Iterator[list[Vertex]]:
    """Walks along the edges of the mask with its voxels to the right, vertex by vertex."""
    m = np.pad(mask, 1)
    here, above, left = m[1:, 1:], m[:-1, 1:], m[1:, :-1]
    ways: dict[Vertex, list[Vertex]] = {}
    for edge, shift, way in (
        (here & ~above, (0, 0), _RIGHT),
        (above & ~here, (0, 1), _LEFT),
        (left & ~here, (0, 0), _DOWN),
        (here & ~left, (1, 0), _UP),
    ):
        for r, c in np.argwhere(edge).tolist():
            ways.setdefault((r + shift[0], c + shift[1]), []).append(way)
    while ways:
        start = next(iter(ways))
        loop: list[Vertex] = []
        at, way = start, ways[start][-1]
        while True:
            loop.append(at)
            open_ways = ways[at]
            if len(open_ways) > 1:  # two voxels touch at this corner: turn right, and stay with the one
                right = (way[1], -way[0])
                way = right if right in open_ways else open_ways[-1]
            else:
                way = open_ways[0]
            open_ways.remove(way)
            if not open_ways:
                del ways[at]
            at = (at[0] + way[0], at[1] + way[1])
            if at == start and (way[1], -way[0]) not in ways.get(at, ()):  # else the loop comes by here twice
                break
        yield loop


def _area(loop: Sequence[Vertex]) -> int:
    """Twice the signed area: positive around voxels, negative around a hole."""
    return sum(c0 * r1 - c1 * r0 for (r0, c0), (r1, c1) in zip(loop, [*loop[1:], loop[0]], strict=True))


def _corners(loop: list[Vertex]) -> list[Vertex]:
    """The loop without the vertices that lie on a straight line; the ends of channels stay."""
    before, after = [loop[-1], *loop[:-1]], [*loop[1:], loop[0]]
    return [
        v
        for b, v, a in zip(before, loop, after, strict=True)
        if (v[0] - b[0], v[1] - b[1]) != (a[0] - v[0], a[1] - v[1])
    ]


def within(loop: Sequence[Vertex]) -> NDArray[np.float64]:
    """(n, 2) the corners of a contour, as of `contours`, drawn a little towards its voxels."""
    corners = np.array(loop)
    out = np.sign(np.roll(corners, -1, axis=0) - corners)  # the way on from each corner
    ways = out + np.roll(out, 1, axis=0)
    drawn: NDArray[np.float64] = corners + _WITHIN * ways[:, ::-1] * [1, -1]  # the voxels lie to the right of each way
    return drawn


def _object(scan: Scan, stored: Voxels, wanted: Sequence[Label], identity: str) -> Dataset:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.ImplementationClassUID, ds.file_meta.ImplementationVersionName = _IMPLEMENTATION, "SEGCLI"
    ds.SOPClassUID, ds.SOPInstanceUID = RTStructureSetStorage, uid(identity, "instance")
    scan.lend(ds, wanted)
    ds.Modality, ds.SeriesInstanceUID, ds.SeriesNumber = (
        "RTSTRUCT",
        uid(identity, "series"),
        scan.number("structure set"),
    )
    ds.SeriesDescription, ds.OperatorsName = scan.description, ""
    scan.sign(ds)
    ds.SeriesDate, ds.SeriesTime = ds.StructureSetDate, ds.StructureSetTime = scan.date_time
    if scan.about.moment is not None:
        ds.InstanceCreationDate, ds.InstanceCreationTime = scan.date_time
    ds.StructureSetLabel, ds.InstanceNumber, ds.ApprovalStatus = "SEGCLI", 1, "UNAPPROVED"
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = scan.frame_of_reference, ""
    ds.ReferencedFrameOfReferenceSequence = [_frame_of_reference(scan)]
    named = short_names(wanted)
    ds.StructureSetROISequence = [_roi(number, name, scan) for number, name in named.items()]
    ds.ROIContourSequence = [_roi_contours(label, stored == label.id, scan) for label in wanted]
    if _longest(ds) >= 1 << 16:  # an explicit VR has 16 bits for the length of a contour's numbers
        ds.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    ds.RTROIObservationsSequence = [_observation(k, label) for k, label in enumerate(wanted, 1)]
    return ds


def _frame_of_reference(scan: Scan) -> Dataset:
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = scan.uid_of("SeriesInstanceUID")
    series.ContourImageSequence = [scan.reference(f) for f in scan.files]
    study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"  # retired, and what planning systems still look for
    study.ReferencedSOPInstanceUID = scan.uid_of("StudyInstanceUID")
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID = scan.frame_of_reference
    frame.RTReferencedStudySequence = [study]
    return frame


def _roi(number: int, name: str, scan: Scan) -> Dataset:
    roi = Dataset()
    roi.ROIGenerationDescription = f"{scan.maker.algorithm} {scan.maker.version}"[:64]
    roi.ROIDerivationAlgorithmIdentificationSequence = identification(scan.maker)
    roi.ROINumber, roi.ROIName, roi.ROIGenerationAlgorithm = number, name, "AUTOMATIC"
    roi.ReferencedFrameOfReferenceUID = scan.frame_of_reference
    return roi


def _longest(ds: Dataset) -> int:
    """Bytes of the longest contour's numbers."""
    contours = (c for roi in ds.ROIContourSequence for c in roi.get("ContourSequence", ()))
    return max((len(c.get_item(_CONTOUR_DATA).value) for c in contours), default=0)


def _roi_contours(label: Label, mask: NDArray[np.bool_], scan: Scan) -> Dataset:
    roi = Dataset()
    roi.ReferencedROINumber, roi.ROIDisplayColor = label.id, list(label.colour)
    items = []
    for k in np.flatnonzero(mask.any(axis=(1, 2))).tolist():
        frame = scan.frames[k]
        reference = scan.reference(frame.file)
        if frame.file.count("NumberOfFrames") > 1:
            reference.ReferencedFrameNumber = frame.index + 1
        for loop in contours(mask[k]):
            corners = np.insert(within(loop) - 0.5, 0, scan.numbers[k], axis=1)
            item = Dataset()
            item.ContourImageSequence = [reference]
            item.ContourGeometricType = "CLOSED_PLANAR"
            item.NumberOfContourPoints = len(corners)
            item[_CONTOUR_DATA] = _numbers(scan.grid.world(corners))
            item.set_original_encoding(False, True, "iso8859")  # so its numbers are written as they are
            items.append(item)
    if items:
        roi.ContourSequence = items
    return roi


def _numbers(points: NDArray[np.float64]) -> RawDataElement:
    """Coordinates as they lie in the file, to 0.1 micrometre: to check each as a decimal string takes much longer."""
    text = "\\".join(f"{v:.4f}" for v in points.ravel().tolist())
    value = (text + " " * (len(text) % 2)).encode()
    return RawDataElement(_CONTOUR_DATA, "DS", len(value), value, 0, False, True)


def _observation(number: int, label: Label) -> Dataset:
    meant = term(label)
    code = meant.kind.dataset()
    if meant.side is not None:
        code.SegmentedPropertyTypeModifierCodeSequence = [meant.side.dataset()]
    out = Dataset()
    out.ObservationNumber, out.ReferencedROINumber = number, label.id
    out.RTROIIdentificationCodeSequence = [code]
    out.RTROIInterpretedType, out.ROIInterpreter = "", ""
    return out
