"""Print, network by network, how far its logits are from those of its original, in torch and in each other engine.

    python tests/networks/proof.py [PATTERN ...]

A row is a file of tests/data/golden, or of the folder that SEGCLI_SHARED names, whose name fits a pattern; MeshNet's
are in tests/data/meshnet. The network is built with the original's weights, written as a model, exported as `segcli
export-onnx` does it, and run on the original's input by segcli's engines. Errors are the largest difference from the
original's answer, divided by the largest number in it. What cannot be exported has its reason in the row. The program
ends with 1 where an error is above 1e-4. PROOF.md has what it printed.
"""

import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import torch
from golden import DATA, SHARED, Golden, files, read
from safetensors import safe_open
from safetensors.torch import save_file
from test_meshnet import FORMS, STORED, arguments, part

from segcli.engines.choose import open_engine
from segcli.engines.export.verified import export_onnx
from segcli.errors import SegcliError
from segcli.models import library
from segcli.models.card import ModelCard
from segcli.networks.registry import live

ENOUGH = 1e-4
ENGINES = ("torch", "onnx", "openvino")


def originals(patterns: list[str]) -> Iterator[tuple[str, Golden]]:
    """Whose they are, and the files: small ones and those of the shared folder that are not among them."""
    found = {path.stem: path for where in (SHARED, DATA) for path in files("*", where)}
    for name, path in sorted(found.items()):
        if not name.startswith("op_") and any(fnmatch(name, pattern) for pattern in patterns):
            with safe_open(path, "pt") as stored:
                yield stored.metadata()["source"], read(path)
    for form in FORMS:
        if any(fnmatch(f"meshnet_{form}", pattern) for pattern in patterns):
            tensors = {name: torch.from_numpy(array) for name, array in part(form).items()}
            answer = tensors.pop("logits")
            image = torch.from_numpy(STORED["image"])
            own = Golden(f"meshnet_{form}", arguments(form), tensors, image, (answer,), 1, 0.0)
            yield "brainchop's runtime, tinygrad 0.14.0", own


def model(golden: Golden, folder: Path) -> ModelCard:
    """A model folder of the network; one of two axes takes slices."""
    weights = {name: golden.weights[name].contiguous().clone() for name in live(golden.name, golden.weights)}
    save_file(weights, folder / "weights.safetensors")
    channels, *size = golden.input.shape[1:]
    flat = {"slice_axis": 0} if len(size) == 2 else {}
    classes = golden.outputs[0].shape[1]
    document = {
        "format": 1,
        "name": golden.name,
        "architecture": {"name": golden.name, **golden.config},
        "weights": "weights.safetensors",
        "sha256": hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest(),
        "channels": [f"c{i}" for i in range(channels)],
        "patch_size": [1] * (3 - len(size)) + size,
        "labels": {"background": 0, **{f"s{i}": i for i in range(1, classes)}},
        **flat,
    }
    (folder / "model.json").write_text(json.dumps(document))
    return library.read_card(folder)


def error(golden: Golden, card: ModelCard, engine: str) -> float:
    """Of the largest number that the original answers."""
    x = golden.input.numpy()
    opened = open_engine(card, engine=engine, device="cpu", precision="float32", threads=1)  # type: ignore[arg-type]
    logits = opened.engine.run(x[:, :, None] if x.ndim == 4 else x)
    found = torch.from_numpy(np.ascontiguousarray(logits[:, :, 0] if x.ndim == 4 else logits))
    if golden.name.startswith("unet3plus_"):  # its original ends with what segcli does when it decides
        found = found.sigmoid()
    # forward gives the first of the official outputs, UNet++ (whose deepest decoder is its last) the last one
    main = len(golden.outputs) - 1 if golden.name.startswith(("unetpp_", "basicunetplusplus_")) else 0
    return golden.error(found, main) / float(golden.outputs[main].abs().max())


def row(golden: Golden) -> tuple[list[str], float]:
    """The cells of each engine, and the largest error."""
    cells, largest = [], 0.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        card = model(golden, folder)
        for engine in ENGINES:
            try:
                if engine == "onnx":
                    export_onnx(card, folder / "model.onnx")
                    card = library.find(str(folder / "model.onnx"))
                largest = max(largest, off := error(golden, card, engine))
                cells.append(f"{off:.1e}")
            except SegcliError as refusal:
                cells.append(refusal.message)
                break
    return cells, largest


def main() -> None:
    print(f"| network | original | {' | '.join(ENGINES)} |\n| --- | --- | {' | '.join('---' for _ in ENGINES)} |")
    worst = 0.0
    for source, golden in originals(sys.argv[1:] or ["*"]):
        cells, largest = row(golden)
        worst = max(worst, largest)
        print(f"| {golden.name} | {source} | {' | '.join(cells)} |", flush=True)
    raise SystemExit(int(worst > ENOUGH))


if __name__ == "__main__":
    main()
