"""Voxels of sizes that no scan has are refused alike in every format."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from dicom_phantom import affine, series
from scan_files import nifti

from segcli import formats
from segcli.api.scans import held
from segcli.errors import InputError, SegcliError
from segcli.formats.steps import NARROWEST, WIDEST, believable
from segcli.space.volume import Grid, Volume

VOXELS = np.zeros((6, 5, 4), "i2")


def single(path: Path, step: float, **put: object) -> Path:
    """A NIfTI whose i axis has this step, the others 2 mm; all of it in the file's own unit."""
    sizes = (step, *put.pop("others", (2.0, 2.0)))  # type: ignore[misc]
    rows = np.hstack([np.diag(sizes), np.zeros((3, 1))])
    return nifti(path, VOXELS, pixdim=(1, *sizes, 1, 1, 1, 1), srow=rows.ravel(), qoffset=(0, 0, 0), **put)


def itk(path: Path, step: float) -> Path:
    image = sitk.GetImageFromArray(VOXELS)
    image.SetSpacing((step, 2, 2))
    sitk.WriteImage(image, str(path))
    return path


def mgh(path: Path, step: float) -> Path:
    import nibabel

    nibabel.save(nibabel.MGHImage(VOXELS, np.diag([step, 2, 2, 1])), path)
    return path


SCANS: dict[str, Callable[[Path, float], Path]] = {
    "nifti": lambda folder, step: single(folder / "a.nii.gz", step),
    "nifti2": lambda folder, step: single(folder / "a.nii", step, version=2),
    "nrrd": lambda folder, step: itk(folder / "a.nrrd", step),
    "mha": lambda folder, step: itk(folder / "a.mha", step),
    "mgz": lambda folder, step: mgh(folder / "a.mgz", step),
    "dicom": lambda folder, step: series(folder / "a", world=affine(spacing=(2, 2, step))),
    "one slice": lambda folder, step: series(
        folder / "a", hu=np.zeros((1, 5, 6), "i2"), world=affine(spacing=(step, 2, 2))
    ),
}


@pytest.mark.parametrize("kind", SCANS)
@pytest.mark.parametrize("step", [1e-7, 1e-5, 0.0009, 251.0, 1000.0])
def test_steps_that_no_scan_has_are_refused_by_every_reader(tmp_path: Path, kind: str, step: float) -> None:
    with pytest.raises(InputError, match=rf"{step:g}( x 2 x 2| x 2|) mm: no scan has such") as told:
        formats.read([SCANS[kind](tmp_path, step)])
    assert told.value.exit_code == 65
    assert told.value.message.startswith("a")
    assert "unit of length" in str(told.value.hint)


@pytest.mark.parametrize("kind", SCANS)
@pytest.mark.parametrize("step", [NARROWEST, 0.1, 20.0, WIDEST])
def test_3_16_steps_within_the_range_are_read_by_every_reader(tmp_path: Path, kind: str, step: float) -> None:
    spacing = formats.read([SCANS[kind](tmp_path, step)]).grid.spacing
    assert min(abs(own / step - 1) for own in spacing) < 1e-6


@pytest.mark.parametrize(("unit", "step"), [(1, 0.002), (3, 2000.0)])
def test_3_11_the_rule_is_about_millimetres_and_not_about_the_numbers_in_the_file(
    tmp_path: Path, unit: int, step: float
) -> None:
    path = single(tmp_path / "a.nii", step, others=(step, step), xyzt_units=unit)
    assert np.allclose(formats.read([path]).grid.spacing, 2)
    with pytest.raises(InputError, match="no scan has such"):
        formats.read([single(tmp_path / "b.nii", 1.0, xyzt_units=1)])


def test_every_channel_is_judged(tmp_path: Path) -> None:
    good, bad = single(tmp_path / "a.nii", 2.0), single(tmp_path / "b.nii", 1e-5)
    with pytest.raises(InputError, match=r"b\.nii: voxels of 1e-05 x 2 x 2 mm"):
        formats.read([good, bad])


@pytest.mark.parametrize("step", [1e-5, 1000.0])
def test_scans_in_memory_are_judged_alike(step: float) -> None:
    world = np.diag([step, 2, 2, 1.0])
    volume = Volume(VOXELS[None], Grid(VOXELS.shape, world))
    for scan, given in ((VOXELS, world), (volume, None), ([volume, volume], None)):
        with pytest.raises(InputError, match=r"the scan's grid: voxels of .* mm: no scan has such"):
            held(scan, given, "RAS")


def test_a_step_that_is_no_number_is_refused() -> None:
    for step in (float("nan"), float("inf"), 0.0, -1.0):
        with pytest.raises(SegcliError, match="no scan has such"):
            believable("a.nii", (step, 1.0, 1.0))


@pytest.mark.parametrize("x", [1e300, -1e9])
def test_voxels_that_are_farther_away_than_any_scan_are_refused_before_they_are_read(tmp_path: Path, x: float) -> None:
    world = affine(origin=(x, 0.0, 0.0))
    series(tmp_path / "ct", each=lambda ds, k: ds.__setattr__("ImagePositionPatient", [f"{x:g}", "0", str(3 * k)]))
    with pytest.raises(InputError, match=r"ct: its first voxel lies 1e\+(300|09) mm from the origin: no scan does"):
        formats.read([tmp_path / "ct"])
    with pytest.raises(InputError, match="the scan's grid: its first voxel lies"):
        held(Volume(VOXELS[None], Grid(VOXELS.shape, world)), None, "RAS")
