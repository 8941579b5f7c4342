"""The commands: parse, call, print. stdout is data, everything else is stderr."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segcli import __version__
from segcli.batch.outputs import offered
from segcli.errors import ModelError, UsageError, near

if TYPE_CHECKING:
    from collections.abc import Sequence
app = typer.Typer(
    name="segcli",
    help="Segment NIfTI and DICOM volumes on the scan's own grid. For research; not a medical device.",
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
models_app = typer.Typer(
    rich_markup_mode=None, help="Models: list, import, inspect, verify.", invoke_without_command=True
)
config_app = typer.Typer(rich_markup_mode=None, help="Settings and where they come from.", no_args_is_help=True)
app.add_typer(models_app, name="models")
app.add_typer(config_app, name="config")

Model = Annotated[str, typer.Option("--model", "-m", envvar="SEGCLI_MODEL", help="Name, folder or file of a model.")]
Out = Annotated[Path | None, typer.Option("-o", "--output", help="Folder for the outputs; `-`: label map to stdout.")]
Models = Annotated[  # paths, so that a variable with several is cut at ":" and not at spaces
    list[Path],
    typer.Option("--model", "-m", envvar="SEGCLI_MODEL", help="Name, folder or file; several: an ensemble."),
]
Channels = Annotated[list[str] | None, typer.Option("--channel", help="NAME=FILE, once for each channel.")]
MaxRAM = Annotated[str | None, typer.Option("--max-ram", help="Such as 4G.", envvar="SEGCLI_MAX_RAM")]
MaxVRAM = Annotated[str | None, typer.Option("--max-vram", help="Such as 6G.", envvar="SEGCLI_MAX_VRAM")]
Engine = Annotated[
    str, typer.Option("--engine", envvar="SEGCLI_ENGINE", help="auto, torch, onnx, openvino, or that of a package.")
]
Device = Annotated[str, typer.Option("--device", envvar="SEGCLI_DEVICE", help="auto, cpu, cuda or cuda:N.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Threads = Annotated[int | None, typer.Option("--threads", envvar="SEGCLI_THREADS", min=1, help="CPU threads.")]
Affine = Annotated[str | None, typer.Option("--affine", help="What counts in a NIfTI header: sform, qform or pixdim.")]
Series = Annotated[str | None, typer.Option("--series", help="Number or name of the DICOM series to take.")]
VolumeNumber = Annotated[int | None, typer.Option("--volume", min=1, help="Which volume of a 4-D DICOM series.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"segcli {__version__}")
        raise typer.Exit


@app.callback()
def settings(
    context: typer.Context,
    _: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_version)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; may stand anywhere. [SEGCLI_DEBUG]")] = False,
) -> None:
    from segcli.commands.settings import defaults, files, for_parameters

    context.obj = {"debug": debug}
    if files():
        commands: dict[str, Any] = context.command.commands  # type: ignore[attr-defined]
        options = {name: {_flag(p): p for p in c.params if _flag(p)} for name, c in commands.items()}
        flags = {name: {flag: p.name for flag, p in own.items()} for name, own in options.items()}
        by_name = {name: {p.name: p for p in own.values()} for name, own in options.items()}
        context.default_map = {
            name: {p: _setting(name, by_name[name][p], v) for p, v in values.items()}
            for name, values in for_parameters(defaults(), flags).items()
        }


def _setting(command: str, parameter: Any, value: Any) -> Any:
    """A value of a settings file as the command line would have it: a list, or its items with commas between.

    errors   ModelError (78) for true and false of an option that is no switch, and for anything else of one
    """
    if isinstance(value, bool) != bool(getattr(parameter, "is_flag", False)):
        from segcli.commands.settings import FILE

        raise ModelError(f"{FILE}: {command}: {_flag(parameter)} cannot be {str(value).lower()}")
    if getattr(parameter, "multiple", False):
        return value if isinstance(value, list) else [value]
    return ",".join(map(str, value)) if isinstance(value, list) else value


def _flag(parameter: Any) -> str:
    """The long flag of an option without dashes, with underscores; nothing for an argument."""
    long = next((flag for flag in parameter.opts if flag.startswith("--")), "")
    return str(long[2:].replace("-", "_"))


# ---- predict


@app.command()
def predict(
    context: typer.Context,
    inputs: Annotated[list[str] | None, typer.Argument(metavar="INPUT...", help="Scans: files, folders, `-`.")] = None,
    output: Out = None,
    model: Models = [Path("uxnet")],  # noqa: B006 - typer copies it
    engine: Engine = "auto",
    device: Device = "auto",
    overlap: Annotated[float | None, typer.Option("--overlap", help="Of windows, 0 to below 1.")] = None,
    classes: Annotated[str, typer.Option("--classes", help="Only these structures: names, numbers or codes.")] = "",
    channel: Channels = None,
    series: Series = None,
    volume: VolumeNumber = None,
    affine: Affine = None,
    fill_gaps: Annotated[bool, typer.Option("--fill-gaps", help="Interpolate missing DICOM slices; marked.")] = False,
    write: Annotated[
        list[str] | None,
        typer.Option("--write", help=f"{offered('--write')}; repeatable."),
    ] = None,
    seg_type: Annotated[str, typer.Option("--seg-type", help="binary, fractional or labelmap.")] = "binary",
    report: Annotated[list[str] | None, typer.Option("--report", help=f"{offered('--report')}; repeatable.")] = None,
    tables: Annotated[str, typer.Option("--tables", help=f"{offered('--tables')}; with commas between.")] = "",
    split: Annotated[bool, typer.Option("--split", help="One mask per structure as well.")] = False,
    layout: Annotated[str, typer.Option("--layout", help="flat or bids.")] = "flat",
    stats_format: Annotated[str, typer.Option("--stats-format", help="segcli or totalseg.")] = "segcli",
    tta: Annotated[bool, typer.Option("--tta", help="Average over mirrored copies, left and right swapped.")] = False,
    half: Annotated[bool, typer.Option("--half", help="float16 on CUDA.")] = False,
    skip_empty: Annotated[bool, typer.Option("--skip-empty", help="Windows of pure background are not run.")] = False,
    largest_component: Annotated[str, typer.Option("--largest-component", help="Structures, or all.")] = "",
    min_size: Annotated[float, typer.Option("--min-size", help="mL; smaller islands become background.")] = 0.0,
    fill_holes: Annotated[str, typer.Option("--fill-holes", help="Structures, or all.")] = "",
    fail_on: Annotated[str, typer.Option("--fail-on", help="review: a case that needs a look counts as failed.")] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace outputs that are not verified.")] = False,
    files_from: Annotated[str | None, typer.Option("--files-from", help="A list of inputs; `-` is stdin.")] = None,
    null: Annotated[bool, typer.Option("-0", help="The list is separated by NUL.")] = False,
    shard: Annotated[str | None, typer.Option("--shard", help="i/n, or slurm for job arrays.")] = None,
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", help="Dask: tcp://host:8786, or local:N.", envvar="SEGCLI_SCHEDULER")
    ] = None,
    threads: Threads = None,
    batch: Annotated[int | None, typer.Option("--batch", min=1, help="Windows at a time.")] = None,
    max_ram: MaxRAM = None,
    max_vram: MaxVRAM = None,
    identifiers: Annotated[
        bool, typer.Option("--include-identifiers", help="Let identifiers of patient and study into outputs.")
    ] = False,
    events: Annotated[str | None, typer.Option("--events", help="JSON lines to a file, stderr or stdout.")] = None,
    json_: Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Errors only.")] = False,
    verbose: Annotated[int, typer.Option("--verbose", "-v", count=True, help="More detail.")] = 0,
) -> None:
    """Label every voxel of each scan; write label map, record and what else is asked for."""
    from segcli.batch.cases import Given
    from segcli.batch.outputs import Destination, choices
    from segcli.batch.stages import Options
    from segcli.commands import predict as run
    from segcli.engines.opening import Opening

    streamed = output is not None and str(output) == "-"
    to = Destination(
        folder=None if streamed else output,
        overwrite=overwrite,
        forms=_each("--write", _several(write) or ("nifti",), choices("--write")),
        reports=_each("--report", _several(report), choices("--report")),
        tables=_each("--tables", _several([tables]), choices("--tables")),
        split=split,
        layout=_choice("--layout", layout, ("flat", "bids")),
        stats=_choice("--stats-format", stats_format, ("segcli", "totalseg")),
        seg_type=_choice("--seg-type", seg_type, ("binary", "fractional", "labelmap")),
        identifiers=identifiers,
    )
    if streamed and to != Destination(overwrite=overwrite, seg_type=to.seg_type, identifiers=identifiers):
        raise UsageError("-o - gives the label map alone", hint="name a folder with -o for what is written beside it")
    if overlap is not None and not 0 <= overlap < 1:
        raise UsageError(f"--overlap {overlap}: is at least 0 and below 1")
    if not 0 <= min_size < math.inf:
        raise UsageError(f"--min-size {min_size}: is a number of mL, at least 0")
    if json_ and events in ("stdout", "-"):
        raise UsageError("--json and --events stdout: one of them can have stdout", hint="give --events a file")
    options = Options(
        overlap=overlap,
        classes=_several([classes]),
        affine=_form(affine),
        skip=skip_empty,
        mirror=tta,
        half=half,
        fill_gaps=fill_gaps,
        largest=_several([largest_component]),
        min_size_ml=min_size,
        fill_holes=_several([fill_holes]),
    )
    opening = Opening(
        model=tuple(map(str, model)),
        engine=_engine(engine),
        device=device,
        threads=threads,
        batch=batch,
        mirror=tta,
        half=half,
        max_ram=_bytes("--max-ram", max_ram),
        max_vram=_bytes("--max-vram", max_vram),
        votes=to.votes,
    )
    manners = run.Manners(
        json=json_,
        quiet=quiet,
        verbose=verbose,
        events=events,
        debug=context.obj["debug"],
        fail_on_review=_choice("--fail-on", fail_on, ("", "review")) == "review",
    )
    named = _channels(channel)
    given = Given(tuple(inputs or ()), named, files_from, null, series, volume, shard)
    if "-" in given.inputs and (len(given.inputs) > 1 or named or files_from is not None):
        raise UsageError("- is one scan on stdin, alone", hint="a list of names on stdin is --files-from -")
    if streamed or given.inputs == ("-",):
        raise typer.Exit(run.piped(given, opening, to, options, manners, to_stdout=streamed))
    raise typer.Exit(run.batch(given, opening, to, options, manners, scheduler))


# ---- one scan or label map


@app.command()
def info(
    scan: Annotated[Path, typer.Argument(help="A scan, or a folder of DICOM.")],
    model: Model = "uxnet",
    series: Series = None,
    volume: VolumeNumber = None,
    affine: Affine = None,
    json_: Json = False,
) -> None:
    """Grid, orientation, spacing and range of a scan, and what predict would do with it."""
    from segcli.commands import answers

    answers.info(scan, model, series=series, volume=volume, affine=_form(affine), as_json=json_)


@app.command()
def plan(
    scan: Annotated[str | None, typer.Argument(help="A scan, or a folder of DICOM.")] = None,
    model: Models = [Path("uxnet")],  # noqa: B006 - typer copies it
    channel: Channels = None,
    series: Series = None,
    volume: VolumeNumber = None,
    affine: Affine = None,
    engine: Engine = "auto",
    device: Device = "auto",
    threads: Threads = None,
    max_ram: MaxRAM = None,
    max_vram: MaxVRAM = None,
    json_: Json = False,
) -> None:
    """Windows, time, memory and disk that predict would need, before anything runs."""
    from segcli.batch.cases import Given
    from segcli.commands import answers
    from segcli.engines.opening import Opening

    opening = Opening(
        model=tuple(map(str, model)),
        engine=_engine(engine),
        device=device,
        threads=threads,
        max_ram=_bytes("--max-ram", max_ram),
        max_vram=_bytes("--max-vram", max_vram),
    )
    given = Given(() if scan is None else (scan,), _channels(channel), series=series, volume=volume)
    answers.plan(given, opening, affine=_form(affine), as_json=json_)


@app.command("export-onnx")
def export_onnx(
    model: Model = "uxnet",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The ONNX file; default NAME.onnx.")] = None,
    opset: Annotated[int, typer.Option("--opset", help="ONNX operator set.")] = 17,
    fp16: Annotated[bool, typer.Option("--fp16", help="Compute in float16.")] = False,
    verify: Annotated[Path | None, typer.Option("--verify", help="A scan whose windows are compared as well.")] = None,
    affine: Affine = None,
    json_: Json = False,
) -> None:
    """Export a model to one ONNX file, compared with torch before it is kept."""
    from segcli.commands import answers

    answers.export(model, output, opset=opset, half=fp16, verify=verify, affine=_form(affine), as_json=json_)


@app.command()
def evaluate(
    prediction: Annotated[Path, typer.Argument(help="A label map, or a folder of them.")],
    reference: Annotated[Path, typer.Argument(help="The reference label map, or a folder with the same names.")],
    model: Annotated[str | None, typer.Option("--model", help="Names the labels; else they are numbers.")] = None,
    labels: Annotated[str, typer.Option("--labels", help="Only these names or numbers, comma-separated.")] = "",
    tolerance: Annotated[float, typer.Option("--tolerance", min=0, help="Of the surface Dice, mm.")] = 1.0,
    resample: Annotated[bool, typer.Option("--resample", help="Bring the prediction onto another grid.")] = False,
    affine: Affine = None,
    other: Annotated[Path | None, typer.Option("--against", help="A second prediction, compared pairwise.")] = None,
    json_: Json = False,
    csv: Annotated[bool, typer.Option("--csv", help="CSV on stdout.")] = False,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page as well.")] = None,
) -> None:
    """Dice, IoU, HD95, ASSD, surface Dice and volume bias; missed and invented structures count."""
    from segcli.commands import answers

    if not tolerance < math.inf:
        raise UsageError(f"--tolerance {tolerance}: is a number of mm")
    answers.evaluate(
        prediction,
        reference,
        model=model,
        labels=_several([labels]),
        tolerance=tolerance,
        resample=resample,
        affine=_form(affine),
        against=other,
        form="json" if json_ else "csv" if csv else "table",
        html=html,
    )


@app.command()
def report(
    labelmap: Annotated[Path, typer.Argument(help="A label map that exists already.")],
    model: Model = "uxnet",
    image: Annotated[Path | None, typer.Option("--image", help="The scan it belongs to.")] = None,
    affine: Affine = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder; default beside the label map.")] = None,
    forms: Annotated[list[str] | None, typer.Option("--report", help=f"{offered('--report')}; repeatable.")] = None,
    tables: Annotated[str, typer.Option("--tables", help=f"{offered('--tables')}; with commas between.")] = "",
    split: Annotated[bool, typer.Option("--split", help="One mask per structure as well.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that are there.")] = False,
    json_: Json = False,
) -> None:
    """Volumes, checks, tables and pages for a label map that exists already."""
    from segcli.batch.outputs import Destination, choices
    from segcli.commands import answers

    to = Destination(
        folder=output,
        overwrite=overwrite,
        reports=_each("--report", _several(forms) or ("html",), choices("--report")),
        tables=_each("--tables", _several([tables]), choices("--tables")),
        split=split,
    )
    answers.report(labelmap, model, image, to, affine=_form(affine), as_json=json_)


# ---- models, settings, the machine


@models_app.callback()
def models(context: typer.Context, json_: Json = False) -> None:
    """What models there are, what they lack, and where segcli looked."""
    if context.invoked_subcommand is None:
        from segcli.commands import answers

        answers.models(as_json=json_)


@models_app.command("list")
def list_models(json_: Json = False) -> None:
    """The same as `segcli models` alone."""
    from segcli.commands import answers

    answers.models(as_json=json_)


@models_app.command("import")
def import_model(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint file, an nnU-Net folder or a MONAI bundle.")],
    arch: Annotated[str | None, typer.Option("--arch", help="The network, where the tensors fit several.")] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="A published checkpoint's card: uxnet-amos, ...")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the model; default the file's.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Folder for the model's folder.")] = None,
    labels: Annotated[
        str | None, typer.Option("--labels", help="liver=1,spleen=2, background,liver in the outputs' order, or JSON.")
    ] = None,
    spacing: Annotated[str | None, typer.Option("--spacing", help="mm: 1.5,1.5,2; or keep.")] = None,
    orientation: Annotated[str | None, typer.Option("--orientation", help="RAS, or file to keep it.")] = None,
    window: Annotated[str | None, typer.Option("--window", help="Intensities low,high, mapped to 0..1.")] = None,
    normalise: Annotated[
        str | None, typer.Option("--normalise", help="zscore, nonzero, none or LOW,HIGH,MEAN,SD.")
    ] = None,
    patch: Annotated[str | None, typer.Option("--patch", help="Voxels: 96,96,96.")] = None,
    slice_axis: Annotated[int | None, typer.Option("--slice-axis", min=0, max=2, help="Of a 2-D network.")] = None,
    slices: Annotated[
        int | None, typer.Option("--slices", min=1, help="Neighbouring slices that a 2-D network sees as channels.")
    ] = None,
    channels: Annotated[str | None, typer.Option("--channels", help="CT, or T1,T2.")] = None,
    overlap: Annotated[float | None, typer.Option("--overlap", help="Of windows.")] = None,
    blend: Annotated[str | None, typer.Option("--blend", help="gaussian or constant.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model of that name.")] = False,
    json_: Json = False,
) -> None:
    """Turn a checkpoint into a model folder, without running code from it."""
    from segcli.commands import answers

    given = {
        "labels": labels,
        "spacing": spacing,
        "orientation": orientation,
        "window": window,
        "normalise": normalise,
        "patch": patch,
        "slice_axis": slice_axis,
        "slices": slices,
        "channels": channels,
        "overlap": overlap,
        "blend": blend,
    }
    answers.import_model(
        checkpoint,
        arch=arch,
        recipe=recipe,
        name=name,
        output=output,
        replace=overwrite,
        given=given,
        as_json=json_,
    )


@models_app.command()
def inspect(file: Annotated[Path, typer.Argument(help="Any model file or folder.")], json_: Json = False) -> None:
    """Say what a file is, without running code from it."""
    from segcli.commands import answers

    answers.inspect(file, as_json=json_)


@models_app.command()
def verify(file: Annotated[Path, typer.Argument(help="A model folder or an ONNX file.")], json_: Json = False) -> None:
    """Find a model that was tampered with or an export that drifts: exit 78."""
    from segcli.commands import answers

    answers.verify(file, as_json=json_)


@config_app.command("show")
def config_show(json_: Json = False) -> None:
    """Each setting of predict with its value and where it comes from."""
    from segcli.commands import answers

    command = typer.main.get_command(app).commands["predict"]  # type: ignore[attr-defined]
    options = [p for p in command.params if _flag(p)]
    variables = {_flag(p): str(p.envvar) for p in options if p.envvar}
    answers.config_show({_flag(p): p.default for p in options}, variables, as_json=json_)


@app.command()
def doctor(json_: Json = False) -> None:
    """Run a small 3-D convolution on each engine; versions, cores, memory, where models are looked for."""
    from segcli.commands import answers

    raise typer.Exit(answers.doctor(as_json=json_))


# ---- values of options


def _several(values: Sequence[str] | None) -> tuple[str, ...]:
    return tuple(part.strip() for value in values or () for part in value.split(",") if part.strip())


def _engine(name: str) -> str:
    from segcli.engines.table import engines

    return str(_choice("--engine", name, ("auto", *engines())))


def _choice(option: str, value: Any, choices: tuple[Any, ...]) -> Any:
    if value not in choices:
        words = [choice for choice in choices if choice]
        raise UsageError(f"{option} {value}: is not one of {', '.join(words)}{near(str(value), words)}")
    return value


def _form(affine: str | None) -> Any:
    return _choice("--affine", affine, (None, "sform", "qform", "pixdim"))


def _each(option: str, values: tuple[str, ...], choices: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        _choice(option, value, choices)
    return values


def _channels(texts: Sequence[str] | None) -> dict[str, str]:
    """Channel -> file."""
    found: dict[str, str] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise UsageError(f"--channel {text}: is not of the form NAME=FILE")
        if name.lower() in map(str.lower, found):
            raise UsageError(f"--channel {name}: is given twice", hint="several scans of one channel are inputs")
        found[name] = value
    return found


def _bytes(option: str, text: str | None) -> int | None:
    """4G, 500M, 4GiB: powers of 1024."""
    if text is None:
        return None
    import re

    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", text.strip(), re.IGNORECASE)
    if not match:
        raise UsageError(f"{option} {text}: is not a size such as 4G or 500M")
    return int(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " "))


# ---- how a process ends
