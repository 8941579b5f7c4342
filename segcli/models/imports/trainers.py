"""Networks that nnU-Net's trainers bring with them: their names say which, the plans name another."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from segcli.documents import Document, Facts
from segcli.errors import ModelError
from segcli.models.imports.source import Named
from segcli.networks import mednext, stunet
from segcli.networks.registry import Inferred

# In a trainer's name: what makes its network, of input channels, classes and the plans' strides from level to level.
Make = Callable[[re.Match[str], int, int, Sequence[Sequence[int]]], Inferred]
_TRAINERS: tuple[tuple[str, str, Make], ...] = (
    (
        r"STUNetTrainer(?:_(small|base|large|huge))?(?=_|$)",  # without a size it is the base
        "STU-Net",
        lambda found, inputs, outputs, strides: stunet.sized(found[1] or "base", inputs, outputs, strides),
    ),
    (
        r"MedNeXt_([SBML])_kernel([35])(?=_|$)",
        "MedNeXt",
        lambda found, inputs, outputs, _: mednext.sized(found[1], int(found[2]), inputs, outputs),
    ),
)


def named(trainer: str, inputs: int, outputs: int, strides: Sequence[Sequence[int]]) -> Named | None:
    """The network of a trainer that has its own; None for one that takes the plans' network.

    strides  of the plans, from level to level, one fewer than levels
    """
    for pattern, kind, make in _TRAINERS:
        found = re.search(pattern, trainer)
        if found:
            return Named(f"the trainer's {kind}", make(found, inputs, outputs, strides))
    return None


# Layers without tensors that trainers of version 1 put into its own network, by a word of their names.
_LAYERS: tuple[tuple[str, Facts], ...] = (
    ("ReLU", {"nonlin": "torch.nn.ReLU", "nonlin_kwargs": {}}),
    ("GeLU", {"nonlin": "torch.nn.GELU", "nonlin_kwargs": {}}),
    ("Mish", {"nonlin": "torch.nn.Mish", "nonlin_kwargs": {}}),
    ("LReLU_slope_2en1", {"nonlin_kwargs": {"negative_slope": 0.2}}),
    ("convReLUIN", {"nonlin_first": True}),
    ("convlReLUIN", {"nonlin_first": True}),
    ("NoNormalization", {"norm_op": None, "norm_op_kwargs": {}}),
)


def layers_v1(trainer: str) -> Document:
    """The arguments of version 1's own network that a trainer's name tells and no tensor.

    errors   ModelError (78): a layer that segcli lacks
    """
    words = f"{trainer}_"
    if "_GN_" in words:
        raise ModelError(f"the network of the trainer {trainer} has group norms, which segcli lacks")
    return {key: value for word, own in _LAYERS if f"_{word}_" in words for key, value in own.items()}


def mirrors_v1(trainer: str) -> bool:
    """Whether a trainer of version 1 mirrored its images, by its name: only then may those of a scan be mirrored."""
    return re.search(r"no_?mirror|noDataAug|_noDA(?=_|$)", trainer, re.IGNORECASE) is None


def own(trainer: str) -> bool:
    """Whether a trainer's name has the name of a network that plans never name, be it of another trainer's sizes."""
    return re.search("mednext|stunet", trainer, re.IGNORECASE) is not None
