"""Trains the default brain model on synthetic pairs; resumable; on CUDA, or on a CPU with one worker for each core.

    python train.py MAPS --weights run.safetensors --minutes 60 --n 64 --t1 0.55

The file holds the averaged weights under official parameter names, its metadata the steps and hours; beside it
`.state` holds the rest. CPU workers have one thread each and share weights and optimiser (Hogwild): where other
programs compete for the cores, that is twice as fast as one process with as many threads.
"""

import argparse
import os
import signal
import time
from pathlib import Path

import numpy as np
import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
from anatomy import Head, Table, read_maps, read_table
from kernels import Loss, LossBetween, extension
from network import HALF, build, quicken
from safetensors import safe_open
from safetensors.torch import save_file
from synth import sample, sample_between
from torch import Tensor

HELD_OUT = 3  # the last label maps, which figures are given of
SAVE = 150  # seconds between two savings


def loss_of(logits: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted cross-entropy + 1 - mean soft Dice of the channels present; the Dice of each; which are present."""
    k = logits.shape[1]
    p = logits.float().softmax(1).flatten(2)[0]  # (K, voxels)
    index = target.flatten()
    both = torch.zeros(k, device=p.device).index_add(0, index, p.gather(0, index[None])[0])
    truth, guess = torch.bincount(index, minlength=k), p.sum(1)
    present = truth > 0
    dice = (2 * both + 1) / (truth + guess + 1)
    loss = F.cross_entropy(logits.float(), target, weight=weight) + 1 - dice[present].mean()
    return loss, dice.detach(), present


def loss_between(logits: Tensor, target: Tensor, shift: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cross-entropy + 1 - mean Dice of probabilities brought linearly to points between the voxels.

    A scan's voxels lie between the model's, and the card brings probabilities there: only shares of a voxel, not its
    label, say where in it a border runs. The Dice is that of the third power, which is near to that of the decision.

    target   (1, D-1, H-1, W-1), the channel at each voxel's point
    shift    (3,) from a voxel to its point, 0..1
    returns  the loss; the Dice of each channel; which are present
    """
    q = logits.float().softmax(1)
    for axis, s in enumerate(shift.tolist(), start=2):
        n = q.shape[axis] - 1
        q = q.narrow(axis, 0, n) * (1 - s) + q.narrow(axis, 1, n) * s
    q = q.flatten(2)[0]  # (K, points)
    index, k = target.flatten(), len(q)
    chosen = q.gather(0, index[None])[0]
    entropy = -(weight[index] * (chosen + 1e-6).log()).sum() / weight[index].sum()
    p = q**3 / (q**3).sum(0)
    both = torch.zeros(k, device=p.device).index_add(0, index, p.gather(0, index[None])[0])
    truth, guess = torch.bincount(index, minlength=k), p.sum(1)
    present = truth > 0
    dice = (2 * both + 1) / (truth + guess + 1)
    return entropy + 1 - dice[present].mean(), dice.detach(), present


class Run:
    """Weights, their average and the optimiser, in shared memory, and the file they live in."""

    def __init__(self, args: argparse.Namespace, table: Table, device: str) -> None:
        self.path, self.table, self.device = args.weights, table, device
        self.features, self.keep, self.balance = args.features, args.keep, args.balance
        self.steps, self.hours, self.began = mp.Value("l", 0), 0.0, time.time()
        self.lock, self.stop, self.saved = mp.Lock(), mp.Value("i", 0), mp.Value("d", time.time())
        net = build(len(table.outputs), args.features)
        if self.path.exists():
            with safe_open(self.path, "pt") as file:
                net.load_state_dict({name: file.get_tensor(name).float() for name in file.keys()})  # noqa: SIM118
                self.steps.value, self.hours = int(file.metadata()["steps"]), float(file.metadata()["hours"])
        self.net = net.to(device, memory_format=torch.channels_last_3d).train()
        self.opt = torch.optim.AdamW(net.parameters(), lr=args.rate, weight_decay=1e-4, fused=True)
        self.warm = 99  # steps until the full rate, where the optimiser starts anew
        self.ema = {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}
        if self.state.exists():
            state = torch.load(self.state, map_location=device, weights_only=True)
            self.net.load_state_dict(state["net"])
            self.opt.load_state_dict(state["opt"])
            self.ema, self.steps.value, self.hours, self.warm = state["ema"], state["steps"], state["hours"], 0
        else:
            for p in self.net.parameters():
                zero = [torch.zeros_like(p), torch.zeros_like(p)]
                self.opt.state[p] = {"step": torch.zeros((), device=device), "exp_avg": zero[0], "exp_avg_sq": zero[1]}
        if device == "cpu":
            for tensor in [*self.net.parameters(), *self.ema.values()]:
                tensor.data.share_memory_()
            for state in self.opt.state.values():
                for tensor in state.values():
                    tensor.share_memory_()

    @property
    def state(self) -> Path:
        return self.path.with_name(self.path.name + ".state")

    def save(self) -> None:
        """Both files written whole or not at all."""
        hours = self.hours + (time.time() - self.began) / 3600
        meta = {
            "features": str(self.features),
            "steps": str(self.steps.value),
            "hours": f"{hours:.2f}",
            "balance": str(self.balance),
            "output_labels": ",".join(map(str, self.table.outputs)),
        }
        new = self.path.with_name(self.path.name + ".new")
        save_file({name: tensor.contiguous().cpu() for name, tensor in self.ema.items()}, new, meta)
        new.replace(self.path)
        parts = {"net": self.net.state_dict(), "opt": self.opt.state_dict(), "ema": self.ema}
        torch.save({**parts, "steps": self.steps.value, "hours": hours}, new)
        new.replace(self.state)

    def step(self, rate: float) -> int:
        """The gradients applied to the shared weights, the average moved on; the steps so far."""
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 5.0)
        with self.lock:
            self.steps.value += 1
            rate *= 1 - self.warm / 100
            self.warm = max(0, self.warm - 1)
            for group in self.opt.param_groups:
                group["lr"] = rate
            self.opt.step()
            for name, tensor in self.net.state_dict().items():
                self.ema[name].lerp_(tensor, 1 - self.keep)
            if time.time() - self.saved.value > SAVE:
                self.save()
                self.saved.value = time.time()
            return self.steps.value


def work(run: Run, maps: list[Head], args: argparse.Namespace, rank: int) -> None:
    """Steps until the time is over."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
    seed = time.time_ns() + rank
    rng = np.random.default_rng(seed)
    weight = run.table.weight.to(run.device) ** args.balance
    quick = run.device == "cpu" and extension() is not None
    draw, plain, kernel = (sample_between, loss_between, LossBetween) if args.between else (sample, loss_of, Loss)
    loss_to = kernel.apply if quick else plain
    shape = tuple(args.n * 3 if len(args.n) == 1 else args.n)
    losses: list[float] = []
    dices: list[float] = []
    last = time.time()
    while (part := (time.time() - args.begun) / 60 / args.minutes) < 1 and not run.stop.value:
        image, *truth = (t.to(run.device) for t in draw(maps, run.table, rng, shape, args.vox, args.t1))
        with torch.autocast(run.device, torch.bfloat16, enabled=run.device == "cuda" or HALF):
            logits = run.net(image.contiguous(memory_format=torch.channels_last_3d))
        loss, dice, present = loss_to(logits, *truth, weight)
        run.opt.zero_grad(set_to_none=True)
        loss.backward()
        steps = run.step(args.rate * (1 - (1 - args.fall) * part))
        losses.append(float(loss.detach()))
        dices.append(float(dice[present][1:].mean()))
        if len(losses) == 20:
            pace = (time.time() - last) / 20
            found = f"loss {np.mean(losses):.4f} dice {np.mean(dices):.4f}, {pace:.2f} s"
            print(f"{time.strftime('%H:%M:%S')} {steps} [{rank}] {found}", flush=True)
            losses, dices, last = [], [], time.time()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("maps", type=Path, help="folder of training_seg_*.nii.gz with labels.csv")
    parser.add_argument("--weights", type=Path, default=Path("run.safetensors"))
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--begun", type=float, default=time.time(), help="when the minutes began, if not now")
    parser.add_argument("--n", type=int, nargs="+", default=[64], help="edge of the crop, or X Y Z; multiples of 16")
    parser.add_argument("--vox", type=float, default=2.0, help="voxel size in mm")
    parser.add_argument("--t1", type=float, default=0.55, help="share of T1-like images")
    parser.add_argument("--rate", type=float, default=1.5e-3)
    parser.add_argument("--fall", type=float, default=1.0, help="share of the rate that is left at the end")
    parser.add_argument("--keep", type=float, default=0.999, help="share of the average that stays at each step")
    parser.add_argument("--balance", type=float, default=1, help="power of the weights of rare structures")
    parser.add_argument("--between", action="store_true", help="labels of points between the voxels")
    parser.add_argument(
        "--all", action="store_true", help="train on the held-out maps too: no figure is then of maps not seen"
    )
    parser.add_argument("--features", type=int, default=16)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="on a CPU")
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = read_table(args.maps / "labels.csv")
    paths = sorted(args.maps.glob("training_seg_*.nii.gz"))
    maps = read_maps(paths if args.all else paths[:-HELD_OUT] or paths, table)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    run = Run(args, table, device)
    if device == "cuda":
        work(run, maps, args, 0)
    else:
        quicken(run.net)
        context = mp.get_context("fork")
        team = [context.Process(target=work, args=(run, maps, args, rank)) for rank in range(args.workers)]
        for process in team:
            process.start()
        signal.signal(signal.SIGTERM, lambda *_: setattr(run.stop, "value", 1))
        for process in team:
            process.join()
    run.save()


if __name__ == "__main__":
    main()
