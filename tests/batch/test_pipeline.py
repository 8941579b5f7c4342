"""A batch: one bad case costs itself, everything is whole, and faults of a run are met (PROMISES.md 2 and 6)."""

import errno
import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
from models import CARD
from runs import Pointwise, card, files, opened, quick, scan, scans
from scan_files import nifti

from segcli import formats
from segcli.batch import labelling, pipeline, room, stages
from segcli.batch.bids import derivative_name
from segcli.batch.cases import Case, cases
from segcli.batch.clashes import apart
from segcli.batch.events import unwatched
from segcli.batch.names import is_own
from segcli.batch.outputs import Destination
from segcli.batch.stages import Options, Outcome
from segcli.errors import InputError, ModelError, OutOfMemory, OutputError, UsageError
from segcli.formats import atomic
from segcli.models.card import ModelCard, parse
from segcli.models.library import file_sha256
from segcli.structures import file_names


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelCard:
    return card(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def _no_hang() -> Iterator[None]:
    timer = quick()
    yield
    timer.cancel()


def run(model, inputs, out, engine=None, options=None, watch=unwatched, **to) -> list[Outcome]:
    found = cases([str(p) for p in inputs], output=out)
    return list(pipeline.predict(found, model, opened(engine), Destination(out, **to), options or Options(), watch))


def codes(outcomes: list[Outcome]) -> list[int]:
    return [o.error.exit_code if o.error else 0 for o in outcomes]


def test_the_labels_are_those_of_the_phantom(model, tmp_path):
    scan(tmp_path / "a.nii.gz")
    (done,) = run(model, [tmp_path / "a.nii.gz"], tmp_path / "out")
    written = np.asarray(nibabel.load(done.paths[0]).dataobj)
    assert set(np.unique(written)) == {0, 1, 2, 3}
    assert written[5, 5, 5] == 2
    assert written[10, 5, 5] == 3


# ---- 1 and 6: how a batch ends


def test_6_1_one_bad_case_of_eight_costs_that_case_only(model, tmp_path):
    scans(tmp_path / "in", 8)
    bad = tmp_path / "in" / "case3.nii.gz"
    bad.write_bytes(bad.read_bytes()[:-20])
    ended = run(model, [tmp_path / "in"], tmp_path / "out")
    assert [o.case.name for o in ended] == [f"case{i}" for i in range(8)]
    assert codes(ended) == [0, 0, 0, 65, 0, 0, 0, 0]
    assert "case3.nii.gz: " in ended[3].error.message
    assert not [name for name in files(tmp_path / "out") if "case3" in name]
    assert len(files(tmp_path / "out")) == 14


def test_1_2_all_failing_alike_end_with_that_code_and_others_with_1():
    from segcli.commands.outcomes import exit_code

    def ended(*codes: int) -> list[Outcome]:
        case = Case("a", (), Path())
        kinds = {65: InputError, 71: OutOfMemory}
        return [Outcome(case, "failed" if c else "done", error=kinds[c]("") if c else None) for c in codes]

    assert exit_code(ended(0, 0)) == 0
    assert exit_code(ended(65)) == 65
    assert exit_code(ended(65, 65)) == 65
    assert exit_code(ended(65, 71)) == 1
    assert exit_code(ended(0, 65)) == 1


def test_1_3_a_refusal_names_its_case_where_files_of_several_bear_one_name(model, tmp_path):
    for subject in ("sub-01", "sub-02"):
        path = scan(tmp_path / "in" / subject / "t1.nii.gz")
        path.write_bytes(path.read_bytes()[:-20])
    first, second = run(model, [tmp_path / "in"], tmp_path / "out")
    assert first.error.message.startswith("sub-01/t1: t1.nii.gz: ")
    assert second.error.message.startswith("sub-02/t1: t1.nii.gz: ")


@pytest.mark.parametrize("stage", ["read", "network", "write"])
def test_6_1_an_error_in_any_stage_is_the_cases_and_the_batch_goes_on(model, tmp_path, monkeypatch, stage):
    inputs = scans(tmp_path / "in", 3)

    def broken(*_: object, **__: object) -> None:
        monkeypatch.undo()
        raise RuntimeError("out of order")

    def spoil(logits: np.ndarray) -> np.ndarray:
        if stage == "network" and not seen:
            seen.append(1)
            raise RuntimeError("out of order")
        return logits

    seen: list[int] = []
    if stage != "network":
        monkeypatch.setattr(formats, stage, broken)
    ended = run(model, inputs, tmp_path / "out", Pointwise(spoil))
    assert sorted(codes(ended)) == [0, 0, 70]
    (failed,) = (o for o in ended if o.error)
    assert "internal error of segcli: RuntimeError: out of order" in failed.error.message
    assert "report it" in failed.error.hint
    assert "broken" in failed.details or "spoil" in failed.details
    assert len(files(tmp_path / "out")) == 4


@pytest.mark.parametrize(
    ("number", "stage", "code"),
    [
        (errno.EIO, "read", 65),  # the scan's disk
        (errno.EIO, "write", 74),
        (errno.ENOSPC, "read", 74),  # of temporary files
        (errno.ENOMEM, "read", 71),
        (errno.EACCES, "write", 77),
    ],
)
def test_1_1_an_error_of_the_system_has_the_code_of_its_cause(model, tmp_path, monkeypatch, number, stage, code):
    def broken(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    scan(tmp_path / "a.nii.gz")
    monkeypatch.setattr(formats, stage, broken)
    (ended,) = run(model, [tmp_path / "a.nii.gz"], tmp_path / "out")
    assert (ended.error.exit_code, ended.error.message) == (code, f"a.nii.gz: {os.strerror(number)}")


@pytest.mark.parametrize(
    ("ending", "to"),
    [
        ("_seg.nii.gz", {}),
        ("_seg-organs_dseg.nii.gz", {"layout": "bids"}),
        ("_probseg.nii.gz", {"forms": ("nifti", "probabilities")}),
    ],
)
def test_3_15_a_scan_whose_outputs_could_have_no_name_is_refused_with_the_numbers(model, tmp_path, ending, to):
    room = 255 - len(ending)
    for name in ("a" * (room + 1), "b" * room):
        scan(tmp_path / "in" / f"{name}.nii")
    longer, fits = run(model, [tmp_path / "in"], tmp_path / "out", **to)
    assert (longer.error.exit_code, fits.error) == (65, None)
    assert f"{ending} would have a name of 256 bytes, 255 are possible" in longer.error.message


def test_6_1_a_fault_found_beforehand_is_the_cases_outcome(model, tmp_path):
    scan(tmp_path / "a.nii.gz")
    ended = run(model, [tmp_path / "a.nii.gz", tmp_path / "absent.nii"], tmp_path / "out")
    assert codes(ended) == [0, 66]


def test_the_first_outcome_is_there_before_the_last_scan_is_read(model, tmp_path):
    scans(tmp_path / "in", 8)
    read = []
    found = cases([str(tmp_path / "in")])
    stream = pipeline.predict(
        found,
        model,
        opened(),
        Destination(tmp_path / "out"),
        None,
        lambda e: e.name == "read" and read.append(e.case.name),
    )
    next(stream)
    assert len(read) <= 4  # one written, one computed, one read ahead: no queue grows with the batch
    stream.close()


def test_the_engine_rests_once_between_the_last_scan_and_its_writing(model, tmp_path):
    scans(tmp_path / "in", 3)
    story = []
    engine = Pointwise()
    engine.rest = lambda: story.append("rest")
    ended = run(
        model, [tmp_path / "in"], tmp_path / "out", engine, watch=lambda e: story.append(f"{e.name} {e.case.name}")
    )
    assert codes(ended) == [0, 0, 0]
    assert story.count("rest") == 1
    at = story.index("rest")
    assert story.index("window case2") < at < story.index("write case2")
    assert not any(event.startswith("window") for event in story[at:])


# ---- 2: files


def test_2_2_a_refused_case_leaves_nothing_not_even_masks_and_tables(model, tmp_path, monkeypatch):
    scan(tmp_path / "a.nii.gz")

    def broken(path: Path, data: bytes) -> None:
        if path.name == "a_seg.json":
            raise OSError(5, "Input/output error")
        real(path, data)

    real = atomic.write_bytes
    monkeypatch.setattr(atomic, "write_bytes", broken)
    ended = run(model, [tmp_path / "a.nii.gz"], tmp_path / "out", reports=("csv",), tables=("slicer",), split=True)
    assert codes(ended) == [74]
    assert files(tmp_path / "out") == {}


def test_2_3_the_next_run_removes_what_a_killed_one_left(model, tmp_path):
    import subprocess
    import sys

    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    scan(tmp_path / "a.nii.gz")
    (tmp_path / "out").mkdir()
    name = atomic.partial_name("a_seg.nii.gz").replace(f"-{os.getpid()}-", f"-{ended.pid}-")
    (tmp_path / "out" / name).write_bytes(b"half")
    run(model, [tmp_path / "a.nii.gz"], tmp_path / "out")
    assert sorted(files(tmp_path / "out")) == ["a_seg.json", "a_seg.nii.gz"]


def test_2_4_killed_between_record_and_label_map_the_case_is_done_again(model, tmp_path):
    scan(tmp_path / "a.nii.gz")
    run(model, [tmp_path / "a.nii.gz"], tmp_path / "out", reports=("csv",))
    whole = files(tmp_path / "out")
    (tmp_path / "out" / "a_seg.nii.gz").unlink()
    (ended,) = run(model, [tmp_path / "a.nii.gz"], tmp_path / "out", reports=("csv",))
    assert ended.status == "done"
    assert files(tmp_path / "out") == whole


def test_2_5_a_second_run_does_only_what_is_missing_and_leaves_the_rest_untouched(model, tmp_path):
    scans(tmp_path / "in", 3)
    run(model, [tmp_path / "in"], tmp_path / "out")
    whole = files(tmp_path / "out")
    for name in ("case1_seg.json", "case1_seg.nii.gz"):
        (tmp_path / "out" / name).unlink()
    kept = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in (tmp_path / "out").iterdir()}
    again = run(model, [tmp_path / "in"], tmp_path / "out")
    assert [o.status for o in again] == ["skipped", "done", "skipped"]
    assert all((p.read_bytes(), p.stat().st_mtime_ns) == was for p, was in kept.items())
    assert files(tmp_path / "out") == whole


def test_2_5_a_missing_table_is_made_and_the_label_map_stays_untouched(model, tmp_path):
    scan(tmp_path / "a.nii.gz")
    (first,) = run(model, [tmp_path / "a.nii.gz"], tmp_path / "out")
    before = first.paths[0].stat()
    said: list[str | None] = []
    watch = lambda event: said.append(event.sentence) if event.name == "doubt" else None  # noqa: E731
    (again,) = run(model, [tmp_path / "a.nii.gz"], tmp_path / "out", watch=watch, reports=("csv",))
    assert said == [
        "a_seg.nii.gz is done, the network runs again for a_seg.csv alone; `segcli report` makes such files without"
    ]
    assert again.status == "done"
    assert (tmp_path / "out" / "a_seg.csv").exists()
    assert first.paths[0].stat().st_mtime_ns == before.st_mtime_ns
    assert run(model, [tmp_path / "a.nii.gz"], tmp_path / "out", reports=("csv",))[0].status == "skipped"


@pytest.mark.parametrize("change", ["input", "model", "options", "labels", "volume"])
def test_2_7_an_output_that_is_not_a_verified_result_is_kept_and_the_case_refused(model, tmp_path, change):
    path = scan(tmp_path / "a.nii.gz")
    run(model, [path], tmp_path / "out")
    engine, options = opened(), Options()
    (found,) = cases([str(path)])
    match change:
        case "input":
            scan(path, 1)
        case "model":
            engine = replace(engine, hashes={"weights.safetensors": "1" * 64})
        case "options":
            options = Options(overlap=0.25)
        case "labels":
            (tmp_path / "out" / "a_seg.nii.gz").write_bytes(b"edited by hand")
        case "volume":
            found = replace(found, volume=2)
    was = {p: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    (ended,) = pipeline.predict([found], model, engine, Destination(tmp_path / "out"), options)
    assert ended.error.exit_code == 73
    assert "a_seg" in ended.error.message
    assert {p: p.read_bytes() for p in (tmp_path / "out").iterdir()} == was
    if change != "volume":  # a NIfTI file has no second one
        (forced,) = pipeline.predict([found], model, engine, Destination(tmp_path / "out", overwrite=True), options)
        assert forced.status == "done"


def test_one_volume_of_a_series_is_labelled_as_a_file_of_its_own_and_stated(model, tmp_path):
    alone = nibabel.load(scan(tmp_path / "alone.nii.gz"))
    first, second = np.zeros(alone.shape, "i2"), np.asarray(alone.dataobj)
    nibabel.save(nibabel.Nifti1Image(np.stack([first, second], -1), alone.affine), tmp_path / "a.nii.gz")

    def made(volume: int | None) -> Outcome:
        found = cases([str(tmp_path / "a.nii.gz")], volume=volume)
        return next(iter(pipeline.predict(found, model, opened(), Destination(tmp_path / "out"), Options())))

    assert "`predict --volume N` takes one of them" in made(None).error.hint
    done, (own,) = made(2), run(model, [tmp_path / "alone.nii.gz"], tmp_path / "out")
    assert done.record["input"]["volume"] == 2
    assert [path.name for path in done.paths[:2]] == ["a_seg.nii.gz", "a_seg.json"]
    written = nibabel.load(done.paths[0])
    assert np.array_equal(written.dataobj, nibabel.load(own.paths[0]).dataobj)
    assert np.array_equal(written.affine, alone.affine)
    assert made(2).status == "skipped"
    assert made(1).error.exit_code == 73


@pytest.mark.parametrize("name", ["a_seg.nii.gz", "a_seg.json", "a_seg.csv"])
def test_2_7_a_file_of_somebody_else_is_kept(model, tmp_path, name):
    scan(tmp_path / "a.nii.gz")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).write_bytes(b"mine")
    (ended,) = run(model, [tmp_path / "a.nii.gz"], tmp_path / "out", reports=("csv",))
    assert ended.error.exit_code == 73
    assert files_raw(tmp_path / "out") == {name: b"mine"}


def files_raw(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_2_7_a_failed_run_with_overwrite_leaves_the_old_result(model, tmp_path):
    path = scan(tmp_path / "a.nii.gz")
    run(model, [path], tmp_path / "out")
    was = files_raw(tmp_path / "out")
    scan(path, 1)

    def fail(logits: np.ndarray) -> np.ndarray:
        raise RuntimeError

    assert codes(run(model, [path], tmp_path / "out", Pointwise(fail), overwrite=True)) == [70]
    assert files_raw(tmp_path / "out") == was


@pytest.mark.parametrize("way", ["path", "link", "hard link", "another case"])
def test_2_6_an_output_that_is_an_input_is_refused_before_the_start(model, tmp_path, way):
    scan(tmp_path / "in" / "a.nii.gz")
    other = scan(tmp_path / "in" / "b.nii.gz")
    out = tmp_path / "out"
    out.mkdir()
    match way:
        case "path":
            other, out = scan(tmp_path / "in" / "a_seg.nii.gz"), tmp_path / "in"
        case "link":
            (out / "a_seg.nii.gz").symlink_to(tmp_path / "in" / "a.nii.gz")
        case "hard link":
            (out / "a_seg.nii.gz").hardlink_to(tmp_path / "in" / "a.nii.gz")
        case "another case":
            (out / "a_seg.json").hardlink_to(other)
    found = cases([str(tmp_path / "in" / "a.nii.gz"), str(other)])
    with pytest.raises(UsageError, match=r"a_seg\.(nii\.gz|json): the output of a\.nii\.gz would overwrite the input"):
        apart(found, model, Destination(out, overwrite=True))


def test_2_8_two_inputs_with_one_output_name_are_refused_in_every_layout(model, tmp_path):
    for name in ("sub-01", "sub-01_T1w"):
        scan(tmp_path / "in" / "sub-01" / f"{name}.nii.gz")
    found = cases([str(tmp_path / "in")])
    apart(found, model, Destination(tmp_path / "out"))
    with pytest.raises(UsageError, match=r"sub-01\.nii\.gz and .*sub-01_T1w\.nii\.gz would both be written"):
        apart(found, model, Destination(tmp_path / "out", layout="bids"))


def test_2_8_scans_of_one_subject_have_names_of_their_own_in_a_bids_tree(model, tmp_path):
    for suffix in ("T1w", "FLAIR"):
        scan(tmp_path / f"sub-01_{suffix}.nii.gz")
    to = Destination(tmp_path / "out", layout="bids")
    both = cases([str(tmp_path)])
    apart(both, model, to)
    assert [to.labels(c, model.name).name for c in both] == [
        "sub-01_seg-organs_desc-FLAIR_dseg.nii.gz",
        "sub-01_seg-organs_dseg.nii.gz",
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sub-01_ses-1_run-2_T1w", "sub-01_ses-1_run-2_seg-m"),
        ("sub-01_ce-gd_T1w", "sub-01_ce-gd_seg-m"),
        ("sub-01_T2w", "sub-01_seg-m_desc-T2w"),
        ("sub-01_space-MNI_res-2_desc-preproc_T1w", "sub-01_space-MNI_seg-m_res-2_desc-preproc"),
        ("sub-01_space-MNI_desc-preproc_T2w", "sub-01_space-MNI_seg-m_desc-preprocT2w"),
        ("sub-01_acq-x", "sub-01_acq-x_seg-m"),
        ("sub-01_T2w.1", "sub-01_T2w.1_seg-m"),
        ("_T1w", "_T1w_seg-m"),
        ("case", "case_seg-m"),
    ],
)
def test_a_bids_name_has_seg_and_desc_where_the_specification_puts_them(name, expected):
    assert derivative_name(name, "m") == expected


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "10.00 MB are free, too few for the files of another scan"),
        (errno.EDQUOT, "your share (quota) is used up on the disk of "),
    ],
)
def test_2_10_once_the_disk_was_full_no_network_runs_for_scans_as_large(model, tmp_path, monkeypatch, number, said):
    paths = scans(tmp_path / "in", 5)
    free = [10_000_000]
    monkeypatch.setattr(room.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free[0]))

    def full(*_, **__):
        raise OutputError("no space left") from OSError(number, "full")

    monkeypatch.setattr(stages.formats, "write", full)
    asked: list[int] = []
    ended = run(model, paths, tmp_path / "out", Pointwise(lambda x: asked.append(1) or x))
    assert {outcome.error.exit_code for outcome in ended} == {74}
    assert len(asked) <= 2  # the second one's network has begun when the first one is written
    assert said in ended[-1].error.message


def test_2_10_a_smaller_scan_and_more_room_are_tried_on_a_disk_that_was_full(tmp_path, monkeypatch):
    free = [1000]
    monkeypatch.setattr(room.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free[0]))
    disks, labels = room.Filled(), tmp_path / "out" / "a.nii.gz"
    with pytest.raises(OutputError), disks.watched(labels, 50):
        raise OutputError("another reason")
    disks.check(labels, 50)
    with pytest.raises(OutputError), disks.watched(labels, 50):
        raise OutputError("no space left") from OSError(errno.ENOSPC, "full")
    disks.check(labels, 49)
    with pytest.raises(OutputError):
        disks.check(labels, 50)
    free[0] += 1
    disks.check(labels, 50)


def test_2_10_free_space_is_checked_before_the_network_runs(model, tmp_path, monkeypatch):
    scan(tmp_path / "a.nii.gz")
    monkeypatch.setattr(room.shutil, "disk_usage", lambda folder: Free())
    asked: list[int] = []
    (ended,) = run(model, [tmp_path / "a.nii.gz"], tmp_path / "out", Pointwise(lambda x: asked.append(1) or x))
    assert ended.error.exit_code == 74
    assert re.search(r"0\.\d+ MB are needed, 0\.00 MB are free", ended.error.message)
    assert not asked


class Free:
    free = 1000


def test_2_10_the_disk_full_at_twenty_points_ends_with_74_and_nothing_half(model, tmp_path):
    path = scan(tmp_path / "a.nii.gz")
    (whole,) = run(model, [path], tmp_path / "whole", reports=("csv",), split=True)
    largest = max(p.stat().st_size for p in whole.paths)
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in range(0, largest, largest // 20 + 1):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            (ended,) = run(model, [path], tmp_path / "out", reports=("csv",), split=True)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert ended.error is not None, size
        assert ended.error.exit_code == 74
        assert "a larger file than is allowed" in ended.error.message
        assert files(tmp_path / "out") == {}
    (ended,) = run(model, [path], tmp_path / "out", reports=("csv",), split=True)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_2_10_an_output_folder_that_is_a_file_is_refused_before_the_network_runs(model, tmp_path):
    scan(tmp_path / "a.nii.gz")
    (tmp_path / "out").write_bytes(b"")
    asked: list[int] = []
    (ended,) = run(model, [tmp_path / "a.nii.gz"], tmp_path / "out", Pointwise(lambda x: asked.append(1) or x))
    assert ended.error.exit_code == 73
    assert not asked


def test_2_13_a_result_that_came_meanwhile_is_kept_and_counts_as_done(model, tmp_path):
    path = scan(tmp_path / "a.nii.gz")

    def meanwhile(logits: np.ndarray) -> np.ndarray:
        if not (tmp_path / "out").exists():
            run(model, [path], tmp_path / "out")
            times.update({p: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()})
        return logits

    times: dict[Path, int] = {}
    (ended,) = run(model, [path], tmp_path / "out", Pointwise(meanwhile))
    assert ended.status == "done"
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()} == times


def test_2_13_a_different_result_that_came_meanwhile_is_never_mixed_with_ours(model, tmp_path):
    path = scan(tmp_path / "a.nii.gz")

    def meanwhile(logits: np.ndarray) -> np.ndarray:
        if not (tmp_path / "out").exists():
            run(model, [path], tmp_path / "out", options=Options(classes=("liver",)))
            was.update(files(tmp_path / "out"))
        return logits

    was: dict[str, object] = {}
    (ended,) = run(model, [path], tmp_path / "out", Pointwise(meanwhile))
    assert ended.error.exit_code == 73
    assert files(tmp_path / "out") == was


# ---- 5.8, 6.2, 6.3: numbers and memory


def test_5_8_logits_that_are_not_finite_end_the_case_and_name_the_window(model, tmp_path):
    def spoil(logits: np.ndarray) -> np.ndarray:
        logits[:, 2, 3, 4, 5] = np.nan
        return logits

    scan(tmp_path / "a.nii.gz")
    (ended,) = run(model, [tmp_path / "a.nii.gz"], tmp_path / "out", Pointwise(spoil))
    assert ended.error.exit_code == 78
    assert re.search(r"a\.nii\.gz: .*not finite in the window at voxels 0\.\.31", ended.error.message)
    assert not (tmp_path / "out").exists() or not files(tmp_path / "out")


def test_5_8_windows_that_were_computed_again_in_float32_are_a_warning_of_their_case(model, tmp_path):
    class Half(Pointwise):
        """Each of its windows overflows, and is computed again."""

        name, precision = "numpy half", "float16"

        def run(self, patches: np.ndarray) -> np.ndarray:
            self.repeated += len(patches)
            return super().run(patches)

    scan(tmp_path / "a.nii.gz")
    scan(tmp_path / "b.nii.gz")
    (plain,) = run(model, [tmp_path / "a.nii.gz"], tmp_path / "plain")
    engine = Half()
    half, again = run(
        model, [tmp_path / f"{x}.nii.gz" for x in "ab"], tmp_path / "half", engine, Options(precision="float16")
    )
    assert half.status == "done"
    sentence = "half precision gave values that are not finite in 1 window: computed again in float32"
    assert half.record["windows"] == 1
    assert half.record["warnings"] == again.record["warnings"] == [sentence]
    assert half.record["engine"]["precision"] == "float16"
    assert half.paths[0].read_bytes() == plain.paths[0].read_bytes()


def test_5_8_another_error_of_the_model_ends_the_case_in_half_precision_too(model, tmp_path):
    asked = []

    def broken(logits: np.ndarray) -> np.ndarray:
        asked.append(1)
        raise ModelError("model.onnx: ONNX Runtime cannot run it")

    scan(tmp_path / "a.nii.gz")
    (ended,) = run(model, [tmp_path / "a.nii.gz"], tmp_path / "out", Pointwise(broken), Options(precision="float16"))
    assert ended.error.exit_code == 78
    assert len(asked) == 1


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("no room"),
        OutOfMemory("one window does not fit"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("CUDA error: out of memory"),
    ],
)
def test_6_3_no_memory_at_last_ends_the_case_with_71(model, tmp_path, error):
    def fail(logits: np.ndarray) -> np.ndarray:
        raise error

    scans(tmp_path / "in", 2)
    assert codes(run(model, [tmp_path / "in"], tmp_path / "out", Pointwise(fail))) == [71, 71]


def test_a_gpu_that_gives_up_is_no_fault_of_segcli_and_finished_cases_stay(model, tmp_path):
    shown = []

    def lost(logits: np.ndarray) -> np.ndarray:
        shown.append(1)
        if len(shown) > 2:
            raise RuntimeError("CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might be reported")
        return logits

    scans(tmp_path / "in", 3)
    ended = run(model, [tmp_path / "in"], tmp_path / "out", Pointwise(lost))
    assert 0 in codes(ended)
    assert set(codes(ended)) == {0, 69}
    assert ended[-1].error.message.startswith(
        "case2.nii.gz: the GPU failed: CUDA error: uncorrectable ECC error encountered"
    )
    again = run(model, [tmp_path / "in"], tmp_path / "out")
    assert [one.status for one in again] == ["skipped" if code == 0 else "done" for code in codes(ended)]


def test_6_2_steps_down_for_want_of_memory_change_no_result_and_are_recorded_for_their_case(model, tmp_path):
    engine = Pointwise()

    def step(logits: np.ndarray) -> np.ndarray:
        if not engine.fallbacks:
            engine._taken.append("out of GPU memory: 1 windows at a time")
        return logits

    engine.trouble = step
    scans(tmp_path / "in", 2)
    first, second = run(model, [tmp_path / "in"], tmp_path / "out", engine)
    run(model, [tmp_path / "in"], tmp_path / "plain")
    assert first.record["run"]["steps"] == ["out of GPU memory: 1 windows at a time"]
    assert second.record["run"]["steps"] == []
    assert files(tmp_path / "out") == files(tmp_path / "plain")


def test_the_engine_in_a_record_is_the_one_that_ran_whatever_becomes_of_it_with_the_next_scan(
    model, tmp_path, monkeypatch
):
    engine, plain = Pointwise(), stages.formats.write

    def written(*given, **how):
        engine.name, engine.precision = "another", "float16"
        plain(*given, **how)

    monkeypatch.setattr(stages.formats, "write", written)
    scan(tmp_path / "a.nii.gz")
    (done,) = run(model, [tmp_path / "a.nii.gz"], tmp_path / "out", engine)
    assert done.record["engine"] == {"name": "numpy", "reason": "for a test", "precision": "float32"}


def test_6_2_a_step_that_every_case_takes_is_told_of_each_once(model, tmp_path):
    engine = Pointwise()
    engine.trouble = lambda logits: engine._taken.append("went to the disk") or logits
    scans(tmp_path / "in", 2)
    outcomes = run(model, [tmp_path / "in"], tmp_path / "out", engine)
    assert [o.record["run"]["steps"] for o in outcomes] == [["went to the disk"]] * 2


def test_6_2_the_ladder_on_a_gpu_smaller_batches_then_sums_on_the_host_then_the_cpu(tmp_path):
    torch = pytest.importorskip("torch")
    from segcli.engines.torch_devices import TorchCPU, TorchDevice
    from segcli.engines.torch_memory import Device

    class Small(TorchDevice):
        """A device with room for `room` windows and no sums; its arithmetic is the CPU's."""

        def __init__(self, network: "torch.nn.Module", room: int, may_leave: bool) -> None:
            super().__init__(network, Device("cpu", may_leave=may_leave), threads=1, batch=4)
            self.room = room

        def _forward(self, patches: "torch.Tensor", *, exact: bool = False) -> "torch.Tensor":
            if len(patches) > self.room:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return self._network(patches)

    network = torch.nn.Conv3d(1, 3, 1)
    patches = np.random.default_rng(0).normal(size=(4, 1, 4, 4, 4)).astype(np.float32)
    with torch.no_grad():
        wanted = network(torch.from_numpy(patches)).numpy()
    for leaves, steps in ((4, 0), (2, 1), (1, 2)):
        engine = Small(network, leaves, may_leave=False)
        np.testing.assert_allclose(engine.run(patches), wanted, rtol=1e-5, atol=1e-6)
        assert len(engine.fallbacks) == steps
    engine = Small(network, 0, may_leave=True)
    np.testing.assert_allclose(engine.run(patches), wanted, rtol=1e-5, atol=1e-6)
    assert [s.split(": ")[1] for s in engine.fallbacks] == [
        "2 windows at a time",
        "1 windows at a time",
        "logits are added up in the computer's memory",
        "the CPU goes on",
    ]
    assert isinstance(engine._on_host, TorchCPU)
    with pytest.raises(OutOfMemory, match="one window does not fit"):
        Small(network, 0, may_leave=False).run(patches)


# ---- 6.6, 8: determinism and privacy


def test_6_6_alone_or_in_a_batch_in_any_order_the_files_are_the_same(model, tmp_path):
    paths = scans(tmp_path / "in", 3)
    run(model, [tmp_path / "in"], tmp_path / "together")
    for path in reversed(paths):
        run(model, [path], tmp_path / "alone")
    assert files(tmp_path / "alone") == files(tmp_path / "together")


def test_8_1_free_text_of_headers_and_paths_reach_no_output(model, tmp_path):
    secret = tmp_path / "Mustermann_Max"
    scan(secret / "a.nii.gz", descrip=b"Max Mustermann 1960", db_name=b"ID 4711", aux_file=b"mm.txt")
    run(model, [secret], tmp_path / "out", reports=("csv",), tables=("slicer", "bids"), split=True)
    import gzip

    for path in (p for p in (tmp_path / "out").rglob("*") if p.is_file()):
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        for word in (b"Mustermann", b"4711", b"mm.txt", os.fsencode(tmp_path)):
            assert word not in content, path.name


def test_2_6_the_input_is_never_written_to(model, tmp_path):
    paths = scans(tmp_path / "in", 2)
    was = [(p.read_bytes(), p.stat().st_mtime_ns, p.stat().st_ino) for p in paths]
    run(model, [tmp_path / "in"], tmp_path / "in", split=True)
    assert was == [(p.read_bytes(), p.stat().st_mtime_ns, p.stat().st_ino) for p in paths]


def test_7_7_the_record_is_enough_to_repeat_the_run(model, tmp_path):
    path = scan(tmp_path / "a.nii.gz")
    (done,) = run(model, [path], tmp_path / "out", options=Options(overlap=0.25, classes=("liver",)))
    found = json.loads(done.paths[1].read_text())
    assert found["input"] == {
        "files": ["a.nii.gz"],
        "sha256": file_sha256(path),
        "series": None,
        "volume": None,
    }
    assert found["model"]["name"] == "organs"
    assert len(found["model"]["sha256"]) == 64
    assert (found["options"]["overlap"], found["options"]["classes"]) == (0.25, ["liver"])
    assert found["engine"] == {"name": "numpy", "reason": "for a test", "precision": "float32"}
    assert found["grid"]["shape"] == [12, 14, 16]
    assert found["versions"]["segcli"]
    assert found["warnings"] == []


def test_structures_that_were_not_asked_for_are_unknown_and_not_0(model, tmp_path):
    path = scan(tmp_path / "a.nii.gz")
    wanted = Options(classes=("SCT 10200004", "3"), largest=("2",), fill_holes=("all",))
    (done,) = run(model, [path], tmp_path / "out", options=wanted, split=True, reports=("csv",), tables=("slicer",))
    found = json.loads(done.paths[1].read_text())
    names = [model.labels[2].name, model.labels[3].name]
    assert found["options"]["classes"] == names
    assert (found["options"]["largest"], found["options"]["fill_holes"]) == ([names[0]], ["all"])
    assert [s["name"] for s in found["structures"]] == names
    assert all(s["voxels"] for s in found["structures"])
    assert {p.name.removesuffix(".nii.gz") for p in (tmp_path / "out" / "a_seg").iterdir()} == set(names)
    assert len((tmp_path / "out" / "a_seg.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize("options", [{"classes": ("Livr",)}, {"largest": ("Livr",)}, {"fill_holes": ("Livr",)}])
def test_a_structure_that_the_model_does_not_have_is_refused(model, tmp_path, options):
    scan(tmp_path / "a.nii.gz")
    with pytest.raises(UsageError, match="Livr: no structure has that name, number or code; did you mean 'liver'"):
        run(model, [tmp_path / "a.nii.gz"], tmp_path / "out", options=Options(**options))


def test_fractions_are_in_the_order_of_the_values_that_are_written():
    from segcli.batch.outputs import _fractions
    from segcli.inference.segment import Segmentation
    from segcli.space.volume import Grid, Volume

    named = {"labels": {"background": 0, "b": 53, "a": 17, "c": 60}, "codes": {}}
    own = parse({**CARD, **named})
    grid = Grid((1, 1, 1), np.eye(4))
    parts = Volume(np.array([0, 51, 102, 255], np.uint8).reshape(4, 1, 1, 1), grid)
    result = Segmentation(Volume(np.zeros((1, 1, 1, 1), np.uint8), grid), {}, 1, {}, probabilities=parts)
    kept = replace(own, labels=tuple(label for label in own.labels if label.id != 60))
    np.testing.assert_allclose(_fractions(result, own).data.ravel(), [0.4, 0.2, 1])
    np.testing.assert_allclose(_fractions(result, kept).data.ravel(), [0.4, 0.2])


def test_a_dicom_object_of_another_scan_is_refused_before_the_network_runs(model, tmp_path):
    scan(tmp_path / "a.nii.gz")

    def never(logits: np.ndarray) -> np.ndarray:
        raise AssertionError("the network ran")

    (ended,) = run(model, [tmp_path / "a.nii.gz"], tmp_path / "out", Pointwise(never), forms=("nifti", "rtstruct"))
    assert isinstance(ended.error, UsageError)
    assert "--write rtstruct: a DICOM object refers to a DICOM scan" in ended.error.message
    assert not (tmp_path / "out").exists()


def test_6_8_a_device_that_is_named_and_not_there_is_refused_and_not_replaced(model):
    from segcli.engines.choose import choose
    from segcli.errors import EngineError

    with pytest.raises(EngineError, match="cuda:97 is not there"):
        choose(model, "auto", "cuda:97")


def test_a_record_is_json_that_others_read_too(model, tmp_path):
    scan(tmp_path / "a.nii.gz")
    (done,) = run(model, [tmp_path / "a.nii.gz"], tmp_path / "out")

    def no_nan(word: str) -> None:
        raise AssertionError(word)

    found = json.loads(done.paths[1].read_text(), parse_constant=no_nan)
    assert found["labels"]["sha256"] == file_sha256(done.paths[0])
    assert found["case"] == "a"
    assert "Research use only" in found["note"]  # PROMISES.md 7.8


# ---- 2.11: names from inside files


@pytest.mark.parametrize("name", ["../../evil", ".hidden", "///"])
def test_2_11_a_name_from_a_model_that_is_no_file_name_is_refused_before_the_start(model, tmp_path, name):
    named = replace(model, labels=(model.labels[0], replace(model.labels[1], name=name)))
    scan(tmp_path / "a.nii.gz")
    found = cases([str(tmp_path / "a.nii.gz")])
    with pytest.raises(ModelError, match="no mask can be called"):
        apart(found, named, Destination(tmp_path / "out", split=True))
    apart(found, named, Destination(tmp_path / "out"))


def test_2_11_of_a_name_from_a_model_only_harmless_characters_become_a_file_name(model):
    named = replace(model, labels=(model.labels[0], replace(model.labels[1], name="a/b\n$(c) é")))
    assert list(file_names(named.name, named.structures)) == ["a_b___c__é"]


@pytest.mark.parametrize(
    ("names", "files"),
    [
        (["a", "A"], ["a_1", "A_2"]),
        (["a b", "a_b"], ["a_b_1", "a_b_2"]),
        (["a b", "a_b", "c"], ["a_b_1", "a_b_2", "c"]),
        (["a b", "a_b", "a_b_1"], ["a_b_1", "a_b_2", "a_b_1_3"]),
        (["ß", "ss", "SS"], ["ß_1", "ss_2", "SS_3"]),
        (["肝臓", "печень", "कलेजा"], ["肝臓", "печень", "कलेजा"]),
        (["e\u0301"], ["\u00e9"]),
        (["肝" * 200], ["肝" * 82]),
        (["肝" * 200, "肝" * 199], ["肝" * 82 + "_1", "肝" * 82 + "_2"]),
    ],
)
def test_2_11_masks_are_called_as_their_structures_in_any_script_and_told_apart(model, names, files):
    labels = (model.labels[0], *(replace(model.labels[1], id=i, name=n) for i, n in enumerate(names, 1)))
    named = replace(model, labels=labels)
    assert file_names(named.name, named.structures) == {name: i for i, name in enumerate(files, 1)}
    assert all(len(f"{name}.nii.gz".encode()) <= 255 for name in files)


def test_names_that_change_in_an_output_are_said_in_the_record(model, tmp_path):
    labels = (model.labels[0], replace(model.labels[1], name="the liver"), *model.labels[2:])
    scan(tmp_path / "a.nii.gz")
    (done,) = run(
        replace(model, labels=labels), [tmp_path / "a.nii.gz"], tmp_path / "out", split=True, tables=("freesurfer",)
    )
    said = json.loads(done.paths[1].read_text())["warnings"]
    assert "masks cannot be called as these structures: the liver is the_liver" in said
    assert "names without blanks in the table for freesurfer: the liver is the_liver" in said
    assert (tmp_path / "out" / "a_seg" / "the_liver.nii.gz").is_file()


def test_what_post_processing_took_away_is_recorded(model, tmp_path):
    scan(tmp_path / "a.nii.gz")
    plain, kept = (
        run(model, [tmp_path / "a.nii.gz"], tmp_path / name, options=options)[0].record
        for name, options in (("plain", Options()), ("kept", Options(largest=("all",), min_size_ml=1e6)))
    )
    assert plain["postprocessing"] == []
    assert [s["voxels"] for s in kept["structures"]] == [0] * len(kept["structures"])
    gone = {change["name"]: change["removed_voxels"] for change in kept["postprocessing"]}
    assert gone == {s["name"]: s["voxels"] for s in plain["structures"] if s["voxels"]}


def test_the_steps_of_the_card_come_first_and_each_is_in_the_record(tmp_path):
    steps = [{"step": "small", "mm3": 1e6, "structures": ["liver"]}, {"step": "drop", "structures": ["spleen"]}]
    stepped = card(tmp_path / "model")
    stepped = parse({**stepped.document, "after": steps}, stepped.folder)
    scan(tmp_path / "a.nii.gz")
    (plain,) = run(card(tmp_path / "plain"), [tmp_path / "a.nii.gz"], tmp_path / "out1")
    (done,) = run(stepped, [tmp_path / "a.nii.gz"], tmp_path / "out2")
    was = {s["name"]: s["voxels"] for s in plain.record["structures"]}
    found = json.loads(done.paths[1].read_text())
    assert [(e["step"]["step"], e["changed"][0]["removed_voxels"]) for e in found["after"]] == [
        ("small", was["liver"]),
        ("drop", was["spleen"]),
    ]
    assert "spleen" not in {s["name"] for s in found["structures"]}
    assert not {2, 3} & set(np.unique(np.asarray(nibabel.load(done.paths[0]).dataobj)).tolist())
    assert found["model"]["sha256"] != plain.record["model"]["sha256"]
    with pytest.raises(UsageError, match="spleen: no structure has that name"):
        run(stepped, [tmp_path / "a.nii.gz"], tmp_path / "out3", options=Options(classes=("spleen",)))


def test_a_bids_tree_is_named_and_described_as_a_derivative(model, tmp_path):
    (tmp_path / "in" / "sub-01" / "anat").mkdir(parents=True)
    scan(tmp_path / "in" / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    run(model, [tmp_path / "in"], tmp_path / "out", layout="bids")
    root = json.loads((tmp_path / "out" / "dataset_description.json").read_text())
    assert (root["DatasetType"], root["GeneratedBy"][0]["Name"]) == ("derivative", "segcli")
    anat = sorted(p.name for p in (tmp_path / "out" / "sub-01" / "anat").iterdir())
    stem = "sub-01_seg-organs_dseg"
    assert anat == [f"{stem}.json", f"{stem}.nii.gz", f"{stem}.tsv"]
    sidecar = json.loads((tmp_path / "out" / "sub-01" / "anat" / f"{stem}.json").read_text())
    assert (sidecar["Manual"], sidecar["SpatialReference"]) == (False, "orig")
    assert sidecar.keys() == {"segcli", "Description", "Manual", "SpatialReference", "code"}
    assert sidecar["segcli"]["case"] == "sub-01/anat/sub-01_T1w"
    assert "SNOMED CT" in sidecar["code"]["Description"]  # of the column in the .tsv


def test_the_volumes_of_probabilities_in_a_bids_tree_are_named_in_their_order(model, tmp_path):
    scan(tmp_path / "sub-01_T1w.nii.gz")
    out, how = tmp_path / "out", {"layout": "bids", "forms": ("nifti", "probabilities")}
    (done,) = run(model, [tmp_path / "sub-01_T1w.nii.gz"], out, **how)
    path = out / "sub-01_seg-organs_probseg.json"
    assert path in done.paths
    assert is_own(path)
    names = json.loads(path.read_text())["LabelMap"]
    assert names == ["background", "body", "liver", "spleen", "heart", "spine"]
    shares = np.asarray(nibabel.load(out / "sub-01_seg-organs_probseg.nii.gz").dataobj)
    assert shares.shape[3] == len(names)
    labels = np.asarray(nibabel.load(done.paths[0]).dataobj)
    liver = shares[labels == 2]
    assert names[liver.mean(axis=0).argmax()] == "liver"

    path.unlink()
    (again,) = run(model, [tmp_path / "sub-01_T1w.nii.gz"], out, **how)
    assert (again.status, path.exists()) == ("done", True)
    (skipped,) = run(model, [tmp_path / "sub-01_T1w.nii.gz"], out, **how)
    assert skipped.status == "skipped"

    few = Options(classes=("liver",))
    run(model, [tmp_path / "sub-01_T1w.nii.gz"], tmp_path / "few", options=few, **how)
    named = json.loads((tmp_path / "few" / path.name).read_text())["LabelMap"]
    assert named == ["background", "n/a", "liver", "n/a", "n/a", "n/a"]


def test_3_3_a_scan_that_memory_cannot_hold_is_refused_before_its_voxels_are_read(model, tmp_path, monkeypatch):
    scan(tmp_path / "a.nii.gz")
    monkeypatch.setattr("segcli.batch.budget.available", lambda: 0)
    monkeypatch.setattr("segcli.formats.streams.read_voxels", lambda *_, **__: pytest.fail("the voxels were read"))
    (ended,) = run(model, [tmp_path / "a.nii.gz"], tmp_path / "out")
    assert ended.error.exit_code == 71
    assert "a.nii.gz" in ended.error.message
    assert "GB of memory are needed" in ended.error.message


def test_what_does_not_fit_into_max_ram_is_refused(model, tmp_path):
    scan(tmp_path / "a.nii.gz")
    engine = Pointwise()
    engine.max_ram = 1024
    (ended,) = run(model, [tmp_path / "a.nii.gz"], tmp_path / "out", engine)
    assert ended.error.exit_code == 71
    assert "0.0 GB may be used" in ended.error.message
    assert "--max-ram" in ended.error.hint


def test_slices_that_filled_a_gap_get_no_labels(model, tmp_path, monkeypatch):
    scan(tmp_path / "a.nii.gz")
    read = formats.read

    def with_a_gap(*args, **kwargs):
        found = read(*args, **kwargs)
        return replace(found, source=replace(found.source, facts={**found.source.facts, "filled_slices": [5]}))

    plain = run(model, [tmp_path / "a.nii.gz"], tmp_path / "plain")[0]
    monkeypatch.setattr(formats, "read", with_a_gap)
    (ended,) = run(model, [tmp_path / "a.nii.gz"], tmp_path / "out")
    whole, filled = (np.asarray(nibabel.load(o.paths[0]).dataobj) for o in (plain, ended))
    assert whole[:, :, 5].any()
    assert not filled[:, :, 5].any()
    assert np.array_equal(np.delete(filled, 5, 2), np.delete(whole, 5, 2))
    assert sum(s["voxels"] for s in ended.record["structures"]) == (filled > 0).sum()


def test_what_speaks_against_a_scan_is_told_before_its_segmentation(model, tmp_path):
    mr = replace(model, modality="MR")
    story = []
    (done,) = run(
        mr,
        [scan(tmp_path / "a.nii.gz")],
        tmp_path / "out",
        watch=lambda e: story.append((e.name, e.facts.get("sentence"))),
    )
    names = [name for name, _ in story]
    assert names.index("doubt") < names.index("segment")
    assert "as air in Hounsfield units: a CT?" in dict(story)["doubt"]
    assert done.status == "done"
    assert done.record["verdict"] == "fail"


def test_a_label_map_in_place_of_a_scan_is_refused_unless_it_is_meant(model, tmp_path):
    data = np.zeros((16, 14, 12), "u1")
    data[2:-2, 2:-2, 2:-2] = 1
    path = nifti(tmp_path / "t1.nii.gz", data)
    (refused,) = run(model, [path], tmp_path / "out")
    assert refused.error.exit_code == 65
    assert "t1.nii.gz: is a label map by its looks: 2 whole numbers" in refused.error.message
    assert not list((tmp_path / "out").rglob("*seg*"))
    (meant,) = run(model, [path], tmp_path / "out", options=Options(label_map=True))
    assert meant.record["options"]["label_map"] is True


def test_faithful_brings_labels_back_as_the_card_says_and_from_the_nearest_corner_anchored_voxel(model):
    def back(fields: dict[str, str], *, faithful: bool) -> str:
        own = parse({**model.document, **fields}, model.folder)
        return labelling._member(Options(faithful=faithful), own, opened().engine).procedure.decide.back

    assert [back({"anchor": "corners"}, faithful=faithful) for faithful in (True, False)] == ["nearest", "logits"]
    assert [back({"faithful": "values"}, faithful=faithful) for faithful in (True, False)] == ["values", "logits"]
    assert back({"anchor": "edges"}, faithful=True) == "logits"


def test_faithful_adds_windows_up_as_the_card_says_and_else_in_float32(model):
    def sums(fields: dict[str, str], *, faithful: bool) -> str:
        own = parse({**CARD, **fields}, model)
        return labelling._member(Options(faithful=faithful), own, opened().engine).procedure.window.sums

    assert [sums({"sums": "float16"}, faithful=faithful) for faithful in (True, False)] == ["float16", "float32"]
    assert sums({}, faithful=True) == "float32"


@pytest.mark.parametrize("faithful", [True, False])
def test_a_step_at_the_model_is_done_once_wherever_labels_come_back(model, tmp_path, faithful):
    steps = {"after": [{"step": "drop", "structures": ["3"]}], "after_at": "model", "faithful": "nearest"}
    own = parse({**model.document, **steps}, model.folder)
    scan(tmp_path / "a.nii.gz")
    (done,) = run(own, [tmp_path / "a.nii.gz"], tmp_path / "out", options=Options(faithful=faithful))
    assert [effect["step"]["step"] for effect in done.record["after"]] == ["drop"]
    assert set(np.unique(np.asarray(nibabel.load(done.paths[0]).dataobj))) == {0, 1, 2}
