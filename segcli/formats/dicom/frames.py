"""The slices that a DICOM file holds: classic images, enhanced multi-frame objects and mosaics, seen alike."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from segcli.errors import InputError, SegcliError
from segcli.formats.dicom.files import DicomFile
from segcli.formats.dicom.texts import SPOILT, text_of
from segcli.space.volume import Voxels

# What may tell the volumes of one series apart, in the order in which it is tried.
DISTINGUISHING = (
    "StackID",
    "TemporalPositionIndex",
    "TemporalPositionIdentifier",
    "EchoNumbers",
    "EffectiveEchoTime",
    "EchoTime",
    "InversionTime",
    "InversionTimes",
    "DiffusionBValue",
    "DiffusionGradientOrientation",
    "SequenceName",
    "ASLContext",
    "ComplexImageComponent",
    "ContrastBolusAgentPhase",
    "NominalPercentageOfRespiratoryPhase",
    "NominalRespiratoryTriggerDelayTime",
    "NominalPercentageOfCardiacPhase",
    "NominalCardiacTriggerDelayTime",
    "TriggerTime",
    "AcquisitionNumber",
    "FrameReferenceTime",
    "ConvolutionKernel",
    "KVP",
    "FlipAngle",
    "RepetitionTime",
    "SliceThickness",
    "FrameType",
    "ImageType",
)
# Where makers keep what an attribute of the standard says: creator, group and element of a private block.
_PRIVATE = {
    "DiffusionBValue": (
        ("SIEMENS MR HEADER", 0x0019, 0x0C),
        ("Philips Imaging DD 001", 0x2001, 0x03),
        ("Image Private Header", 0x0065, 0x09),
        ("GEMS_PARM_01", 0x0043, 0x39),
    ),
    "ComplexImageComponent": (("GEMS_PARM_01", 0x0043, 0x2F),),
}
_GE_OFFSET = 1e9  # what GE adds to some b-values
# In Siemens' names of sequences (ep_b0, ep_b1000t). Other names may differ within a volume, as of a heart's slices that
# were taken in breath-holds of their own (*tfi2d1_13, *tfi2d1_15).
_B_VALUE = re.compile(r"_b\d+")


@dataclass(frozen=True, eq=False)
class Frame:
    """One slice of the patient.

    position     LPS mm of the centre of the first voxel
    row, column  unit vectors: the way that column indices and row indices grow
    spacing      mm between rows and between columns, as DICOM orders them
    tile         first row and column of the slice inside a mosaic
    groups       data sets that hold its attributes, the nearest first
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
    groups: tuple[Dataset, ...] = field(repr=False)  # patient data, not to be shown
    tile: tuple[int, int] | None = None

    def key(self, keyword: str) -> object:
        """A value that can be compared and sorted: a number or text, None where there is none."""
        return comparable(_first(self.groups, keyword) or _of_maker(self.groups, keyword))

    @property
    def kind(self) -> dict[str, object]:
        """What has one value in all slices of a volume, by attribute: they would show different things."""
        said = (_first(self.groups, "FrameType") or _first(self.groups, "ImageType")).split("\\")
        shown = said[:1] + (said[2:3] if self.file.text("Modality") == "MR" else [])  # derived or not; M, P, a map
        sequence = self.key("SequenceName")
        return {
            "EchoNumbers": self.key("EchoNumbers"),
            "EchoTime": self.key("EffectiveEchoTime") or self.key("EchoTime"),
            "DiffusionBValue": self.key("DiffusionBValue"),
            "SequenceName": sequence if _B_VALUE.search(str(sequence)) else None,
            "ComplexImageComponent": self.key("ComplexImageComponent"),
            "ImageType": "\\".join(shown) or None,
        }

    @property
    def dimensions(self) -> tuple[object, ...]:
        """Where it stands in each of the dimensions that a multi-frame file names; () where it says nothing."""
        text = _first(self.groups, "DimensionIndexValues")
        return tuple(map(comparable, text.split("\\"))) if text else ()

    @property
    def name(self) -> str:
        """For messages: the file, and the frame where it has several."""
        many = self.tile is not None or has_groups(self.file)
        return f"{self.file.name}, frame {self.index + 1}" if many else self.file.name


def _of_maker(groups: Sequence[Dataset], keyword: str) -> str:
    """The first value of an attribute of a classic image as a maker's private block has it, "" where there is none."""
    header = groups[0]
    for creator, group, element in _PRIVATE.get(keyword, ()) if len(groups) == 1 else ():
        if group << 16 | 0x10 not in header:  # the creator of a group's first block
            continue
        try:
            value = header.private_block(group, creator)[element].value
            number = float(value if isinstance(value, int | float | str) else value[0])
        except (IndexError, KeyError, *SPOILT):
            continue
        return f"{number % _GE_OFFSET:g}" if math.isfinite(number) else ""
    return ""


def comparable(text: str) -> object:
    """A number, else the text; None for none."""
    try:
        return float(text) if text else None
    except ValueError:
        return text


def frames_of(file: DicomFile) -> list[Frame]:
    """All slices of a whole file; InputError names the file, the frame and what its header lacks."""
    try:
        return _frames(file)
    except SegcliError:
        raise
    except (AttributeError, IndexError, KeyError, OverflowError, *SPOILT) as error:
        raise InputError(f"{file.name}: corrupt: its header makes no sense ({type(error).__name__})") from error


def _frames(file: DicomFile) -> list[Frame]:
    header = file.header
    if is_colour(file):
        raise InputError(f"{file.name}: a colour image ({file.text('PhotometricInterpretation')})")
    if min(file.count("Rows", 0), file.count("Columns", 0)) < 1:
        raise InputError(f"{file.name}: its rows and columns are missing: no size")
    if header.get("ModalityLUTSequence"):
        raise InputError(f"{file.name}: its values go through a modality lookup table, which is not read")
    if has_groups(file):
        return _enhanced(file)
    if file.count("NumberOfFrames") > 1:
        raise InputError(f"{file.name}: several frames without a position for each: no geometry")
    _as_stored(file)
    if is_mosaic(file):
        return _vframe(file) if _is_vframe(file) else _mosaic(file)
    _no_mosaic(file)
    return [_frame(file, 0, (header,))]


def has_groups(file: DicomFile) -> bool:
    """Whether a file says something of its frames one by one; some converters leave an empty list in classic files."""
    groups = file.header.get_item("PerFrameFunctionalGroupsSequence")
    return groups is not None and bool(groups.value)


def is_colour(file: DicomFile) -> bool:
    """Whether a pixel is more than one number, or a number that stands for a colour."""
    return file.count("SamplesPerPixel") != 1 or file.text("PhotometricInterpretation") == "PALETTE COLOR"


def is_mosaic(file: DicomFile) -> bool:
    """Whether a picture holds several slices side by side: a Siemens mosaic or a United Imaging VFRAME."""
    named = file.text("ImageType").split("\\")
    return file.count("NumberOfFrames") == 1 and ("MOSAIC" in named or _is_vframe(file))


def _is_vframe(file: DicomFile) -> bool:
    return "VFRAME" in file.text("ImageType").split("\\") and not file.text("ImagePositionPatient")


def _no_mosaic(file: DicomFile) -> None:
    """Refuse a picture that is a mosaic by its private header alone: an anonymiser may have emptied its ImageType.

    A slice that somebody took out of a mosaic may keep the private header; few such divide into as many tiles.
    """
    count = csa_numbers(file.header, "NumberOfImagesInMosaic")
    tiles = math.ceil(math.sqrt(count[0])) if len(count) == 1 and 1 < count[0] < math.inf else 1
    if tiles > 1 and file.count("Rows", 0) % tiles == file.count("Columns", 0) % tiles == 0:
        raise InputError(
            f"{file.name}: by its private header a mosaic of {count[0]:g} slices, which its ImageType does not say",
            hint="export the series again, with MOSAIC in its ImageType or as single slices",
        )


def _as_stored(file: DicomFile) -> None:
    """Refuse what GE's research sequence epi_pepolar stores with reversed polarity.

    Its volumes of reversed polarity have their rows in reverse, under the position and orientation of those that have
    not. The user variable 12 (0019,10B3) says what was acquired: 0 is forward alone, 1 reversed alone, 2 and 3 both in
    turn; versions differ in which of them are reversed.
    """
    header = file.header
    if not file.text("Manufacturer").upper().startswith("GE") or "epi_pepolar" not in _private(header, 0x0019109C):
        return
    if _private(header, 0x001910B3) not in ("0", "0.0", "0.000000"):
        raise InputError(
            f"{file.name}: of GE's research sequence epi_pepolar with reversed polarity, whose rows may be stored in "
            "reverse without a word of it: mirrored or not, it cannot be told",
            hint="segment a series with forward polarity alone",
        )


def _private(header: Dataset, tag: int) -> str:
    """A private value as text, "" where there is none; whether its type is in the file or not."""
    element = header.get_item(tag)
    value = element.value if element is not None else None
    return value.decode("latin-1").strip(" \0") if isinstance(value, bytes) else str(value or "")


def _enhanced(file: DicomFile) -> list[Frame]:
    """A frame's own functional groups count before the shared ones."""
    header = file.header
    groups = header.PerFrameFunctionalGroupsSequence
    count = file.count("NumberOfFrames")
    if len(groups) != count:
        raise InputError(f"{file.name}: {count} frames, but the positions of {len(groups)}: no geometry")
    shared = header.get("SharedFunctionalGroupsSequence") or [Dataset()]
    below = [*_items(shared[0]), header]
    return [_frame(file, index, (*_items(group), *below)) for index, group in enumerate(groups)]


def _items(group: Dataset) -> list[Dataset]:
    """The first item of each functional group: the attributes lie one level below."""
    return [
        element.value[0] for element in group if element.VR == "SQ" and not element.tag.is_private and element.value
    ]


def _frame(file: DicomFile, index: int, groups: tuple[Dataset, ...]) -> Frame:
    """One slice by the attributes of its data sets, the first that has one counting."""
    name = file.name if len(groups) == 1 else f"{file.name}, frame {index + 1}"

    def numbers(keyword: str, count: int) -> tuple[float, ...]:
        return _numbers(_first(groups, keyword), count, f"{name}: {_WORDS.get(keyword, keyword)}")

    position = numbers("ImagePositionPatient", 3)
    spacing = numbers("PixelSpacing", 2)
    if min(spacing) <= 0:
        raise InputError(f"{name}: pixel spacing {spacing[0]:g} x {spacing[1]:g} mm")
    row, column = _axes(numbers("ImageOrientationPatient", 6), name)
    halves = {keyword for keyword in ("RescaleSlope", "RescaleIntercept") if _first(groups, keyword)}
    if len(halves) == 1:
        raise InputError(f"{name}: only one of RescaleSlope and RescaleIntercept is there: its values cannot be told")
    rescaled = bool(halves)
    slope = numbers("RescaleSlope", 1)[0] if rescaled else 1.0
    if slope == 0:
        raise InputError(f"{name}: rescale slope 0: its values cannot be told")
    thickness = comparable(_first(groups, "SliceThickness"))
    number = _first(groups, "InstanceNumber")
    return Frame(
        file=file,
        index=index,
        shape=(file.count("Rows", 0), file.count("Columns", 0)),
        position=position,
        row=row,
        column=column,
        spacing=(spacing[0], spacing[1]),
        thickness=thickness if isinstance(thickness, float) and 0 < thickness < math.inf else None,
        slope=slope,
        intercept=numbers("RescaleIntercept", 1)[0] if rescaled else 0.0,
        rescaled=rescaled,
        number=int(number) if number.lstrip("+-").isdecimal() else None,
        groups=groups,
    )


def tile_of(stored: Voxels, frame: Frame) -> Voxels:
    """The stored values of one slice, (rows, columns), of all that its file holds, (frames, rows, columns)."""
    top, left = frame.tile or (0, 0)
    index = 0 if frame.tile else frame.index
    tile: Voxels = stored[index, top : top + frame.shape[0], left : left + frame.shape[1]]
    return tile


def _first(groups: Sequence[Dataset], keyword: str) -> str:
    """The text of an attribute in the first data set that has a value for it, "" where none has."""
    return next((text for group in groups if (text := text_of(group, keyword))), "")


_WORDS = {
    "ImagePositionPatient": "position (ImagePositionPatient)",
    "ImageOrientationPatient": "orientation (ImageOrientationPatient)",
    "PixelSpacing": "pixel spacing (PixelSpacing)",
}


def _numbers(text: str, count: int, what: str) -> tuple[float, ...]:
    if not text:
        raise InputError(f"{what} is missing: no geometry", hint="export the series again with its geometry")
    try:
        found = tuple(float(part) for part in text.split("\\"))
    except ValueError as error:
        raise InputError(f"{what} is not a list of {count} numbers") from error
    if len(found) != count or not all(map(math.isfinite, found)):
        raise InputError(f"{what} is not {count} finite numbers")
    return found


def _axes(cosines: tuple[float, ...], name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Unit vectors along a row and down a column; refused beyond 1e-3 of unit length and right angle."""
    pair = cosines[:3], cosines[3:]
    lengths = math.hypot(*pair[0]), math.hypot(*pair[1])
    dot = sum(a * b for a, b in zip(*pair, strict=True))
    if max(abs(length - 1) for length in lengths) > 1e-3 or abs(dot) > 1e-3:
        raise InputError(
            f"{name}: orientation of lengths {lengths[0]:.4g} and {lengths[1]:.4g} with dot product {dot:.3g}: "
            "not two unit vectors at a right angle"
        )
    row, column = (tuple(v / length for v in axis) for axis, length in zip(pair, lengths, strict=True))
    return row, column


def _mosaic(file: DicomFile) -> list[Frame]:
    """The tiles of a Siemens mosaic as slices.

    The header's position is that of the whole picture laid around the first slice's centre, so the slice's own
    corner lies half the difference of the sizes further in. Number and normal come from the CSA header.
    """
    count = csa_numbers(file.header, "NumberOfImagesInMosaic")
    normal = csa_numbers(file.header, "SliceNormalVector")
    if len(count) != 1 or int(count[0]) < 1 or len(normal) != 3:
        raise InputError(f"{file.name}: a Siemens mosaic without the header that gives its slices' positions")
    whole = _frame(file, 0, (file.header,))
    tiles = math.ceil(math.sqrt(int(count[0])))
    rows, columns = whole.shape[0] // tiles, whole.shape[1] // tiles
    if rows * tiles != whole.shape[0] or columns * tiles != whole.shape[1]:
        raise InputError(f"{file.name}: a mosaic of {whole.shape[0]} x {whole.shape[1]} is not {tiles} x {tiles} tiles")
    between = file.text("SpacingBetweenSlices")
    distance = _numbers(between, 1, f"{file.name}: spacing between slices (SpacingBetweenSlices)")[0]
    row, column, up = (np.array(v, float) for v in (whole.row, whole.column, normal))
    if abs(abs(float(np.cross(row, column) @ up)) - 1) > 1e-3:
        raise InputError(f"{file.name}: a mosaic whose slice normal is not at right angles to its rows and columns")
    first: NDArray[np.float64] = np.array(whole.position)
    first = first + row * whole.spacing[1] * (whole.shape[1] - columns) / 2
    first = first + column * whole.spacing[0] * (whole.shape[0] - rows) / 2
    return [
        replace(
            whole,
            index=k,
            shape=(rows, columns),
            position=tuple((first + up * distance * k).tolist()),
            tile=(k // tiles * rows, k % tiles * columns),
        )
        for k in range(int(count[0]))
    ]


def _vframe(file: DicomFile) -> list[Frame]:
    """The tiles of a United Imaging grid as slices, row by row; each has a position of its own.

    Private elements of the group 0065 ("Image Private Header"): 1050 the number of slices, 1051 an item for each.
    """
    try:
        block = file.header.private_block(0x0065, "Image Private Header")
        count, items = int(block[0x50].value), block[0x51].value
    except (KeyError, TypeError, ValueError):
        count, items = 0, ()
    if count < 1 or len(items) != count or not all(isinstance(item, Dataset) for item in items):
        raise InputError(f"{file.name}: a United Imaging grid without the header that gives its slices' positions")
    across = math.ceil(math.sqrt(count))
    down = math.ceil(count / across)
    rows, columns = file.count("Rows") // down, file.count("Columns") // across
    if rows * down != file.count("Rows") or columns * across != file.count("Columns"):
        whole = f"{file.count('Rows')} x {file.count('Columns')}"
        raise InputError(f"{file.name}: a grid of {whole} is not {down} x {across} tiles")
    return [
        replace(
            _frame(file, k, (item, file.header)),
            shape=(rows, columns),
            tile=(k // across * rows, k % across * columns),
        )
        for k, item in enumerate(items)
    ]


def csa_numbers(header: Dataset, name: str) -> list[float]:
    """The numbers of a tag of the Siemens CSA image header (0029,xx10, mostly 1010); [] where there are none.

    Layout, little endian: "SV10" and 4 bytes, uint32 number of tags, uint32 77; a tag: 64 bytes of name, int32 vm,
    4 bytes of VR, int32 syngodt, int32 number of items, int32 77; an item: 4 x int32 of which the second is its
    length, then the text padded to 4 bytes. Source: the description of the format in nibabel's documentation.
    """
    elements = (header.get_item(0x00290010 | block << 8) for block in range(0x10, 0x20))
    values = (bytes(e.value) for e in elements if e is not None and isinstance(e.value, bytes | bytearray))
    block = next((value for value in values if value[:4] == b"SV10"), b"")
    tag = block.find(name.encode() + b"\0")
    at, texts = tag + 84, []
    for _ in range(int.from_bytes(block[tag + 76 : tag + 80], "little") if tag >= 0 else 0):
        length = int.from_bytes(block[at + 4 : at + 8], "little")
        texts.append(block[at + 16 : at + 16 + length].split(b"\0")[0].decode("latin-1").strip())
        at += 16 + (length + 3) // 4 * 4
        if at > len(block):
            return []
    try:
        return [float(text) for text in texts if text]
    except ValueError:
        return []
