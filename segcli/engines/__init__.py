"""What runs a network on windows, and which of them is taken."""

from pkgutil import iter_modules


def own() -> list[str]:
    """The names of segcli's own engines, each declared in a file NAME_engine.py here; nothing of them is imported."""
    return [found.name.removesuffix("_engine") for found in iter_modules(__path__) if found.name.endswith("_engine")]
