"""A derivatives tree with every output, as pybids and the BIDS validator read it."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from models import organs
from runs import card, in_process, opened, scan

from segcli.batch.bids import describe, is_raw
from segcli.batch.cases import cases
from segcli.batch.cohort import cohort, gathered
from segcli.batch.outputs import BUILT_IN, Destination, choices
from segcli.batch.pipeline import predict

SCANS = (
    "sub-01/anat/sub-01_run-1_T1w",
    "sub-01/anat/sub-01_run-2_T1w",
    "sub-02/ses-1/anat/sub-02_ses-1_T1w",
    "sub-02/ses-1/anat/sub-02_ses-1_FLAIR",
)
RAW = {"Name": "t", "BIDSVersion": "1.9.0", "DatasetType": "raw", "License": "CC0", "Authors": ["A", "B"]}


def test_a_dataset_of_scans_is_told_apart_from_one_that_was_made_of_scans(tmp_path):
    assert is_raw(dataset(tmp_path / "raw"))
    assert not is_raw(dataset(tmp_path / "made", DatasetType="derivative"))
    assert not is_raw(tmp_path)


@pytest.mark.slow
def test_a_run_that_writes_into_a_dataset_of_scans_says_how_it_would_not(tmp_path):
    model = organs(tmp_path / "organs")
    beside = in_process("predict", dataset(tmp_path / "raw"), "-m", model, "--engine", "onnx")
    assert b"into the BIDS dataset" in beside.stderr
    assert b"-o " + bytes(tmp_path / "raw" / "derivatives" / "segcli") in beside.stderr
    apart = in_process("predict", tmp_path / "raw", "-m", model, "--engine", "onnx", "-o", tmp_path / "out")
    assert b"BIDS dataset" not in apart.stderr


def dataset(root: Path, **facts: object) -> Path:
    for i, name in enumerate(SCANS):
        scan(root / f"{name}.nii.gz", i)
        (root / f"{name}.json").write_text("{}")
    (root / "dataset_description.json").write_text(json.dumps({**RAW, **facts}))
    (root / "README").write_text("Four small scans, made by a test of segcli.\n" * 5)
    return root


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset and, in derivatives/segcli, every output of its scans that is not DICOM."""
    home = tmp_path_factory.mktemp("bids")
    root, model = dataset(home / "raw"), card(home / "model")
    out = root / "derivatives" / "segcli"
    forms = tuple(kind for kind in choices("--write") if kind in ("nifti", "probabilities"))
    to = Destination(out, layout="bids", forms=forms, reports=choices("--report"), split=True, stats="totalseg",
                     tables=choices("--tables"))  # fmt: skip
    ended = list(predict(cases([str(root)], output=out, bids=True), model, opened(), to))
    assert [o.error for o in ended] == [None] * 4
    cohort(gathered(ended, out), out, ["csv", "tsv"])
    return root


@pytest.mark.slow
def test_pybids_indexes_a_dataset_with_its_derivatives_and_knows_run_and_session(tree):
    bids = pytest.importorskip("bids", reason="pybids is not installed")
    layout = bids.BIDSLayout(tree, derivatives=True)
    found = layout.get(scope="derivatives", suffix="dseg", extension=".nii.gz")
    assert sorted((f.entities["subject"], f.entities.get("session"), f.entities.get("run")) for f in found) == sorted(
        [("01", None, 1), ("01", None, 2), ("02", "1", None), ("02", "1", None)], key=str
    )
    assert found[0].get_metadata()["segcli"]["run"]["seconds"]


@pytest.mark.parametrize("where", [".", "derivatives/segcli"])
def test_the_validator_finds_no_error(tree, where):
    validator = shutil.which("bids-validator-deno")
    if validator is None:
        pytest.skip("bids-validator-deno is not installed")
    run = subprocess.run([validator, str(tree / where), "--json"], capture_output=True, text=True, check=False)
    issues = json.loads(run.stdout)["issues"]["issues"]
    assert [issue for issue in issues if issue["severity"] == "error"] == []


def test_what_bids_does_not_know_is_ignored_by_the_table_of_outputs(tree):
    ignored = (tree / "derivatives/segcli/.bidsignore").read_text().splitlines()
    assert ignored[1:] == ["/cohort*", *(f"*{o.ending}" for o in BUILT_IN if not o.bids)]
    assert "*_dseg.tsv" not in ignored


def test_the_tree_names_the_dataset_that_it_was_made_from(tree, tmp_path):
    def sources(out: Path, source: Path) -> object:
        out.mkdir(parents=True)
        describe(out, source, [])
        return json.loads((out / "dataset_description.json").read_text()).get("SourceDatasets")

    made = json.loads((tree / "derivatives/segcli/dataset_description.json").read_text())
    assert made["SourceDatasets"] == [{"URL": "../.."}]
    elsewhere = dataset(tmp_path / "Mustermann")
    assert sources(tmp_path / "out", elsewhere) is None  # a path would tell the folder's name
    assert sources(tmp_path / "bare", tmp_path / "nothing") is None
    published = dataset(tmp_path / "published", DatasetDOI="doi:10.18112/openneuro.ds000001.v1.0.0")
    address = "10.18112/openneuro.ds000001.v1.0.0"
    assert sources(tmp_path / "known", published) == [{"URL": f"https://doi.org/{address}", "DOI": f"doi:{address}"}]


def test_what_somebody_else_wrote_at_the_root_stays(tmp_path):
    for name in (".bidsignore", "dataset_description.json"):
        (tmp_path / name).write_text("mine\n")
    describe(tmp_path, tmp_path, ["_seg.csv"])
    assert (tmp_path / ".bidsignore").read_text() == (tmp_path / "dataset_description.json").read_text() == "mine\n"
    (tmp_path / ".bidsignore").unlink()
    for endings in (["_seg.csv"], ["_seg.csv", "_notes.txt"]):
        describe(tmp_path, tmp_path, endings)
    assert (tmp_path / ".bidsignore").read_text().endswith("*_seg.csv\n*_notes.txt\n")


def test_2_7_a_line_that_somebody_has_added_to_the_list_of_what_is_ignored_stays(tmp_path):
    describe(tmp_path, tmp_path, ["_seg.csv"])
    path = tmp_path / ".bidsignore"
    path.write_text(path.read_text() + "scratch/\n")
    describe(tmp_path, tmp_path, ["_seg.csv", "_notes.txt"])
    assert path.read_text().splitlines()[1:] == ["/cohort*", "*_seg.csv", "scratch/", "*_notes.txt"]
