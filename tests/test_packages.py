"""What installed packages add: one way to find it, and one refusal that names the package."""

import json
import re
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from models import organs
from packages import example, package
from runs import command, scan

import segcli
from segcli import read
from segcli.batch import outputs
from segcli.commands.app import CommandTable
from segcli.engines import table as engines
from segcli.errors import EngineError
from segcli.formats import table as formats
from segcli.networks import registry
from segcli.packages import What, at_fault, version_of
from segcli.results import checks

# What reads each kind, what of it is kept between two looks, and a value whose name is taken by segcli's own.
READERS: Mapping[What, tuple[Callable[[], object], tuple[Callable[..., object], ...], str]] = {
    "check": (checks._added, (checks._added,), ""),
    "command": (
        lambda: CommandTable()["strange"],
        (),
        "from segcli.commands.options import Commands\nONE = Commands('predict')",
    ),
    "engine": (
        engines.engines,
        (engines.engines,),
        "from segcli.engines.table import EngineSpec\nONE = EngineSpec('onnx', '', 'numpy', 'graph', (), print)",
    ),
    "format": (
        formats.known,
        (formats.known,),
        "from segcli.formats.table import Format\nONE = Format('NIfTI', ('.x',), print, print)",
    ),
    "network": (registry.small_networks, (registry._added,), "FAMILIES = {'unetr': print}"),
    "output": (
        outputs.outputs,
        (outputs.outputs,),
        "from segcli.batch.outputs import Output\nONE = Output('notes', '_seg.csv', '', print)",
    ),
}
KINDS = {
    "check": "function",
    "command": "Commands",
    "engine": "EngineSpec",
    "format": "Format",
    "network": "module",
    "output": "Output",
}


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[What, str, str], str]:
    """What segcli says of a package with this text, whose entry point names this value."""

    def look(what: What, text: str, value: str) -> str:
        package(tmp_path, "strange_one", text, f"{what}s: strange = strange_one{value}")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "strange_one", raising=False)
        read, caches, _ = READERS[what]
        for cache in caches:
            cache.cache_clear()
        try:
            with pytest.raises(EngineError) as error:
                read()
        finally:
            monkeypatch.undo()
            for cache in caches:
                cache.cache_clear()
        assert error.value.hint == "update or uninstall strange-one"
        return error.value.message

    return look


@pytest.mark.parametrize("what", READERS)
def test_what_cannot_be_loaded_is_named_with_its_package_and_the_error(
    what: What, refused: Callable[[What, str, str], str]
) -> None:
    said = refused(what, "import nothing_of_that_name", ":ONE")
    assert said == f"the {what} 'strange' of the package strange-one cannot be loaded: No module named " + (
        "'nothing_of_that_name'"
    )


@pytest.mark.parametrize("what", READERS)
def test_what_is_of_another_kind_is_named_with_its_package(
    what: What, refused: Callable[[What, str, str], str]
) -> None:
    said = refused(what, "ONE = 3", ":ONE")
    assert said == f"the {what} 'strange' of the package strange-one is of type int, and segcli takes {KINDS[what]}"


@pytest.mark.parametrize("what", [what for what, (_, _, text) in READERS.items() if text])
def test_what_has_the_name_of_segclis_own_is_named_with_its_package(
    what: What, refused: Callable[[What, str, str], str]
) -> None:
    text = READERS[what][2]
    said = refused(what, text, ":ONE" if "ONE" in text else "")
    assert said == f"the {what} 'strange' of the package strange-one has the name of another one"


def test_a_package_that_cannot_be_loaded_ends_a_command_with_69(tmp_path: Path) -> None:
    env = package(tmp_path / "site", "strange_one", "", "formats: strange = strange_one:GONE")
    done = command("info", scan(tmp_path / "x.nii.gz"), "--model", organs(tmp_path / "model"), env=env)
    assert done.returncode == 69
    assert re.search(r"error: the format 'strange' of the package strange-one cannot be loaded: ", done.stderr.decode())
    assert "update or uninstall strange-one" in done.stderr.decode()


def test_an_error_is_a_packages_fault_where_its_code_was_the_last_before_a_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "import json\n\ndef cold(scene):\n    json.loads('{')\n\ndef calls(what):\n    what('nothing_there')\n"
    package(tmp_path, "strange_one", text, "checks: strange = strange_one:cold")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "strange_one", raising=False)
    strange = import_module("strange_one")
    with pytest.raises(ValueError, match="Expecting property name") as error:
        strange.cold(None)
    found = at_fault(error.value)
    assert found is not None
    assert found.message.startswith("the package strange-one fails in line 4 of strange_one.py: JSONDecodeError: Expec")
    with pytest.raises(ModuleNotFoundError) as error:
        strange.calls(version_of)
    assert at_fault(error.value) is None


def test_a_check_that_fails_is_told_with_its_package_and_ends_with_69(tmp_path: Path) -> None:
    env = package(
        tmp_path / "site", "strange_one", "def cold(scene):\n    scene.gone\n", "checks: cold = strange_one:cold"
    )
    words = ["--model", organs(tmp_path / "model"), "--engine", "onnx", "-o", tmp_path / "out"]
    done = command("predict", scan(tmp_path / "x.nii.gz"), *words, env=env)
    assert done.returncode == 69
    told = "x.nii.gz: the package strange-one fails in line 2 of strange_one.py: AttributeError: "
    assert told in done.stderr.decode()
    assert "internal error" not in done.stderr.decode()


@pytest.mark.parametrize(("gives", "kind"), [("", "NoneType"), ("return ['cold']", "str"), ("return 3", "int")])
def test_a_check_that_gives_no_findings_is_named_and_ends_with_69(tmp_path: Path, gives: str, kind: str) -> None:
    text = f"def cold(scene):\n    {gives or 'pass'}\n"
    env = package(tmp_path / "site", "strange_one", text, "checks: chilly = strange_one:cold")
    words = ["--model", organs(tmp_path / "model"), "--engine", "onnx", "-o", tmp_path / "out"]
    done = command("predict", scan(tmp_path / "x.nii.gz"), *words, env=env)
    assert done.returncode == 69
    told = f"the check 'chilly' of a package gives {kind}, and segcli takes findings"
    assert told in " ".join(done.stderr.decode().split())
    assert "internal error" not in done.stderr.decode()


@pytest.mark.parametrize(
    ("writes", "told"),
    [
        ("[1 / 0]", r"the package strange-one fails in line 2 of strange_one\.py: ZeroDivisionError: "),
        ("[]", r"write='one': the package that adds it has not written x_one\.txt"),
    ],
)
def test_from_python_a_fault_of_a_package_is_a_refusal_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: str, told: str
) -> None:
    text = (
        f"from segcli.batch.outputs import Output\nONE = Output('one', '_one.txt', '', lambda path, case: {writes})\n"
    )
    package(tmp_path / "site", "strange_one", text, "outputs: one = strange_one:ONE")
    result = segcli.segment(scan(tmp_path / "x.nii.gz"), str(organs(tmp_path / "model")), engine="onnx")
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.delitem(sys.modules, "strange_one", raising=False)
    outputs.outputs.cache_clear()
    try:
        with pytest.raises(EngineError, match=told):
            result.save(tmp_path / "out", write="one")
    finally:
        monkeypatch.undo()
        outputs.outputs.cache_clear()


def test_a_command_of_an_installed_package_is_run_by_its_name(tmp_path: Path) -> None:
    env = example(tmp_path / "site")
    given = scan(tmp_path / "x.nii.gz")
    done = command("count", given, env=env)
    assert (done.returncode, done.stdout) == (0, b"2688\n"), done.stderr
    assert b"How many voxels a scan has." in command("count", "--help", env=env).stdout
    assert command("count", given).returncode == 2


def test_one_package_adds_a_format_an_engine_a_kind_of_output_and_a_check_to_one_run(tmp_path: Path) -> None:
    env, model = example(tmp_path / "site"), organs(tmp_path / "model")
    known = read(scan(tmp_path / "x.nii.gz"))
    np.save(tmp_path / "x.npy", known.data[0])
    (tmp_path / "x.json").write_text(json.dumps({"affine": known.grid.affine.tolist()}))
    words = ["--model", model, "--engine", "lines", "--write", "notes", "-o", tmp_path / "out", "-v"]
    done = command("predict", tmp_path / "x.npy", *words, env=env)
    assert done.returncode == 0, done.stderr
    assert b"review: x: 5 structures, and no voxel above 1000" in done.stderr
    record = json.loads((tmp_path / "out" / "x_seg.json").read_text())
    assert "cold" in [finding["code"] for finding in record["checks"]]
    assert record["engine"]["name"] == "numpy cpu"
    assert (tmp_path / "out" / "x_notes.txt").read_text() == "x: 5 structures\n"
    done = command("predict", tmp_path / "x.nii.gz", "--model", model, "--engine", "onnx", "-o", tmp_path / "own")
    assert done.returncode == 0, done.stderr
    assert np.array_equal(*(read(tmp_path / out / "x_seg.nii.gz").data for out in ("out", "own")))
