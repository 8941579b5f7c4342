"""What the name of a path says: a folder or a file for results, and whether a file is one of them."""

from pathlib import Path

import pytest
from runs import touch

from segcli.batch.cases import cases
from segcli.batch.names import folder_or_file, is_own
from segcli.errors import UsageError


@pytest.mark.parametrize(
    "name",
    ["seg.mhd", "seg.hdr", "seg.img", "SEG.DCM", "volumes.csv", "page.html", "seg.json", "seg.npz", "seg.tif", "a.stl"],
)
def test_a_place_that_is_called_as_a_file_of_another_kind_does_not_become_a_folder(tmp_path, name):
    with pytest.raises(UsageError, match=rf"{name}: a label map is not written as \{Path(name).suffix.lower()}"):
        folder_or_file(str(tmp_path / name))
    (tmp_path / name).mkdir()
    assert folder_or_file(str(tmp_path / name)) == (tmp_path / name, None)
    assert folder_or_file(str(tmp_path / "study.v2")) == (tmp_path / "study.v2", None)
    assert folder_or_file(str(tmp_path / "a.NII.gz")) == (None, tmp_path / "a.NII.gz")


@pytest.mark.parametrize("name", ["fresh.nii.gz", "y.tif", "out"])
def test_a_slash_at_the_end_names_a_folder(tmp_path, name):
    assert folder_or_file(f"{tmp_path / name}/") == (tmp_path / name, None)


def test_a_scan_whose_name_ends_in_seg_is_a_scan(tmp_path):
    touch(tmp_path, "a_seg.nii.gz", "mine_seg/liver.nii.gz")
    assert not is_own(tmp_path / "a_seg.nii.gz")
    assert not is_own(tmp_path / "mine_seg" / "liver.nii.gz")


@pytest.mark.parametrize("ending", ["_seg.dcm", "_sr.dcm", "_rtstruct.dcm"])
def test_2_9_a_dicom_file_that_is_called_as_an_output_is_one_only_where_it_says_so(tmp_path, ending):
    touch(tmp_path, "a_seg.nii.gz", "a_seg.json")
    path = tmp_path / f"a{ending}"
    path.write_bytes(bytes(128) + b"DICM" + b"\x08\x00\x70\x00LO\x06\x00segcli")
    assert is_own(path)
    path.write_bytes(bytes(128) + b"DICM" + b"\x08\x00\x70\x00LO\x08\x00Siemens ")
    assert not is_own(path)
    assert [case.name for case in cases([str(path)])] == [path.stem]
    touch(tmp_path / "a_seg", "1.dcm", "liver.nii.gz")
    assert [is_own(tmp_path / "a_seg" / name) for name in ("1.dcm", "liver.nii.gz")] == [False, True]
