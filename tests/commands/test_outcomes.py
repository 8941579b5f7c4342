"""What the verdicts of a run's cases become: counted as failed where the user wishes so, and said where not."""

import json
from pathlib import Path

import numpy as np
import pytest
from models import organs
from runs import in_process, scan
from scan_files import nifti

from segcli.batch.cases import Case
from segcli.batch.stages import Outcome
from segcli.commands.outcomes import Manners, document, exit_code, judged, tell, tell_choice, unshown
from segcli.commands.progress import Show
from segcli.errors import SegcliError


def ended(verdict: str, status: str = "done") -> Outcome:
    doubts = [{"code": "grid", "severity": verdict, "sentence": "look here"}] if verdict != "pass" else []
    return Outcome(Case("a", (Path("a.nii"),), Path()), status, (), {"verdict": verdict, "checks": doubts})


@pytest.mark.parametrize(("fail_on", "failing"), [("", ()), ("review", ("review", "fail")), ("fail", ("fail",))])
@pytest.mark.parametrize("status", ["done", "skipped"])
def test_a_verdict_counts_as_failed_where_the_user_wishes_so_also_on_a_rerun(fail_on, failing, status):
    for verdict in ("pass", "review", "fail"):
        outcome = judged(ended(verdict, status), Manners(fail_on=fail_on))
        assert (outcome.status, outcome.error is not None) == (status, verdict in failing)
        assert exit_code([outcome]) == (verdict in failing)
        assert exit_code([outcome, ended("pass")]) == (verdict in failing)


@pytest.mark.parametrize(
    ("debug", "shown"), [(True, ["Traceback:", '  File "a.py", line 7', "KeyError: 3"]), (False, [])]
)
def test_1_4_the_traceback_of_a_case_has_its_own_lines(capfd, debug, shown):
    fault = Outcome(
        Case("a", (Path("a.nii"),), Path()),
        "failed",
        error=SegcliError("a.nii: an internal error of segcli: KeyError: 3"),
        details='Traceback:\n  File "a.py", line 7\nKeyError: 3\n',
    )
    tell(fault, Show(1, quiet=False, verbose=0, events=None), Manners(debug=debug), 1)
    assert capfd.readouterr().err.splitlines() == [*shown, f"error: {fault.error.message}"]


def test_the_choice_of_each_engine_in_another_process_is_told_once(capfd):
    def on(engine: str, status: str = "done") -> Outcome:
        facts = {"model": {"name": "a+b"}, "engine": {"name": engine, "reason": "the fastest engine here"}}
        return Outcome(Case("a", (Path("a.nii"),), Path()), status, (), facts)

    told: set[str] = set()
    for outcome in (on("numpy", "skipped"), on("onnx cpu"), on("onnx cpu"), on("torch cpu"), ended("pass")):
        tell_choice(outcome, told, Show(1, quiet=False, verbose=0, events=None))
    assert capfd.readouterr().err.splitlines() == [
        f"a+b on {engine} cpu: the fastest engine here" for engine in ("onnx", "torch")
    ]


def test_verdicts_that_the_exit_code_does_not_show_are_counted():
    assert unshown([ended("pass"), ended("review")]) == ""
    assert unshown([ended("fail"), ended("pass")]).startswith("1 case has the verdict fail; the exit code says so only")
    assert unshown([ended("fail"), ended("fail", "skipped")]).startswith("2 cases have the verdict fail")
    assert unshown([judged(ended("fail"), Manners(fail_on="fail"))]) == ""


def test_verdicts_are_counted_in_the_document_wanted_or_not():
    refused = Outcome(Case("b", (Path("b.nii"),), Path()), "failed", error=SegcliError("b.nii: no scan"))
    for fail_on in ("", "review"):
        cases = [ended("pass"), ended("fail"), ended("fail", "skipped"), refused]
        ends = document([judged(o, Manners(fail_on=fail_on)) for o in cases], 0.0)["summary"]
        assert ends["verdicts"] == {"pass": 1, "review": 0, "fail": 2}
        assert (ends["done"], ends["skipped"], ends["failed"]) == (2, 1, 1)


def test_the_last_line_says_what_the_exit_code_does_not_show(tmp_path):
    organs(tmp_path / "organs")
    nifti(tmp_path / "zeros.nii.gz", np.zeros((16, 14, 12), "i2"))
    scan(tmp_path / "a.nii.gz")
    given = ["predict", "zeros.nii.gz", "a.nii.gz", "--model", "organs", "-o", "out"]
    done = in_process(*given, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    last = done.stderr.decode().strip().splitlines()[-1]
    assert last == "warning: 1 case has the verdict fail; the exit code says so only with --fail-on fail"
    again = in_process(*given, "--fail-on", "fail", "--events", "events", cwd=tmp_path)
    assert again.returncode == 1
    told = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    assert [(e["case"], e["verdict"]) for e in told if e["event"] == "skipped"] == [("zeros", "fail"), ("a", "pass")]
    assert again.stdout == done.stdout
    assert again.stderr.decode().count("every voxel of the scan is 0") == 1
    assert "0 of 2 scans segmented, 2 already done, 1 with the verdict fail (" in again.stderr.decode()
    assert "zeros: verdict fail: every voxel of the scan is 0: there is no picture" in again.stderr.decode()
    assert {p.name for p in (tmp_path / "out").glob("*_seg.nii.gz")} == {"zeros_seg.nii.gz", "a_seg.nii.gz"}
    words = ("predict", "-", "--model", "organs", "-o", "piped")
    piped = in_process(*words, cwd=tmp_path, stdin=(tmp_path / "zeros.nii.gz").read_bytes())
    assert (piped.returncode, piped.stderr.decode().strip().splitlines()[-1]) == (0, last)


def test_the_volumes_of_a_single_scan_are_shown_also_where_it_is_finished_already(tmp_path):
    organs(tmp_path / "organs")
    scan(tmp_path / "a.nii.gz")
    first, again = (in_process("predict", "a.nii.gz", "-m", "organs", "-o", "out", cwd=tmp_path) for _ in range(2))
    shown = [line for line in first.stderr.decode().splitlines() if "spleen" in line.split()]
    assert len(shown) == 1
    assert shown[0] in again.stderr.decode().splitlines()


def test_the_tables_of_a_batch_are_named_on_stdout(tmp_path):
    organs(tmp_path / "organs")
    for name in "ab":
        scan(tmp_path / f"{name}.nii.gz")
    done = in_process("predict", "a.nii.gz", "b.nii.gz", "-m", "organs", "-o", "out", cwd=tmp_path)
    assert done.stdout.decode().splitlines()[-2:] == ["out/cohort.csv", "out/cohort_wide.csv"]
    assert "cohort_wide.csv: one row for each case\n" in done.stderr.decode()
