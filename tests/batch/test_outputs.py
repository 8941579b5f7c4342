"""One table of what segcli writes of a case: the plan, what is recognised, the help and the README follow it."""

import re
from pathlib import Path

import pytest
from packages import example
from runs import command, in_process, scan

from segcli.batch import outputs
from segcli.batch.case import Case
from segcli.batch.names import is_own
from segcli.batch.outputs import LABELS, RECORD, Destination, Output, choices, offered, planned
from segcli.models.card import ModelCard
from segcli.models.library import find

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelCard:
    from models import organs

    return find(str(organs(tmp_path_factory.mktemp("model") / "organs")))


EVERYTHING = Destination(
    forms=choices("--write"),
    reports=choices("--report"),
    tables=choices("--tables"),
    split=True,
    layout="bids",
    stats="totalseg",
)


def test_each_kind_of_the_table_is_planned_and_then_recognised_beside_a_record(model, tmp_path):
    base = tmp_path / "a.b"
    found = planned(base, model, EVERYTHING)
    assert set(found.values()) == set(outputs.outputs())
    (tmp_path / "a.b_seg.json").write_text('{"segcli_record": 1}')
    for path in (*found, *(tmp_path / f"a.b{end}" for end in (*LABELS.values(), *RECORD.values()))):
        assert is_own(path), path.name
        alone = tmp_path / "elsewhere" / path.name
        assert not is_own(alone)


def test_no_two_kinds_have_one_name_or_one_ending():
    kinds = [(o.option, o.kind) for o in outputs.BUILT_IN]
    endings = [o.ending for o in outputs.BUILT_IN]
    assert len(set(kinds)) == len(set(endings)) == len(outputs.BUILT_IN)


def test_the_readme_lists_each_kind_as_the_table_has_it():
    rows = [f"| `{{stem}}{o.ending}{'/' if o.inside else ''}` | `{o.asked}` | {o.says} |" for o in outputs.BUILT_IN]
    section = README.partition("## What is written")[2].partition("\n## ")[0]
    assert [row for row in section.splitlines() if "` | `--" in row] == rows


@pytest.mark.parametrize("option", ["--write", "--report", "--tables"])
def test_the_help_offers_what_the_option_takes(option, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    shown = in_process("predict", "--help").stdout.decode()
    assert offered(option) in re.sub(r"\s+", " ", shown)
    assert offered(option) == f"{', '.join(choices(option))}, or a kind of an installed package"


@pytest.mark.slow
def test_a_kind_from_an_installed_package_is_written_recorded_and_done_the_second_time(model, tmp_path):
    scan(tmp_path / "a.nii.gz")
    env = example(tmp_path / "site")
    words = ["predict", "a.nii.gz", "-o", "out", "--model", model.folder, "--engine", "onnx", "--write", "notes"]
    done = command(*words, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "a_notes.txt").read_text() == "a: 5 structures\n"
    assert b"out/a_notes.txt" in done.stdout
    assert b"the notes are short" in done.stderr
    again = command(*words, cwd=tmp_path, env=env)
    assert b"already done" in again.stderr, again.stderr
    without = in_process(*words, cwd=tmp_path)
    assert without.returncode == 2
    assert b"--write notes: is not one of nifti, dicom-seg" in without.stderr


def test_what_needs_probabilities_or_votes_says_so():
    assert Destination(forms=("probabilities",)).probabilities
    assert Destination(forms=("dicom-sr",), seg_type="fractional").probabilities  # which brings the segmentation along
    assert not Destination(forms=("dicom-seg",)).probabilities
    assert Destination(forms=("disagreement",)).votes
    assert not Destination().votes


def test_reports_and_tables_come_in_the_order_that_they_were_named(model):
    to = Destination(forms=("rtstruct",), reports=("png", "csv"), tables=("itksnap", "slicer"), split=True)
    endings = [path.name for path, output in planned(Path("a"), model, to).items() if output.inside is None]
    assert endings == ["a_seg.png", "a_seg.csv", "a.label", "a.ctbl", "a_rtstruct.dcm"]
    assert isinstance(next(iter(to.outputs)), Output)


# ---- the day of a picture


def test_6_6_a_picture_has_the_day_on_which_it_is_made_and_equal_days_make_equal_bytes(model, tmp_path, monkeypatch):
    from datetime import UTC, datetime

    from runs import files, opened

    from segcli.batch.cases import cases
    from segcli.batch.objects import today
    from segcli.batch.pipeline import predict

    one = str(scan(tmp_path / "a.nii.gz"))

    def made(name: str, seconds: str) -> dict[str, bytes]:
        monkeypatch.setenv("SOURCE_DATE_EPOCH", seconds)
        folder = tmp_path / name
        list(predict(cases([one], output=folder), model, opened(), Destination(folder, reports=("png", "html"))))
        return files(folder)

    morning, evening, later = made("morning", "1769817600"), made("evening", "1769903999"), made("later", "1769904000")
    assert today() == "2026-02-01"
    assert morning == evening
    assert {name for name in morning if morning[name] != later[name]} == {"a_seg.png", "a_seg.json"}
    assert [record["extras"]["files"].pop("a_seg.png") for record in (morning["a_seg.json"], later["a_seg.json"])]
    assert morning["a_seg.json"] == later["a_seg.json"]
    for wrong in ("", "tomorrow", "9" * 40):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", wrong)
        before = datetime.now(UTC).date().isoformat()
        assert before <= today() <= datetime.now(UTC).date().isoformat()


# ---- a label map with a name of its own


def test_files_beside_a_segmentation_of_3d_slicer_have_its_name_without_seg_and_are_known(tmp_path):
    to = Destination(file=tmp_path / "a.seg.nrrd", reports=("html",))
    case = Case("scan", (tmp_path / "scan.nii",), tmp_path)
    assert to.base(case, "organs") == tmp_path / "a"
    (tmp_path / "a.seg.json").write_text('{"segcli_record": 1}')
    assert is_own(tmp_path / "a_seg.html")
    assert is_own(tmp_path / "a_seg" / "liver.nii.gz")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "rest"),
    [
        ("out/mine.nii.gz", {"mine.json", "mine_seg.csv", "mine.ctbl", "mine_seg/body.nii.gz"}),
        ("out/a_seg.nrrd", {"a_seg.json", "a_seg.csv", "a.ctbl", "a_seg/body.nii.gz"}),
        ("out/a.seg.nrrd", {"a.seg.json", "a_seg.csv", "a.ctbl", "a_seg/body.nii.gz"}),
    ],
)
def test_a_label_map_gets_the_name_that_the_user_gave_and_the_rest_lies_beside_it(model, tmp_path, file, rest):
    from segcli.formats import read

    scan(tmp_path / "a.nii.gz")
    words = ("predict", "a.nii.gz", "-o", file, "--model", model.folder, "--engine", "onnx")
    extra = ("--report", "csv", "--tables", "slicer", "--split")
    done = in_process(*words, *extra, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().splitlines()[0] == file
    made = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert made >= {file.removeprefix("out/"), *rest}
    assert all(is_own(tmp_path / "out" / name) for name in made)
    again = in_process(*words, *extra, cwd=tmp_path)
    assert b"already done" in again.stderr, again.stderr
    in_process("predict", "a.nii.gz", "-o", "flat", "--model", model.folder, "--engine", "onnx", cwd=tmp_path)
    one, other = (read([tmp_path / name]).data for name in (file, "flat/a_seg.nii.gz"))
    assert (one == other).all()
    # What was written is no scan of a later batch, beside the scan itself.
    (tmp_path / "out" / "b.nii.gz").write_bytes((tmp_path / "a.nii.gz").read_bytes())
    batch = in_process("predict", "out", "-o", "later", "--model", model.folder, "--engine", "onnx", cwd=tmp_path)
    assert b"later/b_seg.nii.gz" in batch.stdout
    assert sorted(p.name for p in (tmp_path / "later").glob("*.json")) == ["b_seg.json"]


@pytest.mark.slow
def test_2_7_a_named_file_of_somebody_else_is_kept(model, tmp_path):
    scan(tmp_path / "a.nii.gz")
    words = ("predict", "a.nii.gz", "--model", model.folder, "--engine", "onnx", "-o")
    for name in ("mine.nii.gz", "mine.json"):
        (tmp_path / name).write_text("{}")
        done = in_process(*words, "mine.nii.gz", cwd=tmp_path)
        assert done.returncode == 73, done.stderr
        assert (tmp_path / name).read_text() == "{}"
        (tmp_path / name).unlink()
    done = in_process(*words, "a.nii.gz", cwd=tmp_path)
    assert done.returncode == 2
    assert b"would overwrite the input" in done.stderr


def test_a_label_map_in_another_format_does_not_take_the_record_of_the_first(model, tmp_path):
    scan(tmp_path / "a.nii.gz")
    words = ("predict", "a.nii.gz", "--model", model.folder, "--engine", "onnx", "-o")
    assert in_process(*words, "x.nii", cwd=tmp_path).returncode == 0
    first = (tmp_path / "x.json").read_bytes()
    done = in_process(*words, "x.mgz", cwd=tmp_path)
    assert (done.returncode, b"x.json: is the record of x.nii" in done.stderr) == (73, True)
    assert (tmp_path / "x.json").read_bytes() == first
    assert not (tmp_path / "x.mgz").exists()
    (tmp_path / "x.nii").unlink()
    assert in_process(*words, "x.mgz", cwd=tmp_path).returncode == 0


def test_a_named_file_is_for_one_scan_and_no_tree(model, tmp_path):
    for name in ("a", "b"):
        scan(tmp_path / f"{name}.nii.gz")
    words = ("--model", model.folder, "--engine", "onnx", "-o", "mine.nii.gz")
    two = in_process("predict", "a.nii.gz", "b.nii.gz", *words, cwd=tmp_path)
    assert (two.returncode, b"is one label map, and there are 2 scans" in two.stderr) == (2, True)
    tree = in_process("predict", "a.nii.gz", *words, "--layout", "bids", cwd=tmp_path)
    assert (tree.returncode, b"a BIDS tree needs a folder" in tree.stderr) == (2, True)
    other = in_process("predict", "a.nii.gz", *words[:-1], "mine.dcm", cwd=tmp_path)
    assert (other.returncode, b"mine.dcm: a label map is not written as .dcm" in other.stderr) == (2, True)
    report = in_process("report", "a.nii.gz", "--model", model.folder, "-o", "page.html", cwd=tmp_path)
    assert (report.returncode, b"page.html: is called as a file" in report.stderr) == (2, True)
    assert not [p for p in tmp_path.iterdir() if p.name not in ("a.nii.gz", "b.nii.gz")]
    (tmp_path / "mine.nii.gz").mkdir()
    folder = in_process("predict", "a.nii.gz", "b.nii.gz", *words, cwd=tmp_path)
    assert folder.returncode == 0
    assert (tmp_path / "mine.nii.gz" / "a_seg.nii.gz").is_file()
    made = tmp_path / "mine.nii.gz" / "a_seg.nii.gz"
    report = in_process("report", made, "--model", model.folder, "-o", "page.html/", cwd=tmp_path)
    assert (report.returncode, (tmp_path / "page.html" / "a_seg.html").is_file()) == (0, True), report.stderr
