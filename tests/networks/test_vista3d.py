"""VISTA3D's automatic branch gives the classes that are asked for, and no others."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import segcli
from segcli.batch.budget import sums_bytes
from segcli.errors import ModelError, UsageError
from segcli.models import imports, library, weights
from segcli.models.after import LargestStep
from segcli.models.card import ModelCard
from segcli.models.prompted import asked
from segcli.networks.registry import build
from segcli.networks.vista3d import EVERYTHING
from segcli.space.volume import Grid

SIZES = {"encoder_embed_dim": 8, "blocks_down": [1, 1, 1], "n_embeddings": 5}


def test_the_classes_that_are_asked_for_are_the_labels(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = build("vista3d", SIZES | {"classes": [1, 2, 3, 4]})
    points = {"point_head.image_embedding": torch.ones(3), "image_encoder.up_layers.0.head.weight": torch.ones(1)}
    torch.save({**net.state_dict(), **points}, tmp_path / "net.pt")
    given = imports.options(
        labels="background,spleen,liver",
        spacing="2,2,2",
        orientation="RAS",
        window="0,1",
        patch="16,16,16",
        channels="CT",
    )
    folder = imports.adopt(tmp_path / "net.pt", to=tmp_path, name="m", arch='vista3d {"classes": [3, 1]}', given=given)
    made = library.read_card(folder)
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.inference_mode():
        assert torch.allclose(weights.network_of(made)(x), net(x)[:, [0, 3, 1]], atol=1e-5)


def test_background_is_where_no_class_is_above_one_half() -> None:
    net = build("vista3d", SIZES | {"classes": [2]})
    with torch.inference_mode():
        logits = net(torch.randn(2, 1, 8, 8, 8))
    assert logits.shape == (2, 2, 8, 8, 8)
    assert not logits[:, 0].any()


@pytest.mark.parametrize("classes", [[], [5], [-1]])
def test_classes_that_the_file_has_no_place_for_are_refused(classes: list[int]) -> None:
    with pytest.raises(ModelError, match="classes are numbers below 5, at least one"):
        build("vista3d", SIZES | {"classes": classes})


def model(folder: Path) -> ModelCard:
    """A small one that is asked for all four classes it has a place for."""
    torch.manual_seed(0)
    net = build("vista3d", SIZES | {"classes": [1, 2, 3, 4]})
    net.class_head.class_embeddings.weight.data *= 30
    torch.save(net.state_dict(), folder / "net.pt")
    given = imports.options(
        labels="background=0,spleen=1,liver=2,heart=3,aorta=7",
        spacing="keep",
        orientation="file",
        normalise="none",
        patch="16,16,16",
        channels="CT",
    )
    return library.read_card(imports.adopt(folder / "net.pt", to=folder, name="m", given=given))


@pytest.mark.slow
def test_the_classes_of_a_run_are_what_the_network_is_asked_for(tmp_path: Path) -> None:
    card = model(tmp_path)
    image = np.random.default_rng(0).normal(size=(20, 18, 17)).astype(np.float32)
    loaded = segcli.load(card.folder, engine="torch", device="cpu")
    alone = loaded.segment(image, affine=np.eye(4), classes=["aorta", "heart"]).labels
    one = asked(card, ["aorta", "heart"])
    assert one.architecture.arguments["classes"] == [3, 4]
    assert one.decide.values == (0, 3, 7)
    every = loaded.segment(image, affine=np.eye(4)).labels
    assert set(np.unique(alone)) == {0, 3, 7}
    assert set(np.unique(every)) > {0, 3, 7}
    assert ((alone > 0) & (every != alone)).any(), "a class is found where another one would be likelier"
    x = torch.randn(1, 1, 16, 16, 16)
    with torch.inference_mode():
        assert torch.allclose(weights.network_of(one)(x), weights.network_of(card)(x)[:, [0, 3, 4]], atol=1e-4)
    grid = Grid((64, 64, 64), np.eye(4))
    assert sums_bytes(one, grid, 1) < 0.7 * sums_bytes(card, grid, 1)


def test_a_network_that_cannot_be_asked_keeps_its_card(tmp_path: Path) -> None:
    card = model(tmp_path)
    assert asked(card, []) is card
    assert asked(card, ["*"]) is card
    plain = library.find("uxnet")
    assert asked(plain, ["thalamus"]) is plain
    with pytest.raises(UsageError, match="lung"):
        asked(card, ["lung"])


def test_steps_that_follow_see_all_structures_and_a_mirrored_network_the_other_side(tmp_path: Path) -> None:
    card = model(tmp_path)
    followed = replace(card, after=(LargestStep(structures=("liver",)),))
    assert asked(followed, ["aorta"]) is followed
    sided = {"spleen": "heart", "heart": "spleen"}
    paired = replace(card, labels=tuple(replace(label, pair=sided.get(label.name)) for label in card.labels))
    assert asked(paired, ["spleen"]).decide.values == (0, 1)
    assert asked(replace(paired, mirror=(0,)), ["spleen"]).decide.values == (0, 1, 3)


def test_the_bundle_is_asked_for_what_its_program_is_asked_for(tmp_path: Path) -> None:
    names = {"0": "background", **{str(n): f"organ {n}" for n in range(1, 133)}}
    steps: list[dict[str, Any]] = [
        {"_target_": "LoadImaged", "keys": "image"},
        {"_target_": "Spacingd", "keys": "image", "pixdim": [1.5, 1.5, 1.5], "mode": "bilinear"},
        {"_target_": "monai.apps.vista3d.transforms.VistaPreTransformd", "subclass": {"2": "$range(3)"}},
        {"_target_": "ScaleIntensityRanged", "a_min": -900, "a_max": 1000, "b_min": 0, "b_max": 1, "clip": True},
        {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
    ]
    after = [
        {"_target_": "monai.apps.vista3d.transforms.VistaPostTransformd", "keys": "pred"},
        {"_target_": "Invertd", "keys": "pred", "transform": "$copy.deepcopy(@preprocessing)", "nearest_interp": True},
    ]
    config = {
        "network_def": "$monai.networks.nets.vista3d132(in_channels=1)",
        "preprocessing": {"_target_": "Compose", "transforms": steps},
        "inferer": {"_target_": "scripts.inferer.Vista3dInferer", "roi_size": [32, 32, 32], "overlap": 0.3},
        "postprocessing": {"_target_": "Compose", "transforms": after},
    }
    image = {"modality": "CT", "channel_def": {"0": "image"}}
    formats = {"inputs": {"image": image}, "outputs": {"pred": {"channel_def": names}}}
    for name, found in (("inference", config), ("metadata", {"network_data_format": formats})):
        (tmp_path / "b" / "configs").mkdir(parents=True, exist_ok=True)
        (tmp_path / "b" / "configs" / f"{name}.json").write_text(json.dumps(found))
    (tmp_path / "b" / "models").mkdir()
    net = build("vista3d", SIZES | {"n_embeddings": 140})
    torch.save(net.state_dict(), tmp_path / "b" / "models" / "model.pt")
    card = library.read_card(imports.adopt(tmp_path / "b", to=tmp_path, name="m"))
    assert tuple(label.id for label in card.structures) == EVERYTHING
    assert tuple(card.architecture.arguments["classes"]) == EVERYTHING
    assert (card.window.size, card.window.overlap, card.window.blend) == ((32, 32, 32), 0.3, "gaussian")
    assert card.faithful == "nearest"
