"""Libraries: those that read the environment when they begin, and what they say on stderr of their own."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


def silent() -> None:
    """Libraries warn of nothing and log nothing on stderr any more; what matters to a user is said in our own words.

    Logs go where the program that segcli is a part of has asked for them.
    """
    import logging  # not for help

    warnings.simplefilter("ignore")
    if not logging.root.handlers:  # what no handler takes would go to stderr
        logging.root.addHandler(logging.NullHandler())


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
