"""The network's own tensors among a file's: what wraps them is taken off, what stands beside them is left out."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from segcli.documents import Facts
from segcli.errors import ModelError
from segcli.models import checkpoint, weights
from segcli.models.checkpoint import Tensors
from segcli.models.imports.former import of_today
from segcli.models.imports.nnunet_v1 import renamed
from segcli.networks import registry
from segcli.networks.registry import Inferred

# What torch.compile, activation checkpoints, FSDP and DDP put before the names of what they wrap, at any depth.
_WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_fpw_module", "module")
# How tensors are called that no output depends on: of a loss, of the other half of an autoencoder, of other networks.
_OF_NONE = re.compile(r"loss|criteri|metric|dice|vae|aux|discrim|teacher|student|queue|optim", re.IGNORECASE)


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Names and shapes, which is all that telling a network takes."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def own_part(
    tensors: Tensors, expected: Inferred | None, where: str, *, alone: bool = False, told: bool = False
) -> tuple[Tensors, list[str]]:
    """The network's own tensors: those under the prefix with which they make a network, the prefix taken off.

    expected   the network that the container or a recipe names
    alone      whether tensors beside it would be layers of another network, not a loss's or the like
    told       whether the user says which network it is, and the rest is of no use
    returns    the tensors, and a sentence each about what was taken off or left out
    errors     ModelError for several networks that are equals, for what may be layers beside the network unless that
               is named, and with `alone` for any tensors beside it

    Where no prefix leaves exactly a network, tensors beside it are dropped too (`loss_fn.weight`), and then names of
    wrappers in the middle of the tensors' names.
    """
    sure = None if alone else told or expected is not None
    whole = renamed(of_today(tensors))
    parts = {
        prefix: {name.removeprefix(prefix): tensor for name, tensor in whole.items() if name.startswith(prefix)}
        for prefix in _prefixes(whole)
    }
    for prefix, part in parts.items():
        if _is_network(part, expected, len(whole)):
            return _taken(whole, parts, prefix, where, sure)
    for prefix, part in parts.items():
        shapes = shapes_of(part)
        if expected:
            foreign = registry.foreign_tensors_beside(shapes, registry.differences(expected, shapes))
        else:
            foreign = registry.foreign_tensors(shapes)
        if foreign:
            own = {name: tensor for name, tensor in part.items() if name not in foreign}
            return own, _said(whole, own, prefix, where, sure)
    bare = {_unwrapped(name): tensor for name, tensor in whole.items()}
    if bare.keys() == whole.keys() or len(bare) < len(whole):
        return dict(whole), []
    part, said = own_part(bare, expected, where, alone=alone, told=told)
    wrappers = sorted({word for name in whole for word in name.split(".") if word in _WRAPPERS})
    return part, [f"the wrappers' names were taken out: {', '.join(wrappers)}", *said]


def _is_network(part: Tensors, expected: Inferred | None, whole: int) -> bool:
    """Whether tensors are exactly the expected network, or any that segcli knows."""
    shapes = shapes_of(part)
    if expected and not registry.differences(expected, shapes):
        return True
    guesses = [guess.family for guess in registry.infer(shapes)]
    # Most networks end in a convolution of 1x1x1, which alone is a pointwise network.
    return bool(guesses) and not (guesses == ["pointwise"] and 2 * len(part) < whole)


def _taken(
    whole: Tensors, parts: Mapping[str, Tensors], prefix: str, where: str, sure: bool | None
) -> tuple[Tensors, list[str]]:
    """The network under a prefix, or that whose average lies there; what was taken off or left out.

    sure     whether tensors beside the network are of no use to it; None where none may be there
    errors   ModelError where the same network stands under several prefixes that are equals (student, teacher), and as
             `own_part`
    """
    shapes = shapes_of(parts[prefix])
    alike = [other for other, part in parts.items() if prefix and other and shapes_of(part) == shapes] or [prefix]
    rest = {name: tensor for name, tensor in whole.items() if not name.startswith(tuple(alike))}
    if prefix and shapes.items() <= shapes_of(rest).items():  # one stands there without a prefix
        parts, alike = {**parts, "": {name: rest[name] for name in shapes}}, [*alike, ""]
    plain = [other for other in alike if not checkpoint.is_average(other)]
    if len(plain or alike) > 1:
        raise checkpoint.equals(where, [_called(other) for other in plain or alike])
    taken = (plain or alike)[0]
    said = [checkpoint.not_its_average(_called(taken), _called(other)) for other in alike if other != taken]
    return parts[taken], [*said, *_said(whole, parts[taken], taken, where, sure)]


def _called(prefix: str) -> str:
    return prefix.rstrip(".") or "without a prefix"


def _unwrapped(name: str) -> str:
    return ".".join(word for word in name.split(".") if word not in _WRAPPERS)


def _prefixes(names: Facts) -> list[str]:
    """The empty prefix, then those that names share, the commonest first ("net.", "model.backbone.")."""
    counts: dict[str, int] = {}
    for name in names:
        parts = name.split(".")
        for depth in range(1, min(len(parts), 5)):
            prefix = ".".join(parts[:depth]) + "."
            counts[prefix] = counts.get(prefix, 0) + 1
    shared = [p for p, n in counts.items() if n >= max(2, len(names) // 10)]
    return ["", *sorted(shared, key=lambda p: (-counts[p], len(p)))[:12]]


def _said(
    whole: Mapping[str, Tensor], part: Mapping[str, Tensor], prefix: str, where: str, sure: bool | None
) -> list[str]:
    """What was taken off and left out; `sure` and errors as of `_taken`."""
    notes = [f"the prefix {prefix!r} was taken off"] if prefix else []
    foreign = sorted(whole.keys() - {prefix + name for name in part})
    if foreign and sure is None:
        raise ModelError(
            f"{where}: {len(foreign)} tensors stand beside the network that the plans name, among them "
            f"{', '.join(foreign[:5])}: its trainer has made another network of it",
            hint=weights.BY_GRAPH,
        )
    layers = [name for name in foreign if whole[name].ndim > 1 and not (_OF_NONE.search(name) or _is_average(name))]
    if layers and not sure:
        family = registry.infer(shapes_of(part))[0].family
        raise ModelError(
            f"{where}: {len(layers)} tensors that may be layers stand beside a whole network, {family}, among them "
            f"{', '.join(layers[:5])}: another network may use both",
            hint=f"--arch {family} takes it alone; {weights.BY_GRAPH}",
        )
    if foreign:
        notes.append(f"{len(foreign)} tensors beside the network were left out: {', '.join(foreign[:5])}")
    return notes


def _is_average(name: str) -> bool:
    return any(checkpoint.is_average(word) for word in name.split("."))
