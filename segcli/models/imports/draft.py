"""A model on its way from a foreign file to a card: what its container states, and what is still missing."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from segcli.errors import ModelError, UsageError
from segcli.models import weights
from segcli.models.weights import Tensors
from segcli.networks import registry
from segcli.networks.registry import Inferred, Shapes

# How official constructors call the number of input channels, and the size that is baked in.
_INPUTS = ("in_chans", "in_channels", "input_channels", "input_dim", "n_channels")
SIZES = ("img_size", "img_shape", "crop_size")

# Facts that no tensor tells: the card's field, and the options that give it.
NEEDED = {
    "channels": "--channels CT",
    "orientation": '--orientation RAS, or "file" for the order of the file',
    "spacing": '--spacing 1.5,1.5,2.0 in mm, or "keep"',
    "intensity": "--window LOW,HIGH (to 0..1), --normalise zscore, nonzero, none or LOW,HIGH,MEAN,SD, or --recipe NAME",
    "patch_size": "--patch 96,96,96",
    "labels": "--labels background,liver,spleen in the order of the network's outputs",
}


@dataclass
class Draft:
    """What a container says.

    container  in words, for the user
    family     of the network, with its constructor's `arguments`; "onnx" for a graph
    folds      the tensors of each fold, under the network's own names
    card       fields of the card as far as the container states them
    notes      what was dropped, taken or not understood, a sentence each
    open       arguments that neither tensors nor container tell
    onnx       the graph's file, where there are no tensors
    """

    container: str
    family: str
    arguments: dict[str, Any]
    folds: list[Tensors]
    card: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    open: tuple[str, ...] = ()
    onnx: Path | None = None

    @property
    def inputs(self) -> int | None:
        return next((int(self.arguments[k]) for k in _INPUTS if self.arguments.get(k) is not None), None)

    @property
    def outputs(self) -> int | None:
        return None if self.family == "onnx" else registry.outputs(self.family, self.arguments)

    @property
    def dims(self) -> int:
        if "2d" in str(self.arguments.get("conv_op", "")).lower() or self.arguments.get("spatial_dims") == 2:
            return 2
        return 3

    def size(self) -> list[int] | None:
        """The input size that is baked into the network; None when any will do, or when it is not known."""
        key = size_argument(self.family, self.arguments)
        if key is None or key in self.open:
            return None
        found = self.arguments[key]
        return [int(found)] * 3 if isinstance(found, int) else [int(n) for n in found]

    def missing(self, card: Mapping[str, Any]) -> dict[str, str]:
        """Facts that neither the container nor `card` gives, with the option for each."""
        lacking = {fact: option for fact, option in NEEDED.items() if fact not in card}
        if self.dims == 2 and "slice_axis" not in card:
            lacking["slice_axis"] = "--slice-axis 0, 1 or 2: the array axis along which slices are taken"
        return lacking


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Names and shapes, which is all that telling a network takes."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def recognised(shapes: Shapes, arch: str | None, where: str) -> Inferred:
    """The one network that has exactly these tensors; `arch` decides where several have.

    arch     a family, or a family and a JSON object with arguments that no tensor tells:
             'segresnet {"norm": ["GROUP", {"num_groups": 2}]}'
    errors   ModelError when there is none, or several and no `arch`
    """
    family, stated = _stated(arch) if arch else (None, {})
    guess = _chosen(registry.infer(shapes), family, shapes, where)
    if not stated:
        return guess
    unsure = tuple(s for s in guess.unsure if not _tells(stated, s))
    return Inferred(guess.family, {**guess.config, **stated}, unsure, tuple(k for k in guess.open if k not in stated))


def size_argument(family: str, arguments: Mapping[str, Any]) -> str | None:
    """The argument that bakes the input size into a network; None when any size will do."""
    if family.startswith("swinunetr"):  # there img_size has no effect
        return None
    return next((k for k in SIZES if arguments.get(k) is not None), None)


def resized(network: Inferred, size: Sequence[int], shapes: Shapes) -> Inferred | None:
    """The same network for another input size; None when these tensors are not those of that size."""
    key = size_argument(network.family, network.config)
    if key is None:
        return network
    unsure = tuple(s for s in network.unsure if not s.startswith(key))
    other = Inferred(network.family, {**network.config, key: list(size)}, unsure)
    try:
        return None if registry.differences(other, shapes) else other
    except ModelError:  # no network has that size
        return None


def answers(network: Inferred, channels: int, size: Sequence[int], slice_axis: int | None) -> bool:
    """Whether a network gives logits of a window's own size, which is tried with shapes alone."""
    try:
        with torch.device("meta"), torch.inference_mode():
            net = registry.build(network.family, network.config)
            whole = net if slice_axis is None else weights.Slices(net, slice_axis)
            logits: Tensor = whole(torch.empty(1, channels, *size))
    except (ModelError, RuntimeError, ValueError, IndexError, AssertionError, ZeroDivisionError):
        return False
    return list(logits.shape[2:]) == list(size)


def network_in(shapes: Shapes, arch: str | None, expected: Inferred | None, where: str) -> Inferred:
    """The network of these tensors: the recipe's, or another form of it (dense, another kernel) that they tell.

    errors   ModelError when they are of another network than the recipe's, with how they differ
    """
    if expected is None:
        return recognised(shapes, arch, where)
    if not registry.differences(expected, shapes):
        return expected
    for guess in registry.infer(shapes):
        forms = [Draft("", one.family, one.config, []) for one in (guess, expected)]
        same_kind = guess.family.partition("_")[0] == expected.family.partition("_")[0]
        if same_kind and forms[0].outputs == forms[1].outputs and forms[0].inputs == forms[1].inputs:
            note = f"another form of the recipe's network: {guess.family}"
            return replace(guess, unsure=(*guess.unsure, note))
    _differing(expected, shapes, where)
    return expected


def _differing(network: Inferred, shapes: Shapes, where: str) -> None:
    """Refuse tensors that are not the network's, with how they differ."""
    with torch.device("meta"):
        net = registry.build(network.family, network.config)
    live = {name: shapes[name] for name in registry.live(network.family, shapes)}
    weights.compare(shapes_of(net.state_dict()), live, network.family, where)


def _stated(arch: str) -> tuple[str, dict[str, Any]]:
    family, _, text = arch.partition(" ")
    try:
        stated = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise UsageError(f"--arch {arch}: what follows the name is not a JSON object: {error}") from error
    if not isinstance(stated, dict):
        raise UsageError(f"--arch {arch}: what follows the name is not a JSON object")
    return family, stated


def _tells(stated: Mapping[str, Any], sentence: str) -> bool:
    """Whether an argument that the user states settles what a sentence calls unsure."""
    words = {"act": "activation", "norm": "norm", "strides": "stride", "num_heads": "heads"}
    return any(words.get(name, name) in sentence for name in stated)


def _chosen(found: Sequence[Inferred], arch: str | None, shapes: Shapes, where: str) -> Inferred:
    if arch is None:
        if len(found) > 1:
            names = ", ".join(guess.family for guess in found)
            raise ModelError(f"{where}: the tensors fit several networks: {names}", hint="choose one with --arch")
        if not found:
            near = registry.closest(shapes)
            if near is not None:
                _differing(near, shapes, where)
            raise ModelError(
                f"{where}: {len(shapes)} tensors of no network that segcli knows, "
                f"among them {', '.join(sorted(shapes)[:5])}",
                hint=_encoder_only(shapes) or weights.nearest(shapes),
            )
        return found[0]
    for guess in found:
        if guess.family == arch or guess.family.startswith(f"{arch}_"):
            return guess
        # A variant that tensors do not tell: "swinunetr_new_merging" where "swinunetr" was recognised.
        if arch.startswith(guess.family.partition("_")[0]):
            named = replace(guess, family=arch)
            if not registry.differences(named, shapes):
                return named
    if found:
        raise ModelError(
            f"{where}: not the network {arch} but {' or '.join(guess.family for guess in found)}",
            hint="leave --arch out: tensors tell the network, --arch only chooses among several that fit",
        )
    near = registry.closest(shapes)
    return near if near is not None and near.family.startswith(arch) else Inferred(arch, {})


def _encoder_only(shapes: Shapes) -> str | None:
    if any(".layers1.0.blocks.0." in name or name.startswith("layers1.0.blocks.0.") for name in shapes):
        return "this is a Swin encoder alone (self-supervised pre-training); it cannot segment"
    return None


@contextmanager
def legible(what: str) -> Iterator[None]:
    """Refuse a description in which a field is missing or of another kind than those who write it give it."""
    try:
        yield
    except KeyError as error:
        raise ModelError(f"{what}: the field {error} is missing") from error
    except (TypeError, ValueError, AttributeError, IndexError) as error:
        raise ModelError(f"{what}: a field is of an unexpected kind: {error}") from error


def slug(text: str) -> str:
    """A name in ASCII snake_case."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_") or "unnamed"


def distinct(names: Sequence[str]) -> list[str]:
    """Names as slugs, made different with a number where they clash."""
    out: list[str] = []
    for name in map(slug, names):
        count = 2
        unique = name
        while unique in out:
            unique = f"{name}_{count}"
            count += 1
        out.append(unique)
    return out


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """The members of a zip archive as files in a temporary folder, which is removed afterwards.

    errors   ModelError for members that climb out, for links, and for archives that unpack to over ten times their
             size
    """
    with TemporaryDirectory(prefix="segcli-") as folder:
        try:
            with zipfile.ZipFile(path) as archive:
                members = [m for m in archive.infolist() if not m.is_dir()]
                for member in members:
                    name = PurePosixPath(member.filename.replace("\\", "/"))
                    link = (member.external_attr >> 16) & 0o170000 == 0o120000
                    if name.is_absolute() or ".." in name.parts or ":" in member.filename or link:
                        raise ModelError(f"{path.name}: {member.filename!r} leads outside the archive: not allowed")
                if sum(m.file_size for m in members) > 10 * path.stat().st_size + 10_000_000:
                    raise ModelError(f"{path.name}: unpacks to far more than its size: not allowed")
                for member in members:
                    archive.extract(member, folder)
        except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError) as error:
            raise ModelError(f"{path.name}: a truncated or corrupt archive: {error}") from error
        yield Path(folder)
