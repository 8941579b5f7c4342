"""Streams that may be closed or full: what they cannot take is lost, and nothing else."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import Any

from segcli import system
from segcli.commands.terminal import say
from segcli.errors import OutputError


def closed(error: OSError, *, file: bool = False) -> bool:
    """Whether an error of writing says that nobody reads any more; of a pipe Windows says EINVAL.

    file   whether it is of a regular file: EIO, which a terminal that has gone gives, is a failing disk's there
    """
    gone = [errno.EPIPE, errno.EBADF, *([] if file else [errno.EIO])]
    return error.errno in gone or (system.WINDOWS and error.errno == errno.EINVAL)


def is_file(stream: Any) -> bool:
    """Whether a stream writes into a regular file."""
    try:
        return stat.S_ISREG(os.fstat(stream.fileno()).st_mode)
    except (OSError, ValueError, AttributeError):  # closed, or a program's own stand-in
        return False


def told(failed: OSError | None, name: str, lost: str, *, file: bool) -> int:
    """Say what a stream of this name could not take; the exit code, 0 where it took all, or nobody reads any more.

    file   whether it is a regular file
    """
    if failed is None or closed(failed, file=file):
        return 0
    say(f"error: {name}: {failed.strerror}: {lost}; files that were made are whole")
    return OutputError.exit_code


class Harmless:
    """A stream that may be closed or full: what cannot be written is lost, and nothing else.

    failed  the first error
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.failed: OSError | None = None

    def write(self, text: str) -> int:
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _try(self, work: Callable[[], object]) -> None:
        if self.failed is None:
            try:
                work()
            except OSError as error:
                self.failed = error
