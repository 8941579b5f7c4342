"""What each command does once its options are plain values: open, run, print, and say how it ended."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from queue import Empty, Full, Queue
from typing import TYPE_CHECKING, Any, Literal, TextIO, TypeVar

from segcli import cases as naming
from segcli import outputs, record
from segcli.card import ModelCard, find, installed, places
from segcli.cases import Case
from segcli.errors import CasesFailed, InputMissing, ModelError, OutputError, SegcliError, UsageError
from segcli.extras import Destination
from segcli.labels import Label
from segcli.predict import Options, Outcome, apart, cohort, predict
from segcli.terminal import Show, plain, say, show_error, structure_rows, table
from segcli.volume import Volume

if TYPE_CHECKING:
    from segcli.engines import Kind, Opened

Item = TypeVar("Item")
SCHEMA = 1
STILL = 300.0  # seconds without an event after which the watchdog speaks


@dataclass(frozen=True)
class Opening:
    """Which model on which engine; several models are an ensemble of equal labels.

    votes   whether folds and members of a model say where they would decide otherwise
    """

    model: tuple[str, ...]
    engine: Kind = "auto"
    device: str = "auto"
    threads: int | None = None
    batch: int | None = None
    mirror: bool = False
    half: bool = False
    max_ram: int | None = None
    max_vram: int | None = None
    votes: bool = False

    def open(self, card: ModelCard) -> Opened:
        """The card's engine; with several models its `others` too.

        errors   ModelError: models that are no ensemble; UsageError: votes of one network
        """
        from segcli.ensemble import alike

        others = [find(model) for model in self.model[1:]]
        for other in others:
            alike(card, other)
        if self.votes and not others and not card.ensemble and len(card.weights) < 2:
            raise UsageError(
                f"--write disagreement: {card.name} is one network, which agrees with itself",
                hint="name several models, --model A --model B, or one with folds",
            )
        return replace(self._one(card), others=tuple((other, self._one(other)) for other in others))

    def _one(self, card: ModelCard) -> Opened:
        from segcli.engines import open_engine

        votes = self.votes and len(self.model) == 1
        engine = self.engine
        if votes and len(card.weights) > 1:  # an ONNX file averages its folds inside
            if engine not in ("auto", "torch"):
                raise UsageError(f"--write disagreement: {engine} runs the folds of {card.name} as one network")
            engine = "torch"
        try:
            return open_engine(
                card,
                engine=engine,
                device=self.device,
                threads=self.threads,
                batch=self.batch,
                mirror=self.mirror,
                half=self.half,
                max_vram=self.max_vram,
                max_ram=self.max_ram,
                votes=votes,
            )
        except ModelError as error:
            named = card.folder.name if card.folder else card.name
            if named in error.message:
                raise
            raise ModelError(f"{named}: {error.message}", hint=error.hint) from error


@dataclass(frozen=True)
class Manners:
    """How a run talks."""

    json: bool = False
    quiet: bool = False
    verbose: int = 0
    events: str | None = None
    debug: bool = False
    fail_on_review: bool = False


@dataclass(frozen=True)
class Given:
    """What the user named."""

    inputs: tuple[str, ...]
    channels: Mapping[str, str]
    files_from: str | None = None
    null: bool = False
    series: str | None = None
    volume: int | None = None
    shard: str | None = None

    def cases(self, card: ModelCard, output: Path | None) -> list[Case]:
        inputs = list(self.inputs)
        if self.files_from is not None:
            inputs += naming.listed(_list(self.files_from), self.null)
        if not inputs and not self.channels:
            raise InputMissing("no scan was named", hint="give a file, a folder, or --files-from")
        found = naming.cases(
            inputs, card.channels, named=self.channels, series=self.series, volume=self.volume, output=output, tell=say
        )
        if not found:
            raise InputMissing("there is no scan to segment")
        return naming.shard(found, self.shard) if self.shard else found


def _list(name: str) -> bytes:
    if name == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise InputMissing(f"{name}: the list cannot be read: {error.strerror}") from error


# ---- predict


def batch(
    given: Given, opening: Opening, to: Destination, options: Options, manners: Manners, scheduler: str | None
) -> int:
    """Segment everything that was named; the exit code.

    stdout gets the path of each label map as it is done, or one JSON document at the end.
    """
    card = find(opening.model[0])
    found = given.cases(card, to.folder)
    apart(found, card, to)
    began = time.perf_counter()
    with _events(manners.events) as events:
        show = Show(len(found), quiet=manners.quiet, verbose=manners.verbose, events=events)
        ended: list[Outcome] = []
        try:
            if scheduler is not None:
                from segcli.cluster import predict_on

                stream: Iterable[Outcome] = predict_on(scheduler, found, opening, to, options, show.watch)
            else:
                opened = waited(lambda: opening.open(card), show)
                for member, own in ((card, opened), *opened.others):
                    for warning in own.warnings:
                        show.line(f"warning: {warning}")
                    if not manners.quiet:
                        show.line(f"{member.name} on {own.engine.name}: {own.reason}")
                stream = predict(found, card, opened, to, options, show.watch)
            for outcome in interruptible(stream, show):
                ended.append(_checked(outcome, manners))
                _tell(ended[-1], show, manners, len(found))
        except BaseException as error:
            show.close()
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
            _print(_document(ended, time.perf_counter() - began))
        if len(found) > 1 and not manners.quiet:
            say(_summary(ended, len(found), time.perf_counter() - began, ""))
            for path in extra:
                say(f"{path}: one row for each case and structure")
    return code


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
        doubts = facts.get("checks", ())
        shown = len(doubts) if total == 1 or manners.verbose else 1  # of a batch, the gravest; all are in the record
        for check in doubts[:shown]:
            more = f" (and {len(doubts) - shown} more)" if len(doubts) > shown else ""
            show.line(f"{check['severity']}: {outcome.case.name}: {check['sentence']}{more}")
        if outcome.status == "skipped":
            show.line(f"{outcome.case.name}: already done, verified")
        elif total == 1 and not manners.json:
            table(f"{outcome.case.name}", structure_rows(facts["structures"]), stderr=True)
    if not manners.json:
        for path in outcome.paths:
            _print_line(str(path))


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
    written = cohort(outcomes, to.folder, forms)
    if "html" in to.reports:
        from segcli.page import cohort_page

        path = to.folder / "cohort.html"
        outputs.write_bytes(path, cohort_page([o.record for o in outcomes if o.record is not None]))
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
            scan = folder / f"stdin{_ending(data)}"
            scan.write_bytes(data)
            inputs = (str(scan),)
        card = find(opening.model[0])
        place = replace(to, folder=folder / "out", layout="flat") if to_stdout else to
        if place.folder is None:
            raise UsageError("a scan from stdin needs -o: a folder, or - for stdout")
        found = replace(given, inputs=inputs).cases(card, place.folder)
        if len(found) != 1:
            raise UsageError(f"-o - takes one scan, not {len(found)}", hint="name a folder with -o")
        began = time.perf_counter()
        with _events(manners.events) as events:
            show = Show(1, quiet=manners.quiet, verbose=manners.verbose, events=events)
            try:
                opened = waited(lambda: opening.open(card), show)
                made = interruptible(predict(found, card, opened, place, options, show.watch), show)
                ended = [_checked(outcome, manners) for outcome in made]
            finally:
                show.close()
        for outcome in ended:
            _tell(outcome, show, replace(manners, json=manners.json or to_stdout), 1)
            if to_stdout and outcome.error is None:
                _stream(outcome.paths[0].read_bytes())
        if manners.json:
            _print(_document(ended, time.perf_counter() - began))
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


def _ending(data: bytes) -> str:
    """The ending of a format by its first bytes, so that readers that go by names are content."""
    if data[:2] == b"\x1f\x8b":
        return ".nii.gz"
    if data[:4] == b"NRRD":
        return ".nrrd"
    return ".mha" if data[:10].startswith((b"ObjectType", b"NDims")) else ".nii"


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
        with outputs.translated(Path(target)), Path(target).open("a", encoding="utf-8") as file:
            yield file


# ---- the other commands


def info(
    scan: Path,
    model: str,
    *,
    series: str | None,
    volume: int | None,
    affine: Literal["sform", "qform", "pixdim"] | None,
    as_json: bool,
) -> None:
    """Print what a scan is and what predict would do with it; a folder of DICOM as a table of its series."""
    from segcli import formats
    from segcli.grids import model_grid
    from segcli.segmentation import prepare
    from segcli.windows import windows

    if scan.is_dir() and series is None and (rows := _series_rows(scan)) and (len(rows) > 1 or rows[0]["problem"]):
        if as_json:
            _print({"schema": SCHEMA, "series": rows})
        else:
            table(f"{scan.name}: DICOM series", rows)
        return
    naming.cases([str(scan)])
    read = formats.read([scan], affine=affine, series=series, volume=volume)
    card = find(model)
    wanted = model_grid(read.grid, card.grid)
    source = read.source
    facts: dict[str, Any] = {
        "file": scan.name,
        "grid": record.grid_facts(read.grid),
        "channels": read.data.shape[0],
        "dtype": str(read.data.dtype),
        "range": [float(read.data.min()), float(read.data.max())],
        "source": source.facts if source else None,
        "warnings": list(source.warnings) if source else [],
        "model": card.name,
        "model_grid": record.grid_facts(wanted),
    }
    if read.data.shape[0] == len(card.channels):
        from segcli.segmentation import at_least, finite

        image = prepare(finite(read)[0], card).image
        facts["cropped_to"] = list(image.grid.shape)
        facts["windows"] = len(windows(at_least(image.grid.shape, card.window.size), card.window))
    if as_json:
        _print({"schema": SCHEMA, **facts})
        return
    grid = read.grid
    lines = {
        "file": scan.name,
        "voxels": f"{_times(grid.shape)} (D x H x W), {facts['dtype']}, {facts['channels']} channel(s)",
        "spacing": f"{_times(grid.spacing)} mm",
        "axes": f"{grid.axes} (where D, H, W point)" + (", sheared" if grid.sheared else ""),
        "range": f"{facts['range'][0]:g} to {facts['range'][1]:g}",
        "predict": f"{card.name}: to {_times(wanted.shape)} voxels of {_times(wanted.spacing)} mm, axes {wanted.axes}",
    }
    if "windows" in facts:
        lines["windows"] = (
            f"{facts['windows']} of {_times(card.window.size)}, after a crop to {_times(facts['cropped_to'])}"
        )
    else:
        lines["refused"] = f"{card.name} wants {len(card.channels)} channel(s): {', '.join(card.channels)}"
    for name, text in lines.items():
        _print_line(f"{name:8} {plain(text)}")
    for warning in facts["warnings"]:
        say(f"warning: {warning}")


def _series_rows(folder: Path) -> list[dict[str, Any]]:
    from segcli.formats import dicom

    return [
        {
            "series": s.name,
            "number": s.number,
            "modality": s.modality,
            "description": s.description,
            "files": len(s.files),
            "slices": s.summary.frames,
            "volumes": s.summary.volumes,
            "shape": _times(s.summary.shape) if s.summary.shape else None,
            "spacing": _times(s.summary.spacing) if s.summary.spacing else None,
            "problem": s.summary.problem,
        }
        for s in dicom.find(folder)
    ]


def plan(scan: Path, opening: Opening, *, as_json: bool) -> None:
    """Print what predict would need for a scan."""
    from segcli.budget import plan_case

    budget = plan_case(scan, find(opening.model[0]), opening)
    if as_json:
        _print({"schema": SCHEMA, **budget})
    else:
        for name, value in budget.items():
            _print_line(f"{name:14} {value}")


def export(model: str, output: Path | None, *, opset: int, half: bool, verify: Path | None, as_json: bool) -> None:
    """Export, and print the path of the file."""
    from segcli.export import export_onnx

    card = find(model)
    path = output or Path(re.sub(r"[^A-Za-z0-9_-]", "_", card.name) + ".onnx")  # the name comes from a file
    certificate = export_onnx(card, path, opset=opset, half=half, verify=verify)
    if as_json:
        _print({"schema": SCHEMA, "file": str(path), "certificate": certificate})
    else:
        _print_line(str(path))
        error, equal = certificate["max_relative_error"], certificate["agreement"]
        say(f"largest relative error {error:.1e}, equal labels {equal:.2%}")


def models(*, as_json: bool) -> None:
    """Print every model, its problem if it has one, and where segcli looked."""
    found = installed()
    rows = [
        {
            "name": f.name,
            "channels": ", ".join(f.card.channels) if f.card else None,
            "structures": len(f.card.structures) if f.card else None,
            "licence": f.card.licence if f.card else None,
            "folder": str(f.folder),
            "problem": f.problem,
        }
        for f in found
    ]
    looked = [str(p) for p in places()]
    if as_json:
        _print({"schema": SCHEMA, "models": rows, "looked_in": looked})
        return
    table("", rows)
    say("looked in: " + ", ".join(looked))


def import_model(
    checkpoint: Path,
    *,
    arch: str | None,
    recipe: str | None,
    name: str | None,
    output: Path | None,
    replace: bool,
    given: Mapping[str, Any],
    as_json: bool,
) -> None:
    """Make a model folder and print its path."""
    from segcli import adopt
    from segcli.card import data_home

    folder = adopt.adopt(
        checkpoint,
        arch=arch,
        recipe=recipe,
        name=name,
        to=output or data_home() / "models",
        given=adopt.options(**{k: v for k, v in given.items() if v is not None}),
        replace=replace,
    )
    if as_json:
        _print({"schema": SCHEMA, "folder": str(folder), "card": json.loads((folder / "model.json").read_text())})
    else:
        _print_line(str(folder))


def inspect(file: Path, *, as_json: bool) -> None:
    """Print what a file is."""
    from segcli import adopt

    found = {**asdict(adopt.inspect(file)), "path": file.name}
    if as_json:
        _print({"schema": SCHEMA, **found})
        return
    for key, value in found.items():
        if value not in (None, [], {}):
            _print_line(f"{key:11} {plain(str(value))}")


def verify(file: Path, *, as_json: bool) -> None:
    """Print that a model folder or an exported file is what it says it is; ModelError otherwise."""
    from segcli import adopt

    if not file.exists():
        raise ModelError(f"{file}: no such file or folder")
    certificate: dict[str, Any] = {}
    graph: Path | None = file
    if file.is_dir():
        card = adopt.verify(file)
        graph = file / card.onnx if card.onnx else None
    if graph is not None:
        from segcli.export import verify as compare

        certificate = compare(graph)
    if as_json:
        _print({"schema": SCHEMA, "file": str(file), "certificate": certificate})
    else:
        _print_line(f"{file.name}: verified")


def config_show(options: Mapping[str, Any], variables: Mapping[str, str], *, as_json: bool) -> None:
    """Print each option of predict, its value and its origin."""
    from segcli.settings import origins

    rows = origins("predict", {k: v for k, v in options.items() if not callable(v)}, variables)
    if as_json:
        _print({"schema": SCHEMA, "settings": rows})
    else:
        table("", [{k: str(v) for k, v in row.items()} for row in rows])


def _print(document: Mapping[str, Any]) -> None:
    _print_line(json.dumps(document, indent=1, default=str))


def _print_line(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _times(values: Sequence[float] | None) -> str:
    return " x ".join(f"{v:g}" for v in values or ())


# ---- evaluate and report


def evaluate(
    prediction: Path,
    reference: Path,
    *,
    model: str | None,
    labels: Sequence[str],
    tolerance: float,
    resample: bool,
    against: Path | None,
    form: Literal["table", "json", "csv"],
    html: Path | None,
) -> None:
    """Print how well label maps agree with their references; with `against`, how a second prediction differs."""
    from segcli import evaluate as scoring

    names = _wanted(find(model).labels if model else (), labels)
    scores = _scores(prediction, reference, names, tolerance, resample)
    document: dict[str, Any] = {"schema": SCHEMA, "tolerance_mm": tolerance, "scores": scoring.rows(scores)}
    document["summary"] = scoring.summarise(scores)
    if against is not None:
        document["difference"] = scoring.compare(scores, _scores(against, reference, names, tolerance, resample))
    if html is not None:
        from segcli.page import evaluation_page

        outputs.write_bytes(html, evaluation_page(document))
    if form == "json":
        _print(document)
    elif form == "csv":
        from segcli.report import csv_text

        sys.stdout.write(csv_text(document["difference" if against is not None else "scores"]))
    else:
        shown = ("name", "cases", "missed", "invented", "dice", "iou", "hd95_mm", "assd_mm", "nsd", "bias_ml")
        key = "difference" if against is not None else "summary"
        table(key, [{k: row[k] for k in shown if k in row} for row in document[key]])


def _scores(
    prediction: Path, reference: Path, names: Sequence[Any], tolerance: float, resample: bool
) -> dict[str, Any]:
    from segcli import evaluate as scoring
    from segcli import formats

    for path in (prediction, reference):
        if not path.exists():
            raise InputMissing(f"{path}: no such file or folder")
    if prediction.is_dir() != reference.is_dir():
        raise UsageError(f"{prediction} and {reference}: one is a folder, the other a file")
    if not prediction.is_dir():
        pairs = [(naming.stem(prediction), prediction, reference)]
    else:
        pairs, alone = scoring.pair_folders(prediction, reference)
        for name in alone:
            say(f"warning: {name}")
        if not pairs:
            raise InputMissing(f"{prediction.name} and {reference.name}: no two files have the same name")
    out = {}
    for name, mine, truth in pairs:
        pred, ref = formats.read([mine]), formats.read([truth])
        out[name] = scoring.evaluate(_whole_numbers(pred), _whole_numbers(ref), names, tolerance, resample=resample)
        if names and (left := scoring.unscored(_whole_numbers(pred), _whole_numbers(ref), names)):
            say(f"warning: {name}: values without a name are not scored: {', '.join(map(str, left[:10]))}")
    return out


def _whole_numbers(labels: Volume) -> Volume:
    """A label map in an integer type; refused when it holds anything else."""
    import numpy as np

    from segcli.errors import InputError

    if labels.data.dtype.kind in "iu":
        return labels
    rounded = np.round(labels.data)
    if not np.array_equal(rounded, labels.data):
        name = labels.source.paths[0].name if labels.source else "a volume"
        raise InputError(f"{name}: not a label map: it holds values that are not whole numbers")
    return replace(labels, data=rounded.astype(np.int32))


def _wanted(known: Sequence[Label], wanted: Sequence[str]) -> list[Label]:
    """Labels by name or number; all that are known when none is wanted."""
    if not wanted:
        return list(known)
    out = []
    for word in wanted:
        found = next((label for label in known if word in (label.name, str(label.id), label.code)), None)
        if found is None and word.isdigit() and not known:
            found = Label(int(word), f"label_{word}")
        if found is None:
            raise UsageError(f"--labels {word}: no such label" + ("" if known else ": give --model for names"))
        out.append(found)
    return out


def report(labelmap: Path, model: str, image: Path | None, to: Destination, *, as_json: bool) -> None:
    """Make volumes, checks, tables and pages for a label map that exists; prints the paths or the record."""
    from segcli import checks, extras, formats
    from segcli.errors import InputError
    from segcli.report import measure, to_json
    from segcli.segmentation import Segmentation

    card = find(model)
    labels = _whole_numbers(formats.read([labelmap]))
    if labels.data.shape[0] != 1:
        raise InputError(f"{labelmap.name}: not a label map: it has {labels.data.shape[0]} channels")
    low, high, most = int(labels.data.min()), int(labels.data.max()), max(label.id for label in card.labels)
    if low < 0 or high > most:
        raise InputError(
            f"{labelmap.name}: not a label map of {card.name}: it holds {low} to {high}, the labels are 0 to {most}",
            hint="name its model with --model",
        )
    scan = None
    if image is not None:
        scan = formats.read([image], channels=len(card.channels))
        if not scan.grid.same_as(labels.grid):
            raise InputError(f"{labelmap.name} and {image.name} are not on one grid")
    found = measure(labels, card.labels, scan)
    findings = checks.run(labels, scan, card, None, (scan.source.facts if scan and scan.source else None) or {})
    facts = {
        "segcli_record": record.SCHEMA,
        "case": naming.stem(labelmap),
        "model": {"name": card.name, "sha256": record.model_hash(card, {}), "licence": card.licence},
        "labels": {"file": labelmap.name, "sha256": record.hash_file(labelmap)},
        "grid": record.grid_facts(labels.grid),
        "structures": to_json(found),
        "verdict": checks.verdict(findings),
        "checks": [asdict(f) for f in findings],
        "warnings": list(labels.source.warnings) if labels.source else [],
        "note": "Research use only; not a medical device.",
        "versions": record.versions(),
    }
    base = (to.folder or labelmap.parent) / naming.stem(labelmap).removesuffix("_seg")
    result = Segmentation(labels, {}, 0, {})
    paths, said = extras.write(base, scan or _blank(labels), result, card, to, found, facts)
    if as_json:
        _print({"schema": SCHEMA, "files": [str(p) for p in paths], "record": facts})
        return
    for path in paths:
        _print_line(str(path))
    for warning in said:
        say(f"warning: {warning}")
    for finding in findings:
        say(f"{finding.severity}: {finding.sentence}")


def _blank(labels: Volume) -> Volume:
    """A black image under a label map, where the scan itself was not given."""
    import numpy as np

    return Volume(np.zeros(labels.data.shape, np.uint8), labels.grid, labels.source)


def doctor(*, as_json: bool) -> int:
    """Print what this machine has and whether each engine works; exit code 69 when none does."""
    from segcli.doctor import examine

    found = examine()
    working = [e for e in found["engines"] if e["works"]]
    if as_json:
        _print({"schema": SCHEMA, **found})
    else:
        for name, value in found["machine"].items():
            _print_line(f"{name:10} {plain(str(value))}")
        table("engines", found["engines"])
        table("libraries", [{"name": k, "version": v} for k, v in found["libraries"].items()])
    return 0 if working else 69
