"""What a person named becomes scans to segment, and nothing else does."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from dicom_phantom import SHAPE, phantom, series
from runs import RECORD, touch

from segcli import formats
from segcli.batch.cases import Case, Given, cases, listed, shard, stem
from segcli.batch.outputs import Destination
from segcli.batch.selection import Selection
from segcli.errors import Denied, InputError, InputMissing, UsageError


def named(folder: Path, *more: object, **how: object) -> list[str]:
    return [c.name for c in cases([str(folder), *map(str, more)], **how)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.nii.gz", "a"),
        ("a.b.NII.GZ", "a.b"),
        ("a.mha", "a"),
        ("a.DCM", "a"),
        (".dcm", ".dcm"),
        (".nii.gz", ".nii.gz"),
        ("a", "a"),
    ],
)
def test_the_stem_is_the_name_without_its_known_ending(name, expected):
    assert stem(Path(name)) == expected


def test_a_folder_is_searched_through_and_its_relative_paths_are_kept(tmp_path):
    touch(tmp_path, "b.nii", "sub/a.nii.gz", "sub/deep/c.mha", "sub/notes.txt", ".hidden.nii", "._a.nii")
    assert named(tmp_path) == ["b", "sub/a", "sub/deep/c"]


def test_without_an_output_folder_the_outputs_lie_beside_the_scans_of_a_tree(tmp_path):
    touch(tmp_path, "b.nii", "sub/a.nii.gz")
    assert [c.beside / c.name for c in cases([str(tmp_path)])] == [tmp_path / "b", tmp_path / "sub" / "a"]


def test_a_bids_tree_keeps_its_folders_and_its_derivatives_are_no_input(tmp_path):
    touch(
        tmp_path,
        "dataset_description.json",
        "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-02/anat/sub-02_T1w.nii.gz",
        "derivatives/other/sub-01/anat/sub-01_T1w.nii.gz",
        "sub-01/anat/sub-01_desc-brain_mask.nii.gz",
        "sub-01/anat/sub-01_mod-T1w_defacemask.nii.gz",
        "sub-02/anat/sub-02_T1w_label-lesion_roi.nii.gz",
    )
    said: list[str] = []
    assert [c.name for c in cases([str(tmp_path)], tell=said.append)] == [
        "sub-01/anat/sub-01_T1w",
        "sub-02/anat/sub-02_T1w",
    ]
    left = "3 images are left out, by the name a label map, a mask or probabilities"
    assert said == [f"{left}: sub-01_desc-brain_mask.nii.gz ..."]


def test_what_a_bids_dataset_was_made_of_and_what_was_made_of_it_is_no_input_as_dicom_either(tmp_path):
    touch(tmp_path, "dataset_description.json", "sub-01/anat/sub-01_T1w.nii.gz", "sourcedata/sub-01_T1w.nii.gz")
    for number, where in enumerate(("sourcedata/sub-01/t1", "derivatives/other/sub-01")):
        series(tmp_path / where, uid=str(number))
    (tmp_path / "sourcedata" / "spoilt.dcm").write_bytes(bytes(128) + b"DICM")
    said: list[str] = []
    assert [c.name for c in cases([str(tmp_path)], tell=said.append)] == ["sub-01/anat/sub-01_T1w"]
    assert said == [f"{tmp_path.name}: sourcedata, of which the dataset was made, is left out"]
    (alone,) = cases([str(tmp_path / "sourcedata" / "sub-01")])
    assert alone.name.startswith("t1/series-")


def test_a_scan_of_a_bids_dataset_has_one_name_whether_the_dataset_the_subject_or_the_scan_was_named(tmp_path):
    scans = "sub-01/anat/sub-01_T1w.nii.gz", "sub-02/ses-1/pet/sub-02_ses-1_pet.nii.gz"
    touch(tmp_path, *(f"all/{name}" for name in scans), "all/sub-03/sub-03_T1w.nii.gz")
    kept = ["sub-01/anat/sub-01_T1w", "sub-02/ses-1/pet/sub-02_ses-1_pet"]
    root = tmp_path / "all"
    how = {"bids": True, "output": tmp_path / "out"}
    assert named(root, **how) == [*kept, "sub-03/sub-03_T1w"]
    assert named(root / scans[0], root / scans[1], **how) == kept
    assert named(root / "sub-*" / "**" / "*_*.nii.gz", **how) == [*kept, "sub-03_T1w"]
    assert named(root / "sub-01", root / "sub-02" / "ses-1", root / scans[0], **how) == kept  # one was named twice
    assert named(tmp_path, **how) == [f"all/{name}" for name in [*kept, "sub-03/sub-03_T1w"]]
    assert named(root / scans[0], output=tmp_path / "out") == ["sub-01_T1w"]
    found = cases([str(root / name) for name in scans], **how)
    assert [c.beside for c in found] == [root, root]


def test_a_pattern_names_what_it_matches(tmp_path):
    touch(tmp_path, "a1.nii", "a2.nii", "b1.nii", "sub/a3.nii")
    assert named(tmp_path / "a*.nii") == ["a1", "a2"]
    assert named(tmp_path / "**" / "a*.nii") == ["a1", "a2", "a3"]


def test_a_pattern_that_matches_nothing_is_told_and_costs_no_other(tmp_path):
    touch(tmp_path, "a1.nii", "a1_seg.nii.gz", "a1_seg.json")
    with pytest.raises(InputMissing, match="nothing matches the pattern"):
        named(tmp_path / "b*.nii")
    with pytest.raises(InputMissing, match="only outputs of segcli match"):
        named(tmp_path / "*_seg.nii.gz")
    found = cases([str(tmp_path / "a1.nii"), str(tmp_path / "b*.nii")])
    assert [(c.name, c.fault is None) for c in found] == [("a1", True), ("b*", False)]


def test_6_1_one_match_of_a_pattern_that_holds_no_scan_costs_no_other(tmp_path):
    touch(tmp_path, "p1/a.nii", "p3/b.nii")
    (tmp_path / "p2").mkdir()
    found = cases([str(tmp_path / "p*")])
    assert [(c.name, c.fault and c.fault.message) for c in found] == [
        ("a", None),
        ("p2", "p2: the folder is empty"),
        ("b", None),
    ]


def test_a_file_with_the_characters_of_a_pattern_is_itself(tmp_path):
    touch(tmp_path, "a[1].nii", "a1.nii")
    assert named(tmp_path / "a[1].nii") == ["a[1]"]


def test_2_9_own_outputs_and_temporary_files_are_never_inputs(tmp_path):
    from segcli.formats.atomic import partial_name

    touch(tmp_path, "a.nii.gz", "a_seg.nii.gz", "a_seg.json", "a_seg/liver.nii.gz", partial_name("a_seg.nii.gz"))
    touch(tmp_path, "out1/a_seg.nii.gz", "out1/a_seg.json", "out1/a_seg/liver.nii.gz", "out1/b_dseg.nii.gz")
    touch(tmp_path, "a_probseg.nii.gz", "a_disagreement.nii.gz")
    (tmp_path / "bids").mkdir()
    (tmp_path / "bids" / "a_seg-m_dseg.json").write_bytes(RECORD)
    touch(tmp_path, "bids/a_seg-m_dseg.nii.gz", "bids/a_seg-m_seg/liver.nii.gz", "bids/a_seg-m_probseg.nii.gz")
    assert named(tmp_path) == ["a"]
    assert named(tmp_path / "*.nii.gz") == ["a"]
    assert named(tmp_path, output=tmp_path) == ["a"]


def test_2_9_nothing_in_the_output_folder_is_an_input(tmp_path):
    touch(tmp_path, "a.nii.gz", "out/left_there.nii.gz")
    assert named(tmp_path, output=tmp_path / "out") == ["a"]
    (tmp_path / "link").symlink_to(tmp_path / "out")
    assert named(tmp_path, output=tmp_path / "link") == ["a"]


def test_2_9_an_output_that_is_named_as_a_scan_is_refused(tmp_path):
    touch(tmp_path, "a_seg.nii.gz", "a_seg.json")
    with pytest.raises(InputError, match=r"a_seg\.nii\.gz: is an output of segcli"):
        named(tmp_path / "a_seg.nii.gz")


def test_2_8_two_inputs_with_one_output_are_refused_by_name(tmp_path):
    touch(tmp_path, "a.nii", "a.nii.gz")
    with pytest.raises(UsageError, match=r"a\.nii and .*a\.nii\.gz would both be written as a_seg\.nii\.gz"):
        named(tmp_path)
    touch(tmp_path / "x", "s.nii")
    touch(tmp_path / "y", "s.nii")
    with pytest.raises(UsageError, match="both be written"):
        named(tmp_path / "x", tmp_path / "y", output=tmp_path / "out")
    assert named(tmp_path / "x", tmp_path / "y") == ["s", "s"]  # beside each input there is no clash
    with pytest.raises(UsageError) as refusal:
        named(tmp_path / "x" / "s.nii", tmp_path / "y" / "s.nii", output=tmp_path / "out")
    assert f"name the folder above both, {tmp_path}, " in (refusal.value.hint or "")


def test_two_inputs_that_are_not_there_are_told_as_that_and_not_as_one_output(tmp_path):
    touch(tmp_path, "b.nii")
    missing = [tmp_path / "x" / "a.nii", tmp_path / "y" / "a.nii"]
    found = cases([str(path) for path in (*missing, missing[0], tmp_path / "b.nii")], output=tmp_path / "out")
    assert [case.name for case in found] == ["a", "a", "b"]
    assert all("no such file" in str(case.fault) for case in found[:2])


def test_several_scans_into_one_file_are_refused_by_its_name(tmp_path):
    touch(tmp_path, "a.nii", "a.mha")
    given = Given((str(tmp_path / "a.nii"), str(tmp_path / "a.mha")), {})
    with pytest.raises(UsageError, match=r"^-o y\.nii\.gz is one label map, and there are 2 scans"):
        given.cases(["image"], Destination(file=Path("y.nii.gz")))


def test_a_broken_archive_that_is_named_and_lies_in_a_folder_too_is_one_case(tmp_path):
    broken = tmp_path / "in" / "day" / "broken.zip"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"PK\3\4" + bytes(100))
    for folder in (broken.parent, tmp_path / "in"):
        (case,) = cases([str(broken), str(folder)], select=Selection(series=("all",)))
        assert "corrupt or truncated archive" in case.fault.message


def test_the_same_input_twice_is_one_case(tmp_path):
    touch(tmp_path, "a.nii")
    assert named(tmp_path / "a.nii", tmp_path / "a.nii", tmp_path) == ["a"]


def test_a_scan_that_was_named_and_lies_in_a_folder_that_was_named_is_one_case_by_its_first_name(tmp_path):
    series(tmp_path / "dicom")
    (tmp_path / "all" / "sub").mkdir(parents=True)
    shutil.make_archive(str(tmp_path / "all" / "sub" / "b"), "zip", tmp_path / "dicom")
    touch(tmp_path, "all/sub/a.nii")
    (tmp_path / "all" / "sub" / "c.zip").write_bytes(b"PK")
    folder, alone = tmp_path / "all", [tmp_path / "all" / "sub" / name for name in ("a.nii", "b.zip")]
    assert named(folder, *alone, output=tmp_path / "out") == ["sub/a", "sub/b", "sub/c"]
    assert named(*alone, folder, output=tmp_path / "out") == ["a", "b", "sub/c"]


def test_an_archive_of_a_tree_that_is_cut_short_within_its_first_bytes_is_not_passed_over(tmp_path):
    touch(tmp_path, "a.nii")
    for name, content in (("b.zip", b"PK"), ("c.tar.gz", b""), ("d.zip", b"version https://git-lfs")):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "e.zip").write_bytes(b"PK\x05\x06" + bytes(18))  # of nothing, which is no DICOM
    scan, *lost = cases([str(tmp_path)])
    assert scan.fault is None
    assert [case.fault.message.split(":")[0] for case in lost] == ["b.zip", "c.tar.gz", "d.zip"]
    assert lost[0].fault.message == "b.zip: has the name of an archive, and its first bytes are those of none"


def test_an_archive_of_a_data_set_that_was_not_fetched_is_told_as_a_scan_that_was_not(tmp_path):
    touch(tmp_path, "a.nii")
    (tmp_path / "b.zip").symlink_to(".git/annex/objects/1/b.zip")
    _, lost = cases([str(tmp_path)])
    assert lost.fault.message == "b.zip: a broken link: what it points to does not exist"
    assert "datalad get" in lost.fault.hint


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_from_before_ustar_stood_in_its_headers_is_an_archive(tmp_path, mode):
    """As `tar --format=v7` writes it; its first bytes were said to be those of no archive."""
    series(tmp_path / "dicom")
    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in" / "b.tar", mode, format=tarfile.USTAR_FORMAT) as archive:
        for file in sorted((tmp_path / "dicom").iterdir()):
            member, content = archive.gettarinfo(file, file.name), file.read_bytes()
            head = bytearray(member.tobuf(tarfile.USTAR_FORMAT))
            head[148:156], head[257:265] = b" " * 8, bytes(8)
            head[148:156] = b"%06o\0 " % sum(head)
            archive.fileobj.write(bytes(head) + content + bytes(-len(content) % 512))
            archive.offset = archive.fileobj.tell()
    touch(tmp_path, "in/a.nii")
    _, packed = cases([str(tmp_path / "in")])
    assert (packed.name, packed.fault) == ("b", None)
    assert formats.read(packed.paths).grid.shape == phantom().shape


def test_dicom_in_a_tree_is_in_the_order_of_its_folders_whatever_numbers_and_uids_it_has(tmp_path):
    for where, number in (("b", 1), ("a", 2), ("c/x", 3), ("c", 4)):
        series(tmp_path / where, uid=str(number), SeriesNumber=number)
    names = [name.rpartition("/")[0] for name in named(tmp_path)]
    assert names == ["a", "b", "c", "c/x"]


@pytest.mark.parametrize("dicom", [False, True])
@pytest.mark.parametrize("fails", [1, 2, 3, 99])
def test_a_folder_that_a_network_drive_could_not_list_once_is_told_and_costs_no_other(
    tmp_path, monkeypatch, dicom, fails
):
    """Its scans were left out without a word where a second listing succeeded."""
    touch(tmp_path, "a.nii", "sub/b.nii")
    if dicom:
        series(tmp_path / "ct")
    listing, asked = os.scandir, []

    def scandir(folder):
        if os.fspath(folder) == str(tmp_path / "sub"):
            asked.append(folder)
            if fails in (len(asked), 99):
                raise OSError(errno.EIO, "Input/output error", str(folder))
        return listing(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    found = cases([str(tmp_path)])
    (lost,) = [case.fault for case in found if case.fault is not None]
    assert lost.message == "sub: the folder cannot be read: Input/output error"
    assert sum(case.fault is None for case in found) == 1 + dicom + (fails in (2, 3))


def test_a_list_may_come_through_a_shells_pipe_that_is_open_already(tmp_path):
    touch(tmp_path, "a.nii")
    reading, writing = os.pipe()
    os.write(writing, f"{tmp_path / 'a.nii'}\n".encode())
    os.close(writing)
    assert [c.name for c in Given((), {}, f"/dev/fd/{reading}").cases(("image",), Destination())] == ["a"]
    os.close(reading)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputMissing, match="pipe: cannot be read: not a regular file"):
        Given((), {}, str(tmp_path / "pipe")).cases(("image",), Destination())


@pytest.mark.parametrize("names", [["a.nii"], ["a.nii", "b.nii"]])
@pytest.mark.parametrize(
    ("end", "null", "hint"), [("\0", False, "-0 reads such a list"), ("\n", True, "without -0 each line is a name")]
)
def test_a_list_that_is_read_in_the_other_way_is_told(names, end, null, hint):
    with pytest.raises(InputError) as refused:
        listed("".join(name + end for name in names).encode(), null)
    assert refused.value.hint.startswith(hint)


@pytest.mark.parametrize("listed_as", ['"{}"', " {}", "{} ", "'{}'"])
def test_of_a_name_in_quotes_or_spaces_it_is_told_that_the_file_is_there_without_them(tmp_path, listed_as):
    touch(tmp_path, "a.nii")
    with pytest.raises(InputMissing, match="no such file") as missing:
        cases([listed_as.format(tmp_path / "a.nii")])
    assert missing.value.hint == "there is such a file without the spaces or quotation marks around the name"


def test_a_series_that_an_earlier_run_called_as_its_archive_is_told_to_be_there_twice(tmp_path):
    """A second series has come: the first one's result has another name now, and would be in the tables twice."""
    for uid in "ab":
        series(tmp_path / "in" / uid, uid=uid)
    archive = shutil.make_archive(str(tmp_path / "x"), "zip", tmp_path / "in")
    said: list[str] = []
    first, _ = named(archive, output=tmp_path / "out", tell=said.append)
    assert not said
    (tmp_path / "out").mkdir()
    content = {"segcli_record": 1, "source": {"series": first.removeprefix("x/")}}
    (tmp_path / "out" / "x_seg.json").write_text(json.dumps(content))
    named(archive, output=tmp_path / "out", tell=said.append)
    (told,) = said
    assert told.startswith(f"{first}: was labelled as x when no other series was there")


def test_the_same_input_spelt_in_two_ways_is_one_case(tmp_path, monkeypatch):
    touch(tmp_path, "a.nii")
    monkeypatch.chdir(tmp_path)
    assert len(cases(["a.nii", str(tmp_path / "a.nii")], output=tmp_path / "out")) == 1


def test_3_15_a_scan_whose_name_is_no_text_is_refused_and_costs_no_other(tmp_path):
    for name in (b"a.nii", b"caf\xe9.nii", b"\xe9/b.nii"):
        touch(tmp_path, os.fsdecode(name))
    found = cases([str(tmp_path)])
    assert [c.fault is None for c in found] == [True, False, False]
    for case, shown in zip(found[1:], (r"caf\xe9.nii", r"\xe9/b"), strict=True):
        assert case.fault.message.startswith(f"{case.paths[0].name}: the name is not UTF-8 ({shown})")


@pytest.mark.skipif(sys.platform != "linux", reason="names are read in one way there")
def test_3_15_a_name_that_python_reads_in_another_encoding_is_not_called_wrong(tmp_path):
    touch(tmp_path, "größe.nii")
    code = "from segcli.batch.cases import cases\nprint(ascii(str(cases(['.'])[0].fault)))"
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=tmp_path, env={**os.environ, **plain}, capture_output=True, text=True, check=True)
    assert r"the name is UTF-8 (gr\xf6\xdfe.nii), and Python reads names as " in done.stdout
    assert "(set LC_ALL=C.UTF-8, or PYTHONUTF8=1)" in done.stdout


@pytest.mark.parametrize("name", [".nii.gz", ".MHA", "..nii.gz", "...nii.gz", "....nrrd"])
def test_3_15_a_scan_whose_name_is_all_ending_is_refused(tmp_path, name):
    touch(tmp_path, name, "a.nii")
    (first, other) = cases([str(tmp_path / name), str(tmp_path / "a.nii")], output=tmp_path / "out")
    assert f"{name}: the name is all ending" in first.fault.message
    assert first.fault.exit_code == 65
    assert other.fault is None


def test_1_2_a_folder_without_images_is_missing_input_and_says_what_was_seen(tmp_path):
    touch(tmp_path, "a.txt", "b.txt", "c.pdf")
    with pytest.raises(InputMissing, match=r"no images in the folder: 2 x \.txt, 1 x \.pdf"):
        named(tmp_path)


@pytest.mark.parametrize("name", ["absent.nii", "broken.nii"])
def test_1_1_what_is_not_there_is_missing_input(tmp_path, name):
    (tmp_path / "broken.nii").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputMissing, match=name):
        named(tmp_path / name)


def test_6_1_of_several_inputs_one_that_is_missing_is_a_case_of_its_own(tmp_path):
    touch(tmp_path, "a.nii", "empty/readme.txt")
    found = cases([str(tmp_path / n) for n in ("a.nii", "absent.nii", "empty")])
    assert [(c.name, type(c.fault)) for c in found] == [
        ("a", type(None)),
        ("absent", InputMissing),
        ("empty", InputMissing),
    ]


def test_6_1_a_file_that_cannot_be_placed_costs_its_own_folder_only(tmp_path):
    for name in ("p1", "p2"):
        series(tmp_path / name, uid=name)
    (tmp_path / "p2" / "spoilt.dcm").write_bytes(bytes(2000))
    (tmp_path / "p3").mkdir()
    (tmp_path / "p3" / "spoilt.dcm").write_bytes(bytes(2000))
    (tmp_path / "zeros.nii").write_bytes(bytes(2000))
    found = {c.name: c for c in cases([str(tmp_path)])}
    whole, spoilt = (next(n for n in found if n.startswith(f"{p}/series-")) for p in ("p1", "p2"))
    assert set(found) == {whole, spoilt, "p3/spoilt", "zeros"}
    assert "which series" in found["p3/spoilt"].fault.message
    assert formats.read(found[whole].paths, series=found[whole].series).grid.shape == SHAPE
    with pytest.raises(InputError, match=r"spoilt.dcm: corrupt"):
        formats.read(found[spoilt].paths, series=found[spoilt].series)


def test_channels_are_grouped_by_their_numbers_and_a_missing_one_costs_its_case_only(tmp_path):
    touch(tmp_path, "p1_0000.nii", "p1_0001.nii", "p2_0000.nii")
    whole, half = cases([str(tmp_path)], ("T1", "T2"))
    assert [p.name for p in whole.paths] == ["p1_0000.nii", "p1_0001.nii"]
    assert half.fault is not None
    assert "p2: the channel _0001 (T2) is missing" in half.fault.message


def test_channels_that_are_there_twice_or_that_the_model_has_not_are_refused(tmp_path):
    touch(tmp_path, "p1_0000.nii", "p1_0000.nii.gz", "p1_0001.nii", *(f"p2_000{i}.nii" for i in range(3)))
    twice, more = cases([str(tmp_path)], ("T1", "T2"))
    assert "p1: p1_0000.nii and p1_0000.nii.gz are both the channel _0000" in twice.fault.message
    assert "p2: there is a channel _0002, and the model has 2: T1, T2" in more.fault.message


def test_the_series_and_volume_that_were_asked_for_are_every_cases(tmp_path):
    touch(tmp_path, "a.nii", "in/b.nii")
    asked = cases(
        [str(tmp_path / "in")],
        named={"CT": str(tmp_path / "a.nii")},
        channels=["CT"],
        select=Selection(series=("3",)),
        volume=2,
    )
    assert [(c.name, c.series, c.volume) for c in asked] == [("a", "3", 2), ("b", "3", 2)]


def test_with_one_channel_the_number_is_part_of_the_name(tmp_path):
    touch(tmp_path, "p1_0000.nii")
    assert named(tmp_path) == ["p1_0000"]


@pytest.fixture
def shut(monkeypatch):
    """Takes the permission to look into a folder away, also from root: to list it, or to reach its files."""
    lists, reaches = os.scandir, os.access

    def take(folder: Path, what: str) -> None:
        def scandir(path):
            if what == "list" and Path(path) == folder:
                raise PermissionError(13, "Permission denied", str(path))
            return lists(path)

        monkeypatch.setattr(os, "scandir", scandir)
        monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder and reaches(path, mode))

    return take


@pytest.mark.parametrize("what", ["list", "reach"])
def test_1_1_a_folder_that_may_not_be_read_is_denied_by_name(tmp_path, shut, what):
    touch(tmp_path, "in/a.nii", "b.nii")
    shut(tmp_path / "in", what)
    with pytest.raises(Denied, match="in: cannot be read: permission denied"):
        cases([str(tmp_path / "in")])
    denied, other = cases([str(tmp_path / "in"), str(tmp_path / "b.nii")])
    assert (type(denied.fault), other.fault) == (Denied, None)


@pytest.mark.parametrize("what", ["list", "reach"])
def test_6_1_a_folder_of_a_tree_that_may_not_be_read_is_a_case_of_its_own(tmp_path, shut, what):
    touch(tmp_path, "a.nii", "p1/b.nii")
    shut(tmp_path / "p1", what)
    assert [(c.name, type(c.fault)) for c in cases([str(tmp_path)])] == [("a", type(None)), ("p1", Denied)]


def test_1_1_a_file_that_cannot_be_asked_about_is_denied_and_not_missing(tmp_path, monkeypatch):
    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    touch(tmp_path, "a.nii")
    monkeypatch.setattr(Path, "lstat", denied)
    with pytest.raises(Denied, match=r"a\.nii: cannot be read"):
        cases([str(tmp_path / "a.nii")])


def test_1_7_a_loop_of_links_among_folders_ends(tmp_path):
    touch(tmp_path, "sub/a.nii")
    (tmp_path / "sub" / "round").symlink_to(tmp_path)
    assert named(tmp_path) == ["sub/a"]


def test_a_folder_that_is_linked_in_is_part_of_the_data_set_once(tmp_path):
    touch(tmp_path, "data/sub-01/a.nii", "store/sub-02/b.nii")
    (tmp_path / "data" / "sub-02").symlink_to("../store/sub-02")
    (tmp_path / "data" / "sub-03").symlink_to("../store/sub-02")
    (tmp_path / "data" / "first").symlink_to("sub-01")
    (tmp_path / "data" / "up").symlink_to("..")
    assert named(tmp_path / "data") == ["sub-01/a", "sub-02/b"]


def test_hidden_folders_hold_copies_of_other_programs_and_are_told_and_not_searched(tmp_path):
    """The copies of Jupyter and of a trash were scans of their own, and each file of a DataLad dataset was two."""
    copies = ".ipynb_checkpoints/a-checkpoint.nii", ".Trash-1000/files/a.nii", "sub/.git/annex/objects/b.nii"
    touch(tmp_path, "a.nii", *copies, ".store/c/d.nii")
    (tmp_path / "sub" / "b.nii").symlink_to(tmp_path / copies[-1])
    (tmp_path / "c").symlink_to(tmp_path / ".store" / "c")
    said: list[str] = []
    assert named(tmp_path, tell=said.append) == ["a", "c/d", "sub/b"]
    assert said == [
        f"{tmp_path.name}: hidden folders are not searched: .Trash-1000, .ipynb_checkpoints, .store ...",
    ]
    assert named(tmp_path / ".store") == ["c/d"]


def test_a_folder_that_is_named_by_dots_is_told_by_its_name_and_its_output_folder_is_not_told(tmp_path, monkeypatch):
    touch(tmp_path, "scans/a.nii", "scans/.git/a.nii", "scans/.out/a_seg.nii.gz", "none/b.txt", "none/c/d.txt")
    for here, name in (("scans", "."), ("none", "../scans"), ("none/c", "../../scans"), ("scans/.git", "..")):
        monkeypatch.chdir(tmp_path / here)
        said: list[str] = []
        assert named(name, output=Path(name, ".out"), tell=said.append) == ["a"]
        assert said == ["scans: hidden folders are not searched: .git"]
    for here, name in (("none", "."), ("none/c", "..")):
        monkeypatch.chdir(tmp_path / here)
        with pytest.raises(InputMissing, match=r"^none: no images in the folder"):
            named(name)


def test_a_dicom_folder_with_a_hidden_folder_in_it_is_one_scan_of_its_own_name(tmp_path):
    series(tmp_path / "ct")
    series(tmp_path / "ct" / ".ipynb_checkpoints")
    (found,) = cases([str(tmp_path / "ct")])
    assert found.name == "ct"
    assert len(formats.read(found.paths).source.paths) == SHAPE[0]


def test_a_dicom_series_in_a_linked_folder_is_found(tmp_path):
    series(tmp_path / "tree" / "one")
    series(tmp_path / "store" / "two", uid="1.2.3.4")
    (tmp_path / "tree" / "two").symlink_to(tmp_path / "store" / "two")
    found = cases([str(tmp_path / "tree")])
    assert sorted(path.name for c in found for path in c.paths) == ["one", "two"]


def test_2_8_a_dicom_folder_is_called_by_the_link_that_names_it_and_its_outputs_lie_beside_the_link(tmp_path):
    for patient in ("P1", "P2"):
        series(tmp_path / "store" / patient / "SE1", uid=patient)
        (tmp_path / patient).symlink_to(tmp_path / "store" / patient / "SE1")
    found = cases([str(tmp_path / "P1"), str(tmp_path / "P2")], output=tmp_path / "out")
    assert [(c.name, c.beside) for c in found] == [("P1", tmp_path), ("P2", tmp_path)]


def test_a_dicom_folder_that_is_named_by_a_dot_has_its_own_name(tmp_path, monkeypatch):
    monkeypatch.chdir(series(tmp_path / "ct"))
    assert [(c.name, c.beside) for c in cases(["."])] == [("ct", tmp_path)]


def test_4_7_a_series_of_a_tree_is_chosen_as_in_a_flat_folder(tmp_path):
    for number in (3, 4):
        series(tmp_path / f"p{number}", uid=str(number), SeriesNumber=number)
    for wanted in ("3", "003"):
        (found,) = cases([str(tmp_path)], select=Selection(series=(wanted,)))
        assert found.name.startswith("p3/series-003-")
    with pytest.raises(InputError, match="no series called 99") as refused:
        cases([str(tmp_path)], select=Selection(series=("99",)))
    assert re.fullmatch("choose one: 3 .*--series series-003-.*; 4 .*--series series-004-.*", refused.value.hint)


@pytest.mark.parametrize(
    ("data", "null", "expected"),
    [
        (b"a.nii\r\n\n b c.nii\n", False, ["a.nii", " b c.nii"]),
        (b"a\nb.nii\0c.nii\0", True, ["a\nb.nii", "c.nii"]),
        (b"", False, []),
        (b"\xef\xbb\xbfa.nii\n", False, ["a.nii"]),
    ],
)
def test_a_list_has_one_name_a_line_or_between_nuls(data, null, expected):
    assert listed(data, null) == expected


@pytest.mark.parametrize("count", [1, 3, 7, 20])
def test_shards_are_disjoint_and_hold_every_case(count):
    every = [Case(f"{i}", (Path(f"{i}"),), Path()) for i in range(10)]
    parts = [shard(every, f"{i}/{count}") for i in range(1, count + 1)]
    assert sorted(c.name for part in parts for c in part) == [c.name for c in every]


def test_a_job_array_gives_its_part(monkeypatch):
    every = [Case(f"{i}", (Path(f"{i}"),), Path()) for i in range(10)]
    monkeypatch.setenv("SLURM_ARRAY_TASK_MIN", "5")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "6")
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "4")
    assert [c.name for c in shard(every, "slurm")] == ["1", "5", "9"]


def test_a_job_array_with_a_step_gives_its_parts(monkeypatch):
    every = [Case(f"{i}", (Path(f"{i}"),), Path()) for i in range(4)]
    for name, value in (("MIN", "1"), ("MAX", "3"), ("STEP", "2"), ("COUNT", "2"), ("ID", "3")):
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    assert [c.name for c in shard(every, "slurm")] == ["1", "3"]


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({}, "SLURM_ARRAY_TASK_ID is not set"),
        ({"COUNT": "4"}, "SLURM_ARRAY_TASK_ID is not set"),
        ({"ID": "1"}, "SLURM_ARRAY_TASK_COUNT is not set"),
        ({"ID": "1", "COUNT": "four"}, "SLURM_ARRAY_TASK_COUNT is no number: 'four'"),
        ({"ID": "1", "COUNT": "4", "MIN": ""}, "SLURM_ARRAY_TASK_MIN is no number: ''"),
    ],
)
def test_of_a_job_array_the_variable_is_named_that_is_not_set_or_no_number(variables, told, monkeypatch):
    """It was said of ID and COUNT that both are not set, whatever was."""
    for name in ("ID", "COUNT", "MIN", "STEP"):
        monkeypatch.delenv(f"SLURM_ARRAY_TASK_{name}", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    with pytest.raises(UsageError) as refused:
        shard([], "slurm")
    assert refused.value.message == f"--shard slurm: {told}"


def test_of_a_slurm_array_with_gaps_it_is_said_how_its_parts_are_named(monkeypatch):
    for name, value in {"MIN": "1", "ID": "7", "COUNT": "3", "STEP": "1"}.items():  # --array=1,3,7
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{name}", value)
    with pytest.raises(UsageError, match="the part 7 is not among 1 to 3") as found:
        shard([], "slurm")
    assert "with gaps" in str(found.value.hint)


@pytest.mark.parametrize("part", ["0/3", "4/3", "1/0", "a", "1/3/5", "slurm"])
def test_a_part_that_there_is_not_is_a_usage_error(part, monkeypatch):
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID", raising=False)
    with pytest.raises(UsageError, match="--shard"):
        shard([], part)


def test_a_list_has_no_comments_and_a_line_that_looks_like_one_is_refused_with_that(tmp_path):
    (tmp_path / "list").write_text("# the second visit\n#1.nii\n")
    given = Given(tuple(listed((tmp_path / "list").read_bytes(), null=False)), {})
    (tmp_path / "#1.nii").touch()
    with pytest.MonkeyPatch.context() as here:
        here.chdir(tmp_path)
        comment, named = given.cases(("image",), Destination())
    assert comment.fault.hint == "check the name; a list has no comments: each of its lines is an input"
    assert (named.name, named.fault) == ("#1", None)


def test_a_name_that_no_file_can_have_is_refused_as_that():
    with pytest.raises(InputError, match=r"not a file name: .*embedded null"):
        cases(["a.nii\0b"])


def test_an_address_is_no_missing_file() -> None:
    with pytest.raises(InputMissing) as refused:
        cases(["https://archive/studies/1"])
    assert refused.value.hint.startswith("an address is no file")
