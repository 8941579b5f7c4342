"""Cases side by side in processes: the files, their order and what is told are those of a run one by one."""

import contextlib
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from dicom_phantom import series
from models import organs
from runs import command, environment, files, in_process, scans
from scan_files import nifti

from segcli import parallel
from segcli.batch import cluster, side_by_side
from segcli.batch.cases import Case
from segcli.batch.events import Event
from segcli.batch.outputs import Destination
from segcli.batch.side_by_side import jobs_for
from segcli.batch.stages import Options, Outcome
from segcli.batch.worker import work
from segcli.engines.opening import Opening
from segcli.errors import OutOfMemory
from segcli.models.card import ModelCard
from segcli.models.library import read_card

WORDS = ("--engine", "onnx", "--device", "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return organs(tmp_path_factory.mktemp("models") / "organs")


@pytest.fixture
def card(folder: Path) -> ModelCard:
    return read_card(folder)


def told(text: bytes) -> list[tuple[str, str]]:
    """Event and case of each line, but for windows."""
    events = [json.loads(line) for line in text.splitlines()]
    return [(event["event"], event["case"]) for event in events if event["event"] != "window"]


@pytest.mark.slow
def test_13_cases_side_by_side_give_the_same_bytes_in_the_same_order(folder: Path, tmp_path: Path) -> None:
    scans(tmp_path / "in", 4)
    (tmp_path / "in" / "broken.nii.gz").write_bytes(b"no scan")
    runs = {}
    for jobs in ("1", "2"):
        words = ("predict", "in", "-o", f"out{jobs}", "--model", str(folder), *WORDS, "--jobs", jobs)
        runs[jobs] = command(*words, "--events", f"events{jobs}", "--report", "csv", cwd=tmp_path)
    one, two = runs["1"], runs["2"]
    assert (one.returncode, two.returncode) == (1, 1), two.stderr
    assert one.stdout.replace(b"out1", b"out2") == two.stdout
    assert files(tmp_path / "out1") == files(tmp_path / "out2")
    assert two.stderr.startswith(b"2 cases at a time\n")
    choices = [[x for x in run.stderr.splitlines() if x.startswith(b"organs on ")] for run in (one, two)]
    assert choices[0] == choices[1]
    assert len(choices[0]) == 1
    assert b"broken.nii.gz" in two.stderr
    # Of each case the same, in the cases' order; alone, the next case is read while one is labelled.
    ones, twos = (told((tmp_path / f"events{jobs}").read_bytes()) for jobs in "12")
    assert sorted(ones) == sorted(twos)
    order = list(dict.fromkeys(case for _, case in twos))
    assert order == list(dict.fromkeys(case for _, case in ones))
    assert [case for _, case in twos] == sorted((case for _, case in twos), key=order.index)


@pytest.mark.slow
def test_13_a_second_run_finds_everything_done(folder: Path, tmp_path: Path) -> None:
    scans(tmp_path / "in", 2)
    words = ("predict", "in", "-o", "out", "--model", str(folder), *WORDS)
    assert command(*words, cwd=tmp_path).returncode == 0
    again = command(*words, "--jobs", "2", "--json", cwd=tmp_path)
    assert [case["status"] for case in json.loads(again.stdout)["cases"]] == ["skipped", "skipped"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--jobs", "0"), b"--jobs 0: is neither auto nor a number from 1 to 1024"),
        (("--jobs", "many"), b"--jobs many: is neither auto"),
        (("--jobs", "2", "--scheduler", "local:2"), b"--jobs and --scheduler: give one of them"),
    ],
)
def test_13_jobs_is_a_number_or_auto_and_no_scheduler(tmp_path: Path, words: tuple[str, ...], said: bytes) -> None:
    done = in_process("predict", "a.nii.gz", *words, cwd=tmp_path)
    assert (done.returncode, said in done.stderr) == (2, True)


def cases(folder: Path, count: int) -> list[Case]:
    return [Case(path.name, (path,), folder) for path in scans(folder, count)]


@pytest.mark.parametrize(
    ("wanted", "has", "free", "jobs"),
    [
        (None, 16, 1 << 40, 4),  # a case has four cores
        (None, 6, 1 << 40, 1),
        (None, 64, 1 << 40, 5),  # no more than there are cases
        (3, 2, 1 << 40, 3),  # what is named is done
        (3, 2, 5 << 29, 2),  # as far as the memory goes
        (3, 2, 1 << 20, 1),
    ],
)
def test_13_cases_at_a_time_follow_cores_and_memory(
    card: ModelCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: int | None, has: int, free: int, jobs: int
) -> None:
    monkeypatch.setattr(side_by_side, "cores", lambda: has)
    monkeypatch.setattr(side_by_side, "available", lambda: free)
    monkeypatch.setattr(side_by_side, "driver_devices", lambda: 0)
    opening = Opening((str(card.folder),))
    assert jobs_for(wanted, cases(tmp_path, 5), card, opening) == jobs
    assert jobs_for(wanted, cases(tmp_path, 5), card, replace(opening, max_ram=1 << 20)) == 1


def test_13_the_memory_is_that_of_the_largest_case_also_among_dicom_folders(
    card: ModelCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    series(tmp_path / "small")
    series(tmp_path / "large", np.zeros((40, 64, 64), np.int16))
    found = [Case(name, (tmp_path / name,), tmp_path) for name in ("small", "large", "small")]
    asked: list[tuple[int, ...]] = []
    monkeypatch.setattr(side_by_side, "host_bytes", lambda grid, *rest, **how: asked.append(grid.shape) or 1)
    monkeypatch.setattr(side_by_side, "available", lambda: 1 << 40)
    assert jobs_for(2, found, card, Opening((str(card.folder),))) == 2
    assert asked == [(40, 64, 64)]


def test_13_on_a_gpu_auto_is_one_case_at_a_time(
    card: ModelCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(side_by_side, "cores", lambda: 64)
    monkeypatch.setattr(side_by_side, "driver_devices", lambda: 1)
    found, opening = cases(tmp_path, 4), Opening((str(card.folder),))
    assert jobs_for(None, found, card, opening) == jobs_for(None, found, card, replace(opening, device="cuda:0")) == 1
    assert jobs_for(None, found, card, replace(opening, device="cpu")) == 4


def test_13_a_process_uses_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    before = parallel.cores()
    try:
        parallel.use(1)
        assert parallel.cores() == 1
    finally:
        parallel.use(sys.maxsize)
    assert parallel.cores() == before


def works(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return "spawn_main" in " ".join(process.cmdline())
    return False


def started(folder: Path, home: Path) -> tuple[subprocess.Popen[bytes], list[psutil.Process]]:
    """A run of scans that take a while, at work in its two processes."""
    data = np.random.default_rng(0).integers(-200, 200, (120, 120, 120)).astype("i2")
    (home / "in").mkdir()
    for i in range(6):
        nifti(home / "in" / f"case{i}.nii.gz", data + i)
    words = ["predict", "in", "-o", "out", "--model", str(folder), *WORDS, "--jobs", "2", "--threads", "2"]
    run = subprocess.Popen(
        [sys.executable, "-m", "segcli", *words],
        cwd=home,
        env=environment({}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    until = time.monotonic() + 240
    while run.poll() is None and time.monotonic() < until:
        children = [child for child in psutil.Process(run.pid).children() if works(child)]
        if len(children) == 2 and (home / "out").is_dir():
            return run, children
        time.sleep(0.05)
    run.kill()
    raise AssertionError(run.communicate())


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_13_a_run_that_is_ended_ends_its_processes_and_leaves_nothing_half(
    folder: Path, tmp_path: Path, number: int, code: int
) -> None:
    run, children = started(folder, tmp_path)
    run.send_signal(number)
    said = run.communicate(timeout=60)[1]
    assert run.returncode == code
    # Neither does a process that begins at that moment complain, nor Python's own helper. A case may be done by then.
    assert [
        line
        for line in said.decode().splitlines()
        if not re.search(r"at a time$|^organs on |stopped .* s.$|^review: |^[\d-]+ [\d:]+ case\d: done", line)
    ] == []
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive
    if number != signal.SIGKILL:
        assert not list((tmp_path / "out").glob(".*partial*"))
    done = command("predict", "in", "-o", "out", "--model", str(folder), *WORDS, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "out").glob("*_seg.nii.gz"))) == 6
    assert not list((tmp_path / "out").glob(".*partial*"))


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_13_a_process_that_is_lost_costs_its_case_alone(folder: Path, tmp_path: Path) -> None:
    run, children = started(folder, tmp_path)
    children[0].kill()
    _, said = run.communicate(timeout=300)
    assert run.returncode in (0, 1, 71), said
    made = len(list((tmp_path / "out").glob("*_seg.nii.gz")))
    assert made >= 5
    assert (made == 6) == (run.returncode == 0)  # it was between two cases
    if made == 5:
        assert b"was ended from outside" in said


def test_2_2_processes_that_run_cases_are_ended_and_no_other_child_is() -> None:
    other = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    other.start()
    pool = side_by_side._process(1)
    own = pool.submit(os.getpid).result()
    side_by_side.end_processes([])
    assert side_by_side._stopped.is_set()
    assert not psutil.pid_exists(own) or psutil.Process(own).status() == psutil.STATUS_ZOMBIE
    assert other.is_alive()
    other.kill()
    other.join()


def test_13_a_program_that_calls_main_without_a_guard_is_read_again_by_its_processes_and_not_run(
    folder: Path, tmp_path: Path
) -> None:
    scans(tmp_path / "in", 2)
    (tmp_path / "program.py").write_text("from segcli.__main__ import main\nmain()\n")
    words = ("predict", "in", "-o", "out", "--model", str(folder), *WORDS, "--jobs", "2", "-q")
    done = command(*words, cwd=tmp_path, before=["program.py"])
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(list((tmp_path / "out").glob("*_seg.nii.gz"))) == 2


def test_13_no_process_begins_once_a_run_is_stopped(folder: Path, tmp_path: Path) -> None:
    """A pool that breaks while the run ends would otherwise have another one started for the next case."""
    found = [SimpleNamespace(name=f"a{i}") for i in range(2)]
    told = side_by_side.predict_beside(2, found, Opening((str(folder),)), Destination(), Options(), lambda event: None)
    begun: list[int] = []
    real = side_by_side._process

    def stopped(share: int) -> object:
        begun.append(share)
        side_by_side.end_processes([])
        return real(share)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(side_by_side, "_process", stopped)
        with pytest.raises(CancelledError):
            next(told)
    assert not [process for pool in side_by_side._pools for process in pool._processes or {}]


@pytest.mark.parametrize("first", ["run", "process"])
def test_6_1_a_case_whose_process_a_stopped_run_has_ended_is_not_told_as_failed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """A signal to the whole group may end the process before the run hears of it."""

    def lost(*work: object) -> None:
        if first == "run":
            side_by_side._stopped.set()
        else:
            threading.Timer(0.2, side_by_side._stopped.set).start()
        raise BrokenProcessPool

    case, told = Case("a", (tmp_path / "a.nii",), tmp_path), list[Event]()
    monkeypatch.setattr(side_by_side, "_process", lambda share: SimpleNamespace(submit=lost, shutdown=bool))
    ended = side_by_side.predict_beside(1, [case], Opening((str(folder),)), Destination(), Options(), told.append)
    with pytest.raises(CancelledError):
        next(ended)
    assert told == []


def test_6_1_events_name_each_case_that_failed_also_where_its_process_or_the_model_was_lost(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*work: object) -> None:
        raise BrokenProcessPool

    case, told = Case("a", (tmp_path / "a.nii",), tmp_path), list[Event]()
    monkeypatch.setattr(side_by_side, "_process", lambda share: SimpleNamespace(submit=lost, shutdown=bool))
    monkeypatch.setattr(side_by_side, "_LATER", 0.0)
    (ended,) = side_by_side.predict_beside(1, [case], Opening((str(folder),)), Destination(), Options(), told.append)
    assert ended.status == "failed"
    work(case, Opening((str(tmp_path / "no-model"),)), Destination(), Options(), told.append)
    assert [(event.name, event.case.name, event.exit_code) for event in told] == [
        ("failed", "a", 71),
        ("failed", "a", 78),
    ]


def test_a_cluster_tells_of_a_case_what_a_local_run_tells(tmp_path: Path) -> None:
    case = Case("a", (tmp_path / "a.nii",), tmp_path)
    done = Outcome(case, "done", (tmp_path / "a_seg.nii.gz",), {"verdict": "review", "run": {"seconds": {"read": 0.1}}})
    told = {"labels": str(tmp_path / "a_seg.nii.gz"), "verdict": "review"}
    assert cluster._ended(done, case).facts == told | {"seconds": {"read": 0.1}}
    assert cluster._ended(replace(done, status="skipped"), case).facts == told
    refused = cluster._ended(Outcome(case, "failed", error=OutOfMemory("too large")), case)
    assert refused.facts == {"error": "too large", "exit_code": 71}
