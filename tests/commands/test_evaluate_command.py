"""What `segcli evaluate` refuses."""

import json

import numpy as np
import pytest
from runs import command  # noqa: F401 - makes the folder of scan_files known

from segcli.commands import evaluate as answer
from segcli.errors import InputError, UsageError

from scan_files import nifti  # isort: skip - runs makes its folder known


def test_label_maps_on_two_grids_are_named(tmp_path):
    one = nifti(tmp_path / "one.nii.gz", np.zeros((4, 4, 4), "u1"))
    other = nifti(tmp_path / "other.nii.gz", np.zeros((4, 4, 5), "u1"))
    with pytest.raises(InputError, match=r"one.nii.gz and other.nii.gz: .* not on one grid"):
        answer.evaluate(one, other, json=True)


def test_parcels_of_a_reference_count_as_the_whole_and_other_values_are_told_with_their_map(tmp_path, capsys):
    truth, mine = np.zeros((6, 6, 6), "i2"), np.zeros((6, 6, 6), "i2")
    truth[1:3, 1:5, 1:5], truth[3:5, 1:5, 1:5], truth[5, 5, 5] = 1001, 1035, 900
    mine[1:5, 1:5, 1:5], mine[0, 0, 0] = 3, 700
    pred, ref = nifti(tmp_path / "pred.nii.gz", mine), nifti(tmp_path / "ref.nii.gz", truth)
    answer.evaluate(pred, ref, model="uxnet", reference_labels="freesurfer", json=True)
    out, told = capsys.readouterr()
    scores = {s["name"]: s for s in json.loads(out)["scores"]}
    assert scores["left_cerebral_cortex"]["dice"] == 1.0
    assert "values of the prediction that are not scored: 700" in told
    assert "values of the reference that are not scored: 900" in told


def test_numbers_of_a_program_that_is_not_known_are_refused(tmp_path):
    with pytest.raises(UsageError, match="--reference-labels free: is not one of freesurfer"):
        answer.evaluate(tmp_path, tmp_path, reference_labels="free")
