"""What an earlier run left of a case: a finished result, one that stands in the way, files of one that is replaced."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

from segcli.batch.outputs import planned
from segcli.errors import OutputExists, first_few
from segcli.models.library import file_sha256
from segcli.results import recorded
from segcli.results.beside import known_files, lacking, stated_files

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from pathlib import Path

    from segcli.batch.cases import Case
    from segcli.batch.stages import Job
    from segcli.documents import Facts
    from segcli.results.record import ModelFacts

_REPLACES = "--overwrite replaces it, -o chooses another folder"
_SHOWN = 3  # names of files in a sentence
_OF_LABELS = ("--report", "--tables", "--split")  # what is asked for so `segcli report` makes too


def finished(job: Job, case: Case, key: Facts, tell: Callable[[str], object] = str) -> bool:
    """Whether every file of a case is there and verified; OutputExists where one is there and somebody else's.

    Files beside a record of this case are results of an earlier run of it where that states them; others are somebody
    else's, as are those that somebody has changed. A label map counts as one only when the record is about it, its
    input, model and options.

    tell   gets a sentence where the label map is finished, and the network runs again for other files all the same
    """
    name = job.card.name
    labels, written = job.to.labels(case, name), job.to.record(case, name)
    wanted = planned(job.to.base(case, name), job.shown, job.to)
    found = recorded.read_record(written)
    key = _of_one_volume(key, found or {})
    known = asdict(type(job.options)())

    def differing(model: ModelFacts) -> dict[str, tuple[object, object]]:
        return recorded.differing(found or {}, {**key, "model": model}, known, job.precision)

    def is_of(model: ModelFacts) -> bool:
        return recorded.is_done(found, labels, {**key, "model": model}, known, job.precision)

    done = is_of(job.model) or (labels.is_file() and any(is_of(model) for model in job.models_before))
    stated = found or {}
    missing = lacking(stated, written.parent, list(wanted), job.choices)
    if done and not missing:
        return True
    whose, mine = _whose(wanted, written.parent, stated), stated.get("case") == case.name
    if mine and labels.is_file():
        whose[labels] = _whose_labels(labels, stated)
    if (other := _of_another(stated, labels)) and not job.to.overwrite:
        raise OutputExists(
            f"{written.name}: is the record of {other}, which would have none then",
            hint="give the label map another name with -o; --overwrite replaces the record",
        )
    for path in (labels, written, *wanted):
        if path.is_dir():
            raise OutputExists(f"{path.name}: is a folder, an output cannot have its name", hint="choose another -o")
        if job.to.overwrite or not os.path.lexists(path):
            continue
        if whose.get(path) == "changed":
            raise changed(path)
        allowed = done if path == labels else mine and (path == written or whose[path] == "ours")
        if allowed:
            continue
        said = f"{path.name}: exists already and is not a verified result of this run"
        if path == labels and whose.get(path) == "ours":
            since = _since(min(map(differing, (job.model, *job.models_before)), key=len))
            hint = "--overwrite labels the scan anew, -o chooses another folder"
            raise OutputExists(f"{said}: {since}", hint=hint)
        raise OutputExists(said, hint=_REPLACES)
    if done and all(wanted[path].option in _OF_LABELS and not path.exists() for path in missing):
        names = first_few([path.name for path in missing], _SHOWN)
        tell(
            f"{labels.name} is done, the network runs again for {names} alone; `segcli report` makes such files without"
        )
    return False


def changed(path: Path) -> OutputExists:
    """The refusal to replace a file with other bytes than the record that states it says."""
    return OutputExists(f"{path.name}: has been changed since its record was written", hint=_REPLACES)


def _of_one_volume(key: Facts, found: Facts) -> Facts:
    """A key without its volume, where that is the first and the record was made without one: the scan has no other."""
    then, now = found.get("input"), key["input"]
    if isinstance(then, dict) and then.get("volume") is None and now["volume"] == 1:
        return {**key, "input": {**now, "volume": None}}
    return key


def _whose_labels(labels: Path, found: Facts) -> Literal["ours", "changed", "other"]:
    """Whose a label map is that lies beside a record of its case, as `_whose` says it of the other files."""
    of = found.get("labels")
    if "input" not in found or not isinstance(of, dict):  # not of a label map that a scan was labelled with
        return "other"
    return "ours" if of.get("sha256") == file_sha256(labels) else "changed"


def _since(differs: Mapping[str, tuple[object, object]]) -> str:
    """What has changed since a label map was made, in words; of each part of the key what was then, and what is now."""
    said = []
    if "input" in differs:
        said.append(_of_input(*differs["input"]))
    if "model" in differs:
        then, now = (one.get("name") if isinstance(one, dict) else None for one in differs["model"])
        said.append(f"the model was {then}" if then != now else "the model's card or weights have changed since")
    if "options" in differs:
        then, now = (one if isinstance(one, dict) else {} for one in differs["options"])
        names = [name for name in now if name not in then or then[name] != now[name]]
        said.append(f"other options were asked for ({', '.join(names)})")
    return ", ".join(said)


def _of_input(then: object, now: object) -> str:
    """How a scan differs from the one that was labelled, in words."""
    first, second = (one if isinstance(one, dict) else {} for one in (then, now))
    if any(first.get(which) != second.get(which) for which in ("series", "volume")):
        return "another series or volume was asked for"
    if first.get("sha256") == second.get("sha256"):
        return "the scan has another name since"
    return "the scan has changed since"


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


def sums_beside(job: Job, case: Case) -> dict[str, str]:
    """The sums of files of earlier runs that are not made anew and that nobody has changed, as a record states them."""
    written = job.to.record(case, job.card.name)
    return _untouched(job, case, known_files(recorded.read_record(written) or {}))


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
    found = recorded.read_record(written) or {}
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
