"""segcli evaluate: how well label maps agree with their references."""

from __future__ import annotations

import itertools
import math
import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segcli.commands.options import Affine, Commands, Json
from segcli.commands.terminal import SCHEMA, print_json, say, show_error, table, talk
from segcli.commands.values import choice, form, several
from segcli.documents import Document
from segcli.errors import CasesFailed, SegcliError, UsageError, first_few

if TYPE_CHECKING:
    from segcli.results.comparing import Comparison
    from segcli.results.pairing import Pair
    from segcli.structures import Label

commands = Commands("evaluate")
_SHOWN = 10  # names in a sentence


@commands.command()
def evaluate(
    prediction: Annotated[Path, typer.Argument(help="A label map, or a folder of them.")],
    reference: Annotated[Path, typer.Argument(help="The reference label map, or a folder with the same names.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Names the labels; default the predictions' records.")
    ] = None,
    labels: Annotated[str, typer.Option("--labels", help="Only these names or numbers, comma-separated.")] = "",
    tolerance: Annotated[float, typer.Option("--tolerance", min=0, help="Of the surface Dice, mm.")] = 1.0,
    reference_labels: Annotated[
        str | None,
        typer.Option("--reference-labels", help="freesurfer: parts of the references count as the whole they are of."),
    ] = None,
    resample: Annotated[bool, typer.Option("--resample", help="Bring the prediction onto another grid.")] = False,
    affine: Affine = None,
    against: Annotated[Path | None, typer.Option("--against", help="A second prediction, compared pairwise.")] = None,
    json: Json = False,
    csv: Annotated[
        bool, typer.Option("--csv", help="CSV on stdout, a row for each case and structure of each prediction.")
    ] = False,
    summary: Annotated[
        str, typer.Option("--summary", help="Means and 95 % intervals for a paper, on stdout: csv, markdown or latex.")
    ] = "",
    html: Annotated[Path | None, typer.Option("--html", help="Write a page as well.")] = None,
) -> None:
    """Dice, IoU, HD95, ASSD, surface Dice and volume bias; missed and invented structures count.

    Files of two folders are compared by their names, FreeSurfer's SUBJECT/mri/aseg.mgz by the subject's. Without a
    prediction all that a reference holds counts as missed. A case that cannot be read, or is on two grids, is named
    and is in no mean. With either the exit code is 1.

    A case is called as its reference (of two files as the prediction), and in `cohort_case` of `--csv` and `--json` as
    in the tables of `predict`, if its record is there: ct01 and ct01_0000 may be one.

    With `--reference-labels freesurfer` parcels count as their cortex, hypointensities and the corpus callosum as white
    matter, and the choroid plexus as the ventricle that it lies in. Without it a reference's ventricle has a gap where
    its plexus is, so that HD95 of ventricles is another one.
    """
    from segcli.models.library import find
    from segcli.results.comparing import Comparison, paired

    if not tolerance < math.inf:
        raise UsageError(f"--tolerance {tolerance}: is a number of mm")
    _refuse_forms(reference_labels, summary, json=json, csv=csv, against=against is not None)
    if html is not None:
        _unclaimed(html)  # before the work
    counts = form(affine)
    card = find(model) if model else None
    chosen = several(labels)
    folders = {"": prediction} if against is None else {"": prediction, "against_": against}
    pairs = {begin: paired(folder, reference, say) for begin, folder in folders.items()}
    called = {} if card else _common_names(pairs.values())
    if called:
        say("note: labels have the names that the predictions' records give them")
    if not chosen and (some := _made_of(pairs.values())):
        shown = first_few(some, _SHOWN)
        say(f"warning: predictions were made with --classes {shown} alone: what else references hold counts as missed")
        say("  --labels scores these structures alone")
    names = _wanted(card.labels if card else (), called, chosen)
    how = Comparison(names, tolerance, resample, counts, reference_labels, card, tell=not chosen, called=called)
    document = _document(how, pairs, one=not prediction.is_dir())
    if apart := document["not_averaged"]:
        say(f"not averaged, as the card of {model} says: {', '.join(apart)}")
    if any(row["missed"] or row["invented"] for row in document["summary"][:1]):
        from segcli.results.evaluate import RULE

        say(f"note: {RULE}")
    if html is not None:
        _page(html, document)
    if json:
        print_json(document)
    else:
        _print(document, folders, csv=csv, summary=summary)
    _end(document, folders)


def _end(document: Document, folders: Mapping[str, Path]) -> None:
    """Raise CasesFailed where a case has no scores, or scores that count as missed.

    folders   of predictions, by how their keys of the document begin
    """
    refused = {folder: document.get(f"{key}not_compared", ()) for key, folder in folders.items()}
    reasons = [(f"{row['case']}: {row['error']}", row["hint"]) for row in itertools.chain(*refused.values())]
    for reason, hint in dict.fromkeys(reasons):  # a reference that cannot be read is refused for each prediction
        show_error(CasesFailed(reason, hint=hint))
    lacking = {folder: document.get(f"{key}no_prediction", ()) for key, folder in folders.items()}
    told = []
    if names := _in_folders({folder: [row["case"] for row in rows] for folder, rows in refused.items()}):
        told.append(f"cases that could not be compared are in no mean: {names}")
    if names := _in_folders(lacking):
        told.append(f"references without a prediction, all that they hold counts as missed: {names}")
    if told:
        hint = "predict them, or take them out of the folder of references" if any(lacking.values()) else None
        raise CasesFailed("; ".join(told), hint=hint)


def _in_folders(names: Mapping[Path, Sequence[str]]) -> str:
    return " and ".join(f"{first_few(found, _SHOWN)} in {folder}" for folder, found in names.items() if found)


def _refuse_forms(reference_labels: str | None, summary: str, *, json: bool, csv: bool, against: bool) -> None:
    """Refuse words that no option has, and two documents for one stdout."""
    from segcli.results import paper
    from segcli.results.reference_labels import SETS

    if reference_labels is not None and reference_labels not in SETS:
        raise UsageError(f"--reference-labels {reference_labels}: is not one of {', '.join(SETS)}")
    choice("--summary", summary, ("", *paper.FORMS))
    asked = [option for option, given in (("--json", json), ("--csv", csv), ("--summary", summary)) if given]
    if len(asked) > 1:
        raise UsageError(f"{asked[0]} and {asked[1]}: one of them can have stdout")
    if summary and against:
        raise UsageError("--summary and --against: a summary is of one prediction", hint="--json has the differences")


def _common_names(pairs: Iterable[Sequence[Pair]]) -> dict[int, str]:
    """What the records of all predictions call their numbers; nothing where that is not sure."""
    from segcli.results.numbers import common_names

    every = [pair for found in pairs for pair in found]
    predictions = [pair.prediction for pair in every if pair.prediction is not None]
    return common_names(predictions, [*dict.fromkeys(pair.reference for pair in every)])


def _made_of(pairs: Iterable[Sequence[Pair]]) -> list[str]:
    """The structures that predictions were made of, where their records say that these are not all."""
    from segcli.formats.table import stem
    from segcli.results.recorded import kept

    predictions = [pair.prediction for found in pairs for pair in found if pair.prediction is not None]
    return [*dict.fromkeys(name for path in predictions for name in kept(path.with_name(f"{stem(path)}.json")))]


def _document(how: Comparison, pairs: Mapping[str, Sequence[Pair]], *, one: bool) -> Document:
    """All that is said of a prediction, and of a second one's difference to it.

    pairs   of each prediction, by how its keys of the document begin; one: they are files, and of one case
    """
    from segcli.results import evaluate as scoring

    mine, second = pairs[""], pairs.get("against_")
    scores, refused = how.scores(_followed(mine), say)
    apart = [x.name for x in how.names if how.card and x.name in how.card.not_scored]
    document: Document = {
        "schema": SCHEMA,
        "tolerance_mm": how.tolerance,
        "scores": scoring.rows(scores, _in_cohort(mine)),
    }
    document["no_prediction"] = _lacking(mine, refused)
    document["not_compared"] = _reasons(refused)
    document["not_averaged"] = apart
    document["summary"] = scoring.summarise(scores, apart)
    if second is not None:
        others, refused = how.scores(_followed(second), say)
        document["against_no_prediction"] = _lacking(second, refused)
        document["against_not_compared"] = _reasons(refused)
        if one:  # whatever the two predictions of it are called
            others = dict(zip(scores, others.values(), strict=True))
            second = [second[0]._replace(name=mine[0].name)]
        both = [case for case in scores if case in others]
        document["against_scores"] = scoring.rows(others, _in_cohort(second))
        former, latter = ({case: found[case] for case in both} for found in (scores, others))
        document["difference"] = scoring.compare(former, latter, apart)
    return document


def _in_cohort(pairs: Iterable[Pair]) -> dict[str, str | None]:
    """What the records of predictions, and so the cohort's tables, call the cases."""
    from segcli.formats.table import stem
    from segcli.results.recorded import case_of

    predictions = {pair.name: pair.prediction for pair in pairs if pair.prediction is not None}
    return {name: case_of(path.with_name(f"{stem(path)}.json")) for name, path in predictions.items()}


def _followed(pairs: Sequence[Pair]) -> Iterable[Pair]:
    """The pairs, one after the other, with a bar on a terminal."""
    if not sys.stderr.isatty():
        return pairs
    from rich.progress import track

    return track(pairs, "comparing", console=talk(), transient=True)


def _lacking(pairs: Sequence[Pair], refused: Collection[str]) -> list[str]:
    """The cases without a prediction whose references count as missed."""
    return [pair.name for pair in pairs if pair.prediction is None and pair.name not in refused]


def _reasons(refused: Mapping[str, SegcliError]) -> list[Document]:
    return [{"case": case, "error": error.message, "hint": error.hint} for case, error in refused.items()]


def _print(document: Document, folders: Mapping[str, Path], *, csv: bool, summary: str) -> None:
    """The scores on stdout as CSV, their summary for a paper, or a table to be read; `folders` as of `_end`."""
    from segcli.results import paper
    from segcli.results.measure import csv_text

    key = "difference" if "difference" in document else "summary"
    apart = document["not_averaged"]
    rows = [{**row, "name": paper.marked(row["name"], apart)} for row in document[key]]
    if csv:
        found = [(folder, row) for begin, folder in folders.items() for row in _with_refused(document, begin)]
        several = len(folders) > 1
        sys.stdout.write(csv_text([{"prediction": str(of), **row} if several else row for of, row in found]))
    elif summary == "csv":  # whose names other programs read
        sys.stdout.write(csv_text([{**row, "averaged": row["name"] not in apart} for row in document[key]]))
    elif summary:
        sys.stdout.write(paper.FORMS[summary](rows))
    else:
        shown = ("name", "cases", "missed", "invented", "dice", "iou", "hd95_mm", "assd_mm", "nsd", "bias_ml", "dice_p")
        if key == "summary":
            without = [row["case"] for row in document["not_compared"]]
            title = "means over the cases" + (f" without {first_few(without, _SHOWN)}" if without else "")
        else:
            title = f"means of {folders['against_']} minus {folders['']}"
        table(
            title,
            [{k: row[k] for k in shown if k in row} for row in rows],
            decimals=dict.fromkeys(("dice", "iou", "nsd", "dice_p"), 3),
        )


def _with_refused(document: Document, begin: str) -> list[Document]:
    """The rows of a prediction's scores, and one for each case that could not be compared, with the reason.

    begin   how the prediction's keys of the document begin
    """
    from segcli.results.evaluate import Score

    none = dict.fromkeys(["case", *(field.name for field in fields(Score)), "cohort_case", "error"])
    refused = [
        {"case": row["case"], "status": "not compared", "error": row["error"]}
        for row in document[f"{begin}not_compared"]
    ]
    return [{**none, **row} for row in (*document[f"{begin}scores"], *refused)]


def _unclaimed(path: Path) -> None:
    from segcli.formats import atomic
    from segcli.results.page.parts import is_page

    atomic.unclaimed(path, own=is_page)


def _page(path: Path, document: Document) -> None:
    from segcli.formats import atomic
    from segcli.results.page import evaluation_page

    _unclaimed(path)
    atomic.write_bytes(path, evaluation_page(document))


def _wanted(known: Sequence[Label], called: Mapping[int, str], wanted: Sequence[str]) -> list[Label]:
    """Labels by name, number or code; all that are known when none is wanted; only by number when none is known.

    called   number -> name, where no labels are known; a number that is not among them can be wanted too
    """
    from segcli.structures import Label, chosen

    if not wanted:
        return list(known)
    if not known and called:
        numbers = {int(word) for word in wanted if re.fullmatch("-?[0-9]+", word)}
        known = [Label(i, called.get(i, f"label_{i}")) for i in sorted(numbers | called.keys())]
        wanted = [str(int(word)) if re.fullmatch("-?[0-9]+", word) else word for word in wanted]
    for word in wanted:
        if not known and not re.fullmatch("-?[0-9]+", word):
            raise UsageError(f"--labels {word}: is no number: give --model for names")
    found = chosen(known, wanted, "--labels") if known else [Label(int(w), f"label_{int(w)}") for w in wanted]
    if any(label.id == 0 for label in found):
        raise UsageError("--labels: 0 is the background, which is never scored", hint="leave it away")
    return list(dict.fromkeys(found))
