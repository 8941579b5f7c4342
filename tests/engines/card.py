"""A GPU played by the processor, as strict as one: a host's tensor among its own is an error, so is too much memory.

Its tensors say that they are on "cuda:0", or on another device; what they hold is computed by the processor. torch's
own code runs as on a device down to the kernels: autocast, the moves of modules, what crosses to the host.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from segcli.engines.activations import Living

_aten: Any = torch.ops.aten
_COPIES = {_aten._to_copy, _aten.copy_, _aten._local_scalar_dense}  # what may have tensors of two devices
_INDICES = {_aten.index, _aten.index_put, _aten.index_put_, _aten._index_put_impl_}  # the host's are sent there
# What the processor has, and CUDA has no kernels for.
_UNSIGNED = {torch.uint16, torch.uint32, torch.uint64}  # but to copy and to view them
_PRODUCTS = {_aten.mm, _aten.bmm, _aten.mv, _aten.dot, _aten.addmm, _aten.addmv, _aten.baddbmm}  # of whole numbers
# What the processor has not in half precision, or slowly.
_WIDE = {_aten.convolution, _aten.native_batch_norm, _aten.avg_pool3d}


class OnCard(torch.Tensor):
    """A tensor on the device: its looks, and what it holds `inside`."""

    inside: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, real: torch.Tensor, device: torch.device) -> OnCard:
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            real.shape,
            strides=real.stride(),
            storage_offset=real.storage_offset(),
            dtype=real.dtype,
            device=device,
        )
        made.inside = real
        return made  # type: ignore[no-any-return]

    @classmethod
    def __torch_dispatch__(cls, called: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{called} of a tensor of a device that is not there any more")

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError(f"can't convert {self.device} device type tensor to numpy")

    def tolist(self) -> Any:
        return self.cpu().tolist()

    @property
    def data(self) -> torch.Tensor:  # type: ignore[override]
        return self.detach()

    @data.setter
    def data(self, other: torch.Tensor) -> None:
        torch.utils.swap_tensors(self, other.detach())


_FOR_CUDA = torch.version.cuda is not None  # before a test says so of a torch that is not


class Card(TorchDispatchMode):
    """Within the block there is a device.

    room   bytes of its memory; None for no end
    living bytes that tensors on it have `now`, and the `most` that they have had
    up     bytes that came from the host, down: those that crossed to it, and the largest tensor that did
    waits  how often the host waited for an answer
    casts  weights that were made anew in another type
    calls  what kernels were asked for
    """

    def __init__(self, room: int | None = None) -> None:
        super().__init__()
        if _FOR_CUDA:
            pytest.skip(
                "this torch is for CUDA and asks the driver itself where tensors are indexed: no card can be played"
            )
        self.room, self.down, self.up, self.waits = room, 0, 0, 0
        self.largest, self.casts = 0, 0
        self.calls: list[str] = []
        self.living = Living()

    def __torch_dispatch__(self, called: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        kind, given = called.overloadpacket, tree_leaves((args, kwargs))
        here = [one for one in given if isinstance(one, OnCard)]
        there = self._place(called, kind, given, here, kwargs)
        self._has_kernel(called, kind, here)
        if kind in _COPIES and there.type == "cpu" and here and (kwargs.get("non_blocking") or args[2:] == (True,)):
            raise AssertionError(f"{called}: the host would read what has not arrived yet")
        real, named = tree_map(lambda one: one.inside if isinstance(one, OnCard) else one, (args, kwargs))
        if "device" in named and there.type != "meta":
            named["device"] = torch.device("cpu")
        made = self._computed(called, kind, real, named, bool(here))
        if called._schema.name.endswith("_"):
            return args[0]
        if "out" in kwargs:
            return kwargs["out"]
        self._cross(kind, given, made, there)
        if there.type in ("cpu", "meta"):
            return made
        return tree_map(lambda one: self._own(one, there) if isinstance(one, torch.Tensor) else one, made)

    def _place(
        self, called: Any, kind: Any, given: list[Any], here: list[OnCard], kwargs: dict[str, Any]
    ) -> torch.device:
        """Where the outcome is; an error where a kernel of a device would be shown another one's tensors."""
        places = {one.device for one in here}
        asked = kwargs.get("device")
        if kind in _COPIES or not here:
            first = given[0].device if kind in _COPIES else torch.device("cpu")
            return torch.device(asked) if asked is not None else first
        for one in given:
            hosts = isinstance(one, torch.Tensor) and not isinstance(one, OnCard)
            scalar = hosts and one.dim() == 0 and torch.Tag.pointwise in called.tags
            index = hosts and kind in _INDICES and isinstance(given[0], OnCard)
            if hosts and not scalar and not index:
                places.add(one.device)
        if len(places) > 1:
            found = " and ".join(sorted(map(str, places)))
            raise RuntimeError(f"Expected all tensors to be on the same device, but found {found} in {called}")
        self.calls.append(str(kind))
        return torch.device(asked) if asked is not None else here[0].device

    def _has_kernel(self, called: Any, kind: Any, here: list[OnCard]) -> None:
        kinds = {one.dtype for one in here}
        whole = kind in _PRODUCTS and not any(of.is_floating_point for of in kinds)
        if here and kind not in _COPIES and not called.is_view and (whole or kinds & _UNSIGNED):
            raise NotImplementedError(f"{called} is not implemented on a device for {', '.join(map(str, kinds))}")

    def _computed(self, called: Any, kind: Any, args: Any, kwargs: Any, here: bool) -> Any:
        if not (here and kind in _WIDE):
            return called(*args, **kwargs)
        kinds = {one.dtype for one in tree_leaves(args) if isinstance(one, torch.Tensor)}
        halves = kinds & {torch.float16, torch.bfloat16}
        if not halves:
            return called(*args, **kwargs)
        if kind is _aten.convolution and len(kinds) > 1:
            raise RuntimeError(f"Input type and weight type should be the same: {kinds}")
        (half,) = halves
        made = called(*tree_map(lambda one: one.float() if isinstance(one, torch.Tensor) else one, args), **kwargs)
        if isinstance(made, tuple):  # of a norm: its statistics stay as they are
            return (made[0].to(half), *made[1:])
        return made.to(half)

    def _cross(self, kind: Any, given: list[Any], made: Any, there: torch.device) -> None:
        if kind is _aten._local_scalar_dense:
            self.waits += isinstance(given[0], OnCard)
        if kind is _aten._to_copy:
            self.casts += isinstance(given[0], torch.nn.Parameter) and "cpu" != given[0].device.type == there.type
            size = made.nbytes
            if given[0].device.type != "cpu" and there.type == "cpu":
                self.down, self.waits = self.down + size, self.waits + 1
                self.largest = max(self.largest, size)
            elif given[0].device.type == "cpu" and there.type != "cpu":
                self.up += size

    def _own(self, real: torch.Tensor, there: torch.device) -> OnCard:
        if there.type == "xpu" and real.dtype == torch.float64:
            raise RuntimeError("Required aspect fp64 is not supported on the device")
        self.living.count(real.untyped_storage())
        if self.room is not None and self.living.now > self.room:
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {real.nbytes} bytes")
        return OnCard(real, there)


@contextmanager
def played(patch: pytest.MonkeyPatch, room: int | None = None) -> Iterator[Card]:
    """A device for the block: torch takes it for a CUDA device that is there."""
    _guarded()
    for name, says in {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "is_bf16_supported": lambda *given, **how: True,
        "device_count": lambda: 2,
        "empty_cache": lambda: None,
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_name": lambda device=None: "a card played by the processor",
        "get_arch_list": lambda: ["sm_80", "sm_90"],
    }.items():
        patch.setattr(torch.cuda, name, says)
    patch.setattr(torch.version, "cuda", "13.0")
    tensor = torch.tensor

    def sent(given: Any, *, device: Any = None, **how: Any) -> torch.Tensor:
        """torch makes it on the host and sends it, beneath the mode's sight."""
        return tensor(given, **how) if device is None else tensor(given, **how).to(device)

    patch.setattr(torch, "tensor", sent)
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)  # as a wrapper's looks and what it holds are one
    try:
        with Card(room) as card:
            yield card
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


def _guarded() -> None:
    """torch built for the processor has no guard that switches CUDA devices, which the indexing of tensors asks for.

    The one of the device of shapes alone does nothing, and stands in for it.
    """
    library = next((Path(torch.__file__).parent / "lib").glob("libc10.so"), None)
    if library is None:
        pytest.skip("needs torch's library for Linux")
    guards = (ctypes.c_void_p * 16).in_dll(ctypes.CDLL(str(library)), "_ZN3c104impl26device_guard_impl_registryE")
    cuda, xpu, mps, meta = 1, 12, 13, 14  # the numbers of c10::DeviceType
    for kind in (cuda, xpu, mps):
        guards[kind] = guards[kind] or guards[meta]
