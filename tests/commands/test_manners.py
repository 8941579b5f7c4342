"""The command's streams, codes and outputs, as another program sees them (PROMISES.md 1, 2, 6.5)."""

import errno
import gzip
import json
import os
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
from dicom_phantom import series
from runs import command, environment, files, in_process, line, scan, scans

import segcli
from segcli.commands.app import app
from segcli.errors import OutputError, UsageError

REAL = ("--engine", "onnx")
ENDS = ("done", "skipped", "failed")


@pytest.fixture(scope="module")
def batch(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """in/ with eight scans, one cut short; out/ after a run; said.out, said.err, events, code beside them."""
    home = tmp_path_factory.mktemp("batch")
    scans(home / "in", 7)
    bad = scan(home / "in" / "sub" / "bad[1] \x1b[31m.nii.gz")
    bad.write_bytes(bad.read_bytes()[:-9])
    done = command(
        "predict",
        "in",
        "-o",
        "out",
        "--model",
        model,
        *REAL,
        "--events",
        "events",
        "--json",
        cwd=home,
        env={"TMPDIR": "/no/such"},
    )
    (home / "said.out").write_bytes(done.stdout)
    (home / "said.err").write_bytes(done.stderr)
    (home / "code").write_text(str(done.returncode))
    return home


def test_9_4_eight_scans_one_bad_seven_outputs_and_code_1(batch):
    assert (batch / "code").read_text() == "1"
    made = [name for name in files(batch / "out") if name.endswith("_seg.nii.gz")]
    assert made == [f"case{i}_seg.nii.gz" for i in range(7)]
    assert not [name for name in files(batch / "out") if "bad" in name]


def test_1_3_and_1_5_the_bad_one_is_named_literally_with_numbers(batch):
    said = (batch / "said.err").read_bytes()
    assert b"error: sub/bad[1] \\x1b[31m: bad[1] \\x1b[31m.nii.gz: " in said
    assert b"\x1b" not in said
    assert b"Traceback" not in said


def test_6_1_the_summary_counts_and_the_document_names_every_case(batch):
    assert "7 of 8 scans segmented, 1 failed" in (batch / "said.err").read_text()
    document = json.loads((batch / "said.out").read_text())
    assert {key: document["summary"][key] for key in ENDS} == {"done": 7, "skipped": 0, "failed": 1}
    assert {c["case"]: c["status"] for c in document["cases"]} == {
        **{f"case{i}": "done" for i in range(7)},
        "sub/bad[1] \x1b[31m": "failed",
    }
    (failed,) = (c for c in document["cases"] if c["status"] == "failed")
    assert failed["exit_code"] == 65
    assert all(Path(batch, f).is_file() for c in document["cases"] for f in c["files"])


def test_events_are_json_lines_one_for_each_stage_of_each_case(batch):
    events = [json.loads(text) for text in (batch / "events").read_text().splitlines()]
    assert all(e["schema"] == 1 and e["time"] for e in events)
    assert [e["event"] for e in events if e["case"] == "case3"] == ["read", "segment", "window", "write", "done"]
    assert [e["event"] for e in events if "bad" in e["case"]] == ["read", "failed"]
    cases = json.loads((batch / "said.out").read_text())["cases"]
    verdicts = {c["case"]: c["record"]["verdict"] for c in cases if c["status"] == "done"}
    assert {e["case"]: e["verdict"] for e in events if e["event"] == "done"} == verdicts


def test_the_cohort_has_the_finished_cases(batch):
    rows = (batch / "out" / "cohort.csv").read_text().splitlines()
    assert {row.split(",")[0] for row in rows[1:]} == {f"case{i}" for i in range(7)}


@pytest.mark.slow
def test_2_9_and_2_5_a_second_run_with_outputs_beside_the_inputs_does_nothing_again(model, tmp_path):
    scans(tmp_path, 2)
    first = command("predict", ".", "-o", ".", "--model", model, *REAL, "--split", cwd=tmp_path)
    was = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.rglob("*_seg*") if p.is_file()}
    again = command("predict", ".", "-o", ".", "--model", model, *REAL, "--split", "--json", cwd=tmp_path)
    assert (first.returncode, again.returncode) == (0, 0)
    ends = json.loads(again.stdout)["summary"]
    assert {key: ends[key] for key in ENDS} == {"done": 0, "skipped": 2, "failed": 0}
    assert was == {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.rglob("*_seg*") if p.is_file()}
    assert b"already done, verified" in again.stderr
    assert {row.split(",")[0] for row in (tmp_path / "cohort.csv").read_text().splitlines()[1:]} == {"case0", "case1"}


def test_1_2_all_failing_alike_end_with_their_code_and_leave_the_tables_that_name_them(model, tmp_path):
    for name in ("a", "b"):
        path = scan(tmp_path / "in" / f"{name}.nii.gz")
        path.write_bytes(path.read_bytes()[:-9])
    done = command("predict", "in", "-o", "out", "--model", model, *REAL, cwd=tmp_path)
    assert done.returncode == 65
    assert done.stdout.decode().splitlines() == ["out/cohort.csv", "out/cohort_wide.csv"]
    assert [path.name for path in sorted((tmp_path / "out").iterdir())] == ["cohort.csv", "cohort_wide.csv"]
    rows = (tmp_path / "out" / "cohort_wide.csv").read_text().splitlines()[1:]
    assert rows == [f"{name},organs,not segmented,n/a" for name in "ab"]


def test_an_input_that_is_not_there_is_in_the_document_too(model, tmp_path):
    done = command("predict", "missing.nii", "-o", "out", "--model", model, "--json", cwd=tmp_path)
    assert done.returncode == 66
    (case,) = json.loads(done.stdout)["cases"]
    assert (case["case"], case["status"], case["exit_code"]) == ("missing", "failed", 66)
    assert case["error"] == "missing.nii: no such file or folder"


def test_info_takes_a_scan_from_stdin(model, tmp_path):
    done = command("info", "-", "--model", model, "--json", stdin=scan(tmp_path / "a.nii.gz").read_bytes())
    assert json.loads(done.stdout)["file"] == "stdin.nii.gz"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--overlap", "x"], "error: Invalid value for '--overlap'"),
        (["--max-ram", "10"], "error: --max-ram 10: is 10 bytes, in which nothing can run\n  --max-ram 10GB?"),
        (["--device", "gpu"], "error: no device is called 'gpu'"),
        (["--nonsense"], "error: No such option: --nonsense"),
    ],
)
def test_every_mistake_of_the_command_line_is_told_in_one_style(model, tmp_path, words, told):
    done = in_process("predict", scan(tmp_path / "a.nii.gz"), "--model", model, "-o", tmp_path / "out", *words)
    assert done.returncode == 2
    assert done.stderr.decode().startswith(told)


def test_2_8_a_clash_of_names_is_refused_before_anything_is_read(model, tmp_path):
    scan(tmp_path / "a.nii")
    (tmp_path / "a.nii.gz").write_bytes(b"not even a scan")
    done = in_process("predict", ".", "-o", "out", "--model", model, *REAL, cwd=tmp_path)
    assert done.returncode == 2
    assert b"a.nii and a.nii.gz would both be written" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_bids_tree_is_made_of_single_scans_too_and_resumed_from_the_whole_dataset(model, tmp_path):
    for subject in ("sub-01", "sub-02"):
        scan(tmp_path / "in" / subject / "anat" / f"{subject}_T1w.nii.gz")
    words = ("-o", "out", "--model", model, *REAL, "--layout", "bids")
    done = in_process("predict", "in/sub-*/anat/*_T1w.nii.gz", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    made = [f"{s}/anat/{s}_seg-organs_dseg.{end}" for s in ("sub-01", "sub-02") for end in ("json", "nii.gz", "tsv")]
    assert list(files(tmp_path / "out")) == [
        ".bidsignore",
        "cohort.csv",
        "cohort_wide.csv",
        "dataset_description.json",
        *made,
    ]
    again = in_process("predict", "in", *words, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert b"2 already done" in again.stderr


def test_a_list_from_stdin_between_nuls_and_a_part_of_it(model, tmp_path):
    names = ["line\nbreak.nii.gz", "-dash.nii.gz", "c.nii.gz", "d.nii.gz"]
    for i, name in enumerate(names):
        scan(tmp_path / name, i)
    done = in_process(
        "predict", "--files-from", "-", "-0", "--shard", "1/2", "-o", "out", "--model", model, *REAL, "-q",
        stdin="\0".join(names).encode(), cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sorted(files(tmp_path / "out")) == [
        "c_seg.json",
        "c_seg.nii.gz",
        "line\nbreak_seg.json",
        "line\nbreak_seg.nii.gz",
    ]
    assert done.stderr == b""


def test_a_part_without_a_scan_is_told_and_ends_well(model, tmp_path):
    scan(tmp_path / "a.nii.gz")
    words = ("predict", "a.nii.gz", "--shard", "2/2", "-o", "out", "--model", model, *REAL)
    done = in_process(*words, "--json", cwd=tmp_path)
    assert (done.returncode, json.loads(done.stdout)["cases"]) == (0, [])
    assert done.stderr == b"--shard 2/2: this part is empty, nothing is to be done (scans in all: 1)\n"
    assert (in_process(*words, "-q", cwd=tmp_path).stderr, list(tmp_path.glob("out/*"))) == (b"", [])


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["predict", "nothing.nii"], 66),
        (["predict", "empty"], 66),
        (["predict"], 66),
        (["predict", "a.nii.gz", "--model", "no-such-model"], 78),
        (["predict", "a.nii.gz", "--device", "cuda:7"], 69),
        (["predict", "a.nii.gz", "--no-such-option"], 2),
        (["predict", "a.nii.gz", "--overlap", "1.5"], 2),
        (["predict", "-", "-o", "-", "--json"], 2),
        (["--version"], 0),
        (["predict", "a.nii.gz", "--write", "docx"], 2),
        (["predict", "a.nii.gz", "--min-size", "-1"], 2),
        (["predict", "a.nii.gz", "--min-size", "nan"], 2),
        (["predict", "a.nii.gz", "-o", "-", "--report", "html"], 2),
        (["predict", "a.nii.gz", "-o", "-", "--write", "nifti,probabilities"], 2),
        (["predict", "a.nii.gz", "-"], 2),
        (["predict", "-", "--files-from", "-"], 2),
        (["predict", "a.nii.gz", "--json", "--events", "-"], 2),
        (["evaluate", "a.nii.gz", "a.nii.gz", "--tolerance", "inf"], 2),
    ],
)
def test_1_1_codes_of_a_run_that_cannot_be(model, tmp_path, words, code):
    scan(tmp_path / "a.nii.gz")
    (tmp_path / "empty").mkdir()
    done = command(
        *words, *(["--model", model] if words[0] == "predict" and "--model" not in words else []), cwd=tmp_path
    )
    assert done.returncode == code, done.stderr
    assert b"Traceback" not in done.stderr
    if code:
        assert done.stdout == b""


@pytest.mark.slow
def test_6_5_closed_and_full_streams_and_readers_that_have_gone_do_no_harm(model, tmp_path):
    scan(tmp_path / "a.nii.gz")
    words = ["predict", "a.nii.gz", "--model", model, *REAL, "-o"]
    closed = ["bash", "-c", 'exec "$@" <&- >&- 2>&-', "-", *line(*words, "closed")]
    assert subprocess.run(closed, cwd=tmp_path, env=environment({}), check=False).returncode == 0
    with Path("/dev/full").open("wb") as full:
        lost = command(*words, "full", "--json", cwd=tmp_path, stdout=full, stderr=full)
        assert lost.returncode == 74  # the document that was asked for is lost; the label map is not
        streamed = command(*words, "-", cwd=tmp_path, stdout=full)
        assert (streamed.returncode, b"stdout: the label map cannot be written" in streamed.stderr) == (74, True)
    for to in ("gone", "-"):
        reader, writer = os.pipe()
        os.close(reader)
        done = command(*words, to, cwd=tmp_path, stdout=writer)
        os.close(writer)
        assert done.returncode == 0, done.stderr
        assert b"Traceback" not in done.stderr
        assert b"ignored" not in done.stderr
    piped = command("predict", "-", *words[2:], "-", cwd=tmp_path, stdin=(tmp_path / "a.nii.gz").read_bytes())
    maps = [(tmp_path / n / "a_seg.nii.gz").read_bytes() for n in ("closed", "full", "gone")]
    assert maps == [piped.stdout] * 3
    assert len(gzip.decompress(piped.stdout)) > 16 * 14 * 12


def test_one_scan_from_a_pipe_is_refused_with_what_is_true_of_it(model, tmp_path):
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as packed:
        for number in (3, 4):
            for path in series(tmp_path / str(number), uid=str(number), SeriesNumber=number).iterdir():
                packed.write(path, f"{number}/{path.name}")
    study, one = (tmp_path / "study.zip").read_bytes(), scan(tmp_path / "a.nii.gz").read_bytes()
    for data, words, said in (
        (study, ("--series", "all"), b"error: stdin: holds 2 scans, and one is taken\n  --series chooses one\n"),
        (one, ("--shard", "2/3"), b"error: --shard 2/3: one scan has no parts\n  leave it away\n"),
        (one, ("--jobs", "some"), b"error: --jobs some: is neither auto nor a number from 1 to 1024\n"),
    ):
        done = in_process("predict", "-", "-o", "out", "--model", model, *words, cwd=tmp_path, stdin=data)
        assert (done.returncode, done.stderr) == (2, said)


def test_2_12_no_place_for_temporary_files_is_told_wherever_one_is_needed(model, tmp_path, monkeypatch):
    """A scan of stdin, an archive that is unpacked, a model in a zip, an image for nibabel."""

    def none() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    result = segcli.segment(scan(tmp_path / "a.nii.gz"), model=str(model), engine="onnx")
    series(tmp_path / "ct")
    with tarfile.open(tmp_path / "ct.tar.gz", "w:gz") as packed:
        packed.add(tmp_path / "ct", "ct")
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as packed:
        packed.writestr("Dataset001_A/plans.json", "{}")
    monkeypatch.setattr("tempfile.gettempdir", none)
    for call in (
        result.to_nibabel,
        lambda: segcli.read(tmp_path / "ct.tar.gz"),
        lambda: app(["predict", "-", "-o", "out"], standalone_mode=False),
        lambda: app(["models", "inspect", str(tmp_path / "model.zip")], standalone_mode=False),
    ):
        with pytest.raises(OutputError, match="no place for temporary files: No usable temporary directory"):
            call()


def test_2_12_the_environment_may_be_bare(model, tmp_path):
    scan(tmp_path / "a.nii.gz")
    done = subprocess.run(
        line("predict", "a.nii.gz", "-o", "out", "--model", model, *REAL),
        cwd=tmp_path,
        env={k: os.environ[k] for k in ("PYTHONPATH",) if k in os.environ},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_7_8_the_help_says_research_use():
    done = command("--help")
    assert b"research; not a medical device" in b" ".join(done.stdout.split())


def test_1_5_stdout_has_the_paths_and_nothing_else(model, tmp_path):
    scan(tmp_path / "a.nii.gz")
    done = command("predict", "a.nii.gz", "-o", "out", "--model", model, *REAL, "--report", "csv", cwd=tmp_path)
    assert done.stdout.decode().splitlines() == ["out/a_seg.nii.gz", "out/a_seg.json", "out/a_seg.csv"]
    assert b"liver" in done.stderr


@pytest.mark.slow
def test_quiet_leaves_errors_alone_on_stderr(model, tmp_path):
    from dicom_phantom import series  # runs has put its folder on the path

    series(tmp_path / "in" / "ct")
    series(tmp_path / "in" / "shot", uid="b", SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    words = ("predict", "in", "--model", model, "--engine", "torch", "--device", "cpu", "--half")
    told = command(*words, "-o", "told", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert b"is left out" in told.stderr
    assert b"--half is now --precision auto" in told.stderr
    quiet = command(*words, "-o", "quiet", "-q", cwd=tmp_path)
    assert (quiet.returncode, quiet.stderr) == (0, b"")
    failed = command("predict", "in/shot", "--model", model, *REAL, "-q", cwd=tmp_path)
    assert failed.returncode == 65
    assert failed.stderr.startswith(b"error: ")


def test_events_on_stdout_are_alone_there(model, tmp_path):
    scan(tmp_path / "a.nii.gz")
    done = command("predict", "a.nii.gz", "-o", "out", "--model", model, *REAL, "--events", "-", cwd=tmp_path)
    events = [json.loads(line)["event"] for line in done.stdout.splitlines()]
    assert (events[0], events[-1]) == ("read", "done")


def test_more_threads_than_can_be_are_a_usage_error_with_the_bound():
    done = in_process("predict", "a.nii.gz", "--threads", 100_000)
    assert done.returncode == 2
    assert b"--threads" in done.stderr
    assert b"1024" in done.stderr  # each typer has its own words for it


def test_a_misspelt_option_gets_the_nearest_one():
    done = in_process("predict", "--modle", "x")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"did you mean --model?" in done.stderr


@pytest.mark.parametrize(
    ("words", "variable", "shown"),
    [
        (["predict", "no.nii"], "", False),
        (["predict", "no.nii"], "0", False),
        (["predict", "no.nii"], "1", True),
        (["--debug", "predict", "no.nii"], "", True),
        (["predict", "no.nii", "--debug"], "", True),
        (["predict", "--", "--debug"], "", False),
    ],
)
def test_1_4_a_traceback_is_shown_where_debug_asks_for_it_and_nowhere_else(tmp_path, words, variable, shown):
    done = command(*words, cwd=tmp_path, env={"SEGCLI_DEBUG": variable})
    assert done.returncode == 66
    assert (b"Traceback" in done.stderr) == shown


def test_a_program_that_calls_main_goes_on_after_it(tmp_path):
    code = (
        "import sys\nfrom segcli.commands.process import main\n"
        "try:\n main()\nexcept SystemExit as end:\n print('went on', end.code)"
    )
    done = command("predict", "no.nii", before=["-c", code], cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, b"went on 66\n")


def test_a_setting_of_an_option_that_may_be_repeated_is_a_word_or_a_list(model, tmp_path):
    scan(tmp_path / "a.nii.gz")
    for reports in ('"csv"', '["csv"]'):
        (tmp_path / "segcli.toml").write_text(f'[predict]\nmodel = "{model}"\nreport = {reports}\n')
        done = in_process("predict", "a.nii.gz", "-o", "out", *REAL, cwd=tmp_path)
        assert done.stdout.split()[-1] == b"out/a_seg.csv", done.stderr


def test_a_setting_of_the_wrong_kind_is_the_files_fault_and_named(tmp_path):
    (tmp_path / "segcli.toml").write_text('[predict]\noverlap = "half"\n')
    done = in_process("predict", "a.nii.gz", cwd=tmp_path)
    assert done.returncode == 78
    assert b"segcli.toml: Invalid value for '--overlap'" in done.stderr


def test_a_list_of_a_settings_file_is_one_for_any_option_and_a_switch_is_a_switch(model, tmp_path):
    scan(tmp_path / "a.nii.gz")
    (tmp_path / "segcli.toml").write_text('[predict]\nclasses = ["liver", "spleen"]\nsplit = true\n')
    done = in_process("predict", "a.nii.gz", "-o", "out", "-m", model, *REAL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / "out" / "a_seg").iterdir()) == ["liver.nii.gz", "spleen.nii.gz"]
    (tmp_path / "segcli.toml").write_text("[predict]\nlargest_component = true\n")
    done = in_process("predict", "a.nii.gz", "-m", model, cwd=tmp_path)
    assert done.returncode == 78
    assert b"segcli.toml: predict: largest_component cannot be true" in done.stderr


@pytest.mark.slow
def test_a_variable_may_name_a_model_with_spaces_and_several_with_colons(model, tmp_path):
    scan(tmp_path / "a.nii.gz")
    (tmp_path / "my models").mkdir()
    (tmp_path / "my models" / "organs").symlink_to(model)
    for named in ("my models/organs", f"{model}:my models/organs"):
        done = command("plan", "a.nii.gz", *REAL, "--json", cwd=tmp_path, env={"SEGCLI_MODEL": named})
        assert done.returncode == 0, done.stderr


def test_a_channel_is_one_file(model, tmp_path):
    scan(tmp_path / "a.nii.gz")
    done = in_process("predict", "--channel", "CT=a.nii.gz", "--channel", "ct=b.nii.gz", "-m", model, cwd=tmp_path)
    assert done.returncode == 2
    assert b"--channel ct: is given twice" in done.stderr


@pytest.mark.slow
def test_2_7_tables_pages_events_and_exports_are_never_written_over_what_is_not_segclis(model, tmp_path):
    scans(tmp_path / "in", 2)
    mine = {name: f"mine: {name}\n" for name in ("out/cohort.csv", "notes.html", "run.log", "net.onnx")}
    for name, text in mine.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    predict = ("predict", "in", "-o", "out", "-m", model, *REAL)
    runs = [
        command(*predict, cwd=tmp_path),
        command(*predict, "--events", "run.log", cwd=tmp_path),
        command("evaluate", "out/case0_seg.nii.gz", "out/case0_seg.nii.gz", "--html", "notes.html", cwd=tmp_path),
        command("export-onnx", "-m", model, "-o", "net.onnx", cwd=tmp_path),
    ]
    assert [done.returncode for done in runs] == [73, 73, 73, 73]
    assert all(b"exists already, and is not known to be segcli's own" in done.stderr for done in runs)
    report = ("report", "out/case0_seg.nii.gz", "-m", model, "--report", "csv")
    runs = [command(*report, cwd=tmp_path), command(*report, cwd=tmp_path)]  # its own table may be made again
    (tmp_path / "out" / "case0_seg.csv").write_text("mine: corrected\n")
    runs += [command(*words, cwd=tmp_path) for words in (report, (*report, "--overwrite"), (*predict, "--overwrite"))]
    assert [done.returncode for done in runs] == [0, 0, 73, 0, 0]
    assert (tmp_path / "out" / "cohort.csv").read_text().startswith("case,")
    assert [(tmp_path / n).read_text() for n in ("notes.html", "run.log", "net.onnx")] == list(mine.values())[1:4]


@pytest.mark.slow
@pytest.mark.usefixtures("briefly")
def test_what_a_refusal_advises_the_command_takes(model, tmp_path):
    """A scan whose header states no form: each command is told with --affine which statement counts."""
    scan(tmp_path / "a.nii.gz", sform_code=0, qform_code=0)
    labels = "out/a_seg.nii.gz"
    words = [
        ("plan", "a.nii.gz", "-m", model, *REAL),
        ("predict", "a.nii.gz", "-o", "out", "-m", model, *REAL),
        ("report", labels, "--image", "a.nii.gz", "-m", model, "--report", "tsv"),
        ("evaluate", labels, labels),
    ]
    for command_line in words[:2]:
        done = in_process(*command_line, cwd=tmp_path)
        assert (done.returncode, b"--affine" in done.stderr) == (65, True)
    for command_line in words:
        done = in_process(*command_line, "--affine", "sform", cwd=tmp_path)
        assert done.returncode == 0, done.stderr


def test_models_are_listed_by_that_word_as_well(tmp_path):
    assert in_process("models", "list", "--json").stdout == in_process("models", "--json").stdout


@pytest.mark.slow
def test_a_precision_is_one_word_and_an_unknown_one_is_a_usage_error(model, tmp_path):
    scan(tmp_path / "a.nii.gz")
    for words, code, said in (
        (("--precision", "float8"), 2, b"did you mean 'float"),
        (("--precision", "float32", "--fast"), 2, b"give one of them"),
        (("--precision", "float16", "--device", "cpu"), 69, b"float16 is for GPUs"),
    ):
        done = in_process("predict", "a.nii.gz", "-o", "out", "--model", model, *words, cwd=tmp_path)
        assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    done = in_process("predict", "a.nii.gz", "-o", "out", "--model", model, *REAL, "--fast", cwd=tmp_path)
    facts = json.loads((tmp_path / "out" / "a_seg.json").read_text())
    assert (facts["options"]["precision"], facts["options"]["overlap"]) == ("fast", 0.25)


@pytest.mark.parametrize("opset", ["7", "99"])
def test_an_operator_set_that_is_not_there_is_refused_before_the_export(model, tmp_path, opset):
    """It was a bad model (78), after the work, in the words of torch's own export."""
    with pytest.raises(UsageError, match=f"--opset {opset}: is not one of 9 to "):
        app(["export-onnx", "-m", str(model), "-o", str(tmp_path / "a.onnx"), "--opset", opset], standalone_mode=False)
