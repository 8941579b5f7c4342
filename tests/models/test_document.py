"""A card's document: each field within its bounds, in Python and in the stored JSON Schema alike."""

import copy
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import CARD

import segcli
from segcli.documents import loads
from segcli.errors import ModelError
from segcli.models import embedded, library
from segcli.models.card import parse
from segcli.models.document import CardDocument, schema

WEIGHTS = Path(__file__).parents[2] / "weights"
STORED = Path(segcli.__file__).parent / "schemas" / "card.schema.json"
TINY = {k: v for k, v in CARD.items() if k in ("format", "name", "architecture", "channels", "labels", "patch_size")}
FIELDS = [f.encode_name for f in msgspec.structs.fields(CardDocument)]
SCHEMA = json.loads(json.dumps(schema()))
NAN, INF = math.nan, math.inf

# A card in which every field says something, so that each can be changed alone.
FULL: dict[str, Any] = {
    **CARD,
    "sha256": "a" * 64,
    "onnx": "model.onnx",
    "onnx_sha256": "B" * 64,
    "engines": ["onnx", "openvino"],
    "modality": "CT",
    "transpose": [0, 1, 2],
    "smooth": {"sigma": 0.25, "finer": 0.75},
    "coarse": 3,
    "intensity": [
        {"step": "resample"},
        {"step": "percentiles", "low": 0.5, "high": 99.5, "epsilon": 0.001},
        {"step": "clip", "low": -1000, "high": 1000, "channels": [0]},
        {"step": "scale", "low": 0, "high": 1, "from": [-1000, 1000]},
        {"step": "standardise", "mean": 0.5, "sd": 0.1, "where": "nonzero", "epsilon": 1e-8},
        {"step": "crop", "above": None, "margin": 2, "outside": 0},
        {"step": "outside", "value": 0},
    ],
    "crop": "none",
    "outside": -1024,
    "sigma": 0.125,
    "centre": "voxel",
    "floor": 1e-11,
    "steps": "even",
    "padding": "edge",
    "skip": False,
    "whole": False,
    "faithful": "nearest",
    "sums": "float16",
    "outputs": None,
    "previous_by": "half",
    "slice_axis": None,
    "slices": 1,
    "mirror": [0, 2],
    "half": True,
    "average": "probabilities",
    "back": "probabilities",
    "ensemble_average": "probabilities",
    "regions": [1, 2, 3, 4, 5],
    "after": [{"step": "largest", "neighbours": 6}],
    "after_at": "scan",
    "colours": {"liver": "#aA5500"},
    "pairs": [["liver", "spleen"]],
    "volumes_ml": {"liver": [800, 2500.5]},
    "made_for": {"ages": [18, 90.5], "body_parts": ["ABDOMEN"], "contrast": True, "sequences": ["T1", "FLAIR"]},
    "not_scored": ["spleen"],
    "volumes_by_size": ["liver"],
    "volumes_source": "20 adults\nin two lines",
    "centroids_mm": {"liver": [-40.5, 0, 12]},
    "checks": {"confidence": 0.33, "confidence_of_all": None, "misplaced_mm": 18, "proportion": 1.18},
    "ensemble": ["other", "folder/of another"],
    "previous": None,
    "shape": None,
    "blank": 0,
    "fusion": "over",
    "parts": [],
    "rough": {"model": "other", "structures": ["liver"], "margin_mm": 20, "within": {"structures": ["a"], "mm": 5}},
    "notes": "any text: é, 肝, ≥",
}


def step(kind: str, **values: Any) -> dict[str, Any]:
    return {"intensity": [{"step": kind, **values}]}


def labels(*names: str) -> dict[str, Any]:
    return {"labels": {"background": 0} | {name: i for i, name in enumerate(names, 1)}, "codes": {}}


# What was once taken as it stood, and ended in an internal error or in another meaning: the fields, a word of the
# refusal.
HOSTILE: list[tuple[dict[str, Any], str]] = [
    ({"smooth": {"finer": 0}}, "finer"),
    ({"smooth": {"sigma": -1}}, "sigma"),
    ({"smooth": {"sigma": NAN}}, "sigma"),
    ({"smooth": {"sigam": 1}}, "sigma"),
    (step("crop", margin=1.5), "margin"),
    (step("crop", margin=-500), "margin"),
    (step("crop", margin=True), "margin"),
    (step("crop", margin=10**30), "margin"),
    (step("crop", above="0"), "above"),
    (step("crop", channels=[0]), "channels"),
    (step("resample", channels=[0]), "channels"),
    (step("percentiles", low=-5, high=300), "low"),
    (step("percentiles", low=5, high=300), "high"),
    (step("percentiles", low=99, high=1), "not below"),
    (step("percentiles", low=0, high=1, epsilon=-1), "epsilon"),
    (step("clip", low=NAN, high=1), "low"),
    (step("clip", low=0, high=INF), "high"),
    (step("clip", low=0, high=10**400), "high"),
    (step("clip", low=0, high=True), "high"),
    (step("clip", low=0, high=1, channels=[1]), "beyond the 1"),
    (step("clip", low=0, high=1, channels=[-1]), "channels"),
    (step("clip", low=0, high=1, channels=[0, 0]), "twice"),
    (step("clip", low=0, high=1, channels=[]), "channels"),
    (step("scale", low=0, high=1, **{"from": [2, 1]}), "below"),
    (step("standardise", mean=1), "mean alone"),
    (step("standardise", sd=1), "sd alone"),
    (step("standardise", mean=1, sd=-1), "above 0"),
    (step("standardise", mean=1, sd=1e-300), "sd"),
    (step("standardise", where="brain"), "nonzero"),
    (step("outside"), "value"),
    ({"intensity": [{"step": "resample"}, {"step": "resample"}]}, "twice"),
    ({"intensity": [{"low": 1}]}, "None"),
    ({"intensity": {"step": "resample"}}, "list of steps"),
    ({"intensity": [[]]}, "None"),
    ({"codes": {"liver": 10200004}}, "'liver'"),
    ({"codes": {"liver": ""}}, "'liver'"),
    ({"codes": {"liver": "SCT"}}, "'liver'"),
    ({"codes": {"liver": None}}, "'liver'"),
    ({"skip": "no"}, "true or false"),
    ({"whole": 1}, "true or false"),
    ({"shape": [8, 8, 8]}, "stands beside a spacing"),
    ({"shape": None, "interpolation": "area"}, "shape.* is null, but interpolation, back or faithful is area"),
    ({"shape": None, "faithful": "area"}, "shape.* is null, but interpolation, back or faithful is area"),
    ({"blank": 65}, "is not a whole number from 0 to 64"),
    ({"blank": 1, "previous": "first"}, "is above 0, of a network of three axes"),
    ({"faithful": "linear"}, "null or one of area, nearest, values"),
    ({"sums": "float64"}, "one of float32, float16"),
    ({"previous": ""}, "null or a model"),
    ({"previous_by": "nearest"}, "one of largest, half"),
    ({"half": "false"}, 'true, false or "bfloat16"'),
    ({"half": 0}, 'true, false or "bfloat16"'),
    ({"mirror": [0, 0]}, "twice"),
    ({"mirror": [True]}, "mirror"),
    ({"mirror": [3]}, "mirror"),
    ({"channels": ["CT", "CT"]}, "alike"),
    ({"channels": ["T1", "t1"]}, "differ only in capital letters"),
    ({"channels": [""]}, "channels"),
    ({"channels": ["C\nT"]}, "channels"),
    ({"sigma": -0.1}, "sigma"),
    ({"sigma": 0}, "sigma"),
    ({"sigma": True}, "sigma"),
    ({"floor": 5}, "floor"),
    ({"floor": 0}, "floor"),
    ({"floor": 1e-300}, "floor"),
    ({"overlap": 0.999999}, "overlap"),
    ({"overlap": NAN}, "overlap"),
    ({"overlap": True}, "overlap"),
    ({"coarse": 0.5}, "coarse"),
    ({"coarse": -3}, "coarse"),
    ({"outside": "air"}, "outside"),
    ({"volumes_ml": {"liver": [2500, 800]}}, "not below"),
    ({"volumes_ml": {"liver": [-1, 800]}}, "'liver'"),
    ({"volumes_ml": {"liver": [0, INF]}}, "'liver'"),
    ({"volumes_ml": {"liver": [True, 800]}}, "'liver'"),
    ({"centroids_mm": {"liver": [0, 0, 1e9]}}, "'liver'"),
    ({"pairs": [["liver", "liver"]]}, "two names"),
    ({"pairs": [["liver", "spleen"], ["liver", "heart"]]}, "partners"),
    ({"pairs": [["liver", "background"]]}, "two names"),
    ({"pairs": [["liver", "spleen", "heart"]]}, "pairs"),
    ({"regions": []}, "regions"),
    ({"regions": [True]}, "regions"),
    ({"regions": [9]}, "regions"),
    (labels(""), "''"),
    (labels("all"), "'all'"),
    (labels("ALL"), "'ALL'"),
    (labels("li\x00ver"), r"li\\x00ver"),
    (labels("li\x1b[31mver"), r"x1b"),
    (labels("li\nver"), r"li\\nver"),
    (labels("li\u2028ver"), "u2028"),
    (labels("\u202erevil"), "u202e"),
    (labels("\ud800"), "ud800"),
    (labels('=HYPERLINK("x")'), "HYPERLINK"),
    (labels("+1"), r"'\+1'"),
    (labels("-1"), "'-1'"),
    (labels("@sum"), "'@sum'"),
    (labels("\uff1d1+1"), "1\\+1"),  # as wide as a letter of Chinese
    (labels("\u200b"), "u200b"),
    (labels("\ufeff=1"), "ufeff"),
    (labels("liver\u2060"), "u2060"),
    (labels(" liver"), "' liver'"),
    (labels("liver "), "'liver '"),
    (labels("x" * 201), "name of a structure"),
    (labels("é", "e\u0301"), "twice"),
    (labels("2", "liver"), "number of 'liver'"),
    ({"labels": {"background": 0, "liver": 2**40}, "codes": {}}, "'liver'"),
    ({"labels": {"background": 0, "liver": -1}, "codes": {}}, "'liver'"),
    ({"labels": {"background": False, "liver": 1}, "codes": {}}, "'background'"),
    ({"labels": {"background": 0, "liver": 1.0}, "codes": {}}, "'liver'"),
    ({"labels": {"liver": 1, "background": 0}, "codes": {}}, "does not begin with background"),
    ({"labels": {}, "codes": {}}, "labels"),
    ({"patch_size": [100000, 100000, 100000]}, "patch_size"),
    ({"patch_size": [4096, 4096, 4096]}, "2\\^27"),
    ({"patch_size": [True, 32, 32]}, "patch_size"),
    ({"spacing": [0.0001, 1, 1]}, "spacing"),
    ({"spacing": [1, 1, 1e6]}, "spacing"),
    ({"spacing": [1, 1, True]}, "spacing"),
    ({"spacing": None, "smooth": {"sigma": 0.25}}, "spacing"),
    ({"spacing": [None, None, None], "smooth": {"sigma": 0.25}}, "spacing"),
    ({"transpose": [0, 0, 1]}, "order of 0, 1, 2"),
    ({"slices": 10**9 + 1, "slice_axis": 0, "patch_size": [1, 32, 32]}, "slices"),
    ({"slices": 2}, "odd"),
    ({"slice_axis": 0}, "patch_size is 1"),
    ({"slice_axis": True}, "slice_axis"),
    ({"format": True}, "format"),
    ({"format": "1"}, "format"),
    ({"name": "x" * 129}, "name"),
    ({"name": "organs\n"}, "name"),
    ({"source": "\x1b[2J"}, "source"),
    ({"licence": None}, "licence"),
    ({"notes": {"a": 1}}, "notes"),
    ({"notes": "\x00"}, "notes"),
    ({"weights": "a\x00b"}, "weights"),
    ({"weights": "x" * 300}, "weights"),
    ({"weights": [], "sha256": ["a" * 64]}, "weights"),
    ({"sha256": "0123"}, "sha256"),
    ({"onnx": 3}, "onnx"),
    ({"ensemble": ["a", "a"]}, "ensemble"),
    ({"parts": ["a"]}, "parts"),
    ({"fusion": "within"}, "fusion"),
    ({"checks": {"confidence": 1.5}}, "confidence"),
    ({"checks": {"scale": 1}}, "scale"),
    ({"checks": {"scale_sd": 2}}, "scale"),
    ({"volumes_by_size": ["lever"]}, "lever"),
    ({"not_scored": ["lever"]}, "lever"),
    ({"made_for": {"ages": [90, 18]}}, "not below"),
    ({"made_for": {"ages": [18]}}, "ages"),
    ({"made_for": {"ages": [-1, 18]}}, "ages"),
    ({"made_for": {"body_parts": ["HEAD\n"]}}, "body_parts"),
    ({"made_for": {"contrast": "yes"}}, "contrast"),
    ({"made_for": {"sequences": ["T3"]}}, "sequences"),
    ({"made_for": {"age": [1, 2]}}, "ages"),
    ({"checks": {"proportion": 1}}, "proportion"),
    ({"checks": {"proportion": True}}, "proportion"),
    ({"checks": {"confidance": 0.3}}, "confidence"),
    ({"checks": [0.3]}, "limits"),
    ({"architecture": {"name": 3}}, "architecture"),
    ({"architecture": {"in_chans": 3}}, "architecture"),
    ({"architecture": {"name": "uxnet3d", "in_chans": 10**30}}, "architecture"),
    ({"architecture": {"name": "uxnet3d", "in_chans": NAN}}, "architecture"),
    ({"architecture": {"name": "uxnet3d", "depths": [[[[[[[[[[1]]]]]]]]]]}}, "deep"),
]


@pytest.mark.parametrize(("change", "word"), HOSTILE, ids=lambda v: str(v)[:50])
def test_5_4_a_card_that_says_what_cannot_be_is_refused_with_the_field(change: dict[str, Any], word: str) -> None:
    field = next(iter(change)) if "spacing" not in change else "spacing"
    with pytest.raises(ModelError, match=word) as refusal:
        parse({**CARD, **change})
    assert refusal.value.message.startswith(f"model.json: the field {field} ")
    assert refusal.value.message.isprintable()
    assert refusal.value.exit_code == 78


# Their neighbours on the right side of each bound.
GOOD: list[dict[str, Any]] = [
    {"smooth": {"finer": 1}},
    {"smooth": None},
    {"coarse": None},
    {"coarse": 0},
    {"coarse": 1},
    {"overlap": 0},
    {"overlap": 0.95},
    {"overlap": None},
    {"sigma": 0.01},
    {"floor": 1},
    {"floor": None},
    {"outside": None},
    {"slices": None},
    {"regions": None},
    {"pairs": None},
    {"pairs": [["liver", "spleen"], ["spleen", "liver"]]},
    {"channels": ["T1", "T1c"]},
    {"mirror": []},
    {"mirror": [2, 1, 0]},
    {"spacing": [0.001, 100, None]},
    {"spacing": [1, 1, 1]},
    {"spacing": None, "smooth": {"sigma": 0}},
    {"spacing": None, "smooth": None, "intensity": [{"step": "crop"}, {"step": "resample"}]},
    {"orientation": None},
    {"spacing": None, "smooth": None, "shape": [8192, 1, 16], "interpolation": "area", "back": "area"},
    {"blank": 64, "ensemble": [], "parts": [], "slice_axis": None, "slices": None},
    {"patch_size": [512, 512, 512]},
    {"patch_size": [1, 512, 512], "slice_axis": 0, "slices": 5},
    {"sha256": None},
    {"sha256": ["a" * 64]},
    {"weights": ["weights.safetensors"]},
    {"weights": ["a.safetensors", "b.safetensors"], "sha256": []},
    {"weights": "only.onnx"},
    {"intensity": None},
    {"intensity": []},
    {"intensity": [{"step": "standardise"}]},
    {"intensity": [{"step": "clip", "low": -1e12, "high": 1e12, "channels": None}]},
    {"intensity": [{"step": "percentiles", "low": 0, "high": 100}]},
    {"intensity": [{"step": "standardise", "mean": None, "sd": None}]},
    {"intensity": [{"step": "crop", "margin": 0}, {"step": "crop"}], "crop": "positive"},
    {"notes": ["one", "two"]},
    {"notes": None},
    {"volumes_ml": None},
    {"checks": None},
    {"checks": {}},
    {"volumes_ml": {"liver": [0, 1]}},
    {"codes": {"liver": "99SEGCLI liver-1"}},
    {"labels": {"background": 0, "1": 1, "2": 2, "all of it": 3, "a-b": 4, "肝臓": 5}}
    | dict.fromkeys(("codes", "colours", "pairs", "volumes_ml", "centroids_mm"))
    | {"volumes_by_size": [], "not_scored": []},
    {"architecture": {"name": "nnunet", "norm": ["GROUP", {"num_groups": 2}], "eps": 1e-5, "bias": True, "act": None}},
]


@pytest.mark.parametrize("change", GOOD, ids=lambda v: str(v)[:50])
def test_5_4_what_lies_just_within_the_bounds_is_read(change: dict[str, Any]) -> None:
    parse({**FULL, **change})


def test_5_4_a_card_with_every_field_is_read() -> None:
    assert set(FULL) == set(FIELDS)
    parse(FULL)


@pytest.mark.parametrize("field", [f for f in FIELDS if f not in TINY])
def test_5_4_each_field_but_the_needed_ones_can_be_left_out(field: str) -> None:
    with_it = {"weights": {"sha256"}, "spacing": {"smooth"}}.get(field, set())  # which speak of it
    parse({k: v for k, v in FULL.items() if k not in {field, *with_it}})


def test_5_4_a_name_that_stands_twice_in_one_object_is_refused(tmp_path: Path) -> None:
    text = json.dumps(CARD)[:-1] + ', "patch_size": [64, 64, 64]}'
    (tmp_path / "model.json").write_text(text)
    with pytest.raises(ModelError, match="has 'patch_size' twice in one object"):
        library.read_card(tmp_path)
    with pytest.raises(ModelError, match="card inside has 'patch_size' twice"):
        embedded.card_inside(text, tmp_path / "a.onnx")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"patch_size": ' + "9" * 5000 + "}", '{"a": [1'])
def test_5_4_json_that_no_parser_takes_is_refused(text: str) -> None:
    with pytest.raises(ModelError, match=r"model\.json is not JSON"):
        loads(text, "model.json")


def test_5_4_a_document_nested_hundreds_deep_is_refused_with_the_field() -> None:
    deep: Any = 1
    for _ in range(900):
        deep = [deep]
    for field in FIELDS:
        with pytest.raises(ModelError, match=field):
            parse({**CARD, field: deep})


def test_the_stored_schema_is_the_one_that_the_types_make() -> None:
    assert json.loads(STORED.read_text()) == SCHEMA, (
        "python -m segcli.models.document > segcli/schemas/card.schema.json"
    )


def test_the_schema_says_when_the_number_of_the_format_changes() -> None:
    assert "still reads the older number" in schema()["$comment"]
    assert schema()["$defs"]["CardDocument"]["properties"]["format"]["enum"] == [1]


@pytest.mark.parametrize(
    "path", [WEIGHTS / "uxnet" / "model.json", *sorted((WEIGHTS / "recipes").glob("*.json"))], ids=str
)
def test_every_card_that_segcli_brings_is_one_by_the_stored_schema(path: Path) -> None:
    document = json.loads(path.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(json.loads(STORED.read_text())).validate(document)
    parse(document)


def test_the_schema_itself_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(STORED.read_text()))


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5),
    st.sampled_from([10**400, -(2**63), 1e308, 5e-324, -500, 0.5, "\ud800", "all", "=1", [], {}, [0, 0], {"": 0}]),
)  # fmt: skip


@st.composite
def mutants(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """The full card with one value, at any depth, replaced by an odd one, and the field in which that is."""
    card = copy.deepcopy(FULL)
    at: Any = card
    field = key = draw(st.sampled_from(FIELDS))
    while isinstance(at[key], dict | list) and at[key] and draw(st.booleans()):
        at = at[key]
        key = draw(st.sampled_from(list(at) if isinstance(at, dict) else range(len(at))))
    at[key] = draw(ODD)
    return field, card


@pytest.mark.slow
@settings(deadline=None)
@given(mutants())
def test_5_4_any_odd_value_is_read_or_refused_as_the_schema_does(mutant: tuple[str, dict[str, Any]]) -> None:
    field, card = mutant
    try:
        parse(card)
        said = ""
    except ModelError as refusal:
        said = refusal.message
    if said:  # a field that another one contradicts may be named in its place
        assert any(f"the field {name} " in said for name in (field, *FIELDS))
        assert said.isprintable()
    else:
        jsonschema.Draft202012Validator(SCHEMA).validate(card)


def test_reading_a_card_needs_neither_torch_nor_an_engine() -> None:
    code = "import sys, segcli.models.document; print(sorted({'torch', 'onnxruntime', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_a_name_that_stands_twice_is_said_once_and_not_as_damaged_json(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text('{"format": 1, "format": 1}')
    with pytest.raises(ModelError) as told:
        library.read_card(tmp_path)
    assert told.value.message == f"{tmp_path.name}/model.json has 'format' twice in one object"
