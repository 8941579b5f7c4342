"""What this machine has: cores, memory, libraries, and whether each engine really convolves."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from segcli import __version__
from segcli.errors import cause_of
from segcli.models.library import cache_home, places
from segcli.parallel import cores

LIBRARIES = (
    "torch", "numpy", "scipy", "SimpleITK", "pydicom", "pylibjpeg", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg",
    "pyjpegls", "highdicom", "onnx", "protobuf", "onnxruntime", "openvino", "safetensors", "pyyaml", "msgspec",
    "typer", "rich", "psutil", "pillow", "jinja2", "httpx", "truststore", "distributed",
)  # fmt: skip
SIZE = 24  # edge of the convolved cube, voxels


def examine() -> dict[str, Any]:
    """machine: facts; engines: one row each with `works` and why not; libraries: versions or None."""
    return {
        "machine": {
            "segcli": __version__,
            "python": platform.python_version(),
            "system": platform.platform(terse=True),
            "cores": cores(),
            "memory": f"{psutil.virtual_memory().available / 2**30:.1f} of "
            f"{psutil.virtual_memory().total / 2**30:.1f} GiB free",
            "models": ", ".join(str(p) for p in places()),
            "cache": str(cache_home()),
        },
        "engines": [
            _tried("torch cpu", "torch", lambda: _torch("cpu")),
            _tried("torch cuda", "torch", lambda: _torch("cuda")),
            _tried("onnx", "onnxruntime", _onnxruntime),
            _tried("openvino", "openvino", _openvino),
        ],
        "libraries": {name: _version(name) for name in LIBRARIES},
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _tried(name: str, library: str, convolve: Callable[[], NDArray[np.float32]]) -> dict[str, Any]:
    """A 3 x 3 x 3 convolution of ones over a cube of ones: 27 inside, 8 at a corner."""
    row = {"engine": name, "works": False, "seconds": 0.0, "note": ""}
    if importlib.util.find_spec(library) is None:
        return {**row, "note": f"{library} is not installed"}
    start = time.perf_counter()
    try:
        out = convolve()
    except Exception as error:  # whatever a library raises is the finding here
        return {**row, "note": cause_of(error)}
    right = out.shape == (1, 1, SIZE, SIZE, SIZE) and out[0, 0, 5, 5, 5] == 27 and out[0, 0, 0, 0, 0] == 8
    note = "" if right else "computes a wrong convolution"
    return {**row, "works": bool(right), "seconds": round(time.perf_counter() - start, 2), "note": note}


def _ones() -> NDArray[np.float32]:
    return np.ones((1, 1, SIZE, SIZE, SIZE), np.float32)


def _torch(device: str) -> NDArray[np.float32]:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("no CUDA device")
    weight = torch.ones((1, 1, 3, 3, 3), device=device)
    out: NDArray[np.float32] = (
        torch.nn.functional.conv3d(torch.from_numpy(_ones()).to(device), weight, padding=1).cpu().numpy()
    )
    return out


def _onnxruntime() -> NDArray[np.float32]:
    import onnxruntime

    session = onnxruntime.InferenceSession(_graph(), providers=["CPUExecutionProvider"])
    out: NDArray[np.float32] = session.run(None, {"x": _ones()})[0]
    return out


def _openvino() -> NDArray[np.float32]:
    import openvino

    core = openvino.Core()
    out: NDArray[np.float32] = core.compile_model(core.read_model(_graph()), "CPU")([_ones()])[0]
    return out


def _graph() -> bytes:
    """One convolution as an ONNX file."""
    from onnx import TensorProto, helper

    shape = (1, 1, SIZE, SIZE, SIZE)
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 6)
    graph = helper.make_graph(
        [node],
        "doctor",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [helper.make_tensor("w", TensorProto.FLOAT, (1, 1, 3, 3, 3), [1.0] * 27)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    out: bytes = model.SerializeToString()
    return out
