"""One cause, one exit code: what may not be read ends with 77 in every command."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import typer
from models import organs
from runs import environment, line, scan

from segcli.commands.app import CommandTable

from scan_files import nifti  # isort: skip - runs makes its folder known

# Files are not shut to root, unless it gives that right away.
PLAIN = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
pytestmark = pytest.mark.skipif(bool(PLAIN) and shutil.which("setpriv") is None, reason="runs as root, without setpriv")


@pytest.fixture(scope="module")
def shut(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a model, and with a scan, a series and a checkpoint that nobody may read."""
    folder = tmp_path_factory.mktemp("shut")
    organs(folder / "organs")
    nifti(folder / "open.nii.gz", np.zeros((16, 14, 12), "u1"))
    scan(folder / "shut.nii.gz").chmod(0)
    (folder / "series").mkdir()
    (folder / "series").chmod(0)
    shutil.copy(folder / "organs" / "weights.safetensors", folder / "shut.safetensors")
    (folder / "shut.safetensors").chmod(0)
    yield folder
    (folder / "series").chmod(0o700)


@pytest.mark.parametrize(
    "words",
    [
        ("info", "shut.nii.gz"),
        ("info", "series"),
        ("plan", "shut.nii.gz"),
        ("predict", "shut.nii.gz"),
        ("predict", "series"),
        ("report", "shut.nii.gz"),
        ("report", "open.nii.gz", "--image", "shut.nii.gz"),
        ("evaluate", "shut.nii.gz", "open.nii.gz"),
        ("evaluate", "open.nii.gz", "shut.nii.gz"),
        ("export-onnx", "-o", "none.onnx", "--verify", "shut.nii.gz"),
        ("models", "import", "shut.safetensors", "-o", "none"),
        ("models", "inspect", "shut.safetensors"),
    ],
    ids=" ".join,
)
def test_what_may_not_be_read_ends_with_77(shut: Path, words: tuple[str, ...]) -> None:
    model = ("--model", "organs") if words[0] not in ("evaluate", "models") else ()
    done = subprocess.run(
        [*PLAIN, *line(*words, *model)], cwd=shut, env=environment({}), capture_output=True, timeout=120, check=False
    )
    assert done.returncode == 77, done.stderr
    name = next(word for word in words if word.startswith(("shut", "series")))
    assert f"error: {name}: ".encode() in done.stderr
    assert b"permission denied" in done.stderr


@pytest.mark.parametrize("mode", [0o000, 0o300])
def test_an_output_folder_that_may_not_be_looked_into_ends_with_77_and_is_named(tmp_path: Path, mode: int) -> None:
    model, _ = organs(tmp_path / "organs"), scan(tmp_path / "a.nii.gz")
    (tmp_path / "closed").mkdir(mode=mode)
    words = [*PLAIN, *line("predict", "a.nii.gz", "-o", "closed", "--model", model, "--engine", "onnx")]
    done = subprocess.run(words, cwd=tmp_path, env=environment({}), capture_output=True, timeout=120, check=False)
    (tmp_path / "closed").chmod(0o700)
    assert done.returncode == 77, done.stderr
    assert b"a_seg.nii.gz: permission denied in closed\n  choose a folder" in done.stderr


# Files that a model or a command is described by -> what reads them.
DESCRIBING = {
    "model.json": "library.find('model')",
    "lone.onnx": "library.find('lone.onnx')",
    "recipe.json": "imports.adopt(WEIGHTS, to=HERE, name='x', recipe='recipe.json')",
    "labels.json": "imports.options(labels='labels.json')",
    "list.txt": "_list('list.txt')",
    "segcli.toml": "settings.defaults()",
    "model.zip": "imports.inspect(Path('model.zip'))",
    "plans.json": "imports.inspect(Path('nnunet'))",
    "metadata.json": "imports.inspect(Path('bundle'))",
    "net.onnx.data": "graph.with_external_data(Path('net.onnx'))",
}
CALLS = """
import json, sys
from pathlib import Path
from segcli.batch.cases import _list
from segcli.commands import settings
from segcli.errors import SegcliError
from segcli.models import imports, library
from segcli.models.imports import graph

HERE, WEIGHTS = Path.cwd(), Path("organs/weights.safetensors")
for name, call in json.loads(sys.argv[1]).items():
    try:
        eval(call)
        print(name, "was read")
    except SegcliError as error:
        print(name, error.exit_code, isinstance(error, PermissionError), error.message)
"""


@pytest.mark.slow
def test_what_describes_a_model_or_a_command_and_may_not_be_read_is_denied_and_not_called_damaged(
    tmp_path: Path,
) -> None:
    import onnx
    from models import affine, onnx_file

    containers = Path(__file__).parents[1] / "data" / "containers"
    organs(tmp_path / "organs")
    organs(tmp_path / "model")
    shutil.copytree(containers / "nnunetv2_tinyct" / "model", tmp_path / "nnunet")
    shutil.copytree(containers / "bundle_tiny_unet", tmp_path / "bundle")
    graph = onnx.load_model_from_string(onnx_file(*affine(), (32, 32, 32)))
    onnx.save(graph, tmp_path / "net.onnx", save_as_external_data=True, location="net.onnx.data", size_threshold=0)
    for name in DESCRIBING:
        found = next(iter(tmp_path.glob(f"[!o]*/**/{name}")), tmp_path / name)
        found.touch()
        found.chmod(0)
    words = [*PLAIN, *line(json.dumps(DESCRIBING), before=("-c", CALLS))]
    done = subprocess.run(words, cwd=tmp_path, env=environment({}), capture_output=True, text=True, check=True)
    for name, said in zip(DESCRIBING, done.stdout.splitlines(), strict=True):
        assert said.startswith(f"{name} 77 True "), said
        assert f"{name}: cannot be read: permission denied" in said


def test_typer_looks_at_no_file_itself():
    """Its refusals have other codes than ours: 2 for what is missing, or may not be read."""
    seen = 0
    for declared in CommandTable().declared.values():
        made = typer.main.get_command(declared)
        for one in getattr(made, "commands", {"": made}).values():
            for parameter in one.params:
                given = getattr(parameter, "type", None)  # of a typer that stands on Click
                if given is None:
                    descriptor = parameter.type_descriptor
                    if Path in (descriptor.annotation, *get_args(descriptor.annotation)):
                        given = descriptor.parameter_info
                if hasattr(given, "exists"):
                    seen += 1
                    assert not given.readable, parameter.name
                    assert not given.exists, parameter.name
    assert seen > 10
