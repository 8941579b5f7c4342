"""What is there decides how it is read; channels of one scan share one grid."""

import bz2
import gzip
import lzma
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from dicom_phantom import series
from scan_files import RAS, counting, nifti, nifti_bytes

from segcli import formats
from segcli.errors import InputError, InputMissing, OutOfMemory, OutputError, UsageError
from segcli.formats.table import written
from segcli.space.volume import Grid, Volume


def test_3_14_the_content_decides_and_not_the_ending(tmp_path: Path) -> None:
    plain = b"".join(nifti_bytes())
    for name, content in (
        ("not-packed.nii.gz", plain),
        ("packed.nii", gzip.compress(plain, mtime=0)),
        ("no-ending", plain),
        ("wrong.nrrd", plain),
        ("wrong.mgz", plain),
    ):
        (tmp_path / name).write_bytes(content)
        assert np.array_equal(formats.read([tmp_path / name]).data[0].ravel(), np.arange(60))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"PK\x03\x04" + bytes(600), "zip archive: unpack it first"),
        (b"\x89PNG\r\n\x1a\n" + bytes(600), "a PNG picture"),
        (b"\xff\xd8\xff\xe0" + bytes(600), "a JPEG picture"),
        (b"\x89HDF\r\n\x1a\n" + bytes(600), "HDF5"),
        (bz2.compress(bytes(600)), "packed with bzip2: unpack it first"),
        (lzma.compress(bytes(600)), "packed with xz: unpack it first"),
        (gzip.compress(b"a.nii".ljust(257, b"\0") + b"ustar" + bytes(600), mtime=0), "a tar archive: unpack it first"),
        (b"\r\n--a1b2\r\nContent-Type: application/dicom\r\n\r\n" + bytes(600), "an answer of DICOMweb in parts"),
        (b"not an image\n" * 40, "it seems to be text"),
        (bytes(range(40, 240)) + bytes(9), "it begins with the bytes 28 29 2a 2b 2c 2d 2e 2f"),
        (gzip.compress(b"not an image\n" * 40, mtime=0), "it seems to be text"),
        (gzip.compress(gzip.compress(bytes(600), mtime=0), mtime=0), "packed with gzip twice: unpack it once"),
        (b"\n<!DOCTYPE html>\n<html><title>404</title>", "a web page, such as one that asks for a login"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 7\n", "`git lfs pull` fetches it"),
        (b"/annex/objects/MD5E-s7--d41d8cd9.nii.gz\n", "`git annex get` fetches it"),
    ],
)
def test_3_14_and_4_12_another_format_is_refused_naming_what_it_seems_to_be(
    tmp_path: Path, content: bytes, what: str
) -> None:
    (tmp_path / "scan.nii").write_bytes(content)
    with pytest.raises(InputError, match=rf"scan\.nii: not a format that segcli reads; .*{what}"):
        formats.read([tmp_path / "scan.nii"])


@pytest.mark.parametrize(("content", "hinted"), [(b"a.nii.gz\nb.nii.gz\n", True), (b"\x89PNG\r\n\x1a\n", False)])
def test_of_a_list_of_names_given_as_a_scan_it_is_said_how_a_list_is_given(
    tmp_path: Path, content: bytes, hinted: bool
) -> None:
    (tmp_path / "stdin").write_bytes(content)
    with pytest.raises(InputError) as refused:
        formats.read([tmp_path / "stdin"])
    assert ("--files-from -" in str(refused.value.hint)) == hinted


def test_3_14_a_link_to_a_file_that_was_not_fetched_says_how_it_is_fetched(tmp_path: Path) -> None:
    for name, target, hint in (
        ("annexed.nii.gz", ".git/annex/objects/5Q/8z/MD5E-s7--d4.nii.gz/MD5E-s7--d4.nii.gz", "`datalad get`"),
        ("dead.nii.gz", "elsewhere.nii.gz", "None"),
    ):
        (tmp_path / name).symlink_to(target)
        with pytest.raises(InputMissing, match=f"{name}: a broken link") as caught:
            formats.read([tmp_path / name])
        assert hint in str(caught.value.hint)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.mgz", "a.nrrd", "a.mha", "series"])
def test_3_3_the_grid_is_told_before_any_voxel_is_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = Grid((3, 4, 5), np.diag([4.0, 3, 2, 1]))
    if name == "series":
        series(tmp_path / name)
    else:
        formats.write(Volume(np.zeros((1, 3, 4, 5), np.uint8), grid), [], tmp_path / name)
    whole = formats.read([tmp_path / name])
    monkeypatch.setattr("segcli.formats.streams.read_voxels", lambda *_, **__: pytest.fail("voxels were read"))
    monkeypatch.setattr("segcli.formats.dicom.series.values_of", lambda *_: pytest.fail("voxels were read"))

    def too_much(seen: Grid) -> None:
        assert seen.same_as(whole.grid)
        raise OutOfMemory("more than there is")

    with pytest.raises(OutOfMemory, match="more than there is"):
        formats.read([tmp_path / name], seen=too_much)


@pytest.mark.parametrize("content", [b"", gzip.compress(b"", mtime=0)])
def test_an_empty_file_is_truncated(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "scan.nii").write_bytes(content)
    with pytest.raises(InputError, match=r"scan\.nii: truncated: .*the file is empty"):
        formats.read([tmp_path / "scan.nii"])


def test_several_files_on_one_grid_are_channels_in_their_order(tmp_path: Path) -> None:
    one = nifti(tmp_path / "t1.nii")
    two = nifti(tmp_path / "t2.nii.gz", counting() + 100, order=">")
    scan = formats.read([two, one])
    assert scan.data.dtype == np.int16
    assert scan.data[:, 0, 0, 1].tolist() == [101, 1]
    assert [p.name for p in scan.source.paths] == ["t2.nii.gz", "t1.nii"]


def test_channels_of_several_types_become_float32(tmp_path: Path) -> None:
    scan = formats.read([nifti(tmp_path / "a.nii"), nifti(tmp_path / "b.nii", counting(dtype="u1"))])
    assert scan.data.dtype == np.float32


def test_channels_on_other_grids_are_refused_with_both_names_and_the_difference(tmp_path: Path) -> None:
    one = nifti(tmp_path / "t1.nii")
    moved = RAS.copy()
    moved[2, 3] += 2.5
    two = nifti(tmp_path / "t2.nii", srow=moved[:3].ravel(), qform_code=0)
    with pytest.raises(InputError, match=r"t1\.nii and t2\.nii are not on one grid: up to 2\.5 mm apart"):
        formats.read([one, two])
    three = nifti(tmp_path / "t3.nii", counting((5, 4, 2)))
    with pytest.raises(InputError, match=r"t3\.nii are not on one grid: 5 x 4 x 3 and 5 x 4 x 2 voxels"):
        formats.read([one, three])


def test_several_4D_files_are_not_channels_of_channels(tmp_path: Path) -> None:
    path = nifti(tmp_path / "a.nii", counting((5, 4, 3, 2)))
    with pytest.raises(InputError, match="4-D image with 2 volumes"):
        formats.read([path, path], channels=2)


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ({"series": "Modality=MR"}, "is not DICOM, and has no series Modality=MR"),
        ({"volume": 2}, "holds one volume, there is nothing that --volume 2 could choose"),
    ],
)
def test_a_series_of_no_dicom_or_a_second_volume_of_one_cannot_be_chosen(
    tmp_path: Path, choice: dict[str, Any], told: str
) -> None:
    path = nifti(tmp_path / "a.nii")
    with pytest.raises(UsageError, match=rf"^a.nii: {told} \(leave"):
        formats.read([path], **choice)
    assert formats.read([path], volume=1).data.shape[0] == 1
    folder = series(tmp_path / "ct", SeriesNumber=3)
    assert formats.read([folder], series="3").data.any()
    grid = formats.read([folder]).grid
    other = formats.write_image(Volume(np.zeros((1, *grid.shape), np.float32), grid), tmp_path / "pet.nii")
    assert formats.read([other, folder], series="3").data.shape[0] == 2


def of_two_channels() -> tuple[np.ndarray, sitk.Image]:
    """(C, D, H, W) and the same as ITK's image of vectors, 2 x 3 x 4 mm."""
    data = np.arange(120, dtype=np.int16).reshape(2, 3, 4, 5)
    image = sitk.GetImageFromArray(np.moveaxis(data, 0, -1), isVector=True)
    image.SetSpacing((2, 3, 4))
    return data, image


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd"])
def test_several_values_for_each_voxel_are_channels_in_every_format(tmp_path: Path, ending: str, packed: bool) -> None:
    data, image = of_two_channels()
    path = tmp_path / f"a{ending}"
    sitk.WriteImage(image, str(path), useCompression=packed)  # NIfTI: 5-D; NRRD: an axis of vectors, first
    scan = formats.read([path], channels=2)
    assert scan.data.dtype == np.int16
    assert np.array_equal(scan.data, data)
    assert scan.grid.spacing == (4, 3, 2)
    for channels in (1, 3):
        with pytest.raises(InputError, match=rf"a\{ending}: .*2 values for each voxel.*, where one .*expected"):
            formats.read([path], channels=channels)


@pytest.mark.parametrize("place", [0, 1, 3])
def test_the_axis_of_channels_may_be_any_of_an_NRRD(tmp_path: Path, place: int) -> None:
    data, _ = of_two_channels()
    sizes, kinds, directions = ["5", "4", "3"], ["space"] * 3, ["(2,0,0)", "(0,3,0)", "(0,0,4)"]
    for told, extra in ((sizes, "2"), (kinds, "list"), (directions, "none")):
        told.insert(place, extra)
    header = (
        f"NRRD0005\ntype: short\ndimension: 4\nspace: LPS\nsizes: {' '.join(sizes)}\nkinds: {' '.join(kinds)}\n"
        f"space directions: {' '.join(directions)}\nspace origin: (0,0,0)\nendian: little\nencoding: raw\n\n"
    )
    (tmp_path / "a.nrrd").write_bytes(header.encode() + np.moveaxis(data, 0, 3 - place).tobytes())
    assert np.array_equal(formats.read([tmp_path / "a.nrrd"], channels=2).data, data)


def test_the_volumes_of_a_4D_MetaImage_are_channels(tmp_path: Path) -> None:
    data, _ = of_two_channels()
    image = sitk.JoinSeries([sitk.GetImageFromArray(volume) for volume in data])
    sitk.WriteImage(image, str(tmp_path / "a.mha"))
    assert np.array_equal(formats.read([tmp_path / "a.mha"], channels=2).data, data)


def series_of_two(folder: Path, ending: str) -> tuple[np.ndarray, Path]:
    """(C, D, H, W), and a file that holds it as two volumes."""
    data, path = of_two_channels()[0], folder / f"a{ending}"
    if ending == ".nrrd":
        header = (
            "NRRD0005\ntype: short\ndimension: 4\nspace: LPS\nsizes: 2 5 4 3\nkinds: list domain domain domain\n"
            "space directions: none (2,0,0) (0,3,0) (0,0,4)\nspace origin: (0,0,0)\nendian: little\nencoding: raw\n\n"
        )
        path.write_bytes(header.encode() + np.moveaxis(data, 0, 3).tobytes())
    elif ending == ".mha":
        sitk.WriteImage(sitk.JoinSeries([sitk.GetImageFromArray(volume) for volume in data]), str(path))
    else:
        image = nibabel.MGHImage if ending == ".mgz" else nibabel.Nifti1Image
        nibabel.save(image(np.transpose(data, (3, 2, 1, 0)), np.eye(4)), path)
    return data, path


def test_the_grid_of_a_scan_is_known_by_headers_alone_and_what_they_show_is_refused(tmp_path: Path) -> None:
    whole = nifti(tmp_path / "whole.nii").read_bytes()
    (tmp_path / "cut.nii").write_bytes(whole[:400])  # its header says what it would be
    read = formats.read([tmp_path / "whole.nii"])
    assert formats.grid_of([tmp_path / "cut.nii"]).same_as(read.grid)
    assert formats.grid_of([tmp_path / "cut.nii", tmp_path / "whole.nii"], channels=2).same_as(read.grid)
    apart = nifti(tmp_path / "apart.nii", srow=np.diag([9.0, 9, 9, 1])[:3].ravel(), qform_code=0)
    with pytest.raises(InputError, match=r"cut.nii and apart.nii are not on one grid"):
        formats.grid_of([tmp_path / "cut.nii", apart], channels=2)
    with pytest.raises(UsageError, match="is not DICOM, and has no series 3"):
        formats.grid_of([tmp_path / "cut.nii"], series="3")


@pytest.mark.parametrize("step", [1, 0.001], ids=["mm", "um"])
@pytest.mark.parametrize("origin", [0, 1e5])
@pytest.mark.parametrize("shear", [0, 0.3])
def test_what_no_file_of_a_format_can_say_is_known_before_the_network_runs(
    tmp_path: Path, step: float, origin: float, shear: float
) -> None:
    """Every writer with small voxels, far away, sheared: a label map is refused beforehand, or written."""
    affine = np.diag([step, step, step, 1.0])
    affine[:3, 3], affine[0, 1] = origin + 0.1, shear * step
    volume = Volume(np.ones((1, 4, 3, 2), np.uint8), Grid((4, 3, 2), affine))
    for ending in written():
        path = tmp_path / f"a{ending}"
        if ending in (".mgz", ".mgh") and origin:
            with pytest.raises(UsageError, match=f"a{ending}: the numbers of an MGH header have too few digits"):
                formats.refuse_unwritable(path, volume.grid)
        else:
            formats.refuse_unwritable(path, volume.grid)
            formats.write(volume, (), path)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha", ".mgz"])
def test_one_volume_of_a_series_is_read_by_its_number_from_1(tmp_path: Path, ending: str) -> None:
    data, path = series_of_two(tmp_path, ending)
    for number in (1, 2):
        scan = formats.read([path], volume=number)
        assert scan.data.dtype == np.int16
        assert np.array_equal(scan.data, data[number - 1 : number])
        assert scan.data.base is None  # the memory of the others is free
        assert scan.grid.same_as(formats.read([path], channels=2).grid)
    for number in (0, 3):
        with pytest.raises(InputError, match=f"there is no volume {number}, only 1 to 2"):
            formats.read([path], volume=number)
    with pytest.raises(UsageError, match="of which --volume 1 is one, and the model wants 2 channels"):
        formats.read([path], volume=1, channels=2)
    with pytest.raises(InputError, match="with 2 volumes, where one 3-D image is expected") as refused:
        formats.read([path])
    assert refused.value.hint == "`predict --volume N` takes one of them, N from 1 to 2"


@pytest.mark.parametrize("ending", [".nii", ".nrrd", ".mha"])
def test_no_volume_is_chosen_of_the_values_of_each_voxel(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    sitk.WriteImage(of_two_channels()[1], str(path))
    with pytest.raises(InputError, match="not known to be volumes of a series: --volume chooses none"):
        formats.read([path], volume=1)
    with pytest.raises(InputError, match="2 values for each voxel") as refused:
        formats.read([path])
    assert refused.value.hint == "take one of them out first"


@pytest.mark.parametrize("intent", [1007, 2003, 2004])
def test_volumes_of_a_nifti_that_are_said_to_be_vectors_or_colours_are_no_series(tmp_path: Path, intent: int) -> None:
    path = nifti(tmp_path / "a.nii", counting((5, 4, 3, 2)), intent_code=intent)
    with pytest.raises(
        InputError, match=rf"4-D image with 2 values for each voxel \(intent {intent}\), .*--volume chooses none"
    ):
        formats.read([path], volume=2)


def test_no_path_is_no_scan() -> None:
    with pytest.raises(InputError, match="no scan was named"):
        formats.read([])


def test_an_ending_that_cannot_be_written_is_a_usage_error(tmp_path: Path) -> None:
    labels = Volume(np.zeros((1, 2, 3, 4), np.uint8), Grid((2, 3, 4), np.eye(4)))
    with pytest.raises(UsageError, match=r"a\.png: no format of that ending.*\.nii\.gz"):
        formats.write(labels, [], tmp_path / "a.png")
    with pytest.raises(UsageError, match="scaled values can only be written as NIfTI"):
        formats.write_image(labels, tmp_path / "a.nrrd", slope=0.5)
    with pytest.raises(OutputError, match="voxels of type complex128"):
        formats.write_image(Volume(labels.data.astype(complex), labels.grid), tmp_path / "a.nii")


@pytest.mark.parametrize("use", ["", "segcli.formats.table.stem(pathlib.Path('a.nii'));"])
def test_importing_the_formats_loads_no_reading_library(use: str) -> None:
    heavy = ["SimpleITK", "nibabel", "pydicom", "torch"]
    code = f"import pathlib, sys, segcli.formats; {use} print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
