"""The deformable convolution and 3D DeformUX-Net beyond its golden files."""

import warnings
from pathlib import Path

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from golden import SHARED, files
from safetensors.torch import load_file

from segcli.errors import ModelError
from segcli.networks.deform_uxnet import BRANCHES, DeformConv, deform_conv3d, flat_offsets
from segcli.networks.registry import build, infer

OPERATORS = [*files("op_ddc3d_*"), *files("op_ddc3d_*", SHARED)]
SMALL = {"depths": [1, 1, 2, 1], "feat_size": [4, 6, 8, 10], "hidden_size": 12, "in_chans": 2}


@pytest.mark.parametrize("path", OPERATORS, ids=lambda path: path.stem)
def test_the_operator_answers_as_the_official_kernel(path: Path) -> None:
    stored = load_file(path)
    offset = stored["offset"]
    if "flat" in path.stem:
        offset = flat_offsets(offset, stored["input"].shape[2:], whole_batch=True)
    ours = deform_conv3d(stored["input"], offset, stored["weight"], stored["bias"])
    assert ours.allclose(stored["output"], rtol=0, atol=1e-5)


def random(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(sum(shape))) * 2 - 1


def test_without_offsets_it_is_a_depth_wise_convolution() -> None:
    x, weight, bias = random(2, 3, 4, 5, 6), random(3, 1, 3, 3, 3), random(3)
    ours = deform_conv3d(x, torch.zeros(2, 81, 4, 5, 6), weight, bias)
    assert ours.allclose(F.conv3d(x, weight, bias, padding=1, groups=3), atol=1e-5)


def test_axes_of_one_voxel_are_interpolated_like_others() -> None:
    x = torch.tensor([2.0, 4.0]).reshape(1, 1, 1, 1, 2)
    weight = torch.zeros(1, 1, 3, 3, 3)
    weight[0, 0, 1, 1, 1] = 1
    offset = torch.zeros(1, 81, 1, 1, 2)
    offset[:, 39] = 0.25  # the middle tap, a quarter of a voxel along the first axis: a quarter is outside
    offset[:, 41] = 0.5  # and half a voxel along the last
    ours = deform_conv3d(x, offset, weight, torch.zeros(1))
    assert ours.flatten().tolist() == pytest.approx([0.75 * 3, 0.75 * 2])


def test_positions_far_outside_are_zero() -> None:
    x, weight = random(1, 2, 3, 3, 3), random(2, 1, 3, 3, 3)
    ours = deform_conv3d(x, torch.full((1, 81, 3, 3, 3), 1e6), weight, torch.tensor([1.0, 2.0]))
    assert ours.flatten(2).unique(dim=2).flatten().tolist() == [1.0, 2.0]


def test_flat_offsets_are_read_item_by_item() -> None:
    larger = torch.arange(2 * 3 * 27.0).reshape(2, 3, 3, 3, 3)
    read = flat_offsets(larger, (1, 1, 2))
    assert read.reshape(2, 6).tolist() == [[0, 1, 2, 3, 4, 5], [81, 82, 83, 84, 85, 86]]


def test_flat_offsets_of_a_whole_batch_are_read_through() -> None:
    larger = torch.arange(2 * 3 * 27.0).reshape(2, 3, 3, 3, 3)
    read = flat_offsets(larger, (1, 1, 2), whole_batch=True)
    assert read.flatten().tolist() == list(range(12))


def moving(branch: str) -> DeformConv:
    layer = DeformConv(2, 3, branch)
    torch.nn.init.constant_(layer.conv_offset.weight, 0.3)
    return layer.eval()


def test_an_item_of_a_batch_is_answered_as_it_is_alone() -> None:
    layer, x = moving("conv1x1x1_pad1_flat"), random(3, 2, 4, 4, 5)
    with torch.inference_mode():
        assert layer(x)[1:2].allclose(layer(x[1:2]), atol=1e-6)


def test_the_official_batch_mixes_items() -> None:
    layer, x = moving("conv1x1x1_pad1_flat_batch"), random(3, 2, 4, 4, 5)
    with torch.inference_mode():
        assert not layer(x)[1:2].allclose(layer(x[1:2]), atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("branch", BRANCHES)
def test_an_exported_operator_gathers_to_the_same_answer(branch: str, tmp_path: Path) -> None:
    layer, x = moving(branch), random(2, 2, 4, 3, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter warns of itself
        torch.onnx.export(
            layer,
            (x[:1],),
            tmp_path / "model.onnx",
            dynamo=False,
            opset_version=17,
            input_names=["x"],
            dynamic_axes={"x": {0: "N"}},
        )
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"x": x.numpy()})
    with torch.inference_mode():
        assert torch.from_numpy(answer).allclose(layer(x), atol=1e-5)


def shapes(config: dict) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in build("deformuxnet", config).state_dict().items()}


@pytest.mark.parametrize(
    "changed",
    [
        {"offset_branch": "conv3x3x3_pad1"},
        {"offset_branch": "conv1x1x1_pad1_flat", "pointwise": "dense"},
        {"out_chans": 3, "deform_kernel": 5},
    ],
    ids=str,
)
def test_sizes_are_read_from_the_tensors(changed: dict) -> None:
    (guess,) = infer(shapes(SMALL | changed))
    assert guess.config | SMALL | changed == guess.config


def test_a_small_offset_branch_is_unsure_of_its_padding() -> None:
    (guess,) = infer(shapes(SMALL | {"offset_branch": "conv1x1x1"}))
    assert list(guess.unsure) == ["offset_branch"]


def test_an_unknown_offset_branch_is_refused() -> None:
    with pytest.raises(ModelError, match="conv1x1x1_pad1_flat, "):
        build("deformuxnet", {"offset_branch": "conv5"})
