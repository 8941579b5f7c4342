"""What --device may name: the processor, or a kind of device with the number of one."""

from __future__ import annotations

import re

from segcli.errors import EngineError

# Kind of device -> whether a machine may have several, which are counted from 0.
KINDS = {"cuda": True, "xpu": True, "mps": False, "coreml": False, "dml": True}
NAMES = ("auto", "cpu", *(f"{kind}[:N]" if several else kind for kind, several in KINDS.items()))


def kind_of(device: str) -> str:
    """ "auto", "cpu", or the kind of device that was named.

    errors   EngineError (69): nothing is called like that
    """
    kind, colon, number = device.partition(":")
    known = kind in ("auto", "cpu") or kind in KINDS
    if not known or (colon and not (KINDS.get(kind) and re.fullmatch("[0-9]+", number))):
        raise EngineError(f"no device is called {device!r}", hint=f"there are {', '.join(NAMES)}")
    return kind


def place_of(device: str) -> str:
    """A device as libraries name it: "cuda" is "cuda:0"."""
    return f"{device}:0" if KINDS.get(device) else device
