"""3D UX-Net (Lee et al., ICLR 2023): large depth-wise kernels in the encoder, UNETR's decoder.

Facts: MASILab/3DUX-Net at 14ea46b, and its first revisions for the dense form.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcli.documents import Document
from segcli.networks.blocks import ChannelNorm, Spec, UpBlock, layer, norm_spec, output_block, unsure_norm
from segcli.networks.registry import About, Inferred, Shapes, Small, length


class PointwiseMLP(nn.Module):
    """What follows the spatial convolution in a block: norm, widen, GELU, narrow, scale, add the input.

    With `dense` the two 1x1x1 convolutions mix channels. The published form does not: channel c feeds hidden
    channels 4c to 4c+3 only. A subclass makes `y`, the spatially mixed input.
    """

    def __init__(self, channels: int, dense: bool) -> None:
        super().__init__()
        groups = 1 if dense else channels
        self.norm = ChannelNorm(channels)
        self.pwconv1 = nn.Conv3d(channels, 4 * channels, 1, groups=groups)
        self.pwconv2 = nn.Conv3d(4 * channels, channels, 1, groups=groups)
        self.gamma = nn.Parameter(torch.full((channels,), 1e-6))

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        y = self.pwconv2(F.gelu(self.pwconv1(self.norm(y))))  # (N, 4C, D, H, W) inside
        return x + self.gamma.view(-1, 1, 1, 1) * y


class UXBlock(PointwiseMLP):
    """A depth-wise convolution over a large neighbourhood, then a pointwise network for each voxel."""

    def __init__(self, channels: int, kernel: int, dense: bool) -> None:
        super().__init__(channels, dense)
        self.dwconv = nn.Conv3d(channels, channels, kernel, padding=kernel // 2, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.add(x, self.dwconv(x))


class UXEncoder(nn.Module):
    """Four maps at 1/2, 1/4, 1/8 and 1/16 of the input's size."""

    def __init__(
        self, in_chans: int, depths: Sequence[int], widths: Sequence[int], block: Callable[[int], nn.Module]
    ) -> None:
        super().__init__()
        stem = nn.Sequential(nn.Conv3d(in_chans, widths[0], 7, stride=2, padding=3), ChannelNorm(widths[0]))
        halvings = [nn.Sequential(ChannelNorm(a), nn.Conv3d(a, b, 2, stride=2)) for a, b in pairwise(widths)]
        self.downsample_layers = nn.ModuleList([stem, *halvings])
        self.stages = nn.ModuleList(
            nn.Sequential(*[block(width) for _ in range(depth)]) for depth, width in zip(depths, widths, strict=True)
        )
        for i, width in enumerate(widths):
            self.add_module(f"norm{i}", ChannelNorm(width))

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for i, (down, stage) in enumerate(zip(self.downsample_layers, self.stages, strict=True)):
            x = stage(down(x))  # (N, widths[i], D/2^(i+1), ...)
            maps.append(getattr(self, f"norm{i}")(x))  # the next stage gets x before this norm
        return maps


class UXDecoder(nn.Module):
    """From the image and the four maps of an encoder to logits."""

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        widths: Sequence[int],
        hidden_size: int,
        norm_name: Spec,
        res_block: bool,
    ) -> None:
        super().__init__()
        chain = [in_chans, *widths, hidden_size]
        for i, (a, b) in enumerate(pairwise(chain), start=1):
            self.add_module(f"encoder{i}", layer(a, b, norm_name, res_block))
        for i in (5, 4, 3, 2):
            self.add_module(f"decoder{i}", UpBlock(chain[i], chain[i - 1], norm_name=norm_name, residual=res_block))
        self.decoder1 = layer(widths[0], widths[0], norm_name, res_block)
        # Officially the output block takes 48 channels whatever feat_size says; every published file has 48.
        self.out = output_block(widths[0], out_chans)

    def decode(self, x: Tensor, maps: Sequence[Tensor]) -> Tensor:
        skips = [getattr(self, f"encoder{i}")(y) for i, y in enumerate([x, *maps], start=1)]
        u = skips.pop()  # (N, hidden_size, D/16, H/16, W/16)
        for i in (5, 4, 3, 2):
            u = getattr(self, f"decoder{i}")(u, skips.pop())
        return self.out(self.decoder1(u))


class UXNet3D(UXDecoder):
    """3D UX-Net.

    x        (N, in_chans, D, H, W), each size a multiple of 16
    returns  (N, out_chans, D, H, W), logits

    pointwise    "depthwise" (published weights) or "dense" (the repository's first revisions)
    kernel_size  7; one early revision had 13
    drop_path_rate, layer_scale_init_value, conv_block: official arguments without effect after training
    """

    def __init__(
        self,
        in_chans: int = 1,
        out_chans: int = 13,
        depths: Sequence[int] = (2, 2, 2, 2),
        feat_size: Sequence[int] = (48, 96, 192, 384),
        drop_path_rate: float = 0,
        layer_scale_init_value: float = 1e-6,
        hidden_size: int = 768,
        norm_name: Spec = "instance",
        conv_block: bool = True,
        res_block: bool = True,
        spatial_dims: int = 3,
        pointwise: str = "depthwise",
        kernel_size: int = 7,
    ) -> None:
        if spatial_dims != 3:
            raise ValueError(f"3D UX-Net has 3 dimensions, not {spatial_dims}")
        super().__init__(in_chans, out_chans, feat_size, hidden_size, norm_name, res_block)
        block = partial(UXBlock, kernel=kernel_size, dense=is_dense(pointwise))
        self.uxnet_3d = UXEncoder(in_chans, depths, feat_size, block)

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(x, self.uxnet_3d(x))


ABOUT = About("3D UX-Net", "Lee et al. 2022, arXiv:2209.15076", "3-D")
FAMILIES: dict[str, Callable[..., nn.Module]] = {
    "uxnet3d": UXNet3D,
    "uxnet3d_legacy_dense": partial(UXNet3D, pointwise="dense"),
}

SMALL = dict.fromkeys(
    ("uxnet3d", "uxnet3d_legacy_dense"),
    Small({"feat_size": [8, 16, 24, 32], "depths": [1, 2, 1, 1], "hidden_size": 48}, counted=("in_chans", "out_chans")),
)

# MONAI before 0.9 stored, and never applied, a shortcut convolution where widths are equal.
INERT = [r"decoder1\.layer\.conv3\.conv\.weight"]


def infer(shapes: Shapes) -> Inferred | None:
    """The sizes of a 3D UX-Net, all of which its tensors tell."""
    config = infer_sizes(shapes, "uxnet_3d")
    if config is None or "uxnet_3d.stages.0.0.dwconv.weight" not in shapes:
        return None
    config["kernel_size"] = shapes["uxnet_3d.stages.0.0.dwconv.weight"][2]
    return Inferred("uxnet3d", config, unsure_norm(config, "norm_name"))


def infer_sizes(shapes: Shapes, encoder: str) -> Document | None:
    """The arguments that every network with this decoder has; None when this `encoder` is not there."""
    stem = f"{encoder}.downsample_layers.0.0.weight"
    telling = (
        stem,
        "encoder5.layer.conv1.conv.weight",
        "out.conv.conv.weight",
        f"{encoder}.stages.3.0.gamma",
    )
    if not all(name in shapes for name in telling):
        return None
    dense = shapes[f"{encoder}.stages.0.0.pwconv1.weight"][1] != 1
    return {
        "in_chans": shapes[stem][1],
        "out_chans": shapes["out.conv.conv.weight"][0],
        "depths": [length(shapes, f"{encoder}.stages.{i}.") for i in range(4)],
        "feat_size": [shapes[f"{encoder}.stages.{i}.0.gamma"][0] for i in range(4)],
        "hidden_size": shapes["encoder5.layer.conv1.conv.weight"][0],
        "norm_name": norm_spec(shapes, "encoder1.layer.norm1"),
        "res_block": "decoder2.conv_block.conv3.conv.weight" in shapes,
        "pointwise": "dense" if dense else "depthwise",
    }


def is_dense(pointwise: str) -> bool:
    """Whether 1x1x1 convolutions mix channels; only the two published words are taken."""
    if pointwise not in ("depthwise", "dense"):
        raise ValueError(f"pointwise is 'depthwise' or 'dense', not {pointwise!r}")
    return pointwise == "dense"
