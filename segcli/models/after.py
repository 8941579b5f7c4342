"""The steps of a card's `after`: what is done with the labels of a scan once they stand, in the order of the list."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Literal, get_args

from msgspec import Meta, Struct
from msgspec.structs import replace

Names = Annotated[
    tuple[Annotated[str, Meta(min_length=1, max_length=200)], ...],
    Meta(min_length=1, max_length=65_536, description="a list of names of labels"),
]
Structures = Annotated[Names | None, Meta(description="null for all, or a list of names of labels")]
# Voxels are connected that share a face (6), or a corner too (26).
Neighbours = Annotated[Literal[6, 26], Meta(description="6 or 26")]
Size = Annotated[float, Meta(ge=0, le=1e9, description="a number of mm3 from 0 to 1e9")]


class _After(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="step"):
    """A step that is done with the labels."""


class LargestStep(_After, frozen=True, kw_only=True, tag="largest"):
    """Of each structure, or of several together as if they were one, the largest piece stays.

    spare   pieces of at least so many mm3 stay too; null for none
    equal   of equally large pieces all stay, or the last alone, in the order of the array
    """

    structures: Structures = None
    together: Annotated[bool, Meta(description="true or false")] = False
    neighbours: Neighbours = 26
    spare: Annotated[Size | None, Meta(description="null or a number of mm3 from 0 to 1e9")] = None
    equal: Annotated[Literal["all", "last"], Meta(description='"all" or "last"')] = "all"


class SmallStep(_After, frozen=True, kw_only=True, tag="small"):
    """Pieces of a structure of `mm3` at most become background."""

    mm3: Size
    structures: Structures = None
    neighbours: Neighbours = 26


class FillStep(_After, frozen=True, kw_only=True, tag="fill"):
    """A structure gets the background that it encloses.

    others   and the parts of other structures in it; each structure counts as it was before the step, and a voxel that
             several would have is that one's with the highest value
    flat     in a scan of one slice, where nothing is enclosed, holes in it of less than so many voxels; null for none
    neighbours   through what a hole is open: voxels of background that share a face, or a corner too
    """

    structures: Structures = None
    others: Annotated[bool, Meta(description="true or false")] = False
    flat: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)] | None, Meta(description="null or a whole number from 1 to 1000000")
    ] = None
    neighbours: Neighbours = 6


class JoinStep(_After, frozen=True, kw_only=True, tag="join"):
    """Pieces beside a structure's largest become part of the structure that they share most of their border with.

    The smallest go first. Pieces that touch no structure stay; those of one or two voxels become background.

    dissolved   structures that count as one, become part of others whole, the largest piece too, and take nothing in;
                what of them touches no other becomes background
    """

    structures: Structures = None
    dissolved: Structures = None


class DropStep(_After, frozen=True, kw_only=True, tag="drop"):
    """Structures become background: they help the network or other steps, and are no answer."""

    structures: Names


class WithinStep(_After, frozen=True, kw_only=True, tag="within"):
    """What lies outside of the structures `of`, grown by `mm`, becomes background.

    They grow by whole voxels, through faces: as many as the mean of the three steps goes into `mm`.
    """

    of: Names
    mm: Annotated[float, Meta(ge=0, le=1000, description="a number of mm from 0 to 1000")]
    structures: Structures = None


class SpineStep(_After, frozen=True, kw_only=True, tag="spine"):
    """Vertebrae, named from the head down, are numbered anew where two of them touch.

    Each piece of all of them together, of at least `mm3`, is one then, and the rest becomes background. They are
    counted from below, the lowest piece being the lowest vertebra that was found; from above, beginning with the
    first, where that was found and the last was not.
    """

    structures: Names
    mm3: Size


class GrowStep(_After, frozen=True, kw_only=True, tag="grow"):
    """Structures grow by `mm` into background, one after the other in their order."""

    structures: Names
    mm: Annotated[float, Meta(gt=0, le=100, description="a number of mm above 0, 100 at most")]


class RefineStep(_After, frozen=True, kw_only=True, tag="refine"):
    """Voxels near a border between structures go to the one whose voxels nearby are most as bright as they are.

    Borders with background and with other structures stay. The scan's first channel counts.

    mm         sigma of the Gaussian that says how near a structure is
    around_mm  sigma of the one within which its brightness is looked for
    spread     how far brightness may vary, as a multiple of the structures' own standard deviation in the middle
    """

    structures: Structures = None
    mm: Annotated[float, Meta(ge=0.1, le=10, description="a number of mm from 0.1 to 10")]
    around_mm: Annotated[float, Meta(ge=1, le=1000, description="a number of mm from 1 to 1000")]
    spread: Annotated[float, Meta(ge=0.1, le=100, description="a number from 0.1 to 100")]


AfterStep = LargestStep | SmallStep | FillStep | JoinStep | DropStep | WithinStep | SpineStep | GrowStep | RefineStep
AFTER: dict[str, type[AfterStep]] = {str(kind.__struct_config__.tag): kind for kind in get_args(AfterStep)}


def named_steps(
    steps: Sequence[AfterStep], labels: Mapping[str, int], refuse: Callable[[str], Exception]
) -> tuple[AfterStep, ...]:
    """The steps with structures by their names; refused that name none among the labels, can do nothing, or leave none.

    A structure may be named by its label value too, for a file may know no names: "2".

    refuse   the error for a sentence that goes on after the field's name
    """
    known = {name: name for name, value in labels.items() if value != 0}
    called = {str(labels[name]): name for name in known} | known

    def names(step: AfterStep, own: tuple[str, ...]) -> tuple[str, ...]:
        if strange := [name for name in own if name not in called]:
            kind = step.__struct_config__.tag
            raise refuse(f"has a step {kind} that names {strange[0][:60]!r}, which is no structure among the labels")
        return tuple(called[name] for name in own)

    def named(step: AfterStep) -> AfterStep:
        lists = {key: getattr(step, key, None) for key in ("structures", "of", "dissolved")}
        return replace(step, **{key: names(step, own) for key, own in lists.items() if own is not None})

    made = tuple(named(step) for step in steps)
    if any(isinstance(x, RefineStep) and len(set(known if x.structures is None else x.structures)) < 2 for x in made):
        raise refuse("has a step refine of one structure, and borders between structures are all that it refines")
    if known and known.keys() <= dropped(made):
        raise refuse("drops every structure")
    return made


def dropped(steps: Sequence[AfterStep]) -> set[str]:
    """The structures that are no answer of the model."""
    gone = [step.structures for step in steps if isinstance(step, DropStep)]
    gone += [step.dissolved for step in steps if isinstance(step, JoinStep) and step.dissolved]
    return {name for names in gone for name in names}
