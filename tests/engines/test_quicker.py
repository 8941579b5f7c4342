from typing import Any

import pytest
import torch
from torch import nn

from segcli.engines.quicker import in_its_order, quicker
from segcli.networks.registry import build

NETWORKS: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "uxnet3d": (
        "uxnet3d.UXNet3D",
        {"out_chans": 3, "depths": [1, 1, 1, 1], "feat_size": [4, 6, 8, 10], "hidden_size": 12},
        (1, 32, 32, 32),
    ),
    "segresnet": ("segresnet", {"init_filters": 8, "in_channels": 1, "out_channels": 3}, (1, 32, 32, 32)),
    "unet3plus": ("unet3plus_3d", {"in_channels": 1, "n_classes": 2, "filters": [4, 4, 8, 8, 8]}, (1, 16, 16, 16)),
    "nnunet": (
        "nnunet_plain",
        {
            "input_channels": 1,
            "n_stages": 3,
            "features_per_stage": [8, 16, 24],
            "kernel_sizes": [[3, 3, 3]] * 3,
            "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
            "n_conv_per_stage": [2, 2, 2],
            "num_classes": 3,
            "n_conv_per_stage_decoder": [1, 1],
        },
        (1, 16, 24, 32),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("count", [1, 2])
def test_a_quicker_network_answers_as_it_did(name: str, count: int) -> None:
    family, config, shape = NETWORKS[name]
    torch.manual_seed(0)
    net = build(family, config)
    for p in net.parameters():
        p.data += 0.05 * torch.randn(p.shape)
    x = torch.randn(count, *shape)
    with torch.no_grad():
        wanted = net(x)
        found = quicker(net)(x.contiguous(memory_format=torch.channels_last_3d))
    assert (found - wanted).abs().max() <= 1e-4 * wanted.abs().max()


@pytest.mark.parametrize("norm", [nn.InstanceNorm3d(4), nn.GroupNorm(4, 4, affine=False)], ids=["instance", "group"])
def test_a_norm_of_each_channel_of_a_large_window_is_exact(norm: nn.Module) -> None:
    torch.manual_seed(0)
    x = 0.5 + 0.8 * torch.randn(1, 4, 96, 96, 96)
    found = quicker(nn.Sequential(norm))(x.contiguous(memory_format=torch.channels_last_3d))
    wanted = nn.functional.instance_norm(x.double())
    assert (found - wanted).abs().max() < 1e-5  # the sums of a batch norm over all voxels are off by 1e-3


@pytest.mark.parametrize("groups", [1, 2])
def test_a_norm_of_groups_of_a_large_window_is_exact(groups: int) -> None:
    torch.manual_seed(0)
    x = 3 + torch.randn(2, 4, 64, 64, 64)
    norm = nn.GroupNorm(groups, 4)
    norm.weight.data, norm.bias.data = torch.tensor([1.0, 2.0, -1.0, 0.5]), torch.tensor([0.0, 1.0, 2.0, 3.0])
    found = quicker(nn.Sequential(norm))(x.contiguous(memory_format=torch.channels_last_3d))
    wanted = norm.double()(x.double())
    assert (found - wanted).abs().max() < 1e-5  # the stock operator is off by 1e-3 on channels-last data


def test_a_norm_of_groups_of_one_voxel_is_exact() -> None:
    """As in a UNETR++ whose window is small: its deepest map is one voxel, of such strides."""
    torch.manual_seed(0)
    x = torch.empty_strided((1, 8, 1, 1, 1), (8, 1, 8, 8, 8)).copy_(10 + 0.001 * torch.randn(1, 8, 1, 1, 1))
    found = quicker(nn.Sequential(nn.GroupNorm(4, 8)))(x)
    wanted = nn.functional.group_norm(x.double(), 4)
    assert (found - wanted).abs().max() < 5e-4  # the stock operator is off by 7e-3


def test_an_instance_norm_of_half_precision_has_means_in_float32() -> None:
    torch.manual_seed(0)
    x = (100 + torch.randn(1, 2, 16, 16, 16)).bfloat16().contiguous(memory_format=torch.channels_last_3d)
    norm = quicker(nn.Sequential(nn.InstanceNorm3d(2, affine=True)))
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        found = norm(x).double()
    assert (found - nn.functional.instance_norm(x.double())).abs().max() < 0.02


def test_an_instance_norm_keeps_its_scale_and_offset() -> None:
    norm = nn.InstanceNorm3d(2, affine=True)
    norm.weight.data, norm.bias.data = torch.tensor([2.0, 3.0]), torch.tensor([1.0, -1.0])
    x = torch.zeros(2, 2, 2, 2, 2)
    x[:, :, 0] = 8.0  # mean 4, deviation 4: values become +1 and -1
    y = quicker(nn.Sequential(norm))(x)
    torch.testing.assert_close(y[1, 0, :, 0, 0], torch.tensor([3.0, -1.0]))
    torch.testing.assert_close(y[1, 1, :, 0, 0], torch.tensor([2.0, -4.0]))


@pytest.mark.parametrize("affine", [True, False])
def test_an_instance_norm_on_another_device_leaves_its_data_there(affine: bool) -> None:
    """The device "meta" has shapes alone; it refuses what lies on a processor, and the processor's own kernels."""
    norm = in_its_order(nn.Sequential(nn.InstanceNorm3d(3, affine=affine))).to("meta")
    found = norm(torch.empty(2, 3, 8, 6, 4, device="meta"))
    assert (found.device.type, found.shape) == ("meta", (2, 3, 8, 6, 4))
