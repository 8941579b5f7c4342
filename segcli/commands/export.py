"""segcli export-onnx: a model as one ONNX file, compared with torch before it is kept."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from segcli.commands.options import Affine, Commands, Json, Model, form
from segcli.commands.terminal import SCHEMA, print_json, print_line, say
from segcli.errors import ModelError, UsageError

commands = Commands("export-onnx")


@commands.command("export-onnx")
def export_onnx(
    model: Model = "uxnet",
    output: Annotated[Path | None, typer.Option("-o", "--output", help="The ONNX file; default NAME.onnx.")] = None,
    opset: Annotated[int, typer.Option("--opset", help="ONNX operator set.")] = 17,
    fp16: Annotated[bool, typer.Option("--fp16", help="Compute in float16.")] = False,
    verify: Annotated[Path | None, typer.Option("--verify", help="A scan whose windows are compared as well.")] = None,
    affine: Affine = None,
    json: Json = False,
) -> None:
    """Export a model to one ONNX file, compared with torch before it is kept."""
    from segcli.engines.export.verified import export_onnx as export
    from segcli.formats import atomic
    from segcli.models.library import find

    counts = form(affine)
    card = find(model)
    if card.parts:
        raise UsageError(f"{card.name} is made of {', '.join(card.parts)}", hint="export each of them")
    path = output or Path(re.sub(r"[^A-Za-z0-9_-]", "_", card.name) + ".onnx")  # the name comes from a file
    atomic.unclaimed(path, own=lambda _: _is_export(path))
    certificate = export(card, path, opset=opset, half=fp16, verify=verify, affine=counts)
    if json:
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
