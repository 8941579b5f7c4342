"""What `segcli plan` takes and says."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from runs import in_process, scan

from segcli import formats
from segcli.batch import budget
from segcli.batch.case import names_of
from segcli.batch.cases import Case, cases
from segcli.batch.selection import Selection
from segcli.commands.app import app
from segcli.commands.plan import _all_refused, _grids, _lines, _looked_at, _of_all
from segcli.commands.terminal import duration
from segcli.commands.values import size
from segcli.errors import Denied, InputError, UsageError
from segcli.formats.dicom import search

from dicom_phantom import series  # isort: skip - runs makes their folders known
from scan_files import nifti  # isort: skip


@pytest.mark.slow
@pytest.mark.usefixtures("briefly")
def test_a_plan_takes_the_limits_and_models_of_predict(model, tmp_path):
    scan(tmp_path / "a.nii.gz")
    one, two = (
        json.loads(in_process("plan", "a.nii.gz", *models, *limits, "--engine", "onnx", "--json", cwd=tmp_path).stdout)
        for models, limits in (
            (("-m", model), ("--max-ram", "64G")),
            (("-m", model, "-m", model), ("--max-ram", "16M")),
        )
    )
    assert two["windows"] == 2 * one["windows"] > 0
    assert (one["sums_on_disk"], two["sums_on_disk"]) == (False, True)


@pytest.mark.slow
@pytest.mark.usefixtures("briefly")
def test_a_plan_is_of_all_scans_and_takes_the_channels_of_one(model, tmp_path):
    for name in "abcd":
        scan(tmp_path / f"{name}.nii.gz")
    many = in_process("plan", ".", "-m", model, "--engine", "onnx", "--json", cwd=tmp_path)
    needs = json.loads(many.stdout)
    assert (needs["scans"], len(needs["looked_at"]), needs["windows"]) == (4, 3, 4)
    one = in_process("plan", "--channel", "CT=a.nii.gz", "-m", model, "--engine", "onnx", cwd=tmp_path)
    assert [line.split()[0] for line in one.stdout.decode().splitlines()] == [
        "scan", "engine", "windows", "time", "memory", "disk",
    ]  # fmt: skip


def test_a_scan_that_is_refused_is_told_and_another_is_looked_at(tmp_path):
    found = []
    for size_of, name in enumerate("abcde", 1):
        found.append(Case(name, (tmp_path / name,), tmp_path, volume=size_of))
    found[2] = replace(found[2], fault=InputError("c: no scan"))

    def voxels(case):
        return case.volume, 1

    def budget(case):
        name = case.paths[0].name
        if name in "ae":
            raise InputError(f"{name}: truncated")
        return {"of": case.name}

    looked_at, refused, sizes = _looked_at(found, voxels, budget)
    assert [case.name for case, _ in looked_at] == ["b", "d"]
    assert sizes == {found[1]: 2, found[3]: 4}
    assert sorted(error.message for error in refused) == ["a: truncated", "c: no scan", "e: truncated"]
    assert _looked_at([found[0]], voxels, budget)[0] == []

    def without_volumes(case):
        raise UsageError(f"{case.name}: holds one volume, there is nothing that --volume 2 could choose")

    assert len(_looked_at(found[:2], voxels, without_volumes)[1]) == 2
    _, (error,), _ = _looked_at([replace(found[0], name="sub/a")], voxels, budget)
    assert error.message == "sub/a: a: truncated"  # as predict says it
    assert _all_refused(refused).exit_code == 65
    assert _all_refused([*refused, Denied("no")]).exit_code == 1


def test_a_header_that_is_refused_is_told_of_every_scan_and_packed_files_are_compared_by_their_voxels(tmp_path):
    noise = np.random.default_rng(0).integers(0, 9999, (9, 9, 9)).astype("i2")
    for n in range(9):
        nifti(tmp_path / f"{n}.nii.gz", noise if n == 4 else np.zeros((20, 20, 20 + n), "i2"))
    nifti(tmp_path / "bad.nii", sform_code=0, qform_code=0)
    series(tmp_path / "ct", each=lambda ds, k: k != 3)
    found = cases([str(tmp_path)])
    looked_at, refused, sizes = _looked_at(found, _stored(_grids(1, None)), lambda case: {"of": case.name})
    assert [case.name for case, _ in looked_at] == ["4", "3", "8"]
    assert len(sizes) == 9
    assert sorted(error.message.split(": ")[0] for error in refused) == ["bad.nii", found[-1].name]


def test_the_headers_of_a_folder_of_series_are_read_once(tmp_path, monkeypatch):
    """They were read again for each of its series: a folder of 200 took an hour."""
    for n in range(3):
        series(tmp_path / str(n), np.zeros((4 + n, 6, 5), "i2"), uid=str(n), SeriesNumber=n, each=lambda ds, k: k != 4)
        for file in (tmp_path / str(n)).iterdir():
            file.rename(tmp_path / f"{n}-{file.name}")
        (tmp_path / str(n)).rmdir()
    found, opened = cases([str(tmp_path)], select=Selection(("all",))), []
    monkeypatch.setattr(search, "open_file", lambda path, known=search.open_file: opened.append(path) or known(path))
    looked_at, refused, sizes = _looked_at(found, _stored(_grids(1, None)), lambda case: {"of": case.name})
    assert ([case.name for case, _ in looked_at], len(sizes)) == ([found[0].name, found[1].name], 2)
    assert [error.message for error in refused] == [_refusal(found[2])]
    assert len(opened) == 13 + 13  # the second time by the reading that the first is compared with
    (tmp_path / "x.dcm").write_bytes(bytes(128) + b"DICM" + bytes(9))
    _, refused, sizes = _looked_at(found, _stored(_grids(1, None)), lambda case: {"of": case.name})
    assert (sizes, {error.message for error in refused}) == ({}, {_refusal(case) for case in found})


def _stored(grid_of):
    """Says how many voxels a case has, for a network that sees each of them."""
    return lambda case: (grid_of(case).size,) * 2


def _refusal(case):
    """What reading a case says."""
    with pytest.raises(InputError) as no:
        formats.read(case.paths, series=case.series)
    return no.value.about(*names_of(case)).message


@pytest.fixture
def planned(model, tmp_path, monkeypatch, capsys):
    """Runs plan here with some words, no window of a network; the JSON document and what is told."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(budget, "plan_case", lambda *case, **how: {**ONE, "warnings": []})

    def run(*words, refuses=None):
        with pytest.raises(SystemExit if refuses is None else refuses) as ended:
            app(["plan", *words, "-m", str(model), "--json"], standalone_mode=refuses is None)
        out, err = capsys.readouterr()
        assert refuses is not None or ended.value.code == 0, err
        return json.loads(out), err

    return run


def test_a_plan_takes_the_scans_as_predict_takes_them(planned, tmp_path):
    """It took one file or folder, and of a BIDS dataset it counted scans that `predict --suffix` leaves out."""
    for subject in ("sub-01", "sub-02"):
        for suffix in ("T1w", "T2w"):
            scan(tmp_path / "bids" / subject / "anat" / f"{subject}_{suffix}.nii.gz")
    files = [str(path) for path in sorted((tmp_path / "bids").rglob("*.nii.gz"))]
    (tmp_path / "list").write_text("\n".join(files))
    for words, count in (
        (files[:3], 3),
        (["bids", "--suffix", "T1w"], 2),
        (["bids", "--suffix", "T1w", "--participant-label", "02"], 1),
        (["bids", "--exclude", "*T2w*", "--include", "sub-01/*"], 1),
        (["--files-from", "list"], 4),
        (["--files-from", "list", "--shard", "1/4"], 1),
    ):
        assert planned(*words)[0]["scans"] == count, words


def test_a_part_without_a_scan_needs_nothing(planned, tmp_path):
    scan(tmp_path / "a.nii.gz")
    needs, told = planned("a.nii.gz", "--shard", "2/2")
    assert needs.keys() == planned("a.nii.gz", "--shard", "1/2")[0].keys()
    assert (needs["scans"], needs["windows"], needs["engine"]) == (0, 0, None)
    assert told == "--shard 2/2: this part is empty, nothing is to be done (scans in all: 1)\n"


@pytest.mark.parametrize("count", [1, 2])
def test_a_plan_whose_scans_are_all_refused_has_its_document_too(planned, tmp_path, count):
    """It printed none, as if there were no scan to be told of."""
    files = [str(tmp_path / f"bad{i}.nii") for i in range(count)]
    for file in files:
        Path(file).write_bytes(b"x")
    needs, _ = planned(*files, refuses=InputError)
    assert (needs["scans"], needs["engine"], needs["looked_at"], len(needs["refused"])) == (0, None, [], count)


@pytest.mark.slow
@pytest.mark.usefixtures("briefly")
def test_one_bad_scan_of_a_folder_stops_no_plan(model, tmp_path):
    scan(tmp_path / "a.nii.gz")
    (tmp_path / "bad.nii").write_bytes(b"x")
    ended = in_process("plan", ".", "-m", model, "--engine", "onnx", "--json", cwd=tmp_path)
    assert ended.returncode == 1
    needs = json.loads(ended.stdout)
    assert (needs["scans"], needs["looked_at"], len(needs["refused"])) == (1, ["a"], 1)
    assert needs["refused"][0].startswith("bad.nii: ")
    assert b"1 of 2 scans would fail, and are not counted" in ended.stderr


def test_the_largest_file_is_looked_at_too_where_another_scan_is_the_largest_to_the_network(tmp_path):
    found = [Case(name, (tmp_path / name,), tmp_path) for name in "abcdef"]
    sizes = dict(zip(found, [(1, 6), (2, 9), (3, 5), (4, 4), (5, 3), (6, 2)], strict=True))
    looked_at, _, _ = _looked_at(found, sizes.get, lambda case: {})
    assert [case.name for case, _ in looked_at] == ["a", "c", "f", "b"]


ONE = {"engine": "e", "windows": 1, "seconds": 2.0, "ram_mb": 3, "vram_mb": 0, "disk_mb": 1.0, "sums_on_disk": False}


def _needs(voxels, looked_at):
    """What all scans of so many voxels need, by the budgets of some, by their places."""
    found = [Case(str(i), (), None) for i in range(len(voxels))]
    return _of_all([(found[i], one) for i, one in looked_at.items()], dict(zip(found, voxels, strict=True)))


def test_what_all_scans_need_is_told_by_some_of_them():
    needs = _needs([10] * 9 + [30], {0: ONE, 4: ONE, 9: {**ONE, "windows": 3, "seconds": 4.0, "ram_mb": 5}})
    assert (needs["windows"], needs["seconds"], needs["ram_mb"], needs["disk_mb"]) == (12, 22.0, 5, 10.0)


def test_a_scan_more_is_never_a_need_less():
    """Nine equal scans needed 3,645 windows, and with a tenth of 18 windows 2,760: the plain mean counted for all."""
    large, small = {**ONE, "windows": 405}, {**ONE, "windows": 18}
    assert _needs([900] * 9, {0: large, 4: large, 8: large})["windows"] == 9 * 405
    assert _needs([900] * 9 + [30], {9: small, 4: large, 8: large})["windows"] == 9 * 405 + 18


def test_scans_of_one_size_that_need_unlike_much_count_by_their_mean():
    assert _needs([9, 9, 9, 9], {0: ONE, 1: {**ONE, "windows": 2}, 3: {**ONE, "windows": 6}})["windows"] == 12


@pytest.mark.parametrize(("disk", "told"), [(0.003, "less than 0.1 MB"), (0.1, "0.1 MB"), (1234.56, "1,234.6 MB")])
def test_a_little_of_the_disk_is_not_told_as_nothing(disk, told):
    needs = {"engine": "e", "windows": 1, "seconds": 1, "ram_mb": 1, "vram_mb": 0, "sums_on_disk": False}
    assert _lines({**needs, "disk_mb": disk, "scans": 1, "looked_at": ["a"]})["disk"] == told


@pytest.mark.parametrize(("seconds", "told"), [(48.4, "48 s"), (720, "12 min"), (19_200, "5 h 20 min")])
def test_a_time_is_told_as_a_person_says_it(seconds, told):
    assert duration(seconds) == told


@pytest.mark.parametrize(
    ("text", "hint"), [("10", "--max-ram 10GB?"), ("0", "such as --max-ram 4GB"), ("1M", "such as --max-ram 4GB")]
)
def test_a_limit_in_which_nothing_runs_is_refused_with_what_may_be_meant(text, hint):
    with pytest.raises(UsageError) as refusal:
        size("--max-ram", text)
    assert refusal.value.hint == hint
