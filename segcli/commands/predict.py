"""What `segcli predict` does once its options are plain values: open, run, print, and say how it ended."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, Full, Queue
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from segcli import formats
from segcli.batch.cases import Given
from segcli.batch.outputs import Destination
from segcli.batch.pipeline import apart, cohort, predict
from segcli.batch.stages import Options, Outcome
from segcli.commands.terminal import SCHEMA, Show, print_json, print_line, say, show_error, structure_rows, table
from segcli.errors import CasesFailed, InputMissing, OutputError, SegcliError, UsageError
from segcli.formats import atomic
from segcli.models.card import ModelCard
from segcli.models.library import find

if TYPE_CHECKING:
    from segcli.engines.choose import Opened
    from segcli.engines.opening import Opening

Item = TypeVar("Item")
STILL = 300.0  # seconds without an event after which the watchdog speaks


@dataclass(frozen=True)
class Manners:
    """How a run talks."""

    json: bool = False
    quiet: bool = False
    verbose: int = 0
    events: str | None = None
    debug: bool = False
    fail_on_review: bool = False


# ---- predict


def batch(
    given: Given, opening: Opening, to: Destination, options: Options, manners: Manners, scheduler: str | None
) -> int:
    """Segment everything that was named; the exit code.

    stdout gets the path of each label map as it is done, or one JSON document at the end.
    """
    card = find(opening.model[0])
    found = given.cases(card.channels, to, str if manners.quiet else say)
    apart(found, card, to)
    began = time.perf_counter()
    with _events(manners.events) as events:
        show = Show(len(found), quiet=manners.quiet, verbose=manners.verbose, events=events)
        ended: list[Outcome] = []
        try:
            if scheduler is not None:
                from segcli.batch.cluster import anywhere, predict_on

                placed = replace(opening, model=tuple(map(anywhere, opening.model)))
                stream: Iterable[Outcome] = predict_on(scheduler, found, placed, to, options, show.watch)
            else:
                opened = _opened(opening, card, show, manners)
                stream = predict(found, card, opened, to, options, show.watch)
            for outcome in interruptible(stream, show):
                ended.append(_checked(outcome, manners))
                _tell(ended[-1], show, manners, len(found))
        except BaseException as error:
            show.close()
            if scheduler is not None:
                from segcli.batch.cluster import end_workers

                end_workers({path.parent for case in found for path in to.files(case, card)})
            if ended or not isinstance(error, SegcliError):
                say(_summary(ended, len(found), time.perf_counter() - began, "stopped"))
            raise
        show.close()
        place = {case: i for i, case in enumerate(found)}
        ended.sort(key=lambda outcome: place[outcome.case])  # a cluster ends them in any order
        code, extra = exit_code(ended), list[Path]()
        try:
            extra = [] if given.shard else _cohort(ended, to)  # a part's table would take the place of another's
        except SegcliError as error:
            show_error(error)
            code = code or error.exit_code
        if manners.json:
            print_json(_document(ended, time.perf_counter() - began))
        if len(found) > 1 and not manners.quiet:
            say(_summary(ended, len(found), time.perf_counter() - began, ""))
            for path in extra:
                say(f"{path}: one row for each case and structure")
    return code


def _opened(opening: Opening, card: ModelCard, show: Show, manners: Manners) -> Opened:
    """The engines of the model, or of all of them, once the user was told which they are and why."""
    opened = waited(lambda: opening.open(card), show)
    if manners.quiet:
        return opened
    for member, own in ((card, opened), *opened.others):
        for warning in own.warnings:
            show.line(f"warning: {warning}")
        show.line(f"{member.name} on {own.engine.name}: {own.reason}")
    return opened


def _checked(outcome: Outcome, manners: Manners) -> Outcome:
    """A case whose verdict asks for a look counts as failed where the user wishes so; its files stay."""
    verdict = (outcome.record or {}).get("verdict", "pass")
    if not manners.fail_on_review or outcome.status == "failed" or verdict == "pass":
        return outcome
    first = next((c["sentence"] for c in (outcome.record or {}).get("checks", ())), "")
    return replace(outcome, status="failed", error=CasesFailed(f"{outcome.case.name}: verdict {verdict}: {first}"))


def _tell(outcome: Outcome, show: Show, manners: Manners, total: int) -> None:
    if outcome.error is not None:
        if manners.debug and outcome.details:
            show.line(outcome.details)
        show.line(f"error: {outcome.error.message}")
        if outcome.error.hint:
            show.line(f"  {outcome.error.hint}")
        return
    facts = outcome.record or {}
    if not manners.quiet:
        for warning in facts.get("warnings", ()):
            show.line(f"warning: {outcome.case.name}: {warning}")
        doubts = [c for c in facts.get("checks", ()) if manners.verbose or c["severity"] != "note"]
        shown = len(doubts) if total == 1 or manners.verbose else 1  # of a batch, the gravest; all are in the record
        for check in doubts[:shown]:
            more = f" (and {len(doubts) - shown} more)" if len(doubts) > shown else ""
            show.line(f"{check['severity']}: {outcome.case.name}: {check['sentence']}{more}")
        if outcome.status == "skipped":
            show.line(f"{outcome.case.name}: already done, verified")
        elif total == 1 and not manners.json:
            table(f"{outcome.case.name}", structure_rows(facts["structures"]), stderr=True)
    if not manners.json and manners.events not in ("stdout", "-"):  # whose "done" names the label map
        for path in outcome.paths:
            print_line(str(path))


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """One case: its own code. Several: 1 if any failed, unless all failed for one and the same reason."""
    codes = [o.error.exit_code for o in outcomes if o.error is not None]
    if not codes:
        return 0
    return codes[0] if len(codes) == len(outcomes) and len(set(codes)) == 1 else 1


def _summary(outcomes: Sequence[Outcome], total: int, seconds: float, word: str) -> str:
    count = {s: sum(o.status == s for o in outcomes) for s in ("done", "skipped", "failed")}
    parts = [f"{count['done']} of {total} scans segmented"]
    parts += [f"{count['skipped']} already done"] if count["skipped"] else []
    parts += [f"{count['failed']} failed"] if count["failed"] else []
    parts += [word] if word else []
    return ", ".join(parts) + f" ({seconds:.0f} s)"


def _document(outcomes: Sequence[Outcome], seconds: float) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
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
            **{s: sum(o.status == s for o in outcomes) for s in ("done", "skipped", "failed")},
            "seconds": round(seconds, 2),
        },
    }


def _cohort(outcomes: Sequence[Outcome], to: Destination) -> list[Path]:
    """The cohort's table and page, for a batch with an output folder; CSV unless another table was asked for."""
    if len(outcomes) < 2 or to.folder is None or not any(o.record for o in outcomes):
        return []
    forms = [f for f in to.reports if f in ("csv", "tsv")] or ["csv"]
    written = cohort(outcomes, to.folder, forms, overwrite=to.overwrite)
    if "html" in to.reports:
        from segcli.results.page import cohort_page
        from segcli.results.page.parts import is_page

        path = to.folder / "cohort.html"
        atomic.unclaimed(path, overwrite=to.overwrite, own=is_page)
        atomic.write_bytes(path, cohort_page([o.record for o in outcomes if o.record is not None]))
        written.append(path)
    return written


def piped(
    given: Given, opening: Opening, to: Destination, options: Options, manners: Manners, *, to_stdout: bool
) -> int:
    """One scan from stdin or to stdout: `cat scan.nii.gz | segcli predict - -o - > labels.nii.gz`."""
    if to_stdout and sys.stdout.isatty():
        raise UsageError("-o - writes a label map to stdout, which is a terminal", hint="redirect it to a file")
    if to_stdout and (manners.json or manners.events in ("stdout", "-")):
        raise UsageError("-o - writes a label map to stdout, where nothing else can go", hint="name a folder with -o")
    with tempfile.TemporaryDirectory(prefix="segcli-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        inputs = given.inputs
        if inputs == ("-",):
            data = sys.stdin.buffer.read()
            if not data:
                raise InputMissing("stdin: no bytes came in")
            scan = folder / "stdin"
            scan.write_bytes(data)
            inputs = (str(scan.rename(f"{scan}{formats.ending_of(scan)}")),)
        card = find(opening.model[0])
        place = replace(to, folder=folder / "out", layout="flat") if to_stdout else to
        if place.folder is None:
            raise UsageError("a scan from stdin needs -o: a folder, or - for stdout")
        found = replace(given, inputs=inputs).cases(card.channels, place, str if manners.quiet else say)
        if len(found) != 1:
            raise UsageError(f"-o - takes one scan, not {len(found)}", hint="name a folder with -o")
        began = time.perf_counter()
        with _events(manners.events) as events:
            show = Show(1, quiet=manners.quiet, verbose=manners.verbose, events=events)
            try:
                opened = _opened(opening, card, show, manners)
                made = interruptible(predict(found, card, opened, place, options, show.watch), show)
                ended = [_checked(outcome, manners) for outcome in made]
            finally:
                show.close()
        for outcome in ended:
            _tell(outcome, show, replace(manners, json=manners.json or to_stdout), 1)
            if to_stdout and outcome.error is None:
                _stream(outcome.paths[0].read_bytes())
        if manners.json:
            print_json(_document(ended, time.perf_counter() - began))
    return exit_code(ended)


def _stream(data: bytes) -> None:
    """Bytes to stdout; a reader that has gone wants no more."""
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        pass
    except OSError as error:
        raise OutputError(f"stdout: the label map cannot be written: {error.strerror}") from error


def waited(work: Callable[[], Item], show: Show) -> Item:
    """What `work` returns, computed in another thread so that signals are answered at once."""
    return next(interruptible((work() for _ in range(1)), show))


def interruptible(stream: Iterable[Item], show: Show) -> Iterator[Item]:
    """The stream's items, computed in another thread so that signals are answered at once.

    A watchdog names the stage and the case when nothing has happened for five minutes.
    """
    passed: Queue[Item | BaseException | None] = Queue(maxsize=2)
    stop = threading.Event()

    def put(item: Item | BaseException | None) -> None:
        while not stop.is_set():
            with contextlib.suppress(Full):
                passed.put(item, timeout=0.1)
                return

    def work() -> None:
        try:
            for item in stream:
                put(item)
                if stop.is_set():
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=work, name="segcli-work", daemon=True)
    thread.start()
    try:
        while True:
            try:
                item = passed.get(timeout=0.1)
            except Empty:
                if show.still_for() > STILL:
                    show.line(f"warning: no progress for {show.still_for():.0f} s in {show.last}")
                    show.beat()
                continue
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()


@contextlib.contextmanager
def _events(target: str | None) -> Iterator[TextIO | None]:
    if target is None:
        yield None
    elif target in ("stderr", "stdout", "-"):
        yield sys.stderr if target == "stderr" else sys.stdout
    else:
        path = Path(target)
        if path.is_file():  # events are added to earlier ones, and to nothing else
            atomic.unclaimed(path, own=lambda head: not head or head.startswith(b'{"'))
        with atomic.translated(path), path.open("a", encoding="utf-8") as file:
            yield file
