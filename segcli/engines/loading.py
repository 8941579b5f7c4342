"""Libraries, and processes, that read the environment when they begin, and at no other time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Within the block these variables are set, where the user has not set them; then they are as they were."""
    mine = {name: value for name, value in values.items() if not os.environ.get(name)}
    before = {name: os.environ.get(name) for name in mine}
    os.environ.update(mine)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
