"""How many windows of a card's size are shown at a time; whether one fits into memory, told before the network runs."""

from __future__ import annotations

import math
from collections.abc import Callable

from segcli.errors import OutOfMemory
from segcli.memory import available, remedy, resident
from segcli.models.card import ModelCard

# Bytes that networks hold for each voxel of a window at most, as a rule: what is far below the room is not counted.
_OF_A_VOXEL = 2048
_SMALL = 1 << 30  # bytes that every machine has
# On a GPU one window of 96^3 fills the card, by count of its multiplications; two hide the start of each kernel.
# More would gain nothing, and the same count in every run gives the same bytes.
VOXELS_ON_A_DEVICE = 2 * 96**3


def windows_of(card: ModelCard, voxels: int) -> int:
    """Windows at a time, of so many voxels in all: several pictures of a 2-D network or small windows.

    A whole image has a size that the card does not say: its mirror images are shown one by one.
    """
    return 1 if card.window.whole else max(1, min(16, voxels // math.prod(card.window.size)))


def refuse_too_large(card: ModelCard, max_ram: int | None, need: Callable[[], int]) -> None:
    """Refuse a card whose windows take more memory than there is, which would be known minutes later.

    max_ram  bytes that the process may have resident; what there is when None
    need     bytes of a window's tensors at their peak, asked for where the window is large
    errors   OutOfMemory (71)
    """
    size = card.window.size
    likely = _OF_A_VOXEL * math.prod(size)
    if card.window.whole or likely < _SMALL:
        return
    room = available() if max_ram is None else max_ram - resident()
    wanted = need() if likely > room else 0
    if wanted > room:
        d, h, w = size
        raise OutOfMemory(
            f"{card.name}: its network takes {wanted / 1e9:.1f} GB of memory for one window of {d} x {h} x {w} voxels "
            f"(patch_size), {max(room, 0) / 1e9:.1f} GB may be used",
            hint=remedy() if max_ram is None else "give more --max-ram",
        )


def of_network(card: ModelCard) -> int:
    """Bytes of a window's tensors at their peak where torch runs the network."""
    from segcli.engines.activations import peak

    try:
        return peak(card, card.window.size)
    except (RuntimeError, NotImplementedError):  # operators without a rule for shapes alone: what goes in and out
        return 4 * (card.inputs + len(card.decide.values)) * math.prod(card.window.size)


def of_graph(data: bytes, shape: tuple[int, int, int, int]) -> int:
    """Bytes of the tensors that the largest operator of an ONNX graph has before it and makes, of one window.

    shape    of the input, (C, d, h, w)
    """
    import onnx

    model = onnx.load_model_from_string(data)
    weights = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.name not in weights:
            for dim, n in zip(value.type.tensor_type.shape.dim, (1, *shape), strict=False):
                dim.dim_value = n
    model = onnx.shape_inference.infer_shapes(model)
    sizes = {}
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        tensor = value.type.tensor_type
        sizes[value.name] = 4 * math.prod(max(1, dim.dim_value) for dim in tensor.shape.dim)
    convolutions = ("Conv", "ConvTranspose")  # others may work in place
    most: int = max(
        sum(sizes.get(name, 0) for name in {*node.output, *(node.input if node.op_type in convolutions else ())})
        for node in model.graph.node
    )
    return most
