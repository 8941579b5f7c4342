"""The tables of all cases in an output folder."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from runs import card, opened, scan, scans

from segcli.batch.cases import cases
from segcli.batch.cohort import cohort, gathered
from segcli.batch.outputs import Destination
from segcli.batch.pipeline import predict
from segcli.batch.stages import Options, Outcome
from segcli.commands.outcomes import cohort_files, told_of
from segcli.errors import OutputExists
from segcli.models.card import ModelCard


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelCard:
    return card(tmp_path_factory.mktemp("model"))


def run(model: ModelCard, inputs: Path, out: Path, options: Options | None = None) -> list[Outcome]:
    return list(predict(cases([str(inputs)], output=out), model, opened(), Destination(out), options))


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
            assert list(row) == ["case", "verdict", "sum_ml", *volumes]
            assert row["verdict"] == outcome.record["verdict"]
            assert {name: float(row[name]) for name in volumes} == volumes
            assert float(row["sum_ml"]) == pytest.approx(sum(volumes.values()), abs=0.001)


def test_the_wide_table_of_brains_has_the_sums_of_their_tissues():
    from segcli.batch.cohort import _sums

    volumes = {"left_cerebral_white_matter": 200.0, "left_cerebral_cortex": 250.5, "left_lateral_ventricle": 10.0}
    structures = [{"name": name, "volume_ml": ml} for name, ml in volumes.items()]
    row = _sums({"case": "a", "verdict": "pass", "structures": structures})
    assert list(row)[:5] == ["case", "verdict", "sum_ml", "sum_total_brain_ml", "sum_grey_matter_ml"]
    assert (row["sum_ml"], row["sum_grey_matter_ml"], row["sum_white_matter_ml"]) == (460.5, 250.5, 200.0)


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


def test_a_single_scan_of_another_model_leaves_the_cohort_as_it_is(model, tmp_path):
    out = tmp_path / "out"
    scans(tmp_path / "in", 2)
    cohort_files(run(model, tmp_path / "in", out), Destination(out))
    was = (out / "cohort_wide.csv").read_bytes()
    ended = run(model, scan(tmp_path / "case2.nii.gz", 2), out)
    other = json.loads(json.dumps(ended[0].record))
    other["model"]["name"] = "another"
    for i, s in enumerate(other["structures"]):
        s["name"] = f"other_{i}"
    assert cohort_files([replace(ended[0], record=other)], Destination(out)) == []
    assert (out / "cohort_wide.csv").read_bytes() == was


def test_other_models_and_records_without_their_label_map_are_no_part_of_the_cohort(model, tmp_path):
    scans(tmp_path / "in", 4)
    out = tmp_path / "out"
    run(model, tmp_path / "in", out)
    other = json.loads((out / "case0_seg.json").read_text())
    other["model"]["name"] = "another"
    (out / "case0_seg.json").write_text(json.dumps(other))
    (out / "case1_seg.nii.gz").unlink()
    (out / "notes_seg.json").write_text('{"segcli_record": 1, "structures": "none"}')
    ended = run(model, tmp_path / "in" / "case3.nii.gz", out)
    assert [record["case"] for record in gathered(ended, out)] == ["case2", "case3"]


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
