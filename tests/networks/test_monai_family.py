"""UX-Net, UNETR, SwinUNETR, SegResNet and MONAI's U-Nets give the answers of their official code.

SEGCLI_SHARED, the folder that has all golden files, adds those that are too large or slow for every day.
"""

import json
from pathlib import Path

import pytest
from golden import SHARED, Exported, agree, export, files, key_lists, listed, name

from segcli.networks.registry import Inferred, differences, infer

PATTERNS = (
    "uxnet3d_*",
    "unetr_*",
    "swinunetr_*",
    "segresnet*",
    "monai_*",
    "dynunet_*",
    "unetpp_*",
    "basicunetplusplus_*",
    "unet_spleen_bundle",
)
HERE = [path for pattern in PATTERNS for path in files(pattern)]
ALL = [path for pattern in PATTERNS for path in files(pattern, SHARED)]
EXPORTED = (
    "uxnet3d_b",
    "unetr_monai_c",
    "unetr_tamasino_upstream_a",
    "swinunetr_new_merging",
    "segresnet_b",
    "monai_unet_res2",
    "dynunet_basic",
    "monai_basicunet",
    "unetpp_monai_a",
)
LISTS = [path for pattern in PATTERNS for path in key_lists(pattern)]
ALL_LISTS = [path for pattern in PATTERNS for path in key_lists(pattern, SHARED)]


@pytest.mark.parametrize("path", HERE, ids=name)
def test_a_network_answers_as_its_official_code(path: Path) -> None:
    agree(path)


@pytest.mark.parametrize("path", ALL, ids=name)
def test_every_shared_golden_file_is_answered_as_its_official_code_does(path: Path) -> None:
    agree(path)


def configured(path: Path) -> dict[str, object]:
    config = json.loads(path.read_text(encoding="utf-8"))["config"]
    # Lists of older checkpoints name arguments as their MONAI did.
    return {"proj_type" if key == "pos_embed" else key: value for key, value in config.items()}


@pytest.mark.parametrize("path", [*LISTS, *ALL_LISTS], ids=name)
def test_the_tensors_of_a_published_checkpoint_fit(path: Path) -> None:
    assert differences(Inferred(path.stem, configured(path)), listed(path)) == {}


def short(value: object) -> object:
    """One number for a list of equal ones: [3, 3, 3] and 3 are the same kernel."""
    if not isinstance(value, list):
        return value
    inner = [short(item) for item in value]
    return inner[0] if all(item == inner[0] for item in inner) else inner


@pytest.mark.parametrize("path", [*LISTS, *ALL_LISTS], ids=name)
def test_a_published_checkpoint_is_recognised_by_its_tensors(path: Path) -> None:
    (guess,) = infer(listed(path))
    for argument, value in configured(path).items():
        if argument in guess.config:
            assert short(guess.config[argument]) == short(value), argument


@pytest.mark.skipif(SHARED is None, reason="SEGCLI_SHARED names no folder of golden files")
def test_the_shared_folder_has_golden_files_of_every_pattern() -> None:
    assert all(files(pattern, SHARED) or key_lists(pattern, SHARED) for pattern in PATTERNS)


@pytest.fixture(scope="module", params=[path for path in HERE if path.stem in EXPORTED], ids=name)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export(request.param, tmp_path_factory.mktemp("onnx") / "model.onnx")


@pytest.mark.slow
def test_onnx_runtime_answers_alike_for_any_batch(exported: Exported) -> None:
    exported.in_onnx_runtime()


@pytest.mark.slow
def test_openvino_answers_alike_window_by_window(exported: Exported) -> None:
    exported.in_openvino()
