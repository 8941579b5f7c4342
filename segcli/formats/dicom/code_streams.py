"""What compressed pixels say of themselves, before a decoder is given them."""

from __future__ import annotations

import itertools


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


def coded_size(stream: bytes) -> tuple[int, int] | None:
    """(rows, columns) that a JPEG, JPEG-LS or JPEG 2000 code stream announces, None where it does not.

    JPEG: the first start-of-frame segment (ITU-T T.81 B.2.2, T.87 for JPEG-LS); JPEG 2000: the SIZ segment right
    behind the start of the code stream (T.800 A.5.1), inside a JP2 file as well.
    """
    start = stream.find(b"\xff\x4f\xff\x51")
    if start >= 0 and stream[:2] != b"\xff\xd8":
        x1, y1, x0, y0 = (int.from_bytes(stream[start + i : start + i + 4], "big") for i in (8, 12, 16, 20))
        return y1 - y0, x1 - x0
    at = 2
    while stream[:2] == b"\xff\xd8" and at + 9 <= len(stream) and stream[at] == 0xFF:
        marker = stream[at + 1]
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return int.from_bytes(stream[at + 5 : at + 7], "big"), int.from_bytes(stream[at + 7 : at + 9], "big")
        at += 1 if marker == 0xFF else 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    return None
