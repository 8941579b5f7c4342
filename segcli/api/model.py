"""A model that is loaded, and how it labels scans."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from numbers import Real
from os import PathLike
from pathlib import Path, PurePath
from typing import Literal, TypedDict, Unpack

from numpy.typing import ArrayLike

from segcli.api.result import Names, Result, names_of
from segcli.api.scans import InMemory, PathName, Scan, Space, form, held, is_path, meant, named, warn
from segcli.api.words import in_python
from segcli.batch import stages
from segcli.batch.cases import Case
from segcli.batch.events import Event
from segcli.batch.names import is_own
from segcli.batch.outputs import Destination
from segcli.batch.selection import Selection
from segcli.batch.stages import Job, Loaded, Options
from segcli.engines.opened import Opened
from segcli.engines.opening import Opening
from segcli.errors import EngineError, SegcliError, UsageError
from segcli.models.card import ModelCard
from segcli.models.prompted import asked
from segcli.results.inputs import Inputs, hash_inputs
from segcli.structures import Label

Progress = Callable[[int, int], object]


class How(TypedDict, total=False):
    """The options of `Model.segment`, where they stand with their meaning and their defaults."""

    affine: ArrayLike | Literal["sform", "qform", "pixdim"] | None
    space: Space
    series: str | Sequence[str]
    where: str | Sequence[str]
    volume: int | None
    fill_gaps: bool
    allow_label_map: bool
    classes: Names
    overlap: float | None
    average: Literal["logits", "probabilities"] | None
    skip_empty: bool
    faithful: bool
    keep_islands: bool
    largest_component: Names
    min_size: float
    fill_holes: Names
    probabilities: bool
    progress: Progress | None
    name: str | None


@dataclass(frozen=True, eq=False, repr=False)
class Model:
    """A model that is loaded into an engine; `segcli.load` makes it. In another process (pickle, Dask, joblib) it is
    loaded anew, from the same place.

    name     of the model, or of several that label together
    labels   its structures, background first
    engine   what runs it and where: "openvino cpu"; `reason` says why that one was taken

    >>> model = segcli.load("uxnet")
    >>> model.name, model.labels[1].name
    ('uxnet', 'left_cerebral_white_matter')
    """

    card: ModelCard
    opening: Opening
    opened: Opened
    _asked: dict[tuple[str, ...], tuple[ModelCard, Opened]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return "+".join([self.card.name, *(other.name for other in self.opened.several)])

    @property
    def labels(self) -> tuple[Label, ...]:
        return self.card.labels

    @property
    def engine(self) -> str:
        return self.opened.engine.name

    @property
    def reason(self) -> str:
        return self.opened.reason

    def __reduce__(self) -> tuple[object, ...]:
        """A model crosses to another process by what `load` was told, and is loaded there: once, for all its tasks."""
        return kept, (self.opening,)

    def __repr__(self) -> str:
        return f"<Model {self.name} on {self.engine}: {len(self.card.structures)} structures>"

    @in_python
    def segment(
        self,
        scan: Scan,
        *,
        affine: ArrayLike | Literal["sform", "qform", "pixdim"] | None = None,
        space: Space = "RAS",
        series: str | Sequence[str] = (),
        where: str | Sequence[str] = (),
        volume: int | None = None,
        fill_gaps: bool = False,
        allow_label_map: bool = False,
        classes: Names = (),
        overlap: float | None = None,
        average: Literal["logits", "probabilities"] | None = None,
        skip_empty: bool = False,
        faithful: bool = False,
        keep_islands: bool = False,
        largest_component: Names = (),
        min_size: float = 0.0,
        fill_holes: Names = (),
        probabilities: bool = False,
        progress: Progress | None = None,
        name: str | None = None,
    ) -> Result:
        """Label every voxel of a scan; the labels, volumes and record are those of `segcli predict`.

        scan      a file, a DICOM folder, a `segcli.Volume`, a SimpleITK.Image, a nibabel image, or a 3-D array with
                  `affine`; a list of them, one for each channel of the model; or {channel: path}
        affine    of an array: (4, 4), from the indices of its axes to mm, in RAS+ as nibabel has it or with
                  space="LPS" as ITK has it. Of a NIfTI: which statement of its header counts
        series, where, fill_gaps              of DICOM, as the options of `segcli predict`
        volume                                of a series or a 4-D file, from 1
        classes, largest_component, min_size, fill_holes    structures by name, number or code; mL
        overlap, average, skip_empty, faithful, keep_islands, allow_label_map  as the options
        probabilities                         whether `Result.probabilities` is wanted
        progress  is called with the windows done and their number
        name      of the scan in records and files, where it has none
        warns     of what speaks against the scan (a CT for an MR model) before the network runs
        errors    segcli.SegcliError: a sentence and a hint, that name these arguments

        >>> model = segcli.load("uxnet")
        >>> result = model.segment("scan.nii.gz", classes="hippocampus")
        >>> sorted(result.volumes_ml)
        ['left_hippocampus', 'right_hippocampus']
        >>> result.labels.shape == nibabel.load("scan.nii.gz").shape
        True
        >>> result.save("out", report="png")[0].name
        'scan_seg.nii.gz'
        """
        _refuse_fork()
        if overlap is not None and not (isinstance(overlap, Real) and 0 <= overlap < 1):
            raise UsageError(f"overlap={overlap!r}: is a number, at least 0 and below 1")
        if average not in (None, "logits", "probabilities"):
            raise UsageError(f"average={average!r}: is logits or probabilities")
        if name is not None and not isinstance(name, str):
            raise UsageError(f"name={name!r}: is no str")
        if name is not None and (not PurePath(name).parts or PurePath(name).anchor or ".." in PurePath(name).parts):
            raise UsageError(f"name={name!r}: is to name files in a folder, and leads out of it or is none")
        if not (isinstance(min_size, Real) and 0 <= min_size < float("inf")):
            raise UsageError(f"min_size={min_size!r}: is a number of mL, at least 0")
        options = Options(
            overlap=None if overlap is None else float(overlap),  # one of NumPy, which no record can hold, too
            classes=names_of(classes),
            affine=form(affine),
            skip=skip_empty,
            faithful=faithful,
            keep_islands=keep_islands,
            mirror=self.opening.mirror,
            precision=self.opening.precision,
            fill_gaps=fill_gaps,
            largest=names_of(largest_component),
            min_size_ml=float(min_size),
            fill_holes=names_of(fill_holes),
            label_map=allow_label_map,
            average=average,
        )
        meant(scan, affine, (*names_of(series), *names_of(where)), volume)
        job = self._job(options, probabilities, progress)
        if isinstance(scan, Case):
            return _of_files(job, scan, scan.paths)
        if not is_path(scan):
            return _of_memory(job, scan, held(scan, affine, space), name)
        select = Selection(series=names_of(series), where=names_of(where))
        found = named(scan, self.card.channels, select, volume, label_maps=allow_label_map)
        if len(found) != 1:
            raise UsageError(f"{scan}: {len(found)} scans", hint="`segment_many` takes them one by one")
        return _of_files(job, found[0] if name is None else replace(found[0], name=name), scan)

    def segment_many(
        self,
        scans: PathName | Iterable[Scan],
        *,
        refused: Callable[[Scan, SegcliError], object] | None = None,
        include: str | Sequence[str] = (),
        exclude: str | Sequence[str] = (),
        participant_label: str | Sequence[str] = (),
        session_label: str | Sequence[str] = (),
        suffix: str | Sequence[str] = (),
        **how: Unpack[How],
    ) -> Iterator[Result]:
        """The results of many scans, in order, each as soon as it is there; options as of `segment`.

        scans     a folder that is searched through, a pattern, or any scans
        refused   is called with a scan that is refused (its first file, where it was found in a folder), and the
                  others go on; without it the first refusal is raised
        include .. suffix   which of a folder, or of a BIDS dataset, as the options of `segcli predict`

        >>> model = segcli.load("uxnet")
        >>> for result in model.segment_many(["scan.nii.gz"], classes="thalamus"):
        ...     print(result.verdict, list(result.volumes_ml))
        pass ['left_thalamus', 'right_thalamus']
        """
        given: Iterable[Scan] = ()
        paths = [names_of(kind) for kind in (include, exclude, participant_label, session_label, suffix)]
        if isinstance(scans, str | PathLike):
            select = Selection(names_of(how.get("series", ())), names_of(how.get("where", ())), *paths)
            label_maps = how.get("allow_label_map", False)
            given = named(scans, self.card.channels, select, how.get("volume"), label_maps=label_maps)
        elif any(paths):
            raise UsageError("include= and the like choose among the scans of one folder", hint="give the folder alone")
        elif not isinstance(scans, Iterable):
            raise UsageError(f"scans={scans!r}: is neither a folder nor scans")
        else:
            given = scans
        for scan in given:
            try:
                result = self.segment(scan, **how)
            except SegcliError as error:
                if refused is None:
                    raise
                refused(scan.paths[0] if isinstance(scan, Case) else scan, error)
            else:
                yield result

    def _job(self, options: Options, probabilities: bool, progress: Progress | None) -> Job:
        def watch(event: Event) -> None:
            if event.sentence is not None:
                warn(event.sentence)
            if progress is not None and event.done is not None and event.total is not None:
                progress(event.done, event.total)

        wanted = ("probabilities",) * probabilities + ("disagreement",) * self.opening.votes
        to = Destination(forms=("nifti", *wanted))
        known = stages.with_names(options, self.card, several=bool(self.opened.several), whole=bool(self.opened.beside))
        card, opened = self._answering(known.classes)
        return Job(card, opened, to, known, watch)

    def _answering(self, classes: tuple[str, ...]) -> tuple[ModelCard, Opened]:
        """The card and the engine for some structures; those of a network that is asked are kept for the last."""
        opening = replace(self.opening, classes=classes)
        card = asked(self.card, classes)
        if card is self.card:
            return self.card, self.opened
        found = self._asked.get(classes)
        if found is None:
            found = card, opening.open(card)
            self._asked.clear()
            self._asked[classes] = found  # another thread may ask for others now: what was found is this one's
        return found


def _of_files(job: Job, case: Case, given: Scan) -> Result:
    """The result of a case that lies in files."""
    if case.fault is not None:
        raise case.fault
    start = time.perf_counter()
    inputs = hash_inputs(case.paths, is_own, case.files)
    key, scan = stages.key_of(job, case, inputs), stages.scan_of(job, case, inputs)
    turned = scan.source is not None and scan.source.kind in ("nifti", "mgh")
    return _result(job, Loaded(case, scan, key, {"read": time.perf_counter() - start}), given, turned)


def _of_memory(job: Job, given: Scan, scan: InMemory, name: str | None) -> Result:
    """The result of a scan that the caller holds; it lies beside no file, so that what is saved lies where one says."""
    stages.check_memory(job, scan.volume.grid)
    case = Case(name or scan.name, (), Path())
    key = stages.key_of(job, case, Inputs((), scan.sum))
    return _result(job, Loaded(case, scan.volume, key, {}), given, scan.turned)


def _result(job: Job, loaded: Loaded, given: Scan, turned: bool) -> Result:
    stages.doubt(job, loaded.case, loaded.scan)
    labelled = stages.label(job, loaded)
    return Result(loaded.scan, labelled.result.labels, turned, given, job, labelled)


def opened_model(opening: Opening) -> Model:
    """The model, loaded into its engine here; errors as of `load`, and of `_refuse_fork`."""
    card = opening.card
    _refuse_fork()
    global _loaded_in
    _loaded_in = os.getpid()
    return Model(card, opening, opening.open(card))


_one_at_a_time = threading.Lock()  # threads, or tasks that come to a process together, load a model once


def kept(opening: Opening) -> Model:
    """The model, loaded anew unless it is the last one that was asked for here."""
    with _one_at_a_time:
        return _last(opening)


@lru_cache(maxsize=1)
def _last(opening: Opening) -> Model:
    return opened_model(opening)


_loaded_in: int | None = None  # the process that has loaded a model; a fork of it knows the same


def _refuse_fork() -> None:
    """Refuse what would wait forever: a fork of a process has none of the threads of the engines in it.

    errors   EngineError: this process is a fork of one that has loaded a model
    """
    if _loaded_in not in (None, os.getpid()):
        raise EngineError(
            "this process is a fork of one that had loaded a model: the engine's threads are not in it",
            hint='start processes by multiprocessing.get_context("spawn"), and load the model in each of them',
        )
