"""segcli segments NIfTI and DICOM volumes on the scan's own grid.

import segcli
result = segcli.segment("scan.nii.gz", model="uxnet")
"""

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segcli.api import Result, segment

__all__ = ["Result", "__version__", "segment"]
__version__ = "0.1.0"

# segcli calls nobody, so neither do the libraries under it: ONNX Runtime is told so, and OpenVINO is loaded without its
# converter, which asks Google Analytics to count each import (and takes longer than all the rest of it).
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.modules.setdefault("openvino.tools.ovc", None)  # type: ignore[arg-type]


def __getattr__(name: str) -> Any:
    """`segment` and `Result` come in when they are first used: importing segcli costs nothing."""
    if name in ("segment", "Result"):
        from segcli import api

        return getattr(api, name)
    raise AttributeError(f"module 'segcli' has no attribute {name!r}")
