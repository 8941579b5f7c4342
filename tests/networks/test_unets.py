"""MONAI's UNet, DynUNet, BasicUNet and UNet++ beyond their golden files."""

import pytest
import torch

from segcli.errors import ModelError
from segcli.models.imports.recognise import recognised
from segcli.networks.blocks import activation, norm
from segcli.networks.registry import build, infer

UNET = {
    "spatial_dims": 3,
    "in_channels": 2,
    "out_channels": 3,
    "channels": [4, 6, 8, 10],
    "strides": [2, 1, 2],
    "kernel_size": [3, 3, 3],
    "up_kernel_size": [3, 3, 3],
    "num_res_units": 2,
    "act": "PRELU",
    "norm": "instance",
    "bias": True,
}
DYNUNET = {
    "spatial_dims": 3,
    "in_channels": 2,
    "out_channels": 3,
    "kernel_size": [[3, 3, 1], [3, 3, 3], [5, 3, 3]],
    "strides": [1, [2, 2, 1], [2, 2, 2]],
    "upsample_kernel_size": [[2, 2, 1], [2, 2, 2]],
    "filters": [4, 6, 8],
    "norm_name": ["instance", {"affine": True}],
    "res_block": False,
    "trans_bias": False,
}
BASIC = {
    "spatial_dims": 3,
    "in_channels": 2,
    "out_channels": 3,
    "features": [4, 6, 8, 10, 12, 5],
    "norm": ["instance", {"affine": True}],
    "bias": True,
    "upsample": "deconv",
}


def shapes(family: str, config: dict) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in build(family, config).state_dict().items()}


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"num_res_units": 1, "norm": "batch", "act": "RELU"},
        {"num_res_units": 0, "strides": [2, 2, 2], "spatial_dims": 2, "bias": False}
        | {"kernel_size": [5, 3], "up_kernel_size": [3, 5]},
    ],
    ids=str,
)
def test_sizes_of_a_unet_are_read_from_its_tensors(changed: dict) -> None:
    (guess,) = infer(shapes("unet", UNET | changed))
    assert (guess.family, guess.config) == ("monai_unet", UNET | changed)


@pytest.mark.parametrize(
    "changed",
    [{}, {"res_block": True, "norm_name": "batch", "trans_bias": True}, {"res_block": True, "act_name": "PRELU"}],
    ids=str,
)
def test_sizes_of_a_dynunet_are_read_from_its_tensors(changed: dict) -> None:
    (guess,) = infer(shapes("dynunet", DYNUNET | changed))
    assert (guess.family, guess.config) == ("dynunet", DYNUNET | changed)


@pytest.mark.parametrize("family", ["basicunet", "basicunetplusplus"])
@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"spatial_dims": 2, "norm": "batch", "bias": False, "upsample": "nontrainable"},
        {"upsample": "pixelshuffle", "act": "PRELU"},
    ],
    ids=str,
)
def test_sizes_of_a_basic_unet_are_read_from_its_tensors(family: str, changed: dict) -> None:
    (guess,) = infer(shapes(family, BASIC | changed))
    assert (guess.family, guess.config) == (family, BASIC | changed)


@pytest.mark.parametrize("residual", [False, True])
def test_the_slope_of_a_dynunet_has_its_official_name(residual: bool) -> None:
    sizes = shapes("dynunet", DYNUNET | {"act_name": "prelu", "res_block": residual})
    slopes = sorted(name for name in sizes if sizes[name] == (1,))
    parts = ["bottleneck", "downsamples.0", "input_block", "upsamples.0.conv_block", "upsamples.1.conv_block"]
    assert slopes == [f"{part}.lrelu.weight" for part in parts]


def test_strides_of_a_unet_are_named_as_a_guess() -> None:
    (guess,) = infer(shapes("unet", UNET))
    assert guess.unsure["strides"] == "the sizes of strides: [2, 1, 2]"


def test_a_dynunet_without_widths_doubles_from_32_to_320() -> None:
    sizes = shapes("dynunet", DYNUNET | {"filters": None, "kernel_size": [3] * 5, "strides": [1, 2, 2, 2, 2]}
                   | {"upsample_kernel_size": [2] * 4})  # fmt: skip
    assert sizes["bottleneck.conv1.conv.weight"][:2] == (320, 256)


def test_levels_of_a_dynunet_must_agree() -> None:
    with pytest.raises(ModelError, match="3 kernels need 3 strides and 2 upsampling kernels"):
        build("dynunet", DYNUNET | {"strides": [1, 2]})


def test_strides_that_no_level_of_a_unet_needs_have_no_effect() -> None:
    assert shapes("unet", UNET | {"strides": [2, 1, 2, 2]}) == shapes("unet", UNET)


def test_levels_of_a_unet_must_agree() -> None:
    with pytest.raises(ModelError, match="strides needs 3 numbers, not 2"):
        build("unet", UNET | {"strides": [2, 2]})


@pytest.mark.parametrize("family", ["basicunet", "basicunetplusplus"])
def test_odd_sizes_come_back_as_they_were(family: str) -> None:
    net = build(family, BASIC)
    with torch.inference_mode():
        assert net(torch.zeros(1, 2, 33, 18, 37)).shape == (1, 3, 33, 18, 37)


def test_the_answer_of_a_unet_plus_plus_is_its_last_head() -> None:
    net = build("basicunetplusplus", BASIC)
    x = torch.linspace(-1, 1, 2 * 32**3).reshape(1, 2, 32, 32, 32)
    with torch.inference_mode():
        heads = net.heads(x)
        assert torch.equal(net(x), heads[3])
    assert len(heads) == 4


def test_mish_and_instance_norm_by_its_other_name_are_those_of_torch() -> None:
    x = torch.tensor([[[[-2.0, 0.0, 1.0, 4.0]]]])
    assert torch.equal(activation("MISH")(x), torch.nn.functional.mish(x))
    assert torch.equal(norm(["INSTANCE_NVFUSER", {"affine": True}], 1, 2)(x), torch.nn.functional.instance_norm(x))


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(ModelError, match="no normalisation is called 'layer'"):
        build("unet", UNET | {"norm": "layer"})


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(ModelError, match="no activation is called 'snake'"):
        build("unet", UNET | {"act": "snake"})


def test_a_stated_argument_settles_what_is_unsure_of_it_alone() -> None:
    tensors = shapes("monai_unet", UNET | {"act": "RELU", "norm": ["GROUP", {"num_groups": 1}]})
    stated = recognised(tensors, 'monai_unet {"norm": ["GROUP", {"num_groups": 1}]}', "a.pth")
    assert set(stated.unsure) == {"adn_ordering", "strides", "act"}
    assert set(recognised(tensors, 'monai_unet {"act": "RELU"}', "a.pth").unsure) == {"adn_ordering", "strides", "norm"}
    assert set(recognised(tensors, 'monai_unet {"adn_ordering": "ADN"}', "a.pth").unsure) == {"strides", "act", "norm"}
