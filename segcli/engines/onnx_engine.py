"""model.onnx -> logits, by ONNX Runtime on the CPU or a CUDA device."""

from __future__ import annotations

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument

from segcli.engines.export.onnx_file import OnnxFile, answered
from segcli.engines.host import HostSums
from segcli.errors import EngineError, ModelError, cause_of


class OnnxEngine(HostSums):
    """A session that runs on the provider that was asked for, and on no other unseen."""

    precision = "float32"

    def __init__(self, file: OnnxFile, *, device: str, threads: int, batch: int, max_vram: int | None) -> None:
        super().__init__(threads)
        self.name = f"onnxruntime {device}"
        self.batch = batch
        self._file = file
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        asked, provider = provider_for(device, max_vram)
        if asked not in onnxruntime.get_available_providers():
            raise EngineError(
                f"this ONNX Runtime has no {asked}: it has {', '.join(onnxruntime.get_available_providers())}",
                hint="install onnxruntime-gpu, or use --device cpu",
            )
        try:
            self._session = onnxruntime.InferenceSession(file.data, options, providers=[provider], enable_fallback=0)
        except Exception as error:  # its exceptions share no class but this one
            raise ModelError(f"{file.name}: ONNX Runtime cannot load it: {cause_of(error)}") from error
        if self._session.get_providers()[0] != asked:
            raise EngineError(
                f"ONNX Runtime took {self._session.get_providers()[0]} instead of {asked}",
                hint="the CUDA libraries it needs are not all there; or use --device cpu",
            )

    def run(self, patches: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            logits: NDArray[np.float32] = self._session.run(None, {self._file.input: patches})[0]
        except (Fail, InvalidArgument) as error:
            raise ModelError(f"{self._file.name}: ONNX Runtime cannot run it: {cause_of(error)}") from error
        answered(self._file, logits.shape, len(patches))
        return logits


def provider_for(device: str, max_vram: int | None) -> tuple[str, tuple[str, dict[str, str]]]:
    """The provider of a device, "cpu" or "cuda:N", with its options."""
    if device == "cpu":
        return "CPUExecutionProvider", ("CPUExecutionProvider", {})
    settings = {"device_id": device.partition(":")[2] or "0"}
    if max_vram is not None:
        settings |= {"gpu_mem_limit": str(max_vram), "arena_extend_strategy": "kSameAsRequested"}
    return "CUDAExecutionProvider", ("CUDAExecutionProvider", settings)
