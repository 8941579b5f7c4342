"""NIfTI files are read whole and in place, or refused; what is written says what the scan said."""

import contextlib
import gzip
import os
import struct
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scan_files import IJK, RAS, counting, grids, nifti, nifti_bytes

from segcli import formats, memory
from segcli.errors import Denied, InputError, InputMissing, OutOfMemory, OutputError, SegcliError
from segcli.formats import nifti as room
from segcli.formats import streams
from segcli.space.volume import Grid, Volume

GRIDS = grids()
LPS = np.diag([-1.0, -1, 1, 1])


def read(path: Path, **options: object) -> Volume:
    return formats.read([path], **options)  # type: ignore[arg-type]


def labels_on(grid: Grid) -> Volume:
    return Volume(np.arange(grid.size, dtype=np.uint8).reshape(1, *grid.shape), grid)


# What is read -------------------------------------------------------------------------------------------------------


def test_a_plain_axial_file_has_slices_first_and_lies_in_LPS(tmp_path: Path) -> None:
    scan = read(nifti(tmp_path / "a.nii.gz"))
    assert scan.data.shape == (1, 3, 4, 5)
    assert scan.grid.axes == "SAR"
    assert scan.grid.spacing == (4, 3, 2)
    assert scan.data[0, 2, 1, 3] == 3 + 5 * 1 + 20 * 2
    # i, j, k = 3, 1, 2 is at RAS -10 + 6, 20 + 3, 30 + 8
    assert scan.grid.world((2, 1, 3)).tolist() == [4, -23, 38]


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "f4"])
def test_unscaled_voxels_keep_their_type(tmp_path: Path, dtype: str) -> None:
    scan = read(nifti(tmp_path / "a.nii", counting(dtype=dtype)))
    assert scan.data.dtype == np.dtype(dtype)
    assert np.array_equal(scan.data[0].ravel(), np.arange(60))


@pytest.mark.parametrize("dtype", ["u4", "i8", "u8"])
def test_wide_integers_become_int32_when_they_fit(tmp_path: Path, dtype: str) -> None:
    data = counting(dtype=dtype) + np.array(2**31 - 60, dtype)
    scan = read(nifti(tmp_path / "a.nii", data))
    assert scan.data.dtype == np.int32
    assert scan.data.max() == 2**31 - 1


def test_integers_beyond_int32_become_float32(tmp_path: Path) -> None:
    scan = read(nifti(tmp_path / "a.nii", counting(dtype="i8") + 2**40))
    assert scan.data.dtype == np.float32
    assert scan.data.min() == 2**40


def test_64_bit_floats_become_32_bit_and_NaN_stays(tmp_path: Path) -> None:
    data = counting(dtype="f8")
    data[0, 0, 0] = np.nan
    scan = read(nifti(tmp_path / "a.nii", data))
    assert scan.data.dtype == np.float32
    assert np.isnan(scan.data[0, 0, 0, 0])
    assert scan.data[0, 0, 0, 1] == 1


@pytest.mark.parametrize(
    ("put", "version"), [({"order": ">"}, 1), ({}, 2), ({"order": ">"}, 2), ({"xyzt_units": 10}, 1)]
)
def test_3_5_byte_order_and_version_change_nothing(tmp_path: Path, put: dict, version: int) -> None:
    plain = read(nifti(tmp_path / "plain.nii"))
    other = read(nifti(tmp_path / "other.nii.gz", version=version, **put))
    assert np.array_equal(plain.data, other.data)
    assert other.data.dtype.isnative
    assert np.array_equal(plain.grid.affine, other.grid.affine)


def test_3_5_slope_and_intercept_are_applied(tmp_path: Path) -> None:
    scan = read(nifti(tmp_path / "a.nii", counting(), scl_slope=0.5, scl_inter=-1024))
    assert scan.data.dtype == np.float32
    assert scan.data.ravel()[:3].tolist() == [-1024, -1023.5, -1023]


@pytest.mark.parametrize("slope", [0, np.nan, np.inf])
def test_3_5_a_slope_of_0_means_that_the_intercept_does_not_count_either(tmp_path: Path, slope: float) -> None:
    scan = read(nifti(tmp_path / "a.nii", counting(), scl_slope=slope, scl_inter=500))
    assert scan.data.dtype == np.int16
    assert np.array_equal(scan.data[0].ravel(), np.arange(60))


@pytest.mark.parametrize("inter", [np.nan, np.inf])
def test_3_5_an_intercept_that_is_no_number_is_refused_where_it_counts(tmp_path: Path, inter: float) -> None:
    with pytest.raises(InputError, match=r"a.nii: .*times 2 plus (nan|inf)"):
        read(nifti(tmp_path / "a.nii", scl_slope=2, scl_inter=inter))


def test_3_13_a_pair_whose_voxels_are_a_link_to_elsewhere_is_refused(tmp_path: Path) -> None:
    header, voxels = nifti_bytes(pair=True)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.hdr").write_bytes(header)
    (tmp_path / "elsewhere").write_bytes(voxels)
    (tmp_path / "in" / "a.img").symlink_to("../elsewhere")
    with pytest.raises(InputError, match=r"a.hdr: .*outside its folder"):
        read(tmp_path / "in" / "a.hdr")


def test_voxel_sizes_that_the_sform_contradicts_are_mentioned(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", qform_code=0, pixdim=(1, 1, 1, 1, 1, 1, 1, 1))
    (said,) = read(path).source.warnings
    assert "1 x 1 x 1 mm, but of 2 x 3 x 4 mm in the sform" in said


@pytest.mark.parametrize("ending", ["hdr", "img"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_pair_is_read_by_either_of_its_names(tmp_path: Path, ending: str, packed: bool) -> None:
    header, voxels = nifti_bytes(pair=True)
    tail, pack = (".gz", gzip.compress) if packed else ("", bytes)
    (tmp_path / f"a.hdr{tail}").write_bytes(pack(header))
    (tmp_path / f"a.img{tail}").write_bytes(pack(voxels))
    scan = read(tmp_path / f"a.{ending}{tail}")
    assert np.array_equal(scan.data[0].ravel(), np.arange(60))


def test_voxels_of_a_pair_that_begin_as_a_packed_file_does_are_read(tmp_path: Path) -> None:
    data = np.zeros((5, 4, 3), "u1")
    data[:2, 0, 0] = 0x1F, 0x8B
    head, voxels = nifti_bytes(data, pair=True)
    (tmp_path / "a.hdr").write_bytes(head)
    (tmp_path / "a.img").write_bytes(voxels)
    assert np.array_equal(read(tmp_path / "a.hdr").data[0], data.transpose(2, 1, 0))


def test_a_header_without_its_voxels_is_missing_its_other_half(tmp_path: Path) -> None:
    (tmp_path / "a.hdr").write_bytes(nifti_bytes(pair=True)[0])
    with pytest.raises(InputMissing, match=r"a\.hdr: its other half a\.img was not found"):
        read(tmp_path / "a.hdr")


def test_a_gzip_file_of_several_members_is_one_stream(tmp_path: Path) -> None:
    content = b"".join(nifti_bytes())
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content[:400]) + gzip.compress(content[400:]))
    assert np.array_equal(read(tmp_path / "a.nii.gz").data[0].ravel(), np.arange(60))


def test_a_second_gzip_member_is_found_wherever_the_file_is_cut_into_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"".join(nifti_bytes())
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content[:400]) + gzip.compress(content[400:]))
    for size in range(2, 40):
        monkeypatch.setattr(streams, "_CHUNK", size)
        assert np.array_equal(read(tmp_path / "a.nii.gz").data[0].ravel(), np.arange(60))


def test_3_4_trailing_axes_of_one_are_dropped(tmp_path: Path) -> None:
    assert read(nifti(tmp_path / "a.nii", dim=(5, *IJK, 1, 1, 1, 1))).data.shape == (1, 3, 4, 5)


def test_3_4_a_4D_file_is_taken_for_channels_only_when_the_model_has_as_many(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", counting((*IJK, 2)))
    assert read(path, channels=2).data.shape == (2, 3, 4, 5)
    assert read(path, channels=2).data[1, 0, 0, 0] == 60
    for channels in (1, 3):
        with pytest.raises(InputError, match="4-D image with 2 volumes"):
            read(path, channels=channels)


def in_units(units: int, factor: float) -> dict[str, Any]:
    """Fields that say of the usual scan where it is, in units of `factor` mm."""
    rows, sizes = RAS[:3] / factor, np.array([2, 3, 4]) / factor
    return {"srow": rows.ravel(), "qoffset": rows[:, 3], "pixdim": (1, *sizes, 1, 1, 1, 1), "xyzt_units": units}


@pytest.mark.parametrize(("units", "factor"), [(1, 1000), (3, 0.001), (2, 1), (0, 1)])
def test_3_11_lengths_are_converted_to_mm(tmp_path: Path, units: int, factor: float) -> None:
    scan = read(nifti(tmp_path / "a.nii", version=2, **in_units(units, factor)))
    assert np.allclose(scan.grid.spacing, [4, 3, 2], rtol=1e-12)
    assert np.allclose(scan.grid.affine[:3, 3], [10, -20, 30], rtol=1e-12)
    assert any("converted to mm" in w for w in scan.source.warnings) == (factor != 1)


def test_the_header_is_examined_without_a_voxel(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    path.write_bytes(nifti_bytes(counting((*IJK, 2)))[0])  # there are no voxels to read
    header, grid, source = room.examine(path)
    assert (grid.shape, room.volumes(header)) == ((3, 4, 5), 2)
    assert source.facts == {
        "format": "NIfTI-1",
        "dtype": "int16",
        "units": "mm",
        "affine": "sform",
        "sform_code": 1,
        "qform_code": 1,
        "forms_differ_mm": 0,
    }


# Where it is --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GRIDS)
def test_7_1_write_then_read_changes_neither_voxels_nor_affine(tmp_path: Path, name: str) -> None:
    grid = GRIDS[name]
    path = formats.write(labels_on(grid), [], tmp_path / "a.nii.gz")
    again = read(path)
    assert np.array_equal(again.data, labels_on(grid).data)
    assert again.data.dtype == np.uint8
    assert np.allclose(again.grid.affine, grid.affine, atol=1e-5)
    assert not [w for w in again.source.warnings if "sheared" not in w]
    other = nibabel.load(path)
    assert np.allclose(LPS @ other.affine, grid.affine[:, [2, 1, 0, 3]], atol=1e-5)
    assert np.array_equal(np.asarray(other.dataobj).T, again.data[0])
    if grid.sheared:
        assert other.header["qform_code"] == 0
        return
    assert np.allclose(other.get_qform(), other.affine, atol=1e-5)
    image = sitk.ReadImage(path)
    assert np.array_equal(sitk.GetArrayFromImage(image), again.data[0])
    assert np.allclose(image.TransformIndexToPhysicalPoint((4, 0, 2)), grid.world((2, 0, 4)), atol=1e-4)


@pytest.mark.parametrize("name", ["straight-RAS", "oblique-PIR", "oblique-SPL"])
def test_3_7_the_qform_is_read_as_nibabel_and_ITK_read_it(tmp_path: Path, name: str) -> None:
    grid = GRIDS[name]
    image = nibabel.Nifti1Image(labels_on(grid).data[0].T, None)
    image.set_qform(LPS @ grid.affine[:, [2, 1, 0, 3]], 2)
    nibabel.save(image, tmp_path / "a.nii")
    scan = read(tmp_path / "a.nii")
    assert scan.source.facts["affine"] == "qform"
    assert np.allclose(scan.grid.affine, grid.affine, atol=1e-5)
    itk = sitk.ReadImage(tmp_path / "a.nii")
    assert np.allclose(itk.TransformIndexToPhysicalPoint((4, 0, 2)), scan.grid.world((2, 0, 4)), atol=1e-4)


def test_a_half_turn_as_quaternion_is_a_rotation(tmp_path: Path) -> None:
    scan = read(nifti(tmp_path / "a.nii", sform_code=0, quatern=(0, 0, 1.0000001)))
    assert np.allclose(scan.grid.directions[:, ::-1], np.eye(3), atol=1e-9)  # RAS turned about S is LPS


def test_3_7_a_file_without_forms_is_refused_unless_told_what_counts(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", sform_code=0, qform_code=0)
    with pytest.raises(InputError, match=r"a\.nii: neither sform nor qform .*--affine"):
        read(path)
    assert np.array_equal(read(path, affine="sform").grid.affine, (LPS @ RAS)[:, [2, 1, 0, 3]])
    assert np.array_equal(read(path, affine="qform").grid.affine, (LPS @ RAS)[:, [2, 1, 0, 3]])
    assert read(path, affine="pixdim").grid.axes == "SAR"
    assert read(path, affine="pixdim").grid.affine[:3, 3].tolist() == [0, 0, 0]


NO_SFORM = {"srow": (0.0,) * 12}
NO_QFORM = {"quatern": (1, 1, 1)}
NO_SIZES = {"pixdim": (1, 0, 0, 0, 1, 1, 1, 1)}


@pytest.mark.parametrize(
    ("put", "hint"),
    [
        ({"sform_code": 0, "qform_code": 0, **NO_SFORM}, "say so: --affine qform or --affine pixdim"),
        ({"sform_code": 0, "qform_code": 0, **NO_SFORM, **NO_QFORM}, "if its pixdim is right, say so: --affine pixdim"),
        ({"sform_code": 0, "qform_code": 0, **NO_SIZES}, "if its sform is right, say so: --affine sform"),
        ({"sform_code": 0, "qform_code": 0, **NO_SFORM, **NO_SIZES}, "repair the header"),
        ({**NO_SFORM, **NO_SIZES}, "repair the header"),
        ({**NO_SFORM, **NO_QFORM}, "repair the header"),
        ({"qform_code": 0, **NO_SFORM}, "repair the header"),
    ],
)
def test_only_statements_that_can_count_are_named(tmp_path: Path, put: dict, hint: str) -> None:
    path = nifti(tmp_path / "a.nii", **put)
    with pytest.raises(InputError) as refused:
        read(path)
    assert refused.value.hint is not None
    assert refused.value.hint.endswith(hint)
    for form in ("sform", "qform", "pixdim"):
        if form in refused.value.hint:
            assert read(path, affine=form).data.any()


def shifted(mm: float) -> np.ndarray:
    return (RAS + np.array([[0, 0, 0, mm]] + [[0] * 4] * 3))[:3].ravel()


def test_3_8_a_small_difference_of_the_forms_is_reported_and_the_sform_counts(tmp_path: Path) -> None:
    scan = read(nifti(tmp_path / "a.nii", srow=shifted(0.5)))
    assert scan.grid.affine[0, 3] == 9.5
    assert scan.source.facts["forms_differ_mm"] == 0.5
    assert any("up to 0.5 mm at a corner; the sform counts" in w for w in scan.source.warnings)


def test_3_8_a_difference_below_a_micrometre_is_not_worth_a_word(tmp_path: Path) -> None:
    scan = read(nifti(tmp_path / "a.nii", srow=shifted(0.0009)))
    assert not scan.source.warnings


@pytest.mark.parametrize(
    "srow",
    [
        np.diag([-1.0, 1, 1]) @ RAS[:3],  # left for right
        np.diag([1, 1, 1.011]) @ RAS[:3],  # 1.1 % more volume
        RAS[:3][[1, 0, 2]],  # two axes change places
    ],
)
def test_3_8_forms_that_differ_in_axes_or_volume_are_refused_unless_told(tmp_path: Path, srow: np.ndarray) -> None:
    path = nifti(tmp_path / "a.nii", srow=srow.ravel())
    with pytest.raises(InputError, match=r"sform and qform differ: axes \w+ and \w+, voxels of .*--affine sform"):
        read(path)
    qform = read(path, affine="qform")
    assert np.allclose(qform.grid.affine, (LPS @ RAS)[:, [2, 1, 0, 3]])
    sform = read(path, affine="sform")
    assert np.allclose(sform.grid.affine, (LPS @ np.vstack([srow, [0, 0, 0, 1]]))[:, [2, 1, 0, 3]], rtol=1e-6)
    assert "the sform counts" in sform.source.warnings[0]


def test_3_8_at_45_degrees_rounding_is_no_contradiction(tmp_path: Path) -> None:
    half = np.radians(45) / 2
    turn = np.radians(45.0001)
    srow = np.zeros((3, 4))
    srow[:3, :3] = [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
    path = nifti(
        tmp_path / "a.nii", srow=srow.ravel(), quatern=(0, 0, np.sin(half)), pixdim=(1,) * 8, qoffset=(0, 0, 0)
    )
    assert read(path).source.facts["forms_differ_mm"] < 0.001


@pytest.mark.parametrize(
    ("put", "message"),
    [
        ({"srow": (2.0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0)}, "sform is not a valid affine.*--affine qform"),
        ({"srow": (np.nan, 0, 0, 0, 0, 3, 0, 0, 0, 0, 4, 0)}, "sform is not a valid affine"),
        ({"srow": (2.0, 0, 0, np.inf, 0, 3, 0, 0, 0, 0, 4, 0)}, "sform is not a valid affine"),
        ({"sform_code": 0, "quatern": (1, 1, 1)}, "qform is not a valid affine.*quaternion 1 1 1"),
        ({"sform_code": 0, "qoffset": (np.nan, 0, 0)}, "qform is not a valid affine"),
        ({"sform_code": 0, "pixdim": (1, 2, 0, 4, 1, 1, 1, 1)}, r"spacing \(pixdim\) of 2 x 0 x 4"),
        ({"pixdim": (1, 2, -3, 4, 1, 1, 1, 1)}, r"spacing \(pixdim\) of 2 x -3 x 4.*--affine sform"),
        ({"pixdim": (1, np.nan, 3, 4, 1, 1, 1, 1)}, r"spacing \(pixdim\) of nan x 3 x 4"),
    ],
)
def test_3_9_a_grid_that_is_none_is_refused_with_its_numbers(tmp_path: Path, put: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(nifti(tmp_path / "a.nii", **put))


def test_a_header_of_a_pair_under_another_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(nifti_bytes(pair=True)[0])
    with pytest.raises(InputError, match=r"a\.nii: the header of a \.hdr/\.img pair must be called \.hdr"):
        read(tmp_path / "a.nii")


@pytest.mark.parametrize("code", ["sform_code", "qform_code"])
def test_codes_of_forms_beyond_16_bits_are_refused(tmp_path: Path, code: str) -> None:
    path = nifti(tmp_path / "a.nii", version=2, **{code: 40000})
    with pytest.raises(InputError, match=r"a\.nii: sform code \d+ and qform code \d+; 0 to 5 are possible"):
        read(path)


@pytest.mark.parametrize("code", [0, 1])
def test_3_9_voxel_sizes_do_not_count_where_the_user_says_that_the_sform_does(tmp_path: Path, code: int) -> None:
    source = nifti(tmp_path / "a.nii", pixdim=(1, 0, -3, np.nan, 1, 1, 1, 1), qform_code=code)
    scan = read(source, affine="sform")
    assert scan.grid.spacing == (4, 3, 2)
    path = formats.write(labels_on(scan.grid), [], tmp_path / "b.nii", scan.source)
    assert read(path).grid.same_as(scan.grid)  # the map's own voxel sizes are right: it needs no choice


def test_a_map_of_one_sheared_slice_is_read_again_where_it_was_written(tmp_path: Path) -> None:
    affine = np.array([[0, 0, 2.0, 5], [3, 3, 0, 6], [4, 0, 0, 7], [0, 0, 0, 1]])
    grid = Grid((1, 1, 1), affine)
    path = formats.write(labels_on(grid), [], tmp_path / "b.nii")
    assert np.allclose(read(path).grid.affine, affine)


def test_3_10_a_sheared_sform_is_kept_in_full_with_a_warning(tmp_path: Path) -> None:
    srow = RAS[:3].copy()
    srow[1, 2] = 1.2  # one slice up is 1.2 mm to the front
    scan = read(nifti(tmp_path / "a.nii", srow=srow.ravel(), qform_code=0))
    assert np.allclose(scan.grid.affine[:3, 0], [0, -1.2, 4])
    assert scan.grid.voxel_mm3 == pytest.approx(24)
    assert ["sheared" in w for w in scan.source.warnings] == [True]


# What is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_3_1_one_missing_byte_is_refused(tmp_path: Path, name: str) -> None:
    header, voxels = nifti_bytes()
    content = header + voxels[:-1]
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(InputError, match="truncated: the header announces 120 bytes of voxels, 119 are there"):
        read(tmp_path / name)


@pytest.mark.parametrize("cut", range(1, 9))
def test_3_1_a_gzip_stream_without_its_checksum_and_length_is_refused(tmp_path: Path, cut: int) -> None:
    path = nifti(tmp_path / "a.nii.gz")
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(InputError, match=r"a\.nii\.gz: truncated: the compressed data ends"):
        read(path)


@pytest.mark.parametrize("at", [-8, -1])
def test_3_1_a_wrong_checksum_or_length_is_refused(tmp_path: Path, at: int) -> None:
    path = nifti(tmp_path / "a.nii.gz")
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="corrupt or truncated"):
        read(path)


def test_3_1_a_longer_file_is_read_with_a_warning(tmp_path: Path) -> None:
    content = b"".join(nifti_bytes())
    (tmp_path / "a.nii").write_bytes(content + b"12345")
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(content + b"12345"))
    (tmp_path / "c.nii.gz").write_bytes(gzip.compress(content) + b"12345")
    (tmp_path / "d.nii.gz").write_bytes(gzip.compress(content) + b"\0" * 512)
    assert "5 bytes more" in read(tmp_path / "a.nii").source.warnings[0]
    assert "5 bytes more" in read(tmp_path / "b.nii.gz").source.warnings[0]
    assert "after the compressed data" in read(tmp_path / "c.nii.gz").source.warnings[0]
    assert not read(tmp_path / "d.nii.gz").source.warnings


@pytest.mark.parametrize(
    ("put", "message"),
    [
        ({"magic": b"XXXX"}, "its magic is b'XXXX'"),
        ({"magic": b"\0\0\0\0"}, "Analyze 7.5"),
        ({"magic": b"n+2\0"}, "its magic is"),
        ({"dim": (0, 5, 4, 3, 1, 1, 1, 1)}, "announces 0 dimensions"),
        ({"dim": (8, 5, 4, 3, 1, 1, 1, 1)}, "announces 8 dimensions"),
        ({"dim": (3, 5, 0, 3, 1, 1, 1, 1)}, "dimension of 0 voxels: the header says 5 x 0 x 3"),
        ({"dim": (3, 5, -4, 3, 1, 1, 1, 1)}, "dimension of -4 voxels"),
        ({"dim": (4, 5, 4, 3, 0, 1, 1, 1)}, "dimension of 0 voxels"),
        ({"dim": (3, 32000, 32000, 32000, 1, 1, 1, 1)}, "truncated: the header announces 65,536,000,000,000 bytes"),
        ({"datatype": 9999}, "data type 9999"),
        ({"datatype": 32}, r"data type 32 \(complex\)"),
        ({"datatype": 128}, r"data type 128 \(RGB"),
        ({"dim": (2, 10, 6, 1, 1, 1, 1, 1)}, "a 2-D image of 10 x 6 pixels"),
        ({"dim": (4, 5, 4, 1, 3, 1, 1, 1)}, "a 4-D image with 3 volumes"),
        (
            {"dim": (5, 5, 4, 1, 1, 3, 1, 1), "intent_code": 1007},
            r"5-D image with 3 values for each voxel \(intent 1007\), where one",
        ),
        ({"dim": (5, 5, 2, 1, 2, 3, 1, 1)}, "5-D image of 5 x 2 x 1 x 2 x 3 voxels"),
        ({"vox_offset": 348}, "begin at byte 348"),
        ({"vox_offset": 0, "dim": (3, 5, 4, 2, 1, 1, 1, 1)}, "begin at byte 0, the first possible one is 352"),
        ({"vox_offset": 0, "dim": (3, 5, 4, 9, 1, 1, 1, 1)}, "begin at byte 0"),
        ({"vox_offset": 352.5}, "begin at byte 352.5"),
        ({"vox_offset": np.nan}, "begin at byte nan"),
        ({"vox_offset": 1e30}, "truncated"),
    ],
)
def test_3_2_what_the_header_cannot_mean_is_refused_by_name(tmp_path: Path, put: dict, message: str) -> None:
    with pytest.raises(InputError, match=rf"a\.nii: .*{message}"):
        read(nifti(tmp_path / "a.nii", **put))


def test_3_3_a_packed_file_that_cannot_hold_its_voxels_is_refused_before_memory_is_taken(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot hold the 65,536,000,000,000 bytes"):
        read(nifti(tmp_path / "a.nii.gz", dim=(3, 32000, 32000, 32000, 1, 1, 1, 1)))


def test_3_3_what_unpacks_to_over_1_MB_more_than_announced_is_refused(tmp_path: Path) -> None:
    content = b"".join(nifti_bytes())
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content + bytes(1_000_000)))
    assert "1,000,000 bytes more" in read(tmp_path / "a.nii.gz").source.warnings[0]
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content + bytes(1_000_001)))
    with pytest.raises(InputError, match="over 1 MB more than the 120 bytes"):
        read(tmp_path / "a.nii.gz")


def test_3_3_voxels_that_do_not_fit_into_memory_are_refused_with_both_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = nifti(tmp_path / "a.nii.gz", counting((512, 64, 64), "u1"))
    monkeypatch.setattr(memory, "available", lambda: 2**20)
    with pytest.raises(OutOfMemory, match=r"its voxels need 2 MiB of memory, 1 are free"):
        read(path)


def test_1_7_pipes_and_devices_are_refused_without_being_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.nii")
    (tmp_path / "b.nii").symlink_to(tmp_path / "a.nii")
    (tmp_path / "c.nii").symlink_to("/dev/zero")
    for name, kind in (("a.nii", "named pipe"), ("b.nii", "named pipe"), ("c.nii", "device")):
        with pytest.raises(InputError, match=f"{name}: not a regular file but a {kind}"):
            read(tmp_path / name)


def test_3_15_any_file_name_the_system_allows_is_read(tmp_path: Path) -> None:
    names = ["my scan v1.2 – Ünï 脳.nii", "-o.nii", "two\nlines.nii", "x" * 251 + ".nii", os.fsdecode(b"\xff\xfe.nii")]
    for name in names:
        assert read(nifti(tmp_path / name)).data.size == 60


def test_an_unreadable_file_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = nifti(tmp_path / "a.nii")

    def shut(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", shut)
    with pytest.raises(Denied, match=r"a\.nii: cannot be read: permission denied"):
        read(path)


def test_names_that_are_no_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "link.nii").symlink_to("nowhere")
    with pytest.raises(InputMissing, match="broken link"):
        read(tmp_path / "link.nii")
    with pytest.raises(InputMissing, match="no such file"):
        read(nifti(tmp_path / "file.nii") / "below")
    with pytest.raises(InputMissing, match="no such file"):
        read(tmp_path / "gone.nii")
    with pytest.raises(InputError, match="cannot be opened"):
        read(tmp_path / ("x" * 300))


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([1, 2]), st.lists(st.tuples(st.integers(0, 543), st.integers(0, 255)), min_size=1, max_size=6))
def test_any_header_is_read_or_refused_and_what_is_read_can_be_written(
    tmp_path: Path, version: int, changes: list[tuple[int, int]]
) -> None:
    header, voxels = nifti_bytes(version=version)
    spoilt = bytearray(header)
    for at, byte in changes:
        spoilt[at % len(header)] = byte
    path = tmp_path / "a.nii"
    path.write_bytes(spoilt + voxels)
    with contextlib.suppress(InputError):
        scan = read(path)
        with contextlib.suppress(OutputError):
            formats.write_image(scan, tmp_path / "out.nii", scan.source)
    for piece in (bytes(spoilt), bytes(spoilt)[: changes[0][0]]):
        path.write_bytes(piece)
        with contextlib.suppress(SegcliError):
            read(path)


# What is written ----------------------------------------------------------------------------------------------------


def field(path: Path, at: int, size: int) -> bytes:
    content = path.read_bytes()
    return (gzip.decompress(content) if path.name.endswith(".gz") else content)[at : at + size]


def test_7_1_the_label_map_has_the_scans_own_forms_codes_sizes_and_units(tmp_path: Path) -> None:
    scan = read(
        nifti(
            tmp_path / "a.nii",
            srow=shifted(0.25),
            qform_code=2,
            sform_code=4,
            pixdim=(1, 2, 3, 4, 2.5, 0, 0, 0),
            xyzt_units=10,
        )
    )
    path = formats.write(labels_on(scan.grid), [], tmp_path / "b.nii.gz", scan.source, description="segcli uxnet")
    source = tmp_path / "a.nii"
    for at, size in ((76, 32), (123, 1), (252, 2 + 2 + 12 + 12 + 48)):  # pixdim; units; codes, both forms
        assert field(path, at, size) == field(source, at, size)
    assert struct.unpack("<8h", field(path, 40, 16)) == (3, 5, 4, 3, 1, 1, 1, 1)
    assert struct.unpack("<3h", field(path, 68, 6)) == (1002, 2, 8)  # label, uint8, 8 bits
    assert struct.unpack("<3f", field(path, 108, 12)) == (352, 1, 0)
    assert field(path, 148, 80).rstrip(b"\0") == b"segcli uxnet"
    assert read(path).grid.same_as(scan.grid)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_3_1_extensions_that_lie_where_the_voxels_are_said_to_begin_are_refused(
    tmp_path: Path, name: str, version: int
) -> None:
    header, voxels = nifti_bytes(version=version)
    extended, extension = header[:-4] + b"\1\0\0\0", struct.pack("<2i24s", 32, 4, b"words")
    content = extended + extension + voxels
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(InputError, match=r"extensions are said to follow the header, .* cannot be told"):
        read(tmp_path / name)
    for behind in (b"", bytes(40)):  # announced by bytes that nobody cleared, and not there
        content = extended + voxels + behind
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        scan = read(tmp_path / name)
        np.testing.assert_array_equal(scan.data[0].T, counting())
        told = f"{name}: 40 bytes more than the header announces; they are ignored"
        assert scan.source.warnings == ((told,) if behind else ())


@pytest.mark.parametrize(("version", "first"), [(1, 352), (2, 544)])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_3_2_a_vox_offset_of_0_is_right_behind_the_header_where_exactly_the_voxels_follow(
    tmp_path: Path, name: str, version: int, first: int
) -> None:
    path = nifti(tmp_path / name, version=version, vox_offset=0)
    scan = read(path)
    assert np.array_equal(scan.data[0].ravel(), np.arange(60))
    assert f"vox_offset is 0; its voxels are read from byte {first} on" in scan.source.warnings[0]
    content = gzip.decompress(path.read_bytes()) if name.endswith(".gz") else path.read_bytes()
    for spoilt in (content + b"x", content[:-1]):
        path.write_bytes(gzip.compress(spoilt) if name.endswith(".gz") else spoilt)
        with pytest.raises(InputError, match=f"said to begin at byte 0, the first possible one is {first}") as told:
            read(path)
        assert told.value.hint is not None
        assert "vox_offset" in told.value.hint


@pytest.mark.parametrize("name", ["a.img.gz", "a.IMG.gz"])
def test_voxels_in_an_img_gz_are_unpacked_though_it_is_as_long_as_they_are(tmp_path: Path, name: str) -> None:
    header, voxels = nifti_bytes(counting() // 8, pair=True)
    (tmp_path / name.replace("img", "hdr").replace("IMG", "HDR")).write_bytes(gzip.compress(header))
    (tmp_path / name).write_bytes(gzip.compress(voxels).ljust(len(voxels), b"\0"))
    assert (tmp_path / name).stat().st_size == len(voxels)
    assert np.array_equal(read(tmp_path / name).data[0].ravel(), np.arange(60) // 8)


def test_3_1_an_img_gz_that_does_not_begin_as_gzip_does_is_refused_unless_it_holds_the_voxels_alone(
    tmp_path: Path,
) -> None:
    header, voxels = nifti_bytes(pair=True)
    (tmp_path / "a.hdr").write_bytes(header)
    (tmp_path / "a.img.gz").write_bytes(b"\x1e" + gzip.compress(voxels, 0)[1:])
    with pytest.raises(InputError, match=r"a\.img\.gz: corrupt: it does not begin as a gzip file does"):
        read(tmp_path / "a.hdr")
    (tmp_path / "a.img.gz").write_bytes(voxels)
    assert np.array_equal(read(tmp_path / "a.hdr").data[0].ravel(), np.arange(60))


IN_METRES = in_units(1, 1000)


@pytest.mark.parametrize("put", [{"order": ">"}, {"version": 2}, IN_METRES, {"xyzt_units": 3}])
def test_7_1_the_output_is_in_the_same_place_as_any_kind_of_NIfTI(tmp_path: Path, put: dict) -> None:
    scan = read(nifti(tmp_path / "a.nii", **put))
    path = formats.write(labels_on(scan.grid), [], tmp_path / "b.nii.gz", scan.source)
    assert field(path, 344, 4) == b"n+1\0"
    assert np.allclose(read(path).grid.affine, scan.grid.affine, rtol=1e-12)
    assert np.array_equal(nibabel.load(path).affine, nibabel.load(tmp_path / "a.nii").affine)


def test_a_header_is_not_lent_to_another_grid(tmp_path: Path) -> None:
    scan = read(nifti(tmp_path / "a.nii"))
    part = labels_on(scan.grid).crop((slice(1, 3), slice(0, 4), slice(2, 5)))
    path = formats.write(part, [], tmp_path / "b.nii.gz", scan.source)
    assert np.allclose(read(path).grid.affine, part.grid.affine, atol=1e-5)


MIRRORED = np.diag([-1.0, 1, 1]) @ RAS[:3]
SHEARED = RAS[:3] + np.array([[0] * 4, [0, 0, 1.2, 0], [0] * 4])
BROKEN = np.zeros((3, 4))


@pytest.mark.parametrize(
    ("affine", "put", "codes"),
    [
        ("sform", {"srow": MIRRORED, "qform_code": 2, "sform_code": 4}, (4, 4)),
        ("qform", {"srow": MIRRORED, "qform_code": 2, "sform_code": 4}, (2, 2)),
        ("qform", {"srow": BROKEN}, (1, 1)),
        ("sform", {"srow": MIRRORED, "sform_code": 0}, (1, 1)),
        ("sform", {"srow": MIRRORED, "qform_code": 0, "sform_code": 0}, (1, 1)),
        ("sform", {"srow": SHEARED}, (0, 1)),  # no qform can say this
        ("sform", {"srow": MIRRORED, "pixdim": (1, 2, 3, 0, 1, 1, 1, 1)}, (1, 1)),
        ("pixdim", {"srow": MIRRORED}, (1, 1)),
        ("pixdim", {"qform_code": 0, "sform_code": 0}, (1, 1)),
        ("sform", {**IN_METRES, "srow": MIRRORED / 1000}, (1, 1)),
    ],
)
def test_7_1_both_forms_state_what_was_chosen_where_the_scans_own_do_not(
    tmp_path: Path, affine: formats.Form, put: dict, codes: tuple[int, int]
) -> None:
    put = {**put, "srow": put.get("srow", RAS[:3]).ravel()}
    scan = read(nifti(tmp_path / "a.nii", **put), affine=affine)
    path = formats.write(labels_on(scan.grid), [], tmp_path / "b.nii", scan.source)
    assert read(path).grid.same_as(scan.grid)
    ras = LPS @ scan.grid.affine[:, [2, 1, 0, 3]]
    other = nibabel.load(path)
    assert (int(other.header["qform_code"]), int(other.header["sform_code"])) == codes
    assert np.allclose(other.get_sform(), ras, atol=1e-4)
    assert other.header.get_xyzt_units()[0] == "mm"
    if codes[0]:
        assert np.allclose(other.get_qform(), ras, atol=1e-4)
        point = sitk.ReadImage(path).TransformIndexToPhysicalPoint((4, 0, 2))
        assert np.allclose(point, scan.grid.world((2, 0, 4)), atol=1e-4)


@pytest.mark.parametrize("put", [{}, {"sform_code": 0}, {"qform_code": 0, "srow": MIRRORED.ravel()}])
def test_7_1_a_choice_that_the_forms_agree_with_changes_none_of_them(tmp_path: Path, put: dict) -> None:
    scan = read(nifti(tmp_path / "a.nii", xyzt_units=10, **put), affine="sform")
    path = formats.write(labels_on(scan.grid), [], tmp_path / "b.nii", scan.source)
    for at, size in ((76, 32), (123, 1), (252, 2 + 2 + 12 + 12 + 48)):  # pixdim; units; codes, both forms
        assert field(path, at, size) == field(tmp_path / "a.nii", at, size)


def test_3_12_no_free_text_of_the_source_is_written(tmp_path: Path) -> None:
    canary = b"CANARY"
    header, voxels = nifti_bytes(
        db_name=canary, descrip=canary, aux_file=canary, intent_name=canary, vox_offset=352 + 32
    )
    extension = struct.pack("<2i", 32, 6) + canary.ljust(24, b"\0")
    (tmp_path / "a.nii").write_bytes(header[:348] + b"\1\0\0\0" + extension + voxels)
    scan = read(tmp_path / "a.nii")
    assert np.array_equal(scan.data[0].ravel(), np.arange(60))
    path = formats.write(labels_on(scan.grid), [], tmp_path / "b.nii", scan.source)
    assert canary not in path.read_bytes()
    assert "CANARY" not in str(scan.source)


def test_6_6_equal_labels_are_equal_bytes_without_time_or_name(tmp_path: Path) -> None:
    grid = GRIDS["oblique-RAS"]
    one = formats.write(labels_on(grid), [], tmp_path / "one.nii.gz").read_bytes()
    two = formats.write(labels_on(grid), [], tmp_path / "two.nii.gz").read_bytes()
    assert one == two
    assert one[3] == 0  # no name
    assert one[4:8] == bytes(4)  # no time


def test_2_1_a_file_that_reads_back_otherwise_does_not_get_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = streams._stored

    def one_bit_off(path: Path, start: int, packed: bool):  # type: ignore[no-untyped-def]
        content = bytearray(b"".join(stored(path, start, packed)))
        content[-1] ^= 1
        yield bytes(content)

    monkeypatch.setattr(streams, "_stored", one_bit_off)
    with pytest.raises(OutputError, match=r"a\.nii\.gz: what was read back differs"):
        formats.write(labels_on(GRIDS["straight-RAS"]), [], tmp_path / "a.nii.gz")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("top", "kept"), [(255, np.uint8), (256, np.uint16), (65536, np.int32)])
def test_7_5_labels_are_written_in_a_type_that_holds_them(tmp_path: Path, top: int, kept: type) -> None:
    grid = GRIDS["straight-RAS"]
    data = np.zeros((1, *grid.shape), np.int64)
    data[0, 0, 0, 0] = top
    again = read(formats.write(Volume(data, grid), [], tmp_path / "a.nii.gz"))
    assert again.data.dtype == kept
    assert again.data.max() == top


def test_more_than_32767_voxels_along_an_axis_make_a_NIfTI_2(tmp_path: Path) -> None:
    grid = Grid((1, 1, 40000), np.diag([1.0, 1, 0.5, 1]))
    path = formats.write(Volume(np.ones((1, *grid.shape), np.uint8), grid), [], tmp_path / "a.nii.gz")
    assert read(path).source.facts["format"] == "NIfTI-2"
    image = nibabel.load(path)
    assert image.shape == (40000, 1, 1)
    assert int(image.header["intent_code"]) == 1002
    assert np.allclose(LPS @ image.affine, grid.affine[:, [2, 1, 0, 3]])
    assert read(path).grid.same_as(grid)


@pytest.mark.parametrize(
    ("step", "origin", "version"),
    [(0.02, (-400.123, -410.321, -390.777), 2), (1.0, (0, 0, -99999.123), 2), (0.1, (0, 0, -900.2512345), 1)],
)
def test_7_1_a_grid_that_float32_would_move_makes_a_NIfTI_2(
    tmp_path: Path, step: float, origin: tuple[float, ...], version: int
) -> None:
    world = np.diag([step, step, step, 1.0])
    world[:3, 3] = origin
    grid = Grid((3, 4, 5), world)
    path = formats.write(Volume(np.ones((1, *grid.shape), np.uint8), grid), [], tmp_path / "a.nii.gz")
    found = read(path)
    assert found.source.facts["format"] == f"NIfTI-{version}"
    assert found.grid.same_as(grid)


def test_probabilities_keep_their_channels_and_their_slope(tmp_path: Path) -> None:
    grid = GRIDS["oblique-RAS"]
    data = np.stack([np.zeros(grid.shape), np.full(grid.shape, 255)]).astype(np.uint8)
    path = formats.write_image(Volume(data, grid), tmp_path / "a.nii.gz", slope=1 / 255)
    again = read(path, channels=2)
    assert again.data.dtype == np.float32
    assert again.data[:, 0, 0, 0].tolist() == pytest.approx([0, 1], abs=1e-6)
    assert nibabel.load(path).shape == (*grid.shape[::-1], 2)


@pytest.mark.parametrize(
    "put", [{"quatern": (1, 1, 1)}, {"quatern": (np.nan, 0, 0)}, {"qoffset": (np.nan, 0, 0)}, {"qform_code": -1}]
)
def test_beside_a_spoilt_qform_the_label_map_lies_on_the_scan_in_every_reader(tmp_path: Path, put: dict) -> None:
    """Its forms are copied as they are: whichever of them a reader takes, it takes the same one of both files."""
    scan = nifti(tmp_path / "scan.nii", **put)
    read = formats.read([scan])
    made = formats.write(Volume(np.ones(read.data.shape, np.uint8), read.grid), (), tmp_path / "a.nii", read.source)
    one, other = (sitk.ReadImage(str(path)) for path in (scan, made))
    for stated in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(one, stated)() == getattr(other, stated)()
    raw, own = (nibabel.load(path).header for path in (scan, made))
    assert np.array_equal(raw.get_best_affine(), own.get_best_affine())
    for field in ("qform_code", "sform_code", "quatern_b", "qoffset_x", "srow_x", "pixdim"):
        assert np.array_equal(raw[field], own[field], equal_nan=True)
