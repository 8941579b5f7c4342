"""What the other commands answer: about a scan, a model, label maps, the machine; data on stdout."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from segcli.batch import cases as naming
from segcli.batch.cases import Given
from segcli.batch.outputs import Destination
from segcli.commands.terminal import SCHEMA, plain, print_json, print_line, say, table
from segcli.errors import EngineError, InputError, InputMissing, ModelError, UsageError
from segcli.formats import atomic
from segcli.models.library import file_sha256, find, installed, places
from segcli.results import record
from segcli.space.volume import Volume
from segcli.structures import Label, chosen

if TYPE_CHECKING:
    from segcli.engines.opening import Opening
    from segcli.formats import Form


def info(
    scan: Path,
    model: str,
    *,
    series: str | None,
    volume: int | None,
    affine: Form | None,
    as_json: bool,
) -> None:
    """Print what a scan is and what predict would do with it; a folder of DICOM as a table of its series."""
    from segcli import formats
    from segcli.inference.prepare import finite, prepare
    from segcli.inference.segment import window_count
    from segcli.space.grids import model_grid

    if scan.is_dir() and series is None and (rows := _series_rows(scan)) and (len(rows) > 1 or rows[0]["problem"]):
        if as_json:
            print_json({"schema": SCHEMA, "series": rows})
        else:
            table(f"{scan.name}: DICOM series", rows)
        return
    card = find(model)
    read = formats.read([scan], affine=affine, series=series, volume=volume, channels=len(card.channels))
    wanted = model_grid(read.grid, card.grid)
    source = read.source
    try:
        whole, _, doubts = finite(read)
    except InputError as error:
        raise InputError(f"{scan.name}: {error.message}", hint=error.hint) from error
    facts: dict[str, Any] = {
        "file": scan.name,
        "grid": record.grid_facts(read.grid),
        "channels": read.data.shape[0],
        "dtype": str(read.data.dtype),
        "range": [float(whole.data.min()), float(whole.data.max())],
        "source": source.facts if source else None,
        "warnings": [*(source.warnings if source else ()), *doubts],
        "model": card.name,
        "model_grid": record.grid_facts(wanted),
    }
    if read.data.shape[0] == len(card.channels):
        image = prepare(whole, card.procedure).image
        facts["cropped_to"] = list(image.grid.shape)
        facts["windows"] = window_count(image.grid, card.window)
    if as_json:
        print_json({"schema": SCHEMA, **facts})
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
        print_line(f"{name:8} {plain(text)}")
    for warning in facts["warnings"]:
        say(f"warning: {warning}")


def _series_rows(folder: Path) -> list[dict[str, Any]]:
    from segcli.formats.dicom import series as dicom

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
        for s in dicom.find(folder, lambda _, error: say(f"warning: {error.message}"))
    ]


def plan(given: Given, opening: Opening, *, affine: Form | None, as_json: bool) -> None:
    """Print what predict would need for a scan."""
    from segcli.batch.budget import plan_case

    card = find(opening.model[0])
    found = given.cases(card.channels, Destination(), say)
    if len(found) != 1:
        raise UsageError(f"plan takes one scan, not {len(found)}: the first are {found[0].name} and {found[1].name}")
    (case,) = found
    if case.fault is not None:
        raise case.fault
    budget = plan_case(case.paths, card, opening, affine=affine, series=case.series, volume=case.volume)
    if as_json:
        print_json({"schema": SCHEMA, **budget})
    else:
        for name, value in budget.items():
            print_line(f"{name:14} {value}")


def export(
    model: str,
    output: Path | None,
    *,
    opset: int,
    half: bool,
    verify: Path | None,
    affine: Form | None,
    as_json: bool,
) -> None:
    """Export, and print the path of the file."""
    from segcli.engines.export.verified import export_onnx

    card = find(model)
    path = output or Path(re.sub(r"[^A-Za-z0-9_-]", "_", card.name) + ".onnx")  # the name comes from a file
    atomic.unclaimed(path, own=lambda _: _is_export(path))
    certificate = export_onnx(card, path, opset=opset, half=half, verify=verify, affine=affine)
    if as_json:
        print_json({"schema": SCHEMA, "file": str(path), "certificate": certificate})
    else:
        print_line(str(path))
        error, equal = certificate["max_relative_error"], certificate["agreement"]
        say(f"largest relative error {error:.1e}, equal labels {equal:.2%}")


def _is_export(path: Path) -> bool:
    """Whether a file is a network that segcli exported."""
    from segcli.models.embedded import METADATA_KEY, onnx_metadata

    try:
        return METADATA_KEY in onnx_metadata(path)
    except ModelError:
        return False


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
        print_json({"schema": SCHEMA, "models": rows, "looked_in": looked})
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
    """Make a model folder and print its path; what was guessed or dropped on stderr."""
    from segcli.models import imports
    from segcli.models.library import data_home

    notes: list[str] = []
    folder = imports.adopt(
        checkpoint,
        arch=arch,
        recipe=recipe,
        name=name,
        to=output or data_home() / "models",
        given=imports.options(**{k: v for k, v in given.items() if v is not None}),
        replace=replace,
        tell=notes.append,
    )
    if as_json:
        document = json.loads((folder / "model.json").read_text())
        print_json({"schema": SCHEMA, "folder": str(folder), "notes": notes, "card": document})
        return
    print_line(str(folder))
    for note in notes:
        say(f"note: {note}")


def inspect(file: Path, *, as_json: bool) -> None:
    """Print what a file is."""
    from segcli.models import imports

    found = {**asdict(imports.inspect(file)), "path": file.name}
    if as_json:
        print_json({"schema": SCHEMA, **found})
        return
    for key, value in found.items():
        if value not in (None, [], {}):
            print_line(f"{key:11} {plain(str(value))}")


def verify(file: Path, *, as_json: bool) -> None:
    """Print that a model folder or an exported file is what it says it is; ModelError otherwise."""
    from segcli.models import imports

    if not file.exists():
        raise ModelError(f"{file}: no such file or folder")
    certificate: dict[str, Any] = {}
    graph: Path | None = file
    if file.is_dir():
        card = imports.verify(file)
        graph = file / card.onnx if card.onnx else None
        if graph is not None:
            from segcli.engines.export.onnx_file import read

            read(graph.read_bytes(), graph.name, card)
    if graph is not None:
        from segcli.engines.export.certificate import DIGEST_KEY
        from segcli.engines.export.verified import verify as compare
        from segcli.models.embedded import onnx_metadata

        # A file of somebody else's is what the card's checksum says, which has been compared, and holds no certificate.
        if not (file.is_dir() and card.onnx_sha256 and DIGEST_KEY not in onnx_metadata(graph)):
            certificate = compare(graph)
    if as_json:
        print_json({"schema": SCHEMA, "file": str(file), "certificate": certificate})
    else:
        print_line(f"{file.name}: verified")


def config_show(options: Mapping[str, Any], variables: Mapping[str, str], *, as_json: bool) -> None:
    """Print each option of predict, its value and its origin."""
    from segcli.commands.settings import origins

    rows = origins("predict", {k: v for k, v in options.items() if not callable(v)}, variables)
    if as_json:
        print_json({"schema": SCHEMA, "settings": rows})
    else:
        table("", [{k: str(v) for k, v in row.items()} for row in rows])


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
    affine: Form | None,
    against: Path | None,
    form: Literal["table", "json", "csv"],
    html: Path | None,
) -> None:
    """Print how well label maps agree with their references; with `against`, how a second prediction differs."""
    from segcli.results import evaluate as scoring

    names = _wanted(find(model).labels if model else (), labels)
    scores = _scores(prediction, reference, names, tolerance, resample, affine)
    document: dict[str, Any] = {"schema": SCHEMA, "tolerance_mm": tolerance, "scores": scoring.rows(scores)}
    document["summary"] = scoring.summarise(scores)
    if against is not None:
        document["difference"] = scoring.compare(
            scores, _scores(against, reference, names, tolerance, resample, affine)
        )
    if html is not None:
        from segcli.results.page import evaluation_page
        from segcli.results.page.parts import is_page

        atomic.unclaimed(html, own=is_page)
        atomic.write_bytes(html, evaluation_page(document))
    if form == "json":
        print_json(document)
    elif form == "csv":
        from segcli.results.measure import csv_text

        sys.stdout.write(csv_text(document["difference" if against is not None else "scores"]))
    else:
        shown = ("name", "cases", "missed", "invented", "dice", "iou", "hd95_mm", "assd_mm", "nsd", "bias_ml")
        key = "difference" if against is not None else "summary"
        table(key, [{k: row[k] for k in shown if k in row} for row in document[key]])


def _scores(
    prediction: Path, reference: Path, names: Sequence[Any], tolerance: float, resample: bool, affine: Form | None
) -> dict[str, Any]:
    from segcli import formats
    from segcli.results import evaluate as scoring

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
        pred, ref = (_whole_numbers(formats.read([path], affine=affine)) for path in (mine, truth))
        try:
            out[name] = scoring.evaluate(pred, ref, names, tolerance, resample=resample)
        except InputError as error:
            raise InputError(f"{mine.name} and {truth.name}: {error.message}", hint=error.hint) from error
        if names and (left := scoring.unscored(pred, ref, names)):
            say(f"warning: {name}: values without a name are not scored: {', '.join(map(str, left[:10]))}")
    return out


def _whole_numbers(labels: Volume) -> Volume:
    """A label map in an integer type; refused when it holds anything else."""
    import numpy as np

    if labels.data.dtype.kind in "iu":
        return labels
    rounded = np.round(labels.data)
    if not np.array_equal(rounded, labels.data):
        name = labels.source.paths[0].name if labels.source else "a volume"
        raise InputError(f"{name}: not a label map: it holds values that are not whole numbers")
    return replace(labels, data=rounded.astype(np.int32))


def _wanted(known: Sequence[Label], wanted: Sequence[str]) -> list[Label]:
    """Labels by name, number or code; all that are known when none is wanted; only by number when none is known."""
    if not wanted:
        return list(known)
    if known:
        return chosen(known, wanted, "--labels")
    for word in wanted:
        if not re.fullmatch("[0-9]+", word):
            raise UsageError(f"--labels {word}: is no number: give --model for names")
    return [Label(int(word), f"label_{word}") for word in wanted]


def report(
    labelmap: Path, model: str, image: Path | None, to: Destination, *, affine: Form | None, as_json: bool
) -> None:
    """Make volumes, checks, tables and pages for a label map that exists; prints the paths or the record."""
    from segcli import formats
    from segcli.batch import outputs as extras
    from segcli.inference.segment import Segmentation
    from segcli.results import checks
    from segcli.results.measure import measure

    card = find(model)
    labels = _whole_numbers(formats.read([labelmap], affine=affine))
    made = record.maker(labelmap.with_name(f"{naming.stem(labelmap)}.json"))
    maker = made["name"] if made else card.name
    if card.name not in maker.split("+"):
        raise InputError(
            f"{labelmap.name}: its record says that {maker} made it, not {card.name}",
            hint="name its model with --model",
        )
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
        scan = formats.read([image], affine=affine, channels=len(card.channels))
        if not scan.grid.same_as(labels.grid):
            raise InputError(f"{labelmap.name} and {image.name} are not on one grid")
    found = measure(labels, card.labels, scan)
    findings = checks.run(labels, scan, card, None, (scan.source.facts if scan and scan.source else None) or {})
    facts = record.about(
        naming.stem(labelmap),
        # Without a record of segcli nobody knows what made the label map: the model gives its table of labels alone.
        made or {"name": card.name, "sha256": None, "licence": card.licence},
        {"file": labelmap.name, "sha256": file_sha256(labelmap)},
        record.Measured(labels.grid, found, findings),
        labels.source.warnings if labels.source else (),
    ).document
    base = (to.folder or labelmap.parent) / naming.stem(labelmap).removesuffix("_seg")
    for path, output in extras.planned(base, card, to).items():
        atomic.unclaimed(path, overwrite=to.overwrite, own=output.own)
    result = Segmentation(labels, {}, 0, {})
    paths, said = extras.write(extras.Finished(base, scan or _blank(labels), result, card, to, found, facts))
    if as_json:
        print_json({"schema": SCHEMA, "files": [str(p) for p in paths], "record": facts})
        return
    for path in paths:
        print_line(str(path))
    for warning in said:
        say(f"warning: {warning}")
    for finding in findings:
        if finding.severity != "note":  # which the record and the page hold
            say(f"{finding.severity}: {finding.sentence}")


def _blank(labels: Volume) -> Volume:
    """A black image under a label map, where the scan itself was not given."""
    import numpy as np

    return Volume(np.zeros(labels.data.shape, np.uint8), labels.grid, labels.source)


def doctor(*, as_json: bool) -> int:
    """Print what this machine has and whether each engine works; exit code 69 when none does."""
    from segcli.commands.doctor import examine

    found = examine()
    working = [e for e in found["engines"] if e["works"]]
    if as_json:
        print_json({"schema": SCHEMA, **found})
    else:
        for name, value in found["machine"].items():
            print_line(f"{name:10} {plain(str(value))}")
        table("engines", found["engines"])
        table("libraries", [{"name": k, "version": v} for k, v in found["libraries"].items()])
    return 0 if working else EngineError.exit_code
