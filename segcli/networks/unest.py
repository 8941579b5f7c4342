"""UNesT: a nested transformer, which attends within blocks of the window, and UNETR's decoder (Yu et al. 2023)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcli.documents import Document
from segcli.networks.blocks import (
    Spec,
    UpBlock,
    channels_first,
    channels_last,
    conv_transposed,
    conv_unit,
    layer,
    norm_spec,
    output_block,
    unsure_norm,
)
from segcli.networks.registry import About, Inferred, Shapes, Small, length

_LEVELS = 3
_HEAD = 32  # channels of an attention head in both published models

_Norm = partial(nn.LayerNorm, eps=1e-6)


class _Attention(nn.Module):
    """Attention among the voxels of a block: (N, blocks, voxels, C) as before."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        blocks, voxels, width = x.shape[1:]
        qkv = self.qkv(x).reshape(-1, blocks, voxels, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(3, 0, 4, 1, 2, 5).unbind(0)  # each (N, heads, blocks, voxels, C / heads)
        share = ((q @ k.transpose(-2, -1)) * (width // self.heads) ** -0.5).softmax(-1)
        # The official code puts the channels of a head before the heads.
        y = (share @ v).permute(0, 2, 3, 4, 1).reshape(-1, blocks, voxels, width)
        return self.proj(y)


class _MLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = _Norm(width), _Norm(width)
        self.attn, self.mlp = _Attention(width, heads), _MLP(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _Pool(nn.Module):
    """Half the size: a convolution, a norm of each voxel's channels, the largest of each 3x3x3."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(before, width, 3, padding=1)
        self.norm = _Norm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = channels_first(self.norm(channels_last(self.conv(x))))
        return F.max_pool3d(x, 3, 2, 1)


class _Level(nn.Module):
    """Layers on a map cut into blocks, `along` of them along each axis, with what each place adds to its voxel."""

    def __init__(self, along: int, edge: int, before: int | None, width: int, heads: int, depth: int) -> None:
        super().__init__()
        self.along, self.edge = along, edge
        self.pos_embed = nn.Parameter(torch.zeros(1, along**3, edge**3, width))
        self.pool = nn.Identity() if before is None else _Pool(before, width)
        self.transformer_encoder = nn.Sequential(*(_Layer(width, heads) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(x)
        a, e, width = self.along, self.edge, self.pos_embed.shape[-1]
        x = channels_last(x).reshape(-1, a, e, a, e, a, e, width).permute(0, 1, 3, 5, 2, 4, 6, 7)
        x = self.transformer_encoder(x.reshape(-1, a**3, e**3, width) + self.pos_embed)
        x = x.reshape(-1, a, a, a, e, e, e, width).permute(0, 1, 4, 2, 5, 3, 6, 7)
        return channels_first(x.reshape(-1, a * e, a * e, a * e, width))


class _Nest(nn.Module):
    def __init__(
        self, edge: int, patch: int, widths: Sequence[int], heads: Sequence[int], depths: Sequence[int]
    ) -> None:
        super().__init__()
        self.patch_embed = nn.Sequential(OrderedDict(proj=nn.Conv3d(1, widths[0], patch, patch)))
        befores = [None, *widths]
        alongs = [2 ** (_LEVELS - 1 - i) for i in range(_LEVELS)]
        self.levels = nn.ModuleList(
            _Level(alongs[i], edge, befores[i], widths[i], heads[i], depths[i]) for i in range(_LEVELS)
        )
        self.norm = _Norm(widths[-1])

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The last map with a norm, and all maps from the patches on."""
        maps = [self.patch_embed(x)]
        for level in self.levels:
            maps.append(level(maps[-1]))
        return channels_first(self.norm(channels_last(maps[-1]))), maps


class _UpOnce(nn.Module):
    """A map at twice its size, then a convolution of 1x1x1."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.transp_conv_init = conv_transposed(before, width, 2, 2)
        self.blocks = nn.ModuleList([conv_transposed(width, width, 1, 1)])

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks[0](self.transp_conv_init(x))


class UNesT(nn.Module):
    """A nested transformer whose maps are the skips of a convolutional decoder.

    x             (N, 1, D, H, W), each axis `img_size`
    returns       (N, out_channels, D, H, W)
    img_size      a multiple of 8 * patch_size, along each axis
    feature_size  half of the channels at full resolution
    embed_dim     channels of the three levels, the last 32 times feature_size; num_heads and depths likewise

    errors        ValueError: more than one channel, a size that blocks do not fill, or other channels
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        img_size: int | Sequence[int] = 96,
        feature_size: int = 16,
        patch_size: int = 4,
        depths: Sequence[int] = (2, 2, 8),
        num_heads: Sequence[int] = (4, 8, 16),
        embed_dim: Sequence[int] = (128, 256, 512),
        norm_name: Spec = "instance",
        res_block: bool = True,
    ) -> None:
        super().__init__()
        sizes = {img_size} if isinstance(img_size, int) else set(img_size)
        edge, rest = divmod(max(sizes), patch_size * 2 ** (_LEVELS - 1))
        if in_channels != 1 or len(sizes) != 1 or rest:
            raise ValueError(f"UNesT has 1 channel and cubes of a multiple of {patch_size * 4}, not {sizes}")
        f, widths = feature_size, list(embed_dim)
        if widths[-1] != 32 * f:
            raise ValueError(f"embed_dim {widths} does not end with {32 * f}, 32 times feature_size")
        self.nestViT = _Nest(edge, patch_size, widths, num_heads, depths)
        self.encoder1 = layer(1, 2 * f, norm_name, res_block)
        self.encoder2 = _UpOnce(widths[0], 4 * f)
        self.encoder3 = layer(widths[0], 8 * f, norm_name, res_block)
        self.encoder4 = layer(widths[1], 16 * f, norm_name, res_block)
        self.encoder10 = conv_unit(32 * f, 64 * f, 3, 2, "instance", "prelu", ordering="ADN")
        ups = [(2 * widths[2], 32 * f), (widths[2], 16 * f), (16 * f, 8 * f), (8 * f, 4 * f), (4 * f, 2 * f)]
        for i, (before, width) in enumerate(ups):
            self.add_module(f"decoder{5 - i}", UpBlock(before, width, norm_name=norm_name, residual=res_block))
        self.out = output_block(2 * f, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        deepest, maps = self.nestViT(x)
        skips = [self.encoder1(x), self.encoder2(maps[0]), self.encoder3(maps[1]), self.encoder4(maps[2]), maps[3]]
        y = self.encoder10(deepest)
        for i in range(5, 0, -1):
            y = self.get_submodule(f"decoder{i}")(y, skips[i - 1])
        return self.out(y)


ABOUT = About("UNesT", "Yu et al. 2023, arXiv:2209.14378", "3-D", "the attention heads")
FAMILIES: dict[str, Callable[..., nn.Module]] = {"unest": UNesT}

_SMALL: Document = {
    "img_size": 64,
    "feature_size": 2,
    "depths": [1, 1, 1],
    "num_heads": [1, 2, 2],
    "embed_dim": [16, 32, 64],
}
SMALL = {"unest": Small(_SMALL, (64, 64, 64))}


def infer(shapes: Shapes) -> Inferred | None:
    """The sizes of a UNesT; how many heads share its channels is in no tensor."""
    levels = [f"nestViT.levels.{i}." for i in range(_LEVELS)]
    places = [shapes.get(f"{level}pos_embed") for level in levels]
    patch = shapes.get("nestViT.patch_embed.proj.weight")
    if patch is None or None in places:
        return None
    widths = [place[3] for place in places if place]
    voxels = places[0][2] if places[0] else 0
    heads = [max(1, width // _HEAD) for width in widths]
    config: Document = {
        "in_channels": patch[1],
        "out_channels": shapes["out.conv.conv.weight"][0],
        "img_size": [round(voxels ** (1 / 3)) * 2 ** (_LEVELS - 1) * patch[2]] * 3,
        "feature_size": shapes["encoder1.layer.conv1.conv.weight"][0] // 2,
        "patch_size": patch[2],
        "depths": [length(shapes, f"{level}transformer_encoder.") for level in levels],
        "num_heads": heads,
        "embed_dim": widths,
        "norm_name": norm_spec(shapes, "encoder1.layer.norm1"),
    }
    told = f"the attention heads: {', '.join(map(str, heads))}, {_HEAD} channels for each head"
    return Inferred("unest", config, {"num_heads": told, **unsure_norm(config, "norm_name")})
