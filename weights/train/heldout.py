"""Dice of weights on random training-like crops of the label maps that were never trained on: quick, for the curve.

    python heldout.py MAPS run.safetensors [more.safetensors ...]

The same 16 crops, as large as the shipped model's windows, for each kind of contrast, voxels of all crops counted
together, mean over structures.
Weights of a run are corrected as ship.py corrects them; with the name weights.safetensors they are taken as shipped.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from anatomy import read_maps, read_table
from network import HALF, build, quicken
from safetensors import safe_open
from ship import BIAS, corrected
from synth import sample
from train import HELD_OUT

CROPS, SHAPE, VOX = 16, (80, 96, 80), 2.0


def main() -> None:
    folder, *files = map(Path, sys.argv[1:])
    table = read_table(folder / "labels.csv")
    maps = read_maps(sorted(folder.glob("training_seg_*.nii.gz"))[-HELD_OUT:], table)
    print("| steps | hours | T1-like | other contrasts |\n| --- | --- | --- | --- |")
    for path in files:
        with safe_open(path, "pt") as file:
            meta = file.metadata()
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        if path.name != "weights.safetensors":
            tensors[BIAS] = corrected(tensors[BIAS], table, meta)
        net = build(len(table.outputs), int(meta["features"]))
        net.load_state_dict(tensors)
        net = quicken(net.to(memory_format=torch.channels_last_3d).eval())
        scores = []
        for t1 in (1.0, 0.0):
            rng = np.random.default_rng(7)
            counts = np.zeros((3, len(table.outputs)))
            for _ in range(CROPS):
                image, truth = sample(maps, table, rng, SHAPE, VOX, t1)
                with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=HALF):
                    guess = net(image.contiguous(memory_format=torch.channels_last_3d)).argmax(1)
                both = (guess[guess == truth], guess.flatten(), truth.flatten())
                counts += [np.bincount(v.numpy(), minlength=len(table.outputs)) for v in both]
            scores.append(np.mean(2 * counts[0, 1:] / (counts[1, 1:] + counts[2, 1:])))
        print(f"| {meta['steps']} | {meta['hours']} | {scores[0]:.3f} | {scores[1]:.3f} |", flush=True)


if __name__ == "__main__":
    main()
