"""STU-Net: nnU-Net with residual blocks, in four sizes (Huang et al. 2023); of one layout for nnU-Net 1 and 2."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcli.documents import Document
from segcli.networks.registry import About, Inferred, Shapes, Small, length

# Channels of the first level, and residual blocks of each, by the word that its trainers' names end with.
SIZES = {"small": (16, 1), "base": (32, 1), "large": (64, 2), "huge": (96, 3)}
_WIDER = (1, 2, 4, 8, 16, 16)  # channels of each level, as times those of the first

Kernel = Sequence[int]


class _Block(nn.Module):
    """Two convolutions with instance norms, and the input added before the last activation.

    projects  whether the input goes through a convolution of 1x1x1 with the block's stride first
    """

    def __init__(
        self, before: int, width: int, kernel: Kernel, stride: Kernel = (1, 1, 1), projects: bool = False
    ) -> None:
        super().__init__()
        size, step, pad = _three(kernel), _three(stride), _three([k // 2 for k in kernel])
        self.conv1 = nn.Conv3d(before, width, size, step, pad)
        self.norm1 = nn.InstanceNorm3d(width, affine=True)
        self.conv2 = nn.Conv3d(width, width, size, padding=pad)
        self.norm2 = nn.InstanceNorm3d(width, affine=True)
        self.conv3 = nn.Conv3d(before, width, 1, step) if projects else None
        self.act = nn.LeakyReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return self.act(y + (x if self.conv3 is None else self.conv3(x)))


class _Up(nn.Module):
    """A map at `stride` times its size, each voxel repeated, then a convolution of 1x1x1."""

    def __init__(self, before: int, width: int, stride: Kernel) -> None:
        super().__init__()
        self.conv = nn.Conv3d(before, width, 1)
        self.scale = [float(s) for s in stride]

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=self.scale, mode="nearest"))


class STUNet(nn.Module):
    """A U-Net of residual blocks.

    x                     (N, input_channels, D, H, W), each axis a multiple of the product of its strides
    returns               (N, num_classes, D, H, W)
    depth                 residual blocks of each level, in the encoder and in the decoder
    dims                  channels of each level
    pool_op_kernel_sizes  strides from each level to the next: one fewer than levels
    conv_kernel_sizes     of each level

    errors                ValueError: lists that are not of as many levels
    """

    def __init__(
        self,
        input_channels: int,
        num_classes: int,
        depth: Sequence[int] = (1, 1, 1, 1, 1, 1),
        dims: Sequence[int] = (32, 64, 128, 256, 512, 512),
        pool_op_kernel_sizes: Sequence[Kernel] = ((2, 2, 2),) * 5,
        conv_kernel_sizes: Sequence[Kernel] = ((3, 3, 3),) * 6,
    ) -> None:
        super().__init__()
        levels = len(dims)
        if not levels == len(depth) == len(conv_kernel_sizes) == len(pool_op_kernel_sizes) + 1:
            raise ValueError("depth, dims and conv_kernel_sizes are of equal length, pool_op_kernel_sizes one shorter")
        strides = [[1, 1, 1], *pool_op_kernel_sizes]
        befores = [input_channels, *dims]
        self.conv_blocks_context = nn.ModuleList(
            _row(depth[i], befores[i], dims[i], conv_kernel_sizes[i], strides[i]) for i in range(levels)
        )
        upwards = range(levels - 2, -1, -1)
        self.upsample_layers = nn.ModuleList(_Up(dims[i + 1], dims[i], strides[i + 1]) for i in upwards)
        self.conv_blocks_localization = nn.ModuleList(
            _row(depth[i], 2 * dims[i], dims[i], conv_kernel_sizes[i], (1, 1, 1)) for i in upwards
        )
        # Every level has a head in the file, with or without deep supervision.
        self.seg_outputs = nn.ModuleList(nn.Conv3d(dims[i], num_classes, 1) for i in upwards)

    def forward(self, x: Tensor) -> Tensor:
        return self.seg_outputs[-1](self._decoded(x)[-1])

    def heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """Logits of all decoder levels, full resolution first."""
        return tuple(head(y) for head, y in zip(self.seg_outputs, self._decoded(x), strict=True))[::-1]

    def _decoded(self, x: Tensor) -> list[Tensor]:
        """The maps of the decoder's levels, from the deepest up."""
        maps, decoded = [], []
        for level in self.conv_blocks_context:
            x = level(x)
            maps.append(x)
        for up, level, skip in zip(self.upsample_layers, self.conv_blocks_localization, maps[-2::-1], strict=True):
            x = level(torch.cat((up(x), skip), 1))
            decoded.append(x)
        return decoded


def sized(name: str, input_channels: int, num_classes: int, strides: Sequence[Kernel]) -> Inferred:
    """The network of a size that its trainers name, for nnU-Net's strides from level to level.

    strides  the first five count; levels without one keep their resolution
    """
    first, blocks = SIZES[name]
    steps = [[int(n) for n in stride] for stride in strides][:5]
    return Inferred(
        "stunet",
        {
            "input_channels": input_channels,
            "num_classes": num_classes,
            "depth": [blocks] * len(_WIDER),
            "dims": [first * times for times in _WIDER],
            "pool_op_kernel_sizes": steps + [[1, 1, 1]] * (5 - len(steps)),
            "conv_kernel_sizes": [[3, 3, 3]] * len(_WIDER),
        },
    )


def _row(blocks: int, before: int, width: int, kernel: Kernel, stride: Kernel) -> nn.Sequential:
    first = _Block(before, width, kernel, stride, projects=True)
    return nn.Sequential(first, *(_Block(width, width, kernel) for _ in range(blocks - 1)))


def _three(size: Sequence[int]) -> tuple[int, int, int]:
    d, h, w = size
    return d, h, w


ABOUT = About("STU-Net", "Huang et al. 2023, arXiv:2304.06716; S, B, L, H", "3-D", "the strides: plans say")
FAMILIES: dict[str, Callable[..., nn.Module]] = {"stunet": STUNet}

_SMALL: Document = {
    "depth": [1, 2, 1, 1],
    "dims": [8, 12, 16, 16],
    "pool_op_kernel_sizes": [[1, 2, 2], [2, 2, 2], [2, 2, 2]],
    "conv_kernel_sizes": [[3, 3, 3]] * 4,
}
SMALL = {"stunet": Small(_SMALL, counted=("input_channels", "num_classes"))}


def infer(shapes: Shapes) -> Inferred | None:
    """The sizes of an STU-Net; its strides are in no tensor."""
    levels = length(shapes, "conv_blocks_context.")
    if levels < 2 or "upsample_layers.0.conv.weight" not in shapes:
        return None
    rows = [f"conv_blocks_context.{i}." for i in range(levels)]
    kernels = [shapes[f"{row}0.conv1.weight"] for row in rows]
    return Inferred(
        "stunet",
        {
            "input_channels": kernels[0][1],
            "num_classes": shapes["seg_outputs.0.weight"][0],
            "depth": [length(shapes, row) for row in rows],
            "dims": [kernel[0] for kernel in kernels],
            "pool_op_kernel_sizes": [[2, 2, 2]] * (levels - 1),
            "conv_kernel_sizes": [list(kernel[2:]) for kernel in kernels],
        },
        {"pool_op_kernel_sizes": "the strides are not in the tensors: 2 along each axis taken; nnU-Net's plans say"},
    )
