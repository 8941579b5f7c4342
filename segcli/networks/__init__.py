"""One network a file, nn.Modules and nothing else.

errors   EngineError (69), whatever of them is imported, where torch is not installed
"""

from importlib.util import find_spec

from segcli.errors import EngineError

if find_spec("torch") is None:
    raise EngineError("torch is not installed: a model's weights need it", hint="pip install torch")
