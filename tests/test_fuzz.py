"""A few damaged files of each kind, and those that were once read into an error of Python's own (tests/fuzz.py)."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from fuzz import KINDS, damaged, read
from models import CARD, affine, onnx_file
from scan_files import nifti_bytes

FIRST = 30  # seeds of each kind


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_or_refused_and_nothing_else(kind: str, tmp_path: Path) -> None:
    ends = {read(kind, damaged(kind, seed), tmp_path) for seed in range(FIRST)}
    assert "refused" in ends


CARDS: dict[str, dict[str, Any]] = {
    "a step of a list": {"intensity": [{"step": ["clip"]}]},
    "a step's value beyond floats": {"intensity": [{"step": "clip", "low": 0, "high": 10**400}]},
    "a scale from one number": {"intensity": [{"step": "scale", "low": 0, "high": 1, "from": 7}]},
    "channels of a step that are a number": {"intensity": [{"step": "clip", "low": 0, "high": 1, "channels": 0}]},
    "pairs of a number": {"pairs": [1]},
    "pairs that are a number": {"pairs": 1},
    "codes that are a number": {"codes": 1},
    "volumes that are a list": {"volumes_ml": ["liver"]},
    "a volume that is a word": {"volumes_ml": {"liver": "xy"}},
    "a place of two numbers": {"centroids_mm": {"liver": [1, 2]}},
    "a place of nothing known": {"centroids_mm": {"nose": [1, 2, 3]}},
    "weights that are a number": {"weights": 1},
    "weights that are an object": {"weights": {"model.onnx": 1}},
    "a patch beyond floats": {"patch_size": [10**400, 32, 32]},
    "an overlap beyond floats": {"overlap": 10**400},
    "a spacing beyond floats": {"spacing": [10**400, 1, 1]},
    "regions of lists": {"regions": [[1]]},
    "a transposition of one number": {"transpose": 1},
    "mirror axes of lists": {"mirror": [[0]]},
    "a smoothing of a word": {"smooth": {"sigma": "x"}},
    "an ensemble that is a number": {"ensemble": 1},
}


@pytest.mark.parametrize("fault", CARDS)
def test_a_card_is_refused_for(fault: str, tmp_path: Path) -> None:
    files = {"model.json": json.dumps({**CARD, **CARDS[fault]}).encode()}
    assert read("card", files, tmp_path) == "refused"


def test_nifti_steps_too_small_for_a_determinant_are_refused(tmp_path: Path) -> None:
    steps = (1e-38, 0, 0, 0, 0, 1e-38, 0, 0, 0, 0, 1e-38, 0)
    read("nifti", {"a.nii": b"".join(nifti_bytes(srow=steps, qform_code=0))}, tmp_path)


def test_a_data_file_with_a_name_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    head = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 1 1 1\nspacings: 1 1 1\nencoding: raw\ndata file: "
    assert read("nrrd", {"a.nhdr": f"{head}{'a' * 300}\n\n".encode()}, tmp_path) == "refused"


@pytest.mark.parametrize("text", ["", "1", "[1", "[[]]", '{"sources": 3}'])
def test_an_onnx_file_is_refused_for_a_certificate_that_is_none(text: str, tmp_path: Path) -> None:
    assert read("onnx", {"model.onnx": _noted(segcli_certificate=text)}, tmp_path) == "refused"


@pytest.mark.parametrize("text", ["", "1", "[1", "[]", '{"architecture": 3}'])
def test_an_onnx_file_with_a_card_that_is_none_is_no_finding(text: str, tmp_path: Path) -> None:
    assert read("onnx", {"model.onnx": _noted(segcli_card=text)}, tmp_path) == "read"


def test_an_onnx_file_is_refused_for_a_part_longer_than_any_file(tmp_path: Path) -> None:
    assert read("onnx", {"model.onnx": b"\x12" + b"\xff" * 9 + b"\x01"}, tmp_path) == "refused"


def test_an_onnx_file_is_refused_for_a_type_without_a_name(tmp_path: Path) -> None:
    model = _model()
    model.graph.output[0].type.tensor_type.elem_type = -32768
    assert read("onnx", {"model.onnx": model.SerializeToString()}, tmp_path) == "refused"


def test_an_onnx_file_is_refused_for_another_batch_than_it_gets(tmp_path: Path) -> None:
    model = _model()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 32767
    assert read("onnx", {"model.onnx": model.SerializeToString()}, tmp_path) == "refused"


def _model() -> Any:
    import onnx

    return onnx.load_model_from_string(onnx_file(*affine(), (32, 32, 32)))


def _noted(**notes: str) -> bytes:
    model = _model()
    for key, value in notes.items():
        model.metadata_props.add(key=key, value=value)
    return bytes(model.SerializeToString())


def test_an_onnx_file_is_refused_for_a_bias_of_another_length(tmp_path: Path) -> None:
    weight, bias = affine()
    assert read("onnx", {"model.onnx": onnx_file(weight, bias[:5], (32, 32, 32))}, tmp_path) == "refused"


def test_an_onnx_file_is_refused_for_a_name_that_is_no_text(tmp_path: Path) -> None:
    data = onnx_file(*affine(), (32, 32, 32)).replace(b"Conv", b"Con\xff")
    assert read("onnx", {"model.onnx": data}, tmp_path) == "refused"


PICKLES = {
    "a class with a null": b"\x80\x02cnn\nLin\0ear\nq\0.",
    "an encoding that is none": b"\x80\x02c_codecs\nencode\nX\x01\0\0\0aX\x06\0\0\0lati~1\x86R.",
    "an escape that is none": b"S'\\('\n.",
}


@pytest.mark.parametrize("fault", PICKLES)
def test_a_pickle_is_refused_for(fault: str, tmp_path: Path) -> None:
    assert read("torch", {"a.pt": _archive(PICKLES[fault])}, tmp_path) == "refused"


@pytest.mark.parametrize("seed", [105, 996, 1969, 2720, 2862])
def test_a_torch_file_of_a_former_finding_is_read_or_refused(seed: int, tmp_path: Path) -> None:
    assert read("torch", damaged("torch", seed), tmp_path) in ("read", "refused")


@pytest.mark.parametrize(
    ("old", "new"), [(b"a/data.pkl", b"\xe8/data.pkl"), (b"PK\1\2\x14\3\x14", b"PK\1\2\x14\3\xe6")]
)
def test_an_archive_that_zipfile_does_not_know_is_refused(old: bytes, new: bytes, tmp_path: Path) -> None:
    data = _archive(b"\x80\x02}.")
    assert old in data
    assert read("torch", {"a.pt": data.replace(old, new)}, tmp_path) == "refused"


def _archive(pickle: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as members:
        members.writestr("a/data.pkl", pickle)
    return out.getvalue()
