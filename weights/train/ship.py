"""Puts the weights of a run into the model folder: checked, as float16, with their sha256 in the card.

python ship.py run.safetensors [MODEL]
"""

import hashlib
import json
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file


def main() -> None:
    run = Path(sys.argv[1])
    model = Path(sys.argv[2]) if len(sys.argv) > 2 else Path(__file__).parent.parent / "uxnet"
    card, shipped = model / "model.json", model / "weights.safetensors"
    document = json.loads(card.read_text())
    with safe_open(run, "pt") as file, safe_open(shipped, "pt") as old:
        meta = file.metadata()
        tensors = {name: file.get_tensor(name).half() for name in file.keys()}  # noqa: SIM118
        shapes = {name: tuple(old.get_slice(name).get_shape()) for name in old.keys()}  # noqa: SIM118
    if {name: tuple(t.shape) for name, t in tensors.items()} != shapes:
        sys.exit(f"{run}: the tensors are not those of {shipped}")
    if not all(torch.isfinite(t).all() for t in tensors.values()):
        sys.exit(f"{run}: not finite in float16")
    if sorted(map(int, meta["output_labels"].split(","))) != sorted(document["labels"].values()):
        sys.exit(f"{run}: other labels than the card's")
    save_file(tensors, shipped, meta)
    digest = hashlib.sha256(shipped.read_bytes()).hexdigest()
    text = card.read_text().replace(document["sha256"], digest)
    card.write_text(text)
    print(f"{shipped.name}: {meta['steps']} steps, sha256 {digest}")


if __name__ == "__main__":
    main()
