"""The box that a rough model's structures span, and an answer put back to where it belongs."""

import numpy as np
import pytest

from segcli.inference.decide import Decision
from segcli.inference.region import around, on_whole_scan
from segcli.inference.segment import Segmentation
from segcli.space.volume import Grid, Volume


def grid(shape: tuple[int, int, int], spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Grid:
    return Grid(shape, np.diag([*spacing, 1.0]))


def labels(shape: tuple[int, int, int], spacing: tuple[float, float, float], *at: tuple[int, int, int]) -> Volume:
    data = np.zeros((1, *shape), np.uint8)
    for d, h, w in at:
        data[0, d, h, w] = 3
    return Volume(data, grid(shape, spacing))


def test_the_box_has_whole_voxels_of_the_margin_along_each_axis_and_ends_with_the_scan() -> None:
    found = labels((60, 60, 60), (2.7, 2.9, 5.0), (20, 30, 2), (22, 33, 5))
    # 20 mm are 7 steps of 2.7, 6 of 2.9, and 4 of 5, of which there are but 2 before the first voxel.
    assert around(found, [3], 20) == (slice(13, 30), slice(24, 40), slice(0, 10))
    assert around(found, [2], 20) is None


@pytest.mark.parametrize(("step", "voxels"), [(0.8, 24), (2.5, 8), (0.703125, 28), (1.25, 16)])
def test_a_margin_is_counted_in_steps_as_a_header_has_them_in_float32(step: float, voxels: int) -> None:
    found = labels((80, 1, 1), (step, 1.0, 1.0), (40, 0, 0))
    box = around(found, [3], 20)
    assert box is not None
    assert box[0] == slice(40 - voxels, 41 + voxels)


@pytest.mark.parametrize("rule", ["argmax", "regions"])
def test_around_the_box_all_is_background(rule: str) -> None:
    scan = Volume(np.zeros((1, 4, 5, 6), np.int16), grid((4, 5, 6)))
    box = (slice(1, 3), slice(0, 2), slice(4, 6))
    part = scan.grid.crop(box)
    found = Segmentation(
        Volume(np.full((1, 2, 2, 2), 7, np.uint16), part),
        {},
        1,
        {},
        probabilities=Volume(np.full((2, 2, 2, 2), 9, np.uint8), part),
        votes=Volume(np.full((1, 2, 2, 2), 5, np.uint8), part),
    )
    back = on_whole_scan(found, scan, box, Decision((0, 7), rule))  # type: ignore[arg-type]
    assert back.probabilities is not None
    assert back.votes is not None
    for volume, inside, outside in (
        (back.labels, [7], [0]),
        (back.votes, [5], [0]),
        (back.probabilities, [9, 9], [255 if rule == "argmax" else 0, 0]),
    ):
        assert volume.grid is scan.grid
        for channel, own, around_it in zip(volume.data, inside, outside, strict=True):
            here = np.full(scan.grid.shape, around_it)
            here[box] = own
            assert np.array_equal(channel, here)
    assert back.labels.data.dtype == np.uint16
