"""What Windows and macOS do otherwise, on stand-ins: where one of them differs there is a branch (segcli/system.py)."""

import errno
import io
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from runs import inside, scan

from segcli import memory, parallel, system
from segcli.batch import cases, clashes, side_by_side
from segcli.batch.outputs import Destination
from segcli.commands import harmless, process, running
from segcli.errors import Denied, InputError, InputMissing, ModelError, OutOfMemory, OutputError, UsageError
from segcli.formats import atomic, streams, text_headers
from segcli.models import card
from segcli.models.imports import bundle_weights, graph
from segcli.models.imports.folder import unpacked
from segcli.structures import Label, file_names

ROOT = Path(system.__file__).parent


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "WINDOWS", True)
    monkeypatch.setattr(system, "PurePath", PureWindowsPath)


class Held:
    """What Python has for locks on Windows, made of Unix's own: of one descriptor, refused where another has it."""

    LK_NBLCK, LK_UNLCK = 2, 0

    @staticmethod
    def locking(handle: int, how: int, count: int) -> None:
        import fcntl

        assert (os.lseek(handle, 0, os.SEEK_CUR), count) == (0, 1)
        try:
            fcntl.flock(handle, fcntl.LOCK_UN if how == Held.LK_UNLCK else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PermissionError(errno.EACCES, "held") from error


class IgnoringCase:
    """A disk that has a file under each way in which the case of its name is written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(system.os.path, "lexists", self.lexists)
        system.ignores_case.cache_clear()

    @staticmethod
    def lexists(path: Path | str) -> bool:
        path = Path(path)
        return path.name.lower() in {other.name.lower() for other in path.parent.iterdir()}


@pytest.fixture
def ignoring_case(monkeypatch: pytest.MonkeyPatch) -> Iterator[IgnoringCase]:
    yield IgnoringCase(monkeypatch)
    system.ignores_case.cache_clear()


# ---- processes


def test_a_process_is_alive_until_it_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as started:
        assert system.alive(started.pid)
    assert not system.alive(started.pid)


@pytest.mark.parametrize("pid", [-1, 0, 10**12, 10**30])
def test_no_process_has_such_a_number(pid: int) -> None:
    assert not system.alive(pid)


def test_a_process_that_the_list_hides_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "PROCFS_PATH", "/nonexistent")
    assert system.alive(1)  # another user's, as a rule
    assert system.alive(os.getpid())


def test_no_process_is_asked_by_a_signal() -> None:
    texts = {path: path.read_text(encoding="utf-8") for path in ROOT.rglob("*.py")}
    assert [path.name for path, text in texts.items() if "os.kill(" in text] == []


def test_2_3_a_temporary_file_of_a_number_that_no_process_can_have_is_swept(tmp_path: Path) -> None:
    planted = tmp_path / f".a.json.{atomic._HOST}-{10**30}-{'ab' * 8}.partial"
    planted.touch()
    atomic.sweep(tmp_path)
    assert not planted.exists()


def test_6_4_ctrl_break_ends_as_a_termination_does(tmp_path: Path) -> None:
    code = "import signal, sys; signal.SIGBREAK = signal.SIGUSR1; sys.argv = ['segcli', 'predict', '-', '-o', 'out']"
    words = [sys.executable, "-c", f"{code}; from segcli.__main__ import main; main()"]
    until = time.monotonic() + 20
    with subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path) as started:
        while not _catches(f"/proc/{started.pid}/status", signal.SIGUSR1) and time.monotonic() < until:
            time.sleep(0.01)
        started.send_signal(signal.SIGUSR1)
        assert started.wait(20) == 143
        assert started.stderr is not None
        assert b"Traceback" not in started.stderr.read()


def _catches(status: str, number: int) -> bool:
    text = Path(status).read_text(encoding="ascii")
    mask = int(text.partition("SigCgt:")[2].split()[0], 16)
    return bool(mask >> (number - 1) & 1)


def test_6_4_processes_of_cases_leave_signals_to_the_one_that_started_them(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[int, object] = {}
    monkeypatch.setattr(signal, "signal", told.__setitem__)
    monkeypatch.setattr(side_by_side, "use", lambda share: None)
    monkeypatch.setattr(side_by_side, "silent", lambda: None)
    side_by_side._begin(1)
    assert told == dict.fromkeys({signal.SIGINT, *system.ENDING} - {signal.SIGTERM}, signal.SIG_IGN)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
def test_6_4_a_signal_that_is_ignored_stays_so_as_under_nohup(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[int, object] = {}
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    monkeypatch.setattr(signal, "signal", told.__setitem__)
    system.on_the_end(lambda code: None)
    monkeypatch.undo()
    signal.signal(signal.SIGHUP, before)
    assert set(told) == set(system.ENDING) - {signal.SIGHUP}


def test_processes_begin_anew_on_every_platform() -> None:
    text = (ROOT / "batch" / "side_by_side.py").read_text(encoding="utf-8")
    assert 'get_context("spawn")' in text
    begun = [path.name for path in ROOT.rglob("*.py") if "os.fork(" in path.read_text(encoding="utf-8")]
    assert begun == []


@pytest.mark.parametrize(
    ("file", "parent", "own"),
    [
        ("/usr/bin/segcli", "", True),
        ("C:/Scripts/segcli.exe/__main__.py", "", True),
        ("/x/segcli/__main__.py", "segcli", True),
        ("/home/a/segcli/mine.py", "", False),
    ],
)
def test_the_program_knows_whether_it_was_started_as_segcli(
    file: str, parent: str, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = SimpleNamespace(__file__=file, __spec__=SimpleNamespace(parent=parent))
    monkeypatch.setitem(sys.modules, "__main__", started)  # type: ignore[arg-type]
    assert process._own_process() == own


# ---- cores and memory


def test_cores_are_those_of_the_affinity_that_windows_states(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(cpu_affinity=lambda: [0, 2, 3]))
    assert parallel._allowed() == 3
    monkeypatch.setattr(psutil, "Process", SimpleNamespace)  # macOS has none
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert parallel._allowed() == 8


@pytest.mark.parametrize(("platform", "size"), [("darwin", 5000), ("freebsd", 5_120_000)])
def test_the_greatest_size_is_in_bytes_on_macos_and_in_kibibytes_elsewhere(
    platform: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    unix = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: SimpleNamespace(ru_maxrss=5000))
    monkeypatch.setitem(sys.modules, "resource", unix)  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "platform", platform)
    assert memory.peak_memory() == size


def test_windows_states_the_greatest_size_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "platform", "win32")
    stated = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=7000))
    monkeypatch.setattr(psutil, "Process", lambda: stated)
    assert memory.peak_memory() == 7000


@pytest.mark.skipif(sys.platform != "linux", reason="of other systems psutil reads no files")
def test_6_3_where_the_system_does_not_tell_its_memory_the_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "PROCFS_PATH", "/nonexistent")
    assert 0 < memory.available() <= memory.total()
    assert memory.resident() == memory.peak_memory() > 1 << 20
    monkeypatch.setattr(memory, "_STATUS", Path("/nonexistent"))
    assert memory.peak_memory() > 1 << 20


def test_2_10_without_posix_fallocate_room_is_looked_for_before_a_file_is_mapped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    assert memory.mapped((4, 4), np.float32).sum() == 0
    monkeypatch.setattr(memory.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10))
    with pytest.raises(OutOfMemory, match="fit neither into memory nor into"):
        memory.zeros((4, 4), 0, [], 0)


# ---- standard streams


def test_6_5_a_pipe_that_nobody_reads_is_known_by_what_windows_says(windows: None) -> None:
    assert harmless.closed(OSError(errno.EINVAL, "Invalid argument"))
    assert not harmless.closed(OSError(errno.ENOSPC, "full"))


def test_elsewhere_an_invalid_argument_is_an_error() -> None:
    assert harmless.closed(BrokenPipeError(errno.EPIPE, "gone"))
    assert not harmless.closed(OSError(errno.EINVAL, "Invalid argument"))


def test_an_error_of_the_disk_is_one_in_a_file_and_a_terminal_that_has_gone_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = OSError(errno.EIO, "Input/output error")
    with (tmp_path / "list.txt").open("w") as file:
        assert harmless.is_file(harmless.Harmless(file))
    assert not harmless.is_file(file)  # it is closed
    assert harmless.told(failed, "stdout", "not all was printed", file=False) == 0
    assert capsys.readouterr().err == ""
    assert harmless.told(failed, "stdout", "not all was printed", file=True) == 74
    assert "stdout: Input/output error: not all was printed" in capsys.readouterr().err


def test_6_5_a_label_map_for_a_reader_that_has_gone_ends_quietly(
    windows: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(data: bytes) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=SimpleNamespace(write=gone)))
    running._stream(b"labels")


@pytest.mark.parametrize(
    ("terminal", "wish", "written"),
    [(False, None, "ä\n".encode()), (True, None, b"\xe4\r\n"), (False, "cp1252", b"\xe4\n")],
)
def test_pipes_of_windows_are_written_in_utf_8_unless_the_user_wants_another_one(
    terminal: bool, wish: str | None, written: bytes, windows: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONIOENCODING", raising=False)
    if wish:
        monkeypatch.setenv("PYTHONIOENCODING", wish)
    bytes_of = io.BytesIO()
    stream = io.TextIOWrapper(bytes_of, encoding="cp1252", errors="strict", newline="\r\n")
    monkeypatch.setattr(stream, "isatty", lambda: terminal, raising=False)
    process._as_elsewhere(stream)
    stream.write("ä\n")
    stream.flush()
    assert bytes_of.getvalue() == written


def test_a_name_that_windows_own_encoding_lacks_comes_whole_through_a_pipe(
    windows: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONIOENCODING", raising=False)
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="cp1252", newline="\r\n"))
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), encoding="cp1252"))
    out = process._standard_streams()
    out.write("脳_seg.nii.gz\n")
    out.flush()
    assert written.getvalue() == "脳_seg.nii.gz\n".encode()


# What Python opens for texts; on Windows each line would end in two bytes.
WRITES_TEXT = re.compile(r"TextIOWrapper\(.*|open\([^\n]*\"[wax]\"[^\n]*|write_text\([^\n]*")


def test_6_6_what_is_written_has_the_same_ends_of_lines_on_every_system() -> None:
    found = [
        (path.relative_to(ROOT).as_posix(), match)
        for path in ROOT.rglob("*.py")
        if path.parent.name != "bench"
        for match in WRITES_TEXT.findall(path.read_text(encoding="utf-8"))
        if "newline=" not in match
    ]
    # A standard stream that was closed, which is not written to.
    assert [name for name, _ in found] == ["commands/process.py"], found


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_list_of_names_is_read_as_windows_programs_write_it(encoding: str) -> None:
    mark = {"utf-16-le": "\ufeff", "utf-16-be": "\ufeff"}.get(encoding, "")
    data = f"{mark}脳.nii.gz\r\n\r\nb c.nii\r\n".encode(encoding)
    assert cases.listed(data, null=False) == ["脳.nii.gz", "b c.nii"]


def test_a_list_in_windows_own_encoding_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def strict(name: bytes) -> str:  # as there: what is no UTF-8 has no stand-in characters
        return name.decode("utf-8", "surrogatepass")

    monkeypatch.setattr(os, "fsdecode", strict)
    with pytest.raises(InputError, match="neither UTF-8 nor UTF-16"):
        cases.listed("Schädel.nii.gz\r\n".encode("cp1252"), null=False)


# ---- locks, and files that others have open


def test_2_13_where_no_folder_can_be_opened_a_temporary_file_is_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "fcntl", None)
    monkeypatch.setattr(system, "import_module", lambda name: Held)
    assert inside(lambda: system.one_process(tmp_path), threads=5, turns=1, seconds=0.02) == [1] * 5
    assert list(tmp_path.iterdir()) == []


def test_2_12_without_a_temporary_folder_the_work_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "fcntl", None)
    monkeypatch.setattr(system, "import_module", lambda name: Held)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    with system.one_process(tmp_path):
        pass


def refusing(times: int) -> Callable[[], str]:
    left = [times]

    def work() -> str:
        left[0] -= 1
        if left[0] >= 0:
            raise PermissionError(errno.EACCES, "in use")
        return "done"

    return work


def test_a_name_is_tried_again_while_another_program_has_the_file_open(windows: None) -> None:
    assert system.insistently(refusing(2)) == "done"
    with pytest.raises(PermissionError):
        system.insistently(refusing(100), seconds=0.2)


def test_elsewhere_what_is_not_permitted_stays_so() -> None:
    with pytest.raises(PermissionError):
        system.insistently(refusing(1))


def test_2_1_an_output_that_a_viewer_has_open_keeps_its_bytes_and_the_refusal_says_why(
    tmp_path: Path, windows: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"old")

    def in_use(self: Path, to: Path) -> None:
        raise PermissionError(errno.EACCES, "in use")

    monkeypatch.setattr(Path, "replace", in_use)
    monkeypatch.setattr(system.time, "monotonic", iter(range(0, 1000, 2)).__next__)
    with pytest.raises(Denied, match="or another program has the file open"):
        atomic.write_bytes(path, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert path.read_bytes() == b"old"


def test_2_1_a_path_that_windows_does_not_find_for_its_length_is_told_as_that(
    tmp_path: Path, windows: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_found(path: Path, *how: object, **more: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))

    long = tmp_path / ("a" * 100) / ("b" * 100) / ("c" * 100)
    monkeypatch.setattr("builtins.open", not_found)
    with pytest.raises(OutputError) as refused:
        atomic.write_bytes(long / "a.json", b"{}")
    assert "and Windows takes 259" in refused.value.hint
    monkeypatch.setattr(Path, "stat", not_found)
    with pytest.raises(InputMissing) as missing:
        streams.regular_size(long / "scan.nii.gz")
    assert "and Windows takes 259" in missing.value.hint


def test_elsewhere_a_long_path_is_not_the_reason(tmp_path: Path) -> None:
    with pytest.raises(InputMissing) as missing:
        streams.regular_size(tmp_path / ("a" * 200) / ("b" * 200))
    assert missing.value.hint == "check the path"


def test_2_1_files_reach_the_disk_itself_on_macos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(system.fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(system.fcntl, "fcntl", lambda handle, what: asked.append(what))
    atomic.write_bytes(tmp_path / "a.json", b"whole")
    assert asked == [51]


def test_a_disk_of_a_network_that_knows_no_such_flush_gets_the_usual_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(handle: int, what: int) -> None:
        raise OSError(errno.ENOTSUP, "not supported")

    done: list[int] = []
    monkeypatch.setattr(system.fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(system.fcntl, "fcntl", unknown)
    monkeypatch.setattr(os, "fsync", done.append)
    system.flush(7)
    assert done == [7]


# ---- names


LEADS_OUT = [
    r"..\w.safetensors",
    r"C:\w.safetensors",
    "C:w.safetensors",
    r"\\server\share\w",
    "w:stream",
    "NUL",
    "con.npy",
]


@pytest.mark.parametrize("name", LEADS_OUT)
def test_5_2_a_name_that_leads_elsewhere_on_windows_is_none(name: str, windows: None) -> None:
    assert not system.is_plain(name)


@pytest.mark.parametrize("name", ["weights.safetensors", "a b.raw", "console.npy", ".hidden"])
def test_a_plain_name_is_one_on_every_platform(name: str, windows: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert system.is_plain(name)
    monkeypatch.undo()
    assert system.is_plain(name)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "a/"])
def test_5_2_no_name_leads_elsewhere_on_unix(name: str) -> None:
    assert not system.is_plain(name)


@pytest.mark.parametrize("name", ["C:w.raw", r"..\w.raw", "NUL"])
def test_5_2_what_names_a_file_elsewhere_on_windows_is_refused(name: str, tmp_path: Path, windows: None) -> None:
    with pytest.raises(ModelError, match="leads outside"):
        card.part(tmp_path, name)
    with pytest.raises(ModelError, match="no plain name of a file beside it"):
        graph._beside(tmp_path / "model.onnx", name)
    with pytest.raises(InputError, match="is not allowed"):
        text_headers.data_file(tmp_path / "a.nhdr", name)
    config = {"checkpointloader": {"load_path": f"/x/models/{name.removesuffix('.raw')}.pt"}}
    assert bundle_weights._loaded(config) is None  # type: ignore[arg-type]


def test_no_mask_is_called_as_a_device_of_windows() -> None:
    names = file_names("m", [Label(1, "aux"), Label(2, "Con.left"), Label(3, "_aux"), Label(4, "auxiliary")])
    assert {id: name for name, id in names.items()} == {1: "_aux_1", 2: "_Con.left", 3: "_aux_3", 4: "auxiliary"}


def test_2_8_on_a_disk_that_ignores_case_names_that_differ_in_it_make_one_output(
    tmp_path: Path, ignoring_case: IgnoringCase
) -> None:
    for folder, name in (("a", "Scan"), ("b", "scan")):
        scan(tmp_path / folder / f"{name}.nii.gz")
    with pytest.raises(UsageError, match="would both be written as"):
        cases.cases([str(tmp_path / "a" / "Scan.nii.gz"), str(tmp_path / "b" / "scan.nii.gz")], output=tmp_path / "out")


def test_on_a_disk_that_tells_them_apart_they_make_two(tmp_path: Path) -> None:
    for folder, name in (("a", "Scan"), ("b", "scan")):
        scan(tmp_path / folder / f"{name}.nii.gz")
    named = [str(tmp_path / "a" / "Scan.nii.gz"), str(tmp_path / "b" / "scan.nii.gz")]
    assert len(cases.cases(named, output=tmp_path / "out")) == 2


def test_members_of_an_archive_that_would_be_one_file_are_refused(tmp_path: Path, ignoring_case: IgnoringCase) -> None:
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        archive.writestr("fold_0/a.pth", b"one")
        archive.writestr("Fold_0/a.pth", b"other")
    with pytest.raises(ModelError, match="would be one file on this disk"), unpacked(tmp_path / "model.zip"):
        pass


def test_2_6_on_a_disk_that_ignores_case_the_input_is_known_by_another_spelling(
    tmp_path: Path, ignoring_case: IgnoringCase
) -> None:
    from models import organs

    from segcli.models.library import read_card

    own = read_card(organs(tmp_path / "organs"))
    (case,) = cases.cases([str(scan(tmp_path / "Scan.nii.gz"))])
    with pytest.raises(UsageError, match="would overwrite the input"):
        clashes.apart([case], own, Destination(file=tmp_path / "SCAN.nii.gz"))


def test_2_9_on_a_disk_that_ignores_case_the_output_folder_is_known_by_another_spelling(
    tmp_path: Path, ignoring_case: IgnoringCase
) -> None:
    scan(tmp_path / "in" / "a.nii.gz")
    scan(tmp_path / "in" / "Out" / "b.nii.gz")
    assert [case.name for case in cases.cases([str(tmp_path / "in")], output=tmp_path / "in" / "OUT")] == ["a"]


def test_a_folder_without_names_and_one_that_is_not_there_are_as_the_one_around_them(
    tmp_path: Path, ignoring_case: IgnoringCase
) -> None:
    (tmp_path / "Empty").mkdir()
    assert system.ignores_case(tmp_path / "Empty")
    assert system.ignores_case(tmp_path / "none" / "deeper")


def test_names_that_put_their_accents_together_otherwise_are_one_there(
    tmp_path: Path, ignoring_case: IgnoringCase
) -> None:
    (tmp_path / "a").touch()
    assert system.key_of(tmp_path / "Caf\u00e9.nii") == system.key_of(tmp_path / "cafe\u0301.nii")


def test_2_1_a_failed_disk_is_still_an_error_of_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OutputError, match="Input/output error"):
        atomic.write_bytes(tmp_path / "a.json", b"whole")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ask", ["", "logging.basicConfig(); "])
def test_1_6_what_libraries_warn_of_and_log_goes_where_the_program_asks_for_it_and_else_nowhere(ask: str) -> None:
    code = (
        f"import logging, warnings; {ask}from segcli.engines.loading import silent; silent(); "
        "warnings.warn('old'); logging.getLogger('asyncio').error('Task was destroyed but it is pending!')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ("ERROR:asyncio:Task was destroyed but it is pending!\n" if ask else "")
