"""An engine and a network that an installed package adds, each in one file, used through the command line."""

import hashlib
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from models import affine, organs
from packages import example
from runs import command, scan
from safetensors.numpy import save

from segcli.engines import own
from segcli.engines.table import engines

CERTIFIED = """
import json
import sys
from pathlib import Path

from segcli.bench.certificates import card_of, certificate

print(json.dumps(certificate(card_of("one_layer", Path(sys.argv[1])))))
"""


@pytest.fixture
def added(tmp_path: Path) -> dict[str, str | None]:
    """The environment of a process that has the package."""
    return example(tmp_path / "site")


def labels(folder: Path) -> np.ndarray:
    return np.asarray(nibabel.load(folder / "t1_seg.nii.gz").dataobj)


def test_an_engine_of_a_package_labels_as_segclis_own_and_mirrors_too(
    tmp_path: Path, added: dict[str, str | None]
) -> None:
    model = organs(tmp_path / "organs", mirror=[0, 1])
    words = ["predict", scan(tmp_path / "t1.nii.gz"), "--model", model, "--threads", "1"]
    assert command(*words, "-o", tmp_path / "own", "--engine", "onnx").returncode == 0
    done = command(*words, "-o", tmp_path / "out", "--engine", "lines", env=added)
    assert done.returncode == 0, done.stderr.decode()
    assert np.array_equal(labels(tmp_path / "out"), labels(tmp_path / "own"))
    record = json.loads((tmp_path / "out" / "t1_seg.json").read_text())
    assert record["engine"]["name"] == "numpy cpu"
    assert record["versions"]["numpy"] == np.__version__
    done = command(*words, "-o", tmp_path / "tta", "--engine", "lines", "--tta", env=added)
    assert done.returncode == 0, done.stderr.decode()
    assert np.array_equal(labels(tmp_path / "tta"), labels(tmp_path / "own"))


@pytest.mark.slow
def test_what_lists_engines_lists_that_of_a_package(tmp_path: Path, added: dict[str, str | None]) -> None:
    rows = json.loads(command("doctor", "--json", env=added).stdout)["engines"]
    named = ["torch cpu", "torch cuda", "torch mps", "torch xpu", "openvino", "onnx", "onnx cuda", "onnx coreml"]
    assert [row["engine"] for row in rows] == [*named, "onnx dml", "lines"]
    assert "wrong convolution" in rows[-1]["note"]  # that one gives the cube back
    refused = command("predict", scan(tmp_path / "t1.nii.gz"), "--engine", "line", env=added)
    assert refused.returncode == 2
    assert b"did you mean 'lines'?" in refused.stderr


@pytest.mark.slow
def test_a_network_of_a_package_is_run_and_recognised(tmp_path: Path, added: dict[str, str | None]) -> None:
    weight, bias = affine()
    data = save({"layer.weight": weight, "layer.bias": bias})
    network = {"name": "one_layer", "channels": 1, "classes": 6}
    model = organs(tmp_path / "new", onnx=False, architecture=network, sha256=hashlib.sha256(data).hexdigest())
    (model / "weights.safetensors").write_bytes(data)
    words = ["predict", scan(tmp_path / "t1.nii.gz"), "--threads", "1"]
    own = command(*words, "-o", tmp_path / "own", "--engine", "onnx", "--model", organs(tmp_path / "organs"))
    assert own.returncode == 0, own.stderr.decode()
    done = command(*words, "-o", tmp_path / "out", "--engine", "torch", "--model", model, env=added)
    assert done.returncode == 0, done.stderr.decode()
    assert np.array_equal(labels(tmp_path / "out"), labels(tmp_path / "own"))
    told = command("models", "inspect", model / "weights.safetensors", "--json", env=added)
    assert b"one_layer" in told.stdout, told.stderr.decode()


@pytest.mark.slow
def test_a_network_of_a_package_is_certified_at_its_small_size(tmp_path: Path, added: dict[str, str | None]) -> None:
    done = command(tmp_path, before=("-c", CERTIFIED), env=added)
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["agreement"] >= 0.999


def test_each_engine_is_called_as_its_file(tmp_path: Path) -> None:
    assert sorted(engines()) == own()
    assert f"auto, {', '.join(own())}, or that" in " ".join(command("predict", "--help").stdout.decode().split())
