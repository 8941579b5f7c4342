"""A run of `segcli predict`: of all scans that were named, or of one through a pipe; what is told meanwhile."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from segcli.commands.events import STREAMS, events_to
from segcli.commands.harmless import closed, is_file, told
from segcli.commands.outcomes import (
    Manners,
    cohort_files,
    document,
    exit_code,
    judged,
    summary,
    tell,
    tell_choice,
    told_of,
    unshown,
)
from segcli.commands.process import interruptible, waited
from segcli.commands.progress import Show
from segcli.commands.terminal import print_json, print_line, say, show_error
from segcli.errors import Denied, InputError, InputMissing, OutOfMemory, OutputError, SegcliError, UsageError

if TYPE_CHECKING:
    from segcli.batch.cases import Case, Given
    from segcli.batch.outputs import Destination
    from segcli.batch.stages import Options, Outcome
    from segcli.engines.opened import Opened
    from segcli.engines.opening import Opening
    from segcli.models.card import ModelCard


@dataclass(frozen=True)
class Workers:
    """Who runs a batch beside this process.

    scheduler  of Dask; None for none
    jobs       cases at a time in processes of this machine; None for as many as it has cores and memory for
    """

    scheduler: str | None = None
    jobs: int | None = 1

    def beside(self, cases: Sequence[Case], card: ModelCard, opening: Opening, devices: Sequence[str]) -> int:
        """Cases at a time: one on each of several devices."""
        if self.jobs == 1 and len(devices) == 1:
            return 1
        if len(devices) > 1 and self.jobs not in (1, None):
            raise UsageError(f"--jobs {self.jobs} and {len(devices)} devices: each has one case at a time")
        from segcli.batch.side_by_side import jobs_for

        return jobs_for(len(devices) if len(devices) > 1 else self.jobs, cases, card, opening)


def batch(given: Given, opening: Opening, to: Destination, options: Options, manners: Manners, workers: Workers) -> int:
    """Segment everything that was named; the exit code.

    stdout gets the path of each label map as it is done, or one JSON document at the end.
    """
    from segcli.batch.bids import is_raw
    from segcli.batch.clashes import apart
    from segcli.batch.pipeline import predict
    from segcli.engines.devices import devices_of

    devices = devices_of(opening.device) if workers.scheduler is None else ()
    card = opening.card
    found, notes = _found(given, card, to, manners)
    apart(found, card, to)
    if not manners.quiet and to.folder is None and to.file is None:
        for dataset in {case.beside for case in found if is_raw(case.beside)}:
            say(f"warning: results go beside the scans, into the BIDS dataset {dataset}")
            say(f"  -o {dataset / 'derivatives' / 'segcli'} --layout bids keeps them apart")
    began = time.perf_counter()
    with events_to(manners.events) as events:
        show = Show(len(found), quiet=manners.quiet, verbose=manners.verbose, events=events)
        ended: list[Outcome] = []
        end: Callable[[Iterable[Path]], object] = list  # nothing, in one process
        choices: set[str] | None = set()  # of engines, that are told; None where this process tells its own
        stream: Iterable[Outcome]
        try:
            if not found:  # of a part that has no scan
                stream = ()
            elif workers.scheduler is not None:
                from segcli.batch.cluster import anywhere, end_workers, predict_on

                placed, end = replace(opening, model=tuple(map(anywhere, opening.model))), end_workers
                stream = predict_on(workers.scheduler, found, placed, to, options, show.watch)
            elif (jobs := workers.beside(found, card, opening, devices)) > 1:
                from segcli.batch.side_by_side import end_processes, predict_beside

                end = end_processes
                if not manners.quiet:
                    show.line(f"{jobs} cases at a time")
                stream = predict_beside(jobs, found, opening, to, options, show.watch, devices)
            else:
                choices = None
                opening = replace(opening, device=devices[0], once=len(found) == 1)
                stream = predict(found, card, _opened(opening, card, show, manners), to, options, show.watch)
            for outcome in interruptible(stream, show):
                ended.append(judged(outcome, manners))
                if choices is not None and not manners.quiet:
                    tell_choice(outcome, choices, show)
                tell(ended[-1], show, manners, len(found))
        except BaseException as error:
            show.close()
            end({path.parent for case in found for path in to.files(case, card)})
            if ended or not isinstance(error, SegcliError):
                say(summary(ended, len(found), time.perf_counter() - began, "stopped"))
            raise
        show.close()
        place = {case: i for i, case in enumerate(found)}
        ended.sort(key=lambda outcome: place[outcome.case])  # a cluster ends them in any order
        code = _concluded(given, opening, ended, to, manners, time.perf_counter() - began, notes)
        return code or _unwritten(show, manners)


def _found(given: Given, card: ModelCard, to: Destination, manners: Manners) -> tuple[list[Case], list[str]]:
    """The scans that were named, and what was said of what is none.

    Where the only one is refused, the document of a run that was asked for says so.
    """
    from segcli.batch.cases import Case
    from segcli.batch.dicom_cases import whole
    from segcli.batch.stages import Outcome

    notes: list[str] = []

    def note(sentence: str) -> None:
        notes.append(sentence)
        if not manners.quiet:
            say(sentence)

    try:
        return given.cases(card.channels, to, note), notes
    except (InputError, Denied, OutOfMemory) as error:
        if manners.json:
            paths = tuple(map(Path, given.inputs))
            case = Case(whole(paths[0]) if paths else "input", paths, Path())
            print_json(document([Outcome(case, "failed", error=error)], 0.0, notes))
        raise


def _unwritten(show: Show, manners: Manners) -> int:
    """Say that events are lost; the exit code. Of stdout the process itself says so at its end."""
    target = manners.events
    if target is None or target in STREAMS:
        return 0
    return told(show.unwritten, Path(target).name, "not all events were written", file=Path(target).is_file())


def _concluded(
    given: Given,
    opening: Opening,
    ended: Sequence[Outcome],
    to: Destination,
    manners: Manners,
    seconds: float,
    notes: Sequence[str],
) -> int:
    """Write the cohort's files, and say of all cases what is to be said at the end; the exit code."""
    code = exit_code(ended)
    extra: list[Path] = []
    try:
        if not given.shard:  # a part's table would take the place of another's
            extra = cohort_files(ended, to, lambda: opening.name)
    except SegcliError as error:
        show_error(error)
        code = code or error.exit_code
    if manners.json:
        print_json(document(ended, seconds, notes))
    elif manners.events not in ("stdout", "-"):
        for path in extra:
            print_line(str(path))
    if manners.quiet:
        return code
    if len(ended) > 1:
        say(summary(ended, len(ended), seconds, ""))
    for path in extra:
        say(f"{path.name}: {told_of(path)}")
    _told_unshown(ended, manners)
    return code


def _opened(opening: Opening, card: ModelCard, show: Show, manners: Manners) -> Opened:
    """The engines of the model, or of all of them, once the user was told which they are and why."""
    opened = waited(lambda: opening.open(card), show)
    if manners.quiet:
        return opened
    for member, own in opened.models(card):
        for warning in own.warnings:
            show.line(f"warning: {warning}")
        show.line(f"{member.name} on {own.engine.name}: {own.reason}")
        if own.note and manners.verbose:
            show.line(own.note)
    return opened


def piped(
    given: Given, opening: Opening, to: Destination, options: Options, manners: Manners, *, to_stdout: bool
) -> int:
    """One scan from stdin or to stdout: `cat scan.nii.gz | segcli predict - -o - > labels.nii.gz`."""
    from segcli.batch.pipeline import predict
    from segcli.engines.devices import devices_of
    from segcli.formats.atomic import temporary_folder

    opening = replace(opening, device=devices_of(opening.device)[0], once=True)
    if given.shard:
        raise UsageError(f"--shard {given.shard}: one scan has no parts", hint="leave it away")
    if to_stdout and sys.stdout.isatty():
        raise UsageError("-o - writes a label map to stdout, which is a terminal", hint="redirect it to a file")
    if to_stdout and (manners.json or manners.events in ("stdout", "-")):
        raise UsageError("-o - writes a label map to stdout, where nothing else can go", hint="name a folder with -o")
    with temporary_folder() as name:
        folder = Path(name)
        inputs = (str(from_stdin(folder)),) if given.inputs == ("-",) else given.inputs
        card = opening.card
        place = replace(to, folder=folder / "out", layout="flat") if to_stdout else to
        if place.folder is None and place.file is None:
            raise UsageError("a scan from stdin needs -o: a folder, a file, or - for stdout")
        found, notes = _found(replace(given, inputs=inputs), card, place, manners)
        if len(found) != 1 and to_stdout:
            raise UsageError(f"-o - takes one scan, not {len(found)}", hint="name a folder with -o")
        if len(found) != 1:
            raise UsageError(f"stdin: holds {len(found)} scans, and one is taken", hint="--series chooses one")
        began = time.perf_counter()
        with events_to(manners.events) as events:
            show = Show(1, quiet=manners.quiet, verbose=manners.verbose, events=events)
            try:
                made = predict(found, card, _opened(opening, card, show, manners), place, options, show.watch)
                ended = [judged(outcome, manners) for outcome in interruptible(made, show)]
            finally:
                show.close()
        for outcome in ended:
            tell(outcome, show, replace(manners, json=manners.json or to_stdout), 1)
            if to_stdout and outcome.error is None:
                _stream(outcome.paths[0].read_bytes())
        if manners.json:
            print_json(document(ended, time.perf_counter() - began, notes))
        _told_unshown(ended, manners)
    return exit_code(ended) or _unwritten(show, manners)


def from_stdin(folder: Path) -> Path:
    """The scan that comes through stdin, in a file in a folder, called by its format; InputMissing: nothing came."""
    import shutil

    from segcli import formats
    from segcli.formats.atomic import translated

    scan = folder / "stdin"
    with translated(scan), scan.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)  # in pieces: what comes may have no end
    if not scan.stat().st_size:
        raise InputMissing("stdin: no bytes came in")
    return scan.rename(f"{scan}{formats.ending_of(scan)}")


def _told_unshown(ended: Sequence[Outcome], manners: Manners) -> None:
    if not manners.quiet and (said := unshown(ended)):
        say(f"warning: {said}")


def _stream(data: bytes) -> None:
    """Bytes to stdout; a reader that has gone wants no more."""
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        if closed(error, file=is_file(sys.stdout)):
            return
        raise OutputError(f"stdout: the label map cannot be written: {error.strerror}") from error
