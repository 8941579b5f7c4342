"""A model of models is exported as a folder of ONNX files that is a model by itself, on machines without torch too."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from models import LABELS, of_cascade, organs
from runs import in_process, scan

from segcli.engines.export.folder import export_folder
from segcli.errors import ModelError, OutputExists, UsageError
from segcli.models.library import find, models_of


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A network behind a rough one, that is behind a rough one of two parts."""
    place = tmp_path / "models"
    for name, kept in (("soft", ("liver", "body")), ("hard", ("spleen", "spine"))):
        labels = {x if x in kept or v == 0 else f"not {x}": v for x, v in LABELS.items()}
        organs(place / name, name=name, labels=labels, codes={}, onnx=False)
    own = {
        k: v
        for k, v in json.loads((place / "soft" / "model.json").read_text()).items()
        if k not in ("weights", "sha256")
    }
    both = {"name": "both", "architecture": {"name": "parts"}, "labels": LABELS, "parts": ["soft", "hard"]}
    (place / "both").mkdir()
    (place / "both" / "model.json").write_text(json.dumps({**own, **both}))
    before = {"model": "both", "structures": ["spleen"], "margin_mm": 20}
    organs(place / "middle", name="middle", onnx=False, rough=before)
    return organs(
        place / "fine", name="fine", onnx=False, rough={"model": "middle", "structures": ["spleen"], "margin_mm": 10}
    )


def test_a_file_is_called_onnx_and_a_folder_is_not(tmp_path: Path, model: Path) -> None:
    from segcli.commands.export import export_onnx

    with pytest.raises(UsageError, match=r"net\.onnx: fine is several networks, which become a folder"):
        export_onnx(str(model), tmp_path / "net.onnx")
    one = str(organs(model.parent / "one", name="one"))
    with pytest.raises(UsageError, match=r"net\.pt: the name of an ONNX file ends in \.onnx .*name it .*net\.pt\.onnx"):
        export_onnx(one, tmp_path / "net.pt")
    with pytest.raises(UsageError, match=r"the name of an ONNX file ends in \.onnx .*name it .*one\.onnx"):
        export_onnx(one, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["models"]


@pytest.mark.slow
def test_the_folder_has_a_file_for_each_network_and_labels_as_the_model_does(tmp_path: Path, model: Path) -> None:
    out = tmp_path / "exported" / "fine"
    run = in_process("export-onnx", "--model", model, "-o", out, "--json")
    assert run.returncode == 0, run.stderr
    made = json.loads(run.stdout)
    assert sorted(made["certificates"]) == ["both/hard.onnx", "both/soft.onnx", "fine.onnx", "middle.onnx"]
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()) == [
        "both/hard.onnx", "both/model.json", "both/soft.onnx", "fine.onnx", "middle.onnx", "model.json",
    ]  # fmt: skip
    assert [card.name for card in models_of(find(str(out)))] == ["soft", "hard", "middle", "fine"]
    path = scan(tmp_path / "a.nii.gz")
    for name, place in (("theirs", model), ("own", out)):
        run = in_process("predict", path, "--model", place, "--engine", "onnx", "-o", tmp_path / name)
        assert run.returncode == 0, run.stderr
    maps = [np.asarray(nibabel.load(tmp_path / name / "a_seg.nii.gz").dataobj) for name in ("theirs", "own")]
    assert np.array_equal(*maps)
    assert maps[0].any()
    crops = [json.loads((tmp_path / name / "a_seg.json").read_text())["crops"] for name in ("theirs", "own")]
    assert crops[0] == crops[1]


@pytest.mark.slow
def test_a_cascade_is_exported_with_its_first_model_and_labels_likewise_without_it_beside(tmp_path: Path) -> None:
    own, out = of_cascade(tmp_path / "models"), tmp_path / "exported"
    run = in_process("export-onnx", "--model", own, "-o", out)
    assert run.returncode == 0, run.stderr
    assert sorted(path.name for path in out.iterdir()) == ["model.json", "organs.onnx", "second.onnx"]
    path = scan(tmp_path / "a.nii.gz")
    for name, place in (("theirs", own), ("own", out)):
        if name == "own":
            own.parent.rename(tmp_path / "gone")
        run = in_process("predict", path, "--model", place, "-o", tmp_path / name)
        assert run.returncode == 0, run.stderr
    maps = [np.asarray(nibabel.load(tmp_path / name / "a_seg.nii.gz").dataobj) for name in ("theirs", "own")]
    assert maps[0].any()
    assert np.array_equal(*maps)
    assert in_process("models", "verify", out).returncode == 0


@pytest.mark.slow
def test_verify_finds_a_file_that_was_changed_in_any_of_them(tmp_path: Path, model: Path) -> None:
    out = tmp_path / "fine"
    assert in_process("export-onnx", "--model", model, "-o", out).returncode == 0
    assert in_process("models", "verify", out).returncode == 0
    file = out / "both" / "hard.onnx"
    data = file.read_bytes()
    file.write_bytes(data.replace(b"not liver", b"no! liver"))
    run = in_process("models", "verify", out)
    assert run.returncode == 78
    assert b"hard.onnx: was changed after its export" in run.stderr
    with pytest.raises(OutputExists):
        export_folder(find(str(model)), out, lambda card, path: {})


def test_an_export_that_fails_leaves_nothing(tmp_path: Path, model: Path) -> None:
    def broken(card: object, path: Path) -> dict:
        path.write_bytes(b"half")
        raise ModelError("cannot be exported")

    with pytest.raises(ModelError, match="cannot be exported"):
        export_folder(find(str(model)), tmp_path / "out", broken)  # type: ignore[arg-type]
    assert not any(path.name.startswith((".out", "out")) for path in tmp_path.iterdir())
