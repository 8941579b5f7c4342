"""MedNeXt: a U-Net of ConvNeXt blocks, up and down sampling among them (Roy et al. 2023), version 1."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from segcli.documents import Document
from segcli.networks.blocks import CONVOLUTIONS, TRANSPOSED
from segcli.networks.registry import About, Inferred, Shapes, Small, length

# A parameter that only lets training forget activations.
INERT: tuple[str, ...] = (r"dummy_tensor",)

_LEVELS = 4
# Blocks and expansion of each part, by the letter of its size: four levels down, the deepest, four levels up.
_RATIOS = [2, 3, 4, 4, 4, 4, 4, 3, 2]
_LARGE = [3, 4, 8, 8, 8, 8, 8, 4, 3]
SIZES: dict[str, tuple[list[int], list[int]]] = {
    "S": ([2] * 9, [2] * 9),
    "B": ([2] * 9, _RATIOS),
    "M": ([3, 4, 4, 4, 4, 4, 4, 4, 3], _RATIOS),
    "L": (_LARGE, _LARGE),
}


class _Block(nn.Module):
    """A convolution of each channel by itself, a norm, and two of 1x1x1 with `ratio` times as many channels between.

    resample  "no"; "down" to half the size and "up" to twice the size, where the input may be added through a
              convolution of its own, `res_conv`
    residual  whether the input is added
    """

    def __init__(
        self, before: int, width: int, ratio: int, kernel: int, resample: str, residual: bool, dims: int
    ) -> None:
        super().__init__()
        layer: Any = (TRANSPOSED if resample == "up" else CONVOLUTIONS)[dims]
        plain: Any = CONVOLUTIONS[dims]
        step = 1 if resample == "no" else 2
        self.conv1 = layer(before, before, kernel, step, kernel // 2, groups=before)
        self.norm = nn.GroupNorm(before, before)
        self.conv2 = plain(before, ratio * before, 1)
        self.conv3 = plain(ratio * before, width, 1)
        self.res_conv = layer(before, width, 1, step) if residual and step == 2 else None
        self.residual = residual
        # One voxel is missing before the first of each axis when a transposed convolution of this padding doubles it.
        self.missing = (1, 0) * dims if resample == "up" else ()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv3(F.gelu(self.conv2(self.norm(self.conv1(x)))))
        if self.residual:
            y = y + (x if self.res_conv is None else self.res_conv(x))
        return F.pad(y, self.missing) if self.missing else y


class MedNeXt(nn.Module):
    """A U-Net of four levels and the deepest, whose skips are added.

    x                 (N, in_channels, D, H, W), each axis a multiple of 16
    returns           (N, n_classes, D, H, W)
    n_channels        of the first level; each level has twice as many
    exp_r             times as many channels inside a block, one number or one for each of the nine parts
    kernel_size       odd, along each axis
    do_res            whether blocks add their input; do_res_up_down: whether those that change the size do
    block_counts      of the nine parts: four levels down, the deepest, four levels up
    deep_supervision  whether each level has a head
    dim               "2d" or "3d"

    errors            ValueError: another number of parts than nine
    """

    def __init__(
        self,
        in_channels: int,
        n_channels: int,
        n_classes: int,
        exp_r: int | Sequence[int] = 4,
        kernel_size: int = 7,
        deep_supervision: bool = False,
        do_res: bool = False,
        do_res_up_down: bool = False,
        block_counts: Sequence[int] = (2,) * 9,
        dim: str = "3d",
    ) -> None:
        super().__init__()
        parts = 2 * _LEVELS + 1
        ratios = [exp_r] * parts if isinstance(exp_r, int) else list(exp_r)
        if len(ratios) != parts or len(block_counts) != parts or dim not in ("2d", "3d"):
            raise ValueError("exp_r and block_counts are of nine parts, dim is '2d' or '3d'")
        dims = int(dim[0])
        widths = [n_channels * 2**i for i in range(_LEVELS + 1)]

        def row(part: int, width: int) -> nn.Sequential:
            blocks = (_Block(width, width, ratios[part], kernel_size, "no", do_res, dims) for _ in range(count(part)))
            return nn.Sequential(*blocks)

        def count(part: int) -> int:
            return block_counts[part]

        self.stem = CONVOLUTIONS[dims](in_channels, n_channels, 1)
        for i in range(_LEVELS):
            below, up = i + 1, parts - 1 - i
            shared = (kernel_size, "down", do_res_up_down, dims)
            self.add_module(f"enc_block_{i}", row(i, widths[i]))
            self.add_module(f"down_{i}", _Block(widths[i], widths[below], ratios[below], *shared))
            shared = (kernel_size, "up", do_res_up_down, dims)
            self.add_module(f"up_{i}", _Block(widths[below], widths[i], ratios[up], *shared))
            self.add_module(f"dec_block_{i}", row(up, widths[i]))
        self.bottleneck = row(_LEVELS, widths[_LEVELS])
        heads = widths if deep_supervision else widths[:1]
        for i, width in enumerate(heads):
            head = nn.Sequential(OrderedDict(conv_out=TRANSPOSED[dims](width, n_classes, 1)))
            self.add_module(f"out_{i}", head)
        self.count = len(heads)

    def forward(self, x: Tensor) -> Tensor:
        return self._head(0, self._decoded(x)[0])

    def heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """Logits of all levels, full resolution first; one without deep supervision."""
        return tuple(self._head(i, y) for i, y in enumerate(self._decoded(x)[: self.count]))

    def _head(self, level: int, x: Tensor) -> Tensor:
        return self.get_submodule(f"out_{level}")(x)

    def _decoded(self, x: Tensor) -> list[Tensor]:
        """The maps of the decoder's levels, full resolution first, the deepest last."""
        skips = []
        x = self.stem(x)
        for i in range(_LEVELS):
            skips.append(self.get_submodule(f"enc_block_{i}")(x))
            x = self.get_submodule(f"down_{i}")(skips[i])
        decoded = [self.bottleneck(x)]
        for i in reversed(range(_LEVELS)):
            x = skips[i] + self.get_submodule(f"up_{i}")(decoded[0])
            decoded.insert(0, self.get_submodule(f"dec_block_{i}")(x))
        return decoded


def sized(letter: str, kernel_size: int, in_channels: int, n_classes: int) -> Inferred:
    """The network of a size and a kernel that its trainers name, with a head at each level as they train it."""
    blocks, ratios = SIZES[letter]
    return Inferred(
        "mednext",
        {
            "in_channels": in_channels,
            "n_channels": 32,
            "n_classes": n_classes,
            "exp_r": ratios,
            "kernel_size": kernel_size,
            "deep_supervision": True,
            "do_res": True,
            "do_res_up_down": True,
            "block_counts": blocks,
        },
    )


ABOUT = About(
    "MedNeXt",
    "Roy et al. 2023, arXiv:2303.09975; S, B, M, L",
    "2-D and 3-D",
    "whether blocks add their input",
    "none: its authors published none (MIC-DKFZ/MedNeXt)",
)
FAMILIES: dict[str, Callable[..., nn.Module]] = {"mednext": MedNeXt}

_SMALL: Document = {
    "n_channels": 4,
    "exp_r": [2, 3, 2, 2, 2, 2, 2, 3, 2],
    "kernel_size": 3,
    "do_res": True,
    "do_res_up_down": True,
    "block_counts": [1, 2, 1, 1, 1, 1, 1, 1, 1],
}
SMALL = {"mednext": Small(_SMALL, counted=("in_channels", "n_classes"))}


def infer(shapes: Shapes) -> Inferred | None:
    """The sizes of a MedNeXt; whether its blocks add their input is in no tensor."""
    stem, deepest = shapes.get("stem.weight"), shapes.get("bottleneck.0.conv1.weight")
    if stem is None or deepest is None or "enc_block_0.0.conv2.weight" not in shapes:
        return None
    levels = range(_LEVELS)
    rows = [*(f"enc_block_{i}." for i in levels), "bottleneck.", *(f"dec_block_{i}." for i in reversed(levels))]
    inner = [shapes[f"{row}0.conv2.weight"] for row in rows]
    adds = "down_0.res_conv.weight" in shapes
    return Inferred(
        "mednext",
        {
            "in_channels": stem[1],
            "n_channels": stem[0],
            "n_classes": shapes["out_0.conv_out.weight"][1],
            "exp_r": [kernel[0] // kernel[1] for kernel in inner],
            "kernel_size": deepest[2],
            "deep_supervision": "out_1.conv_out.weight" in shapes,
            "do_res": True,
            "do_res_up_down": adds,
            "block_counts": [length(shapes, row) for row in rows],
            "dim": f"{len(stem) - 2}d",
        },
        {"do_res": "do_res is not in the tensors: true taken, as in all its trainers"},
    )
