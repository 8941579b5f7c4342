"""What is said where two scans would be written as one."""

from pathlib import Path

import pytest

from segcli.batch.case import Case
from segcli.batch.clashes import one_name


@pytest.mark.parametrize(
    ("one", "other", "above"),
    [
        ("/data/x/s.nii", "/data/y/s.nii", "name the folder above both, /data, whose folders the names then have; or "),
        (
            "/data/y/../x/s.nii",
            "/data/y/s.nii",
            "name the folder above both, /data, whose folders the names then have; or ",
        ),
        ("/x/s.nii", "/y/s.nii", ""),  # a whole disk is no folder to search
    ],
)
def test_the_folder_above_both_is_named_where_it_is_no_whole_disk(one: str, other: str, above: str) -> None:
    first, second = (Case("s", (path,), path.parent) for path in map(Path, (one, other)))
    refusal = one_name(first, second, "s_seg.nii.gz")
    assert refusal.message == f"{one} and {other} would both be written as s_seg.nii.gz"
    assert refusal.hint == f"{above}rename one, or run `predict` for each with another -o"
