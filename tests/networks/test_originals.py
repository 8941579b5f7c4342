"""Networks give the answers of the originals that `originals.py` runs, in each engine, and tensors tell their sizes."""

import json
from pathlib import Path

import pytest
import torch
from golden import DATA, Exported, agree, export, read
from originals import LARGEST, ORIGINALS, tally
from safetensors import safe_open

from segcli.networks import mednext, stunet
from segcli.networks.registry import Inferred, build, infer

# Arguments that no tensor tells, by family.
SILENT = {
    "stunet": {"pool_op_kernel_sizes"},
    "mednext": {"do_res"},
    "dints": {"node_a"},
    "unest": {"num_heads"},
    "unetr_monai": {"num_heads"},
    "vista3d": {"classes"},
}


def file(name: str) -> Path:
    return DATA / "formula" / f"{name}.safetensors"


@pytest.mark.parametrize("name", ORIGINALS)
def test_a_network_answers_as_its_original(name: str) -> None:
    agree(file(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGEST)
def test_a_network_with_the_layers_of_its_largest_size_answers_as_its_original(name: str) -> None:
    agree(file(name))


SIZED = {
    **{f"stunet_{size}": stunet.sized(size, 1, 105, [[2, 2, 2]] * 5) for size in stunet.SIZES},
    **{f"mednext_{size}_k{kernel}": mednext.sized(size, kernel, 1, 14) for size in mednext.SIZES for kernel in (3, 5)},
}


@pytest.mark.parametrize(("name", "found"), SIZED.items(), ids=SIZED)
def test_each_published_size_has_the_tensors_of_its_original(name: str, found: Inferred) -> None:
    wanted = json.loads((DATA / "sizes.json").read_text(encoding="utf-8"))[name]
    with torch.device("meta"):
        net = build(found.family, found.config)
    assert {"source": wanted["source"], **tally(net)} == wanted


@pytest.mark.parametrize("name", ORIGINALS)
def test_the_arguments_are_read_from_the_tensors_or_said_to_be_unsure(name: str) -> None:
    golden = read(file(name))
    with safe_open(file(name), "pt") as stored:
        shapes = json.loads(stored.metadata()["shapes"])
    (guess,) = infer({key: tuple(shape) for key, shape in shapes.items()})
    told = {key: value for key, value in golden.config.items() if key not in SILENT.get(guess.family, ())}
    assert guess.config | told == guess.config
    assert SILENT.get(guess.family, set()) <= guess.unsure.keys()


def test_a_dints_told_by_its_tensors_alone_runs_though_no_path_ends_in_one_resolution() -> None:
    golden = read(file("dints_a"))
    (guess,) = infer({key: tuple(tensor.shape) for key, tensor in golden.weights.items()})
    assert guess.config["node_a"] == [[1, 1, 1, 1]] * 3 + [[1, 1, 1, 0]]
    with torch.inference_mode():
        assert build(guess.family, guess.config)(golden.input).shape == (1, 3, *golden.input.shape[2:])


@pytest.fixture(scope="module", params=ORIGINALS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export(file(request.param), tmp_path_factory.mktemp("onnx") / "model.onnx")


@pytest.mark.slow
def test_onnx_runtime_answers_alike_for_any_batch(exported: Exported) -> None:
    exported.in_onnx_runtime()


def test_openvino_answers_alike_window_by_window(exported: Exported) -> None:
    # Behind a convolution its instance norm adds all voxels up in float32: UNesT is off by 4e-4, at 64 voxels a side.
    exported.in_openvino(times=4)
