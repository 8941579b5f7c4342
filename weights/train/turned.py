"""What a head that lies turned costs on subA and subB: mean Dice of the scan turned by 20 degrees about two axes.

    python turned.py DATA

The scan is turned about the middle of its grid by one cubic interpolation. Its labels come back to the scan's own grid
as the nearest ones, which costs something by itself: so the labels of the upright scan are taken there and back too.
"""

import tempfile
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from evaluate import CSF, FREESURFER, freesurfer
from scoring import Model, dice, mean, options

from segcli.formats import read

ANGLE = np.deg2rad(20)
ROOM = 40  # voxels more on each side, for the corners that turn out of the grid


def main() -> None:
    args = options(__doc__).parse_args()
    model, folder = Model(args), args.data / "brain_t1_freesurfer"
    print("| scan | upright | upright, there and back | turned |\n| --- | --- | --- | --- |")
    for name, (scan, reference) in FREESURFER.items():
        path = folder / f"{scan}.nii.gz"
        wanted = freesurfer(read([folder / f"{reference}.nii.gz"]).data[0])
        image = sitk.ReadImage(str(path), sitk.sitkFloat32)
        grid, turn = _around(image), _turn(image)
        there = sitk.Clamp(sitk.Resample(image, grid, turn, sitk.sitkBSpline), lowerBound=0)
        with tempfile.TemporaryDirectory() as temporary:
            turned = Path(temporary) / "turned.nii.gz"
            sitk.WriteImage(there, str(turned))
            on_turned = _like(model.label(read([turned])), grid)
        upright = _like(model.label(read([path])), image)
        labels = (
            upright,
            _nearest(_nearest(upright, grid, turn), image, turn.GetInverse()),
            _nearest(on_turned, image, turn.GetInverse()),
        )
        scores = [mean(dice(sitk.GetArrayFromImage(one).astype(int), wanted, (CSF,))) for one in labels]
        print(f"| {name} | " + " | ".join(f"{score:.3f}" for score in scores) + " |", flush=True)


def _turn(image: sitk.Image) -> sitk.Euler3DTransform:
    turn = sitk.Euler3DTransform()
    turn.SetCenter(image.TransformContinuousIndexToPhysicalPoint([n / 2 for n in image.GetSize()]))
    turn.SetRotation(ANGLE, 0, ANGLE)
    return turn


def _around(image: sitk.Image) -> sitk.Image:
    """An empty image on the same grid with ROOM."""
    grid = sitk.Image([n + 2 * ROOM for n in image.GetSize()], sitk.sitkFloat32)
    grid.SetSpacing(image.GetSpacing())
    grid.SetDirection(image.GetDirection())
    grid.SetOrigin(image.TransformContinuousIndexToPhysicalPoint([-float(ROOM)] * 3))
    return grid


def _like(labels: np.ndarray, image: sitk.Image) -> sitk.Image:
    """(D, H, W) labels on an image's grid."""
    found = sitk.GetImageFromArray(labels.astype(np.uint8))
    found.CopyInformation(image)
    return found


def _nearest(labels: sitk.Image, grid: sitk.Image, way: sitk.Transform) -> sitk.Image:
    return sitk.Resample(labels, grid, way, sitk.sitkNearestNeighbor)


if __name__ == "__main__":
    main()
