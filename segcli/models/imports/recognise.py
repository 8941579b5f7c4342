"""Which network a source's tensors are, and of which sizes: told by the tensors and by what the container states."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from segcli.documents import Document, Facts
from segcli.errors import ModelError, UsageError
from segcli.models import weights
from segcli.models.checkpoint import Tensors
from segcli.models.imports.graph import Ends
from segcli.models.imports.own_part import own_part, shapes_of
from segcli.models.imports.source import ModelSource, Named
from segcli.networks import registry
from segcli.networks.registry import Inferred, Shapes

# How official constructors call the number of input channels, and the size that is baked in.
_INPUTS = ("in_chans", "in_channels", "input_channels", "input_dim", "n_channels")
SIZES = ("img_size", "img_shape", "crop_size")


# The layer that gives a network's outputs, of the families whose outputs a recipe or a bundle may put in order.
_LAST = {"segresnet": ["conv_final.2.conv"], "swinunetr": ["out.conv.conv"]}


@dataclass(frozen=True)
class Recognised:
    """A network with its sizes and weights.

    family     with the constructor's `arguments`; "onnx" for a graph without a card inside
    folds      the tensors of each fold, under the network's own names; empty for a graph
    notes      what was left out or taken off, a sentence each
    unsure     of each argument that neither tensors nor container tell a sentence with the value taken
    open       arguments that neither tensors nor container tell
    ends       of a graph without a card inside, which is all that is known of it
    """

    family: str
    arguments: Facts
    folds: Sequence[Tensors] = ()
    notes: Sequence[str] = ()
    unsure: Mapping[str, str] = field(default_factory=dict)
    open: Sequence[str] = ()
    ends: Ends | None = None

    @property
    def inputs(self) -> int | None:
        if self.ends is not None:
            return self.ends.inputs
        return next((int(self.arguments[k]) for k in _INPUTS if self.arguments.get(k) is not None), None)

    @property
    def outputs(self) -> int | None:
        if self.family == "onnx":
            return self.ends.outputs if self.ends is not None else None
        return registry.outputs(self.family, self.arguments)

    @property
    def dims(self) -> int:
        flat = any("2d" in str(self.arguments.get(name, "")).lower() for name in ("conv_op", "dim"))
        return 2 if flat or self.arguments.get("spatial_dims") == 2 else 3

    def size(self) -> list[int] | None:
        """The input size that is baked into the network, two numbers for a network of slices.

        returns  None when any will do, or when it is not known
        """
        if self.ends is not None:
            return list(self.ends.size) if self.ends.size else None
        key = size_argument(self.family, self.arguments)
        if key is None or key in self.open:
            return None
        found = self.arguments[key]
        return [int(found)] * self.dims if isinstance(found, int) else [int(n) for n in found]

    def sized(self, size: Sequence[int]) -> Recognised | None:
        """The same network for windows of another size; None when these tensors are not those of that size."""
        network = Inferred(self.family, dict(self.arguments), self.unsure, open=tuple(self.open))
        seen = [n for n in size if n != 1] if self.dims == 2 else list(size)  # a slice, without its one voxel
        found = network if seen == self.size() else resized(network, seen, shapes_of(self.folds[0]))
        if found is None:
            return None
        return replace(self, arguments=found.config, unsure=found.unsure, open=found.open)

    def with_tensors(self, replaced: Mapping[str, Tensor]) -> Recognised:
        """The same with some tensors of the first fold in another form."""
        return replace(self, folds=[{**self.folds[0], **replaced}, *self.folds[1:]]) if replaced else self

    def in_order(self, order: Sequence[int]) -> Recognised:
        """The same network with its outputs in another order.

        errors   ModelError for a network whose last layer is not known, or an order of other outputs than its
        """
        last = self.last
        if not last:
            raise ModelError(f"the outputs of {self.family} cannot be put in another order")
        if sorted(order) != list(range(self.outputs or 0)):
            raise ModelError(f"{list(order)} is no order of the {self.outputs} outputs of {self.family}")
        folds = [{**fold, **{name: fold[name][list(order)] for name in last}} for fold in self.folds]
        return replace(self, folds=folds)

    @property
    def last(self) -> list[str]:
        """The names of the tensors that give the outputs, one row for each; empty where they are not known."""
        names = [f"{layer}.{part}" for layer in _LAST.get(self.family, ()) for part in ("weight", "bias")]
        return names if self.folds and self.folds[0].keys() >= set(names) else []

    def live(self) -> list[str]:
        """The names of the first fold's tensors that have an effect on the output."""
        return registry.live(self.family, self.folds[0]) if self.folds else []


def recognise(source: ModelSource, arch: str | None, recipe: Inferred | None) -> Recognised:
    """The network of a source.

    arch     the user's choice among networks that fit (see `recognised`)
    recipe   a recipe's network, which the tensors must then be exactly
    errors   ModelError: of no network, of several and no choice, of another than the container or the recipe names
    """
    named = source.named.network if source.named else None
    if not source.folds:
        assert named is not None  # a graph's reader always names one
        return Recognised(named.family, named.config, ends=source.ends)
    first, notes = own_part(source.folds[0], named or recipe, source.where, alone=source.alone, told=arch is not None)
    shapes = shapes_of(first)
    network = _as_named(source.named, shapes) if source.named else network_in(shapes, arch, recipe, source.where)
    if source.size is not None:
        network = resized(network, source.size, shapes) or network  # where its tensors allow these windows
    if network.family == "nnunet_plain":
        network = _with(network, source.layers)
    others = (own_part(fold, network, source.where, alone=source.alone, told=True)[0] for fold in source.folds[1:])
    folds = [first, *others]
    said = (*notes, *network.notes)
    return Recognised(network.family, dict(network.config), folds, said, network.unsure, network.open)


def _with(network: Inferred, stated: Facts) -> Inferred:
    """The network with arguments that are stated: of them nothing is unsure any more."""
    unsure = {name: said for name, said in network.unsure.items() if name not in stated}
    still = tuple(name for name in network.open if name not in stated)
    return replace(network, config={**network.config, **stated}, unsure=unsure, open=still)


def _as_named(named: Named, shapes: Shapes) -> Inferred:
    """The network that the container names, in what its tensors tell better as they tell it.

    errors   ModelError for tensors that are not its
    """
    if not registry.differences(named.network, shapes):
        return named.network
    for guess in registry.infer(shapes):
        told = _with_layers_of(guess, named)
        if told is not None and not registry.differences(told, shapes):
            return told
    differing = weights.differing(*_compared(named.network, shapes))
    raise ModelError(f"the weights are not those of {named.kind}: {differing}", hint=weights.nearest(shapes))


def _with_layers_of(guess: Inferred, named: Named) -> Inferred | None:
    """The named network with the norm and the bias that tensors tell: some trainers change them and not the plans.

    returns  None for a guess of another family, or one that says nothing about them
    """
    stated = named.network
    if guess.family != stated.family or "norm_op" not in guess.config:
        return None
    config, said = dict(stated.config), []
    norms = [str(network.config.get("norm_op")).rpartition(".")[2] for network in (stated, guess)]
    if norms[0] != norms[1]:
        config["norm_op"] = guess.config["norm_op"]
        said.append(f"the norm is {norms[1]}, not the {norms[0]} of the plans")
    affine = {"affine": guess.config["norm_op_kwargs"]["affine"]}
    config["norm_op_kwargs"] = {**(stated.config.get("norm_op_kwargs") or {"eps": 1e-5}), **affine}
    if stated.config.get("conv_bias", True) != guess.config["conv_bias"]:
        config["conv_bias"] = guess.config["conv_bias"]
        said.append(f"its convolutions have {'a' if config['conv_bias'] else 'no'} bias, other than the plans say")
    return Inferred(stated.family, config, notes=(f"as its tensors tell: {'; '.join(said)}",) if said else ())


# ---- from tensors to a network --------------------------------------------------------------------------------------


def recognised(shapes: Shapes, arch: str | None, where: str) -> Inferred:
    """The one network that has exactly these tensors; `arch` decides where several have.

    arch     a family, or a family and a JSON object with arguments that no tensor tells:
             'segresnet {"norm": ["GROUP", {"num_groups": 2}]}'
    errors   ModelError when there is none, or several and no `arch`
    """
    family, stated = _stated(arch) if arch else (None, {})
    guess = _chosen(registry.infer(shapes), family, shapes, where)
    return _with(guess, stated)


def size_argument(family: str, arguments: Facts) -> str | None:
    """The argument that bakes the input size into a network; None when any size will do."""
    if family.startswith("swinunetr"):  # there img_size has no effect
        return None
    return next((k for k in SIZES if arguments.get(k) is not None), None)


def resized(network: Inferred, size: Sequence[int], shapes: Shapes) -> Inferred | None:
    """The same network for another input size; None when these tensors are not those of that size."""
    key = size_argument(network.family, network.config)
    if key is None:
        return network
    other = replace(_with(network, {key: list(size)}), open=())
    try:
        return None if registry.differences(other, shapes) else other
    except ModelError:  # no network has that size
        return None


def answers(network: Inferred, channels: int, size: Sequence[int], slice_axis: int | None) -> bool:
    """Whether a network gives logits of a window's own size, which is tried with shapes alone."""
    try:
        with torch.device("meta"), torch.inference_mode():
            net = registry.build(network.family, network.config)
            whole = net if slice_axis is None else weights.FlatNetwork(net, slice_axis)
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
        forms = [Recognised(one.family, one.config) for one in (guess, expected)]
        same_kind = guess.family.partition("_")[0] == expected.family.partition("_")[0]
        if same_kind and forms[0].outputs == forms[1].outputs and forms[0].inputs == forms[1].inputs:
            note = f"another form of the recipe's network: {guess.family}"
            return replace(guess, notes=(*guess.notes, note))
    _differing(expected, shapes, where)
    return expected


def _differing(network: Inferred, shapes: Shapes, where: str) -> None:
    """Refuse tensors that are not the network's, with how they differ."""
    weights.refuse_other_tensors(*_compared(network, shapes), network.family, where)


def _compared(network: Inferred, shapes: Shapes) -> tuple[Shapes, Shapes]:
    """The shapes of a network's tensors, and those of a file's that matter to it."""
    with torch.device("meta"):
        net = registry.build(network.family, network.config)
    return shapes_of(net.state_dict()), {name: shapes[name] for name in registry.live(network.family, shapes)}


def _stated(arch: str) -> tuple[str, Document]:
    family, _, text = arch.partition(" ")
    try:
        stated = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise UsageError(f"--arch {arch}: what follows the name is not a JSON object: {error}") from error
    if not isinstance(stated, dict):
        raise UsageError(f"--arch {arch}: what follows the name is not a JSON object")
    return family, stated


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
    names = [f".{name}" for name in shapes]
    if any(".layers1.0.blocks.0." in name for name in names) and not any(".decoder" in name for name in names):
        return "this is a Swin encoder alone (self-supervised pre-training); it cannot segment"
    return None
