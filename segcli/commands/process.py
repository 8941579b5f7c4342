"""How the process begins and ends: signals, standard streams, what an error becomes, exit codes."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import TextIOWrapper
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Any, TextIO, TypeVar

import typer

from segcli import system
from segcli.batch.objects import epoch_of
from segcli.commands.harmless import Harmless, is_file, told
from segcli.commands.progress import Show
from segcli.commands.synonyms import advice
from segcli.commands.terminal import say, show_error
from segcli.errors import EngineError, ModelError, SegcliError, UsageError
from segcli.folders import at_home, each_at_home
from segcli.packages import at_fault, not_loaded

Item = TypeVar("Item")
SIGNALLED = 128  # an exit code above it is that and the number of a signal
STILL = 300.0  # seconds without an event after which the watchdog speaks


def main() -> None:
    """Run a command; every foreseeable end is a sentence and an exit code."""
    if _read_again():
        return
    system.on_the_end(_terminated)
    signal.signal(signal.SIGINT, _interrupted)
    out = _standard_streams()
    words, debug = _without_debug([_at_home(word) for word in sys.argv[1:]])
    for name in [name for name in os.environ if name.startswith("SEGCLI_")]:
        os.environ[name] = each_at_home(os.environ[name])
    _without_wrong_date()
    if debug:
        words = ["--debug", *words]
    else:
        warnings.simplefilter("ignore")  # from here on; the command itself also silences what libraries log
    from segcli.commands.app import app

    try:
        code = app(words, standalone_mode=False) or 0
    except SegcliError as error:
        code = _refused(error, debug)
    except Terminated as end:
        code = end.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except Exception as error:
        code = _unforeseen(error, debug)
    if code > SIGNALLED:
        _abandon()
    out.flush()
    sys.stderr.flush()
    if code == 0:
        code = told(out.failed, "stdout", "not all was printed", file=is_file(out))
    if code > SIGNALLED or out.failed is not None or _own_process():
        os._exit(code)  # libraries take a second to be taken apart, or still compute; nothing of theirs is kept
    sys.exit(code)


def _read_again() -> bool:
    """Whether a process of ours only reads the program anew that has called `main`, and is to do its own work."""
    processes = sys.modules.get("multiprocessing.process")
    return processes is not None and getattr(processes.current_process(), "_inheriting", False)


def _own_process() -> bool:
    """Whether the process was started as segcli, and not as a program that calls `main`."""
    program = sys.modules["__main__"]
    module, file = getattr(program, "__spec__", None), Path(getattr(program, "__file__", None) or "")
    started = file.stem == "segcli" or file.parent.name == "segcli.exe"  # Windows: the program is an archive
    return started or getattr(module, "parent", "") == "segcli"


def _at_home(word: str) -> str:
    """A word of the command line whose path begins with ~/, as in quotes or behind --output=, below the home folder."""
    option, equals, value = word.partition("=")
    return f"{option}={at_home(value)}" if equals and option.startswith("--") else at_home(word)


def _without_wrong_date() -> None:
    """Leave a SOURCE_DATE_EPOCH that is no date away: NumPy reads it as a number when a part of it is imported."""
    said = os.environ.get("SOURCE_DATE_EPOCH")
    if said is not None and epoch_of(said) is None:
        del os.environ["SOURCE_DATE_EPOCH"]
        if said:
            say(f"warning: SOURCE_DATE_EPOCH={said}: is no number of seconds since 1970, and is ignored")


def _without_debug(words: Sequence[str]) -> tuple[list[str], bool]:
    """The command line without --debug, which may stand anywhere before `--`, and whether it or SEGCLI_DEBUG is set."""
    end = words.index("--") if "--" in words else len(words)
    rest = [word for word in words[:end] if word != "--debug"] + [*words[end:]]
    variable = os.environ.get("SEGCLI_DEBUG", "").lower() not in ("", "0", "false", "no", "off")
    return rest, variable or len(rest) < len(words)


class Terminated(BaseException):
    """SIGTERM, or another signal that ends a run in order, arrived."""

    def __init__(self, exit_code: int) -> None:
        self.exit_code = exit_code


def _terminated(code: int) -> None:
    """The first such signal ends the run; what comes while it ends (SIGXCPU every second) changes nothing."""
    system.on_the_end(signal.SIG_IGN)
    raise Terminated(code)


def _interrupted(*_: object) -> None:
    """The first SIGINT ends the run in order, the second one at once."""
    signal.signal(signal.SIGINT, _at_once)
    raise KeyboardInterrupt


def _at_once(*_: object) -> None:
    _abandon()
    os._exit(130)


def _abandon() -> None:
    """Leave nothing half where files could have been written."""
    if "segcli.formats.atomic" in sys.modules:
        sys.modules["segcli.formats.atomic"].abandon()


def _standard_streams() -> Harmless:
    """Put harmless streams in place and return stdout; a descriptor that is closed is held, so no file can get it."""
    while (handle := os.open(os.devnull, os.O_RDONLY)) <= 2:
        pass
    os.close(handle)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name) or open(number, "w", closefd=False, encoding="utf-8")  # noqa: SIM115 - a descriptor
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
            _as_elsewhere(stream)
        setattr(sys, name, Harmless(stream))
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False, encoding="utf-8")  # noqa: SIM115
    found: Harmless = sys.stdout  # type: ignore[assignment]
    return found


def _as_elsewhere(stream: TextIO) -> None:
    """Have a pipe of Windows written with the ends of lines of other systems, and in UTF-8: its own has few letters.

    A user's own wish for the encoding counts.
    """
    if not system.WINDOWS or stream.isatty() or not isinstance(stream, TextIOWrapper):
        return
    stream.reconfigure(newline="\n")
    if "PYTHONIOENCODING" not in os.environ:
        stream.reconfigure(encoding="utf-8")


def _refused(error: SegcliError, debug: bool) -> int:
    if debug:
        import traceback

        traceback.print_exc()
    show_error(error)
    return error.exit_code


def _from_a_file(error: Exception) -> bool:
    """Whether the value that Click refuses stands in a settings file."""
    context, parameter = getattr(error, "ctx", None), getattr(error, "param", None)
    source = context.get_parameter_source(parameter.name) if context is not None and parameter is not None else None
    return getattr(source, "name", "") == "DEFAULT_MAP"


def _unforeseen(error: Exception, debug: bool) -> int:
    """Click's own refusals keep their code; anything else is a bug of segcli, or of an installed package."""
    if isinstance(error, ModuleNotFoundError) and error.name == "torch":  # a machine for ONNX files alone
        return _refused(EngineError("torch is not installed: this command needs it", hint="pip install torch"), debug)
    if (refusal := not_loaded("", error)) is not None:
        return _refused(refusal, debug)
    if isinstance(error, OSError) and error.filename is not None:  # a name that no file can have, a disk that is gone
        from segcli.formats.streams import refusal as refusal_of

        return _refused(refusal_of(error, Path(os.fsdecode(error.filename))), debug)
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        if _from_a_file(error):
            from segcli.commands.settings import FILE

            return _refused(ModelError(f"{FILE}: {error.format_message().rstrip('.')}"), debug)
        _ask(error)
        _show(error)
        return int(error.exit_code)
    if (fault := at_fault(error)) is not None:
        return _refused(fault, debug)
    if debug:
        import traceback

        traceback.print_exc()
    say(f"error: an internal error of segcli: {type(error).__name__}: {error}")
    say("  please report it; --debug shows where it happened")
    return 70


def _show(error: Any) -> None:
    """Say a refusal of Click's as all others are said; of a group without a command the help."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return
    context = getattr(error, "ctx", None)
    said = error.format_message().rstrip(".")
    hint = f"`{context.command_path} --help` lists what can be given" if context is not None else None
    show_error(UsageError(said, hint=_with_commas(context, said) or hint))


def _with_commas(context: Any, said: str) -> str | None:
    """What is meant where a kind of output stands behind another with a space between; None of any other refusal."""
    found = re.search(r"unexpected extra arguments?(?:\(s\))? \((.+)\)", said)
    if context is None or found is None:
        return None
    from segcli.batch.outputs import choices
    from segcli.commands.values import several

    words = found[1].split()
    for parameter in context.command.params:
        option = parameter.opts[0]
        given = context.params.get(parameter.name) if option in ("--report", "--tables") else None
        if given and {*words} <= {*choices(option)}:
            values = several(*([given] if isinstance(given, str) else given))
            return f"several kinds have commas between them: {option} {','.join((*values, *words))}"
    return None


def _ask(error: Any) -> None:
    """Let a refusal of an option that does not exist end in what is meant, and not in a list of all spelt alike."""
    if not hasattr(error, "possibilities"):
        return
    known = {flag for parameter in error.ctx.command.params for flag in parameter.opts} if error.ctx else set()
    name = getattr(error, "option_name", "")
    if len(name) == 2:  # the first letter of a word with one dash, as nnU-Net writes them
        name = next((word for word in sys.argv if word.startswith(name)), name)
    said = f"No such option: {name}" if name else error.message  # versions of Click say it in their own ways
    group = bool(error.ctx) and hasattr(error.ctx.command, "commands")
    told = advice(name, known) or (": options stand behind a command, as in `segcli predict SCAN`" if group else "")
    error.message = said + told
    error.possibilities = None


# ---- work that signals can end


def waited(work: Callable[[], Item], show: Show) -> Item:
    """What `work` returns, computed in another thread so that signals are answered at once."""
    return next(interruptible((work() for _ in range(1)), show))


def interruptible(stream: Iterable[Item], show: Show) -> Iterator[Item]:
    """The stream's items, computed in another thread so that signals are answered at once.

    A watchdog names the stage and the case when nothing has happened for five minutes.
    """
    passed: Queue[Item | BaseException | None] = Queue(maxsize=2)
    stop = threading.Event()

    def put(item: Item | BaseException | None) -> None:
        while not stop.is_set():
            with contextlib.suppress(Full):
                passed.put(item, timeout=0.1)
                return

    def work() -> None:
        try:
            for item in stream:
                put(item)
                if stop.is_set():
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=work, name="segcli-work", daemon=True)
    thread.start()
    try:
        while True:
            try:
                item = passed.get(timeout=0.1)
            except Empty:
                if show.still_for() > STILL and not show.quiet:
                    show.line(f"warning: no news for {show.still_for():.0f} s; the last was: {show.last}")
                    show.beat()
                continue
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
