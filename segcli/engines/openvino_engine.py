"""model.onnx -> logits on the CPU, by OpenVINO."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segcli.documents import Document
from segcli.engines.host import HostEngine, in_rows
from segcli.engines.precision import on_cpu
from segcli.engines.table import Choice, EngineSpec, Preference, Run
from segcli.errors import ModelError

if TYPE_CHECKING:
    from segcli.engines.export.onnx_file import OnnxFile
    from segcli.models.card import ModelCard

_VOXELS_AT_A_TIME = 64**3  # as for ONNX Runtime


class OpenVINOEngine(HostEngine):
    """A graph compiled for one number of windows at a time.

    precision  float32, or bfloat16 on a processor that has it

    Logits are a view of the request's own memory until the next run of the same thread.
    """

    name = "openvino cpu"

    def __init__(
        self, file: OnnxFile, *, threads: int, batch: int, max_ram: int | None = None, precision: str = "float32"
    ) -> None:
        super().__init__(threads, max_ram)
        self.batch, self.precision = file.batch or batch, precision
        self._file = file
        self._core = library().Core()
        self._compiled: dict[int, Any] = {}
        self._loading, self._own = threading.Lock(), threading.local()
        self._request(self.batch)
        if self.batch in (1, file.batch):  # no other request will be made, and the bytes are inside this one
            self._file = replace(file, data=b"")

    def run(self, patches: NDArray[np.float32]) -> NDArray[np.float32]:
        count = len(patches)
        some = self._file.batch or (count if count == self.batch else 1)  # what is left of a row is shown one by one
        if count != some:
            return in_rows(self.run, patches, some)
        request = self._request(count)
        result = request.infer([np.ascontiguousarray(patches)], share_inputs=True, share_outputs=True)
        logits: NDArray[np.float32] = result[0]
        return logits

    def rest(self) -> None:
        for compiled in self._compiled.values():
            compiled.release_memory()

    def _request(self, count: int) -> Any:
        """The calling thread's request for `count` windows."""
        requests: dict[int, Any] = vars(self._own).setdefault("requests", {})
        if count not in requests:
            with self._loading:
                requests[count] = self._graph(count).create_infer_request()
        return requests[count]

    def _graph(self, count: int) -> Any:
        """The graph compiled for `count` windows; fixed sizes let OpenVINO plan its memory and choose its kernels."""
        from segcli.engines.export.onnx_file import answered

        if count not in self._compiled:
            try:
                model = self._core.read_model(self._file.data)
                model.reshape([count, *self._file.shape])
                if self.precision == "float32":  # sums in bfloat16 would lose more than the operator's own
                    _steady(model)
                compiled = self._core.compile_model(model, "CPU", self._settings())
            except RuntimeError as error:
                if "Cannot load library" in str(error):  # its own part for processors, and nothing of the model
                    raise ImportError(_cause(error)) from error
                cause = f"{self._file.name}: OpenVINO cannot load it: {_cause(error)}"
                raise ModelError(cause, hint="try --engine onnx") from error
            answered(self._file, tuple(compiled.output(0).shape), count)
            self._compiled[count] = compiled
        return self._compiled[count]

    def _settings(self) -> Document:
        # Without the hint newer processors compute in bfloat16 by default.
        return {
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[self.precision],
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }


def _cause(error: RuntimeError) -> str:
    """Why OpenVINO does not take a graph, without the places in its source that it passed on the way there.

    It sums up operators that it lacks; of those that it refuses the reason stands before that, at the end of a log.
    """
    log, _, summary = str(error).partition("\n\nSummary:\n")
    lacked = [line.removeprefix("-- ") for line in summary.splitlines() if line.startswith("-- No conversion rule")]
    return ". ".join(lacked) or log.strip().splitlines()[-1]


def _steady(model: Any) -> None:
    """The graph with its instance norms written out, so that logits do not depend on the number of threads.

    OpenVINO's own operator adds an image up in as many parts as there are threads. Sums along one axis after the other
    have one order, and keep more digits: nnU-Net's network is 1e-6 of the largest logit from float64 instead of 4e-6.
    A window of the default model takes 1.07 times as long. Norms along a single axis (layer and group norms) are
    left: one thread adds up each row.
    """
    ops = importlib.import_module("openvino.opset13")
    for node in model.get_ordered_ops():
        if node.get_type_name() != "MVN":
            continue
        image, axes = node.input_value(0), node.input_value(1).get_node()
        # What has one axis, or axes that the graph computes, is no instance norm.
        if axes.get_type_name() != "Constant" or axes.get_data().size == 1 or image.get_partial_shape().is_dynamic:
            continue
        counts = {axis: image.get_shape()[axis] for axis in sorted(axes.get_data().tolist())}

        def mean(values: Any, counts: Mapping[int, int] = counts) -> Any:
            for axis, count in counts.items():  # OpenVINO makes one sum of two that stand side by side
                values = ops.divide(ops.reduce_sum(values, np.array([axis]), True), np.float32(count))
            return values

        middle = mean(image)
        difference = ops.subtract(image, middle)
        variance = mean(ops.multiply(difference, difference))
        factor = ops.divide(np.float32(1), ops.sqrt(ops.add(variance, np.float32(node.get_attributes()["eps"]))))
        # Not from the difference, which would have to be kept for it.
        normed = ops.subtract(ops.multiply(image, factor), ops.multiply(middle, factor)).output(0)
        for reader in list(node.output(0).get_target_inputs()):
            reader.replace_source_output(normed)


def library() -> Any:
    """OpenVINO without its converter, which asks Google Analytics to count each import and takes longer than the rest.

    Whoever else wants `openvino.convert_model` in this process gets it, loaded then.
    """
    converter = "openvino.tools.ovc"
    if "openvino" in sys.modules or converter in sys.modules:
        return importlib.import_module("openvino")
    sys.modules[converter] = None  # type: ignore[assignment]  # so that importing it fails, which OpenVINO forgives
    try:
        loaded: Any = importlib.import_module("openvino")
    finally:
        del sys.modules[converter]
    loaded.__getattr__ = _converted
    return loaded


def _converted(name: str) -> Any:
    if name == "convert_model":
        return importlib.import_module("openvino.tools.ovc").convert_model
    raise AttributeError(f"module 'openvino' has no attribute {name!r}")


def _open(card: ModelCard, chosen: Choice, run: Run) -> tuple[HostEngine, Mapping[str, str]]:
    from segcli.engines.choose import checked_graph
    from segcli.engines.room import windows_of

    file = checked_graph(card, chosen, run)
    batch = run.batch or windows_of(card, _VOXELS_AT_A_TIME)
    engine = OpenVINOEngine(file, threads=run.threads, batch=batch, max_ram=run.max_ram, precision=run.precision)
    return engine, file.hashes


def _convolved(cube: NDArray[np.float32]) -> NDArray[np.float32]:
    from segcli.engines.export.onnx_file import convolution

    core = library().Core()
    out: NDArray[np.float32] = core.compile_model(core.read_model(convolution(cube.shape)), "CPU")([cube])[0]
    return out


ENGINE = EngineSpec(
    name="openvino",
    title="OpenVINO",
    library="openvino",
    reads="graph",
    devices=("cpu",),
    open=_open,
    prefers={"cpu": Preference(1, "the fastest engine here without a GPU")},
    precisions=lambda device: on_cpu(),
    trials={"openvino": _convolved},
)
