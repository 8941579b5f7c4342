"""The recipe of `segcli help dicom`, as it stands there, with a real archive: a study goes in, its objects come back.

Orthanc with its DICOMweb plugin, storescp and storescu are Debian packages, which `.ci/run` installs where it may.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_phantom import affine, series
from models import organs
from seg_frames import read_seg

import segcli.help
from segcli.formats.dicom import series as dicom
from segcli.formats.dicom import sr

PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
MISSING = [name for name in ("Orthanc", "storescp", "storescu") if shutil.which(name) is None]
MISSING += [] if PLUGIN.exists() else [PLUGIN.name]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (apt-get install orthanc-dicomweb dcmtk)"
    ),
]
OTHERS = {  # what else is in a study: modality, class
    "SR": "1.2.840.10008.5.1.4.1.1.88.11",
    "PR": "1.2.840.10008.5.1.4.1.1.11.1",
    "DOC": "1.2.840.10008.5.1.4.1.1.104.1",
}


def recipe() -> list[str]:
    """The blocks of code of the recipe: configuration, script, receiver, segmentation."""
    return blocks("Behind a PACS")


def blocks(section: str) -> list[str]:
    """The blocks of code of a section of the help text."""
    text = (Path(segcli.help.__path__[0]) / "dicom.md").read_text().split(f"## {section}\n")[1].split("\n## ")[0]
    found = re.findall(r"(?:^    .*\n|^\n(?=    ))+", text, re.MULTILINE)
    return [re.sub("^    ", "", block, flags=re.MULTILINE).strip() + "\n" for block in found]


def study(folder: Path) -> Path:
    """A CT with organs, an MR, a report, a presentation state and a PDF."""
    hu = np.full((16, 14, 12), -1000, "i2")
    hu[2:-2, 2:-2, 2:-2] = 0
    hu[4:7, 4:8, 4:8], hu[8:12, 4:8, 4:7] = 150, 300
    series(folder, hu, affine(spacing=(4, 3, 2)), uid="ct", SeriesNumber=1)
    series(folder, uid="mr", modality="MR", SeriesNumber=2)

    def bare(ds: pydicom.Dataset, k: int) -> None:
        del ds.PixelData
        if ds.Modality == "DOC":
            ds.EncapsulatedDocument, ds.MIMETypeOfEncapsulatedDocument = b"%PDF-1.4", "application/pdf"

    for number, (modality, kind) in enumerate(OTHERS.items(), 3):
        tags = {"Modality": modality, "SOPClassUID": kind, "SeriesNumber": number}
        series(folder, hu[:1], uid=modality, each=bare, **tags)
    return folder


def free() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """The recipe's servers on loopback: the address of DICOMweb, and the port that takes studies."""
    ports = {"4242": free(), "8042": free(), "11112": free()}
    configuration, route, receiver, segmentation = recipe()

    def here(text: str) -> str:
        for stated, port in ports.items():
            text = re.sub(rf"\b{stated}\b", str(port), text)
        return text

    wanted = json.loads(here(configuration)) | {
        "StableAge": 1,
        "StorageDirectory": str(tmp_path / "db"),
        "IndexDirectory": str(tmp_path / "db"),
        "Plugins": [str(PLUGIN)],
        "LuaScripts": [str(tmp_path / "route.lua")],
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
    }
    command = f"{shlex.quote(sys.executable)} -m segcli"
    model = shlex.quote(str(organs(tmp_path / "organs")))
    script = segmentation.replace("segcli predict", f"{command} predict").replace("MODEL", model)
    (tmp_path / "orthanc.json").write_text(json.dumps(wanted))
    (tmp_path / "route.lua").write_text(route)
    (tmp_path / "segment.sh").write_text(here(script))
    words = shlex.split(here(receiver).replace("--eostudy-timeout 5", "--eostudy-timeout 1"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with ExitStack() as stack, (tmp_path / "log").open("wb") as log:
        for line in (["Orthanc", str(tmp_path / "orthanc.json")], words):
            server = stack.enter_context(
                subprocess.Popen(line, cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT, env=environment)
            )
            stack.callback(server.terminate)
        address = f"http://127.0.0.1:{ports['8042']}"
        until(lambda: ask(f"{address}/system"), 30)
        yield address, ports["4242"]


def test_a_script_fetches_a_study_and_stores_what_is_made_of_it(tmp_path: Path) -> None:
    http = free()
    wanted = {
        "HttpPort": http,
        "DicomPort": free(),
        "StorageDirectory": str(tmp_path / "db"),
        "IndexDirectory": str(tmp_path / "db"),
        "AuthenticationEnabled": False,
    }
    (tmp_path / "orthanc.json").write_text(json.dumps(wanted))
    address = f"http://127.0.0.1:{http}"
    (script,) = blocks("By a script, over HTTP")
    script = script.replace("http://127.0.0.1:8042", address).replace("MODEL", shlex.quote(str(organs(tmp_path / "m"))))
    script = "set -e\n" + script.replace("segcli predict", f"{shlex.quote(sys.executable)} -m segcli predict")
    with ExitStack() as stack, (tmp_path / "log").open("wb") as log:
        line = ["Orthanc", str(tmp_path / "orthanc.json")]
        server = stack.enter_context(subprocess.Popen(line, cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT))
        stack.callback(server.terminate)
        until(lambda: ask(f"{address}/system"), 30)
        for file in study(tmp_path / "study").iterdir():
            urllib.request.urlopen(f"{address}/instances", file.read_bytes(), timeout=10).close()
        (whole,) = ask(f"{address}/studies")
        subprocess.run(["sh", "-c", script], cwd=tmp_path, env={**os.environ, "STUDY": whole}, check=True)
        (made,) = ask(f"{address}/studies")
        kinds = [one["MainDicomTags"]["Modality"] for one in ask(f"{address}/studies/{made}/series")]
    assert sorted(kinds) == sorted(["CT", "MR", *OTHERS, "SEG", "SR"])


def ask(address: str) -> Any:
    """What a server answers, from JSON; None where it does not."""
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            return json.loads(answer.read())
    except OSError:
        return None


def until(done: Any, seconds: float) -> Any:
    """What `done` gives once it is something."""
    end = time.monotonic() + seconds
    while not (found := done()):
        assert time.monotonic() < end, "the servers do not answer in time"
        time.sleep(0.3)
    return found


def test_what_is_made_of_a_study_comes_back_into_it_with_the_right_references(
    tmp_path: Path, archive: tuple[str, int]
) -> None:
    address, port = archive
    sent = study(tmp_path / "study")
    subprocess.run(["storescu", "-R", "+sd", "-aec", "ORTHANC", "127.0.0.1", str(port), str(sent)], check=True)
    source = pydicom.dcmread(sent / "ct-000.dcm")
    instances = {pydicom.dcmread(p).SOPInstanceUID for p in sent.glob("ct-*.dcm")}

    def all_back() -> dict[str, pydicom.Dataset] | None:
        """By QIDO: the series that segcli made of the study, each with its one object."""
        query = f"{address}/dicom-web/studies/{source.StudyInstanceUID}/instances?includefield=00080060,0008103E"
        found = {}
        for item in ask(query) or []:
            if "segcli" in item.get("0008103E", {}).get("Value", [""])[0]:
                (uid,) = item["00080018"]["Value"]
                (there,) = ask(f"{address}/dicom-web/studies/{source.StudyInstanceUID}/instances?SOPInstanceUID={uid}")
                (modality,) = item["00080060"]["Value"]
                found[modality] = fetched(address, there["00080018"]["Value"][0])
        return found if set(found) == {"SEG", "RTSTRUCT", "SR"} else None

    made = until(all_back, 60)
    for ds in made.values():
        assert (ds.PatientID, ds.StudyInstanceUID) == (source.PatientID, source.StudyInstanceUID)
        assert f"{ds.SeriesDate[:2]}" == "20"
        assert ds.SeriesDate != source.SeriesDate  # --content-date now
    segmentation, contours, report = made["SEG"], made["RTSTRUCT"], made["SR"]
    (referred,) = segmentation.ReferencedSeriesSequence
    assert referred.SeriesInstanceUID == source.SeriesInstanceUID
    assert {item.ReferencedSOPInstanceUID for item in referred.ReferencedInstanceSequence} == instances
    assert segmentation.FrameOfReferenceUID == contours.FrameOfReferenceUID == source.FrameOfReferenceUID
    named = contours.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert named.SeriesInstanceUID == source.SeriesInstanceUID
    assert {item.ReferencedSOPInstanceUID for item in named.ContourImageSequence} == instances
    evidence = {
        item.ReferencedSOPInstanceUID
        for of_study in report.CurrentRequestedProcedureEvidenceSequence
        for of_series in of_study.ReferencedSeriesSequence
        for item in of_series.ReferencedSOPSequence
    }
    assert evidence == {*instances, segmentation.SOPInstanceUID}
    segmentation.save_as(tmp_path / "seg.dcm")
    report.save_as(tmp_path / "sr.dcm")
    scan = dicom.read(sent, series="1")
    volumes = dict(sr.read(tmp_path / "sr.dcm"))
    labels = read_seg(tmp_path / "seg.dcm", scan.grid)
    assert volumes["liver"] == pytest.approx(np.count_nonzero(labels == 2) * 24 / 1000)
    assert volumes["liver"] > 0
    kinds = [item["00080060"]["Value"][0] for item in ask(f"{address}/dicom-web/series")]
    assert sorted(kinds) == sorted(["CT", "MR", *OTHERS, "SEG", "RTSTRUCT", "SR"])  # and nothing was sent round again
    (whole,) = ask(f"{address}/studies")
    for kind in ("archive", "media"):  # of folders by patient and series; with a DICOMDIR
        packed = tmp_path / f"{kind}.zip"
        with urllib.request.urlopen(f"{address}/studies/{whole}/{kind}", timeout=30) as answer:
            packed.write_bytes(answer.read())
        again = dicom.read(packed, series="1")
        np.testing.assert_array_equal(again.data, scan.data)
        np.testing.assert_array_equal(again.grid.affine, scan.grid.affine)


def fetched(address: str, uid: str) -> pydicom.Dataset:
    """An instance as the archive stores it."""
    query = json.dumps({"Level": "Instance", "Query": {"SOPInstanceUID": uid}}).encode()
    with urllib.request.urlopen(f"{address}/tools/find", query, timeout=10) as answer:
        (instance,) = json.loads(answer.read())
    with urllib.request.urlopen(f"{address}/instances/{instance}/file", timeout=10) as answer:
        return pydicom.dcmread(io.BytesIO(answer.read()))
