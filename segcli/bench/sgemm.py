"""The machine's float32 matrix product, to measure networks against.

python -m segcli.bench.sgemm THREADS prints one JSON line: library -> GFLOP/s, its best of two sizes.

No library is the fastest everywhere: torch's MKL takes a slow path on AMD processors, OpenBLAS obeys variables that
may name another processor. So all of them are asked, in a process without such variables, and the best one counts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any

SIZES = (2048, 4096)
RUNS = 3
_STEERED = ("OPENBLAS_", "MKL_", "BLIS_", "DNNL_", "ONEDNN_", "OMP_", "KMP_", "ATEN_CPU_CAPABILITY")


def peak(threads: int) -> dict[str, float]:
    """GFLOP/s of each library's float32 matrix product in a process of its own; a product of n x n counts 2 n^3."""
    words = [sys.executable, "-m", "segcli.bench.sgemm", str(threads)]
    env = unsteered(os.environ, threads)
    done = subprocess.run(words, env=env, capture_output=True, encoding="utf-8", check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def unsteered(environment: Mapping[str, str], threads: int) -> dict[str, str]:
    """An environment in which the libraries choose their kernels by the processor they find."""
    free = {k: v for k, v in environment.items() if not k.startswith(_STEERED)}
    return free | {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}


def main(threads: int) -> None:
    libraries = {"numpy": _numpy, "torch": _torch, "openvino": _openvino}
    here = {name: product for name, product in libraries.items() if find_spec(name)}
    rates = {name: max(_rate(product(n, threads), n) for n in SIZES) for name, product in here.items()}
    print(json.dumps({name: round(rate, 1) for name, rate in rates.items()}))


def _rate(product: Callable[[], Any], n: int) -> float:
    product()
    seconds = []
    for _ in range(RUNS):
        began = time.perf_counter()
        product()
        seconds.append(time.perf_counter() - began)
    return 2 * n**3 / min(seconds) / 1e9


def _numpy(n: int, threads: int) -> Callable[[], Any]:
    import numpy as np

    a, b = np.random.default_rng(0).random((2, n, n), np.float32)
    return lambda: a @ b


def _torch(n: int, threads: int) -> Callable[[], Any]:
    import torch

    torch.set_num_threads(threads)
    a, b = torch.rand(2, n, n)
    return lambda: a @ b


def _openvino(n: int, threads: int) -> Callable[[], Any]:
    import numpy as np

    from segcli.engines.openvino_engine import library

    openvino = library()
    ops = openvino.opset13

    a, b = np.random.default_rng(0).random((2, n, n), np.float32)
    left = ops.parameter([n, n], np.float32)
    model = openvino.Model([ops.matmul(left, ops.constant(b), False, False)], [left], "product")
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    return lambda: request.infer([a], share_inputs=True, share_outputs=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
