"""The tables of all cases in an output folder."""

import csv
import json
import shutil
from html import escape
from pathlib import Path

import pytest
from dicom_phantom import series
from models import CARD, organs
from runs import card, opened, scan, scans

from segcli.batch.cases import cases
from segcli.batch.cohort import FIXED, _ours, cohort, gathered, joined, missing
from segcli.batch.outputs import Destination
from segcli.batch.pipeline import predict
from segcli.batch.selection import Selection
from segcli.batch.stages import Options, Outcome
from segcli.commands import outcomes
from segcli.commands.outcomes import told_of
from segcli.documents import Facts
from segcli.errors import OutputExists
from segcli.models.card import ModelCard
from segcli.models.library import find
from segcli.results.measure import csv_text


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelCard:
    return card(tmp_path_factory.mktemp("model"))


def run(model: ModelCard, inputs: Path, out: Path, options: Options | None = None) -> list[Outcome]:
    return list(predict(cases([str(inputs)], output=out), model, opened(), Destination(out), options))


def cohort_files(ended: list[Outcome], to: Destination, name: str = CARD["name"]) -> list[Path]:
    return outcomes.cohort_files(ended, to, lambda: name)


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))


def test_the_cohort_has_every_finished_case_and_no_other(model, tmp_path):
    scans(tmp_path / "in", 3)
    out = tmp_path / "out"
    run(model, tmp_path / "in" / "case0.nii.gz", out)
    (tmp_path / "in" / "case1.nii.gz").write_bytes(b"no scan")
    ended = run(model, tmp_path / "in", out)
    assert [o.status for o in ended] == ["skipped", "failed", "done"]
    long, wide = cohort(gathered(ended, out), out, ["csv"])
    assert {row["case"] for row in table(long)} == {row["case"] for row in table(wide)} == {"case0", "case2"}


def test_the_wide_table_has_a_row_for_each_case_and_a_column_for_each_structure(model, tmp_path):
    scans(tmp_path / "in", 2)
    ended = run(model, tmp_path / "in", tmp_path / "out")
    for wide in (cohort(gathered(ended, tmp_path / "out"), tmp_path / "out", ["csv", "tsv"])[i] for i in (1, 3)):
        rows = table(wide)
        assert [row["case"] for row in rows] == ["case0", "case1"]
        for row, outcome in zip(rows, ended, strict=True):
            volumes = {f"{s['name']}_ml": s["volume_ml"] for s in outcome.record["structures"]}
            assert list(row) == ["case", "model", "verdict", "sum_ml", *volumes]
            assert row["verdict"] == outcome.record["verdict"]
            assert {name: float(row[name]) for name in volumes} == volumes
            assert float(row["sum_ml"]) == pytest.approx(sum(volumes.values()), abs=0.001)


def test_the_wide_table_of_brains_has_the_sums_of_their_tissues():
    from segcli.batch.cohort import _sums

    volumes = {"left_cerebral_white_matter": 200.0, "left_cerebral_cortex": 250.5, "left_lateral_ventricle": 10.0}
    structures = [{"name": name, "volume_ml": ml} for name, ml in volumes.items()]
    row = _sums({"case": "a", "verdict": "pass", "structures": structures}, "toy")
    assert list(row)[:6] == ["case", "model", "verdict", "sum_ml", "sum_total_brain_ml", "sum_grey_matter_ml"]
    assert (row["sum_ml"], row["sum_grey_matter_ml"], row["sum_white_matter_ml"]) == (460.5, 250.5, 200.0)
    asked = {"classes": ["left_cerebral_white_matter", "left_cerebral_cortex", "left_lateral_ventricle"]}
    part = _sums({"case": "a", "verdict": "pass", "structures": structures, "options": asked}, "toy")
    assert (part["sum_ml"], [key for key in part if key.startswith("sum_")]) == (460.5, ["sum_ml"])


def test_a_second_batch_into_a_folder_adds_to_the_cohort(model, tmp_path):
    out, whole = tmp_path / "out", tmp_path / "whole"
    for name in ("a", "b", "sub/c", "d"):
        scan(tmp_path / "in" / ("first" if name < "c" else "second") / f"{name}.nii.gz", ord(name[-1]))
    for part in ("first", "second"):
        ended = run(model, tmp_path / "in" / part, out)
        made = cohort(gathered(ended, out), out, ["csv"])
    assert [row["case"] for row in table(made[1])] == ["a", "b", "d", "sub/c"]
    everything = tmp_path / "all"
    for path in (tmp_path / "in").rglob("*.nii.gz"):
        there = everything / path.relative_to(tmp_path / "in" / path.relative_to(tmp_path / "in").parts[0])
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_bytes(path.read_bytes())
    at_once = cohort(gathered(run(model, everything, whole), whole), whole, ["csv"])
    assert [p.read_text() for p in made] == [p.read_text() for p in at_once]


def test_a_single_scan_joins_the_tables_and_the_page_that_are_there(model, tmp_path):
    out = tmp_path / "out"
    scans(tmp_path / "in", 2)
    one = scan(tmp_path / "more" / "case2.nii.gz", 2)
    alone = tmp_path / "alone"
    assert cohort_files(run(model, one, alone), Destination(alone)) == []  # no cohort is there
    cohort_files(run(model, tmp_path / "in", out), Destination(out, reports=("html", "tsv")))
    made = cohort_files(run(model, one, out), Destination(out))
    assert [path.name for path in made] == ["cohort.tsv", "cohort_wide.tsv", "cohort.html"]
    assert [row["case"] for row in table(made[1])] == ["case0", "case1", "case2"]
    assert b"case2" in made[2].read_bytes()
    made = cohort_files(run(model, tmp_path / "in", out), Destination(out))  # a later batch keeps them whole as well
    assert [path.name for path in made] == [
        "cohort.csv",
        "cohort_wide.csv",
        "cohort.tsv",
        "cohort_wide.tsv",
        "cohort.html",
    ]
    assert {told_of(path) for path in made} == {
        "one row for each case and structure", "one row for each case", "all cases on one page"
    }  # fmt: skip


def test_the_page_names_the_cases_of_its_run_that_failed(model, tmp_path):
    out, to = tmp_path / "out", Destination(tmp_path / "out", reports=("html",))
    scans(tmp_path / "in", 2)
    (tmp_path / "in" / "bad.nii").write_bytes(b"x")
    ended = run(model, tmp_path / "in", out)
    reason = next(str(outcome.error.message) for outcome in ended if outcome.error is not None)
    page = cohort_files(ended, to)[-1].read_text()
    assert "<h1>2 cases, 1 not segmented</h1>" in page
    assert page.count(f">{escape(reason)}</td>") == 1
    page = cohort_files(run(model, tmp_path / "in" / "case0.nii.gz", out), to)[-1].read_text()
    assert "<h1>2 cases, 1 not segmented</h1>" in page
    assert ">told by an earlier run</td>" in page
    scan(tmp_path / "in" / "bad.nii")
    page = cohort_files(run(model, tmp_path / "in", out), to)[-1].read_text()
    assert "<h1>3 cases</h1>" in page
    assert "ot segmented" not in page.partition("<main>")[2].partition("</main>")[0]


def test_the_wide_table_has_a_row_for_a_case_of_its_run_that_failed(model, tmp_path):
    out, to = tmp_path / "out", Destination(tmp_path / "out")
    scans(tmp_path / "in", 2)
    (tmp_path / "in" / "bad.nii").write_bytes(b"x")
    long, wide = cohort_files(run(model, tmp_path / "in", out), to)
    assert {row["case"] for row in table(long)} == {"case0", "case1"}
    bad, *others = table(wide)
    assert [row["case"] for row in others] == ["case0", "case1"]
    assert list(bad.values())[:3] == ["bad", others[0]["model"], "not segmented"]
    assert {*list(bad.values())[3:]} == {"n/a"}
    scan(tmp_path / "in" / "bad.nii")
    _, wide = cohort_files(run(model, tmp_path / "in", out), to)
    assert [(row["case"], row["sum_ml"] == "n/a") for row in table(wide)] == [
        ("bad", False), ("case0", False), ("case1", False)
    ]  # fmt: skip


@pytest.mark.parametrize("bad", ["sub-02/anat/sub-02_T1w", "bad", "=bad"])
def test_a_case_that_failed_stays_in_the_tables_until_it_is_done(model, tmp_path, bad):
    out, to = tmp_path / "out", Destination(tmp_path / "out")
    scans(tmp_path / "in", 2)
    (tmp_path / "in" / f"{bad}.nii").parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "in" / f"{bad}.nii").write_bytes(b"x")
    first = cohort_files(run(model, tmp_path / "in", out), to)[1].read_bytes()
    scans(tmp_path / "part", 2)
    assert cohort_files(run(model, tmp_path / "part", out), to)[1].read_bytes() == first
    assert cohort_files(run(model, tmp_path / "part" / "case0.nii.gz", out), to)[1].read_bytes() == first
    tables = cohort_files(run(model, tmp_path / "part", out), Destination(out, reports=("tsv",)))
    assert [row["verdict"] for row in table(tables[1])].count("not segmented") == 1
    other = second(tmp_path / "other", model.name, 0.25)  # of the same name: it has not done the other one's case
    scan(tmp_path / "more" / "case7.nii.gz")
    _, wide, *_ = cohort_files(run(other, tmp_path / "more", out), to)
    failed = [row for row in table(wide) if row["verdict"] == "not segmented"]
    assert [row["model"] for row in failed] == [row["model"] for row in table(wide) if row["case"] == "case0"]
    scan(tmp_path / "in" / f"{bad}.nii")
    _, wide, *_ = cohort_files(run(model, tmp_path / "in", out), to)
    assert len(table(wide)) == 4
    assert "not segmented" not in wide.read_text()


def spoilt(folder: Path, *names: str) -> Path:
    """A folder of files that are no scans."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def test_a_batch_of_which_all_fail_is_told_in_the_tables_and_takes_nothing_away(model, tmp_path):
    out, to = tmp_path / "out", Destination(tmp_path / "out", reports=("html",))
    bad = spoilt(tmp_path / "bad", "a.nii", "b.nii")
    long, wide, page = cohort_files(run(model, bad, out), to)
    assert [(*row.values(),) for row in table(wide)] == [(x, model.name, "not segmented", "n/a") for x in "ab"]
    assert "<h1>0 cases, 2 not segmented</h1>" in page.read_text()
    head = long.read_text()
    scans(tmp_path / "in", 2)
    cohort_files(run(model, tmp_path / "in", out), to)
    assert long.read_text().partition("\n")[0] == head.strip()
    assert [row["case"] for row in table(wide)] == ["a", "b", "case0", "case1"]
    long_before = long.read_bytes()
    cohort_files(run(model, spoilt(tmp_path / "more", "c.nii", "d.nii"), out), to)
    assert [row["case"] for row in table(wide)] == ["a", "b", "c", "case0", "case1", "d"]
    cohort_files(run(model, spoilt(tmp_path / "more", "e.nii") / "e.nii", out), to)  # a single one joins them
    assert [row["case"] for row in table(wide)] == ["a", "b", "c", "case0", "case1", "d", "e"]
    assert {row["model"] for row in table(wide)} == {model.name}
    assert long.read_bytes() == long_before


@pytest.mark.parametrize("others", [0, 1])
def test_a_case_whose_labels_are_there_keeps_its_rows_where_its_scan_cannot_be_read_any_more(model, tmp_path, others):
    out, to = tmp_path / "out", Destination(tmp_path / "out")
    scans(tmp_path / "in", 2 + others)
    before = [path.read_bytes() for path in cohort_files(run(model, tmp_path / "in", out), to)]
    for i in range(2):
        (tmp_path / "in" / f"case{i}.nii.gz").write_bytes(b"x")
    ended = run(model, tmp_path / "in", out)
    assert [outcome.status for outcome in ended] == ["failed", "failed", *["skipped"] * others]
    assert [path.read_bytes() for path in cohort_files(ended, to)] == before


def test_a_folder_that_was_refused_is_done_when_a_case_in_it_is(model, tmp_path):
    out, to = tmp_path / "out", Destination(tmp_path / "out")
    scans(tmp_path / "in", 1)
    spoilt(tmp_path / "in", "study.zip")
    ended = run(model, tmp_path / "in", out)
    assert [row["case"] for row in table(cohort_files(ended, to)[1])] == ["case0", "study"]
    (tmp_path / "in" / "study.zip").unlink()
    scans(tmp_path / "in" / "study", 1)
    ended = run(model, tmp_path / "in", out)
    assert [row["case"] for row in table(cohort_files(ended, to)[1])] == ["case0", "study/case0"]


@pytest.mark.parametrize("packed", [False, True])
def test_a_study_of_several_series_that_was_refused_is_done_when_one_of_them_is(model, tmp_path, packed):
    out, to, study = tmp_path / "out", Destination(tmp_path / "out"), tmp_path / "study"
    study.mkdir()
    for number in "34":
        for file in series(tmp_path / number, SeriesNumber=number, uid=number).iterdir():
            file.rename(study / f"{number}-{file.name}")
    place = shutil.make_archive(str(study), "zip", study) if packed else str(study)
    names = []
    for chosen in ((), ("4",)):
        found = cases([place, "none"], select=Selection(series=chosen), output=out)
        given = [*cases([str(scan(tmp_path / "a.nii.gz"))]), found[0]]
        tables = cohort_files(list(predict(given, model, opened(), to)), to)
        names.append([row["case"] for row in table(tables[1])])
    assert names[0] == ["a", "study"]
    assert (len(names[1]), "study" in names[1]) == (2, False)


def test_the_page_of_several_models_says_which_has_not_segmented_a_case(model, tmp_path):
    out, to = tmp_path / "out", Destination(tmp_path / "out", reports=("html",))
    scans(tmp_path / "in", 1)
    spoilt(tmp_path / "in", "b.nii", "a.nii")
    cohort_files(run(model, tmp_path / "in", out), to)
    other = second(tmp_path / "other")
    page = cohort_files(run(other, spoilt(tmp_path / "more", "c.nii", "a.nii"), out), to, other.name)[-1].read_text()
    rows = page.partition("<h2>Not segmented</h2>")[2].partition("</table>")[0].split("<tr>")[-4:]
    assert [[x for x in "abc" if f">{x}</th>" in row] for row in rows] == [["a"], ["a"], ["b"], ["c"]]
    assert [(f">{model.name}</td>" in row, ">another</td>" in row) for row in rows] == [
        (False, True), (True, False), (True, False), (False, True)
    ]  # fmt: skip


def test_a_table_of_somebody_elses_says_nothing_of_failures(model, tmp_path):
    out = tmp_path / "out"
    scans(tmp_path / "in", 2)
    ended = run(model, tmp_path / "in", out)
    head = "case,model,diagnosis,verdict,sum_ml"
    (out / "cohort_wide.csv").write_text(f"{head}\nbad,{model.name},x,not segmented,n/a\n")
    assert missing(ended, gathered(ended, out), out, lambda: model.name) == []
    (out / "cohort_wide.csv").write_text(f"{head.replace('diagnosis,', '')}\nbad,gone,not segmented,n/a\nbad\n")
    assert [(x["case"], x["model"]) for x in missing(ended, gathered(ended, out), out, lambda: model.name)] == [
        ("bad", {"name": "gone"})
    ]


def test_a_case_that_was_refused_because_another_models_labels_are_there_has_no_row_of_its_own(model, tmp_path):
    out, to = tmp_path / "out", Destination(tmp_path / "out", reports=("html",))
    scans(tmp_path / "in", 2)
    run(model, tmp_path / "in" / "case0.nii.gz", out)
    (out / "case2_seg.nii.gz").write_bytes(b"somebody else's")
    scans(tmp_path / "in", 3)
    ended = run(second(tmp_path / "other"), tmp_path / "in", out)
    assert [type(outcome.error) for outcome in ended] == [OutputExists, type(None), OutputExists]
    _, wide, page = cohort_files(ended, to)
    assert [(row["case"], row["model"], row["verdict"] == "not segmented") for row in table(wide)] == [
        ("case0", model.name, False), ("case1", "another", False), ("case2", "another", True)
    ]  # fmt: skip
    assert "<h1>2 cases, 1 not segmented</h1>" in page.read_text()


def test_a_case_that_was_refused_because_its_result_is_there_has_one_row(model, tmp_path):
    out, to = tmp_path / "out", Destination(tmp_path / "out")
    scans(tmp_path / "in", 2)
    run(model, tmp_path / "in", out)
    scan(tmp_path / "in" / "case0.nii.gz", seed=9)
    ended = run(model, tmp_path / "in", out)
    assert isinstance(ended[0].error, OutputExists)
    _, wide = cohort_files(ended, to)
    assert [(row["case"], row["sum_ml"] == "n/a") for row in table(wide)] == [("case0", False), ("case1", False)]


def second(folder: Path, name: str = "another", overlap: float | None = None) -> ModelCard:
    """A model with other structures, or of another hash."""
    if overlap is not None:
        return find(str(organs(folder / "organs", name=name, overlap=overlap)))
    labels = {k if k in ("background", "body") else f"{k}_2": v for k, v in CARD["labels"].items()}
    return find(str(organs(folder / "organs", name=name, labels=labels, codes={}, colours={}, pairs=[])))


@pytest.mark.parametrize("count", [1, 2])
def test_a_scan_or_a_batch_of_another_model_adds_its_rows_and_takes_none_away(model, tmp_path, count):
    out = tmp_path / "out"
    scans(tmp_path / "in", 2)
    for i in range(count):
        scan(tmp_path / "more" / f"later{i}.nii.gz", i)
    cohort_files(run(model, tmp_path / "in", out), Destination(out, reports=("html", "csv")))
    before = table(out / "cohort_wide.csv")
    other = second(tmp_path / "other")
    made = cohort_files(run(other, tmp_path / "more", out), Destination(out))
    assert [path.name for path in made] == ["cohort.csv", "cohort_wide.csv", "cohort.html"]
    rows = table(out / "cohort_wide.csv")
    assert [(row["case"], row["model"]) for row in rows] == [
        ("case0", model.name), ("case1", model.name), *((f"later{i}", "another") for i in range(count))
    ]  # fmt: skip
    for old, new in zip(before, rows, strict=False):
        assert {name: new[name] for name in old} == old
        assert (new["liver_2_ml"], old["body_ml"]) == ("n/a", new["body_ml"])
    assert (rows[-1]["liver_ml"], rows[-1]["liver_2_ml"] != "n/a", rows[-1]["body_ml"] != "n/a") == ("n/a", True, True)
    assert len({row["name"] for row in table(out / "cohort.csv") if row["model"] == "another"}) == 5
    page = (out / "cohort.html").read_text()
    assert all(f"<h2>{words}: {name}</h2>" in page for words in ("Structures", "Volumes of each case")
               for name in (model.name, "another"))  # fmt: skip
    again = [path.read_bytes() for path in cohort_files(run(model, tmp_path / "in", out), Destination(out))]
    assert again == [path.read_bytes() for path in made]  # in whatever order the batches come


def test_the_same_scans_with_another_model_have_both_results_where_their_names_allow_it(model, tmp_path):
    scans(tmp_path / "in", 2)
    other = second(tmp_path / "other")
    given = cases([str(tmp_path / "in")], output=tmp_path / "bids")
    for each in (model, other):
        ended = list(predict(given, each, opened(), Destination(tmp_path / "bids", layout="bids")))
        made = cohort(gathered(ended, tmp_path / "bids"), tmp_path / "bids", ["tsv"])
    rows = [(row["case"], row["model"]) for row in table(made[1])]
    assert sorted(rows) == sorted((f"case{i}", each.name) for i in range(2) for each in (model, other))
    flat = tmp_path / "flat"  # where the second model's files would have the names of the first one's
    run(model, tmp_path / "in" / "case0.nii.gz", flat)
    ended = run(other, tmp_path / "in", flat)
    assert [(o.status, type(o.error)) for o in ended] == [("failed", OutputExists), ("done", type(None))]
    assert [(r["case"], r["model"]["name"]) for r in gathered(ended, flat)] == [
        ("case0", model.name), ("case1", "another")
    ]  # fmt: skip


def test_models_of_one_name_are_told_apart_by_their_hashes(model, tmp_path):
    scans(tmp_path / "in", 1)
    scan(tmp_path / "more" / "case1.nii.gz", 1)
    out, other = tmp_path / "out", second(tmp_path / "other", model.name, 0.25)
    ended = [*run(model, tmp_path / "in", out), *run(other, tmp_path / "in" / "case0.nii.gz", out)]
    assert type(ended[1].error) is OutputExists
    ended = run(other, tmp_path / "more", out)
    _, wide = cohort(gathered(ended, out), out, ["csv"])
    sums = [json.loads((out / f"case{i}_seg.json").read_text())["model"]["sha256"] for i in range(2)]
    assert sums[0] != sums[1]
    assert [row["model"] for row in table(wide)] == [f"{model.name} {own[:8]}" for own in sums]
    ended = run(other, tmp_path / "in", out)  # refused, since a result lies there, which stays what it is
    assert type(ended[0].error) is OutputExists
    assert [r["model"]["sha256"] for r in gathered([*ended, *run(other, tmp_path / "more", out)], out)] == sums


def test_what_was_not_asked_for_is_unknown_and_not_zero(model, tmp_path):
    scans(tmp_path / "in", 1)
    scan(tmp_path / "more" / "case1.nii.gz", 1)
    out = tmp_path / "out"
    run(model, tmp_path / "in", out)
    ended = run(model, tmp_path / "more", out, Options(classes=("liver",)))
    records = gathered(ended, out)
    rows = table(cohort(records, out, ["csv"])[1])
    assert (rows[1]["spleen_ml"], rows[1]["liver_ml"] != "n/a", rows[0]["spleen_ml"] != "n/a") == ("n/a", True, True)
    from segcli.results.page import cohort_page

    page = cohort_page(records, out).decode()
    assert "empty where it was not asked for" in page
    assert "1 of 1" in page
    assert "2 of 2" in page
    assert "href" not in page.partition("<main>")[2]  # none of them has a page of its own
    (out / "case0_seg.html").write_text("a page")
    assert cohort_page(records, out).decode().count('href="./case0_seg.html"') == 2


def test_records_without_their_label_map_are_no_part_of_the_cohort(model, tmp_path):
    scans(tmp_path / "in", 4)
    out = tmp_path / "out"
    run(model, tmp_path / "in", out)
    (out / "case1_seg.nii.gz").unlink()
    (out / "notes_seg.json").write_text('{"segcli_record": 1, "structures": "none"}')
    spoilt = json.loads((out / "case0_seg.json").read_text())
    spoilt["structures"][0]["volume_ml"] = "much"
    (out / "drawn_seg.json").write_text(json.dumps({**spoilt, "case": "drawn"}))
    ended = run(model, tmp_path / "in" / "case3.nii.gz", out)
    assert [record["case"] for record in gathered(ended, out)] == ["case0", "case2", "case3"]


def test_2_7_a_table_of_an_earlier_version_is_ours(model, tmp_path):
    scans(tmp_path / "in", 1)
    ended = run(model, tmp_path / "in", tmp_path / "out")
    paths = cohort(gathered(ended, tmp_path / "out"), tmp_path / "out", ["csv"])
    for path in paths:
        now = path.read_text()
        path.write_text("\n".join(",".join(line.split(",")[:1] + line.split(",")[2:]) for line in now.splitlines()))
        cohort(gathered(ended, tmp_path / "out"), tmp_path / "out", ["csv"])
        assert path.read_text() == now


def test_2_7_a_table_with_other_columns_is_somebody_elses(model, tmp_path):
    scans(tmp_path / "in", 1)
    ended = run(model, tmp_path / "in", tmp_path / "out")
    for name in ("cohort", "cohort_wide"):
        path = tmp_path / "out" / f"{name}.csv"
        path.write_text("case,score\n")
        with pytest.raises(OutputExists):
            cohort(gathered(ended, tmp_path / "out"), tmp_path / "out", ["csv"])
        assert path.read_text() == "case,score\n"
        path.unlink()
    few = run(model, tmp_path / "in", tmp_path / "few", Options(classes=("liver",)))
    cohort(gathered(ended, tmp_path / "out"), tmp_path / "few", ["csv"])
    cohort(gathered(few, tmp_path / "few"), tmp_path / "few", ["csv"])  # other structures are still ours


@pytest.mark.parametrize("name", ["cohort", "cohort_wide"])
def test_2_7_a_column_that_somebody_has_added_is_not_lost(model, tmp_path, name):
    scans(tmp_path / "in", 1)
    out = tmp_path / "out"
    records = gathered(run(model, tmp_path / "in", out), out)
    cohort(records, out, ["csv"])
    path = out / f"{name}.csv"
    ours = path.read_text()
    path.write_text("\n".join(f"{line},x" for line in ours.splitlines()).replace(",x", ",diagnosis", 1))
    drawn = path.read_text()
    with pytest.raises(OutputExists):
        cohort(records, out, ["csv"])
    assert path.read_text() == drawn
    path.write_text(ours.replace("\n", "\r\n"))  # as a spreadsheet saves it
    cohort(records, out, ["csv"])
    assert path.read_text() == ours


def test_a_wide_table_with_more_columns_than_are_looked_at_is_ours(tmp_path):
    names = ("case", "model", "verdict", "sum_ml", *(f"structure, number {i}_ml" for i in range(400)))
    head = csv_text([dict.fromkeys(names, 1)]).encode()
    assert _ours(FIXED, ",", head[:4096])
    assert _ours(FIXED, ",", head)
    assert not _ours(FIXED, ",", b"case,model,verdict,sum_ml,age\n")


def record_of(case: str) -> Facts:
    nothing = dict.fromkeys(("mean", "sd", "centroid_mm", "bbox_mm", "truncated"))
    structure = {"name": "liver", "label": 1, "voxels": 8, "volume_mm3": 8.0, "volume_ml": 0.008, **nothing}
    model = {"name": "toy", "sha256": "ab" * 32}
    return {"case": case, "model": model, "verdict": "pass", "structures": [structure]}


def test_cases_of_a_bids_dataset_have_the_columns_by_which_its_tables_are_joined(tmp_path):
    records = [record_of("sub-01/ses-b/anat/sub-01_ses-b_T1w"), record_of("sub-02/anat/sub-02_T1w"), record_of("x")]
    plain = cohort(records[2:], tmp_path, ["csv"])
    assert all("participant_id" not in table(path)[0] for path in plain)
    for path in cohort(records, tmp_path, ["csv"]):  # the earlier ones are ours
        rows = table(path)
        assert list(rows[0])[:5] == ["case", "participant_id", "session_id", "model", list(rows[0])[4]]
        assert [(row["participant_id"], row["session_id"]) for row in rows] == [
            ("sub-01", "ses-b"),
            ("sub-02", "n/a"),
            ("n/a", "n/a"),
        ]
    assert joined(records, tmp_path) == ["csv"]
    for path in cohort(records[1:2], tmp_path / "one", ["csv"]):
        assert list(table(path)[0])[:3] == ["case", "participant_id", "model"]
    for path in plain:
        path.write_text(path.read_text().replace("session_id", "age"))
        with pytest.raises(OutputExists):
            cohort(records, tmp_path, ["csv"])


def test_cases_of_an_output_folder_inside_are_no_part_of_the_cohort(model, tmp_path):
    scans(tmp_path / "in", 2)
    inside, out = tmp_path / "out" / "earlier", tmp_path / "out"
    for to in (inside, out):
        outcomes = run(model, tmp_path / "in", to)
    assert [record["case"] for record in gathered(outcomes[:1], out)] == ["case0", "case1"]
