"""SegResNet and SegResNetDS beyond their golden files."""

import pytest
import torch

from segcli.errors import ModelError
from segcli.models.imports.recognise import recognised
from segcli.networks.blocks import PixelShuffle
from segcli.networks.registry import build, infer, live

PLAIN = {
    "spatial_dims": 3,
    "init_filters": 8,
    "in_channels": 2,
    "out_channels": 3,
    "norm": ["GROUP", {"num_groups": 8}],
    "blocks_down": [1, 3, 2],
    "blocks_up": [2, 1],
    "upsample_mode": "nontrainable",
}
DS = PLAIN | {"norm": "batch", "dsdepth": 2, "upsample_mode": "deconv"}


def shapes(family: str, config: dict) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in build(family, config).state_dict().items()}


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"upsample_mode": "deconv", "norm": "batch"},
        {"upsample_mode": "pixelshuffle", "spatial_dims": 2, "norm": "instance"},
        {"init_filters": 6, "norm": ["instance", {"affine": True}]},
        {"act": "PRELU"},
    ],
    ids=str,
)
def test_sizes_of_a_segresnet_are_read_from_its_tensors(changed: dict) -> None:
    (guess,) = infer(shapes("segresnet", PLAIN | changed))
    assert (guess.family, guess.config) == ("segresnet", PLAIN | changed)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"dsdepth": 1, "upsample_mode": "nontrainable"},
        {"upsample_mode": "pixelshuffle", "act": "PRELU"},
        {"blocks_down": [1, 1, 1, 1], "blocks_up": [1, 1, 1], "resolution": [1.0, 2.0, 4.0]},
        {"upsample_mode": "nontrainable", "resolution": [4.0, 1.0, 1.0]},
        {"norm": "instance"},
        {"norm": ["instance", {"affine": False}]},
    ],
    ids=str,
)
def test_sizes_of_a_segresnet_ds_are_read_from_its_tensors(changed: dict) -> None:
    (guess,) = infer(shapes("segresnetds", DS | changed))
    assert (guess.family, guess.config) == ("segresnetds", DS | changed)


def test_group_norm_is_named_as_a_guess() -> None:
    (guess,) = infer(shapes("segresnet", PLAIN))
    assert "groups of 8" in guess.unsure["norm"]


@pytest.mark.parametrize("name", ["INSTANCE", "INSTANCE_NVFUSER"])
def test_instance_norm_of_a_segresnet_ds_has_scales(name: str) -> None:
    assert shapes("segresnetds", DS | {"norm": name})["up_layers.0.blocks.0.norm1.weight"] == (16,)


def test_scales_of_a_segresnet_ds_are_instance_norm_unless_groups_are_stated() -> None:
    tensors = shapes("segresnetds", DS | {"norm": ["GROUP", {"num_groups": 8}]})
    (guess,) = infer(tensors)
    assert guess.config["norm"] == "instance"
    assert guess.unsure["norm"] == "the norm: instance norm with scales, not groups"
    stated = recognised(tensors, 'segresnetds {"norm": ["GROUP", {"num_groups": 8}]}', "a.pth")
    assert stated.config["norm"] == ["GROUP", {"num_groups": 8}]
    assert stated.unsure == {"act": "the activation: ReLU"}


def test_a_segresnet_ds_leaves_the_coarse_axis_alone_until_the_others_are_as_coarse() -> None:
    net = build("segresnetds", DS | {"blocks_down": [1, 1, 1], "resolution": [1.0, 1.5, 3.0]})
    down = [net.get_submodule(f"encoder.layers.{i}.downsample") for i in (0, 1)]
    # 3 mm is once twice 1 mm and 1.5 mm.
    assert [d.stride for d in down] == [(2, 2, 1), (2, 2, 2)]
    assert [d.kernel_size for d in down] == [(3, 3, 1), (3, 3, 3)]
    with torch.inference_mode():
        assert net(torch.zeros(1, 2, 8, 12, 6)).shape == (1, 3, 8, 12, 6)


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({"resolution": [1.0, 2.0]}, "resolution is 3 numbers above 0"),
        ({"resolution": [1.0, 1.0, 4.0], "upsample_mode": "pixelshuffle"}, "enlarges all axes alike"),
    ],
    ids=str,
)
def test_a_resolution_that_a_segresnet_ds_cannot_have_is_refused(stated: dict, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        build("segresnetds", DS | stated)


def test_slopes_of_prelu_have_their_official_names() -> None:
    plain = shapes("segresnet", PLAIN | {"act": "prelu"})
    assert {"down_layers.0.1.act.weight", "conv_final.1.weight"} <= plain.keys()
    assert live("segresnet", ["conv_final.1.weight", "act_mod.weight"]) == ["conv_final.1.weight"]
    deep = shapes("segresnetds", DS | {"act": "prelu"})
    assert {"up_layers.0.blocks.0.act1.weight", "up_layers.0.blocks.0.act2.weight"} <= deep.keys()


def test_pixel_shuffle_puts_channels_into_place_and_averages_each_with_its_neighbours_before() -> None:
    up = PixelShuffle(1, 1, dims=2)
    torch.nn.init.zeros_(up.conv_block.weight)
    up.conv_block.bias.data = torch.tensor([1.0, 2.0, 3.0, 4.0])
    # Sub-voxels [[1, 2], [3, 4]]; the mean of each with its neighbours before it, zero outside.
    assert up(torch.zeros(1, 1, 1, 1))[0, 0].tolist() == [[0.25, 0.75], [1.0, 2.5]]


def test_group_norm_may_be_stated_as_old_versions_of_monai_did() -> None:
    old = build("segresnet", PLAIN | {"norm": "batch", "norm_name": "GROUP", "num_groups": 4})
    assert old.get_submodule("conv_final.0").num_groups == 4
    assert shapes("segresnet", PLAIN | {"norm_name": "", "num_groups": 4}) == shapes("segresnet", PLAIN)
    with pytest.raises(ModelError, match="norm_name is 'group' or empty, not 'batch'"):
        build("segresnet", {"norm_name": "batch"})


def test_a_network_without_its_last_convolution_is_refused() -> None:
    with pytest.raises(ModelError, match="features, not logits"):
        build("segresnet", {"use_conv_final": False})


def test_levels_down_and_up_must_fit() -> None:
    with pytest.raises(ModelError, match="blocks_up needs 2 numbers, not 3"):
        build("segresnet", {"blocks_down": [1, 1, 1]})
