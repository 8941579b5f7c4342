"""What `segcli plan` takes and says."""

import json

import pytest
from runs import command, scan


@pytest.mark.slow
def test_a_plan_takes_the_limits_and_models_of_predict(model, tmp_path):
    scan(tmp_path / "a.nii.gz")
    one, two = (
        json.loads(command("plan", "a.nii.gz", *models, *limits, "--engine", "onnx", "--json", cwd=tmp_path).stdout)
        for models, limits in ((("-m", model), ("--max-ram", "64G")), (("-m", model, "-m", model), ("--max-ram", "1")))
    )
    assert two["windows"] == 2 * one["windows"] > 0
    assert (one["sums_on_disk"], two["sums_on_disk"]) == (False, True)


@pytest.mark.slow
def test_a_plan_is_of_one_scan_and_takes_its_channels(model, tmp_path):
    scan(tmp_path / "a.nii.gz")
    scan(tmp_path / "b.nii.gz")
    for words, code, told in (
        ((".", "-m", model), 2, b"plan takes one scan, not 2"),
        (("--channel", "CT=a.nii.gz", "-m", model), 0, b""),
    ):
        done = command("plan", *words, "--engine", "torch", cwd=tmp_path)
        assert done.returncode == code, done.stderr
        assert told in done.stderr
