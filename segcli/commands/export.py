"""segcli export-onnx: a model as one ONNX file, compared with torch before it is kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segcli.commands.options import Affine, Commands, Json, Model, output_option
from segcli.commands.terminal import SCHEMA, print_json, print_line, say
from segcli.commands.values import form
from segcli.documents import Document
from segcli.errors import UsageError

if TYPE_CHECKING:
    from segcli.models.card import ModelCard

commands = Commands("export-onnx")


@commands.command("export-onnx")
def export_onnx(
    model: Model = "uxnet",
    output: Annotated[Path | None, output_option("The ONNX file, default NAME.onnx; a folder for several.")] = None,
    opset: Annotated[int, typer.Option("--opset", help="ONNX operator set.")] = 17,
    fp16: Annotated[bool, typer.Option("--fp16", help="Compute in float16.")] = False,
    verify: Annotated[Path | None, typer.Option("--verify", help="A scan whose windows are compared as well.")] = None,
    affine: Affine = None,
    json: Json = False,
) -> None:
    """Export a model to one ONNX file, compared with torch before it is kept.

    A model of several networks becomes a folder with a file for each.
    """
    from segcli.engines.export.folder import export_folder, file_of
    from segcli.engines.export.onnx_file import OPSETS
    from segcli.engines.export.verified import export_onnx as export
    from segcli.engines.export.verified import unclaimed
    from segcli.models.library import find

    counts = form(affine)
    if opset not in OPSETS:  # before a minute of work
        raise UsageError(
            f"--opset {opset}: is not one of {OPSETS[0]} to {OPSETS[-1]}", hint="leave it away: then it is 17"
        )
    card = find(model)

    def exported(own: ModelCard, path: Path) -> Document:
        return export(own, path, opset=opset, half=fp16, verify=verify, affine=counts)

    if card.parts or card.rough or card.previous:
        folder = output or Path(file_of(card.name).removesuffix(".onnx"))
        if folder.suffix.lower() == ".onnx" and not folder.is_dir():
            raise UsageError(f"{folder}: {card.name} is several networks, which become a folder", hint="name a folder")
        certificates = export_folder(card, folder, exported)
        if json:
            print_json({"schema": SCHEMA, "folder": str(folder), "certificates": certificates})
            return
        print_line(str(folder))
        for name, certificate in certificates.items():
            say(f"{name}: {_said(certificate)}")
        return
    path = output or Path(file_of(card.name))
    if path.suffix.lower() != ".onnx":
        other = path / file_of(card.name) if path.is_dir() else f"{path}.onnx"
        raise UsageError(f"{path}: the name of an ONNX file ends in .onnx", hint=f"name it {other}")
    unclaimed(path)  # before a minute of work
    certificate = exported(card, path)
    if json:
        print_json({"schema": SCHEMA, "file": str(path), "certificate": certificate})
    else:
        print_line(str(path))
        say(_said(certificate))


def _said(certificate: Document) -> str:
    error, equal = certificate["max_relative_error"], certificate["agreement"]
    return f"largest relative error {error:.1e}, equal labels {equal:.2%}"
