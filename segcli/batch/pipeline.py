"""Many cases, one engine: read ahead, segment, write behind, go on after a failure."""

from __future__ import annotations

import errno
import os
import shutil
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np

from segcli import formats, memory
from segcli.batch import budget
from segcli.batch import outputs as extras
from segcli.batch.cases import Case
from segcli.batch.outputs import Destination, is_own
from segcli.errors import (
    Denied,
    InputError,
    ModelError,
    OutOfMemory,
    OutputError,
    OutputExists,
    SegcliError,
    UsageError,
)
from segcli.formats import atomic
from segcli.inference.engine import Engine
from segcli.inference.segment import Segmentation, Wishes
from segcli.inference.together import Member, segment_together
from segcli.inference.windows import at_overlap
from segcli.models.card import ModelCard
from segcli.models.library import file_sha256
from segcli.results import record
from segcli.results.measure import Tally, cohort_rows, csv_text, from_json, summed, tallied, to_json
from segcli.space.volume import Volume
from segcli.structures import chosen

if TYPE_CHECKING:
    from segcli.engines.choose import Opened

# How libraries say in C++ that the host has no memory left: torch, ONNX Runtime, OpenVINO and the standard library.
_NO_MEMORY = ("DefaultCPUAllocator", "Failed to allocate memory", "std::bad_alloc", "can't start new thread")
_LONGEST = 255  # bytes of a file's name
Status = Literal["done", "skipped", "failed"]
Given = TypeVar("Given")
Made = TypeVar("Made")
Watch = Callable[[str, Case, Mapping[str, Any]], None]  # event, case, facts


def unwatched(event: str, case: Case, facts: Mapping[str, Any]) -> None:
    """A watch that sees nothing."""


@dataclass(frozen=True)
class Options:
    """What the user changed of how a scan is segmented; part of what "done" means.

    overlap   of windows, instead of the card's
    classes   names of the structures to keep; the rest becomes background. Empty: all
    affine    which statement of a NIfTI header counts
    skip      windows that hold nothing but the value beyond the image are not computed
    mirror    logits averaged over the card's mirror axes
    largest   structures of which only the largest component is kept ("all" for every one); likewise the next two
    """

    overlap: float | None = None
    classes: tuple[str, ...] = ()
    affine: formats.Form | None = None
    skip: bool = False
    mirror: bool = False
    half: bool = False
    fill_gaps: bool = False
    largest: tuple[str, ...] = ()
    min_size_ml: float = 0.0
    fill_holes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Outcome:
    """How one case ended.

    paths    the files that were written (or found done), the label map first
    record   the record, also of a skipped case; None when it failed
    error    why it failed
    details  a traceback, where the error was a fault of segcli itself
    """

    case: Case
    status: Status
    paths: tuple[Path, ...] = ()
    record: Mapping[str, Any] | None = None
    error: SegcliError | None = None
    details: str = ""


def predict(
    cases: Iterable[Case],
    card: ModelCard,
    opened: Opened,
    to: Destination,
    options: Options | None = None,
    watch: Watch = unwatched,
) -> Iterator[Outcome]:
    """Segment the cases in order; each outcome is there as soon as its files are.

    The next scan is read and the last one written while the network works: one case ahead and one behind, so
    memory holds three scans at most. A case that is refused or fails costs that case only.
    """
    options = options or Options()
    job = _Job(card, opened, to, options, watch)
    with (
        ThreadPoolExecutor(1, "segcli-read") as reading,
        ThreadPoolExecutor(1, "segcli-compute") as computing,
        ThreadPoolExecutor(1, "segcli-write") as writing,
    ):
        waiting: Future[_Loaded | Outcome] | None = None
        behind: Future[Outcome] | None = None
        remaining = iter(cases)
        try:
            while True:
                current = waiting
                case = next(remaining, None)
                waiting = reading.submit(job.read, case) if case is not None else None
                if current is None:
                    if waiting is None:
                        break
                    continue
                loaded = current.result()
                busy = computing.submit(_onwards, job.compute, loaded)
                if behind is not None:
                    yield behind.result()  # while the network works
                    behind = None
                result = busy.result()
                if waiting is None:
                    job.rest()  # nothing comes after it: the network's memory is free for writing
                if isinstance(result, Outcome):
                    yield result
                else:
                    behind = writing.submit(job.write, result)
            if behind is not None:
                yield behind.result()
        finally:
            for future in (waiting, behind):
                if future is not None:
                    future.cancel()


def _onwards(stage: Callable[[Given], Made], given: Given | Outcome) -> Made | Outcome:
    """The next stage of a case, unless the case has ended."""
    return given if isinstance(given, Outcome) else stage(given)


def run_case(case: Case, card: ModelCard, opened: Opened, to: Destination, options: Options) -> Outcome:
    """One case from file to files, in this thread: what a worker of a cluster does."""
    job = _Job(card, opened, to, options, unwatched)
    result = _onwards(job.compute, job.read(case))
    return _onwards(job.write, result)


@dataclass(frozen=True, eq=False)
class _Loaded:
    case: Case
    scan: Volume
    key: dict[str, Any]
    seconds: dict[str, float]


@dataclass(frozen=True, eq=False)
class _Computed:
    loaded: _Loaded
    result: Segmentation
    engine: Engine
    warnings: tuple[str, ...]
    steps: tuple[str, ...]  # down, for want of memory: they change no result, so they stand in the "run" part
    changed: list[dict[str, Any]]  # by post-processing


def apart(cases: Sequence[Case], card: ModelCard, to: Destination) -> None:
    """Refuse, before anything runs, outputs that would be each other's or an input (reliability.md 2.6, 2.8)."""
    inputs = {_identity(path): case for case in cases for path in case.paths if not path.is_dir()}
    owners: dict[Path, Case] = {}
    for case in cases:
        for path in written_for(case, card, to):
            key = Path(os.path.abspath(path))  # noqa: PTH100 - links are followed below
            other = owners.setdefault(key, case)
            if other is not case:
                raise UsageError(
                    f"{other.paths[0]} and {case.paths[0]} would both be written as {path.name}",
                    hint="rename one, or run them with different -o",
                )
            taken = inputs.get(_identity(path))
            if taken is not None:
                raise UsageError(
                    f"{path.name}: the output of {_shown(case)} would overwrite the input {_shown(taken)}",
                    hint="choose another folder with -o",
                )


def written_for(case: Case, card: ModelCard, to: Destination) -> list[Path]:
    """Label map, record, and what else the run was asked for."""
    return [
        to.labels(case, card.name),
        to.record(case, card.name),
        *extras.planned(to.base(case, card.name), card, to),
    ]


def _nameable(case: Case, paths: Iterable[Path]) -> None:
    """Refuse a case whose outputs would have longer names than a file system takes (reliability.md 3.15)."""
    size, longest = max((len(os.fsencode(part)), part) for path in paths for part in path.parts)
    if size > _LONGEST:
        raise InputError(
            f"{_shown(case)}: its output ...{longest[-24:]} would have a name of {size} bytes, {_LONGEST} are possible",
            hint="give the scan a shorter name",
        )


def _identity(path: Path) -> object:
    """Equal for two names of one file, also through links; the path itself where there is none."""
    try:
        found = path.stat()
    except OSError:
        return Path(os.path.abspath(path))  # noqa: PTH100
    return found.st_dev, found.st_ino


class _Job:
    """The three stages of a case; every error of a stage becomes the case's outcome."""

    def __init__(self, card: ModelCard, opened: Opened, to: Destination, options: Options, watch: Watch) -> None:
        self.card, self.opened, self.to, self.watch = card, opened, to, watch
        self.swept: set[Path] = set()
        self.choices = {"seg_type": to.seg_type, "identifiers": to.identifiers}
        self.model = record.model_facts([(card, opened.hashes), *((c, o.hashes) for c, o in opened.others)])
        self.options = _named(options, card)
        kept = self.options.classes
        # What is written names no structure that was not asked for: its volume is not 0, it is not known.
        self.shown = replace(card, labels=tuple(x for x in card.labels if not kept or x.id == 0 or x.name in kept))

    def read(self, case: Case) -> _Loaded | Outcome:
        return self._guarded(case, self._read, case)

    def compute(self, loaded: _Loaded) -> _Computed | Outcome:
        return self._guarded(loaded.case, self._compute, loaded)

    def rest(self) -> None:
        for opened in (self.opened, *(other for _, other in self.opened.others)):
            opened.engine.rest()

    def write(self, computed: _Computed) -> Outcome:
        return self._guarded(computed.loaded.case, self._write, computed)

    def _guarded(self, case: Case, stage: Callable[[Given], Made], given: Given) -> Made | Outcome:
        try:
            return stage(given)
        except SegcliError as error:
            return self._failed(case, _naming(error, case))
        except OSError as error:
            kind = OutputError if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO) else InputError
            return self._failed(case, kind(f"{_shown(case)}: {error.strerror or error}"))
        except Exception as error:
            if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
                said = str(error).partition("\n")[0]
                wanted = OutOfMemory(
                    f"{_shown(case)}: not enough memory: {said}", hint="try --max-ram, or a machine with more"
                )
                return self._failed(case, wanted)
            fault = SegcliError(
                f"{_shown(case)}: an internal error of segcli: {type(error).__name__}: {error}",
                hint="please report it; --debug shows where it happened",
            )
            return self._failed(case, fault, traceback.format_exc())

    def _failed(self, case: Case, error: SegcliError, details: str = "") -> Outcome:
        self.watch("failed", case, {"error": error.message, "exit_code": error.exit_code})
        return Outcome(case, "failed", error=error, details=details)

    # ---- read

    def _read(self, case: Case) -> _Loaded | Outcome:
        self.watch("read", case, {})
        if case.fault is not None:
            raise case.fault
        labels, written, *wanted = written_for(case, self.shown, self.to)
        _nameable(case, (labels, written, *wanted))
        for folder in {path.parent for path in (labels, *wanted)} - self.swept:
            atomic.sweep(folder)
            self.swept.add(folder)
        start = time.perf_counter()
        inputs = record.hash_inputs(case.paths, is_own)
        key = {
            "case": case.name,
            "input": {
                "files": list(inputs.files),
                "sha256": inputs.sha256,
                "series": case.series,
                "volume": case.volume,
            },
            "model": self.model,
            "options": asdict(self.options),
        }
        if self._finished(case, key):
            self.watch("skipped", case, {"labels": str(labels)})
            return Outcome(case, "skipped", (labels, written, *wanted), record.read_record(written))
        limit = getattr(self.opened.engine, "max_ram", None)
        scan = formats.read(
            case.paths,
            affine=self.options.affine,
            series=case.series,
            volume=case.volume,
            channels=len(self.card.channels),
            fill_gaps=self.options.fill_gaps,
            seen=lambda grid: budget.check(grid, 4, self.card, limit=limit),
        )
        _check_room(labels, scan)
        extras.check(scan, self.to)
        return _Loaded(case, scan, key, {"read": time.perf_counter() - start})

    def _finished(self, case: Case, key: Mapping[str, Any]) -> bool:
        """Whether every file of a case is there and verified; OutputExists where one is there and somebody else's.

        Files beside a record of this case are results of an earlier run of it. A label map counts as one only
        when the record is about it, its input, model and options.
        """
        labels, written, *wanted = written_for(case, self.shown, self.to)
        done = record.is_done(written, labels, key)
        if done and record.has_extras(written, wanted, self.choices):
            return True
        mine = (record.read_record(written) or {}).get("case") == case.name
        for path in (labels, written, *wanted):
            if path.is_dir():
                raise OutputExists(
                    f"{path.name}: is a folder, an output cannot have its name", hint="choose another -o"
                )
            allowed = done if path == labels else mine
            if not self.to.overwrite and not allowed and os.path.lexists(path):
                raise OutputExists(
                    f"{path.name}: exists already and is not a verified result of this run",
                    hint="--overwrite replaces it, -o chooses another folder",
                )
        return False

    # ---- compute

    def _compute(self, loaded: _Loaded) -> _Computed:
        case, warnings = loaded.case, tuple[str, ...]()
        members = [self._member(c, o.engine) for c, o in ((self.card, self.opened), *self.opened.others)]

        def tick(done: int, total: int) -> None:
            self.watch("window", case, {"done": done, "total": total})

        wishes = Wishes(shares=self.to.shares, votes="disagreement" in self.to.forms)
        self.watch("segment", case, {"shape": loaded.scan.grid.shape})
        before = len(_steps(members))
        try:
            result = segment_together(loaded.scan, members, tick, wishes)
        except ModelError:
            if not self.options.half:
                raise
            members = [replace(m, engine=m.engine.full_precision()) for m in members]  # type: ignore[attr-defined]
            warnings = ("half precision gave values that are not finite: the case was repeated in float32",)
            result = segment_together(loaded.scan, members, tick, wishes)
        kept, changed = self._kept(result)
        return _Computed(loaded, kept, members[0].engine, warnings, _steps(members)[before:], changed)

    def _member(self, card: ModelCard, engine: Engine) -> Member:
        plan = at_overlap(card.window, self.options.overlap)
        window = replace(plan, skip=plan.skip or self.options.skip)
        return Member(replace(card.procedure, window=window), engine)

    def _kept(self, result: Segmentation) -> tuple[Segmentation, list[dict[str, Any]]]:
        """The labels on slices that were scanned, after --classes and the post-processing that was asked for.

        Also what the post-processing changed, structure by structure.
        """
        labels, changed = result.labels, []
        if labels.source is not None and (labels.source.facts or {}).get("filled_slices"):
            from segcli.formats.dicom import series

            scanned = np.zeros(labels.grid.shape[0], bool)
            scanned[series.real_slices(labels)] = True
            labels = Volume(labels.data * scanned[:, None, None], labels.grid, labels.source)
        if self.options.classes:
            keep = np.zeros(max(label.id for label in self.card.labels) + 1, labels.data.dtype)
            for label in self.card.structures:
                if label.name in self.options.classes:
                    keep[label.id] = label.id
            labels = Volume(keep[labels.data], labels.grid, labels.source)
        if self.options.largest or self.options.min_size_ml or self.options.fill_holes:
            from segcli.results.islands import changes, postprocess

            before = labels
            labels = postprocess(
                before,
                self.card.structures,
                largest=self.options.largest,
                min_size_ml=self.options.min_size_ml,
                fill_holes=self.options.fill_holes,
            )
            changed = [asdict(change) for change in changes(before, labels, self.card.structures)]
        return replace(result, labels=labels), changed

    # ---- write

    def _write(self, computed: _Computed) -> Outcome:
        loaded, result, case = computed.loaded, computed.result, computed.loaded.case
        self.watch("write", case, {})
        labels_path = self.to.labels(case, self.card.name)
        record_path = self.to.record(case, self.card.name)
        start = time.perf_counter()
        counted = tallied(result.labels, loaded.scan)
        report = summed(counted, self.shown.labels, result.labels.grid, with_image=True)
        source = loaded.scan.source
        warnings = (
            *(source.warnings if source else ()),
            *self.opened.warnings,
            *(warning for _, other in self.opened.others for warning in other.warnings),
            *result.warnings,
            *computed.warnings,
        )
        findings, verdict = self._checked(loaded, result, counted)
        facts = {
            "segcli_record": record.SCHEMA,
            **loaded.key,
            "labels": {"file": labels_path.name, "sha256": ""},
            "engine": {
                "name": computed.engine.name,
                "reason": self.opened.reason,
                "precision": getattr(computed.engine, "precision", "float32"),
            },
            "grid": record.grid_facts(loaded.scan.grid),
            "source": source.facts if source else None,
            "windows": result.windows,
            "structures": to_json(report),
            "confidence": {str(k): round(v, 4) for k, v in result.confidence.items()},
            **_differing(result),
            "postprocessing": computed.changed,
            "verdict": verdict,
            "checks": findings,
            "warnings": list(warnings),
            "note": "Research use only; not a medical device.",
            "versions": record.versions(computed.engine.name),
        }
        if self.to.identifiers:
            from segcli.formats.dicom.identifiers import identifiers

            facts["identifiers"] = identifiers(source)
        base = self.to.base(case, self.card.name)
        if self.to.layout == "bids":
            from segcli.formats import tables

            facts |= tables.bids_sidecar(f"segcli {self.card.name}")
            if self.to.folder is not None:
                extras.describe(self.to.folder)
        with atomic.together(record_path, labels_path, lambda: self._finished(case, loaded.key)) as staged:
            formats.write(result.labels, self.shown.labels, labels_path, source, description=f"segcli {self.card.name}")
            facts["labels"]["sha256"] = file_sha256(staged[labels_path])
            extra, said = extras.write(base, loaded.scan, result, self.shown, self.to, report, facts)
            facts["warnings"] += said
            sums = {p.relative_to(base.parent).as_posix(): file_sha256(staged[p]) for p in extra}
            facts["extras"] = {**self.choices, "files": sums}
            seconds = {**loaded.seconds, **result.seconds, "write": time.perf_counter() - start}
            facts["run"] = {
                "seconds": {k: round(v, 3) for k, v in seconds.items()},
                "peak_memory_mb": round(memory.peak_memory() / 1e6),
                "steps": list(computed.steps),
            }
            atomic.write_bytes(record_path, record.to_json(facts))
        self.watch("done", case, {"labels": str(labels_path), "seconds": facts["run"]["seconds"]})
        return Outcome(case, "done", (labels_path, record_path, *extra), facts)

    def _checked(
        self, loaded: _Loaded, result: Segmentation, counted: Mapping[int, Tally]
    ) -> tuple[list[dict[str, Any]], str]:
        from segcli.results import checks

        source = loaded.scan.source
        findings = checks.run(
            result.labels,
            loaded.scan,
            self.card,
            result.confidence,
            (source.facts if source else None) or {},
            self.options.classes,
            result.disagreement,
            counted,
        )
        return [asdict(f) for f in findings], checks.verdict(findings)


def cohort(outcomes: Sequence[Outcome], folder: Path, forms: Sequence[str], *, overwrite: bool = False) -> list[Path]:
    """One row per case and structure over all finished cases, as cohort.csv or cohort.tsv in the output folder.

    errors   OutputExists (73) for a table of that name that has other columns, unless `overwrite`
    """
    done = {o.case.name: from_json(o.record["structures"]) for o in outcomes if o.record is not None}
    written = []
    for form in forms:
        if form in ("csv", "tsv"):
            path = folder / f"cohort.{form}"
            text = csv_text(cohort_rows(done), "\t" if form == "tsv" else ",")
            columns = text.partition("\n")[0].encode() + b"\n"
            atomic.unclaimed(path, overwrite=overwrite, own=lambda head, line=columns: head.startswith(line))  # type: ignore[misc]
            atomic.write_bytes(path, text.encode())
            written.append(path)
    return written


def _differing(result: Segmentation) -> dict[str, Any]:
    """The record's "disagreement", of ensembles only."""
    found = {str(k): round(v, 4) for k, v in result.disagreement.items()}
    return {"disagreement": found} if found else {}


def _named(options: Options, card: ModelCard) -> Options:
    """The options with structures by their names, however the user called them."""

    def names(wanted: Sequence[str], flag: str) -> tuple[str, ...]:
        return tuple(label.name for label in chosen(card.structures, wanted, flag))

    def some(wanted: Sequence[str], flag: str) -> tuple[str, ...]:
        return ("all",) if "all" in wanted else names(wanted, flag)

    return replace(
        options,
        classes=names(options.classes, "--classes"),
        largest=some(options.largest, "--largest-component"),
        fill_holes=some(options.fill_holes, "--fill-holes"),
    )


def _shown(case: Case) -> str:
    return case.paths[0].name or case.name


def _naming(error: SegcliError, case: Case) -> SegcliError:
    """The same refusal with the case's file in its message."""
    if error.message.startswith(f"{case.name}: "):
        return error
    named = any(p.name and p.name in error.message for p in case.paths)
    if "/" in case.name:  # sub-07/t1, where others are t1 as well
        return type(error)(f"{case.name}: {error.message}", hint=error.hint)
    return error if named else type(error)(f"{_shown(case)}: {error.message}", hint=error.hint)


def _steps(members: Sequence[Member]) -> tuple[str, ...]:
    """The steps down for want of memory that engines have taken so far."""
    return tuple(step for member in members for step in getattr(member.engine, "steps", ()))


def _check_room(labels: Path, scan: Volume) -> None:
    """Refuse before the inference when the folder cannot be written to, or cannot hold even a small label map."""
    folder = labels.parent
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir():
        raise OutputExists(f"{folder.name}: is a file, not a folder for outputs", hint="choose another folder with -o")
    if not os.access(folder, os.W_OK):
        raise Denied(f"{labels.name}: permission denied in {folder}", hint="choose a folder you may write to with -o")
    need = scan.grid.size // 100 + 65536  # label maps compress by a hundred and more
    free = shutil.disk_usage(folder).free
    if free < need:
        raise OutputError(
            f"{labels.name}: no space left: {need / 1e6:.2f} MB are needed, {free / 1e6:.2f} MB are free in {folder}",
            hint="free some space or choose another folder with -o",
        )
