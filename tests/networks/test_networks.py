"""Networks are found by name, take official arguments and no others, and are recognised by their tensors."""

import pytest
import torch

import segcli.networks
from segcli.errors import ModelError
from segcli.networks.registry import build, defaults, infer, length, live, small_networks


def test_a_class_path_and_a_family_name_build_the_same_network() -> None:
    by_class = build("pointwise.Pointwise", {"in_chans": 2, "out_chans": 3})
    by_family = build("pointwise", {"in_chans": 2, "out_chans": 3})
    assert type(by_class) is type(by_family)


def test_a_network_is_built_from_the_package_of_networks() -> None:
    assert segcli.networks.build("pointwise", {"in_chans": 2, "out_chans": 3}).conv.in_channels == 2
    with pytest.raises(AttributeError, match="has no attribute 'bild'"):
        segcli.networks.bild()


def test_a_built_network_is_in_evaluation_mode() -> None:
    assert not build("pointwise", {}).training


def test_a_name_with_a_variant_finds_the_longest_family_it_starts_with() -> None:
    with torch.device("meta"):
        net = build("uxnet3d_legacy_dense_k7", {"feat_size": [4, 8, 12, 16], "hidden_size": 20})
    assert net.state_dict()["uxnet_3d.stages.0.0.pwconv1.weight"].shape == (16, 4, 1, 1, 1)


def test_an_unknown_family_names_the_nearest() -> None:
    with pytest.raises(ModelError, match="did you mean 'uxnet3d'"):
        build("uxnet3", {})
    with pytest.raises(ModelError, match="did you mean 'uxnet3d'"):
        build("UXNet3D", {})


def test_an_unknown_class_names_the_nearest() -> None:
    with pytest.raises(ModelError, match="did you mean 'UXNet3D'"):
        build("uxnet3d.UxNet3D", {})


def test_an_unknown_module_names_the_nearest() -> None:
    with pytest.raises(ModelError, match="did you mean 'pointwise'"):
        build("pointwize.Pointwise", {})


def test_a_block_of_a_network_is_no_network() -> None:
    with pytest.raises(ModelError, match="no network is called"):
        build("uxnet3d.UXEncoder", {})


def test_an_unknown_argument_names_the_nearest() -> None:
    with pytest.raises(ModelError, match="did you mean 'out_chans'"):
        build("pointwise", {"out_chan": 2})


def test_a_missing_argument_is_named() -> None:
    with pytest.raises(ModelError, match="needs in_channels, out_channels"):
        build("swin_unetr.SwinUNETR", {})


def test_a_value_of_the_wrong_type_is_a_model_error() -> None:
    with pytest.raises(ModelError, match="cannot be built"):
        build("pointwise", {"in_chans": "one"})


@pytest.mark.parametrize(
    ("family", "arguments"),
    [
        ("basicunet", {"features": [8, 8]}),
        ("unetr_tamasino_article", {"patch_size": 0}),
        ("monai_unet", {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "channels": [], "strides": []}),
        ("segresnet", {"norm_name": 1}),
        ("swinunetr", {"in_channels": 1, "out_channels": 2, "window_size": [7]}),
        ("unest", {"in_channels": 1, "out_channels": 2, "patch_size": 0}),
        ("uxnet3d", {"feat_size": [48]}),
    ],
)
def test_lists_of_another_length_and_values_of_another_kind_are_model_errors(
    family: str, arguments: dict[str, object]
) -> None:
    with torch.device("meta"), pytest.raises(ModelError, match=f"{family} cannot be built"):
        build(family, arguments)


def test_tensors_of_a_network_are_recognised() -> None:
    (guess,) = infer({"conv.weight": (3, 2, 1, 1, 1), "conv.bias": (3,)})
    assert (guess.family, guess.config) == ("pointwise", {"in_chans": 2, "out_chans": 3})


def test_unknown_tensors_are_no_network() -> None:
    assert infer({"fc.weight": (10, 4)}) == ()


def test_inert_tensors_do_not_count() -> None:
    names = ["decoder1.layer.conv1.conv.weight", "decoder1.layer.conv3.conv.weight"]
    assert live("uxnet3d", names) == names[:1]


def test_a_list_of_blocks_is_counted_up_to_its_first_gap() -> None:
    assert length(["a.0.w", "a.1.w", "a.3.w", "b.2.w", "ca.2.w"], "a.") == 2


@pytest.mark.parametrize("dims", [1, 4, "three", [3]])
def test_a_network_of_other_than_two_or_three_dimensions_is_refused(dims: object) -> None:
    with pytest.raises(ModelError, match="segcli runs networks of 2 and 3 dimensions"):
        build("basicunet", {"spatial_dims": dims, "in_channels": 1, "out_channels": 2})


@pytest.mark.parametrize(
    ("family", "sizes"), [("uxnet3d", {"depths": [10**6, 2, 2, 2]}), ("segresnet", {"blocks_down": [10**6, 2, 2, 4]})]
)
def test_a_network_of_endless_layers_is_refused_while_it_is_built(family: str, sizes: dict[str, list[int]]) -> None:
    with torch.device("meta"), pytest.raises(ModelError, match="more than 5,000 tensors"):
        build(family, sizes)
    assert build("pointwise", {})


NORMS = {"dynunet": "norm_name", "monai_unet": "norm", "basicunet": "norm", "uxnet3d": "norm_name"}


@pytest.mark.parametrize(("family", "argument"), NORMS.items())
def test_scales_of_a_norm_are_said_to_be_unsure(family: str, argument: str) -> None:
    """Instance norms and group norms have the same tensors."""
    small = small_networks()[family].all_arguments
    tensors = [
        {name: tuple(tensor.shape) for name, tensor in build(family, small | {argument: norm}).state_dict().items()}
        for norm in (["instance", {"affine": True}], ["group", {"num_groups": 1}])
    ]
    assert tensors[0] == tensors[1]
    (guess,) = infer(tensors[0])
    assert guess.unsure[argument] == "the norm: instance norm with scales, not groups"


@pytest.mark.parametrize("family", small_networks())
def test_what_is_unsure_is_an_argument_of_the_network(family: str) -> None:
    with torch.device("meta"):
        state = build(family, small_networks()[family].all_arguments).state_dict()
    for guess in infer({name: tuple(tensor.shape) for name, tensor in state.items()}):
        assert set(guess.unsure) <= set(guess.config) | set(defaults()[guess.family]["defaults"])
