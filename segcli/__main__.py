"""The command `segcli`, and `python -m segcli`: signals first, for importing the commands takes a moment."""

import os
import signal

from segcli import system


def main() -> None:
    """Run a command; before it begins, a signal ends the process as it ends a run, with nothing to tidy up."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    system.on_the_end(os._exit)
    from segcli.commands.process import main as run

    run()


if __name__ == "__main__":
    main()
