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


@pytest.mark.parametrize(("text", "share"), [("150000 100000", 1.5), ("max 100000", None)])
def test_a_control_groups_share_is_read(text: str, share: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda self, encoding: text)
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
