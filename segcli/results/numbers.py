"""Whether a label map has a model's numbers, by what its record, its header and the table beside it say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from segcli.errors import InputError, SegcliError
from segcli.formats import is_segmentation
from segcli.formats.label_table import labels, read
from segcli.formats.nifti import label_names
from segcli.formats.nrrd import segment_names
from segcli.formats.table import stem
from segcli.models.card import ModelCard
from segcli.results.recorded import is_masks, read_record
from segcli.structures import Label


def refuse_model(path: Path, card: ModelCard) -> None:
    """Refuse to name the numbers of a label map by a model whose names they do not have.

    errors   InputError: the record beside it or its own header calls a number otherwise, or it is the mask of one
             structure
    """
    hint = "leave --model away, or name the model that made it"
    if is_masks(path.parent):
        raise InputError(f"{path.name}: the mask of one structure, so its 1 is no label of {card.name}", hint=hint)
    refuse_other_names(path, card, hint)
    refuse_other_numbers(path, card, f"{hint}; 3D Slicer exports its numbers by the colour table of `--tables slicer`")


def refuse_other_names(path: Path, card: ModelCard, hint: str) -> None:
    """Refuse a label map whose record calls a number otherwise than the model: InputError, with the hint."""
    stated = _recorded(path)
    for label in card.structures:
        if (called := stated.get(label.id, label.name)) != label.name:
            told = f"{path.name}: its record calls the number {label.id} {called}, {card.name} calls it {label.name}"
            raise InputError(told, hint=hint)


def common_names(predictions: Sequence[Path], references: Sequence[Path]) -> dict[int, str]:
    """What the records of predictions call their numbers; nothing where that is not sure for all label maps.

    It is not where one is a DICOM Segmentation, which has numbers of its own; where the record, the header or the table
    of one calls a number otherwise; where two numbers have one name; or where a name is one of those that numbers have
    without a record, label_7.
    """
    recorded = {path: _recorded(path) for path in (*predictions, *references)}
    names: dict[int, str] = {}
    for path in predictions:
        names |= recorded[path]
    plain = {label.id: label.name for label in labels(names)}
    for path, stated in recorded.items():
        with suppress(SegcliError):  # its own reading refuses it
            if is_segmentation(path):
                return {}
            own = {label.id: label.name for found in _own(path).values() for label in found}
            if any(plain.get(number, name) != name for number, name in own.items()):
                return {}
        if any(names.get(number, name) != name for number, name in stated.items()):
            return {}
    sure = len({*names.values()}) == len(names) and not any(re.fullmatch(r"label_-?\d+", x) for x in names.values())
    return names if sure else {}


def _recorded(path: Path) -> dict[int, str]:
    """Number -> name of the structures in the record beside a label map; nothing without one."""
    rows = (read_record(path.with_name(f"{stem(path)}.json")) or {}).get("structures")
    found = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    named = [(row.get("label"), row.get("name")) for row in found]
    return {number: name for number, name in named if isinstance(number, int) and isinstance(name, str)}


def _own(path: Path) -> dict[str, list[Label]]:
    """The labels that a label map's header and the table of BIDS beside it name, by which of the two."""
    beside = path.with_name(f"{stem(path)}.tsv")
    named = {"header": labels(segment_names(path) or label_names(path))}
    if beside.name.endswith("_dseg.tsv") and beside.is_file():
        with suppress(InputError):  # no table of labels
            named["table"] = read(beside)
    return named


def refuse_other_numbers(path: Path, card: ModelCard, hint: str) -> None:
    """Refuse a label map whose own names have other numbers in the model.

    Its own names are 3D Slicer's in an NRRD, Caret's in a NIfTI, and those of BIDS in the table beside x_dseg.nii.gz.

    errors   InputError, with the hint
    """
    numbers = {label.name: label.id for label in labels({x.id: x.name for x in card.structures})}
    for what, found in _own(path).items():
        for label in found:
            if (number := numbers.get(label.name, label.id)) != label.id:
                told = f"its {what} calls the number {label.id} {label.name}, which is {number} of {card.name}"
                raise InputError(f"{path.name}: {told}", hint=hint)
