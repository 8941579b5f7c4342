"""torch: the model's weights in the network that segcli builds, on the CPU or a CUDA device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from segcli.engines.precision import Refusals, on_cpu
from segcli.engines.table import Choice, EngineSpec, Preference, Run
from segcli.models.library import file_sha256

if TYPE_CHECKING:
    from torch import nn

    from segcli.engines.blended import Blending
    from segcli.models.card import ModelCard

# Smaller windows go to a processor several at a time: torch has slow kernels for small layers of a single window.
_VOXELS_AT_A_TIME = 96**3
# On a GPU one window of 96^3 fills the card, by count of its multiplications; two hide the start of each kernel.
# More would gain nothing, and the same count in every run gives the same bytes.
_VOXELS_ON_A_DEVICE = 2 * 96**3


def _open(card: ModelCard, chosen: Choice, run: Run) -> tuple[Blending, Mapping[str, str]]:
    from segcli.engines.averaged import Ensemble
    from segcli.models.weights import network_of

    folds: list[Blending] = []
    hashes: dict[str, str] = {}
    for fold, name in enumerate(card.weights):
        network = network_of(card, fold)
        # network_of checked this sum on the bytes that it loaded; a card without sums is hashed here.
        hashes[name] = card.sha256[fold] if card.sha256 else file_sha256(card.file(name))
        folds.append(_placed(network, card, chosen, run))
    return (folds[0] if len(folds) == 1 else Ensemble(folds, card.decide, run.votes)), hashes


def _placed(network: nn.Module, card: ModelCard, chosen: Choice, run: Run) -> Blending:
    """The engine of one network on the chosen device."""
    from segcli.engines.choose import cpu_batch
    from segcli.engines.torch_devices import TorchCPU, TorchDevice
    from segcli.engines.torch_memory import Device

    if chosen.device == "cpu":
        batch = run.batch or cpu_batch(card, _VOXELS_AT_A_TIME)
        return TorchCPU(network, threads=run.threads, batch=batch, max_ram=run.max_ram, precision=run.precision)
    shared = run.common.get(chosen.device)
    if not isinstance(shared, Device):
        shared = run.common[chosen.device] = Device(chosen.device, may_leave=not chosen.named, max_ram=run.max_ram)
    return TorchDevice(
        network,
        shared,
        threads=run.threads,
        batch=run.batch or cpu_batch(card, _VOXELS_ON_A_DEVICE),
        precision=run.precision,
        max_vram=run.max_vram,
    )


def _unusable(device: str) -> tuple[str, str] | None:
    from segcli.engines.torch_cuda import unusable

    return unusable(device)


def _precisions(device: str) -> Refusals:
    if device == "cpu":
        return on_cpu()
    import torch

    from segcli.engines.torch_cuda import without

    capability = torch.cuda.get_device_capability(device)
    return {word: without(word, capability) for word in ("float32", "tf32", "bfloat16", "float16")}


def _note() -> str:
    from segcli.engines.torch_cuda import note

    return note("cuda:0")


def _convolved(cube: NDArray[np.float32], device: str) -> NDArray[np.float32]:
    from segcli.engines.torch_cuda import convolved, unusable

    if device != "cpu" and (trouble := unusable(device)):
        raise RuntimeError(trouble[0])
    return convolved(cube, device)


ENGINE = EngineSpec(
    name="torch",
    title="torch",
    library="torch",
    reads="weights",
    devices=("cpu", "cuda"),
    open=_open,
    prefers={"cuda": Preference(0, "a CUDA device is there"), "cpu": Preference(3, "nothing else is there")},
    precisions=_precisions,
    unusable=_unusable,
    trials={
        "torch cpu": lambda cube: _convolved(cube, "cpu"),
        "torch cuda": lambda cube: _convolved(cube, "cuda:0"),
    },
    notes={"torch cuda": _note},
)
