"""Rules that choose series by what their headers say: Modality=MR,SeriesDescription~=(?i)t1,ImageType!~DERIVED."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pydicom.datadict import tag_for_keyword

from segcli.errors import UsageError
from segcli.formats.dicom.files import DicomFile


def _is(said: str, wanted: str) -> bool:
    """Whether a value, or one of several, is what is wanted; numbers by what they are worth."""

    def number(text: str) -> float | str:
        try:
            return float(text)
        except ValueError:
            return text

    return number(wanted) in (number(said), *map(number, said.split("\\")))


def _holds(said: str, wanted: str) -> bool:
    return re.search(wanted, said) is not None


_SIGNS: dict[str, Callable[[str, str], bool]] = {
    "!=": lambda said, wanted: not _is(said, wanted),
    "~=": _holds,
    "!~": lambda said, wanted: not _holds(said, wanted),
    "=": _is,
}
_SIGN = "|".join(map(re.escape, _SIGNS))
_RULE = re.compile(rf"\s*(?P<keyword>[A-Za-z]+)\s*(?P<sign>{_SIGN})(?P<value>.*)", re.DOTALL)


@dataclass(frozen=True)
class Rule:
    """One comparison of an attribute: is it, is it not, does it hold a pattern, does it not."""

    keyword: str
    sign: str
    value: str

    def fits(self, file: DicomFile) -> bool:
        return _SIGNS[self.sign](file.text(self.keyword), self.value)


def rules(text: str) -> tuple[Rule, ...]:
    """The rules between commas, all of which a series has to fit; a comma that starts no rule belongs to a pattern.

    errors   UsageError: no rule, an attribute that DICOM does not know, a pattern that is none
    """
    found = []
    for part in re.split(rf",(?=\s*[A-Za-z]+\s*(?:{_SIGN}))", text):
        match = _RULE.fullmatch(part)
        if match is None:
            raise UsageError(f"--where {part}: is not of the form ATTRIBUTE=VALUE, with =, !=, ~= or !~")
        rule = Rule(**match.groupdict())
        if tag_for_keyword(rule.keyword) is None:
            raise UsageError(
                f"--where {part}: DICOM knows no attribute {rule.keyword}",
                hint="attributes have the standard's keywords, such as SeriesDescription",
            )
        if "~" in rule.sign:
            try:
                re.compile(rule.value)
            except re.error as error:
                raise UsageError(f"--where {part}: is no regular expression: {error}") from error
        found.append(rule)
    return tuple(found)


def fit(file: DicomFile, where: Sequence[Sequence[Rule]]) -> bool:
    """Whether the first file of a series fits all rules of one of the lists; any does where there are none."""
    return not where or any(all(rule.fits(file) for rule in each) for each in where)
