"""Enhanced multi-frame objects and Siemens mosaics give the grid and the voxels of the same slices one by one."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_phantom import OBLIQUE, affine, enhanced, header, phantom, pixels, save
from dicom_phantom import series as classic
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
)
from seg_frames import read_seg

from segcli.errors import InputError
from segcli.formats.dicom import seg_writer, series
from segcli.space.volume import Volume
from segcli.structures import Label

SHUFFLED = [3, 0, 5, 1, 4, 2]


def test_4_11_frames_are_ordered_by_the_positions_of_their_functional_groups(tmp_path: Path) -> None:
    world = affine(OBLIQUE)
    scan = series.read(enhanced(tmp_path / "mr.dcm", phantom(), world, order=SHUFFLED))
    np.testing.assert_array_equal(scan.data[0], phantom())
    np.testing.assert_allclose(scan.grid.affine, world, atol=1e-6)


def test_4_11_a_gap_among_frames_is_refused(tmp_path: Path) -> None:
    file = enhanced(tmp_path / "mr.dcm", phantom(), affine(), order=[0, 1, 2, 4, 5])
    with pytest.raises(InputError, match="5 slices unevenly spaced: 6 mm after slice 3"):
        series.read(file)


def in_stacks(path: Path, at: list[tuple[float, ...]], stacks: list[str], tilts: tuple[int, ...] = (0, 0)) -> Path:
    """An enhanced object whose slices lie at given places, and are of stacks which may be tilted, in degrees."""

    def each(group: Dataset, k: int) -> None:
        place, content, turned = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient, content.StackID = [f"{v:.9g}" for v in at[k]], stacks[k]
        angle = np.deg2rad(tilts[int(stacks[k]) - 1])
        turned.ImageOrientationPatient = [1, 0, 0, 0, f"{np.cos(angle):.9g}", f"{np.sin(angle):.9g}"]
        for name, item in (("PlanePosition", place), ("FrameContent", content), ("PlaneOrientation", turned)):
            setattr(group, f"{name}Sequence", Sequence([item]))

    return enhanced(path, phantom(), affine(), each=each)


@pytest.mark.parametrize(
    ("at", "tilts"),
    [
        ([(0, 0, z) for z in (0, 3, 6, 40, 43, 46)], (0, 0)),  # apart
        ([(0, 0, z) for z in (0, 3, 6, 4.5, 8, 11.5)], (0, 0)),  # into each other, other steps
        ([(0, y, z) for y, z in ((0, 0), (0, 3), (0, 6), (9, 9), (9, 12), (9, 15))], (0, 0)),  # beside each other
        ([(0, -k * np.sin(np.deg2rad(4)) * (k > 2), 3 * k) for k in range(6)], (0, 4)),  # as of discs of a spine
    ],
)
def test_4_11_stacks_on_no_even_line_together_are_volumes(
    tmp_path: Path, at: list[tuple[float, ...]], tilts: tuple[int, ...]
) -> None:
    file = in_stacks(tmp_path / "mr.dcm", at, list("111222"), tilts)
    told = "6 slices, in several stacks: there seem to be 2 volumes .choose one: --volume 1: stack id 1, 3 slices; --"
    with pytest.raises(InputError, match=told):
        series.read(file)
    for k in (0, 1):
        scan = series.read(file, volume=k + 1)
        np.testing.assert_array_equal(scan.data[0], phantom()[3 * k : 3 * k + 3])
        np.testing.assert_allclose(scan.grid.affine[:3, 3], at[3 * k], atol=1e-6)


def test_4_11_stacks_on_one_even_line_are_one_volume(tmp_path: Path) -> None:
    at: list[tuple[float, ...]] = [(0, 0, 3 * k) for k in range(6)]
    assert series.read(in_stacks(tmp_path / "mr.dcm", at, list("111222"))).grid.shape[0] == 6


@pytest.mark.parametrize("at", [(0, 3, 6, 12, 15, 18), (0, 3, 9, 12, 15, 18), (0, 3, 6, 9, 12, 18)])
def test_4_11_stacks_of_one_line_with_a_missing_slice_are_one_volume(tmp_path: Path, at: tuple[float, ...]) -> None:
    file = in_stacks(tmp_path / "mr.dcm", [(0, 0, z) for z in at], list("111222"))
    with pytest.raises(InputError, match="a slice is missing"):
        series.read(file)
    assert series.read(file, fill_gaps=True).grid.shape[0] == 7


def test_4_11_a_slice_missing_in_one_stack_is_told_of_it_alone(tmp_path: Path) -> None:
    at: list[tuple[float, ...]] = [(0, 0, z) for z in (0, 3, 9, 12, 40, 43)]
    file = in_stacks(tmp_path / "mr.dcm", at, list("111122"))
    assert series.read(file, volume=2).grid.shape[0] == 2
    with pytest.raises(InputError, match=r"6 mm after slice 2, .* a slice is missing"):
        series.read(file, volume=1)


def test_4_11_a_frame_without_a_position_is_refused_by_number(tmp_path: Path) -> None:
    def bare(group: Dataset, k: int) -> None:
        if k == 2:
            del group.PlanePositionSequence

    file = enhanced(tmp_path / "mr.dcm", phantom(), affine(), each=bare)
    with pytest.raises(InputError, match=r"mr.dcm, frame 3: position \(ImagePositionPatient\) is missing"):
        series.read(file)


def test_4_11_each_frame_is_rescaled_by_its_own_values(tmp_path: Path) -> None:
    def rescale(group: Dataset, k: int) -> None:
        values = Dataset()
        values.RescaleSlope, values.RescaleIntercept = k + 1, k
        group.PixelValueTransformationSequence = Sequence([values])

    scan = series.read(enhanced(tmp_path / "mr.dcm", phantom(), affine(), order=SHUFFLED, each=rescale))
    k = np.arange(6)[:, None, None]
    np.testing.assert_array_equal(scan.data[0], phantom() * (k + 1) + k)


def test_4_11_two_time_points_are_two_volumes(tmp_path: Path) -> None:
    order = [k for k in range(6) for _ in (1, 2)]
    count = iter(range(12))

    def time(group: Dataset, k: int) -> None:
        content = Dataset()
        content.TemporalPositionIndex = next(count) % 2 + 1
        group.FrameContentSequence = Sequence([content])

    file = enhanced(tmp_path / "mr.dcm", phantom(), affine(), order=order, each=time)
    with pytest.raises(InputError, match=r"2 volumes .*--volume 2: temporal position index 2, 6 slices"):
        series.read(file)
    np.testing.assert_array_equal(series.read(file, volume=2).data[0], phantom())


ORDER = [0, 0, 1, 1, 2, 2, 3, 4, 3, 5, 5, 4]  # the positions of twelve frames
PHASES = [1, 2, 2, 1, 1, 2, 1, 1, 2, 2, 1, 2]  # and which of two volumes each belongs to


def two_phases(path: Path, said: Any, syntax: str = ExplicitVRLittleEndian) -> Path:
    """The phantom, and the phantom plus 1000, as frames in no order; `said(content, position, phase)` tells of each."""
    phases = iter(PHASES)

    def each(group: Dataset, k: int) -> None:
        content = Dataset()
        said(content, k, next(phases))
        group.FrameContentSequence = Sequence([content])

    file = enhanced(path, phantom(), affine(), order=ORDER, each=each, syntax=syntax)
    ds = pydicom.dcmread(file)
    ds.PixelData = (phantom()[ORDER] + 1000 * np.array(PHASES)[:, None, None] - 1000).astype("<i2").tobytes()
    ds.save_as(file)
    return file


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("temporal position index", lambda c, k, phase: setattr(c, "TemporalPositionIndex", phase)),
        ("dimension 3 index", lambda c, k, phase: setattr(c, "DimensionIndexValues", [1, k + 1, phase])),
    ],
)
def test_4_11_phases_of_frames_in_no_order_are_not_mixed(tmp_path: Path, words: str, said: Any, syntax: str) -> None:
    file = two_phases(tmp_path / "mr.dcm", said, syntax)
    for n in (1, 2):
        scan = series.read(file, volume=n)
        np.testing.assert_array_equal(scan.data[0], phantom() + 1000 * (n - 1))
        assert scan.source is not None
        assert scan.source.facts is not None
        assert scan.source.facts["volume"] == f"{words} {n}"


def test_4_11_four_volumes_of_two_slices_by_two_dimensions(tmp_path: Path) -> None:
    order, indices = [0, 1, 1, 0, 0, 1, 0, 1], [[1, 1], [2, 1], [1, 2], [2, 2], [1, 2], [1, 1], [2, 1], [2, 2]]
    frames = iter(zip(order, indices, strict=True))

    def each(group: Dataset, k: int) -> None:
        content = Dataset()
        place, (echo, phase) = next(frames)
        content.DimensionIndexValues = [place + 1, echo, phase]
        group.FrameContentSequence = Sequence([content])

    file = enhanced(tmp_path / "mr.dcm", phantom(), affine(), order=order, each=each)
    with pytest.raises(InputError, match=r"--volume 3: dimension 2 index 2, dimension 3 index 1, 2 slices"):
        series.read(file)


def test_4_11_frames_that_nothing_but_their_order_tells_apart_are_refused(tmp_path: Path) -> None:
    file = two_phases(tmp_path / "mr.dcm", lambda content, k, phase: None)
    with pytest.raises(InputError, match=r"12 slices at 6 positions, .* nothing tells them apart"):
        series.read(file)


def test_compressed_frames_give_the_same_voxels(tmp_path: Path) -> None:
    file = enhanced(tmp_path / "mr.dcm", phantom(), affine(), order=SHUFFLED)
    ds = pydicom.dcmread(file)
    ds.compress(JPEGLSLossless, generate_instance_uid=False)
    ds.save_as(file)
    np.testing.assert_array_equal(series.read(file).data[0], phantom())


@pytest.mark.parametrize("syntax", [JPEGLSLossless, RLELossless])
def test_an_extended_offset_table_that_does_not_fit_changes_no_voxels(tmp_path: Path, syntax: UID) -> None:
    file = enhanced(tmp_path / "mr.dcm", phantom(), affine())
    ds = pydicom.dcmread(file)
    ds.compress(syntax, generate_instance_uid=False, encapsulate_ext=True)
    for table in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
        ds[table].value = np.frombuffer(ds[table].value, np.uint64)[::-1].tobytes()
    ds.save_as(file)
    np.testing.assert_array_equal(series.read(file).data[0], phantom())


def test_frames_without_functional_groups_have_no_geometry(tmp_path: Path) -> None:
    file = enhanced(tmp_path / "mr.dcm", phantom(), affine())
    ds = pydicom.dcmread(file)
    del ds.PerFrameFunctionalGroupsSequence
    ds.save_as(file)
    with pytest.raises(InputError, match="several frames without a position for each"):
        series.read(file)


def csa(**tags: list[float]) -> bytes:
    """A Siemens CSA header of decimal texts."""
    block = b"SV10\4\3\2\1" + struct.pack("<II", len(tags), 77)
    for name, values in tags.items():
        block += name.encode().ljust(64, b"\0") + struct.pack("<i4siii", len(values), b"FD\0\0", 4, 6, 77)
        for value in [*values, *[None] * (6 - len(values))]:
            text = b"" if value is None else f"{value:.8f}".encode() + b"\0"
            block += struct.pack("<4i", len(text), len(text), 77, len(text)) + text.ljust(
                (len(text) + 3) // 4 * 4, b"\0"
            )
    return block


def mosaic(path: Path, world: np.ndarray, flip: int = 1, **changes: Any) -> Path:
    """The phantom's six slices as the tiles of a 3 x 3 mosaic; flip -1 stacks them against rows x columns."""
    spacing = np.linalg.norm(world[:3, :3], axis=0)
    tiles = np.zeros((3 * 7, 3 * 5), np.int16)
    for k, image in enumerate(phantom()):
        tiles[k // 3 * 7 :, k % 3 * 5 :][:7, :5] = image
    # Siemens gives the corner of the whole mosaic as if it were laid around the centre of the first slice.
    corner = world[:3, 3] - world[:3, 2] * (15 - 5) / 2 - world[:3, 1] * (21 - 7) / 2
    ds = header(0, "mosaic")
    ds.SOPClassUID, ds.Modality, ds.ImageType = (
        MRImageStorage,
        "MR",
        ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"],
    )
    ds.ImagePositionPatient = [f"{v:.6f}" for v in corner]
    ds.ImageOrientationPatient = [f"{v:.8f}" for v in (*world[:3, 2] / spacing[2], *world[:3, 1] / spacing[1])]
    ds.PixelSpacing, ds.SliceThickness, ds.SpacingBetweenSlices = [spacing[1], spacing[2]], 2.5, spacing[0]
    ds.Manufacturer = "SIEMENS"
    pixels(ds, tiles)
    normal = np.cross(world[:3, 2] / spacing[2], world[:3, 1] / spacing[1]) * flip
    tags = {"NumberOfImagesInMosaic": [6], "SliceNormalVector": list(normal), **changes}
    block = ds.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    block.add_new(0x10, "OB", csa(**tags))
    return save(ds, path)


def test_the_tiles_of_a_mosaic_are_slices_in_their_places(tmp_path: Path) -> None:
    world = affine(OBLIQUE)
    scan = series.read(mosaic(tmp_path / "mosaic.dcm", world))
    np.testing.assert_array_equal(scan.data[0], phantom())
    np.testing.assert_allclose(scan.grid.affine, world, atol=1e-5)


def test_a_mosaic_whose_header_lies_in_another_private_block_is_read(tmp_path: Path) -> None:
    """A private block lies where there was room, the first of its group mostly and not always."""
    path = mosaic(tmp_path / "mosaic.dcm", affine(OBLIQUE))
    ds = pydicom.dcmread(path)
    data = ds[0x0029, 0x1010].value
    del ds[0x0029, 0x0010], ds[0x0029, 0x1010]
    ds.private_block(0x0029, "SOMEBODY", create=True).add_new(0x10, "OB", b"else")
    ds.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", data)
    ds.save_as(path)
    np.testing.assert_array_equal(series.read(path).data[0], phantom())


def test_a_mosaic_stacked_downwards_comes_out_ascending(tmp_path: Path) -> None:
    scan = series.read(mosaic(tmp_path / "mosaic.dcm", affine(), flip=-1))
    np.testing.assert_array_equal(scan.data[0], phantom()[::-1])
    expected = affine()
    expected[:3, 3] -= 5 * expected[:3, 0]
    np.testing.assert_allclose(scan.grid.affine, expected, atol=1e-5)


def test_a_mosaic_that_does_not_say_how_many_slices_it_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="without the header that gives its slices' positions"):
        series.read(mosaic(tmp_path / "mosaic.dcm", affine(), NumberOfImagesInMosaic=[]))


@pytest.mark.parametrize("count", [float("inf"), 1e300, float("nan")])
def test_a_mosaic_of_endless_slices_is_corrupt(tmp_path: Path, count: float) -> None:
    with pytest.raises(InputError, match=r"header makes no sense|is not .* tiles|without the header"):
        series.read(mosaic(tmp_path / "mosaic.dcm", affine(), NumberOfImagesInMosaic=[count]))


def test_a_mosaic_that_does_not_divide_into_tiles_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="21 x 15 is not 4 x 4 tiles"):
        series.read(mosaic(tmp_path / "mosaic.dcm", affine(), NumberOfImagesInMosaic=[12]))


# Files of scanners that the pydicom wheel ships, their pictures made small.
SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files" / "dicomdirtests"


def test_scanner_files_give_the_grid_and_voxels_of_another_reader() -> None:
    import SimpleITK as sitk

    place = SHIPPED / "98892001" / "CT5N"
    ours = series.read(place)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(place)))
    theirs = reader.Execute()
    assert ours.grid.shape == (5, 16, 16)
    np.testing.assert_array_equal(ours.data[0], sitk.GetArrayFromImage(theirs))
    for index in ((0, 0, 0), (0, 15, 3), (4, 2, 15)):
        there = theirs.TransformIndexToPhysicalPoint(index[::-1])
        np.testing.assert_allclose(ours.grid.world(index), there, atol=0.01)  # mm


@pytest.mark.parametrize(
    ("folder", "why"),
    [
        ("98892003/MR700", "slices in 7 directions"),  # an angiogram's projections
        ("98892001/CT2N", "localizer"),
        ("77654033/CT2", "202.5 mm after slice 1, while the usual gap is 1.25 mm"),
    ],
)
def test_scanner_files_that_are_no_volume_are_refused_with_the_reason(folder: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        series.read(SHIPPED / folder)


def test_labels_of_a_mosaic_go_to_a_segmentation_in_their_places(tmp_path: Path) -> None:
    scan = series.read(mosaic(tmp_path / "mosaic.dcm", affine(OBLIQUE), flip=-1))
    labels = Volume((scan.data > 100).astype(np.uint8), scan.grid)
    names = (Label(0, "background"), Label(1, "brain", "SCT 12738006"))
    seg_writer.write(labels, names, tmp_path / "seg.dcm", scan.source, algorithm="uxnet", version="0")
    np.testing.assert_array_equal(read_seg(tmp_path / "seg.dcm", scan.grid), labels.data[0])
    ds = pydicom.dcmread(tmp_path / "seg.dcm")
    source = ds.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
    assert source.ReferencedSOPInstanceUID == pydicom.dcmread(tmp_path / "mosaic.dcm").SOPInstanceUID
    assert source.SpatialLocationsPreserved == "NO"  # a tile lies elsewhere in its picture


# ---- United Imaging grids, and GE's reversed polarity


def vframe(path: Path, world: np.ndarray, count: int = 6, **tags: Any) -> Path:
    """The phantom's six slices as the tiles of a grid of three across and two down, each with its own position."""
    spacing = np.linalg.norm(world[:3, :3], axis=0)
    tiles = np.zeros((2 * 7, 3 * 5), np.int16)
    items = []
    for k, image in enumerate(phantom()):
        tiles[k // 3 * 7 :, k % 3 * 5 :][:7, :5] = image
        items.append(Dataset())
        items[-1].ImagePositionPatient = [f"{v:.6f}" for v in world[:3, 3] + world[:3, 0] * k]
    ds = header(0, "vframe")
    ds.SOPClassUID, ds.Modality, ds.Manufacturer = MRImageStorage, "MR", "UIH"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "VFRAME"]
    ds.ImageOrientationPatient = [f"{v:.8f}" for v in (*world[:3, 2] / spacing[2], *world[:3, 1] / spacing[1])]
    ds.PixelSpacing, ds.SliceThickness = [spacing[1], spacing[2]], 2.5
    pixels(ds, tiles)
    block = ds.private_block(0x0065, "Image Private Header", create=True)
    block.add_new(0x50, "DS", str(count))
    block.add_new(0x51, "SQ", Sequence(items))
    for tag, value in tags.items():
        setattr(ds, tag, value)
    return save(ds, path)


def test_the_tiles_of_a_united_imaging_grid_are_slices_in_their_places(tmp_path: Path) -> None:
    world = affine(OBLIQUE)
    scan = series.read(vframe(tmp_path / "grid" / "1.dcm", world).parent)
    np.testing.assert_array_equal(scan.data[0], phantom())
    np.testing.assert_allclose(scan.grid.affine, world, atol=1e-5)


def test_a_united_imaging_grid_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a United Imaging grid without the header that gives its slices' positions"):
        series.read(vframe(tmp_path / "grid.dcm", affine(), count=7))
    with pytest.raises(InputError, match="15 x 14 is not 2 x 3 tiles"):
        series.read(vframe(tmp_path / "odd.dcm", affine(), Columns=14, Rows=15))


@pytest.mark.parametrize(("scheme", "read"), [("0", True), ("1", False), ("2", False), ("3", False), ("", False)])
def test_volumes_of_reversed_polarity_are_refused_and_never_mirrored(tmp_path: Path, scheme: str, read: bool) -> None:
    def polar(ds: Dataset, k: int) -> None:
        block = ds.private_block(0x0019, "GEMS_ACQU_01", create=True)
        block.add_new(0x9C, "LO", "research/ABCD/epi_pepolar")
        block.add_new(0xB3, "DS", scheme)

    folder = classic(tmp_path / "ge", modality="MR", Manufacturer="GE MEDICAL SYSTEMS", each=polar)
    if read:
        np.testing.assert_array_equal(series.read(folder).data[0], phantom())
    else:
        with pytest.raises(InputError, match="epi_pepolar with reversed polarity"):
            series.read(folder)


# ---- one series in two forms


def both(folder: Path, change: int = 0, uid: str = "enhanced") -> Path:
    """The phantom as six classic files and as an enhanced object, which differ by `change` in one voxel."""
    classic(folder, modality="MR", uid=uid, each=lambda ds, k: setattr(ds, "SOPInstanceUID", f"1.2.{k}"))
    other = phantom()
    other[2, 3, 1] += change
    enhanced(folder / "whole.dcm", other, affine(), order=SHUFFLED)
    return folder


@pytest.mark.parametrize("uid", ["enhanced", "classic"])  # as scanners give both one identifier, and archives do not
def test_of_classic_and_enhanced_copies_of_a_series_one_is_taken_and_it_is_said(tmp_path: Path, uid: str) -> None:
    scan = series.read(both(tmp_path / "mr", uid=uid))
    np.testing.assert_array_equal(scan.data[0], phantom())
    assert scan.source is not None
    assert [p.name for p in scan.source.paths] == ["whole.dcm"]
    said = {"enhanced": "the same slice again", "classic": "another series: the same slices as series-003-"}[uid]
    assert any(f"6 {said}" in warning for warning in scan.source.warnings)


@pytest.mark.parametrize(("uid", "why"), [("enhanced", "to be 2 volumes"), ("classic", "2 series could be the volume")])
def test_copies_that_differ_in_one_voxel_are_none(tmp_path: Path, uid: str, why: str) -> None:
    with pytest.raises(InputError, match=why):
        series.read(both(tmp_path / "mr", 1, uid))


def test_a_classic_copy_is_read_where_it_is_named(tmp_path: Path) -> None:
    found = {bool(s.copy): s for s in series.find(both(tmp_path / "mr", uid="classic"))}
    scan = series.read(tmp_path / "mr", series=found[True].name)
    np.testing.assert_array_equal(scan.data[0], phantom())
    assert scan.source is not None
    assert len(scan.source.paths) == 6


def damaged(file: Path, old: bytes, new: bytes) -> Path:
    """The file with other bytes in the place of the first like these."""
    data = file.read_bytes()
    assert old in data
    file.write_bytes(data.replace(old, new, 1))
    return file


def test_a_mosaic_whose_private_header_is_of_another_kind_or_ends_early_is_refused(tmp_path: Path) -> None:
    why = "without the header that gives its slices' positions"
    with pytest.raises(InputError, match=why):
        series.read(damaged(mosaic(tmp_path / "a.dcm", affine()), b"SV10", b"SV09"))
    long = struct.pack("<4i", 11, 10**6, 77, 11) + b"6.00000000"
    with pytest.raises(InputError, match=why):
        series.read(damaged(mosaic(tmp_path / "b.dcm", affine()), struct.pack("<4i", 11, 11, 77, 11) + long[16:], long))


@pytest.mark.parametrize("kind", [["ORIGINAL", "PRIMARY", "M", "ND"], None])
def test_a_mosaic_whose_type_does_not_say_so_is_refused_and_a_slice_out_of_one_is_none(
    tmp_path: Path, kind: list[str] | None
) -> None:
    file = mosaic(tmp_path / "mosaic.dcm", affine())
    ds = pydicom.dcmread(file)
    ds.ImageType = kind
    ds.save_as(file)
    with pytest.raises(
        InputError, match=r"mosaic\.dcm: by its private header a mosaic of 6 slices, which its ImageType"
    ):
        series.read(tmp_path)
    ds.Rows, ds.Columns, ds.PixelData = 7, 5, ds.PixelData[:70]
    ds.save_as(file)
    assert series.read(tmp_path).grid.shape == (1, 7, 5)


def test_a_mosaic_with_a_normal_along_its_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="slice normal is not at right angles to its rows and columns"):
        series.read(mosaic(tmp_path / "mosaic.dcm", affine(), SliceNormalVector=[1.0, 0.0, 0.0]))


def test_frames_and_positions_of_two_numbers_are_no_geometry(tmp_path: Path) -> None:
    file = enhanced(tmp_path / "mr.dcm", phantom(), affine())
    ds = pydicom.dcmread(file)
    ds.NumberOfFrames, ds.PixelData = 5, ds.PixelData[: 5 * 7 * 5 * 2]
    ds.save_as(file)
    with pytest.raises(InputError, match="5 frames, but the positions of 6: no geometry"):
        series.read(file)


def test_one_slice_in_colour_without_a_size_or_with_a_table_of_values_is_refused_by_name(tmp_path: Path) -> None:
    def with_table(ds: Dataset, k: int) -> None:
        if k == 3:
            ds.ModalityLUTSequence = Sequence([Dataset()])

    def in_colour(ds: Dataset, k: int) -> None:
        if k == 3:
            ds.PhotometricInterpretation = "PALETTE COLOR"

    with pytest.raises(InputError, match=r"a-003.dcm: its values go through a modality lookup table"):
        series.read(classic(tmp_path / "table", each=with_table))
    with pytest.raises(InputError, match=r"a-003.dcm: a colour image \(PALETTE COLOR\)"):
        series.read(classic(tmp_path / "colour", each=in_colour))
    folder = classic(tmp_path / "size")
    for file in sorted(folder.iterdir()):
        ds = pydicom.dcmread(file)
        ds.compress(JPEGLSLossless, generate_instance_uid=False)
        if file.name == "a-003.dcm":
            del ds.Rows
        ds.save_as(file)
    with pytest.raises(InputError, match=r"a-003.dcm: its rows and columns are missing: no size"):
        series.read(folder)


def test_what_is_given_alone_and_is_no_whole_volume_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(InputError, match=r"notes.txt: not DICOM: not a format that is read"):
        series.read(tmp_path / "notes.txt")
    file = enhanced(tmp_path / "mr.dcm", phantom(), affine())
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"mr.dcm: truncated: 400 of 420 bytes of pixels are there"):
        series.read(file)
    (scout,) = series.find(classic(tmp_path / "scout", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]))
    with pytest.raises(InputError, match=r"a scout \(localizer\): not a volume"):
        series.read_series(scout)


@pytest.mark.parametrize("bit", [0, 1, 2])
def test_4_11_frames_whose_groups_end_within_an_element_are_refused(tmp_path: Path, bit: int) -> None:
    """The length of the sequence with the orientation of all frames is some bytes too long or too short."""
    file = enhanced(tmp_path / "mr.dcm", phantom(), affine(OBLIQUE))
    data = bytearray(file.read_bytes())
    data[data.index(b"\x00\x52\x29\x92SQ") + 28] ^= 1 << bit
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"mr\.dcm: corrupt: its header makes no sense"):
        series.read(file)
