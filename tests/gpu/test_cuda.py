"""The check's parts that something has to be true of: on a CUDA device; and a dry run of all of them, played."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from check import PARTS, main
from checking import Check
from right import deciding, families, memory, onnx_runtime


@pytest.mark.cuda
@pytest.mark.filterwarnings("default")  # of cuDNN's plans that do not suit, say: torch takes another
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("part", [families, onnx_runtime, memory, deciding])
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
