"""Files are whole or absent (PROMISES.md, section 2)."""

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from two_users import as_another, needs_two_users

from segcli import formats
from segcli.errors import Denied, OutputError
from segcli.formats import atomic, tables
from segcli.space.volume import Grid, Volume


def dead_pid() -> int:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def labels() -> Volume:
    data = np.random.default_rng(1).integers(0, 200, (1, 8, 32, 32)).astype(np.uint8)
    return Volume(data, Grid(data.shape[1:], np.eye(4)))


def test_2_1_a_file_has_its_name_only_after_the_block(tmp_path):
    with atomic.whole_file(tmp_path / "a.nii.gz") as file:
        file.write(b"half")
        (name,) = names(tmp_path)
        assert name.startswith(".")
        assert name.endswith(".nii.gz")
        assert atomic.is_partial(name)
    assert names(tmp_path) == ["a.nii.gz"]


def test_2_1_an_error_in_the_block_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic.whole_file(tmp_path / "a.json") as file:  # noqa: PT012
        file.write(b"half")
        raise ZeroDivisionError
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["a.json", "a_seg.nii.gz"])
def test_2_1_what_reaches_the_disk_cut_is_noticed(tmp_path, monkeypatch, name):
    def cut(handle: int) -> None:
        (partial,) = (p for p in tmp_path.iterdir() if atomic.is_partial(p.name))
        os.truncate(partial, partial.stat().st_size // 2)

    monkeypatch.setattr(os, "fsync", cut)
    write = {"a.json": lambda path: atomic.write_bytes(path, b"whole")}.get(
        name, lambda p: formats.write(labels(), (), p)
    )
    with pytest.raises((OutputError, formats.InputError)):
        write(tmp_path / name)
    assert names(tmp_path) == []


def test_2_1_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    with atomic.whole_file(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"


def test_2_2_files_made_together_are_all_there_or_none(tmp_path):
    first, last = tmp_path / "a.json", tmp_path / "a.nii.gz"
    with pytest.raises(ZeroDivisionError), atomic.together(first, last):  # noqa: PT012
        atomic.write_bytes(last, b"labels")
        atomic.write_bytes(first, b"record")
        raise ZeroDivisionError
    assert names(tmp_path) == []


def test_2_2_when_one_name_cannot_be_given_the_new_ones_are_taken_back(tmp_path):
    first, last = tmp_path / "a.json", tmp_path / "a.nii.gz"
    with pytest.raises(OutputError), atomic.together(first, last):  # noqa: PT012 - the end of the block raises
        atomic.write_bytes(last, b"labels")
        atomic.write_bytes(first, b"record")
        last.mkdir()
    assert names(tmp_path) == ["a.nii.gz"]
    assert last.is_dir()


def test_2_3_temporary_files_of_dead_processes_go_and_of_live_ones_stay(tmp_path, monkeypatch):
    ours = atomic.partial_name("a.nii.gz")
    live, dead, elsewhere = (
        tmp_path / ours.replace(f"-{os.getpid()}-", f"-{os.getppid()}-"),
        tmp_path / ours.replace(f"-{os.getpid()}-", f"-{dead_pid()}-"),
        tmp_path / ours.replace(atomic._HOST, "another-machine"),
    )
    left_by_a_namesake = tmp_path / ours  # our number, and not ours: in a container every run may be process 1
    for path in (live, dead, elsewhere, left_by_a_namesake):
        path.write_bytes(b"half")
    (tmp_path / ".hidden").write_bytes(b"the user's")
    with atomic.whole_file(tmp_path / "b.json"):
        (writing,) = (p.name for p in tmp_path.glob(".b.json.*"))
        atomic.sweep(tmp_path)
        assert set(names(tmp_path)) == {live.name, elsewhere.name, ".hidden", writing}
        (tmp_path / "link").symlink_to(tmp_path)
        monkeypatch.chdir(tmp_path)
        for called in (Path(), Path("link"), tmp_path / "link"):  # the same folder, by other names
            atomic.sweep(called)
        assert writing in names(tmp_path)


def test_2_3_what_another_machine_left_goes_when_it_is_a_week_old(tmp_path):
    """Each container is another machine: what a killed one left stayed for ever."""
    elsewhere = [atomic.partial_name(f"{k}.nii.gz").replace(atomic._HOST, "another-machine") for k in range(3)]
    now = time.time()
    for name, days in zip(elsewhere, (0, 6, 8), strict=True):
        (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / name, (now, now - days * 86400))
    atomic.sweep(tmp_path)
    assert names(tmp_path) == sorted(elsewhere[:2])


def test_a_machine_whose_clock_is_ahead_removes_nothing_of_another(tmp_path, monkeypatch):
    live = tmp_path / atomic.partial_name("a.nii.gz").replace(atomic._HOST, "another-machine")
    live.write_bytes(b"half")
    ahead = time.time() + 8 * 86400
    monkeypatch.setattr(atomic.time, "time", lambda: ahead)
    atomic.sweep(tmp_path)
    assert names(tmp_path) == [live.name]


@pytest.mark.parametrize(
    "name",
    [
        ".a.nii.gz.partial",
        ".results.2024-11-30.partial.csv",
        ".scan.550e8400-e29b-4123-8716-446655440000.partial",
        ".a.nii.gz.host-12-0123456789abcdef0.partial",
    ],
)
def test_a_file_of_somebody_else_is_no_temporary_file_however_old_it_is(tmp_path, name):
    """Of a date "2024" was the machine, 11 the process, and the day what nobody can guess."""
    (tmp_path / name).write_bytes(b"the user's")
    os.utime(tmp_path / name, (0, 0))
    atomic.sweep(tmp_path)
    assert names(tmp_path) == [name]


def test_2_4_the_record_gets_its_name_first_and_the_label_map_last(tmp_path, monkeypatch):
    order = []
    real = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, to: (order.append(to.name), real(self, to))[1])
    with atomic.together(tmp_path / "a.json", tmp_path / "a.nii.gz"):
        for name in ("a.nii.gz", "a.csv", "a.json"):
            atomic.write_bytes(tmp_path / name, name.encode())
        assert order == []
    assert order == ["a.json", "a.csv", "a.nii.gz"]


def test_2_5_a_file_with_the_same_bytes_is_left_untouched(tmp_path):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(b"labels")
    os.utime(path, ns=(1, 1))
    with atomic.together(tmp_path / "a.json", path):
        atomic.write_bytes(path, b"labels")
        atomic.write_bytes(tmp_path / "a.json", b"record")
    assert path.stat().st_mtime_ns == 1
    assert names(tmp_path) == ["a.json", "a.nii.gz"]


def test_2_10_a_file_too_large_for_the_disk_says_how_much_was_needed(tmp_path):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(
            OutputError, match=r"a\.json: a larger file than is allowed .* after 1,000 bytes of the file [(]"
        ):
            atomic.write_bytes(tmp_path / "a.json", b"x" * 5000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "files", "told"),
    [
        (
            errno.ENOSPC,
            (7, 9),
            "no space left on the disk of .* after 0 bytes of the file; 900 bytes are free [(]",
        ),
        (errno.ENOSPC, (0, 0), "no space left on the disk of .* after 0 bytes of the file; 900 bytes are free"),
        (errno.ENOSPC, (0, 9), "no space left on the disk of .*: it holds as many files as it can"),
        (errno.EDQUOT, (7, 9), "your share .quota. is used up on the disk of .* after 0 bytes of the file [(]"),
    ],
)
def test_2_10_a_disk_that_takes_no_more_says_why(tmp_path, monkeypatch, number, files, told):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=900))
    monkeypatch.setattr("os.statvfs", lambda _: SimpleNamespace(f_favail=files[0], f_files=files[1]), raising=False)
    (tmp_path / "part").touch()
    with pytest.raises(OutputError, match=told), atomic.translated(tmp_path / "a.json", tmp_path / "part"):
        raise OSError(number, os.strerror(number))


@pytest.mark.skipif(not hasattr(os, "statvfs"), reason="Windows does not say how a disk is mounted")
@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_disk_that_is_mounted_read_only_is_told_as_that(tmp_path, monkeypatch, number):
    disk = SimpleNamespace(f_flag=os.ST_RDONLY | os.ST_NOSUID if number == errno.EROFS else os.ST_NOSUID)
    monkeypatch.setattr("os.statvfs", lambda _: disk)
    told = "lies on a disk that is mounted read-only" if number == errno.EROFS else "permission denied in"
    with pytest.raises(Denied, match=told), atomic.translated(tmp_path / "new" / "a.json"):
        raise OSError(number, os.strerror(number))


def test_2_11_nothing_is_written_outside_the_folder_of_the_file(tmp_path):
    with atomic.whole_file(tmp_path / "a" / "b.json"):
        assert names(tmp_path) == ["a"]
        assert len(names(tmp_path / "a")) == 1


def test_2_13_a_result_of_another_process_is_kept_and_ours_dropped(tmp_path):
    last = tmp_path / "a.nii.gz"
    with atomic.together(tmp_path / "a.json", last, given_up=last.exists):
        atomic.write_bytes(last, b"ours")
        atomic.write_bytes(tmp_path / "a.json", b"ours")
        last.write_bytes(b"theirs")
    assert names(tmp_path) == ["a.nii.gz"]
    assert last.read_bytes() == b"theirs"


def test_2_13_no_two_processes_share_a_temporary_name():
    assert atomic.partial_name("a.json") != atomic.partial_name("a.json")
    assert f"-{os.getpid()}-" in atomic.partial_name("a.json")


@pytest.mark.parametrize(
    "name", ["a", "a.b c.json", "-rf.nii.gz", "ü" * 120 + ".nii.gz", "line\nbreak.json", "." * 200]
)
def test_3_15_any_name_has_a_temporary_one_that_is_known_again(name):
    temporary = atomic.partial_name(name)
    assert atomic.is_partial(temporary)
    assert len(os.fsencode(temporary)) <= 255
    assert temporary.startswith(".")


def test_6_4_once_the_run_is_abandoned_no_file_gets_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "_ended", False)
    stopped = pytest.raises(OutputError, match="stopped")
    with stopped, atomic.whole_file(tmp_path / "a.json") as file:
        file.write(b"half")
        atomic.abandon()
        assert names(tmp_path) == []
        file.write(b"whole, but too late")
    assert names(tmp_path) == []


def test_1_1_what_may_not_be_written_is_denied(tmp_path):
    with pytest.raises(Denied, match=r"a\.json: permission denied"), atomic.translated(tmp_path / "a.json"):
        raise PermissionError(13, "Permission denied")


def writers() -> dict[str, Callable[[Path], object]]:
    """What makes files, by the ending of what it makes."""
    grid = Volume(np.zeros((1, 8, 32, 32), np.float32), labels().grid)
    endings = formats.table.written()
    return {
        ".json": lambda path: atomic.write_bytes(path, b"record"),
        ".label": lambda path: tables.write([], "itksnap", path),
        "_probseg.nii.gz": lambda path: formats.write_image(grid, path),
        **{ending: lambda path: formats.write(labels(), [], path) for ending in endings},
    }


@pytest.mark.parametrize("name", writers())
def test_2_11_a_planted_link_under_the_temporary_name_is_not_followed(tmp_path, monkeypatch, name):
    victim = tmp_path / "thesis.txt"
    victim.write_bytes(b"three years")
    folder = tmp_path / "out"
    folder.mkdir()
    monkeypatch.setattr(atomic.secrets, "token_hex", lambda size: "0" * 16)  # as if it could be guessed
    (folder / atomic.partial_name(f"a{name}")).symlink_to(victim)
    with pytest.raises(OutputError, match="File exists"):
        writers()[name](folder / f"a{name}")
    assert victim.read_bytes() == b"three years"
    assert not (folder / f"a{name}").exists()


@needs_two_users
@pytest.mark.parametrize("put", ["os.symlink(victim, partial)", "pathlib.Path(partial).write_text('half')"])
def test_2_11_what_another_user_puts_in_the_place_of_a_temporary_file_becomes_no_output(tmp_path, shared, put):
    victim = tmp_path / "thesis.txt"
    victim.write_bytes(b"three years")
    refused = pytest.raises(OutputError, match=r"a\.json: somebody else has put another file")
    with refused, atomic.whole_file(shared / "a.json") as file:
        (partial,) = shared.iterdir()
        as_another(f"partial, victim = {str(partial)!r}, {str(victim)!r}; os.unlink(partial); {put}")
        file.write(b"record")
    assert victim.read_bytes() == b"three years"
    assert not (shared / "a.json").exists()


@needs_two_users
def test_2_11_of_files_that_get_their_names_together_a_changed_one_takes_the_others_with_it(shared):
    refused = pytest.raises(OutputError, match="somebody else")
    with refused, atomic.together(shared / "a.json", shared / "a.csv") as got:
        atomic.write_bytes(shared / "a.csv", b"table")
        atomic.write_bytes(shared / "a.json", b"record")
        partial = str(got[shared / "a.csv"])
        as_another(f"os.unlink({partial!r}); os.symlink('/etc/passwd', {partial!r})")
    assert names(shared) == []


@needs_two_users
def test_2_3_the_temporary_files_of_another_user_s_dead_process_are_swept(shared):
    left = shared / atomic.partial_name("a.nii.gz").replace(f"-{os.getpid()}-", f"-{dead_pid()}-")
    as_another(f"pathlib.Path({str(left)!r}).write_text('half')")
    atomic.sweep(shared)
    assert names(shared) == []


def test_2_2_a_file_that_is_written_twice_in_one_block_leaves_nothing_of_the_first(tmp_path: Path) -> None:
    first, last = tmp_path / "record", tmp_path / "labels"
    with atomic.together(first, last):
        for data in (b"one", b"two"):
            atomic.write_bytes(first, data)
        atomic.write_bytes(last, b"three")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"record": b"two", "labels": b"three"}
