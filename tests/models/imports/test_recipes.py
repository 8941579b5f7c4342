"""Recipes are cards of published checkpoints: each builds the published network, and its checkpoint then just fits."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from segcli.errors import ModelError
from segcli.inference.decide import labels_on
from segcli.models import card, imports, library, weights
from segcli.models.imports.recognise import Recognised, network_in
from segcli.networks import registry
from segcli.networks.registry import Inferred
from segcli.space.grids import model_grid
from segcli.space.volume import Grid, Volume

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
    "swinunetr-brats21": 62_191_941,
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
    "vista3d": None,
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
    assert made.outputs == len(found.labels) - (found.decide.rule == "regions")
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
    assert found.notes == ("another form of the recipe's network: uxnet3d",)


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


@pytest.mark.slow
def test_outputs_of_a_recipe_are_put_in_the_order_in_which_its_authors_write_them(tmp_path: Path) -> None:
    """BraTS 2021: tumour core, whole tumour, enhancing tumour; written 2, 1, 4, whole tumour first."""
    document = json.loads(imports.recipes()["swinunetr-brats21"].read_text())
    small = {**document["architecture"], "feature_size": 12, "depths": [1, 1, 1, 1]}
    (tmp_path / "small.json").write_text(json.dumps({**document, "architecture": small, "patch_size": [64, 32, 32]}))
    torch.manual_seed(0)
    net = registry.build("swinunetr", {k: v for k, v in small.items() if k != "name"}).eval()
    folder = tmp_path / "fold1_f48_ep300_4gpu_dice0_9059"
    folder.mkdir()
    torch.save({"state_dict": net.state_dict()}, folder / "model.pt")
    archive = shutil.make_archive(str(folder), "zip", tmp_path, folder.name)
    made = library.read_card(
        imports.adopt(Path(archive), to=tmp_path / "models", recipe=str(tmp_path / "small.json"), name="b")
    )
    assert "outputs" not in made.document
    assert made.decide.values == (2, 1, 4)
    imports.verify(tmp_path / "models" / "b")
    x = torch.randn(1, 4, 64, 32, 32)
    with torch.inference_mode():
        logits, theirs = weights.network_of(made)(x)[0].numpy(), net(x)[0].numpy()
    assert (logits == theirs[[1, 0, 2]]).all()
    grid = Grid((64, 32, 32), np.eye(4))
    labels = labels_on(grid, [Volume(logits, grid)], made.decide, grid, grid).data[0]
    wanted = np.zeros((64, 32, 32), np.uint8)
    for channel, value in ((1, 2), (0, 1), (2, 4)):
        wanted[theirs[channel] > 0] = value
    assert set(np.unique(wanted)) == {0, 1, 2, 4}
    assert (labels == wanted).all()


def test_networks_of_monai_see_the_axes_of_a_file_that_is_not_turned_in_monais_order() -> None:
    """There an array is i, j, k of the file; nnU-Net's, and those of its kin, are k, j, i as here."""
    file = Grid((4, 5, 6), np.eye(4))  # k, j, i
    own = {name: found for name in imports.recipes() if (found := recipe(name)).grid.axes is None}
    for name, found in own.items():
        nnunets = found.window.stride == "even"
        assert model_grid(file, found.grid).shape[:: 1 if nnunets else -1] == (4, 5, 6), name
    assert {name for name, found in own.items() if found.window.stride != "even"} == {"swinunetr-brats21"}
    given = imports.options(orientation="ijk")
    assert given == {"orientation": None, "transpose": [2, 1, 0]}
    assert imports.options(orientation="file") == {"orientation": None}


@pytest.mark.parametrize("fields", [{"outputs": [0, 0, 2]}, {"outputs": [0, 1]}, {"weights": "w.safetensors"}])
def test_an_order_of_outputs_is_one_and_of_a_recipe(fields: dict[str, object]) -> None:
    document = json.loads(imports.recipes()["swinunetr-brats21"].read_text())
    with pytest.raises(ModelError, match=r"the field outputs .*is no order of the network"):
        card.parse({**document, **fields})


def test_a_network_whose_last_layer_is_not_known_keeps_its_order() -> None:
    with pytest.raises(ModelError, match="cannot be put in another order"):
        Recognised("unetr", {}, folds=[{}]).in_order([1, 0])


def test_an_unknown_recipe_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    (tmp_path / "w.pt").touch()
    with pytest.raises(ModelError) as caught:
        imports.adopt(tmp_path / "w.pt", to=tmp_path, recipe="uxnet-moon")
    assert "uxnet-amos" in str(caught.value.hint)
