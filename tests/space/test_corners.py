"""Grids that share their outermost voxel centres, beside scipy.ndimage.zoom on the turned array."""

import numpy as np
import pytest
from scipy.ndimage import zoom
from shapes import grid

from segcli.space.corners import labels_back, zoomed
from segcli.space.grids import GridSpec, model_grid
from segcli.space.resample import Interpolation, onto
from segcli.space.volume import Grid, Volume, turned

SPEC = GridSpec("SAR", (2.0, 2.0, 2.0), "corners")
SHAPE, SPACING = (9, 14, 11), (4.5, 1.3, 2.7)


@pytest.mark.parametrize("axes", ["SAR", "SPL", "LPS", "ARI"])
def test_corners_keep_the_outermost_voxel_centres(axes: str) -> None:
    scan = turned(grid(SHAPE, SPACING), axes)
    wanted, canonical = model_grid(scan, SPEC), turned(scan, "SAR")
    assert wanted.shape == tuple(
        round(n * step / 2) for n, step in zip(canonical.shape, canonical.spacing, strict=True)
    )
    for own in ([0, 0, 0], [1, 1, 1]):
        first, last = (np.array(own) * (np.array(g.shape) - 1) for g in (wanted, canonical))
        assert wanted.world(first) == pytest.approx(canonical.world(last))


def test_an_axis_of_one_voxel_stays_where_it_is() -> None:
    scan = grid((1, 8, 8), (5.0, 1.0, 1.0))
    wanted = model_grid(scan, GridSpec(None, (8.0, 2.0, 2.0), "corners"))
    assert wanted.shape == (1, 4, 4)
    assert wanted.world([0, 0, 0]) == pytest.approx(scan.world([0, 0, 0]))


@pytest.mark.parametrize("axes", ["SAR", "SPL", "LPS", "ARI"])
def test_samples_are_those_of_scipys_zoom_to_the_last_bit(axes: str) -> None:
    scan = turned(grid(SHAPE, SPACING), axes)
    data = np.random.default_rng(1).integers(-1000, 1000, (1, *scan.shape)).astype(np.int16)
    volume, canonical, wanted = Volume(data, scan), turned(scan, "SAR"), model_grid(scan, SPEC)
    upright = onto(volume, canonical, Interpolation("nearest")).data[0]
    expected = zoom(upright.astype(float), [a / 2 for a in canonical.spacing], order=1, mode="nearest")
    assert np.array_equal(zoomed(volume, wanted).data[0], expected)


@pytest.mark.parametrize("axes", ["SAR", "SPL", "LPS", "ARI"])
def test_labels_come_back_as_scipys_zoom_of_order_0_brings_them(axes: str) -> None:
    scan = turned(grid(SHAPE, SPACING), axes)
    canonical, wanted = turned(scan, "SAR"), model_grid(scan, SPEC)
    whole = np.random.default_rng(2).integers(1, 9, wanted.shape).astype(np.uint8)
    box = (slice(1, wanted.shape[0]), slice(0, wanted.shape[1] - 1), slice(2, wanted.shape[2]))
    cut = np.zeros_like(whole)
    cut[box] = whole[box]
    factors = [n / m for n, m in zip(canonical.shape, wanted.shape, strict=True)]
    expected = onto(
        Volume(zoom(cut, factors, order=0, mode="nearest")[None], canonical), scan, Interpolation("nearest")
    )
    back = labels_back(Volume(whole[box][None], wanted.crop(box)), wanted, scan)
    assert back.grid is scan
    assert np.array_equal(back.data, expected.data)


@pytest.mark.parametrize("tilt", [(0.0, 0.0, 0.0), (10.0, -7.0, 4.0)])
def test_labels_of_any_grid_come_back_from_the_nearest_voxel_and_background_lies_beyond_their_part(tilt) -> None:
    scan = grid((20, 24, 22), (2.0, 1.5, 1.5), tilt)
    wanted = Grid((14, 12, 13), scan.affine @ np.diag([1.43, 1.9, 1.7, 1.0]))
    whole = np.random.default_rng(3).integers(1, 9, wanted.shape).astype(np.uint8)
    box = (slice(3, 14), slice(0, 10), slice(2, 13))
    cut = np.zeros_like(whole)
    cut[box] = whole[box]
    places = wanted.index(scan.world(np.stack(np.indices(scan.shape), -1)))
    at = np.clip(np.round(places), 0, np.array(wanted.shape) - 1).astype(int)
    back = labels_back(Volume(whole[box][None], wanted.crop(box)), wanted, scan).data[0]
    assert back.dtype == np.uint8
    assert np.array_equal(back, cut[at[..., 0], at[..., 1], at[..., 2]])


def test_numbers_of_labels_that_are_interpolated_are_rounded_half_way_to_the_even_one() -> None:
    wanted = Grid((1, 1, 4), np.eye(4))
    scan = Grid((1, 1, 7), np.diag([1.0, 1.0, 0.5, 1.0]))
    labels = Volume(np.array([[[[0, 2, 1, 0]]]], np.uint8), wanted)
    assert labels_back(labels, wanted, scan, "linear").data.ravel().tolist() == [0, 1, 2, 2, 1, 0, 0]
