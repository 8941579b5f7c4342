"""NiiVue, the interactive viewer of a page, as a script that stands in the page itself.

NiiVue (BSD-2-Clause, https://github.com/niivue/niivue) comes inside ipyniivue, its widget for notebooks, which is taken
apart here: a wheel of segcli has that one file in it, put there when it is built; else an ipyniivue that is installed.
"""

from __future__ import annotations

import gzip
import re
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from importlib.resources import files
from pathlib import Path

from segcli.errors import EngineError

BUILT = "niivue.js.gz"  # beside this file, in a wheel
_WIDGET = "ipyniivue/static/widget.js"
_CLASS = re.compile(r'"Creating new Niivue instance"\);let [^;]*;[\w$]+=new ([\w$]+)\(')
_EXPORT = re.compile(r"export\s*\{[^{}]*\};?\s*$")


@cache
def script() -> str:
    """A module script that gives the page `niivue.Niivue`, NiiVue's class.

    errors   EngineError (69): NiiVue is not here, or in another form than is known
    """
    return adapted(_widget())


def adapted(widget: str) -> str:
    """The widget's module with NiiVue's class in place of what it exports."""
    named, exports = _CLASS.search(widget), _EXPORT.search(widget)
    if named is None or exports is None:
        raise EngineError("NiiVue: this version of ipyniivue is not known", hint="pip install ipyniivue==2.4.4")
    return f"{widget[: exports.start()]}globalThis.niivue={{Niivue:{named[1]}}};"


def _widget() -> str:
    built = files("segcli.results.page") / BUILT
    if built.is_file():
        return gzip.decompress(built.read_bytes()).decode()
    try:
        path = Path(str(distribution("ipyniivue").locate_file(_WIDGET)))
        return path.read_text(encoding="utf-8")
    except (PackageNotFoundError, OSError) as error:
        raise EngineError(
            "the interactive viewer, NiiVue, is not in this installation", hint="pip install ipyniivue"
        ) from error
