"""nnU-Net's post-processing, as its files state it, becomes steps of the card; nothing in them is run."""

from __future__ import annotations

import json
import pickle
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
from test_nnunet_folders import CONTAINERS, version_1

from segcli.errors import ModelError
from segcli.models import imports, library
from segcli.models.imports import nnunet_after

LABELS = {"background": 0, "one": 1, "two": 2, "three": 3}
_NAME = "nnunetv2.postprocessing.remove_connected_components"
FUNCTION = "remove_all_but_largest_component_from_segmentation"


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """postprocessing.pkl as nnU-Net v2 writes it, made without nnU-Net."""

    def keep() -> None:
        raise AssertionError("it was run")

    keep.__module__, keep.__qualname__, keep.__name__ = _NAME, FUNCTION, FUNCTION
    module = ModuleType(_NAME)
    setattr(module, FUNCTION, keep)
    for part in ("nnunetv2", "nnunetv2.postprocessing"):
        monkeypatch.setitem(sys.modules, part, ModuleType(part))
    monkeypatch.setitem(sys.modules, _NAME, module)
    options = [{"labels_or_regions": [1, 2, 3]}, {"labels_or_regions": (1, 3)}, {"labels_or_regions": 2}]
    path = tmp_path / "postprocessing.pkl"
    path.write_bytes(pickle.dumps(([keep, keep, keep], options)))
    monkeypatch.undo()
    return path


STEPS = [
    {"step": "largest", "structures": ["one", "two", "three"], "together": True, "neighbours": 26},
    {"step": "largest", "structures": ["one", "three"], "together": True, "neighbours": 26},
    {"step": "largest", "structures": ["two"], "neighbours": 26},
]


def test_the_pickle_of_version_2_is_read_and_not_run(written: Path) -> None:
    assert nnunet_after.steps(written, LABELS) == STEPS


def test_the_json_of_version_2_says_the_same(tmp_path: Path) -> None:
    options = [{"labels_or_regions": [1, 2, 3]}, {"labels_or_regions": [1, 3]}, {"labels_or_regions": 2}]
    path = tmp_path / "postprocessing.json"
    path.write_text(json.dumps({"postprocessing_fns": [FUNCTION] * 3, "postprocessing_kwargs": options, "mean": {}}))
    assert nnunet_after.steps(path, LABELS) == STEPS


def test_version_1_connects_through_faces_and_may_spare_a_size(tmp_path: Path) -> None:
    path = tmp_path / "postprocessing.json"
    path.write_text(json.dumps({"for_which_classes": [[1, 2], 3], "min_valid_object_sizes": "{3: 12.5}"}))
    assert nnunet_after.steps(path, {}) == [
        {"step": "largest", "structures": ["1", "2"], "together": True, "neighbours": 6},
        {"step": "largest", "structures": ["3"], "neighbours": 6, "spare": 12.5},
    ]
    path.write_text(json.dumps({"for_which_classes": [1], "min_valid_object_sizes": "None"}))
    assert nnunet_after.steps(path, {}) == [{"step": "largest", "structures": ["1"], "neighbours": 6}]


class Planted:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("1 / 0",)


REFUSED = [
    ("postprocessing.pkl", pickle.dumps(([Planted()], [{}])), "eval: not allowed"),
    ("postprocessing.pkl", b"\x80\x04", "truncated"),
    ("postprocessing.json", b"[]", "not a JSON object"),
    ("postprocessing.json", b'{"postprocessing_fns": ["own"], "postprocessing_kwargs": [{}]}', "the function own"),
    ("postprocessing.json", b'{"postprocessing_fns": ["own"], "postprocessing_kwargs": []}', "1 functions and 0"),
    ("postprocessing.json", b'{"for_which_classes": [1], "min_valid_object_sizes": "f()"}', "no mapping"),
]


@pytest.mark.parametrize(("name", "data", "words"), REFUSED)
def test_what_segcli_lacks_or_would_have_to_run_is_refused(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ModelError, match=words):
        nnunet_after.steps(tmp_path / name, LABELS)


def test_an_option_that_segcli_lacks_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "postprocessing.json"
    options = [{"labels_or_regions": 1, "background_label": 4}]
    path.write_text(json.dumps({"postprocessing_fns": [FUNCTION], "postprocessing_kwargs": options}))
    with pytest.raises(ModelError, match="background_label = 4"):
        nnunet_after.steps(path, LABELS)


def test_of_several_cross_validations_that_of_the_folds_counts(tmp_path: Path) -> None:
    for name in ("crossval_results_folds_0", "crossval_results_folds_0_1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "postprocessing.json").touch()
    assert nnunet_after.found(tmp_path, ["fold_1", "fold_0"]) == (
        tmp_path / "crossval_results_folds_0_1" / "postprocessing.json"
    )
    assert nnunet_after.found(tmp_path, ["fold_2"]) is None


def test_a_folder_of_version_2_is_imported_with_its_post_processing(tmp_path: Path) -> None:
    folder = shutil.copytree(CONTAINERS / "nnunetv2_tinyct" / "model", tmp_path / "model")
    place = folder / "crossval_results_folds_0_1"
    place.mkdir()
    stated = {"postprocessing_fns": [FUNCTION], "postprocessing_kwargs": [{"labels_or_regions": [1, 2]}]}
    (place / "postprocessing.json").write_text(json.dumps(stated))
    made = library.read_card(imports.adopt(folder, to=tmp_path, name="m"))
    names = tuple(x.name for x in made.labels if x.id in (1, 2))
    assert [(step.structures, step.neighbours) for step in made.after] == [(names, 26)]


def test_a_folder_of_version_1_is_imported_with_its_post_processing(tmp_path: Path) -> None:
    folder, _ = version_1(tmp_path / "task")
    (folder / "postprocessing.json").write_text(json.dumps({"for_which_classes": [[1, 2], 2]}))
    said: list[str] = []
    given = imports.options(labels="background,organ,lesion")
    made = library.read_card(imports.adopt(folder, to=tmp_path, name="m", given=given, tell=said.append))
    assert [step.structures for step in made.after] == [("organ", "lesion"), ("lesion",)]
    assert "what is done with the labels afterwards is taken from postprocessing.json" in said
