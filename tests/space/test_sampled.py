"""Finished labels on their way back to a scan, beside MONAI's own inverse of Orientation and Spacing."""

from typing import Any, Literal

import numpy as np
import pytest
from scipy.linalg import expm

from segcli.space.corners import labels_back
from segcli.space.grids import GridSpec, model_grid
from segcli.space.sampled import nearest as nearest_voxels
from segcli.space.volume import Grid, Volume

LPS = np.diag([-1.0, -1, 1, 1])
MonaiAnchor = Literal["monai", "monai_stored"]


def scans(count: int) -> Any:
    """Shape (i, j, k), RAS affine as a file has it and wanted steps, such that many samples lie half-way."""
    rng = np.random.default_rng(11)
    for _ in range(count):
        x, y, z = rng.choice([0.0, 0.1, 0.2, -0.3], 3)
        turn = expm([[0, -z, y], [z, 0, -x], [-y, x, 0]])[:, rng.permutation(3)] * rng.choice([-1, 1], 3)
        ras = np.eye(4)
        ras[:3, :3] = (turn * rng.choice([0.7, 1.0, 1.5, 2.0, 3.0], 3)).astype(np.float32)
        ras[:3, 3] = (31.0, 27.0, -40.0)
        yield [int(n) for n in rng.integers(11, 24, 3)], ras, tuple(rng.choice([1.0, 1.5, 2.0, 3.0], 3).tolist())


def monai_back(shape: Any, ras: Any, steps: Any, anchor: MonaiAnchor, nearest: bool, labels: Any) -> Any:
    """MONAI's labels (i, j, k) at the scan, of the labels that `labels` makes for a shape; its grid's affine."""
    transforms = pytest.importorskip("monai.transforms")
    metatensor = pytest.importorskip("monai.data").MetaTensor
    there = [transforms.Orientationd("image", "RAS", labels=None), transforms.Spacingd("image", steps)]
    before = transforms.Compose(there if anchor == "monai" else there[::-1])
    found = before({"image": metatensor(np.zeros((1, *shape), np.float32), affine=ras)})
    made = labels(found["image"].shape[1:])
    found["pred"] = metatensor(made[None].astype(np.float32), meta=found["image"].meta)
    back = transforms.Invertd("pred", transform=before, orig_keys="image", nearest_interp=nearest)(found)["pred"]
    return made, found["image"].affine.numpy(), np.asarray(back)[0]


def random_labels(shape: Any) -> Any:
    return np.random.default_rng(2).integers(0, 9, shape).astype(np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("nearest", [True, False])
@pytest.mark.parametrize("anchor", ["monai", "monai_stored"])
def test_labels_come_back_as_monai_brings_them_half_way_between_two_voxels_too(anchor: MonaiAnchor, nearest: bool):
    torch = pytest.importorskip("torch")
    if torch.backends.cpu.get_cpu_capability() != "AVX2":
        pytest.skip("torch adds up in another order on this processor, and MONAI decides otherwise half-way")
    for shape, ras, steps in scans(15):
        scan = Grid(tuple(shape[::-1]), (LPS @ ras)[:, [2, 1, 0, 3]])
        wanted = model_grid(scan, GridSpec("RAS", steps, anchor))
        made, affine, theirs = monai_back(shape, ras, steps, anchor, nearest, random_labels)
        assert np.array_equal(LPS @ wanted.affine, affine)
        how: Literal["nearest", "linear"] = "nearest" if nearest else "linear"
        ours = labels_back(Volume(made[None], wanted), wanted, scan, how, anchor).data[0].transpose(2, 1, 0)
        assert np.array_equal(ours, np.rint(theirs)), (shape, steps)


def test_half_way_between_two_voxels_the_even_one_is_the_nearest() -> None:
    scan = Grid((1, 1, 9), np.eye(4))
    wanted = model_grid(scan, GridSpec("LPS", (1.0, 1.0, 2.0), "monai"))
    assert wanted.shape == (1, 1, 5)
    labels = Volume(np.arange(1, 6, dtype=np.uint8)[None, None, None], wanted)
    assert labels_back(labels, wanted, scan, "nearest", "monai").data.ravel().tolist() == [1, 1, 2, 3, 3, 3, 4, 5, 5]


@pytest.mark.parametrize("anchor", ["monai", "monai_stored"])
def test_the_nearest_voxels_half_way_between_two_are_those_of_monais_spacing(anchor: MonaiAnchor) -> None:
    """Steps of 1 made 1.5 put every other sample half-way; 1.5 is a little less in the sums that lead there."""
    rising = np.tile(np.arange(7.0, dtype=np.float32), (2, 3, 3, 1))
    scan = Volume(rising, Grid((3, 3, 7), LPS[:, [2, 1, 0, 3]]))
    wanted = model_grid(scan.grid, GridSpec("RAS", (1.5, 1.0, 1.0), anchor))
    found = nearest_voxels(scan, wanted, stored=anchor == "monai_stored").data
    assert found.shape == (2, 5, 3, 3)
    assert found[1, :, 0, 0].tolist() == [0, 1, 3, 4, 6]


@pytest.mark.slow
@pytest.mark.parametrize("anchor", ["monai", "monai_stored"])
def test_an_images_nearest_voxels_are_those_of_monais_spacing(anchor: MonaiAnchor) -> None:
    torch = pytest.importorskip("torch")
    if torch.backends.cpu.get_cpu_capability() != "AVX2":
        pytest.skip("torch adds up in another order on this processor, and MONAI decides otherwise half-way")
    transforms = pytest.importorskip("monai.transforms")
    metatensor = pytest.importorskip("monai.data").MetaTensor
    for shape, ras, steps in scans(15):
        values = np.random.default_rng(3).normal(size=(2, *shape)).astype(np.float32)
        there = [transforms.Orientation("RAS", labels=None), transforms.Spacing(steps, mode="nearest")]
        theirs = transforms.Compose(there if anchor == "monai" else there[::-1])(metatensor(values, affine=ras))
        scan = Volume(values.transpose(0, 3, 2, 1), Grid(tuple(shape[::-1]), (LPS @ ras)[:, [2, 1, 0, 3]]))
        wanted = model_grid(scan.grid, GridSpec("RAS", steps, anchor))
        ours = nearest_voxels(scan, wanted, stored=anchor == "monai_stored").data
        assert np.array_equal(ours, theirs.numpy()), (shape, steps)
