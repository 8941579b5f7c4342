"""Compare segcli's labels with nnU-Net v2's own, scan by scan, without and with mirror images.

    python tests/nnunet_v2.py FOLDER SCANS [--float32]

FOLDER is a model that nnU-Net trained (plans.json, dataset.json, fold_X), SCANS a folder of its input files, one
channel each (CASE_0000.nii.gz). From the first scan three more are made: one of eight mirrored copies, larger than any
window; one in other steps; one with slices four times as thick. All folds are used. The command
nnUNetv2_predict_from_modelfolder has to be on the path, of any environment. Counted are the voxels that one or the
other labels; the program ends with 1 where a scan agrees in less than 99.9 % of them.

nnU-Net adds its windows up in float16, segcli in float32; with --float32 nnU-Net does so too.

    python tests/nnunet_v2.py --matrix [ROW ...]

makes a small model of seeded weights for each kind of configuration that nnU-Net has (the rows of nnunet_matrix.py:
2d, lowres, fullres, cascade, residual encoder, folds, regions, masks, transposed axes, file endings, readers, trainers,
resampling, post-processing, ensembles), lets nnU-Net label two small scans with each, imports them, and prints the
share of equal labels. It ends with 1 where a row is not imported or agrees in less than 99.9 %.

To repeat: the hippocampus of the Medical Segmentation Decathlon (Task04); nnUNetv2_plan_and_preprocess -c 3d_fullres;
in nnUNetPlans.json a patch of 40×40×32, batches of 2 and 16, 32, 64, 128 features; nnUNetv2_train with a trainer of a
few hundred iterations; ten cases that it did not see.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import nnunet_matrix as rows
import numpy as np
import SimpleITK as sitk

from segcli import formats
from segcli.batch.cases import Case
from segcli.batch.outputs import Destination
from segcli.batch.stages import Job, Loaded, Options, label, with_names
from segcli.engines.opening import Opening
from segcli.errors import SegcliError
from segcli.models import imports, library

ENOUGH = 0.999
# That command with another type where nnU-Net says half.
IN_FLOAT32 = """
import torch
torch.half = torch.float16 = torch.float32
from nnunetv2.inference.predict_from_raw_data import predict_entry_point_modelfolder
predict_entry_point_modelfolder()
"""


def more(scans: Path, to: Path) -> None:
    """Copies of all scans, and three made of the first."""
    for path in scans.glob("*_0000.nii.gz"):
        shutil.copy(path, to)
    first = sitk.ReadImage(str(min(to.iterdir())))
    data = sitk.GetArrayFromImage(first)
    tiled = sitk.GetImageFromArray(np.pad(data, [(0, n) for n in data.shape], mode="symmetric"))
    tiled.SetSpacing(first.GetSpacing())
    made = {"tiled": tiled, "steps": _stepped(first, (0.8, 1.3, 0.9)), "thick": _stepped(first, (1, 1, 4))}
    for name, image in made.items():
        sitk.WriteImage(image, str(to / f"{name}_0000.nii.gz"))


def _stepped(image: sitk.Image, steps: tuple[float, float, float]) -> sitk.Image:
    """The image in other steps, which are shares of its own."""
    spacing = [a * s for a, s in zip(image.GetSpacing(), steps, strict=True)]
    size = [int(n / s) for n, s in zip(image.GetSize(), steps, strict=True)]
    return sitk.Resample(
        image, size, sitk.Transform(), sitk.sitkLinear, image.GetOrigin(), spacing, image.GetDirection()
    )


def theirs(folder: Path, scans: Path, to: Path, mirror: bool, float32: bool) -> None:
    """CASE.nii.gz of nnU-Net in the folder `to`."""
    command = shutil.which("nnUNetv2_predict_from_modelfolder")
    if command is None:
        sys.exit("nnUNetv2_predict_from_modelfolder is not on the path")
    folds = sorted(p.name.removeprefix("fold_") for p in folder.glob("fold_*"))
    words = ["-m", folder, "-i", scans, "-o", to, "-device", "cpu", "-npp", "1", "-nps", "1", "-f", *folds]
    start = [Path(command).with_name("python"), "-c", IN_FLOAT32] if float32 else [command]
    subprocess.run([*start, *words, *([] if mirror else ["--disable_tta"])], check=True, stdout=subprocess.DEVNULL)


def ours(model: Path, scans: Path, to: Path, mirror: bool) -> None:
    """CASE_0000_seg.nii.gz of segcli in the folder `to`."""
    words = ["predict", scans, "--model", model, "-o", to, "--engine", "torch", "--device", "cpu"]
    command = [sys.executable, "-m", "segcli", *words, *(["--tta"] if mirror else [])]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def agreement(one: Path, other: Path) -> tuple[int, float]:
    """How many voxels one or the other labels, and the share of these with equal labels."""
    a, b = (sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in (one, other))
    return equal(a, b)


def equal(a: np.ndarray, b: np.ndarray) -> tuple[int, float]:
    labelled = (a > 0) | (b > 0)
    return int(labelled.sum()), float((a == b)[labelled].mean()) if labelled.any() else 1.0


def matrix(wanted: Sequence[str]) -> int:
    command = shutil.which("nnUNetv2_predict_from_modelfolder")
    if command is None:
        sys.exit("nnUNetv2_predict_from_modelfolder is not on the path")
    low = False
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        program = [Path(command).with_name("python"), rows.__file__, home, *wanted]
        places = {f"nnUNet_{place}": name for place in ("raw", "preprocessed", "results")}
        made = subprocess.run(program, stdout=subprocess.DEVNULL, env={**os.environ, **places}, check=False)
        if made.returncode:
            sys.exit("nnU-Net could not make the models, see above")
        print("configuration | " + " | ".join(rows.SPACING))
        for row in wanted or rows.ROWS:
            try:
                shares = [f"{share:.4%}" for share in compared(home, row)]
            except SegcliError as error:
                shares = [f"not imported: {error.message}"]
            print(f"{row} | " + " | ".join(shares), flush=True)
            low |= any(not share.endswith("%") or float(share[:-1]) < 100 * ENOUGH for share in shares)
    return int(low)


def compared(home: Path, row: str) -> list[float]:
    """The share of equal labels for each scan."""
    models = [imported(home, member) for member in rows.ROWS[row].get("of", [row])]
    card = library.read_card(models[0])
    opening = Opening(tuple(map(str, models)), "torch", "cpu", mirror=bool(rows.ROWS[row].get("tta")))
    options = with_names(Options(), card, several=len(models) > 1)
    job = Job(card, opening.open(card), Destination(home / "out"), options)
    shares, ending = [], rows.ending(row)
    for case in rows.SPACING:
        scan = home / "scans" / ending / f"{case}_0000{ending}"
        loaded = Loaded(Case(case, (scan,), scan.parent), formats.read([scan]), {}, {})
        found = label(job, loaded).result.labels.data[0]
        wanted = sitk.GetArrayFromImage(sitk.ReadImage(str(home / row / f"{case}{ending}")))
        shares.append(equal(found, wanted)[1])
    return shares


def imported(home: Path, row: str) -> Path:
    """The model of a row in segcli; a cascade's second stage lies beside its first as in nnU-Net's results."""
    folder = rows.folder_of(home, row)
    before = rows.ROWS[row].get("after")
    if before and not (folder.parent / rows.folder_of(home, before).name).exists():
        shutil.copytree(rows.folder_of(home, before), folder.parent / rows.folder_of(home, before).name)
    return imports.adopt(folder, to=home / "models", name=row, replace=True)


def main() -> int:
    if sys.argv[1] == "--matrix":
        return matrix(sys.argv[2:])
    folder, source = map(Path, sys.argv[1:3])
    shares = []
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        (home / "scans").mkdir()
        more(source, home / "scans")
        words = ["models", "import", folder, "--name", "theirs", "-o", home]
        subprocess.run([sys.executable, "-m", "segcli", *words], check=True, stdout=subprocess.DEVNULL)
        for mirror in (False, True):
            one, other = home / f"nnunet{mirror}", home / f"segcli{mirror}"
            theirs(folder, home / "scans", one, mirror, "--float32" in sys.argv)
            ours(home / "theirs", home / "scans", other, mirror)
            for path in sorted(one.glob("*.nii.gz")):
                case = path.name.removesuffix(".nii.gz")
                voxels, share = agreement(path, other / f"{case}_0000_seg.nii.gz")
                shares.append(share)
                print(f"{'mirrored' if mirror else 'plain':9} {case:20} {voxels:7} voxels {share:9.4%}", flush=True)
    print(f"{len(shares)} label maps: {min(shares):.4%} at least, {np.mean(shares):.4%} in the mean")
    return int(min(shares) < ENOUGH)


if __name__ == "__main__":
    sys.exit(main())
