"""Signals, kills, a full disk and several processes on one folder (PROMISES.md 2, 6.4, 9)."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import Pointwise, card, command, environment, files, line, opened, scan, scans

from segcli.batch import pipeline
from segcli.batch.cases import cases
from segcli.batch.outputs import Destination

REAL = ("--engine", "onnx")
# The second window, or the opening of the model, sleeps in C; the lock of the interpreter is free, as in a real engine.
SLOW = """
import ctypes, sys
from segcli.engines.onnx_engine import OnnxEngine
calls = []
def slowly(real):
    def run(self, *words, **more):
        calls.append(1)
        if len(calls) >= {first}:
            print("in C++", file=sys.stderr, flush=True)
            ctypes.CDLL(None).sleep(60)
        return real(self, *words, **more)
    return run
OnnxEngine.{where} = slowly(OnnxEngine.{where})
{more}
from segcli.commands.process import main
main()
"""


# A terminal that is closed sends SIGHUP; clusters send these before they kill, as the user or they themselves choose.
ENDS = [
    (getattr(signal, name), code)
    for name, code in {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129, "SIGUSR1": 138, "SIGXCPU": 152}.items()
    if hasattr(signal, name)
]


def stopped(
    words: list[object], cwd: Path, source: str, *signals: int, made: Path | None = None
) -> tuple[int, str, float]:
    """Code, stderr and seconds from the last signal of a run that gets signals once it is in C++, and `made` is."""
    run = subprocess.Popen(
        line(*words, before=("-c", source)),
        cwd=cwd,
        env=environment({}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    said = ""
    assert run.stderr is not None
    while "in C++" not in said and (text := run.stderr.readline()):
        said += text
    while made is not None and not made.exists():
        time.sleep(0.05)
    for number in signals:
        time.sleep(0.5)
        started = time.monotonic()
        run.send_signal(number)
    rest = run.communicate(timeout=50)[1]
    return run.returncode, said + rest, time.monotonic() - started


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), ENDS)
def test_6_4_a_signal_ends_the_run_at_once_with_the_summary_and_nothing_half(model, tmp_path, number, code):
    scans(tmp_path / "in", 2)
    source = SLOW.format(first=2, where="run", more="")
    words = ["predict", "in", "-o", "out", "--model", model, *REAL, "--split"]
    ended, said, seconds = stopped(words, tmp_path, source, number, made=tmp_path / "out" / "case0_seg.nii.gz")
    assert ended == code, said
    assert seconds < 5
    assert "1 of 2 scans segmented, stopped" in said
    assert "Traceback" not in said
    left = files(tmp_path / "out")
    assert {"case0_seg.json", "case0_seg.nii.gz"} < set(left)
    assert all(name.startswith("case0_seg") for name in left)
    again = command(*words, cwd=tmp_path)
    assert again.returncode == 0
    assert b"case0: already done" in again.stderr


def test_6_4_a_signal_is_answered_while_the_model_is_opened(model, tmp_path):
    scan(tmp_path / "a.nii.gz")
    source = SLOW.format(first=1, where="__init__", more="")
    code, said, seconds = stopped(["predict", "a.nii.gz", "-o", "out", "--model", model, *REAL], tmp_path, source, 15)
    assert (code, seconds < 5) == (143, True), said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("number", "code"), ENDS)
def test_6_4_a_signal_is_answered_while_the_commands_are_imported(tmp_path, number, code):
    (tmp_path / "typer.py").write_text("import sys, time; print('in C++', file=sys.stderr, flush=True); time.sleep(60)")
    source = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from segcli.__main__ import main; main()"
    ended, said, seconds = stopped(["--version"], tmp_path, source, number)
    assert (ended, said, seconds < 5) == (code, "in C++\n", True)


def test_6_4_a_second_sigint_ends_the_run_at_once(model, tmp_path):
    scan(tmp_path / "a.nii.gz")
    hang = "import segcli.commands.running, time; segcli.commands.running.summary = lambda *_: time.sleep(60)"
    source = SLOW.format(first=1, where="__init__", more=hang)
    words = ["predict", "a.nii.gz", "-o", "out", "--model", model, *REAL]
    code, said, seconds = stopped(words, tmp_path, source, signal.SIGINT, signal.SIGINT)
    assert (code, seconds < 5) == (130, True), said


@pytest.mark.slow
def test_9_2_killed_at_random_moments_and_run_again_the_files_are_equal(tmp_path):
    done = subprocess.run(
        [sys.executable, Path(__file__).parents[1] / "kill.py", "6"],
        capture_output=True,
        env=environment({}),
        text=True,
        check=False,
    )
    assert done.stdout.splitlines()[-1:] == ["6 of 6 equal to an undisturbed run"], done.stdout + done.stderr


def test_9_3_a_disk_that_is_full_at_twenty_points_ends_with_74_and_nothing_half(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    scan(tmp_path / "a.nii.gz")
    model = card(tmp_path)
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    (found,) = cases([str(tmp_path / "a.nii.gz")])
    refused = 0
    for pages in range(1, 61, 3):
        mount = ["mount", "-t", "tmpfs", "-o", f"size={4096 * pages},nr_inodes=100", "tmpfs", str(small)]
        if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
            pytest.skip("this system lets nobody mount a small file system")
        try:
            to = Destination(small / "out", split=True, reports=("csv",), tables=("slicer", "itksnap"))
            (ended,) = pipeline.predict([found], model, opened(Pointwise()), to)
            refused += ended.error is not None
            if ended.error is not None:
                assert ended.error.exit_code == 74, ended.error
                assert "no space left" in ended.error.message
                assert not (small / "out").exists() or files(small / "out") == {}
            else:
                assert len(files(small / "out")) == 10
        finally:
            subprocess.run(["umount", str(small)], check=True)
    assert refused >= 5
    assert refused < 20  # the last ones had room enough


@pytest.mark.slow
def test_2_13_four_processes_on_one_folder_make_every_file_whole_and_right(model, tmp_path):
    scans(tmp_path / "in", 3)
    words = line("predict", "in", "--model", model, *REAL, "--split", "--report", "csv", "-o")
    runs = [
        subprocess.Popen(
            [*words, "out"], cwd=tmp_path, env=environment({}), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        for _ in range(4)
    ]
    said = [run.communicate(timeout=120)[1] for run in runs]
    assert [run.returncode for run in runs] == [0] * 4, said
    alone = subprocess.run([*words, "alone"], cwd=tmp_path, env=environment({}), capture_output=True, check=False)
    assert alone.returncode == 0
    assert files(tmp_path / "out") == files(tmp_path / "alone")
