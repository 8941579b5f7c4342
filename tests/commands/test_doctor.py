"""doctor: what it looks for is what segcli needs."""

import json
import re
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

import click
import psutil
import pytest
import typer
from runs import command

from segcli.commands import doctor
from segcli.commands.app import app
from segcli.commands.doctor import LIBRARIES
from segcli.models import library

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SHIPPED = ROOT / "weights" / "uxnet"
FILES = ("weights.safetensors", "model.onnx")
STATED = json.loads((SHIPPED / "model.json").read_text(encoding="utf-8"))


def test_the_libraries_are_those_of_a_plain_install_and_that_of_a_cluster() -> None:
    wanted = [re.match(r"[\w-]+", line)[0] for line in PROJECT["dependencies"]]  # type: ignore[index]
    assert list(LIBRARIES) == [*wanted, "distributed"]


def test_the_sums_of_the_weights_that_ship_are_in_the_readme_and_right() -> None:
    rows = {Path(row["file"]).name: row for row in doctor._weights()}
    assert set(rows) == set(FILES)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, row in rows.items():
        assert row["right"]
        assert re.search(rf"`{re.escape(name)}`\s+`{row['sha256']}`", text), (
            f"the README's sum of {name} is another one"
        )


def _longer(folder: Path) -> None:
    with (folder / "weights.safetensors").open("ab") as file:
        file.write(b"x")


def _one_bit(folder: Path) -> None:
    data = bytearray((folder / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "model.onnx").write_bytes(data)


def _without(folder: Path) -> None:
    (folder / "model.onnx").unlink()


def _stated(field: str, value: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        (folder / "model.json").write_text(json.dumps({**card, field: value}), encoding="utf-8")

    return change


def _unreadable(folder: Path) -> None:
    (folder / "model.json").write_text("{", encoding="utf-8")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_longer, f"its card states {STATED['sha256']}"),
        (_one_bit, f"its card states {STATED['onnx_sha256']}"),
        (_without, "model.onnx not found"),
        (_stated("sha256", None), "its card states no sum"),
        (_stated("onnx_sha256", "0" * 64), "its card states 0000"),
        (_stated("weights", "../w.safetensors"), "outside"),
        (_unreadable, "is not JSON"),
    ],
)
def test_weights_that_are_not_what_shipped_end_with_78(
    spoil: Callable[[Path], None], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    folder = tmp_path / "weights" / "uxnet"
    shutil.copytree(SHIPPED, folder)
    spoil(folder)
    monkeypatch.setattr(library, "shipped", lambda: [tmp_path / "weights"])
    monkeypatch.setattr(doctor, "_tried", lambda *_: {"engine": "numpy", "works": True})
    code = 0
    try:
        code = app(["doctor", "--json"], standalone_mode=False) or 0
    except (typer.Exit, click.exceptions.Exit) as ended:
        code = ended.exit_code
    rows = json.loads(capsys.readouterr().out)["weights"]
    assert code == 78
    assert any(said in row["note"] for row in rows if not row["right"]), rows


def test_a_library_that_segcli_needs_and_that_is_not_there_is_named_and_the_others_are_listed(tmp_path: Path) -> None:
    without = "import sys; sys.modules['SimpleITK'] = None; from segcli.commands.process import main; sys.exit(main())"
    done = command("doctor", "--json", cwd=tmp_path, before=("-c", without))
    assert (done.returncode, done.stderr.splitlines()[0]) == (
        69,
        b"error: SimpleITK is not installed, and segcli needs it",
    )
    assert json.loads(done.stdout)["libraries"]["numpy"]


def test_free_memory_that_the_system_does_not_tell_is_not_called_free(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise FileNotFoundError("/proc/meminfo")

    monkeypatch.setattr(psutil, "virtual_memory", absent)
    monkeypatch.setattr("segcli.engines.table.engines", dict)
    assert "GiB; the system does not tell" in doctor.diagnosis()["machine"]["memory"]


def test_what_variables_of_slurm_allow_is_told(monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "4096")
    assert doctor._memory().endswith("; SLURM's variables give the job 4.0 GiB")
