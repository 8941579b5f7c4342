"""nnU-Net's networks beyond their golden files."""

import pytest
import torch

from segcli.errors import ModelError
from segcli.networks.registry import build, infer, live

PLAIN = {
    "input_channels": 2,
    "n_stages": 3,
    "features_per_stage": [4, 6, 8],
    "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
    "n_conv_per_stage": [2, 1, 3],
    "num_classes": 5,
    "n_conv_per_stage_decoder": [1, 2],
}
RESIDUAL = {key: value for key, value in PLAIN.items() if key != "n_conv_per_stage"} | {"n_blocks_per_stage": [1, 3, 2]}
FLAT = {
    "kernel_sizes": [[3, 3], [3, 3], [3, 3]],
    "strides": [[1, 1], [2, 2], [2, 1]],
    "conv_op": "torch.nn.Conv2d",
    "norm_op": "torch.nn.InstanceNorm2d",
}


def shapes(family: str, config: dict) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in build(family, config).state_dict().items()}


@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("nnunet_plain", PLAIN),
        ("nnunet_plain", PLAIN | FLAT),
        ("nnunet_plain", PLAIN | {"conv_bias": False, "norm_op": "torch.nn.BatchNorm3d"}),
        ("nnunet_resenc", RESIDUAL),
        ("nnunet_resenc", RESIDUAL | {"stem_channels": 7}),
    ],
    ids=str,
)
def test_sizes_are_read_from_the_tensors(family: str, config: dict) -> None:
    (guess,) = infer(shapes(family, config))
    assert guess.family == family
    assert guess.config | config == guess.config


def test_what_tensors_cannot_tell_is_said_to_be_unsure() -> None:
    (guess,) = infer(shapes("nnunet_plain", PLAIN))
    assert "LeakyReLU" in guess.unsure["nonlin"]
    assert "epsilon" in guess.unsure["norm_op_kwargs"]


def test_the_second_names_of_a_tensor_do_not_count() -> None:
    names = [
        "encoder.stages.0.0.convs.0.conv.weight",
        "encoder.stages.0.0.convs.0.all_modules.0.weight",
        "decoder.encoder.stages.0.0.convs.0.conv.weight",
        "decoder.seg_layers.0.weight",
    ]
    assert live("nnunet_plain", names) == [names[0], names[3]]


def test_one_number_stands_for_all_stages_and_axes() -> None:
    short = PLAIN | {"kernel_sizes": 3, "strides": [1, 2, 2], "n_conv_per_stage": 2}
    written_out = short | {
        "kernel_sizes": [[3, 3, 3]] * 3,
        "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
        "n_conv_per_stage": [2, 2, 2],
    }
    assert shapes("nnunet_plain", short) == shapes("nnunet_plain", written_out)


def test_a_projection_stands_behind_the_pooling_of_a_strided_block() -> None:
    names = shapes("nnunet_resenc", RESIDUAL | {"stem_channels": 7})
    assert "encoder.stages.0.blocks.0.skip.0.conv.weight" in names
    assert "encoder.stages.1.blocks.0.skip.1.conv.weight" in names


def test_a_strided_block_of_equal_widths_only_pools() -> None:
    names = shapes("nnunet_resenc", RESIDUAL | {"features_per_stage": [4, 4, 4]})
    assert not any(".skip." in name for name in names)


def test_every_official_spelling_of_a_layer_is_understood() -> None:
    modules = {
        "conv_op": "torch.nn.modules.conv.Conv3d",
        "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
        "nonlin": "torch.nn.modules.activation.LeakyReLU",
    }
    assert shapes("nnunet_plain", PLAIN | modules) == shapes("nnunet_plain", PLAIN)


def test_a_layer_outside_the_table_is_refused_and_not_imported() -> None:
    with pytest.raises(ModelError, match=r"nonlin: 'os\.system' is not one of LeakyReLU"):
        build("nnunet_plain", PLAIN | {"nonlin": "os.system"})


def test_too_few_kernels_are_refused() -> None:
    with pytest.raises(ModelError, match="does not give 3 stages"):
        build("nnunet_plain", PLAIN | {"kernel_sizes": [[3, 3, 3]]})
