"""What compressed pixels say of themselves, before a decoder is given them."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from typing import BinaryIO

_CODED_HEAD = 1 << 12  # bytes of a code stream in which it says how it is coded
_END = b"\xff\xd9"  # the marker EOI, or EOC
_MORE = b"\xaa" * 8  # bytes that look like no marker

Samples = tuple[int, bool]  # how many bits each has, and whether they have a sign


def are_runs(stream: bytes, segments: int, size: int) -> bool:
    """Whether a frame holds so many segments of run lengths, each of `size` bytes when unpacked (PS3.5 G).

    16 words of 4 bytes: the number of segments, where each begins. A segment: a byte n
    and n + 1 bytes as they are (n below 128), or one byte that is there 257 - n times (n above). Zeros may follow.
    """
    words = [int.from_bytes(stream[at : at + 4], "little") for at in range(0, 64, 4)]
    starts = words[1 : segments + 1]
    if words[0] != segments or starts[:1] != [64]:
        return False
    for start, end in itertools.pairwise([*starts, len(stream)]):
        at, left = start, size
        while left > 0 and at < end:
            n = stream[at]
            at, left = (
                (at + n + 2, left - n - 1) if n < 128 else (at + 2, left - 257 + n) if n > 128 else (at + 1, left)
            )
        if left != 0 or at > end or stream[at:end].strip(b"\0"):
            return False
    return True


def fragments_of(file: BinaryIO, first: int, size: int) -> list[tuple[int, int]] | None:
    """Where each fragment of a compressed file begins and how long it is, the table of offsets first.

    None where the delimiter at their end is not there.
    """
    at = first
    found: list[tuple[int, int]] = []
    while at + 8 <= size:
        file.seek(at)
        head = file.read(8)
        length = int.from_bytes(head[4:], "little")
        if head[:4] == b"\xfe\xff\xdd\xe0":
            return found
        if head[:4] != b"\xfe\xff\x00\xe0":
            return None
        found.append((at + 8, length))
        at += 8 + length
    return None


def any_with_loss(file: BinaryIO, fragments: Sequence[tuple[int, int]]) -> bool:
    """Whether a fragment begins a code stream that is coded with loss."""
    for at, length in fragments:
        file.seek(at)
        if coded_with_loss(file.read(min(length, _CODED_HEAD))):
            return True
    return False


def coded_size(stream: bytes) -> tuple[int, int] | None:
    """(rows, columns) that a JPEG, JPEG-LS or JPEG 2000 code stream announces, None where it does not."""
    at = _size_of_2000(stream)
    if at is not None:
        x1, y1, x0, y0 = (int.from_bytes(stream[at + i : at + i + 4], "big") for i in (8, 12, 16, 20))
        return y1 - y0, x1 - x0
    at = _start_of_frame(stream)
    if at is None:
        return None
    return int.from_bytes(stream[at + 5 : at + 7], "big"), int.from_bytes(stream[at + 7 : at + 9], "big")


def coded_samples(stream: bytes) -> Samples:
    """What a code stream of a known size says of its samples; those of JPEG and JPEG-LS never have a sign."""
    at = _size_of_2000(stream)
    if at is not None:
        return (stream[at + 42] & 0x7F) + 1, stream[at + 42] > 0x7F
    at = _start_of_frame(stream)
    return (0 if at is None else stream[at + 4]), False


def coded_with_loss(stream: bytes) -> bool:
    """Whether a JPEG, JPEG-LS or JPEG 2000 code stream, or its beginning, is of a process that loses something.

    JPEG loses nothing where the marker of its frame is SOF3, 7, 11 or 15 (T.81 B.1.1.3), JPEG-LS where samples may be 0
    off (NEAR, T.87 C.2.3), JPEG 2000 where its wavelets are reversible (T.800 A.6.1). What does not say it, as a head
    that is too short, counts as without loss.
    """
    start = _size_of_2000(stream)
    if start is not None:
        return any(marker == 0x52 and stream[at + 13 : at + 14] == b"\0" for marker, at in _segments(stream, start + 2))
    at = _start_of_frame(stream)
    if at is None:
        return False
    if stream[at + 1] != 0xF7:
        return stream[at + 1] not in (0xC3, 0xC7, 0xCB, 0xCF)
    scan = next((at for marker, at in _segments(stream, 2) if marker == 0xDA), None)
    if scan is None:
        return False
    near = scan + 5 + 2 * stream[scan + 4]  # behind the components of the scan, two bytes each
    return stream[near : near + 1] not in (b"", b"\0")


def has_end(stream: bytes) -> bool:
    """Whether the marker that ends an image (EOI of JPEG and JPEG-LS, EOC of JPEG 2000) comes behind its first samples.

    Coded samples never look like it, so what is in front of it is all that there is of them.
    """
    return stream.find(_END, _start_of_samples(stream)) >= 0


def with_end(stream: bytes) -> bytes:
    """A JPEG with an end behind its samples where it has none, in place of zeros that may fill up its length."""
    if has_end(stream):
        return stream
    samples = stream.rstrip(b"\0")
    stuffed = samples.endswith(b"\xff") and samples != stream  # the zero behind such a byte is of the samples
    return (samples + b"\0" if stuffed else samples.rstrip(b"\xff")) + _END


def lengthened(stream: bytes) -> bytes:
    """A JPEG that has an end, with further bits behind its samples, also behind those before each restart marker.

    A decoder that has found all samples never looks at them. One that lacks some takes these bits for them: a first
    bit of 1, where behind the end it would take zeros, and no code of a sample begins another one.
    """
    start = _start_of_samples(stream)
    coded = stream[start : stream.find(_END, start)].rstrip(b"\xff")
    return stream[:start] + re.sub(rb"\xff*(\xff[\xd0-\xd7])", _MORE + rb"\1", coded) + _MORE + _END


def has_restarts(stream: bytes) -> bool:
    """Whether a JPEG of one component has the restart markers that its interval asks for (DRI, T.81 B.2.4.4)."""
    frame, size = _start_of_frame(stream), coded_size(stream)
    at = next((at for marker, at in _segments(stream, 2) if marker == 0xDD), None)
    interval = 0 if at is None else int.from_bytes(stream[at + 4 : at + 6], "big")
    if frame is None or size is None or interval == 0:
        return True
    side = 1 if stream[frame + 1] == 0xC3 else 8  # samples of a lossless JPEG are coded one by one, others in blocks
    units = math.prod(math.ceil(n / side) for n in size)
    start = _start_of_samples(stream)
    found = re.findall(rb"\xff[\xd0-\xd7]", stream[start : stream.find(_END, start)])
    return len(found) >= math.ceil(units / interval) - 1


def are_meant(coded: Samples, said: Samples, low: int, top: int) -> bool:
    """Whether values that were decoded, from `low` to `top`, mean the same by the code stream and by the header.

    A stream without a sign under a header with one is taken for the two's complement that some encoders store. More
    bits than the header says are no contradiction where no value needs them.
    """
    (bits, sign), (stored, signed) = coded, said
    if not (-(1 << stored - 1) <= low and top < 1 << stored):
        return False
    if sign and signed:
        return top < 1 << stored - 1
    if sign:
        return top < 1 << bits - 1  # a negative value has become a large one
    if signed and bits < stored:
        return low >= 0 and top < 1 << bits - 1  # a large value may have become a negative one
    return True


def _size_of_2000(stream: bytes) -> int | None:
    """Where a JPEG 2000 code stream begins, also inside a JP2 file; its SIZ segment (T.800 A.5.1) follows at once."""
    start = stream.find(b"\xff\x4f\xff\x51")
    return start if 0 <= start <= len(stream) - 43 and stream[:2] != b"\xff\xd8" else None


def _start_of_samples(stream: bytes) -> int:
    """Where the first scan of a JPEG or JPEG-LS begins, or the first tile part of a JPEG 2000; 0 where none does."""
    start = _size_of_2000(stream) or 0
    return next((at for marker, at in _segments(stream, start + 2) if marker in (0xDA, 0x90)), 0)


def _start_of_frame(stream: bytes) -> int | None:
    """Where the first start-of-frame segment of a JPEG lies (ITU-T T.81 B.2.2, T.87 for JPEG-LS)."""
    for marker, at in _segments(stream, 2) if stream[:2] == b"\xff\xd8" else ():
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return at
    return None


def _segments(stream: bytes, at: int) -> Iterator[tuple[int, int]]:
    """The marker of each segment from a place on, and where it begins, to where the coded samples begin."""
    while at + 9 <= len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker != 0xFF:
            yield marker, at
        if marker in (0xDA, 0x90):  # start of a scan, of a tile part
            return
        at += 1 if marker == 0xFF else 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
