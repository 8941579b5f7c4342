"""Tables over all cases of an output folder: one row a structure, and one row a case."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from segcli.batch.outputs import RECORD
from segcli.batch.stages import Outcome
from segcli.documents import Document, Facts
from segcli.formats import atomic
from segcli.formats.streams import walk
from segcli.results.measure import cohort_rows, csv_text, from_json, wide_rows
from segcli.results.record import is_masks, read_record
from segcli.results.tissues import tissues


def gathered(outcomes: Sequence[Outcome], folder: Path) -> list[Facts]:
    """The records of a batch's finished cases and of those that lie in its folder from earlier batches, by case.

    Only records of the batch's own model count, and only where their label map is there. A case that this batch has
    failed is none, whatever an earlier one made of it.
    """
    mine = [outcome.record for outcome in outcomes if outcome.record is not None]
    named = {outcome.case.name for outcome in outcomes}
    models = {record["model"]["name"] for record in mine}
    earlier = [r for r in _lying(folder) if r["case"] not in named and r["model"]["name"] in models]
    return sorted((*mine, *earlier), key=lambda record: str(record["case"]))


def _lying(folder: Path) -> list[Facts]:
    """The records below a folder whose label maps lie beside them."""
    found: list[Facts] = []
    for here, folders, names in walk(folder):
        folders[:] = [name for name in folders if not is_masks(here / name)]
        for name in names:
            record = read_record(here / name) if name.endswith(tuple(RECORD.values())) else None
            if record is not None and _is_whole(record) and (here / record["labels"]["file"]).is_file():
                found.append(record)
    return found


def _is_whole(record: Facts) -> bool:
    """Whether a file that says that it is a record has what a table needs."""
    try:
        from_json(record["structures"])
        return all(isinstance(x, str) for x in (record["case"], record["model"]["name"], record["labels"]["file"]))
    except (KeyError, TypeError):
        return False


def cohort(records: Sequence[Facts], folder: Path, forms: Sequence[str], *, overwrite: bool = False) -> list[Path]:
    """cohort.csv, one row for each case and structure, and cohort_wide.csv, one row for each case; or as .tsv.

    forms    "csv" and "tsv"
    errors   OutputExists (73) for a table of that name that has other columns, unless `overwrite`
    """
    long = cohort_rows({str(r["case"]): from_json(r["structures"]) for r in records})
    wide = wide_rows([_sums(record) for record in records])
    written = []
    for form in forms:
        comma = "\t" if form == "tsv" else ","
        for name, table, columns in (("cohort", long, len(long[0])), ("cohort_wide", wide, len(FIXED))):
            path, text = folder / f"{name}.{form}", csv_text(table, comma)
            head = comma.join(text.partition("\n")[0].split(comma)[:columns]).encode()
            atomic.unclaimed(path, overwrite=overwrite, own=lambda there, head=head: there.startswith(head))  # type: ignore[misc]
            atomic.write_bytes(path, text.encode())
            written.append(path)
    return written


FIXED = ("case", "verdict", "sum_ml")


def joined(records: Sequence[Facts], folder: Path) -> list[str]:
    """The forms of the tables that an earlier run left in a folder, where these records keep all of their columns.

    Those of another model do not, so that its cases never take the place of these.
    """
    columns = {name for record in records for name in _sums(record)}
    found = []
    for form, comma in (("csv", ","), ("tsv", "\t")):
        head = _first_line(folder / f"cohort_wide.{form}").split(comma)
        if head[: len(FIXED)] == [*FIXED] and columns.issuperset(head):
            found.append(form)
    return found


def _first_line(path: Path) -> str:
    """Of a plain file, "" of anything else."""
    try:
        with path.open(encoding="utf-8", errors="replace") if path.is_file() else io.StringIO() as file:
            return file.readline(1 << 20).rstrip("\n")
    except OSError:
        return ""


def _sums(record: Facts) -> Document:
    """The row of a case: verdict, the volume of all structures, sums of tissues of a brain, each structure, in mL."""
    volumes = {str(s["name"]): float(s["volume_ml"]) for s in record["structures"]}
    sums = {f"sum_{kind.replace(' ', '_')}_ml": round(ml, 3) for kind, ml in tissues(volumes).items()}
    first = (str(record["case"]), record.get("verdict"), round(sum(volumes.values()), 3))
    return {**dict(zip(FIXED, first, strict=True)), **sums, **{f"{name}_ml": ml for name, ml in volumes.items()}}
