"""What holds for the whole suite: threads of workers, a signal, no clock for Hypothesis; a shared folder."""

import inspect
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before NumPy and torch are loaded: workers that each take every core would make each other many times slower.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")

if hasattr(signal, "SIGHUP"):  # under nohup it is ignored, and in the commands that tests start too
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


# What a test on Windows can do without: pipes with names, links, other users, limits, terminals, folders of the system.
UNIX = re.compile(
    r"mkfifo|symlink|geteuid|setuid|chmod|two_users|import (resource|pty|fcntl)|SIGKILL|/(proc|dev)/|Held"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """On Windows, tests that need what Unix alone has are left out."""
    if os.name == "posix":
        return
    for item in items:
        if isinstance(item, pytest.Function) and UNIX.search(inspect.getsource(item.function)):
            item.add_marker(pytest.mark.skip(reason="needs what Unix alone has"))


@pytest.fixture
def briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """`plan` learns what a window costs from one, and not from all that a second has."""
    monkeypatch.setattr("segcli.batch.budget._LEARNING", 0.0)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder in which everybody may write, and take away what others wrote."""
    folder = Path(tempfile.mkdtemp(prefix="segcli-test-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)
