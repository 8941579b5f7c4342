"""A label map that exists already, and what is known of it: by its model, a table of names, or a Segmentation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from segcli.errors import InputError, ModelError, first_few
from segcli.formats import Form, freesurfer, label_table
from segcli.formats.table import stem
from segcli.models import card as cards
from segcli.models.card import ModelCard
from segcli.models.library import file_sha256, find
from segcli.results import record
from segcli.results.numbers import refuse_other_names, refuse_other_numbers
from segcli.results.pairing import label_maps_in
from segcli.results.record import ModelFacts, Record
from segcli.results.recorded import is_masks, kept, maker, read_record
from segcli.results.scan_checks import label_map
from segcli.space.volume import Volume
from segcli.structures import Label

_SHOWN = 10  # values in a sentence
_DEFAULT = "uxnet"  # whose a label map without a record is taken for


@dataclass(frozen=True, eq=False)
class Existing:
    """A label map that exists already, and what is known of it.

    labels   (1, D, H, W), whole numbers; sha256: of its file
    card     gives its values their names
    made     the model that made it, None where nobody knows
    known    its record, where that is about these bytes
    classes  names of the structures that it was made of, all if empty
    said     sentences for the user
    scan     its scan, (C, D, H, W) on its grid, where that was read to know the grid
    """

    path: Path
    labels: Volume
    sha256: str
    card: ModelCard
    made: ModelFacts | None = None
    known: Record | None = None
    classes: tuple[str, ...] = ()
    said: tuple[str, ...] = ()
    scan: Volume | None = None

    @property
    def shown(self) -> ModelCard:
        """The card without structures that the label map was not made of."""
        kept = tuple(x for x in self.card.labels if x.id == 0 or not self.classes or x.name in self.classes)
        return replace(self.card, labels=kept)


def refuse_several(path: Path) -> None:
    """Refuse a folder of label maps, such as the results of a run: InputError."""
    if path.is_dir() and (found := label_maps_in(path)):
        one = next((each for each in found if maker(record_of(each)) is not None), found[0])
        raise InputError(f"{path}: is a folder, and report takes one label map", hint=f"give one: {one}")


def maker_of(path: Path) -> ModelCard:
    """The model that made a label map, as the record beside it says: of an ensemble the first; uxnet without a record.

    errors   ModelError: it is not found by that name
    """
    made = maker(record_of(path))
    if made is None:
        return find(_DEFAULT)
    name = made["name"]
    with suppress(ModelError):
        return find(name)  # the name of one model may have a + too
    try:
        return find(name.partition("+")[0])
    except ModelError as error:
        told = f"{path.name}: its record says that {name} made it: {error.message}"
        raise ModelError(
            told, hint="name its folder or file with --model, or a table of its names with --labels"
        ) from error


def by_model(path: Path, card: ModelCard, counts: Form | None) -> Existing:
    """A label map of the card's model, with what its record says.

    errors   InputError: another model made it, or one of that name with other names for its numbers; it holds what this
             one never writes; it is one structure's mask
    """
    if is_masks(path.parent):
        raise InputError(
            f"{path.name}: the mask of one structure, as --split writes it, and no label map",
            hint=f"give the label map that lies beside the folder {path.parent.name}",
        )
    hint = "name its model with --model, or a table of its names with --labels"
    labels = label_map(path, counts, [label.id for label in card.labels])
    refuse_other_numbers(path, card, hint)
    written = record_of(path)
    made = maker(written)
    name = made["name"] if made else card.name
    if card.name not in (name, *name.split("+")):
        raise InputError(
            f"{path.name}: its record says that {name} made it, not {card.name}", hint="name its model with --model"
        )
    refuse_other_names(path, card, hint)
    _refuse_values(path, labels, card, drawn=made is not None)
    sha256, said = file_sha256(path), tuple[str, ...]()
    of = (read_record(written) or {}).get("labels")
    if made is not None and isinstance(of, dict) and of.get("sha256") not in (None, sha256):
        said = (f"{path.name} has been changed since {made['name']} made it: what made it is not known",)
        made = None
    known = record.of_labels(path, sha256)
    return Existing(path, labels, sha256, card, made, known, _asked(written, labels, card), said)


def _refuse_values(path: Path, labels: Volume, card: ModelCard, *, drawn: bool) -> None:
    """Refuse values that the model never writes; `drawn`: somebody may have drawn further structures since."""
    known = {label.id for label in card.labels}
    others = sorted(set(np.unique(labels.data).tolist()) - known)
    if others and (not drawn or others[0] < 0 or others[-1] > max(known)):
        shown = first_few(others, _SHOWN)
        raise InputError(
            f"{path.name}: not a label map of {card.name}: it holds {shown}, and no label has such a number",
            hint="name its model with --model, or a table of its names with --labels (freesurfer for FreeSurfer's)",
        )


def record_of(path: Path) -> Path:
    """Where the record of a label map lies, if it has one."""
    return path.with_name(f"{stem(path)}.json")


def _asked(written: Path, labels: Volume, card: ModelCard) -> tuple[str, ...]:
    """The structures that a label map was made of, where its record says that they are not all of the card's.

    What the map holds beside them counts too: somebody has drawn it since.
    """
    if not (asked := kept(written)):
        return ()
    there = set(np.unique(labels.data).tolist())
    return tuple(x.name for x in card.structures if x.name in asked or x.id in there)


def by_table(path: Path, table: str, counts: Form | None) -> Existing:
    """A label map of any program, whose values have the names of a table."""
    known = _names_of(table)
    labels = label_map(path, counts, [label.id for label in known])
    card, said = _named(table, known, labels)
    return Existing(path, labels, file_sha256(path), card, said=said)


def by_segments(path: Path, scan: Volume, card: ModelCard) -> Existing:
    """A DICOM Segmentation of the card's structures on the grid of its scan."""
    from segcli.formats.dicom.seg import labels_on, structures_in

    there = structures_in(path, card.structures)
    classes = tuple(label.name for label in there) if len(there) < len(card.structures) else ()
    labels = labels_on(path, scan.grid, card.labels)
    return Existing(path, labels, file_sha256(path), card, classes=classes, scan=scan)


def by_own_names(path: Path, scan: Volume, table: str) -> Existing:
    """A DICOM Segmentation of any program, on the grid of its scan, by its own names or those of a table."""
    from segcli.formats.dicom.seg import labels_on, segments_in

    labels = labels_on(path, scan.grid)
    own = Path(table).exists() and Path(table).samefile(path)
    known = label_table.labels(segments_in(path)) if own else _names_of(table)
    card, said = _named(table, known, labels, whole=own)
    return Existing(path, labels, file_sha256(path), card, said=said, scan=scan)


def of_other_frame(path: Path, scan: Volume) -> tuple[str, ...]:
    """A sentence where a DICOM Segmentation names another frame of reference than the DICOM scan that it is shown on.

    Equal numbers are places in another body then.
    """
    from segcli.formats.dicom.seg import in_other_frame

    if scan.source is None or not in_other_frame(path, scan.source):
        return ()
    like = scan.source.paths[0].name
    return (f"{path.name}: its positions are in another frame of reference than those of {like}: is it of this scan?",)


def _names_of(table: str) -> list[Label]:
    """The labels that `--labels` names: those of a program whose names are known, or of a table."""
    if table == "freesurfer":
        return label_table.labels(freesurfer.names())
    if table == "totalsegmentator":
        from segcli.models import catalogue

        return label_table.labels(dict(enumerate(catalogue.entry(table).structures, 1)))
    return label_table.read(Path(table))


def _named(
    table: str, known: Sequence[Label], labels: Volume, *, whole: bool = False
) -> tuple[ModelCard, tuple[str, ...]]:
    """A card that gives the values of a label map the names of a table; a sentence of what has none.

    whole   names of which the map holds no voxel stand in the card too
    """
    there = set(np.unique(labels.data).tolist()) - {0}
    if min(there, default=0) < 0:
        raise InputError(f"{table}: names no values below 0, and the label map holds {min(there)}")
    said = tuple[str, ...]()
    if unknown := sorted(there - {x.id for x in known}):
        said = (f"{Path(table).name} has no name for {first_few(unknown, _SHOWN)}",)
    names = [x for x in known if whole or x.id in there] + [Label(value, f"label_{value}") for value in unknown]
    names = [replace(x, name=f"{x.name}_{x.id}" if x.name == "background" else x.name) for x in names or known[:1]]
    grey = (128, 128, 128)
    made = cards.parse(
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
    return made, said
