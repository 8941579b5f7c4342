"""checks: phantoms with one planted error each, all found; the same phantoms without it, and real maps, pass."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from segcli.formats import read
from segcli.formats.stated import Stated
from segcli.models.card import ModelCard, parse
from segcli.models.library import find
from segcli.results import checks, piece_checks
from segcli.results.checks import Finding, run, verdict
from segcli.results.scan_checks import beforehand, of_intensity, of_scan, of_statements
from segcli.space.volume import Grid, Volume

SAMPLE = Path(__file__).parents[1] / "data" / "mni_icbm152" / "mni_icbm152_t1.nii.gz"
SHAPE = (48, 56, 52)  # slices, rows, columns
BODY = (72.0, 90.0, 85.0)  # half axes in mm along S, P, L

# Name: label, centre (S, P, L mm from the middle) and half axes; left is +L.
ORGANS = {
    "liver": (1, (10, -10, -38), (30, 40, 32)),
    "spleen": (2, (12, 30, 52), (20, 24, 16)),
    "left_kidney": (3, (-30, 40, 30), (24, 14, 14)),
    "right_kidney": (4, (-34, 40, -30), (24, 14, 14)),
    "left_adrenal": (5, (4, 36, 26), (7, 7, 7)),
    "right_adrenal": (6, (0, 44, -24), (7, 7, 7)),
    "stomach": (7, (12, -30, 34), (20, 22, 24)),
}
RANGES = {name: [4.19 * math.prod(r) / 2500, 4.19 * math.prod(r) / 400] for name, (_, _, r) in ORGANS.items()}
LIMITS = {
    "confidence": 0.33, "confidence_of_all": 0.4, "misplaced_mm": 18, "exchanged_mm": 5, "proportion": 1.18,
    "scale": 1.7, "stray_ml": 1000, "moved": 1.25,
}  # fmt: skip


def card(modality: str = "CT") -> ModelCard:
    return parse(
        {
            "format": 1,
            "name": "phantom",
            "architecture": {"name": "pointwise.Pointwise"},
            "channels": [modality],
            "modality": modality,
            "labels": {"background": 0} | {name: value for name, (value, _, _) in ORGANS.items()},
            "pairs": [["left_kidney", "right_kidney"], ["left_adrenal", "right_adrenal"]],
            "volumes_ml": RANGES,
            "checks": LIMITS,
            "patch_size": [16, 16, 16],
        }
    )


def grid(spacing_mm: float = 4.0) -> Grid:
    """Slices along S, rows along P, columns along L, the middle at 0."""
    affine = np.eye(4)
    affine[:3, :3] = np.diag([spacing_mm] * 3)[:, ::-1]
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
    return Grid(SHAPE, affine)


def ellipsoid(centre: tuple[float, float, float], half: tuple[float, float, float]) -> np.ndarray:
    at = np.meshgrid(*((np.arange(n) - (n - 1) / 2) * 4 for n in SHAPE), indexing="ij")
    return sum(((a - c) / h) ** 2 for a, c, h in zip(at, centre, half, strict=True)) <= 1


def phantom(modality: str = "CT") -> tuple[Volume, Volume]:
    """Labels and a picture: CT with air at -1000 and organs at 40 to 110 HU, or MR with air at 0."""
    labels = np.zeros((1, *SHAPE), np.uint8)
    picture = np.full((1, *SHAPE), -1000.0)
    picture[0][ellipsoid((0, 0, 0), BODY)] = 20.0
    for value, centre, half in ORGANS.values():
        where = ellipsoid(centre, half)
        labels[0][where] = value
        picture[0][where] = 30.0 + 10 * value
    if modality == "MR":
        picture = np.where(picture < -500, 10.0, picture * 3 + 200)
    picture += np.random.default_rng(1).normal(0, 10, picture.shape)
    return Volume(labels, grid()), Volume(picture.astype(np.float32), grid())


def swapped(labels: Volume, *pairs: tuple[int, int]) -> Volume:
    table = np.arange(256, dtype=np.uint8)
    for a, b in pairs:
        table[a], table[b] = b, a
    return Volume(table[labels.data], labels.grid)


def erased(labels: Volume, value: int) -> Volume:
    return Volume(np.where(labels.data == value, 0, labels.data).astype(np.uint8), labels.grid)


def shrunk(labels: Volume, value: int, half: tuple[float, float, float]) -> Volume:
    data = erased(labels, value).data
    centre = next(c for v, c, _ in ORGANS.values() if v == value)
    data[0][ellipsoid(centre, half) & (data[0] == 0)] = value
    return Volume(data, labels.grid)


def cut(volume: Volume, planes: int) -> Volume:
    return volume.crop((slice(0, SHAPE[0] - planes), slice(0, SHAPE[1]), slice(0, SHAPE[2])))


def changed(volume: Volume, change: Callable[[np.ndarray], np.ndarray]) -> Volume:
    return Volume(change(volume.data.astype(np.float64)).astype(volume.data.dtype), volume.grid)


def scattered(labels: Volume) -> Volume:
    """Label noise: three of a hundred voxels get any label."""
    rng = np.random.default_rng(2)
    noise = rng.integers(1, 8, labels.data.shape, dtype=np.uint8)
    return Volume(np.where(rng.random(labels.data.shape) < 0.03, noise, labels.data), labels.grid)


def halved(labels: Volume) -> Volume:
    """The lower half of the left kidney is called right."""
    data = labels.data.copy()
    data[0, :17][data[0, :17] == 3] = 4
    return Volume(data, labels.grid)


def mirrored(volume: Volume) -> Volume:
    return Volume(volume.data[..., ::-1].copy(), volume.grid)


def exploded(labels: Volume) -> Volume:
    data = labels.data.copy()
    data[0][ellipsoid((0, 0, 0), BODY) & (data[0] == 0)] = 2
    return Volume(data, labels.grid)


CT, IMAGE = phantom()
MR_LABELS, MR = phantom("MR")
NOISE = Volume(np.random.default_rng(3).normal(0, 100, IMAGE.data.shape), IMAGE.grid)

# What is planted: labels, picture, modality of the model, the code and the severity that must come.
PLANTED: dict[str, tuple[Volume, Volume | None, str, str, str]] = {
    "label map mirrored": (mirrored(CT), IMAGE, "CT", "laterality", "fail"),
    "labels of one pair swapped": (swapped(CT, (3, 4)), IMAGE, "CT", "laterality", "fail"),
    "labels of every pair swapped": (swapped(CT, (3, 4), (5, 6)), IMAGE, "CT", "laterality", "fail"),
    "scan and labels mirrored, sides called by place": (
        swapped(mirrored(CT), (3, 4), (5, 6)), mirrored(IMAGE), "CT", "laterality", "review",
    ),
    "half of a kidney has the other's label": (halved(CT), IMAGE, "CT", "laterality", "review"),
    "liver and spleen swapped": (swapped(CT, (1, 2)), IMAGE, "CT", "volume", "review"),
    "one kidney a third of the other": (shrunk(CT, 3, (10, 9, 9)), IMAGE, "CT", "asymmetry", "review"),
    "one kidney missing": (erased(CT, 3), IMAGE, "CT", "missing", "review"),
    "spleen missing": (erased(CT, 2), IMAGE, "CT", "missing", "review"),
    "cut through the upper organs": (cut(CT, 22), cut(IMAGE, 22), "CT", "truncated", "review"),
    "shifted by +1000": (CT, changed(IMAGE, lambda x: x + 1000), "CT", "intensity", "fail"),
    "shifted by +1024, unsigned": (CT, changed(IMAGE, lambda x: np.maximum(x + 1024, 0)), "CT", "intensity", "fail"),
    "shifted by -1000": (CT, changed(IMAGE, lambda x: x - 1000), "CT", "intensity", "fail"),
    "inverted CT": (CT, changed(IMAGE, lambda x: -x), "CT", "intensity", "fail"),
    "windowed to 0..255": (
        CT, changed(IMAGE, lambda x: np.clip((x + 160) / 400, 0, 1) * 255), "CT", "intensity", "fail",
    ),
    "scaled to 0..1": (CT, changed(IMAGE, lambda x: (x + 1000) / 1200), "CT", "intensity", "fail"),
    "MR for a CT model": (CT, MR, "CT", "intensity", "fail"),
    "CT for an MR model": (CT, IMAGE, "MR", "modality", "fail"),
    "inverted MR": (CT, changed(MR, lambda x: 600 - x), "MR", "intensity", "fail"),
    "constant picture": (CT, changed(IMAGE, lambda x: x * 0 + 7), "CT", "intensity", "fail"),
    "picture of noise": (CT, NOISE, "CT", "noise", "review"),
    "voxel spacing 6 mm for 4 mm": (
        Volume(CT.data, grid(6.0)), Volume(IMAGE.data, grid(6.0)), "CT", "scale", "fail",
    ),
    "voxel spacing in metres": (Volume(CT.data, grid(0.004)), None, "CT", "grid", "review"),
    "no label at all": (changed(CT, lambda x: x * 0), IMAGE, "CT", "empty", "fail"),
    "spleen exploded": (exploded(CT), IMAGE, "CT", "volume", "fail"),
    "labels of noise": (scattered(CT), IMAGE, "CT", "islands", "review"),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_error_is_found(name: str) -> None:
    labels, image, modality, code, severity = PLANTED[name]
    found = run(labels, image, card(modality))
    assert (code, severity) in {(f.code, f.severity) for f in found}
    assert verdict(found) in (severity, "fail")


@pytest.mark.parametrize(("labels", "image", "modality"), [(CT, IMAGE, "CT"), (MR_LABELS, MR, "MR"), (CT, None, "CT")])
def test_a_clean_phantom_raises_no_alarm(labels: Volume, image: Volume | None, modality: str) -> None:
    found = run(labels, image, card(modality), dict.fromkeys(range(1, 8), 0.8), Stated(modality))
    assert found == []
    assert verdict(found) == "pass"


@pytest.mark.parametrize("name", ["half of a kidney has the other's label", "labels of noise"])
def test_pieces_looked_for_a_few_structures_at_a_time_say_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    labels, image, modality, *_ = PLANTED[name]
    whole = run(labels, image, card(modality))
    rows = [int(tally.first.sum()) for tally in checks.tallied(labels).values()]
    monkeypatch.setattr(piece_checks, "ROWS_AT_ONCE", max(rows))
    assert max(rows) < sum(rows)
    assert run(labels, image, card(modality)) == whole


def test_a_structure_of_more_rows_than_fit_is_told_by_their_length_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piece_checks, "ROWS_AT_ONCE", 100)
    assert run(CT, IMAGE, card()) == []
    scattered_like_noise = [f for f in run(scattered(CT), IMAGE, card()) if f.code == "islands"]
    assert scattered_like_noise
    assert "too many for its pieces" in scattered_like_noise[0].sentence


def test_nothing_found_is_no_failure_where_most_people_have_nothing_of_the_kind() -> None:
    def found(names: list[str], classes: tuple[str, ...] = ()) -> list[tuple[str, str]]:
        labels = {"background": 0} | {name: i for i, name in enumerate(names, 1)}
        own = parse({**card().document, "labels": labels, "pairs": [], "volumes_ml": {}})
        return [(f.code, f.severity) for f in run(Volume(CT.data * 0, CT.grid), IMAGE, own, classes=classes)]

    assert found(["liver", "liver_tumor"]) == [("empty", "fail")]
    assert found(["liver", "liver_tumor"], ("liver_tumor",)) == [("empty", "review")]
    assert found(["lung_nodule", "pleural_effusion"]) == [("empty", "review")]


def test_a_crop_inside_the_body_is_no_alarm() -> None:
    inside = IMAGE.crop((slice(14, 34), slice(20, 38), slice(18, 36)))
    assert list(of_intensity(inside.data[0], "CT", "CT")) == []


@pytest.mark.parametrize("added", [1000, 1024])
def test_a_ct_stored_without_a_sign_is_told_to_a_model_of_mr_before_the_network(added: int) -> None:
    """As scanners store it, 0 to 4095, in a file that says no rescale."""
    stored = Volume(np.clip(IMAGE.data + added, 0, 4095).astype(np.uint16), IMAGE.grid)
    (sentence,) = beforehand(stored, card("MR"), "a")
    assert "as of Hounsfield units with 1024 added: a CT? `segcli models --available` lists" in sentence
    cropped = stored.crop(tuple(slice(n // 8, n - n // 8) for n in stored.grid.shape))
    (sentence,) = beforehand(cropped, card("MR"), "a")
    assert "1024 added" in sentence


@pytest.mark.parametrize("level", [700, 900, 1024, 1064, 1100, 1300, 2000])
def test_an_mr_as_bright_as_a_stored_ct_is_none(level: int) -> None:
    head = read([SAMPLE])
    tissue = np.percentile(head.data[head.data > 50], 70)
    bright = Volume(np.round(head.data * (level / tissue)).astype(np.uint16), head.grid)
    assert beforehand(bright, card("MR"), "a") == []


def test_the_header_of_another_modality_is_told() -> None:
    (finding,) = run(CT, IMAGE, card(), None, Stated("PT"))
    assert finding == Finding("modality", "fail", None, "the scan says PT, phantom was made for CT")


@pytest.mark.parametrize(("word", "said"), [("PET", "PT"), ("PT", "PT"), ("MRI", "MR")])
def test_a_modality_may_be_named_as_people_call_it(word: str, said: str) -> None:
    made = card(word)
    assert list(of_statements(made, Stated(said))) == []
    assert [doubt.code for doubt in of_statements(made, Stated("CT"))] == ["modality"]


def test_a_header_that_knows_no_modality_says_nothing_of_it() -> None:
    assert run(CT, IMAGE, card(), None, Stated("OT")) == []


def test_differences_of_mr_are_no_ct_where_the_header_says_mr() -> None:
    rng = np.random.default_rng(0)
    values = np.round(rng.normal(0, 5, (24, 24, 24)))
    values[6:-6, 6:-6, 6:-6] += np.linspace(-400, 400, 12).round()
    scan = Volume(values[None].astype("i2"), Grid((24, 24, 24), np.eye(4)))
    assert [f.code for f in of_scan(scan, card("MR"), Stated())] == ["modality"]
    assert of_scan(scan, card("MR"), Stated("MR")) == []


def test_low_confidence_names_the_structure_and_the_margin() -> None:
    (finding,) = run(CT, IMAGE, card(), {1: 0.9, 2: 0.31})
    assert (finding.code, finding.structure) == ("confidence", "spleen")
    assert "0.31" in finding.sentence


def test_disagreement_of_an_ensemble_is_told() -> None:
    (finding,) = run(CT, IMAGE, card(), disagreement={1: 0.05, 2: 0.34})
    assert (finding.code, finding.structure) == ("disagreement", "spleen")
    assert finding.sentence == "spleen: at its voxels 34% of the ensemble's members on average decide otherwise"


def test_structures_that_were_not_asked_for_are_not_missed() -> None:
    kept = Volume(np.where(CT.data == 1, 1, 0).astype(np.uint8), CT.grid)
    assert run(kept, IMAGE, card(), classes=("liver",)) == []


@pytest.mark.parametrize(
    ("voxels", "count"),
    [
        ({}, 0),
        ({"left_inner": 3}, 1),
        ({"left_inner": 3, "left_outer": 40}, None),  # one that is whole: a part of the body
        (dict.fromkeys(("left_inner", "left_outer", "left_top"), 13), None),  # together over 1 %
    ],
)
def test_next_to_nothing_of_many_structures_is_a_doubt(voxels: dict[str, int], count: int | None) -> None:
    """As of a lone slice: where a model has ranges, a little of one that has none is no result."""
    labels, model = balls()
    ranges = {name: [0.6, 3.0] for name in BALLS} | {"left_front": [50.0, 90.0]}  # mL; a voxel has 0.016
    model = parse(model.document | {"labels": model.document["labels"] | {"csf": 90}, "volumes_ml": ranges})
    data = np.zeros_like(labels.data)
    data[0, 0, 0, :40] = 90
    for row, (name, number) in enumerate(voxels.items(), 2):
        data[0, row, 20, :number] = model.document["labels"][name]
    found = [f for f in run(Volume(data, labels.grid), None, model) if (f.code, f.structure) == ("missing", None)]
    told = f"{count} of 12 structures that everyone has were found, with {'0.047' if count else '0'} mL together"
    assert [f.severity for f in found] == ([] if count is None else ["review"])
    assert all(f.sentence.startswith(told) for f in found)
    bare = parse(model.document | {"volumes_ml": {}})
    for own, asked in ((bare, ()), (model, ("csf", "left_inner", "left_outer"))):
        some = run(Volume(data, labels.grid), None, own, classes=asked)
        assert not [f for f in some if (f.code, f.structure) == ("missing", None)]


def test_the_side_of_the_cut_is_named() -> None:
    sentence = next(f.sentence for f in run(cut(CT, 22), None, card()) if f.code == "truncated")
    assert "superior border" in sentence


def test_many_of_one_kind_share_a_sentence_and_name_all() -> None:
    (finding,) = run(CT, IMAGE, card(), disagreement=dict.fromkeys(range(1, 8), 0.5))
    assert finding.sentence.startswith("7 structures (disagreement)")
    assert len((finding.structure or "").split(", ")) == 7


def test_a_network_that_is_unsure_everywhere_fails_the_scan() -> None:
    (finding,) = run(CT, IMAGE, card(), dict.fromkeys(range(1, 8), 0.27))
    assert (finding.code, finding.severity, finding.structure) == ("confidence", "fail", None)
    assert "0.27 over 7 structures" in finding.sentence


def test_the_gravest_come_first() -> None:
    found = run(shrunk(swapped(CT, (5, 6)), 3, (10, 9, 9)), changed(IMAGE, lambda x: -x), card())
    severities = [f.severity for f in found]
    assert severities == sorted(severities)
    assert {"fail", "review"} == set(severities)


def test_a_structure_that_is_not_its_partners_mirror_image_is_told() -> None:
    """Six pairs of boxes left and right of the middle; the labels of two on the left are exchanged."""
    pairs = [[f"left_{x}", f"right_{x}"] for x in "abcdef"]
    labels = {"background": 0} | {name: i + 1 for i, name in enumerate(n for pair in pairs for n in pair)}
    six = parse(card().document | {"labels": labels, "pairs": pairs, "volumes_ml": {}})
    data = np.zeros((1, *SHAPE), np.uint8)
    for k in range(6):
        rows = slice(5 + 8 * k, 10 + 8 * k)
        data[0, 20:26, rows, 34:40], data[0, 20:26, rows, 12:18] = 2 * k + 1, 2 * k + 2
    plain = Volume(data, grid())
    assert run(plain, None, six) == []
    found = run(swapped(plain, (1, 3)), None, six)
    assert [(f.code, f.structure) for f in found] == [
        ("misplaced", "left_a, right_a"),
        ("misplaced", "left_b, right_b"),
    ]


# ---- the range of a structure, and the limits of a card ------------------------------------------------------------


def found_at(ml: float, **limits: object) -> list[Finding]:
    """Findings about a block of one structure of `ml` millilitres, whose usual range is 10 to 20 mL."""
    inner = np.zeros(40**3, np.uint8)
    inner[: round(ml * 1000)] = 1
    block = np.pad(inner.reshape(1, 40, 40, 40), [(0, 0), (1, 1), (1, 1), (1, 1)])
    usual = {"labels": {"background": 0, "organ": 1}, "pairs": [], "volumes_ml": {"organ": [10, 20]}, "checks": LIMITS}
    return run(Volume(block, Grid((42, 42, 42), np.eye(4))), None, parse(card().document | usual | limits))


@pytest.mark.parametrize(
    ("ml", "severity"),
    [
        (10, None), (20, None), (15, None),
        (9.999, "note"), (20.001, "note"), (7.693, "note"), (26, "note"),
        (7.692, "review"), (26.001, "review"), (3.334, "review"), (60, "review"),
        (3.333, "fail"), (60.001, "fail"),
    ],
)  # fmt: skip
def test_one_range_is_tested_and_told_and_just_outside_is_no_doubt(ml: float, severity: str | None) -> None:
    found = [f for f in found_at(ml) if f.code == "volume"]
    assert [f.severity for f in found] == ([severity] if severity else [])
    assert all("outside 10 to 20 mL" in f.sentence for f in found)
    assert all(("just outside" in f.sentence) == (f.severity == "note") for f in found)


def test_notes_leave_the_verdict_at_pass_and_come_last() -> None:
    note, doubt = Finding("volume", "note", "a", "a"), Finding("volume", "review", "b", "b")
    assert verdict([note]) == "pass"
    assert verdict([note, doubt]) == "review"
    assert checks._ordered([note, doubt, Finding("grid", "fail", None, "c")])[-1] == note


def test_what_a_card_does_not_calibrate_is_not_checked_and_that_is_told() -> None:
    unsure = dict.fromkeys(range(1, 8), 0.05)
    bare = parse({k: v for k, v in card().document.items() if k != "checks"})
    (told,) = run(CT, IMAGE, bare, unsure)
    assert (told.code, told.severity, told.structure) == ("calibration", "note", None)
    assert told.sentence == (
        "confidence of structures, confidence of the scan, mirrored places, exchanged places, proportions, scale, "
        "pieces apart, labels moved against the scan: not calibrated for this model, and not checked"
    )
    part = parse(card().document | {"checks": LIMITS | {"confidence_of_all": None}})
    found = run(CT, IMAGE, part, unsure)
    assert {f.code for f in found} == {"confidence", "calibration"}
    assert found[-1].sentence == "confidence of the scan: not calibrated for this model, and not checked"


def test_places_proportions_and_scale_are_checked_by_the_cards_limits_alone() -> None:
    labels, model = balls()
    ids = {x.name: x.id for x in model.labels}
    one = with_values(labels, {ids["left_front"]: ids["left_inner"], ids["left_inner"]: ids["left_front"]})
    loose = LIMITS | {"misplaced_mm": 1000, "exchanged_mm": 1000, "proportion": 10}
    assert [f.code for f in run(one, None, model)] == ["misplaced"] * 3
    assert run(one, None, parse(model.document | {"checks": loose})) == []
    stretched = labels.grid.affine.copy()
    stretched[:3, 0] *= 1.3
    wide = Volume(labels.data, Grid(labels.grid.shape, stretched))
    assert [f.code for f in run(wide, None, model)] == ["scale"]
    assert run(wide, None, parse(model.document | {"checks": loose})) == []
    large = Volume(CT.data, grid(6.0))
    assert "scale" in {f.code for f in run(large, None, card())}
    assert "scale" not in {f.code for f in run(large, None, parse(card().document | {"checks": LIMITS | {"scale": 9}}))}
    small = Volume(CT.data, grid(3.5))  # 0.67 times the volumes
    assert "scale" not in {f.code for f in run(small, None, card())}
    before = parse(card().document | {"checks": LIMITS | {"smaller": 1.4}})
    assert [f.severity for f in run(small, None, before) if f.code == "scale"] == ["review"]
    assert [f.severity for f in run(Volume(CT.data, grid(3.2)), None, before) if f.code == "scale"] == ["fail"]


def with_pieces(ml: float) -> Volume:
    """The clean phantom with its organs made one body by the stomach's label, and a piece of the liver's apart."""
    data = np.where(ellipsoid((0, 0, 0), BODY) & (CT.data == 0), 7, CT.data).astype(np.uint8)
    data[0, 0].reshape(-1)[: round(ml * 1000 / 64)] = 1  # voxels of 4 mm
    return Volume(data, CT.grid)


@pytest.mark.parametrize(
    ("ml", "limit", "told"), [(0.96, 1, False), (1.088, 1, True), (40.0, None, False), (0.0, 1, False)]
)
def test_pieces_apart_from_the_main_body_are_told_above_the_cards_limit(ml: float, limit: object, told: bool) -> None:
    model = parse(card().document | {"checks": LIMITS | {"stray_ml": limit}})
    found = [f for f in run(with_pieces(ml), None, model) if "main body" in f.sentence]
    assert bool(found) == told
    if told:
        assert (found[0].code, found[0].severity) == ("islands", "review")
        assert found[0].sentence.startswith(f"1 piece with {ml:.3g} mL in all")
    some = run(with_pieces(ml), None, model, classes=("liver", "stomach"))  # the body is not all there
    assert not [f for f in some if "main body" in f.sentence]


def test_the_default_model_states_every_limit() -> None:
    limits = find("uxnet").limits
    assert None not in (getattr(limits, name) for name in checks._CALIBRATED)


# ---- the shared real maps, where that folder is there --------------------------------------------------------------

SHARED = os.environ.get("SEGCLI_SHARED")


@pytest.mark.skipif(SHARED is None, reason="SEGCLI_SHARED does not name the folder of shared data")
@pytest.mark.parametrize("number", range(1, 21))
def test_a_real_map_raises_no_alarm_and_its_mirror_image_does(number: int) -> None:
    nib = pytest.importorskip("nibabel", reason="nibabel is not installed")
    folder = Path(SHARED or "") / "data" / "synthseg_label_maps"
    with (folder / "labels.csv").open() as file:
        table = {int(r["label"]): int(r["output_label"]) for r in csv.DictReader(file)}
    lookup = np.zeros(max(table) + 1, np.uint8)
    for value, output in table.items():
        lookup[value] = output
    image = nib.load(folder / f"training_seg_{number:02d}.nii.gz")
    data = lookup[np.asarray(image.dataobj).astype(int)][None]
    lps = np.diag([-1.0, -1, 1, 1]) @ image.affine
    uxnet = find("uxnet")
    assert verdict(run(Volume(data, Grid(data.shape[1:], lps)), None, uxnet)) == "pass"
    lps[0] *= -1
    mirror = run(Volume(data, Grid(data.shape[1:], lps)), None, uxnet)
    assert [(f.code, f.severity) for f in mirror if f.severity != "note"] == [("laterality", "fail")]


# Twelve balls about a middle line, and a card that knows where they lie.
BALLS = {
    f"{side}_{name}": (sign * x, y, z)
    for side, sign in (("left", 1), ("right", -1))
    for name, (x, y, z) in {
        "front": (14, -40, 4), "back": (16, 42, 8), "top": (18, 4, 40), "bottom": (13, -6, -38),
        "inner": (10, -14, -10), "outer": (38, 10, 6),
    }.items()
}  # fmt: skip


def balls(card_places: bool = True) -> tuple[Volume, ModelCard]:
    n, labels = 48, {name: i for i, name in enumerate(BALLS, 1)}
    affine = np.eye(4)
    affine[:3, :3] = np.diag([2.5] * 3)[:, ::-1]
    affine[:3, 3] = -affine[:3, :3] @ (np.full(3, (n - 1) / 2))
    grid = Grid((n, n, n), affine)
    at = np.stack(np.meshgrid(*[(np.arange(n) - (n - 1) / 2) * 2.5] * 3, indexing="ij")[::-1])
    data = np.zeros((1, n, n, n), np.uint8)
    for name, centre in BALLS.items():
        data[0][((at - np.array(centre)[:, None, None, None]) ** 2).sum(0) <= 49] = labels[name]
    turned = np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1]]) * 1.2  # usual places in a frame of their own
    usual = {name: (turned @ centre + 7).tolist() for name, centre in BALLS.items()}
    document = {
        "labels": {"background": 0} | labels,
        "pairs": [[f"left_{x}", f"right_{x}"] for x in ("front", "back", "top", "bottom", "inner", "outer")],
        "volumes_ml": {},
        "centroids_mm": usual if card_places else {},
    }
    return Volume(data, grid), parse(card("MR").document | document)


def with_values(labels: Volume, exchange: dict[int, int]) -> Volume:
    values = np.arange(256, dtype=np.uint8)
    for old, new in exchange.items():
        values[old] = new
    return Volume(values[labels.data], labels.grid)


def test_structures_at_their_usual_places_raise_no_alarm() -> None:
    labels, model = balls()
    assert checks.run(labels, None, model) == []


def test_structures_that_have_each_others_label_are_found_on_one_side_and_on_both() -> None:
    labels, model = balls()
    ids = {x.name: x.id for x in model.labels}
    front, inner = ids["left_front"], ids["left_inner"]
    one = with_values(labels, {front: inner, inner: front})
    found = [f for f in checks.run(one, None, model) if "each other's label" in f.sentence]
    assert [(f.code, f.structure) for f in found] == [("misplaced", "left_front, left_inner")]
    right = {ids["right_front"]: ids["right_inner"], ids["right_inner"]: ids["right_front"]}
    found = checks.run(with_values(one, right), None, model)
    assert {f.structure for f in found} == {"left_front, left_inner", "right_front, right_inner"}
    assert not [f for f in checks.run(one, None, balls(card_places=False)[1]) if "each other's label" in f.sentence]


@pytest.mark.parametrize(("axis", "ways"), [(0, "inferior-superior"), (1, "anterior-posterior"), (2, "right-left")])
@pytest.mark.parametrize("factor", [1.3, 0.75])
def test_one_wrong_spacing_is_told_with_its_direction(axis: int, ways: str, factor: float) -> None:
    labels, model = balls()
    affine = labels.grid.affine.copy()
    affine[:3, axis] *= factor
    (found,) = checks.run(Volume(labels.data, Grid(labels.grid.shape, affine)), None, model)
    assert (found.code, found.severity) == ("scale", "review")
    assert f"{factor:.2f} times as far apart {ways}" in found.sentence
    assert f"{2.5 * factor:.4g} mm" in found.sentence


def test_too_few_known_places_tell_nothing() -> None:
    labels, model = balls()
    few = with_values(labels, dict.fromkeys(range(8, 13), 0))
    assert not [f for f in checks.run(few, None, model) if f.code in ("misplaced", "scale")]
