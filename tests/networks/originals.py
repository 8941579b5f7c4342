"""Answers of original networks, for the tests of the networks: files of tests/data/golden/formula.

    python tests/networks/originals.py FOLDER NAME [NAME ...]

NAME is a row of the table ORIGINALS, which says what it needs: a package from the index, or an original's own file on
PYTHONPATH. Weights and input are those of a formula (golden.py), so that a file holds the answer alone; the noise is
the largest difference of the original's own answers in float32 and float64.
"""

import copy
import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

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
}


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
    original = ORIGINALS[name]
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
    with torch.inference_mode():
        answers = _answers(net(x))
        exact = _answers(copy.deepcopy(net).double()(x.double()))
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
        write(chosen, Path(sys.argv[1]))
