"""Slices are cut to the body and brought to one size as lungmask does it, and its labels come out."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lungmask_original import LOBES, ONE, SIZES, phantom, weights
from runs import in_process
from safetensors.torch import load_file, save_file

from segcli import formats
from segcli.engines.choose import open_engine
from segcli.errors import ModelError
from segcli.inference.prepare import prepare
from segcli.inference.segment import Wishes, segment
from segcli.inference.together import alike
from segcli.models import card, imports, library
from segcli.networks.registry import build
from segcli.results.after import after
from segcli.space.volume import Grid, Volume, turned

RECIPES = Path(__file__).parents[2] / "weights" / "recipes"
STORED = load_file(Path(__file__).parents[1] / "data" / "lungmask" / "labels.safetensors")
OF_TORCH = 2  # voxels of 115,280 that another torch or processor may decide otherwise: torch 2.6 does one, AVX-512 one
AXIAL = np.array([[0, 0, 1.0, -70], [0, 1.5, 0, -80], [4, 0, 0, -20], [0, 0, 0, 1]])  # array axes S, P, L


def scan(axes: str = "SPL") -> Volume:
    """The phantom, its array turned to point along `axes`; the same voxels at the same places."""
    grid = Grid(phantom().shape, AXIAL)
    there = turned(grid, axes)
    matrix = grid.to(there)[:3]
    data = np.empty(there.shape, np.int16)
    at = np.rint(np.moveaxis(np.indices(grid.shape), 0, -1) @ matrix[:, :3].T + matrix[:, 3]).astype(int)
    data[tuple(np.moveaxis(at, -1, 0))] = phantom()
    return Volume(data[None], there)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> card.ModelCard:
    return small("lungmask-r231", SIZES, "lungmask", "", tmp_path_factory.mktemp("lungmask"))


def small(recipe: str, sizes: dict[str, int], seed: str, prefix: str, to: Path) -> card.ModelCard:
    """The model of a recipe with a small network in place of the published one's size."""
    document = json.loads((RECIPES / f"{recipe}.json").read_text())
    document["architecture"] |= sizes
    (to / "small.json").write_text(json.dumps(document))
    net = build("lungmask", sizes)
    made = weights({name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}, seed)
    made |= {name: STORED[prefix + name] for name in ("last.weight", "last.bias")}
    save_file({name: tensor.contiguous() for name, tensor in made.items()}, to / "net.safetensors")
    return library.read_card(
        imports.adopt(to / "net.safetensors", to=to, recipe=str(to / "small.json"), name=recipe, replace=True)
    )


def labels(model: card.ModelCard, volume: Volume) -> Volume:
    engine = open_engine(model, engine="torch", device="cpu").engine
    return segment(volume, model.procedure, engine).labels


def test_labels_are_those_of_lungmask_before_its_last_steps(model: card.ModelCard) -> None:
    found = labels(model, scan()).data[0]
    expected = STORED["before"].numpy()
    assert len(np.unique(expected)) == 3
    assert np.count_nonzero(found != expected) <= OF_TORCH


@pytest.mark.parametrize(("name", "slices"), [("after", slice(0, 8)), ("one_slice", ONE)])
def test_labels_after_the_cards_steps_are_those_of_lungmask(model: card.ModelCard, name: str, slices: slice) -> None:
    done = []

    def steps(there: Volume) -> Volume:
        found, effects = after(there, model.labels, model.after)
        done.extend(effect.step["step"] for effect in effects)
        return found

    assert model.after_at == "model"
    assert model.procedure.by_labels
    engine = open_engine(model, engine="torch", device="cpu").engine
    chest = scan().crop((slices, slice(0, 110), slice(0, 131)))
    found = segment(chest, model.procedure, engine, wishes=Wishes(steps=steps)).labels.data[0]
    assert done == ["join", "largest", "fill"]
    assert np.count_nonzero(found != STORED[name].numpy()) <= OF_TORCH


@pytest.mark.slow
def test_lobes_are_fused_with_the_lungs_as_lungmask_fuses_them(tmp_path: Path) -> None:
    small("lungmask-ltrclobes", LOBES, "lobes", "lobes.", tmp_path)
    small("lungmask-r231", SIZES, "lungmask", "", tmp_path)
    formats.write_image(scan(), tmp_path / "chest.nii.gz")
    got = in_process("models", "get", "lungmask-ltrclobes-r231", "-o", tmp_path)
    assert (got.returncode, b"its part lungmask-r231 is here already" in got.stderr) == (0, True), got.stderr
    model = tmp_path / "lungmask-ltrclobes-r231"
    run = in_process(
        "predict", tmp_path / "chest.nii.gz", "--model", model, "--engine", "torch", "-o", tmp_path / "out"
    )
    assert run.returncode == 0, run.stderr
    found = formats.read((tmp_path / "out" / "chest_seg.nii.gz",)).data[0]
    assert np.count_nonzero(found != STORED["fused"].numpy()) <= OF_TORCH
    record = json.loads((tmp_path / "out" / "chest_seg.json").read_text())
    assert {s["name"] for s in record["structures"]} == {x.name for x in library.read_card(model).structures}
    assert "right_lung" not in str(record["structures"])


@pytest.mark.parametrize("axes", ["LPS", "IAR", "PSR"])
def test_labels_do_not_depend_on_how_the_array_is_turned(model: card.ModelCard, axes: str) -> None:
    one, other = labels(model, scan()), labels(model, scan(axes))
    back = scan(axes)
    assert other.grid.same_as(back.grid)
    points = one.grid.world(np.argwhere(one.data[0] == 1))
    at = np.rint(other.grid.index(points)).astype(int)
    assert (other.data[0][tuple(at.T)] == 1).all()
    assert (other.data == 1).sum() == (one.data == 1).sum()


def test_each_slice_has_the_box_of_its_body_and_air_its_whole(model: card.ModelCard) -> None:
    frames = prepare(scan(), model.procedure).frames
    assert frames is not None
    assert frames.parts[7] == (slice(0, 110), slice(0, 131))
    rows, columns = frames.parts[0]
    assert 10 < rows.start < 18
    assert 94 < rows.stop < 103  # the table is beneath
    assert (columns.start < 14, columns.stop > 118) == (True, True)


def test_probabilities_and_ensembles_of_cut_slices_are_refused(model: card.ModelCard) -> None:
    engine = open_engine(model, engine="torch", device="cpu").engine
    with pytest.raises(ModelError, match="gives labels alone"):
        segment(scan(), model.procedure, engine, wishes=Wishes(probabilities=True))
    with pytest.raises(ModelError, match="one cuts each slice to the body"):
        alike(model.procedure, replace(model.procedure, name="other"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"slice_axis": None, "patch_size": [8, 256, 256]}, "has the step frame, but the card has no slice_axis"),
        ({"intensity": [{"step": "frame", "above": 0, "size": [8, 8]}, {"step": "crop"}]}, "or a crop"),
        ({"intensity": [{"step": "frame", "above": 0}]}, "needs above and size"),
        ({"intensity": [{"step": "frame", "above": 0, "size": [8, 0]}]}, "has a step frame with size"),
    ],
)
def test_cards_that_cannot_cut_slices_are_refused(change: dict[str, Any], words: str) -> None:
    document = json.loads((RECIPES / "lungmask-r231.json").read_text())
    with pytest.raises(ModelError, match=words):
        card.parse({**document, **change})


@pytest.mark.parametrize("name", ["lungmask-r231", "lungmask-r231-covidweb", "lungmask-ltrclobes"])
def test_each_recipe_is_of_the_published_size(name: str) -> None:
    made = card.parse(json.loads((RECIPES / f"{name}.json").read_text()))
    with torch.device("meta"):
        net = build(made.architecture.name, made.architecture.arguments)
    # 5 levels of 64 to 1024 channels, without lungmask's unused layers
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(29.5e6, rel=0.05)
    assert net.last.out_channels == len(made.labels)
