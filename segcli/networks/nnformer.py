"""nnFormer (Zhou et al., IEEE TIP 2023): windows of attention down and up, with attention to the skips.

Facts: 282857341/nnFormer at d48aaeb, whose three networks (synapse, acdc, tumor) are variants here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcli.documents import Document
from segcli.networks.blocks import each_axis
from segcli.networks.registry import About, Inferred, Shapes, Small, length

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Variant:
    """What differs between the three official files.

    merges, ups  kernel, stride, padding and kernel = stride, output padding from the finest level to the bottom
    masked       shifted windows do not look around the edge of the volume, and windows shrink on small grids
    heads_from   level whose head count the decoder's finest level takes
    """

    crop_size: Triple
    embedding_dim: int
    input_channels: int
    num_classes: int
    num_heads: tuple[int, ...]
    patch_size: Triple
    window_size: tuple[int | Triple, ...]
    deep_supervision: bool
    merges: tuple[tuple[Triple, Triple, Triple], ...]
    ups: tuple[tuple[Triple, Triple], ...]
    masked: bool
    heads_from: int


_HALVING = ((3, 3, 3), (2, 2, 2), (1, 1, 1))
_DOUBLING = ((2, 2, 2), (0, 0, 0))

VARIANTS = {
    "synapse": Variant(
        crop_size=(64, 128, 128),
        embedding_dim=192,
        input_channels=1,
        num_classes=14,
        num_heads=(6, 12, 24, 48),
        patch_size=(2, 4, 4),
        window_size=(4, 4, 8, 4),
        deep_supervision=True,
        merges=(_HALVING,) * 3,
        ups=(_DOUBLING,) * 3,
        masked=True,
        heads_from=0,
    ),
    "acdc": Variant(
        crop_size=(14, 160, 160),
        embedding_dim=96,
        input_channels=1,
        num_classes=4,
        num_heads=(3, 6, 12, 24),
        patch_size=(1, 4, 4),
        window_size=((3, 5, 5), (3, 5, 5), (7, 10, 10), (3, 5, 5)),
        deep_supervision=False,
        # 14 slices become 14, 7 and 3, and come back through an output padding of one slice.
        merges=(((1, 3, 3), (1, 2, 2), (0, 1, 1)), _HALVING, ((3, 3, 3), (2, 2, 2), (0, 1, 1))),
        ups=(((1, 2, 2), (0, 0, 0)), _DOUBLING, ((2, 2, 2), (1, 0, 0))),
        masked=False,  # officially the mask is missing in this variant
        heads_from=0,
    ),
    "tumor": Variant(
        crop_size=(128, 128, 128),
        embedding_dim=96,
        input_channels=4,
        num_classes=4,
        num_heads=(3, 6, 12, 24),
        patch_size=(4, 4, 4),
        window_size=(4, 4, 8, 4),
        deep_supervision=False,
        merges=(_HALVING,) * 3,
        ups=(_DOUBLING,) * 3,
        masked=True,
        heads_from=1,  # an official slip: the list of head counts is read from the wrong end
    ),
}


@dataclass(frozen=True)
class Tiling:
    """How one block cuts its grid: windows, shifted or not, and whether the shift is masked."""

    grid: Triple
    window: Triple
    shift: Triple
    masked: bool

    @property
    def pad(self) -> Triple:
        """Voxels added at the end of each axis so that windows fill it."""
        d, h, w = (-n % size for n, size in zip(self.grid, self.window, strict=True))
        return d, h, w

    def cut(self, x: Tensor) -> Tensor:
        """(N, D, H, W, C) -> (N * windows, voxels of a window, C)."""
        d, h, w = self.pad
        x = F.pad(x, (0, 0, 0, w, 0, h, 0, d))
        if any(self.shift):
            x = torch.roll(x, [-s for s in self.shift], (1, 2, 3))
        (a, b, c), (i, j, k) = self._counts(), self.window
        x = x.reshape(-1, a, i, b, j, c, k, x.shape[-1])
        return x.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, i * j * k, x.shape[-1])

    def join(self, x: Tensor) -> Tensor:
        """The inverse of `cut`."""
        (a, b, c), (i, j, k) = self._counts(), self.window
        x = x.reshape(-1, a, b, c, i, j, k, x.shape[-1])
        x = x.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(-1, a * i, b * j, c * k, x.shape[-1])
        if any(self.shift):
            x = torch.roll(x, self.shift, (1, 2, 3))
        d, h, w = self.grid
        return x[:, :d, :h, :w]

    def mask(self) -> Tensor | None:
        """-100 between voxels of a window that only the shift brought together: (windows, 1, voxels, voxels)."""
        if not self.masked or not any(self.shift):
            return None
        d, h, w = (
            torch.tensor([0] * (count * size - size) + [1] * (size - shift) + [2] * shift)
            for count, size, shift in zip(self._counts(), self.window, self.shift, strict=True)
        )
        regions = (d[:, None, None] * 9 + h[:, None] * 3 + w).to(torch.float32)
        padded = Tiling((d.numel(), h.numel(), w.numel()), self.window, (0, 0, 0), masked=False)
        ids = padded.cut(regions[None, ..., None]).squeeze(-1)  # (windows, voxels)
        return (ids[:, :, None] != ids[:, None, :]).to(torch.float32)[:, None] * -100.0

    def _counts(self) -> Triple:
        d, h, w = ((n + p) // size for n, p, size in zip(self.grid, self.pad, self.window, strict=True))
        return d, h, w


class _Attention(nn.Module):
    """Attention within windows, with a learned bias for each offset between two voxels."""

    mask: Tensor | None
    relative_position_index: Tensor

    def __init__(self, channels: int, heads: int, tiling: Tiling) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels cannot be shared by {heads} heads")
        self.heads, self.tiling = heads, tiling
        offsets = prod(2 * size - 1 for size in tiling.window)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(offsets, heads))
        self.register_buffer("relative_position_index", _relative_index(tiling.window))
        self.proj = nn.Linear(channels, channels)
        self.register_buffer("mask", tiling.mask(), persistent=False)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(N * windows, heads, voxels, c) three times -> (N, D, H, W, C)."""
        voxels = q.shape[2]
        bias = self.relative_position_bias_table[self.relative_position_index.flatten()]
        bias = bias.reshape(voxels, voxels, self.heads).permute(2, 0, 1)
        scores = q * q.shape[3] ** -0.5 @ k.transpose(-2, -1) + bias
        if self.mask is not None:
            scores = scores.reshape(-1, self.mask.shape[0], self.heads, voxels, voxels) + self.mask
            scores = scores.reshape(-1, self.heads, voxels, voxels)
        x = (scores.softmax(-1) @ v).transpose(1, 2)  # (N * windows, voxels, heads, c)
        return self.tiling.join(self.proj(x.flatten(2)))

    def split(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(N * windows, voxels, parts * C) -> `parts` tensors (N * windows, heads, voxels, c)."""
        voxels, channels = x.shape[1], x.shape[2]
        x = x.reshape(-1, voxels, parts, self.heads, channels // parts // self.heads)
        return x.permute(2, 0, 3, 1, 4).unbind(0)


class SelfAttention(_Attention):
    """Windows of a map attend to themselves."""

    def __init__(self, channels: int, heads: int, tiling: Tiling) -> None:
        super().__init__(channels, heads, tiling)
        self.qkv = nn.Linear(channels, 3 * channels)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(self.qkv(self.tiling.cut(x)), 3)
        return self.attend(q, k, v)


class CrossAttention(_Attention):
    """Windows of the decoder's map attend to those of the skip; officially the queries are not projected."""

    def __init__(self, channels: int, heads: int, tiling: Tiling) -> None:
        super().__init__(channels, heads, tiling)
        self.kv = nn.Linear(channels, 2 * channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        (q,) = self.split(self.tiling.cut(x), 1)
        k, v = self.split(self.kv(self.tiling.cut(skip)), 2)
        return self.attend(q, k, v)


class _MLP(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, 4 * channels)
        self.fc2 = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SwinBlock(nn.Module):
    """Attention in windows, then a perceptron, each added to its input; (N, D, H, W, C) stays so."""

    def __init__(self, channels: int, heads: int, tiling: Tiling) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = SelfAttention(channels, heads, tiling)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = _MLP(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class CrossBlock(nn.Module):
    """The sum of a decoder map and its skip, refined by the attention of the one to the other."""

    def __init__(self, channels: int, heads: int, tiling: Tiling) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = CrossAttention(channels, heads, tiling)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = _MLP(channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = x + skip + self.attn(self.norm1(x), self.norm1(skip))
        return x + self.mlp(self.norm2(x))


class _Embedding(nn.Module):
    """Two convolutions, the first with the stride; the second is followed by GELU and norm unless it is the last."""

    def __init__(self, width_in: int, width_out: int, stride: Sequence[int], last: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(width_in, width_out, 3, each_axis(stride, 3), 1)
        self.conv2 = nn.Conv3d(width_out, width_out, 3, 1, 1)
        self.norm1 = nn.LayerNorm(width_out)
        self.norm2 = None if last else nn.LayerNorm(width_out)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(_norm_first_axis(self.norm1, F.gelu(self.conv1(x))))
        return x if self.norm2 is None else _norm_first_axis(self.norm2, F.gelu(x))


class PatchEmbedding(nn.Module):
    """An image as a grid of vectors, a patch each: (N, C, D, H, W) -> (N, D', H', W', channels)."""

    def __init__(self, width_in: int, channels: int, patch_size: Sequence[int]) -> None:
        super().__init__()
        # Every side of a patch is 1, 2 or 4: halved by the first embedding, the rest by the second.
        first = [min(side, 2) for side in patch_size]
        second = [side // one for side, one in zip(patch_size, first, strict=True)]
        self.proj1 = _Embedding(width_in, channels // 2, first, last=False)
        self.proj2 = _Embedding(channels // 2, channels, second, last=True)
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj2(self.proj1(x)).permute(0, 2, 3, 4, 1))


class Merging(nn.Module):
    """The next coarser grid, twice as wide."""

    def __init__(self, channels: int, kernel: Triple, stride: Triple, padding: Triple) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.reduction = nn.Conv3d(channels, 2 * channels, kernel, stride, padding)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.reduction(self.norm(F.gelu(x)).permute(0, 4, 1, 2, 3))
        return y.permute(0, 2, 3, 4, 1)


class Upsample(nn.Module):
    """The next finer grid, half as wide."""

    def __init__(self, channels: int, kernel: Triple, extra: Triple) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(2 * channels)
        self.up = nn.ConvTranspose3d(2 * channels, channels, kernel, kernel, output_padding=extra)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.up(self.norm(x).permute(0, 4, 1, 2, 3))
        return y.permute(0, 2, 3, 4, 1)


class EncoderStage(nn.Module):
    """The map of a level, from blocks of which every second one is shifted, and what the next level starts from."""

    def __init__(
        self, channels: int, heads: int, tilings: Sequence[Tiling], merge: tuple[Triple, Triple, Triple] | None
    ) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*[SwinBlock(channels, heads, tiling) for tiling in tilings])
        self.downsample = None if merge is None else Merging(channels, *merge)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.blocks(x)
        return x, x if self.downsample is None else self.downsample(x)


class Encoder(nn.Module):
    """Four maps, each behind a norm that the way down does not take."""

    def __init__(self, patch_embed: nn.Module, stages: Sequence[EncoderStage], widths: Sequence[int]) -> None:
        super().__init__()
        self.patch_embed = patch_embed
        self.layers = nn.ModuleList(stages)
        for i, width in enumerate(widths):
            self.add_module(f"norm{i}", nn.LayerNorm(width))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.patch_embed(x)
        maps = []
        for i, stage in enumerate(self.layers):
            level, x = stage(x)  # (N, D_i, H_i, W_i, embedding_dim * 2^i)
            maps.append(getattr(self, f"norm{i}")(level))
        return maps


class DecoderStage(nn.Module):
    """Enlarge, attend to the skip, then shifted blocks."""

    def __init__(
        self, channels: int, heads: int, plain: Tiling, shifted: Tiling, depth: int, up: tuple[Triple, Triple]
    ) -> None:
        super().__init__()
        others = [SwinBlock(channels, heads, shifted) for _ in range(depth - 1)]
        self.blocks = nn.ModuleList([CrossBlock(channels, heads, plain), *others])
        self.Upsample = Upsample(channels, *up)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.blocks[0](self.Upsample(x), skip)
        for block in self.blocks[1:]:
            x = block(x)
        return x


class Decoder(nn.Module):
    """Maps from the finest to the coarsest but one; layers.0 is the finest."""

    def __init__(self, stages: Sequence[DecoderStage]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(stages)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        x, decoded = maps[-1], []
        for stage, skip in zip(reversed(list(self.layers)), maps[-2::-1], strict=True):
            x = stage(x, skip)
            decoded.append(x)
        return decoded[::-1]


class Head(nn.Module):
    """Logits, one patch from each vector: (N, D, H, W, C) -> (N, classes, D*p, H*p, W*p)."""

    def __init__(self, channels: int, num_classes: int, patch_size: Sequence[int]) -> None:
        super().__init__()
        patch = each_axis(patch_size, 3)
        self.up = nn.ConvTranspose3d(channels, num_classes, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(x.permute(0, 4, 1, 2, 3))


class NNFormer(nn.Module):
    """nnFormer.

    x        (N, input_channels, *crop_size); the size is fixed
    returns  (N, num_classes, *crop_size), logits

    What is left out is the variant's published value. window_size is one for each level, a number or three. down_stride
    says what the merging convolutions do and changes nothing.
    """

    def __init__(
        self,
        crop_size: Sequence[int] | None = None,
        embedding_dim: int | None = None,
        input_channels: int | None = None,
        num_classes: int | None = None,
        depths: Sequence[int] = (2, 2, 2, 2),
        num_heads: Sequence[int] | None = None,
        patch_size: Sequence[int] | None = None,
        window_size: Sequence[int | Sequence[int]] | None = None,
        down_stride: Sequence[Sequence[int]] | None = None,
        deep_supervision: bool | None = None,
        variant: str = "synapse",
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"variant is one of {', '.join(VARIANTS)}, not {variant!r}")
        kind = VARIANTS[variant]
        heads = num_heads or kind.num_heads
        patch = patch_size or kind.patch_size
        classes = num_classes or kind.num_classes
        if any(side not in (1, 2, 4) for side in patch):
            raise ValueError(f"patch_size has sides of 1, 2 or 4, not {list(patch)}")
        widths = [(embedding_dim or kind.embedding_dim) * 2**i for i in range(4)]
        grids = _grids(crop_size or kind.crop_size, patch, kind)
        cubes = [_triple(size) for size in window_size or kind.window_size]
        plain = [_tiling(g, w, False, kind) for g, w in zip(grids, cubes, strict=True)]
        shifted = [_tiling(g, w, True, kind) for g, w in zip(grids, cubes, strict=True)]
        self.model_down = Encoder(
            PatchEmbedding(input_channels or kind.input_channels, widths[0], patch),
            [
                EncoderStage(
                    widths[i],
                    heads[i],
                    [shifted[i] if j % 2 else plain[i] for j in range(depths[i])],
                    kind.merges[i] if i < 3 else None,
                )
                for i in range(4)
            ],
            widths,
        )
        self.decoder = Decoder(
            [
                DecoderStage(widths[i], heads[i + kind.heads_from], plain[i], shifted[i], depths[i], kind.ups[i])
                for i in range(3)
            ]
        )
        outputs = 3 if (kind.deep_supervision if deep_supervision is None else deep_supervision) else 1
        self.final = nn.ModuleList(Head(width, classes, patch) for width in widths[:outputs])

    def forward(self, x: Tensor) -> Tensor:
        return self.final[0](self.decoder(self.model_down(x))[0])

    def heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """Logits at full size, and with deep supervision at 1/2 and 1/4 of it."""
        decoded = self.decoder(self.model_down(x))
        return tuple(head(y) for head, y in zip(self.final, decoded, strict=False))


def _relative_index(window: Triple) -> Tensor:
    """Which bias an ordered pair of a window's voxels takes: (voxels, voxels).

    The official strides, 3 w - 1 and 2 w - 1 with w the second side, are a slip: different offsets share a bias, and
    all published weights were trained with it.
    """
    axes = torch.meshgrid(*[torch.arange(size) for size in window], indexing="ij")
    voxels = torch.stack([axis.flatten() for axis in axes])  # (3, voxels)
    apart = voxels[:, :, None] - voxels[:, None, :] + torch.tensor(window)[:, None, None] - 1
    return apart[0] * (3 * window[1] - 1) + apart[1] * (2 * window[1] - 1) + apart[2]


def _triple(size: int | Sequence[int]) -> Triple:
    a, b, c = (size, size, size) if isinstance(size, int) else size
    return a, b, c


def _grids(crop_size: Sequence[int], patch: Sequence[int], kind: Variant) -> list[Triple]:
    """The grid of each level, from the finest down."""
    grids = [_triple([n // p for n, p in zip(crop_size, patch, strict=True)])]
    for merge in kind.merges:
        axes = zip(grids[-1], *merge, strict=True)
        grids.append(_triple([(n + 2 * pad - kernel) // stride + 1 for n, kernel, stride, pad in axes]))
    return grids


def _tiling(grid: Triple, window: Triple, shifted: bool, kind: Variant) -> Tiling:
    if kind.masked and min(grid) <= min(window):
        window, shifted = _triple(min(grid)), False  # one window in the short axis: nothing to shift into
    if grid == window or not shifted:
        return Tiling(grid, window, (0, 0, 0), masked=False)
    return Tiling(grid, window, _triple([size // 2 for size in window]), kind.masked)


def _norm_first_axis(norm: nn.Module, x: Tensor) -> Tensor:
    y: Tensor = norm(x.permute(0, 2, 3, 4, 1))
    return y.permute(0, 4, 1, 2, 3)


ABOUT = About(
    "nnFormer", "Zhou et al. 2021, arXiv:2109.03201", "3-D", "the window, and the sides of the attention's windows"
)
FAMILIES: dict[str, Callable[..., nn.Module]] = {
    "nnformer": NNFormer,
    "nnformer_synapse": NNFormer,
    "nnformer_acdc": partial(NNFormer, variant="acdc"),
    "nnformer_tumor": partial(NNFormer, variant="tumor"),
}

_SMALL: Document = {"embedding_dim": 12, "num_heads": [1, 2, 3, 4]}
_COUNTED = ("input_channels", "num_classes")
SMALL = {
    "nnformer_synapse": Small(
        {**_SMALL, "crop_size": [32, 64, 64], "window_size": [[4, 4, 4], [4, 4, 4], [2, 4, 4], [2, 2, 2]]},
        (32, 64, 64),
        _COUNTED,
    ),
    "nnformer_acdc": Small(
        {**_SMALL, "crop_size": [14, 64, 64], "window_size": [[3, 4, 4], [3, 4, 4], [7, 4, 4], [3, 2, 2]]},
        (14, 64, 64),
        _COUNTED,
    ),
    "nnformer_tumor": Small({**_SMALL, "crop_size": [32, 64, 32], "window_size": [4, 4, 4, 2]}, (32, 64, 32), _COUNTED),
}


def infer(shapes: Shapes) -> Inferred | None:
    """The variant and sizes of an nnFormer; the size of the image is not in its tensors."""
    stem = shapes.get("model_down.patch_embed.proj1.conv1.weight")
    head = shapes.get("final.0.up.weight")
    table = "{}.layers.{}.blocks.0.attn.relative_position_bias_table"
    down = [shapes.get(table.format("model_down", i)) for i in range(4)]
    up = [shapes.get(table.format("decoder", i)) for i in range(3)]
    if stem is None or head is None or None in down or None in up:
        return None
    offsets = [shape[0] for shape in down if shape]
    heads = [shape[1] for shape in down if shape]
    decoder_heads = [shape[1] for shape in up if shape]
    patch = head[2:]
    variant = "synapse"
    if shapes.get("model_down.layers.0.downsample.reduction.weight", ())[2:] == (1, 3, 3):
        variant = "acdc"
    elif decoder_heads != heads[:3] or (decoder_heads == heads[1:] and patch == (4, 4, 4)):
        variant = "tumor"
    kind = VARIANTS[variant]
    windows = [
        _window(count, shapes.get(f"model_down.layers.{i}.blocks.0.attn.relative_position_index"), i, kind)
        for i, count in enumerate(offsets)
    ]
    crop = _crop(patch, windows, kind)
    config: Document = {
        "crop_size": crop,
        "embedding_dim": head[0],
        "input_channels": stem[1],
        "num_classes": head[1],
        "depths": [length(shapes, f"model_down.layers.{i}.blocks.") for i in range(4)],
        "num_heads": heads,
        "patch_size": list(patch),
        "window_size": [list(window) for window in windows],
        "deep_supervision": "final.1.up.weight" in shapes,
        "variant": variant,
    }
    unsure = {"crop_size": f"crop_size is not in the tensors; {crop} would do"}
    if not kind.masked:
        unsure["window_size"] = f"window_size: tensors tell its voxels alone; {config['window_size']} taken"
    return Inferred(f"nnformer_{variant}", config, unsure, open=("crop_size",))


def _window(offsets: int, index: tuple[int, ...] | None, level: int, kind: Variant) -> Triple:
    """The window with so many offsets: a cube, or in acdc with equal second and third sides."""
    sides = range(1, offsets + 1)
    candidates = [
        (a, b, b)
        for b in sides
        if offsets % (2 * b - 1) ** 2 == 0
        for a in [(offsets // (2 * b - 1) ** 2 + 1) // 2]
        if (2 * a - 1) * (2 * b - 1) ** 2 == offsets and (index is None or a * b * b == index[0])
    ]
    published = _triple(kind.window_size[level])
    preferred = [c for c in candidates if c == published] or [c for c in candidates if len(set(c)) == 1]
    return next(iter(preferred or candidates), published)


def _crop(patch: Sequence[int], windows: Sequence[Triple], kind: Variant) -> list[int]:
    """The published crop size, or the smallest multiple of it on whose grids the windows fit."""
    times = 1
    while kind.masked and any(
        min(grid) < min(window)
        for grid, window in zip(_grids([times * n for n in kind.crop_size], patch, kind), windows, strict=True)
    ):
        times += 1
    return [times * n for n in kind.crop_size]
