"""What is promised of a classic DICOM series; numbers are those of the reliability promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dicom_phantom import OBLIQUE, affine, phantom, series

from segcli.errors import InputError
from segcli.formats import dicom


def test_a_plain_series_gives_its_voxels_on_the_grid_of_its_positions(tmp_path: Path) -> None:
    scan = dicom.read(series(tmp_path / "ct"))
    assert scan.data.dtype == np.int16
    np.testing.assert_array_equal(scan.data[0], phantom())
    np.testing.assert_allclose(scan.grid.affine, affine(), atol=1e-6)
    assert scan.grid.axes == "SPL"


def test_an_oblique_series_keeps_its_place(tmp_path: Path) -> None:
    world = affine(OBLIQUE)
    scan = dicom.read(series(tmp_path / "ct", world=world))
    np.testing.assert_allclose(scan.grid.affine, world, atol=1e-6)
    np.testing.assert_array_equal(scan.data[0], phantom())


def test_4_3_a_missing_slice_is_refused_with_its_number_and_distance(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct", each=lambda ds, k: k != 3)
    with pytest.raises(InputError, match=r"ct: 5 slices unevenly spaced: 6 mm after slice 3, .* 3 mm"):
        dicom.read(folder)
