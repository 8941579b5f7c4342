"""dcm2niix reads the same grid and the same voxels as segcli, on each kind of DICOM case here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from dicom_phantom import OBLIQUE, affine, enhanced, phantom, series
from test_dicom_frames import SHIPPED, mosaic, vframe

from segcli.formats.dicom import series as dicom
from segcli.space.volume import Volume

TOOL = shutil.which("dcm2niix")
pytestmark = pytest.mark.skipif(TOOL is None, reason="dcm2niix is not installed (apt-get or pip install dcm2niix)")


def read(folder: Path, out: Path) -> tuple[np.ndarray, np.ndarray]:
    """What dcm2niix makes of the one volume of a folder: (i, j, k) voxels, and their affine to LPS mm."""
    out.mkdir()
    subprocess.run([TOOL, "-b", "n", "-z", "n", "-m", "n", "-o", out, folder], check=True, capture_output=True)
    (made,) = [path for path in out.glob("*.nii") if not path.stem.endswith(("_Eq", "_Tilt"))]
    image = nibabel.load(made)
    return np.asarray(image.dataobj), np.diag([-1, -1, 1, 1]) @ image.affine


def same(ours: Volume, theirs: tuple[np.ndarray, np.ndarray], within: float) -> None:
    """Every voxel of ours has one of theirs at its place, to `within` of a voxel, and with its value."""
    voxels, to_world = theirs
    assert sorted(voxels.shape) == sorted(ours.grid.shape)
    ours_at = np.indices(ours.grid.shape).reshape(3, -1)
    index = (np.linalg.inv(to_world) @ ours.grid.affine @ np.vstack([ours_at, np.ones(ours_at.shape[1])]))[:3]
    assert np.abs(index - index.round()).max() < within
    np.testing.assert_array_equal(voxels[tuple(index.round().astype(int))], ours.data[0].ravel())


CASES: dict[str, Callable[[Path], object]] = {
    "axial CT": lambda folder: series(folder),
    "oblique CT": lambda folder: series(folder, world=affine(OBLIQUE)),
    "MR of signed values": lambda folder: series(folder, modality="MR", world=affine(OBLIQUE)),
    "slices in the other order": lambda folder: series(folder, phantom()[::-1], affine(((1, 0, 0), (0, 0, -1)))),
    "enhanced MR in no order": lambda folder: enhanced(
        made(folder) / "mr.dcm", phantom(), affine(OBLIQUE), order=[3, 0, 5, 1, 4, 2]
    ),
    "United Imaging grid": lambda folder: vframe(made(folder) / "1.dcm", affine(OBLIQUE), SpacingBetweenSlices=3),
    "Siemens mosaic": lambda folder: mosaic(made(folder) / "1.dcm", affine(OBLIQUE)),
    "Siemens mosaic stacked downwards": lambda folder: mosaic(made(folder) / "1.dcm", affine(OBLIQUE), flip=-1),
    "RLE": lambda folder: [compressed(path) for path in series(folder).iterdir()],
    "scanner files of pydicom": lambda folder: shutil.copytree(SHIPPED / "98892001" / "CT5N", folder),
}


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def compressed(path: Path) -> None:
    ds = pydicom.dcmread(path)
    ds.compress(pydicom.uid.RLELossless)
    ds.save_as(path)


@pytest.mark.parametrize("case", CASES)
def test_dcm2niix_finds_the_same_values_in_the_same_places(tmp_path: Path, case: str) -> None:
    CASES[case](tmp_path / "in")
    same(dicom.read(tmp_path / "in"), read(tmp_path / "in", tmp_path / "out"), 2e-3)


@pytest.mark.slow
def test_dcm2niix_finds_the_same_in_every_case_of_the_dicom_tests(tmp_path: Path) -> None:
    """The tests of the rooms that read DICOM run once more, each reading compared; see the plugin `second_reader`."""
    here = Path(__file__).parent
    files = sorted(file for file in here.glob("test_*.py") if file != Path(__file__))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "second_reader",
        "-n",
        "0",
        f"--basetemp={tmp_path / 'tests'}",
        *files,
    ]
    lines = tmp_path / "compared.txt"
    env = {**os.environ, "PYTHONPATH": str(here), "SECOND_READER": str(lines), "PYTEST_ADDOPTS": ""}
    ran = subprocess.run(command, cwd=here.parents[2], env=env, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-4000:]
    outcomes = [line.rpartition(": ")[2] for line in lines.read_text(encoding="utf-8").splitlines()]
    assert outcomes.count("equal") >= 100
