"""Attention U-Net and V-Net: MONAI's tensors and its answers, told by the tensors."""

from typing import Any

import pytest
import torch

from segcli.errors import ModelError
from segcli.networks.registry import build, infer

NETWORKS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (
        "attentionunet",
        {"spatial_dims": 3, "in_channels": 2, "out_channels": 3, "channels": [4, 6, 8], "strides": [2, 2]},
        {"kernel_size": [3, 3, 3], "up_kernel_size": [3, 3, 3]},
    ),
    (
        "attentionunet",
        {"spatial_dims": 2, "in_channels": 1, "out_channels": 2, "channels": [4, 6], "strides": [2]},
        {"kernel_size": [5, 5], "up_kernel_size": [5, 5]},
    ),
    ("vnet", {"spatial_dims": 3, "in_channels": 1, "out_channels": 3, "bias": False}, {}),
    ("vnet", {"spatial_dims": 2, "in_channels": 2, "out_channels": 2, "bias": True}, {"act": "prelu"}),
]


@pytest.mark.parametrize(("family", "needed", "more"), NETWORKS)
def test_the_tensors_tell_the_network(family: str, needed: dict[str, Any], more: dict[str, Any]) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in build(family, needed | more).state_dict().items()}
    (found,) = infer(shapes)
    assert (found.family, found.config) == (family, needed | more)
    assert list(found.unsure) == (["strides"] if family == "attentionunet" else [] if more else ["act"])


@pytest.mark.parametrize("family", ["attentionunet", "vnet"])
def test_what_no_network_has_is_refused(family: str) -> None:
    _, needed, _ = next(network for network in NETWORKS if network[0] == family)
    wrong = {"channels": [4]} if family == "attentionunet" else {"in_channels": 3}
    with pytest.raises(ModelError, match=f"{family} cannot be built"):
        build(family, needed | wrong)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "needed", "more"), NETWORKS)
def test_answers_are_monais(family: str, needed: dict[str, Any], more: dict[str, Any]) -> None:
    nets = pytest.importorskip("monai.networks.nets", reason="MONAI is not installed")
    theirs = {"attentionunet": nets.AttentionUnet, "vnet": nets.VNet}[family](**needed, **more).eval()
    own = build(family, needed | more)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in theirs.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=draw) * (0.2 if "running" not in name else 1) + 0.05)
        own.load_state_dict(theirs.state_dict())
        x = torch.randn(1, needed["in_channels"], *[16] * needed["spatial_dims"], generator=draw)
        torch.testing.assert_close(own(x), theirs(x))
