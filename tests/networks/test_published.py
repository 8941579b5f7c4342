"""UNETR++, DeformUX-Net, UNet 3+, nnU-Net's networks and nnFormer give the answers of their official code.

SEGCLI_SHARED, the folder that has all golden files, adds those that are too large or slow for every day.
"""

import json
from pathlib import Path

import pytest
import torch
from golden import SHARED, Exported, agree, export, files, key_lists, listed, name

from segcli.networks.registry import Inferred, build, differences, infer

PATTERNS = ("unetrpp_*", "deformuxnet_*", "unet3plus_*", "nnunet_*", "nnformer_*")
HERE = [path for pattern in PATTERNS for path in files(pattern)]
ALL = [path for pattern in PATTERNS for path in files(pattern, SHARED)]
LISTS = [path for pattern in PATTERNS for path in (*key_lists(pattern), *key_lists(pattern, SHARED))]
EXPORTED = ("unetrpp_lung_a", "unet3plus_cgm_a", "nnunet_resenc_a", "nnformer_acdc_a")


@pytest.mark.parametrize("path", HERE, ids=name)
def test_a_network_answers_as_its_official_code(path: Path) -> None:
    agree(path)


@pytest.mark.parametrize("path", ALL, ids=name)
def test_every_shared_golden_file_is_answered_as_its_official_code_does(path: Path) -> None:
    agree(path)


@pytest.mark.skipif(SHARED is None, reason="SEGCLI_SHARED names no folder of golden files")
def test_the_shared_folder_has_golden_files_of_every_pattern() -> None:
    assert all(files(pattern, SHARED) and key_lists(pattern, SHARED) for pattern in PATTERNS)


@pytest.mark.parametrize("path", LISTS, ids=name)
def test_the_tensors_of_a_published_checkpoint_fit(path: Path) -> None:
    config = json.loads(path.read_text(encoding="utf-8"))["config"]
    assert differences(Inferred(path.stem, config), listed(path)) == {}


@pytest.mark.parametrize("path", LISTS, ids=name)
def test_the_published_number_of_parameters_is_met(path: Path) -> None:
    published = json.loads(path.read_text(encoding="utf-8"))
    with torch.device("meta"):
        net = build(path.stem, published["config"])
    assert sum(parameter.numel() for parameter in net.parameters()) == published["parameters"]


@pytest.mark.parametrize("path", LISTS, ids=name)
def test_a_published_checkpoint_is_recognised_by_its_tensors(path: Path) -> None:
    (guess,) = infer(listed(path))
    for argument, value in json.loads(path.read_text(encoding="utf-8"))["config"].items():
        if argument == "window_size":  # one number and three equal ones are the same cube
            value = [[size] * 3 if isinstance(size, int) else size for size in value]
        if argument in guess.config:
            assert guess.config[argument] == value, argument


@pytest.fixture(scope="module", params=[path for path in HERE if path.stem in EXPORTED], ids=name)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export(request.param, tmp_path_factory.mktemp("onnx") / "model.onnx")


@pytest.mark.slow
def test_onnx_runtime_answers_alike_for_any_batch(exported: Exported) -> None:
    exported.in_onnx_runtime()


@pytest.mark.slow
def test_openvino_answers_alike_window_by_window(exported: Exported) -> None:
    exported.in_openvino()
