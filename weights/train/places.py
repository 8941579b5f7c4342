"""Writes where the centroid of each structure lies on average over the label maps, as JSON: {label: [x, y, z]}.

    python places.py MAPS places.json

LPS millimetres about their mean, of the shape that is left when each map has been moved, turned and stretched onto
the mean of all (segcli.results.places.fitted), at the mean size. Fluid outside the ventricles has no place. Then each
map is compared with the mean of the others, as segcli's checks compare a result with the card.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from volumes import outputs

from segcli import formats
from segcli.results.measure import measure
from segcli.results.places import fitted, stretches
from segcli.space.volume import Grid, Volume
from segcli.structures import Label

FLUID = 24
ROUNDS = 5


def centroids(maps: Path) -> tuple[list[int], dict[str, tuple[np.ndarray, Grid]]]:
    """The output labels, and for each map their centroids (n, 3) in LPS mm and its grid."""
    output = outputs(maps).astype(np.uint8)
    labels = sorted({int(v) for v in output} - {0, FLUID})
    found = {}
    for path in sorted(maps.glob("training_seg_*.nii.gz")):
        scan = formats.read([path])
        merged = Volume(output[scan.data.astype(int)], scan.grid)
        report = measure(merged, [Label(k, str(k)) for k in labels])
        found[path.name] = np.array([report[str(k)].centroid_mm for k in labels]), scan.grid
    return labels, found


def mean_shape(places: list[np.ndarray]) -> np.ndarray:
    """(n, 3): the mean of all once they lie on each other, stretched to the mean size along each axis."""
    mean = places[0] - places[0].mean(0)
    for _ in range(ROUNDS):
        mean = np.mean([fitted(one, mean)[1] for one in places], axis=0)
        mean -= mean.mean(0)
    sizes = []
    for one in places:
        _, values, turn = np.linalg.svd(fitted(mean, one)[0])
        sizes.append(turn.T @ np.diag(values) @ turn)
    return mean @ np.mean(sizes, axis=0).T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("maps", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    labels, found = centroids(args.maps)
    for name, (places, grid) in found.items():
        usual = mean_shape([other for key, (other, _) in found.items() if key != name])
        matrix, expected = fitted(usual, places)
        off = np.linalg.norm(places - expected, axis=1)
        ratios = " ".join(f"{r:.3f}" for r in stretches(matrix, grid))
        worst = f"most {off.max():.1f} ({labels[off.argmax()]})"
        print(f"{name}: median {np.median(off):.1f} mm off, {worst}, axes {ratios}")
    mean = mean_shape([places for places, _ in found.values()])
    rounded = {str(k): [round(float(v), 1) for v in place] for k, place in zip(labels, mean, strict=True)}
    args.out.write_text(json.dumps(rounded) + "\n")


if __name__ == "__main__":
    main()
