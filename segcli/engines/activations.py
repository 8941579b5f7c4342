"""The memory that a network takes for an input, told by shapes alone: nothing is computed."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from segcli.models.card import ModelCard
from segcli.networks import registry


def peak(card: ModelCard, size: Sequence[int]) -> int:
    """Bytes that the tensors of one run hold at their peak, for an input of (d, h, w) voxels, 1 along a slice axis.

    Weights are left out.
    """
    with torch.device("meta"), torch.inference_mode():
        network = registry.build(card.architecture.name, dict(card.architecture.arguments))
        image = torch.empty(1, card.inputs, *(n for axis, n in enumerate(size) if axis != card.slice_axis))
        with _Held() as held:
            network(image)
    return int(held.living.most + image.nbytes)


class Living:
    """Bytes of the storages that were counted, as long as they live.

    now    of those that live
    most   of all that lived at a time
    """

    def __init__(self) -> None:
        self.now, self.most = 0, 0
        self._known: set[int] = set()

    def count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.most = max(self.most, self.now)

        def gone() -> None:
            self._known.discard(key)
            self.now -= size

        weakref.finalize(storage, gone)


class _Held(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that are made inside."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.living = Living()

    def __torch_dispatch__(
        self, called: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = called(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self.living.count(tensor.untyped_storage())
        return out
