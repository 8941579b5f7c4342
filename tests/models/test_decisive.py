"""The hash of a model: one for all cards that mean the same, another one as soon as a label may be another.

Finished cases are done because of it. What is pinned here stays through every version, else they would be undone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from models import CARD, EACH, LABELS, of_cascade, of_models, organs
from msgspec.structs import fields

from segcli.batch.outputs import Destination
from segcli.batch.stages import Job, Options
from segcli.documents import Document
from segcli.engines.opening import Opening
from segcli.errors import ModelError
from segcli.models.after import AFTER
from segcli.models.card import parse
from segcli.models.decisive import hash_as_decided, hash_as_written, model_hash, networks
from segcli.models.document import STEPS, CardDocument
from segcli.models.library import find
from segcli.networks import registry

WEIGHTS = Path(__file__).parents[2] / "weights"
PLAIN = {**CARD, "mirror": [0], "volumes_ml": {"liver": [1000, 2000]}, "regions": None, "sha256": "ab" * 32}
# What every field may say instead: of what decides a label,
DECIDES: dict[str, object] = {
    "architecture": {**CARD["architecture"], "in_chans": 2},
    "channels": ["T1"],
    "blank": 1,
    "orientation": "LPS",
    "spacing": [3, 3, 2.5],
    "anchor": "within",
    "interpolation": "cubic",
    "smooth": {"sigma": 0.5},
    "coarse": 3,
    "intensity": [{"step": "clip", "low": -900, "high": 1000}, {"step": "scale", "low": 0, "high": 1}],
    "crop": "positive",
    "outside": 2,
    "patch_size": [32, 32, 16],
    "overlap": 0.25,
    "blend": "constant",
    "sigma": 0.2,
    "centre": "voxel",
    "floor": 0.01,
    "steps": "even",
    "padding": "edge",
    "skip": True,
    "whole": True,
    "mirror": [1],
    "half": True,
    "average": "probabilities",
    "ensemble_average": "probabilities",
    "back": "probabilities",
    "faithful": "nearest",
    "sums": "float16",
    "labels": {**CARD["labels"], "spine": 6},
    "regions": [0, 1, 2, 3, 5, 4],
    "after": [{"step": "fill"}],
    "pairs": [["liver", "spleen"]],
}
# where others must stand beside them,
BESIDE: dict[str, Document] = {
    "transpose": {"orientation": None, "transpose": [1, 0, 2]},
    "shape": {"spacing": None, "shape": [64, 64, 64]},
    "slice_axis": {"patch_size": [1, 32, 32], "slice_axis": 0},
    "slices": {"patch_size": [1, 32, 32], "slice_axis": 0, "slices": 3},
    "after_at": {"faithful": "values", "after_at": "model", "after": [{"step": "fill"}]},
    "rough": {"rough": {"model": "rough", "structures": ["liver"]}},
    "fusion": {"weights": [], "sha256": None, "parts": ["a", "b"], "fusion": "within"},
}
# and of what only describes. Weights count by their bytes, the models of a model by their own hashes.
DESCRIBES: dict[str, object] = {
    "name": "other",
    "licence": "MIT",
    "source": "elsewhere",
    "weights": "other.safetensors",
    "sha256": "AB" * 32,
    "onnx": "model.onnx",
    "onnx_sha256": "cd" * 32,
    "engines": ["onnx"],
    "modality": "MR",
    "made_for": {"ages": [18, 90]},
    "codes": {"liver": "SCT 1"},
    "colours": {"liver": "#ff0000"},
    "not_scored": ["liver"],
    "volumes_ml": {"liver": [900, 2000]},
    "volumes_by_size": ["liver"],
    "volumes_source": "a paper",
    "centroids_mm": {"liver": [1, 2, 3]},
    "checks": {"scale": 2},
    "notes": "looked at again",
}
# `format` knows one value, `outputs` stands in recipes alone, which have no weights; members and parts are tried below.
ELSEWHERE = {"format", "outputs", "ensemble", "parts", "previous", "previous_by"}


def sha(document: Document) -> str:
    return model_hash(parse(document), {"weights.safetensors": "1"})


def test_every_field_of_a_card_is_known_to_decide_or_to_describe():
    known = {f.encode_name for f in fields(CardDocument)}
    assert {*DECIDES, *BESIDE, *DESCRIBES, *ELSEWHERE} == known
    assert len(DECIDES) + len(BESIDE) + len(DESCRIBES) + len(ELSEWHERE) == len(known)


@pytest.mark.parametrize("field", [*DECIDES, *BESIDE])
def test_a_field_that_changes_labels_changes_the_hash(field: str):
    changes = BESIDE.get(field, {field: DECIDES.get(field)})
    before = {**PLAIN, **{k: v for k, v in changes.items() if k != field}}
    assert sha({**before, **changes}) != sha(before)


@pytest.mark.parametrize("field", DESCRIBES)
def test_a_field_that_describes_changes_no_hash(field: str):
    assert sha({**PLAIN, field: DESCRIBES[field]}) == sha(PLAIN)


def cards() -> dict[str, Document]:
    found = [WEIGHTS / "uxnet" / "model.json", *sorted((WEIGHTS / "recipes").glob("*.json"))]
    return {"plain": PLAIN, **{path.stem: json.loads(path.read_text(encoding="utf-8")) for path in found}}


def turned(value: object) -> object:
    """The same with keys of objects the other way round."""
    if isinstance(value, dict):
        return {key: turned(own) for key, own in reversed(value.items())}
    return [turned(own) for own in value] if isinstance(value, list) else value


def pointed(value: object) -> object:
    """The same with 3.0 for 3."""
    if isinstance(value, dict):
        return {key: pointed(own) for key, own in value.items()}
    if isinstance(value, list):
        return [pointed(own) for own in value]
    return float(value) if type(value) is int else value


def unpointed(value: object) -> object:
    if isinstance(value, dict):
        return {key: unpointed(own) for key, own in value.items()}
    if isinstance(value, list):
        return [unpointed(own) for own in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


@pytest.mark.parametrize("name", cards())
def test_cards_that_mean_the_same_have_one_hash(name: str):
    document = cards()[name]
    same = sha(document)
    labels = {"labels": document["labels"]}  # the network's outputs in their order
    assert sha({**turned(document), **labels}) == same
    assert sha(unpointed(document)) == same
    for key, value in document.items():
        try:
            other = parse({**document, key: pointed(value)})
        except ModelError:  # a whole number and nothing else, as a size
            continue
        assert model_hash(other, {"w": "1"}) == same, key
    for field in fields(CardDocument):
        if field.default is not msgspec.NODEFAULT and field.encode_name not in document:
            stated = msgspec.to_builtins(field.default)
            assert sha({**document, field.encode_name: stated}) == same, field.encode_name


@pytest.mark.parametrize(
    ("stated", "left_out"),
    [
        ({"overlap": 0.5}, {"overlap": None}),
        ({"sigma": 0.125, "floor": 0.001, "slices": 1}, {"sigma": None, "floor": None, "slices": None}),
        ({"outside": 0}, {"outside": None}),
        ({"coarse": 0}, {"coarse": None}),
        ({"smooth": {"sigma": 0, "finer": 0.75}}, {"smooth": None}),
        ({"pairs": []}, {"pairs": None}),
        ({"intensity": []}, {"intensity": None}),
        ({"intensity": [{"step": "resample"}, *CARD["intensity"]]}, {}),
        ({"intensity": [*CARD["intensity"], {"step": "crop"}]}, {"crop": "positive"}),
        ({"intensity": [CARD["intensity"][0], {"step": "scale", "low": 0, "high": 1, "from": [-1000, 1000]}]}, {}),
        ({"anchor": "corners", "faithful": "nearest"}, {"anchor": "corners"}),
        ({"mirror": [0, 2]}, {"mirror": [2, 0]}),
        ({"after": [{"step": "fill", "structures": ["liver"]}]}, {"after": [{"step": "fill", "structures": ["2"]}]}),
        (
            {"rough": {"model": "a", "structures": ["x"], "margin_mm": 0}},
            {"rough": {"model": "b", "structures": ["x"]}},
        ),
        ({"architecture": {**CARD["architecture"], "in_chans": 1.0}}, {}),
    ],
)
def test_what_is_stated_counts_as_what_is_left_out(stated: Document, left_out: Document):
    assert sha({**PLAIN, **stated}) == sha({**PLAIN, **left_out})


# ---- steps, each with another value of each of its words

STEP_WORDS: dict[str, Document] = {
    "clip": {"low": 0, "high": 9, "channels": [0]},
    "scale": {"low": 0, "high": 9, "from": [0, 5], "channels": [0]},
    "percentiles": {"low": 1, "high": 99, "epsilon": 0.5, "channels": [0]},
    "standardise": {"mean": 3, "sd": 2, "where": "nonzero", "epsilon": 0.5, "channels": [0]},
    "outside": {"value": 3, "channels": [0]},
    "histogram": {"low": 0, "high": 255, "share": 0.999, "channels": [0]},
    "crop": {"above": 3, "margin": 2, "outside": 4},
    "resample": {"whole": True},
    "frame": {"above": 3, "size": [64, 64], "whole": True},
    "largest": {"structures": ["liver"], "together": True, "neighbours": 6, "spare": 5, "equal": "last"},
    "small": {"mm3": 5, "structures": ["liver"], "neighbours": 6},
    "fill": {"structures": ["liver"], "others": True, "flat": 64, "neighbours": 26},
    "join": {"structures": ["liver"], "dissolved": ["spleen"]},
    "drop": {"structures": ["liver"]},
    "within": {"of": ["liver"], "mm": 5, "structures": ["spleen"]},
    "spine": {"structures": ["spine"], "mm3": 5},
    "grow": {"structures": ["liver"], "mm": 5},
    "refine": {"structures": ["liver", "spine"], "mm": 1, "around_mm": 16, "spread": 1.5},
}
OTHER = {
    "low": 0.5,
    "high": 8,
    "value": 7,
    "above": 2,
    "share": 0.99,
    "size": [64, 32],
    "mm3": 6,
    "mm": 6,
    "around_mm": 12,
    "spread": 2,
    "structures": ["heart"],
    "of": ["heart"],
}


def words() -> Iterator[tuple[str, str]]:
    for kinds in (STEPS, AFTER):
        for name, kind in kinds.items():
            for field in fields(kind):
                yield name, field.encode_name


@pytest.mark.parametrize(("name", "word"), [*words()])
def test_each_word_of_a_step_counts_where_it_is_not_the_default(name: str, word: str):
    given = STEP_WORDS[name]
    field = "intensity" if name in STEPS else "after"
    kind = (STEPS if name in STEPS else AFTER)[name]
    required = {f.encode_name for f in fields(kind) if f.required}
    beside = {"mean": ["sd"], "sd": ["mean"], "epsilon": []}.get(word, [])
    own = {key: value for key, value in given.items() if key in required or key == word or key in beside}
    more: Document = {"slice_axis": 0, "patch_size": [1, 32, 32]} if name == "frame" else {}

    def of(step: Document) -> str:
        return sha({**PLAIN, **more, field: [{"step": name, **step}]})

    other = OTHER[word] if word in required else {"mean": 4, "sd": 5}.get(word)
    without = {**own, word: other} if other is not None else {k: v for k, v in own.items() if k != word}
    assert of(own) != of(without)
    if word not in required and not beside:
        default = next(f for f in fields(kind) if f.encode_name == word).default
        assert of({**without, word: msgspec.to_builtins(default)}) == of(without)


# ---- networks


def test_the_defaults_of_networks_that_are_known_without_torch_are_those_of_today():
    assert json.loads(json.dumps(registry.defaults())) == networks(), (
        "python -m segcli.networks.registry > segcli/schemas/networks.json"
    )


@pytest.mark.parametrize("family", registry.small_networks())
def test_an_argument_of_a_network_counts_where_it_is_not_the_default(family: str):
    known = networks()[family]
    own = registry.small_networks()[family].all_arguments

    def of(**arguments: object) -> str:
        return sha({**PLAIN, "architecture": {"name": family, **arguments}})

    same = of(**own)
    assert of(**{**known["defaults"], **known["fixed"], **own}) == same
    assert sha({**PLAIN, "architecture": {"name": known["class"], **known["fixed"], **own}}) == same
    assert of(**pointed(own)) == same  # type: ignore[arg-type]
    for argument, usual in known["defaults"].items():
        value = own.get(argument, known["fixed"].get(argument, usual))
        other = not value if isinstance(value, bool) else value + 1 if isinstance(value, int | float) else "other"
        assert of(**{**own, argument: other}) != same, argument


# ---- models of several networks


def changed(folder: Path, **changes: object) -> None:
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**card, **changes}))


def test_a_member_of_an_ensemble_counts_by_its_network_and_not_by_its_name(tmp_path: Path):
    for name in ("one", "two"):
        organs(tmp_path / name, **EACH)
    whole = {k: v for k, v in CARD.items() if k != "weights"}

    def of(*members: str) -> str:
        return sha({**whole, "ensemble": [str(tmp_path / name) for name in members]})

    first = of("one", "two")
    (tmp_path / "two").rename(tmp_path / "three")
    changed(tmp_path / "three", notes="another")
    assert of("one", "three") == first
    changed(tmp_path / "three", architecture={"name": "pointwise.Pointwise", "in_chans": 1, "out_chans": 7})
    assert of("one", "three") != first


@pytest.mark.parametrize("made", [of_models, of_cascade])
def test_a_model_of_a_model_counts_by_what_it_does(tmp_path: Path, made: Callable[[Path], Path]):
    folder = made(tmp_path)

    def of() -> str | None:
        card = find(str(folder))
        opened = Opening((str(folder),), engine="torch").open(card)
        return Job(card, opened, Destination(tmp_path), Options()).model["sha256"]

    first = of()
    inner = tmp_path / ("soft" if made is of_models else "organs")
    changed(inner, licence="MIT", overlap=0.5)
    assert of() == first
    if made is of_cascade:
        changed(folder, previous_by="half")
        assert of() != first
        changed(folder, previous_by="largest")
    assert of() == first
    changed(inner, overlap=0.25)
    assert of() != first


# ---- through versions


def test_the_hash_of_a_card_is_the_same_in_every_version():
    assert sha(PLAIN) == "de01014472f449440640c2f2f20414c31ee0ffc4c31f4cbd0504fdd44baef917"
    assert sha({**PLAIN, "coarse": 3}) == "c478c53392840aaec86bca0dbce8f40743d720648468519ee21cbf91e233b244"
    assert (
        sha({**PLAIN, **DECIDES, "whole": False, "labels": LABELS, "blank": 0})
        == "7643fb683a3b3e535f5c8715a07a68a2e96c90e2d29bc92e31d78a32d7dfda7f"
    )
    rough = {"model": "a", "structures": ["x"], "margin_mm": 5, "within": {"structures": ["y"], "mm": 2}}
    # Words that came later change no hash of cards without them.
    steps = [{"step": name, **STEP_WORDS[name]} for name in STEPS if name not in ("frame", "histogram")]
    later = {"fill": {"others", "flat", "neighbours"}, "largest": {"equal"}}
    after = [
        {"step": name, **{k: v for k, v in STEP_WORDS[name].items() if k not in later.get(name, ())}}
        for name in AFTER
        if name != "refine"
    ]
    assert (
        sha({**PLAIN, "rough": rough, "intensity": steps, "after": after})
        == "f794c719055d0a9576b1097701b6532ac848dbf4dea457d0b67158cb5979b05f"
    )


def test_the_hashes_of_earlier_versions_are_still_known():
    card = parse({**CARD, "notes": "one"})
    assert (
        hash_as_decided(card, {"w": "1"})
        == hash_as_decided(parse(CARD), {"w": "1"})
        == "e6a2414a3c65ebd81d3ce3b84c9dd19dc28b78f9b40e244f7aea3abe9e4d6f80"
    )
    assert hash_as_written(card, {"w": "1"}) == "3f2d186de6351e7a38b1360d557e5bd4270c93f83250f128325a9e6e4c60d587"
