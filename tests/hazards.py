"""Run segcli over a folder of hazards and say which cases do not end as their manifest asks.

    python make_hazards.py OUT --base-model MODEL     (the corpus; MODEL from `python tests/models.py MODEL --no-onnx`)
    python tests/hazards.py OUT MODEL [NAME ...]

Each case runs in a process of its own, with a time limit, in an empty output folder; two at a time.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import SimpleITK as sitk

REFUSALS = {65, 66, 71, 73, 74, 77, 78}


def run(root: Path, model: Path, case: dict, manifest: dict) -> tuple[list[str], object]:
    """What is wrong with how a case ended (nothing, hopefully), and its labels."""
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        out, canary = Path(name) / "out", Path(name) / "canary"
        scan, used = root / case["path"], model
        if case["group"] == "model":
            scan, used = root / "nifti" / "good.nii.gz", root / case["path"]
        environment = {**os.environ, "HAZARD_CANARY": str(canary), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
        command = [sys.executable, "-m", "segcli", "predict", str(scan), "-o", str(out), "--model", str(used)]
        if case["group"] == "model":
            command += ["--engine", "onnx" if case["name"].startswith("onnx") else "torch"]
        try:
            done = subprocess.run(
                command, capture_output=True, timeout=120, check=False, env=environment, stdin=subprocess.DEVNULL
            )
        except subprocess.TimeoutExpired:
            return ["hung for 120 s"], None
        code, said = done.returncode, done.stderr.decode("utf-8", "replace")
        made = sorted(p for p in out.rglob("*") if p.is_file()) if out.exists() else []
        labels = [p for p in made if p.name.endswith("_seg.nii.gz")]
        if "Traceback" in said or "Exception ignored" in said or code in (1, 70) or code < 0:
            faults.append(f"exit {code}: {said.strip()[-300:]}")
        if canary.exists():
            faults.append("code from the file was run")
        if "no-phi" in case["must"]:
            everything = done.stdout + done.stderr + b"".join(p.read_bytes() for p in made)
            if manifest["phi"].encode() in everything:
                faults.append("patient data in an output")
        refused = code in REFUSALS
        if case["expect"] == "refuse" and not refused:
            faults.append(f"exit {code}, a refusal was expected: {said.strip()[-200:]}")
        if case["expect"] == "ok" and code != 0:
            faults.append(f"exit {code}: {said.strip()[-300:]}")
        if refused:
            if made:
                faults.append(f"left behind: {[p.name for p in made]}")
            phrase = manifest["phrases"].get(case["phrase"], "")
            if case["expect"] == "refuse" and not re.search(phrase, said, re.IGNORECASE):
                faults.append(f"the message lacks {case['phrase']!r}: {said.strip()[-300:]}")
            named = Path(case["path"]).name
            if named not in said:
                faults.append(f"the message does not name {named}: {said.strip()[-200:]}")
            return faults, None
        if code != 0 or not labels:
            return faults, None
        image = sitk.ReadImage(str(labels[0])) if not sheared(case) else None
        if image is not None and case["grid"]:
            faults += grid_faults(image, case["grid"])
        import nibabel

        return faults, nibabel.load(labels[0]).get_fdata()


def sheared(case: dict) -> bool:
    d = (case["grid"] or {}).get("direction")
    if not d:
        return False
    return any(abs(sum(d[3 * r + i] * d[3 * r + j] for r in range(3))) > 1e-3 for i, j in ((0, 1), (0, 2), (1, 2)))


def grid_faults(image: sitk.Image, grid: dict) -> list[str]:
    """Every corner within 0.001 voxel of where the manifest has it, whatever the order of the axes."""
    wanted = sitk.Image(grid["size"], sitk.sitkUInt8)
    wanted.SetSpacing(grid["spacing"])
    wanted.SetOrigin(grid["origin"])
    wanted.SetDirection(grid["direction"])
    if image.GetSize() != wanted.GetSize():
        return [f"size {image.GetSize()} instead of {wanted.GetSize()}"]
    n = image.GetSize()
    worst = 0.0
    for corner in ((i, j, k) for i in (0, n[0] - 1) for j in (0, n[1] - 1) for k in (0, n[2] - 1)):
        here = wanted.TransformPhysicalPointToContinuousIndex(image.TransformIndexToPhysicalPoint(corner))
        worst = max(worst, *(abs(a - b) for a, b in zip(here, corner, strict=True)))
    return [f"a corner is {worst:.4f} voxels away"] if worst > 2e-3 else []


def main() -> int:
    root, model = Path(sys.argv[1]), Path(sys.argv[2])
    manifest = json.loads((root / "manifest.json").read_text())
    wanted = set(sys.argv[3:])
    cases = [c for c in manifest["cases"] if not wanted or c["name"] in wanted]
    cases = [c for c in cases if not ("non-root" in c["must"] and os.geteuid() == 0)]
    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(lambda c: run(root, model, c, manifest), cases))
    labels = {c["name"]: got for c, (_, got) in zip(cases, ended, strict=True)}
    bad = 0
    for case, (faults, got) in zip(cases, ended, strict=True):
        other = labels.get(case["same_as"])
        if got is not None and other is not None and (got.shape != other.shape or (got != other).any()):
            faults.append(f"other labels than {case['same_as']}")
        bad += bool(faults)
        for fault in faults:
            print(f"{case['group']}/{case['name']} ({case['what']}): {fault}")
    print(f"{len(cases) - bad} of {len(cases)} hazards end as they should")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
