"""The command `segcli`, and `python -m segcli`: signals first, for importing the commands takes a moment."""

import os
import signal


def main() -> None:
    """Run a command; before it begins, a signal ends the process as it ends a run, with nothing to tidy up."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda n, _: os._exit(128 + n))
    from segcli.commands.process import main as run

    run()


if __name__ == "__main__":
    main()
