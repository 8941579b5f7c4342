"""What torch, its wheel and the driver say of a CUDA device: whether it can be used, and why not."""

from __future__ import annotations

import re
import warnings

import numpy as np
import torch
from numpy.typing import NDArray

from segcli.engines.driver import driver_version
from segcli.engines.torch_state import settings
from segcli.errors import cause_of

# What torch raises of a device that it cannot use: what was asked for before CUDA began fails when it does, for one.
_RAISED = (RuntimeError, AssertionError, torch.cuda.DeferredCudaCallError)

_said = ["it finds no device"]  # why torch finds none, which it says once in a process


def unusable(device: str) -> tuple[str, str] | None:
    """Why this torch cannot use a CUDA device that the driver shows, and what to do; None where it convolves on it."""
    wheel = torch.version.cuda or torch.version.hip
    if wheel is None:
        return "this torch cannot use CUDA: it is built for the CPU", "install a build of torch with CUDA"
    own = f"this torch, for CUDA {wheel}, cannot use CUDA"
    if said := _said_of_cuda():
        return f"{own}: {said}{_driver()}", "install a newer driver, or an older torch"
    count = torch.cuda.device_count()
    if int(device.partition(":")[2] or 0) >= count:
        return f"{own}: {device} is not among its {count} devices", "`segcli doctor` says more"
    try:
        if lacking := _lacking(torch.cuda.get_device_capability(device), torch.cuda.get_arch_list()):
            return f"{own}: {facts(device)}, {lacking}", "install another build of torch"
        convolved(np.ones((1, 1, 8, 8, 8), np.float32), device)
    except _RAISED as error:
        return f"{own}: {cause_of(error)}{_driver()}", "use --device cpu"
    return None


def without(precision: str, capability: tuple[int, int]) -> str:
    """Why a CUDA device of a compute capability does not compute in a precision; "" where it does."""
    newer = precision in ("tf32", "bfloat16") and capability < (8, 0)
    return f"has compute capability {capability[0]}.{capability[1]}, and it takes 8.0" if newer else ""


def facts(device: str) -> str:
    """A device's name and compute capability."""
    major, minor = torch.cuda.get_device_capability(device)
    return f"{torch.cuda.get_device_name(device)}, compute capability {major}.{minor}"


def note(device: str) -> str:
    """What `segcli doctor` says of a device that works: name, capability, wheel, driver."""
    return f"{facts(device)}; torch for CUDA {torch.version.cuda or torch.version.hip}{_driver()}"


def convolved(cube: NDArray[np.float32], device: str) -> NDArray[np.float32]:
    """A cube convolved with 3 x 3 x 3 ones on a device, by the kernels that a run in float32 takes.

    Whatever torch raises says that it cannot. Its own choice would be TF32, for which some cuDNN have a wrong kernel.
    """
    weight = torch.ones((1, 1, 3, 3, 3), device=device)
    with settings(torch.get_num_threads()):
        there = torch.nn.functional.conv3d(torch.from_numpy(cube).to(device), weight, padding=1)
    found: NDArray[np.float32] = there.cpu().numpy()
    return found


def _said_of_cuda() -> str:
    """Why torch finds no CUDA at all, in its own words; "" where it does."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        if torch.cuda.is_available():
            return ""
    if told and isinstance(said := told[-1].message, Warning):
        _said[0] = cause_of(said)
    return _said[0]


def _lacking(capability: tuple[int, int], built: list[str]) -> str:
    """What is missing for a device among the kernels of the wheel (sm_80, compute_90, ...); "" where one runs.

    A kernel for 8.0 runs on 8.6, not on 9.0; compute_90 is compiled for whatever is newer when it is loaded. ROCm has
    names of its own, of which nothing is said.
    """
    known = [
        (match[1], divmod(int(match[2]), 10)) for word in built if (match := re.match(r"(sm|compute)_(\d+)", word))
    ]
    fits = (of <= capability and (kind == "compute" or of[0] == capability[0]) for kind, of in known)
    return "" if not known or any(fits) else f"and it has kernels for {', '.join(built)}"


def _driver() -> str:
    found = driver_version()
    return f"; the driver is for CUDA {found}" if found else ""
