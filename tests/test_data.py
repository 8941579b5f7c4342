"""The test data are what tests/data/README.md says: sums, sections, and tests that took the place of other files."""

import hashlib
import re
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


def test_the_tests_that_took_the_place_of_removed_files_are_there() -> None:
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    written = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.rglob("test_*.py"))
    assert len(named) >= 8
    assert [name for name in named if f"def {name}(" not in written] == []
