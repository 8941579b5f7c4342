"""segcli info: what a scan is, and what predict would do with it; of a DICOM folder or archive, its series."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segcli.commands.options import Affine, Commands, Json, Model, Series, VolumeNumber
from segcli.commands.terminal import SCHEMA, counted, plain, print_json, print_line, say, table, times
from segcli.commands.values import form
from segcli.documents import Document
from segcli.errors import CasesFailed, InputError, SegcliError, UsageError

if TYPE_CHECKING:
    from segcli.formats import Form
    from segcli.formats.dicom.search import Series as DicomSeries
    from segcli.models.card import ModelCard
    from segcli.space.volume import Grid, Volume

commands = Commands("info")


@commands.command()
def info(
    scan: Annotated[str, typer.Argument(help="A scan, or a folder or archive of DICOM; `-`: stdin.")],
    model: Model = "uxnet",
    series: Series = None,
    volume: VolumeNumber = None,
    affine: Affine = None,
    json: Json = False,
) -> None:
    """Grid, orientation, spacing and range of a scan, and what predict would do with it.

    It ends with 65 where predict would refuse the scan. Of several DICOM series in a folder, an archive or the index of
    a disc a list, with the archives and the images of other formats beside them: 65 where none of the series is a
    volume, 1 where one is refused.
    """
    if scan == "-":
        from segcli.commands.running import from_stdin
        from segcli.formats.atomic import temporary_folder

        with temporary_folder() as name:
            _of(from_stdin(Path(name)), model, series, volume, form(affine), json)
        return
    _of(Path(scan), model, series, volume, form(affine), json)


def _of(scan: Path, model: str, series: str | None, volume: int | None, counts: Form | None, json: bool) -> None:
    """Print what there is to say of a scan, or of a place of several series; options and errors as of the command."""
    from segcli import formats
    from segcli.batch.dicom_cases import is_collection
    from segcli.batch.tree_cases import archives, images
    from segcli.models.library import find

    found = _found(scan) if series is None and (scan.is_dir() or is_collection(scan)) else ()
    rows, card = [_row(one) for one in found], find(model)
    tree = bool(rows) and scan.is_dir()
    beside = images(scan, card.channels, say) if tree else []
    packed = [{"archive": path.relative_to(scan).as_posix()} for path in archives(scan, None)] if tree else []
    several = len(rows) + len(beside) + len(packed) > 1
    if several or (rows and (rows[0]["problem"] or (volume is None and rows[0]["volumes"] > 1))):
        files = [{"image": case.name, "files": ", ".join(path.name for path in case.paths)} for case in beside]
        if json:
            print_json({"schema": SCHEMA, "series": rows, "images": files, "archives": packed})
        else:
            table(f"{scan.name}: DICOM series", [_shown(row) for row in rows])
            if files:
                table(f"{scan.name}: other images", files)
            if packed:
                table(f"{scan.name}: archives; info of one lists what is in it", packed)
        if (refused := _refusal(scan.name, found)) is not None:
            raise refused
        return
    paths = _only(scan, card) if scan.is_dir() and series is None and not found else [scan]
    read = formats.read(paths, affine=counts, series=series, volume=volume, channels=len(card.channels))
    try:
        facts, refusal = _facts(scan.name, read, card)
    except InputError as error:
        raise error.about(scan.name) from error
    if json:
        print_json({"schema": SCHEMA, **facts})
    else:
        for name, text in _lines(facts, read.grid, card).items():
            print_line(f"{name:8} {plain(text)}")
        for warning in facts["warnings"]:
            say(f"warning: {warning}")
    if refusal is not None:
        raise refusal


def _facts(name: str, read: Volume, card: ModelCard) -> tuple[Document, InputError | None]:
    """What the JSON document says of a scan; where predict would refuse it, `refused` is there, and that error.

    errors   InputError: not one voxel is finite
    """
    from segcli.inference.prepare import finite, prepare
    from segcli.inference.segment import window_count
    from segcli.results import record
    from segcli.results.scan_checks import beforehand
    from segcli.space.grids import model_grid

    source = read.source
    whole, _, doubts = finite(read)
    facts: Document = {
        "file": name,
        "grid": record.grid_facts(read.grid),
        "axes_ijk": read.grid.axes[::-1],
        "channels": read.data.shape[0],
        "dtype": str(read.data.dtype),
        "range": [float(whole.data.min()), float(whole.data.max())],
        "source": source.facts if source else None,
        "warnings": [*(source.warnings if source else ()), *doubts],
        "model": card.name,
        "model_grid": record.grid_facts(model_grid(read.grid, card.grid)),
    }
    try:
        if read.data.shape[0] != len(card.channels):
            wants = f"{counted(len(card.channels), 'channel')}: {', '.join(card.channels)}"
            raise InputError(f"{name}: has {counted(read.data.shape[0], 'channel')}, and {card.name} wants {wants}")
        facts["warnings"] += beforehand(whole, card, name)
    except InputError as error:
        facts["refused"] = f"{error.message}; {error.hint}" if error.hint else error.message
        return facts, error
    image = prepare(whole, card.procedure).image
    facts["cropped_to"] = list(image.grid.shape)
    facts["windows"] = window_count(image.grid, card.window)
    return facts, None


def _lines(facts: Document, grid: Grid, card: ModelCard) -> dict[str, str]:
    """What is printed of a scan, by the word at the beginning of the line."""
    from segcli.space.grids import model_grid

    wanted = model_grid(grid, card.grid)
    lines = {
        "file": facts["file"],
        "voxels": f"{times(grid.shape)} (D x H x W), {facts['dtype']}, {counted(facts['channels'], 'channel')}",
        "spacing": f"{times(grid.spacing)} mm",
        "axes": f"{facts['axes_ijk']} (where i, j, k point, as nibabel says it); as arrays, k, j, i: {grid.axes}"
        + (", sheared" if grid.sheared else ""),
        "range": f"{facts['range'][0]:g} to {facts['range'][1]:g}",
    }
    if "refused" in facts:
        return lines
    return {
        **lines,
        "predict": f"{card.name}: to {times(wanted.shape)} voxels of {times(wanted.spacing)} mm, axes {wanted.axes}",
        "windows": f"{facts['windows']} of {times(card.window.size)}, after a crop to {times(facts['cropped_to'])}",
    }


def _found(place: Path) -> tuple[DicomSeries, ...]:
    """The DICOM series of a folder, an archive or an index."""
    from segcli.formats.dicom import search as dicom

    return dicom.find(place, lambda _, error: say(f"warning: {error.message}"))


def _only(folder: Path, card: ModelCard) -> Sequence[Path]:
    """The files of the one scan in a folder without DICOM.

    errors   UsageError: it holds several; InputMissing: none
    """
    from segcli.batch.cases import cases

    there = cases([str(folder)], card.channels, tell=say)
    if len(there) > 1:
        first = f"{there[0].name} and {there[1].name}"
        raise UsageError(
            f"info takes one scan, and {folder.name} has {len(there)}: the first are {first}",
            hint=f"`segcli plan {folder}` says what all of them need",
        )
    if there[0].fault is not None:
        raise there[0].fault
    return there[0].paths


def _row(s: DicomSeries) -> Document:
    return {
        "series": s.name,
        "number": s.number,
        "modality": s.modality,
        "description": s.description,
        "files": len(s.files),
        "slices": s.summary.frames,
        "volumes": s.summary.volumes,
        "which": [{"volume": k, "what": what, "slices": n} for k, (what, n) in enumerate(s.summary.which, 1)],
        "shape": times(s.summary.shape) if s.summary.shape else None,
        "spacing": times(s.summary.spacing) if s.summary.spacing else None,
        "problem": s.summary.problem,
    }


def _shown(row: Document) -> Document:
    """A row of the table: its problem does not say again which series it is."""
    problem = (row["problem"] or "").removeprefix(f"{row['series']}: ")
    return {key: problem if key == "problem" else value for key, value in row.items() if key != "which"}


def _refusal(folder: str, found: Sequence[DicomSeries]) -> SegcliError | None:
    """What is wrong with the series of a folder that could be volumes; with one at least that is, scouts are no fault.

    returns  InputError (65) where none can be read, CasesFailed (1) where others can
    """
    could = [one for one in found if one.reason is None]
    wrong = [one for one in could or found if one.summary.problem]
    if not wrong:
        return None
    said = "; ".join(one.summary.problem or "" for one in wrong[:3]) + ("; ..." if len(wrong) > 3 else "")
    if len(found) == 1:
        return InputError(said).about(folder, wrong[0].name)
    if len(wrong) == len(could or found):
        return InputError(f"{folder}: {len(found)} DICOM series, none of which is a volume: {said}")
    return CasesFailed(f"{folder}: {len(wrong)} of {len(could)} DICOM series cannot be read: {said}")
