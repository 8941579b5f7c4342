"""Writes the range of volumes of each structure over the label maps, as JSON: {label: {"low": mL, "high": mL}}.

    python volumes.py MAPS volumes.json

A range is the geometric mean times or over three geometric standard deviations: volumes are positive and those of
the ventricles are skewed.  At 1 mm, right and left apart, labels merged as the model's outputs are.
"""

import argparse
import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np


def outputs(maps: Path) -> np.ndarray:
    """For each label of the maps, by its value, the output label that it is merged into."""
    rows = list(csv.DictReader((maps / "labels.csv").open()))
    output = np.zeros(1 + max(int(r["label"]) for r in rows), int)
    for r in rows:
        output[int(r["label"])] = int(r["output_label"])
    return output


def volumes(maps: Path) -> dict[int, np.ndarray]:
    """Millilitres of each output label in each map that has it."""
    output = outputs(maps)
    found: dict[int, list[float]] = {}
    for path in sorted(maps.glob("training_seg_*.nii.gz")):
        image = nib.load(path)
        ml = abs(np.linalg.det(image.affine[:3, :3])) / 1000
        count = np.bincount(output[np.asarray(image.dataobj).astype(int)].ravel())
        for label in np.flatnonzero(count):
            found.setdefault(int(label), []).append(float(count[label] * ml))
    return {k: np.array(v) for k, v in sorted(found.items()) if k != 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("maps", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    ranges = {}
    for label, ml in volumes(args.maps).items():
        middle, spread = np.log(ml).mean(), np.log(ml).std(ddof=1)
        low, high = np.exp(middle - 3 * spread), np.exp(middle + 3 * spread)
        ranges[str(label)] = {"low": float(f"{low:.3g}"), "high": float(f"{high:.3g}")}
        print(f"{label:4} {len(ml):3} maps {ml.min():8.2f} .. {ml.max():8.2f} mL, range {low:8.2f} .. {high:8.2f}")
    args.out.write_text(json.dumps(ranges, indent=1) + "\n")


if __name__ == "__main__":
    main()
