"""UNETR++ beyond its golden files."""

import pytest
import torch

from segcli.errors import ModelError
from segcli.networks.registry import build, infer

SMALL = {
    "feature_size": 2,
    "num_heads": 2,
    "depths": [1, 2, 1, 1],
    "dims": [4, 8, 16, 32],
    "proj_size": [6, 5, 4, 2],
    "decoder_proj_size": 3,
    "decoder_depth": 2,
    "decoder_num_heads": 2,
}


def shapes(family: str, config: dict) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in build(family, config).state_dict().items()}


@pytest.mark.parametrize(
    ("family", "changed"),
    [
        ("unetrpp_synapse", {"out_channels": 3, "img_size": [64, 128, 128]}),
        ("unetrpp_synapse", {"do_ds": False, "norm_name": "batch", "img_size": [16, 32, 32]}),
        ("unetrpp_acdc", {"img_size": [16, 160, 160]}),
        ("unetrpp_lung", {"img_size": [32, 192, 192]}),
        ("unetrpp_tumor", {"in_channels": 3, "img_size": [32, 32, 32]}),
    ],
    ids=str,
)
def test_variant_and_sizes_are_read_from_the_tensors(family: str, changed: dict) -> None:
    (guess,) = infer(shapes(family, SMALL | changed))
    assert guess.family == family
    assert guess.config | SMALL | changed == guess.config


def test_a_size_that_tensors_cannot_tell_is_said_to_be_unsure() -> None:
    (guess,) = infer(shapes("unetrpp_synapse", SMALL))
    assert list(guess.unsure) == ["img_size"]


def test_a_synapse_network_stores_its_one_projection_under_both_names() -> None:
    weights = build("unetrpp_synapse", SMALL | {"img_size": [16, 32, 32]}).state_dict()
    attention = "unetr_pp_encoder.stages.0.0.epa_block"
    assert weights[f"{attention}.E.weight"].data_ptr() == weights[f"{attention}.F.weight"].data_ptr()


def test_tokens_that_do_not_fit_the_image_are_refused() -> None:
    with pytest.raises(ModelError, match=r"tokens .* do not fit"):
        build("unetrpp_synapse", {"img_size": [16, 32, 32], "tokens": [1024, 64, 8, 1]})


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(ModelError, match="synapse, acdc, lung, tumor"):
        build("unetrpp", {"variant": "brats"})


def test_without_deep_supervision_there_is_one_head() -> None:
    net = build("unetrpp_synapse", SMALL | {"img_size": [16, 32, 32], "do_ds": False})
    with torch.inference_mode():
        assert len(net.heads(torch.zeros(1, 1, 16, 32, 32))) == 1
