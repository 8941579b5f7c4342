"""The story of a scan, with a network of one line: labels in place, on any grid, in any order of axes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import CARD, affine
from scipy.ndimage import zoom
from shapes import distances, grid

from segcli.engines.host import HostEngine
from segcli.errors import InputError
from segcli.inference.prepare import prepare
from segcli.inference.segment import segment
from segcli.models.card import parse
from segcli.space.resample import Interpolation, onto
from segcli.space.volume import AXES_CODES, Grid, Volume, turned


class Organs(HostEngine):
    """The test model in numpy."""

    name, batch = "numpy", 2

    def __init__(self) -> None:
        super().__init__()
        weight, bias = affine()
        self.weight, self.bias = weight.reshape(1, -1, 1, 1, 1), bias.reshape(1, -1, 1, 1, 1)

    def run(self, patches):
        return patches * self.weight + self.bias


def phantom(on: Grid) -> Volume:
    """A body with a liver on the right and a spleen on the left and back, in HU."""
    hu = np.full(on.shape, -1000.0, np.float32)
    for centre, radius, value in (((0, 0, 0), 30, 40), ((-14, -4, 0), 9, 160), ((15, 8, -5), 7, 300)):
        hu[distances(on, centre) <= radius] = value
    return Volume(hu[None], on)


SCAN = phantom(grid((26, 44, 40), (2.5, 1.7, 1.9)))
CARD_3MM = parse(CARD)


@pytest.mark.slow
@settings(deadline=None, max_examples=48)
@given(code=st.sampled_from(AXES_CODES))
def test_7_2_labels_stay_at_the_same_place_in_all_48_orders_of_axes(code: str) -> None:
    plain = segment(SCAN, CARD_3MM.procedure, Organs()).labels
    other = segment(onto(SCAN, turned(SCAN.grid, code)), CARD_3MM.procedure, Organs()).labels
    assert np.array_equal(onto(other, SCAN.grid).data, plain.data)


@pytest.mark.parametrize(("tilt", "shear"), [((0, 0, 0), 0), ((20, -10, 35), 0), ((0, 0, 0), 0.25), ((8, 0, 3), 0.2)])
def test_the_spleen_stays_on_the_left_and_the_body_has_its_millilitres(tilt: tuple, shear: float) -> None:
    scan = phantom(grid((30, 70, 66), (2.5, 1.1, 1.2), tilt, shear))
    labels = segment(scan, CARD_3MM.procedure, Organs()).labels
    assert labels.grid is scan.grid
    found = labels.data[0] == 3
    centre = scan.grid.world(np.argwhere(found)).mean(0)
    assert centre == pytest.approx([15, 8, -5], abs=0.6)
    body = (labels.data > 0).sum() * scan.grid.voxel_mm3 / 1000
    assert body == pytest.approx(4 / 3 * np.pi * 3**3, rel=0.02)  # the threshold is half way from air to body


def test_7_3_the_network_sees_the_spacing_the_axes_and_the_range_of_its_card() -> None:
    image = prepare(SCAN, CARD_3MM.procedure).image
    assert image.grid.axes == "RAS"
    assert image.grid.spacing == pytest.approx((3, 3, 3), rel=0.05)
    assert (image.data.min(), image.data.max()) == (0.0, pytest.approx(0.65, abs=0.01))


def test_3_6_voxels_that_are_not_finite_are_background_and_counted() -> None:
    data = SCAN.data.copy()
    data[0, 13, 20:24, 18:22] = np.nan
    result = segment(Volume(data, SCAN.grid), CARD_3MM.procedure, Organs())
    assert "16 of" in result.warnings[0]
    assert (result.labels.data[0, 13, 20:24, 18:22] == 0).all()
    away = np.ones(SCAN.grid.shape, bool)
    away[10:17, 16:28, 14:26] = False
    plain = segment(SCAN, CARD_3MM.procedure, Organs()).labels.data[0]
    assert np.array_equal(result.labels.data[0][away], plain[away])


def test_3_6_a_scan_without_a_finite_voxel_is_refused() -> None:
    with pytest.raises(InputError, match="finite"):
        segment(Volume(np.full((1, 4, 4, 4), np.nan, np.float32), grid((4, 4, 4))), CARD_3MM.procedure, Organs())


def test_a_scan_with_other_channels_than_the_models_is_refused_with_their_names() -> None:
    two = Volume(np.zeros((2, 4, 4, 4), np.float32), grid((4, 4, 4)))
    with pytest.raises(InputError, match="2 channels, the model organs wants 1: CT"):
        segment(two, CARD_3MM.procedure, Organs())


def test_a_crop_before_the_resampling_leaves_the_rest_background() -> None:
    steps = [{"step": "crop", "above": -900}, {"step": "resample"}, *CARD["intensity"]]
    card = parse({**CARD, "intensity": steps})
    labels = segment(SCAN, card.procedure, Organs()).labels.data[0]
    body = SCAN.data[0] > -900
    box = tuple(slice(int(a.min()), int(a.max()) + 1) for a in np.nonzero(body))
    outside = np.ones(body.shape, bool)
    outside[box] = False
    assert (labels[outside] == 0).all()
    assert 2 * (body & (labels > 0)).sum() / (body.sum() + (labels > 0).sum()) > 0.93


def test_confidence_is_the_mean_margin_between_the_best_two_shares() -> None:
    result = segment(SCAN, CARD_3MM.procedure, Organs())
    assert set(result.confidence) <= {0, 1, 2, 3, 4, 5}
    assert all(0 <= v <= 1 for v in result.confidence.values())
    assert result.confidence[0] > 0.99  # air is 500 HU away from any threshold


@pytest.mark.parametrize("shape", [(1, 12, 12), (3, 1, 1), (1, 1, 1)])
def test_3_16_any_size_from_one_voxel_on_works(shape: tuple[int, int, int]) -> None:
    scan = Volume(np.full((1, *shape), 40, np.int16), grid(shape))
    assert (segment(scan, CARD_3MM.procedure, Organs()).labels.data == 1).all()


def test_a_crop_and_neighbouring_slices_keep_the_value_beyond_each_channel() -> None:
    two = Volume(np.stack([np.full((4, 3, 3), v, np.float32) for v in (1, 5)]), grid((4, 3, 3)))
    two.data[:, 0] = 0
    steps = [
        {"step": "clip", "low": 0, "high": 3, "channels": [0]},
        {"step": "clip", "low": 2, "high": 9, "channels": [1]},
    ]
    sliced = {"slice_axis": 0, "slices": 3, "patch_size": [1, 8, 8]}
    own = parse({**CARD, "channels": ["T1", "T2"], "spacing": None, "orientation": None, "intensity": steps, **sliced})
    prepared = prepare(two, own.procedure)
    assert prepared.image.data.shape == (6, 4, 3, 3)
    assert prepared.outside.tolist() == [0, 2] * 3
    cropped = parse({**own.document, "intensity": [*steps, {"step": "crop", "above": None, "outside": -4}]})
    assert prepare(two, cropped.procedure).outside.tolist() == [-4] * 6


@pytest.mark.parametrize("axes", ["SAR", "LPS"])
def test_a_card_of_corners_and_nearest_labels_as_totalsegmentator_does(axes: str) -> None:
    """Turned, zoomed by order 1, cut to whole numbers, labelled, zoomed back by order 0, turned back."""
    steps = [{"step": "resample", "whole": True}, *CARD["intensity"]]
    card = parse({**CARD, "orientation": "SAR", "anchor": "corners", "back": "nearest", "intensity": steps})
    noise = np.random.default_rng(3).integers(-40, 40, SCAN.data.shape)
    scan = onto(Volume(SCAN.data + noise, SCAN.grid), turned(SCAN.grid, axes))
    upright = turned(scan.grid, "SAR")
    data = onto(scan, upright).data[0].astype(float)
    small = np.trunc(zoom(data, [s / 3 for s in upright.spacing], order=1, mode="nearest"))
    shares = ((np.clip(small, -1000, 1000) + 1000) / 2000).astype(np.float32)
    labels = Organs().run(shares[None, None])[0].argmax(0).astype(np.uint8)
    back = zoom(labels, [n / m for n, m in zip(data.shape, labels.shape, strict=True)], order=0, mode="nearest")
    expected = onto(Volume(back[None], upright), scan.grid, Interpolation("nearest"))
    assert np.mean(segment(scan, card.procedure, Organs()).labels.data == expected.data) > 0.9999
