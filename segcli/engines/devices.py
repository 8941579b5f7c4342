"""What --device may name: the processor, or a kind of device with the number of one, or several."""

from __future__ import annotations

import re

from segcli.engines.driver import driver_devices
from segcli.errors import EngineError, UsageError

# Kind of device -> whether a machine may have several, which are counted from 0.
KINDS = {"cuda": True, "xpu": True, "mps": False, "coreml": False, "dml": True}
NAMES = ("auto", "cpu", *(f"{kind}[:N]" if several else kind for kind, several in KINDS.items()))
SEVERAL = "cuda:0,cuda:1 or cuda:all"  # how a batch is given several


def kind_of(device: str) -> str:
    """ "auto", "cpu", or the kind of device that was named; "auto:N" is auto that looks at that device.

    errors   UsageError (2): nothing is called like that
    """
    kind, colon, number = device.partition(":")
    known = kind in ("auto", "cpu") or kind in KINDS
    counted = kind == "auto" or KINDS.get(kind)
    if not known or (colon and not (counted and re.fullmatch("0|[1-9][0-9]*", number))):
        raise UsageError(f"no device is called {device!r}", hint=f"there are {', '.join(NAMES)}")
    return kind


def place_of(device: str) -> str:
    """A device as libraries name it: "cuda" is "cuda:0"."""
    return f"{device}:0" if KINDS.get(device) else device


def devices_of(device: str) -> tuple[str, ...]:
    """The devices that --device names for a batch: mostly one; "cuda:all" is every one that the drivers show.

    errors   EngineError (69): one of several is not there, or none at all; UsageError (2): they are not different ones
    """
    if device != "cuda:all" and "," not in device:
        kind_of(device)
        return (device,)
    count = driver_devices()
    found = tuple(f"cuda:{i}" for i in range(count)) if device == "cuda:all" else tuple(device.split(","))
    for one in found:
        number = one.partition(":")[2]
        if kind_of(one) != "cuda" or not number or found.count(one) > 1:
            raise UsageError(f"--device {device}: several are different CUDA devices by their numbers", hint=SEVERAL)
        if int(number) >= count:
            raise EngineError(missing(one, count), hint="use --device cpu")
    if not found:
        raise EngineError(missing(device, count), hint="use --device cpu")
    return found


def spread(device: str, count: int) -> tuple[str, ...]:
    """The devices that workers of one machine take in turn, where its drivers show so many.

    One that was not told by its number is any of them.
    """
    if device in ("auto", "cuda") and count > 1:
        return tuple(f"{device}:{i}" for i in range(count))
    return devices_of(device)


def missing(device: str, count: int) -> str:
    return f"{device} is not there: {count} CUDA device{'s' * (count != 1)} found"
