"""What is said, and made, of a label map that exists already: by its model, a table of names, or a Segmentation."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
from msgspec import UNSET
from msgspec.structs import replace as with_

from segcli import formats, system
from segcli.batch import earlier, outputs
from segcli.batch.names import is_own
from segcli.batch.outputs import Destination, Output
from segcli.errors import Denied, InputError, ModelError, OutputError, OutputExists, UsageError, first_few
from segcli.formats import Form, atomic, freesurfer, label_table
from segcli.formats.stated import stated
from segcli.formats.table import stem
from segcli.inference.segment import Segmentation
from segcli.models import card as cards
from segcli.models.card import ModelCard
from segcli.models.library import file_sha256, find
from segcli.results import checks, record
from segcli.results.beside import known_files, with_files
from segcli.results.inputs import hash_inputs
from segcli.results.measure import Report, measure
from segcli.results.numbers import refuse_other_names, refuse_other_numbers
from segcli.results.pairing import label_maps_in
from segcli.results.record import Measured, ModelFacts, Record
from segcli.results.recorded import base_of, is_masks, kept, maker, read_record
from segcli.results.scan_checks import label_map
from segcli.results.shown import shown_in
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


@dataclass(frozen=True, eq=False)
class Scanned:
    """The scan of a label map, (C, D, H, W) on its grid, and a sentence about where it was found."""

    image: Volume
    said: tuple[str, ...] = ()


# ---- what it is ------------------------------------------------------------------------------------------------------


def refuse_several(path: Path) -> None:
    """Refuse a folder of label maps, such as the results of a run: InputError."""
    if path.is_dir() and (found := label_maps_in(path)):
        one = next((each for each in found if maker(_record_of(each)) is not None), found[0])
        raise InputError(f"{path}: is a folder, and report takes one label map", hint=f"give one: {one}")


def maker_of(path: Path) -> ModelCard:
    """The model that made a label map, as the record beside it says: of an ensemble the first; uxnet without a record.

    errors   ModelError: it is not found by that name
    """
    made = maker(_record_of(path))
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
    written = _record_of(path)
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


def _record_of(path: Path) -> Path:
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


# ---- its scan --------------------------------------------------------------------------------------------------------


def scan_of(found: Existing, image: Path | None, counts: Form | None) -> Scanned | None:
    """The scan of a label map: the one that is named, else the one that its record names, where that is near.

    A file that is the record's is read as the record says: its volume, and the statement of its header that counts.

    errors   InputError where they are not on one grid
    """
    if found.scan is not None:
        return Scanned(found.scan)
    if image is None:
        return _recorded_scan(found)
    scan = None if counts else _as_recorded(found, [image])
    scan = scan or formats.read([image], affine=counts, channels=len(found.card.channels))
    if not scan.grid.same_as(found.labels.grid):
        raise InputError(f"{found.path.name} and {image.name} are not on one grid")
    return Scanned(scan)


def _recorded_scan(found: Existing) -> Scanned | None:
    """The files, or the DICOM folder, that the record of a label map names, read as they were for it.

    They are looked for by their names beside the label map, a folder above it and in the working folder, and have the
    sum of the record. A folder that was named by dots has no name: `predict .` in the folder of the slices.
    """
    known = found.known
    if known is None or known.input is UNSET:
        return None
    here = found.path.absolute().parent
    names = [Path(name).name for name in known.input["files"]]
    for folder in dict.fromkeys((here, here.parent, Path.cwd())):
        paths = [folder / name for name in names]
        scan = _as_recorded(found, paths) if names and not {"", ".."} & {*names} else None
        if scan is not None and scan.grid.same_as(found.labels.grid):
            shown = ", ".join(map(str, paths))
            return Scanned(scan, (f"the scan is {shown}, as the record of {found.path.name} says",))
    return None


def _as_recorded(found: Existing, paths: Sequence[Path]) -> Volume | None:
    """The scan in files, read as the record says; None where they are not what it names, or cannot be read so."""
    known = found.known
    if known is None or known.input is UNSET or known.options is UNSET:
        return None
    recorded, options = known.input, known.options
    affine = options.get("affine")
    if not all(map(Path.exists, paths)) or affine not in (None, *get_args(Form)):
        return None
    with suppress(InputError, Denied, UsageError):  # another file has the name now, or somebody changed the record
        if hash_inputs(paths, is_own, _of_series(paths, recorded["series"])).sha256 == recorded["sha256"]:
            return formats.read(
                paths,
                affine=affine,
                series=recorded["series"],
                volume=recorded["volume"],
                channels=len(found.card.channels),
                fill_gaps=bool(options.get("fill_gaps")),
            )
    return None


def _of_series(paths: Sequence[Path], series: str | None) -> list[Path]:
    """The files of a DICOM series in a folder; none where that is not said, or is in no folder."""
    if series is None or not paths[0].is_dir():
        return []
    from segcli.formats.dicom.search import files_in

    return sorted(files_in(paths[0], series))


# ---- what is said of it ----------------------------------------------------------------------------------------------


def described(found: Existing, scan: Volume | None) -> Record:
    """What can be said of a label map now; what its record knows of how it was made is taken over.

    Without its scan volumes and doubts are the record's too: that has seen the scan.
    """
    known = found.known
    if known is not None and scan is None and {s.name for s in known.structures} >= {*found.classes}:
        return with_(known, extras=UNSET, run=UNSET)
    confidence, disagreement = ({}, {}) if known is None else map(_shares, (known.confidence, known.disagreement))
    findings = checks.run(
        found.labels,
        scan,
        found.card,
        confidence,
        stated(scan.source) if scan else None,
        found.classes,
        disagreement,
    )
    now = record.about(
        stem(found.path),
        # Without a record of segcli nobody knows what made the label map: the model gives its table of labels alone.
        found.made or {"name": found.card.name, "sha256": None, "licence": found.card.licence},
        {"file": found.path.name, "sha256": found.sha256},
        Measured(found.labels.grid, measure(found.labels, found.shown.labels, scan), findings),
        found.labels.source.warnings if found.labels.source else (),
        found.classes,
    )
    if known is None:
        return now
    return with_(known, structures=now.structures, verdict=now.verdict, checks=now.checks, extras=UNSET, run=UNSET)


def _shares(recorded: object) -> dict[int, float]:
    """Label -> share of what a record has under the label's digits."""
    shares = recorded if isinstance(recorded, Mapping) else {}
    return {int(label): float(share) for label, share in shares.items()}


# ---- what is made of it ----------------------------------------------------------------------------------------------


def written(found: Existing, scan: Volume | None, told: Record, to: Destination) -> tuple[list[Path], list[str]]:
    """The files that were asked for, beside the label map or in the folder, and sentences for the user.

    A record beside them that is about this label map states them from now on, so that a later run knows them.

    errors   OutputExists: a file there is somebody else's, shows another label map, or shows the scan that is not here;
             OutputError: the record was changed while they were made
    """
    base = (to.folder or found.path.parent) / base_of(stem(found.path))
    wanted = outputs.planned(base, found.shown, to)
    image = scan or Volume(np.zeros(found.labels.data.shape, np.uint8), found.labels.grid, found.labels.source)
    case = outputs.Finished(
        base,
        image,
        Segmentation(found.labels, {}, 0, {}),
        found.shown,
        to,
        Report(tuple(told.structures)),
        told.document,
        bare=scan is None,
    )
    own = _record_of(found.path)
    beside = base.parent.absolute() == own.parent.absolute()
    if not to.overwrite:
        _refuse_richer(wanted, bare=case.bare)
    states = beside and found.known is not None and found.known.run is not UNSET
    before = system.bytes_of(own) if states else b""

    def changed() -> bool:
        """Refuse a record that another program changed meanwhile; never true, for what is refused is dropped too."""
        if states and (not own.is_file() or system.bytes_of(own) != before):
            raise OutputError(f"{own.name}: has been changed while its files were made", hint="run it again")
        return False

    with atomic.together(own, next(reversed(wanted)), changed) as staged:
        paths, said = outputs.write(case)
        sums = {path: file_sha256(staged[path]) for path in paths}
        if not to.overwrite:
            _refuse_others(found, wanted, sums, base.parent if beside else None)
        if states:
            names = {path.relative_to(base.parent).as_posix(): made for path, made in sums.items()}
            atomic.write_bytes(own, with_files(own, names))
    return paths, said


def _refuse_richer(wanted: Mapping[Path, Output], *, bare: bool) -> None:
    """Refuse to replace a page or picture that shows the scan by one that cannot."""
    for path, output in wanted.items():
        there = shown_in(_head(path)) if bare and output.shows else None
        if there is not None and there.scan:
            raise OutputExists(
                f"{path.name}: shows the scan, and the new one would show the labels alone",
                hint="name the scan with --image; --overwrite replaces it, -o chooses another folder",
            )


def _refuse_others(found: Existing, wanted: Mapping[Path, Output], sums: Mapping[Path, str], home: Path | None) -> None:
    """Refuse to replace a file that is not known to be of this label map: OutputExists.

    home   the folder of the label map, where the files lie beside it

    Known are the new file's own bytes, and beside the label map a sum that its record states. Else the file has to say
    that it shows these bytes, or beside the label map a file of that name, as before somebody has changed the map. One
    that the record states, and that shows the label map of the record, somebody has changed.
    """
    stated = (read_record(_record_of(found.path)) or {}) if home else {}
    known, of = known_files(stated), stated.get("labels")
    recorded = of.get("sha256") if isinstance(of, dict) else None
    for path, output in wanted.items():
        there = file_sha256(path) if path.is_file() and not path.is_symlink() else ""
        name = path.relative_to(home).as_posix() if home else ""
        if not os.path.lexists(path) or there in (sums[path], *known.get(name, ())):
            continue
        shown = shown_in(_head(path)) if output.shows else None
        if shown is None:
            raise atomic.claimed(path)
        if name in known and shown.sha256 == recorded:
            raise earlier.changed(path)
        if shown.sha256 != found.sha256 and not (home and shown.file == found.path.name):
            raise atomic.claimed(path)


def _head(path: Path) -> bytes:
    """The first bytes of a plain file; none of anything else."""
    if not path.is_file():
        return b""
    with system.opened(path) as file:
        return file.read(4096)
