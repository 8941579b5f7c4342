"""What this machine has of the packages that segcli lists: the check needs some of them, and stands in for one."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

# Module -> package, of all that the check's parts import, whichever they are.
NEEDED = {
    **{name: name for name in ("torch", "numpy", "scipy", "msgspec", "onnx", "platformdirs", "psutil", "rich")},
    **{"safetensors": "safetensors", "typer": "typer", "yaml": "pyyaml"},
}
_WITHOUT = Path(__file__).parent / "without"


def lacking() -> str:
    """What has to be installed for the check, in a sentence; "" where all is there."""
    absent = [package for module, package in NEEDED.items() if find_spec(module) is None]
    if not absent:
        return ""
    names = " ".join(absent)
    return f"the check needs packages that this Python has not: pip install {names} (README.md: without a network)"


def stand_in() -> list[str]:
    """Put a stand-in on the path, for this process and those it starts, for what is large and not needed; its names."""
    absent = [file.stem for file in _WITHOUT.glob("*.py") if find_spec(file.stem) is None]
    if absent:
        sys.path.append(str(_WITHOUT))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(_WITHOUT))))
    return absent
