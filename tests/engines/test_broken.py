"""Libraries that are installed and cannot be loaded: a part is missing, or no room is left for them."""

import sys
from pathlib import Path

import pytest
from models import organs

from segcli.engines.choose import open_engine
from segcli.errors import EngineError
from segcli.models.library import find
from segcli.packages import not_loaded

DLL = "DLL load failed while importing _pybind_state: A dynamic link library (DLL) initialization routine failed."


class Broken:
    """Stands before the folders that are searched, and cannot load what has these names."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def find_spec(self, name: str, *_: object) -> None:
        if name in self.names:
            raise ImportError(DLL)


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch):
    def put(*names: str) -> None:
        for name in [module for module in sys.modules if module.split(".")[0] in names]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr("segcli.engines.table.find_spec", lambda name: name)
        monkeypatch.setattr(sys, "meta_path", [Broken(*names), *sys.meta_path])

    return put


def test_auto_passes_over_an_engine_whose_library_cannot_be_loaded_and_says_so(tmp_path: Path, broken) -> None:
    card = find(str(organs(tmp_path / "organs")))
    broken("openvino")
    opened = open_engine(card, device="cpu")
    assert opened.engine.name == "onnxruntime cpu"
    assert opened.warnings == (f"openvino cannot be loaded: {DLL}; another engine is taken",)


def test_an_engine_that_was_named_and_cannot_be_loaded_is_refused(tmp_path: Path, broken) -> None:
    card = find(str(organs(tmp_path / "organs")))
    broken("openvino")
    with pytest.raises(EngineError, match="openvino cannot be loaded: DLL load failed") as found:
        open_engine(card, engine="openvino", device="cpu")
    assert found.value.hint == "pip install --force-reinstall openvino"


def test_a_part_of_openvino_that_cannot_be_loaded_is_no_fault_of_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    openvino = pytest.importorskip("openvino")
    card = find(str(organs(tmp_path / "organs")))

    def compiled(*_: object) -> None:
        raise RuntimeError(
            'Exception from core.cpp:129:\nCannot load library "a.so": version `GLIBCXX_3.4.30\' not found'
        )

    monkeypatch.setattr(openvino.Core, "compile_model", compiled)
    with pytest.raises(EngineError, match=r"openvino cannot be loaded: .*GLIBCXX"):
        open_engine(card, engine="openvino", device="cpu")
    assert open_engine(card, device="cpu").engine.name == "onnxruntime cpu"


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (ImportError(DLL), "pip install --force-reinstall torch"),
        (OSError("libcudart.so.13: cannot open shared object file: No such file or directory"), "pip install"),
        (OSError(22, 'A dynamic link library (DLL) failed. Error loading "c10.dll"'), "pip install"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "h_vmem"),
        (OSError("image file is truncated"), None),
        (FileNotFoundError(2, "No such file or directory", "a.so"), None),
        (RuntimeError("a.so"), None),
        (ImportError("cannot import name 'a' from 'segcli.batch'", name="segcli.batch"), None),
    ],
)
def test_a_library_that_cannot_be_loaded_is_told_from_other_errors(error: Exception, hint: str | None) -> None:
    found = not_loaded("torch", error)
    assert (found is None) == (hint is None)
    assert found is None or hint in str(found.hint)
