"""segcli report: volumes, checks, tables and pages for a label map that exists already."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segcli.commands.options import (
    Affine,
    Commands,
    Json,
    Model,
    Reports,
    Split,
    Tables,
    all_choices,
    form,
    output_option,
    several,
)
from segcli.commands.terminal import SCHEMA, print_json, print_line, say
from segcli.documents import Facts
from segcli.errors import InputError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from segcli.batch.outputs import Destination
    from segcli.formats import Form
    from segcli.models.card import ModelCard
    from segcli.results.measure import Report
    from segcli.results.record import ModelFacts
    from segcli.space.volume import Volume
    from segcli.structures import Label

commands = Commands("report")


@commands.command()
def report(
    labelmap: Annotated[
        Path, typer.Argument(help="A label map that exists already; with --image also a DICOM Segmentation.")
    ],
    model: Model = "uxnet",
    labels: Annotated[
        str | None,
        typer.Option(
            "--labels",
            help="In place of a model: a table of names (FreeSurfer, Slicer, ITK-SNAP, csv, tsv), the DICOM "
            "Segmentation itself, or totalsegmentator.",
        ),
    ] = None,
    image: Annotated[Path | None, typer.Option("--image", help="The scan it belongs to.")] = None,
    affine: Affine = None,
    output: Annotated[Path | None, output_option("Folder; default beside the label map.")] = None,
    forms: Reports = None,
    tables: Tables = "",
    split: Split = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
    json: Json = False,
) -> None:
    """Volumes, checks, tables and pages for a label map that exists already."""
    from segcli import formats
    from segcli.batch.names import file_ending
    from segcli.batch.outputs import Destination, choices
    from segcli.models.library import find
    from segcli.results.measure import measure

    if output is not None and file_ending(output) is not None:
        raise UsageError(f"{output}: is called as a file, and it is to be a folder", hint="name a folder with -o")
    to = Destination(
        folder=output,
        overwrite=overwrite,
        reports=all_choices("--report", several(*forms or ()) or ("html",), choices("--report")),
        tables=all_choices("--tables", several(tables), choices("--tables")),
        split=split,
    )
    counts = form(affine)
    made, classes = None, tuple[str, ...]()
    if formats.is_segmentation(labelmap):
        if image is None:
            told = f"{labelmap.name}: is a DICOM Segmentation, which lacks the planes without labels"
            raise UsageError(told, hint="name its scan with --image")
        from segcli.formats.dicom.seg import labels_on, structures_in

        card = find(model)
        grid = _read(image, card, counts).grid
        if labels is None:
            mapped = labels_on(labelmap, grid, card.labels)
            there = structures_in(labelmap, card.structures)
            classes = tuple(label.name for label in there) if len(there) < len(card.structures) else ()
        else:
            mapped = labels_on(labelmap, grid)
            card = _named(labels, _names(labels, labelmap), mapped)
    elif labels is None:
        card = find(model)
        mapped, made = _label_map(labelmap, card, counts)
        classes = _asked(labelmap, mapped, card)
        if made is not None and _is_changed(labelmap):
            say(f"warning: {labelmap.name} has been changed since {made['name']} made it: what made it is not known")
            made = None
    else:
        mapped = _one_channel(labelmap, counts)
        card = _named(labels, _names(labels, labelmap), mapped)
    scan = _scan(image, labelmap, mapped, card, counts) if image is not None else None
    shown = replace(card, labels=tuple(x for x in card.labels if x.id == 0 or not classes or x.name in classes))
    found = measure(mapped, shown.labels, scan)
    facts = _facts(labelmap, mapped, made, scan, card, found, classes)
    paths, said = _written(labelmap, mapped, scan, shown, to, found, facts)
    if json:
        print_json({"schema": SCHEMA, "files": [str(p) for p in paths], "record": facts})
        return
    for path in paths:
        print_line(str(path))
    for warning in said:
        say(f"warning: {warning}")
    for finding in facts["checks"]:
        if finding["severity"] != "note":  # which the record and the page hold
            say(f"{finding['severity']}: {finding['sentence']}")


def _label_map(path: Path, card: ModelCard, counts: Form | None) -> tuple[Volume, ModelFacts | None]:
    """A label map of the card's model, and what its record says of the model that made it.

    errors   InputError: another model made it, it holds what this one never writes, or it is one structure's mask
    """
    import numpy as np

    from segcli.commands.evaluate import refuse_other_numbers
    from segcli.results import record

    if record.is_masks(path.parent):
        raise InputError(
            f"{path.name}: the mask of one structure, as --split writes it, and no label map",
            hint=f"give the label map that lies beside the folder {path.parent.name}",
        )
    labels = _one_channel(path, counts)
    refuse_other_numbers(path, card, "name its model with --model, or a table of its names with --labels")
    made = record.maker(_record_of(path))
    maker = made["name"] if made else card.name
    if card.name not in maker.split("+"):
        raise InputError(
            f"{path.name}: its record says that {maker} made it, not {card.name}", hint="name its model with --model"
        )
    known = {label.id for label in card.labels}
    others = sorted(set(np.unique(labels.data).tolist()) - known)
    # In a map that the model made, somebody may have drawn further structures since.
    if others and (made is None or others[0] < 0 or others[-1] > max(known)):
        shown = ", ".join(map(str, others[:10])) + (" ..." if len(others) > 10 else "")
        raise InputError(
            f"{path.name}: not a label map of {card.name}: it holds {shown}, and no label has such a number",
            hint="name its model with --model, or a table of its names with --labels",
        )
    return labels, made


def _record_of(path: Path) -> Path:
    """Where the record of a label map lies, if it has one."""
    from segcli.formats.table import stem

    return path.with_name(f"{stem(path)}.json")


def _is_changed(path: Path) -> bool:
    """Whether a label map has other bytes than the record beside it states."""
    from segcli.models.library import file_sha256
    from segcli.results import record

    stated = (record.read_record(_record_of(path)) or {}).get("labels")
    return isinstance(stated, dict) and stated.get("sha256") not in (None, file_sha256(path))


def _asked(path: Path, labels: Volume, card: ModelCard) -> tuple[str, ...]:
    """The structures that a label map was made of, where its record says that they are not all of the card's.

    What the map holds beside them counts too: somebody has drawn it since.
    """
    import numpy as np

    from segcli.results import record

    if not (asked := record.kept(_record_of(path))):
        return ()
    there = set(np.unique(labels.data).tolist())
    return tuple(x.name for x in card.structures if x.name in asked or x.id in there)


def _one_channel(path: Path, counts: Form | None) -> Volume:
    """A file's whole numbers; InputError where it holds others, or several channels."""
    from segcli import formats
    from segcli.results.measure import whole_numbers

    return whole_numbers(formats.read([path], affine=counts))


def _names(table: str, labelmap: Path) -> list[Label]:
    """The labels that `--labels` names: TotalSegmentator's, those of a table, or of a Segmentation's own segments."""
    from segcli import formats
    from segcli.formats import label_table

    if table == "totalsegmentator":
        from segcli.models import catalogue

        return label_table.labels(dict(enumerate(catalogue.entry(table).structures, 1)))
    if Path(table) == labelmap and formats.is_segmentation(labelmap):
        from segcli.formats.dicom.seg import segments_in

        return label_table.labels(segments_in(labelmap))
    return label_table.read(Path(table))


def _named(table: str, known: Sequence[Label], labels: Volume) -> ModelCard:
    """A card that gives the values of a label map the names of a table, and no more; what has none is told."""
    import numpy as np

    from segcli.models import card
    from segcli.structures import Label

    there = set(np.unique(labels.data).tolist()) - {0}
    if min(there, default=0) < 0:
        raise InputError(f"{table}: names no values below 0, and the label map holds {min(there)}")
    if unknown := sorted(there - {x.id for x in known}):
        shown = ", ".join(map(str, unknown[:10])) + (" ..." if len(unknown) > 10 else "")
        say(f"warning: {Path(table).name} has no name for {shown}")
    names = [x for x in known if x.id in there] + [Label(value, f"label_{value}") for value in unknown] or known[:1]
    grey = (128, 128, 128)
    return card.parse(
        {
            "format": 1,
            "name": re.sub(r"[^A-Za-z0-9._ +-]", "_", Path(table).name.lstrip("._- +") or "table"),
            "architecture": {"name": "none"},
            "channels": ["scan"],
            "orientation": "RAS",
            "labels": {"background": 0, **{x.name: x.id for x in names}},
            "colours": {x.name: "#{:02x}{:02x}{:02x}".format(*x.colour) for x in names if x.colour != grey},
            "patch_size": [16, 16, 16],
        }
    )


def _read(image: Path, card: ModelCard, counts: Form | None) -> Volume:
    from segcli import formats

    return formats.read([image], affine=counts, channels=len(card.channels))


def _scan(image: Path, labelmap: Path, labels: Volume, card: ModelCard, counts: Form | None) -> Volume:
    """The scan of a label map; InputError where they are not on one grid."""
    scan = _read(image, card, counts)
    if not scan.grid.same_as(labels.grid):
        raise InputError(f"{labelmap.name} and {image.name} are not on one grid")
    return scan


def _facts(
    path: Path,
    labels: Volume,
    made: ModelFacts | None,
    scan: Volume | None,
    card: ModelCard,
    found: Report,
    classes: tuple[str, ...],
) -> Facts:
    """The record of a label map that exists: of no run of segcli, but of what can be said of it now.

    classes   names of the structures that it was made of, all if empty
    """
    from segcli.formats.stated import stated
    from segcli.formats.table import stem
    from segcli.models.library import file_sha256
    from segcli.results import checks, record

    findings = checks.run(labels, scan, card, None, stated(scan.source) if scan else None, classes)
    return record.about(
        stem(path),
        # Without a record of segcli nobody knows what made the label map: the model gives its table of labels alone.
        made or {"name": card.name, "sha256": None, "licence": card.licence},
        {"file": path.name, "sha256": file_sha256(path)},
        record.Measured(labels.grid, found, findings),
        labels.source.warnings if labels.source else (),
        classes,
    ).document


def _written(
    path: Path,
    labels: Volume,
    scan: Volume | None,
    card: ModelCard,
    to: Destination,
    found: Report,
    facts: Facts,
) -> tuple[list[Path], list[str]]:
    """The files that were asked for, beside the label map or in the folder, and sentences for the user."""
    from segcli.batch import outputs
    from segcli.formats import atomic
    from segcli.formats.table import stem
    from segcli.inference.segment import Segmentation
    from segcli.results.record import base_of

    base = (to.folder or path.parent) / base_of(stem(path))
    for planned, output in outputs.planned(base, card, to).items():
        atomic.unclaimed(planned, overwrite=to.overwrite, own=output.own)
    result = Segmentation(labels, {}, 0, {})
    return outputs.write(outputs.Finished(base, scan or _blank(labels), result, card, to, found, facts))


def _blank(labels: Volume) -> Volume:
    """A black image under a label map, where the scan itself was not given."""
    import numpy as np

    from segcli.space.volume import Volume

    return Volume(np.zeros(labels.data.shape, np.uint8), labels.grid, labels.source)
