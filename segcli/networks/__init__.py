"""One network a file, nn.Modules and nothing else; `build(family, config)` makes one by its name.

errors   EngineError (69), whatever of them is imported, where torch is not installed
"""

from importlib.util import find_spec
from typing import Any

from segcli.errors import EngineError

if find_spec("torch") is None:
    raise EngineError("torch is not installed: a model's weights need it", hint="pip install torch")


def __getattr__(name: str) -> Any:
    """`build` of the registry, loaded when it is asked for: `python -m segcli.networks.registry` loads it as a program.

    errors   AttributeError for every other name
    """
    if name != "build":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from segcli.networks.registry import build

    return build
