"""GPUs that the operating system's drivers show; asked without torch."""

from __future__ import annotations

import ctypes
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_ROCM = Path("/sys/class/kfd/kfd/topology/nodes")  # where Linux lists what AMD's driver shows


def driver_devices() -> int:
    """Devices that torch calls "cuda": of NVIDIA's driver, or AMD's where the installed torch is built for them."""
    driver = _cuda()
    if driver is None:
        return _amd() if _built_for_rocm() else 0
    count = ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value


def driver_version() -> str:
    """The CUDA version that NVIDIA's driver is made for, such as "12.4"; "" where there is none."""
    driver, number = _cuda(), ctypes.c_int()
    if driver is None or driver.cuDriverGetVersion(ctypes.byref(number)) != 0:
        return ""
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


def _cuda() -> Any:
    """NVIDIA's driver library, or None."""
    try:
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None


def _built_for_rocm() -> bool:
    try:
        return "rocm" in version("torch")
    except PackageNotFoundError:
        return False


def _amd() -> int:
    """Nodes that have compute units: a processor has none."""
    found = 0
    for node in sorted(_ROCM.glob("*/properties")):
        facts = dict(line.split()[:2] for line in node.read_text().splitlines() if len(line.split()) > 1)
        found += facts.get("simd_count", "0") != "0"
    return found
