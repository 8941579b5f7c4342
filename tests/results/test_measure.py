"""report: millilitres, places and brightness, worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scan_files import nifti

from segcli import formats
from segcli.errors import InputError
from segcli.results.measure import (
    cohort_rows,
    csv_text,
    from_json,
    measure,
    rows,
    stats_totalseg,
    whole_numbers,
)
from segcli.space.volume import AXES_CODES, Grid, Volume, turned, turning
from segcli.structures import Label

NAMES = (Label(0, "background"), Label(1, "cube"), Label(2, "rod"), Label(7, "absent"))


def grid(shape=(6, 5, 4), spacing=(2.5, 1.0, 0.8)) -> Grid:
    """Slices along S, rows along P, columns along L; the first voxel's centre at (10, 20, 30)."""
    affine = np.eye(4)
    affine[:3, :3] = np.array([[0, 0, spacing[2]], [0, spacing[1], 0], [spacing[0], 0, 0]])
    affine[:3, 3] = 10, 20, 30
    return Grid(shape, affine)


def planted() -> Volume:
    data = np.zeros((1, 6, 5, 4), np.uint8)
    data[0, 1:3, 1:4, 1:3] = 1  # 12 voxels, inside
    data[0, 5, 0, :] = 2  # 4 voxels, at the border
    return Volume(data, grid())


def test_7_4_a_volume_is_the_count_times_the_voxel() -> None:
    cube = measure(planted(), NAMES)["cube"]
    assert (cube.voxels, cube.volume_mm3, cube.volume_ml) == (12, 24.0, 0.024)


def test_7_4_a_sheared_voxel_has_the_volume_of_its_determinant() -> None:
    affine = np.array(grid().affine)
    affine[1, 0] = 0.7  # the slices slide along P: the height stays, so does the volume
    cube = measure(Volume(planted().data, Grid((6, 5, 4), affine)), NAMES)["cube"]
    assert cube.volume_mm3 == 24.0


def test_the_centroid_and_the_box_are_in_lps_millimetres() -> None:
    cube = measure(planted(), NAMES)["cube"]
    # columns 1..2, rows 1..3, slices 1..2: middle (1.5, 2, 1.5)
    assert cube.centroid_mm == (10 + 0.8 * 1.5, 20 + 2.0, 30 + 2.5 * 1.5)
    assert cube.bbox_mm == ((10.4, 20.5, 31.25), (12.0, 23.5, 36.25))


def test_7_6_a_structure_at_the_border_may_be_cut_off() -> None:
    report = measure(planted(), NAMES)
    assert (report["cube"].truncated, report["rod"].truncated) == (False, True)


def test_an_absent_structure_is_listed_with_zero_and_nothing_else() -> None:
    absent = measure(planted(), NAMES)["absent"]
    assert (absent.voxels, absent.volume_ml) == (0, 0.0)
    assert absent.mean is absent.centroid_mm is absent.bbox_mm is None


def test_a_value_without_a_name_is_listed_not_dropped() -> None:
    data = planted().data.astype(np.int32)
    data[0, 0, 0, 0] = 70000
    report = measure(Volume(data, grid()), NAMES)
    assert [s.name for s in report.structures] == ["cube", "rod", "absent", "label_70000"]
    assert report["label_70000"].voxels == 1


def test_brightness_is_the_mean_and_population_sd_inside() -> None:
    image = Volume(np.full((1, 6, 5, 4), -1000.0, np.float32), grid())
    image.data[0, 5, 0, :] = [1, 2, 3, 4]
    rod = measure(planted(), NAMES, image)["rod"]
    assert rod.mean == 2.5
    assert rod.sd == pytest.approx(1.25**0.5, rel=1e-5)


def test_an_image_on_another_grid_is_refused() -> None:
    with pytest.raises(ValueError, match="one grid"):
        measure(planted(), NAMES, Volume(np.zeros((1, 2, 5, 4)), grid((2, 5, 4))))


@given(seed=st.integers(0, 2**16), code=st.sampled_from(AXES_CODES))
@example(seed=1211, code="RAI")  # a centroid halfway between two hundredths of a millimetre
@settings(max_examples=40, deadline=None)
def test_the_same_scan_turned_gives_the_same_report(seed: int, code: str) -> None:
    rng = np.random.default_rng(seed)
    labels = Volume(rng.integers(0, 4, (1, 5, 6, 7), dtype=np.uint8), grid((5, 6, 7)))
    image = Volume(rng.integers(-9, 9, (1, 5, 6, 7)).astype(np.float32), labels.grid)
    order, flips = turning(labels.grid.axes, code)
    there = turned(labels.grid, code)

    def turn(volume: Volume) -> Volume:
        data = np.transpose(volume.data, [0, *(i + 1 for i in order)])
        return Volume(np.flip(data, [i + 1 for i, flip in enumerate(flips) if flip]), there)

    assert measure(turn(labels), NAMES, turn(image)) == measure(labels, NAMES, image)


@given(seed=st.integers(0, 2**16), planes=st.integers(1, 9))
@settings(max_examples=20, deadline=None)
def test_every_voxel_is_counted_whatever_the_planes_at_a_time(seed: int, planes: int) -> None:
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 3, (1, 9, 4, 3), dtype=np.int16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segcli.results.measure._CHUNK", planes * 12)
        report = measure(Volume(data, grid((9, 4, 3))), NAMES[:3])
    assert [s.voxels for s in report.structures] == [int((data == i).sum()) for i in (1, 2)]


def test_the_record_has_exactly_the_agreed_keys() -> None:
    record = json.loads(json.dumps(msgspec.to_builtins(measure(planted(), NAMES).structures)))
    assert list(record[0]) == [
        "name", "label", "voxels", "volume_mm3", "volume_ml", "mean", "sd", "centroid_mm", "bbox_mm", "truncated",
    ]  # fmt: skip


def test_a_key_of_a_structure_that_a_later_version_has_added_is_left_alone() -> None:
    report = measure(planted(), NAMES)
    assert (
        from_json([{**structure, "surface_cm2": 1.0} for structure in msgspec.to_builtins(report.structures)]) == report
    )


def test_the_table_says_na_where_a_value_is_unknown() -> None:
    lines = csv_text(rows(measure(planted(), NAMES)), "\t").splitlines()
    assert lines[0].split("\t")[:7] == ["name", "label", "voxels", "volume_mm3", "volume_ml", "mean", "sd"]
    assert lines[3].split("\t") == ["absent", "7", "0", "0.0", "0.0", *["n/a"] * 11, "false"]


def test_a_cohort_has_a_row_for_each_case_and_structure() -> None:
    report = measure(planted(), NAMES)
    table = cohort_rows("a", "toy", report) + cohort_rows("b", "toy", report)
    assert [tuple(row.values())[:3] for row in table][2:4] == [("a", "toy", "absent"), ("b", "toy", "cube")]


def test_the_totalsegmentator_shape_has_cubic_millimetres_and_null_for_unknown() -> None:
    assert stats_totalseg(measure(planted(), NAMES))["cube"] == {"volume": 24.0, "intensity": None}


def test_a_voxel_that_is_not_finite_leaves_the_mean_unknown() -> None:
    image = Volume(np.ones((1, 6, 5, 4)), grid())
    image.data[0, 5, 0, :2] = np.inf, -np.inf
    report = measure(planted(), NAMES, image)
    assert (report["rod"].mean, report["rod"].sd) == (None, None)
    assert report["cube"].mean == 1.0


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", " =", "\t=", "\r=", "\n=", "\uff1d", "\uff20"])
def test_a_name_that_a_spreadsheet_would_compute_is_written_as_text(begin):
    import csv
    import io
    import re

    name = f"{begin}HYPERLINK(0)"
    for tab in (",", "\t"):
        text = csv_text([{"case": "a", "name": name, name: -1.5}], tab)
        head, row = csv.reader(io.StringIO(text, newline=""), delimiter=tab)
        shown = "'" + re.sub(r"\s", " ", name)
        assert head == ["case", "name", shown]
        assert row == ["a", shown, "-1.5"]  # a number is none


def test_a_label_map_in_floating_point_is_refused_where_its_numbers_are_rounded(tmp_path: Path) -> None:
    """312,782,547 of Allen's atlas is 312,782,560 in float32, as which every file of floating-point numbers is read."""
    for top, good in ((1 << 24, True), (312782547, False)):
        path = nifti(tmp_path / "a.nii", np.array([0, top], "f8").reshape(2, 1, 1))
        if good:
            assert whole_numbers(formats.read([path])).data.max() == top
        else:
            with pytest.raises(
                InputError, match=r"up to 312782560, of which those above 16777216 are rounded"
            ) as refusal:
                whole_numbers(formats.read([path]))
            assert refusal.value.hint == "save it in an integer type"
    path = nifti(tmp_path / "a.nii", np.array([0, 312782547], "i8").reshape(2, 1, 1))
    assert whole_numbers(formats.read([path])).data.max() == 312782547
