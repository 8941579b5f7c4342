"""segcli evaluate: how well label maps agree with their references."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segcli.commands.options import Affine, Commands, Json, choice, form, several
from segcli.commands.terminal import SCHEMA, print_json, say, table
from segcli.documents import Document
from segcli.errors import InputError, InputMissing, UsageError

if TYPE_CHECKING:
    from segcli.formats import Form
    from segcli.models.card import ModelCard
    from segcli.space.volume import Grid, Volume
    from segcli.structures import Label

commands = Commands("evaluate")


@commands.command()
def evaluate(
    prediction: Annotated[Path, typer.Argument(help="A label map, or a folder of them.")],
    reference: Annotated[Path, typer.Argument(help="The reference label map, or a folder with the same names.")],
    model: Annotated[str | None, typer.Option("--model", "-m", help="Names the labels; else they are numbers.")] = None,
    labels: Annotated[str, typer.Option("--labels", help="Only these names or numbers, comma-separated.")] = "",
    tolerance: Annotated[float, typer.Option("--tolerance", min=0, help="Of the surface Dice, mm.")] = 1.0,
    reference_labels: Annotated[
        str | None,
        typer.Option(
            "--reference-labels", help="freesurfer: parcels of the references count as the whole they are of."
        ),
    ] = None,
    resample: Annotated[bool, typer.Option("--resample", help="Bring the prediction onto another grid.")] = False,
    affine: Affine = None,
    against: Annotated[Path | None, typer.Option("--against", help="A second prediction, compared pairwise.")] = None,
    json: Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="CSV on stdout, a row for each case and structure.")] = False,
    summary: Annotated[
        str, typer.Option("--summary", help="Means and 95 % intervals for a paper, on stdout: csv, markdown or latex.")
    ] = "",
    html: Annotated[Path | None, typer.Option("--html", help="Write a page as well.")] = None,
) -> None:
    """Dice, IoU, HD95, ASSD, surface Dice and volume bias; missed and invented structures count."""
    from segcli.models.library import find
    from segcli.results import evaluate as scoring
    from segcli.results import paper
    from segcli.results.reference_labels import SETS

    if not tolerance < math.inf:
        raise UsageError(f"--tolerance {tolerance}: is a number of mm")
    if reference_labels is not None and reference_labels not in SETS:
        raise UsageError(f"--reference-labels {reference_labels}: is not one of {', '.join(SETS)}")
    choice("--summary", summary, ("", *paper.FORMS))
    asked = [option for option, given in (("--json", json), ("--csv", csv), ("--summary", summary)) if given]
    if len(asked) > 1:
        raise UsageError(f"{asked[0]} and {asked[1]}: one of them can have stdout")
    if summary and against is not None:
        raise UsageError("--summary and --against: a summary is of one prediction", hint="--json has the differences")
    if html is not None:
        _unclaimed(html)  # before the work
    counts = form(affine)
    card = find(model) if model else None
    chosen = several(labels)
    names = _wanted(card.labels if card else (), chosen)
    apart = [x.name for x in names if card and x.name in card.not_scored]
    scores = _scores(prediction, reference, names, tolerance, resample, counts, reference_labels, card, tell=not chosen)
    document: Document = {"schema": SCHEMA, "tolerance_mm": tolerance, "scores": scoring.rows(scores)}
    document["not_averaged"] = apart
    document["summary"] = scoring.summarise(scores, apart)
    if against is not None:
        others = _scores(
            against, reference, names, tolerance, resample, counts, reference_labels, card, tell=not chosen
        )
        if not prediction.is_dir():  # one case, whatever the two predictions of it are called
            others = dict(zip(scores, others.values(), strict=True))
        document["difference"] = scoring.compare(scores, others, apart)
    if apart:
        say(f"not averaged, as the card of {model} says: {', '.join(apart)}")
    if any(row["missed"] or row["invented"] for row in document["summary"][:1]):
        say(f"note: {scoring.RULE}")
    if html is not None:
        _page(html, document)
    if json:
        print_json(document)
    elif csv:
        from segcli.results.measure import csv_text

        sys.stdout.write(csv_text(document["difference" if against is not None else "scores"]))
    elif summary:
        sys.stdout.write(paper.FORMS[summary](document["summary"]))
    else:
        shown = ("name", "cases", "missed", "invented", "dice", "iou", "hd95_mm", "assd_mm", "nsd", "bias_ml", "dice_p")
        key = "difference" if against is not None else "summary"
        rows = [{k: row[k] for k in shown if k in row} for row in document[key]]
        title = "means over the cases" if against is None else f"means of {against} minus {prediction}"
        table(title, rows, decimals=dict.fromkeys(("dice", "iou", "nsd", "dice_p"), 3))


def _unclaimed(path: Path) -> None:
    from segcli.formats import atomic
    from segcli.results.page.parts import is_page

    atomic.unclaimed(path, own=is_page)


def _page(path: Path, document: Document) -> None:
    from segcli.formats import atomic
    from segcli.results.page import evaluation_page

    _unclaimed(path)
    atomic.write_bytes(path, evaluation_page(document))


def _scores(
    prediction: Path,
    reference: Path,
    names: Sequence[Any],
    tolerance: float,
    resample: bool,
    affine: Form | None,
    numbers: str | None,
    card: ModelCard | None,
    *,
    tell: bool,
) -> Document:
    """The scores of each case by its name; `tell` says whether values that are not scored are told."""
    from segcli.formats.table import stem
    from segcli.results import evaluate as scoring
    from segcli.results.numbers import refuse_model
    from segcli.results.pairing import pair_folders
    from segcli.results.reference_labels import merged

    for path in (prediction, reference):
        if not path.exists():
            raise InputMissing(f"{path}: no such file or folder")
    if prediction.is_dir() != reference.is_dir():
        raise UsageError(f"{prediction} and {reference}: one is a folder, the other a file")
    if not prediction.is_dir():
        pairs = [(stem(prediction), prediction, reference)]
    else:
        pairs, alone = pair_folders(prediction, reference)
        for name in alone:
            say(f"warning: {name}")
    out = {}
    for name, mine, truth in pairs:
        if card is not None:
            refuse_model(mine, card)
            if numbers is None:  # else the reference has numbers of its own
                refuse_model(truth, card)
        pred, ref = _both(mine, truth, affine, card, numbers)
        if numbers is not None:
            ref = merged(ref, numbers)
        try:
            out[name] = scoring.evaluate(pred, ref, names, tolerance, resample=resample)
        except InputError as error:
            raise error.about(f"{mine.name} and {truth.name}") from error
        if resample and tell and (gone := scoring.lost(pred, ref.grid)):
            ml = gone * pred.grid.voxel_mm3 / 1000
            told = f"{gone:,} labelled voxels of the prediction ({ml:.3g} mL) lie beyond the reference's grid"
            say(f"warning: {name}: {told} and are not scored")
        for whose, left in zip(("prediction", "reference"), scoring.unscored(pred, ref, names), strict=True):
            if names and left and tell:
                say(f"warning: {name}: values of the {whose} that are not scored: {', '.join(map(str, left))}")
    return out


def _both(
    mine: Path, truth: Path, affine: Form | None, card: ModelCard | None, numbers: str | None
) -> tuple[Volume, Volume]:
    """Prediction and reference; one of them may be a DICOM Segmentation, on the planes of the other's grid.

    numbers   whose the reference's numbers are
    """
    from segcli import formats
    from segcli.results.measure import whole_numbers

    objects = [path for path in (mine, truth) if formats.is_segmentation(path)]
    if len(objects) == 2:
        told = f"{mine.name} and {truth.name}: are both DICOM Segmentations, which lack the planes without labels"
        raise UsageError(told, hint="give one of them as a label map: segcli writes NAME_seg.nii.gz beside it")
    plain = {path: whole_numbers(formats.read([path], affine=affine)) for path in (mine, truth) if path not in objects}
    if objects:
        (one,), (other,) = objects, plain.values()
        plain[one] = _of_segmentation(one, other.grid, card, numbers if one == truth else None)
    return plain[mine], plain[truth]


def _of_segmentation(path: Path, grid: Grid, card: ModelCard | None, numbers: str | None) -> Volume:
    """The labels of a DICOM Segmentation on a grid, numbered as the card has its segments' names.

    Without a card its segments' own numbers count, and where they are said to be those of a program.

    numbers  the name of that program; None: nothing is said
    errors   InputError: they are plainly not that program's
    """
    from segcli.formats.dicom.seg import labels_on, segments_in

    if card is not None and numbers is None:
        return labels_on(path, grid, card.labels)
    segments = {number: name for number, name in segments_in(path).items() if number != 0}
    if numbers is not None and [*segments] == [*range(1, len(segments) + 1)]:
        told = f"{path.name}: its segments are numbered from 1 to {len(segments)}, which are not those of {numbers}"
        raise InputError(told, hint="leave --reference-labels away: with --model segments go by their names")
    named = [f"{number} {name}" for number, name in segments.items()]
    shown = ", ".join(named[:5]) + (" ..." if len(named) > 5 else "")
    instead = f"as those of {numbers}" if numbers is not None else "with --model by names"
    say(f"note: {path.name}: its segments are compared by their own numbers ({shown}), {instead}")
    return labels_on(path, grid, ())


def _wanted(known: Sequence[Label], wanted: Sequence[str]) -> list[Label]:
    """Labels by name, number or code; all that are known when none is wanted; only by number when none is known."""
    from segcli.structures import Label, chosen

    if not wanted:
        return list(known)
    for word in wanted:
        if not known and not re.fullmatch("-?[0-9]+", word):
            raise UsageError(f"--labels {word}: is no number: give --model for names")
    found = chosen(known, wanted, "--labels") if known else [Label(int(w), f"label_{int(w)}") for w in wanted]
    if any(label.id == 0 for label in found):
        raise UsageError("--labels: 0 is the background, which is never scored", hint="leave it away")
    return list(dict.fromkeys(found))
