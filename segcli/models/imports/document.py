"""The card's document: what container, recipe and user state, completed by what the network tells."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from segcli.documents import Document, Facts
from segcli.errors import ModelError, UsageError
from segcli.inference.windows import fitted
from segcli.models.card import NAME, ModelCard
from segcli.models.document import FORMAT, refuse_misfits
from segcli.models.imports.recognise import SIZES, Recognised, answers
from segcli.models.imports.source import NEEDED, ModelSource, Stated, slug
from segcli.models.imports.written import json_able
from segcli.networks.registry import Inferred


def fields(stated: Stated, network: Recognised, recipe: ModelCard | None, given: Facts, path: Path) -> Document:
    """Fields of the card: the user's win over the container's, those over the recipe's.

    The recipe says better where its own numbers are from.

    errors   ModelError for a field of another kind than a card's, as a card inside a file may have
    """
    known = recipe.document if recipe else {}
    origin = {"source": recipe.source} if recipe else {}
    found: Document = {**known, **stated.fields, **origin, **given}
    refuse_misfits(json_able(found), path.name)
    size = _window(network, found.get("slice_axis"))
    if size is not None:
        found.setdefault("patch_size", size)
    if network.family.startswith("unet3plus") and found.get("slice_axis") is not None:
        found.setdefault("padding", "edge")  # its slices are made multiples of 16 that way
    return found


def _window(network: Recognised, slice_axis: int | None) -> list[int] | None:
    """The window that is baked into a network, a slice with its one voxel; None for any, or a slice along no axis."""
    size = network.size()
    if size is None or network.dims == 3:
        return size
    return None if slice_axis is None else [*size[:slice_axis], 1, *size[slice_axis:]]


def missing(found: Facts, network: Recognised) -> dict[str, str]:
    """Facts that no field gives, with the option for each."""
    lacking = {fact: option for fact, option in NEEDED.items() if fact not in found}
    if network.dims == 2 and "slice_axis" not in found:
        lacking["slice_axis"] = "--slice-axis 0, 1 or 2: the array axis along which slices are taken"
    return lacking


def complete(found: Document, source: ModelSource, network: Recognised, stated: Stated, path: Path) -> None:
    """Refuse fields that lack facts, or whose labels and channels are not as many as the network's.

    The facts that are missing are named all at once, each with its option.
    """
    lacking = missing(found, network)
    if lacking:
        unstated = [fact for fact in lacking if fact not in stated.lacks]
        said = [stated.lacks[fact] for fact in lacking if fact in stated.lacks]
        said += [f"does not state {', '.join(unstated)}"] if unstated else []
        raise ModelError(
            f"{path.name}: {source.container}; {'; '.join(dict.fromkeys(said))}",
            hint="give " + "; ".join(lacking.values()),
        )
    inputs = len(found["channels"]) * (found.get("slices") or 1) + found.get("blank", 0)
    inputs += sum(value != 0 for value in found["labels"].values()) if found.get("previous") else 0
    if network.inputs is not None and inputs != network.inputs:
        neighbours = ", or --slices N where a slice is shown with its neighbours" if network.dims == 2 else ""
        raise ModelError(
            f"{path.name}: the network has {network.inputs} input channels, not {inputs} "
            f"({', '.join(found['channels'])})",
            hint=f"give {NEEDED['channels']}{neighbours}",
        )
    count, labels = network.outputs, found["labels"]
    if count is None or found.get("regions") is not None:
        return
    exclusive = network.ends is not None and network.ends.last == "Softmax"
    if count == len(labels) - 1 and not exclusive:
        # One output fewer than labels: each stands for itself, and background is where none is above one half.
        found["regions"] = [value for value in labels.values() if value != 0]
    elif count != len(labels):
        raise ModelError(
            f"{path.name}: the network has {count} outputs, not {len(labels)} ({', '.join(labels)[:200]})",
            hint=f"give {NEEDED['labels']}",
        )


def title(name: str | None, path: Path) -> str:
    """The model's name: a stated one, else the path's last part.

    errors   UsageError for a text that is no name
    """
    found = str(name or slug(_stem(path)).replace("_", "-"))
    if not NAME.fullmatch(found) or len(found) > 128:
        raise UsageError(f"{found!r} is no name for a model", hint="up to 128 of a to z, digits, spaces and . _ + -")
    return found


def _stem(path: Path) -> str:
    name = path.resolve().name
    for ending in (".tar", ".pth", ".pt", ".ckpt", ".model", ".safetensors", ".onnx", ".zip"):
        name = name.removesuffix(ending)
    return name


def windowed(network: Recognised, checked: ModelCard, path: Path) -> Recognised:
    """The network for windows of the card's size.

    errors   ModelError where the tensors are those of another size, or the network gives no answer of that size, with
             sizes for which it does
    """

    def at(size: Sequence[int]) -> Recognised | None:
        found = network.sized(size)
        fits = found and answers(
            Inferred(found.family, dict(found.arguments)), checked.inputs, size, checked.slice_axis
        )
        return found if fits else None

    size = list(fitted(checked.window, (256, 256, 256)).size)  # of an image, where the network sees whole ones
    found = at(size)
    if found is not None:
        return found
    likely = [_window(network, checked.slice_axis), *_near(size, checked.slice_axis)]
    near = [one for i, one in enumerate(likely) if one and one not in likely[:i] and at(one)][:2]
    told = [note for name, note in network.unsure.items() if name in SIZES]
    raise ModelError(
        f"{path.name}: the network {network.family} does not take windows of {'×'.join(map(str, size))} voxels"
        + "".join(f" ({note})" for note in told),
        hint=" or ".join(f"--patch {','.join(map(str, one))}" for one in near) + " would do"
        if near
        else "give --patch with the size of its training",
    )


def _near(size: Sequence[int], slice_axis: int | None) -> Iterator[list[int]]:
    """Sizes near one, each side a multiple of a power of two, nearest first; a slice stays one voxel thick."""
    for step in (2, 4, 8, 16, 32, 64):
        for round_up in (0, step - 1):
            sides = [max(step, (n + round_up) // step * step) for n in size]
            yield [1 if axis == slice_axis else n for axis, n in enumerate(sides)]


def notes(source: ModelSource, network: Recognised, stated: Stated) -> list[str]:
    """What was left out, taken for granted or not understood, a sentence each."""
    said = [
        *source.notes,
        *network.notes,
        *network.unsure.values(),
        *stated.notes,
        *dict.fromkeys(stated.lacks.values()),
    ]
    return [*said, *_inert(network)]


def _inert(network: Recognised) -> list[str]:
    """A sentence about tensors that have no effect on the output; second names of those that have are no news."""
    if not network.folds:
        return []
    tensors, live = network.folds[0], network.live()
    places = {tensors[name].data_ptr() for name in live}
    inert = sorted(name for name in tensors.keys() - set(live) if tensors[name].data_ptr() not in places)
    if not inert:
        return []
    return [f"{len(inert)} tensors without effect on the output are left out: {', '.join(inert[:3])}"]


def of(found: Facts, source: ModelSource, network: Recognised, stated: Stated, name: str) -> Document:
    """The card's document without weights, its keys in the order of the format."""
    first = {
        "format": FORMAT,
        "name": name,
        "licence": found.get("licence", "unknown"),
        "source": found.get("source", source.container),
        "architecture": {"name": network.family, **network.arguments},
        "weights": [],
        "sha256": [],
    }
    rest = {k: v for k, v in found.items() if k not in first and k != "notes"}
    said = [str(found["notes"])] if found.get("notes") else []
    said += notes(source, network, stated)
    document: Document = json_able({**first, **rest, **({"notes": ". ".join(said)} if said else {})})
    return document
