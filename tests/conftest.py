"""What holds for the whole suite: one thread for each of several workers, no clock for Hypothesis; a shared folder."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before NumPy and torch are loaded: workers that each take every core would make each other many times slower.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")

settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder in which everybody may write, and take away what others wrote."""
    folder = Path(tempfile.mkdtemp(prefix="segcli-test-"))
    folder.chmod(0o777)
    yield folder
    shutil.rmtree(folder)
