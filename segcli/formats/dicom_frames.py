"""The slices that a DICOM file holds: classic images, enhanced multi-frame objects and Siemens mosaics, seen alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from segcli.errors import InputError
from segcli.formats.dicom_files import DicomFile

# What may tell the volumes of one series apart, in the order in which it is tried.
DISTINGUISHING = (
    "StackID",
    "TemporalPositionIndex",
    "TemporalPositionIdentifier",
    "EchoNumbers",
    "EffectiveEchoTime",
    "EchoTime",
    "DiffusionBValue",
    "NominalPercentageOfCardiacPhase",
    "NominalCardiacTriggerDelayTime",
    "TriggerTime",
    "AcquisitionNumber",
    "FrameType",
    "ImageType",
    "ContentTime",
    "AcquisitionTime",
)


@dataclass(frozen=True, eq=False)
class Frame:
    """One slice of the patient.

    position     LPS mm of the centre of the first voxel
    row, column  unit vectors: the way that column indices and row indices grow
    spacing      mm between rows and between columns, as DICOM orders them
    tile         first row and column of the slice inside a mosaic
    keys         what may tell the volumes of a series apart
    """

    file: DicomFile
    index: int
    shape: tuple[int, int]
    position: tuple[float, ...]
    row: tuple[float, ...]
    column: tuple[float, ...]
    spacing: tuple[float, float]
    thickness: float | None
    slope: float
    intercept: float
    rescaled: bool
    number: int | None
    tile: tuple[int, int] | None = None
    keys: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For messages: the file, and the frame where it has several."""
        many = self.tile is not None or "PerFrameFunctionalGroupsSequence" in self.file.header
        return f"{self.file.name}, frame {self.index + 1}" if many else self.file.name


def frames_of(file: DicomFile) -> list[Frame]:
    """All slices of a whole file; InputError names the file, the frame and what its header lacks."""
    header = file.header
    if int(header.get("SamplesPerPixel", 1)) != 1:
        raise InputError(f"{file.name}: a colour image ({file.text('PhotometricInterpretation')})")
    if "ModalityLUTSequence" in header:
        raise InputError(f"{file.name}: its values go through a modality lookup table, which is not read")
    if "PerFrameFunctionalGroupsSequence" in header:
        return _enhanced(file)
    if int(header.get("NumberOfFrames") or 1) > 1:
        raise InputError(f"{file.name}: several frames without a position for each: no geometry")
    if is_mosaic(header):
        return _mosaic(file)
    return [_frame(file, 0, [header])]


def is_mosaic(header: Dataset) -> bool:
    return "MOSAIC" in (header.get("ImageType") or ()) and int(header.get("NumberOfFrames") or 1) == 1


def _enhanced(file: DicomFile) -> list[Frame]:
    """A frame's own functional groups count before the shared ones."""
    header = file.header
    groups = header.PerFrameFunctionalGroupsSequence
    count = int(header.get("NumberOfFrames") or 1)
    if len(groups) != count:
        raise InputError(f"{file.name}: {count} frames, but the positions of {len(groups)}: no geometry")
    shared = header.get("SharedFunctionalGroupsSequence") or [Dataset()]
    below = [*_items(shared[0]), header]
    return [_frame(file, index, [*_items(group), *below]) for index, group in enumerate(groups)]


def _items(group: Dataset) -> list[Dataset]:
    """The first item of each functional group: the attributes lie one level below."""
    return [
        element.value[0]
        for element in group
        if element.VR == "SQ" and not element.tag.is_private and element.value
    ]


def _frame(file: DicomFile, index: int, where: Sequence[Dataset]) -> Frame:
    """One slice by the attributes of its data sets, the first that has one counting."""
    name = file.name if len(where) == 1 else f"{file.name}, frame {index + 1}"

    def find(keyword: str) -> Any:
        return next((d[keyword].value for d in where if keyword in d and d[keyword].value is not None), None)

    def numbers(keyword: str, count: int) -> tuple[float, ...]:
        return _numbers(find(keyword), count, f"{name}: {_WORDS[keyword]}")

    position = numbers("ImagePositionPatient", 3)
    cosines = numbers("ImageOrientationPatient", 6)
    spacing = numbers("PixelSpacing", 2)
    if min(spacing) <= 0:
        raise InputError(f"{name}: pixel spacing {spacing[0]:g} x {spacing[1]:g} mm")
    row, column = _axes(cosines, name)
    rescale = [find(k) for k in ("RescaleSlope", "RescaleIntercept")]
    rescaled = any(v is not None and v != "" for v in rescale)
    slope = _numbers(rescale[0], 1, f"{name}: rescale slope")[0] if rescaled else 1.0
    intercept = _numbers(rescale[1], 1, f"{name}: rescale intercept")[0] if rescaled else 0.0
    if slope == 0:
        raise InputError(f"{name}: rescale slope 0: its values cannot be told")
    thickness = find("SliceThickness")
    return Frame(
        file=file,
        index=index,
        shape=(int(where[-1].Rows), int(where[-1].Columns)),
        position=position,
        row=row,
        column=column,
        spacing=(spacing[0], spacing[1]),
        thickness=None if thickness is None else float(thickness),
        slope=slope,
        intercept=intercept,
        rescaled=rescaled,
        number=_integer(find("InstanceNumber")),
        keys={k: _plain(find(k)) for k in DISTINGUISHING},
    )


_WORDS = {
    "ImagePositionPatient": "position (ImagePositionPatient)",
    "ImageOrientationPatient": "orientation (ImageOrientationPatient)",
    "PixelSpacing": "pixel spacing (PixelSpacing)",
}


def _numbers(value: Any, count: int, what: str) -> tuple[float, ...]:
    if value is None or value == "" or (hasattr(value, "__len__") and len(value) == 0):
        raise InputError(f"{what} is missing: no geometry", hint="export the series again with its geometry")
    try:
        found = tuple(float(v) for v in (value if count > 1 else [value]))
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} is not a list of {count} numbers") from error
    if len(found) != count or not all(math.isfinite(v) for v in found):
        raise InputError(f"{what} is not {count} finite numbers")
    return found


def _axes(cosines: tuple[float, ...], name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Unit vectors along a row and down a column; refused beyond 1e-3 of unit length and right angle."""
    pair = np.array(cosines).reshape(2, 3)
    lengths = np.linalg.norm(pair, axis=1)
    dot = float(pair[0] @ pair[1])
    if np.abs(lengths - 1).max() > 1e-3 or abs(dot) > 1e-3:
        raise InputError(
            f"{name}: orientation of lengths {lengths[0]:.4g} and {lengths[1]:.4g} with dot product {dot:.3g}: "
            "not two unit vectors at a right angle"
        )
    row, column = pair / lengths[:, None]
    return tuple(row.tolist()), tuple(column.tolist())


def _integer(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError):
        return None


def _plain(value: Any) -> Any:
    """A value that can be compared and sorted: a number, or text."""
    if value is None or value == "":
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value)


def _mosaic(file: DicomFile) -> list[Frame]:
    """The tiles of a Siemens mosaic as slices.

    The header's position is that of the whole picture laid around the first slice's centre, so the slice's own
    corner lies half the difference of the sizes further in. Number and normal come from the CSA header.
    """
    csa = csa_header(file.header)
    count = csa.get("NumberOfImagesInMosaic", [])
    normal = csa.get("SliceNormalVector", [])
    if len(count) != 1 or int(count[0]) < 1 or len(normal) != 3:
        raise InputError(f"{file.name}: a Siemens mosaic without the header that gives its slices' positions")
    whole = _frame(file, 0, [file.header])
    tiles = math.ceil(math.sqrt(int(count[0])))
    rows, columns = whole.shape[0] // tiles, whole.shape[1] // tiles
    if rows * tiles != whole.shape[0] or columns * tiles != whole.shape[1]:
        raise InputError(
            f"{file.name}: a mosaic of {whole.shape[0]} x {whole.shape[1]} is not {tiles} x {tiles} tiles"
        )
    distance = _numbers(
        file.header.get("SpacingBetweenSlices"),
        1,
        f"{file.name}: spacing between slices (SpacingBetweenSlices)",
    )[0]
    row, column, up = (np.array(v, float) for v in (whole.row, whole.column, normal))
    if abs(abs(float(np.cross(row, column) @ up)) - 1) > 1e-3:
        raise InputError(
            f"{file.name}: a mosaic whose slice normal is not at right angles to its rows and columns"
        )
    first: NDArray[np.float64] = np.array(whole.position)
    first = first + row * whole.spacing[1] * (whole.shape[1] - columns) / 2
    first = first + column * whole.spacing[0] * (whole.shape[0] - rows) / 2
    return [
        Frame(
            file=file,
            index=k,
            shape=(rows, columns),
            position=tuple((first + up * distance * k).tolist()),
            row=whole.row,
            column=whole.column,
            spacing=whole.spacing,
            thickness=whole.thickness,
            slope=whole.slope,
            intercept=whole.intercept,
            rescaled=whole.rescaled,
            number=whole.number,
            tile=(k // tiles * rows, k % tiles * columns),
            keys=whole.keys,
        )
        for k in range(int(count[0]))
    ]


def csa_header(header: Dataset) -> dict[str, list[float]]:
    """The numbers of the Siemens CSA image header (0029,1010); empty where there is none.

    Layout, little endian: "SV10" and 4 bytes, uint32 number of tags, uint32 77; a tag: 64 bytes of name, int32 vm,
    4 bytes of VR, int32 syngodt, int32 number of items, int32 77; an item: 4 x int32 of which the second is its
    length, then the text padded to 4 bytes. Source: the description of the format in nibabel's documentation.
    """
    data = header.get_item(0x00291010)
    block = bytes(data.value) if data is not None and isinstance(data.value, bytes | bytearray) else b""
    if block[:4] != b"SV10":
        return {}
    found: dict[str, list[float]] = {}
    at = 16
    for _ in range(min(int.from_bytes(block[8:12], "little"), 1000)):
        name = block[at : at + 64].split(b"\0")[0].decode("latin-1")
        items = int.from_bytes(block[at + 76 : at + 80], "little")
        at += 84
        texts = []
        for _ in range(items):
            length = int.from_bytes(block[at + 4 : at + 8], "little")
            texts.append(block[at + 16 : at + 16 + length].split(b"\0")[0].decode("latin-1").strip())
            at += 16 + (length + 3) // 4 * 4
            if at > len(block):
                return found
        try:
            found[name] = [float(t) for t in texts if t]
        except ValueError:
            continue
    return found
