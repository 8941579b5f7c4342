"""One device's memory: what all networks on it share, and the steps down when it does not suffice."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from segcli.engines.host import empty_sums
from segcli.engines.table import Choice, Run
from segcli.engines.torch_state import alone, bounded
from segcli.errors import OutOfMemory, cause_of

T = TypeVar("T")
# How CUDA, HIP and their libraries, Apple's and Intel's say, in errors of no class of their own, that the device's
# memory does not suffice.
_NO_MEMORY = (
    "error: out of memory",
    "STATUS_ALLOC_FAILED",  # cuBLAS, hipBLAS, cuDNN 8
    "DEVICE_ALLOCATION_FAILED",  # cuDNN 9
    "STATUS_NOT_INITIALIZED when calling `cublasCreate",  # as it says so mostly
    "miopenStatusAllocFailed",
    "unable to find an engine to execute this computation",
    "MPS backend out of memory",
    "Invalid buffer size",  # MPS, of one tensor that is larger than Metal's largest
    "UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY",
    "UR_RESULT_ERROR_OUT_OF_RESOURCES",
)


class Leaving(Protocol):
    """A network that may have to leave its device."""

    def leave(self) -> None:
        """Go on on the CPU."""
        ...

    def come(self) -> None:
        """Go on on the device again."""
        ...


class Total:
    """Sums, wherever their `data` lies: on the device, or on the host after a step down."""

    def __init__(self, data: Tensor) -> None:
        self.data = data


class Shown(Total):
    """An image whose windows a network is shown; `here` is the host's, and `data` is that too after a step down."""

    def __init__(self, here: Tensor, data: Tensor) -> None:
        super().__init__(data)
        self.here = here


class Device:
    """A device and its memory, for the networks of folds, members and models that run on it together.

    threads  of the CPU, for what it does meanwhile; the process's own where None
    max_ram, max_vram  bytes of the process, and of a CUDA device, that may be taken

    most    windows at a time that it has shown to have room for
    left    whether the CPU has taken over
    taken   sentences, one for each step that was taken

    The steps, in order: half as many windows at a time; sums and image in the host's memory; the CPU, where the user
    named no device. None of them changes the size of a window or the precision on the device. Each scan takes its own.
    """

    def __init__(
        self,
        name: str,
        *,
        may_leave: bool = False,
        threads: int | None = None,
        max_ram: int | None = None,
        max_vram: int | None = None,
    ) -> None:
        self.place, self.most, self.left = torch.device(name), sys.maxsize, False
        self.taken: list[str] = []
        self._threads, self._limit, self._inside = threads, _limited(self.place, max_vram), False
        self._may_leave, self._max_ram, self._sums_on_host = may_leave, max_ram, False
        self._sums: weakref.WeakSet[Total] = weakref.WeakSet()  # and images
        self._networks: weakref.WeakSet[Leaving] = weakref.WeakSet()

    @property
    def library(self) -> Any:
        """torch's module for this kind of device."""
        return {"xpu": torch.xpu, "mps": torch.mps}.get(self.place.type, torch.cuda)

    @property
    def now(self) -> torch.device:
        """Where work is done: the device, or the CPU where it has taken over."""
        return torch.device("cpu") if self.left else self.place

    def add(self, network: Leaving) -> None:
        """A network more, which is told when all have to leave."""
        self._networks.add(network)

    def begin(self) -> None:
        """The steps that earlier scans took are forgotten, where nothing of these is left.

        So a scan that was too large, or somebody else's program that took the memory for a while, costs the later
        scans of a batch nothing, and their bytes do not depend on what was before them.
        """
        with self.within():
            if self._sums:
                return
            self.most, self._sums_on_host, self.left = sys.maxsize, False, False
            for network in list(self._networks):
                if not self.left:  # else there was no room for the one before, and all have left
                    network.come()

    def zeros(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Total:
        """Sums, on the device as long as it has room for all of them."""
        total = Total(self.tried(lambda: self._zeros(shape, dtype)))
        self._sums.add(total)
        return total

    def answers(self, shape: tuple[int, ...]) -> Total:
        """Zeros for a model's whole answer; on the host where the device has no room, and nothing else moves."""
        try:
            with self.within():
                total = Total(self._zeros(shape, torch.float32))
        except RuntimeError as error:
            short(error)
            self.taken.append("out of GPU memory: a model's answer lies in the computer's memory")
            total = Total(torch.from_numpy(empty_sums(shape, self._max_ram, self.taken)))
        self._sums.add(total)
        return total

    def shown(self, here: Tensor) -> Shown:
        """An image of the host's, sent to the device once; it stays where it is if the device has no room for it."""
        data = here
        if not (self._sums_on_host or self.left):
            try:
                with self.within():
                    data = here.to(self.place)
            except RuntimeError as error:
                short(error)
        shown = Shown(here, data)
        self._sums.add(shown)
        return shown

    @contextmanager
    def within(self) -> Iterator[None]:
        """Within the block the limits of threads and of the device's memory hold, and no other thread is in one."""
        with alone:
            if self._inside:
                yield
                return
            self._inside = True
            try:
                with bounded(self._threads or torch.get_num_threads(), self._limit):
                    yield
            finally:
                self._inside = False

    def tried(self, work: Callable[[], T], count: Callable[[], int] = lambda: 1) -> T:
        """What `work` makes, after as many steps down as it takes.

        count   windows that it works on at a time
        errors  OutOfMemory (71) when there is no way left; every other error as it comes
        """
        while True:
            with self.within():  # the step too: another thread that runs short meanwhile would take one more
                try:
                    return work()
                except RuntimeError as error:
                    cause = short(error)
                # Here, for the error's traceback keeps alive whatever the failed pass held.
                self._step_down(cause, count())

    def _zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        if self._sums_on_host or self.left:
            numbers = np.float16 if dtype == torch.float16 else np.float32
            return torch.from_numpy(empty_sums(shape, self._max_ram, self.taken, numbers))
        return torch.zeros(shape, dtype=dtype, device=self.place)

    def _step_down(self, cause: str, count: int) -> None:
        self.library.empty_cache()
        if count > 1:
            self.most = count // 2
            self.taken.append(f"out of GPU memory: {self.most} windows at a time")
        elif not self._sums_on_host:
            self._sums_on_host = True
            for total in self._sums:
                if isinstance(total, Shown):
                    total.data = total.here
                elif total.data.device.type != "cpu" or self.place.type == "cpu":
                    total.data = self._zeros(tuple(total.data.shape), total.data.dtype).copy_(total.data)
            self.taken.append("out of GPU memory: logits are added up in the computer's memory")
        elif self._may_leave and not self.left:
            self.left = True
            for network in self._networks:
                network.leave()
            self.library.empty_cache()  # others may have it
            self.taken.append("out of GPU memory: the CPU goes on")
        else:
            raise OutOfMemory(
                f"one window does not fit into the memory of {self.place}: {cause}",
                hint="use --device cpu",
            )


def shared(run: Run, chosen: Choice) -> Device:
    """The device of all networks of a run that are opened on it, made for the first of them."""
    found = run.common.get(chosen.device)
    if not isinstance(found, Device):
        found = run.common[chosen.device] = Device(
            chosen.device,
            may_leave=not chosen.named,
            threads=run.threads,
            max_ram=run.max_ram,
            max_vram=run.max_vram,
        )
    return found


def _limited(place: torch.device, max_vram: int | None) -> tuple[torch.device, float] | None:
    """The share of a CUDA device's memory that torch may take, where there is a limit.

    On Windows there always is one: what is free now. The driver gives the computer's memory in place of more, slowly,
    and no step down would be taken.
    """
    if place.type != "cuda" or (max_vram is None and sys.platform != "win32"):
        return None
    free, total = torch.cuda.mem_get_info(place)
    own = torch.cuda.memory_reserved(place)  # of networks that were there before: theirs to use
    return place, min(1.0, (free + own if max_vram is None else max_vram) / total)


def short(error: RuntimeError) -> str:
    """What an error says of too little memory on the device; any other error goes on."""
    said = str(error)
    if not isinstance(error, torch.OutOfMemoryError) and not any(words in said for words in _NO_MEMORY):
        raise error
    return cause_of(error)
