"""3D UX-Net beyond its golden files."""

import pytest
import torch

from segcli.errors import ModelError
from segcli.networks.registry import build, infer

SMALL = {"depths": [1, 2, 1, 1], "feat_size": [4, 6, 8, 10], "hidden_size": 12}


def shapes(config: dict) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in build("uxnet3d", config).state_dict().items()}


@pytest.mark.parametrize(
    "changed",
    [
        {"in_chans": 3, "out_chans": 5},
        {"pointwise": "dense", "kernel_size": 13},
        {"res_block": False},
        {"norm_name": "batch"},
    ],
    ids=str,
)
def test_sizes_are_read_from_the_tensors(changed: dict) -> None:
    (guess,) = infer(shapes(SMALL | changed))
    assert guess.unsure == {}
    expected = {"in_chans": 1, "out_chans": 13, "pointwise": "depthwise", "kernel_size": 7, "res_block": True}
    assert guess.config == expected | {"norm_name": "instance"} | SMALL | changed


def test_the_published_network_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        net = build("uxnet3d", {})
    assert sum(parameter.numel() for parameter in net.parameters()) == 53_006_461


def test_two_dimensions_are_refused() -> None:
    with pytest.raises(ModelError, match="3 dimensions"):
        build("uxnet3d", {"spatial_dims": 2})


def test_each_voxel_of_a_grouped_block_keeps_its_channels_apart() -> None:
    block = build("uxnet3d", SMALL).uxnet_3d.stages[0][0]
    torch.nn.init.ones_(block.gamma)
    mixed = torch.zeros(1, 4, 1, 1, 1, requires_grad=True)
    narrowed = block.pwconv2(block.pwconv1(mixed))
    narrowed[0, 2].sum().backward()
    assert mixed.grad.flatten().nonzero().flatten().tolist() == [2]
