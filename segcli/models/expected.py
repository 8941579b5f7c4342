"""What a card expects: of scans, what the model was made for; of results, limits of the checks."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

_Share = Annotated[float, Meta(ge=0, le=1)]
_Distance = Annotated[float, Meta(gt=0, le=1000)]
_Ratio = Annotated[float, Meta(gt=1, le=10)]
_Years = Annotated[float, Meta(ge=0, le=150)]
_Word = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9 ]+(?![\s\S])")]
Sequence = Literal["T1", "T2", "FLAIR", "PD", "DWI", "ADC", "BOLD", "SWI", "TOF"]


class MadeFor(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The scans that a model was made for, which what is said of a scan is compared with; null and [] for any.

    ages        of patients, from and to, in years
    body_parts  words of DICOM's Body Part Examined
    contrast    whether a contrast agent was given
    sequences   of MR
    """

    ages: Annotated[tuple[_Years, _Years] | None, Meta(description="null or two numbers of years from 0 to 150")] = None
    body_parts: Annotated[tuple[_Word, ...], Meta(max_length=100, description="a list of words")] = ()
    contrast: Annotated[bool | None, Meta(description="null, true or false")] = None
    sequences: Annotated[
        tuple[Sequence, ...], Meta(max_length=9, description="a list of T1, T2, FLAIR, PD, DWI, ADC, BOLD, SWI, TOF")
    ] = ()


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of the checks of a result, measured on what the model is made for; null is not calibrated.

    confidence         mean softmax margin of a structure below which the network was unsure of it
    confidence_of_all  the same over all structures, below which the scan is not what the model was made for
    misplaced_mm       a structure's distance from its partner's mirror image, also `misplaced_times` the usual one
    exchanged_mm       distance of two structures from their own places when each lies where the other belongs
    proportion         one axis longer or shorter against the others
    scale              all volumes together larger or smaller than the middle of their ranges
    smaller            all volumes together so many times smaller: a doubt before `scale` is reached
    stray_ml           of all pieces apart from the main body, where all structures together are one
    moved              labels moved elsewhere explain the scan's brightness so many times better than where they lie
    """

    confidence: Annotated[_Share | None, Meta(description="null or a number from 0 to 1")] = None
    confidence_of_all: Annotated[_Share | None, Meta(description="null or a number from 0 to 1")] = None
    misplaced_mm: Annotated[_Distance | None, Meta(description="null or a number above 0, 1000 at most")] = None
    misplaced_times: Annotated[float, Meta(ge=1, le=100, description="a number from 1 to 100")] = 4.0
    exchanged_mm: Annotated[_Distance | None, Meta(description="null or a number above 0, 1000 at most")] = None
    proportion: Annotated[_Ratio | None, Meta(description="null or a number above 1, 10 at most")] = None
    scale: Annotated[_Ratio | None, Meta(description="null or a number above 1, 10 at most")] = None
    smaller: Annotated[_Ratio | None, Meta(description="null or a number above 1, 10 at most")] = None
    stray_ml: Annotated[_Distance | None, Meta(description="null or a number above 0, 1000 at most")] = None
    moved: Annotated[_Ratio | None, Meta(description="null or a number above 1, 10 at most")] = None
