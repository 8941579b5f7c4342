"""DiNTS: paths between resolutions that a search chose, a cell on each (He et al. 2021; MONAI's DiNTS).

The code of an architecture says which paths there are and which convolution is on each.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from segcli.documents import Document
from segcli.networks.blocks import CONVOLUTIONS, Spec, activation, norm, under
from segcli.networks.registry import About, Inferred, Shapes, Small, length

_AFFINE: Spec = ["INSTANCE", {"affine": True}]
# Kernels of a cell's convolutions, by the number in the code; none for the cell that passes its input on.
_FLAT = ((), ((3, 3),))
_SOLID = ((), ((3, 3, 3),), ((3, 3, 1), (1, 1, 3)), ((3, 1, 3), (1, 3, 1)), ((1, 3, 3), (3, 1, 1)))
_OPERATIONS = {2: _FLAT, 3: _SOLID}
_CELL = re.compile(r"dints_space\.cell_tree\.\((\d+), (\d+)\)\.")

Codes = Sequence[Sequence[int]]


class _Layers:
    """The kinds of layer of one network."""

    def __init__(self, dims: int, norm_name: Spec, act_name: Spec) -> None:
        self.dims, self.norm_name, self.act_name = dims, norm_name, act_name
        self.mode = {2: "bilinear", 3: "trilinear"}[dims]

    def conv(self, before: int, width: int, kernel: Any = 3, stride: int = 1) -> nn.Module:
        size: Any = (kernel,) * self.dims if isinstance(kernel, int) else kernel
        pad: Any = tuple(k // 2 for k in size)
        return CONVOLUTIONS[self.dims](before, width, size, stride, pad, bias=False)

    def norm(self, width: int) -> nn.Module:
        return norm(self.norm_name, width, self.dims)

    def act(self) -> nn.Module:
        return activation(self.act_name)

    def resized(self, scale: float) -> nn.Module:
        return nn.Upsample(scale_factor=scale, mode=self.mode, align_corners=True)

    def row(self, before: int, width: int, kernels: Sequence[Any]) -> nn.Module:
        """An activation, convolutions one behind the other, a norm."""
        made = nn.Sequential()
        made.add_module("acti", self.act())
        for i, kernel in enumerate(kernels):
            last = i == len(kernels) - 1
            made.add_module(f"conv_{i}" if i else "conv", self.conv(before, width if last else before, kernel))
        made.add_module("norm", self.norm(width))
        return made


class _Halved(nn.Module):
    """Half the size: every second voxel, and its neighbour, each in half of the channels."""

    def __init__(self, layers: _Layers, before: int, width: int) -> None:
        super().__init__()
        self.act = layers.act()
        self.conv_1 = layers.conv(before, width // 2, 1, 2)
        self.conv_2 = layers.conv(before, width - width // 2, 1, 2)
        self.norm = layers.norm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(x)
        beside = x[(slice(None), slice(None), *[slice(1, None)] * (x.ndim - 2))]
        return self.norm(torch.cat((self.conv_1(x), self.conv_2(beside)), 1))


class _Operation(nn.Module):
    def __init__(self, layers: _Layers, width: int, kernels: Sequence[Any]) -> None:
        super().__init__()
        self.ops = nn.ModuleList([layers.row(width, width, kernels) if kernels else nn.Identity()])

    def forward(self, x: Tensor) -> Tensor:
        return self.ops[0](x)


class _Cell(nn.Module):
    """A path between resolutions: to half the size (-1), the same (0) or twice the size (1); then an operation."""

    def __init__(self, layers: _Layers, before: int, width: int, rate: int, kernels: Sequence[Any]) -> None:
        super().__init__()
        self.preprocess: nn.Module
        if rate == -1:
            self.preprocess = _Halved(layers, before, width)
        elif rate == 1:
            up, conv = layers.resized(2), layers.conv(before, width, 1)
            self.preprocess = nn.Sequential(OrderedDict(up=up, acti=layers.act(), conv=conv, norm=layers.norm(width)))
        else:
            self.preprocess = nn.Identity()
        self.op = _Operation(layers, width, kernels)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(self.preprocess(x))


def _paths(depths: int) -> list[tuple[int, int]]:
    """The paths of a block in their order: the resolution where each begins and the one where it ends."""
    return [(low, out) for out in range(depths) for low in (out - 1, out, out + 1) if 0 <= low < depths]


class _Space(nn.Module):
    """Blocks one behind the other; in each the paths that the code opens, and at each resolution their sum."""

    def __init__(self, layers: _Layers, widths: Sequence[int], arch_code: Sequence[Codes]) -> None:
        super().__init__()
        opened, chosen = arch_code
        depths = len(widths)
        self.paths = _paths(depths)
        self.opened = [[bool(one) for one in row] for row in opened]
        if any(len(row) != len(self.paths) for row in (*opened, *chosen)) or len(opened) != len(chosen):
            raise ValueError(f"arch_code is two tables of {len(self.paths)} numbers in each row")
        self.cell_tree = nn.ModuleDict()
        kernels = _OPERATIONS[layers.dims]
        for block, row in enumerate(self.opened):
            for path, (low, out) in enumerate(self.paths):
                if row[path]:
                    operation = kernels[int(chosen[block][path])]
                    cell = _Cell(layers, widths[low], widths[out], low - out, operation)
                    self.cell_tree[str((block, path))] = cell

    def forward(self, maps: list[Tensor | None]) -> list[Tensor | None]:
        for block, row in enumerate(self.opened):
            sums: list[Tensor | None] = [None] * len(maps)
            for path, (low, out) in enumerate(self.paths):
                if not row[path]:
                    continue
                x, total = maps[low], sums[out]
                if x is None:
                    raise ValueError(f"the code opens a path of block {block} that begins where none ends")
                y = self.cell_tree[str((block, path))](x)
                sums[out] = y if total is None else total + y
            maps = sums
        return maps


class DiNTS(nn.Module):
    """Stems that make the resolutions, the searched paths between them, stems that bring them together.

    x               (N, in_channels, D, H, W), each axis a multiple of 2^(num_depths + 1)
    returns         (N, num_classes, D, H, W)
    arch_code       which paths of each block are open (1), and the number of the operation on each
    node_a          (blocks + 1, num_depths): the resolutions that each block gets, and those of the result
    channel_mul     channels of the first resolution as a share of 32; each next has twice as many
    use_downsample  whether the first resolution is half the image's

    errors          ValueError: codes of another size, or a path that begins where none ends
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        arch_code: Sequence[Codes],
        node_a: Codes,
        channel_mul: float = 1.0,
        use_downsample: bool = True,
        spatial_dims: int = 3,
        act_name: Spec = "RELU",
        norm_name: Spec = _AFFINE,
    ) -> None:
        super().__init__()
        depths = len(node_a[0])
        if len(node_a) != len(arch_code[0]) + 1:
            raise ValueError("node_a has one row more than arch_code")
        self.node_a = [[bool(one) for one in row] for row in node_a]
        layers = _Layers(spatial_dims, norm_name, act_name)
        widths = [int(32 * 2**i * channel_mul) for i in range(depths + 1)]
        half = int(use_downsample)
        self.stem_down, self.stem_up = nn.ModuleDict(), nn.ModuleDict()
        for i in range(depths):
            down = [layers.resized(1 / 2**i), layers.conv(in_channels, widths[i]), layers.norm(widths[i])]
            end, scale = widths[i] if half else widths[max(i - 1, 0)], 2 if half else 2 ** (i != 0)
            if half:
                down += [layers.act(), layers.conv(widths[i], widths[i + 1], 3, 2), layers.norm(widths[i + 1])]
            up = [layers.act(), layers.conv(widths[i + half], end), layers.norm(end), layers.resized(scale)]
            self.stem_down[str(i)], self.stem_up[str(i)] = under("mod", *down), under("mod", *up)
        final = CONVOLUTIONS[spatial_dims](widths[0], num_classes, 1)
        self.stem_finals = nn.Sequential(layers.row(widths[0], widths[0], [3]), final)
        self.dints_space = _Space(layers, widths[half : depths + half], arch_code)

    def forward(self, x: Tensor) -> Tensor:
        maps: list[Tensor | None] = []
        for i, given in enumerate(self.node_a[0]):
            seen = self.stem_down[str(i)](x)
            # Not torch.zeros_like: OpenVINO 2026.4 overwrites constant maps, and the next window is answered by them.
            maps.append(seen if given else seen * 0)
        maps = self.dints_space(maps)
        joined: Tensor | None = None
        for i in reversed(range(len(maps))):
            if joined is None and not self.node_a[-1][i]:
                continue
            found = [one for one in (maps[i], joined) if one is not None]
            joined = self.stem_up[str(i)](found[0] if len(found) == 1 else found[0] + found[1])
        return self.stem_finals(joined)


ABOUT = About(
    "DiNTS",
    "He et al. 2021, arXiv:2103.15954; MONAI's DiNTS",
    "2-D and 3-D",
    "paths that only pass a map on, and node_a: a file of the search says both",
)
FAMILIES: dict[str, Callable[..., nn.Module]] = {"dints": DiNTS}

_SMALL: Document = {
    "arch_code": [[[1, 0, 1, 1], [1, 1, 0, 1]], [[1, 0, 2, 3], [4, 1, 0, 0]]],
    "node_a": [[1, 1], [1, 1], [1, 1]],
    "channel_mul": 0.25,
}
SMALL = {"dints": Small(_SMALL, counted=("in_channels", "num_classes"))}


def infer(shapes: Shapes) -> Inferred | None:
    """The sizes of a DiNTS and what of its code the tensors tell: paths that pass their input on have none."""
    depths = length(shapes, "stem_down.")
    first, last = shapes.get("stem_down.0.mod.1.weight"), shapes.get("stem_finals.1.weight")
    cells = {(int(found[1]), int(found[2])) for name in shapes if (found := _CELL.match(name))}
    if depths < 1 or first is None or last is None or not cells:
        return None
    dims, paths, blocks = len(first) - 2, 3 * depths - 2, 1 + max(block for block, _ in cells)

    def operation(block: int, path: int) -> int:
        row = f"dints_space.cell_tree.({block}, {path}).op.ops.0."
        names = [name for name in (f"{row}conv.weight", f"{row}conv_1.weight") if name in shapes]
        return _OPERATIONS[dims].index(cast(Any, tuple(shapes[name][2:] for name in names)))

    opened = [[int((block, path) in cells) for path in range(paths)] for block in range(blocks)]
    chosen = [[operation(i, j) if opened[i][j] else 0 for j in range(paths)] for i in range(blocks)]
    ends = {out for is_open, (_, out) in zip(opened[-1], _paths(depths), strict=True) if is_open}
    return Inferred(
        "dints",
        {
            "in_channels": first[1],
            "num_classes": last[0],
            "arch_code": [opened, chosen],
            "node_a": [*[[1] * depths] * blocks, [int(i in ends) for i in range(depths)]],
            "channel_mul": first[0] / 32,
            "use_downsample": "stem_down.0.mod.4.weight" in shapes,
            "spatial_dims": dims,
        },
        {
            "arch_code": "arch_code is not wholly in the tensors: paths that only pass a map on are taken as closed",
            "node_a": "node_a is not in the tensors: resolutions where paths end are taken; "
            "the bundle's file of the search says",
        },
    )
