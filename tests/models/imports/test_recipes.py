"""Recipes are cards of published checkpoints: each builds the published network, and its checkpoint then just fits."""

import json
from pathlib import Path

import pytest
import torch

from segcli.errors import ModelError
from segcli.models import card, imports, library, weights
from segcli.models.imports.recognise import Recognised, network_in
from segcli.networks import registry
from segcli.networks.registry import Inferred

KEYS = Path(__file__).parents[2] / "data" / "golden" / "keys"

# Parameters as published, or as counted on the official networks.
PARAMETERS = {
    "uxnet-flare": 53_006_069,
    "uxnet-amos": 53_006_608,
    "uxnet-feta": 53_006_216,
    "unetr-btcv": 92_784_046,
    "swinunetr-btcv": 62_187_296,
    "swinunetr-btcv-small": 15_703_304,
    "swinunetr-btcv-tiny": 4_078_220,
    "unetrpp-synapse": 42_952_850,
    "unetrpp-acdc": 66_796_404,
    "unetrpp-lung": 121_174_798,
    "unetrpp-brats": 42_647_604,
    "deformuxnet-amos": 55_790_776,
    "deformuxnet-kits": None,
    "deformuxnet-pancreas": None,
    "deformuxnet-hepatic-vessels": None,
    "lungmask-r231": 28_953_539,
    "lungmask-r231-covidweb": 28_953_539,
    "lungmask-ltrclobes": 28_953_734,
}


def recipe(name: str) -> card.ModelCard:
    return card.parse(json.loads(imports.recipes()[name].read_text()))


def network(name: str) -> Inferred:
    architecture = recipe(name).architecture
    return Inferred(architecture.name, dict(architecture.arguments))


def test_there_is_a_recipe_for_every_published_checkpoint() -> None:
    assert set(imports.recipes()) == set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_recipe_is_a_card_of_its_network(name: str) -> None:
    found, guess = recipe(name), network(name)
    with torch.device("meta"):
        net = registry.build(guess.family, guess.config)
    if PARAMETERS[name] is not None:
        assert sum(p.numel() for p in net.parameters()) == PARAMETERS[name]
    made = Recognised(guess.family, guess.config)
    assert made.outputs == len(found.labels)
    assert made.inputs == len(found.channels)
    assert made.size() in (None, list(found.window.size))
    assert found.name == name
    assert found.weights == ()
    assert found.source != "unknown"
    assert found.document["notes"]


@pytest.mark.parametrize("name", PARAMETERS)
def test_left_and_right_are_pairs(name: str) -> None:
    for label in recipe(name).labels:
        if label.name.endswith(("_left", "_right")):
            assert label.pair is not None


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("uxnet-amos", "uxnet3d_amos"),
        ("uxnet-feta", "uxnet3d_feta"),
        ("uxnet-flare", "uxnet3d_flare"),
        ("unetr-btcv", "unetr_monai_btcv_2021release"),
        ("swinunetr-btcv-tiny", "swinunetr_btcv_f12"),
    ],
)
def test_the_tensors_of_the_published_file_are_the_recipes(name: str, keys: str) -> None:
    shapes = {k: tuple(v) for k, v in json.loads((KEYS / f"{keys}.json").read_text())["keys"].items()}
    assert network_in(shapes, None, network(name), keys) == network(name)


def test_an_older_form_of_the_recipes_network_is_told_from_its_tensors() -> None:
    path = KEYS / "uxnet3d_legacy_dense_k7_default13.json"
    shapes = {k: tuple(v) for k, v in json.loads(path.read_text())["keys"].items()}
    expected = Inferred("uxnet3d", {**network("uxnet-amos").config, "out_chans": 13})
    found = network_in(shapes, None, expected, path.name)
    assert found.config["pointwise"] == "dense"
    assert found.unsure == ("another form of the recipe's network: uxnet3d",)


@pytest.mark.parametrize("kernel", [3, 5, 13])
def test_the_legacy_dense_revision_is_told_with_any_depthwise_kernel(kernel: int) -> None:
    sizes = {**network("uxnet-amos").config, "pointwise": "dense", "kernel_size": kernel}
    with torch.device("meta"):
        tensors = registry.build("uxnet3d", sizes).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for found in (
        network_in(shapes, None, None, "w.pt"),
        network_in(shapes, "uxnet3d_legacy_dense", None, "w.pt"),
        network_in(shapes, None, network("uxnet-amos"), "w.pt"),
    ):
        assert (found.config["pointwise"], found.config["kernel_size"]) == ("dense", kernel)
        assert not registry.differences(found, shapes)


def test_tensors_of_another_network_than_the_recipes_are_refused() -> None:
    path = KEYS / "uxnet3d_feta.json"
    shapes = {k: tuple(v) for k, v in json.loads(path.read_text())["keys"].items()}
    with pytest.raises(ModelError, match=r"out\.conv\.conv\.weight has the shape 8×48×1×1×1, not 16×48×1×1×1"):
        network_in(shapes, None, network("uxnet-amos"), path.name)


@pytest.mark.slow
def test_with_a_recipe_a_published_file_just_becomes_a_model(tmp_path: Path) -> None:
    guess = network("swinunetr-btcv-tiny")
    torch.manual_seed(0)
    net = registry.build(guess.family, guess.config)
    torch.save({"state_dict": net.state_dict()}, tmp_path / "pretrained.pt")
    made = library.read_card(imports.adopt(tmp_path / "pretrained.pt", to=tmp_path, recipe="swinunetr-btcv-tiny"))
    assert made.name == "swinunetr-btcv-tiny"
    assert made.grid.spacing == (1.5, 1.5, 2.0)
    x = torch.randn(1, 1, 64, 32, 32)
    with torch.inference_mode():
        assert torch.equal(weights.network_of(made)(x), net(x))


def test_an_unknown_recipe_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    (tmp_path / "w.pt").touch()
    with pytest.raises(ModelError) as caught:
        imports.adopt(tmp_path / "w.pt", to=tmp_path, recipe="uxnet-moon")
    assert "uxnet-amos" in str(caught.value.hint)
