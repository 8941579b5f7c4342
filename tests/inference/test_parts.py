"""A model that is made of models: their labels put together by name, later over earlier, one record for all."""

import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from models import CARD, LABELS, organs
from runs import in_process, scan

import segcli
from segcli.engines.opening import Opening
from segcli.errors import ModelError, OutputError, UsageError
from segcli.inference import parts as parts_module
from segcli.inference.decide import Decision
from segcli.inference.parts import Part, segment_parts
from segcli.inference.segment import Wishes, segment
from segcli.inference.together import Member
from segcli.models import composed as of_parts
from segcli.models import imports, library
from segcli.models.library import find, parts_of

TEN = Decision(values=tuple(range(10)))
NUMBERS = {"background": 0, "heart": 1, "spine": 2, "spleen": 3, "liver": 4, "body": 5}


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A model of two parts beside its folder: one names body and liver, the other the rest; numbers of its own."""
    _part(tmp_path / "soft", {"body": 1, "liver": 2})
    _part(tmp_path / "others", {"spleen": 3, "heart": 4, "spine": 5})
    return composed(tmp_path / "whole", parts=["soft", "others"])


def _part(folder: Path, kept: dict[str, int], **changes: object) -> Path:
    """The tests' model, whose structures other than `kept` have names that the whole does not know."""
    labels = {name if name in kept or value == 0 else f"not {name}": value for name, value in LABELS.items()}
    return organs(folder, name=folder.name, labels=labels, codes={}, **changes)


def composed(folder: Path, **changes: object) -> Path:
    folder.mkdir()
    own = {k: v for k, v in CARD.items() if k not in ("weights", "codes")}
    document = {**own, "name": folder.name, "architecture": {"name": "parts"}, "labels": NUMBERS, **changes}
    (folder / "model.json").write_text(json.dumps(document))
    return folder


@pytest.mark.slow
def test_each_part_labels_its_own_structures_with_the_numbers_of_the_whole(tmp_path, whole):
    path = scan(tmp_path / "a.nii.gz")
    for name in ("whole", "soft"):
        run = in_process(
            "predict", path, "--model", tmp_path / name, "--engine", "onnx", "-o", tmp_path / f"out_{name}"
        )
        assert run.returncode == 0, run.stderr
    labels, alone = (
        np.asarray(nibabel.load(tmp_path / f"out_{name}" / "a_seg.nii.gz").dataobj) for name in ("whole", "soft")
    )
    table = np.array([NUMBERS[name] for name in LABELS])
    assert len(np.unique(alone)) > 3, "the scan has structures of both parts"
    assert (labels == table[alone]).all()
    record = json.loads((tmp_path / "out_whole" / "a_seg.json").read_text())
    assert record["model"]["name"] == "whole"
    assert [m["name"] for m in record["model"]["members"]] == ["soft", "others"]
    found = {NUMBERS[s["name"]] for s in record["structures"] if s["voxels"]}
    assert {int(key) for key in record["confidence"]} - {0} >= found
    again = in_process("predict", path, "--model", whole, "--engine", "onnx", "-o", tmp_path / "out_whole", "--json")
    assert json.loads(again.stdout)["summary"]["skipped"] == 1


def test_a_later_part_has_the_last_word_and_parts_that_are_not_wanted_do_not_run(tmp_path, monkeypatch):
    card = find(str(organs(tmp_path / "organs")))
    opened = Opening((str(tmp_path / "organs"),), engine="onnx").open(card)
    from segcli import formats

    volume = formats.read((scan(tmp_path / "a.nii.gz"),))
    member = Member(card.procedure, opened.engine)
    alone = segment(volume, card.procedure, opened.engine).labels.data
    prepared = []
    true = parts_module.prepare
    monkeypatch.setattr(parts_module, "prepare", lambda *words: prepared.append(1) or true(*words))
    both = segment_parts(volume, [Part(member, {1: 7, 2: 8}), Part(member, {2: 9})], TEN)
    assert (both.labels.data == np.array([0, 7, 9, 0, 0, 0])[alone]).all()
    assert len(prepared) == 1, "two parts that see the scan alike share what they are shown"
    other = Member(replace(card.procedure, outside=-500.0), opened.engine)
    segment_parts(volume, [Part(member, {1: 1}), Part(other, {2: 2})], TEN)
    assert len(prepared) == 3


def test_labels_lie_within_a_later_part_which_takes_what_was_left_open(tmp_path, whole):
    card = find(str(organs(tmp_path / "organs")))
    member = Member(card.procedure, Opening((str(tmp_path / "organs"),), engine="onnx").open(card).engine)
    from segcli import formats

    volume = formats.read((scan(tmp_path / "a.nii.gz"),))
    alone = segment(volume, card.procedure, member.engine).labels.data
    parts = [Part(member, {1: 7, 2: 8}), Part(member, {2: 5, 3: 6})]
    found = segment_parts(volume, parts, TEN, fusion="within")
    assert (found.labels.data == np.array([0, 0, 8, 6, 0, 0])[alone]).all()
    with pytest.raises(ModelError, match="whose parts bound each other gives labels alone"):
        segment_parts(volume, parts, TEN, wishes=Wishes(probabilities=True), fusion="within")
    bounded = find(str(composed(tmp_path / "bounded", parts=["soft", "others"], fusion="within")))
    assert library.needed(bounded, parts_of(bounded), {"liver"}) == parts_of(bounded)


@pytest.mark.slow
def test_only_parts_of_the_classes_asked_for_run(tmp_path, whole):
    path = scan(tmp_path / "a.nii.gz")
    run = in_process(
        "predict", path, "--model", whole, "--engine", "onnx", "--classes", "liver", "-o", tmp_path / "out"
    )
    assert run.returncode == 0, run.stderr
    record = json.loads((tmp_path / "out" / "a_seg.json").read_text())
    full = in_process("predict", path, "--model", whole, "--engine", "onnx", "-o", tmp_path / "all")
    assert full.returncode == 0
    assert record["windows"] * 2 == json.loads((tmp_path / "all" / "a_seg.json").read_text())["windows"]
    assert [s["name"] for s in record["structures"]] == ["liver"]


@pytest.mark.parametrize(
    ("parts", "changes", "said"),
    [
        (["soft", "nowhere"], {}, "its part nowhere cannot be used"),
        (["soft", "twins"], {}, "is made of parts itself"),
        (["soft", "strange"], {}, "has no structure of the same name"),
        (["soft", "dual"], {}, "is no part of it: it sees T1, T2"),
        (["soft", "stepped"], {}, "has steps after its network"),
        (["soft", "looking"], {}, "has a rough model before it"),
        (["soft"], {"weights": "w.safetensors"}, "has no network of its own"),
        (["soft", "soft"], {}, "names a model twice"),
    ],
)
def test_what_is_no_part_is_refused(tmp_path, whole, parts, changes, said):
    composed(tmp_path / "twins", parts=["soft"])
    _part(tmp_path / "strange", {})
    _part(tmp_path / "stepped", {"body": 1}, after=[{"step": "drop", "structures": ["body"]}])
    _part(tmp_path / "looking", {"body": 1}, rough={"model": "soft", "structures": ["liver"]})
    _part(tmp_path / "dual", {"body": 1}, channels=["T1", "T2"])
    folder = composed(tmp_path / "wrong", parts=parts, **changes)
    with pytest.raises(ModelError, match=said):
        imports.verify(folder)


def test_what_parts_cannot_do_is_refused(tmp_path, whole):
    with pytest.raises(ModelError, match="are no ensemble: heart"):
        Opening((str(whole), str(tmp_path / "soft"))).open(find(str(whole)))
    with pytest.raises(UsageError, match="label different structures"):
        Opening((str(whole),), votes=True).open(find(str(whole)))


def test_probabilities_are_those_of_each_structure_in_its_own_part(tmp_path, whole):
    path = scan(tmp_path / "a.nii.gz")
    both = segcli.load(whole, engine="onnx").segment(path, probabilities=True).probabilities
    soft = segcli.load(tmp_path / "soft", engine="onnx").segment(path, probabilities=True).probabilities
    others = segcli.load(tmp_path / "others", engine="onnx").segment(path, probabilities=True).probabilities
    for name, number in NUMBERS.items():
        own = soft if name in ("body", "liver") else others
        if number:
            assert np.array_equal(both[number], own[LABELS[name]]), name
    assert np.allclose(both[0], np.maximum(1 - both[1:].sum(axis=0), 0), atol=1e-6)


def test_verify_looks_into_every_part(tmp_path, whole):
    assert imports.verify(whole).name == "whole"
    path = tmp_path / "others" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(ModelError, match="checksum"):
        imports.verify(whole)


def test_a_card_that_cannot_be_written_leaves_no_folder_with_its_name(tmp_path, whole, monkeypatch):
    def full(*_):
        raise OutputError("no space left")

    parts = parts_of(find(str(whole)))
    before = {path: sorted(path.iterdir()) for path in tmp_path.iterdir()}
    monkeypatch.setattr(of_parts.written, "write_card", full)
    with pytest.raises(OutputError):
        of_parts.write("new", ["liver", "heart"], parts, tmp_path, replace=False)
    assert {path: sorted(path.iterdir()) for path in tmp_path.iterdir()} == before
    monkeypatch.undo()
    made = of_parts.write("new", ["liver", "heart"], parts, tmp_path, replace=False)
    assert [label.name for label in find(str(made)).structures] == ["liver", "heart"]
