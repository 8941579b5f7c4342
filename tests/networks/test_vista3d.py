"""VISTA3D's automatic branch gives the classes that are asked for, and no others."""

from pathlib import Path

import pytest
import torch

from segcli.errors import ModelError
from segcli.models import imports, library, weights
from segcli.networks.registry import build

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
