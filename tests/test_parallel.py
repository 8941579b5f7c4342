"""cores: what the process may use, and work shared among them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from segcli import parallel as room
from segcli.parallel import cores, each


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    cores.cache_clear()
    yield
    cores.cache_clear()


def test_the_affinity_and_the_control_group_bound_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room.os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 4}, raising=False)
    monkeypatch.setattr(room, "_group_share", lambda: None)
    assert cores() == 5
    cores.cache_clear()
    monkeypatch.setattr(room, "_group_share", lambda: 1.5)
    assert cores() == 2


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_CPUS_PER_TASK": "4", "SLURM_CPUS_ON_NODE": "16"}, 4),
        ({"SLURM_JOB_ID": "7", "SLURM_CPUS_PER_TASK": "1", "SLURM_CPUS_ON_NODE": "8"}, 8),  # a script of eight tasks
        ({"SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "1"}, 1),
        ({"JOB_ID": "7", "NSLOTS": "3"}, 3),
        ({"LSB_JOBID": "7", "LSB_DJOB_NUMPROC": "2"}, 2),
        ({"PBS_JOBID": "7.head", "NCPUS": "5", "PBS_NUM_PPN": "6"}, 5),
        ({"SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "128"}, 64),  # of a node with fewer
        ({"SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "24(x2)"}, 64),
        ({"SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "0"}, 64),
        ({"SLURM_JOB_ID": "7", "SLURM_CPUS_ON_NODE": "9" * 5000}, 64),
        ({"SLURM_JOB_ID": "", "SLURM_CPUS_ON_NODE": "1"}, 64),
        ({"NCPUS": "5", "NSLOTS": ""}, 64),  # of no job
    ],
)
def test_a_job_takes_no_more_cores_than_it_was_given(
    variables: dict[str, str], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a cluster binds no job to its cores, a job with 4 of them took all of the machine's."""
    for name in {*room._GRANTED, *room._GRANTED.values()}:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(room.os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    monkeypatch.setattr(room, "_group_share", lambda: None)
    assert cores() == expected


TWO, ONE = "/sys/fs/cgroup", "/sys/fs/cgroup/cpu"


@pytest.mark.parametrize(
    ("texts", "share"),
    [
        ({f"{TWO}/cpu.max": "150000 100000\n"}, 1.5),
        ({f"{TWO}/cpu.max": "max 100000\n"}, None),
        ({}, None),
        # of a job of SLURM or a unit of systemd: the limit is that of the group itself, or of one around it
        ({f"{TWO}/slurm/job/cpu.max": "max 100000", f"{TWO}/slurm/cpu.max": "200000 100000"}, 2),
        ({f"{TWO}/slurm/job/cpu.max": "100000 100000", f"{TWO}/slurm/cpu.max": "200000 100000"}, 1),
        ({f"{ONE}/cpu.cfs_quota_us": "50000\n", f"{ONE}/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({f"{ONE}/cpu.cfs_quota_us": "-1\n", f"{ONE}/cpu.cfs_period_us": "100000\n"}, None),
        ({f"{ONE}/docker/x/cpu.cfs_quota_us": "300000", f"{ONE}/docker/x/cpu.cfs_period_us": "100000"}, 3),
        ({f"{ONE}/cpu.cfs_quota_us": "50000\n", f"{ONE}/cpu.cfs_period_us": "0\n"}, None),
    ],
)
def test_a_control_groups_share_is_read(
    texts: dict[str, str], share: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"/proc/self/cgroup": "4:cpu,cpuacct:/docker/x\n0::/slurm/job\n", **texts}

    def text(self: Path, **_: str) -> str:
        if str(self) not in known:
            raise FileNotFoundError
        return known[str(self)]

    monkeypatch.setattr(Path, "read_text", text)
    assert room._group_share() == share


@pytest.mark.parametrize("count", [1, 3])
def test_each_item_is_worked_on_once_and_answers_keep_their_order(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "cores", lambda: count)
    seen: list[str] = []

    def work(item: int) -> int:
        seen.append(threading.current_thread().name)
        return item * item

    assert each(work, range(20)) == [i * i for i in range(20)]
    assert len(seen) == 20
    assert (set(seen) == {threading.current_thread().name}) == (count == 1)


def test_an_error_of_the_work_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "cores", lambda: 2)
    with pytest.raises(ZeroDivisionError):
        each(lambda item: 1 // item, [1, 0, 1])
