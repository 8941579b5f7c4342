"""model.onnx -> logits, by ONNX Runtime on the CPU, a CUDA device, or through Apple's CoreML or Windows's DirectML."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from segcli.engines.host import HostEngine, in_rows
from segcli.engines.onnx_providers import cannot_run, is_short, out_of_memory, session, unusable
from segcli.engines.precision import NOT_THERE, ON_GPUS, Refusals
from segcli.engines.table import Choice, EngineSpec, Preference, Run
from segcli.errors import EngineError

if TYPE_CHECKING:
    from segcli.engines.blended import Blending
    from segcli.engines.export.onnx_file import OnnxFile
    from segcli.models.card import ModelCard

# Smaller windows go to a processor several at a time. A compiled graph needs a window's memory for each of them and
# gains 2 % from three windows of 64^3.
_VOXELS_AT_A_TIME = 64**3


class OnnxEngine(HostEngine):
    """A session that takes and gives the host's arrays."""

    def __init__(
        self,
        file: OnnxFile,
        *,
        device: str,
        threads: int,
        batch: int,
        max_vram: int | None = None,
        max_ram: int | None = None,
        precision: str = "float32",
    ) -> None:
        super().__init__(threads, max_ram)
        self.precision, self.device = precision, device
        self.name = f"onnxruntime {device}"
        self.batch, self._room = file.batch or batch, sys.maxsize  # windows at a time that it has had room for
        self._session = session(file.data, file.name, device, threads=threads, max_vram=max_vram, precision=precision)
        self._file = replace(file, data=b"")  # the session has the bytes

    def run(self, patches: NDArray[np.float32]) -> NDArray[np.float32]:
        from segcli.engines.export.onnx_file import answered

        fixed, count = self._file.batch, len(patches)
        if (fixed is not None and count != fixed) or count > self._room:
            return in_rows(self.run, patches, fixed or self._room)
        try:
            logits: NDArray[np.float32] = self._session.run(None, {self._file.input: patches})[0]
        except Exception as error:  # the library's exceptions share no class but this one
            if not is_short(error):
                raise cannot_run(error, self._file.name) from error
            if fixed is not None or count == 1:
                what = "one window" if count == 1 else f"a batch of {count} windows"
                raise out_of_memory(error, what, self.device) from error
        else:
            answered(self._file, logits.shape, count)
            return logits
        self.batch = self._room = count // 2  # here, for the error's traceback keeps alive what the failed run held
        self._taken.append(f"out of memory: {self.batch} windows at a time")
        return self.run(patches)


def _open(card: ModelCard, chosen: Choice, run: Run) -> tuple[Blending, Mapping[str, str]]:
    from segcli.engines.choose import checked_graph
    from segcli.engines.room import VOXELS_ON_A_DEVICE, windows_of

    file = checked_graph(card, chosen, run)
    batch = run.batch or windows_of(card, _VOXELS_AT_A_TIME if chosen.device == "cpu" else VOXELS_ON_A_DEVICE)
    if chosen.device.startswith("cuda") and _beside_torch(chosen.device):
        return _bound(file, chosen, run, batch), file.hashes
    engine = OnnxEngine(
        file,
        device=chosen.device,
        threads=run.threads,
        batch=batch,
        max_vram=run.max_vram,
        max_ram=run.max_ram,
        precision=run.precision,
    )
    return engine, file.hashes


def _beside_torch(device: str) -> bool:
    """Whether torch is there to hold image, logits and sums on the device."""
    if find_spec("torch") is None:
        return False
    from segcli.engines.torch_cuda import unusable as without_torch

    return without_torch(device) is None


def _bound(file: OnnxFile, chosen: Choice, run: Run, batch: int) -> Blending:
    """The session as a network among torch's on a device."""
    from segcli.engines.onnx_bound import Bound
    from segcli.engines.torch_devices import TorchDevice
    from segcli.engines.torch_memory import shared

    made = session(
        file.data, file.name, chosen.device, threads=run.threads, max_vram=run.max_vram, precision=run.precision
    )
    return TorchDevice(
        Bound(made, file),
        shared(run, chosen),
        threads=run.threads,
        batch=file.batch or batch,
        precision=run.precision,
        library="onnxruntime",
    )


def _precisions(device: str) -> Refusals:
    if device.startswith("cuda"):
        return {"float32": "", "tf32": ""}
    return {"float32": "", "tf32": ON_GPUS if device == "cpu" else NOT_THERE}


def _convolved(cube: NDArray[np.float32], device: str) -> NDArray[np.float32]:
    from segcli.engines.export.onnx_file import convolution

    if trouble := unusable(device):
        raise EngineError(trouble[0], hint=trouble[1])
    out: NDArray[np.float32] = session(convolution(cube.shape), "the trial", device).run(None, {"x": cube})[0]
    return out


ENGINE = EngineSpec(
    name="onnx",
    title="ONNX Runtime",
    library="onnxruntime",
    reads="graph",
    devices=("cpu", "cuda", "coreml", "dml"),
    open=_open,
    prefers={"cpu": Preference(2, "the fastest engine here without a GPU")},
    precisions=_precisions,
    unusable=unusable,
    trials={
        "onnx" if device == "cpu" else f"onnx {device.partition(':')[0]}": partial(_convolved, device=device)
        for device in ("cpu", "cuda:0", "coreml", "dml:0")
    },
)
