"""SwinUNETR beyond its golden files: merging orders, windows, sizes from tensors."""

import pytest
import torch

from segcli.errors import ModelError
from segcli.networks.registry import build, infer
from segcli.networks.swin_unetr import PatchMerging, region_numbers, relative_positions, to_windows

SMALL = {"in_channels": 1, "out_channels": 2, "feature_size": 4, "num_heads": [1, 2, 2, 4], "window_size": 3}


def merged(order: str) -> list[float]:
    """The eight voxels 0 to 7 (4 d + 2 h + w), as merging lays them side by side."""
    merging = PatchMerging(1, order)
    seen = []
    merging.norm.register_forward_hook(lambda module, arguments, output: seen.append(arguments[0]))
    merging(torch.arange(8.0).reshape(1, 2, 2, 2, 1))
    return seen[0].flatten().tolist()


def test_legacy_merging_takes_two_voxels_twice_and_leaves_two_out() -> None:
    assert merged("legacy") == [0, 4, 2, 1, 5, 2, 1, 7]


def test_new_merging_takes_each_voxel_once() -> None:
    assert merged("new") == [0, 4, 2, 1, 6, 5, 3, 7]


def test_merging_v2_counts_upwards() -> None:
    assert merged("mergingv2") == [0, 1, 2, 3, 4, 5, 6, 7]


def test_merging_is_the_legacy_one_unless_told_otherwise() -> None:
    merging = build("swin_unetr.SwinUNETR", SMALL).swinViT.layers1[0].downsample
    assert merging.order[5] == "010"


def test_relative_positions_count_from_the_far_corner() -> None:
    # Two tokens along the last axis: distances -1, 0, 1 are rows 0, 1, 2.
    assert relative_positions((1, 1, 2)).tolist() == [[1, 0], [2, 1]]


def test_relative_positions_step_by_the_width_of_the_axes_below() -> None:
    # Tokens (0, 0) and (1, 1) of a 2 x 2 window: (0 - 1 + 1) * 3 + (0 - 1 + 1) and (1 + 1) * 3 + (1 + 1).
    index = relative_positions((1, 2, 2))
    assert (index[0, 3].item(), index[3, 0].item()) == (0, 8)


def test_a_rolled_map_has_three_regions_along_a_shifted_axis() -> None:
    assert region_numbers((1, 1, 8), (1, 1, 4), (0, 0, 2)).flatten().tolist() == [0, 0, 0, 0, 1, 1, 2, 2]


def test_windows_are_cut_along_the_last_axis_first() -> None:
    x = torch.arange(8.0).reshape(1, 1, 2, 4, 1)
    windows = to_windows(x, (1, 1, 2), (1, 2, 2))
    assert windows[..., 0].tolist() == [[0, 1, 4, 5], [2, 3, 6, 7]]


def test_an_unknown_merging_is_refused() -> None:
    with pytest.raises(ModelError, match="'merging' or 'mergingv2'"):
        build("swin_unetr.SwinUNETR", SMALL | {"downsample": "merge"})


@pytest.mark.parametrize(
    "changed",
    [
        {"in_channels": 4, "depths": [1, 2, 3, 1]},
        {"use_v2": True, "patch_norm": True, "qkv_bias": False},
        {"norm_name": "batch", "mlp_ratio": 2.0, "window_size": 5},
    ],
    ids=str,
)
def test_sizes_are_read_from_the_tensors(changed: dict) -> None:
    net = build("swinunetr", SMALL | changed)
    (guess,) = infer({name: tuple(tensor.shape) for name, tensor in net.state_dict().items()})
    expected = {"patch_size": 2, "depths": [2, 2, 2, 2], "qkv_bias": True, "mlp_ratio": 4.0}
    expected |= {"norm_name": "instance", "patch_norm": False, "use_v2": False}
    assert guess.config == expected | SMALL | changed


def test_the_order_of_merging_is_named_as_unknown() -> None:
    net = build("swinunetr", SMALL)
    (guess,) = infer({name: tuple(tensor.shape) for name, tensor in net.state_dict().items()})
    assert "legacy_merging=True" in guess.unsure["legacy_merging"]
