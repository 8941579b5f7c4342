"""DICOM series made in memory: a phantom without symmetry, so that a turned or mirrored reading shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

SHAPE = (6, 7, 5)  # slices, rows, columns
PATIENT = "CANARY^PATIENT"
AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))  # along a row, down a column
OBLIQUE = ((0.8, 0.6, 0.0), (-0.36, 0.48, 0.8))


def phantom(shape: tuple[int, int, int] = SHAPE, step: int = 3) -> NDArray[np.int16]:
    """HU, another value in every voxel."""
    return (np.arange(np.prod(shape)).reshape(shape) * step - 200).astype(np.int16)


def affine(
    axes: tuple[tuple[float, ...], tuple[float, ...]] = AXIAL,
    spacing: tuple[float, float, float] = (3.0, 2.0, 1.5),
    origin: tuple[float, ...] = (-10.0, -20.0, -30.0),
    tilt: float = 0.0,
) -> NDArray[np.float64]:
    """(d, h, w, 1) -> LPS mm; spacing between slices, rows and columns; tilt in mm down a column for each slice."""
    row, column = (np.array(a) for a in axes)
    out = np.eye(4)
    out[:3, 0] = np.cross(row, column) * spacing[0] + column * tilt
    out[:3, 1], out[:3, 2], out[:3, 3] = column * spacing[1], row * spacing[2], origin
    return out


Each = Callable[[Dataset, int], Any]


def header(k: int, uid: str, study: str = "study") -> Dataset:
    """The patient, study and series of a slice."""
    ds = Dataset()
    ds.SOPInstanceUID = generate_uid(entropy_srcs=[uid, str(k)])
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = (
        generate_uid(entropy_srcs=[s]) for s in (study, uid, "frame")
    )
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = (
        PATIENT,
        PATIENT + "-ID",
        "19000101",
        "O",
    )
    ds.StudyDate, ds.StudyTime, ds.SeriesDate, ds.SeriesTime = "20010203", "040506", "20010203", "040507"
    ds.StudyID, ds.AccessionNumber, ds.ReferringPhysicianName = "1", "CANARY-1", ""
    ds.Manufacturer, ds.PatientPosition, ds.PositionReferenceIndicator = "none", "HFS", ""
    ds.SeriesNumber, ds.SeriesDescription, ds.InstanceNumber = 3, "phantom", k + 1
    return ds


def pixels(ds: Dataset, stored: NDArray[Any], bits: int = 16, signed: bool = True) -> None:
    ds.Rows, ds.Columns = stored.shape[-2:]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, bits, bits - 1, int(signed)
    ds.PixelData = stored.astype("<i2" if signed else "<u2").tobytes()
    ds["PixelData"].VR = "OW"


def save(ds: Dataset, path: Path, syntax: str = ExplicitVRLittleEndian, *, preamble: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if syntax == ExplicitVRBigEndian:
        ds.PixelData = np.frombuffer(ds.PixelData, "<u2").astype(">u2").tobytes()
    if preamble:
        ds.file_meta = FileMetaDataset()
        ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = (
            ds.SOPClassUID,
            ds.SOPInstanceUID,
        )
        ds.file_meta.TransferSyntaxUID = syntax
        ds.save_as(path, enforce_file_format=True)
    else:
        ds.save_as(path, implicit_vr=True, little_endian=True)
    return path


def series(
    folder: Path,
    hu: NDArray[Any] | None = None,
    world: NDArray[np.float64] | None = None,
    *,
    uid: str = "a",
    syntax: str = ExplicitVRLittleEndian,
    each: Each | None = None,
    modality: str = "CT",
    first: int = 0,
    preamble: bool = True,
    **tags: Any,
) -> Path:
    """A classic series, a file a slice; `each(ds, k)` may change a slice, or drop it by returning False."""
    hu = phantom() if hu is None else hu
    world = affine() if world is None else world
    spacing = np.linalg.norm(world[:3, :3], axis=0)
    for k, image in enumerate(hu):
        ds = header(k, uid)
        ds.SOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
        ds.Modality, ds.ImageType = modality, ["ORIGINAL", "PRIMARY", "AXIAL"]
        ds.ImagePositionPatient = [_ds(v) for v in world[:3, 3] + world[:3, 0] * k]
        ds.ImageOrientationPatient = [_ds(v) for v in [*(world[:3, 2] / spacing[2]), *(world[:3, 1] / spacing[1])]]
        ds.PixelSpacing, ds.SliceThickness = [_ds(spacing[1]), _ds(spacing[2])], _ds(spacing[0])
        ds.AcquisitionNumber = 1
        if modality == "CT":
            ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = -1024, 1, "HU"
            ds.KVP, ds.ScanOptions = 120, ""
            pixels(ds, image + 1024, 12, signed=False)
        else:
            pixels(ds, image)
        for tag, value in tags.items():
            setattr(ds, tag, value)
        if each is not None and each(ds, k) is False:
            continue
        save(ds, folder / f"{uid}-{first + k:03d}.dcm", syntax, preamble=preamble)
    return folder


def enhanced(
    path: Path,
    stored: NDArray[Any],
    world: NDArray[np.float64],
    *,
    order: list[int] | None = None,
    each: Callable[[Dataset, int], Any] | None = None,
    syntax: str = ExplicitVRLittleEndian,
) -> Path:
    """An enhanced MR object with one frame a slice, in any order; `each(group, k)` may change a frame's groups."""
    spacing = np.linalg.norm(world[:3, :3], axis=0)
    ds = header(0, "enhanced")
    ds.SOPClassUID, ds.Modality, ds.ImageType = (
        EnhancedMRImageStorage,
        "MR",
        ["ORIGINAL", "PRIMARY", "M", "NONE"],
    )
    order = order or list(range(len(stored)))
    measures, orientation = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [_ds(spacing[1]), _ds(spacing[2])], _ds(spacing[0])
    orientation.ImageOrientationPatient = [_ds(v) for v in [*(world[:3, 2] / spacing[2]), *(world[:3, 1] / spacing[1])]]
    shared = Dataset()
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = (
        Sequence([measures]),
        Sequence([orientation]),
    )
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    groups = []
    for k in order:
        group, position = Dataset(), Dataset()
        position.ImagePositionPatient = [_ds(v) for v in world[:3, 3] + world[:3, 0] * k]
        group.PlanePositionSequence = Sequence([position])
        if each is not None:
            each(group, k)
        groups.append(group)
    ds.PerFrameFunctionalGroupsSequence = Sequence(groups)
    ds.NumberOfFrames = len(order)
    pixels(ds, stored[order])
    return save(ds, path, syntax)


def _ds(value: float) -> str:
    return f"{round(float(value), 9):.9g}"
