"""A batch on a Dask cluster: a real scheduler, two worker processes on loopback, one of them killed (issue 5, 8)."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from models import organs
from runs import command, environment, files, line, scans

pytest.importorskip("distributed", reason="the extra [cluster] is not installed")

# The second case waits in a worker until the file `go` is there, so that a kill finds the worker at work on it.
WORKER = """
import os, sys, time
from pathlib import Path
import segcli.batch.worker
real = segcli.batch.worker.run_case
def held(case, *words):
    mark = Path(os.environ["MARKS"]) / f"{case.name}.{os.getpid()}"
    mark.touch()
    while case.name == "case1" and not (mark.parent / "go").exists():
        time.sleep(0.05)
    return real(case, *words)
segcli.batch.worker.run_case = held
from distributed.cli.dask_worker import main
main()
"""

UNABLE = """
import multiprocessing, os
if getattr(multiprocessing.current_process(), "_inheriting", False):
    os._exit(7)
import segcli.batch.cluster
segcli.batch.cluster._START = 5.0
from segcli.__main__ import main
main()
"""


def start(words: list[str], home: Path, sign: str) -> tuple[subprocess.Popen[str], str]:
    """A process, once it has written what matches `sign`; and the match."""
    log = home / f"log{len(list(home.glob('log*')))}"
    with log.open("w") as file:
        run = subprocess.Popen(
            words, stdout=file, stderr=file, text=True, cwd=home, env=environment({"MARKS": str(home / "marks")})
        )
    for _ in range(600):
        if found := re.search(sign, log.read_text()):
            return run, found[0]
        time.sleep(0.1)
    run.kill()
    raise AssertionError(log.read_text())


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str, list[subprocess.Popen[str]]]]:
    """(home, address, [worker with GPU=1, worker without])."""
    home = tmp_path_factory.mktemp("cluster")
    (home / "marks").mkdir()
    scheduler, address = start(
        [
            sys.executable,
            "-m",
            "distributed.cli.dask_scheduler",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--no-dashboard",
        ],
        home,
        r"tcp://127\.0\.0\.1:\d+",
    )
    words = [sys.executable, "-c", WORKER, address, "--nthreads", "1", "--no-nanny", "--no-dashboard"]
    workers = [start([*words, "--name", f"w{i}"], home, "Registered to")[0] for i in (1, 2)]
    yield home, address, workers
    for run in (*workers, scheduler):
        run.kill()
        run.wait()


@pytest.mark.slow
def test_a_killed_worker_costs_its_case_another_try_and_the_files_are_those_of_a_local_run(cluster):
    home, address, workers = cluster
    scans(home / "in", 5)
    model = organs(home / "model")
    words = ["predict", "in", "--model", model, "--engine", "onnx", "--device", "cpu", "--split", "--json"]
    run = subprocess.Popen(
        line(*words, "-o", "out", "--scheduler", address, "--events", "events"),
        cwd=home,
        env=environment({}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(900):
        held = [int(p.suffix[1:]) for p in (home / "marks").glob("case1.*")]
        if held:
            break
        time.sleep(0.1)
    (victim,) = (w for w in workers if w.pid == held[0])
    os.kill(victim.pid, signal.SIGKILL)
    (home / "marks" / "go").touch()
    out, said = run.communicate(timeout=90)
    assert run.returncode == 0, said
    document = json.loads(out)
    assert {c["case"]: c["status"] for c in document["cases"]} == {f"case{i}": "done" for i in range(5)}
    tries = [int(p.suffix[1:]) for p in (home / "marks").glob("case1.*")]
    assert len(tries) == 2, "another worker took the case over"
    assert "5 of 5 scans segmented" in said
    assert "organs on onnxruntime cpu: " in said
    assert all(file.startswith("out/") for c in document["cases"] for file in c["files"])
    events = [json.loads(text) for text in (home / "events").read_text().splitlines()]
    assert sorted(e["case"] for e in events if e["event"] == "done") == [f"case{i}" for i in range(5)]
    local = command(*words, "-o", "local", cwd=home)
    assert local.returncode == 0
    assert files(home / "out") == files(home / "local")
    again = command(*words, "-o", "out", "--scheduler", address, cwd=home)
    ends = json.loads(again.stdout)["summary"]
    assert {key: ends[key] for key in ("done", "skipped", "failed")} == {"done": 0, "skipped": 5, "failed": 0}


def test_a_scheduler_that_is_not_there_is_refused_with_69(tmp_path):
    from segcli.batch.cluster import predict_on
    from segcli.batch.events import unwatched
    from segcli.batch.outputs import Destination
    from segcli.batch.stages import Options
    from segcli.engines.opening import Opening
    from segcli.errors import EngineError, UsageError

    rest = ([], Opening(("organs",)), Destination(tmp_path), Options(), unwatched)
    with pytest.raises(UsageError, match="neither tcp://host:port nor local:N"):
        list(predict_on("nowhere", *rest))
    with pytest.raises(UsageError, match="1 to 1024 workers are possible"):
        list(predict_on("local:0", *rest))
    import segcli.batch.cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segcli.batch.cluster, "TIMEOUT", "1s")
        with pytest.raises(EngineError, match="no Dask scheduler answers"):
            list(predict_on("tcp://127.0.0.1:9", *rest))


def test_workers_find_a_model_that_lies_here(tmp_path, monkeypatch):
    from segcli.batch.cluster import anywhere

    monkeypatch.chdir(tmp_path)
    organs(tmp_path / "mine")
    (tmp_path / "uxnet").mkdir()
    assert (anywhere("mine"), anywhere("uxnet")) == (str(tmp_path / "mine"), "uxnet")


def test_a_worker_resource_gpu_is_taken_one_a_case_unless_the_run_is_on_the_cpu(monkeypatch, tmp_path):
    import distributed

    from segcli.batch import cluster
    from segcli.batch.cases import Case
    from segcli.batch.events import unwatched
    from segcli.batch.outputs import Destination
    from segcli.batch.stages import Options, Outcome
    from segcli.engines.opening import Opening

    asked: list[object] = []

    class Client:
        """Answers at once, and remembers which resources were asked for."""

        loop = None

        def __init__(self, *_: object, **__: object) -> None: ...

        def __enter__(self) -> "Client":
            return self

        def __exit__(self, *_: object) -> None: ...

        def scheduler_info(self, **_: object) -> dict[str, object]:
            return {"workers": offers}

        def submit(self, work: object, case: Case, *_: object, resources: object, **__: object) -> object:
            asked.append(resources)
            return Future(case)

    class Future:
        def __init__(self, case: Case) -> None:
            self.case = case

        def result(self) -> Outcome:
            return Outcome(self.case, "done")

        def release(self) -> None: ...

    monkeypatch.setattr(distributed, "Client", Client)
    monkeypatch.setattr(distributed, "as_completed", lambda futures, loop: futures)
    case = Case("a", (tmp_path / "a.nii",), tmp_path)
    with_gpu, without = {"tcp://w1": {"resources": {"GPU": 1}}}, {"tcp://w1": {"resources": {}}}
    for device, offers, wanted in (
        ("auto", with_gpu, {"GPU": 1}),
        ("cuda", with_gpu, {"GPU": 1}),
        ("cpu", with_gpu, None),
        ("auto", without, None),
        ("cuda", without, None),
    ):
        opening = Opening(("organs",), device=device)
        (done,) = cluster.predict_on("tcp://h:1", [case], opening, Destination(tmp_path), Options(), unwatched)
        assert done.case is case
        assert asked.pop() == wanted, (device, offers)


def test_paths_are_told_as_a_local_run_tells_them(monkeypatch, tmp_path):
    from segcli.batch.cases import Case
    from segcli.batch.cluster import _as_named
    from segcli.batch.stages import Outcome

    monkeypatch.chdir(tmp_path)
    whole = tuple(tmp_path / "out" / "sub" / name for name in ("a_seg.nii.gz", "a_seg.json"))
    done = Outcome(Case("sub/a", (tmp_path / "a.nii",), tmp_path), "done", whole)
    told = tuple(Path("out", "sub", path.name) for path in whole)
    assert _as_named(done, Path("out")).paths == _as_named(done, Path()).paths == told
    assert _as_named(done, tmp_path / "out").paths == _as_named(done, Path("elsewhere")).paths == whole


@pytest.mark.slow
def test_2_2_a_local_cluster_that_is_stopped_leaves_whole_cases_and_no_worker(tmp_path):
    import psutil

    scans(tmp_path / "in", 30)
    words = ["predict", "in", "-o", "out", "--model", organs(tmp_path / "model"), "--engine", "onnx", "--split"]
    run = subprocess.Popen(
        line(*words, "--scheduler", "local:2"),
        cwd=tmp_path,
        env=environment({}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    for _ in range(600):
        if (tmp_path / "out").exists() and len(list((tmp_path / "out").glob("*_seg.nii.gz"))) > 2:
            break
        time.sleep(0.1)
    workers = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(signal.SIGTERM)
    said = run.communicate(timeout=30)[1]
    assert run.returncode == 143, said
    assert "of 30 scans segmented" in said
    assert "stopped" in said
    assert "Traceback" not in said
    assert psutil.wait_procs(workers, timeout=10)[1] == []
    left = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert not [p.name for p in left if p.name.startswith(".")]
    assert all(p.with_name(p.name.replace(".nii.gz", ".json")).exists() for p in left if "_seg.nii.gz" in p.name)


def _waits(path: str) -> None:
    """What the caller's own child does: it says that it is there, and goes on."""
    Path(path).touch()
    time.sleep(120)


def ended(pid: int) -> bool:
    """Whether a process has gone, or is only waiting to be asked how it ended."""
    import psutil

    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Port 8787")  # of the local cluster: another one may run here
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_2_2_workers_are_ended_and_a_child_of_the_callers_own_is_not(tmp_path, monkeypatch):
    """Dask leaves sockets open where its workers are killed."""
    import gc
    import multiprocessing

    from segcli.batch import cluster

    child = multiprocessing.get_context("spawn").Process(target=_waits, args=(str(tmp_path / "there"),), daemon=True)
    child.start()
    try:
        with cluster._cluster("local:1") as address:
            from distributed import Client

            with Client(address, set_as_default=False) as client:
                pid = client.submit(os.getpid).result()
                while not (tmp_path / "there").exists():
                    time.sleep(0.1)
                local = cluster._clusters[0]
                with monkeypatch.context() as patched:
                    patched.setattr(local, "workers", {})  # as it is until Dask has seen that the worker started
                    cluster.end_workers([tmp_path])
                for _ in range(100):  # the system takes a moment to end a process that was killed
                    if ended(pid):
                        break
                    time.sleep(0.1)
                assert ended(pid)
                assert child.is_alive()
    finally:
        child.kill()
        child.join()
    assert cluster._clusters == []
    gc.collect()  # while its warnings are not counted


@pytest.mark.slow
def test_6_3_a_scheduler_that_is_gone_costs_the_rest_of_the_cases_and_is_told_in_our_own_words(tmp_path):
    scans(tmp_path / "in", 40)
    dask = [sys.executable, "-m"]
    words = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
    (tmp_path / "marks").mkdir()
    scheduler, to = start([*dask, "distributed.cli.dask_scheduler", *words], tmp_path, r"tcp://127\.0\.0\.1:\d+")
    words = ["--nthreads", "1", "--no-nanny", "--no-dashboard"]
    worker, _ = start([*dask, "distributed.cli.dask_worker", to, *words], tmp_path, "Registered to")
    words = [
        "predict",
        "in",
        "-o",
        "out",
        "--model",
        organs(tmp_path / "organs"),
        "--engine",
        "onnx",
        "--scheduler",
        to,
    ]
    run = subprocess.Popen(
        line(*words), cwd=tmp_path, env=environment({}), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert run.stdout.readline()
    scheduler.kill()
    said = run.communicate(timeout=60)[1].splitlines()
    for process in (scheduler, worker):
        process.kill()
        process.wait()
    assert run.returncode == 1
    own = re.compile(
        r"error: case\d+: the scheduler has gone$|  start it, and this run, again$|\d+ of 40 scans|cohort\w*.csv: "
        r"|[\d-]+ [\d:]+ case\d+: (done, pass|failed)$|organs on "
    )
    assert [x for x in said if not own.match(x)] == []
    assert sum("has gone" in x for x in said) > 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Port 8787")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_6_3_workers_that_never_begin_are_not_waited_for(tmp_path):
    """The processes that are to become workers end while they read the program again."""
    scans(tmp_path / "in", 2)
    (tmp_path / "program.py").write_text(UNABLE)
    words = ("predict", "in", "-o", "out", "--model", organs(tmp_path / "organs"), "--scheduler", "local:2")
    done = command(*words, cwd=tmp_path, before=["program.py"])
    said = done.stderr.decode().splitlines()
    assert (done.returncode, said[0]) == (69, "error: --scheduler local:2: no worker has begun within 5 s")
    assert len(said) == 2


def tell(message: str) -> None:
    """In a worker: Dask writes an error into its own log."""
    logging.getLogger("distributed.worker").error(message)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Port 8787")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_log_of_a_local_cluster_is_not_among_the_lines_of_the_command(capfd, monkeypatch):
    from distributed import Client

    from segcli.batch.cluster import _cluster

    monkeypatch.delenv("PYTHONWARNINGS", raising=False)
    with _cluster("local:1") as address, Client(address, set_as_default=False) as client:
        assert (
            os.environ["PYTHONWARNINGS"] == "ignore"
        )  # of workers, and of Python's helpers that outlive a stopped run
        client.wait_for_workers(1, timeout=60)
        client.run(tell, "Failed to communicate with scheduler during heartbeat.")
    assert capfd.readouterr().err == ""
    assert "PYTHONWARNINGS" not in os.environ
