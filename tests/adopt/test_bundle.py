"""MONAI bundles are read as they are written, answer as MONAI does, and none of their Python is run."""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from segcli import adopt, card, formats
from segcli.adopt.bundle import _Unknown, resolve
from segcli.engines import open_engine
from segcli.errors import ModelError
from segcli.segmentation import segment

CONTAINERS = Path(__file__).parent.parent / "data" / "containers"
BUNDLE = CONTAINERS / "bundle_tiny_unet"


@pytest.fixture(autouse=True)
def _no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    yield
    assert not [p for p in tmp_path.rglob("*") if "PWNED" in p.name]


def edited(folder: Path, **change: Any) -> Path:
    """A copy of the bundle with entries of its inference.json changed."""
    shutil.copytree(BUNDLE, folder)
    path = folder / "configs" / "inference.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    return folder


def test_a_bundle_becomes_a_card_without_a_question(tmp_path: Path) -> None:
    made = card.read_card(adopt.adopt(BUNDLE, to=tmp_path))
    assert made.channels == ("CT",)
    assert (made.grid.axes, made.grid.spacing, made.grid.anchor) == ("RAS", (1.5, 1.5, 2.0), "oriented")
    assert (made.window.size, made.window.overlap, made.window.blend) == ((16, 16, 16), 0.5, "gaussian")
    assert [label.name for label in made.labels] == ["background", "spleen"]
    assert made.decide.back == "probabilities"


def test_labels_of_a_scan_are_those_of_monai(tmp_path: Path) -> None:
    made = card.read_card(adopt.adopt(BUNDLE, to=tmp_path))
    scan = formats.read([CONTAINERS / "nnunetv2_tinyct" / "caseB_0000.nii.gz"])
    labels = segment(scan, made, open_engine(made, engine="torch", device="cpu").engine).labels.data[0]
    expected = load_file(BUNDLE / "expected_caseB.safetensors")["labels"]
    assert 0.1 < (expected == 1).mean() < 0.9
    assert (labels == expected).mean() > 0.999


def test_a_zip_archive_is_the_folder_in_it(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        for path in sorted(p for p in BUNDLE.rglob("*") if p.is_file()):
            archive.write(path, f"tiny/{path.relative_to(BUNDLE)}")
    assert adopt.inspect(tmp_path / "b.zip").found == adopt.inspect(BUNDLE).found


def test_an_archive_that_climbs_out_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("../PWNED", b"")
    with pytest.raises(ModelError, match="leads outside the archive: not allowed"):
        adopt.inspect(tmp_path / "b.zip")


def test_python_in_a_bundle_is_not_run(tmp_path: Path) -> None:
    hostile = edited(
        tmp_path / "b",
        imports=["$open('PWNED', 'w').close()"],
        device="$__import__('pathlib').Path('PWNED').touch()",
        network="$__import__('pathlib').Path('PWNED').touch() or @network_def",
    )
    assert adopt.inspect(hostile).missing == {}


def test_a_value_that_only_python_knows_is_named_and_not_guessed(tmp_path: Path) -> None:
    preprocessing = json.loads((BUNDLE / "configs" / "inference.json").read_text())["preprocessing"]
    preprocessing["transforms"][4]["a_max"] = "$compute(@dataset)"
    found = adopt.inspect(edited(tmp_path / "b", preprocessing=preprocessing))
    assert "intensity" in found.missing
    assert "ScaleIntensityRange has values that are Python and were not evaluated" in found.notes


def test_a_transform_that_segcli_has_not_is_named(tmp_path: Path) -> None:
    preprocessing = json.loads((BUNDLE / "configs" / "inference.json").read_text())["preprocessing"]
    preprocessing["transforms"].append({"_target_": "GaussianSmoothd", "keys": "image", "sigma": 1})
    found = adopt.inspect(edited(tmp_path / "b", preprocessing=preprocessing))
    assert list(found.missing) == ["intensity"]
    assert "the transform GaussianSmooth is not one that segcli has" in found.notes


def test_spacing_before_orientation_is_read_along_the_stored_axes(tmp_path: Path) -> None:
    preprocessing = json.loads((BUNDLE / "configs" / "inference.json").read_text())["preprocessing"]
    steps = preprocessing["transforms"]
    steps[2], steps[3] = steps[3], steps[2]
    folder = adopt.adopt(edited(tmp_path / "b", preprocessing=preprocessing), to=tmp_path, name="m")
    assert card.read_card(folder).grid.anchor == "stored"


def test_weights_of_another_network_than_the_configuration_names_are_refused(tmp_path: Path) -> None:
    network = json.loads((BUNDLE / "configs" / "inference.json").read_text())["network_def"]
    other = edited(tmp_path / "b", network_def={**network, "channels": [4, 8, 16]})
    with pytest.raises(ModelError, match="the weights are not those of the bundle's UNet"):
        adopt.inspect(other)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("@a#b", 3),
        ("@a::b", 3),
        ("@list#1", "y"),
        ("$@a#b", 3),
        ("$@root + '/models/model.pt'", "./models/model.pt"),
        ("$'bilinear' if @flag else 'nearest'", "bilinear"),
        ("$[96, 96, 96]", [96, 96, 96]),
        ("$None", None),
    ],
)
def test_references_are_followed_by_pattern(text: str, value: Any) -> None:
    config = {"a": {"b": "$3"}, "root": ".", "flag": True, "list": ["x", "y"]}
    assert resolve(text, config) == value


@pytest.mark.parametrize("text", ["$1 + 1", "@nowhere", "@round", "$__import__('os')", "$@a.to(@b) + 1"])
def test_what_would_have_to_be_evaluated_stays_unknown(text: str) -> None:
    assert isinstance(resolve(text, {"round": "@round", "a": 1}), _Unknown)
