"""No file is open in segcli itself when it gets its name: Windows would refuse to give it one."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from models import organs
from runs import scan

from segcli import system
from segcli.commands.app import app

TRAINED = Path(__file__).parent / "data" / "containers" / "nnunetv2_tinyct" / "model"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what is open is read from /proc")


def held(path: Path) -> set[str]:
    """What this process has open or mapped of a file, or of a folder's files; Windows would give it no other name."""
    handles = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]
    maps = [
        line.split(maxsplit=5)[5] for line in Path("/proc/self/maps").read_text("utf-8").splitlines() if "/" in line
    ]
    return {name for name in (*handles, *maps) if Path(name).is_relative_to(path.resolve())}


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """What gets its name in the test; each time nothing of it, or of what has that name, may be open."""
    given: list[Path] = []

    def watched(real: Callable[..., object]) -> Callable[..., object]:
        def rename(path: Path, to: Path, **rules: int) -> object:
            assert not held(path) | held(to)
            given.append(to)
            return real(path, to, **rules)

        return rename

    for owner, name in ((Path, "replace"), (Path, "rename"), (system, "_renamed")):
        monkeypatch.setattr(owner, name, watched(getattr(owner, name)))
    return given


def test_what_is_open_or_mapped_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.zeros(5))
    assert not held(tmp_path)
    mapped = np.load(path, mmap_mode="r")
    assert held(tmp_path) == {str(path)}
    del mapped
    with path.open("rb"):
        assert held(path) == {str(path)}


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torch", "onnx", "openvino"])
def test_2_1_no_output_is_open_when_it_gets_its_name(engine: str, tmp_path: Path, named: list[Path]) -> None:
    options = ["--report", "csv,html,png", "--write", "probabilities", "--split", "--tables", "slicer"]
    words = [str(scan(tmp_path / "a.nii.gz")), "-o", str(tmp_path / "out"), "--engine", engine, *options]
    assert app(["predict", *words, "--model", str(organs(tmp_path / "organs"))], standalone_mode=False) == 0
    assert len(named) > 8


@pytest.mark.slow
def test_2_1_no_model_is_open_when_it_gets_its_name(
    tmp_path: Path, named: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGCLI_HOME", str(tmp_path / "home"))
    for more in ([], ["--overwrite"]):
        app(["models", "import", str(TRAINED), "--name", "tinyct", *more], standalone_mode=False)
    app(["export-onnx", "--model", "tinyct", "-o", str(tmp_path / "tinyct.onnx")], standalone_mode=False)
    assert {"tinyct", "tinyct.onnx"} <= {path.name for path in named}
