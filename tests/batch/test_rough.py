"""A network that looks where a rough model found something: the box, its record, and what happens to an empty one."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from models import LABELS, organs
from runs import in_process, scan

import segcli
from segcli.engines.opening import Opening
from segcli.errors import ModelError
from segcli.inference.region import at_edges
from segcli.models import imports
from segcli.models.library import find


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """`whole` labels everything on the scan's own grid, `finer` the same where `whole` finds the spleen."""
    organs(tmp_path / "whole", name="whole", spacing=None)
    rough(tmp_path / "finer", structures=["spleen"])
    return tmp_path


def rough(folder: Path, **words: object) -> Path:
    return organs(folder, name=folder.name, spacing=None, rough={"model": "whole", "margin_mm": 4, **words})


def labelled(folder: Path, model: Path, *words: object) -> tuple[np.ndarray, dict]:
    out = folder / f"out_{model.name}"
    run = in_process("predict", scan(folder / "a.nii.gz"), "--model", model, "--engine", "onnx", "-o", out, *words)
    assert run.returncode == 0, run.stderr
    image = np.asarray(nibabel.load(out / "a_seg.nii.gz").dataobj)
    return image, json.loads((out / "a_seg.json").read_text())


@pytest.mark.slow
def test_a_structure_that_was_not_asked_for_is_not_told_to_be_cut_off(place: Path) -> None:
    _, record = labelled(place, place / "finer", "--classes", "spleen")
    assert not [said for said in record["warnings"] if "cut off" in said]


@pytest.mark.slow
def test_the_fine_network_looks_into_the_box_of_the_rough_one_and_nowhere_else(place: Path) -> None:
    all_of_it, _ = labelled(place, place / "whole")
    seen, record = labelled(place, place / "finer")
    spleen = np.argwhere(all_of_it == LABELS["spleen"])
    margin = np.array([2, 1, 1])  # 4 mm in steps of 2, 3 and 4 mm
    low, high = np.maximum(spleen.min(0) - margin, 0), np.minimum(spleen.max(0) + 1 + margin, all_of_it.shape)
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    inside = np.zeros_like(all_of_it)
    inside[box] = all_of_it[box]
    assert np.array_equal(seen, inside)
    assert (inside == LABELS["body"]).any(), "the box has more than the spleen"
    (crop,) = record["crops"]
    assert crop == {
        "model": "whole",
        "structures": ["spleen"],
        "margin_mm": 4,
        "found": True,
        "box": [[int(a), int(b)] for a, b in zip(low, high, strict=True)][::-1],
    }
    assert [m["name"] for m in record["model"]["members"]] == ["whole", "finer"]
    assert record["model"]["name"] == "finer"
    (cut,) = [said for said in record["warnings"] if "cut off" in said]
    assert cut.endswith(": cut off at the edge of the part that finer looked at, 4 mm around what whole found")
    assert "body" in cut
    assert "spleen" not in cut
    assert record["windows"] == 2
    again = in_process(
        "predict",
        place / "a.nii.gz",
        "--model",
        place / "finer",
        "--engine",
        "onnx",
        "-o",
        place / "out_finer",
        "--json",
    )
    assert json.loads(again.stdout)["summary"]["skipped"] == 1


def test_a_structure_ends_at_the_edge_of_a_box_or_of_the_scan() -> None:
    data = np.zeros((4, 5, 6), np.uint8)
    data[0, 2, 2], data[3, 2, 3], data[1, 1, 1], data[2, 3, 4] = 1, 2, 3, 4
    labels = segcli.Volume(data[None], segcli.Grid(data.shape, np.eye(4)))
    assert at_edges(labels, (slice(0, 4), slice(1, 4), slice(1, 5))) - {0} == {3, 4}
    assert at_edges(labels, (slice(0, 4), slice(0, 5), slice(0, 6))) == set()


@pytest.mark.slow
def test_where_the_rough_model_finds_nothing_the_whole_scan_is_looked_through_and_that_is_said(place: Path) -> None:
    model = rough(place / "lost", structures=["spine"])
    seen, record = labelled(place, model)
    assert np.array_equal(seen, labelled(place, place / "whole")[0])
    assert record["crops"][0]["found"] is False
    assert record["crops"][0]["box"] == [[0, n] for n in seen.shape[::-1]]
    assert "whole found no spine: lost looked through the whole scan" in record["warnings"]


@pytest.mark.slow
def test_rough_models_may_have_rough_models_and_parts(place: Path) -> None:
    document = json.loads((place / "whole" / "model.json").read_text())
    own = {k: v for k, v in document.items() if k not in ("weights", "sha256", "onnx", "onnx_sha256", "codes")}
    (place / "parted").mkdir()
    own |= {"name": "parted", "architecture": {"name": "parts"}, "parts": ["whole"]}
    (place / "parted" / "model.json").write_text(json.dumps(own))
    rough(place / "second", model="parted", structures=["liver", "spleen"])
    third = rough(place / "third", model="second", structures=["spleen"], margin_mm=0)
    seen, record = labelled(place, third)
    assert [crop["model"] for crop in record["crops"]] == ["parted", "second"]
    assert [m["name"] for m in record["model"]["members"]] == ["whole", "second", "third"]
    assert imports.verify(third).name == "third"
    all_of_it, _ = labelled(place, place / "whole")
    assert (seen == LABELS["spleen"]).sum() == (all_of_it == LABELS["spleen"]).sum()
    spleen = np.argwhere(all_of_it == LABELS["spleen"])
    assert (
        record["crops"][1]["box"]
        == [[int(a), int(b) + 1] for a, b in zip(spleen.min(0), spleen.max(0), strict=True)][::-1]
    )


def test_what_lies_far_from_the_rough_structures_is_no_answer(place: Path) -> None:
    model = rough(place / "near", structures=["spine"], within={"structures": ["spleen"], "mm": 0})
    seen, _ = labelled(place, model)
    all_of_it, _ = labelled(place, place / "whole")
    assert np.array_equal(seen, np.where(all_of_it == LABELS["spleen"], all_of_it, 0))


def test_why_nothing_is_labelled_where_the_rough_structures_around_which_it_may_be_are_not_there(place: Path) -> None:
    model = rough(place / "nowhere", structures=["spleen"], within={"structures": ["spine", "heart"], "mm": 0})
    seen, record = labelled(place, model)
    assert not seen.any()
    said = "whole found no spine, heart; nowhere labels only what is near these, so nothing is labelled"
    assert said in record["warnings"]


def test_steps_of_the_rough_model_come_before_the_box(place: Path) -> None:
    organs(place / "dropping", name="dropping", spacing=None, after=[{"step": "small", "mm3": 1e6}])
    model = rough(place / "after_it", model="dropping", structures=["spleen"])
    assert labelled(place, model)[1]["crops"][0]["found"] is False


def test_probabilities_and_values_that_are_not_finite_know_the_box(place: Path) -> None:
    shape = (16, 14, 12)
    data = np.zeros(shape, np.float32)
    data[6:10, 6:9, 5:8] = 300
    data[0, 0, 0] = np.nan
    volume = segcli.Volume(data[None], segcli.Grid(shape, np.diag([2.0, 2.0, 2.0, 1.0])))
    result = segcli.load(place / "finer", engine="onnx").segment(volume, probabilities=True)
    assert result.probabilities is not None
    assert np.allclose(result.probabilities[0, :4], 1)
    assert sum("NaN" in said for said in result.record["warnings"]) == 1
    assert result.record["crops"][0]["box"] == [[4, 12], [4, 11], [3, 10]]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"model": "nowhere"}, "its rough model nowhere cannot be used"),
        ({"structures": ["kidney"]}, "labels no kidney"),
        ({"within": {"structures": ["lung"], "mm": 1}}, "labels no lung"),
        ({"model": "circle"}, "has itself for a rough model"),
        ({"model": "dual"}, "its rough model dual sees T1, T2, not CT"),
    ],
)
def test_a_rough_model_that_does_not_fit_is_refused(place: Path, words: dict, said: str) -> None:
    organs(place / "dual", name="dual", channels=["T1", "T2"])
    rough(place / "circle", model="wrong", structures=["spleen"])
    wrong = rough(place / "wrong", **{"structures": ["spleen"], **words})
    with pytest.raises(ModelError, match=said):
        imports.verify(wrong)
    with pytest.raises(ModelError, match=said):
        Opening((str(wrong),), engine="onnx").open(find(str(wrong)))


def test_a_model_with_a_rough_one_is_no_member_that_a_card_names(place: Path) -> None:
    organs(place / "mean", name="mean", spacing=None, ensemble=[str(place / "finer"), str(place / "whole")])
    with pytest.raises(ModelError, match="is made of models, and a member has one network"):
        Opening((str(place / "mean"),), engine="onnx").open(find(str(place / "mean")))
