"""torch: the model's weights in the network that segcli builds, on the CPU, a CUDA, an Apple or an Intel device."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from segcli.engines.loading import environment
from segcli.engines.precision import NOT_THERE, Refusals, on_cpu
from segcli.engines.table import Choice, EngineSpec, Preference, Run
from segcli.models.library import file_sha256

if TYPE_CHECKING:
    from torch import nn

    from segcli.engines.blended import Blending
    from segcli.models.card import ModelCard

# torch reads these when it is loaded: on Apple's devices, the CPU computes what they have no operator for; on Intel's
# it does so anyway, and says which.
LOADED = {"PYTORCH_ENABLE_MPS_FALLBACK": "1", "PYTORCH_DEBUG_XPU_FALLBACK": "1"}
# Smaller windows go to a processor several at a time: torch has slow kernels for small layers of a single window.
_VOXELS_AT_A_TIME = 96**3


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
    from segcli.engines.room import VOXELS_ON_A_DEVICE, windows_of
    from segcli.engines.torch_devices import TorchCPU, TorchDevice
    from segcli.engines.torch_memory import shared

    if chosen.device == "cpu":
        batch = run.batch or windows_of(card, _VOXELS_AT_A_TIME)
        return TorchCPU(network, threads=run.threads, batch=batch, max_ram=run.max_ram, precision=run.precision)
    return TorchDevice(
        network,
        shared(run, chosen),
        threads=run.threads,
        batch=run.batch or windows_of(card, VOXELS_ON_A_DEVICE),
        precision=run.precision,
    )


def _unusable(device: str) -> tuple[str, str] | None:
    if device.startswith("cuda"):
        from segcli.engines.torch_cuda import unusable

        return unusable(device)
    with environment(**LOADED):
        from segcli.engines.torch_others import unusable as unusable_other
    return unusable_other(device)


def _precisions(device: str) -> Refusals:
    if device == "cpu":
        return on_cpu()
    if not device.startswith("cuda"):
        return {"float32": "", **dict.fromkeys(("tf32", "bfloat16", "float16"), NOT_THERE)}
    import torch

    from segcli.engines.torch_cuda import without

    capability = torch.cuda.get_device_capability(device)
    return {word: without(word, capability) for word in ("float32", "tf32", "bfloat16", "float16")}


def _note() -> str:
    from segcli.engines.torch_cuda import note

    return note("cuda:0")


def _convolved(cube: NDArray[np.float32], device: str) -> NDArray[np.float32]:
    if device != "cpu" and (trouble := _unusable(device)):
        raise RuntimeError(trouble[0])
    from segcli.engines.torch_cuda import convolved

    return convolved(cube, device)


ENGINE = EngineSpec(
    name="torch",
    title="torch",
    library="torch",
    reads="weights",
    devices=("cpu", "cuda", "mps", "xpu"),
    open=_open,
    prefers={"cuda": Preference(0, "a CUDA device is there"), "cpu": Preference(3, "nothing else is there")},
    precisions=_precisions,
    unusable=_unusable,
    trials={
        f"torch {device.partition(':')[0]}": partial(_convolved, device=device)
        for device in ("cpu", "cuda:0", "mps", "xpu:0")
    },
    notes={"torch cuda": _note},
)
