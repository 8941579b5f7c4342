"""Networks give the answers of the originals that `originals.py` runs, in each engine, and tensors tell their sizes."""

import json
from pathlib import Path

import pytest
from golden import DATA, Exported, agree, export, read
from originals import ORIGINALS
from safetensors import safe_open

from segcli.networks.registry import infer

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


@pytest.mark.parametrize("name", ORIGINALS)
def test_the_arguments_are_read_from_the_tensors_or_said_to_be_unsure(name: str) -> None:
    golden = read(file(name))
    with safe_open(file(name), "pt") as stored:
        shapes = json.loads(stored.metadata()["shapes"])
    (guess,) = infer({key: tuple(shape) for key, shape in shapes.items()})
    told = {key: value for key, value in golden.config.items() if key not in SILENT.get(guess.family, ())}
    assert guess.config | told == guess.config
    words = {"num_heads": "heads"}
    assert all(any(words.get(w, w) in said for said in guess.unsure) for w in SILENT.get(guess.family, ()))


@pytest.fixture(scope="module", params=ORIGINALS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export(file(request.param), tmp_path_factory.mktemp("onnx") / "model.onnx")


def test_onnx_runtime_answers_alike_for_any_batch(exported: Exported) -> None:
    exported.in_onnx_runtime()


def test_openvino_answers_alike_window_by_window(exported: Exported) -> None:
    # Behind a convolution its instance norm adds all voxels up in float32: UNesT is off by 4e-4, at 64 voxels a side.
    exported.in_openvino(times=4)
