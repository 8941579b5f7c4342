"""Signals, the watchdog and errors between threads (PROMISES.md 1.7, 6.4)."""

import threading
import time
from collections.abc import Iterator

import pytest
from runs import command, quick

from segcli.commands import process
from segcli.commands.progress import Show
from segcli.errors import InputError


@pytest.fixture
def show() -> Show:
    return Show(1, quiet=False, verbose=0, events=None)


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    timer = quick()
    yield
    timer.cancel()


def test_items_come_in_order(show):
    assert list(process.interruptible(iter(range(50)), show)) == list(range(50))


def test_p4_an_exception_in_the_working_thread_is_raised_where_the_items_are_taken(show):
    def stream() -> Iterator[int]:
        yield 1
        raise InputError("a.nii: broken", hint="mend it")

    items = process.interruptible(stream(), show)
    assert next(items) == 1
    with pytest.raises(InputError, match=r"a\.nii: broken"):
        next(items)


def test_p4_the_queue_is_bounded(show):
    made = []

    def stream() -> Iterator[int]:
        for i in range(100):
            made.append(i)
            yield i

    items = process.interruptible(stream(), show)
    next(items)
    time.sleep(0.3)
    assert len(made) <= 5
    assert list(items) == list(range(1, 100))


def test_p4_a_consumer_that_stops_lets_the_working_thread_end(show):
    closed = threading.Event()

    def stream() -> Iterator[int]:
        try:
            yield from range(1000)
        finally:
            closed.set()

    items = process.interruptible(stream(), show)
    next(items)
    items.close()
    assert closed.wait(10)


@pytest.mark.parametrize("quiet", [False, True])
def test_p4_the_watchdog_names_stage_and_case_when_nothing_happens(show, monkeypatch, capsys, quiet):
    monkeypatch.setattr(process, "STILL", 0.2)
    show.quiet = quiet
    show.last = "segment of liver_07"
    release = threading.Event()

    def stream() -> Iterator[int]:
        release.wait(20)
        yield 1

    timer = threading.Timer(0.7, release.set)
    timer.start()
    assert list(process.interruptible(stream(), show)) == [1]
    told = capsys.readouterr().err
    assert ("no news for" in told, "; the last was: segment of liver_07" in told) == (not quiet, not quiet)


def test_6_4_the_taker_is_free_to_answer_signals_while_the_work_hangs(show):
    hung, raised = threading.Event(), []

    def stream() -> Iterator[int]:
        hung.wait(20)
        yield 1

    def stopped() -> None:
        raise KeyboardInterrupt

    real = show.still_for
    show.still_for = lambda: stopped() if raised else raised.append(1) or real()  # type: ignore[method-assign]
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(process.interruptible(stream(), show))
    assert time.monotonic() - started < 5
    hung.set()


def test_a_result_that_is_waited_for_is_returned_and_an_error_raised(show):
    assert process.waited(lambda: 3, show) == 3
    with pytest.raises(InputError):
        process.waited(lambda: (_ for _ in ()).throw(InputError("no")), show)


@pytest.mark.parametrize(
    ("said", "told"),
    [("abc", b"warning: SOURCE_DATE_EPOCH=abc: is no number of seconds since 1970, and is ignored\n"), ("", b"")],
)
def test_a_date_of_the_environment_that_is_none_is_ignored_and_told(tmp_path, said, told):
    program = (
        "import os; from segcli.commands import process; process._without_wrong_date(); import scipy.ndimage; "
        "print(os.environ.get('SOURCE_DATE_EPOCH'))"
    )
    done = command(before=("-c", program), cwd=tmp_path, env={"SOURCE_DATE_EPOCH": said})
    assert (done.returncode, done.stdout, done.stderr) == (0, b"None\n", told)
