"""What is known of a scan before the network runs."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from models import CARD
from runs import command  # noqa: F401 - makes the folder of scan_files known

from segcli.errors import InputError
from segcli.models.card import ModelCard, parse
from segcli.results import checks, scan_checks
from segcli.space.volume import Grid, Source, Volume

from scan_files import nifti  # isort: skip - runs makes its folder known

SHAPE = (24, 30, 28)
rng = np.random.default_rng(5)


def card(modality: str) -> ModelCard:
    return parse({**CARD, "channels": [modality], "modality": modality})


def volume(*channels: np.ndarray) -> Volume:
    return Volume(np.stack(channels), Grid(SHAPE, np.eye(4) * [2, 2, 2, 1]))


def patches(*values: int) -> np.ndarray:
    """0 outside; inside, boxes of the values along the first axis."""
    data = np.zeros(SHAPE, np.int16)
    for part, value in zip(np.array_split(np.arange(2, SHAPE[0] - 2), len(values)), values, strict=True):
        data[part[0] : part[-1] + 1, 3:-3, 3:-3] = value
    return data


NOISY = np.round(patches(90, 120, 200) + rng.normal(0, 4, SHAPE).clip(-12, 12) * (patches(1) > 0)).astype(np.int16)


@pytest.mark.parametrize(
    "labels",
    [
        patches(1),
        patches(1, 2),
        patches(2, 3, 17, 41),
        patches(14175, 12101).astype(np.float64),
        patches(1, 255).astype("u1"),
    ],
)
def test_a_label_map_is_refused_in_place_of_a_scan(labels: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"^a\.nii: is a label map by its looks: \d whole numbers") as refusal:
        scan_checks.beforehand(volume(labels), card("MR"), "a.nii")
    assert "--allow-label-map" in (refusal.value.hint or "")
    assert refusal.value.exit_code == 65
    scan_checks.beforehand(volume(labels), card("MR"), "a.nii", label_map=True)


def test_what_a_header_says_to_be_an_image_is_taken_for_one() -> None:
    drawn = volume(patches(1, 2))
    stated = Volume(drawn.data, drawn.grid, Source((Path("a"),), "dicom", None, (), {"modality": "MR"}))
    scan_checks.beforehand(stated, card("MR"), "a")


@pytest.mark.parametrize(
    "picture",
    [
        NOISY,
        NOISY.astype(np.uint8),
        patches(90, 120) - 1000,  # a CT without noise
        patches(1, 2) * 0.3,
        np.zeros(SHAPE),
        np.full(SHAPE, 7),
        rng.integers(0, 3, SHAPE),
        patches(1, 2) * np.nan,
        np.arange(np.prod(SHAPE)).reshape(SHAPE),
        NOISY.repeat(2, 0).repeat(2, 1).repeat(2, 2)[: SHAPE[0], : SHAPE[1], : SHAPE[2]],
    ],
)
def test_a_picture_is_no_label_map(picture: np.ndarray) -> None:
    assert scan_checks.label_values(volume(picture)) is None


@pytest.mark.parametrize("grey", [NOISY.astype(np.uint8), np.where(patches(0, 1) == 0, -1024, NOISY.astype(np.int16))])
def test_a_scan_is_no_label_map_and_is_refused_as_one(grey: np.ndarray, tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", grey)
    told = r"a.nii: looks like a scan and is no label map: \d+ whole numbers, and few"
    with pytest.raises(InputError, match=told):
        scan_checks.label_map(path, None)
    with pytest.raises(InputError, match=told):
        scan_checks.label_map(path, None, [90, 120, 200])
    assert scan_checks.label_map(path, None, range(-2000, 300)).data.shape == (1, *grey.shape[::-1])


PARCELS = np.arange(6 * 8 * 7).reshape(6, 8, 7).repeat(4, 0).repeat(4, 1).repeat(4, 2)[:, : SHAPE[1], : SHAPE[2]]


SEEDS = np.zeros(SHAPE, np.int32)
SEEDS.flat[::11] = np.arange(1, SEEDS.flat[::11].size + 1)  # instances of one voxel
SEEDS[5, 5:7, 5:7] = [[1, 2], [3, 4]]  # some touch
PARCEL = np.tile([1, 0, 1, 1, 1], 6)[:28].cumsum() + 30 * np.arange(8)[:, None] + 300 * np.arange(24)[:, None, None]
RIBBON = np.zeros(SHAPE, np.int32)  # a cortex of many parcels in coarse voxels: bands of two rows
RIBBON[:, ::4] = RIBBON[:, 1::4] = PARCEL


@pytest.mark.parametrize("labels", [PARCELS, patches(-3, 3000), rng.integers(0, 3, SHAPE), SEEDS, RIBBON])
def test_a_label_map_of_any_numbers_is_taken(labels: np.ndarray, tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", labels.astype(np.int32).T)
    assert scan_checks.label_map(path, None).data.dtype.kind == "i"


def test_a_mask_beside_a_picture_is_a_channel() -> None:
    assert scan_checks.label_values(volume(NOISY, patches(1))) is None
    assert scan_checks.label_values(volume(patches(1, 2), patches(1))) == 3


@pytest.mark.parametrize("value", [0, -1000, 3.5])
def test_a_scan_of_one_value_fails_with_that_alone(value: float) -> None:
    scan, labels = volume(np.full(SHAPE, value)), volume(patches(1, 2, 3).astype(np.uint8))
    found = checks.run(labels, scan, card("MR"))
    assert [(f.severity, f.sentence) for f in found] == [
        ("fail", f"every voxel of the scan is {value:g}: there is no picture")
    ]
    assert scan_checks.beforehand(scan, card("MR"), "a") == [found[0].sentence]
    assert checks.verdict(found) == "fail"


def test_a_scan_without_a_finite_value_is_not_said_to_be_zero() -> None:
    assert scan_checks.beforehand(volume(patches(1, 2) * np.nan), card("MR"), "a") == []


def test_of_two_channels_one_may_be_empty() -> None:
    assert scan_checks.blank(volume(NOISY, patches(1) * 0)) is None
    assert scan_checks.blank(volume(patches(1) * 0, patches(1) * 0)) is not None
    nothing = scan_checks.blank(volume(np.full(SHAPE, -0.0, np.float32)))
    assert nothing is not None
    assert nothing.sentence.startswith("every voxel of the scan is 0:")


def hounsfield(air: int) -> np.ndarray:
    return np.where(patches(1) > 0, NOISY // 4, air).astype(np.int16)


@pytest.mark.parametrize(
    ("scan", "words"),
    [
        (hounsfield(-1000), "air in Hounsfield units: a CT"),
        (hounsfield(-400), "a CT"),
    ],
)
def test_a_ct_for_an_mr_model_is_told_before_the_network_runs(scan: np.ndarray, words: str) -> None:
    (told,) = scan_checks.beforehand(volume(scan), card("MR"), "a")
    assert words in told
    assert scan_checks.beforehand(volume(scan), card("CT"), "a") == []


@pytest.mark.parametrize("low", [-200, -100])
def test_a_ct_that_was_windowed_to_soft_tissue_is_told_too(low: int) -> None:
    (told,) = scan_checks.beforehand(volume(hounsfield(low)), card("MR"), "a")
    assert f"whole numbers from {low}" in told


@pytest.mark.parametrize(
    "scan",
    [NOISY, NOISY.astype(np.float32) / 100 - 0.5, (NOISY - 100) / 30, rng.integers(-4096, 4096, SHAPE)],
    ids=["magnitude", "scaled", "standardised", "phase"],
)
def test_an_mr_is_not_taken_for_a_ct(scan: np.ndarray) -> None:
    assert not [told for told in scan_checks.beforehand(volume(scan), card("MR"), "a") if "CT" in told]


@pytest.mark.parametrize("odd", [np.nan, np.inf, 1e300])
def test_one_voxel_that_is_no_number_or_has_no_square_hides_no_noise(odd: float) -> None:
    noise = np.random.default_rng(0).normal(100, 20, (12, 12, 12))
    assert [f.code for f in scan_checks.of_intensity(noise, "T1", None)] == ["noise"]
    noise[6, 6, 6] = odd
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = [f.code for f in scan_checks.of_intensity(noise, "T1", None)]
    assert found == ["noise"]
