"""Every file that segcli makes in a folder that others may write to: nothing planted there is followed or becomes ours.

One table of all writers. Its final names are attacked at the worst moments: a link under the temporary name just before
the file is made, another user's link in its place once it is written, a link under the final name.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from dicom_phantom import series
from models import organs
from runs import card, opened, scan
from servers import Server, serving
from two_users import as_another, needs_two_users

from segcli import formats
from segcli.batch import pipeline
from segcli.batch.cases import cases
from segcli.batch.events import unwatched
from segcli.batch.outputs import Destination
from segcli.batch.stages import Options
from segcli.commands.evaluate import _page
from segcli.commands.events import events_to
from segcli.commands.outcomes import cohort_files
from segcli.documents import Document
from segcli.engines.export.cached import exported, sums_of
from segcli.engines.export.verified import export_onnx
from segcli.errors import DownloadFailed, OutputError, OutputExists, SegcliError
from segcli.formats import atomic, table
from segcli.models import composed, fetch
from segcli.models.imports import adopt, options
from segcli.models.library import find
from segcli.models.locks import alone
from segcli.space.volume import Grid, Volume

THESIS = b"three years"
CONTAINERS = Path(__file__).parent / "data" / "containers"
STATED = {"channels": "CT", "orientation": "RAS", "spacing": "3,3,3", "window": "-1000,1000", "patch": "32,32,32"}


@cache
def material() -> Path:
    """A folder with a model, a model without a graph, scans and a DICOM series."""
    place = Path(tempfile.mkdtemp(prefix="segcli-test-"))
    card(place)
    organs(place / "plain", onnx=False)
    for i in range(2):
        scan(place / "in" / f"a{i}.nii.gz", i)
    scan(place / "sub-01_T1w.nii.gz")
    series(place / "dicom")
    return place


@pytest.fixture(scope="module", autouse=True)
def _swept() -> Iterator[None]:
    yield
    shutil.rmtree(material())


def predicted(*words: str, **to: object) -> Callable[[Path], None]:
    """A batch of scans of the material into a folder."""

    def write(folder: Path) -> None:
        model = find(str(material() / "organs"))
        found = cases([str(material() / word) for word in words], output=folder)
        where = Destination(folder, overwrite=True, **to)  # type: ignore[arg-type]
        enough = replace(opened(), max_ram=1 << 40)  # whatever else the machine is busy with
        outcomes = list(pipeline.predict(found, model, enough, where, Options(), unwatched))
        cohort_files(outcomes, where, lambda: model.name)
        for outcome in outcomes:
            if outcome.error is not None:
                raise outcome.error

    return write


def labels() -> Volume:
    data = np.random.default_rng(1).integers(0, 200, (1, 8, 32, 32)).astype(np.uint8)
    return Volume(data, Grid(data.shape[1:], np.eye(4)))


def cached(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEGCLI_HOME", str(folder))
        card = find(str(material() / "plain"))
        exported(card, sums_of(card))


def online(patch: pytest.MonkeyPatch) -> None:
    for name in ("SEGCLI_OFFLINE", "HF_HUB_OFFLINE", "SEGCLI_MIRROR", "http_proxy", "HTTP_PROXY", "all_proxy"):
        patch.delenv(name, raising=False)


def fetched(folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        online(patch)
        for server in serving(Server()):
            fetch.fetch([server.address], folder)


def imported(path: Path, name: str, labels: str) -> Callable[[Path], object]:
    return lambda folder: adopt(
        path,
        name=name,
        to=folder,
        given=options(**STATED, labels=labels),
        tell=str,
        replace=True,
        tried=lambda card: None,
    )


def composed_in(folder: Path) -> None:
    parts = [find(str(material() / "organs"))]
    shutil.copytree(material() / "organs", folder / "organs", dirs_exist_ok=True)
    composed.write("whole", ["liver"], parts, folder, replace=True)


def evaluated(path: Path) -> None:
    document: Document = {"tolerance_mm": 1.0, "scores": [], "summary": []}
    _page(path, document)


BIDS = "sub-01_seg-organs"
# What is made of a scan -> how it is asked for.
OF_A_SCAN: dict[str, dict[str, object]] = {
    "_seg.nii.gz": {},
    "_seg.json": {},
    "_seg.csv": {"reports": ("csv",)},
    "_seg.tsv": {"reports": ("tsv",)},
    "_seg.html": {"reports": ("html",)},
    "_seg.png": {"reports": ("png",)},
    "_seg_large.png": {"reports": ("png-large",)},
    ".ctbl": {"tables": ("slicer",)},
    ".label": {"tables": ("itksnap",)},
    "_lut.txt": {"tables": ("freesurfer",)},
    "_dseg.tsv": {"tables": ("bids",)},
    "_probseg.nii.gz": {"forms": ("nifti", "probabilities")},
    "_statistics.json": {"stats": "totalseg"},
    "_seg/liver.nii.gz": {"split": True},
}
# The file that is made, below the folder it is made in -> what makes it.
WRITERS: dict[str, Callable[[Path], object]] = {
    **{f"a{e}": lambda folder, e=e: formats.write(labels(), [], folder / f"a{e}") for e in table.written()},  # type: ignore[misc]
    **{f"a0{ending}": predicted("in/a0.nii.gz", **to) for ending, to in OF_A_SCAN.items()},
    **{name: predicted("in") for name in ("cohort.csv", "cohort_wide.csv")},
    "cohort.html": predicted("in", reports=("html",)),
    "dicom_seg.dcm": predicted("dicom", forms=("nifti", "dicom-seg")),
    "dicom_rtstruct.dcm": predicted("dicom", forms=("nifti", "rtstruct")),
    "dicom_sr.dcm": predicted("dicom", forms=("nifti", "dicom-sr")),
    **{f"{BIDS}_dseg.{e}": predicted("sub-01_T1w.nii.gz", layout="bids") for e in ("json", "nii.gz")},
    f"{BIDS}_probseg.json": predicted("sub-01_T1w.nii.gz", layout="bids", forms=("nifti", "probabilities")),
    **{name: predicted("sub-01_T1w.nii.gz", layout="bids") for name in ("dataset_description.json", ".bidsignore")},
    "evaluation.html": lambda folder: evaluated(folder / "evaluation.html"),
    "exported.onnx": lambda folder: export_onnx(find(str(material() / "plain")), folder / "exported.onnx"),
    "cache/onnx/*.onnx": cached,
    "cache/onnx/*.sha256": cached,
    "net/weights.safetensors": imported(CONTAINERS / "tiny_segresnet_raw.pth", "net", "background,a,b"),
    "net/model.json": imported(CONTAINERS / "tiny_segresnet_raw.pth", "net", "background,a,b"),
    "whole/model.json": composed_in,
    ".*-model.zip.json": fetched,
    "sums.json": fetched,
}


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A file that has to be as it was."""
    path = tmp_path / "thesis.txt"
    path.write_bytes(THESIS)
    yield path
    assert path.read_bytes() == THESIS


def attempted(name: str, folder: Path) -> SegcliError | None:
    """Make a file of the table; the refusal, which is none that calls itself a fault of segcli."""
    refused = None
    try:
        WRITERS[name](folder)
    except SegcliError as error:
        refused = error
    assert refused is None or refused.exit_code != 70, refused
    return refused


def is_of(temporary: Path, name: str) -> bool:
    """Whether a temporary file will get the last part of a name of the table."""
    last = Path(name).name
    begun = temporary.name.removeprefix(".")
    return all(part in begun for part in last.split("*")) if "*" in last else begun.startswith(f"{last}.")


def ends_well(folder: Path, name: str) -> None:
    """What bears the name now is a file of ours, or nothing does."""
    for path in folder.glob(name):
        info = path.lstat()
        assert path.is_file()
        assert not path.is_symlink()
        assert info.st_uid == os.geteuid()
        assert THESIS not in path.read_bytes()


@pytest.mark.parametrize("name", WRITERS)
def test_2_11_a_link_under_the_temporary_name_is_not_followed(
    tmp_path: Path, victim: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    real, planted = atomic._anew, []

    def plant(path: str, flags: int) -> int:
        if is_of(Path(path), name):
            Path(path).symlink_to(victim)
            planted.append(path)
        return real(path, flags)

    monkeypatch.setattr(atomic, "_anew", plant)
    refused = attempted(name, tmp_path / "out")
    assert planted, refused
    assert not list((tmp_path / "out").glob(name))


@needs_two_users
@pytest.mark.parametrize("name", WRITERS)
def test_2_11_a_link_that_another_user_puts_in_place_of_a_written_file_becomes_no_output(
    shared: Path, victim: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    real, swapped = os.fsync, []

    def swap(handle: int) -> None:
        real(handle)
        for path in shared.rglob(".*"):
            if path.is_file() and atomic.is_partial(path.name) and is_of(path, name) and not swapped:
                path.parent.chmod(0o777)  # whatever the umask is
                as_another(f"os.unlink({str(path)!r}); os.symlink({str(victim)!r}, {str(path)!r})")
                swapped.append(path)

    monkeypatch.setattr(os, "fsync", swap)
    refused = attempted(name, shared)
    assert swapped, refused
    assert not [path for path in shared.glob(name) if path.is_symlink()]


@pytest.mark.parametrize("name", [name for name in WRITERS if "*" not in name])
def test_2_11_a_link_under_the_final_name_is_replaced_or_refused(tmp_path: Path, victim: Path, name: str) -> None:
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.symlink_to(victim)
    try:
        WRITERS[name](tmp_path / "out")
    except (SegcliError, json.JSONDecodeError):
        assert path.is_symlink()
    if not path.is_symlink():
        ends_well(tmp_path / "out", name)


def test_2_7_a_file_that_comes_while_a_model_is_exported_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = tmp_path / "exported.onnx", os.fsync

    def come(handle: int) -> None:
        real(handle)
        path.write_bytes(THESIS)

    monkeypatch.setattr(os, "fsync", come)
    with pytest.raises(OutputExists, match="exists already"):
        WRITERS[path.name](tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == THESIS


class Waited(Exception):
    """Somebody reads what never ends."""


@pytest.fixture
def impatient() -> Iterator[None]:
    def ended(*_: object) -> None:
        raise Waited

    before = signal.signal(signal.SIGALRM, ended)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("plant", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "device"])
@pytest.mark.parametrize("name", [".bidsignore", "dataset_description.json", "a0_seg.json", "net/model.json"])
def test_1_7_what_never_ends_in_the_place_of_a_file_is_not_read(
    tmp_path: Path, name: str, plant: Callable[[Path], None]
) -> None:
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    plant(path)
    attempted(name, tmp_path / "out")
    assert path.parent.exists()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "plant", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.write_bytes(THESIS)]
)
@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.mgz", "evaluation.html"])
def test_2_11_what_somebody_puts_in_place_of_a_written_file_is_not_read_back_and_told_as_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, plant: Callable[[Path], None]
) -> None:
    real = os.fsync

    def swap(handle: int) -> None:
        real(handle)
        real_stat = os.fstat(handle)
        (path,) = (p for p in tmp_path.iterdir() if atomic.is_partial(p.name))
        path.unlink()
        plant(path)
        assert path.lstat().st_size != real_stat.st_size

    monkeypatch.setattr(os, "fsync", swap)
    with pytest.raises(OutputError, match=f"^{name}: somebody else has put another file where it was being written"):
        WRITERS[name](tmp_path)
    assert not (tmp_path / name).exists()


@needs_two_users
@pytest.mark.parametrize("name", [name for name in WRITERS if "/" in name])
def test_2_11_a_folder_behind_another_users_link_is_not_written_to(shared: Path, tmp_path: Path, name: str) -> None:
    home = tmp_path / "home"
    home.mkdir()
    top = shared / Path(name).parts[0]
    as_another(f"os.symlink({str(home)!r}, {str(top)!r})")
    attempted(name, shared)
    assert list(home.iterdir()) == []


def test_2_11_a_folder_behind_ones_own_link_is_meant(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    atomic.write_bytes(tmp_path / "out" / "a.json", b"{}")
    assert (tmp_path / "disk" / "a.json").read_bytes() == b"{}"


# ---- what is not made in one step


@pytest.mark.parametrize("plant", [os.symlink, os.link], ids=["link", "hard link"])
def test_2_11_the_part_of_a_download_is_begun_anew_where_something_was_planted(
    tmp_path: Path, victim: Path, plant: Callable[[Path, Path], None]
) -> None:
    for server in serving(Server()):
        with pytest.MonkeyPatch.context() as patch:
            online(patch)
            server.plan = ["break"] * 4
            patch.setattr(fetch, "_WAIT", 0.01)
            with pytest.raises(DownloadFailed):
                fetch.fetch([server.address], tmp_path)
            (part,) = tmp_path.glob(".*.part")
            part.unlink()
            plant(victim, part)
            got = fetch.fetch([server.address], tmp_path)
    assert got.path.stat().st_size == 1 << 20
    assert not got.path.is_symlink()


def test_2_11_a_lock_that_is_a_link_or_a_pipe_is_none(tmp_path: Path, victim: Path) -> None:
    lock = tmp_path / "a.lock"
    before = victim.stat().st_mtime_ns
    for plant in (lambda: lock.symlink_to(victim), lambda: os.mkfifo(lock)):
        plant()
        with alone(lock):
            assert lock.is_file()
            assert not lock.is_symlink()
    assert victim.stat().st_mtime_ns == before


def test_2_11_events_are_not_added_to_a_file_behind_a_link(tmp_path: Path, victim: Path) -> None:
    (tmp_path / "run.jsonl").symlink_to(victim)
    with pytest.raises(OutputExists), events_to(str(tmp_path / "run.jsonl")):
        pass
    (tmp_path / "dangling.jsonl").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputExists), events_to(str(tmp_path / "dangling.jsonl")):
        pass
    assert not (tmp_path / "nowhere").exists()


@needs_two_users
def test_2_11_events_go_into_no_file_that_another_user_puts_under_their_name(
    shared: Path, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the worst moment: events of an earlier run have the name until the file is opened."""
    path, real = shared / "run.jsonl", atomic.no_link
    own = b'{"schema": 1, "event": "queued", "time": "", "case": "a"}\n'
    moved = shared / "thesis.txt"
    moved.write_bytes(THESIS)
    plants = {
        "a link": f"os.symlink({str(victim)!r}, {str(path)!r})",
        "a file of ours": f"os.rename({str(moved)!r}, {str(path)!r})",
    }
    for what, plant in plants.items():
        path.write_bytes(own)

        def swap(name: str, flags: int, plant: str = plant) -> int:
            as_another(f"os.unlink({str(path)!r}); {plant}")
            return real(name, flags)

        monkeypatch.setattr(atomic, "no_link", swap)
        with pytest.raises(OutputExists), events_to(str(path)):
            pass
        assert path.read_bytes() == THESIS, what
        path.unlink()


def test_events_of_a_run_that_was_killed_within_a_line_do_not_spoil_the_next_ones(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    own = '{"schema": 1, "event": "queued", "time": "", "case": "a"}\n'
    path.write_text(own + '{"schema"')
    with events_to(str(path)) as file:
        assert file is not None
        file.write(own)
    assert path.read_text() == f'{own}{{"schema"\n{own}'


def test_2_11_a_pipe_in_the_place_of_a_table_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "cohort.csv")
    with pytest.raises(OutputExists):
        atomic.unclaimed(tmp_path / "cohort.csv", own=lambda head: True)


def test_2_11_a_folder_that_was_given_the_name_of_a_dead_imports_stays(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    named = atomic.partial_name("net").replace(f"-{os.getpid()}-", f"-{ended.pid}-")
    (tmp_path / named).mkdir()
    (tmp_path / named / "thesis.txt").write_bytes(THESIS)
    imported(CONTAINERS / "tiny_segresnet_raw.pth", "net", "background,a,b")(tmp_path)
    assert (tmp_path / named / "thesis.txt").read_bytes() == THESIS


@needs_two_users
def test_2_11_a_model_whose_folder_another_user_exchanged_gets_no_name(shared: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_bytes(THESIS)
    refused = pytest.raises(OutputError, match="somebody else")
    with refused, composed.written.whole_folder(shared / "net", replace=False) as made:
        as_another(f"os.rename({str(made)!r}, {str(made)!r} + '.old'); os.symlink({str(home)!r}, {str(made)!r})")
    assert (home / "thesis.txt").read_bytes() == THESIS
    assert not (shared / "net").exists()
