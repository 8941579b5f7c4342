"""Scans that a program holds: their voxels on their grid, or a refusal in plain words."""

import re
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

import segcli
import segcli.api.model
from segcli.api.scans import held
from segcli.errors import InputError, UsageError
from segcli.formats.mgh import read as read_mgh
from segcli.space.volume import Grid, Volume

RAS = np.diag([-3.0, 3, 3, 1])
IJK = np.arange(120, dtype=np.int16).reshape(6, 5, 4)


def test_channels_on_different_grids_are_refused_by_their_numbers() -> None:
    for one, other in ((IJK, IJK[:5]), (sitk.GetImageFromArray(IJK), sitk.GetImageFromArray(IJK[:5]))):
        affine = RAS if isinstance(one, np.ndarray) else None
        with pytest.raises(InputError, match="channel 1 and channel 2 are not on one grid: "):
            held([one, other], affine, "RAS")
    with pytest.raises(InputError, match="channel 1 and channel 3 are not on one grid: up to 1 mm apart"):
        held([Volume(IJK[None], Grid(IJK.shape, np.eye(4) + shift)) for shift in (0, 0, np.eye(4, k=3))], None, "RAS")


def test_an_affine_of_nibabel_that_was_changed_in_place_counts() -> None:
    image = nibabel.Nifti1Image(IJK, RAS)
    image.affine[:3, 3], image.affine[2, 2] = (50, 0, 7), 5
    grid = held(image, None, "RAS").volume.grid
    assert grid.spacing == (5.0, 3.0, 3.0)  # k, j, i
    assert grid.world([0, 0, 0]).tolist() == [-50.0, 0.0, 7.0]  # LPS
    assert image.header["srow_x"].tolist() == [-3.0, 0.0, 0.0, 0.0]  # the caller's image is as it was
    image.affine[:] = 0
    with pytest.raises(InputError, match="the scan's grid"):
        held(image, None, "RAS")


def test_3_2_an_image_of_Analyze_is_refused_where_nibabel_guesses_its_orientation(tmp_path: Path) -> None:
    nibabel.save(nibabel.AnalyzeImage(IJK, RAS), tmp_path / "a.img")
    with pytest.raises(InputError, match=r"a\.(img|hdr): an Analyze 7\.5 image, not a NIfTI: it does not state its or"):
        held(nibabel.load(tmp_path / "a.img"), None, "RAS")
    oblique = RAS @ [[0.8, -0.6, 0, 5], [0.6, 0.8, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1]]
    stated = held(nibabel.AnalyzeImage(IJK, oblique), None, "RAS").volume.grid  # by the program that made it
    assert stated.world([0, 0, 0]).tolist() == (oblique[:3, 3] * [-1, -1, 1]).tolist()


@pytest.mark.parametrize("dtype", [">i2", ">f4", ">i4", "f2", "bool", "i8", "f8"])
def test_voxels_of_any_type_and_byte_order_become_numbers_that_every_step_takes(dtype: str) -> None:
    data = (IJK % 2).astype(dtype)
    for scan, affine in ((data, RAS), (Volume(data[None], Grid(data.shape, np.eye(4))), None)):
        found = held(scan, affine, "LPS").volume.data
        assert found.dtype.isnative
        assert found.dtype in (np.uint8, np.int16, np.int32, np.float32)
        assert np.array_equal(found[0], IJK % 2)


def test_a_big_endian_image_of_nibabel_has_the_voxels_of_its_file(tmp_path: Path) -> None:
    nibabel.save(nibabel.MGHImage(IJK, RAS), tmp_path / "a.mgz")
    found, wanted = held(nibabel.load(tmp_path / "a.mgz"), None, "RAS").volume, read_mgh(tmp_path / "a.mgz")
    assert found.data.dtype == wanted.data.dtype == np.int16
    assert found.data.dtype.isnative
    assert np.array_equal(found.data, wanted.data)
    assert found.grid.same_as(wanted.grid)


@pytest.mark.parametrize("dtype", [complex, object])
def test_a_volume_of_other_things_than_real_numbers_is_refused(dtype: type) -> None:
    with pytest.raises(InputError, match=r"the Volume: voxels of type (complex128|object); one real number per voxel"):
        held(Volume(IJK[None].astype(dtype), Grid(IJK.shape, np.eye(4))), None, "RAS")


def test_reading_by_a_statement_that_no_header_has_is_a_usage_error(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Image(IJK, RAS), tmp_path / "a.nii")
    with pytest.raises(UsageError, match=re.escape("affine='sfrm': is sform, qform, pixdim")):
        segcli.read(tmp_path / "a.nii", affine="sfrm")


def test_a_thread_has_what_it_asked_for_though_another_asks_for_other_structures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was asked for last is kept; another thread may put its own in its place at once."""

    class Forgetful(dict[object, object]):
        def __setitem__(self, key: object, value: object) -> None:
            super().__setitem__(key, value)
            self.clear()

    @dataclass(frozen=True)
    class Opening:
        classes: tuple[str, ...] = ()

        def open(self, card: object) -> object:
            return "opened", card, self.classes

    monkeypatch.setattr(segcli.api.model, "asked", lambda card, classes: f"card of {classes}")
    model = segcli.Model("card", Opening(), None, _asked=Forgetful())
    assert model._answering(("liver",)) == ("card of ('liver',)", ("opened", "card of ('liver',)", ("liver",)))
