"""Values before the network, by hand."""

import numpy as np
import pytest

from segcli.inference.intensity import Clip, Crop, Outside, Percentiles, Scale, Standardise, foreground, normalise
from segcli.space.volume import Grid, Volume


def volume(*channels: list[float]) -> Volume:
    data = np.array(channels, np.float32).reshape(len(channels), -1, 1, 1)
    return Volume(data, Grid(data.shape[1:], np.eye(4)))


def test_a_ct_window_becomes_nought_to_one() -> None:
    image, _ = normalise(volume([-1000, -125, 75, 275, 3000]), [Clip(-125, 275), Scale(0, 1, (-125, 275))])
    assert image.data.ravel() == pytest.approx([0, 0, 0.5, 1, 1])


@pytest.mark.parametrize("low", [-175.0, -125.0, 0.1])
def test_the_lower_end_of_a_window_is_nought_exactly_and_no_foreground(low: float) -> None:
    image, _ = normalise(volume([low - 9, low, low + 40]), [Clip(low, low + 425), Scale(0, 1, (low, low + 425))])
    assert list(image.data.ravel()[:2]) == [0.0, 0.0]
    assert image.data.ravel()[2] > 0


def test_the_input_is_left_alone() -> None:
    scan = volume([1, 2, 3])
    normalise(scan, [Clip(0, 1)])
    assert scan.data.ravel().tolist() == [1, 2, 3]


def test_standardising_gives_mean_nought_and_deviation_one() -> None:
    image, outside = normalise(volume([0, 10]), [Standardise()], outside=0.0)
    assert image.data.ravel() == pytest.approx([-1, 1])
    assert outside == pytest.approx(-1)  # what lies beyond the image goes through the same steps


def test_standardising_by_nonzero_voxels_keeps_nought() -> None:
    image, _ = normalise(volume([0, 1, 3]), [Standardise(where="nonzero")])
    assert image.data.ravel() == pytest.approx([0, -1, 1])


def test_percentiles_of_a_constant_image_are_finite() -> None:
    image, _ = normalise(volume([7, 7, 7]), [Percentiles(0.5, 99.5)])
    assert np.isfinite(image.data).all()


def test_a_step_may_belong_to_one_channel_only() -> None:
    image, _ = normalise(volume([0, 10], [0, 10]), [Scale(0, 1, channels=(1,))])
    assert image.data.reshape(2, 2).tolist() == [[0, 10], [0, 1]]


def test_the_foreground_is_the_smallest_box_with_any_channel_above() -> None:
    data = np.zeros((2, 5, 6, 7), np.float32)
    data[0, 1, 2, 3] = data[1, 3, 4, 3] = 1
    box = foreground(Volume(data, Grid((5, 6, 7), np.eye(4))), Crop(0.5))
    assert box == (slice(1, 4), slice(2, 5), slice(3, 4))


def test_without_foreground_nothing_is_cropped() -> None:
    box = foreground(Volume(np.zeros((1, 2, 3, 4)), Grid((2, 3, 4), np.eye(4))), Crop(0.0))
    assert box == (slice(0, 2), slice(0, 3), slice(0, 4))


def test_the_value_beyond_the_image_is_each_channels_own() -> None:
    steps = [Standardise(), Scale(0, 10, (0, 1), channels=(1,))]
    _, outside = normalise(volume([0, 10], [10, 30]), steps, outside=0.0)
    assert outside.tolist() == [-1, -20]
    _, outside = normalise(volume([0, 10], [10, 30]), steps, outside=np.array([5, 20], np.float32))
    assert outside.tolist() == [0, 0]
    _, outside = normalise(volume([0, 10], [10, 30]), [*steps, Outside(3, channels=(0,))], outside=0.0)
    assert outside.tolist() == [3, -20]
