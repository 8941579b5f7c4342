"""The pixels of a DICOM file as they are stored: read or decoded, and whether the header contradicts them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pydicom
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import get_decoder
from pydicom.uid import UID

from segcli.errors import EngineError, InputError, OutOfMemory, SegcliError
from segcli.formats.dicom.archive import opened
from segcli.formats.dicom.code_streams import (
    Samples,
    are_meant,
    are_runs,
    coded_samples,
    coded_size,
    has_end,
    has_restarts,
    lengthened,
    with_end,
)
from segcli.formats.dicom.files import BIG_ENDIAN, CODE_STREAMS, JPEG, RLE, DicomFile, uid_name
from segcli.formats.dicom.places import reachable
from segcli.formats.dicom.texts import without_warnings
from segcli.formats.dicom.words import in_lowest, too_wide
from segcli.space.volume import Voxels

_FILLED_UP = {JPEG + n for n in ("50", "51", "57", "70")}  # their decoder makes up samples that are not there
# For each compressed syntax the decoder that segcli depends on: which others are installed changes nothing.
_DECODERS = {  # pydicom's name of it, and the package that brings it
    RLE: ("pydicom", "pydicom"),
    **dict.fromkeys((JPEG + n for n in ("50", "51", "57", "70")), ("pylibjpeg", "pylibjpeg pylibjpeg-libjpeg")),
    **dict.fromkeys((JPEG + n for n in ("80", "81")), ("pyjpegls", "pyjpegls")),
    **dict.fromkeys(
        (JPEG + n for n in ("90", "91", "201", "202", "203")), ("pylibjpeg", "pylibjpeg pylibjpeg-openjpeg")
    ),
}
_OVERLAY_BITS = range(0x60000102, 0x60200102, 0x20000)  # OverlayBitPosition of each of the 16 overlays


def voxels(file: DicomFile) -> Voxels:
    """(frames, rows, columns) as stored: bits beyond BitsStored masked away, sign respected, not rescaled."""
    rows, columns = file.count("Rows", 0), file.count("Columns", 0)
    allocated, signed = file.count("BitsAllocated", 0), file.text("PixelRepresentation") == "1"
    if not signed and file.text("PixelRepresentation") != "0":
        raise InputError(f"{file.name}: whether its pixels have a sign (PixelRepresentation) is not said")
    stored = file.count("BitsStored", allocated)
    high = file.count("HighBit", stored - 1)
    coded = file.syntax in CODE_STREAMS and high + 1 != stored  # samples have no place in a word there
    if allocated not in (8, 16, 32) or not 1 <= stored <= high + 1 <= allocated or coded:
        raise InputError(f"{file.name}: {stored} of {allocated} bits, highest bit {high}: not a data type that is read")
    kind = np.dtype(f"{'i' if signed else 'u'}{allocated // 8}")
    samples: set[Samples] = set()
    if file.pixels is None:
        data, samples = _decoded(file)
        data = data.astype(kind)
    else:
        offset, length = file.pixels
        as_stored = kind.newbyteorder(">" if file.syntax == BIG_ENDIAN else "<")
        with reachable(file.path), opened(file.path) as handle:
            handle.seek(offset)
            buffer = bytearray(length)
            there = handle.readinto(buffer)  # type: ignore[attr-defined]
        if there != length:
            raise InputError(f"{file.name}: truncated: {there} of {length} bytes of pixels are there")
        data = np.frombuffer(buffer, as_stored).astype(kind, copy=False)
    data = data.reshape(-1, rows, columns)
    padding, least = _padding(file, allocated, signed), -(1 << (stored - 1)) if signed else 0
    if padding is not None and high + 1 == stored and not least <= padding < least + (1 << stored):
        data[data == padding] = least  # beyond what was reconstructed: its lower bits alone would be some tissue's
    _samples_agree(file, samples, data, stored, signed)
    if high + 1 == stored and too_wide(data, stored):
        raise InputError(
            f"{file.name}: its values from {data.min()} to {data.max()} need more than the {stored} bits with a sign "
            "that its header says: they cannot be told",
            hint="correct BitsStored and HighBit, or export the series again",
        )
    if in_lowest(data, stored, high):
        raise InputError(
            f"{file.name}: its samples are said to lie in the bits {high + 1 - stored} to {high} of their words, and "
            f"look as if they lay in the lowest {stored}: its values cannot be told",
            hint="correct HighBit, or export the series again",
        )
    if stored < allocated and not signed and high + 1 == stored:
        data &= kind.type((1 << stored) - 1)
    elif stored < allocated:  # up to the top, then down again: the sign comes along, bits above and below go
        data <<= kind.type(allocated - high - 1)
        data >>= kind.type(allocated - stored)
    return data


def _padding(file: DicomFile, allocated: int, signed: bool) -> int | None:
    """The value of pixels that are none (PixelPaddingValue), as words of the pixels' own sign hold it."""
    text = file.text("PixelPaddingValue")
    if not text.removeprefix("-").isdecimal() or len(text) > 12:
        return None
    value = int(text) % (1 << allocated)
    return value - (1 << allocated) if signed and value >> (allocated - 1) else value


def _samples_agree(file: DicomFile, samples: set[Samples], data: Voxels, stored: int, signed: bool) -> None:
    """Refuse values on which a code stream and the header do not agree; bits above them may be overlays."""
    values = data & data.dtype.type((1 << stored) - 1) if samples and _overlays_above(file, stored) else data
    for each in samples:
        if not are_meant(each, (stored, signed), int(values.min()), int(values.max())):
            coded, said = ("signed" if sign else "unsigned" for sign in (each[1], signed))
            raise InputError(
                f"{file.name}: its code stream has {coded} samples of {each[0]} bits, {said} ones of {stored} bits by "
                "its header: its values cannot be told",
                hint="export the series again, not compressed",
            )


def _overlays_above(file: DicomFile, stored: int) -> bool:
    """Whether overlays lie in the bits above the samples, as in files before 2004 (OverlayBitPosition)."""
    places = [place for place in _OVERLAY_BITS if place in file.header]
    return stored < file.count("BitsAllocated", 0) and any(file.header[place].value for place in places)


def _decoded(file: DicomFile) -> tuple[Voxels, set[Samples]]:
    """All frames of a compressed file, by pydicom's decoders, and what its code streams say of their samples."""
    decoder = get_decoder(UID(file.syntax))
    plugin, package = _DECODERS.get(file.syntax, ("", ""))
    if plugin and plugin not in decoder.available_plugins:
        raise EngineError(
            f"{file.name}: no decoder for {uid_name(file.syntax)}", hint=f"install it: pip install {package}"
        )
    samples: set[Samples] = set()
    # its own correction takes the highest bit for the one below BitsStored: `voxels` knows where it is
    as_stored: dict[str, Any] = {"raw": True, "decoding_plugin": plugin, "correct_unused_bits": False}
    with without_warnings():
        try:
            with reachable(file.path), opened(file.path) as handle:
                header = pydicom.dcmread(handle, force=True)
            header.pop("ExtendedOffsetTable", None)  # with it each frame is one item (PS3.3 C.7.6.3)
            streams: list[bytes] = []
            if file.syntax in _DECODERS:
                streams = list(generate_frames(header.PixelData, number_of_frames=file.count("NumberOfFrames")))
                samples = _streams_agree(file, streams)
            if file.syntax in _FILLED_UP:
                streams = [with_end(stream) for stream in streams]
                header["PixelData"].value = encapsulate(streams)
            data, _ = decoder.as_array(header, **as_stored)
            if file.syntax in _FILLED_UP:
                header["PixelData"].value = encapsulate([lengthened(stream) for stream in streams])
                again = decoder.iter_array(header, **as_stored)
                if not _whole(streams, data.reshape(len(streams), *data.shape[-2:]), again):
                    raise InputError(
                        f"{file.name}: truncated: the code stream of its pixels ends before the picture does",
                        hint="copy or export the series again",
                    )
        except MemoryError as error:
            raise OutOfMemory(f"{file.name}: its pixels need more memory than there is") from error
        except SegcliError:
            raise
        except Exception as error:  # the decoders raise all kinds
            raise InputError(f"{file.name}: corrupt: its pixels cannot be decoded ({uid_name(file.syntax)})") from error
    return np.asarray(data), samples


def _streams_agree(file: DicomFile, streams: Sequence[bytes]) -> set[Samples]:
    """Before a decoder gets memory for what a code stream announces, that has to be what the header says.

    So have run lengths to give as many bytes as it says: their decoder cuts what is more. A code stream has to be there
    to its end, unless it can be told without one that it is whole.

    returns   what the code streams of the frames say of their samples; run lengths say nothing
    """
    rows, columns, frames = file.count("Rows", 0), file.count("Columns", 0), file.count("NumberOfFrames")
    segments = file.count("SamplesPerPixel") * file.count("BitsAllocated", 0) // 8
    samples = set()
    for stream in streams:
        if file.syntax == RLE:
            if not are_runs(stream, segments, rows * columns):
                told = f"{file.name}: corrupt: its run lengths (RLE) are not those of {rows} x {columns} pixels"
                raise InputError(told)
            continue
        size = coded_size(stream)
        if size != (rows, columns):
            said = "of no known size" if size is None else f"of {size[0]} x {size[1]}"
            raise InputError(f"{file.name}: corrupt: pixels {said}, its header says {rows} x {columns}")
        if file.syntax not in _FILLED_UP and not has_end(stream):
            raise InputError(f"{file.name}: truncated: the code stream of its pixels has no end")
        samples.add(coded_samples(stream))
    if len(streams) != frames:
        raise InputError(f"{file.name}: truncated: {len(streams)} of {frames} frames are there")
    return samples


def _whole(streams: Sequence[bytes], frames: Voxels, again: Iterator[tuple[Voxels, Any]]) -> bool:
    """Whether the values (frames, rows, columns) of JPEG code streams are theirs to the last.

    A decoder that meets the end of a stream too early says nothing of it: it makes up the rest, and so gives other
    values, or fails, when other bits lie behind that end: `again` are the frames with such.
    """
    try:
        return all(map(has_restarts, streams)) and all(
            np.array_equal(frame, other) for frame, (other, _) in zip(frames, again, strict=True)
        )
    except RuntimeError:  # of bits that are no code
        return False
