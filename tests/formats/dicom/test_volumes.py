"""Which slices of a series are one volume: by what they show, and how they were measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_phantom import SHAPE, affine, phantom, series
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from test_dicom import fresh, warnings

from segcli.errors import InputError
from segcli.formats.dicom import series as dicom


def _in_block(ds: Dataset, creator: str, group: int, element: int, vr: str, value: Any) -> None:
    ds.private_block(group, creator, create=True).add_new(element, vr, value)


MIXED = {
    "echo time 80": lambda ds, odd: setattr(ds, "EchoTime", 80 if odd else 2.5 + ds.InstanceNumber / 1000),
    "echo numbers 2": lambda ds, odd: setattr(ds, "EchoNumbers", 1 + odd),
    "diffusion bvalue 1000": lambda ds, odd: setattr(ds, "DiffusionBValue", 1000.0 * odd),
    "diffusion bvalue 800": lambda ds, odd: _in_block(ds, "SIEMENS MR HEADER", 0x19, 0x0C, "IS", 800 * odd),
    "diffusion bvalue 700": lambda ds, odd: _in_block(ds, "Philips Imaging DD 001", 0x2001, 3, "FL", 700.0 * odd),
    "diffusion bvalue 600": lambda ds, odd: _in_block(
        ds, "GEMS_PARM_01", 0x43, 0x39, "IS", [600 + 10**9 if odd else 0, 8, 0]
    ),
    "sequence name ep_b1000": lambda ds, odd: setattr(ds, "SequenceName", "ep_b1000" if odd else "ep_b0"),
    "complex image component 3": lambda ds, odd: _in_block(ds, "GEMS_PARM_01", 0x43, 0x2F, "SS", 3 * odd),
    "without complex image component": lambda ds, odd: None if odd else setattr(ds, "ComplexImageComponent", "REAL"),
    r"image type ORIGINAL\\P": lambda ds, odd: setattr(ds, "ImageType", ["ORIGINAL", "PRIMARY", "P" if odd else "M"]),
    "image type ORIGINAL": lambda ds, odd: setattr(ds, "ImageType", ["ORIGINAL" if odd else "DERIVED", "PRIMARY"]),
}


@pytest.mark.parametrize("told", MIXED)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_4_6_slices_that_show_different_things_are_no_one_volume(tmp_path: Path, told: str, syntax: str) -> None:
    """Every other slice is of another image; each of the two lies at twice the distance."""
    folder = series(tmp_path / "mr", each=lambda ds, k: MIXED[told](ds, k % 2), modality="MR", syntax=syntax)
    with pytest.raises(InputError, match=rf"6 slices, which show different things: .*--volume 2: {told}, 3 slices"):
        dicom.read(folder)
    scan = dicom.read(folder, volume=2)
    np.testing.assert_array_equal(scan.data[0], phantom()[1::2])
    np.testing.assert_allclose(scan.grid.affine, affine(spacing=(6.0, 2.0, 1.5), origin=(-10.0, -20.0, -27.0)))


def test_4_6_echoes_of_which_one_slice_alone_is_left_are_not_mixed(tmp_path: Path) -> None:
    def each(ds: Dataset, k: int) -> None:
        ds.EchoTime = 80 if k == 3 else 2.5

    with pytest.raises(InputError, match=r"--volume 1: echo time 2.5, 5 slices; --volume 2: echo time 80, 1 slices"):
        dicom.read(series(tmp_path / "mr", each=each, modality="MR"))


def test_of_several_volumes_the_one_that_is_not_whole_is_named(tmp_path: Path) -> None:
    def second(ds: Dataset, k: int) -> bool:
        fresh(ds, k)
        return k != 3

    folder = series(tmp_path / "mr", modality="MR", EchoTime=2.5)
    series(folder, first=100, each=second, modality="MR", EchoTime=80)
    (found,) = dicom.find(folder)
    assert f"{found.name}, echo time 80: 5 slices unevenly spaced" in str(found.summary.problem)
    assert found.summary.which == (("echo time 2.5", 6), ("echo time 80", 5))
    assert dicom.read(folder, volume=1).grid.shape == SHAPE


def test_names_of_sequences_without_a_b_value_may_differ_within_a_volume(tmp_path: Path) -> None:
    def each(ds: Dataset, k: int) -> None:
        ds.SequenceName = "*tfi2d1_13" if k < 2 else "*tfi2d1_15"

    assert dicom.read(series(tmp_path / "mr", each=each, modality="MR")).grid.shape == SHAPE


def test_an_echo_time_of_its_own_in_each_slice_is_the_slice_s(tmp_path: Path) -> None:
    def each(ds: Dataset, k: int) -> None:
        ds.EchoTime = 10 + k

    assert dicom.read(series(tmp_path / "mr", each=each, modality="MR")).grid.shape == SHAPE


@pytest.mark.parametrize(
    ("keyword", "values", "told"),
    [
        ("ConvolutionKernel", ("B30f", "B70f"), "3 convolution kernel B30f, 3 convolution kernel B70f"),
        ("KVP", (80, 140), "3 kvp 80, 3 kvp 140"),
        ("SliceThickness", (3, 10), "3 slice thickness 3, 3 slice thickness 10"),
    ],
)
def test_slices_that_were_measured_in_several_ways_are_said(
    tmp_path: Path, keyword: str, values: tuple[Any, Any], told: str
) -> None:
    scan = dicom.read(series(tmp_path / "ct", each=lambda ds, k: setattr(ds, keyword, values[k // 3])))
    assert f"its slices differ: {told}" in warnings(scan)
    assert "its slices differ" not in warnings(dicom.read(series(tmp_path / "one", **{keyword: values[0]})))


@pytest.mark.parametrize(
    ("count", "world"),
    [(1, affine(((1, 0, 0), (0, 0, -1)))), (3, affine(((1, 0, 0), (0, 0, -1)))), (3, affine(spacing=(6.0, 1.0, 1.0)))],
    ids=["one coronal slice", "three coronal slices", "other pixels"],
)
def test_derived_images_with_a_geometry_of_their_own_are_another_volume(
    tmp_path: Path, count: int, world: np.ndarray
) -> None:
    folder = series(tmp_path / "ct")
    series(folder, phantom()[:count], world, first=100, each=fresh, ImageType=["DERIVED", "SECONDARY", "MPR"])
    told = f"{6 + count} slices, .*--volume 1: image type DERIVED, {count} slices; --volume 2: image type ORIGINAL, 6"
    with pytest.raises(InputError, match=told):
        dicom.read(folder)
    np.testing.assert_array_equal(dicom.read(folder, volume=2).data[0], phantom())
    np.testing.assert_allclose(dicom.read(folder, volume=1).grid.affine[:3, 1:], world[:3, 1:])


def test_a_slice_in_another_direction_that_is_called_as_the_others_is_refused(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct")
    series(folder, phantom()[:1], affine(((1, 0, 0), (0, 0, -1))), first=100, each=fresh)
    with pytest.raises(InputError, match=r"a-100\.dcm: its orientation differs"):
        dicom.read(folder)


def test_a_slice_that_is_equal_in_two_volumes_by_chance_belongs_to_both(tmp_path: Path) -> None:
    """Slices beyond what was measured are 0 in every volume."""
    content = phantom()
    content[5] = 0

    def second(ds: Dataset, k: int) -> None:
        fresh(ds, k)
        ds.InstanceNumber += 6

    folder = series(tmp_path / "mr", content, modality="MR")
    content[:5] += 1000
    series(folder, content, first=100, each=second, modality="MR")
    assert [what for what, _ in dicom.find(folder)[0].summary.which] == [f"number {n} at each position" for n in (1, 2)]
    np.testing.assert_array_equal(dicom.read(folder, volume=2).data[0], content)


def test_slices_at_twice_the_distance_that_they_state_may_be_half_of_them(tmp_path: Path) -> None:
    """Where every other slice is lost, no gap shows it."""
    folder = series(tmp_path / "mr", each=lambda ds, k: k % 2 == 0, modality="MR", SpacingBetweenSlices=3)
    told = "its slices lie 6 mm apart, 3 mm by their header (SpacingBetweenSlices): of every 2 slices 1 may be missing"
    assert told in warnings(dicom.read(folder))
    for stated in (6, 5, -6, 0):
        folder = series(tmp_path / f"{stated}", world=affine(spacing=(6, 2, 1.5)), SpacingBetweenSlices=stated)
        assert "apart" not in warnings(dicom.read(folder))
