"""What inference asks of whatever runs a network."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from segcli.space.volume import Array, Box


class Engine(Protocol):
    """Runs a network on windows, and owns the memory that logits are summed in."""

    @property
    def name(self) -> str:
        """For the record: "torch cuda:0", "openvino cpu"."""
        ...

    @property
    def batch(self) -> int:
        """Windows per call it likes."""
        ...

    def run(self, patches: NDArray[np.float32]) -> Array:
        """Logits (N, K, d, h, w) of windows (N, C, d, h, w)."""
        ...

    def zeros(self, shape: tuple[int, ...]) -> Array:
        """Where sums of this size should live."""
        ...

    def add(self, total: Array, at: Box, logits: Array, weight: NDArray[np.float32]) -> None:
        """total[:, at] += logits * weight, for one window's (K, d, h, w)."""
        ...

    def get(self, total: Array) -> NDArray[np.float32]:
        """The sums as numpy, on the host."""
        ...

    def rest(self) -> None:
        """Give back what only `run` needs of memory; the next run takes it again."""
        ...
