"""segcli segments NIfTI and DICOM volumes on the scan's own grid.

import segcli
result = segcli.segment("scan.nii.gz", model="uxnet")

Importing it changes nothing in the process: what a library under it needs is done by the engine that uses it.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segcli.api import Result, segment

__all__ = ["Result", "__version__", "segment"]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """`segment` and `Result` come in when they are first used: importing segcli costs nothing."""
    if name in ("segment", "Result"):
        from segcli import api

        return getattr(api, name)
    raise AttributeError(f"module 'segcli' has no attribute {name!r}")
