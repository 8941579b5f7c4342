"""A model as segcli runs it, and Dice against references: shared by evaluate.py and battery.py."""

import argparse
import dataclasses
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from segcli.engines.mirrored import mirrored
from segcli.engines.torch_devices import TorchCPU
from segcli.inference.segment import segment
from segcli.models.card import ModelCard
from segcli.models.library import read_card
from segcli.models.weights import filled_network, network_of
from segcli.results.after import after
from segcli.space.volume import Volume

MODEL = Path(__file__).parent.parent / "uxnet"


class Model:
    """A card and weights, its own or those of a run, ready to label scans."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.card: ModelCard = read_card(args.model)
        if args.window:
            plan = dataclasses.replace(self.card.window, size=(args.window,) * 3)
            self.card = dataclasses.replace(self.card, window=plan)
        if args.weights is None:
            net = network_of(dataclasses.replace(self.card, sha256=()))
        else:
            architecture = self.card.architecture
            net = filled_network(load_file(args.weights), architecture.name, architecture.arguments, args.weights.name)
        engine = TorchCPU(net, threads=args.threads, batch=1)
        self.engine = mirrored(engine, self.card) if args.mirror else engine
        self.names = {label.id: label.name for label in self.card.labels}

    def label(self, scan: Volume) -> np.ndarray:
        """(D, H, W) labels on the scan's grid, after the card's steps."""
        labels = Volume(self.unchanged(scan)[None], scan.grid)
        return np.asarray(after(labels, self.card.labels, self.card.after, scan)[0].data[0])

    def unchanged(self, scan: Volume) -> np.ndarray:
        """The same without the card's steps, as `segcli predict --keep-islands`."""
        return np.asarray(segment(scan, self.card.procedure, self.engine).labels.data[0])


def options(description: str | None) -> argparse.ArgumentParser:
    """What both programs ask for."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path, help="folder that holds synthseg_label_maps, brain_t1_freesurfer, ...")
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--weights", type=Path, help="of a training run, in place of the model's")
    parser.add_argument("--mirror", action="store_true", help="average over mirror images, as `segcli predict --tta`")
    parser.add_argument("--window", type=int, help="edge of the windows in voxels, in place of the card's")
    parser.add_argument("--only", default="", help="only the cases with this in their name")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser


def dice(guess: np.ndarray, truth: np.ndarray, skip: tuple[int, ...] = ()) -> dict[int, float]:
    """Dice of each label of `truth` but 0 and `skip`."""
    size = int(max(guess.max(), truth.max())) + 1
    both = np.bincount(truth[guess == truth].ravel(), minlength=size)
    one, other = np.bincount(guess.ravel(), minlength=size), np.bincount(truth.ravel(), minlength=size)
    wanted = [k for k in np.flatnonzero(other).tolist() if k != 0 and k not in skip]
    return {k: float(2 * both[k] / (one[k] + other[k])) for k in wanted}


def mean(scores: dict[int, float]) -> float:
    return float(np.mean(list(scores.values())))
