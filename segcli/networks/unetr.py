"""UNETR (Hatamizadeh et al., 2021): a vision transformer over patches as the encoder, convolutions as the decoder.

Two implementations with weights of their own: MONAI's, of which the published checkpoint is, and that of
tamasino52/UNETR at eeb5277, as its article prints it and as its repository has it.
"""

import math
from collections import OrderedDict
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
    BasicBlock,
    ResidualBlock,
    Spec,
    UpBlock,
    conv_transposed,
    layer,
    norm_spec,
    output_block,
    under,
    unsure_norm,
)
from segcli.networks.registry import About, Inferred, Shapes, Small, length

PATCH = 16

# ---- MONAI ---------------------------------------------------------------------------------------------------


class PatchEmbedding(nn.Module):
    """One token for each patch of 16 voxels along each axis, with its place added.

    x        (N, C, D, H, W), without D for slices
    returns  (N, D/16 * H/16 * W/16, hidden), the last axis fastest
    """

    def __init__(self, in_channels: int, img_size: Sequence[int], hidden_size: int, proj_type: str) -> None:
        super().__init__()
        if proj_type not in ("conv", "perceptron"):
            raise ValueError(f"proj_type is 'conv' or 'perceptron', not {proj_type!r}")
        self.grid = [s // PATCH for s in img_size]
        self.perceptron = proj_type == "perceptron"
        dims = len(self.grid)
        linear = nn.Linear(in_channels * PATCH**dims, hidden_size)
        self.patch_embeddings: nn.Module = (
            nn.Sequential(OrderedDict([("1", linear)]))  # officially "0" cuts the patches
            if self.perceptron
            else CONVOLUTIONS[dims](in_channels, hidden_size, PATCH, PATCH)
        )
        self.position_embeddings = nn.Parameter(torch.zeros(1, math.prod(self.grid), hidden_size))

    def forward(self, x: Tensor) -> Tensor:
        if self.perceptron:
            c, dims = x.shape[1], len(self.grid)
            x = x.reshape(-1, c, *(n for along in self.grid for n in (along, PATCH)))
            x = x.permute(0, *range(2, 2 * dims + 1, 2), *range(3, 2 * dims + 2, 2), 1)
            x = x.reshape(-1, math.prod(self.grid), PATCH**dims * c)  # channel fastest
            tokens = self.patch_embeddings(x)
        else:
            tokens = self.patch_embeddings(x).flatten(2).transpose(1, 2)
        return tokens + self.position_embeddings


class Attention(nn.Module):
    """Every token attends to every token."""

    def __init__(self, hidden_size: int, num_heads: int, qkv_bias: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size, bias=qkv_bias)
        self.out_proj = nn.Linear(hidden_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        n, c = x.shape[1:]
        qkv = self.qkv(x).reshape(-1, n, 3, self.num_heads, c // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)  # each (N, heads, n, c / heads)
        return self.out_proj(attend(q, k, v))


class TransformerBlock(nn.Module):
    """Attention, then an MLP, each on a normed input and added to it."""

    def __init__(self, hidden_size: int, mlp_dim: int, num_heads: int, qkv_bias: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(hidden_size)
        self.attn = Attention(hidden_size, num_heads, qkv_bias)
        self.norm2 = nn.LayerNorm(hidden_size)
        self.mlp = MLP(hidden_size, mlp_dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """The tokens after the last block, normed, and what each of the twelve blocks gave, not normed."""

    def __init__(
        self,
        in_channels: int,
        img_size: Sequence[int],
        hidden_size: int,
        mlp_dim: int,
        num_heads: int,
        proj_type: str,
        qkv_bias: bool,
    ) -> None:
        super().__init__()
        self.patch_embedding = PatchEmbedding(in_channels, img_size, hidden_size, proj_type)
        self.blocks = nn.ModuleList(TransformerBlock(hidden_size, mlp_dim, num_heads, qkv_bias) for _ in range(12))
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = self.patch_embedding(x)
        hidden = []
        for block in self.blocks:
            x = block(x)
            hidden.append(x)
        return self.norm(x), hidden


class ProjectionUp(nn.Module):
    """A token map at 2, 4, 8 ... times its resolution: one up-sampling, then `stages` more, each with its block."""

    def __init__(
        self, hidden_size: int, width: int, stages: int, norm_name: Spec, conv_block: bool, res_block: bool, dims: int
    ) -> None:
        super().__init__()
        self.transp_conv_init = conv_transposed(hidden_size, width, 2, 2, dims=dims)

        def stage() -> nn.Module:
            up = conv_transposed(width, width, 2, 2, dims=dims)
            if not conv_block:
                return up
            block = ResidualBlock if res_block else BasicBlock
            return nn.Sequential(up, block(width, width, norm_name=norm_name, dims=dims))

        self.blocks = nn.ModuleList(stage() for _ in range(stages))

    def forward(self, x: Tensor) -> Tensor:
        x = self.transp_conv_init(x)
        for block in self.blocks:
            x = block(x)
        return x


class UNETR(nn.Module):
    """MONAI's UNETR, the network of the published checkpoint.

    x        (N, in_channels, *img_size), each size a multiple of 16; two sizes where spatial_dims is 2
    returns  (N, out_channels, *img_size), logits

    pos_embed is the name of proj_type before MONAI 1.4; dropout_rate has no effect after training.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        img_size: int | Sequence[int],
        feature_size: int = 16,
        hidden_size: int = 768,
        mlp_dim: int = 3072,
        num_heads: int = 12,
        proj_type: str = "conv",
        norm_name: Spec = "instance",
        conv_block: bool = True,
        res_block: bool = True,
        dropout_rate: float = 0.0,
        spatial_dims: int = 3,
        qkv_bias: bool = False,
        pos_embed: str | None = None,
    ) -> None:
        size = (img_size,) * spatial_dims if isinstance(img_size, int) else tuple(img_size)
        if len(size) != spatial_dims or any(s % PATCH for s in size):
            raise ValueError(f"img_size {size} is not of {spatial_dims} axes, each a multiple of {PATCH}")
        super().__init__()
        f = feature_size
        self.vit = ViT(in_channels, size, hidden_size, mlp_dim, num_heads, pos_embed or proj_type, qkv_bias)
        self.encoder1 = layer(in_channels, f, norm_name, res_block, spatial_dims)
        for i, (width, stages) in enumerate(((2 * f, 2), (4 * f, 1), (8 * f, 0)), start=2):
            up = ProjectionUp(hidden_size, width, stages, norm_name, conv_block, res_block, spatial_dims)
            self.add_module(f"encoder{i}", up)
        for i, (a, b) in zip((5, 4, 3, 2), pairwise((hidden_size, 8 * f, 4 * f, 2 * f, f)), strict=True):
            up_block = UpBlock(a, b, norm_name=norm_name, residual=res_block, dims=spatial_dims)
            self.add_module(f"decoder{i}", up_block)
        self.out = output_block(f, out_channels, spatial_dims)

    def forward(self, x: Tensor) -> Tensor:
        tokens, hidden = self.vit(x)
        grid = self.vit.patch_embedding.grid
        skips = [self.encoder1(x)]
        for i, block in ((2, 3), (3, 6), (4, 9)):  # counted from 0: the fourth, seventh and tenth block
            skips.append(getattr(self, f"encoder{i}")(to_map(hidden[block], grid)))
        u = to_map(tokens, grid)  # (N, hidden, D/16, H/16, W/16)
        for i in (5, 4, 3, 2):
            u = getattr(self, f"decoder{i}")(u, skips.pop())
        return self.out(u)


# ---- tamasino52 ----------------------------------------------------------------------------------------------


class Embeddings(nn.Module):
    """One token for each patch, with its place added."""

    def __init__(self, input_dim: int, embed_dim: int, tokens: int, patch_size: int) -> None:
        super().__init__()
        self.patch_embeddings = nn.Conv3d(input_dim, embed_dim, patch_size, patch_size)
        self.position_embeddings = nn.Parameter(torch.zeros(1, tokens, embed_dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.patch_embeddings(x).flatten(2).transpose(1, 2) + self.position_embeddings


class SelfAttention(nn.Module):
    """Every token attends to every token; query, key and value are layers of their own."""

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(embed_dim, embed_dim)
        self.key = nn.Linear(embed_dim, embed_dim)
        self.value = nn.Linear(embed_dim, embed_dim)
        self.out = nn.Linear(embed_dim, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self._heads(linear(x)) for linear in (self.query, self.key, self.value))
        return self.out(attend(q, k, v))

    def _heads(self, x: Tensor) -> Tensor:
        n, c = x.shape[1:]
        return x.reshape(-1, n, self.num_heads, c // self.num_heads).transpose(1, 2)


class FeedForward(nn.Module):
    """Two linear layers with ReLU between them (not GELU: so it is in this implementation)."""

    def __init__(self, embed_dim: int, hidden: int) -> None:
        super().__init__()
        self.w_1 = nn.Linear(embed_dim, hidden)
        self.w_2 = nn.Linear(hidden, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.w_2(F.relu(self.w_1(x)))


class TransformerLayer(nn.Module):
    """Attention, then a feed-forward network, each on a normed input and added to it."""

    def __init__(self, embed_dim: int, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.mlp_norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.mlp = FeedForward(embed_dim, hidden)
        self.attn = SelfAttention(embed_dim, num_heads)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class Transformer(nn.Module):
    """What the layers of `extract_layers`, counted from 1, gave. There is no norm after the last one."""

    def __init__(
        self,
        input_dim: int,
        embed_dim: int,
        tokens: int,
        patch_size: int,
        num_heads: int,
        hidden: int,
        num_layers: int,
        extract_layers: Sequence[int],
    ) -> None:
        super().__init__()
        self.extract_layers = tuple(extract_layers)
        self.embeddings = Embeddings(input_dim, embed_dim, tokens, patch_size)
        self.layer = nn.ModuleList(TransformerLayer(embed_dim, num_heads, hidden) for _ in range(num_layers))

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.embeddings(x)
        extracted = []
        for i, one in enumerate(self.layer, start=1):
            x = one(x)
            if i in self.extract_layers:
                extracted.append(x)
        return extracted


def single_conv(a: int, b: int, kernel: int = 3) -> nn.Module:
    return nn.Sequential(OrderedDict(block=nn.Conv3d(a, b, kernel, padding=kernel // 2)))


def single_up(a: int, b: int) -> nn.Module:
    return nn.Sequential(OrderedDict(block=nn.ConvTranspose3d(a, b, 2, 2)))


def conv_norm(a: int, b: int) -> nn.Module:
    return under("block", single_conv(a, b), nn.BatchNorm3d(b), nn.ReLU())


def up_conv_norm(a: int, b: int) -> nn.Module:
    return under("block", single_up(a, b), single_conv(b, b), nn.BatchNorm3d(b), nn.ReLU())


class TamasinoUNETR(nn.Module):
    """tamasino52's UNETR.

    x        (N, input_dim, *img_shape), each size a multiple of patch_size
    returns  (N, output_dim, *img_shape), logits

    decoder9_upsampler_convs  2 as the article prints it, 3 as the repository has it
    decoder_widths, mlp_hidden, num_layers, extract_layers: literal numbers in the official code; dropout has no
    effect after training.
    """

    def __init__(
        self,
        img_shape: Sequence[int] = (128, 128, 128),
        input_dim: int = 4,
        output_dim: int = 3,
        embed_dim: int = 768,
        patch_size: int = 16,
        num_heads: int = 12,
        dropout: float = 0.1,
        decoder_widths: Sequence[int] = (512, 256, 128, 64, 32),
        mlp_hidden: int = 2048,
        decoder9_upsampler_convs: int = 2,
        num_layers: int = 12,
        extract_layers: Sequence[int] = (3, 6, 9, 12),
    ) -> None:
        super().__init__()
        e, (w512, w256, w128, w64, w32) = embed_dim, decoder_widths
        self.grid = [s // patch_size for s in img_shape]
        self.transformer = Transformer(
            input_dim, e, math.prod(self.grid), patch_size, num_heads, mlp_hidden, num_layers, extract_layers
        )
        self.decoder0 = nn.Sequential(conv_norm(input_dim, w32), conv_norm(w32, w64))
        self.decoder3 = nn.Sequential(up_conv_norm(e, w512), up_conv_norm(w512, w256), up_conv_norm(w256, w128))
        self.decoder6 = nn.Sequential(up_conv_norm(e, w512), up_conv_norm(w512, w256))
        self.decoder9 = up_conv_norm(e, w512)
        self.decoder12_upsampler = single_up(e, w512)
        middle = [conv_norm(w512, w512) for _ in range(decoder9_upsampler_convs - 1)]
        self.decoder9_upsampler = nn.Sequential(conv_norm(2 * w512, w512), *middle, single_up(w512, w256))
        self.decoder6_upsampler = nn.Sequential(conv_norm(2 * w256, w256), conv_norm(w256, w256), single_up(w256, w128))
        self.decoder3_upsampler = nn.Sequential(conv_norm(2 * w128, w128), conv_norm(w128, w128), single_up(w128, w64))
        self.decoder0_header = nn.Sequential(
            conv_norm(2 * w64, w64), conv_norm(w64, w64), single_conv(w64, output_dim, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        z3, z6, z9, z12 = (to_map(z, self.grid) for z in self.transformer(x))
        u = self.decoder12_upsampler(z12)
        u = self.decoder9_upsampler(torch.cat((self.decoder9(z9), u), 1))
        u = self.decoder6_upsampler(torch.cat((self.decoder6(z6), u), 1))
        u = self.decoder3_upsampler(torch.cat((self.decoder3(z3), u), 1))
        return self.decoder0_header(torch.cat((self.decoder0(x), u), 1))


# ---- both ----------------------------------------------------------------------------------------------------


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention, heads side by side again: (N, heads, n, c) three times to (N, n, heads * c)."""
    weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def to_map(tokens: Tensor, grid: Sequence[int]) -> Tensor:
    """(N, d * h * w, C) as (N, C, d, h, w)."""
    return tokens.transpose(1, 2).reshape(-1, tokens.shape[2], *grid)


ABOUT = About(
    "UNETR, MONAI's and tamasino52's",
    "Hatamizadeh et al. 2021, arXiv:2103.10504",
    "2-D and 3-D",
    "the attention heads, and the window unless it is a cube",
)
FAMILIES: dict[str, Callable[..., nn.Module]] = {
    "unetr": UNETR,
    "unetr_monai": UNETR,
    "unetr_tamasino_article": TamasinoUNETR,
    "unetr_tamasino_upstream": partial(TamasinoUNETR, decoder9_upsampler_convs=3),
}

_SMALL_TAMASINO = Small(
    {"img_shape": [32, 32, 32], "embed_dim": 24, "num_heads": 3, "mlp_hidden": 48, "decoder_widths": [32, 16, 8, 8, 8]},
    counted=("input_dim", "output_dim"),
)
SMALL = {
    "unetr": Small({"img_size": [32, 32, 32], "feature_size": 8, "hidden_size": 48, "mlp_dim": 96, "num_heads": 4}),
    "unetr_tamasino_article": _SMALL_TAMASINO,
    "unetr_tamasino_upstream": _SMALL_TAMASINO,
}

INERT = [
    r"transformer\.encoder_norm\.(weight|bias)",  # tamasino52: made, never applied
    r"vit\.patch_embedding\.cls_token",  # MONAI before 0.9
    r"encoder[23]\.blocks\.[01]\.1\.conv3\.conv\.weight",  # MONAI before 0.9: shortcuts of equal widths
    r"vit\.blocks\.\d+\.(norm_cross_attn|cross_attn)\..*",  # MONAI from 1.4
]


def infer(shapes: Shapes) -> Inferred | None:
    """The sizes of a UNETR; its tensors do not tell the number of heads, nor the input's shape unless it is a cube."""
    if "vit.patch_embedding.position_embeddings" in shapes and "out.conv.conv.weight" in shapes:
        return _infer_monai(shapes)
    if "transformer.embeddings.position_embeddings" in shapes and "decoder0_header.2.block.weight" in shapes:
        return _infer_tamasino(shapes)
    return None


def _infer_monai(shapes: Shapes) -> Inferred | None:
    perceptron = "vit.patch_embedding.patch_embeddings.1.weight" in shapes
    embedding = "vit.patch_embedding.patch_embeddings." + ("1.weight" if perceptron else "weight")
    tokens, hidden = shapes["vit.patch_embedding.position_embeddings"][1:]
    if embedding not in shapes or "encoder1.layer.conv1.conv.weight" not in shapes:
        return None
    dims = len(shapes["encoder1.layer.conv1.conv.weight"]) - 2
    shape, heads, unsure = _unknown("img_size", tokens, hidden, dims=dims)
    conv_block = "encoder2.blocks.0.0.conv.weight" in shapes
    config: Document = {
        "in_channels": shapes["encoder1.layer.conv1.conv.weight"][1],
        "out_channels": shapes["out.conv.conv.weight"][0],
        "img_size": shape,
        "feature_size": shapes["encoder1.layer.conv1.conv.weight"][0],
        "hidden_size": hidden,
        "mlp_dim": shapes["vit.blocks.0.mlp.linear1.weight"][0],
        "num_heads": heads,
        "proj_type": "perceptron" if perceptron else "conv",
        "norm_name": norm_spec(shapes, "encoder1.layer.norm1"),
        "conv_block": conv_block,
        "res_block": "decoder2.conv_block.conv3.conv.weight" in shapes,
        "qkv_bias": "vit.blocks.0.attn.qkv.bias" in shapes,
        **({"spatial_dims": 2} if dims == 2 else {}),
    }
    unsure |= unsure_norm(config, "norm_name")
    return Inferred("unetr_monai", config, unsure, open=() if len(set(shape)) == 1 else ("img_size",))


def _infer_tamasino(shapes: Shapes) -> Inferred:
    tokens, embed = shapes["transformer.embeddings.position_embeddings"][1:]
    patches = shapes["transformer.embeddings.patch_embeddings.weight"]
    shape, heads, unsure = _unknown("img_shape", tokens, embed, patches[2])
    widths = [shapes[f"decoder3.{i}.block.2.weight"][0] for i in range(3)]
    widths += [shapes[f"decoder0.{i}.block.1.weight"][0] for i in (1, 0)]
    layers = length(shapes, "transformer.layer.")
    article = "decoder9_upsampler.2.block.weight" in shapes
    config: Document = {
        "img_shape": shape,
        "input_dim": patches[1],
        "output_dim": shapes["decoder0_header.2.block.weight"][0],
        "embed_dim": embed,
        "patch_size": patches[2],
        "num_heads": heads,
        "decoder_widths": widths,
        "mlp_hidden": shapes["transformer.layer.0.mlp.w_1.weight"][0],
        "num_layers": layers,
        "extract_layers": [layers * i // 4 for i in (1, 2, 3, 4)],
    }
    family = f"unetr_tamasino_{'article' if article else 'upstream'}"
    return Inferred(family, config, unsure, open=() if len(set(shape)) == 1 else ("img_shape",))


def _unknown(
    size: str, tokens: int, width: int, patch: int = PATCH, dims: int = 3
) -> tuple[list[int], int, dict[str, str]]:
    """The input's shape, a cube if there can be one, the published twelve heads, and what is unsure about both."""
    edge = round(tokens ** (1 / dims))
    cube = edge**dims == tokens
    shape = [edge * patch] * dims if cube else [*[patch] * (dims - 1), tokens * patch]
    heads = next(h for h in (12, 8, 6, 4, 3, 2, 1) if width % h == 0)
    told = f"{size}: tensors tell {tokens} patches of {patch} voxels a side; "
    return (
        shape,
        heads,
        {
            size: told + (f"{shape} taken" if cube else f"they make no {'cube' if dims == 3 else 'square'}"),
            "num_heads": f"the attention heads: {heads}",
        },
    )
