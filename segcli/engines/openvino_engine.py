"""model.onnx -> logits on the CPU, by OpenVINO."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from segcli.engines.export.onnx_file import OnnxFile, answered
from segcli.engines.host import HostSums
from segcli.errors import ModelError


class OpenVINOEngine(HostSums):
    """A graph compiled for one number of windows at a time, in float32.

    Logits are a view of the request's own memory until the next run.
    """

    name = "openvino cpu"
    precision = "float32"

    def __init__(self, file: OnnxFile, *, threads: int, batch: int) -> None:
        super().__init__(threads)
        self.batch = batch
        self._file = file
        self._core = openvino.Core()
        self._requests: dict[int, Any] = {}
        self._request(batch)
        if batch == 1:  # no other request will be made, and the bytes are inside this one
            self._file = replace(file, data=b"")

    def run(self, patches: NDArray[np.float32]) -> NDArray[np.float32]:
        count = len(patches)
        if count not in (1, self.batch):  # what is left of a row of windows
            return np.concatenate([self.run(patches[i : i + 1]).copy() for i in range(count)])
        request = self._request(count)
        result = request.infer([np.ascontiguousarray(patches)], share_inputs=True, share_outputs=True)
        logits: NDArray[np.float32] = result[0]
        return logits

    def rest(self) -> None:
        for request in self._requests.values():
            request.get_compiled_model().release_memory()

    def _request(self, count: int) -> Any:
        """A request for `count` windows; fixed sizes let OpenVINO plan its memory and choose its kernels."""
        if count not in self._requests:
            try:
                model = self._core.read_model(self._file.data)
                model.reshape([count, *self._file.shape])
                compiled = self._core.compile_model(model, "CPU", self._settings())
            except RuntimeError as error:
                cause = str(error).strip().splitlines()[-1]
                raise ModelError(f"{self._file.name}: OpenVINO cannot load it: {cause}") from error
            answered(self._file, tuple(compiled.output(0).shape), count)
            self._requests[count] = compiled.create_infer_request()
        return self._requests[count]

    def _settings(self) -> dict[str, Any]:
        # Without the hint newer processors compute in bfloat16 by default.
        return {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
