"""What `segcli report` refuses."""

import numpy as np
import pytest
from runs import command  # noqa: F401 - makes the folder of scan_files known

from segcli.commands import report as answer
from segcli.errors import InputError

from scan_files import nifti  # isort: skip - runs makes its folder known


def test_a_label_map_of_another_model_is_not_reported_under_wrong_names(model, tmp_path):
    path = nifti(tmp_path / "a_seg.nii.gz", np.zeros((4, 4, 4), "u1"))
    (tmp_path / "a_seg.json").write_text('{"segcli_record": 1, "model": {"name": "uxnet"}}')
    with pytest.raises(InputError, match=r"a_seg.nii.gz: its record says that uxnet made it, not organs"):
        answer.report(path, str(model), output=tmp_path)
