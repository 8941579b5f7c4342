"""segcli report: volumes, checks, tables and pages for a label map that exists already."""

from __future__ import annotations

from os import fspath
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segcli.commands.options import (
    Affine,
    Commands,
    Json,
    Reports,
    Split,
    Tables,
    output_option,
)
from segcli.commands.terminal import SCHEMA, print_json, print_line, say
from segcli.commands.values import all_choices, form, several
from segcli.errors import UsageError

if TYPE_CHECKING:
    from segcli.batch.existing import Existing
    from segcli.formats import Form
    from segcli.results.record import Record
    from segcli.space.volume import Volume

commands = Commands("report")


@commands.command()
def report(
    labelmap: Annotated[
        Path, typer.Argument(help="A label map that exists already; with --image also a DICOM Segmentation.")
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            envvar="SEGCLI_MODEL",
            help="Name, folder or file; default the model that the label map's record names, uxnet without a record.",
        ),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            help="In place of a model: a table of names (FreeSurfer, Slicer, ITK-SNAP, csv, tsv), the DICOM "
            "Segmentation itself, freesurfer (aseg, aparc, wmparc), or totalsegmentator.",
        ),
    ] = None,
    image: Annotated[Path | None, typer.Option("--image", help="The scan it belongs to.")] = None,
    affine: Affine = None,
    output: Annotated[
        str | None,  # a slash at its end counts
        output_option("Folder; default beside the label map.", str),
    ] = None,
    forms: Reports = None,
    tables: Tables = "",
    split: Split = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
    json: Json = False,
) -> None:
    """Volumes, checks, tables and pages for a label map that exists already."""
    from segcli.batch.existing_scan import scan_of
    from segcli.batch.names import file_ending
    from segcli.batch.outputs import Destination, choices
    from segcli.batch.reported import described, written

    if output is not None and file_ending(fspath(output)) is not None:
        told = f"{output}: is called as a file, and it is to be a folder"
        raise UsageError(told, hint=f"name a folder with -o: {output}/ is one")
    to = Destination(
        folder=None if output is None else Path(output),
        overwrite=overwrite,
        reports=all_choices("--report", several(*forms or ()) or ("html",), choices("--report")),
        tables=all_choices("--tables", several(tables), choices("--tables")),
        split=split,
    )
    counts = form(affine)
    found = _found(labelmap, model, labels, image, counts)
    scan = scan_of(found, image, counts)
    record = described(found, scan.image if scan else None)
    paths, said = written(found, scan.image if scan else None, record, to)
    if json:
        print_json({"schema": SCHEMA, "files": [str(p) for p in paths], "record": record.document})
    else:
        for path in paths:
            print_line(str(path))
    for note in scan.said if scan else ():
        say(f"note: {note}")
    for warning in (*found.said, *said):
        say(f"warning: {warning}")
    if not json:
        _show(record)


def _found(path: Path, model: str | None, labels: str | None, image: Path | None, counts: Form | None) -> Existing:
    """What a label map is: of a model, of a table's names, or a Segmentation on the grid of its scan."""
    from segcli import formats
    from segcli.batch import existing
    from segcli.models.library import find

    existing.refuse_several(path)
    segments = formats.is_segmentation(path)
    if labels is not None:
        return (
            existing.by_own_names(path, _scan(path, image, 1, counts), labels)
            if segments
            else existing.by_table(path, labels, counts)
        )
    card = find(model) if model is not None else existing.maker_of(path)
    if segments:
        return existing.by_segments(path, _scan(path, image, len(card.channels), counts), card)
    return existing.by_model(path, card, counts)


def _scan(path: Path, image: Path | None, channels: int, counts: Form | None) -> Volume:
    """The scan of a DICOM Segmentation, which has to be named."""
    from segcli import formats
    from segcli.batch.existing import of_other_frame

    if image is None:
        told = f"{path.name}: is a DICOM Segmentation, which lacks the planes without labels"
        raise UsageError(told, hint="name its scan with --image")
    scan = formats.read([image], affine=counts, channels=channels)
    for doubt in of_other_frame(path, scan):
        say(f"warning: {doubt}")
    return scan


def _show(record: Record) -> None:
    """The volumes, and the doubts but for notes, which the record and the page hold."""
    from segcli.commands.terminal import structure_rows, table, talk

    document = record.document
    for finding in document["checks"]:
        if finding["severity"] != "note":
            say(f"{finding['severity']}: {finding['sentence']}")
    table(record.case, structure_rows(document["structures"]), on=talk())
