"""The word of a card about a rough model, which finds where its own network looks."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

_Structures = Annotated[
    tuple[Annotated[str, Meta(min_length=1, max_length=200)], ...],
    Meta(min_length=1, max_length=1000, description="a list of names of the rough model's labels"),
]


class Within(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What lies outside of some structures of the rough model, grown by `mm`, becomes background in the answer.

    They grow by whole voxels of the scan, through faces: as many as the mean of its three steps goes into `mm`.
    """

    structures: _Structures
    mm: Annotated[float, Meta(ge=0, le=1000, description="a number of mm from 0 to 1000")]


class Rough(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model that labels the whole scan first: the box of some of its structures is all that the network is shown.

    model       by name, beside the card's own folder or in the places of models, or a folder
    margin_mm   around the box, in whole voxels of the scan that are not more than it
    within      what lies elsewhere is no answer
    """

    model: Annotated[str, Meta(min_length=1, max_length=255, description="a model")]
    structures: _Structures
    margin_mm: Annotated[float, Meta(ge=0, le=1000, description="a number of mm from 0 to 1000")] = 0.0
    within: Annotated[
        Within | None, Meta(description='null or {"structures": a list of its labels, "mm": 0 to 1000}')
    ] = None

    @property
    def names(self) -> tuple[str, ...]:
        """The structures of the rough model that are needed."""
        return tuple(dict.fromkeys((*self.structures, *(self.within.structures if self.within else ()))))
