"""UNet 3+ beyond its golden files."""

import pytest
import torch

from segcli.errors import ModelError
from segcli.networks.registry import build, infer

SMALL = {"in_channels": 1, "n_classes": 2, "filters": [2, 3, 4, 5, 6]}


def shapes(family: str, config: dict) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in build(family, config).state_dict().items()}


@pytest.mark.parametrize(
    ("family", "changed"),
    [
        ("unet3plus_base", {"is_batchnorm": False}),
        ("unet3plus_base", {"spatial_dims": 3, "in_channels": 4}),
        ("unet3plus_ds", {"is_batchnorm": True}),
        ("unet3plus_cgm", {"spatial_dims": 3}),
    ],
    ids=str,
)
def test_variant_and_sizes_are_read_from_the_tensors(family: str, changed: dict) -> None:
    (guess,) = infer(shapes(family, SMALL | changed))
    assert guess.family == family
    assert guess.config | SMALL | changed == guess.config
    assert guess.unsure == {}


def test_a_recognised_network_returns_logits() -> None:
    (guess,) = infer(shapes("unet3plus_ds", SMALL))
    assert guess.config["probabilities"] is False


def gated(shown: bool, probabilities: bool) -> torch.Tensor:
    net = build("unet3plus_cgm", SMALL | {"probabilities": probabilities})
    torch.nn.init.zeros_(net.cls[1].weight)
    net.cls[1].bias.data = torch.tensor([0.0, 1.0 if shown else -1.0])
    torch.nn.init.constant_(net.outconv1.bias, 3.0)
    with torch.inference_mode():
        logits: torch.Tensor = net(torch.ones(1, 1, 32, 16))
    return logits


def test_an_image_judged_empty_has_probability_one_half_everywhere() -> None:
    assert gated(shown=False, probabilities=True).unique().tolist() == [0.5]


def test_an_image_judged_empty_has_logits_of_zero() -> None:
    assert gated(shown=False, probabilities=False).unique().tolist() == [0.0]


def test_an_image_judged_to_show_the_organ_keeps_its_logits() -> None:
    assert (gated(shown=True, probabilities=False) != 0).all()


def test_saturated_scores_count_as_empty() -> None:
    net = build("unet3plus_cgm", SMALL)
    torch.nn.init.zeros_(net.cls[1].weight)
    net.cls[1].bias.data = torch.tensor([50.0, 60.0])  # both sigmoids are 1 in float32
    with torch.inference_mode():
        assert net(torch.ones(1, 1, 16, 16)).unique().tolist() == [0.5]


def test_a_volume_of_equal_slices_fits_the_three_dimensional_network() -> None:
    net = build("unet3plus_3d", SMALL)
    with torch.inference_mode():
        assert net(torch.zeros(1, 1, 16, 32, 16)).shape == (1, 2, 16, 32, 16)


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(ModelError, match="base, ds, cgm"):
        build("unet3plus", {"variant": "deep"})


def test_in_bfloat16_the_gate_tells_scores_apart_whose_sigmoids_are_equal_there() -> None:
    net = build("unet3plus_cgm", SMALL)
    scores = torch.tensor([[[[7.0]], [[7.5]]]], dtype=torch.bfloat16)  # both sigmoids round to 1
    assert torch.equal(*torch.sigmoid(scores).unbind(1))
    net.cls = torch.nn.Identity()
    assert net._gate(scores).item() == 1
