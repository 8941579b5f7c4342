"""A dozen hostile inputs through the command in one batch (PROMISES.md 9.1); the whole corpus: hazards.py."""

import gzip
import json
import os
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from runs import command, files, scan
from scan_files import nifti, nifti_bytes

PHI = "Mustermann"
# Name -> words of the refusal; None: it is segmented.
ENDS = {
    "good.nii.gz": None,
    "cut_plain.nii": "truncated",
    "cut_gzip.nii.gz": "truncated",
    "bad_sum.nii.gz": "corrupt",
    "two_dimensional.nii": "3-D|dimension",
    "time_series.nii": "volumes|4-D|channel",
    "rgb.nii": "data type|datatype|RGB|type",
    "no_orientation.nii": "orientation|qform|sform",
    "singular.nii": "singular|not a grid|zero|affine",
    "nan_affine.nii": "finite|NaN|nan",
    "mirrored_forms.nii": "sform.*qform|qform.*sform",
    "only_nan.nii": "finite",
    "text.nii": "not a format|truncated|text",
    "empty.nii": "empty|truncated",
    "huge.nii.gz": "too large|truncated|memory|cannot hold",
    "pipe.nii": "not a regular file",
    "escape \x1b[2J [red].nii": "truncated",
}


def spoil(folder: Path) -> None:
    scan(folder / "good.nii.gz", descrip=PHI.encode(), db_name=PHI.encode(), aux_file=PHI.encode())
    whole = b"".join(nifti_bytes())
    (folder / "cut_plain.nii").write_bytes(whole[:-1])
    (folder / "cut_gzip.nii.gz").write_bytes(gzip.compress(whole)[:-9])
    packed = bytearray(gzip.compress(whole))
    packed[-6] ^= 255
    (folder / "bad_sum.nii.gz").write_bytes(packed)
    nifti(folder / "two_dimensional.nii", np.zeros((5, 4), "i2"))
    nifti(folder / "time_series.nii", np.zeros((5, 4, 3, 6), "i2"))
    header, voxels = nifti_bytes(datatype=128, bitpix=24)
    (folder / "rgb.nii").write_bytes(header + voxels * 2)
    nifti(folder / "no_orientation.nii", qform_code=0, sform_code=0)
    nifti(folder / "singular.nii", srow=(2, 0, 0, 0, 2, 0, 0, 0, 0, 0, 4, 0))
    nifti(folder / "nan_affine.nii", srow=(float("nan"), *([0] * 11)))
    nifti(folder / "mirrored_forms.nii", srow=(-2, 0, 0, 0, 0, 3, 0, 0, 0, 0, 4, 0))
    nifti(folder / "only_nan.nii", np.full((5, 4, 3), np.nan, "f4"))
    (folder / "text.nii").write_bytes(b"this is a text, and not a scan at all\n" * 20)
    (folder / "empty.nii").write_bytes(b"")
    header = bytearray(nifti_bytes()[0])
    struct.pack_into("<8h", header, 40, 3, 30000, 30000, 30000, 1, 1, 1, 1)
    (folder / "huge.nii.gz").write_bytes(gzip.compress(bytes(header) + b"\0" * 1000))
    os.mkfifo(folder / "pipe.nii")
    (folder / "escape \x1b[2J [red].nii").write_bytes(whole[:-1])


@pytest.fixture(scope="module")
def ended(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict], bytes, int]:
    home = tmp_path_factory.mktemp("hazards")
    (home / "in").mkdir()
    spoil(home / "in")
    words = ["predict", "in", "-o", "out", "--model", model, "--engine", "onnx", "--json", "--events", "events"]
    shown = "default,ignore:'click.utils:DeprecationWarning"  # the lowest typer beside the newest Click
    done = command(*words, cwd=home, env={"PYTHONWARNINGS": shown})
    cases = {case["case"]: case for case in json.loads(done.stdout)["cases"]}
    return home, cases, done.stderr, done.returncode


@pytest.mark.parametrize("name", ENDS)
def test_9_1_each_hazard_ends_as_it_should(ended, name):
    import re

    from segcli.batch.cases import stem

    _, cases, said, _ = ended
    case = cases[stem(Path(name))]
    if ENDS[name] is None:
        assert case["status"] == "done", case
        return
    assert case["status"] == "failed"
    assert case["exit_code"] in (65, 71), case
    assert re.search(ENDS[name], case["error"], re.IGNORECASE), case["error"]
    assert name in case["error"]
    assert name.replace("\x1b", "\\x1b").encode() in said


def test_6_1_the_good_one_is_whole_and_nothing_else_is_left(ended):
    home, _, said, code = ended
    assert code == 1
    assert sorted(files(home / "out")) == ["cohort.csv", "cohort_wide.csv", "good_seg.json", "good_seg.nii.gz"]
    assert b"1 of 17 scans segmented, 16 failed" in said


def test_1_6_warnings_of_libraries_do_not_leak(ended):
    assert b"Warning" not in ended[2]
    for text in ended[2].decode().splitlines():
        ended_then = re.fullmatch(r"[\d-]{10} [\d:]{8} .+: (done, \w+|failed)", text)
        told = ("error: ", "warning: ", "  ", "organs on ", "info: ", "review: ", "cohort", "1 of 17")
        assert ended_then or text.startswith(told), text


def test_1_4_and_1_5_no_traceback_and_no_control_character(ended):
    said = ended[2]
    assert b"Traceback" not in said
    assert b"Exception ignored" not in said
    assert b"\x1b" not in said


def test_8_1_no_free_text_of_the_header_anywhere(ended):
    home, _, said, _ = ended
    told = [said, (home / "events").read_bytes(), (home / "out" / "good_seg.json").read_bytes()]
    told.append(gzip.decompress((home / "out" / "good_seg.nii.gz").read_bytes()))
    assert not [text for text in told if PHI.encode() in text]
    assert os.fsencode(home) not in told[2]


def test_8_1_nothing_of_a_dicom_patient_reaches_an_output_a_message_or_an_event(model, tmp_path):
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

    series = "1.2.826.0.1.3680043.8.498.4713"
    (tmp_path / "in").mkdir()
    for k in range(6):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["slice", str(k)])
        ds = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.FrameOfReferenceUID = series, series + ".1", series + ".2"
        ds.PatientName, ds.PatientID, ds.PatientBirthDate = f"{PHI}^Max", "ID4711", "19600229"
        ds.InstitutionName, ds.SeriesDescription, ds.AccessionNumber = "Klinik Nord", f"{PHI} thorax", "ACC4712"
        ds.Modality, ds.SeriesNumber, ds.InstanceNumber = "CT", 3, k + 1
        ds.ImagePositionPatient, ds.ImageOrientationPatient = [0, 0, 3.0 * k], [1, 0, 0, 0, 1, 0]
        ds.PixelSpacing, ds.SliceThickness, ds.RescaleSlope, ds.RescaleIntercept = [2, 2], 3, 1, -1000
        ds.Rows = ds.Columns = 12
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation, ds.SamplesPerPixel = 16, 12, 11, 0, 1
        ds.PhotometricInterpretation = "MONOCHROME2"
        ds.PixelData = np.full((12, 12), 1000 + 150 * (k % 2), "<u2").tobytes()
        pydicom.dcmwrite(tmp_path / "in" / f"{k}.dcm", ds, enforce_file_format=True)
    words = ["predict", "in", "-o", "out", "--model", model, "--engine", "onnx", "--events", "stderr", "-vv"]
    done = command(*words, "--split", "--report", "csv", "--tables", "bids", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = [done.stdout, done.stderr]
    for path in (p for p in (tmp_path / "out").rglob("*") if p.is_file()):
        content = path.read_bytes()
        told.append(gzip.decompress(content) if path.suffix == ".gz" else content)
    assert len(told) >= 6
    for word in (PHI, "ID4711", "19600229", "Klinik", "ACC4712", "thorax", str(series)):
        assert not [text for text in told if word.encode() in text], word
