"""MONAI bundles are read as they are written, answer as MONAI does, and none of their Python is run."""

import json
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file

from segcli import formats
from segcli.engines.choose import open_engine
from segcli.errors import ModelError, UsageError
from segcli.inference.prepare import prepare
from segcli.inference.segment import segment
from segcli.models import imports, library, weights
from segcli.models.after import FillStep, LargestStep
from segcli.models.imports import bundle_network
from segcli.models.imports.bundle import _intensity, _spacing, _transforms
from segcli.models.imports.bundle_config import References, Unknown, merged
from segcli.models.imports.bundle_said import Said
from segcli.networks import registry
from segcli.space.resample import Interpolation, onto
from segcli.space.volume import Grid, Volume, turned

CONTAINERS = Path(__file__).parents[2] / "data" / "containers"
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
    made = library.read_card(imports.adopt(BUNDLE, to=tmp_path))
    assert made.channels == ("CT",)
    assert (made.grid.axes, made.grid.spacing, made.grid.anchor) == ("RAS", (1.5, 1.5, 2.0), "monai")
    assert (made.window.size, made.window.overlap, made.window.blend) == ((16, 16, 16), 0.5, "gaussian")
    assert [label.name for label in made.labels] == ["background", "spleen"]
    assert made.decide.back == "probabilities"


def test_a_hidden_file_beside_the_only_weights_is_none_of_them(tmp_path: Path) -> None:
    folder = edited(tmp_path / "b")
    (folder / "models" / "model.pt").rename(folder / "models" / "best.pt")
    (folder / "models" / "._best.pt").write_bytes(b"\0\5\x16\7")
    assert imports.inspect(folder).container == "MONAI bundle, best.pt"


def test_scans_that_a_bundle_would_leave_as_they_are_are_told() -> None:
    notes: list[str] = []
    item = {"pixdim": [1.5, 1.5, 2.0], "min_pixdim": [1.0, 1.0, 1.0]}
    assert _spacing(item, notes) == {"spacing": [1.5, 1.5, 2.0], "interpolation": "linear"}
    assert notes == ["Spacing leaves scans beyond its min_pixdim as they are; segcli resamples all"]
    assert _spacing({"pixdim": 2.0}, notes)["spacing"] == [2.0, 2.0, 2.0]
    assert len(notes) == 1


def test_labels_of_a_scan_are_those_of_monai(tmp_path: Path) -> None:
    made = library.read_card(imports.adopt(BUNDLE, to=tmp_path))
    scan = formats.read([CONTAINERS / "nnunetv2_tinyct" / "caseB_0000.nii.gz"])
    labels = segment(scan, made.procedure, open_engine(made, engine="torch", device="cpu").engine).labels.data[0]
    expected = load_file(BUNDLE / "expected_caseB.safetensors")["labels"]
    labelled = (labels > 0) | (expected > 0)
    assert 0.1 < labelled.mean() < 0.9
    assert (labels == expected)[labelled].mean() > 0.999


def test_weights_of_another_name_are_taken_when_there_are_no_others(tmp_path: Path) -> None:
    models = edited(tmp_path / "b") / "models"
    (models / "model.pt").rename(models / "best_metric_model.pt")
    assert imports.inspect(tmp_path / "b").container == "MONAI bundle, best_metric_model.pt"
    shutil.copy(models / "best_metric_model.pt", models / "other.pt")
    with pytest.raises(ModelError, match=r"models/ has no model.pt, only best_metric_model.pt, other.pt"):
        imports.inspect(tmp_path / "b")


def test_a_bundle_without_its_weights_is_told_where_they_are(tmp_path: Path) -> None:
    (edited(tmp_path / "b") / "models" / "model.pt").unlink()
    (tmp_path / "b" / "large_files.yml").write_text("large_files: []")
    with pytest.raises(ModelError, match=r"models/ has no model.pt: it holds nothing") as refused:
        imports.inspect(tmp_path / "b")
    assert refused.value.hint == "large_files.yml in the bundle says where it is published: fetch it into models/"


def test_of_a_bundle_with_a_graph_or_a_program_alone_it_is_said_what_to_do(tmp_path: Path) -> None:
    models = edited(tmp_path / "b") / "models"
    (models / "model.pt").rename(models / "model.onnx")
    with pytest.raises(ModelError, match=r"has no model\.pt, only model\.onnx") as refused:
        imports.inspect(tmp_path / "b")
    assert refused.value.hint == "import models/model.onnx alone, and give what it does not state"
    (models / "model.onnx").rename(models / "model.pt2")
    with pytest.raises(ModelError, match=r"only models/model\.pt2: a program of torch\.export") as refused:
        imports.inspect(tmp_path / "b")
    assert "torch.export.load('model.pt2').state_dict" in (refused.value.hint or "")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "net."])
def test_wrapped_names_are_understood_as_bare_ones(tmp_path: Path, prefix: str) -> None:
    path = edited(tmp_path / "b") / "models" / "model.pt"
    torch.save({prefix + name: tensor for name, tensor in torch.load(path).items()}, path)
    wrapped, bare = imports.inspect(tmp_path / "b"), imports.inspect(BUNDLE)
    assert (wrapped.network, wrapped.arguments, wrapped.found) == (bare.network, bare.arguments, bare.found)


def test_a_zip_archive_is_the_folder_in_it(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        for path in sorted(p for p in BUNDLE.rglob("*") if p.is_file()):
            archive.write(path, f"tiny/{path.relative_to(BUNDLE)}")
    assert imports.inspect(tmp_path / "b.zip").found == imports.inspect(BUNDLE).found


@pytest.mark.parametrize("name", ["../PWNED", "a/../../PWNED", "/PWNED", "..\\PWNED", "C:PWNED"])
def test_an_archive_that_climbs_out_is_refused(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr(name, b"")
    with pytest.raises(ModelError, match="leads outside the archive: not allowed"):
        imports.inspect(tmp_path / "b.zip")


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"PK\x03\x04" + bytes(99), "a download that broke off"),
        (b"<!DOCTYPE html><title>Sign in</title>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ],
)
def test_what_is_no_whole_archive_says_what_to_do(tmp_path: Path, content: bytes, hint: str) -> None:
    (tmp_path / "b.zip").write_bytes(content)
    with pytest.raises(ModelError, match=r"b\.zip: (a truncated or corrupt archive|is a pointer of Git LFS)") as found:
        imports.inspect(tmp_path / "b.zip")
    assert hint in f"{found.value} {found.value.hint}"


def test_an_archive_with_a_link_in_it_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("weights.pt")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(ModelError, match="leads outside the archive: not allowed"):
        imports.inspect(tmp_path / "b.zip")


def test_an_archive_that_unpacks_to_far_more_than_its_size_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.pt", bytes(11_000_000))
    with pytest.raises(ModelError, match=r"b\.zip: unpacks to far more than its size: not allowed"):
        imports.inspect(tmp_path / "b.zip")


def test_python_in_a_bundle_is_not_run(tmp_path: Path) -> None:
    hostile = edited(
        tmp_path / "b",
        imports=["$open('PWNED', 'w').close()"],
        device="$__import__('pathlib').Path('PWNED').touch()",
        network="$__import__('pathlib').Path('PWNED').touch() or @network_def",
    )
    assert imports.inspect(hostile).missing == {}


def test_a_value_that_only_python_knows_is_named_and_not_guessed(tmp_path: Path) -> None:
    preprocessing = json.loads((BUNDLE / "configs" / "inference.json").read_text())["preprocessing"]
    preprocessing["transforms"][4]["a_max"] = "$compute(@dataset)"
    found = imports.inspect(edited(tmp_path / "b", preprocessing=preprocessing))
    assert "intensity" in found.missing
    assert "ScaleIntensityRange has values that are Python and were not evaluated" in found.notes


def test_a_transform_that_segcli_has_not_is_named(tmp_path: Path) -> None:
    preprocessing = json.loads((BUNDLE / "configs" / "inference.json").read_text())["preprocessing"]
    preprocessing["transforms"].append({"_target_": "GaussianSmoothd", "keys": "image", "sigma": 1})
    found = imports.inspect(edited(tmp_path / "b", preprocessing=preprocessing))
    assert list(found.missing) == ["intensity"]
    assert "the transform GaussianSmooth is not one that segcli has, or not with these options" in found.notes


def changed(folder: Path, at: int, **entries: Any) -> imports.Inspection:
    """What the bundle is when its transform number `at` has other entries (2 turns, 3 resamples, 4 scales)."""
    preprocessing = json.loads((BUNDLE / "configs" / "inference.json").read_text())["preprocessing"]
    preprocessing["transforms"][at] = {"keys": "image", **entries}
    return imports.inspect(edited(folder, preprocessing=preprocessing))


CROPPED = {"step": "crop", "above": 0, "margin": 0}


@pytest.mark.parametrize(
    ("entries", "steps"),
    [
        (
            {"_target_": "ScaleIntensityRanged", "a_min": -9, "a_max": 9, "b_min": -1, "b_max": 0},
            [{"step": "scale", "from": [-9, 9], "low": -1, "high": 0}],
        ),
        (
            {"_target_": "ScaleIntensityRanged", "a_min": -9, "a_max": 9, "clip": True},  # b is missing: not clipped
            [{"step": "scale", "from": [-9, 9], "low": 0, "high": 1}],
        ),
        (
            {"_target_": "NormalizeIntensityd", "nonzero": True, "channel_wise": True},
            [{"step": "standardise", "where": "nonzero"}],
        ),
        (
            {"_target_": "NormalizeIntensityd", "subtrahend": [3, 4], "divisor": [5, 6], "channel_wise": True},
            [
                {"step": "standardise", "mean": 3, "sd": 5, "channels": [0]},
                {"step": "standardise", "mean": 4, "sd": 6, "channels": [1]},
            ],
        ),
        (
            {"_target_": "ScaleIntensityRangePercentilesd", "lower": 1, "upper": 99, "b_min": 0, "b_max": 1},
            [{"step": "percentiles", "low": 1, "high": 99}],
        ),
        (
            {"_target_": "CropForegroundd", "source_key": "image", "margin": 5},
            [{"step": "crop", "above": 0, "margin": 5}],
        ),
        ({"_target_": "SpatialPadd", "spatial_size": [16, 16, 16]}, []),
        ({"_target_": "SpatialPad", "spatial_size": [16, 16, 16]}, []),
        ({"_target_": "DataStatsd"}, []),
        ({"_target_": "ConvertToMultiChannelBasedOnBratsClassesd", "keys": "label"}, []),
        ({"_target_": "CropForegroundd", "keys": ["image", "label"], "source_key": "image"}, [CROPPED]),
        ({"_target_": "CropForegroundd", "keys": ["image", "label"], "source_key": "label"}, None),
        ({"_target_": "CropForegroundd", "source_key": "brain_mask"}, None),
        ({"_target_": "NormalizeIntensityd", "subtrahend": 3}, None),
        ({"_target_": "ScaleIntensityRanged", "a_min": -9, "a_max": 9, "b_min": -1}, None),
        ({"_target_": "ScaleIntensityRangePercentilesd", "lower": 1, "upper": 99, "b_min": -1, "b_max": 1}, None),
        ({"_target_": "ScaleIntensityd", "factor": 0.5}, None),
    ],
)
def test_an_intensity_transform_becomes_its_steps_or_is_missing(
    tmp_path: Path, entries: dict[str, Any], steps: list[dict[str, Any]] | None
) -> None:
    found = changed(tmp_path / "b", 4, **entries)
    whole = None if steps is None else [{"step": "resample"}, *steps, {"step": "outside", "value": 0}]
    assert found.found.get("intensity") == whole
    assert ("intensity" in found.missing) == (steps is None)


def test_a_mean_over_several_channels_at_once_is_not_that_of_each() -> None:
    item = {"nonzero": True}
    assert _intensity("NormalizeIntensity", item, 1) == [{"step": "standardise", "where": "nonzero"}]
    assert _intensity("NormalizeIntensity", item, 4) is None
    assert _intensity("NormalizeIntensity", {**item, "channel_wise": True}, 4) is not None


def test_a_scale_is_of_the_whole_range_or_has_a_factor_that_segcli_lacks() -> None:
    assert _intensity("ScaleIntensity", {"maxv": 2}, 1) == [{"step": "scale", "low": 0.0, "high": 2.0}]
    assert _intensity("ScaleIntensity", {"factor": 0.1}, 1) is None


@pytest.mark.parametrize(
    ("at", "entries", "note"),
    [
        (3, {"_target_": "Spacingd", "pixdim": [1, 1, 1], "mode": "bicubic"}, "Spacing has an interpolation or"),
        (4, {"_target_": "CropForegroundd", "margin": [1, 2, 3]}, "the crop's margin is another on each side"),
        (4, {"_target_": "CropForegroundd", "margin": 2}, "MONAI from 1.5 pads where the crop's margin goes beyond"),
        (4, {"_target_": "CropForegroundd", "k_divisible": [4, 4, 1]}, "the crop makes its sides multiples of"),
        (3, {"_target_": "Spacingd", "pixdim": [1, 1, 1], "padding_mode": "zeros"}, "Spacing takes 'zeros' for what"),
        (4, {"_target_": "SpatialPadd", "spatial_size": [8, 8, 8]}, "the padding of SpatialPad is left to the windows"),
    ],
)
def test_what_segcli_does_otherwise_is_noted(tmp_path: Path, at: int, entries: dict[str, Any], note: str) -> None:
    assert any(note in one for one in changed(tmp_path / "b", at, **entries).notes)


@pytest.mark.parametrize(("inputs", "noted"), [(1, False), (2, True)])
def test_a_crop_that_looks_at_some_of_the_channels_is_noted(inputs: int, noted: bool) -> None:
    said = SimpleNamespace(network=SimpleNamespace(inputs=inputs), notes=[], card={})
    _transforms([{"_target_": "CropForegroundd", "channel_indices": 0}], said)
    assert any("keeps what is above 0 in any of them" in note for note in said.notes) == noted


def said_of(*items: dict[str, Any], inputs: int = 2) -> Any:
    """What is gathered of these transforms for a network of so many inputs."""
    said = Said(SimpleNamespace(inputs=inputs), {})  # type: ignore[arg-type]
    _transforms(items, said)
    return said


RANGE = {"_target_": "ScaleIntensityRanged", "a_min": 0, "a_max": 9, "b_min": 0, "b_max": 1}
TOGETHER = {"_target_": "ConcatItemsd", "keys": ["ct", "pt"], "name": "image"}


def test_what_is_done_with_one_of_the_images_is_done_with_its_channel_alone() -> None:
    pair = {"_target_": "ScaleIntensityd", "keys": ["pt", "ct"]}
    found = said_of({**RANGE, "keys": "ct"}, {"_target_": "NormalizeIntensityd", "keys": ["pt"]}, pair, TOGETHER)
    assert found.card["intensity"] == [
        {"step": "scale", "from": [0, 9], "low": 0, "high": 1, "channels": [0]},
        {"step": "standardise", "channels": [1]},
        {"step": "scale", "low": 0, "high": 1},
        {"step": "outside", "value": 0},
    ]
    assert not found.lacks


def test_over_channels_that_were_put_together_no_mean_is_that_of_each() -> None:
    assert "intensity" in said_of(TOGETHER, {"_target_": "NormalizeIntensityd", "keys": "image"}).lacks


def test_what_is_done_with_an_image_that_the_network_is_not_shown_is_left_out() -> None:
    copied = {"_target_": "CopyItemsd", "keys": "image", "names": "raw"}
    mean = {"_target_": "NormalizeIntensityd", "keys": "image"}
    found = said_of(copied, {**RANGE, "keys": "raw"}, mean, inputs=1)
    assert found.card["intensity"] == [{"step": "standardise"}, {"step": "outside", "value": 0}]


def test_what_is_done_with_an_image_before_it_is_copied_is_done_with_the_copy() -> None:
    copied = {"_target_": "CopyItemsd", "keys": "ct", "names": "pt"}
    assert "channels" not in said_of({**RANGE, "keys": "ct"}, copied, TOGETHER).card["intensity"][0]


SPACED = {"_target_": "Spacingd", "keys": "image", "pixdim": [1, 1, 1]}
RESIZED = {"_target_": "Resized", "keys": "image", "spatial_size": [4, 4, 4]}


@pytest.mark.parametrize(
    "items",
    [
        [{**SPACED, "keys": ["ct"]}, TOGETHER],  # of one image alone
        [SPACED, {**SPACED, "pixdim": [2, 2, 2]}],
        [{**SPACED, "keys": ["ct", "pt"], "mode": ["bilinear", "nearest"]}, TOGETHER],
        [{**RESIZED, "keys": ["ct", "pt"], "mode": ["area", "trilinear"]}, TOGETHER],
        [RESIZED, SPACED],
        [
            {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
            SPACED,
            {"_target_": "Orientationd", "keys": "image", "axcodes": "LIA"},
        ],
        [{"_target_": "Orientationd", "keys": "image", "axcodes": "RAS", "labels": ["RL", "AP", "SI"]}],
        [{"_target_": "CastToTyped", "keys": "image", "dtype": "uint8"}],
        [
            {"_target_": "SpatialPadd", "keys": "image", "spatial_size": [16, 16, 16]},
            {"_target_": "NormalizeIntensityd", "keys": "image", "channel_wise": True},
        ],
    ],
)
def test_a_row_of_transforms_that_segcli_does_not_go_through_is_no_row_of_steps(items: list[dict[str, Any]]) -> None:
    found = said_of(*items)
    assert "intensity" in found.lacks
    assert "intensity" not in found.card


def test_channels_that_are_put_together_name_the_inputs_and_without_a_spacing_none_is_kept(tmp_path: Path) -> None:
    shutil.copytree(BUNDLE, tmp_path / "plain")
    config = tmp_path / "plain" / "configs"
    stated = json.loads((config / "metadata.json").read_text())
    (config / "metadata.json").write_text(json.dumps({**stated, "network_data_format": {}}))
    inference = json.loads((config / "inference.json").read_text())
    inference["preprocessing"]["transforms"][3] = {"_target_": "ConcatItemsd", "keys": ["flair"], "name": "image"}
    (config / "inference.json").write_text(json.dumps(inference))
    found = imports.inspect(tmp_path / "plain")
    assert (found.found["channels"], found.found["spacing"]) == (["flair"], None)
    assert "labels" in found.missing


def test_finished_labels_that_are_brought_back_are_noted(tmp_path: Path) -> None:
    post = [{"_target_": "AsDiscreted", "keys": "pred", "argmax": True}, {"_target_": "Invertd", "keys": "pred"}]
    found = imports.inspect(edited(tmp_path / "b", postprocessing={"_target_": "Compose", "transforms": post}))
    assert any("brings finished labels back by the nearest voxel" in note for note in found.notes)


def test_an_inferer_that_is_no_object_leaves_the_windows_open(tmp_path: Path) -> None:
    assert "patch_size" in imports.inspect(edited(tmp_path / "b", inferer="a text")).missing


@pytest.mark.parametrize(
    ("entries", "spacing"),
    [({"pixdim": 2}, [2, 2, 2]), ({"pixdim": [1, 2]}, [1, 2, 2]), ({"pixdim": [1, 2, -1]}, [1, 2, None])],
)
def test_a_spacing_is_as_long_as_the_grid(tmp_path: Path, entries: dict[str, Any], spacing: list[float]) -> None:
    assert changed(tmp_path / "b", 3, _target_="Spacingd", **entries).found["spacing"] == spacing


@pytest.mark.parametrize("keys", [["image", "label"], ["label", "image"]])
def test_of_options_for_each_key_the_images_counts(tmp_path: Path, keys: list[str]) -> None:
    modes = ["bilinear" if key == "image" else "nearest" for key in keys]
    found = changed(tmp_path / "b", 3, _target_="Spacingd", pixdim=[1, 1, 1], keys=keys, mode=modes)
    assert found.found["interpolation"] == "linear"


@pytest.mark.parametrize("entries", [{"axcodes": ["L", "P", "S"]}, {"axcodes": "LPS"}, {"as_closest_canonical": True}])
def test_an_orientation_is_an_axes_code(tmp_path: Path, entries: dict[str, Any]) -> None:
    wanted = "RAS" if "as_closest_canonical" in entries else "LPS"
    assert changed(tmp_path / "b", 2, _target_="Orientationd", **entries).found["orientation"] == wanted


def test_without_an_orientation_the_network_sees_the_file_in_monais_order(tmp_path: Path) -> None:
    """A file whose i, j, k run to the right, front and top looks the same with and without turning to RAS."""
    preprocessing = json.loads((BUNDLE / "configs" / "inference.json").read_text())["preprocessing"]
    del preprocessing["transforms"][2]
    made = library.read_card(imports.adopt(edited(tmp_path / "b", preprocessing=preprocessing), to=tmp_path, name="m"))
    assert (made.grid.axes, made.grid.transpose) == (None, (2, 1, 0))
    turning = library.read_card(imports.adopt(BUNDLE, to=tmp_path, name="turning"))
    k_j_i = np.array([[0, 0, -1.5, 0], [0, -1.5, 0, 0], [2.0, 0, 0, 0], [0, 0, 0, 1]])
    values = np.random.default_rng(0).normal(50, 100, (1, 18, 20, 22)).astype(np.float32)
    scan = Volume(values, Grid((18, 20, 22), k_j_i))
    assert scan.grid.axes == "SAR"
    ours, theirs = (
        segment(scan, one.procedure, open_engine(one, engine="torch", device="cpu").engine).labels.data
        for one in (made, turning)
    )
    assert 0.1 < (theirs > 0).mean() < 0.9
    assert (ours == theirs).all()


def test_an_order_of_the_file_that_the_user_states_is_monais(tmp_path: Path) -> None:
    folder = edited(tmp_path / "b", preprocessing="$import_module('own').transforms()")
    given = imports.options(orientation="file", spacing="keep", window="0,1")
    assert library.read_card(imports.adopt(folder, to=tmp_path, name="m", given=given)).grid.transpose == (2, 1, 0)


def test_an_orientation_that_only_python_knows_is_missing(tmp_path: Path) -> None:
    assert "orientation" in changed(tmp_path / "b", 2, _target_="Orientationd", axcodes="$axes()").missing


def test_a_field_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="the bundle's configuration: the field 'a_min' is missing"):
        changed(tmp_path / "b", 4, _target_="ScaleIntensityRanged", a_max=3)


@pytest.mark.parametrize(
    ("inferer", "patch", "note"),
    [
        (
            {"_target_": "SlidingWindowInferer", "roi_size": 32, "mode": "$BlendMode.GAUSSIAN"},
            [32, 32, 32],
            "overlap, ",
        ),
        ({"_target_": "SlidingWindowInferer", "roi_size": [96, 96, -1]}, None, ""),
        ({"_target_": "SliceInferer", "roi_size": [64, 32], "spatial_dim": 2}, [64, 32, 1], ""),
        ({"_target_": "SimpleInferer", "roi_size": [32, 16, 16]}, [32, 16, 16], "the bundle shows the network whole"),
        ({"_target_": "SimpleInferer", "roi_size": [96, -1, 96]}, None, "the bundle shows the network whole images"),
    ],
)
def test_windows_are_those_of_the_inferer_or_missing(
    tmp_path: Path, inferer: dict[str, Any], patch: list[int] | None, note: str
) -> None:
    found = imports.inspect(edited(tmp_path / "b", inferer=inferer))
    assert found.found.get("patch_size") == patch
    assert any(sentence.startswith(note) for sentence in [*found.notes, ""])
    assert found.found.get("blend") in (None, "constant")


@pytest.mark.parametrize(("overlap", "found"), [([0.625] * 3, 0.625), ([0.5, 0.5, 0.25], None)])
def test_an_overlap_along_each_axis_is_one_where_it_is_the_same(
    tmp_path: Path, overlap: list[float], found: float | None
) -> None:
    inferer = {"_target_": "SlidingWindowInferer", "roi_size": 32, "overlap": overlap, "sigma_scale": [0.25] * 3}
    read = imports.inspect(edited(tmp_path / "b", inferer=inferer))
    assert read.found.get("overlap") == found
    assert any(note.startswith("overlap, sigma_scale or mode") for note in read.notes) == (found is None)


def test_what_an_inferer_pads_small_images_with_lies_beyond_the_image(tmp_path: Path) -> None:
    inferer = {"_target_": "SlidingWindowInferer", "roi_size": 32, "cval": -1.0}
    found = imports.inspect(edited(tmp_path / "b", inferer=inferer))
    assert found.found["intensity"][-1] == {"step": "outside", "value": -1.0}


@pytest.mark.parametrize(("mode", "padding", "noted"), [("replicate", "edge", False), ("reflect", None, True)])
def test_an_inferer_that_repeats_the_edge_of_a_small_image_is_understood(
    tmp_path: Path, mode: str, padding: str | None, noted: bool
) -> None:
    inferer = {"_target_": "SlidingWindowInferer", "roi_size": 32, "padding_mode": mode}
    found = imports.inspect(edited(tmp_path / "b", inferer=inferer))
    assert found.found.get("padding") == padding
    assert any(f"padding by {mode}" in sentence for sentence in found.notes) == noted


def test_a_network_that_the_bundle_shows_whole_images_sees_them_here_too(tmp_path: Path) -> None:
    made = library.read_card(
        imports.adopt(edited(tmp_path / "b", inferer={"_target_": "SimpleInferer"}), to=tmp_path, name="m")
    )
    assert made.window.whole
    assert made.window.size == (4, 4, 4)  # two strides of 2
    scan = Volume(np.zeros((1, 21, 30, 33), np.float32), Grid((21, 30, 33), np.diag([2.0, 1.5, 1.5, 1.0])))
    engine = open_engine(made, device="cpu").engine
    assert segment(scan, made.procedure, engine).windows == 1
    small = Volume(np.zeros((1, 3, 4, 4), np.float32), Grid((3, 4, 4), np.diag([2.0, 1.5, 1.5, 1.0])))
    assert segment(small, made.procedure, engine).windows == 1  # the norm at the deepest level has two voxels


def test_the_sides_of_a_whole_image_are_no_longer_than_the_strides_ask_for(tmp_path: Path) -> None:
    net = {"_target_": "UNet", "spatial_dims": 3, "in_channels": 1, "out_channels": 2}
    net |= {"channels": [4, 8, 8, 8], "strides": [2, 2, 2], "num_res_units": 1}
    folder = edited(tmp_path / "b", inferer={"_target_": "SimpleInferer"}, network_def=net)
    table = registry.build("monai_unet", {k: v for k, v in net.items() if k != "_target_"}).state_dict()
    torch.save(table, folder / "models" / "model.pt")
    made = library.read_card(imports.adopt(folder, to=tmp_path, name="m"))
    assert made.window.size == (8, 8, 8)  # although an image of 8 x 8 x 8 alone would be too small for its norm


def of_deepedit(folder: Path, **resize: Any) -> Path:
    """A bundle that resizes every scan and has two channels of clicks behind the image."""
    sizes = {"spatial_dims": 3, "in_channels": 3, "out_channels": 2, "channels": [4, 8], "strides": [2]}
    torch.manual_seed(0)
    net = registry.build("monai_unet", sizes)
    own = json.loads((BUNDLE / "configs" / "inference.json").read_text())
    kept = [item for item in own["preprocessing"]["transforms"] if "Spacing" not in item["_target_"]]
    clicks = [
        {"_target_": "scripts.transforms.OrientationGuidanceMultipleLabelDeepEditd", "ref_image": "image"},
        {"_target_": "AddGuidanceFromPointsDeepEditd", "ref_image": "image"},
        {"_target_": "Resized", "keys": "image", "spatial_size": [16, 20, 24], "mode": "area", **resize},
        {"_target_": "ResizeGuidanceMultipleLabelDeepEditd", "ref_image": "image"},
        {"_target_": "AddGuidanceSignalDeepEditd", "keys": "image", "number_intensity_ch": "@one"},
    ]
    edited(
        folder,
        network_def={"_target_": "UNet", **sizes, "in_channels": "$len(@names) + @one"},
        network="$@network_def.to(@device)",
        names={"spleen": 1, "background": 0},
        one=1,
        first=kept,
        then=clicks,
        preprocessing={"_target_": "Compose", "transforms": "$@first + @then"},
        inferer={"_target_": "SimpleInferer"},
        postprocessing={"_target_": "Compose", "transforms": [*SOFTMAX, {**INVERT, "nearest_interp": False}, *ARGMAX]},
    )
    torch.save(net.state_dict(), folder / "models" / "model.pt")
    return folder


def test_a_bundle_of_clicks_labels_a_resized_scan_without_any(tmp_path: Path) -> None:
    made = library.read_card(imports.adopt(of_deepedit(tmp_path / "b"), to=tmp_path, name="m"))
    assert (made.grid.shape, made.grid.spacing, made.window.size) == ((16, 20, 24), None, (16, 20, 24))
    assert (made.interpolation.how, made.blank, made.inputs, len(made.channels)) == ("area", 2, 3, 1)
    assert (made.decide.back, made.faithful) == ("probabilities", "area")
    assert "channels of a person's clicks are 0" in made.document["notes"]


def test_means_of_areas_come_back_as_torchs_adaptive_pooling(tmp_path: Path) -> None:
    made = library.read_card(imports.adopt(of_deepedit(tmp_path / "b"), to=tmp_path, name="m"))
    scan = Volume(
        np.random.default_rng(0).normal(0, 200, (1, 21, 17, 33)).astype(np.float32),
        Grid((21, 17, 33), np.array([[0, 0, 1.1, 0], [0, 1.5, 0, 0], [2.0, 0, 0, 0], [0, 0, 0, 1]])),
    )
    procedure = replace(made.procedure, decide=replace(made.decide, back="area"))
    found = segment(scan, procedure, open_engine(made, engine="torch", device="cpu").engine).labels
    image = prepare(scan, procedure).image
    with torch.inference_mode():
        logits = weights.network_of(made)(torch.as_tensor(image.data)[None])
    ras = turned(scan.grid, "RAS")
    back = torch.nn.functional.adaptive_avg_pool3d(logits.softmax(1), ras.shape).argmax(1)
    expected = onto(Volume(back.numpy().astype(np.uint8), ras), scan.grid, Interpolation("nearest")).data
    assert 0.02 < (expected > 0).mean() < 0.98
    assert (found.data == expected).mean() > 0.9999


@pytest.mark.parametrize("resize", [{"mode": "nearest"}, {"size_mode": "longest"}, {"spatial_size": [16, -1, 16]}])
def test_a_resize_that_segcli_has_not_is_named(tmp_path: Path, resize: dict[str, Any]) -> None:
    found = imports.inspect(of_deepedit(tmp_path / "b", **resize))
    assert "the transform Resize is not one that segcli has, or not with these options" in found.notes


SOFTMAX: list[dict[str, Any]] = [{"_target_": "Activationsd", "softmax": True}]
ARGMAX: list[dict[str, Any]] = [{"_target_": "AsDiscreted", "keys": ["pred", "label"], "argmax": [True, False]}]
SIGMOID: list[dict[str, Any]] = [
    {"_target_": "Activationsd", "sigmoid": True},
    {"_target_": "AsDiscreted", "threshold": 0.5},
]
INVERT = {"_target_": "Invertd", "transform": "@preprocessing", "nearest_interp": True}
LARGEST = {"_target_": "KeepLargestConnectedComponentd", "applied_labels": [1]}


@pytest.mark.parametrize(
    ("order", "nearest", "faithful", "back", "after"),
    [
        ([0, 1, 2, 3], True, "nearest", "logits", "model"),
        ([0, 1, 2, 3], False, "values", "logits", "model"),
        ([0, 3, 1, 2], True, None, "probabilities", "scan"),
        ([3, 1], True, None, "logits", ""),
    ],
)
def test_the_way_back_is_the_bundles_where_it_is_asked_for_in_the_order_of_its_transforms(
    tmp_path: Path, order: list[int], nearest: bool, faithful: str | None, back: str, after: str
) -> None:
    steps = [*SOFTMAX, *ARGMAX, LARGEST, {**INVERT, "nearest_interp": nearest}]
    made = library.read_card(
        imports.adopt(edited(tmp_path / "b", postprocessing=[steps[i] for i in order]), to=tmp_path, name="m")
    )
    assert (made.faithful, made.decide.back) == (faithful, back)
    assert (made.after_at if made.after else "") == after


def test_outputs_of_0_and_1_that_the_bundle_interpolates_have_no_faithful_way_back(tmp_path: Path) -> None:
    found = imports.inspect(edited(tmp_path / "b", postprocessing=[*SIGMOID, {**INVERT, "nearest_interp": False}]))
    assert "faithful" not in found.found
    assert "the bundle interpolates outputs of 0 and 1 on their way back; segcli brings logits back" in found.notes


def test_what_the_bundle_does_after_the_network_and_segcli_does_not_is_named(tmp_path: Path) -> None:
    steps = [{"_target_": "AsDiscreted", "threshold": 0.3}, {"_target_": "KeepLargestConnectedComponentd"}]
    notes = imports.inspect(edited(tmp_path / "b", postprocessing=steps)).notes
    assert "the bundle's threshold is 0.3; segcli's is 0.5" in notes
    assert "the bundle's KeepLargestConnectedComponent after the network is left out" in notes


@pytest.mark.parametrize(("connectivity", "neighbours"), [(None, 26), (1, 6), (3, 26)])
def test_holes_are_filled_and_labels_get_other_values_as_in_the_bundle(
    tmp_path: Path, connectivity: int | None, neighbours: int
) -> None:
    fill = {"_target_": "FillHolesd", "applied_labels": [1], "connectivity": connectivity}
    to_seven = {"_target_": "MapLabelValued", "orig_labels": [0, 1], "target_labels": [0, 7]}
    steps = [*SOFTMAX, *ARGMAX, fill, LARGEST, to_seven]
    bundle = edited(tmp_path / "b", postprocessing=steps)
    made = library.read_card(imports.adopt(bundle, to=tmp_path, name="m"))
    assert [(label.id, label.name) for label in made.labels] == [(0, "background"), (7, "spleen")]
    holes, largest = made.after
    assert holes == FillStep(structures=("spleen",), others=True, neighbours=neighbours)
    assert isinstance(largest, LargestStep)
    assert largest.structures == ("spleen",)
    assert largest.equal == "last"  # of equally large pieces MONAI keeps one
    assert not [note for note in imports.inspect(bundle).notes if "left out" in note]
    for name, wrong in (("joined", {"target_labels": [0, 0]}), ("twice", {"orig_labels": [0, 0]})):
        other = edited(tmp_path / name, postprocessing=[*ARGMAX, {**to_seven, **wrong}])
        assert "the bundle's MapLabelValue after the network is left out" in imports.inspect(other).notes


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"threshold": [0.5, None]}, None),
        ({"threshold": True}, None),
        ({"threshold_values": True, "logit_thresh": 0.3}, 0.3),
        ({"threshold": [0.4, None]}, 0.4),
    ],
)
def test_a_threshold_that_is_not_one_half_is_told(tmp_path: Path, options: dict[str, Any], told: float | None) -> None:
    steps = [*SIGMOID, {"_target_": "AsDiscreted", "keys": ["pred", "label"], **options}]
    notes = imports.inspect(edited(tmp_path / "b", postprocessing=steps)).notes
    assert [note for note in notes if "threshold" in note] == [f"the bundle's threshold is {told}; segcli's is 0.5"] * (
        told is not None
    )


def test_outputs_that_a_threshold_alone_makes_labels_of_are_asked_for(tmp_path: Path) -> None:
    """They overlap, and whether they are probabilities is not told: the largest one is a guess."""
    found = imports.inspect(edited(tmp_path / "b", postprocessing=[{"_target_": "AsDiscreted", "threshold": 0.5}]))
    assert list(found.missing) == ["labels"]


def called(folder: Path, names: list[str], after: list[dict[str, Any]]) -> Path:
    """The bundle, which has two outputs, with other names for them and other steps after the network."""
    path = edited(folder, postprocessing=after) / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["network_data_format"]["outputs"]["pred"]["channel_def"] = dict(enumerate(names))
    path.write_text(json.dumps(metadata))
    return folder


@pytest.mark.parametrize(
    ("names", "after", "labels", "regions"),
    [
        (["bg", "Spleen"], SOFTMAX, {"bg": 0, "spleen": 1}, None),
        (["bg", "Spleen"], ARGMAX, {"bg": 0, "spleen": 1}, None),
        (["Spleen"], SOFTMAX, {"background": 0, "spleen": 1}, None),
        (["background", "Spleen"], [], {"background": 0, "spleen": 1}, None),
        (["Liver", "Spleen"], SIGMOID, {"background": 0, "liver": 1, "spleen": 2}, [1, 2]),
        (["background", "Spleen"], SIGMOID, {"background": 0, "spleen": 1}, [0, 1]),
    ],
)
def test_labels_follow_from_what_is_done_with_the_outputs(
    tmp_path: Path, names: list[str], after: list[dict[str, Any]], labels: dict[str, int], regions: list[int] | None
) -> None:
    folder = called(tmp_path / "b", names, after)
    found = imports.inspect(folder).found
    assert (found["labels"], found.get("regions")) == (labels, regions)
    assert len(library.read_card(imports.adopt(folder, to=tmp_path, name="m")).decide.values) == 2


def test_whether_the_first_output_is_the_background_is_not_guessed(tmp_path: Path) -> None:
    found = imports.inspect(called(tmp_path / "b", ["bg", "Spleen"], []))
    assert list(found.missing) == ["labels"]
    assert "neither softmax, argmax nor sigmoid tells whether the first output is the background" in found.notes


def test_outputs_that_are_not_as_many_as_their_names_are_refused(tmp_path: Path) -> None:
    folder = called(tmp_path / "b", ["liver", "spleen", "pancreas"], SIGMOID)
    with pytest.raises(ModelError, match=r"the network has 2 outputs, not 4 \(background, liver, spleen, pancreas\)"):
        imports.adopt(folder, to=tmp_path, name="m")


@pytest.mark.parametrize("names", [["background", "liver", "spleen"], ["background"]])
def test_where_the_largest_output_wins_each_has_a_name(tmp_path: Path, names: list[str]) -> None:
    folder = called(tmp_path / "b", names, SOFTMAX)
    with pytest.raises(ModelError, match=f"the bundle names {len(names)} outputs, and its network has 2"):
        imports.adopt(folder, to=tmp_path, name="m")


TUMOUR = "$lambda x: torch.where(x[[2]] > 0, 4, torch.where(x[[0]] > 0, 1, torch.where(x[[1]] > 0, 2, 0)))"


def of_tumours(
    folder: Path, func: str, names: tuple[str, ...] = ("TC", "WT", "ET"), kind: str = "Lambdad"
) -> tuple[Path, torch.nn.Module]:
    """A bundle with a SegResNet of three outputs through a sigmoid, of which a Lambda makes labels; its network."""
    sizes = {"init_filters": 8, "in_channels": 1, "out_channels": 3, "blocks_down": [1, 1], "blocks_up": [1]}
    torch.manual_seed(0)
    net = registry.build("segresnet", sizes)
    called(folder, list(names), [*SIGMOID, {"_target_": kind, "keys": "pred", "func": func}])
    path = folder / "configs" / "inference.json"
    network = {"_target_": "SegResNet", **sizes}
    path.write_text(json.dumps({**json.loads(path.read_text()), "network_def": network}))
    torch.save(net.state_dict(), folder / "models" / "model.pt")
    return folder, net


def test_regions_are_written_in_the_order_of_the_bundles_nested_where(tmp_path: Path) -> None:
    folder, net = of_tumours(tmp_path / "b", TUMOUR)
    made = library.read_card(imports.adopt(folder, to=tmp_path, name="m"))
    assert {label.name: label.id for label in made.labels} == {"background": 0, "wt": 2, "tc": 1, "et": 4}
    assert (made.decide.rule, made.decide.values) == ("regions", (2, 1, 4))
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.inference_mode():
        assert torch.allclose(weights.network_of(made)(x), net(x)[:, [1, 0, 2]], atol=1e-6)
    assert made.document["notes"].endswith("the order in which the bundle writes them: wt, tc, et")


def test_of_outputs_that_the_model_zoos_merging_puts_together_the_first_one_wins(tmp_path: Path) -> None:
    folder, net = of_tumours(tmp_path / "b", "", ("background", "vein", "cyst"), "scripts.my_transforms.MergeClassesd")
    made = library.read_card(imports.adopt(folder, to=tmp_path, name="m"))
    assert {label.name: label.id for label in made.labels} == {"background": 0, "vein": 1, "cyst": 2}
    assert (made.decide.rule, made.decide.values) == ("regions", (0, 2, 1))
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.inference_mode():
        assert torch.allclose(weights.network_of(made)(x), net(x)[:, [0, 2, 1]], atol=1e-6)
    assert "left out" not in made.document["notes"]


def test_a_merging_whose_first_output_is_a_structure_leaves_the_labels_to_the_user(tmp_path: Path) -> None:
    folder, _ = of_tumours(tmp_path / "b", "", ("artery", "vein", "cyst"), "scripts.my_transforms.MergeClassesd")
    found = imports.inspect(folder)
    assert list(found.missing) == ["labels"]
    assert any(note.endswith("by Python that was not evaluated (MergeClasses)") for note in found.notes)


@pytest.mark.parametrize(
    ("func", "names"),
    [
        ("$lambda x: merge(x)", ("TC", "WT", "ET")),
        ("$lambda x: torch.where(x[[2]] > 0, 4, torch.where(x[[0]] > 0, 1, 0))", ("TC", "WT", "ET")),
        (TUMOUR.replace(", 0)))", ", 3)))"), ("TC", "WT", "ET")),
        (TUMOUR, ("TC", "WT")),
        (TUMOUR, ("background", "WT", "ET")),
    ],
)
def test_a_merging_of_regions_that_is_not_understood_leaves_the_labels_to_the_user(
    tmp_path: Path, func: str, names: tuple[str, ...]
) -> None:
    folder, _ = of_tumours(tmp_path / "b", func, names)
    found = imports.inspect(folder)
    assert list(found.missing) == ["labels"]
    assert "the bundle makes labels of overlapping outputs by Python that was not evaluated (Lambda)" in found.notes
    given = imports.options(labels="background=0,tc=1,wt=2,et=4")
    assert library.read_card(imports.adopt(folder, to=tmp_path, name="m", given=given)).decide.values == (1, 2, 4)


def test_regions_of_a_network_whose_last_layer_is_not_known_are_not_put_in_another_order(tmp_path: Path) -> None:
    func = "$lambda x: torch.where(x[[0]] > 0, 1, torch.where(x[[1]] > 0, 2, 0))"
    after = [*SIGMOID, {"_target_": "Lambdad", "func": func}]
    assert list(imports.inspect(called(tmp_path / "b", ["TC", "WT"], after)).missing) == ["labels"]


def test_spacing_before_orientation_is_read_along_the_stored_axes(tmp_path: Path) -> None:
    preprocessing = json.loads((BUNDLE / "configs" / "inference.json").read_text())["preprocessing"]
    steps = preprocessing["transforms"]
    steps[2], steps[3] = steps[3], steps[2]
    folder = imports.adopt(edited(tmp_path / "b", preprocessing=preprocessing), to=tmp_path, name="m")
    assert library.read_card(folder).grid.anchor == "monai_stored"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("version", "legacy", "noted"),
    [("1.4.0", True, False), ("1.5.1", False, False), ("2.0", False, False), (None, True, True)],
)
def test_a_bundles_version_of_monai_says_how_a_swinunetr_merges_patches(
    tmp_path: Path, version: str | None, legacy: bool, noted: bool
) -> None:
    sizes = {"in_channels": 1, "out_channels": 2, "feature_size": 12, "num_heads": [1, 2, 2, 4]}
    inferer = {"_target_": "SlidingWindowInferer", "roi_size": 64}
    folder = edited(tmp_path / "b", network_def={"_target_": "SwinUNETR", **sizes}, inferer=inferer)
    torch.manual_seed(0)
    net = registry.build("swinunetr", {**sizes, "legacy_merging": legacy})
    torch.save(net.state_dict(), folder / "models" / "model.pt")
    path = folder / "configs" / "metadata.json"
    metadata = {k: v for k, v in json.loads(path.read_text()).items() if k != "monai_version"}
    path.write_text(json.dumps(metadata | ({"monai_version": version} if version else {})))
    told: list[str] = []
    made = library.read_card(imports.adopt(folder, to=tmp_path, name="m", tell=told.append))
    assert any("the order of patch merging" in note for note in told) == noted
    x = torch.randn(1, 1, 64, 64, 64)
    with torch.inference_mode():
        assert torch.equal(weights.network_of(made)(x), net(x))


def test_weights_of_another_network_than_the_configuration_names_are_refused(tmp_path: Path) -> None:
    network = json.loads((BUNDLE / "configs" / "inference.json").read_text())["network_def"]
    other = edited(tmp_path / "b", network_def={**network, "channels": [4, 8, 16]})
    with pytest.raises(ModelError, match="the weights are not those of the bundle's UNet"):
        imports.inspect(other)


def test_arguments_of_other_versions_of_monai_are_understood(tmp_path: Path) -> None:
    network = json.loads((BUNDLE / "configs" / "inference.json").read_text())["network_def"]
    network["dimensions"] = network.pop("spatial_dims")
    other = edited(tmp_path / "b", network_def={**network, "norm_name": "", "save_attn": True, "preprocess": None})
    assert imports.inspect(other).arguments == imports.inspect(BUNDLE).arguments


def test_a_network_that_is_stated_is_named_in_todays_terms_or_left_to_its_tensors() -> None:
    def told(**entries: Any) -> tuple[str, Any, list[str]]:
        notes: list[str] = []
        kind, named = bundle_network.network(References(entries), "1.3", notes, BUNDLE / "models")
        return kind, named and named.network.config, notes

    assert told() == ("", None, [])
    assert told(network="a text", net={"_target_": "SegResNet", "norm_name": "group", "in_channels": 1}) == (
        "SegResNet",
        {"in_channels": 1},
        [],
    )
    assert told(model={"_target_": "monai.networks.nets.UNETR", "pos_embed": "conv", "save_attn": True}) == (
        "UNETR",
        {"proj_type": "conv"},
        [],
    )
    kind, arguments, notes = told(network={"_target_": "UNet", "channels": [1], "act": {"name": "$open('a')"}})
    assert (kind, arguments) == ("UNet", None)
    assert notes == ["arguments of UNet are Python and were not evaluated: act"]


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
        ("$len(@list)", 2),
        ("$len(@list) + @a#b * 2 - 1", 7),
        ("$@list + ['z']", ["x", "y", "z"]),
        ("$'a' if @a#b > 2 and not @flag else @list[-1]", "y"),
        ("$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')", "cpu"),
        ("$monai.utils.CommonKeys.IMAGE", "image"),
        ("$@a.to(@nowhere)", {"b": 3}),
        ("$copy.deepcopy(@list)", ["x", "y"]),
        ("%a::b", 3),
        ("@through::b", 3),
        ("${'x': @a#b}", {"x": 3}),
        ("$@a['b']", 3),
        ("$@flag and @a#b", 3),
        ("$not @flag or 0", 0),
    ],
)
def test_references_are_followed_by_pattern(text: str, value: Any) -> None:
    config = {"a": {"b": "$3"}, "root": ".", "flag": True, "list": ["x", "y"], "through": "@a"}
    assert References(config).resolve(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "@nowhere",
        "@round",
        "$__import__('os')",
        "$@a.to(@b) + 1",
        "$@a + 'text'",
        "$@a.real",
        "$[i for i in [1]]",
        "$[0] * 10**9",
        "$'a' * 9",
        "$2 ** 9",
        "$9007199254740992 * 2",
        "$1 / 0",
        "$len(1)",
        "$int('" + "9" * 4500 + "')",
        "$" + "(" * 900 + "1" + ")" * 900,
        "$open('PWNED', 'w')",
        "$(lambda: 1)()",
        "$list.__class__",
        "$f'{1}'",
        "$(3)[0]",
        "$@a[0]",
    ],
)
def test_what_would_have_to_be_evaluated_stays_unknown(text: str) -> None:
    assert isinstance(References({"round": "@round", "a": 1}).resolve(text), Unknown)


def test_references_that_unfold_without_end_are_refused() -> None:
    config = {f"level{i}": [f"@level{i + 1}"] * 10 for i in range(9)} | {"level9": 1}
    with pytest.raises(ModelError, match="unfold to more than 100000 values: not allowed"):
        References(config).resolve("@level0")


def test_the_file_that_the_configuration_loads_is_taken_among_several(tmp_path: Path) -> None:
    handlers = [{"_target_": "CheckpointLoader", "load_path": "$@bundle_root + '/models/' + @modelname"}]
    folder = edited(tmp_path / "b", handlers=handlers, modelname="$'fine.pt' if @high else 'low.pt'", high=True)
    models = folder / "models"
    shutil.copy(models / "model.pt", models / "low.pt")
    (models / "model.pt").rename(models / "fine.pt")
    assert imports.inspect(folder).container == "MONAI bundle, fine.pt"
    (models / "fine.pt").rename(models / "other.pt")
    with pytest.raises(ModelError, match=r"models/ has no fine\.pt, only low\.pt, other\.pt"):
        imports.inspect(folder)


def test_one_of_several_configurations_is_chosen_by_its_name(tmp_path: Path) -> None:
    folder = edited(tmp_path / "b")
    config = json.loads((folder / "configs" / "inference.json").read_text())
    config["inferer"]["roi_size"] = [32, 32, 32]
    (folder / "configs" / "inference_large.json").write_text(json.dumps(config))
    usual = imports.inspect(folder)
    assert usual.found["patch_size"] == [16, 16, 16]
    assert "configs/inference.json is taken; there is also inference_large.json (--config)" in usual.notes
    for name in ("inference_large", "inference_large.json"):
        found = imports.inspect(folder, wanted=imports.WhichModel(config=name))
        assert found.found["patch_size"] == [32, 32, 32]
        assert not [note for note in found.notes if "--config" in note]
    for name in ("inference_small", "../inference_large"):
        with pytest.raises(ModelError, match="has no configs/"):
            imports.inspect(folder, wanted=imports.WhichModel(config=name))
    with pytest.raises(UsageError, match="--config chooses in a MONAI bundle"):
        imports.inspect(folder / "models" / "model.pt", wanted=imports.WhichModel(config="x"))


@pytest.mark.parametrize("place", ["label_def", "labels", "label_names"])
def test_names_of_labels_stand_in_one_of_three_places(tmp_path: Path, place: str) -> None:
    named = {"spleen": 1, "background": 0}
    folder = edited(tmp_path / "b", **({} if place == "label_def" else {place: named}))
    path = folder / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    output = next(iter(metadata["network_data_format"]["outputs"].values()))
    del output["channel_def"]
    if place == "label_def":
        output["label_def"] = {"0": "background", "1": "spleen"}
    path.write_text(json.dumps(metadata))
    assert imports.inspect(folder).found["labels"] == {"background": 0, "spleen": 1}


def test_a_refusal_names_the_class_of_the_network(tmp_path: Path) -> None:
    for definition in ({"_target_": "scripts.nets.OtherNet"}, "$monai.networks.nets.OtherNet(in_channels=1)"):
        folder = edited(tmp_path / "b", network_def=definition)
        torch.save({"odd.weight": torch.zeros(2, 3, 5), "odd.bias": torch.zeros(7)}, folder / "models" / "model.pt")
        with pytest.raises(ModelError, match=r"models/model\.pt \(OtherNet\): 2 tensors of no network"):
            imports.inspect(folder)
        shutil.rmtree(folder)


# ---- YAML -----------------------------------------------------------------------------------------------------------


def in_yaml(folder: Path, name: str, text: str | None = None) -> Path:
    """A copy of the bundle with one of its configurations, or `text`, as YAML."""
    if not folder.exists():
        shutil.copytree(BUNDLE, folder)
    path = folder / "configs" / f"{name}.json"
    path.with_suffix(".yaml").write_text(text or yaml.safe_dump(json.loads(path.read_text())))
    path.unlink()
    return folder


def test_a_bundle_in_yaml_gives_the_card_of_the_one_in_json(tmp_path: Path) -> None:
    folder = in_yaml(in_yaml(tmp_path / "b", "metadata"), "inference")
    assert not list((folder / "configs").glob("*.json"))
    one, other = (imports.adopt(b, to=tmp_path, name="m", replace=True) / "model.json" for b in (BUNDLE, folder))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.mkdir [PWNED]", "!!python/name:os.mkdir", "!Own 1"])
def test_yaml_with_a_tag_of_an_object_is_refused_and_leaves_no_trace(tmp_path: Path, tag: str) -> None:
    with pytest.raises(ModelError, match=r"inference.yaml: cannot be read as YAML: could not determine a constructor"):
        imports.inspect(in_yaml(tmp_path / "b", "inference", f"network_def: {tag}\n"))


def test_aliases_that_unfold_without_end_are_refused(tmp_path: Path) -> None:
    text = "a0: &a0 [1]\n" + "".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 10)}]\n" for i in range(9))
    with pytest.raises(ModelError, match="aliases unfold to more than 100000 values"):
        imports.inspect(in_yaml(tmp_path / "b", "inference", text))


def test_an_alias_of_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read as YAML"):
        imports.inspect(in_yaml(tmp_path / "b", "inference", "a: &a [*a]\n"))


def test_numbers_keys_and_switches_of_yaml_are_those_of_json(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("eps: 1e-5\nclip: yes\n0: first\nname: 1.5e\nday: 2024-02-01\nnone: ~\n")
    expected = {"eps": 1e-5, "clip": True, "0": "first", "name": "1.5e", "day": "2024-02-01", "none": None}
    assert merged([path]) == expected


# ---- several files --------------------------------------------------------------------------------------------------


def test_without_a_file_for_inference_evaluation_is_training_with_some_entries_changed(tmp_path: Path) -> None:
    folder = edited(tmp_path / "b")
    whole = json.loads((folder / "configs" / "inference.json").read_text())
    (folder / "configs" / "inference.json").unlink()
    train = {"network_def": whole["network_def"], "image_key": "image", "shared": whole["preprocessing"]["transforms"]}
    train["validate"] = {"preprocessing": {"_target_": "Compose", "transforms": "%shared"}, "inferer": {"roi_size": 8}}
    (folder / "configs" / "train.json").write_text(json.dumps(train))
    changed = {"validate#inferer": whole["inferer"], "validate::postprocessing": whole["postprocessing"]}
    (folder / "configs" / "evaluate.yaml").write_text(yaml.safe_dump(changed))
    assert imports.inspect(folder).found == imports.inspect(BUNDLE).found


def test_a_plus_adds_to_an_entry_of_the_file_before(tmp_path: Path) -> None:
    first, second = tmp_path / "a.json", tmp_path / "b.json"
    first.write_text(json.dumps({"list": [1], "table": {"a": 1, "b": 2}, "kept": 3}))
    second.write_text(json.dumps({"+list": [2], "+table": {"b": 5}, "+new": 4}))
    assert merged([first, second]) == {"list": [1, 2], "table": {"a": 1, "b": 5}, "kept": 3, "new": 4}


def test_a_later_file_reaches_into_objects_and_lists_and_nowhere_else(tmp_path: Path) -> None:
    first, second, third = (tmp_path / f"{name}.json" for name in "abc")
    first.write_text(json.dumps({"a": {"list": [{"b": 1}, 2]}}))
    second.write_text(json.dumps({"a#list#0#b": 3, "a::list::1": 4, "new#c": 5}))
    assert merged([first, second]) == {"a": {"list": [{"b": 3}, 4]}, "new": {"c": 5}}
    third.write_text(json.dumps({"a#list#7": 3}))
    with pytest.raises(ModelError, match=r"c\.json: a field is of an unexpected kind"):
        merged([first, third])


# ---- a network that a search found ----------------------------------------------------------------------------------


DINTS = registry.small_networks()["dints"].all_arguments | {"num_classes": 2}


def searched(folder: Path, codes: bool) -> Path:
    """A bundle of a small DiNTS, as the zoo's: the code of its architecture is in a file beside the weights."""
    space = {
        "_target_": "monai.networks.nets.TopologyInstance",
        "channel_mul": 0.25,
        "num_blocks": 2,
        "num_depths": 2,
        "use_downsample": True,
        "arch_code": ["$@arch_ckpt['arch_code_a']", "$@arch_ckpt['arch_code_c']"],
        "device": "$torch.device('cuda')",
    }
    network = {
        "_target_": "monai.networks.nets.DiNTS",
        "dints_space": "@dints_space",
        "in_channels": 1,
        "num_classes": 2,
        "use_downsample": True,
        "node_a": "$torch.from_numpy(@arch_ckpt['node_a'])",
    }
    change = {
        "arch_ckpt_path": "$@bundle_root + '/models/search_code_18590.pt'",
        "arch_ckpt": "$torch.load(@arch_ckpt_path, map_location=torch.device('cuda'))",
        "dints_space": space,
        "network_def": network,
    }
    made = edited(folder, **change)
    torch.manual_seed(0)
    torch.save(registry.build("dints", DINTS).state_dict(), made / "models" / "model.pt")
    if codes:
        opened, chosen = (np.array(code) for code in DINTS["arch_code"])
        held = {"arch_code_a": opened.astype(float), "arch_code_c": chosen, "node_a": np.array(DINTS["node_a"])}
        torch.save({**held, "iter_num": 18590}, made / "models" / "search_code_18590.pt")
    return made


def test_the_code_of_a_searched_network_comes_from_the_file_beside_its_weights(tmp_path: Path) -> None:
    made = library.read_card(imports.adopt(searched(tmp_path / "b", codes=True), to=tmp_path, name="m"))
    assert made.architecture.name == "dints"
    told = {key: made.architecture.arguments[key] for key in ("arch_code", "node_a", "channel_mul")}
    assert told == {key: DINTS[key] for key in told}
    assert dict(imports.inspect(tmp_path / "b").arguments)["in_channels"] == 1


def test_a_searched_network_without_its_code_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"models/search_code_18590\.pt is missing"):
        imports.inspect(searched(tmp_path / "b", codes=False))


def test_a_network_of_the_bundles_own_code_is_told_by_its_tensors(tmp_path: Path) -> None:
    sizes = {"img_size": 64, "feature_size": 4, "depths": [1, 1, 1], "num_heads": [1, 2, 4], "embed_dim": [32, 64, 128]}
    network = {"_target_": "scripts.networks.unest.UNesT", "in_channels": 1, "out_channels": 2}
    inferer = {"_target_": "SlidingWindowInferer", "roi_size": [64, 64, 64], "sw_batch_size": 4, "overlap": 0.5}
    folder = edited(tmp_path / "b", network_def=network, inferer=inferer)
    net = registry.build("unest", {"in_channels": 1, "out_channels": 2, **sizes})
    torch.save(net.state_dict(), folder / "models" / "model.pt")
    made = library.read_card(imports.adopt(folder, to=tmp_path, name="m"))
    told = dict(made.architecture.arguments)
    assert (made.architecture.name, told["img_size"], told["num_heads"]) == ("unest", [64, 64, 64], [1, 2, 4])


@pytest.mark.parametrize(
    ("act", "name"),
    [
        ("$torch.nn.GELU", "gelu"),
        ("torch.nn.SiLU", "swish"),
        ("$torch.nn.modules.activation.Mish", "mish"),
        ("$monai.networks.layers.Act.PRELU", "prelu"),
        (["$torch.nn.LeakyReLU", {"negative_slope": 0.1}], ["leakyrelu", {"negative_slope": 0.1}]),
        ("RELU", "RELU"),
    ],
)
def test_an_activation_that_is_given_as_a_class_is_called_by_its_name(tmp_path: Path, act: Any, name: Any) -> None:
    network = json.loads((BUNDLE / "configs" / "inference.json").read_text())["network_def"] | {"act": act}
    folder = edited(tmp_path / "b", network_def=network)
    if name == "prelu":
        assert imports.inspect(folder).arguments["act"] == name
        return
    sizes = {k: v for k, v in network.items() if k != "_target_"} | {"act": name}
    torch.save(registry.build("monai_unet", sizes).state_dict(), folder / "models" / "model.pt")
    assert imports.inspect(folder).arguments["act"] == name


@pytest.mark.parametrize(
    ("act", "words"),
    [
        ("$torch.nn.Softplus", "no activation is called 'softplus'; there are relu,"),
        (["$torch.nn.LeakyReLU", {"negative_slope": "x"}], "leakyrelu cannot have the options {'negative_slope': 'x'}"),
        (["$torch.nn.GELU", {"approximate": "nope"}], "gelu cannot have the options {'approximate': 'nope'}"),
        (["$torch.nn.ELU", {"slope": 1}], "elu cannot have the options {'slope': 1}"),
        (["$torch.nn.ELU", {"alpha": 1e400}], "has the number inf"),
        (["$torch.nn.ELU", 1], r"\['elu', 1\] is neither a name nor a name with its options"),
        ({"_target_": "torch.nn.GELU"}, "is neither a name nor a name with its options"),
        ([], r"\[\] is neither a name nor a name with its options"),
        (5, "5 is neither a name nor a name with its options"),
    ],
)
def test_an_activation_that_is_none_is_refused(tmp_path: Path, act: Any, words: str) -> None:
    network = json.loads((BUNDLE / "configs" / "inference.json").read_text())["network_def"]
    folder = edited(tmp_path / "b", network_def=network | {"act": act})
    sizes = {k: v for k, v in network.items() if k != "_target_"} | {"act": "relu"}
    torch.save(registry.build("monai_unet", sizes).state_dict(), folder / "models" / "model.pt")
    with pytest.raises(ModelError, match=words):
        imports.adopt(folder, to=tmp_path, name="m")


def test_an_activation_of_a_bundles_own_code_is_not_guessed(tmp_path: Path) -> None:
    network = json.loads((BUNDLE / "configs" / "inference.json").read_text())["network_def"] | {"act": "$own.Act()"}
    assert any(
        "are Python and were not evaluated: act" in n
        for n in imports.inspect(edited(tmp_path / "b", network_def=network)).notes
    )


def test_a_unetr_of_slices_has_the_windows_of_its_tensors(tmp_path: Path) -> None:
    sizes = {"in_channels": 1, "out_channels": 2, "img_size": [32, 48], "feature_size": 4, "hidden_size": 24}
    network = {"_target_": "UNETR", **sizes, "mlp_dim": 24, "num_heads": 2, "spatial_dims": 2}
    inferer = {"_target_": "monai.inferers.SliceInferer", "roi_size": [32, 48], "spatial_dim": 2, "overlap": 0.25}
    folder = edited(tmp_path / "b", network_def=network, inferer=inferer)
    own = {k: v for k, v in network.items() if k != "_target_"}
    torch.save(registry.build("unetr_monai", own).state_dict(), folder / "models" / "model.pt")
    made = library.read_card(imports.adopt(folder, to=tmp_path, name="m"))
    assert (made.slice_axis, made.window.size) == (2, (32, 48, 1))
    scan = Volume(np.random.default_rng(0).normal(size=(1, 40, 50, 3)).astype(np.float32), Grid((40, 50, 3), np.eye(4)))
    labels = segment(scan, made.procedure, open_engine(made, engine="torch", device="cpu").engine).labels
    assert labels.data.shape == (1, 40, 50, 3)
