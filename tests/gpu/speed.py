"""Where the time goes on a device: windows, all that is beside them, whole commands, and peers."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from checking import REPOSITORY, Check
from right import phantom
from torch import Tensor, nn

from segcli.engines.torch_devices import TorchDevice
from segcli.engines.torch_state import settings
from segcli.formats import write
from segcli.inference.windows import Sliding, WindowPlan, blend_weights, windows
from segcli.models.card import ModelCard
from segcli.networks.registry import build
from segcli.space.volume import Grid, Volume

HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
_NNUNET = {
    "input_channels": 1, "n_stages": 6, "features_per_stage": [32, 64, 128, 256, 320, 320],
    "kernel_sizes": [[3, 3, 3]] * 6,
    "strides": [[1, 1, 1]] + [[2, 2, 2]] * 5, "n_conv_per_stage": [2] * 6, "n_conv_per_stage_decoder": [2] * 5,
    "conv_bias": True, "norm_op": "torch.nn.InstanceNorm3d", "norm_op_kwargs": {"eps": 1e-5, "affine": True},
    "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True}, "conv_op": "torch.nn.Conv3d", "num_classes": 14,
}  # fmt: skip
_SIXTEEN = {"out_chans": 33, "feat_size": [16, 32, 64, 128], "hidden_size": 256}
NETWORKS: dict[str, tuple[str, dict[str, Any], tuple[int, int, int]]] = {
    "default (16)": ("uxnet3d", _SIXTEEN, (80, 96, 80)),
    "nnU-Net 3d_fullres": ("nnunet_plain", _NNUNET, (128, 128, 128)),
    "UX-Net 48": ("uxnet3d", {"out_chans": 14}, (96, 96, 96)),
    "SwinUNETR 48": ("swinunetr", {"in_channels": 1, "out_channels": 14, "feature_size": 48}, (96, 96, 96)),
}
_SMALL = {
    "n_stages": 2, "features_per_stage": [4, 4], "kernel_sizes": [[3, 3, 3]] * 2, "strides": [[1, 1, 1], [2, 2, 2]],
    "n_conv_per_stage": [1] * 2, "n_conv_per_stage_decoder": [1], "num_classes": 3,
}  # fmt: skip
_TINY = {"nnU-Net 3d_fullres": ("nnunet_plain", {**_NNUNET, **_SMALL}, (16,) * 3)}


def depthwise(check: Check) -> None:
    """Milliseconds of a 3D UX-Net's 7x7x7 convolution, and of it with its gradients, which training takes."""
    size = (2, 4, 8, 8, 8) if check.dry else (8, 16, 40, 48, 40)
    for name, dtype in {"float32": torch.float32, **HALVES}.items():
        for last in (False, True):
            form = torch.channels_last_3d if last else torch.contiguous_format
            layer = (
                nn.Conv3d(size[1], size[1], 7, padding=3, groups=size[1]).to(check.place, dtype).to(memory_format=form)
            )
            x = torch.randn(size, device=check.place).to(dtype).contiguous(memory_format=form).requires_grad_()
            what = f"depth-wise 7x7x7 of {size}, {name}, {'channels last' if last else 'as it comes'}"
            with settings(2):
                _row(check, what, lambda own=layer, x=x: own(x), 1)
            # As training has it: with torch's own settings.
            _row(check, f"{what}, gradients too", lambda own=layer, x=x: own(x).sum().backward(), 1)


def a_window(check: Check) -> None:
    """Milliseconds of a window of the network as it comes, in layouts and precisions; and as segcli runs it."""
    for title, (family, arguments, size) in (_TINY if check.dry else NETWORKS).items():
        torch.manual_seed(0)
        network = build(family, arguments).to(check.place)  # segcli replaces modules in it, so that comes last
        for half in HALVES.items() if not check.dry else [("bfloat16", torch.bfloat16)]:
            for last, search in product((False, True), repeat=2) if not check.dry else [(True, True)]:
                _layout(check, title, network, size, half, last, search)
        network.to(memory_format=torch.contiguous_format)
        for precision in ("float32",) if check.dry else ("float32", "tf32", "float16", "bfloat16"):
            for batch in (1, 2) if precision == "float16" else (1,):
                if check.left < 90 and not check.dry:
                    return check.say("b: no time left")
                engine = check.on_device(network, precision, batch)
                x = torch.randn(batch, 1, *size, device=check.place)
                _row(check, f"{title}, segcli, {precision}, batch {batch}", lambda e=engine, x=x: e.logits(x), batch)
        del network
    around(check)
    return None


def _layout(
    check: Check,
    title: str,
    network: nn.Module,
    size: tuple[int, int, int],
    half: tuple[str, torch.dtype],
    last: bool,
    search: bool,
) -> None:
    """The network as its library has it: channels last or not, with cuDNN's search for kernels or not."""
    if check.left < 90 and not check.dry:
        return
    form = torch.channels_last_3d if last else torch.contiguous_format
    net = network.to(memory_format=form)
    x = torch.randn(1, 1, *size, device=check.place).contiguous(memory_format=form)

    def run() -> Tensor:
        with torch.no_grad(), torch.autocast(check.place.type, half[1]):
            torch.backends.cudnn.benchmark = search
            y: Tensor = net(x)
        return y

    order, found = "channels last" if last else "as it comes", ", search" if search else ""
    with settings(2):
        _row(check, f"{title}, {half[0]}, {order}{found}", run, 1)


def _row(check: Check, what: str, run: Any, batch: int) -> None:
    check.fresh()
    try:
        first, ms = check.timed(run)
    except Exception as error:
        return check.row("b", what, error=f"{type(error).__name__}: {str(error)[:140]}")
    return check.row("b", what, ms_per_window=ms / batch, first_s=first, peak_mb=check.peak / 1e6)


def around(check: Check) -> None:
    """What windows cost beside their network: of one 1x1x1 convolution, slabs finished on the device."""
    shape, size = ((20, 24, 24), 16) if check.dry else ((267, 273, 273), 96)
    image = np.random.default_rng(0).standard_normal((1, *shape), np.float32)
    scan, plan = Volume(image, Grid(shape, np.diag([1.5, 1.5, 1.5, 1.0]))), WindowPlan((size,) * 3)
    count = len(windows(shape, plan))
    for classes in (3,) if check.dry else (14, 118):
        if check.left < 60 and not check.dry:
            return
        engine: TorchDevice = check.on_device(nn.Conv3d(1, classes, 1), batch=2)
        check.wait()
        start = time.perf_counter()
        sliding = Sliding(scan, engine, plan)
        sums: Any = sliding.sums
        for box, _ in sliding.boxes(lambda plane: max(1, (1 << 28) // plane)):
            sums.slab(box)
        check.wait()
        seconds = time.perf_counter() - start
        what = f"windows without a network, {classes} classes"
        check.row("b", what, seconds=seconds, ms_per_window=1e3 * seconds / count, windows=count)


# ---- whole commands


def commands(check: Check) -> None:
    """`segcli predict` of a CT of 400 x 512 x 512 voxels: seconds of each stage."""
    shape = (24, 40, 40) if check.dry else (400, 512, 512)
    scan = check.work / "ct.nii.gz"
    write(Volume(phantom(shape)[None], Grid(shape, np.diag([1.0, 0.8, 0.8, 1.0]))), [], scan)
    wanted = [(3, 4)] if check.dry else [(14, 16), (118, 16), (14, 48)]
    for classes, features in wanted:
        card = check.model(classes, features, 96)
        what = f"{classes} classes, {features} features"
        for precision in ("auto",) if check.dry or features > 16 else ("auto", "float32"):
            _command(check, f"{what}, {precision}", scan, card, "--precision", precision)


def _command(check: Check, what: str, scan: Path, card: ModelCard, *more: str) -> None:
    if check.left < 45 and not check.dry:
        return check.say(f"d: no time left for {what}")
    out = check.work / f"out {what}"
    words = [
        sys.executable,
        "-m",
        "segcli",
        "predict",
        str(scan),
        "--model",
        str(card.folder),
        "-o",
        str(out),
        "--quiet",
    ]
    words += ["--engine", "torch", "--device", "cpu" if check.dry else str(check.place), *more]
    start = time.perf_counter()
    limit = 300.0 if check.dry else max(10.0, check.left - 15)
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=limit, cwd=REPOSITORY, check=False)
    except subprocess.TimeoutExpired:
        return check.row("d", what, error=f"not done after {limit:.0f} s")
    seconds = time.perf_counter() - start
    if done.returncode:
        return check.judge("d", what, False, code=done.returncode, said=done.stderr[-400:])
    record = json.loads(next(out.glob("*_seg.json")).read_text())
    stages = record["run"]["seconds"]
    facts = {"seconds": seconds, "start": seconds - sum(stages.values()), **stages, "windows": record["windows"]}
    facts |= {"precision": record["engine"]["precision"], "peak_mb": record["run"]["peak_memory_mb"]}
    return check.judge("d", what, True, **facts, steps=record["run"]["steps"])


# ---- peers


def peers(check: Check) -> None:
    """Sliding windows as nnU-Net has them, written out; and nnU-Net's and MONAI's own where they are installed."""
    shape, size, classes = ((32, 32, 32), 32, 3) if check.dry else ((267, 273, 273), 96, 14)
    arguments = {"out_chans": classes, "feat_size": [4] * 4, "hidden_size": 4} if check.dry else _SIXTEEN
    network = build("uxnet3d", {**arguments, "out_chans": classes}).to(check.place).eval()
    image = torch.randn(1, *shape)
    if find_spec("nnunetv2") is not None and not check.dry:
        _try(check, "nnU-Net's predictor", lambda: _nnunet(check, network, image, size, classes))
    if find_spec("monai") is not None and not check.dry:
        from monai.inferers import sliding_window_inference

        def monai() -> None:
            with torch.inference_mode(), torch.autocast(check.place.type, torch.float16):
                sliding_window_inference(image[None].to(check.place), (size,) * 3, 4, network, overlap=0.5)

        _try(check, "MONAI's sliding windows, float16", monai)
    _try(check, "windows as nnU-Net has them, float16", lambda: _loop(check, network, image, size, classes))
    if not check.dry:
        engine = check.on_device(network, "float16", 1)
        scan = Volume(image.numpy(), Grid(shape, np.diag([1.5, 1.5, 1.5, 1.0])))

        def own() -> None:
            sliding = Sliding(scan, engine, WindowPlan((size,) * 3, stride="even", centre="voxel"))
            sums: Any = sliding.sums
            for box, _ in sliding.boxes(lambda plane: max(1, (1 << 28) // plane)):
                sums.slab(box)

        _try(check, "segcli's windows, float16", own)


def _try(check: Check, what: str, work: Any) -> None:
    if check.left < 25 and not check.dry:
        return check.say(f"e: no time left for {what}")
    try:
        first, ms = check.timed(work, 1)
    except Exception as error:
        return check.row("e", what, error=f"{type(error).__name__}: {str(error)[:160]}")
    return check.row("e", what, first_s=first, seconds=ms / 1e3)


def _nnunet(check: Check, network: nn.Module, image: Tensor, size: int, classes: int) -> None:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    made: Any = nnUNetPredictor(
        tile_step_size=0.5,
        use_gaussian=True,
        use_mirroring=False,
        perform_everything_on_device=True,
        device=check.place,
        verbose=False,
        allow_tqdm=False,
    )
    made.network, made.allowed_mirroring_axes = network, None
    made.label_manager = type("Labels", (), {"num_segmentation_heads": classes})()
    made.configuration_manager = type("Configuration", (), {"patch_size": [size] * 3})()
    made.predict_sliding_window_return_logits(image.clone())


def _loop(check: Check, network: nn.Module, image: Tensor, size: int, classes: int) -> None:
    """What such a predictor does at least: one window at a time, sums in float16 on the device."""
    shape = (image.shape[1], image.shape[2], image.shape[3])
    plan = WindowPlan((size,) * 3, stride="even", centre="voxel")
    weight = torch.from_numpy(blend_weights(plan)).to(check.place, torch.float16)
    on = image.to(check.place)
    sums = torch.zeros((classes, *shape), dtype=torch.float16, device=check.place)
    norm = torch.zeros(shape, dtype=torch.float16, device=check.place)
    with torch.no_grad(), torch.autocast(check.place.type, torch.float16, enabled=not check.dry):
        for window in windows(shape, plan):
            box = (slice(None), *window.at)
            sums[box] += network(on[box][None])[0] * weight
            norm[window.at] += weight
    sums /= norm
