"""One checkpoint file, or one ONNX graph, as the draft of a card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from segcli.errors import ModelError
from segcli.models import embedded, weights
from segcli.models.imports import nnunet
from segcli.models.imports.draft import Draft, network_in, shapes_of
from segcli.networks import registry
from segcli.networks.registry import Inferred

# Fields of the card inside a file that the new card gets from the draft, or anew.
_OWN = ("weights", "sha256", "onnx", "onnx_sha256", "architecture", "format", "name")


def checkpoint_file(path: Path, arch: str | None, expected: Inferred | None) -> Draft:
    """The draft of a file of tensors.

    arch      the user's choice among networks that fit
    expected  a recipe's network, which the tensors must then be exactly
    """
    stored = weights.read(path)
    if _is_nnunet_v2(stored.content) and arch is None and expected is None:
        return nnunet.v2_file(stored)
    whole = nnunet.renamed(weights.table(stored))
    tensors, notes = _part(whole, expected)
    shapes = shapes_of(tensors)
    guess = network_in(shapes, arch, expected, path.name)
    draft = Draft(_container(stored), guess.family, dict(guess.config), [tensors], notes=notes, open=guess.open)
    draft.notes += guess.unsure
    if stored.container == "safetensors":
        inside = embedded.safetensors_metadata(path).get(embedded.METADATA_KEY)
        if inside is not None:
            draft.card = {k: v for k, v in embedded.card_inside(inside, path).items() if k not in _OWN}
    return draft


def graph_file(path: Path) -> Draft:
    """The draft of an ONNX file: what the card inside it says, or nothing but the file."""
    inside = embedded.onnx_metadata(path).get(embedded.METADATA_KEY)
    draft = Draft("ONNX graph", "onnx", {}, [], onnx=path)
    if inside is not None:
        document = embedded.card_inside(inside, path)
        architecture = document.get("architecture", {})
        if not isinstance(architecture, dict):
            raise ModelError(f"{path.name}: the card inside has an architecture that is no object with fields")
        draft.family = str(architecture.get("name", "onnx"))
        draft.arguments = {k: v for k, v in architecture.items() if k != "name"}
        draft.card = {k: v for k, v in document.items() if k not in _OWN}
        draft.container = "ONNX graph with a card inside"
    return draft


def _is_nnunet_v2(content: Any) -> bool:
    init = content.get("init_args") if isinstance(content, dict) else None
    return isinstance(init, dict) and {"plans", "dataset_json"} <= init.keys() and "network_weights" in content


def _container(stored: weights.Stored) -> str:
    if stored.container == "safetensors":
        return "safetensors"
    kind, content = f"{stored.container} checkpoint", stored.content
    if not isinstance(content, dict):
        return kind
    if "pytorch-lightning_version" in content:
        return f"Lightning checkpoint ({kind})"
    named = next((key for key in weights.TABLES if isinstance(content.get(key), Mapping)), None)
    return f"{kind}, tensors under {named!r}" if named else f"{kind}, tensors alone"


def _part(whole: Mapping[str, Tensor], expected: Inferred | None) -> tuple[dict[str, Tensor], list[str]]:
    """The network's own tensors: those under the prefix with which they make a network, the prefix taken off.

    Where no prefix leaves exactly a network, tensors beside it are dropped too (`loss_fn.weight`).
    """
    parts = [
        (prefix, {name.removeprefix(prefix): tensor for name, tensor in whole.items() if name.startswith(prefix)})
        for prefix in _prefixes(whole)
    ]
    for prefix, part in parts:
        shapes = shapes_of(part)
        guesses = [guess.family for guess in registry.infer(shapes)]
        # Most networks end in a convolution of 1x1x1, which alone is a pointwise network.
        if guesses == ["pointwise"] and 2 * len(part) < len(whole):
            continue
        if (expected and not registry.differences(expected, shapes)) or guesses:
            return part, _said(whole, part, prefix)
    for prefix, part in parts:
        shapes = shapes_of(part)
        if expected:
            foreign = registry.beside(shapes, registry.differences(expected, shapes))
        else:
            foreign = registry.within(shapes)
        if foreign:
            own = {name: tensor for name, tensor in part.items() if name not in foreign}
            return own, _said(whole, own, prefix)
    return dict(whole), []


def _prefixes(names: Mapping[str, Any]) -> list[str]:
    """The empty prefix, then those that names share, the commonest first ("net.", "model.backbone.")."""
    counts: dict[str, int] = {}
    for name in names:
        parts = name.split(".")
        for depth in range(1, min(len(parts), 5)):
            prefix = ".".join(parts[:depth]) + "."
            counts[prefix] = counts.get(prefix, 0) + 1
    shared = [p for p, n in counts.items() if n >= max(2, len(names) // 10)]
    return ["", *sorted(shared, key=lambda p: (-counts[p], len(p)))[:12]]


def _said(whole: Mapping[str, Tensor], part: Mapping[str, Tensor], prefix: str) -> list[str]:
    notes = [f"the prefix {prefix!r} was taken off"] if prefix else []
    foreign = sorted(whole.keys() - {prefix + name for name in part})
    if foreign:
        notes.append(f"{len(foreign)} tensors beside the network were left out: {', '.join(foreign[:5])}")
    return notes
