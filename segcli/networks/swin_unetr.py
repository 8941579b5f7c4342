"""SwinUNETR (Hatamizadeh et al., 2022): attention in shifted windows as the encoder, UNETR's decoder.

Facts: MONAI 0.9 to 1.6, `networks.nets.SwinUNETR`.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcli.documents import Document
from segcli.networks.blocks import (
    CONVOLUTIONS,
    MLP,
    Spec,
    UpBlock,
    channels_first,
    channels_last,
    layer,
    norm_spec,
    output_block,
    unsure_norm,
)
from segcli.networks.registry import About, Inferred, Shapes, Small, length

# The eight voxels (of D, H, W) that merge into one, in the order of their channels. MONAI 0.9 to 1.4 takes
# two of them twice and leaves two out; every published checkpoint was trained so, and another order spoils
# its answers without an error.
MERGING = {
    "legacy": ("000", "100", "010", "001", "101", "010", "001", "111"),
    "new": ("000", "100", "010", "001", "110", "101", "011", "111"),
    "mergingv2": ("000", "001", "010", "011", "100", "101", "110", "111"),
}
_FLAT_MERGING = ("00", "10", "01", "11")  # of (H, W), in all versions


class WindowAttention(nn.Module):
    """Every token attends to the tokens of its window, with a learned bias for each relative position."""

    relative_position_index: Tensor

    def __init__(self, channels: int, heads: int, window: Sequence[int], qkv_bias: bool) -> None:
        super().__init__()
        self.heads = heads
        offsets = 1
        for w in window:
            offsets *= 2 * w - 1
        self.relative_position_bias_table = nn.Parameter(torch.zeros(offsets, heads))
        self.register_buffer("relative_position_index", relative_positions(window))
        self.qkv = nn.Linear(channels, 3 * channels, bias=qkv_bias)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Attend within windows.

        x     (N * windows, n, C)
        mask  (windows, n, n), added to the scores
        """
        n, c = int(x.shape[1]), self.qkv.in_features  # int: a constant in an exported graph
        qkv = self.qkv(x).reshape(-1, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)  # each (N * windows, heads, n, C / heads)
        scores = (q * (c // self.heads) ** -0.5) @ k.transpose(-2, -1)
        # A window clipped to a small map takes the corner of the full window's index, as officially.
        index = self.relative_position_index[:n, :n].reshape(-1)
        scores = scores + self.relative_position_bias_table[index].reshape(n, n, -1).permute(2, 0, 1)
        if mask is not None:
            scores = scores.reshape(-1, len(mask), self.heads, n, n) + mask[:, None]
            scores = scores.reshape(-1, self.heads, n, n)
        x = (scores.softmax(-1) @ v).transpose(1, 2).reshape(-1, n, c)
        return self.proj(x)


class SwinBlock(nn.Module):
    """Attention in windows, shifted by half a window or not, then an MLP; both are added to their input."""

    def __init__(
        self,
        channels: int,
        heads: int,
        window: Sequence[int],
        shifted: bool,
        mlp_ratio: float,
        qkv_bias: bool,
    ) -> None:
        super().__init__()
        self.window = tuple(window)
        self.shift = tuple(w // 2 if shifted else 0 for w in window)
        self.norm1 = nn.LayerNorm(channels)
        self.attn = WindowAttention(channels, heads, window, qkv_bias)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = MLP(channels, int(channels * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._attend(self.norm1(x))  # (N, D, H, W, C)
        return x + self.mlp(self.norm2(x))

    def _attend(self, x: Tensor) -> Tensor:
        # Sizes are constants in an exported graph: a window's mask depends on them.
        size, c = [int(s) for s in x.shape[1:-1]], self.attn.qkv.in_features
        window = [min(w, s) for w, s in zip(self.window, size, strict=True)]
        shift = [0 if s <= w else t for w, s, t in zip(self.window, size, self.shift, strict=True)]
        pad = [-s % w for w, s in zip(window, size, strict=True)]
        x = F.pad(x, (0, 0, *(n for p in reversed(pad) for n in (0, p))))
        padded = [s + p for s, p in zip(size, pad, strict=True)]
        grid = [s // w for s, w in zip(padded, window, strict=True)]
        mask, axes = None, tuple(range(1, 1 + len(size)))
        if any(shift):
            x = x.roll([-t for t in shift], axes)
            # The sum with zeros of the input's shape keeps the mask out of exported files: it has 160 MB at 96^3.
            numbers = torch.zeros_like(x[:1, ..., :1]) + region_numbers(padded, window, shift).to(x)
            regions = to_windows(numbers, grid, window)
            mask = (regions.transpose(1, 2) != regions) * -100.0  # (windows, n, n)
        x = self.attn(to_windows(x, grid, window), mask)
        apart = [at for axis in axes for at in (axis, axis + len(size))]
        x = x.reshape(-1, *grid, *window, c).permute(0, *apart, 1 + 2 * len(size)).reshape(-1, *padded, c)
        if any(shift):
            x = x.roll(shift, axes)
        return x[(slice(None), *(slice(0, s) for s in size))]


class PatchMerging(nn.Module):
    """Eight voxels, or four of a slice, become one of twice the width; their order is a property of the weights."""

    def __init__(self, channels: int, order: str, dims: int = 3) -> None:
        super().__init__()
        self.order = MERGING[order] if dims == 3 else _FLAT_MERGING
        self.norm = nn.LayerNorm(2**dims * channels)
        self.reduction = nn.Linear(2**dims * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        corners = [x[(slice(None), *(slice(int(n), None, 2) for n in o))] for o in self.order]
        return self.reduction(self.norm(torch.cat(corners, -1)))  # (N, D/2, H/2, W/2, 2C)


class Stage(nn.Module):
    """Blocks, then patch merging, on a channels-first map."""

    def __init__(
        self,
        channels: int,
        depth: int,
        heads: int,
        window: Sequence[int],
        mlp_ratio: float,
        qkv_bias: bool,
        order: str,
    ) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *[SwinBlock(channels, heads, window, i % 2 == 1, mlp_ratio, qkv_bias) for i in range(depth)]
        )
        self.downsample = PatchMerging(channels, order, len(window))

    def forward(self, x: Tensor) -> Tensor:
        return channels_first(self.downsample(self.blocks(channels_last(x))))


class PatchEmbedding(nn.Module):
    """Each patch of voxels becomes one token."""

    def __init__(self, in_channels: int, channels: int, patch_size: int, patch_norm: bool, dims: int) -> None:
        super().__init__()
        self.proj = CONVOLUTIONS[dims](in_channels, channels, patch_size, patch_size)
        self.norm = nn.LayerNorm(channels) if patch_norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return channels_first(self.norm(channels_last(self.proj(x))))


class SwinTransformer(nn.Module):
    """Five maps at 1/2 to 1/32 of the input's size, of widths f to 16 f."""

    def __init__(
        self,
        in_channels: int,
        feature_size: int,
        window: Sequence[int],
        patch_size: int,
        depths: Sequence[int],
        num_heads: Sequence[int],
        mlp_ratio: float,
        qkv_bias: bool,
        patch_norm: bool,
        normalize: bool,
        order: str,
        use_v2: bool,
    ) -> None:
        super().__init__()
        self.normalize = normalize
        self.feature_size = feature_size
        self.use_v2 = use_v2
        dims = len(window)
        self.patch_embed = PatchEmbedding(in_channels, feature_size, patch_size, patch_norm, dims)
        for i, (depth, heads) in enumerate(zip(depths, num_heads, strict=True)):
            width = feature_size * 2**i
            stage = Stage(width, depth, heads, window, mlp_ratio, qkv_bias, order)
            self.add_module(f"layers{i + 1}", nn.ModuleList([stage]))
            if use_v2:
                self.add_module(f"layers{i + 1}c", nn.ModuleList([layer(width, width, dims=dims)]))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.patch_embed(x)
        maps = [self._normalised(x, 0)]
        for i in (1, 2, 3, 4):
            if self.use_v2:
                x = getattr(self, f"layers{i}c")[0](x)
            x = getattr(self, f"layers{i}")[0](x)  # (N, f * 2^i, D / 2^(i+1), ...)
            maps.append(self._normalised(x, i))
        return maps

    def _normalised(self, x: Tensor, level: int) -> Tensor:
        if not self.normalize:
            return x
        return channels_first(F.layer_norm(channels_last(x), (self.feature_size * 2**level,)))


class SwinUNETR(nn.Module):
    """SwinUNETR, versions 1 and 2.

    x        (N, in_channels, D, H, W), each size a multiple of 32; without D where spatial_dims is 2
    returns  (N, out_channels, D, H, W), logits

    legacy_merging  whether downsample="merging" is that of MONAI 0.9 to 1.4 (all published checkpoints)
    img_size, use_checkpoint, rates of dropout: official arguments without effect after training
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        patch_size: int = 2,
        depths: Sequence[int] = (2, 2, 2, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int | Sequence[int] = 7,
        qkv_bias: bool = True,
        mlp_ratio: float = 4.0,
        feature_size: int = 24,
        norm_name: Spec = "instance",
        normalize: bool = True,
        patch_norm: bool = False,
        spatial_dims: int = 3,
        downsample: str = "merging",
        use_v2: bool = False,
        legacy_merging: bool = True,
        img_size: int | Sequence[int] | None = None,
        drop_rate: float = 0,
        attn_drop_rate: float = 0,
        dropout_path_rate: float = 0,
        use_checkpoint: bool = False,
    ) -> None:
        if downsample not in ("merging", "mergingv2"):
            raise ValueError(f"downsample is 'merging' or 'mergingv2', not {downsample!r}")
        super().__init__()
        f = feature_size
        order = downsample if downsample == "mergingv2" else "legacy" if legacy_merging else "new"
        self.swinViT = SwinTransformer(
            in_channels,
            f,
            (window_size,) * spatial_dims if isinstance(window_size, int) else window_size,
            patch_size,
            depths,
            num_heads,
            mlp_ratio,
            qkv_bias,
            patch_norm,
            normalize,
            order,
            use_v2,
        )
        self.encoder1 = layer(in_channels, f, norm_name, dims=spatial_dims)
        for i, times in ((2, 1), (3, 2), (4, 4), (10, 16)):
            self.add_module(f"encoder{i}", layer(times * f, times * f, norm_name, dims=spatial_dims))
        widths = [16 * f, 8 * f, 4 * f, 2 * f, f, f]
        for i, (a, b) in zip((5, 4, 3, 2, 1), pairwise(widths), strict=True):
            self.add_module(f"decoder{i}", UpBlock(a, b, norm_name=norm_name, dims=spatial_dims))
        self.out = output_block(f, out_channels, spatial_dims)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.swinViT(x)
        # The second deepest skip is the map itself: there is no encoder block for it.
        skips = [
            self.encoder1(x),
            *(self.get_submodule(f"encoder{i + 2}")(maps[i]) for i in range(3)),
            maps[3],
        ]
        u = self.get_submodule("encoder10")(maps[4])
        for i in (5, 4, 3, 2, 1):
            u = getattr(self, f"decoder{i}")(u, skips.pop())
        return self.out(u)


ABOUT = About(
    "SwinUNETR, versions 1 and 2",
    "Hatamizadeh et al. 2022, arXiv:2201.01266; He et al. 2023; MONAI's",
    "2-D and 3-D",
    "the order of patch merging, and whether the encoder's maps are normalised",
)
FAMILIES: dict[str, Callable[..., nn.Module]] = {
    "swinunetr": SwinUNETR,
    "swinunetr_legacy_merging": SwinUNETR,
    "swinunetr_new_merging": partial(SwinUNETR, legacy_merging=False),
    "swinunetr_v2_new_merging": partial(SwinUNETR, use_v2=True, legacy_merging=False),
}

SMALL = dict.fromkeys(
    ("swinunetr", "swinunetr_new_merging", "swinunetr_v2_new_merging"),
    Small({"feature_size": 12, "num_heads": [1, 2, 3, 4], "window_size": 4}, (64, 64, 64)),
)

# MONAI before 0.9 stored, and never applied, a shortcut convolution where widths are equal.
INERT = [r"encoder(2|3|4|10)\.layer\.conv3\.conv\.weight"]


def relative_positions(window: Sequence[int]) -> Tensor:
    """For each pair of a window's tokens, the row of the bias table of their distance: (n, n), int64."""
    axes = torch.meshgrid(*[torch.arange(w) for w in window], indexing="ij")
    index = torch.zeros(1, 1, dtype=torch.int64)
    for axis, w in zip(axes, window, strict=True):
        place = axis.reshape(-1)
        index = index * (2 * w - 1) + place[:, None] - place[None] + w - 1
    return index


def region_numbers(size: Sequence[int], window: Sequence[int], shift: Sequence[int]) -> Tensor:
    """Voxels of a rolled map that belonged together before it have equal numbers: (1, D, H, W, 1)."""
    along = [
        torch.tensor([0.0] * (s - w) + [1.0] * (w - t) + [2.0] * t if t else [0.0] * s)
        for s, w, t in zip(size, window, shift, strict=True)
    ]
    numbers = along[0]
    for axis in along[1:]:
        numbers = 3 * numbers[..., None] + axis
    return numbers[None, ..., None]


def to_windows(x: Tensor, grid: Sequence[int], window: Sequence[int]) -> Tensor:
    """(N, D, H, W, C) as (N * windows, voxels of a window, C)."""
    channels, dims = x.shape[-1], len(grid)
    x = x.reshape(-1, *(n for pair in zip(grid, window, strict=True) for n in pair), channels)
    x = x.permute(0, *range(1, 2 * dims, 2), *range(2, 2 * dims + 1, 2), 2 * dims + 1)
    return x.reshape(-1, math.prod(window), channels)


def infer(shapes: Shapes) -> Inferred | None:
    """The sizes of a SwinUNETR; its tensors do not tell the order of patch merging."""
    stem, table = (
        "swinViT.patch_embed.proj.weight",
        "swinViT.layers{}.0.blocks.0.attn.relative_position_bias_table",
    )
    telling = (stem, "out.conv.conv.weight", "swinViT.layers1.0.blocks.0.mlp.linear1.weight", table.format(4))
    if not all(name in shapes for name in telling):
        return None
    feature_size, in_channels, patch_size = shapes[stem][:3]
    dims = len(shapes[stem]) - 2
    window = (round(shapes[table.format(1)][0] ** (1 / dims)) + 1) // 2
    config: Document = {
        "in_channels": in_channels,
        "out_channels": shapes["out.conv.conv.weight"][0],
        "patch_size": patch_size,
        "depths": [length(shapes, f"swinViT.layers{i}.0.blocks.") for i in (1, 2, 3, 4)],
        "num_heads": [shapes[table.format(i)][1] for i in (1, 2, 3, 4)],
        "window_size": window,
        "qkv_bias": "swinViT.layers1.0.blocks.0.attn.qkv.bias" in shapes,
        "mlp_ratio": shapes["swinViT.layers1.0.blocks.0.mlp.linear1.weight"][0] / feature_size,
        "feature_size": feature_size,
        "norm_name": norm_spec(shapes, "encoder1.layer.norm1"),
        "patch_norm": "swinViT.patch_embed.norm.weight" in shapes,
        "use_v2": "swinViT.layers1c.0.layer.conv1.conv.weight" in shapes,
        **({"spatial_dims": 2} if dims == 2 else {}),
    }
    merging = "the order of patch merging: legacy_merging=True (MONAI 0.9 to 1.4, as all published checkpoints)"
    maps = "whether the encoder's maps are normalised: normalize=True"
    unsure = {"normalize": maps, **unsure_norm(config, "norm_name")}
    return Inferred("swinunetr", config, unsure if dims == 2 else {"legacy_merging": merging, **unsure})
