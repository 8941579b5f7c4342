"""nnFormer beyond its golden files."""

import pytest
import torch

from segcli.errors import ModelError
from segcli.networks.nnformer import Tiling
from segcli.networks.registry import build, infer

CUBES = [[4, 4, 4], [4, 4, 4], [4, 4, 4], [4, 4, 4]]
SMALL = {
    "embedding_dim": 8,
    "num_classes": 3,
    "depths": [1, 2, 1, 1],
    "num_heads": [1, 2, 4, 8],
    "window_size": CUBES,
}


def shapes(family: str, config: dict) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in build(family, config).state_dict().items()}


@pytest.mark.parametrize(
    ("family", "changed"),
    [
        ("nnformer_synapse", {"deep_supervision": False, "input_channels": 2}),
        ("nnformer_tumor", {"deep_supervision": True, "input_channels": 3}),
        ("nnformer_tumor", {"window_size": [[2, 2, 2], [3, 3, 3], [7, 7, 7], [2, 2, 2]]}),
        ("nnformer_acdc", {"window_size": [[3, 4, 4], [3, 5, 5], [7, 4, 4], [3, 2, 2]]}),
    ],
    ids=str,
)
def test_variant_and_sizes_are_read_from_the_tensors(family: str, changed: dict) -> None:
    (guess,) = infer(shapes(family, SMALL | changed))
    assert guess.family == family
    assert guess.config | SMALL | changed == guess.config


def test_the_size_of_the_image_is_open() -> None:
    (guess,) = infer(shapes("nnformer_synapse", SMALL))
    assert guess.unsure == {"crop_size": "crop_size is not in the tensors; [64, 128, 128] would do"}
    assert guess.open == ("crop_size",)


def test_windows_wider_than_the_published_grid_need_a_larger_image() -> None:
    wide = {"crop_size": [128, 256, 256], "window_size": [[4, 4, 4], [4, 4, 4], [4, 4, 4], [7, 7, 7]]}
    (guess,) = infer(shapes("nnformer_synapse", SMALL | wide))
    assert guess.config["crop_size"] == [128, 256, 256]


def test_a_cut_volume_is_joined_again() -> None:
    tiling = Tiling((5, 4, 7), (2, 3, 4), (1, 1, 2), masked=True)
    x = torch.arange(2 * 5 * 4 * 7 * 3.0).reshape(2, 5, 4, 7, 3)
    assert tiling.join(tiling.cut(x)).equal(x)


def test_a_shifted_window_is_masked_where_it_wraps_around() -> None:
    tiling = Tiling((4, 1, 1), (2, 1, 1), (1, 0, 0), masked=True)
    # After the shift the rows are 1 2 | 3 0: only the second window joins two ends of the volume.
    apart = [[[0, 0], [0, 0]], [[0, -100], [-100, 0]]]
    assert tiling.mask()[:, 0].tolist() == apart


def test_offsets_are_numbered_with_the_official_slip() -> None:
    index = build("nnformer_acdc", SMALL).model_down.layers[0].blocks[0].attn.relative_position_index
    # Window 4,4,4: the first voxel is 3,3,3 behind the last: 0, and itself: 3 * 11 + 3 * 7 + 3.
    assert (int(index[0, 63]), int(index[0, 0])) == (0, 57)


def test_a_patch_of_three_is_refused() -> None:
    with pytest.raises(ModelError, match="sides of 1, 2 or 4"):
        build("nnformer_synapse", {"patch_size": [3, 4, 4]})
