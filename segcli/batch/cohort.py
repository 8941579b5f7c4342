"""Tables over all cases of an output folder: one row a structure, and one row a case."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath

from segcli.batch.case import Case
from segcli.batch.outputs import RECORD
from segcli.batch.selection import labels_of
from segcli.batch.stages import Outcome
from segcli.documents import Document, Facts
from segcli.errors import OutputExists
from segcli.formats import atomic
from segcli.formats.walk import walk
from segcli.results.measure import COHORT, cell, cohort_rows, csv_text, from_json, wide_rows
from segcli.results.recorded import is_masks, model_names, read_record
from segcli.results.tissues import tissues_of
from segcli.system import key_of

FIXED = ("case", "model", "verdict", "sum_ml")
_BIDS = ("participant_id", "session_id")  # by which the tables of a BIDS dataset are joined, where cases are called so
_FAILED = "not segmented"  # the verdict of a case that has no labels
_FORMS = {"csv": ",", "tsv": "\t"}


def gathered(outcomes: Sequence[Outcome], folder: Path) -> list[Facts]:
    """The records of a batch's finished cases and of those that lie in its folder from earlier batches, by case.

    Those of other models count too, and only where their label map is there. So a case that this batch has failed has
    what an earlier one has made of it.
    """
    mine = [outcome.record for outcome in outcomes if outcome.record is not None]
    done = {(record["case"], record["model"]["name"]) for record in mine}
    earlier = [r for r in _lying(folder) if (r["case"], r["model"]["name"]) not in done]
    return sorted((*mine, *earlier), key=lambda record: (str(record["case"]), str(record["model"]["name"])))


def missing(
    outcomes: Sequence[Outcome], records: Sequence[Facts], folder: Path, name: Callable[[], str]
) -> list[Facts]:
    """For each case that has failed, in a batch or in an earlier one into its folder, what a row of the tables needs.

    outcomes  of one batch
    name      of its model, as records have it, where the batch has none
    records   as `gathered` says them: a model that has one of a case has done it

    A case of the batch that was refused because labels of another model lie there is none. What earlier batches have
    failed is known from the tables in the folder. A folder of several series that was refused is done where the batch
    has done one of them.
    """
    made = (outcome.record["model"] for outcome in outcomes if outcome.record is not None)
    model = next(made, None) or _by_name(records, {}).get(name(), {"name": name()})
    labelled = {record["case"] for record in records}
    done = {_key(record) for record in records}
    mine = [
        _lacking(o.case.name, model, o.error.message)
        for o in outcomes
        if o.error is not None and o.status == "failed"
        if not (isinstance(o.error, OutputExists) and o.case.name in labelled)
    ]
    tried = {o.case.name for o in outcomes}
    tried |= {name for o in outcomes if o.status != "failed" for name in _parts_of(o.case)}
    settled = done | {_key({"case": case, "model": model}) for case in tried}
    known = _by_name(records, model)
    earlier = [
        _lacking(case, known.get(called, {"name": called}), "told by an earlier run")
        for case, called in _failures(folder)
    ]
    every = [record for record in earlier if _key(record) not in settled]
    every += [record for record in mine if _key(record) not in done]
    return list({_key(record): record for record in every}.values())


def _parts_of(case: Case) -> set[str]:
    """What the whole is called as a case that this one is a series of: an archive, a folder."""
    above = {str(folder) for folder in PurePosixPath(case.name).parents}
    return above if case.series is None else {*above, case.paths[0].absolute().name}


def _by_name(records: Sequence[Facts], model: Facts) -> dict[str, Facts]:
    """The models of records by the names that a table may call them; of several of one name another than `model`."""
    found: dict[str, Facts] = {}
    for own in sorted((record["model"] for record in records), key=lambda x: x.get("sha256") != model.get("sha256")):
        found |= {own["name"]: own, f"{own['name']} {str(own.get('sha256'))[:8]}": own}
    return found


def _lacking(case: str, model: Facts, reason: str) -> Facts:
    return {"case": case, "model": model, "verdict": _FAILED, "structures": [], "reason": reason}


def _key(record: Facts) -> tuple[str, str, str | None]:
    """Which case of which model; the case as the tables write it."""
    return str(cell(record["case"])), str(record["model"]["name"]), record["model"].get("sha256")


def _failures(folder: Path) -> list[tuple[str, str]]:
    """Case and model of each row without labels in the tables of cases, those of ours, that lie in a folder."""
    found = []
    for form, comma in _FORMS.items():
        path = folder / f"cohort_wide.{form}"
        if not _ours(("case", *_BIDS, *FIXED[1:]), comma, f"{_first_line(path)}\n".encode()):
            continue
        with suppress(OSError, csv.Error), path.open(encoding="utf-8", errors="replace", newline="") as file:
            rows = list(csv.DictReader(file, delimiter=comma))
            found += [(row["case"], row["model"]) for row in rows if row.get("verdict") == _FAILED and row.get("model")]
    return found


def _lying(folder: Path) -> list[Facts]:
    """The records below a folder whose label maps lie beside them, each where its case's name says.

    A folder of outputs that lies in it has cases of its own, whose names begin there.
    """
    found: list[Facts] = []
    for here, folders, names in walk(folder):
        folders[:] = [name for name in folders if not is_masks(here / name)]
        for name in names:
            record = read_record(here / name) if name.endswith(tuple(RECORD.values())) else None
            if record is None or not _is_whole(record) or not (here / record["labels"]["file"]).is_file():
                continue
            if key_of((folder / record["case"]).parent) == key_of(here):
                found.append(record)
    return found


def _is_whole(record: Facts) -> bool:
    """Whether a file that says that it is a record has what a table needs."""
    try:
        measured = all(
            isinstance(s.voxels, int) and isinstance(s.volume_ml, int | float)
            for s in from_json(record["structures"]).structures
        )
        named = (record["case"], record["model"]["name"], record["labels"]["file"])
        return measured and all(isinstance(x, str) for x in named)
    except (AttributeError, KeyError, TypeError):
        return False


def cohort(
    records: Sequence[Facts],
    folder: Path,
    forms: Sequence[str],
    *,
    lacking: Sequence[Facts] = (),
    overwrite: bool = False,
) -> list[Path]:
    """cohort.csv, one row for each case and structure, and cohort_wide.csv, one row for each case; or as .tsv.

    Where no case has labels the first has its columns alone.

    forms    "csv" and "tsv"
    lacking  the cases that have no labels, as `missing` says them: rows of cohort_wide without volumes
    errors   OutputExists (73) for a table of that name that has other columns, unless `overwrite`
    """
    models, people = model_names(records), _people(records)
    long = [
        {"case": row["case"], **person, **row}
        for model, person, r in zip(models, people, records, strict=True)
        for row in cohort_rows(str(r["case"]), model, from_json(r["structures"]))
    ]
    every = sorted((*records, *lacking), key=lambda record: (str(record["case"]), str(record["model"]["name"])))
    wide = _wide(every, model_names(every), _people(every))
    of_cases = _fixed(wide)
    of_structures = ("case", *(name for name in of_cases if name in _BIDS), *COHORT[1:])
    written = []
    for form in forms:
        comma = _FORMS[form]
        for name, table, columns in (("cohort", long, of_structures), ("cohort_wide", wide, of_cases)):
            path = folder / f"{name}.{form}"
            atomic.unclaimed(path, overwrite=overwrite, own=partial(_ours, columns, comma))
            atomic.write_bytes(path, csv_text(table, comma, columns).encode())
            written.append(path)
    return written


def _people(records: Sequence[Facts]) -> list[Document]:
    """For each record whom its case is of, as participants.tsv and sessions.tsv of BIDS call them, where any case says.

    One that says nothing has None.
    """
    said = [labels_of(PurePosixPath(str(record["case"])).name) for record in records]
    values = {
        "participant_id": [f"sub-{s['--participant-label']}" if s["--participant-label"] else None for s in said],
        "session_id": [f"ses-{s['--session-label']}" if s["--session-label"] else None for s in said],
    }
    return [{key: values[key][i] for key in _BIDS if any(values[key])} for i in range(len(records))]


def _wide(records: Sequence[Facts], models: Sequence[str], people: Sequence[Facts]) -> list[Document]:
    """The rows of cohort_wide; for each record the name of its model, and whom its case is of."""
    named = zip(people, map(_sums, records, models), strict=True)
    return wide_rows([{"case": row["case"], **person, **row} for person, row in named])


def _fixed(wide: Sequence[Facts]) -> tuple[str, ...]:
    """The columns of a table of cases that are no volumes, and the first sum."""
    return tuple(name for name in wide[0] if name in (*FIXED, *_BIDS))


def _ours(columns: Sequence[str], comma: str, head: bytes) -> bool:
    """Whether a table has these columns, but for those that earlier tables lack, and beside them volumes alone."""
    line, end, _ = head.decode(errors="replace").partition("\n")
    found = _columns(line, comma)
    if not end and found:
        found.pop()  # its name is cut off
    later = {"model", *_BIDS} & {*columns}  # an earlier table may lack them
    fixed, there = ([name for name in names if name not in later] for names in (columns, found))
    return there[: len(fixed)] == fixed and all(name.endswith("_ml") for name in there[len(fixed) :])


def _columns(line: str, comma: str) -> list[str]:
    """The names in the first line of a table."""
    try:
        return next(csv.reader([line], delimiter=comma), [])
    except csv.Error:  # no table
        return []


def joined(records: Sequence[Facts], folder: Path) -> list[str]:
    """The forms of the tables that an earlier run left in a folder, where these records keep all of their columns."""
    wide = _wide(records, model_names(records), _people(records))
    found = []
    for form, comma in _FORMS.items():
        head = _first_line(folder / f"cohort_wide.{form}")
        if wide and _ours(_fixed(wide), comma, f"{head}\n".encode()) and {*wide[0]}.issuperset(_columns(head, comma)):
            found.append(form)
    return found


def _first_line(path: Path) -> str:
    """Of a plain file, "" of anything else."""
    try:
        with path.open(encoding="utf-8", errors="replace") if path.is_file() else io.StringIO() as file:
            return file.readline(1 << 20).rstrip("\n")
    except OSError:
        return ""


def _sums(record: Facts, model: str) -> Document:
    """The row of a case: verdict, the volume of all structures, sums of tissues of a brain, each structure, in mL."""
    volumes = {str(s["name"]): float(s["volume_ml"]) for s in record["structures"]}
    sums = {f"sum_{kind.replace(' ', '_')}_ml": round(ml, 3) for kind, ml in tissues_of(record, volumes).items()}
    whole = round(sum(volumes.values()), 3) if volumes else None
    first = (str(record["case"]), model, record.get("verdict"), whole)
    return {**dict(zip(FIXED, first, strict=True)), **sums, **{f"{name}_ml": ml for name, ml in volumes.items()}}
