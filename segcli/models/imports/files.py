"""What one file states: a checkpoint, or an ONNX graph, perhaps with a card inside."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from segcli.errors import ModelError
from segcli.models import checkpoint, embedded
from segcli.models.imports import auto3dseg, brainchop, nnunet, nnunet_v1
from segcli.models.imports.graph import ends
from segcli.models.imports.source import ModelSource, Named, Stated
from segcli.networks.registry import Inferred

# Fields of the card inside a file that the new card gets anew.
_OWN = ("weights", "sha256", "onnx", "onnx_sha256", "engines", "architecture", "format", "name")


def file(path: Path, *, told: bool, table: str | None = None) -> ModelSource:
    """A file of any kind.

    told     whether the user says what network it holds, so that plans inside it are not asked
    table    the key of the table of tensors that is wanted
    errors   ModelError: not a regular file; unsafe, damaged, or of no kind that segcli knows
    """
    if not path.is_file():
        raise ModelError(f"{path.name}: not a regular file")
    if path.suffix == ".onnx":
        return _graph(path)
    if path.suffix == ".model" and Path(f"{path}.pkl").is_file():
        return nnunet_v1.file(path, table)
    stored = checkpoint.read(path)
    if nnunet.is_checkpoint(stored.content) and not told:
        return nnunet.file(stored, table)
    described = brainchop.layers(path.parent)
    if described is not None and not told and table is None:
        return brainchop.source(path, stored, described)
    return _checkpoint(path, stored, table)


def _checkpoint(path: Path, stored: checkpoint.Stored, table: str | None) -> ModelSource:
    inside = None
    if stored.container == "safetensors":
        inside = embedded.safetensors_metadata(path).get(embedded.METADATA_KEY)
    card = embedded.card_inside(inside, path) if inside is not None else {}
    fields = {k: v for k, v in card.items() if k not in _OWN}
    table, notes = (table, _equal(stored, table)) if table else checkpoint.taken(stored)
    config = auto3dseg.configuration(stored.content)
    states = partial(auto3dseg.stated, config) if config is not None else lambda _: Stated(fields)
    return ModelSource(_container(stored), path.name, [checkpoint.innermost_table(stored, table)], states, notes=notes)


def _equal(stored: checkpoint.Stored, table: str) -> list[str]:
    """A sentence about a table that is wanted and equals the one that is taken without a wish."""
    wanted, usual = checkpoint.innermost_table(stored, table), checkpoint.innermost_table(stored)
    others = [key for keys in checkpoint.sister_tables(stored) for key in keys][:1]
    same = wanted.keys() == usual.keys() and all(wanted[name].equal(tensor) for name, tensor in usual.items())
    return [f"the networks {table} and {key} are equal" for key in others if same and key != table]


def _graph(path: Path) -> ModelSource:
    """An ONNX file: what the card inside it says, or nothing but the file."""
    inside = embedded.onnx_metadata(path).get(embedded.METADATA_KEY)
    document = embedded.card_inside(inside, path) if inside is not None else {}
    architecture = document.get("architecture", {})
    if not isinstance(architecture, dict):
        raise ModelError(f"{path.name}: the card inside has an architecture that is no object with fields")
    fields = {k: v for k, v in document.items() if k not in _OWN}
    arguments = {k: v for k, v in architecture.items() if k != "name"}
    found = ends(path) if inside is None else None
    notes = []
    if found is not None and found.last:
        fields["average"] = "probabilities"
        notes = [f"the graph ends with {found.last}: what it gives is taken for probabilities"]
    return ModelSource(
        "ONNX graph" if inside is None else "ONNX graph with a card inside",
        path.name,
        folds=[],
        states=lambda _: Stated(fields),
        named=Named("the graph", Inferred(str(architecture.get("name", "onnx")), arguments)),
        notes=notes,
        onnx=path,
        ends=found,
    )


def _container(stored: checkpoint.Stored) -> str:
    if stored.container == "safetensors":
        return "safetensors"
    kind, content = f"{stored.container} checkpoint", stored.content
    if not isinstance(content, dict):
        return kind
    if "pytorch-lightning_version" in content:
        return f"Lightning checkpoint ({kind})"
    named = next((key for key in checkpoint.TABLES if isinstance(content.get(key), Mapping)), None)
    return f"{kind}, tensors under {named!r}" if named else f"{kind}, tensors alone"
