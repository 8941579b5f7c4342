"""One cause, one exit code: what may not be read ends with 77 in every command."""

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


def test_typer_looks_at_no_file_itself():
    """Its refusals have other codes than ours: 2 for what is missing, or may not be read."""
    for declared in CommandTable().declared.values():
        made = typer.main.get_command(declared)
        for one in getattr(made, "commands", {"": made}).values():
            for parameter in one.params:
                descriptor = parameter.type_descriptor
                if Path in (descriptor.annotation, *get_args(descriptor.annotation)):
                    given = descriptor.parameter_info
                    assert not given.readable, parameter.name
                    assert not given.exists, parameter.name
