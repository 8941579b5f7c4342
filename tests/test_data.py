"""The test data are what tests/data/README.md says: sums, sections, and tests that took the place of other files."""

import hashlib
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent
DATA = ROOT / "data"
TEXT = (DATA / "README.md").read_text(encoding="utf-8")


def test_every_folder_has_a_section_that_states_its_licence() -> None:
    sections = dict(re.findall(r"^## (\S+)\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S))
    folders = {path.name for path in DATA.iterdir() if path.is_dir()}
    assert folders <= sections.keys()
    assert [name for name in folders if "Licence:" not in sections[name]] == []


def test_files_of_others_are_bytes_of_the_package_that_ships_them() -> None:
    stated = dict(re.findall(r"^\| `([\w.]+)` \| `([0-9a-f]{64})` \|$", TEXT, re.M))
    images = {path.name: path for path in DATA.glob("mni_icbm152/*.nii.gz")}
    assert stated.keys() == images.keys()
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in images.items()} == stated


def test_no_other_image_of_a_scanner_is_in_the_repository() -> None:
    endings = (".dcm", ".nii", ".nii.gz", ".mgz", ".nrrd", ".mha", ".jpg", ".png")
    images = {path.relative_to(DATA).as_posix() for path in DATA.rglob("*") if path.name.endswith(endings)}
    assert images - {f"mni_icbm152/mni_icbm152_{kind}.nii.gz" for kind in ("t1", "gm", "wm")} == {
        "containers/nnunetv2_tinyct/caseB_0000.nii.gz"  # made up, as the README says
    }


def test_every_binary_file_is_one_whose_origin_is_stated() -> None:
    files = [path for room in ("segcli", "weights", "tests") for path in (ROOT.parent / room).rglob("*")]
    data = {path for path in files if path.is_file() and "__pycache__" not in path.parts and b"\0" in path.read_bytes()}
    others = {path.relative_to(ROOT.parent).as_posix() for path in data if not path.is_relative_to(DATA)}
    assert others == {f"weights/uxnet/{name}" for name in ("model.onnx", "weights.safetensors", "sample.png")}
    assert all(name.rpartition("/")[0] in TEXT for name in others)


def test_the_wheel_has_the_whole_default_model_and_no_image_of_others() -> None:
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))
    placed = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    there = {path.name for path in (ROOT.parent / "weights" / "uxnet").iterdir()}
    assert {Path(name).name for name in placed if name.startswith("weights/uxnet/")} == there - {"sample.png"}
    assert all(target == f"segcli/{name}" for name, target in placed.items())


def test_the_tests_that_took_the_place_of_removed_files_are_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    written = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.rglob("test_*.py"))
    assert len(named) >= 8
    assert [name for name in named if f"def {name}(" not in written] == []
