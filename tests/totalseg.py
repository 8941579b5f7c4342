"""Folders as TotalSegmentator installs its models, with the tests' small nnU-Net model in them."""

import json
import shutil
from pathlib import Path

SMALL = Path(__file__).parent / "data" / "containers" / "nnunetv2_tinyct" / "model"


def installed(results: Path, dataset: str, inner: str, *structures: str) -> Path:
    """A model of two structures below a results folder: DATASET/TRAINER__PLANS__CONFIGURATION."""
    folder = results / dataset / inner
    shutil.copytree(SMALL, folder)
    document = json.loads((folder / "dataset.json").read_text())
    labels = {"background": 0, **{name: i for i, name in enumerate(structures, 1)}}
    (folder / "dataset.json").write_text(json.dumps({**document, "labels": labels}))
    return folder


def body(results: Path) -> Path:
    return installed(
        results, "Dataset299_body_1559subj", "nnUNetTrainer__nnUNetPlans__3d_fullres", "body_trunc", "body_extremities"
    )


def fast_body(results: Path) -> Path:
    return installed(results, "Dataset300_body_6mm_1559subj", "nnUNetTrainer__nnUNetPlans__3d_fullres", "TRUNK", "ARMS")


def muscles(results: Path) -> Path:
    """One that looks where the fast body model finds the trunk."""
    inner = "nnUNetTrainer_DASegOrd0_NoMirroring__nnUNetPlans__3d_fullres_high"
    return installed(results, "Dataset952_abdominal_muscles_167subj", inner, "left", "right")


def state(results: Path) -> dict[Path, tuple[int, bytes]]:
    """Every file with its time and its bytes."""
    return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(results.rglob("*")) if p.is_file()}
