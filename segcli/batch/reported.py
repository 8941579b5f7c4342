"""What is said, and made, of a label map that exists already."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from msgspec import UNSET
from msgspec.structs import replace as with_

from segcli import system
from segcli.batch import earlier, outputs
from segcli.batch.existing import Existing, record_of
from segcli.batch.outputs import Destination, Output
from segcli.errors import OutputError, OutputExists
from segcli.formats import atomic
from segcli.formats.stated import stated
from segcli.formats.table import stem
from segcli.inference.segment import Segmentation
from segcli.models.library import file_sha256
from segcli.results import checks, record
from segcli.results.beside import known_files, with_files
from segcli.results.measure import Report, measure
from segcli.results.record import Measured, Record
from segcli.results.recorded import base_of, read_record
from segcli.results.shown import shown_in
from segcli.space.volume import Volume


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
    own = record_of(found.path)
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
    stated = (read_record(record_of(found.path)) or {}) if home else {}
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
