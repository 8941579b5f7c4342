"""The same bytes whatever surrounds the run (PROMISES.md 6.6), and no word to the network (8.2)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from runs import command, environment, files, line, scans

ENGINES = ["onnx", "openvino", "torch"]
# Whatever would speak to another machine, in any process, is written down and ends that process with 99.
DEAF = """
import os, sys
def hook(event, words):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg"):
        os.write(os.open(os.environ["HEARD"], os.O_CREAT | os.O_WRONLY), f"{event} {words}".encode())
        os._exit(99)
sys.addaudithook(hook)
from segcli.commands.process import main
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_6_6_hash_seed_locale_zone_home_threads_and_terminal_change_no_byte(model, tmp_path, engine):
    pytest.importorskip({"onnx": "onnxruntime"}.get(engine, engine))
    scans(tmp_path / "in", 2)
    words = ["predict", "in", "--model", model, "--engine", engine, "--split", "--report", "csv", "--tables", "bids"]
    plain = command(
        *words, "-o", "plain", "--threads", 1, cwd=tmp_path,
        env={"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "TZ": "UTC"},
    )  # fmt: skip
    assert plain.returncode == 0, plain.stderr
    import pty

    leader, follower = pty.openpty()
    bare = {"PYTHONHASHSEED": "4242", "LC_ALL": "POSIX", "TZ": "Pacific/Apia", "HOME": None, "TERM": "xterm"}
    other = subprocess.Popen(
        line(*words, "-o", "other", "--threads", 2),
        cwd=tmp_path,
        env=environment(bare | {"OMP_NUM_THREADS": None}),
        stdin=follower,
        stdout=follower,
        stderr=follower,
    )
    os.close(follower)
    shown = bytearray()
    while chunk := _read(leader):
        shown += chunk
    os.close(leader)
    assert other.wait() == 0, shown.decode(errors="replace")
    assert files(tmp_path / "plain") == files(tmp_path / "other")
    assert len(files(tmp_path / "plain")) == 2 * 9 + 2  # dataset_description.json and .bidsignore


def _read(leader: int) -> bytes:
    try:
        return os.read(leader, 65536)
    except OSError:  # Linux, when the last follower is closed
        return b""


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_8_2_no_run_speaks_to_the_network(model, tmp_path, engine):
    pytest.importorskip({"onnx": "onnxruntime"}.get(engine, engine))
    scans(tmp_path / "in", 1)
    (tmp_path / "home").mkdir()
    done = command(
        "predict", "in", "-o", "out", "--model", model, "--engine", engine, before=("-c", DEAF), cwd=tmp_path,
        env={"HEARD": str(tmp_path / "heard"), "HOME": str(tmp_path / "home"), "XDG_CACHE_HOME": None},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "heard").exists(), (tmp_path / "heard").read_text()
    left = {p.relative_to(tmp_path / "home").parts[:2] for p in (tmp_path / "home").rglob("*") if p.is_file()}
    assert left <= {(".cache", "segcli")}


@pytest.mark.parametrize("where", ["", "os.fork() or "])
def test_8_2_the_hook_of_these_tests_hears_an_attempt(tmp_path, where):
    attempt = f"import socket; {where}socket.getaddrinfo('localhost', 80); os.wait()"
    source = DEAF.replace("from segcli.commands.process import main\nmain()", attempt)
    environ = {**os.environ, "HEARD": str(tmp_path / "heard")}
    subprocess.run([sys.executable, "-c", source], capture_output=True, check=False, env=environ)
    assert "getaddrinfo" in (tmp_path / "heard").read_text()


def test_8_3_no_process_is_started_by_way_of_a_shell():
    import ast

    import segcli

    for path in Path(segcli.__file__).parent.rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        calls = {n.func.attr for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)}
        assert not calls & {"system", "popen", "execvp", "spawnv", "getoutput", "getstatusoutput"}, path
        assert "shell" not in {n.arg for n in nodes if isinstance(n, ast.keyword)}, path
