"""What an earlier run left of a case: a finished result, one that stands in the way, files of one that is replaced."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

from segcli.batch.outputs import planned
from segcli.errors import OutputExists
from segcli.models.library import file_sha256
from segcli.results import record
from segcli.results.beside import has_extras, known_files, stated_files

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping
    from pathlib import Path

    from segcli.batch.cases import Case
    from segcli.batch.stages import Job
    from segcli.documents import Facts
    from segcli.results.record import ModelFacts

_SHOWN = 3  # names of files in a sentence


def finished(job: Job, case: Case, key: Facts) -> bool:
    """Whether every file of a case is there and verified; OutputExists where one is there and somebody else's.

    Files beside a record of this case are results of an earlier run of it where that states them; others are somebody
    else's, as are those that somebody has changed. A label map counts as one only when the record is about it, its
    input, model and options.
    """
    name = job.card.name
    labels, written = job.to.labels(case, name), job.to.record(case, name)
    wanted = list(planned(job.to.base(case, name), job.shown, job.to))
    found = record.read_record(written)

    def is_of(model: ModelFacts) -> bool:
        known = asdict(type(job.options)())
        return record.is_done(found, labels, {**key, "model": model}, known, job.precision)

    done = is_of(job.model) or (labels.is_file() and any(is_of(model) for model in job.models_before))
    stated = found or {}
    if done and has_extras(stated, written.parent, wanted, job.choices):
        return True
    whose, mine = _whose(wanted, written.parent, stated), stated.get("case") == case.name
    if (other := _of_another(stated, labels)) and not job.to.overwrite:
        raise OutputExists(
            f"{written.name}: is the record of {other}, which would have none then",
            hint="give the label map another name with -o; --overwrite replaces the record",
        )
    for path in (labels, written, *wanted):
        if path.is_dir():
            raise OutputExists(f"{path.name}: is a folder, an output cannot have its name", hint="choose another -o")
        if whose.get(path) == "changed" and not job.to.overwrite:
            raise OutputExists(
                f"{path.name}: has been changed since its record was written",
                hint="--overwrite replaces it, -o chooses another folder",
            )
        allowed = done if path == labels else mine and (path == written or whose[path] == "ours")
        if not job.to.overwrite and not allowed and os.path.lexists(path):
            raise OutputExists(
                f"{path.name}: exists already and is not a verified result of this run",
                hint="--overwrite replaces it, -o chooses another folder",
            )
    return False


def _of_another(found: Facts, labels: Path) -> str:
    """The label map that a record is about, where that is another one, which is still there: x.nii beside x.mgz."""
    of = found.get("labels")
    file = of.get("file") if isinstance(of, dict) else None
    other = isinstance(file, str) and file != labels.name and labels.with_name(file).is_file()
    return str(file) if other else ""


def _whose(outputs: Iterable[Path], folder: Path, found: Facts) -> dict[Path, Literal["ours", "changed", "other"]]:
    """Of each file that is made beside a record in a folder: whose the one is that may be there.

    "ours" are files that the record states; all, of a record that states none. "changed" are those that have other
    bytes than it states, as a page of another case has that was copied there.
    """
    known, states_none = known_files(found), found.get("extras") is None

    def of(path: Path) -> Literal["ours", "changed", "other"]:
        sums = known.get(path.relative_to(folder).as_posix())
        if sums is None:
            return "ours" if states_none else "other"
        return "changed" if path.is_file() and file_sha256(path) not in sums else "ours"

    return {path: of(path) for path in outputs}


def beside(job: Job, case: Case) -> dict[str, str]:
    """The sums of files of earlier runs that are not made anew and that nobody has changed, as a record states them."""
    written = job.to.record(case, job.card.name)
    return _untouched(job, case, known_files(record.read_record(written) or {}))


def _untouched(job: Job, case: Case, known: Mapping[str, Collection[str]]) -> dict[str, str]:
    """The sums of files beside a label map that are not made anew and that nobody has changed."""
    labels, _, *wanted = job.to.files(case, job.shown)
    paths = {name: labels.parent / name for name in known}
    there = {name: file_sha256(path) for name, path in paths.items() if path not in wanted and path.is_file()}
    return {name: made for name, made in there.items() if made in known[name]}


def stays(job: Job, case: Case, made: str) -> str:
    """A sentence about files of the result that is being replaced which are not made anew; "" without any.

    made   the sum of the new label map: of the same labels they stay true
    """
    written = job.to.record(case, job.card.name)
    found = record.read_record(written) or {}
    of = found.get("labels")
    if not isinstance(of, dict) or of.get("sha256") == made:
        return ""
    known = known_files(found)
    old = [*_untouched(job, case, {name: known[name] for name in stated_files(found, "extras")})]
    if not old:
        return ""
    more = f" and {len(old) - _SHOWN} more" if len(old) > _SHOWN else ""
    names = ", ".join(old[:_SHOWN]) + more
    return f"{names}: made of the labels that this run replaced; ask for them again, or take them away"
