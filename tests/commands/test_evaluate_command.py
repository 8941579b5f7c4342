"""What `segcli evaluate` refuses."""

import numpy as np
import pytest
from runs import command  # noqa: F401 - makes the folder of scan_files known

from segcli.commands import evaluate as answer
from segcli.errors import InputError

from scan_files import nifti  # isort: skip - runs makes its folder known


def test_label_maps_on_two_grids_are_named(tmp_path):
    one = nifti(tmp_path / "one.nii.gz", np.zeros((4, 4, 4), "u1"))
    other = nifti(tmp_path / "other.nii.gz", np.zeros((4, 4, 5), "u1"))
    with pytest.raises(InputError, match=r"one.nii.gz and other.nii.gz: .* not on one grid"):
        answer.evaluate(one, other, json=True)
