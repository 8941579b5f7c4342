"""Root as two users: what another one does in a folder that both may write to (the fixture `shared`)."""

import os
import subprocess
import sys

import pytest

NOBODY = 65534  # another user
needs_two_users = pytest.mark.skipif(getattr(os, "geteuid", lambda: 1)() != 0, reason="only root can act as two users")


def as_another(code: str) -> None:
    """Run Python as the other user; `os` and `pathlib` are there."""
    words = [sys.executable, "-I", "-S", "-c", f"import os, pathlib; os.setuid({NOBODY}); {code}"]
    subprocess.run(words, check=True)
