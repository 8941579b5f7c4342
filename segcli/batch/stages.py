"""The stages of a case: read its files, label its voxels, write what was asked for."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from msgspec.structs import replace as with_

from segcli import formats, memory
from segcli.batch import bids, budget, described, earlier, outputs, room
from segcli.batch.answer import finished
from segcli.batch.case import Case, called
from segcli.batch.events import Event, Watch, unwatched
from segcli.batch.labelling import labels_of
from segcli.batch.names import is_own
from segcli.batch.outputs import Destination, Finished
from segcli.documents import Document, Facts
from segcli.engines.precision import Precision
from segcli.errors import InputError, SegcliError, UsageError
from segcli.formats import atomic, tables
from segcli.inference.engine import counted, said_since
from segcli.inference.segment import Segmentation
from segcli.models.card import ModelCard
from segcli.models.decisive import model_hash
from segcli.models.library import file_sha256, find
from segcli.results import record, scan_checks
from segcli.results.after import Effect
from segcli.results.inputs import Inputs, hash_inputs, odd_file
from segcli.results.islands import Change
from segcli.results.record import CropFacts, EngineFacts, ExtrasFacts, LabelsFacts, ModelFacts, RunFacts
from segcli.results.recorded import IN_SIDECAR, read_record
from segcli.space.grids import model_grid
from segcli.space.volume import Grid, Volume
from segcli.structures import chosen

if TYPE_CHECKING:
    from segcli.engines.opened import Opened

FAST_OVERLAP = 0.25
_LONGEST = 255  # bytes of a file's name
Status = Literal["done", "skipped", "failed"]


@dataclass(frozen=True)
class Options:
    """What the user changed of how a scan is segmented; part of what "done" means.

    overlap   of windows, instead of the card's
    classes   names of the structures to keep; the rest becomes background. Empty: all
    affine    which statement of a NIfTI header counts
    skip      windows that hold nothing but the value beyond the image are not computed
    mirror    logits averaged over the card's mirror axes
    precision  of the network's arithmetic, as it was asked for; "fast" also has fewer windows (FAST_OVERLAP)
    label_map  whether what looks like a label map is taken for a scan
    average   of several models: logits on the first one's grid, or probabilities on the scan's; the card's way for None
    faithful  labels come back from the model's grid as its authors have it, where the card says how
    keep_islands  the card's steps that take pieces away are left out
    largest   structures of which only the largest component is kept ("all" for every one); likewise the next two
    """

    overlap: float | None = None
    classes: tuple[str, ...] = ()
    affine: formats.Form | None = None
    skip: bool = False
    mirror: bool = False
    precision: Precision = "auto"
    fill_gaps: bool = False
    largest: tuple[str, ...] = ()
    min_size_ml: float = 0.0
    fill_holes: tuple[str, ...] = ()
    label_map: bool = False
    average: Literal["logits", "probabilities"] | None = None
    faithful: bool = False
    keep_islands: bool = False


@dataclass(frozen=True, eq=False)
class Outcome:
    """How one case ended.

    paths    the files that were written (or found done), the label map first
    record   the record, also of a skipped case; None when it failed
    error    why it failed
    details  a traceback, where the error was a fault of segcli itself or of an installed package
    """

    case: Case
    status: Status
    paths: tuple[Path, ...] = ()
    record: Facts | None = None
    error: SegcliError | None = None
    details: str = ""


@dataclass(frozen=True, eq=False)
class Job:
    """What all stages of a run know.

    options  with structures by their names, as `with_names` gives them
    swept    folders that hold no leftovers of dead processes any more
    filled   disks on which the files of an earlier case had no room
    """

    card: ModelCard
    opened: Opened
    to: Destination
    options: Options
    watch: Watch = unwatched
    swept: set[Path] = field(default_factory=set)
    filled: room.Filled = field(default_factory=room.Filled)

    def __getstate__(self) -> Document:
        """What crosses to another process: nobody there is told of this one's events."""
        return {**self.__dict__, "watch": unwatched}

    @cached_property
    def shown(self) -> ModelCard:
        """The card without structures that are no answer or not asked for: their volume is not 0, it is not known."""
        kept = self.options.classes
        there = [x for x in self.card.structures if not kept or x.name in kept]
        return replace(self.card, labels=tuple(x for x in self.card.labels if x.id == 0 or x in there))

    @cached_property
    def running(self) -> Opened:
        """The engines without parts of the model that label nothing of what is wanted."""
        return self.opened.only(self.card, self.options.classes)

    @property
    def models(self) -> tuple[tuple[ModelCard, Opened], ...]:
        """The models that run, as `Opened.models` has them."""
        return self.running.models(self.card)

    @cached_property
    def model(self) -> ModelFacts:
        """The model's part of the record."""
        return self._model_facts(model_hash)

    @cached_property
    def models_before(self) -> list[ModelFacts]:
        """The same as earlier versions recorded it."""
        return [self._model_facts(way) for way in record.WAYS_BEFORE]

    @cached_property
    def sources(self) -> dict[str, str]:
        """Name of the model, and of each that runs for it -> what to cite, as its card says."""
        cards = [self.card, *(own for own, _ in self.models)]
        return {card.name: card.source for card in (*cards, *(find(name) for own in cards for name in own.ensemble))}

    def _model_facts(self, hash_of: record.HashOf) -> ModelFacts:
        alone = replace(self.running, beside=())
        return record.several_facts(
            [_facts(own, other, hash_of) for own, other in ((self.card, alone), *self.running.beside)]
        )

    @property
    def precision(self) -> str:
        """What the networks compute in."""
        return " + ".join(dict.fromkeys(opened.engine.precision for _, opened in self.models))

    @property
    def choices(self) -> Document:
        """What else the files beside a label map depend on."""
        to = self.to
        return {"seg_type": to.seg_type, "identifiers": to.identifiers, "dicom": to.dicom.choices}

    def rest(self) -> None:
        """Give back the memory that only the networks need."""
        for _, opened in self.models:
            opened.engine.rest()


def _facts(card: ModelCard, opened: Opened, hash_of: record.HashOf) -> ModelFacts:
    models = [(own, other.hashes) for own, other in opened.models(card)]
    if opened.parts or opened.rough:
        return record.composed_facts(card, models, hash_of)
    return record.model_facts(models, hash_of)


@dataclass(frozen=True, eq=False)
class Loaded:
    """A case that was read.

    key      what its record must say to be about the same: case, input, model, options
    """

    case: Case
    scan: Volume
    key: Document
    seconds: dict[str, float]


@dataclass(frozen=True, eq=False)
class Labelled:
    """A case with its labels.

    engine     what ran, and in which precision: the next scan may be on its way when this one is written
    fallbacks  for want of memory: they change no result, so they stand in the "run" part of the record, as "steps"
    effects    of the card's own steps
    changed    by the post-processing that was asked for, structure by structure
    crops      where networks behind a rough one looked
    """

    loaded: Loaded
    result: Segmentation
    engine: EngineFacts
    fallbacks: tuple[str, ...]
    effects: list[Effect]
    changed: list[Change]
    crops: tuple[CropFacts, ...]


def with_names(options: Options, card: ModelCard, *, several: bool = False, whole: bool = False) -> Options:
    """The options with structures by their names, however the user called them, and what depends on the model.

    That is the way that models are averaged, and the overlap of "fast".

    several  whether other models label with this one
    whole    whether one of them is made of models, whose logits have no grid in common
    """
    if whole and options.average == "logits":
        raise UsageError("--average logits: a model that is made of models has probabilities alone in common")
    if options.average and not several:
        raise UsageError(f"--average {options.average}: one model has nothing to average with")

    def names(wanted: Sequence[str], flag: str) -> tuple[str, ...]:
        return tuple(label.name for label in chosen(card.structures, wanted, flag))

    def some(wanted: Sequence[str], flag: str) -> tuple[str, ...]:
        return ("all",) if "all" in wanted else names(wanted, flag)

    fewer = options.precision == "fast" and options.overlap is None
    return replace(
        options,
        classes=names(options.classes, "--classes"),
        largest=some(options.largest, "--largest-component"),
        fill_holes=some(options.fill_holes, "--fill-holes"),
        average="probabilities" if whole else options.average or (card.ensemble_average if several else None),
        overlap=min(FAST_OVERLAP, card.window.overlap) if fewer else options.overlap,
    )


# ---- read


def read(job: Job, case: Case) -> Loaded | Outcome:
    """The scan of a case, or its outcome where a run before this one has done it.

    errors   InputError, OutputExists, Denied, ...: what is wrong with the case, before anything is computed
    """
    job.watch(Event("read", case))
    if case.fault is not None:
        raise case.fault
    paths = job.to.files(case, job.shown)
    _nameable(case, paths)
    with atomic.translated(paths[0]):
        for folder in {path.parent for path in paths} - job.swept:
            atomic.sweep(folder)
            job.swept.add(folder)
    start = time.perf_counter()
    inputs = hash_inputs(case.paths, partial(_apart, case, job.to.folder), case.files)
    key = key_of(job, case, inputs)
    with atomic.translated(paths[0]):
        done = earlier.finished(job, case, key, lambda said: job.watch(Event("doubt", case, sentence=said)))
    if done:
        known = read_record(paths[1])
        job.watch(Event("skipped", case, labels=str(paths[0]), verdict=(known or {}).get("verdict")))
        return Outcome(case, "skipped", tuple(paths), known)
    scan = scan_of(job, case, inputs)
    room.check(paths[0], scan.grid.size)
    outputs.refuse_beforehand(scan, job.to, job.shown.labels)
    doubt(job, case, scan)
    return Loaded(case, scan, key, {"read": time.perf_counter() - start})


def _apart(case: Case, output: Path | None, path: Path) -> bool:
    """Whether a file below a case's folder is no input: an output, or anything in an output folder in there."""
    if output is not None:
        out = Path(os.path.abspath(output))  # noqa: PTH100 - links are followed nowhere here
        inside = any(Path(os.path.abspath(home)) in out.parents for home in case.paths)  # noqa: PTH100 - as above
        if inside and out in Path(os.path.abspath(path)).parents:  # noqa: PTH100 - as above
            return True
    return is_own(path)


def key_of(job: Job, case: Case, inputs: Inputs) -> Document:
    """What the record of a case says of it, its input, model and options."""
    return {
        "case": case.name,
        "input": {"files": list(inputs.files), "sha256": inputs.sha256, "series": case.series, "volume": case.volume},
        "model": job.model,
        "options": asdict(job.options),
    }


def scan_of(job: Job, case: Case, inputs: Inputs) -> Volume:
    """The voxels of a case, refused before they are read where the model could not label so many of them.

    errors   InputError where they are not those whose sum was taken: the record would be about another scan
    """
    scan = formats.read(
        case.paths,
        affine=job.options.affine,
        series=case.series,
        volume=case.volume,
        channels=len(job.card.channels),
        fill_gaps=job.options.fill_gaps,
        seen=partial(check_memory, job),
    )
    odd = odd_file(inputs, case.paths, scan.source.paths if scan.source else ())
    if odd is not None:
        raise InputError(
            f"{called(case)}: {odd.name} came or changed while the scan was read",
            hint="run again when it is whole: it may still be copied",
        )
    return scan


def check_memory(job: Job, grid: Grid) -> None:
    """Refuse a scan that does not fit with one of the models that are shown all of it; OutOfMemory (71)."""
    for card, opened in job.running.first(job.card):
        for own, other in opened.cascade(card):
            network = budget.whole_bytes(own, model_grid(grid, own.grid), other.engine)
            budget.refuse_too_large(grid, 4, own, limit=job.opened.max_ram, network=network)


def doubt(job: Job, case: Case, scan: Volume) -> None:
    """Tell what speaks against a scan before the network runs; InputError where it looks like a label map."""
    for sentence in scan_checks.beforehand(scan, job.card, called(case), label_map=job.options.label_map):
        job.watch(Event("doubt", case, sentence=sentence))


def _nameable(case: Case, paths: Iterable[Path]) -> None:
    """Refuse a case whose outputs would have longer names than a file system takes."""
    size, longest = max((len(os.fsencode(part)), part) for path in paths for part in path.parts)
    if size > _LONGEST:
        raise InputError(
            f"{called(case)}: its output ...{longest[-24:]} would have a name of {size} bytes, {_LONGEST} are possible",
            hint="give the scan a shorter name",
        )


# ---- label


def label(job: Job, loaded: Loaded) -> Labelled:
    """The labels of a scan, as the options want them.

    errors   ModelError: logits that are not finite; OutOfMemory; OutputError: a scan before it has filled the disk
    """
    case = loaded.case
    engines = [opened.engine for _, opened in job.models]

    def tick(done: int, total: int) -> None:
        job.watch(Event("window", case, done=done, total=total))

    job.filled.check(job.to.labels(case, job.card.name), loaded.scan.grid.size)
    job.watch(Event("segment", case, shape=loaded.scan.grid.shape))
    before = counted(engines)
    found = labels_of(job, loaded.scan, tick)
    fallbacks = tuple(said_since(before, engines))
    labels, effects, changed = finished(job, loaded.scan, found.result.labels, found.effects)
    kept = replace(found.result, labels=labels)
    name = job.running.fine(job.card)[0][1].engine.name
    ran = EngineFacts(name=name, reason=job.opened.reason, precision=job.precision)
    return Labelled(loaded, kept, ran, fallbacks, effects, changed, found.crops)


# ---- write


def write(job: Job, labelled: Labelled) -> Outcome:
    """The files of a case: label map, record, and what else was asked for, all of them or none.

    errors   OutputError: no space; OutputExists: somebody else's file came there meanwhile
    """
    loaded, result, case = labelled.loaded, labelled.result, labelled.loaded.case
    job.watch(Event("write", case))
    labels_path, record_path = job.to.labels(case, job.card.name), job.to.record(case, job.card.name)
    start = time.perf_counter()
    measured = described.measured(job, labelled)
    base, maker = job.to.base(case, job.card.name), f"segcli {job.card.name}"
    if job.to.layout == "bids" and job.to.folder is not None:
        strange = [o.ending for o in outputs.outputs() if not o.bids]
        bids.describe(job.to.folder, case.beside, strange)
    with (
        job.filled.watched(labels_path, loaded.scan.grid.size),
        atomic.together(record_path, labels_path, lambda: earlier.finished(job, case, loaded.key)) as staged,
    ):
        formats.write(result.labels, job.shown.labels, labels_path, loaded.scan.source, description=maker)
        made = LabelsFacts(file=labels_path.name, sha256=file_sha256(staged[labels_path]))
        stays, others = earlier.stays(job, case, made["sha256"]), earlier.sums_beside(job, case)
        found = described.recorded(job, labelled, made, measured)
        extra, said = outputs.write(
            Finished(base, loaded.scan, result, job.shown, job.to, measured.report, found.document)
        )
        sums = {path.relative_to(base.parent).as_posix(): file_sha256(staged[path]) for path in extra}
        seconds = {**loaded.seconds, **result.seconds, "write": time.perf_counter() - start}
        ran = RunFacts(
            seconds={stage: round(value, 3) for stage, value in seconds.items()},
            peak_memory_mb=round(memory.peak_memory() / 1e6),
            steps=list(labelled.fallbacks),
        )
        if others:
            ran["earlier"] = others
        whole = with_(
            found,
            warnings=[*found.warnings, *said],
            extras=ExtrasFacts(
                seg_type=job.to.seg_type, identifiers=job.to.identifiers, dicom=job.to.dicom.choices, files=sums
            ),
            run=ran,
        ).document
        written = {IN_SIDECAR: whole, **tables.bids_sidecar(maker)} if job.to.layout == "bids" else whole
        atomic.write_bytes(record_path, record.to_json(written))
    if stays:
        job.watch(Event("doubt", case, sentence=stays))
    ran_for, verdict = whole["run"]["seconds"], whole["verdict"]
    job.watch(Event("done", case, labels=str(labels_path), verdict=verdict, seconds=ran_for))
    return Outcome(case, "done", (labels_path, record_path, *extra), whole)
