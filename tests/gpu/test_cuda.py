"""The check's parts that something has to be true of: on a CUDA device; and a dry run of all of them, played."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import there
import torch
from check import PARTS, main
from checking import Check
from right import bytes_of_sums, deciding, deformed, families, limits, memory, onnx_runtime

from segcli.inference.windows import Sliding
from segcli.space.volume import Grid, Volume

CHECK = Path(there.__file__).with_name("check.py")
# SimpleITK is found beside the check alone, as where it is not installed.
HIDDEN = """
import runpy, sys
from importlib.machinery import PathFinder
found = PathFinder.find_spec
def here(name, path=None, target=None):
    return found(name, [p for p in sys.path if p.endswith("without")] if name == "SimpleITK" else path, target)
PathFinder.find_spec = here
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.cuda
@pytest.mark.filterwarnings("default")  # of cuDNN's plans that do not suit, say: torch takes another
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("part", [deformed, families, onnx_runtime, memory, deciding])
def test_what_has_to_be_is_so_on_a_device(part: Callable[[Check], None], tmp_path: Path) -> None:
    check = Check(torch.device("cuda:0"), 300, tmp_path)
    part(check)
    assert check.failed == []


def test_a_part_runs_where_the_cpu_plays_the_device(tmp_path: Path) -> None:
    assert main(["--dry-run", "--parts", "f", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "check.json").stat().st_size > 0


@pytest.mark.slow
def test_the_dry_run_of_the_check_is_green(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--dry-run", "--out", str(tmp_path)]) == 0
    told = capsys.readouterr()
    assert told.out.endswith("PASS\n")
    assert all(f"part {name}" in told.err for name in PARTS)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_without_a_device_the_check_says_so_and_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "--dry-run" in capsys.readouterr().err


def test_packages_that_are_missing_are_told_before_anything_is_imported() -> None:
    bare = subprocess.run([sys.executable, "-I", "-S", str(CHECK)], capture_output=True, text=True, check=False)
    assert bare.returncode == 2
    assert bare.stderr.count("\n") == 1
    assert "pip install torch numpy" in bare.stderr


@pytest.mark.slow
def test_the_check_runs_where_simpleitk_is_not_installed(tmp_path: Path) -> None:
    words = [str(CHECK), "--dry-run", "--parts", "fd", "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", HIDDEN, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "SimpleITK is not installed: the check does without" in done.stderr


def test_what_is_installed_has_no_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert (there.lacking(), there.stand_in()) == ("", [])


def test_a_limit_forces_its_step_and_leaves_room_behind_it() -> None:
    sums, weights, window = 500, 24, 700
    found = {what: limit for what, (_, limit, _, _) in limits(sums + weights + window, sums, weights, "cuda:0").items()}
    assert weights + sums + window < found["windows are halved"] < weights + sums + 16 * window
    # A quarter of what a window takes, for blocks that are counted whole.
    assert weights + 1.25 * window < found["sums go to the host"] < weights + sums + window
    assert found["the CPU goes on"] == found["refused with 71"] < weights + window


def test_the_bytes_of_sums_are_those_that_a_scan_takes(tmp_path: Path) -> None:
    check, shape = Check(torch.device("cpu"), 300, tmp_path, dry=True), (33, 60, 40)
    card = check.model(33, 16, 96)
    image = Volume(np.zeros((1, *shape), np.float32), Grid(shape, np.eye(4)))
    sums = Sliding(image, check.engine(card), card.procedure.window).sums
    sums.add([(slice(0, 32), slice(0, 32), slice(0, 32))])
    assert sums._total.data.nbytes == bytes_of_sums(card, shape)
