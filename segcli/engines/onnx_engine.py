"""model.onnx -> logits, by ONNX Runtime on the CPU or a CUDA device."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segcli.engines.host import HostEngine
from segcli.engines.precision import ON_GPUS
from segcli.engines.table import Choice, EngineSpec, Preference, Run
from segcli.errors import EngineError, ModelError, cause_of

if TYPE_CHECKING:
    from segcli.engines.export.onnx_file import OnnxFile
    from segcli.models.card import ModelCard

# Smaller windows go to a processor several at a time. A compiled graph needs a window's memory for each of them and
# gains 2 % from three windows of 64^3.
_VOXELS_AT_A_TIME = 64**3


class OnnxEngine(HostEngine):
    """A session that runs on the provider that was asked for, and on no other unseen."""

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
        self.precision = precision
        self.name = f"onnxruntime {device}"
        self.batch = file.batch or batch
        self._file = file
        with silent() as onnxruntime:
            self._session = self._opened(onnxruntime, device, max_vram)

    def _opened(self, onnxruntime: Any, device: str, max_vram: int | None) -> Any:
        file = self._file
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        asked, provider = provider_for(device, max_vram, self.precision)
        if asked not in onnxruntime.get_available_providers():
            raise EngineError(
                f"this ONNX Runtime has no {asked}: it has {', '.join(onnxruntime.get_available_providers())}",
                hint="install onnxruntime-gpu, or use --device cpu",
            )
        try:
            session = onnxruntime.InferenceSession(file.data, options, providers=[provider], enable_fallback=0)
        except Exception as error:  # its exceptions share no class but this one
            raise ModelError(f"{file.name}: ONNX Runtime cannot load it: {cause_of(error)}") from error
        if session.get_providers()[0] != asked:
            raise EngineError(
                f"ONNX Runtime took {session.get_providers()[0]} instead of {asked}",
                hint="the CUDA libraries it needs are not all there; or use --device cpu",
            )
        return session

    def run(self, patches: NDArray[np.float32]) -> NDArray[np.float32]:
        from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument

        from segcli.engines.export.onnx_file import answered

        fixed = self._file.batch
        if fixed is not None and len(patches) != fixed:  # in pieces of that many, the last one filled up
            missing = -len(patches) % fixed
            filled = np.concatenate([patches, *[patches[-1:]] * missing])
            return np.concatenate([self.run(filled[i : i + fixed]) for i in range(0, len(filled), fixed)])[
                : len(patches)
            ]
        try:
            logits: NDArray[np.float32] = self._session.run(None, {self._file.input: patches})[0]
        except (Fail, InvalidArgument) as error:
            raise ModelError(f"{self._file.name}: ONNX Runtime cannot run it: {cause_of(error)}") from error
        answered(self._file, logits.shape, len(patches))
        return logits


@contextmanager
def silent() -> Iterator[Any]:
    """ONNX Runtime, which meanwhile is told by the environment to report to nobody, as it reads it when it starts."""
    name = "ORT_DISABLE_TELEMETRY"
    given = os.environ.get(name)
    os.environ[name] = given or "1"
    try:
        yield importlib.import_module("onnxruntime")
    finally:
        if given is None:
            del os.environ[name]


def provider_for(
    device: str, max_vram: int | None, precision: str = "float32"
) -> tuple[str, tuple[str, dict[str, str]]]:
    """The provider of a device, "cpu" or "cuda:N", with its options."""
    if device == "cpu":
        return "CPUExecutionProvider", ("CPUExecutionProvider", {})
    # Its own choices are TF32, whatever was asked for, and seconds of search for each shape.
    settings = {
        "device_id": device.partition(":")[2] or "0",
        "use_tf32": str(int(precision == "tf32")),
        "cudnn_conv_algo_search": "HEURISTIC",
    }
    if max_vram is not None:
        settings |= {"gpu_mem_limit": str(max_vram), "arena_extend_strategy": "kSameAsRequested"}
    return "CUDAExecutionProvider", ("CUDAExecutionProvider", settings)


def _open(card: ModelCard, chosen: Choice, run: Run) -> tuple[HostEngine, Mapping[str, str]]:
    from segcli.engines.choose import checked_graph, cpu_batch

    file = checked_graph(card, chosen)
    batch = run.batch or cpu_batch(card, _VOXELS_AT_A_TIME)
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


def _convolved(cube: NDArray[np.float32]) -> NDArray[np.float32]:
    from segcli.engines.export.onnx_file import convolution

    with silent() as onnxruntime:
        session = onnxruntime.InferenceSession(convolution(cube.shape), providers=["CPUExecutionProvider"])
    out: NDArray[np.float32] = session.run(None, {"x": cube})[0]
    return out


ENGINE = EngineSpec(
    name="onnx",
    title="ONNX Runtime",
    library="onnxruntime",
    reads="graph",
    devices=("cpu", "cuda"),
    open=_open,
    prefers={"cpu": Preference(2, "the fastest engine here without a GPU")},
    precisions=lambda device: {"float32": "", "tf32": ON_GPUS if device == "cpu" else ""},
    trials={"onnx": _convolved},
)
