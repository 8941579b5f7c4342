"""The command `segcli`, and `python -m segcli`: signals first, for importing the commands takes a moment."""

import os
import signal
from functools import partial


def main() -> None:
    """Run a command; before it begins, a signal ends the process as it ends a run, with nothing to tidy up."""
    for name, code in (("SIGINT", 130), ("SIGTERM", 143), ("SIGBREAK", 143)):
        if hasattr(signal, name):  # SIGBREAK is of Windows
            signal.signal(getattr(signal, name), partial(_end, code))
    from segcli.commands.process import main as run

    run()


def _end(code: int, *_: object) -> None:
    os._exit(code)


if __name__ == "__main__":
    main()
