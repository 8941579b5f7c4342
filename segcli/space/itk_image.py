"""SimpleITK images and volumes, each made of the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from segcli.errors import InputError
from segcli.space.volume import Volume, Voxels


def voxels_of(image: Any) -> tuple[Voxels, NDArray[np.float64]]:
    """The voxels (C, D, H, W) of a SimpleITK.Image, and (4, 4) from its indices i, j, k to mm in LPS.

    errors   InputError: not of three dimensions
    """
    if image.GetDimension() != 3:
        raise InputError(f"a SimpleITK image of {image.GetDimension()} dimensions, where three are expected")
    ijk = np.eye(4)
    ijk[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    ijk[:3, 3] = image.GetOrigin()
    data = sitk.GetArrayFromImage(image)  # (D, H, W), or (D, H, W, C)
    return data.transpose(3, 0, 1, 2) if data.ndim == 4 else data[None], ijk


def image_of(volume: Volume, like: Any = None) -> Any:
    """The first channel of a volume as a SimpleITK.Image on its grid.

    like     a SimpleITK.Image on the same grid, whose numbers are taken to the bit; anything else has none to take
    """
    image = sitk.GetImageFromArray(volume.data[0])
    if isinstance(like, sitk.Image):
        image.SetSpacing(like.GetSpacing())
        image.SetOrigin(like.GetOrigin())
        image.SetDirection(like.GetDirection())
        return image
    grid = volume.grid
    image.SetSpacing(grid.spacing[::-1])
    image.SetOrigin(grid.affine[:3, 3].tolist())
    image.SetDirection(grid.directions[:, ::-1].reshape(-1).tolist())
    return image
