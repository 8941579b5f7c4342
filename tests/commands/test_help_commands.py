"""Every command that the texts of `segcli help`, and the README, show runs as it stands, on small scans."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.resources import files
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from dicom_phantom import affine, phantom, series
from models import affine as mix
from models import organs
from pydicom.fileset import FileSet
from runs import command, environment
from safetensors.numpy import save_file

ROOT = Path(__file__).parents[2]
TEXTS = {p.name.removesuffix(".md"): p.read_text(encoding="utf-8") for p in (files("segcli") / "help").iterdir()}
TEXTS["README"] = (ROOT / "README.md").read_text(encoding="utf-8")
CONTAINERS = ROOT / "tests" / "data" / "containers"

# What cannot run in a test, and where it runs instead.
ELSEWHERE = {
    "pip install": "it needs an environment of its own: .ci/install and .ci/run",
    "pip uninstall": "it needs an environment of its own; what is missing is refused in tests/formats/dicom",
    ".ci/audit": "it needs a network",
    "segcli models get totalsegmentator-fast": "it needs a network: tests/models/test_obtain.py has a server",
    "segcli models get hf:": "likewise",
    "--model totalsegmentator-body": "it needs TotalSegmentator's models: tests/totalsegmentator_v2.py",
    "tcp://head:8786": "it needs a cluster: tests/batch/test_cluster.py has one",
    "storescp": "it needs a PACS: tests/pacs",
    "storescu": "it needs a PACS: tests/pacs",
    "curl": "it needs a PACS: tests/pacs",
    "SLURMCluster": "it needs a cluster",
    "--recipe uxnet-amos": "its weights are 212 MB: tests/models/imports/test_recipes.py",
    "python tests/": "a program of its own, of minutes",
    "python -m segcli.bench": "a program of its own, of minutes: tests/test_bench.py",
    "python weights/train": "a program of its own, of minutes: tests/test_training.py",
}
SLURM = {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "3"}


def shown(text: str) -> list[str]:
    """The commands of a text: of indented blocks and of those with fences, without what is said or done behind them."""
    fenced = [line for block in re.findall(r"```(?:sh|bash)\n(.*?)```", text, re.S) for line in block.splitlines()]
    indented = re.findall(r"^    (\S.*)$", re.sub(r"```.*?```", "", text, flags=re.S), re.M)
    lines = [re.split(r"\s{2,}#|\s*&&$", line.strip())[0] for line in (*fenced, *indented)]
    return [line for line in lines if re.match(r"(segcli|pip|python|python3|find|cat|\.ci/|\. |storescp)\b ?", line)]


def programs(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, re.S)


def skipped(shown: str) -> None:
    for words, why in ELSEWHERE.items():
        if words in shown:
            pytest.skip(why)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything that the texts name."""
    folder = tmp_path_factory.mktemp("shown")
    template = nibabel.load(ROOT / "tests" / "data" / "mni_icbm152" / "mni_icbm152_t1.nii.gz")
    scan = folder / "scan.nii.gz"
    nibabel.save(template.slicer[::4, ::4, ::4], scan)  # type: ignore[attr-defined]
    names = (
        "bids/sub-01/anat/sub-01_T1w",
        "scans/a",
        "scans/b_T1w",
        "scans/c",
        "data/scans/a",
        "data/scans/b",
        "data/scans/c",
        "f",
        "t1",
        "ct",
    )
    for name in names:
        (folder / f"{name}.nii.gz").parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(scan, folder / f"{name}.nii.gz")
    assert command("predict", scan, "-o", folder / "out", "--quiet").returncode == 0
    labels = folder / "out" / "scan_seg.nii.gz"
    for place in ("references/scan.nii.gz", "aparc+aseg/scan.nii.gz", "aseg.nii.gz"):
        (folder / place).parent.mkdir(exist_ok=True)
        shutil.copy(labels, folder / place)
    structures = json.loads((folder / "out" / "scan_seg.json").read_text(encoding="utf-8"))["structures"]
    rows = [f"{s['label']} {s['name']} {s['label']} 0 0 0" for s in structures]
    (folder / "FreeSurferColorLUT.txt").write_text("\n".join(rows), encoding="utf-8")
    _dicom(folder)
    _models(folder)
    return folder


def _dicom(folder: Path) -> None:
    """Series 3 of two volumes, a study of series 3 and 5, the same as an archive, as a medium and as a tree."""
    hu, world = phantom((6, 40, 40)) % 700, affine(spacing=(4.0, 4.0, 4.0))

    def again(ds: pydicom.Dataset, k: int) -> None:
        ds.AcquisitionNumber, ds.SOPInstanceUID = 2, f"{ds.SOPInstanceUID[:50]}.{k + 1}"

    one = {"SeriesDescription": "t1", "ImageType": ["ORIGINAL", "PRIMARY", "M"]}
    phases = folder / "dicom" / "phases"
    series(phases, hu, world, uid="a", modality="MR", **one)
    series(phases, hu + 1, world, uid="a", modality="MR", first=6, each=again, **one)
    for place in ("dicom/folder", "dicom/series", "dicom/tree/first", "study"):
        series(folder / place, hu, world, uid="b", modality="MR", **one)
    for place in ("dicom/tree/second", "study"):
        series(folder / place, hu, world, uid="c", modality="MR", SeriesNumber=5, **one)
    series(folder / "came" / "in", hu, world, uid="d")
    for name, held in (("study.zip", ("dicom/series", "came/in")), ("dicom/study.zip", ("study",))):
        with zipfile.ZipFile(folder / name, "w") as archive:
            for place in held:
                for file in (folder / place).iterdir():
                    archive.write(file, f"someone/{place}/{file.name}")
    medium = FileSet()
    for file in (folder / "dicom" / "series").iterdir():
        medium.add(file)
    medium.write(folder / "media" / "cd")
    medium._stage["t"].cleanup()  # else it warns of that when it goes


def _models(folder: Path) -> None:
    """Small models under the names of the texts, a checkpoint, and folders of nnU-Net."""
    for name in ("lung", "my-amos", "MODEL"):
        organs(folder / "models" / name, name=name)
    _of_two_channels(folder / "models" / "brats")
    shutil.copy(ROOT / "weights" / "uxnet" / "model.onnx", folder / "uxnet.onnx")
    shutil.copy(CONTAINERS / "tiny_segresnet_state_dict.pt", folder / "checkpoint.pth")
    data = folder / "nnUNet_results" / "Dataset006"
    for configuration in ("3d_fullres", "3d_lowres"):
        own = data / f"nnUNetTrainer__nnUNetPlans__{configuration}"
        shutil.copytree(CONTAINERS / "nnunetv2_tinyct" / "model", own)
        plans = json.loads((own / "plans.json").read_text(encoding="utf-8"))
        plans["configurations"]["3d_lowres"] = plans["configurations"]["3d_fullres"]
        (own / "plans.json").write_text(json.dumps(plans), encoding="utf-8")
    with zipfile.ZipFile(folder / "weights.zip", "w") as archive:
        for file in (CONTAINERS / "nnunetv2_tinyct" / "model").rglob("*"):
            archive.write(file, file.relative_to(CONTAINERS / "nnunetv2_tinyct"))


def _of_two_channels(folder: Path) -> None:
    weight, bias = mix()
    changes = {"architecture": {"name": "pointwise.Pointwise", "in_chans": 2, "out_chans": 6}}
    organs(folder, name="brats", channels=["FLAIR", "T1"], onnx=False, sha256=None, **changes)
    tensors = {"conv.weight": np.repeat(weight / 2, 2, axis=1), "conv.bias": bias}
    save_file(tensors, folder / "weights.safetensors")


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """A copy of that folder, the checkout's weights beside it."""
    folder = shutil.copytree(made, tmp_path / "here")
    (folder / "weights").symlink_to(ROOT / "weights")
    return folder


def run(words: list[str], folder: Path) -> None:
    """The command ends with 0; outputs are there beforehand only where the command reads them."""
    if not any("out/" in word for word in words):
        shutil.rmtree(folder / "out")
    changes: dict[str, str | None] = {
        "SEGCLI_HOME": str(folder / "home"),
        "SEGCLI_WEIGHTS": str(folder / "models"),
        "PATH": f"{folder / 'bin'}:{environment({})['PATH']}",
        **SLURM,
    }
    (folder / "bin").mkdir()
    (folder / "bin" / "segcli").write_text(f'#!/bin/sh\nexec {sys.executable} -m segcli "$@"\n', encoding="utf-8")
    (folder / "bin" / "segcli").chmod(0o755)
    done = subprocess.run(
        words, cwd=folder, env=environment(changes), stdin=subprocess.DEVNULL, capture_output=True, timeout=300
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    assert b"Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("topic", "line"), [(topic, line) for topic, text in TEXTS.items() for line in shown(text)])
def test_a_command_that_a_text_shows_runs(topic: str, line: str, place: Path) -> None:
    skipped(line)
    here = re.sub(r"(?<= )/(?=data/|media/)", "", line)
    run(["bash", "-o", "pipefail", "-c", here, "segment.sh", "came/in"], place)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("topic", "number"), [(topic, i) for topic, text in TEXTS.items() for i in range(len(programs(text)))]
)
def test_a_program_that_a_text_shows_runs(topic: str, number: int, place: Path) -> None:
    program = programs(TEXTS[topic])[number]
    skipped(program)
    run([sys.executable, "-W", "error", "-c", program], place)


def test_what_is_not_run_is_in_a_text_still() -> None:
    everything = "\n".join(TEXTS.values())
    assert [words for words in ELSEWHERE if words not in everything] == []


def test_every_topic_that_has_blocks_shows_commands() -> None:
    assert [topic for topic, text in TEXTS.items() if "\n    segcli " in text and not shown(text)] == []
    assert sum(len(shown(text)) for text in TEXTS.values()) > 50
