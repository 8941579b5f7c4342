"""Whether a label map has a model's numbers, by what its record, its header and the table beside it say."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from segcli.errors import InputError
from segcli.formats.label_table import labels, read
from segcli.formats.nifti import label_names
from segcli.formats.nrrd import segment_names
from segcli.formats.table import stem
from segcli.models.card import ModelCard
from segcli.results import record


def refuse_model(path: Path, card: ModelCard) -> None:
    """Refuse to name the numbers of a label map by a model whose names they do not have.

    errors   InputError: the record beside it or its own header calls a number otherwise, or it is the mask of one
             structure
    """
    hint = "leave --model away, or name the model that made it"
    if record.is_masks(path.parent):
        raise InputError(f"{path.name}: the mask of one structure, so its 1 is no label of {card.name}", hint=hint)
    found = record.read_record(path.with_name(f"{stem(path)}.json")) or {}
    rows = found.get("structures")
    stated = (
        {row.get("label"): row.get("name") for row in rows if isinstance(row, dict)} if isinstance(rows, list) else {}
    )
    for label in card.structures:
        if (called := stated.get(label.id, label.name)) != label.name:
            told = f"{path.name}: its record calls the number {label.id} {called}, {card.name} calls it {label.name}"
            raise InputError(told, hint=hint)
    refuse_other_numbers(path, card, f"{hint}; 3D Slicer exports its numbers by the colour table of `--tables slicer`")


def refuse_other_numbers(path: Path, card: ModelCard, hint: str) -> None:
    """Refuse a label map whose own names have other numbers in the model.

    Its own names are 3D Slicer's in an NRRD, Caret's in a NIfTI, and those of BIDS in the table beside x_dseg.nii.gz.

    errors   InputError, with the hint
    """
    beside = path.with_name(f"{stem(path)}.tsv")
    named = {"header": labels(segment_names(path) or label_names(path))}
    if beside.name.endswith("_dseg.tsv") and beside.is_file():
        with suppress(InputError):  # no table of labels
            named["table"] = read(beside)
    numbers = {label.name: label.id for label in labels({x.id: x.name for x in card.structures})}
    for what, found in named.items():
        for label in found:
            if (number := numbers.get(label.name, label.id)) != label.id:
                told = f"its {what} calls the number {label.id} {label.name}, which is {number} of {card.name}"
                raise InputError(f"{path.name}: {told}", hint=hint)
