"""ONNX Runtime's execution providers: which one a device is, with which options, and how it says what it lacks."""

from __future__ import annotations

import importlib
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from segcli.engines.loading import environment
from segcli.errors import EngineError, ModelError, OutOfMemory, cause_of

Settings = dict[str, str]
Provider = tuple[str, Settings]
# How providers and CUDA's libraries say that memory does not suffice.
_NO_MEMORY = (
    "Failed to allocate memory",
    "is smaller than requested bytes",  # of a limit such as gpu_mem_limit
    "out of memory",
    "OUTOFMEMORY",
    "ALLOC_FAILED",
    "ALLOCATION_FAILED",  # cuDNN 9
    "Not enough memory",
)
_HINTS = {
    "cuda": "install onnxruntime-gpu, or use --device cpu",
    "coreml": "ONNX Runtime has it on macOS; or use --device cpu",
    "dml": "install onnxruntime-directml, on Windows; or use --device cpu",
}


def provider_for(device: str, max_vram: int | None = None, precision: str = "float32") -> Provider:
    """The provider of a device, with its options.

    max_vram   bytes, of a CUDA device
    precision  float32 or tf32
    """
    kind, _, number = device.partition(":")
    return _PROVIDERS[kind](number or "0", max_vram, precision)


def _cuda(number: str, max_vram: int | None, precision: str) -> Provider:
    # Its own choices are TF32, whatever was asked for, and seconds of search for each shape.
    settings = {
        "device_id": number,
        "use_tf32": str(int(precision == "tf32")),
        "cudnn_conv_algo_search": "HEURISTIC",
    }
    if max_vram is not None:
        settings |= {"gpu_mem_limit": str(max_vram), "arena_extend_strategy": "kSameAsRequested"}
    return "CUDAExecutionProvider", settings


def _coreml(number: str, max_vram: int | None, precision: str) -> Provider:
    # An MLProgram keeps the graph's float32, which the neural engine has not: it would compute in float16.
    settings = {"ModelFormat": "MLProgram", "MLComputeUnits": "CPUAndGPU", "RequireStaticInputShapes": "0"}
    return "CoreMLExecutionProvider", settings


_PROVIDERS: dict[str, Callable[[str, int | None, str], Provider]] = {
    "cpu": lambda number, max_vram, precision: ("CPUExecutionProvider", {}),
    "cuda": _cuda,
    "coreml": _coreml,
    "dml": lambda number, max_vram, precision: ("DmlExecutionProvider", {"device_id": number}),
}


@contextmanager
def silent() -> Iterator[Any]:
    """ONNX Runtime, which meanwhile is told by the environment to report to nobody, as it reads it when it starts."""
    with environment(ORT_DISABLE_TELEMETRY="1"):
        yield importlib.import_module("onnxruntime")


def unusable(device: str) -> tuple[str, str] | None:
    """Why this ONNX Runtime has no provider for a device, and what to do; None where it has one."""
    asked = provider_for(device)[0]
    with silent() as onnxruntime:
        there = onnxruntime.get_available_providers()
    if asked in there:
        return None
    return f"this ONNX Runtime has no {asked}: it has {', '.join(there)}", _HINTS[device.partition(":")[0]]


def session(
    data: bytes, name: str, device: str, *, threads: int = 0, max_vram: int | None = None, precision: str = "float32"
) -> Any:
    """A session on the provider of a device, and on no other unseen.

    errors   ModelError: the graph cannot be loaded; EngineError: the provider takes no part; OutOfMemory (71)
    """
    asked, settings = provider_for(device, max_vram, precision)
    said = io.StringIO()
    with silent() as onnxruntime:
        if device.startswith("cuda") and hasattr(onnxruntime, "preload_dlls"):  # from 1.21 on
            with redirect_stdout(said):  # it prints what it does not find, among the results of a command
                onnxruntime.preload_dlls()  # CUDA's libraries out of pip's packages, which no search path names
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        options.enable_mem_pattern = not device.startswith("dml")  # which DirectML does not take
        options.use_deterministic_compute = device.startswith("cuda")  # else means are added up in any order there
        try:
            made = onnxruntime.InferenceSession(data, options, providers=[(asked, settings)], enable_fallback=0)
        except Exception as error:  # its exceptions share no class but this one
            if is_short(error):
                raise out_of_memory(error, "the model", device) from error
            raise ModelError(f"{name}: ONNX Runtime cannot load it: {cause_of(error)}") from error
    if made.get_providers()[0] != asked:
        lacking = next((f": {line}" for line in said.getvalue().splitlines() if line.startswith("Failed")), "")
        raise EngineError(
            f"ONNX Runtime took {made.get_providers()[0]} instead of {asked}{lacking}",
            hint="the libraries that it needs are not all there; or use --device cpu",
        )
    return made


def is_short(error: Exception) -> bool:
    """Whether an error of ONNX Runtime says that memory does not suffice."""
    return any(words in str(error) for words in _NO_MEMORY)


def cannot_run(error: Exception, name: str) -> ModelError:
    """The refusal of a graph that ONNX Runtime does not run; an error that is not the library's goes on."""
    if not type(error).__module__.startswith("onnxruntime"):
        raise error
    return ModelError(f"{name}: ONNX Runtime cannot run it: {cause_of(error)}")


def out_of_memory(error: Exception, what: str, device: str) -> OutOfMemory:
    """The refusal of a window, or of a whole model, that a device has no memory for."""
    hint = "try --max-ram, or a machine with more" if device == "cpu" else "use --device cpu"
    return OutOfMemory(f"{what} does not fit into the memory of {device}: {cause_of(error)}", hint=hint)
