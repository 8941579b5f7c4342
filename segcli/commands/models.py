"""segcli models: list, get, info, import, inspect, networks, verify."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Annotated

import typer

from segcli.commands.graph_trial import gives_logits
from segcli.commands.options import Commands, Json, from_groups, output_option
from segcli.commands.terminal import SCHEMA, print_facts, print_json, print_line, say, table
from segcli.documents import Document
from segcli.errors import UsageError

if TYPE_CHECKING:
    from segcli.models.card import ModelCard
    from segcli.models.imports import WhichModel

commands = Commands(
    "models", help="Models: list, get, info, import, inspect, networks, verify.", invoke_without_command=True
)

TableKey = Annotated[
    str | None, typer.Option("--table", help="Which tensors, where a file holds several networks: ema, teacher, ...")
]


Available = Annotated[bool, typer.Option("--available", help="Public models that `get` knows, instead.")]


@commands.callback()
def models(context: typer.Context, available: Available = False, json: Json = False) -> None:
    """What models there are, what they lack, and where segcli looked."""
    if context.invoked_subcommand is None:
        show(available, json)
        return
    for name in ("available", "json"):
        if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE":
            raise UsageError(f"models --{name} {context.invoked_subcommand}: --{name} stands behind the command")


@commands.command("list")
def show(available: Available = False, json: Json = False) -> None:
    """The same as `segcli models` alone."""
    from segcli.models.library import installed, places

    if available:
        _available(json)
        return
    rows = [
        {
            "name": f.name,
            "channels": ", ".join(f.card.channels) if f.card else None,
            "structures": len(f.card.structures) if f.card else None,
            "licence": f.card.licence if f.card else None,
            "folder": str(f.folder),
            "problem": f.problem,
        }
        for f in installed()
    ]
    looked = [str(p) for p in places()]
    if json:
        print_json({"schema": SCHEMA, "models": rows, "looked_in": looked})
        return
    table("", rows)
    say("looked in: " + ", ".join(looked))


def _available(json: bool) -> None:
    """Print the catalogue: what can be got, or why not."""
    from segcli.models.catalogue import entries
    from segcli.models.in_place import is_installed
    from segcli.models.library import installed

    have = {f.name for f in installed()}
    rows = [
        {
            "name": e.id,
            "title": e.title,
            "modality": e.modality,
            "structures": len(e.structures) or None,
            "licence": e.licence,
            "installed": e.id in have or is_installed(e.id),
            "note": (e.lacks and f"not yet: {e.lacks}") or e.by_hand,
        }
        for e in entries().values()
    ]
    if json:
        print_json({"schema": SCHEMA, "models": rows})
        return
    shown = [
        {
            "name": e.id,
            "modality": e.modality,
            "structures": len(e.structures) or None,
            "here": "yes" if row["installed"] else "not yet" if e.lacks else "by hand" if e.by_hand else "",
            "title": shorten(e.title, 80, placeholder=" ..."),
            "licence": shorten(e.licence, 80, placeholder=" ..."),
        }
        for e, row in zip(entries().values(), rows, strict=True)
    ]
    table("", shown, one_line=True)
    say("`segcli models info NAME` says more of one, `segcli models get NAME` fetches and imports it")
    say("nothing is downloaded without it")


@commands.command()
def get(
    model: Annotated[str, typer.Argument(help="A name of --available, https://..., hf:OWNER/REPO, or a file.")],
    name: Annotated[str | None, typer.Option("--name", help="Name of the model; default the catalogue's.")] = None,
    output: Annotated[Path | None, output_option("Folder for the model's folder.")] = None,
    accept: Annotated[
        bool, typer.Option("--accept-licence", help="Of a licence that asks for more than to be named.")
    ] = False,
    print_urls: Annotated[bool, typer.Option("--print-urls", help="Print the addresses; fetch nothing.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model of that name.")] = False,
    json: Json = False,
) -> None:
    """Fetch a public model, check it and import it."""
    from segcli.commands.progress import downloading
    from segcli.models.library import data_home
    from segcli.models.obtain import FetchOptions, urls
    from segcli.models.obtain import get as obtain

    if print_urls:
        for address in urls(model):
            print_line(address)
        return
    notes: list[str] = []
    with downloading() as progress:
        folder = obtain(
            model,
            output or data_home() / "models",
            FetchOptions(name, accept, overwrite),
            tell=notes.append if json else lambda note: say(f"note: {note}"),
            progress=progress,
            tried=gives_logits,
        )
    _print_made(folder, notes, json)


@commands.command()
def info(
    model: Annotated[str, typer.Argument(help="A model that is here, or a name of --available.")], json: Json = False
) -> None:
    """The card in words: structures, spacing, network, folds, window, licence, source, citation."""
    from segcli.models.catalogue import entries
    from segcli.models.in_place import is_installed
    from segcli.models.library import find, installed

    known = entries().get(model)
    own = known is None or any(f.name == model for f in installed())
    here = own or is_installed(model)
    facts: Document = {"name": model, "title": known.title if known else None}
    if own:
        card = find(model)
        facts |= {"modality": card.modality, "channels": list(card.channels), "spacing_mm": card.grid.spacing}
        facts |= {"structures": [s.name for s in card.structures], "licence": card.licence, "source": card.source}
        facts |= _network_facts(card)
        facts |= {"parts": list(card.parts), "looks_where": card.rough.model if card.rough else None}
    elif known is not None:
        facts |= {"modality": known.modality, "spacing_mm": known.spacing_mm, "structures": list(known.structures)}
        facts |= {"licence": known.licence, "source": known.source, "looks_where": known.rough}
    facts |= {"citation": known.citation if known else None, "here": here}
    if json:
        print_json({"schema": SCHEMA, **facts})
        return
    if own:
        facts["structures"] = [f"{s.id} {s.name}" for s in card.structures]
    print_facts(facts)
    if known is not None and not here:
        say(known.way)


def _network_facts(card: ModelCard) -> Document:
    """What runs a model: network, folds where there are weights, window (d, h, w); nothing of a model of parts."""
    if card.parts:
        return {}
    size = None if card.window.whole else list(card.window.size)
    facts: Document = {"network": card.architecture.name, "folds": len(card.weights) or None}
    return facts | {"window_voxels": size, "overlap": size and card.window.overlap, "ensemble": list(card.ensemble)}


@dataclass(frozen=True)
class WhichOnes:
    """Which of several"""

    arch: Annotated[
        str | None, typer.Option("--arch", help="The network, where tensors fit several or others lie beside it.")
    ] = None
    tensors: TableKey = None
    configuration: Annotated[
        str | None, typer.Option("--configuration", help="Of several in nnU-Net's folder: 3d_fullres, 2d, ...")
    ] = None
    config: Annotated[
        str | None, typer.Option("--config", help="Of several in a MONAI bundle: inference_segresnet, ...")
    ] = None
    trainer: Annotated[str | None, typer.Option("--trainer", help="Of several: nnUNetTrainer, ...")] = None
    plans: Annotated[str | None, typer.Option("--plans", help="Of several: nnUNetPlans, ...")] = None
    folds: Annotated[
        str | None, typer.Option("--folds", help="Of nnU-Net: 0,1,2, or all: its fold_all; default every numbered one.")
    ] = None

    def wanted(self) -> WhichModel:
        from segcli.models.imports import WhichModel

        folds = tuple(part.strip() for part in self.folds.split(",")) if self.folds else ()
        return WhichModel(self.tensors, self.configuration, self.trainer, self.plans, folds, self.config)


@dataclass(frozen=True)
class CardFields:
    """Fields of the card"""

    labels: Annotated[
        str | None, typer.Option("--labels", help="liver=1,spleen=2, background,liver in the outputs' order, or JSON.")
    ] = None
    spacing: Annotated[str | None, typer.Option("--spacing", help="mm: 1.5,1.5,2; or keep.")] = None
    orientation: Annotated[str | None, typer.Option("--orientation", help="RAS; file or ijk keep it.")] = None
    window: Annotated[str | None, typer.Option("--window", help="Intensities low,high, mapped to 0..1.")] = None
    normalise: Annotated[str | None, typer.Option("--normalise", help="zscore, nonzero, none or LOW,HIGH,MEAN,SD.")] = (
        None
    )
    patch: Annotated[str | None, typer.Option("--patch", help="Voxels: 96,96,96.")] = None
    slice_axis: Annotated[int | None, typer.Option("--slice-axis", min=0, max=2, help="Of a 2-D network.")] = None
    slices: Annotated[
        int | None, typer.Option("--slices", min=1, help="Neighbouring slices that a 2-D network sees as channels.")
    ] = None
    channels: Annotated[str | None, typer.Option("--channels", help="CT, or T1,T2.")] = None
    overlap: Annotated[float | None, typer.Option("--overlap", help="Of windows.")] = None
    blend: Annotated[str | None, typer.Option("--blend", help="gaussian or constant.")] = None

    def given(self) -> Document:
        from segcli.models.imports import options

        return options(**{name: text for name, text in asdict(self).items() if text is not None})


@commands.command("import")
@from_groups("recipe", "name", "output", "overwrite", "json")
def import_model(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint file, an nnU-Net folder or a MONAI bundle.")],
    which: WhichOnes,
    card: CardFields,
    recipe: Annotated[
        str | None, typer.Option("--recipe", help="A published checkpoint's card: uxnet-amos, ...")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the model; default the file's.")] = None,
    output: Annotated[Path | None, output_option("Folder for the model's folder.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model of that name.")] = False,
    json: Json = False,
) -> None:
    """Turn a checkpoint into a model folder, without running code from it."""
    from segcli.models import imports
    from segcli.models.library import data_home

    notes: list[str] = []
    folder = imports.adopt(
        checkpoint,
        arch=which.arch,
        recipe=recipe,
        wanted=which.wanted(),
        name=name,
        to=output or data_home() / "models",
        given=card.given(),
        replace=overwrite,
        tell=notes.append,
        tried=gives_logits,
    )
    _print_made(folder, notes, json)
    for note in () if json else notes:
        say(f"note: {note}")


def _print_made(folder: Path, notes: list[str], json: bool) -> None:
    """Print a model folder that was made: its path, or one document with its card."""
    if json:
        from json import loads

        document = loads((folder / "model.json").read_text())
        print_json({"schema": SCHEMA, "folder": str(folder), "notes": notes, "card": document})
        return
    print_line(str(folder))


@commands.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="Any model file or folder.")],
    tensors: TableKey = None,
    json: Json = False,
) -> None:
    """Say what a file is, without running code from it."""
    from segcli.models import imports

    found = {**asdict(imports.inspect(file, wanted=imports.WhichModel(tensors))), "path": file.name}
    if json:
        print_json({"schema": SCHEMA, **found})
        return
    print_facts({key: value for key, value in found.items() if value != 0})


@commands.command()
def networks(json: Json = False) -> None:
    """Every network that checkpoints may be of: its paper, public weights, and what its tensors do not tell."""
    from segcli.models.catalogue import entries
    from segcli.networks.registry import known

    rows: list[Document] = []
    for name, (about, names) in known().items():
        public = [e.id for e in entries().values() if e.network in names and not e.lacks]
        rows.append({"name": name, **(asdict(about) if about else {}), "names": list(names), "public": public})
    if json:
        print_json({"schema": SCHEMA, "networks": rows})
        return
    for row in rows:
        untold = row.get("untold")
        print_line(f"{row['name']}  {row.get('title', '')}, {row.get('form', '')}")
        print_line(f"    paper           {row.get('paper', '')}")
        print_line(f"    public weights  {_first(row['public']) or row.get('weights') or 'none in the catalogue'}")
        print_line(f"    its tensors     tell all sizes{f', but not {untold}' if untold else ''}")
    say("`segcli models import` tells a network by its tensors and by what its container states")


def _first(names: list[str], most: int = 5) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


@commands.command()
def verify(
    file: Annotated[Path, typer.Argument(help="A model folder, an ONNX file, or the name of a model.")],
    json: Json = False,
) -> None:
    """Find a model that was tampered with or an export that drifts: exit 78."""
    from segcli.models.library import find

    if not file.exists() and (folder := find(str(file)).folder) is not None:
        file = folder
    certificate = _verified(file)
    if json:
        print_json({"schema": SCHEMA, "file": str(file), "certificate": certificate})
    else:
        print_line(f"{file.name}: verified")


def _verified(file: Path) -> Document:
    """The certificate of the export, empty where there is none; ModelError when something is not what it says it is."""
    from segcli.engines.export.verified import verify as compare
    from segcli.formats.streams import regular_size
    from segcli.models import imports
    from segcli.models.library import models_of

    if not file.is_dir():
        regular_size(file)  # a pipe is never opened
        return compare(file)
    certificates = [_compared(card) for card in models_of(imports.verify(file))]
    return certificates[0] if len(certificates) == 1 else {}


def _compared(card: ModelCard) -> Document:
    """The certificate of a card's graph, once every engine here answers as it says; empty where there is none."""
    from segcli.engines.export.certificate import DIGEST_KEY
    from segcli.engines.export.onnx_file import read
    from segcli.engines.export.verified import verify as compare
    from segcli.models.embedded import onnx_metadata

    if card.onnx is None:
        return {}
    graph = card.file(card.onnx)
    read(graph.read_bytes(), graph.name, card)
    # A file of somebody else's is what the card's checksum says, which has been compared, and holds no certificate.
    if card.onnx_sha256 and DIGEST_KEY not in onnx_metadata(graph):
        return {}
    return compare(graph)
