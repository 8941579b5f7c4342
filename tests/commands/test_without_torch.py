"""On a machine for ONNX files alone, what needs torch says so, and all else works."""

from pathlib import Path

import pytest
from models import organs
from runs import command, scan

ALONE = (
    "-c",
    "import sys; sys.modules['torch'] = None; from segcli.commands.process import main; sys.exit(main())",
)


@pytest.mark.parametrize(
    "words",
    [
        ["export-onnx", "--model", "organs", "-o", "new.onnx"],
        ["models", "inspect", "organs/weights.safetensors"],
        ["models", "import", "organs/weights.safetensors"],
        ["models", "verify", "organs"],
        ["predict", "t1.nii.gz", "--model", "bare", "-o", "out"],
        ["predict", "t1.nii.gz", "--model", "organs", "--engine", "torch", "-o", "out"],
    ],
    ids=" ".join,
)
def test_what_needs_torch_ends_with_69_and_says_how_to_get_it(tmp_path: Path, words: list[str]) -> None:
    organs(tmp_path / "organs")
    organs(tmp_path / "bare", onnx=False)
    scan(tmp_path / "t1.nii.gz")
    done = command(*words, cwd=tmp_path, before=ALONE)
    assert done.returncode == 69, done.stderr.decode()
    assert b"torch is not installed" in done.stderr
    assert b"pip install torch" in done.stderr
    assert b"internal error" not in done.stderr


def test_a_model_with_an_onnx_file_is_run(tmp_path: Path) -> None:
    model = organs(tmp_path / "organs")
    done = command("predict", scan(tmp_path / "t1.nii.gz"), "--model", model, "-o", tmp_path / "out", before=ALONE)
    assert done.returncode == 0, done.stderr.decode()
