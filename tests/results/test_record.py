"""What a record says, and when a case counts as done."""

import gzip
import hashlib
import importlib.metadata
import json
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from runs import scan
from scan_files import nifti_bytes

from segcli.batch.stages import Outcome
from segcli.commands import doctor
from segcli.errors import Denied, InputError
from segcli.models.decisive import hash_as_decided, hash_as_written, model_hash
from segcli.models.library import file_sha256, find
from segcli.results import inputs, record, recorded
from segcli.results.beside import lacking, with_files

KEY = {"case": "a", "input": {"sha256": "1"}, "model": {"sha256": "2"}, "options": {"overlap": 0.5, "classes": ()}}


@pytest.fixture
def done(tmp_path: Path) -> tuple[Path, Path]:
    written, labels = tmp_path / "a_seg.json", tmp_path / "a_seg.nii.gz"
    labels.write_bytes(b"labels")
    facts = {"segcli_record": 1, **KEY, "labels": {"file": labels.name, "sha256": file_sha256(labels)}}
    written.write_bytes(record.to_json(facts))
    return written, labels


def is_done(written: Path, labels: Path, key: dict) -> bool:
    return recorded.is_done(recorded.read_record(written), labels, key)


def test_2_4_done_is_a_record_that_matches_input_model_options_and_labels(done):
    assert is_done(*done, KEY)


@pytest.mark.parametrize(
    "change",
    [
        {"input": {"sha256": "other"}},
        {"model": {"sha256": "other"}},
        {"options": {"overlap": 0.25, "classes": ()}},
        {"options": {"overlap": 0.5, "classes": ("liver",)}},
    ],
)
def test_2_4_another_input_model_or_option_is_not_done(done, change):
    assert not is_done(*done, {**KEY, **change})


def test_2_4_a_label_map_with_other_bytes_is_not_done(done):
    done[1].write_bytes(b"labelz")
    assert not is_done(*done, KEY)


@pytest.mark.parametrize("missing", [0, 1])
def test_2_4_one_file_of_the_two_is_not_done(done, missing):
    done[missing].unlink()
    assert not is_done(*done, KEY)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b'{"segcli_record": 1}', b'{"segcli_record": 1, "labels": 3}', b"[" * 100000]
)
def test_2_4_a_record_that_is_something_else_is_not_done(done, content):
    done[0].write_bytes(content)
    assert not is_done(*done, KEY)
    assert not is_done(*done, {})


def test_2_4_tables_and_masks_are_known_by_their_bytes_and_choices(done):
    written, _ = done
    mask = written.parent / "a_seg" / "liver.nii.gz"
    mask.parent.mkdir()
    mask.write_bytes(b"mask")
    facts = json.loads(written.read_text())
    facts["extras"] = {"seg_type": "binary", "files": {"a_seg/liver.nii.gz": file_sha256(mask)}}
    written.write_bytes(record.to_json(facts))
    table = written.parent / "a_seg.csv"

    def there(files, seg_type="binary"):
        return not lacking(recorded.read_record(written), written.parent, files, {"seg_type": seg_type})

    assert there([mask])
    assert there([], "labelmap")
    assert not there([mask], "labelmap")
    assert not there([mask, table])
    mask.write_bytes(b"mosk")
    assert not there([mask])
    facts["run"] = {}
    written.write_bytes(record.to_json(facts))
    table.write_text("made anew, and never stated by a run\n")
    sums = {"a_seg/liver.nii.gz": file_sha256(mask), "a_seg.csv": file_sha256(table)}
    written.write_bytes(with_files(written, sums))
    assert there([mask])
    assert not there([mask], "labelmap")
    assert not there([mask, table])
    mask.unlink()
    assert not there([mask])


def test_the_hash_of_an_input_is_that_of_its_bytes(tmp_path):
    path = scan(tmp_path / "a.nii")
    assert inputs.hash_inputs([path]) == inputs.Inputs(("a.nii",), hashlib.sha256(path.read_bytes()).hexdigest())
    (tmp_path / "slices").mkdir()
    (tmp_path / "slices" / "1.dcm").write_bytes(b"abc")
    found = inputs.hash_inputs([tmp_path / "slices"])
    assert found.sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1


META = b"""ObjectType = Image
NDims = 3
DimSize = 2 1 1
ElementType = MET_SHORT
ElementSpacing = 1 1 1
ElementDataFile = voxels.raw
"""
NRRD = b"""NRRD0004
type: uint8
dimension: 3
space: left-posterior-superior
sizes: 4 1 1
space directions: (1,0,0) (0,1,0) (0,0,1)
space origin: (0,0,0)
encoding: raw
data file: voxels.raw

"""


@pytest.mark.parametrize(
    ("header", "voxels"),
    [("a.hdr", "a.img"), ("a.hdr.gz", "a.img.gz"), ("a.mhd", "voxels.raw"), ("a.nhdr", "voxels.raw")],
)
def test_2_4_a_header_counts_with_the_voxels_that_it_names_and_with_nothing_else(tmp_path, header, voxels):
    head, body = nifti_bytes(pair=True)
    head = {"a.mhd": META, "a.nhdr": NRRD, "a.hdr": head}.get(header, gzip.compress(head, mtime=0))
    (tmp_path / header).write_bytes(head)
    (tmp_path / voxels).write_bytes(body)
    (tmp_path / "a.txt").write_bytes(b"of the same stem")
    whole = hashlib.sha256("".join(hashlib.sha256(x).hexdigest() for x in (head, body)).encode()).hexdigest()
    assert inputs.hash_inputs([tmp_path / header]).sha256 == whole
    if header.startswith("a.hdr"):
        assert inputs.hash_inputs([tmp_path / voxels]).sha256 == whole


def test_2_9_outputs_among_the_slices_of_a_folder_do_not_count(tmp_path):
    (tmp_path / "1.dcm").write_bytes(b"slice")
    before = inputs.hash_inputs([tmp_path]).sha256
    (tmp_path / "own.json").write_bytes(b"{}")
    assert inputs.hash_inputs([tmp_path], lambda path: path.name == "own.json").sha256 == before
    assert inputs.hash_inputs([tmp_path]).sha256 != before


def test_1_3_a_slice_that_may_not_be_read_is_refused_by_its_name(tmp_path, monkeypatch):
    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    (tmp_path / "1.dcm").write_bytes(b"slice")
    monkeypatch.setattr(inputs, "file_sha256", denied)
    with pytest.raises(Denied, match=r"1\.dcm: cannot be read: permission denied"):
        inputs.hash_inputs([tmp_path])


def test_the_files_of_a_folder_are_summed_once_for_all_series_in_it_and_again_when_they_change(tmp_path, monkeypatch):
    read: list[str] = []

    def summed(path):
        read.append(path.name)
        return file_sha256(path)

    monkeypatch.setattr(inputs, "file_sha256", summed)
    for name in ("1.dcm", "2.dcm"):
        (tmp_path / name).write_bytes(b"slice")
    first = inputs.hash_inputs([tmp_path])
    assert inputs.hash_inputs([tmp_path]) == first
    assert read == ["1.dcm", "2.dcm"]
    (tmp_path / "2.dcm").write_bytes(b"another")
    assert inputs.hash_inputs([tmp_path]) != first
    assert read == ["1.dcm", "2.dcm", "2.dcm"]


def test_1_7_a_pipe_is_not_opened(tmp_path):
    import os

    os.mkfifo(tmp_path / "a.nii")
    with pytest.raises(InputError, match=r"a\.nii: not a regular file"):
        inputs.hash_inputs([tmp_path / "a.nii"])


def test_a_library_that_came_under_another_name_has_its_version_in_the_record(monkeypatch):
    known = importlib.metadata.version

    def of_the_gpu_alone(name: str) -> str:
        if name == "onnxruntime":  # its package is called onnxruntime-gpu
            raise importlib.metadata.PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr(importlib.metadata, "version", of_the_gpu_alone)
    assert record.versions("onnxruntime cuda")["onnxruntime"] == import_module("onnxruntime").__version__
    assert doctor._version("onnxruntime") == import_module("onnxruntime").__version__
    assert doctor._version("no-such-library") is None


@pytest.mark.slow
def test_6_6_versions_do_not_depend_on_what_else_is_loaded():
    told = "from segcli.results import record; print(sorted(record.versions('onnxruntime cpu')))"
    alone, among = (
        subprocess.run([sys.executable, "-c", first + told], capture_output=True, check=True).stdout
        for first in ("", "import pydicom, torch, openvino; ")
    )
    assert alone == among
    assert b"onnxruntime" in alone
    assert b"openvino" not in alone


def test_6_6_the_hash_of_a_model_does_not_depend_on_the_order_of_its_files(tmp_path):
    from runs import card

    found = card(tmp_path)
    assert model_hash(found, {"a": "1", "b": "2"}) == model_hash(found, {"b": "2", "a": "1"})
    assert model_hash(found, {"a": "1"}) != model_hash(found, {"a": "2"})


def test_the_hash_of_a_model_is_that_of_what_decides_its_labels(tmp_path):
    from models import organs

    from segcli.models.card import parse

    document = json.loads((organs(tmp_path / "organs") / "model.json").read_text())

    def sha(**changes: object) -> str:
        return model_hash(parse({**document, **changes}), {"a": "1"})

    same = model_hash(parse(dict(reversed(document.items()))), {"a": "1"})
    assert same == sha() == sha(notes="looked at again") == sha(volumes_ml={"liver": [900, 2000]}, licence="MIT")
    assert sha(overlap=0.25) != sha()
    turned = dict(reversed(document["labels"].items()))
    other = {**document, "labels": {"background": 0, **{k: v for k, v in turned.items() if v}}}
    assert model_hash(parse(other), {"a": "1"}) != sha()  # the outputs of the network mean something else


@pytest.mark.parametrize("way", record.WAYS_BEFORE[:2])
def test_a_case_of_an_earlier_version_is_done_and_so_is_one_without_a_newer_option(tmp_path, way):
    from dataclasses import asdict

    from runs import card, opened

    from segcli.batch.cases import cases
    from segcli.batch.outputs import Destination
    from segcli.batch.pipeline import predict
    from segcli.batch.stages import Options

    scan(tmp_path / "a.nii.gz")
    model, found = card(tmp_path / "model"), cases([str(tmp_path / "a.nii.gz")])
    to, engine = Destination(tmp_path / "out"), opened()
    (done,) = predict(found, model, engine, to)
    facts = json.loads(done.paths[1].read_text())
    facts["model"]["sha256"] = way(model, engine.hashes)
    assert facts["options"].pop("min_size_ml") == asdict(Options())["min_size_ml"]
    done.paths[1].write_text(json.dumps(facts))
    (again,) = predict(found, model, engine, to)
    assert again.status == "skipped"
    (other,) = predict(found, model, engine, to, Options(min_size_ml=2.0))
    assert other.error.exit_code == 73


def test_a_case_that_ran_on_an_export_is_done_by_the_weights_that_it_was_made_of(tmp_path, monkeypatch):
    """Without the cache, with another note in the card, and as earlier versions recorded it."""
    from models import organs

    from segcli.batch.cases import cases
    from segcli.batch.outputs import Destination
    from segcli.batch.pipeline import predict
    from segcli.engines.opening import Opening

    monkeypatch.setenv("SEGCLI_HOME", str(tmp_path / "home"))
    scan(tmp_path / "a.nii.gz")
    folder = organs(tmp_path / "organs", onnx=False)

    def run() -> Outcome:
        card = find(str(folder))
        opened = Opening((str(folder),), engine="onnx").open(card)
        (done,) = predict(cases([str(tmp_path / "a.nii.gz")]), card, opened, Destination(tmp_path / "out"))
        return done

    first = run()
    assert first.status == "done"
    card = find(str(folder))
    sums = {"weights.safetensors": card.sha256[0]}
    assert first.record["model"]["sha256"] == model_hash(card, sums)
    (graph,) = (tmp_path / "home" / "cache" / "onnx").glob("*.onnx")
    for way in (hash_as_written, hash_as_decided):
        before = json.loads(first.paths[1].read_text())
        before["model"]["sha256"] = way(card, {"organs.onnx": file_sha256(graph)})
        first.paths[1].write_text(json.dumps(before))
        assert run().status == "skipped"
    first.paths[1].write_text(json.dumps(first.record))
    (folder / "model.json").write_text(json.dumps({**card.document, "notes": "looked at again"}))
    shutil.rmtree(tmp_path / "home")
    assert run().status == "skipped"


# ---- the schema, and records of before

STORED = Path(record.__file__).parents[1] / "schemas" / "record.schema.json"
# As the first version that numbered its records wrote it.
EARLIER = """
{"segcli_record": 1, "case": "dcm",
 "input": {"files": ["dcm"], "sha256": "b3e5", "series": null, "volume": null},
 "model": {"name": "organs", "sha256": "ef07", "licence": "Apache-2.0"},
 "options": {"overlap": null, "classes": [], "affine": null, "skip": false, "mirror": false, "half": false,
  "fill_gaps": false, "largest": [], "min_size_ml": 0.0, "fill_holes": []},
 "labels": {"file": "dcm_seg.nii.gz", "sha256": "SUM"},
 "engine": {"name": "numpy", "reason": "for a test", "precision": "float32"},
 "grid": {"shape": [6, 7, 5], "spacing_mm": [3.0, 2.0, 1.5], "axes": "SPL",
  "affine_lps": [[0.0, 0.0, 1.5, -10.0], [0.0, 2.0, 0.0, -20.0], [3.0, 0.0, 0.0, -30.0], [0.0, 0.0, 0.0, 1.0]],
  "sheared": false},
 "source": {"modality": "CT", "series": "series-003", "files": 6, "used": 6, "unused": [], "filled_slices": []},
 "windows": 1,
 "structures": [
  {"name": "body", "label": 1, "voxels": 100, "volume_mm3": 900.0, "volume_ml": 0.9, "mean": -51.5, "sd": 86.5982,
   "centroid_mm": [-7.0, -14.3, -27.15], "bbox_mm": [[-10.75, -21.0, -31.5], [-3.25, -7.0, -22.5]],
   "truncated": true},
  {"name": "liver", "label": 2, "voxels": 0, "volume_mm3": 0.0, "volume_ml": 0.0, "mean": null, "sd": null,
   "centroid_mm": null, "bbox_mm": null, "truncated": false}],
 "confidence": {"1": 0.9}, "postprocessing": [], "verdict": "review",
 "checks": [{"code": "truncated", "severity": "review", "structure": "body", "sentence": "body is cut off"}],
 "warnings": [], "note": "Research use only; not a medical device.",
 "versions": {"segcli": "0.1.0", "python": "3.12.3"},
 "identifiers": {"PatientID": "1"},
 "Description": "segcli organs", "Manual": false, "SpatialReference": "orig", "code": {"Description": "terminology"},
 "extras": {"seg_type": "binary", "identifiers": false, "files": {}},
 "run": {"seconds": {"read": 0.1}, "peak_memory_mb": 100, "steps": []}}
"""


def test_the_stored_schema_is_the_one_of_this_version():
    assert json.loads(STORED.read_text()) == record.schema(), (
        "python -m segcli.results.record > segcli/schemas/record.schema.json"
    )


def strict(schema: object) -> object:
    """The schema with no key allowed that it does not name."""
    if isinstance(schema, list):
        return [strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) for key, value in schema.items()}
    return {**made, "additionalProperties": False} if "properties" in made else made


def test_a_record_of_an_earlier_version_is_read_and_still_done(tmp_path):
    jsonschema = pytest.importorskip("jsonschema")
    written, labels = tmp_path / "dcm_dseg.json", tmp_path / "dcm_dseg.nii.gz"
    labels.write_bytes(b"labels")
    written.write_text(EARLIER.replace("SUM", file_sha256(labels)))
    found = recorded.read_record(written)
    jsonschema.validate(found, record.schema())
    key = {name: found[name] for name in ("case", "input", "model", "options")}
    assert is_done(written, labels, key)
    assert recorded.maker(written) == {"name": "organs", "sha256": "ef07", "licence": "Apache-2.0"}
    assert recorded.has_record(tmp_path / "dcm")


def test_every_record_is_as_the_schema_says_and_has_no_key_beside_it(tmp_path):
    jsonschema = pytest.importorskip("jsonschema")
    from runs import card, opened

    from segcli.batch.cases import cases
    from segcli.batch.outputs import Destination
    from segcli.batch.pipeline import predict
    from segcli.batch.stages import Options

    scan(tmp_path / "a.nii.gz")
    model, found = card(tmp_path / "model"), cases([str(tmp_path / "a.nii.gz")])
    wishes = Options(classes=("liver",), largest=("all",), overlap=0.25)
    for to, options in (
        (Destination(tmp_path / "plain"), Options()),
        (Destination(tmp_path / "rich", reports=("csv",), split=True, identifiers=True), wishes),
        (Destination(tmp_path / "tree", layout="bids"), Options()),
    ):
        (done,) = predict(found, model, opened(), to, options)
        written = recorded.read_record(done.paths[1])
        assert written == json.loads(json.dumps(done.record))
        jsonschema.validate(written, strict(record.schema()))
    (again,) = predict(found, model, opened(), to, Options())
    assert again.status == "skipped"
