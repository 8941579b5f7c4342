"""Where events go."""

import json
from pathlib import Path

import pytest

from segcli.batch.cases import Case
from segcli.batch.events import Event
from segcli.commands.events import events_to
from segcli.commands.progress import Show
from segcli.errors import OutputExists

CASE = Case("a", (Path("a.nii"),), Path())


def test_2_7_a_folder_takes_no_events(tmp_path):
    with pytest.raises(OutputExists, match="is a folder, and events go into a file"), events_to(str(tmp_path)):
        pass


def test_2_7_events_are_added_to_events_and_to_nothing_else_that_begins_like_them(tmp_path):
    path = tmp_path / "events"
    for _ in range(2):
        with events_to(str(path)) as stream:
            Show(1, quiet=True, verbose=0, events=stream).watch(Event("read", CASE))
    assert [json.loads(line)["event"] for line in path.read_text().splitlines()] == ["read", "read"]
    others = [
        '{"name": "somebody else\'s"}\n',
        '{"schema": 1, "event": "read"}\n',
        '{"schema": 1, "event": "lunch", "time": "12:00", "case": "a"}\n',
        '{"schema": 1, "event": "read", "ti',
        '{"\n',
        "[1]\n",
        "[" * 4000,
    ]
    for text in others:
        path.write_text(text)
        with pytest.raises(OutputExists), events_to(str(path)):
            pass
        assert path.read_text() == text


def test_events_make_no_file_where_a_planted_link_leads(tmp_path):
    (tmp_path / "events").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputExists), events_to(str(tmp_path / "events")):
        pass
    assert not (tmp_path / "elsewhere").exists()
