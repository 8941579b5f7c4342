"""Writes the range of volumes of each structure over the label maps, as JSON: {label: {"low", "high", "by_size"}}.

    python volumes.py MAPS volumes.json

A range goes from the least to the most of the maps, both sides of a pair together. A head's size is the median over
its structures of volume over the middle of the range; where the spread over the heads is smaller once volumes are
divided by it, the range is that of the quotient, and `segcli.results.ranges` gives it the size of each new head.
At 1 mm, labels merged as the model's outputs are. What is printed last: each head against the ranges of the others.
"""

import argparse
import csv
import json
from pathlib import Path

import nibabel as nib
import numpy as np

FLUID = 24  # outside the ventricles: its border is drawn by the map's, and by no anatomy
ROUNDS = 20
BEYOND = 1.3  # as segcli.results.ranges.NEAR


def outputs(maps: Path) -> np.ndarray:
    """For each label of the maps, by its value, the output label that it is merged into."""
    rows = list(csv.DictReader((maps / "labels.csv").open()))
    output = np.zeros(1 + max(int(r["label"]) for r in rows), int)
    for r in rows:
        output[int(r["label"])] = int(r["output_label"])
    return output


def mirrors(maps: Path) -> dict[int, int]:
    """The label of each structure's other side, its own in the middle."""
    rows = csv.DictReader((maps / "labels.csv").open())
    return {int(r["label"]): int(r["mirror_label"]) for r in rows if r["label"] == r["output_label"]}


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


def ranges(ml: dict[int, np.ndarray], mirror: dict[int, int]) -> tuple[dict[int, tuple[float, float]], set[int]]:
    """The range of each structure, and the structures whose range is that of heads of middle size.

    ml   (heads,) of each structure
    """

    def both(label: int, size: np.ndarray) -> np.ndarray:
        return np.concatenate([ml[k] / size for k in sorted({label, mirror[label]})])

    one = np.ones(len(next(iter(ml.values()))))
    middle = {k: float(np.median(both(k, one))) for k in ml}
    grows = set(ml)
    for _ in range(ROUNDS):
        size = np.median([ml[k] / middle[k] for k in sorted(grows)], axis=0)
        size /= np.median(size)  # that of the middle head is 1
        grows = {k for k in ml if np.log(both(k, size)).std() < np.log(both(k, one)).std()}
        found = {k: both(k, size if k in grows else one) for k in ml}
        middle = {k: float(np.sqrt(v.min() * v.max())) for k, v in found.items()}
    return {k: (float(v.min()), float(v.max())) for k, v in found.items()}, grows


def beyond(ml: dict[int, float], found: dict[int, tuple[float, float]], grows: set[int]) -> dict[int, float]:
    """How many times beyond its range, above 1, or within it each volume of a head is."""
    size = float(np.median([ml[k] / np.sqrt(found[k][0] * found[k][1]) for k in sorted(grows)]))
    at = {k: v / (size if k in grows else 1) for k, v in ml.items()}
    return {k: max(found[k][0] / v, v / found[k][1]) for k, v in at.items()} | {0: size}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("maps", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    ml, mirror = volumes(args.maps), mirrors(args.maps)
    del ml[FLUID]
    found, grows = ranges(ml, mirror)
    written = {}
    for label, (low, high) in found.items():
        written[str(label)] = {"low": float(f"{low:.3g}"), "high": float(f"{high:.3g}"), "by_size": label in grows}
        print(f"{label:4} {low:8.2f} .. {high:8.2f} mL{' by size' if label in grows else ''}")
    args.out.write_text(json.dumps(written, indent=1) + "\n")
    for head in range(len(ml[2])):
        others, sized = ranges({k: np.delete(v, head) for k, v in ml.items()}, mirror)
        off = beyond({k: float(v[head]) for k, v in ml.items()}, others, sized)
        size = off.pop(0)
        more = [f"{k} {v:.2f}" for k, v in off.items() if v > BEYOND]
        print(f"head {head + 1}: size {size:.2f}, {sum(v > 1 for v in off.values())} outside", *more)


if __name__ == "__main__":
    main()
