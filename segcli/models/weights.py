"""A card's network filled with its weights, strictly: every tensor is one of the network's, and none is missing."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from segcli.documents import Facts
from segcli.errors import ModelError
from segcli.models.card import ModelCard
from segcli.models.checkpoint import innermost_table, read
from segcli.networks import registry

# What weights are stored in; floats of 8 bits are quantised, and their scales stand elsewhere.
WEIGHTS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
BY_GRAPH = "another one comes in as an ONNX file that is exported where it was trained (torch.onnx.export)"
_SHOWN = 10


def network_of(card: ModelCard, fold: int = 0) -> nn.Module:
    """The card's network with the weights of one fold, in evaluation mode.

    returns  a module from (N, C, d, h, w) float32 to logits (N, K, d, h, w); a 2-D network is wrapped so that it
             takes windows of one voxel along card.slice_axis
    errors   ModelError (78) for weights that are missing, changed, unsafe, not finite, or of another network
    """
    if not card.weights:
        raise ModelError(
            f"{card.name}: the card names no weights",
            hint="`segcli models import CHECKPOINT --recipe NAME` puts a checkpoint's weights beside a card",
        )
    made = registry.outputs(card.architecture.name, card.architecture.arguments)
    if made is not None and made != len(card.decide.values):
        raise ModelError(
            f"{card.name}: the labels of model.json are for {len(card.decide.values)} output channels, "
            f"the network has {made}",
            hint="the field labels names every channel once, background included; regions those of sigmoid outputs",
        )
    path = card.file(card.weights[fold])
    stored = read(path, card.sha256[fold] if card.sha256 else "")
    net = filled_network(
        innermost_table(stored), card.architecture.name, card.architecture.arguments, f"{card.name}/{stored.name}"
    )
    _refuse_other_axes(net, card)
    if getattr(net, "probabilities", False):
        # UNet 3+ gives them unless told otherwise, and windows are blended as logits.
        net.probabilities = False  # type: ignore[assignment]
    if card.average == "probabilities":
        share = nn.Sigmoid() if card.decide.rule == "regions" else nn.Softmax(dim=1)
        net = nn.Sequential(net, share)  # before windows, mirror images and folds are averaged
    return net if card.slice_axis is None else FlatNetwork(net, card.slice_axis)


def _refuse_other_axes(net: nn.Module, card: ModelCard) -> None:
    """Refuse a network of volumes for slices, and one of slices for volumes."""
    own = {len(m.kernel_size) for m in net.modules() if isinstance(m, nn.Conv2d | nn.Conv3d)}
    wanted, seen = (3, "volumes") if card.slice_axis is None else (2, "slices")
    if own and wanted not in own:
        raise ModelError(
            f"{card.name}: a network of {max(own)} axes, which by slice_axis ({card.slice_axis}) would see {seen}",
            hint="the card's slice_axis is null for networks of three axes, and 0, 1 or 2 for those of two",
        )


class FlatNetwork(nn.Module):
    """A network of pictures that takes windows of one slice.

    x        (N, C, d, h, w), with 1 along `axis`
    returns  (N, K, d, h, w)
    """

    def __init__(self, net: nn.Module, axis: int) -> None:
        super().__init__()
        self.net, self.axis = net, axis

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.net(x.squeeze(2 + self.axis)).unsqueeze(2 + self.axis)
        return logits


def filled_network(tensors: Mapping[str, Tensor], family: str, arguments: Facts, where: str) -> nn.Module:
    """A network built and filled with exactly these tensors, float32 whatever they are stored in.

    errors   ModelError for tensors that hold NaN or infinity, that are missing, left over, or of another shape
    """
    refuse_not_finite(tensors, where)
    names = registry.live(family, tensors)
    with torch.device("meta"):
        net = registry.build(family, arguments)
    # Whole numbers (counters, index tables) are what the network computes itself; some files leave them out.
    own = {name for name, tensor in net.state_dict().items() if not tensor.is_floating_point()} - set(names)
    wanted = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items() if name not in own}
    refuse_other_tensors(wanted, {name: tuple(tensors[name].shape) for name in names}, family, where)
    numbers = {name for name, tensor in net.state_dict().items() if tensor.is_floating_point()}
    for name in names:
        if name in numbers and tensors[name].dtype not in WEIGHTS:
            kind = str(tensors[name].dtype).removeprefix("torch.")
            raise ModelError(f"{where}: the tensor {name} holds values of the type {kind}, not weights")
    # The real build follows the comparison, so that a file of another network costs no memory. What it is initialised
    # with is replaced at once, and costs the caller none of torch's random numbers.
    with torch.random.fork_rng(devices=[]):
        net = registry.build(family, arguments)
    net.load_state_dict({name: as_float32(tensors[name]) for name in names}, strict=not own)
    return net.eval()


def as_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32 if it is of any floating type, else as it is."""
    return tensor.float() if tensor.is_floating_point() else tensor


def refuse_not_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse weights among which there is NaN or infinity, naming the tensor."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(as_float32(tensor)).all()):
            raise ModelError(
                f"{where}: the tensor {name} holds values that are not finite (NaN or infinity)",
                hint="the training diverged or the file is damaged; take an earlier checkpoint",
            )


def refuse_other_tensors(
    wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], family: str, where: str
) -> None:
    """Refuse tensors that are not exactly a network's: at most ten are named, all are counted."""
    if wanted != found:
        said = f"{where}: the tensors do not match the network {family}: {differing(wanted, found)}"
        raise ModelError(said, hint=nearest(found))


def differing(wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> str:
    """How tensors differ from a network's, half a sentence: all are counted, at most ten are named."""
    missing = sorted(wanted.keys() - found.keys())
    extra = sorted(found.keys() - wanted.keys())
    other = sorted(name for name in wanted.keys() & found.keys() if wanted[name] != found[name])
    kinds = [
        [f"{name} is missing" for name in missing],
        [f"{name} has the shape {_size(found[name])}, not {_size(wanted[name])}" for name in other],
        [f"{name} is unexpected" for name in extra],
    ]
    shown = _share(kinds, _SHOWN)  # a few of each kind say more than ten of the first
    rest = sum(map(len, kinds)) - len(shown)
    counted = f"{len(missing)} missing, {len(extra)} unexpected, {len(other)} of another shape, of {len(wanted)}"
    return f"{counted}: {'; '.join(shown)}" + (f"; and {rest} more" if rest else "")


def nearest(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """A sentence: which network these tensors are, if any is known with exactly them."""
    found = [guess.family for guess in registry.infer(shapes)]
    if found:
        return f"the file holds the network {' or '.join(found)}"
    near = registry.nearest(shapes)
    if near is not None:
        return f"nearest is {near[0]}: {near[1]} % of the tensors' names are those of its default sizes"
    return f"the file holds no network that segcli knows, `segcli models networks` lists those; {BY_GRAPH}"


def _share(kinds: list[list[str]], room: int) -> list[str]:
    """The first `room` entries taken in turn from each list, in the lists' own order."""
    taken = [0] * len(kinds)
    while room and any(n < len(kind) for n, kind in zip(taken, kinds, strict=True)):
        for i, kind in enumerate(kinds):
            if room and taken[i] < len(kind):
                taken[i] += 1
                room -= 1
    return [line for n, kind in zip(taken, kinds, strict=True) for line in kind[:n]]


def _size(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "scalar"
