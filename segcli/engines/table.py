"""The engines there are, each declared in a file of its own: `*_engine.py` here, or in an installed package.

Such a file has `ENGINE = EngineSpec(...)`, and imports its library only when a function of the spec is called. A
package offers one through the entry points "segcli.engines". All that lists engines reads this table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from segcli.engines import own
from segcli.engines.precision import Refusals
from segcli.packages import added

if TYPE_CHECKING:
    from segcli.engines.blended import Blending
    from segcli.models.card import ModelCard

Trial = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Graph:
    """An ONNX file, read once: these very bytes are hashed, checked and loaded; and a word on where they come from.

    made_of  of an export that segcli made for itself: the weights' files by name, and the sums of their bytes
    """

    name: str
    data: bytes = field(repr=False)
    sha256: str | None = None
    note: str = ""
    made_of: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """Which engine runs a card where, and why.

    device   "cpu", "cuda:N", or another one, as place_of in devices.py has it
    graph    of the card, where the engine reads one
    named    whether the user named the device
    """

    spec: EngineSpec
    device: str
    reason: str
    graph: Graph | None = None
    named: bool = False
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """What a run wants of every engine it opens; limits in bytes, None where the engine decides.

    precision  of arithmetic; whoever opens an engine gets one that it has on its device
    common     what the engines of one run share, by device: its memory
    """

    threads: int = 1
    batch: int | None = None
    precision: str = "float32"
    max_vram: int | None = None
    max_ram: int | None = None
    votes: bool = False  # of a model's folds, as one channel more
    common: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Preference:
    """When `auto` takes an engine on a kind of device: the lowest rank first, and what is said of it."""

    rank: int
    reason: str


@dataclass(frozen=True)
class EngineSpec:
    """One engine.

    name      what --engine calls it
    title     what people call it
    library   the module that it needs, also its package's name, and the first word of the engine's own name
    reads     the model's "weights", or an ONNX "graph" of it
    devices   kinds that --device may name: "cpu", "cuda", or others of devices.py
    open      the engine with a model loaded, and file name -> sha256 of the bytes that were loaded
    prefers   kinds of device on which `auto` may take it
    precisions  what the engine computes in on a device, and why not in the rest
    unusable  a sentence and a hint where the library cannot use a device
    trials    name -> convolves a cube (1, 1, n, n, n) with 3 x 3 x 3 ones, for `segcli doctor`
    notes     name of a trial -> what is worth knowing of its device, where it works
    """

    name: str
    title: str
    library: str
    reads: Literal["weights", "graph"]
    devices: tuple[str, ...]
    open: Callable[[ModelCard, Choice, Run], tuple[Blending, Mapping[str, str]]]
    prefers: Mapping[str, Preference] = field(default_factory=dict)
    precisions: Callable[[str], Refusals] = lambda device: {"float32": ""}
    unusable: Callable[[str], tuple[str, str] | None] = lambda device: None
    trials: Mapping[str, Trial] = field(default_factory=dict)
    notes: Mapping[str, Callable[[], str]] = field(default_factory=dict)

    @property
    def installed(self) -> bool:
        return find_spec(self.library) is not None


@cache
def engines() -> Mapping[str, EngineSpec]:
    """Every engine by name, installed or not, the one that `auto` prefers first; those of installed packages behind.

    errors   as in `packages.added`
    """
    known: list[EngineSpec] = [import_module(f"{__package__}.{name}_engine").ENGINE for name in own()]
    known.sort(key=lambda spec: min(preference.rank for preference in spec.prefers.values()))
    more = added("engine", EngineSpec, lambda spec: (spec.name,), [spec.name for spec in known])
    return {spec.name: spec for spec in (*known, *more.values())}


def installed() -> list[EngineSpec]:
    """The engines whose library is there."""
    return [spec for spec in engines().values() if spec.installed]


def libraries() -> list[str]:
    """The libraries that engines run on, installed or not."""
    return list(dict.fromkeys(spec.library for spec in engines().values()))
