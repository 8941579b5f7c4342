"""Answers of original networks, for the tests of the networks: files of tests/data/golden/formula.

    python tests/networks/originals.py FOLDER NAME [NAME ...]
    python tests/networks/originals.py FOLDER sizes

NAME is a row of the table ORIGINALS or LARGEST, which says what it needs: a package from the index, or an original's
own file on PYTHONPATH. Weights and input are those of a formula (golden.py), so that a file holds the answer alone; the
noise is the largest difference of the original's own answers in float32 and float64. `sizes` writes, without weights,
how many tensors and parameters STU-Net and MedNeXt have in each published size, and a sum of their names and shapes.
"""

import hashlib
import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from golden import formula_weights
from safetensors.torch import save_file
from torch import Tensor, nn


@dataclass(frozen=True)
class Original:
    """One network of its own code.

    source  what it is, and of which version
    make    the network; what the network here is called with is `config`
    size    of the input, with items and channels
    rename  patterns of its tensors' names and how they are called here
    stride  every how many voxels are kept
    dropped patterns of tensors that have no effect
    """

    source: str
    config: dict[str, Any]
    make: Callable[[], nn.Module]
    size: Sequence[int]
    rename: Sequence[tuple[str, str]] = ()
    stride: int = 1
    dropped: Sequence[str] = ()


STUNET = {
    "input_channels": 2,
    "num_classes": 3,
    "depth": [1, 2, 1, 1],
    "dims": [6, 8, 10, 10],
    "pool_op_kernel_sizes": [[1, 2, 2], [2, 2, 2], [2, 1, 2]],
    "conv_kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]],
}
MEDNEXT = {
    "in_channels": 2,
    "n_channels": 4,
    "n_classes": 3,
    "exp_r": [2, 3, 4, 3, 2, 3, 4, 3, 2],
    "kernel_size": 3,
    "deep_supervision": True,
    "do_res": True,
    "do_res_up_down": True,
    "block_counts": [1, 2, 1, 1, 2, 1, 1, 1, 2],
}


def stunet() -> nn.Module:
    return import_module("stunet_original").STUNet(**STUNET)


LUNGMASK = {"in_channels": 1, "n_classes": 3, "depth": 4, "wf": 2}


def lungmask() -> nn.Module:
    found = import_module("lungmask.resunet")
    return found.UNet(**LUNGMASK, padding=True, batch_norm=True, up_mode="upsample", residual=False)


# Blocks of four resolutions: all operations, a resolution that is not given and one that is not taken.
DINTS_CODES = {
    "arch_code": [
        [[1, 0, 1, 1, 0, 1, 1, 0, 1, 1], [1, 1, 1, 0, 1, 0, 1, 1, 0, 0], [1, 1, 0, 1, 1, 0, 1, 0, 0, 0]],
        [[1, 0, 2, 3, 0, 4, 1, 0, 2, 1], [3, 4, 1, 0, 2, 0, 1, 3, 0, 0], [2, 1, 0, 4, 1, 0, 3, 0, 0, 0]],
    ],
    "node_a": [[1, 1, 0, 1], [1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 0]],
}
DINTS = {"in_channels": 2, "num_classes": 3, **DINTS_CODES, "channel_mul": 0.125, "use_downsample": True}
DINTS_FLAT = {
    "in_channels": 1,
    "num_classes": 2,
    "arch_code": [[[1, 1, 1, 1], [1, 1, 0, 1]], [[1, 1, 1, 1], [1, 1, 0, 1]]],
    "node_a": [[1, 1], [1, 1], [1, 1]],
    "channel_mul": 0.25,
    "use_downsample": False,
    "spatial_dims": 2,
}


def dints(config: dict[str, Any]) -> nn.Module:
    monai = import_module("monai.networks.nets.dints")
    opened, chosen = (np.array(code) for code in config["arch_code"])
    dims = config.get("spatial_dims", 3)
    space = monai.TopologyInstance(
        arch_code=[opened, chosen],
        channel_mul=config["channel_mul"],
        num_blocks=len(opened),
        num_depths=len(config["node_a"][0]),
        spatial_dims=dims,
        use_downsample=config["use_downsample"],
    )
    return monai.DiNTS(
        space,
        config["in_channels"],
        config["num_classes"],
        spatial_dims=dims,
        use_downsample=config["use_downsample"],
        node_a=torch.from_numpy(np.array(config["node_a"])),
    )


UNEST = {
    "in_channels": 1,
    "out_channels": 3,
    "img_size": [64, 64, 64],
    "feature_size": 2,
    "patch_size": 4,
    "depths": [1, 2, 1],
    "num_heads": [1, 2, 4],
    "embed_dim": [16, 32, 64],
}


def unest() -> nn.Module:
    """The bundle's own code with the size of the window as an argument: it is 96 there, whatever is asked for."""
    return import_module("unest_original").UNesT(**UNEST | {"img_size": 64})


SWIN_FLAT = {
    "in_channels": 1,
    "out_channels": 3,
    "spatial_dims": 2,
    "feature_size": 12,
    "num_heads": [1, 2, 3, 4],
    "window_size": 4,
    "depths": [2, 2, 2, 2],
}
UNETR_FLAT = {
    "in_channels": 2,
    "out_channels": 3,
    "img_size": [48, 48],
    "feature_size": 4,
    "hidden_size": 48,
    "mlp_dim": 64,
    "num_heads": 4,
    "spatial_dims": 2,
}
SEGRESNET_GROUPED = {
    "spatial_dims": 3,
    "init_filters": 8,
    "in_channels": 2,
    "out_channels": 3,
    "blocks_down": [1, 2, 1],
    "blocks_up": [1, 1],
    "upsample_mode": "deconvgroup",
}


def monai(kind: str, config: dict[str, Any]) -> nn.Module:
    return getattr(import_module("monai.networks.nets"), kind)(**config)


class Automatic(nn.Module):
    """VISTA3D asked for classes, background in front: it is where no class is above 0."""

    def __init__(self, width: int, classes: Sequence[int]) -> None:
        super().__init__()
        self.net = import_module("monai.networks.nets").vista3d132(encoder_embed_dim=width)
        self.classes = torch.tensor(classes)[:, None]

    def forward(self, x: Tensor) -> Tensor:
        maps = self.net(x, class_vector=self.classes).transpose(0, 1)
        return torch.cat((torch.zeros_like(maps[:, :1]), maps), 1)


def mednext(config: dict[str, Any]) -> nn.Module:
    """MONAI's copy, whose blocks that halve the size are made anew with the ratio of the level below, as they were."""
    monai = import_module("monai.networks.nets.mednext")
    ratios, blocks, dims = config["exp_r"], config["block_counts"], int(config.get("dim", "3d")[0])
    net = monai.MedNeXt(
        spatial_dims=dims,
        init_filters=config["n_channels"],
        in_channels=config["in_channels"],
        out_channels=config["n_classes"],
        encoder_expansion_ratio=ratios[:4],
        decoder_expansion_ratio=ratios[5:],
        bottleneck_expansion_ratio=ratios[4],
        kernel_size=config["kernel_size"],
        deep_supervision=config["deep_supervision"],
        use_residual_connection=True,
        blocks_down=blocks[:4],
        blocks_bottleneck=blocks[4],
        blocks_up=blocks[5:],
    )
    net.down_blocks = nn.ModuleList(
        monai.MedNeXtDownBlock(
            config["n_channels"] * 2**i,
            config["n_channels"] * 2 ** (i + 1),
            ratios[i + 1],
            config["kernel_size"],
            True,
            dim=f"{dims}d",
        )
        for i in range(4)
    )
    if config["deep_supervision"]:
        net.training = True  # of the whole alone: it gives all heads then, and nothing in it drops anything
    return net


_MEDNEXT_NAMES = [
    (r"enc_stages\.(\d)", r"enc_block_\1"),
    (r"down_blocks\.(\d)", r"down_\1"),
    *((rf"up_blocks\.{i}", f"up_{3 - i}") for i in range(4)),
    *((rf"dec_stages\.{i}", f"dec_block_{3 - i}") for i in range(4)),
    *((rf"out_blocks\.{i}", f"out_{4 - i}") for i in range(4)),
]
MEDNEXT_FLAT = MEDNEXT | {"dim": "2d", "kernel_size": 5, "deep_supervision": False}
_OF_MONAI = "MONAI 1.6.1 monai.networks.nets"

ORIGINALS = {
    "stunet_a": Original("uni-medical/A-Eval@dedf2e37 STUNetTrainer.py", STUNET, stunet, (1, 2, 8, 16, 24)),
    "mednext_a": Original(
        f"{_OF_MONAI}.MedNeXt, down blocks with the ratios of MIC-DKFZ/MedNeXt@02583e31",
        MEDNEXT,
        lambda: mednext(MEDNEXT),
        (1, 2, 16, 32, 32),
        _MEDNEXT_NAMES,
        stride=2,
    ),
    "mednext_2d": Original(
        f"{_OF_MONAI}.MedNeXt, down blocks with the ratios of MIC-DKFZ/MedNeXt@02583e31",
        MEDNEXT_FLAT,
        lambda: mednext(MEDNEXT_FLAT),
        (1, 2, 32, 48),
        _MEDNEXT_NAMES,
    ),
    "lungmask_a": Original(
        "lungmask 0.2.22 resunet.UNet",
        LUNGMASK,
        lungmask,
        (2, 1, 32, 48),
        dropped=[r".*\.residual_(input_conv|batchnorm)\..*"],
    ),
    "swinunetr_2d": Original(
        f"{_OF_MONAI}.SwinUNETR", SWIN_FLAT, lambda: monai("SwinUNETR", SWIN_FLAT), (1, 1, 64, 96)
    ),
    "unetr_monai_2d": Original(f"{_OF_MONAI}.UNETR", UNETR_FLAT, lambda: monai("UNETR", UNETR_FLAT), (1, 2, 48, 48)),
    "unetr_monai_2d_perceptron": Original(
        f"{_OF_MONAI}.UNETR",
        UNETR_FLAT | {"proj_type": "perceptron"},
        lambda: monai("UNETR", UNETR_FLAT | {"proj_type": "perceptron"}),
        (1, 2, 48, 48),
    ),
    "segresnet_deconvgroup": Original(
        f"{_OF_MONAI}.SegResNet",
        SEGRESNET_GROUPED,
        lambda: monai("SegResNet", SEGRESNET_GROUPED),
        (1, 2, 16, 24, 24),
    ),
    "vista3d_a": Original(
        f"{_OF_MONAI}.vista3d132, without points",
        {"encoder_embed_dim": 8, "classes": [3, 1, 22]},
        lambda: Automatic(8, [3, 1, 22]),
        (1, 1, 32, 32, 32),
        [(r"net\.image_encoder", "image_encoder"), (r"net\.class_head", "class_head")],
        stride=2,
        dropped=[r"net\.(point_head|image_encoder\.up_layers)\..*"],
    ),
    "unest_a": Original(
        "Project-MONAI/model-zoo@44dbc0c7 wholeBrainSeg_Large_UNEST_segmentation scripts/networks, any window",
        UNEST,
        unest,
        (1, 1, 64, 64, 64),
        stride=4,
    ),
    "dints_a": Original(f"{_OF_MONAI}.DiNTS", DINTS, lambda: dints(DINTS), (1, 2, 32, 64, 32), stride=2),
    "dints_2d": Original(f"{_OF_MONAI}.DiNTS", DINTS_FLAT, lambda: dints(DINTS_FLAT), (1, 1, 16, 32)),
}


STUNET_SIZES = {"small": (16, 1), "base": (32, 1), "large": (64, 2), "huge": (96, 3)}
MEDNEXT_SIZES = {
    "S": ([2] * 9, [2] * 9),
    "B": ([2] * 9, [2, 3, 4, 4, 4, 4, 4, 3, 2]),
    "M": ([3, 4, 4, 4, 4, 4, 4, 4, 3], [2, 3, 4, 4, 4, 4, 4, 3, 2]),
    "L": ([3, 4, 8, 8, 8, 8, 8, 4, 3], [3, 4, 8, 8, 8, 8, 8, 4, 3]),
}


def stunet_sized(width: int, depth: int, classes: int) -> dict[str, Any]:
    """STU-Net's arguments as its trainers give them, for six levels of two voxels' stride."""
    return {
        "input_channels": 1,
        "num_classes": classes,
        "depth": [depth] * 6,
        "dims": [width * times for times in (1, 2, 4, 8, 16, 16)],
        "pool_op_kernel_sizes": [[2, 2, 2]] * 5,
        "conv_kernel_sizes": [[3, 3, 3]] * 6,
    }


def mednext_sized(letter: str, kernel: int, classes: int) -> dict[str, Any]:
    """MedNeXt's arguments as its trainers give them."""
    blocks, ratios = MEDNEXT_SIZES[letter]
    return {
        "in_channels": 1,
        "n_channels": 32,
        "n_classes": classes,
        "exp_r": ratios,
        "kernel_size": kernel,
        "deep_supervision": True,
        "do_res": True,
        "do_res_up_down": True,
        "block_counts": blocks,
    }


def own(module: str, kind: str, config: dict[str, Any]) -> Callable[[], nn.Module]:
    """A network of a file on PYTHONPATH with its authors' classes."""
    return lambda: getattr(import_module(module), kind)(**config)


_STUNET = "uni-medical/A-Eval@dedf2e37 STUNetTrainer.py"
_MEDNEXT = "MIC-DKFZ/MedNeXt@02583e31 mednextv1"
_NARROW = stunet_sized(6, 3, 3)  # a whole STU-Net-H has 5.8 GB of weights

# Each with as many layers as the largest sizes; too slow for every day.
LARGEST = {
    "stunet_huge_narrow": Original(
        f"{_STUNET}, H's depth", _NARROW, own("stunet_original", "STUNet", _NARROW), (1, 1, 64, 64, 64), stride=4
    ),
    **{
        f"mednext_large_k{kernel}": Original(
            _MEDNEXT,
            config,
            own("mednext_original", "MedNeXt", config),
            (1, 1, 32, 32, 48),
            stride=2,
            dropped=["dummy_tensor"],
        )
        for kernel in (3, 5)
        for config in [mednext_sized("L", kernel, 3)]
    },
}


def sizes() -> dict[str, dict[str, Any]]:
    """Of each published size: whose it is, tensors, parameters, and a sum of names and shapes."""
    stunets = {f"stunet_{size}": stunet_sized(*STUNET_SIZES[size], 105) for size in STUNET_SIZES}
    mednexts = {f"mednext_{letter}_k{k}": mednext_sized(letter, k, 14) for letter in MEDNEXT_SIZES for k in (3, 5)}
    found = {}
    with torch.device("meta"):
        for name, config in stunets.items():
            found[name] = {"source": _STUNET, **tally(own("stunet_original", "STUNet", config)())}
        for name, config in mednexts.items():
            found[name] = {"source": _MEDNEXT, **tally(own("mednext_original", "MedNeXt", config)())}
    return found


def tally(net: nn.Module) -> dict[str, Any]:
    """Of a network: tensors, parameters, and a sum of names and shapes, without what only training uses."""
    state = {name: tensor for name, tensor in net.state_dict().items() if name != "dummy_tensor"}
    lines = "".join(f"{name} {list(tensor.shape)}\n" for name, tensor in sorted(state.items()))
    count = sum(tensor.numel() for tensor in state.values())
    return {"tensors": len(state), "parameters": count, "sum": hashlib.sha256(lines.encode()).hexdigest()[:16]}


def span(name: str, tensor: Tensor) -> list[float] | None:
    """Between what the formula's numbers for a tensor lie: such that maps keep their size from layer to layer."""
    if not tensor.is_floating_point():
        return None
    if name.endswith("running_var"):
        return [0.5, 1.5]
    if tensor.ndim == 1:
        return [0.6, 1.4] if name.endswith("weight") else [-0.2, 0.2]
    wide = math.sqrt(3 / max(tensor[0].numel(), 1))
    return [-round(wide, 6), round(wide, 6)]


def called(name: str, rename: Sequence[tuple[str, str]]) -> str:
    for pattern, here in rename:
        name = re.sub(rf"^{pattern}(?=\.|$)", here, name)
    return name


def write(name: str, folder: Path) -> None:
    original = (ORIGINALS | LARGEST)[name]
    net = original.make()
    state = dict(net.state_dict())
    names = {own: called(own, original.rename) for own in state}
    kept = {own for own in state if not any(re.fullmatch(p, own) for p in original.dropped)}
    meta = {
        "procedural_tag": name,
        "shapes": json.dumps({names[own]: list(state[own].shape) for own in state if own in kept}),
        "procedural_ranges": json.dumps({names[own]: span(own, state[own]) for own in state if own in kept}),
        "procedural_input": json.dumps({"shape": list(original.size), "range": [-1.0, 1.0]}),
        "config": json.dumps(original.config),
        "output_stride": str(original.stride),
        "source": original.source,
    }
    made = formula_weights(meta)
    training = net.training
    net.load_state_dict({own: made.get(names[own], state[own]) for own in state})
    net.eval().training = training
    x = made["__input__"]
    del made
    with torch.inference_mode():
        answers = _answers(net(x))
        exact = _answers(net.double()(x.double()))
    noise = max(float((one - other).abs().max()) for one, other in zip(answers, exact, strict=True))
    meta |= {"output_std": f"{float(answers[0].std()):.4f}", "max_abs_diff_float32_vs_float64": f"{noise:.3e}"}
    tensors = {}
    for i, answer in enumerate(answers):
        step = slice(None, None, original.stride)
        own = answer[(slice(None), slice(None), *[step] * (answer.ndim - 2))]
        tensors[f"__output_{i}__" if i else "__output__"] = own.float().clone().contiguous()
    save_file(tensors, folder / f"{name}.safetensors", meta)
    sizes = [tuple(tensor.shape) for tensor in tensors.values()]
    print(f"{name}: std {meta['output_std']}, noise {noise:.1e}, {sizes}")


def _answers(given: Any) -> list[Tensor]:
    return list(given) if isinstance(given, tuple | list) else [given]


if __name__ == "__main__":
    for chosen in sys.argv[2:]:
        if chosen == "sizes":
            Path(sys.argv[1], "sizes.json").write_text(json.dumps(sizes(), indent=1) + "\n", encoding="utf-8")
        else:
            write(chosen, Path(sys.argv[1]))
