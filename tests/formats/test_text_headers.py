"""NRRD and MetaImage are read whole, in place and from beside their header only."""

import codecs
import contextlib
import gzip
import os
import unicodedata
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scan_files import counting, grids

from segcli import formats
from segcli.errors import InputError, InputMissing, OutputError, SegcliError
from segcli.space.volume import Grid, Volume

GRIDS = grids()
VOXELS = counting().tobytes(order="F")  # 5 x 4 x 3, int16
NRRD = {
    "type": "short",
    "dimension": "3",
    "space": "left-posterior-superior",
    "sizes": "5 4 3",
    "space directions": "(2,0,0) (0,3,0) (0,0,4)",
    "kinds": "domain domain domain",
    "endian": "little",
    "encoding": "raw",
    "space origin": "(10,-20,30)",
}
META = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False",
    "TransformMatrix": "1 0 0 0 1 0 0 0 1",
    "Offset": "10 -20 30",
    "ElementSpacing": "2 3 4",
    "DimSize": "5 4 3",
    "ElementType": "MET_SHORT",
    "ElementDataFile": "LOCAL",
}
EXPECTED = np.array([[0, 0, 2, 10], [0, 3, 0, -20], [4, 0, 0, 30], [0, 0, 0, 1]], float)


def read(path: Path, **options: object) -> Volume:
    return formats.read([path], **options)  # type: ignore[arg-type]


def nrrd(path: Path, voxels: bytes = VOXELS, **put: str | None) -> Path:
    fields = {**NRRD, **{key.replace("_", " "): value for key, value in put.items()}}
    text = "".join(f"{key}: {value}\n" for key, value in fields.items() if value is not None)
    path.write_bytes(f"NRRD0005\n# a comment\nnote:=with a: colon\n{text}\n".encode() + voxels)
    return path


def meta(path: Path, voxels: bytes = VOXELS, **put: str | None) -> Path:
    fields = {**META, **put}
    fields["ElementDataFile"] = fields.pop("ElementDataFile")  # it ends the header
    path.write_bytes(
        "".join(f"{key} = {value}\n" for key, value in fields.items() if value is not None).encode() + voxels
    )
    return path


def as_expected(scan: Volume) -> None:
    assert np.array_equal(scan.data[0].ravel(), np.arange(60))
    assert np.array_equal(scan.grid.affine, EXPECTED)


# NRRD ---------------------------------------------------------------------------------------------------------------


def test_an_NRRD_has_slices_first_and_lies_where_it_says(tmp_path: Path) -> None:
    scan = read(nrrd(tmp_path / "a.nrrd"))
    as_expected(scan)
    assert scan.data.dtype == np.int16
    assert scan.source.facts == {"format": "NRRD", "dtype": "int16", "units": "mm"}


def test_an_NRRD_may_be_packed_big_endian_text_or_skip_bytes(tmp_path: Path) -> None:
    big = counting().astype(">i2").tobytes(order="F")
    text = " ".join(str(n) for n in range(60)).encode()
    as_expected(read(nrrd(tmp_path / "a.nrrd", gzip.compress(VOXELS), encoding="gzip")))
    as_expected(read(nrrd(tmp_path / "b.nrrd", big, endian="big")))
    as_expected(read(nrrd(tmp_path / "c.nrrd", text, encoding="ascii", endian=None)))
    as_expected(read(nrrd(tmp_path / "d.nrrd", b"1234567" + VOXELS, byte_skip="7")))
    as_expected(read(nrrd(tmp_path / "e.nrrd", b"1234567" + VOXELS, byte_skip="-1")))
    as_expected(read(nrrd(tmp_path / "f.nrrd", gzip.compress(b"12" + VOXELS), encoding="gz", byte_skip="2")))


def test_an_NRRD_that_states_a_field_twice_and_differently_is_refused(tmp_path: Path) -> None:
    content = nrrd(tmp_path / "a.nrrd").read_bytes()
    (tmp_path / "a.nrrd").write_bytes(content.replace(b"\n\n", b"\ntype: short\n\n", 1))
    as_expected(read(tmp_path / "a.nrrd"))
    (tmp_path / "a.nrrd").write_bytes(content.replace(b"\n\n", b"\nspace: RAS\n\n", 1))
    with pytest.raises(InputError, match="two things of space: 'left-posterior-superior' and 'RAS'"):
        read(tmp_path / "a.nrrd")


def test_a_line_of_an_NRRD_s_header_ends_at_a_line_feed_alone(tmp_path: Path) -> None:
    content = nrrd(tmp_path / "a.nrrd").read_bytes()
    (tmp_path / "a.nrrd").write_bytes(content.replace(b"\n\n", "\nnote:=a\u2028sizes: 1 1 1\n\n".encode(), 1))
    as_expected(read(tmp_path / "a.nrrd"))


def test_3_1_text_that_may_be_cut_within_its_last_voxel_is_told(tmp_path: Path) -> None:
    text = " ".join(str(n) for n in range(60)).encode()
    for content, cut in ((text + b"\n", False), (text, True), (text[:-1], True)):
        scan = read(nrrd(tmp_path / "a.nrrd", content, encoding="ascii", endian=None))
        told = "a.nrrd: its text ends with its last voxel, of which digits may be missing"
        assert scan.source.warnings == ((told,) if cut else ())


@pytest.mark.parametrize(
    ("space", "directions", "origin"),
    [
        ("RAS", "(-2,0,0) (0,-3,0) (0,0,4)", "(-10,20,30)"),
        ("right-anterior-superior", "(-2,0,0) (0,-3,0) (0,0,4)", "(-10,20,30)"),
        ("left-anterior-superior", "(2,0,0) (0,-3,0) (0,0,4)", "(10,20,30)"),
        ("LPS", "(2,0,0) (0,3,0) (0,0,4)", "(10,-20,30)"),
    ],
)
def test_the_spaces_of_NRRD_come_out_as_LPS(tmp_path: Path, space: str, directions: str, origin: str) -> None:
    as_expected(read(nrrd(tmp_path / "a.nrrd", space=space, space_directions=directions, space_origin=origin)))


@pytest.mark.parametrize("unit", ["um", "microns", "micrometer", "\N{MICRO SIGN}m"])
def test_3_11_space_units_are_converted_to_mm(tmp_path: Path, unit: str) -> None:
    scan = read(
        nrrd(
            tmp_path / "a.nrrd",
            space_units=f'"{unit}" "{unit}" "{unit}"',
            space_directions="(2000,0,0) (0,3000,0) (0,0,4000)",
            space_origin="(10000,-20000,30000)",
        )
    )
    assert np.allclose(scan.grid.affine, EXPECTED, rtol=1e-12)


@pytest.mark.parametrize("put", [{"old_min": "-1024", "old_max": "3071"}, {"oldmin": "-1024"}])
def test_values_of_an_NRRD_that_were_quantised_are_told_as_that(tmp_path: Path, put: dict[str, str]) -> None:
    scan = read(nrrd(tmp_path / "a.nrrd", **put))
    as_expected(scan)
    assert "its values were once others (old min -1024" in scan.source.warnings[0]


def test_3_10_shear_in_the_space_directions_is_kept_in_full_with_a_warning(tmp_path: Path) -> None:
    scan = read(nrrd(tmp_path / "a.nrrd", space_directions="(2,0,0) (0,3,0) (0,1.5,4)"))
    assert scan.grid.affine[:3, 0].tolist() == [0, 1.5, 4]
    assert scan.grid.voxel_mm3 == pytest.approx(24)
    assert "sheared" in scan.source.warnings[0]


def test_3_4_an_NRRD_axis_of_one_is_dropped(tmp_path: Path) -> None:
    put = {"dimension": "4", "sizes": "1 5 4 3", "kinds": "list domain domain domain"}
    as_expected(read(nrrd(tmp_path / "a.nrrd", space_directions=f"none {NRRD['space directions']}", **put)))


@pytest.mark.parametrize(
    ("put", "message"),
    [
        ({"space": None}, "orientation is not stated: space is 'missing'"),
        ({"space": "scanner-xyz"}, "space is 'scanner-xyz'"),
        ({"space_directions": None}, "3 dimensions but 0 space directions"),
        ({"space_origin": None}, "space origin is 'missing', not three numbers"),
        ({"space_directions": "(2,0,0) (0,3) (0,0,4)"}, r"a space direction is '\(0,3\)', not three numbers"),
        ({"space_origin": "(0,0,nan)"}, "singular or not finite"),
        ({"space_directions": "(2,0,0) (0,3,0) (0,0,0)"}, "singular or not finite"),
        ({"space_units": '"parsec" "parsec" "parsec"'}, "not one unit of length for all axes, of those that are"),
        ({"sizes": "5 0 3"}, "dimension of 0 voxels"),
        ({"sizes": "5 4.5 3"}, "sizes is '4.5'"),
        ({"sizes": None}, "sizes missing"),
        ({"sizes": "5 4 30"}, "truncated: the header announces 1,200 bytes of voxels, 120 are there"),
        ({"type": "block"}, "data type 'block'"),
        ({"type": "int"}, "truncated"),
        ({"endian": None}, "endian is ''"),
        ({"encoding": "bzip2"}, "encoding 'bzip2'"),
        ({"line_skip": "3"}, "line skip"),
        ({"byte_skip": "some"}, "byte skip is 'some'"),
        ({"byte_skip": "-2"}, "byte skip"),
        (
            {"dimension": "4", "sizes": "3 5 4 1", "kinds": "RGB-color domain domain domain",
             "space_directions": "none (2,0,0) (0,3,0) (0,0,4)"},
            r"4-D image of 3 x 5 x 4 x 1 \(kinds: RGB-color",
        ),
    ],
)  # fmt: skip
def test_3_2_an_NRRD_header_that_is_no_volume_is_refused_by_name(tmp_path: Path, put: dict, message: str) -> None:
    with pytest.raises(InputError, match=rf"a\.nrrd: .*{message}"):
        read(nrrd(tmp_path / "a.nrrd", **put))


def test_3_1_an_NRRD_that_is_cut_is_refused(tmp_path: Path) -> None:
    for name, voxels, encoding in (
        ("a.nrrd", VOXELS[:-1], "raw"),
        ("b.nrrd", gzip.compress(VOXELS)[:-3], "gzip"),
        ("c.nrrd", b"1 2 3", "ascii"),
        ("d.nrrd", b" ".join([b"x"] * 60), "ascii"),
    ):
        with pytest.raises(InputError, match=rf"{name}: (truncated|its voxels are not numbers)"):
            read(nrrd(tmp_path / name, voxels, encoding=encoding))
    (tmp_path / "e.nrrd").write_bytes(b"NRRD0004\ntype: short\n")
    with pytest.raises(InputError, match="truncated: the NRRD header has no end"):
        read(tmp_path / "e.nrrd")


def test_an_NRRD_packed_as_a_whole_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.nrrd.gz").write_bytes(gzip.compress(nrrd(tmp_path / "a.nrrd").read_bytes()))
    with pytest.raises(InputError, match="gunzip"):
        read(tmp_path / "a.nrrd.gz")


# Detached voxels ----------------------------------------------------------------------------------------------------


def test_a_data_file_beside_the_header_is_read(tmp_path: Path) -> None:
    (tmp_path / "v.raw").write_bytes(VOXELS)
    (tmp_path / "v.raw.gz").write_bytes(gzip.compress(VOXELS))
    (tmp_path / "v.zraw").write_bytes(zlib.compress(VOXELS))
    (tmp_path / "link.raw").symlink_to("v.raw")
    as_expected(read(nrrd(tmp_path / "a.nhdr", b"", data_file="v.raw")))
    as_expected(read(nrrd(tmp_path / "b.nhdr", b"", datafile="./v.raw.gz", encoding="gzip")))
    as_expected(read(nrrd(tmp_path / "c.nhdr", b"", data_file="link.raw")))
    as_expected(read(meta(tmp_path / "a.mhd", b"", ElementDataFile="v.raw")))
    as_expected(read(meta(tmp_path / "b.mhd", b"", ElementDataFile="v.zraw", CompressedData="True")))


@pytest.mark.parametrize("kind", ["nhdr", "mhd"])
@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("../out.raw", "not outside its folder"),
        ("/dev/zero", "not outside its folder"),
        ("sub/in.raw", "not outside its folder"),
        ("..\\out.raw", "not outside its folder"),
        ("leads-out.raw", "not outside its folder"),
        ("LIST", "lists of files are not read"),
        ("slice%03d.raw 1 3 1", "lists of files are not read"),
        ("pipe.raw", "not a regular file but a named pipe"),
    ],
)
def test_3_13_voxels_that_are_not_beside_the_header_are_refused(
    tmp_path: Path, kind: str, target: str, message: str
) -> None:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    for path in (tmp_path / "out.raw", folder / "sub" / "in.raw"):
        path.write_bytes(VOXELS)
    (folder / "leads-out.raw").symlink_to("../out.raw")
    os.mkfifo(folder / "pipe.raw")
    path = folder / f"a.{kind}"
    if kind == "nhdr":
        nrrd(path, b"", data_file=target)
    else:
        meta(path, b"", ElementDataFile=target)
    with pytest.raises(InputError, match=message):
        read(path)


@pytest.mark.parametrize(("letters", "form"), [("utf-8", "NFC"), ("utf-8", "NFD"), ("latin-1", "NFC")])
def test_a_data_file_with_letters_of_any_spelling_in_its_name_is_found(tmp_path: Path, letters: str, form: str) -> None:
    (tmp_path / "sch\N{LATIN SMALL LETTER A WITH DIAERESIS}del.raw").write_bytes(VOXELS)
    name = unicodedata.normalize(form, "sch\N{LATIN SMALL LETTER A WITH DIAERESIS}del.raw")
    for path in (meta(tmp_path / "a.mhd", b"", ElementDataFile=name), nrrd(tmp_path / "a.nhdr", b"", data_file=name)):
        path.write_bytes(path.read_bytes().decode().encode(letters))
        as_expected(read(path))


def test_a_header_that_was_saved_by_notepad_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(VOXELS)
    for path in (
        meta(tmp_path / "a.mhd", b"", ElementDataFile="a.raw"),
        nrrd(tmp_path / "a.nhdr", b"", data_file="a.raw"),
    ):
        path.write_bytes(codecs.BOM_UTF8 + path.read_bytes().replace(b"\n", b"\r\n"))
        as_expected(read(path))


def test_a_data_file_that_is_not_there_is_missing(tmp_path: Path) -> None:
    with pytest.raises(InputMissing, match=r"v\.raw: no such file"):
        read(nrrd(tmp_path / "a.nhdr", b"", data_file="v.raw"))


# MetaImage ----------------------------------------------------------------------------------------------------------


def test_a_MetaImage_may_be_packed_big_endian_scaled_or_skip_a_header(tmp_path: Path) -> None:
    big = counting().astype(">i2").tobytes(order="F")
    as_expected(read(meta(tmp_path / "a.mha")))
    as_expected(read(meta(tmp_path / "b.mha", zlib.compress(VOXELS), CompressedData="True")))
    as_expected(read(meta(tmp_path / "c.mha", big, BinaryDataByteOrderMSB="True")))
    as_expected(read(meta(tmp_path / "d.mha", b"1234567" + VOXELS, HeaderSize="7")))
    as_expected(read(meta(tmp_path / "e.mha", b"1234567" + VOXELS, HeaderSize="-1")))
    as_expected(read(meta(tmp_path / "f.mha", DistanceUnits="mm")))


def test_the_HeaderSize_of_a_MetaImage_in_one_file_counts_from_where_exactly_the_voxels_follow(tmp_path: Path) -> None:
    header = len(meta(tmp_path / "a.mha", b"", HeaderSize="100").read_bytes())
    as_expected(read(meta(tmp_path / "a.mha", HeaderSize=f"{header}")))
    as_expected(read(meta(tmp_path / "b.mha", bytes(20) + VOXELS, HeaderSize=f"{header + 20}")))
    for voxels in (VOXELS, bytes(9) + VOXELS, bytes(header) + VOXELS + b"1"):
        with pytest.raises(InputError, match="where they begin cannot be told"):
            read(meta(tmp_path / "c.mha", voxels, HeaderSize="7"))


@pytest.mark.parametrize(("kind", "dtype"), [("MET_LONG", "<i4"), ("MET_ULONG", "<u4")])
def test_the_long_numbers_of_a_MetaImage_have_four_bytes(tmp_path: Path, kind: str, dtype: str) -> None:
    scan = read(meta(tmp_path / "a.mha", np.arange(60).astype(dtype).tobytes(), ElementType=kind))
    as_expected(scan)
    assert scan.data.dtype == np.int32
    itks = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "a.mha")))
    assert np.array_equal(itks, scan.data[0])


@pytest.mark.parametrize("kind", ["MET_LONG", "MET_ULONG"])
def test_a_MetaImage_whose_long_numbers_could_have_eight_bytes_is_refused(tmp_path: Path, kind: str) -> None:
    data = np.arange(60).astype("<i8").tobytes()
    for more in ({}, {"HeaderSize": "-1"}):
        with pytest.raises(InputError, match=f"voxels of {kind} have 4 bytes, and there is room for 8 each"):
            read(meta(tmp_path / "a.mha", data, ElementType=kind, **more))


def test_a_MetaImage_without_matrix_or_offset_is_read_with_a_warning(tmp_path: Path) -> None:
    scan = read(meta(tmp_path / "a.mha", TransformMatrix=None, Offset=None))
    assert scan.grid.affine[:3, 3].tolist() == [0, 0, 0]
    assert "no TransformMatrix and Offset" in scan.source.warnings[0]


@pytest.mark.parametrize(
    ("put", "message"),
    [
        ({"ObjectType": "Mesh"}, "a MetaIO Mesh"),
        ({"NDims": "2", "DimSize": "5 12"}, "a 2-D image of 5 x 12"),
        ({"NDims": "3", "DimSize": "5 4"}, "3 dimensions with sizes 5 4"),
        ({"DimSize": "5 -4 3"}, "3 dimensions with sizes 5 -4 3"),
        ({"DimSize": "5 4 30"}, "truncated: the header announces 1,200 bytes of voxels, 120 are there"),
        ({"ElementNumberOfChannels": "3"}, "3 values for each voxel, where one 3-D image is expected"),
        ({"ElementNumberOfChannels": "0"}, "0 components per voxel"),
        ({"NDims": "4", "DimSize": "5 4 3 2", "ElementNumberOfChannels": "2"}, "a 4-D image of 5 x 4 x 3 x 2 with 2"),
        ({"ElementType": "MET_SHORT_ARRAY"}, "data type 'MET_SHORT_ARRAY'"),
        ({"BinaryData": "False"}, "voxels as text"),
        ({"ElementSpacing": None}, "spacing is missing"),
        ({"ElementSpacing": "2 0 4"}, "voxel spacing of 2 0 4"),
        ({"ElementSpacing": "2 4"}, "not 3 numbers"),
        ({"Offset": "0 inf 0"}, "not 3 numbers"),
        ({"TransformMatrix": "1 0 0 0 1 0 0 0 0"}, "singular or not finite"),
        ({"DistanceUnits": "ell"}, "DistanceUnits 'ell'"),
        ({"HeaderSize": "-7"}, "HeaderSize of -7"),
        ({"ElementByteOrderMSB": "True"}, "ElementByteOrderMSB and BinaryDataByteOrderMSB contradict each other"),
        ({"ElementDataFile": None}, "no ElementDataFile"),
    ],
)
def test_3_2_a_MetaImage_header_that_is_no_volume_is_refused_by_name(tmp_path: Path, put: dict, message: str) -> None:
    path = meta(tmp_path / "a.mha", **put)
    with pytest.raises(InputError, match=rf"a\.mha: .*{message}"):
        read(path)


# All of them --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".mgz", ".mgh"])
@pytest.mark.parametrize("name", [name for name in GRIDS if name.endswith(("RAS", "PIL", "SPL", "LAI", "ASR"))])
def test_7_1_write_then_read_changes_neither_voxels_nor_affine(tmp_path: Path, name: str, ending: str) -> None:
    grid = GRIDS[name]
    data = np.arange(grid.size, dtype=np.uint8).reshape(1, *grid.shape)
    path = formats.write(Volume(data, grid), [], tmp_path / f"a{ending}")
    again = read(path)
    assert np.array_equal(again.data, data)
    assert again.data.dtype == np.uint8
    assert np.allclose(again.grid.affine, grid.affine, atol=1e-5)
    if ending.startswith(".mg"):
        content = path.read_bytes()
        other = nibabel.MGHImage.from_bytes(gzip.decompress(content) if ending == ".mgz" else content)
        lps = np.diag([-1.0, -1, 1, 1]) @ other.affine
        assert np.allclose(lps[:, [2, 1, 0, 3]], grid.affine, atol=1e-5)
        assert np.array_equal(np.asarray(other.dataobj).T, data[0])
    elif not grid.sheared:
        image = sitk.ReadImage(path)
        assert np.array_equal(sitk.GetArrayFromImage(image), data[0])
        assert np.allclose(image.TransformIndexToPhysicalPoint((4, 0, 2)), grid.world((2, 0, 4)), atol=1e-9)


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".mhd", ".nii", ".nii.gz"])
@pytest.mark.parametrize("packed", [False, True])
def test_what_ITK_writes_is_read_as_ITK_reads_it(tmp_path: Path, ending: str, packed: bool) -> None:
    grid = GRIDS["oblique-PIL"]
    image = sitk.GetImageFromArray(np.arange(60, dtype=np.float32).reshape(grid.shape))
    image.SetSpacing(grid.spacing[::-1])
    image.SetOrigin(grid.affine[:3, 3])
    image.SetDirection(grid.directions[:, ::-1].ravel())
    sitk.WriteImage(image, tmp_path / f"a{ending}", packed)
    scan = read(tmp_path / f"a{ending}")
    assert scan.data.dtype == np.float32
    assert np.array_equal(scan.data[0].ravel(), np.arange(60))
    assert np.allclose(scan.grid.affine, grid.affine, atol=1e-5)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["nrrd", "mha"]), st.integers(0, 400), st.sampled_from([b"", b"9", b"-", b" ", b"\n", b"\xff"]))
def test_any_text_header_is_read_or_refused(tmp_path: Path, kind: str, at: int, byte: bytes) -> None:
    path = (nrrd if kind == "nrrd" else meta)(tmp_path / f"a.{kind}")
    content = path.read_bytes()
    at %= len(content) - len(VOXELS)
    path.write_bytes(content[:at] + byte + content[at + 1 :])
    with contextlib.suppress(SegcliError):
        read(path)


def test_several_channels_are_only_written_as_NIfTI_or_MGH(tmp_path: Path) -> None:
    grid = Grid((3, 4, 5), np.eye(4))
    two = Volume(np.arange(120, dtype=np.float32).reshape(2, 3, 4, 5), grid)
    assert np.array_equal(read(formats.write_image(two, tmp_path / "a.mgz"), channels=2).data, two.data)
    with pytest.raises(OutputError, match="2 channels can only be written as NIfTI"):
        formats.write_image(two, tmp_path / "a.nrrd")


@pytest.mark.parametrize(
    "sizes", ["4294967296 4294967296 4294967296", "9223372036854775807 2 2", "2097152 2097152 2097152"]
)
@pytest.mark.parametrize("form", ["nrrd", "mha"])
def test_3_2_sizes_whose_product_no_machines_numbers_hold_are_refused(tmp_path: Path, form: str, sizes: str) -> None:
    path = tmp_path / f"a.{form}"
    if form == "nrrd":
        space = "space: left-posterior-superior\nspace directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\n"
        text = f"NRRD0004\ntype: short\ndimension: 3\n{space}sizes: {sizes}\nencoding: raw\nendian: little\n\n"
    else:
        where = "ElementSpacing = 1 1 1\nTransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 0 0 0\nElementDataFile = LOCAL\n"
        text = f"ObjectType = Image\nNDims = 3\nDimSize = {sizes}\nElementType = MET_SHORT\n{where}"
    path.write_bytes(text.encode() + bytes(64))
    with pytest.raises(InputError, match="truncated: the header announces"):
        formats.read([path])
