"""Values of a header as text: one line each, in the letters that the file says it is written in."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.errors import BytesLengthException
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import TEXT_VR_DELIMS, PersonName

from segcli.formats.dicom.places import printable

# What pydicom says of values of no type, and of sequences that have no end.
SPOILT = (BytesLengthException, NotImplementedError, OSError, TypeError, ValueError, struct.error)
_IN_LETTERS = frozenset(("LO", "PN", "SH", "ST"))  # of the character set that the header names; others are of ASCII
_ASCII = {"", "ISO_IR 6", "ISO 2022 IR 6"}  # the character set of a header that names none
_TEXTUAL = _IN_LETTERS | {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "TM", "UI"}
_BINARY = frozenset(
    ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation")
)


def text_of(header: Dataset, keyword: str) -> str:
    """A header value as one line, values parted by a backslash; a number as the text that lies in the file."""
    element = header.get_item(tag(keyword), keep_deferred=True)
    value: Any = element.value if element is not None else None
    if value is None:
        return ""
    kind = element.VR or dictionary_VR(element.tag)  # implicit VR: the file does not say
    if isinstance(value, bytes) and kind in _TEXTUAL:
        text = _decoded(header, value) if kind in _IN_LETTERS else value.decode("utf-8", "replace")
        return printable(text.rstrip(" \0").lstrip(" "))  # a NUL before a text is damage
    if isinstance(value, bytes) and len(value) == 2 and keyword in _BINARY:
        return str(int.from_bytes(value, "little" if element.is_little_endian else "big"))
    try:
        value = header[keyword].value
    except SPOILT:
        return ""
    parts = [value] if isinstance(value, str | PersonName) or not hasattr(value, "__iter__") else value
    return printable("\\".join("" if p is None else str(p) for p in parts).strip(" \0"))


def _decoded(header: Dataset, value: bytes) -> str:
    """A text in the character set that its header names (PS3.5 6.1); where it names none, in UTF-8, else in Latin-1."""
    if value.isascii() and b"\x1b" not in value:
        return value.decode("ascii")
    sets = [name.strip() for name in text_of(header, "SpecificCharacterSet").split("\\")]
    if not _ASCII.issuperset(sets):
        with without_warnings(), suppress(LookupError, *SPOILT):  # of sets that there are not
            return str(decode_bytes(value, convert_encodings(sets), TEXT_VR_DELIMS))
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")


@cache
def tag(keyword: str) -> BaseTag:
    return Tag(keyword)


@contextmanager
def without_warnings() -> Iterator[None]:
    """Keep pydicom's warnings from the terminal: what matters is checked here, in our words."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
