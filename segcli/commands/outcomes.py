"""What a run's outcomes become: what is said, the JSON document, the cohort's files, the exit code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from segcli.commands.progress import Show
from segcli.commands.terminal import SCHEMA, structure_rows, table
from segcli.documents import Document
from segcli.errors import CasesFailed

if TYPE_CHECKING:
    from segcli.batch.outputs import Destination
    from segcli.batch.stages import Outcome


@dataclass(frozen=True)
class Manners:
    """How a run talks."""

    json: bool = False
    quiet: bool = False
    verbose: int = 0
    events: str | None = None
    debug: bool = False
    fail_on: str = ""


# What --fail-on names, and the verdicts by which a case then ends with an error.
FAIL_ON: dict[str, tuple[str, ...]] = {"": (), "review": ("review", "fail"), "fail": ("fail",)}


def judged(outcome: Outcome, manners: Manners) -> Outcome:
    """A case whose verdict the user does not want ends with an error; it is segmented, and its files stay."""
    verdict = (outcome.record or {}).get("verdict", "pass")
    if outcome.error is not None or verdict not in FAIL_ON[manners.fail_on]:
        return outcome
    first = next((c["sentence"] for c in (outcome.record or {}).get("checks", ())), "")
    return replace(outcome, error=CasesFailed(f"{outcome.case.name}: verdict {verdict}: {first}"))


def tell(outcome: Outcome, show: Show, manners: Manners, total: int) -> None:
    if outcome.error is not None:
        for line in outcome.details.splitlines() if manners.debug else ():
            show.line(line)
        show.line(f"error: {outcome.error.message}")
        if outcome.error.hint:
            show.line(f"  {outcome.error.hint}")
    if outcome.status == "failed":
        return
    facts = outcome.record or {}
    if not manners.quiet:
        for warning in facts.get("warnings", ()):
            show.line(f"warning: {outcome.case.name}: {warning}")
        doubts = [c for c in facts.get("checks", ()) if manners.verbose or c["severity"] != "note"]
        shown = len(doubts) if total == 1 or manners.verbose else 1  # of a batch, the gravest; all are in the record
        said = 0 if outcome.error is None else 1  # an error about the verdict has the gravest
        for check in doubts[said:shown]:
            more = f" (and {len(doubts) - shown} more)" if len(doubts) > shown else ""
            show.line(f"{check['severity']}: {outcome.case.name}: {check['sentence']}{more}")
        if outcome.status == "skipped":
            show.line(f"{outcome.case.name}: already done, verified")
        if total == 1 and not manners.json:
            table(f"{outcome.case.name}", structure_rows(facts.get("structures", ())), on=show.console)
    if not manners.json and manners.events not in ("stdout", "-"):  # whose "done" names the label map
        for path in outcome.paths:
            show.data(str(path))


def tell_choice(outcome: Outcome, told: set[str], show: Show) -> None:
    """Say on which engine another process has labelled a case, and why; each such choice once."""
    facts = outcome.record or {}
    if outcome.status != "done" or "engine" not in facts:
        return
    choice = f"{facts['model']['name']} on {facts['engine']['name']}: {facts['engine']['reason']}"
    if choice not in told:
        told.add(choice)
        show.line(choice)


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """One case: its own code. Several: 1 if any failed, unless all failed for one and the same reason."""
    codes = [o.error.exit_code for o in outcomes if o.error is not None]
    if not codes:
        return 0
    return codes[0] if len(codes) == len(outcomes) and len(set(codes)) == 1 else 1


def unshown(outcomes: Sequence[Outcome]) -> str:
    """How many cases end well by the exit code though their verdict is "fail"; nothing where there is none."""
    count = sum(o.error is None and (o.record or {}).get("verdict") == "fail" for o in outcomes)
    if not count:
        return ""
    cases = "1 case has" if count == 1 else f"{count} cases have"
    return f"{cases} the verdict fail; the exit code says so only with --fail-on fail"


def summary(outcomes: Sequence[Outcome], total: int, seconds: float, word: str) -> str:
    """The line at the end: how many scans are segmented and how many failed, and the verdicts that were not wanted."""
    count = _counted(outcomes)
    unwanted = Counter(str((o.record or {}).get("verdict")) for o in outcomes if o.error and o.status != "failed")
    parts = [f"{count['done']} of {total} scans segmented"]
    parts += [f"{count['skipped']} already done"] if count["skipped"] else []
    parts += [f"{count['failed']} failed"] if count["failed"] else []
    parts += [f"{number} with the verdict {verdict}" for verdict, number in unwanted.items()]
    parts += [word] if word else []
    return ", ".join(parts) + f" ({seconds:.0f} s)"


def _counted(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """How many cases ended in each way."""
    return {status: sum(o.status == status for o in outcomes) for status in ("done", "skipped", "failed")}


def _verdicts(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """How many of the cases that have labels have each verdict."""
    count = Counter((o.record or {}).get("verdict") for o in outcomes)
    return {verdict: count[verdict] for verdict in ("pass", "review", "fail")}


def document(outcomes: Sequence[Outcome], seconds: float, notes: Sequence[str] = ()) -> Document:
    """What `predict --json` prints; `notes`: a sentence about each kind of input that is no case."""
    return {
        "schema": SCHEMA,
        "notes": list(notes),
        "cases": [
            {
                "case": o.case.name,
                "status": o.status,
                "files": [str(p) for p in o.paths],
                **({"error": o.error.message, "hint": o.error.hint, "exit_code": o.error.exit_code} if o.error else {}),
                **({"record": o.record} if o.record else {}),
            }
            for o in outcomes
        ],
        "summary": {
            **_counted(outcomes),
            "verdicts": _verdicts(outcomes),
            "seconds": round(seconds, 2),
        },
    }


def cohort_files(outcomes: Sequence[Outcome], to: Destination, name: Callable[[], str]) -> list[Path]:
    """The cohort's tables and page in an output folder, those of a batch and those that an earlier one left there.

    name   of the model, as records have it, where no case has one

    A batch makes tables as it was asked to, CSV otherwise; a single scan joins those that are there.
    """
    if to.folder is None:
        return []
    from segcli.batch.cohort import cohort, gathered, joined, missing

    several, path = len(outcomes) > 1, to.folder / "cohort.html"
    if not several and not any(path.with_suffix(f".{form}").exists() for form in ("csv", "tsv")):
        return []
    records = gathered(outcomes, to.folder)
    asked = ([form for form in to.reports if form in ("csv", "tsv")] or ["csv"]) if several else []
    lacking = missing(outcomes, records, to.folder, name)
    there = joined([*records, *lacking], to.folder)
    forms = list(dict.fromkeys([*asked, *there]))
    written = cohort(records, to.folder, forms, lacking=lacking, overwrite=to.overwrite)
    if (several and "html" in to.reports) or (there and path.exists()):
        from segcli.formats import atomic
        from segcli.results.page import cohort_page
        from segcli.results.page.parts import is_page

        atomic.unclaimed(path, overwrite=to.overwrite, own=is_page)
        atomic.write_bytes(path, cohort_page(records, to.folder, lacking))
        written.append(path)
    return written


def told_of(path: Path) -> str:
    """What a file of the cohort has."""
    if path.suffix == ".html":
        return "all cases on one page"
    return "one row for each case" if path.stem == "cohort_wide" else "one row for each case and structure"
