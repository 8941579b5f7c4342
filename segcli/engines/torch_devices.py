"""A network that torch runs on the CPU or on a CUDA device."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segcli.engines.blended import Axes, Blending, cut, finite
from segcli.engines.quicker import channels_last, quicker
from segcli.errors import OutOfMemory, cause_of
from segcli.memory import zeros as host_zeros
from segcli.space.volume import Box

T = TypeVar("T")
# How CUDA and its libraries say, in errors of no class of their own, that the device's memory does not suffice.
_NO_MEMORY = (
    "CUDA error: out of memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "unable to find an engine to execute this computation",
)
_HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
_MOST = 16  # windows at a time on a device; more gain nothing


class TorchCPU(Blending):
    """A network on the CPU, rewritten for speed (quicker.py).

    max_ram, fallbacks  as in HostEngine
    precision           float32, or bfloat16 (autocast); logits and their sums are float32 all the same
    """

    name = "torch cpu"
    precision: str = "float32"
    batch: int = 1
    repeated = 0

    def __init__(
        self, network: nn.Module, *, threads: int, batch: int, max_ram: int | None = None, precision: str = "float32"
    ) -> None:
        self.precision = precision
        torch.set_num_threads(threads)
        self.batch, self.max_ram, self._taken = batch, max_ram, list[str]()
        self._network = quicker(network)

    @property
    def fallbacks(self) -> Sequence[str]:
        return self._taken

    def answer(self, held: NDArray[np.float32], at: Sequence[Box], flip: Axes = ()) -> Tensor:
        return _turned(self.logits(cut(held, at, flip)), flip)

    @torch.no_grad()
    def logits(self, patches: NDArray[np.float32]) -> Tensor:
        """Logits (N, K, d, h, w) of windows (N, C, d, h, w)."""
        x = torch.from_numpy(patches).contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bfloat16"):
            logits: Tensor = self._network(x)
        return logits.float().contiguous(memory_format=torch.contiguous_format)

    def owned(self, logits: Tensor) -> Tensor:
        return logits

    def zeros(self, shape: tuple[int, ...]) -> Tensor:
        return torch.from_numpy(host_zeros(shape, self.max_ram, self._taken))

    def add(self, total: Tensor, at: Box, logits: Tensor, weight: NDArray[np.float32]) -> None:
        total[(slice(None), *at)].addcmul_(logits, torch.from_numpy(weight))

    def get(self, total: Tensor) -> NDArray[np.float32]:
        return total.clone(memory_format=torch.contiguous_format).numpy()


def _turned(logits: Tensor, flip: Axes) -> Tensor:
    return logits.flip([axis + 2 for axis in flip]) if flip else logits


class TorchCUDA(Blending):
    """A network on a CUDA device, and the steps down when its memory does not suffice.

    fallbacks  sentences, one for each step that was taken
    precision  float32, TF32, or autocast to float16 or bfloat16; logits and their sums are float32 all the same, and
               a window whose logits are not finite then is computed again in float32
    max_ram    as in HostEngine, for sums that moved to the host

    The steps, in order: half as many windows at a time; sums in the host's memory; the CPU, where the user named no
    device. None of them changes the size of a window or the precision.
    """

    precision: str = "float32"
    batch: int = 1
    repeated: int = 0

    def __init__(
        self,
        network: nn.Module,
        device: str,
        shape: tuple[int, ...],
        *,
        threads: int,
        batch: int | None,
        precision: str,
        max_vram: int | None,
        may_leave: bool,
        max_ram: int | None = None,
    ) -> None:
        torch.set_num_threads(threads)
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        self.threads, self.precision, self._taken = threads, precision, list[str]()
        self.max_ram = max_ram
        self._device = torch.device(device)
        if max_vram is not None:
            room = torch.cuda.get_device_properties(self._device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, max_vram / room), self._device)
        self._may_leave = may_leave
        self._sums_on_host = False
        self._sums: weakref.WeakSet[Tensor] = weakref.WeakSet()
        self._weights: dict[int, Tensor] = {}
        self.batch = batch or 1
        self._network = network
        self._on_host: TorchCPU | None = None
        self._try(lambda: channels_last(self._network.to(self._device)))
        if batch is None and self._on_host is None:
            self.batch = self._fitting(shape, max_vram)

    @property
    def name(self) -> str:
        return f"torch {self._device}"

    @property
    def fallbacks(self) -> Sequence[str]:
        return self._taken

    def rest(self) -> None:
        torch.cuda.empty_cache()

    def answer(self, held: NDArray[np.float32], at: Sequence[Box], flip: Axes = ()) -> Tensor:
        return _turned(self.logits(cut(held, at, flip)), flip)

    @torch.no_grad()
    def logits(self, patches: NDArray[np.float32]) -> Tensor:
        """Logits (N, K, d, h, w) of windows (N, C, d, h, w)."""
        while self._on_host is None:
            try:
                parts = [self._forward(patches[i : i + self.batch]) for i in range(0, len(patches), self.batch)]
                return self._repaired(patches, parts[0] if len(parts) == 1 else torch.cat(parts))
            except RuntimeError as error:
                cause = _short(error)
            self._step_down(cause, len(patches))
        return self._on_host.logits(patches)

    def _repaired(self, patches: NDArray[np.float32], logits: Tensor) -> Tensor:
        """The logits with those windows in float32 that half precision overflowed in."""
        if self.precision in _HALVES:
            for i, item in enumerate(logits):
                if not finite(item):
                    logits[i] = self._forward(patches[i : i + 1], exact=True)[0]
                    self.repeated += 1
        return logits

    def owned(self, logits: Tensor) -> Tensor:
        return logits

    def zeros(self, shape: tuple[int, ...]) -> Tensor:
        total = self._try(lambda: self._zeros(shape))
        self._sums.add(total)
        return total

    def add(self, total: Tensor, at: Box, logits: Tensor, weight: NDArray[np.float32]) -> None:
        def added() -> None:
            key = id(weight)
            if key not in self._weights or self._weights[key].device != total.device:
                self._weights = {key: torch.from_numpy(weight).to(total.device)}
            total[(slice(None), *at)].addcmul_(logits.to(total.device), self._weights[key])

        self._try(added)

    def get(self, total: Tensor) -> NDArray[np.float32]:
        return total.to("cpu", copy=True).contiguous().numpy()

    def _forward(self, patches: NDArray[np.float32], *, exact: bool = False) -> Tensor:
        """Logits of as many windows as go at a time; in the engine's precision, or, if exact, in float32."""
        x = torch.from_numpy(patches).pin_memory().to(self._device, non_blocking=True)
        x = x.contiguous(memory_format=torch.channels_last_3d)
        half = None if exact else _HALVES.get(self.precision)
        with torch.autocast("cuda", half or torch.float16, enabled=half is not None):
            logits: Tensor = self._network(x)
        return logits.float()

    def _zeros(self, shape: tuple[int, ...]) -> Tensor:
        if self._sums_on_host or self._on_host is not None:
            return torch.from_numpy(host_zeros(shape, self.max_ram, self._taken))
        return torch.zeros(shape, device=self._device)

    def _try(self, work: Callable[[], T]) -> T:
        while True:
            try:
                return work()
            except RuntimeError as error:
                cause = _short(error)
            self._step_down(cause, 1)

    def _step_down(self, cause: str, count: int) -> None:
        """Need less memory than now; errors: OutOfMemory (71) when there is no way left.

        Called when the error is gone: its traceback would keep alive whatever the failed pass held.
        """
        torch.cuda.empty_cache()
        if min(self.batch, count) > 1:
            self.batch = min(self.batch, count) // 2
            self._taken.append(f"out of GPU memory: {self.batch} windows at a time")
        elif not self._sums_on_host:
            self._sums_on_host = True
            for total in self._sums:
                moved = torch.from_numpy(host_zeros(tuple(total.shape), self.max_ram, self._taken))
                total.data = moved.copy_(total.data)  # as nn.Module.to() moves parameters
            self._taken.append("out of GPU memory: logits are added up in the computer's memory")
        elif self._may_leave and self._on_host is None:
            self._on_host = TorchCPU(self._network.cpu(), threads=self.threads, batch=1)
            self._device, self.batch, self.precision = torch.device("cpu"), 1, "float32"
            self._taken.append("out of GPU memory: the CPU goes on")
        else:
            raise OutOfMemory(
                f"one window does not fit into the memory of {self._device}: {cause}",
                hint="use --device cpu",
            )

    @torch.no_grad()
    def _fitting(self, shape: tuple[int, ...], max_vram: int | None) -> int:
        """Windows at a time for which the device has room beside the sums, from the need of one."""
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        logits = self.logits(np.zeros((1, *shape), np.float32))
        if self._on_host is not None:
            return 1
        need = torch.cuda.max_memory_allocated(self._device) - before
        free = torch.cuda.mem_get_info(self._device)[0]
        if max_vram is not None:
            free = min(free, max_vram - before)
        sums = 8 * logits.numel() * logits.element_size()  # a slab twice as high and as wide as the window
        return max(1, min(_MOST, int(0.8 * (free - sums) // max(need, 1))))


def _short(error: RuntimeError) -> str:
    """What an error says of too little memory on the device; any other error goes on."""
    said = str(error)
    if not isinstance(error, torch.OutOfMemoryError) and not any(words in said for words in _NO_MEMORY):
        raise error
    return cause_of(error)


def device_count() -> int:
    """CUDA devices that this torch can use; 0 also when it was built without CUDA."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def device_peak(device: str) -> int:
    """Bytes that torch has held on a device at most."""
    return torch.cuda.max_memory_reserved(device)


def without(precision: str, capability: tuple[int, int]) -> str:
    """Why a CUDA device of a compute capability does not compute in a precision; "" where it does."""
    newer = precision in ("tf32", "bfloat16") and capability < (8, 0)
    return f"has compute capability {capability[0]}.{capability[1]}, and it takes 8.0" if newer else ""
