"""What segcli is built on is justified in one table, and its licences are those that the packages state."""

import importlib.util
import platform
import re
import sys
import tomllib
from email.message import Message
from importlib.metadata import Distribution, distribution
from importlib.resources import files
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (files("segcli") / "help" / "dependencies.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in TEXT.splitlines() if line.startswith("| `")]
TABLE = {name: row[1:] for row in ROWS for name in re.findall("`([^`]+)`", row[0])}


@pytest.fixture(scope="module")
def licences() -> ModuleType:
    place = ROOT / ".ci" / "licences.py"
    spec = importlib.util.spec_from_file_location("licences", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_dependency_has_its_row_and_nothing_else_has_one() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *extras["cluster"], *extras["gdrive"]]
    names = [re.split(r"[^\w.-]", line)[0] for line in lines]
    assert list(TABLE) == names
    assert [name for name, (purpose, *_) in TABLE.items() if not purpose] == []


@pytest.mark.parametrize("name", [name for name in TABLE if name != "gdown"])
def test_the_licence_of_a_row_is_what_the_package_states(name: str, licences: ModuleType) -> None:
    told = TABLE[name][1].strip("*")
    stated = licences.licences(distribution(name))
    first = told.removesuffix(" and others")
    assert first in stated
    assert told != first or stated == {first}


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() != "x86_64", reason="sizes of Linux, x86-64")
@pytest.mark.parametrize("name", [name for name in TABLE if name not in ("torch", "gdown", "dask", "distributed")])
def test_the_size_of_a_row_is_right_within_half(name: str) -> None:
    package = distribution(name)
    places = [Path(str(package.locate_file(file))) for file in package.files or []]
    size = sum(place.stat().st_size for place in places if place.is_file() and place.suffix != ".pyc") / 1e6
    assert 0.6 < size / float(TABLE[name][2]) < 1.7


def test_everything_that_is_installed_with_segcli_is_permissive_or_named(
    licences: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert licences.main({"cluster"}) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^certifi +\S+ +MPL-2\.0$", printed, re.M)
    for start in licences.KNOWN:
        assert start.rstrip("-").upper() in TEXT.upper().replace("NVIDIA'S LIBRARIES", "NVIDIA CUDA")


@pytest.mark.parametrize(
    ("fields", "known"),
    [
        ([("License-Expression", "MIT OR Apache-2.0")], {"MIT", "Apache-2.0"}),
        ([("License-Expression", "AGPL-3.0-only")], {"AGPL-3.0-only"}),
        ([("Classifier", "License :: OSI Approved :: GNU General Public License v3 (GPLv3)")], {"GPL-3.0"}),
        ([("License", "Some terms of our own\nMIT is not among them")], {"Some terms of our own"}),
        ([], {"nothing"}),
    ],
)
def test_a_licence_that_is_not_permissive_is_known_as_such(
    fields: list[tuple[str, str]], known: set[str], licences: ModuleType
) -> None:
    class Stated(Distribution):
        metadata = Message()  # type: ignore[assignment]

        def read_text(self, filename: str) -> str | None:
            return None

        def locate_file(self, path: object) -> Path:  # type: ignore[override]
            return ROOT

    for key, value in fields:
        Stated.metadata[key] = value
    assert licences.licences(Stated()) == known
    assert (known <= licences.PERMISSIVE) == (known == {"MIT", "Apache-2.0"})


def test_the_program_that_asks_for_vulnerabilities_is_documented() -> None:
    assert "    .ci/audit\n" in TEXT
    text = (ROOT / ".ci" / "audit").read_text(encoding="utf-8")
    assert "pip-audit" in text
    assert "licences.py" in text
