"""Trains the default brain model on a GPU: batches that the device draws itself, and a rate that follows the clock.

    python train_device.py MAPS --weights run.safetensors --minutes 8.5 --n 80 96 80 --t1 0.45
    python train_device.py MAPS --heads heads.npz                       # writes the file, and trains nothing

Begins with the weights of the file, where it is there, else with new ones. The file is written once a minute and at the
end: averaged weights in float16 under official parameter names, the metadata of train.py. The optimiser is not kept, so
that a run cannot be gone on with. Where `--heads` names a file that is there, MAPS needs its labels.csv alone, and the
machine neither nibabel nor SimpleITK. Without a GPU, `--device cpu` tries the program; train.py is far faster there.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from anatomy import Table, heads_of, keep, read_maps, read_table
from network import build
from safetensors import safe_open
from safetensors.torch import save_file
from synth_device import DeviceMaps, on_device, sample_batch
from torch import Tensor, nn
from train import HELD_OUT

from segcli.engines.quicker import in_its_order

WARM, SAVE, TOLD = 20, 60, 5  # seconds: to the full rate, between savings, between lines


def loss_of(logits: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted cross-entropy + 1 - mean soft Dice of the channels in each item, mean over items; that Dice.

    logits   (N, K, X, Y, Z); target (N, X, Y, Z); the device is not waited for
    """
    logits = logits.float()
    k = logits.shape[1]
    p, index = logits.softmax(1).flatten(2), target.flatten(1)  # (N, K, voxels), (N, voxels)
    chosen = p.gather(1, index[:, None])[:, 0]
    both = p.new_zeros(len(p), k).scatter_add_(1, index, chosen)
    truth = p.new_zeros(len(p), k).scatter_add_(1, index, torch.ones_like(chosen))
    dice = (2 * both + 1) / (truth + p.sum(2) + 1)
    present = truth > 0
    mean = (dice * present).sum(1) / present.sum(1)
    structures = present[:, 1:]
    told = (dice[:, 1:] * structures).sum() / structures.sum().clamp_min(1)
    return F.cross_entropy(logits, target, weight=weight) + 1 - mean.mean(), told.detach()


def rate_at(seconds: float, whole: float, top: float) -> float:
    """The learning rate by the clock: a straight line up, then half a cosine down to nothing."""
    if seconds < WARM:
        return top * (seconds + 1e-3) / WARM
    part = min(1.0, (seconds - WARM) / max(whole - WARM, 1e-9))
    return top * 0.5 * (1 + math.cos(math.pi * part))


class Average:
    """The weights' mean over the steps, nearer to the newest at first."""

    def __init__(self, net: nn.Module) -> None:
        self._net = net
        self._names = list(net.state_dict())
        self._mean = [tensor.detach().clone() for tensor in net.state_dict().values()]

    def move(self, step: int) -> None:
        keep = min(0.999, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._mean, [t.detach() for t in self._net.state_dict().values()], 1 - keep)

    def tensors(self) -> dict[str, Tensor]:
        return {name: t.half().contiguous().cpu() for name, t in zip(self._names, self._mean, strict=True)}


def batches(maps: DeviceMaps, table: Table, args: argparse.Namespace) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without end, each drawn while the one before it is learnt from: in a stream of its own on CUDA."""
    rng = np.random.default_rng(args.seed if args.seed is not None else time.time_ns())
    shape = tuple(args.n * 3 if len(args.n) == 1 else args.n)
    # Its kernels are small: they go before those of the network, or each would wait for some of them.
    aside = torch.cuda.Stream(maps.device, priority=-1) if maps.device.type == "cuda" else None

    def drawn() -> tuple[Tensor, Tensor]:
        with torch.no_grad(), torch.cuda.stream(aside) if aside else contextlib.nullcontext():
            return sample_batch(maps, table, rng, args.batch, shape, args.vox, args.t1)

    ready = drawn()
    while True:
        if aside is not None:
            torch.cuda.current_stream(maps.device).wait_stream(aside)
            for tensor in ready:
                tensor.record_stream(torch.cuda.current_stream(maps.device))
        now, ready = ready, drawn()
        yield now


def train(net: nn.Module, maps: DeviceMaps, table: Table, args: argparse.Namespace, before: tuple[int, float]) -> int:
    """Steps until the minutes are over; how many there are now.

    before   steps and hours of the weights that it begins with
    """
    device, weight = maps.device.type, table.weight.to(maps.device) ** args.balance
    optimiser = torch.optim.AdamW(net.parameters(), lr=args.rate, weight_decay=1e-4, fused=True)
    average, whole, began = Average(net), 60 * args.minutes, time.time()
    told, saved, count, kept = began, began, 0, list[Tensor]()
    for image, target in batches(maps, table, args):
        seconds = time.time() - began
        if seconds >= whole:
            break
        for group in optimiser.param_groups:
            group["lr"] = rate_at(seconds, whole, args.rate)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            logits = net(image.contiguous(memory_format=torch.channels_last_3d))
        loss, dice = loss_of(logits, target, weight)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimiser.step()
        count += 1
        average.move(count)
        kept.append(torch.stack([loss.detach(), dice]))
        if time.time() - told > TOLD:
            mean = torch.stack(kept).mean(0).tolist()  # the one time that the device is waited for
            pace = len(kept) * args.batch / (time.time() - told)
            found = f"loss {mean[0]:.4f} dice {mean[1]:.4f}, {pace:.1f} pairs/s"
            print(f"{seconds:6.0f} s, step {before[0] + count}: {found}", flush=True)
            told, kept = time.time(), []
        if time.time() - saved > SAVE:
            save(args, average, table, before[0] + count, before[1] + seconds / 3600)
            saved = time.time()
    save(args, average, table, before[0] + count, before[1] + (time.time() - began) / 3600)
    return before[0] + count


def save(args: argparse.Namespace, average: Average, table: Table, steps: int, hours: float) -> None:
    """The file written whole or not at all."""
    meta = {"features": str(args.features), "steps": str(steps), "hours": f"{hours:.2f}", "balance": str(args.balance)}
    meta["output_labels"] = ",".join(map(str, table.outputs))
    new = args.weights.with_name(args.weights.name + ".new")
    save_file(average.tensors(), new, meta)
    new.replace(args.weights)


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("maps", type=Path, help="folder of training_seg_*.nii.gz with labels.csv")
    parser.add_argument("--heads", type=Path, help="what the maps become, in one file")
    parser.add_argument("--weights", type=Path, default=Path("run.safetensors"))
    parser.add_argument("--minutes", type=float, default=8.5)
    parser.add_argument("--n", type=int, nargs="+", default=[80, 96, 80], help="edge of the crop, or X Y Z")
    parser.add_argument("--vox", type=float, default=2.0, help="voxel size in mm")
    parser.add_argument("--t1", type=float, default=0.45, help="share of T1-like images")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--balance", type=float, default=1, help="power of the weights of rare structures")
    parser.add_argument("--features", type=int, default=16)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seed", type=int)
    args = parser.parse_args(words)
    table = read_table(args.maps / "labels.csv")
    known = args.heads is not None and args.heads.exists()
    paths = sorted(args.maps.glob("training_seg_*.nii.gz"))
    heads = heads_of(args.heads, table) if known else read_maps(paths[:-HELD_OUT] or paths, table)
    if args.heads is not None and not known:
        keep(heads, args.heads)
        return 0
    maps = on_device(heads, table, args.device)
    net, before = build(len(table.outputs), args.features), (0, 0.0)
    if args.weights.exists():
        with safe_open(args.weights, "pt") as file:
            net.load_state_dict({name: file.get_tensor(name).float() for name in file.keys()})  # noqa: SIM118
            before = int(file.metadata()["steps"]), float(file.metadata()["hours"])
    if maps.device.type != "cpu":  # torch's own norms copy channels-last data to another order and back
        in_its_order(net)
    return train(net.to(args.device, memory_format=torch.channels_last_3d).train(), maps, table, args, before)


if __name__ == "__main__":
    main()
