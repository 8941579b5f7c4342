"""segcli predict: label every voxel of each scan; write label map, record and what else is asked for.

Each group of options is a frozen dataclass, and makes the value of one stage. An option more is a field here with its
line in the group's method, and a field in the value of its stage.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segcli.batch.outputs import offered
from segcli.commands.options import (
    Affine,
    AllowLabelMap,
    Arithmetic,
    Average,
    Commands,
    Device,
    Engine,
    Faithful,
    Json,
    KeepIslands,
    MaxRAM,
    MaxVRAM,
    Models,
    Reports,
    Split,
    Tables,
    Threads,
    from_groups,
    output_option,
)
from segcli.commands.outcomes import FAIL_ON, Manners
from segcli.commands.running import Workers, batch, piped
from segcli.commands.scans import Scans
from segcli.commands.terminal import say
from segcli.commands.values import all_choices, averaged, choice, engine_named, form, precision_named, several, size
from segcli.errors import SegcliError, UsageError

if TYPE_CHECKING:
    from segcli.batch.cases import Given
    from segcli.batch.outputs import Destination, Option
    from segcli.batch.stages import Options
    from segcli.engines.opening import Opening
    from segcli.engines.precision import Precision

commands = Commands("predict")


# ---- options


@dataclass(frozen=True)
class Outputs:
    """What is written"""

    output: Annotated[
        str | None,  # a slash at its end counts
        output_option("Folder, default beside each scan; a file for one; `-`: to stdout.", str),
    ] = None
    write: Annotated[
        list[str] | None,
        typer.Option("--write", help=f"{offered('--write')}; repeatable."),
    ] = None
    seg_type: Annotated[str, typer.Option("--seg-type", help="binary, fractional or labelmap.")] = "binary"
    series_description: Annotated[
        str | None, typer.Option("--series-description", help="Of DICOM objects; default: segcli and the model.")
    ] = None
    series_number: Annotated[
        int | None, typer.Option("--series-number", min=1, help="Of a DICOM Segmentation; RTSTRUCT + 1, SR + 2.")
    ] = None
    content_date: Annotated[
        str, typer.Option("--content-date", help="Of DICOM objects: source (equal bytes each time) or now.")
    ] = "source"
    anonymous: Annotated[bool, typer.Option("--anonymous", help="DICOM objects without patient and dates.")] = False
    report: Reports = None
    tables: Tables = ""
    split: Split = False
    layout: Annotated[str, typer.Option("--layout", help="flat or bids.")] = "flat"
    stats_format: Annotated[str, typer.Option("--stats-format", help="segcli or totalseg.")] = "segcli"
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace outputs that are not verified.")] = False
    identifiers: Annotated[
        bool, typer.Option("--include-identifiers", help="Let identifiers of patient and study into outputs.")
    ] = False

    @property
    def streamed(self) -> bool:
        """Whether the label map goes to stdout."""
        return self.output == "-"

    @property
    def kinds(self) -> dict[Option, tuple[str, ...]]:
        """What was given to each option that names kinds of outputs."""
        return {
            "--write": several(*self.write or ()),
            "--report": several(*self.report or ()),
            "--tables": several(self.tables),
        }

    def option_of(self, kind: str) -> str | None:
        """The option that a kind of output is one of, with what was given to it; None where nothing was."""
        from segcli.batch.outputs import choices

        given = ((option, named) for option, named in self.kinds.items() if named)
        return next((f"{option} {','.join(named)}" for option, named in given if kind in choices(option)), None)

    def destination(self) -> Destination:
        from segcli.batch.names import folder_or_file
        from segcli.batch.objects import Objects
        from segcli.batch.outputs import Destination, choices

        folder, file = (None, None) if self.output is None or self.streamed else folder_or_file(self.output)
        made = {option: all_choices(option, named, choices(option)) for option, named in self.kinds.items()}
        to = Destination(
            folder=folder,
            file=file,
            overwrite=self.overwrite,
            forms=made["--write"] or ("nifti",),
            reports=made["--report"],
            tables=made["--tables"],
            split=self.split,
            layout=choice("--layout", self.layout, ("flat", "bids")),
            stats=choice("--stats-format", self.stats_format, ("segcli", "totalseg")),
            seg_type=choice("--seg-type", self.seg_type, ("binary", "fractional", "labelmap")),
            identifiers=self.identifiers,
            dicom=Objects(
                self.series_description,
                self.series_number,
                choice("--content-date", self.content_date, ("source", "now")),
                self.anonymous,
            ),
        )
        alone = Destination(overwrite=to.overwrite, seg_type=to.seg_type, identifiers=to.identifiers)
        if self.streamed and to != alone:
            raise UsageError(
                "-o - gives the label map alone", hint="name a folder with -o for what is written beside it"
            )
        if to.file is not None and to.layout == "bids":
            raise UsageError(
                f"-o {to.file}: a BIDS tree needs a folder", hint="leave --layout bids away, or the ending"
            )
        return to


@dataclass(frozen=True)
class Labelling:
    """How a scan is read and labelled"""

    overlap: Annotated[float | None, typer.Option("--overlap", help="Of windows, 0 to below 1.")] = None
    classes: Annotated[str, typer.Option("--classes", help="Only these structures: names, numbers, codes, *.")] = ""
    affine: Affine = None
    fill_gaps: Annotated[bool, typer.Option("--fill-gaps", help="Interpolate missing DICOM slices; marked.")] = False
    allow_label_map: AllowLabelMap = False
    tta: Annotated[bool, typer.Option("--tta", help="Average over mirrored copies, left and right swapped.")] = False
    average: Average = None
    faithful: Faithful = False
    keep_islands: KeepIslands = False
    precision: Arithmetic = "auto"
    fast: Annotated[
        bool, typer.Option("--fast", help="Quarter overlap, and bfloat16 on a CPU that has it: see `help engines`.")
    ] = False
    half: Annotated[bool, typer.Option("--half", help="An old word for --precision auto, that goes.")] = False
    skip_empty: Annotated[bool, typer.Option("--skip-empty", help="Windows of pure background are not run.")] = False
    largest_component: Annotated[str, typer.Option("--largest-component", help="Structures, or all.")] = ""
    min_size: Annotated[float, typer.Option("--min-size", help="mL; smaller islands become background.")] = 0.0
    fill_holes: Annotated[str, typer.Option("--fill-holes", help="Structures, or all.")] = ""

    @property
    def asked(self) -> Precision:
        asked = precision_named(self.precision)
        if asked != "auto" and (self.half or self.fast):
            raise UsageError(f"--precision {asked} and --{'half' if self.half else 'fast'}: give one of them")
        return "fast" if self.fast else asked

    def options(self) -> Options:
        from segcli.batch.stages import Options

        if self.overlap is not None and not 0 <= self.overlap < 1:
            raise UsageError(f"--overlap {self.overlap}: is at least 0 and below 1")
        if not 0 <= self.min_size < math.inf:
            raise UsageError(f"--min-size {self.min_size}: is a number of mL, at least 0")
        return Options(
            average=averaged(self.average),
            faithful=self.faithful,
            keep_islands=self.keep_islands,
            overlap=self.overlap,
            classes=several(self.classes),
            affine=form(self.affine),
            skip=self.skip_empty,
            mirror=self.tta,
            precision=self.asked,
            fill_gaps=self.fill_gaps,
            largest=several(self.largest_component),
            min_size_ml=self.min_size,
            fill_holes=several(self.fill_holes),
            label_map=self.allow_label_map,
        )


@dataclass(frozen=True)
class Machine:
    """Model, engine and memory"""

    model: Models = (Path("uxnet"),)  # type: ignore[assignment]  # typer makes it a list
    engine: Engine = "auto"
    device: Device = "auto"
    threads: Threads = None
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Windows at a time.")] = None
    max_ram: MaxRAM = None
    max_vram: MaxVRAM = None
    jobs: Annotated[
        str,
        typer.Option("--jobs", envvar="SEGCLI_JOBS", help="Cases at a time, each with its cores; or auto."),
    ] = "1"
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", help="Dask: tcp://host:8786, or local:N.", envvar="SEGCLI_SCHEDULER")
    ] = None

    @property
    def workers(self) -> Workers:
        if self.jobs != "auto" and not (self.jobs.isascii() and self.jobs.isdecimal() and 1 <= int(self.jobs) <= 1024):
            raise UsageError(f"--jobs {self.jobs}: is neither auto nor a number from 1 to 1024")
        if self.jobs != "1" and self.scheduler is not None:
            raise UsageError("--jobs and --scheduler: give one of them", hint="local:N is Dask's own way")
        return Workers(self.scheduler, None if self.jobs == "auto" else int(self.jobs))

    def opening(self, options: Options, to: Destination) -> Opening:
        from segcli.engines.opening import Opening

        return Opening(
            model=tuple(map(str, self.model)),
            engine=engine_named(self.engine),
            device=self.device,
            threads=self.threads,
            batch=self.batch,
            mirror=options.mirror,
            precision=options.precision,
            max_ram=size("--max-ram", self.max_ram),
            max_vram=size("--max-vram", self.max_vram),
            votes=to.votes,
            classes=options.classes,
        )


@dataclass(frozen=True)
class Talk:
    """What is told"""

    fail_on: Annotated[
        str,
        typer.Option("--fail-on", help="review or fail: that verdict or a worse one ends with 1; the case is done."),
    ] = ""
    events: Annotated[str | None, typer.Option("--events", help="JSON lines to a file, stderr or stdout.")] = None
    json: Json = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Errors only.")] = False
    verbose: Annotated[int, typer.Option("--verbose", "-v", count=True, show_default=False, help="More detail.")] = 0

    def manners(self, debug: bool) -> Manners:
        if self.json and self.events in ("stdout", "-"):
            raise UsageError("--json and --events stdout: one of them can have stdout", hint="give --events a file")
        return Manners(
            json=self.json,
            quiet=self.quiet,
            verbose=self.verbose,
            events=self.events,
            debug=debug,
            fail_on=choice("--fail-on", self.fail_on, tuple(FAIL_ON)),
        )


@commands.command()
@from_groups("output", "model", "classes", "write", "report", "device", "tta", "overwrite", "json", "quiet")
def predict(
    context: typer.Context, scans: Scans, outputs: Outputs, labelling: Labelling, machine: Machine, talk: Talk
) -> None:
    """Label every voxel of each scan; write label map, record and what else is asked for."""
    to = outputs.destination()
    options = labelling.options()
    opening = machine.opening(options, to)
    manners, workers = talk.manners(context.obj["debug"]), machine.workers
    given = replace(scans.given(), label_maps=options.label_map)
    _in_their_places(given, outputs, options.classes, opening.model[0])
    if labelling.half and not manners.quiet:
        say("warning: --half is now --precision auto, the default, and goes in the next version")
    if outputs.streamed or given.inputs == ("-",):
        raise typer.Exit(piped(given, opening, to, options, manners, to_stdout=outputs.streamed))
    raise typer.Exit(batch(given, opening, to, options, manners, workers))


def _in_their_places(given: Given, outputs: Outputs, classes: Sequence[str], model: str) -> None:
    """Refuse what is no scan and was meant for an option, before a scan is labelled: UsageError.

    Other programs are told `SCAN FOLDER`, and BIDS labels, structures and kinds of files with spaces between.
    """
    if len(given.inputs) < 2:
        return
    for word in given.inputs:
        if os.path.lexists(word) or not re.fullmatch("[A-Za-z0-9_-]+", word):
            continue
        hint = ""
        if option := outputs.option_of(word):
            hint = f"several kinds have commas between them: {option},{word}"
        elif classes and _is_structure(word, model):
            hint = f"several structures have commas between them: --classes {','.join(classes)},{word}"
        elif given.select.of_labels:
            hint = f"several labels have commas between them: --participant-label 01,{word.removeprefix('sub-')}"
        elif outputs.output is None and given.inputs[1:] == (word,):
            hint = f"a folder for the results is named with -o {word}"
        if hint:
            raise UsageError(f"{word}: no such file or folder", hint=hint)


def _is_structure(word: str, model: str) -> bool:
    """Whether a model has a structure of that name."""
    from segcli.models.library import find
    from segcli.structures import chosen

    with suppress(SegcliError):
        return bool(chosen(find(model).structures, [word], "--classes"))
    return False
