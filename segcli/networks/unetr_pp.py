"""UNETR++ (Shaker et al., IEEE TMI 2024): paired channel and spatial attention in an encoder-decoder.

Facts: Amshaker/unetr_plus_plus at dcba1c6, whose four networks (synapse, acdc, lung, tumor) are variants here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcli.documents import Document
from segcli.networks.blocks import ResidualBlock, Spec, conv, conv_transposed, norm_spec, output_block, unsure_norm
from segcli.networks.registry import About, Inferred, Shapes, Small, length


@dataclass(frozen=True)
class Variant:
    """What is literal in the four official files.

    stem_channels  channels the stem takes, whatever in_channels says
    projections    how keys and values are shortened: one linear layer for both, one each, or one matrix without bias
    convs          residual convolution blocks after each attention
    concat         the two attentions are joined as two halves; otherwise they are added
    """

    img_size: tuple[int, int, int]
    patch_size: tuple[int, int, int]
    stem_channels: int
    projections: str
    convs: int
    concat: bool


VARIANTS = {
    "synapse": Variant((64, 128, 128), (2, 4, 4), 1, "shared", convs=1, concat=True),
    "acdc": Variant((16, 160, 160), (1, 4, 4), 1, "separate", convs=2, concat=True),
    "lung": Variant((32, 192, 192), (1, 4, 4), 1, "separate", convs=2, concat=True),
    "tumor": Variant((128, 128, 128), (4, 4, 4), 4, "matrix", convs=1, concat=False),
}


class EPA(nn.Module):
    """Efficient paired attention: queries and keys serve an attention over channels and one over voxels.

    x        (N, tokens, C)
    returns  (N, tokens, C)
    """

    def __init__(self, channels: int, tokens: int, projected: int, heads: int, variant: Variant) -> None:
        super().__init__()
        self.heads, self.projections, self.concat = heads, variant.projections, variant.concat
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.temperature2 = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkvv = nn.Linear(channels, 4 * channels, bias=False)
        if variant.projections == "matrix":
            self.EF = nn.Parameter(torch.empty(tokens, projected))
            nn.init.uniform_(self.EF, -(tokens**-0.5), tokens**-0.5)
        else:
            self.E = nn.Linear(tokens, projected)
            # Synapse has one layer under two names; a file stores it twice.
            self.F = self.E if variant.projections == "shared" else nn.Linear(tokens, projected)
        if variant.concat:
            self.out_proj = nn.Linear(channels, channels // 2)
            self.out_proj2 = nn.Linear(channels, channels // 2)

    def forward(self, x: Tensor) -> Tensor:
        tokens, channels = x.shape[1], x.shape[2]
        qkvv = self.qkvv(x).reshape(-1, tokens, 4, self.heads, channels // self.heads)
        q, k, v_channel, v_spatial = qkvv.permute(2, 0, 3, 4, 1).unbind(0)  # each (N, heads, c, tokens)
        k_short, v_short = self._shortened(k, v_spatial)  # (N, heads, c, projected), k not yet normalised
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)

        # Temperatures scale one factor, not the product: OpenVINO cannot compile a product scaled by head.
        among_channels = (q * self.temperature @ k.transpose(-2, -1)).softmax(-1)  # (N, heads, c, c)
        by_channel = (among_channels @ v_channel).permute(0, 3, 1, 2)  # (N, tokens, heads, c)
        by_channel = by_channel.reshape(-1, tokens, channels)

        among_voxels = (q.transpose(-2, -1) @ (k_short * self.temperature2)).softmax(
            -1
        )  # (N, heads, tokens, projected)
        by_voxel = among_voxels @ v_short.transpose(-2, -1)  # (N, heads, tokens, c)
        # The official code permutes to (N, c, heads, tokens) and reads that memory as (N, tokens, C). This mixes
        # tokens with channels, and all published weights were trained with it.
        by_voxel = by_voxel.permute(0, 3, 1, 2).reshape(-1, tokens, channels)

        if self.concat:
            return torch.cat((self.out_proj(by_voxel), self.out_proj2(by_channel)), -1)
        return by_channel + by_voxel

    def _shortened(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        if self.projections == "matrix":
            return k @ self.EF, v @ self.EF
        return self.E(k), self.F(v)


class TransformerBlock(nn.Module):
    """Attention over the voxels of a volume, then residual convolutions; (N, C, D, H, W) stays so."""

    def __init__(self, channels: int, tokens: int, projected: int, heads: int, variant: Variant) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, channels))
        self.norm = nn.LayerNorm(channels)
        self.gamma = nn.Parameter(torch.full((channels,), 1e-6))
        self.epa_block = EPA(channels, tokens, projected, heads, variant)
        self.conv51 = ResidualBlock(channels, channels, norm_name="batch")
        self.conv52 = ResidualBlock(channels, channels, norm_name="batch") if variant.convs == 2 else nn.Identity()
        self.conv8 = nn.Sequential(nn.Dropout(), nn.Conv3d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        t = x.flatten(2).transpose(1, 2) + self.pos_embed  # (N, tokens, C)
        t = t + self.gamma * self.epa_block(self.norm(t))
        a = t.transpose(1, 2).reshape(x.shape)  # (N, C, D, H, W)
        return a + self.conv8(self.conv52(self.conv51(a)))


class Encoder(nn.Module):
    """Four maps: the stem's grid, then 1/2, 1/4 and 1/8 of it."""

    def __init__(
        self,
        variant: Variant,
        patch_size: Sequence[int],
        dims: Sequence[int],
        depths: Sequence[int],
        tokens: Sequence[int],
        projected: Sequence[int],
        heads: int,
    ) -> None:
        super().__init__()
        # Each group norm has as many groups as the level above has channels.
        befores = [variant.stem_channels, *dims[:-1]]
        kernels: list[int | Sequence[int]] = [patch_size, 2, 2, 2]
        self.downsample_layers = nn.ModuleList(
            nn.Sequential(conv(before, width, kernel, kernel), nn.GroupNorm(before, width))
            for before, width, kernel in zip(befores, dims, kernels, strict=True)
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*[TransformerBlock(width, n, p, heads, variant) for _ in range(depth)])
            for width, n, p, depth in zip(dims, tokens, projected, depths, strict=True)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for down, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(down(x))
            maps.append(x)
        return maps


class UpBlock(nn.Module):
    """The deep map enlarged by a transposed convolution, plus the skip, through `block`."""

    def __init__(self, width_in: int, width_out: int, kernel: int | Sequence[int], block: nn.Module) -> None:
        super().__init__()
        self.transp_conv = conv_transposed(width_in, width_out, kernel, kernel)
        self.decoder_block = nn.ModuleList([block])

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.decoder_block[0](self.transp_conv(x) + skip)


class UNETRPP(nn.Module):
    """UNETR++.

    x        (N, in_channels, *img_size); the size is fixed by the position embeddings
    returns  (N, out_channels, *img_size), logits

    Sizes left out are the variant's published ones. tokens, proj_size and decoder_* are literals officially;
    hidden_size is the last of dims; pos_embed and dropout_rate are official arguments that change nothing here.
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 14,
        img_size: Sequence[int] | None = None,
        feature_size: int = 16,
        hidden_size: int | None = None,
        num_heads: int = 4,
        pos_embed: str = "perceptron",
        norm_name: Spec = "instance",
        dropout_rate: float = 0.0,
        depths: Sequence[int] = (3, 3, 3, 3),
        dims: Sequence[int] = (32, 64, 128, 256),
        do_ds: bool = True,
        variant: str = "synapse",
        patch_size: Sequence[int] | None = None,
        tokens: Sequence[int] | None = None,
        proj_size: Sequence[int] = (64, 64, 64, 32),
        decoder_proj_size: int = 64,
        decoder_depth: int = 3,
        decoder_num_heads: int = 4,
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"variant is one of {', '.join(VARIANTS)}, not {variant!r}")
        kind = VARIANTS[variant]
        patch = tuple(patch_size or kind.patch_size)
        grid = [n // p for n, p in zip(img_size or kind.img_size, patch, strict=True)]
        counts = [prod(n // 2**i for n in grid) for i in range(4)]
        if tokens is not None and list(tokens) != counts:
            raise ValueError(f"tokens {list(tokens)} do not fit an image of {img_size}: {counts}")
        if hidden_size is not None and hidden_size != dims[3]:
            raise ValueError(f"hidden_size {hidden_size} is not the last of dims, {dims[3]}")
        self.do_ds = do_ds
        self.unetr_pp_encoder = Encoder(kind, patch, dims, depths, counts, proj_size, num_heads)
        self.encoder1 = ResidualBlock(in_channels, feature_size, norm_name=norm_name)

        def up(to: int) -> UpBlock:
            sizes = (dims[to], counts[to], decoder_proj_size, decoder_num_heads, kind)
            blocks = [TransformerBlock(*sizes) for _ in range(decoder_depth)]
            return UpBlock(dims[to + 1], dims[to], 2, nn.Sequential(*blocks))

        self.decoder5, self.decoder4, self.decoder3 = up(2), up(1), up(0)
        last = ResidualBlock(feature_size, feature_size, norm_name=norm_name)
        self.decoder2 = UpBlock(dims[0], feature_size, patch, last)
        self.out1 = output_block(feature_size, out_channels)
        if do_ds:
            self.out2 = output_block(dims[0], out_channels)
            self.out3 = output_block(dims[1], out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.out1(self._decoded(x)[0])

    def heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """Logits at full size, and with do_ds those on the stem's grid and on half of it."""
        fine, middle, coarse = self._decoded(x)
        if not self.do_ds:
            return (self.out1(fine),)
        return self.out1(fine), self.out2(middle), self.out3(coarse)

    def _decoded(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        skip1, skip2, skip3, deep = self.unetr_pp_encoder(x)
        coarse = self.decoder4(self.decoder5(deep, skip3), skip2)
        middle = self.decoder3(coarse, skip1)
        return self.decoder2(middle, self.encoder1(x)), middle, coarse


ABOUT = About("UNETR++", "Shaker et al. 2022, arXiv:2212.04497", "3-D", "the sides of the window")
FAMILIES: dict[str, Callable[..., nn.Module]] = {
    "unetrpp": UNETRPP,
    "unetrpp_synapse": UNETRPP,
    "unetrpp_acdc": partial(UNETRPP, variant="acdc", out_channels=4),
    "unetrpp_lung": partial(UNETRPP, variant="lung", out_channels=2),
    "unetrpp_tumor": partial(UNETRPP, variant="tumor", in_channels=4, out_channels=4),
}

_SMALL: Document = {
    "feature_size": 4,
    "num_heads": 2,
    "dims": [8, 16, 32, 64],
    "depths": [1, 2, 1, 1],
    "proj_size": [8, 8, 4, 2],
    "decoder_proj_size": 4,
    "decoder_depth": 2,
    "decoder_num_heads": 2,
}
SMALL = {
    "unetrpp_synapse": Small({**_SMALL, "img_size": [32, 64, 64]}, (32, 64, 64)),
    "unetrpp_acdc": Small({**_SMALL, "img_size": [8, 32, 32]}, (8, 32, 32)),
    "unetrpp_lung": Small({**_SMALL, "img_size": [8, 32, 32]}, (8, 32, 32)),
    "unetrpp_tumor": Small({**_SMALL, "img_size": [32, 32, 32]}, channels=4),
}


def infer(shapes: Shapes) -> Inferred | None:
    """The variant and sizes of a UNETR++; tensors tell how many voxels the image has, not its three sides."""
    encoder, decoder = "unetr_pp_encoder", "decoder5.decoder_block.0"
    attention = f"{encoder}.stages.0.0.epa_block"
    stem = shapes.get(f"{encoder}.downsample_layers.0.0.conv.weight")
    bottom = shapes.get(f"{encoder}.stages.3.0.pos_embed")
    ends = [shapes.get(name) for name in ("encoder1.conv1.conv.weight", "out1.conv.conv.weight")]
    entry, out = ends
    if stem is None or bottom is None or entry is None or out is None:
        return None
    if f"{attention}.EF" in shapes:
        names = ["tumor"]
    elif f"{encoder}.stages.0.0.conv52.conv1.conv.weight" in shapes:
        names = ["acdc", "lung"]  # the same network for images of different sizes
    else:
        names = ["synapse"]
    patch = stem[2:]
    sizes = {name: VARIANTS[name].img_size for name in names if VARIANTS[name].patch_size == patch}
    fitting = [name for name, size in sizes.items() if _bottom(size, patch) == bottom[1]]
    if fitting:
        variant, img_size = fitting[0], list(sizes[fitting[0]])
        told = f"the published {img_size}"
    else:
        variant = names[0]
        img_size = _image(bottom[1], patch, VARIANTS[variant])
        told = f"{img_size}"

    def projected(block: str) -> int:
        matrix = shapes.get(f"{block}.epa_block.EF")
        return matrix[1] if matrix else shapes[f"{block}.epa_block.E.weight"][0]

    config: Document = {
        "in_channels": entry[1],
        "out_channels": out[0],
        "img_size": img_size,
        "feature_size": entry[0],
        "num_heads": shapes[f"{attention}.temperature"][0],
        "norm_name": norm_spec(shapes, "encoder1.norm1"),
        "depths": [length(shapes, f"{encoder}.stages.{i}.") for i in range(4)],
        "dims": [shapes[f"{encoder}.stages.{i}.0.gamma"][0] for i in range(4)],
        "do_ds": "out2.conv.conv.weight" in shapes,
        "variant": variant,
        "patch_size": list(patch),
        "proj_size": [projected(f"{encoder}.stages.{i}.0") for i in range(4)],
        "decoder_proj_size": projected(f"{decoder}.0"),
        "decoder_depth": length(shapes, f"{decoder}."),
        "decoder_num_heads": shapes[f"{decoder}.0.epa_block.temperature"][0],
    }
    unsure = {"img_size": f"img_size: tensors tell its voxels alone; {told} taken"}
    return Inferred(f"unetrpp_{variant}", config, unsure | unsure_norm(config, "norm_name"))


def _bottom(img_size: Sequence[int], patch: Sequence[int]) -> int:
    return prod(n // p // 8 for n, p in zip(img_size, patch, strict=True))


def _image(tokens: int, patch: Sequence[int], variant: Variant) -> list[int]:
    """The image with so many tokens at the bottom whose sides differ least, in ratio, from the published ones."""
    sides = [n for n in range(1, tokens + 1) if tokens % n == 0]
    grids = [[a, b, tokens // a // b] for a in sides for b in sides if tokens // a % b == 0]
    published = [n // p // 8 for n, p in zip(variant.img_size, variant.patch_size, strict=True)]

    def unlike(grid: Sequence[int]) -> float:
        ratios = [n / like for n, like in zip(grid, published, strict=True)]
        return max(ratios) / min(ratios)

    likest = min(grids, key=unlike)
    return [8 * n * p for n, p in zip(likest, patch, strict=True)]
