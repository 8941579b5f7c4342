"""Apple's devices (mps) and Intel's (xpu) in torch: whether they can be used, and what they have no operator for."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from segcli.engines.torch_cuda import convolved
from segcli.errors import EngineError, cause_of

_MAKERS = {"mps": "Apple's devices", "xpu": "Intel's devices"}
_OPERATOR = re.compile(r"operator '([\w:.]+)")
# How torch says, beside NotImplementedError, that a device has not what a network needs.
_MISSING = ("not supported on MPS", "not implemented for the MPS", "not currently implemented for the")


def unusable(device: str) -> tuple[str, str] | None:
    """Why this torch cannot use a device, and what to do; None where it convolves on it."""
    kind, _, number = device.partition(":")
    library: Any = getattr(torch, kind)
    own = f"this torch cannot use {device}"
    if kind == "mps":
        built, there = torch.backends.mps.is_built(), torch.backends.mps.is_available()
    else:
        built, there = torch.xpu._is_compiled(), torch.xpu.is_available()
    if not built:
        return f"{own}: it is not built for {_MAKERS[kind]}", "install another build of torch, or use --device cpu"
    if not there or int(number or 0) >= library.device_count():
        return f"{own}: there is none that it finds", "use --device cpu"
    try:
        convolved(np.ones((1, 1, 8, 8, 8), np.float32), device)
    except RuntimeError as error:
        return f"{own}: {cause_of(error)}", "use --device cpu, or a newer torch"
    return None


@contextmanager
def operators(place: torch.device, taken: list[str]) -> Iterator[None]:
    """Within the block: `taken` gets a sentence for each operator that the CPU computes, for the device has it not.

    errors   EngineError (69): an operator is missing, and torch does not leave it to the CPU
    """
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            yield
        except RuntimeError as error:
            if not isinstance(error, NotImplementedError) and not any(words in str(error) for words in _MISSING):
                raise
            raise EngineError(
                f"{place}: torch has no {_operator(str(error))} there",
                hint="use --device cpu, or a newer torch",
            ) from error
    for warning in said:
        text = str(warning.message)
        sentence = f"the CPU computes {_operator(text)}, which torch has not on {place.type}"
        if "to run on the CPU" in text and sentence not in taken:
            taken.append(sentence)


def _operator(text: str) -> str:
    """The operator that a sentence of torch's names; its first words where it names none."""
    found = _OPERATOR.search(text)
    return found[1] if found else text.partition(".")[0]
