"""A network that torch runs on the CPU or on another device."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from segcli.engines.blended import Axes, Blending, Summing, cut, summed_in
from segcli.engines.host import empty_sums
from segcli.engines.quicker import channels_last, in_half, in_its_order, keeps_channels_last, quicker
from segcli.engines.torch_memory import Device, Shown
from segcli.engines.torch_others import operators
from segcli.engines.torch_sampler import DeviceSampler
from segcli.engines.torch_state import settings
from segcli.engines.torch_sums import HALVES, DeviceSums
from segcli.space.resample import Sampler
from segcli.space.volume import Box

Held: TypeAlias = Tensor | NDArray[np.float32]
OTHERS = ("mps", "xpu")  # devices that may lack operators
_COPIED = 1 << 30  # bytes of logits that are copied: 104 classes of a whole image of 256 x 256 x 256 take 7 GB
_exact = ContextVar("exact", default=False)  # whether this thread's answers are in float32 now


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
        self.precision, self.threads = precision, threads
        self.batch, self.max_ram, self._taken = batch, max_ram, list[str]()
        self._network = quicker(network)

    @property
    def fallbacks(self) -> Sequence[str]:
        return self._taken

    def answer(self, held: NDArray[np.float32], at: Sequence[Box], flips: Sequence[Axes] = ()) -> Tensor:
        return _turned(self.logits(cut(held, at, flips)), flips)

    @torch.no_grad()
    def logits(self, patches: Held) -> Tensor:
        """Logits (N, K, d, h, w) of windows (N, C, d, h, w)."""
        x = torch.as_tensor(patches).contiguous(memory_format=torch.channels_last_3d)
        with settings(self.threads), torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bfloat16"):
            logits: Tensor = self._network(x)
            return _in_order(logits.float())

    def owned(self, logits: Tensor) -> Tensor:
        return logits

    def zeros(self, shape: tuple[int, ...]) -> Tensor:
        return torch.from_numpy(empty_sums(shape, self.max_ram, self._taken))

    def halves(self, shape: tuple[int, ...]) -> NDArray[np.float16]:
        return empty_sums(shape, self.max_ram, self._taken, np.float16)

    def add(self, total: Tensor, at: Box, logits: Tensor, weight: NDArray[np.float32]) -> None:
        with settings(self.threads):
            total[(slice(None), *at)].addcmul_(logits, torch.from_numpy(weight))

    def get(self, logits: Tensor) -> NDArray[np.float32]:
        with settings(self.threads):
            return logits.clone(memory_format=torch.contiguous_format).numpy()

    def mean(self, total: Tensor, norm: NDArray[np.float32]) -> NDArray[np.float32]:
        with settings(self.threads):
            return (total / torch.from_numpy(norm)).contiguous().numpy()

    @property
    def summing(self) -> Summing:
        return partial(summed_in, self)


class TorchDevice(Blending):
    """A network on a device other than the CPU, whose memory it shares with others (torch_memory.py).

    batch      windows at a time that it likes: as many as the device is quickest with, and has room for
    precision  float32, TF32, or autocast to float16 or bfloat16; logits and their sums are float32 all the same, and
               windows whose logits are not finite then are computed again in float32 (torch_sums.py)
    library    what runs the network, for the engine's name: torch itself, or one that works in torch's memory
    """

    precision: str = "float32"
    repeated: int = 0
    _on_host: TorchCPU | None

    def __init__(
        self,
        network: nn.Module,
        device: Device,
        *,
        threads: int,
        batch: int,
        precision: str = "float32",
        library: str = "torch",
    ) -> None:
        self.device, self.threads, self.precision, self._likes = device, threads, precision, batch
        self._library, self._on_host, self._wanted = library, None, precision
        usual = device.place.type in ("cuda", "cpu")
        self._network = in_its_order(network) if usual else network
        self._there: nn.Module | None = None  # on the device, in the engine's precision
        self._whole: nn.Module | None = None  # there in float32, once it was asked for
        last = usual and keeps_channels_last(network)
        self._form = torch.channels_last_3d if last else torch.contiguous_format
        device.add(self)
        if device.left:
            self.leave()
        else:
            device.tried(self._send)

    @property
    def name(self) -> str:
        return "torch cpu" if self._on_host else f"{self._library} {self.device.place}"

    @property
    def batch(self) -> int:
        return 1 if self._on_host else min(self._likes, self.device.most)

    @property
    def fallbacks(self) -> Sequence[str]:
        return self.device.taken

    def leave(self) -> None:
        """Go on on the CPU, in float32."""
        if self._on_host is None:
            self._there = self._whole = None
            own = copy.deepcopy(self._network.cpu())  # which is rewritten for the CPU
            self._on_host, self.precision = TorchCPU(own, threads=self.threads, batch=1), "float32"

    def come(self) -> None:
        """Go on on the device, where the CPU has taken over."""
        if self._on_host is not None:
            self._on_host, self.precision = None, self._wanted
            self.device.tried(self._send)

    def rest(self) -> None:
        self.device.library.empty_cache()

    @property
    def sampler(self) -> Sampler:
        return DeviceSampler(self.device)

    def hold(self, image: NDArray[np.float32]) -> Shown:
        return self.device.shown(torch.from_numpy(np.require(image, requirements=["C", "W"])))

    def answer(self, held: Shown, at: Sequence[Box], flips: Sequence[Axes] = ()) -> Tensor:
        return _turned(self.logits(self.device.tried(lambda: _cut(held, at, flips, self.device.now))), flips)

    @torch.no_grad()
    def logits(self, patches: Held) -> Tensor:
        """Logits (N, K, d, h, w) of windows (N, C, d, h, w)."""
        shown = torch.as_tensor(patches)
        watched = operators(self.device.place, self.device.taken) if self.device.place.type in OTHERS else nullcontext()
        with self.device.within(), watched, settings(self.threads, self.precision):
            return self.device.tried(lambda: self._answered(shown), lambda: min(self.batch, len(shown)))

    def _answered(self, patches: Tensor) -> Tensor:
        if self._on_host:
            return self._on_host.logits(patches.cpu())
        parts = [self._forward(some, exact=_exact.get()) for some in torch.split(patches, self.batch)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def tried(self, work: Callable[[], Tensor]) -> Tensor:
        return self.device.tried(work, lambda: self.batch)

    @property
    def summing(self) -> Summing:
        return partial(DeviceSums, self.device)

    @contextmanager
    def exact(self, windows: int) -> Iterator[None]:
        self.repeated += windows
        before = _exact.set(True)
        try:
            yield
        finally:
            _exact.reset(before)

    def _forward(self, patches: Tensor, *, exact: bool = False) -> Tensor:
        """Logits of as many windows as go at a time; in the engine's precision, or, if exact, in float32."""
        x = patches.to(self.device.place, non_blocking=self.device.place.type == "cuda").contiguous(
            memory_format=self._form
        )
        half = None if exact else HALVES.get(self.precision)
        network = self._exactly() if exact else self._there
        assert network is not None  # it was sent when the engine was made
        with torch.autocast(self.device.place.type, half or torch.bfloat16, enabled=half is not None):
            logits: Tensor = network(x)
        return logits.float()

    def owned(self, logits: Tensor) -> Tensor:
        return logits

    def beside(self, array: Tensor, other: Tensor) -> Tensor:
        return array.to(other.device)

    def get(self, logits: Tensor) -> NDArray[np.float32]:
        return logits.to("cpu", copy=True).contiguous().numpy()

    def _send(self) -> None:
        if self._on_host:  # the device had no room, and the CPU took over
            return
        half = HALVES.get(self.precision)
        self._there = self._laid(self._network if half is None else in_half(self._network, half))

    def _exactly(self) -> nn.Module:
        """The network in float32; where it computes in half precision, beside the other one from here on."""
        if self._there is self._network:
            return self._network
        if self._whole is None:
            self._whole = self._laid(copy.deepcopy(self._network))
        return self._whole

    def _laid(self, network: nn.Module) -> nn.Module:
        """On the device, its weights in the order that suits it."""
        network = network.to(self.device.place)
        return channels_last(network) if self._form == torch.channels_last_3d else network


def _cut(held: Shown, at: Sequence[Box], flips: Sequence[Axes], place: torch.device) -> Tensor:
    """Windows (N, C, d, h, w) of an image, each flipped along its array axes, on a device."""
    return _turned(torch.stack([held.data[(slice(None), *box)].to(place) for box in at]), flips)


def _in_order(logits: Tensor) -> Tensor:
    """Logits, contiguous as what they are added to: that is faster, unless both together would fill the memory."""
    return logits if 4 * logits.numel() > _COPIED else logits.contiguous(memory_format=torch.contiguous_format)


def _turned(windows: Tensor, flips: Sequence[Axes]) -> Tensor:
    """Windows, each flipped along its array axes: in place, for a batch has room for one window's copy."""
    for window, own in zip(windows, flips, strict=bool(flips)):
        if own:
            window.copy_(window.flip([axis + 1 for axis in own]))
    return windows


def device_peak(device: str) -> int:
    """Bytes that torch has held on a CUDA or an Intel device at most."""
    library = torch.xpu if device.startswith("xpu") else torch.cuda
    return int(library.max_memory_reserved(device))
