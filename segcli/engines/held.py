"""An engine whose network is loaded while it is needed, for models of several networks that memory has no room for."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from segcli.engines.opened import Opened
from segcli.errors import ModelError
from segcli.inference.engine import Engine, Sums, Weights, sampler_of
from segcli.space.resample import Sampler


class Held:
    """Loads its network when a window is there for it, and lets go of it when it rests.

    name       the engine's, and the precision: as they are to be, and once it was loaded, as they were
    hashes     file name -> sha256 of the bytes that it shall load
    opens      loads it
    """

    def __init__(self, name: str, precision: str, hashes: Mapping[str, str], opens: Callable[[], Opened]) -> None:
        self._name, self._precision, self._hashes, self._opens = name, precision, dict(hashes), opens
        self._loaded: Engine | None = None
        self._fallbacks: tuple[str, ...] = ()
        self._repeated = 0

    @property
    def name(self) -> str:
        return self._loaded.name if self._loaded else self._name

    @property
    def precision(self) -> str:
        return self._loaded.precision if self._loaded else self._precision

    @property
    def sampler(self) -> Sampler | None:
        """Where images are resampled: on a device that the network is loaded to, the host for one of the processor."""
        return None if self.name.endswith(" cpu") else sampler_of(self._engine())

    @property
    def batch(self) -> int:
        return self._engine().batch

    @property
    def fallbacks(self) -> Sequence[str]:
        return (*self._fallbacks, *(self._loaded.fallbacks if self._loaded else ()))

    @property
    def repeated(self) -> int:
        return self._repeated + (self._loaded.repeated if self._loaded else 0)

    def run(self, patches: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._engine().run(patches)

    def sums(self, image: NDArray[np.float32], shape: tuple[int, int, int], axis: int, weight: Weights) -> Sums:
        return self._engine().sums(image, shape, axis, weight)

    def rest(self) -> None:
        """Let go of the network."""
        if self._loaded is None:
            return
        self._name, self._precision = self.name, self.precision
        self._fallbacks, self._repeated = tuple(self.fallbacks), self.repeated
        self._loaded.rest()
        self._loaded = None
        gc.collect()

    def _engine(self) -> Engine:
        if self._loaded is None:
            opened = self._opens()
            if dict(opened.hashes) != self._hashes:
                raise ModelError(f"{', '.join(self._hashes)}: changed while the model was in use")
            self._fallbacks += opened.warnings  # of a device that could not be used
            self._loaded = opened.engine
        return self._loaded
