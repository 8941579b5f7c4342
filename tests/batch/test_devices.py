"""Several devices for one batch: a process or a worker on each, with the devices played."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from models import organs
from runs import command, scans

from segcli.batch import cluster, side_by_side
from segcli.batch.cases import Case
from segcli.batch.outputs import Destination
from segcli.batch.stages import Options, Outcome
from segcli.commands.running import Workers
from segcli.engines import choose, devices
from segcli.engines.devices import devices_of, spread
from segcli.engines.opening import Opening
from segcli.errors import EngineError, UsageError
from segcli.models.library import read_card


@pytest.fixture(autouse=True)
def three(monkeypatch: pytest.MonkeyPatch) -> None:
    for room in (devices, cluster, side_by_side, choose):
        monkeypatch.setattr(room, "driver_devices", lambda: 3)


def test_all_are_those_that_the_drivers_show_and_a_list_is_taken_as_it_is() -> None:
    assert devices_of("cuda:all") == ("cuda:0", "cuda:1", "cuda:2")
    assert devices_of("cuda:2,cuda:0") == ("cuda:2", "cuda:0")
    assert [devices_of(name) for name in ("auto", "cpu", "cuda", "mps")] == [("auto",), ("cpu",), ("cuda",), ("mps",)]


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("cuda:1,cuda:1", "several are different CUDA devices"),
        ("cuda:0,cpu", "several are different CUDA devices"),
        ("cuda,cuda:1", "several are different CUDA devices"),
        ("cuda:0,", "no device is called ''"),
        ("gpu:all", "no device is called 'gpu:all'"),
        ("cuda:0,xpu:1", "several are different CUDA devices"),
    ],
)
def test_6_8_several_that_are_none_or_not_different_are_a_mistake_of_the_command_line(named: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        devices_of(named)


def test_6_8_one_of_several_that_is_not_there_is_refused() -> None:
    with pytest.raises(EngineError, match="cuda:3 is not there: 3 CUDA devices found"):
        devices_of("cuda:0,cuda:3")


def test_6_8_all_of_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "driver_devices", lambda: 0)
    with pytest.raises(EngineError, match="cuda:all is not there: 0 CUDA devices found"):
        devices_of("cuda:all")


def pools(monkeypatch: pytest.MonkeyPatch) -> list[Opening]:
    """In place of processes some that label nothing; what each case was given is kept."""
    used: list[Opening] = []

    class Pool:
        def submit(self, work: Any, case: Case, opening: Opening, *more: Any) -> Any:
            used.append(opening)
            outcome = Outcome(case, "done"), []
            return type("Future", (), {"result": lambda self: outcome})()

        def shutdown(self) -> None:
            pass

    monkeypatch.setattr(side_by_side, "_process", lambda share: Pool())
    return used


@pytest.mark.parametrize(("device", "jobs", "share"), [("cuda:0,cuda:2", 2, 8), ("cuda", 4, 2)])
def test_processes_on_one_device_share_what_may_be_taken_of_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, jobs: int, share: int
) -> None:
    used = pools(monkeypatch)
    opening = Opening(("organs",), device=device, max_vram=8 << 30)
    found = [Case(f"case{i}", (tmp_path / f"case{i}.nii.gz",), tmp_path) for i in range(4)]
    told = (jobs, found, opening, Destination(), Options(), lambda event: None, devices_of(device))
    assert len(list(side_by_side.predict_beside(*told))) == 4
    assert {opening.max_vram for opening in used} == {share << 30}


def test_each_device_has_one_case_at_a_time_whose_files_come_in_the_cases_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = pools(monkeypatch)
    card = read_card(organs(tmp_path / "organs"))
    opening = Opening((str(card.folder),), device="cuda:0,cuda:2")
    found = [Case(path.name, (path,), tmp_path) for path in scans(tmp_path / "in", 6)]
    places = devices_of(opening.device)
    jobs = Workers().beside(found, card, opening, places)
    assert jobs == 2
    ended = list(
        side_by_side.predict_beside(jobs, found, opening, Destination(), Options(), lambda event: None, places)
    )
    assert [outcome.case.name for outcome in ended] == [case.name for case in found]
    assert {"cuda:0", "cuda:2"} >= {opening.device for opening in used}
    assert len(used) == 6


def test_several_devices_and_several_jobs_are_refused(tmp_path: Path) -> None:
    card = read_card(organs(tmp_path / "organs"))
    with pytest.raises(UsageError, match="--jobs 4 and 2 devices: each has one case at a time"):
        Workers(jobs=4).beside([], card, Opening(("organs",)), ("cuda:0", "cuda:1"))


# ---- workers of a cluster


def test_workers_on_this_machine_take_its_devices_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    assert spread("auto", 3) == ("auto:0", "auto:1", "auto:2")
    assert spread("cuda", 3) == ("cuda:0", "cuda:1", "cuda:2")
    assert spread("cuda:1", 3) == ("cuda:1",)
    assert spread("cuda:all", 3) == ("cuda:0", "cuda:1", "cuda:2")
    assert (spread("auto", 1), spread("auto", 0), spread("cpu", 3)) == (("auto",), ("auto",), ("cpu",))
    seen: list[str] = []
    monkeypatch.setattr(cluster, "work", lambda case, opening, to, options: seen.append(opening.device))
    pytest.importorskip("distributed", reason="the extra [cluster] is not installed")
    import distributed

    opening: Any = Opening(("organs",), device="cuda:0,cuda:1,cuda:2")
    given: Any = None
    for name in (0, 1, 2, 3):
        monkeypatch.setattr(distributed, "get_worker", lambda name=name: type("Worker", (), {"name": name}))
        cluster._work(given, opening, given, given)
    cluster._work(given, replace(opening, device="cuda"), given, given)
    assert seen == ["cuda:0", "cuda:1", "cuda:2", "cuda:0", "cuda"]


def test_devices_of_workers_elsewhere_are_not_told_by_their_numbers() -> None:
    assert cluster._devices("cuda", local=False) == ("cuda",)
    for named in ("cuda:all", "cuda:0,cuda:1"):
        with pytest.raises(UsageError, match="workers elsewhere have devices of their own"):
            cluster._devices(named, local=False)


def test_auto_looks_at_the_device_whose_turn_it_is_and_takes_the_cpu_where_it_cannot_be_used(tmp_path: Path) -> None:
    chosen = choose.choose(read_card(organs(tmp_path / "organs")), "auto", "auto:2")
    assert chosen.device == "cpu"  # this torch has no CUDA
    assert "a CUDA device is there, but" in chosen.warnings[0]
    assert not chosen.named


def test_6_8_the_command_refuses_devices_that_are_not_there_before_it_begins(tmp_path: Path) -> None:
    scans(tmp_path / "in", 2)
    for named, words in (("cuda:all", b"cuda:all is not there"), ("cuda:0,cuda:1", b"cuda:0 is not there")):
        done = command("predict", "in", "-o", "out", "--device", named, cwd=tmp_path)
        assert (done.returncode, words in done.stderr) == (69, True), done.stderr
    assert not (tmp_path / "out").exists()
