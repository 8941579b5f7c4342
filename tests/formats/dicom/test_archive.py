"""Archives of DICOM and the index of a medium are read where they lie, safely, as the folder that was packed."""

from __future__ import annotations

import gc
import gzip
import os
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_phantom import affine, phantom, series
from pydicom.fileset import FileSet
from runs import command

from segcli import formats
from segcli.batch.cases import cases
from segcli.batch.selection import Selection
from segcli.errors import Denied, InputError, InputMissing, OutOfMemory
from segcli.formats.dicom import archive, search
from segcli.formats.dicom import series as dicom
from segcli.formats.dicom.identifiers import identifiers

REPORT = "1.2.840.10008.5.1.4.1.1.88.33"
FORMS = {".zip": "zip", ".tar": "tar", ".tar.gz": "gztar"}


def packed(folder: Path, ending: str) -> Path:
    """A folder as an archive beside it."""
    made = Path(shutil.make_archive(str(folder), FORMS[ending], folder))
    return made.rename(folder.with_name(f"{folder.name}{ending}"))


def study(folder: Path) -> Path:
    """Two series in folders of their own, and a report among them, as an archive sends it."""
    series(folder / "DOE JANE" / "CT one", uid="one", SeriesNumber=1)
    series(folder / "DOE JANE" / "CT two", phantom() + 7, uid="two", SeriesNumber=2)
    series(
        folder / "DOE JANE" / "SR", phantom()[:1], uid="sr", Modality="SR", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.33"
    )
    return folder


@pytest.mark.parametrize("ending", FORMS)
def test_an_archive_of_a_series_is_read_as_its_folder_is(tmp_path: Path, ending: str) -> None:
    file = packed(series(tmp_path / "in" / "ct"), ending)
    for scan in (dicom.read(file), formats.read([file])):
        np.testing.assert_array_equal(scan.data[0], phantom())
        np.testing.assert_allclose(scan.grid.affine, affine(), atol=1e-6)
        assert scan.source is not None
        assert scan.source.paths == (file,)
        assert identifiers(scan.source)["PatientID"] == "CANARY^PATIENT-ID"
    (case,) = cases([str(file)])
    assert (case.name, case.paths, case.beside) == ("ct", (file,), tmp_path / "in")


@pytest.mark.parametrize("ending", FORMS)
def test_what_a_member_of_an_archive_is_is_not_remembered(tmp_path: Path, ending: str) -> None:
    """It would keep the archive open, and what was unpacked of it on the disk, until the process ends."""
    file = packed(series(tmp_path / "ct"), ending)
    os.utime(file, (1e9, 1e9))
    known = search._kind.cache_info().currsize
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "_SETTLED", -(1 << 62))  # as if the archive lay there for long
        np.testing.assert_array_equal(dicom.read(file).data[0], phantom())
    assert search._kind.cache_info().currsize == known


def test_compressed_pixels_in_an_archive_are_decoded(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct")
    for path in folder.iterdir():
        ds = pydicom.dcmread(path)
        ds.compress(pydicom.uid.RLELossless)
        ds.save_as(path)
    np.testing.assert_array_equal(dicom.read(packed(folder, ".zip")).data[0], phantom())


@pytest.mark.parametrize("ending", FORMS)
def test_each_series_of_an_archived_study_is_a_case_without_the_folders_names(tmp_path: Path, ending: str) -> None:
    file = packed(study(tmp_path / "in" / "study"), ending)
    said: list[str] = []
    one, two = cases([str(file)], tell=said.append)
    assert one.name.startswith("study/series-001-")
    assert two.name.startswith("study/series-002-")
    assert "DOE" not in f"{one.name} {two.name} {said}"
    assert any("a report" in line for line in said)
    scan = formats.read(two.paths, series=two.series)
    np.testing.assert_array_equal(scan.data[0], phantom() + 7)


@pytest.mark.parametrize("ending", FORMS)
def test_hidden_folders_in_an_archive_are_told_and_not_searched_as_those_of_a_folder(
    tmp_path: Path, ending: str
) -> None:
    folder = study(tmp_path / "in" / "study")
    shutil.copytree(folder, folder / ".Trash-1000" / "files")
    said: list[str] = []
    found = cases([str(packed(folder, ending))], tell=said.append)
    assert len(found) == 2
    assert [line for line in said if "hidden" in line] == [
        f"study{ending}: hidden folders are not searched: .Trash-1000"
    ]


def test_an_archive_of_hidden_folders_alone_is_refused_and_not_passed_over(tmp_path: Path) -> None:
    series(tmp_path / "in" / "study" / ".store" / "ct")
    file = packed(tmp_path / "in" / "study", ".zip")
    shutil.rmtree(tmp_path / "in" / "study")
    with pytest.raises(InputMissing, match=r"study\.zip: no images in it, outside hidden folders"):
        cases([str(file)])
    with pytest.raises(InputMissing, match=r"study\.zip: no file in it, outside hidden folders"):
        dicom.read(file)
    (case,) = cases([str(tmp_path / "in")])
    assert "outside hidden folders" in str(case.fault)


def test_archives_in_a_tree_are_cases_beside_its_images(tmp_path: Path) -> None:
    packed(series(tmp_path / "in" / "p1" / "ct"), ".zip")
    shutil.rmtree(tmp_path / "in" / "p1" / "ct")
    (tmp_path / "in" / "a.nii").touch()
    with zipfile.ZipFile(tmp_path / "in" / "notes.zip", "w") as other:
        other.writestr("notes.txt", "nothing")
    (tmp_path / "in" / "broken.zip").write_bytes(b"PK\3\4" + bytes(100))
    found = {case.name: case.fault for case in cases([str(tmp_path / "in")])}
    assert set(found) == {"a", "p1/ct", "broken"}
    assert "corrupt or truncated archive" in str(found["broken"])


def test_6_1_an_archive_that_may_not_be_read_costs_no_other_case(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.nii").touch()
    for name in ("shut", "large"):
        packed(series(tmp_path / name), ".zip").rename(folder / f"{name}.zip")
    whole = archive.streams.head

    def head(path: Path, count: int) -> bytes:
        if path.name == "shut.zip":
            raise Denied("shut.zip: permission denied")
        return whole(path, count)

    monkeypatch.setattr(archive.streams, "head", head)
    monkeypatch.setattr(archive.memory, "available", lambda: 100)
    found = {case.name: case.fault for case in cases([str(folder)])}
    assert found["a"] is None
    assert "permission denied" in str(found["shut"])
    assert any(name.startswith("large") and isinstance(fault, OutOfMemory) for name, fault in found.items())


def test_an_archive_leaves_nothing_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    for ending in FORMS:
        dicom.read(packed(series(tmp_path / f"ct{ending[-2:]}"), ending))
        archive._listed.cache_clear()
        assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize("signal", [None, "SIGKILL"])
def test_2_2_a_packed_tar_leaves_nothing_behind_however_the_process_ends(tmp_path: Path, signal: str | None) -> None:
    """The command ends at once when it is done, without what Python runs at its end."""
    file, temporary = packed(series(tmp_path / "ct"), ".tar.gz"), tmp_path / "tmp"
    temporary.mkdir()
    if signal is None:
        assert command("info", file, env={"TMPDIR": str(temporary)}).returncode == 0
    else:
        read = f"from segcli.formats.dicom import series; from pathlib import Path; series.read(Path({str(file)!r}))"
        program = f"import os, signal; {read}; os.kill(os.getpid(), signal.{signal})"
        subprocess.run([sys.executable, "-c", program], env={**os.environ, "TMPDIR": str(temporary)}, check=False)
    assert list(temporary.iterdir()) == []


def test_paths_and_links_of_an_archive_lead_nowhere(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct")
    with tarfile.open(tmp_path / "evil.tar", "w") as evil:
        for n, path in enumerate(sorted(folder.iterdir())):
            evil.add(path, f"../../{n}/etc/{path.name}")
        link = tarfile.TarInfo("hosts")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hosts"
        evil.addfile(link)
    scan = dicom.read(tmp_path / "evil.tar")
    np.testing.assert_array_equal(scan.data[0], phantom())
    assert scan.source is not None
    assert scan.source.facts is not None
    assert scan.source.facts["unused"] == [{"file": "evil.tar (inside: hosts)", "reason": "not found"}]
    assert {p.name for p in tmp_path.iterdir()} == {"ct", "evil.tar"}


def test_an_archive_that_is_cut_short_or_damaged_is_refused(tmp_path: Path) -> None:
    folder = series(tmp_path / "ct")
    for ending in FORMS:
        file = packed(folder, ending)
        data = file.read_bytes()
        file.write_bytes(data[: len(data) // 2])
        with pytest.raises(InputError, match=r"corrupt|truncated"):
            cases([str(file)])
    file = tmp_path / "stored.zip"
    with zipfile.ZipFile(file, "w") as stored:
        for path in sorted(folder.iterdir()):
            stored.write(path, path.name)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1  # one bit of a voxel or a header
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"stored\.zip: corrupt: a-\d+.dcm in it is damaged"):
        dicom.read(file)


def test_4_12_a_zip_whose_list_of_files_is_damaged_is_not_taken_for_shorter(tmp_path: Path) -> None:
    file = packed(series(tmp_path / "ct"), ".zip")
    data = bytearray(file.read_bytes())
    end = data.rindex(b"PK\5\6")
    first = data.index(b"PK\1\2")
    second = data.index(b"PK\1\2", first + 1)
    (length,) = struct.unpack_from("<I", data, end + 12)
    struct.pack_into("<I", data, end + 12, length - (second - first))  # as if the list began at its second entry
    file.write_bytes(data)
    with pytest.raises(InputError, match="its list of files has not as many as it should"):
        dicom.read(file)


def test_4_12_a_slice_of_a_zip_that_is_marked_as_a_link_is_not_left_out(tmp_path: Path) -> None:
    file = packed(series(tmp_path / "ct"), ".zip")
    data = bytearray(file.read_bytes())
    struct.pack_into("<I", data, data.rindex(b"a-005.dcm") - 8, 0xA1FF0000)  # attributes in the list of files
    file.write_bytes(data)
    with pytest.raises(
        InputError, match=r"inside: a-005\.dcm\): not found, and called as the slices are: the series may"
    ):
        dicom.read(file)


def test_4_12_an_entry_of_a_zip_without_a_name_is_refused(tmp_path: Path) -> None:
    data = zipped(tmp_path / "a.zip")
    struct.pack_into("<H", data, data.rindex(b"PK\1\2") + 28, 0)
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(InputError, match=r"a\.zip: corrupt or truncated archive"):
        archive.members(tmp_path / "a.zip")


@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
def test_4_12_a_tar_that_is_cut_between_two_entries_is_not_taken_for_shorter(tmp_path: Path, ending: str) -> None:
    with tarfile.open(packed(series(tmp_path / "ct"), ".tar")) as whole:
        end = whole.getmembers()[-1].offset  # where the last slice begins
    data = (tmp_path / "ct.tar").read_bytes()[:end]
    file = tmp_path / f"cut{ending}"
    file.write_bytes(gzip.compress(data) if ending == ".tar.gz" else data)
    with pytest.raises(InputError, match=r"truncated: the block that ends an archive does not follow a-\d+\.dcm"):
        dicom.read(file)


def zipped(path: Path, content: bytes = b"DICM".rjust(132, b"\0") + bytes(2000)) -> bytearray:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.dcm", content)
    return bytearray(path.read_bytes())


def test_what_an_archive_announces_beyond_what_it_can_hold_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "bomb.zip"
    data = zipped(file)
    central = data.index(b"PK\1\2")
    data[central + 24 : central + 28] = struct.pack("<I", 1 << 31)
    file.write_bytes(data)
    with pytest.raises(InputError, match="announces more than it can hold"):
        archive.members(file)
    with zipfile.ZipFile(file, "w") as twice:
        twice.writestr("a", bytes(1000))
    data = bytearray(file.read_bytes())
    central, end = data.index(b"PK\1\2"), data.index(b"PK\5\6")
    entry = data[central:end]
    data[central:end] = entry * 9  # nine entries that are one
    data[-14:-6] = struct.pack("<HHI", 9, 9, len(entry) * 9)
    file.write_bytes(data)
    with pytest.raises(InputError, match="its entries overlap"):
        archive.members(file)


def test_a_member_that_needs_more_memory_than_there_is_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zipped(tmp_path / "a.zip")
    (member,), _ = archive.members(tmp_path / "a.zip")
    monkeypatch.setattr(archive.memory, "available", lambda: 1000)
    with pytest.raises(OutOfMemory, match=r"a.dcm: its .* need more memory"):
        member.read()


def test_an_encrypted_archive_is_told_as_one(tmp_path: Path) -> None:
    data = zipped(tmp_path / "a.zip")
    central = data.index(b"PK\1\2")
    data[central + 8] |= 1
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(InputError, match=r"a.zip: is encrypted"):
        cases([str(tmp_path / "a.zip")])


def test_an_archive_of_other_things_is_no_scan(tmp_path: Path) -> None:
    zipped(tmp_path / "a.zip", b"text" * 100)
    with pytest.raises(InputError, match="a zip archive: unpack it first"):
        formats.read([tmp_path / "a.zip"])


def medium(folder: Path) -> Path:
    """A study as it is on a disc, with an index; the path of that."""
    files = FileSet()
    for path in sorted(study(folder / "source").rglob("*.dcm")):
        ds = pydicom.dcmread(path)
        if ds.Modality != "SR":
            files.add(ds)
    files.write(folder / "disc")
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):
        del files  # which leaves the folder that it wrote to first to the collector
        gc.collect()
    return folder / "disc" / "DICOMDIR"


def test_4_13_the_files_that_an_index_names_are_the_scans(tmp_path: Path) -> None:
    index = medium(tmp_path)
    one, two = cases([str(index)])
    assert one.name.startswith("disc/series-001-")
    np.testing.assert_array_equal(formats.read(two.paths, series=two.series).data[0], phantom() + 7)
    np.testing.assert_array_equal(dicom.read(index, series="1").data[0], phantom())
    (chosen,) = cases([str(index)], select=Selection(series=("2",)))
    assert chosen.name == two.name


def test_4_13_an_index_that_names_what_is_not_below_its_folder_is_refused(tmp_path: Path) -> None:
    index = medium(tmp_path)
    last = sorted(p for p in index.parent.rglob("*") if p.is_file() and p != index)[-1]
    last.rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="1 of the 12 files that the index names are not below its folder"):
        dicom.read(index, series="1")


@pytest.mark.parametrize("ending", [".dcm", ".", ".;1", ";1", ".DCM"])
def test_4_13_files_may_be_called_as_their_index_has_them_and_an_ending(tmp_path: Path, ending: str) -> None:
    index = medium(tmp_path)
    for file in [p for p in index.parent.rglob("*") if p.is_file() and p != index]:
        file.with_name(f"{file.name}.BMP").write_bytes(b"a picture of it")
        file.rename(file.with_name(file.name + ending))
    np.testing.assert_array_equal(dicom.read(index, series="1").data[0], phantom())


def test_4_13_of_two_files_that_may_be_what_an_index_names_none_is_guessed(tmp_path: Path) -> None:
    index = medium(tmp_path)
    file = sorted(p for p in index.parent.rglob("*") if p.is_file() and p != index)[0]
    content = file.read_bytes()
    file.rename(file.with_name(f"{file.name}.dcm"))
    file.with_name(f"{file.name}.;1").write_bytes(content)
    np.testing.assert_array_equal(dicom.read(index, series="1").data[0], phantom())
    file.with_name(f"{file.name}.;1").write_bytes(content[:-2] + b"ab")
    with pytest.raises(InputError, match=f"{file.name}.;1 and {file.name}.dcm differ, and either may be the"):
        dicom.read(index, series="1")


def test_a_media_archive_with_its_index_is_read_without_it(tmp_path: Path) -> None:
    disc = medium(tmp_path).parent
    one, _ = cases([str(packed(disc, ".zip"))])
    np.testing.assert_array_equal(formats.read(one.paths, series=one.series).data[0], phantom())


def test_a_flat_archive_of_several_series_is_refused_with_their_list(tmp_path: Path) -> None:
    series(tmp_path / "all", uid="one", SeriesNumber=1)
    series(tmp_path / "all", uid="two", SeriesNumber=2)
    file = packed(tmp_path / "all", ".zip")
    (case,) = cases([str(file)])
    with pytest.raises(InputError, match="2 series could be the volume"):
        formats.read(case.paths, series=case.series)
    assert len(cases([str(file)], select=Selection(series=("all",)))) == 2


def test_an_archive_of_no_volume_says_what_is_in_it(tmp_path: Path) -> None:
    series(tmp_path / "sr", phantom()[:1], Modality="SR", SOPClassUID=REPORT)
    with pytest.raises(InputError, match="1 DICOM series, none of which is a volume: a report"):
        cases([str(packed(tmp_path / "sr", ".zip"))])
    with pytest.raises(InputMissing):
        dicom.read(tmp_path / "none.zip")


def test_a_tar_with_a_damaged_header_is_not_taken_for_shorter(tmp_path: Path) -> None:
    file = packed(series(tmp_path / "ct"), ".tar")
    with tarfile.open(file) as tar:
        last = tar.getmembers()[-1].offset
    data = bytearray(file.read_bytes())
    data[last + 148 : last + 156] = b"garbage "  # its checksum
    file.write_bytes(data)
    with pytest.raises(InputError, match="corrupt"):
        dicom.read(file)
