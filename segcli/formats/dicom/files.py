"""DICOM files one by one: whether they are whole, their header and where their pixels are.

A reader that meets a short file may leave that slice out: here it is told what is wrong with it.
"""

from __future__ import annotations

import math
import os
import re
import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, BinaryIO, Literal

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID

from segcli.formats.dicom.archive import Place, opened
from segcli.formats.dicom.code_streams import any_with_loss, fragments_of
from segcli.formats.dicom.places import DICOMDIR_CLASS, bare, printable, reachable
from segcli.formats.dicom.texts import tag, text_of, without_warnings

IMPLICIT = "1.2.840.10008.1.2"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
NATIVE = {IMPLICIT, "1.2.840.10008.1.2.1", BIG_ENDIAN}
RLE = "1.2.840.10008.1.2.5"
JPEG = "1.2.840.10008.1.2.4."
LOSSLESS = {DEFLATED, RLE, *(JPEG + n for n in ("57", "70", "80", "90", "201", "202"))}
_LOST = {JPEG + n for n in ("50", "51")}  # always with loss
LOSSY = _LOST | {JPEG + n for n in ("81", "91", "203")}  # also without, which LossyImageCompression says
CODE_STREAMS = (LOSSLESS | LOSSY) - {DEFLATED, RLE}  # JPEG and its family
_PIXEL_DATA = 0x7FE00010
_UNDEFINED = 0xFFFFFFFF
_LONGEST_GROUP = 1 << 20  # bytes of the first group of a file
_UNPACKED_LIMIT = 1 << 30  # bytes that one deflated file may unpack to


@dataclass(frozen=True)
class Unused:
    """A file that is left out, and why."""

    file: str
    reason: str


@dataclass(frozen=True, eq=False)
class DicomFile:
    """One DICOM file: its header, and where its pixels are.

    fault    why it cannot be used although it claims to be an image; None when it is whole
    pixels   (offset, length) of the voxel bytes of an uncompressed file, None otherwise
    lossy    whether a code stream in it is coded with loss, whatever the syntax says
    """

    path: Place
    syntax: str
    fault: str | None = None
    pixels: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()
    lossy: bool = False

    @cached_property
    def header(self) -> Dataset:
        """All of the header without the pixels; read again after `forget`."""
        with without_warnings(), reachable(self.path), opened(self.path) as file:
            return pydicom.dcmread(file, stop_before_pixels=True, force=True)

    def forget(self) -> None:
        """Free the header's memory: a tree may hold a hundred thousand of them."""
        self.__dict__.pop("header", None)

    def taken(self) -> DicomFile:
        """The same file, which has the header's memory from now on."""
        own = replace(self)
        if "header" in self.__dict__:
            own.__dict__["header"] = self.__dict__.pop("header")
        return own

    def text(self, keyword: str) -> str:
        """A header value as one line without control characters, "" where there is none."""
        return text_of(self.header, keyword)

    def count(self, keyword: str, otherwise: int = 1) -> int:
        """A whole number of the header, or what it is taken for where it is missing."""
        text = self.text(keyword)
        return int(text) if text.isdecimal() and len(text) <= 12 else otherwise  # as many as DICOM has

    @property
    def name(self) -> str:
        return printable(self.path.name)


def uid_name(uid: str) -> str:
    """The name of a class or syntax that the standard knows, else the identifier itself."""
    with without_warnings():
        return printable(UID(uid).name)


def is_uid(text: str) -> bool:
    """Whether a text is an identifier: digits and dots, 64 at most."""
    return re.fullmatch(r"[0-9.]{1,64}", text) is not None


def unsafe(file: DicomFile) -> str:
    """The end of a sentence on a file that says what of its identifiers is none."""
    own = file.text("SOPInstanceUID")
    named = {f"its UID {own!r}": own, "the UID of its series": file.text("SeriesInstanceUID")}
    odd = next((what for what, uid in named.items() if re.fullmatch(r"[0-9.]*", uid) is None), None)
    return "" if odd is None else f"; {odd} is unsafe: not of digits and dots"


def open_file(path: Place) -> DicomFile:
    """The header of a file that starts like DICOM, and where its pixels are; no voxel is read.

    A file that is cut short or of a syntax that cannot be read comes back with its `fault`.
    """
    with reachable(path), opened(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        head = file.read(1024)
        stated = head[128:138] == b"DICM\2\0\0\0UL"  # the length of its first group
        first = 144 + int.from_bytes(head[140:144], "little") if stated else 0
        deflated = DEFLATED.encode() in head + file.read(min(max(first - len(head), 0), _LONGEST_GROUP))
        try:
            if first > _LONGEST_GROUP:
                raise ValueError("the group that states the syntax has no end")
            if not head[:140].strip(b"\0") or (head[128:132] != b"DICM" and not bare(head)):
                raise ValueError("there is no header where it should be")
            file.seek(0)
            if deflated and not (stated and _unpacks(file.read())):
                raise ValueError("it unpacks to too much")
            file.seek(0)
            header = pydicom.dcmread(file, stop_before_pixels=True, force=True)
            found = _examined(path, header, file, size)
        except Exception as error:  # pydicom lets errors of all kinds through for broken files
            header = Dataset()
            found = DicomFile(path, "", f"corrupt: its header cannot be read ({type(error).__name__})")
    found.__dict__["header"] = header
    return found


def _examined(path: Place, header: Any, file: BinaryIO, size: int) -> DicomFile:
    """What the header says of the file, and whether its pixels are all there."""
    syntax = _syntax(header)
    if header and max(header.keys()) == tag("SeriesInstanceUID") and not _pixels_follow(file):
        del header["SeriesInstanceUID"]  # the file ends within it, or so soon that nobody can tell
    if not text_of(header, "SOPClassUID") or not text_of(header, "SeriesInstanceUID"):
        if _class(header) == DICOMDIR_CLASS:
            return DicomFile(path, syntax, None)
        complete = _pixels_follow(file)
        what = "its SeriesInstanceUID or SOPClassUID is missing" if complete else "incomplete: its header ends early"
        return DicomFile(path, syntax, what)
    if syntax == DEFLATED:
        file.seek(0)
        there = "PixelData" in pydicom.dcmread(file)
        return DicomFile(path, syntax, None if there else "incomplete: it has no pixels")
    if syntax not in NATIVE | LOSSLESS | LOSSY:
        return DicomFile(path, syntax, f"unsupported transfer syntax {uid_name(syntax)}")
    return _with_pixels(path, header, syntax, file, size)


def _pixels_follow(file: BinaryIO) -> bool:
    """Whether the group of the pixels begins where the header has been read to."""
    at = file.tell()
    group = file.read(2)
    file.seek(at)
    return group in (b"\xe0\x7f", b"\x7f\xe0")


def with_loss(file: DicomFile) -> bool:
    """Whether the pixels of a file are, or once were, compressed with loss."""
    said = file.text("LossyImageCompression")
    return file.lossy or said == "01" or file.syntax in (_LOST if said == "00" else LOSSY)


def is_dicomdir(file: DicomFile) -> bool:
    """Whether a file is the index of a medium."""
    return stated_class(file) == DICOMDIR_CLASS


def stated_class(file: DicomFile) -> str:
    """The class that the first group of a file states, "" where it states none."""
    return _class(file.header)


def _class(header: Any) -> str:
    meta = getattr(header, "file_meta", None)
    return "" if meta is None else text_of(meta, "MediaStorageSOPClassUID")


def _syntax(header: Any) -> str:
    """The transfer syntax: stated, or as pydicom recognised it where the file does not say."""
    stated = str(header.file_meta.get("TransferSyntaxUID", ""))
    if stated:
        return stated
    implicit, little = header.original_encoding
    return BIG_ENDIAN if not little else IMPLICIT if implicit else "1.2.840.10008.1.2.1"


def _with_pixels(path: Place, header: Dataset, syntax: str, file: BinaryIO, size: int) -> DicomFile:
    """Find the pixel data behind the header, and check that all of it is there."""
    order: Literal["little", "big"] = "big" if syntax == BIG_ENDIAN else "little"
    start = file.tell()
    head = file.read(12)
    group, element = (int.from_bytes(head[i : i + 2], order) for i in (0, 2))
    if len(head) < 8 or group << 16 | element != _PIXEL_DATA:
        fault = "its voxels are floating-point" if group == 0x7FE0 else "incomplete: it has no pixels"
        return DicomFile(path, syntax, fault)
    expected = _expected(header)
    # As the element itself is written, whatever the file says of its syntax: these are no lengths, which are even.
    width = 8 if head[4:6] in (b"OB", b"OW", b"UN") else 4
    if width == 4 and syntax != IMPLICIT and int.from_bytes(head[4:8], order) != expected:
        return DicomFile(path, syntax, "corrupt: its pixels are of no type that there is")
    if syntax == BIG_ENDIAN and head[4:6] == b"OW" and text_of(header, "BitsAllocated") == "8":
        return DicomFile(path, syntax, "8-bit pixels in 16-bit words of the other byte order, which is not read")
    length = int.from_bytes(head[width : width + 4], order)
    first = start + width + 4
    if syntax not in NATIVE:
        fragments = fragments_of(file, first, size)
        if fragments is None:
            return DicomFile(path, syntax, "truncated: its pixels end early")
        return DicomFile(path, syntax, lossy=syntax in CODE_STREAMS and any_with_loss(file, fragments[1:]))
    if expected is None:
        return DicomFile(path, syntax, "its rows, columns, frames or bits are missing, 0 or no numbers")
    if length == _UNDEFINED:
        return DicomFile(path, syntax, f"its pixels are compressed, though its syntax is {uid_name(syntax)}")
    there = max(0, min(length, size - first))
    announced = expected if length <= expected + 1 else length  # a byte may fill up an odd number
    if there < announced:
        return DicomFile(path, syntax, f"truncated: {there} of {announced} bytes of pixels are there")
    if _lines_changed(file, first + length):
        told = "corrupt: it was transferred as text, which put bytes into it wherever one looked like the end of a line"
        return DicomFile(path, syntax, told)
    surplus = length - expected
    if surplus * max(int(text_of(header, side)) for side in ("Rows", "Columns")) >= expected:
        told = f"corrupt: {length} bytes of pixels, {expected} by its rows, columns, frames and bits"
        return DicomFile(path, syntax, told)  # a line more in each frame: they would begin elsewhere
    notes = () if surplus <= 1 else (f"{surplus} bytes follow the voxels and are not read",)
    return DicomFile(path, syntax, None, (first, expected), notes)


def _lines_changed(file: BinaryIO, end: int) -> bool:
    """Whether a file goes on behind its pixels, and each byte that ends a line of text comes as CR and LF.

    Padding of zeros may follow the pixels, and elements of higher groups.
    """
    file.seek(end)
    behind = file.read()
    if not behind.strip(b"\0") or behind[:4] in (b"\xfa\xff\xfa\xff", b"\xfc\xff\xfc\xff"):
        return False
    file.seek(0)
    whole = file.read()
    return 0 < whole.count(b"\n") == whole.count(b"\r\n")


def _expected(header: Dataset) -> int | None:
    """Bytes of all frames of an uncompressed file."""
    keywords = ("Rows", "Columns", "SamplesPerPixel", "NumberOfFrames", "BitsAllocated")
    texts = [text_of(header, k) or otherwise for k, otherwise in zip(keywords, ("", "", "1", "1", ""), strict=True)]
    if not all(t.isdecimal() and int(t) > 0 for t in texts):
        return None
    return (math.prod(map(int, texts)) + 7) // 8


def _unpacks(data: bytes) -> bool:
    """Whether a deflated file stays below the limit; nothing is kept."""
    meta = 132 + 12 + int.from_bytes(data[140:144], "little")  # preamble, magic, group length and what it announces
    inflate, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
    rest = data[meta:]
    try:
        while rest and not inflate.eof and total <= _UNPACKED_LIMIT:
            total += len(inflate.decompress(rest, 1 << 24))
            rest = inflate.unconsumed_tail
    except zlib.error:
        return True  # pydicom will say that it is corrupt
    return total <= _UNPACKED_LIMIT
