"""A session of ONNX Runtime that reads and writes torch's memory on a device: no window crosses to the host."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segcli.engines.export.onnx_file import OnnxFile, answered
from segcli.engines.onnx_providers import cannot_run, is_short


class Bound(nn.Module):
    """A session as a network of torch, for the sums and the steps down that networks on a device have.

    A graph of a fixed batch is shown that many windows, the last one repeated.
    """

    def __init__(self, session: Any, file: OnnxFile) -> None:
        super().__init__()
        self._session, self._file = session, replace(file, data=b"")  # the session has the bytes
        self._output = session.get_outputs()[0].name

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K, d, h, w) of windows (N, C, d, h, w), where these are.

        errors   torch.OutOfMemoryError, as any network has it; ModelError: the graph cannot be run
        """
        fixed, count = self._file.batch or len(x), len(x)
        if count % fixed:
            x = torch.cat([x, x[-1:].expand(-count % fixed, -1, -1, -1, -1)])
        parts = [self._answer(some) for some in torch.split(x, fixed)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)[:count]

    def _answer(self, x: Tensor) -> Tensor:
        x = x.contiguous()
        logits = x.new_empty((len(x), self._file.channels, *x.shape[2:]))
        kind, index = x.device.type, x.device.index or 0
        binding = self._session.io_binding()
        binding.bind_input(self._file.input, kind, index, np.float32, tuple(x.shape), x.data_ptr())
        binding.bind_output(self._output, kind, index, np.float32, tuple(logits.shape), logits.data_ptr())
        if kind == "cuda":
            torch.cuda.current_stream(x.device).synchronize()  # the session has a stream of its own
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # the library's exceptions share no class but this one
            if is_short(error):
                raise torch.OutOfMemoryError(str(error)) from error
            raise cannot_run(error, self._file.name) from error
        binding.synchronize_outputs()
        answered(self._file, tuple(logits.shape), len(x))
        return logits
