"""Both UNETRs beyond their golden files."""

import pytest
import torch

from segcli.errors import ModelError
from segcli.networks.registry import build, infer
from segcli.networks.unetr import PatchEmbedding, to_map

MONAI = {
    "in_channels": 2,
    "out_channels": 3,
    "img_size": [32, 32, 32],
    "feature_size": 4,
    "hidden_size": 12,
    "mlp_dim": 20,
    "num_heads": 12,
    "proj_type": "conv",
    "norm_name": "instance",
    "conv_block": True,
    "res_block": True,
    "qkv_bias": False,
}
TAMASINO = {
    "img_shape": [32, 32, 32],
    "input_dim": 2,
    "output_dim": 5,
    "embed_dim": 18,
    "patch_size": 16,
    "num_heads": 6,
    "decoder_widths": [14, 12, 10, 8, 6],
    "mlp_hidden": 22,
    "num_layers": 8,
    "extract_layers": [2, 4, 6, 8],
}


def shapes(family: str, config: dict) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in build(family, config).state_dict().items()}


@pytest.mark.parametrize(
    "changed",
    [
        {"proj_type": "perceptron", "qkv_bias": True},
        {"res_block": False, "norm_name": "batch"},
        {"res_block": False, "conv_block": False},
    ],
    ids=str,
)
def test_sizes_of_a_monai_unetr_are_read_from_its_tensors(changed: dict) -> None:
    (guess,) = infer(shapes("unetr_monai", MONAI | changed))
    assert (guess.family, guess.config) == ("unetr_monai", MONAI | changed)


@pytest.mark.parametrize("family", ["unetr_tamasino_article", "unetr_tamasino_upstream"])
def test_sizes_and_form_of_a_tamasino_unetr_are_read_from_its_tensors(family: str) -> None:
    (guess,) = infer(shapes(family, TAMASINO))
    assert (guess.family, guess.config) == (family, TAMASINO)


def test_heads_and_input_shape_are_named_as_unknown() -> None:
    (guess,) = infer(shapes("unetr_monai", MONAI | {"img_size": [16, 48, 32], "num_heads": 3}))
    assert list(guess.unsure) == ["img_size", "num_heads"]
    assert guess.open == ("img_size",)


def test_the_channel_is_the_fastest_axis_of_a_flattened_patch() -> None:
    embedding = PatchEmbedding(2, (16, 16, 16), 1, "perceptron")
    linear = getattr(embedding.patch_embeddings, "1")
    torch.nn.init.zeros_(linear.weight)
    torch.nn.init.zeros_(linear.bias)
    linear.weight.data[0, 3] = 1.0  # the second voxel along the last axis, the second channel
    x = torch.zeros(1, 2, 16, 16, 16)
    x[0, 1, 0, 0, 1] = 7.0
    assert embedding(x).item() == 7.0


def test_tokens_go_back_to_their_places() -> None:
    tokens = torch.arange(12.0).reshape(1, 6, 2)
    assert to_map(tokens, (1, 2, 3))[0, 0].tolist() == [[[0, 2, 4], [6, 8, 10]]]


def test_the_old_name_of_the_embedding_is_understood() -> None:
    old = {key: value for key, value in MONAI.items() if key != "proj_type"} | {"pos_embed": "perceptron"}
    assert "vit.patch_embedding.patch_embeddings.1.weight" in shapes("unetr_monai", old)


def test_an_input_that_is_no_whole_number_of_patches_is_refused() -> None:
    with pytest.raises(ModelError, match="multiple of 16"):
        build("unetr_monai", MONAI | {"img_size": [32, 32, 40]})
