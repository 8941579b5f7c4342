"""Dice of a model on real T1 scans that it was never trained on: two with FreeSurfer labels, Colin27 with AAL's.

python evaluate.py DATA [--weights run.safetensors] [--mirror]
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import ndimage
from scoring import Model, dice, mean, options

from segcli.formats import read

FREESURFER = {"subA": ("subA_t1_brain", "subA_aparc.a2009s+aseg"), "subB": ("subB_t1_brain", "subB_aseg")}
MERGED = {78: 2, 79: 41, 9: 10, 48: 49}
# FreeSurfer's labels that are two of the model's, as its training maps have them: choroid plexus belongs to the
# ventricle that it lies in, hypointensities and corpus callosum to the white matter of their side.
NEARER = {31: (4, 5), 63: (43, 44)} | dict.fromkeys((77, 80, *range(251, 256)), (2, 41))
DROPPED = (30, 62, 72, 85)
PARCELS = {3: ((1000, 2000), (11100, 12000)), 42: ((2000, 3000), (12100, 13000))}
CSF = 24  # FreeSurfer labels only a little of it
# AAL has these in both sides and nothing else that the model has; its numbers are left, right.
AAL = {(11, 50): (71, 72), (12, 51): (73, 74), (13, 52): (75, 76), (10, 49): (77, 78), (17, 53): (37, 38)}
AAL |= {(18, 54): (41, 42)}


def freesurfer(labels: np.ndarray) -> np.ndarray:
    """FreeSurfer's numbers as those of the model; voxels of equal edges."""
    out = labels.astype(int)
    for cortex, ranges in PARCELS.items():
        for low, high in ranges:
            out[(out >= low) & (out < high)] = cortex
    for old, new in {**MERGED, **dict.fromkeys(DROPPED, 0)}.items():
        out[out == old] = new
    far = {new: ndimage.distance_transform_edt(labels != new) for pair in set(NEARER.values()) for new in pair}
    for old, (one, other) in NEARER.items():
        here = out == old
        out[here] = np.where(far[one][here] <= far[other][here], one, other)
    return out


def aal(labels: np.ndarray) -> np.ndarray:
    """AAL's deep grey matter as the model's numbers."""
    out = np.zeros(labels.shape, int)
    for ours, theirs in AAL.items():
        for new, old in zip(ours, theirs, strict=True):
            out[labels == old] = new
    return out


def main() -> None:
    args = options(__doc__).parse_args()
    model = Model(args)
    scores: dict[str, dict[int, float]] = {}

    def case(name: str, scan: Path, reference: Path, ours: Callable[[np.ndarray], np.ndarray]) -> None:
        if args.only not in name:
            return
        began = time.time()
        scores[name] = dice(model.label(read([scan])), ours(read([reference]).data[0]), (CSF,))
        print(f"{name}: mean {mean(scores[name]):.3f} ({time.time() - began:.0f} s)", file=sys.stderr, flush=True)

    folder = args.data / "brain_t1_freesurfer"
    for name, (scan, labels) in FREESURFER.items():
        case(name, folder / f"{scan}.nii.gz", folder / f"{labels}.nii.gz", freesurfer)
    folder = args.data / "colin27_aal"
    case("Colin27", folder / "colin27_t1_head.nii.gz", folder / "aal.nii.gz", aal)

    print("| structure | " + " | ".join(scores) + " |\n| --- |" + " --- |" * len(scores))
    for label, name in model.names.items():
        if any(label in s for s in scores.values()):
            row = " | ".join(f"{s[label]:.3f}" if label in s else "–" for s in scores.values())
            print(f"| {name.replace('_', ' ')} | {row} |")
    print("| **mean** | " + " | ".join(f"**{mean(s):.3f}**" for s in scores.values()) + " |")


if __name__ == "__main__":
    main()
