"""open_engine(): which engine, on which device, and why. Libraries are imported when their engine is chosen."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

from segcli.engines.averaged import Ensemble
from segcli.engines.blended import Blending
from segcli.engines.devices import kind_of, missing, place_of
from segcli.engines.driver import driver_devices
from segcli.engines.held import Held
from segcli.engines.mirrored import mirrored
from segcli.engines.opened import Opened
from segcli.engines.precision import PRECISIONS, settled
from segcli.engines.room import of_graph, of_network, refuse_too_large
from segcli.engines.table import Choice, EngineSpec, Graph, Run, engines, installed
from segcli.errors import EngineError, ModelError, UsageError, cause_of
from segcli.models.card import ModelCard
from segcli.models.library import find
from segcli.packages import not_loaded
from segcli.parallel import cores

if TYPE_CHECKING:
    from segcli.engines.export.onnx_file import OnnxFile

EngineName = str  # "auto", or a name in the table of engines


def open_engine(
    card: ModelCard,
    *,
    engine: EngineName = "auto",
    device: str = "auto",
    threads: int | None = None,
    batch: int | None = None,
    mirror: bool = False,
    precision: str = "auto",
    max_vram: int | None = None,
    max_ram: int | None = None,
    votes: bool = False,
    common: dict[str, object] | None = None,
    later: Callable[[], Opened] | None = None,
) -> Opened:
    """The model loaded into the fastest engine there is, or into the one that was named.

    device    "auto", "cpu", "cuda", "cuda:N", or another one of devices.py
    threads   of the CPU; all cores the process may use when None
    batch     windows at a time; None lets the engine choose
    precision  "auto", "float32", "tf32", "bfloat16" or "float16" (precision.py)
    max_vram  bytes; max_ram: of the process; sums that would exceed it live in a temporary file
    common    of several models that run together: what their engines share (table.py)
    later     opens the model, where it shall not be in memory before it runs: its files are only looked at now
    votes     folds and members also say where they would decide otherwise: one channel more (averaged.py)
    errors    UsageError (2): no engine or device has the name; EngineError (69): the one that was named is not there,
              or has not the precision: neither is replaced by another; ModelError (78): files that do not match the
              card; OutOfMemory (71): one window does not fit
    """
    members = {name: find(name) for name in card.ensemble} or {"": card}
    first = next(iter(members.values()))
    _fit_in_memory(members.values(), device, max_ram)
    run = Run(threads or cores(), batch, precision, max_vram, max_ram, votes, {} if common is None else common)
    passed: dict[str, str] = {}  # engines that "auto" has passed over -> what is said of their libraries
    warnings: tuple[str, ...] = ()  # of a device that "auto" has given up
    while True:
        chosen = choose(first, engine, device, precision, passed)
        try:
            opened, hashes = _loaded(members, card, chosen, run, later)
            break
        except RuntimeError as error:
            if chosen.device == "cpu":
                raise
            trouble = f"{chosen.device} cannot be used: {cause_of(error)}"
            if chosen.named:
                raise EngineError(trouble, hint="use --device cpu") from error
            warnings, device = (*chosen.warnings, f"{trouble}; the CPU is taken"), "cpu"
        except (ImportError, OSError) as error:
            refusal = not_loaded(chosen.spec.library, error)
            if refusal is None:
                raise
            passed[chosen.spec.name] = f"{refusal.message}; another engine is taken"
            if engine != "auto" or len(passed) == len(installed()):
                raise refusal from error
    if mirror and isinstance(opened, Blending):
        opened = mirrored(opened, card)
    note = chosen.graph.note if chosen.graph else ""
    said = (*passed.values(), *warnings, *chosen.warnings)
    return Opened(opened, chosen.reason, said, hashes, max_ram=max_ram, note=note)


def _fit_in_memory(cards: Iterable[ModelCard], device: str, max_ram: int | None) -> None:
    """Refuse windows that the processor's memory does not hold, before a network is exported or run on one."""
    kind = kind_of(device)
    if kind == "cpu" or (kind == "auto" and not driver_devices()):
        for card in cards:
            if card.weights and find_spec("torch") is not None:
                refuse_too_large(card, max_ram, partial(of_network, card))


def _loaded(
    members: Mapping[str, ModelCard], card: ModelCard, chosen: Choice, run: Run, later: Callable[[], Opened] | None
) -> tuple[Blending | Held, dict[str, str]]:
    """The card's engine, of one model or the mean of several; file name -> sha256 of the bytes that were loaded.

    run      with the precision as it was asked for
    later    loads it when it is needed
    """
    refusals = chosen.spec.precisions(chosen.device)
    numbers = settled(run.precision, [card, *members.values()], refusals, chosen.spec.title, chosen.device)
    one = replace(run, precision=numbers, votes=run.votes and len(members) == 1)
    loaded: list[Blending] = []
    hashes: dict[str, str] = {}
    for i, (reference, member) in enumerate(members.items()):
        _same_windows(member, card)
        if reference and (member.parts or member.rough):
            raise ModelError(f"{card.name}: its member {reference} is made of models, and a member has one network")
        # A second member runs where the first one does: their logits are added up in one library's arrays.
        own = choose(member, chosen.spec.name, chosen.device) if i else chosen
        if later is None or own.spec.reads == "weights":
            made, sums = own.spec.open(member, own, one)
            loaded.append(made)
        else:  # what is wrong with a graph is known without loading it
            sums = checked_graph(member, own, one).hashes
        hashes |= {f"{reference}/{name}" if reference else name: digest for name, digest in sums.items()}
    if later is not None:
        return Held(f"{chosen.spec.library} {chosen.device}", numbers, hashes, later), hashes
    return (loaded[0] if len(loaded) == 1 else Ensemble(loaded, card.decide, run.votes)), hashes


def choose(
    card: ModelCard, engine: EngineName, device: str, precision: str = "auto", without: Collection[str] = ()
) -> Choice:
    """Which engine runs a card where, and why; nothing heavy is imported unless a GPU is there.

    An engine and a device that were named are taken or refused. Otherwise the one that the table prefers of those
    that are installed: torch on a CUDA device; else OpenVINO, else ONNX Runtime, on the model's ONNX file or on an
    export of its weights; else torch. One that can use the device and computes in a precision that was named goes
    before one that cannot. `without` names engines that are not chosen unless the user named them.
    """
    kind = kind_of(device)
    asked = [spec for spec in _asked(engine, kind) if engine != "auto" or spec.name not in without]
    specs = _taking(card, asked, engine)
    warnings: list[str] = []
    if kind != "cpu":
        found = _on_device(card, specs, device.replace("auto", "cuda"), kind != "auto", warnings, precision)
        if found is not None:
            return replace(found, warnings=tuple(warnings))
    found = _on_cpu(card, specs, engine != "auto", precision)
    return replace(found, named=kind != "auto", warnings=tuple(warnings))


def _on_device(
    card: ModelCard, specs: Sequence[EngineSpec], device: str, named: bool, warnings: list[str], precision: str
) -> Choice | None:
    """Which engine runs a card on a device other than the processor; None where it was not named and cannot be used.

    errors   EngineError (69): it was named, and is not there, or no engine can use it
    """
    kind, place = kind_of(device), place_of(device)
    if kind == "cuda":  # the drivers are asked before a library comes in, for that takes seconds
        count = driver_devices()
        if named and int(place.partition(":")[2]) >= count:
            raise EngineError(missing(device, count), hint="use --device cpu")
        specs = specs if count else ()
    able: list[EngineSpec] = []
    refusals: list[tuple[str, str]] = []
    for spec in _ranked(specs, kind, named=named):
        if spec.reads == "weights" and not card.weights:
            continue
        if trouble := spec.unusable(place):
            refusals.append(trouble)
            continue
        able.append(spec)
        if _computes(spec, place, precision):
            break
    if not named:
        warnings += [f"a CUDA device is there, but {told.replace('use CUDA', 'use it')}" for told, _ in refusals]
    if able:
        spec = able[-1] if _computes(able[-1], place, precision) else able[0]
        reason = spec.prefers[kind].reason if kind in spec.prefers else "the device was named"
        reason += f", and {refusals[0][0]}" if named and refusals else ""
        return Choice(spec, place, reason, _graph_for(card, spec), named)
    if named and refusals:
        raise EngineError(refusals[0][0], hint=refusals[0][1])
    if named:
        if any(spec.reads == "weights" and kind in spec.devices for spec in engines().values()):
            _weights_there(card)  # what such an engine would have needed
        raise EngineError(f"no engine that is installed runs {card.name} on {device}", hint="use --device cpu")
    return None


def _asked(engine: EngineName, kind: str) -> list[EngineSpec]:
    """The engine that was named, or all that are installed."""
    known = engines()
    if engine == "auto":
        return installed()
    if engine not in known:
        raise UsageError(f"no engine is called {engine!r}", hint=f"there are auto, {', '.join(known)}")
    spec = known[engine]
    if not spec.installed:
        raise EngineError(f"{spec.library} is not installed", hint=f"pip install {spec.library}")
    if kind not in ("auto", *spec.devices):
        others = " or ".join(name for name, other in known.items() if kind in other.devices)
        where = "CPU" if spec.devices == ("cpu",) else ", ".join(spec.devices)
        raise EngineError(f"{spec.title} runs on the {where}", hint=f"use --engine {others} with --device {kind}")
    return [spec]


def _taking(card: ModelCard, specs: Sequence[EngineSpec], engine: str) -> list[EngineSpec]:
    """The engines that run the card's graph as it is meant, and take its windows: whole images have any size."""
    able = [spec for spec in specs if not (card.window.whole and spec.reads == "graph")]
    alike = [spec for spec in able if spec.reads != "graph" or spec.name in (card.engines or [spec.name])]
    if able and not alike:
        right = " or ".join(card.engines or ())
        if engine == "auto":
            raise EngineError(
                f"{card.name}: its ONNX file is for {right}, which cannot be used here",
                hint="`segcli doctor` says what is lacking",
            )
        raise EngineError(
            f"{card.name}: {engine} does not answer with its ONNX file as it is meant", hint=f"use --engine {right}"
        )
    if specs and not able:
        raise EngineError(
            f"{card.name} is shown whole images of any size, {engine} takes windows of one", hint="use --engine torch"
        )
    return alike


def _ranked(specs: Sequence[EngineSpec], kind: str, *, named: bool) -> list[EngineSpec]:
    """The engines for a kind of device, the preferred first; those that prefer it not, only if it was named."""
    able = [spec for spec in specs if kind in (spec.devices if named else spec.prefers)]
    return sorted(able, key=lambda spec: spec.prefers[kind].rank if kind in spec.prefers else math.inf)


def _computes(spec: EngineSpec, place: str, precision: str) -> bool:
    """Whether an engine computes on a device in a precision, where one was named that there is."""
    return precision not in PRECISIONS or precision == "auto" or spec.precisions(place).get(precision, "no") == ""


def _on_cpu(card: ModelCard, specs: Sequence[EngineSpec], named: bool, precision: str) -> Choice:
    """The named engine, or the preferred one that the model can be loaded into."""
    failed: ModelError | None = None
    ranked = _ranked(specs, "cpu", named=named)
    able = [spec for spec in ranked if named or _computes(spec, "cpu", precision)] or ranked
    for spec in able:
        if named:
            return Choice(spec, "cpu", "it was named", _graph_for(card, spec))
        reason = spec.prefers["cpu"].reason if able[0] is ranked[0] else f"it computes in {precision}"
        if spec.reads == "weights":  # those that cannot be loaded either are refused there
            reason = reason if failed is None else f"the model cannot be exported: {failed.message}"
            return Choice(spec, "cpu", reason, _graph_for(card, spec))
        try:
            if failed is None:
                return Choice(spec, "cpu", reason, _graph_for(card, spec))
        except ModelError as error:
            if card.onnx is not None or not card.weights:
                raise
            failed = error
    raise failed or EngineError("no engine is installed", hint="pip install openvino")


def _graph_for(card: ModelCard, spec: EngineSpec) -> Graph | None:
    """The card's graph for an engine that reads one; none for one that reads weights, which are known to be there."""
    if spec.reads == "graph":
        return graph_of(card)
    _weights_there(card)
    return None


def graph_of(card: ModelCard) -> Graph:
    """The model's ONNX file: its own, else the cached export of its weights, made now if need be."""
    if card.onnx is not None and (not card.weights or (card.folder is not None and (card.folder / card.onnx).exists())):
        return Graph(card.onnx, card.file(card.onnx).read_bytes(), card.onnx_sha256)
    _weights_there(card)
    from segcli.engines.export.cached import export_path, exported, sums_of

    sums = sums_of(card)
    data, note = exported(card, sums)
    return Graph(str(export_path(card, sums)), data, note=note, made_of=sums)


def checked_graph(card: ModelCard, chosen: Choice, run: Run) -> OnnxFile:
    """The chosen graph, checked against the card; what is known of an export's bytes is what it was made of.

    errors   ModelError: the file does not match; OutOfMemory (71): one window of it does not fit
    """
    from segcli.engines.export.onnx_file import read

    assert chosen.graph is not None  # whoever reads a graph gets one
    file = read(chosen.graph.data, chosen.graph.name, card, chosen.graph.sha256)
    if chosen.device == "cpu":
        refuse_too_large(card, run.max_ram, lambda: of_graph(file.data, file.shape))
    return replace(file, hashes=dict(chosen.graph.made_of)) if chosen.graph.made_of else file


def _weights_there(card: ModelCard) -> None:
    if not card.weights:
        graphs = card.engines or [spec.name for spec in engines().values() if spec.reads == "graph"]
        raise ModelError(f"{card.name}: has an ONNX file and no weights", hint=f"use --engine {' or '.join(graphs)}")
    if find_spec("torch") is None:
        raise EngineError(f"{card.name} has no ONNX file, and torch is not installed", hint="pip install torch")


def _same_windows(member: ModelCard, card: ModelCard) -> None:
    """Refuse a member of an ensemble that sees other windows, or answers with other channels, than its card says."""
    for what, own, wanted in (
        ("patch_size", member.window.size, card.window.size),
        ("channels", member.channels, card.channels),
        ("labels", member.decide.values, card.decide.values),
        ("orientation", member.grid, card.grid),
        ("average", member.average, card.average),
    ):
        if own != wanted:
            raise ModelError(f"{card.name}: its member {member.name} has another {what}: {own}, not {wanted}")
