"""segcli segments NIfTI and DICOM volumes on the scan's own grid.

import segcli
result = segcli.segment("scan.nii.gz", model="uxnet")

Importing it changes nothing in the process: what a library under it needs is done by the engine that uses it. The names
in `__all__` are public: CHANGELOG.md tells what changes in them.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segcli import errors
    from segcli.api import Grid, Label, Model, Result, SegcliError, Volume, load, read, segment

__all__ = [
    "Grid",
    "Label",
    "Model",
    "Result",
    "SegcliError",
    "Volume",
    "__version__",
    "errors",
    "load",
    "read",
    "segment",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """The public names come in when they are first used: importing segcli costs nothing."""
    if name in __all__:
        from segcli import api

        return getattr(api, name)
    raise AttributeError(f"module 'segcli' has no attribute {name!r}")


def __dir__() -> list[str]:
    """What is completed at a prompt."""
    return __all__
