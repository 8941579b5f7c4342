"""Text in pictures, also in letters that the font which Pillow brings lacks."""

from __future__ import annotations

import contextlib
from functools import cache
from itertools import groupby

from PIL import ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_SYSTEM_FONTS = (  # files of Linux, Windows and macOS, for names in other letters than those of English
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "segoeui.ttf", "NotoSansCJK-Regular.ttc", "DroidSansFallbackFull.ttf",
    "wqy-zenhei.ttc", "YuGothM.ttc", "msgothic.ttc", "malgun.ttf", "msyh.ttc", "Arial Unicode.ttf",
    "Hiragino Sans GB.ttc",
)  # fmt: skip


def font_of(size: int) -> Font:
    """The font that Pillow brings, which has the letters of English."""
    return _fonts(size)[0]


def write_line(pen: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, ink: tuple[int, int, int]) -> None:
    """A line of text from its upper left corner on, each letter in the first font that has it."""
    x, base = float(at[0]), at[1] + size
    for font, part in _parts(text, size):
        pen.text((x, base), part, font=font, anchor="ls", fill=ink)
        x += font.getlength(part)


def length_of(text: str, size: int) -> float:
    """How many pixels a text takes as `write_line` writes it."""
    return sum(font.getlength(part) for font, part in _parts(text, size))


def _parts(text: str, size: int) -> list[tuple[Font, str]]:
    """A text in pieces, each with its font."""
    return [(_fonts(size)[k], "".join(part)) for k, part in groupby(text, lambda letter: _font_with(letter, size))]


@cache
def _font_with(letter: str, size: int) -> int:
    """Which of the fonts is the first that has a letter; 0 if none has it."""
    if letter.isascii():
        return 0
    return next((k for k, font in enumerate(_fonts(size)) if _has(font, letter)), 0)


@cache
def _fonts(size: int) -> list[Font]:
    found: list[Font] = [ImageFont.load_default(size)]
    for name in _SYSTEM_FONTS:
        with contextlib.suppress(OSError):
            found.append(ImageFont.truetype(name, size))
    return found


def _has(font: Font, letter: str) -> bool:
    """Whether a font has a letter: one that it lacks looks as one that no font has."""
    return bytes(font.getmask(letter)) != bytes(font.getmask("\uffff"))
