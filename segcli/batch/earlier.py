"""What an earlier run left of a case: a finished result, one that stands in the way, files of one that is replaced."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

from segcli import system
from segcli.batch.outputs import planned
from segcli.errors import OutputExists
from segcli.models.library import file_sha256
from segcli.results import record

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from segcli.batch.cases import Case
    from segcli.batch.outputs import Output
    from segcli.batch.stages import Job
    from segcli.documents import Facts
    from segcli.results.record import ModelFacts

_SHOWN = 3  # names of files in a sentence


def finished(job: Job, case: Case, key: Facts) -> bool:
    """Whether every file of a case is there and verified; OutputExists where one is there and somebody else's.

    Files beside a record of this case are results of an earlier run of it where that states them, or where they say
    so themselves; others are somebody else's, as are those that somebody has changed. A label map counts as one only
    when the record is about it, its input, model and options.
    """
    name = job.card.name
    labels, written = job.to.labels(case, name), job.to.record(case, name)
    outputs = planned(job.to.base(case, name), job.shown, job.to)
    wanted = list(outputs)

    def is_of(model: ModelFacts) -> bool:
        known = asdict(type(job.options)())
        return record.is_done(written, labels, {**key, "model": model}, known, job.precision)

    done = is_of(job.model) or (labels.is_file() and any(is_of(model) for model in job.models_before))
    if done and record.has_extras(written, wanted, job.choices, lambda path: _says_so(path, outputs[path])):
        return True
    whose = _whose(outputs, written)
    mine = (record.read_record(written) or {}).get("case") == case.name
    if (other := _of_another(written, labels)) and not job.to.overwrite:
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


def _of_another(written: Path, labels: Path) -> str:
    """The label map that a record is about, where that is another one, which is still there: x.nii beside x.mgz."""
    of = (record.read_record(written) or {}).get("labels")
    file = of.get("file") if isinstance(of, dict) else None
    other = isinstance(file, str) and file != labels.name and labels.with_name(file).is_file()
    return str(file) if other else ""


def _whose(outputs: Mapping[Path, Output], written: Path) -> dict[Path, Literal["ours", "changed", "other"]]:
    """Of each file that is made beside a record: whose the one is that may be there.

    "ours" are files that the record states, and those that begin as what `segcli report` makes anew; all, of a record
    that states none. "changed" are those that have other bytes than it states.
    """
    sums = {**_before(written), **_stated(written)}
    states_none = (record.read_record(written) or {}).get("extras") is None

    def of(path: Path, output: Output) -> Literal["ours", "changed", "other"]:
        stated = sums.get(path.relative_to(written.parent).as_posix())
        if _says_so(path, output):
            return "ours"
        if stated is None:
            return "ours" if states_none else "other"
        return "changed" if path.is_file() and file_sha256(path) != stated else "ours"

    return {path: of(path, output) for path, output in outputs.items()}


def _says_so(path: Path, output: Output) -> bool:
    """Whether a file begins as what `segcli report` makes anew."""
    if output.own is None or not path.is_file():
        return False
    with system.opened(path) as file:
        return output.own(file.read(4096))


def _stated(written: Path) -> dict[str, str]:
    """The sums of the files beside a record, by their names from its folder on; empty where it states none."""
    return _sums(written, "extras", "files")


def _before(written: Path) -> dict[str, str]:
    """The same of files that earlier runs have made."""
    return _sums(written, "run", "earlier")


def _sums(written: Path, part: str, key: str) -> dict[str, str]:
    found = (record.read_record(written) or {}).get(part)
    sums = found.get(key) if isinstance(found, dict) else None
    return sums if isinstance(sums, dict) else {}


def beside(job: Job, case: Case) -> dict[str, str]:
    """The sums of files of earlier runs that are not made anew and that nobody has changed, as a record states them."""
    written = job.to.record(case, job.card.name)
    return _untouched(job, case, {**_before(written), **_stated(written)})


def _untouched(job: Job, case: Case, sums: dict[str, str]) -> dict[str, str]:
    """Of the sums of files beside a label map, those of files that are not made anew and that nobody has changed."""
    labels, _, *wanted = job.to.files(case, job.shown)
    there = ((name, labels.parent / name, made) for name, made in sums.items())
    return {name: made for name, p, made in there if p not in wanted and p.is_file() and file_sha256(p) == made}


def stays(job: Job, case: Case, made: str) -> str:
    """A sentence about files of the result that is being replaced which are not made anew; "" without any.

    made   the sum of the new label map: of the same labels they stay true
    """
    written = job.to.record(case, job.card.name)
    of = (record.read_record(written) or {}).get("labels")
    if not isinstance(of, dict) or of.get("sha256") == made:
        return ""
    old = [*_untouched(job, case, _stated(written))]
    if not old:
        return ""
    more = f" and {len(old) - _SHOWN} more" if len(old) > _SHOWN else ""
    names = ", ".join(old[:_SHOWN]) + more
    return f"{names}: made of the labels that this run replaced; ask for them again, or take them away"
