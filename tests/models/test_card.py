"""A card is checked field by field before anything is loaded."""

import json
import os
from pathlib import Path

import pytest
from models import CARD, organs

from segcli import structures
from segcli.errors import ModelError
from segcli.inference.intensity import Clip, Crop, Scale
from segcli.models import card as cards
from segcli.models import library

LIES = [
    ("spacing", [0, 1, 1], "spacing"),
    ("spacing", [float("nan"), 1, 1], "spacing"),
    ("spacing", [1, 1], "spacing"),
    ("patch_size", [0, 32, 32], "patch_size"),
    ("patch_size", [32.5, 32, 32], "patch_size"),
    ("labels", {"background": 0, "liver": 1, "spleen": 1}, "liver and spleen"),
    ("labels", {"liver": 1}, "background"),
    ("labels", {"background": 0, "liver": "1"}, "whole number"),
    ("overlap", 1.0, "overlap"),
    ("overlap", -0.1, "overlap"),
    ("intensity", [{"step": "clip", "low": 275, "high": -125}], "275"),
    ("intensity", [{"step": "clip", "low": 0}], "low and high"),
    ("intensity", [{"step": "standardise", "mean": 0, "sd": 0}], "above 0"),
    ("intensity", [{"step": "blur"}], "blur"),
    ("intensity", [{"step": "clip", "low": 0, "high": 1, "hihg": 2}], "hihg"),
    ("orientation", "RAR", "orientation"),
    ("interpolation", "lanczos", "linear"),
    ("back", "corners", "nearest, values"),
    ("whole", "yes", "true or false"),
    ("faithful", "logits", "nearest, values"),
    ("format", 2, "format"),
    ("channels", [], "channels"),
    ("codes", {"lung": "SCT 1"}, "lung"),
    ("pairs", [["liver", "lung"]], "pairs"),
    ("colours", {"liver": "red"}, "rrggbb"),
]


@pytest.mark.parametrize(("field", "value", "words"), LIES)
def test_5_4_a_lie_in_a_card_is_refused_by_name(field: str, value: object, words: str) -> None:
    with pytest.raises(ModelError, match=words) as refusal:
        cards.parse({**CARD, field: value})
    assert field in refusal.value.message


def test_5_4_an_unknown_field_is_refused_with_the_nearest_known_one() -> None:
    with pytest.raises(ModelError, match="'spacng'; did you mean 'spacing'"):
        cards.parse({**CARD, "spacng": [1, 1, 1]})


@pytest.mark.parametrize("field", ["name", "labels", "patch_size", "architecture"])
def test_a_missing_field_is_named(field: str) -> None:
    with pytest.raises(ModelError, match=f"{field} is missing"):
        cards.parse({k: v for k, v in CARD.items() if k != field})


def test_the_scale_after_a_clip_refers_to_the_clips_window() -> None:
    steps = cards.parse(CARD).prepare
    assert Clip(-1000, 1000) in steps
    assert Scale(0, 1, (-1000, 1000)) in steps


def test_of_equal_scales_only_the_one_behind_a_clip_takes_its_window() -> None:
    scale = {"step": "scale", "low": 0, "high": 1}
    steps = cards.parse({**CARD, "intensity": [scale, {"step": "clip", "low": -2, "high": 2}, scale]}).prepare
    assert [s.source for s in steps if isinstance(s, Scale)] == [None, (-2, 2)]


def test_the_crop_of_the_short_form_comes_last() -> None:
    assert cards.parse({**CARD, "crop": "positive"}).prepare[-1] == Crop(above=0.0)


def test_labels_keep_their_numbers_and_channels_their_order() -> None:
    card = cards.parse({**CARD, "codes": {}, "labels": {"background": 0, "b": 53, "a": 17}})
    assert card.decide.values == (0, 53, 17)
    assert [label.name for label in card.structures] == ["b", "a"]


@pytest.mark.parametrize("name", ["../weights.pt", "/etc/passwd", "a/b", ".."])
def test_5_2_a_part_that_leads_outside_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ModelError, match="not allowed"):
        cards.part(tmp_path, name)


def test_5_2_a_link_that_leads_outside_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights.pt").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelError, match="outside"):
        cards.part(folder, "weights.pt")


def test_links_of_a_snapshot_in_hugging_faces_cache_lead_to_the_files_beside_it(tmp_path: Path) -> None:
    cache, snapshot = tmp_path / "models--me--organs", tmp_path / "models--me--organs" / "snapshots" / "4d7a"
    organs(cache / "blobs")
    snapshot.mkdir(parents=True)
    for file in (cache / "blobs").iterdir():
        (snapshot / file.name).symlink_to(Path("..", "..", "blobs", file.name))
    card = library.find(str(snapshot))
    assert card.file("weights.safetensors").is_file()
    (tmp_path / "secret").write_text("x")
    (cache / "blobs" / "linked").symlink_to(tmp_path / "secret")
    (snapshot / "secret").symlink_to(cache / "blobs" / "linked")
    with pytest.raises(ModelError, match="outside"):
        card.file("secret")


def test_a_model_is_found_by_name_folder_and_card_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = organs(tmp_path / "organs")
    monkeypatch.setenv("SEGCLI_WEIGHTS", str(tmp_path))
    assert library.find("organs").folder == folder
    assert library.find(str(folder)).name == "organs"
    assert library.find(str(folder / "model.json")).name == "organs"
    assert "organs" in [f.name for f in library.installed()]


@pytest.mark.parametrize("name", ["my organs", "organs+fat", "Organe (1)", "臓器"])
def test_a_model_that_is_listed_is_found_by_the_name_in_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = organs(tmp_path / name)
    monkeypatch.setenv("SEGCLI_WEIGHTS", str(tmp_path))
    assert name in [f.name for f in library.installed()]
    assert library.find(name).folder == folder


def test_a_hidden_folder_and_one_that_may_not_be_looked_into_are_no_models_of_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("organs", ".organs.being-made", "private"):
        organs(tmp_path / name)
    monkeypatch.setenv("SEGCLI_WEIGHTS", str(tmp_path))
    there = Path.is_file

    def is_file(path: Path) -> bool:
        if path.parent.name == "private":  # as the system says of a folder of somebody else
            raise PermissionError(13, "Permission denied", str(path))
        return there(path)

    monkeypatch.setattr(Path, "is_file", is_file)
    assert [f.name for f in library.installed() if f.folder.parent == tmp_path] == ["organs"]
    with pytest.raises(ModelError, match="no model 'private' found"):
        library.find("private")


def test_a_folder_of_another_kind_does_not_hide_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "uxnet").mkdir()
    assert library.find("uxnet").folder != tmp_path / "uxnet"
    organs(tmp_path / "uxnet")
    assert library.find("uxnet").name == "organs"
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ModelError, match=r"nothing: model\.json not found"):
        library.find("nothing")


def test_an_unknown_model_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ModelError, match="no model 'uxnte' found; did you mean 'uxnet'"):
        library.find("uxnte")


def test_the_default_model_is_complete() -> None:
    card = library.find("uxnet")
    assert card.folder is not None
    assert card.file(card.weights[0]).is_file()
    assert card.onnx is not None
    assert card.file(card.onnx).is_file()
    assert len(card.structures) == 32
    assert {label.id for label in card.structures} >= {2, 3, 17, 41, 42, 53}
    assert sum(p.stat().st_size for p in card.folder.iterdir()) < 30e6
    for label in card.structures:
        if label.name.startswith("left_"):
            assert label.pair == label.name.replace("left_", "right_")


def test_a_card_inside_an_onnx_file_is_read_without_the_library(tmp_path: Path) -> None:
    import onnx

    folder = organs(tmp_path / "organs")
    model = onnx.load(folder / "model.onnx")
    model.metadata_props.add(key="segcli", value=json.dumps({**CARD, "name": "inside"}))
    onnx.save(model, tmp_path / "one.onnx")
    card = library.find(str(tmp_path / "one.onnx"))
    assert (card.name, card.onnx, card.weights) == ("inside", "one.onnx", ())


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_card_as_windows_writes_text_is_read(tmp_path: Path, encoding: str) -> None:
    folder = organs(tmp_path / "organs")
    text = (folder / "model.json").read_text(encoding="utf-8").replace('"liver"', '"größe"')
    (folder / "model.json").write_text(text, encoding=encoding)
    assert library.find(str(folder)).labels[2].name == "größe"


def test_a_model_without_a_name_is_none_and_the_working_folder_has_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ModelError, match=r"^a model has an empty name"):
        library.find("")
    with pytest.raises(ModelError, match=r"^here: model\.json not found"):
        library.find(".")


def test_a_card_that_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text("{")
    with pytest.raises(ModelError, match="not JSON"):
        library.read_card(tmp_path)


def test_pairs_come_from_names_but_not_for_the_chambers_of_the_heart() -> None:
    names = ["background", "kidney_left", "kidney_right", "Left-Lung", "Right-Lung", "left_atrium", "right_atrium"]
    assert structures.named_pairs(names) == [("kidney_left", "kidney_right"), ("Left-Lung", "Right-Lung")]
    assert structures.named_pairs(["left_lateral_ventricle", "right_lateral_ventricle"]) != []
    assert structures.named_pairs(["left_ventricle", "right_ventricle"]) == []
    assert structures.named_pairs(["left lung", "right lung"]) == [("left lung", "right lung")]
    assert structures.named_pairs(["ctx-lh-cuneus", "ctx-rh-cuneus"]) == [("ctx-lh-cuneus", "ctx-rh-cuneus")]
    assert structures.named_pairs(["kidney_L", "kidney_R", "vertebrae_L1"]) == [("kidney_L", "kidney_R")]
    card = cards.parse({**CARD, "codes": {}, "labels": {"background": 0, "lung_left": 1, "lung_right": 2}})
    assert [label.pair for label in card.labels] == [None, "lung_right", "lung_left"]


def test_without_an_orientation_no_pair_is_taken_from_names() -> None:
    labels = {"background": 0, "lung_left": 1, "lung_right": 2}
    card = cards.parse({**CARD, "codes": {}, "orientation": None, "labels": labels})
    assert not any(label.pair for label in card.labels)


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".hidden", "a\nb"])
def test_2_11_a_name_that_could_be_a_path_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="name"):
        cards.parse({**CARD, "name": name})


def test_the_anchor_corners_wants_the_resampling_first() -> None:
    clip = {"step": "clip", "low": -1000, "high": 1000}
    with pytest.raises(ModelError, match=r"anchor .*resample"):
        cards.parse({**CARD, "anchor": "corners", "intensity": [clip, {"step": "resample"}]})
    card = cards.parse({**CARD, "anchor": "corners", "intensity": [{"step": "resample", "whole": True}, clip]})
    assert card.grid.anchor == "corners"


def test_a_card_that_is_shown_whole_images_has_no_graph_which_takes_windows_of_one_size() -> None:
    assert cards.parse({**CARD, "whole": True}).window.whole
    for fields in ({"onnx": "model.onnx"}, {"weights": "model.onnx"}, {"slice_axis": 0, "patch_size": [1, 32, 32]}):
        with pytest.raises(ModelError, match="networks of three axes without an ONNX file"):
            cards.parse({**CARD, "whole": True, **fields})


def test_the_list_of_models_leaves_out_shadowed_ones_and_says_what_one_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("first", "second"):
        organs(tmp_path / place / "organs")
    (organs(tmp_path / "first" / "bare", onnx=False) / "weights.safetensors").unlink()
    (organs(tmp_path / "first" / "graph") / "weights.safetensors").unlink()
    monkeypatch.setenv("SEGCLI_WEIGHTS", f"{tmp_path / 'first'}{os.pathsep}{tmp_path / 'second'}")
    found = {f.name: f for f in library.installed()}
    assert found["organs"].folder == tmp_path / "first" / "organs"
    assert found["bare"].problem == "lacks weights.safetensors"
    assert found["graph"].problem is None


def test_a_file_that_is_no_model_and_one_without_a_card_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ModelError, match=r"notes\.txt: not a model folder, an \.onnx or a \.safetensors file"):
        library.find(str(tmp_path / "notes.txt"))
    (tmp_path / "bare.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    with pytest.raises(ModelError, match=r"bare\.safetensors: has no segcli card inside"):
        library.find(str(tmp_path / "bare.safetensors"))
