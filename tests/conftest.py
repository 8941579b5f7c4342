"""What holds for the whole suite: one thread for each of several workers, and Hypothesis without a clock."""

import os

from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before NumPy and torch are loaded: workers that each take every core would make each other many times slower.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")

settings.register_profile("suite", deadline=None)
settings.load_profile("suite")
