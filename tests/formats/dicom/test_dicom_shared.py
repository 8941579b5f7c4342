"""All cases of the shared data set, where the environment names it, against other converters' volumes."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from seg_frames import read_seg

from segcli.errors import InputError
from segcli.formats.dicom import files as dicom_files
from segcli.formats.dicom import pixels, rtstruct, series
from segcli.space.volume import Volume

SHARED = os.environ.get("SEGCLI_SHARED")
pytestmark = pytest.mark.skipif(SHARED is None, reason="SEGCLI_SHARED does not name the shared data")
DATA = Path(SHARED or ".") / "data" / "dicom"


def reference(file: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Voxels by i, j, k, and the affine from i, j, k to LPS mm."""
    image = nib.load(file)
    voxels = np.asanyarray(image.dataobj).astype(float)
    return voxels.reshape(*voxels.shape[:3], -1), np.diag([-1, -1, 1, 1]) @ image.affine


def places(scan: Volume, affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """The reference's voxel coordinates of each voxel of the scan, (D, H, W, 3)."""
    matrix = np.linalg.inv(affine) @ scan.grid.affine
    index = np.stack(np.meshgrid(*map(np.arange, scan.grid.shape), indexing="ij"), -1)
    found: NDArray[np.float64] = index @ matrix[:3, :3].T + matrix[:3, 3]
    return found


@pytest.mark.parametrize(
    ("case", "file"),
    [
        ("mr_t1_enhanced_siemens", "ref_dcm2niix.nii.gz"),
        ("mr_enhanced_philips", "ref_dicom2nifti.nii.gz"),
        ("mr_siemens_explicit", "ref_dicom2nifti.nii.gz"),
        ("mr_non_isotropic", "ref_dicom2nifti.nii.gz"),
        ("mr_jpeg_lossless_sv1", "ref_dicom2nifti.nii.gz"),
        ("mr_jpegls_lossless", "ref_dicom2nifti.nii.gz"),
        ("mr_rle", "ref_dicom2nifti.nii.gz"),
        ("mr_4d_philips", "ref_dicom2nifti.nii.gz"),
    ],
)
def test_a_case_has_the_grid_and_the_voxels_of_its_reference(case: str, file: str) -> None:
    voxels, affine = reference(DATA / case / file)
    for n in range(voxels.shape[3]):
        scan = series.read(DATA / case / "dicom", volume=n + 1)
        at = places(scan, affine)
        assert sorted(scan.grid.shape) == sorted(voxels.shape[:3])
        off = np.linalg.norm((at - np.round(at)) @ affine[:3, :3].T, axis=-1)
        assert off.max() < 0.01  # mm
        i, j, k = np.moveaxis(np.round(at).astype(int), -1, 0)
        np.testing.assert_allclose(scan.data[0], voxels[i, j, k, n], rtol=1e-6, atol=1e-4)


def test_the_tilted_series_lies_where_its_straightened_reference_lies() -> None:
    """Each of our voxels is a mix of two rows of the reference, which moved them by a part of a row."""
    scan = series.read(DATA / "ct_gantry_tilt_14deg" / "dicom")
    voxels, affine = reference(DATA / "ct_gantry_tilt_14deg" / "ref_dcm2niix_tilt_corrected.nii.gz")
    at = places(scan, affine)
    i, k = np.round(at[..., 0]).astype(int), np.round(at[..., 2]).astype(int)
    assert np.abs(at[..., 0] - i).max() * scan.grid.spacing[2] < 0.01
    assert np.abs(at[..., 2] - k).max() * scan.grid.spacing[0] < 0.01
    # From reference rows to ours: the reference at row j is our row j - shift, with linear weights.
    for d in range(scan.grid.shape[0]):
        rows = at[d, :, 0, 1]
        back = np.arange(np.ceil(rows.min()), np.floor(rows.max()) + 1)
        ours = np.array(
            [np.interp(back, rows[:: int(np.sign(rows[-1] - rows[0]))], column) for column in columns(scan, d, rows)]
        )
        ref = voxels[i[d, 0][:, None], back.astype(int)[None], k[d, 0, 0], 0]
        assert np.abs(ours - ref).max() <= 1.01


def columns(scan: Volume, d: int, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """(W, H) of one slice, rows in the order in which they grow in the reference."""
    order = slice(None, None, int(np.sign(rows[-1] - rows[0])))
    out: NDArray[np.float64] = scan.data[0, d].astype(float).T[:, order]
    return out


def test_the_uneven_series_is_refused_with_its_gap() -> None:
    with pytest.raises(InputError, match="10 mm after slice 3, while the usual gap is 5 mm"):
        series.read(DATA / "ct_uneven_spacing" / "dicom")


def test_the_lung_ct_is_found_beside_its_structure_set() -> None:
    scan = series.read(DATA / "ct_lung_ibsi_with_rtstruct" / "dicom")
    mask = nib.load(DATA / "ct_lung_ibsi_with_rtstruct" / "gtv_mask.nii.gz")
    at = places(scan, np.diag([-1, -1, 1, 1]) @ mask.affine)
    assert sorted(scan.grid.shape) == sorted(mask.shape)
    assert np.abs(at - np.round(at)).max() * 3 < 0.01  # mm
    assert scan.source is not None
    assert "1 another series: a structure set" in scan.source.warnings[0]


def test_one_slice_in_six_transfer_syntaxes_decodes_to_equal_pixels() -> None:
    files = sorted((DATA / "ct_single_slice_transfer_syntaxes").iterdir())
    first, *others = (pixels.voxels(dicom_files.open_file(f)) for f in files)
    assert len(others) == 5
    for other in others:
        np.testing.assert_array_equal(other, first)


def test_ten_frames_in_three_syntaxes_decode_alike_and_have_no_geometry() -> None:
    files = sorted((DATA / "enhanced_mr_10frames").glob("*/*.dcm"))
    first, *others = (pixels.voxels(dicom_files.open_file(f)) for f in files)
    assert first.shape == (10, 64, 64)
    for other in others:
        np.testing.assert_array_equal(other, first)
    for file in files:
        with pytest.raises(InputError, match="several frames without a position"):
            series.read(file)


def test_three_slices_lie_on_the_grid_of_their_nrrd_masks() -> None:
    import SimpleITK as sitk

    scan = series.read(DATA / "ct_3slices_with_seg" / "dicom")
    mask = sitk.ReadImage(str(DATA / "ct_3slices_with_seg" / "liver_seg.nrrd"))
    np.testing.assert_allclose(scan.grid.world([0, 0, 0]), mask.GetOrigin(), atol=0.01)
    np.testing.assert_allclose(scan.grid.spacing[::-1], mask.GetSpacing(), atol=0.001)


def test_the_segmentation_of_another_writer_is_read_voxel_for_voxel() -> None:
    import SimpleITK as sitk

    scan = series.read(DATA / "ct_3slices_with_seg" / "dicom")
    found = read_seg(DATA / "ct_3slices_with_seg" / "liver_dicom_seg.dcm", scan.grid)
    mask = sitk.ReadImage(str(DATA / "ct_3slices_with_seg" / "liver_seg.nrrd"))
    np.testing.assert_array_equal(found, sitk.GetArrayFromImage(mask))


def test_the_contours_of_another_writer_hold_the_voxels_of_its_mask() -> None:
    """The mask was made with another rule for voxels on the contour itself: nearly all are the same."""
    scan = series.read(DATA / "ct_lung_ibsi_with_rtstruct" / "dicom")
    ((_, found),) = rtstruct.read(DATA / "ct_lung_ibsi_with_rtstruct" / "dicom" / "rtstruct.dcm", scan.grid)
    mask = nib.load(DATA / "ct_lung_ibsi_with_rtstruct" / "gtv_mask.nii.gz")
    i, j, k = np.moveaxis(np.round(places(scan, np.diag([-1, -1, 1, 1]) @ mask.affine)).astype(int), -1, 0)
    expected = np.asanyarray(mask.dataobj)[i, j, k] > 0
    assert 2 * (found & expected).sum() / (found.sum() + expected.sum()) > 0.99
