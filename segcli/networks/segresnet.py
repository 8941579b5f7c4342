"""SegResNet (Myronenko, 2018): a wide residual encoder, sums instead of joins on the way up.

Facts: MONAI 0.9 to 1.6, `networks.nets.SegResNet` and `SegResNetDS`.
"""

import math
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from segcli.documents import Document
from segcli.networks.blocks import (
    CONVOLUTIONS,
    INSTANCE,
    Size,
    Spec,
    UpSample,
    activation,
    conv,
    each_axis,
    named,
    norm_of,
    norm_spec,
    upsampling,
)
from segcli.networks.blocks import norm as normalisation
from segcli.networks.registry import About, Inferred, Shapes, Small, length

GROUPS_OF_8: Spec = ("GROUP", {"num_groups": 8})


class PreActivationBlock(nn.Module):
    """Twice norm, activation, convolution; the input is added.

    make  says under which name convolutions are
    acts  names of the first and the second activation; one name is one module
    """

    def __init__(
        self,
        channels: int,
        norm_spec: Spec,
        act: Spec,
        dims: int,
        make: Callable[..., nn.Module],
        kernel: Size = 3,
        acts: tuple[str, str] = ("act", "act"),
    ) -> None:
        super().__init__()
        self.norm1 = normalisation(norm_spec, channels, dims)
        self.norm2 = normalisation(norm_spec, channels, dims)
        self.acts = acts
        for name in sorted(set(acts)):
            self.add_module(name, activation(act))
        self.conv1 = make(channels, channels, kernel, dims=dims)
        self.conv2 = make(channels, channels, kernel, dims=dims)

    def forward(self, x: Tensor) -> Tensor:
        act1, act2 = (self.get_submodule(name) for name in self.acts)
        y = self.conv1(act1(self.norm1(x)))
        return x + self.conv2(act2(self.norm2(y)))


class SegResNet(nn.Module):
    """SegResNet.

    x        (N, in_channels, D, H, W), each size a multiple of 2^(levels - 1)
    returns  (N, out_channels, D, H, W), logits

    norm_name, num_groups  how MONAI once stated group norm: "group" wins over norm
    dropout_prob has no effect after training.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        init_filters: int = 8,
        in_channels: int = 1,
        out_channels: int = 2,
        dropout_prob: float | None = None,
        act: Spec = ("RELU", {"inplace": True}),
        norm: Spec = GROUPS_OF_8,
        norm_name: str | None = None,
        num_groups: int = 8,
        use_conv_final: bool = True,
        blocks_down: Sequence[int] = (1, 2, 2, 4),
        blocks_up: Sequence[int] = (1, 1, 1),
        upsample_mode: str = "nontrainable",
    ) -> None:
        if not use_conv_final:
            raise ValueError("SegResNet without its final convolution gives features, not logits")
        if len(blocks_up) != len(blocks_down) - 1:
            raise ValueError(f"blocks_up needs {len(blocks_down) - 1} numbers, not {len(blocks_up)}")
        if norm_name and norm_name.lower() != "group":
            raise ValueError(f"norm_name is 'group' or empty, not {norm_name!r}; norm has the others")
        if norm_name:
            norm = ("group", {"num_groups": num_groups})
        super().__init__()
        dims = spatial_dims

        def blocks(width: int, count: int) -> list[nn.Module]:
            return [PreActivationBlock(width, norm, act, dims, conv) for _ in range(count)]

        self.convInit = conv(in_channels, init_filters, 3, dims=dims)
        self.down_layers = nn.ModuleList()
        for i, count in enumerate(blocks_down):
            width = init_filters * 2**i
            entry = conv(width // 2, width, 3, 2, dims=dims) if i else nn.Identity()
            self.down_layers.append(nn.Sequential(entry, *blocks(width, count)))
        self.up_samples = nn.ModuleList()
        self.up_layers = nn.ModuleList()
        for i, count in enumerate(blocks_up):
            width = init_filters * 2 ** (len(blocks_up) - 1 - i)
            up = UpSample(width, width, upsample_mode, align_corners=False, dims=dims)
            self.up_samples.append(nn.Sequential(conv(2 * width, width, 1, dims=dims), up))
            self.up_layers.append(nn.Sequential(*blocks(width, count)))
        final = conv(init_filters, out_channels, 1, bias=True, dims=dims)
        self.conv_final = nn.Sequential(normalisation(norm, init_filters, dims), activation(act), final)

    def forward(self, x: Tensor) -> Tensor:
        x = self.convInit(x)
        skips = []
        for down in self.down_layers:
            x = down(x)  # (N, init_filters * 2^i, D / 2^i, ...)
            skips.append(x)
        skips.pop()
        for up, blocks in zip(self.up_samples, self.up_layers, strict=True):
            x = blocks(up(x) + skips.pop())
        return self.conv_final(x)


class SegResNetDS(nn.Module):
    """SegResNetDS, of MONAI's Auto3DSeg.

    x        (N, in_channels, D, H, W), each size a multiple of 2^(levels - 1)
    returns  (N, out_channels, D, H, W), logits of the full size

    norm        instance norm has scales here, unless its options say "affine": False
    dsdepth     how many levels have a head; those of lower levels serve training only
    resolution  spacing of the images: coarse axes are neither halved nor convolved over until the others are as coarse
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        init_filters: int = 32,
        in_channels: int = 1,
        out_channels: int = 2,
        act: Spec = "relu",
        norm: Spec = "batch",
        blocks_down: Sequence[int] = (1, 2, 2, 4),
        blocks_up: Sequence[int] | None = None,
        dsdepth: int = 1,
        upsample_mode: str = "deconv",
        resolution: Sequence[float] | None = None,
    ) -> None:
        if resolution is not None and (len(resolution) != spatial_dims or min(resolution) <= 0):
            raise ValueError(f"resolution is {spatial_dims} numbers above 0, not {resolution}")
        super().__init__()
        norm = _with_scales(norm)
        dims, levels = spatial_dims, len(blocks_down)
        widths = [init_filters * 2**i for i in range(levels)]
        strides = _strides(resolution or [1] * dims, levels)
        kernels = [[3 if s > 1 else 1 for s in stride] for stride in strides]

        def blocks(level: int, count: int) -> nn.Module:
            width, kernel = widths[level], kernels[level]
            acts = ("act1", "act2")
            return nn.Sequential(
                *[PreActivationBlock(width, norm, act, dims, _plain_conv, kernel, acts) for _ in range(count)]
            )

        self.encoder = _Encoder(
            _plain_conv(in_channels, init_filters, kernels[0], dims=dims),
            [blocks(i, count) for i, count in enumerate(blocks_down)],
            [_plain_conv(widths[i], 2 * widths[i], kernels[i], strides[i], dims) for i in range(levels - 1)],
        )
        self.up_layers = nn.ModuleList()
        for i, count in enumerate(blocks_up or [1] * (levels - 1)):
            at = levels - 2 - i
            width = widths[at]
            up = UpSample(
                2 * width, width, upsample_mode, kernels[at], strides[at], bias=False, align_corners=False, dims=dims
            )
            level = _UpLevel(up, blocks(at, count))
            if levels - 1 - i <= dsdepth:
                level.head = CONVOLUTIONS[dims](width, out_channels, 1)
            self.up_layers.append(level)

    def forward(self, x: Tensor) -> Tensor:
        skips = self.encoder(x)
        x = skips.pop()
        for level in self.up_layers:
            x = level(x, skips.pop())
        return self.up_layers[-1].get_submodule("head")(x)


class _Encoder(nn.Module):
    """The maps of all levels, the finest first."""

    def __init__(self, conv_init: nn.Module, blocks: Sequence[nn.Module], downsamples: Sequence[nn.Module]) -> None:
        super().__init__()
        self.conv_init = conv_init
        self.layers = nn.ModuleList(
            nn.Sequential(OrderedDict(blocks=b, downsample=d))
            for b, d in zip(blocks, [*downsamples, nn.Identity()], strict=True)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.conv_init(x)
        maps = []
        for level in self.layers:
            maps.append(level.get_submodule("blocks")(x))
            x = level.get_submodule("downsample")(maps[-1])
        return maps


class _UpLevel(nn.Module):
    """A level of the decoder; those that had a head in training still have it."""

    def __init__(self, upsample: nn.Module, blocks: nn.Module) -> None:
        super().__init__()
        self.upsample = upsample
        self.blocks = blocks

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.blocks(self.upsample(x) + skip)


def _with_scales(spec: Spec) -> Spec:
    """The norm as SegResNetDS takes it: instance norm has scales where its options do not say otherwise."""
    name, options = named(spec)
    return (name, {"affine": True, **options}) if name in INSTANCE else spec


def _strides(resolution: Sequence[float], levels: int) -> list[list[int]]:
    """How much smaller each level makes its map along each axis: the coarser axes wait for the finer ones."""
    halvings = [math.floor(math.log2(max(resolution) / step)) for step in resolution]
    return [[2 if i < n or i >= max(halvings) else 1 for n in halvings] for i in range(levels)]


def _plain_conv(in_chans: int, out_chans: int, kernel: Size, stride: Size = 1, dims: int = 3) -> nn.Module:
    k = each_axis(kernel, dims)
    pad: Any = tuple((q - 1) // 2 for q in k)
    return CONVOLUTIONS[dims](in_chans, out_chans, k, each_axis(stride, dims), pad, bias=False)


ABOUT = About(
    "SegResNet and SegResNetDS",
    "Myronenko 2018, arXiv:1810.11654; MONAI's",
    "2-D and 3-D",
    "the groups of the norm, and the activation unless it is PReLU",
)
FAMILIES: dict[str, Callable[..., nn.Module]] = {"segresnet": SegResNet, "segresnetds": SegResNetDS}

SMALL = dict.fromkeys(("segresnet", "segresnetds"), Small({"init_filters": 8}))

INERT = [r"act_mod\.weight"]  # SegResNet: the slope of the last PReLU, which is stored below conv_final as well


def infer(shapes: Shapes) -> Inferred | None:
    """The sizes of a SegResNet or SegResNetDS.

    Its tensors do not tell group from instance norm, nor the activation unless it is PReLU.
    """
    if "convInit.conv.weight" in shapes and "conv_final.2.conv.weight" in shapes:
        return _infer_plain(shapes)
    if "encoder.conv_init.weight" in shapes and "up_layers.0.blocks.0.conv1.weight" in shapes:
        return _infer_ds(shapes)
    return None


def _infer_plain(shapes: Shapes) -> Inferred:
    first = shapes["convInit.conv.weight"]
    kind = norm_spec(shapes, "conv_final.0")
    unsure: dict[str, str] = {}
    if norm_of(shapes, "conv_final.0") == "affine":
        unsure = {"norm": "the norm: instance norm with scales, not groups"}
        if first[0] % 8 == 0:
            kind = ["GROUP", {"num_groups": 8}]
            unsure = {"norm": "the norm: groups of 8, not instance norm with scales"}
    config: Document = {
        "spatial_dims": len(first) - 2,
        "init_filters": first[0],
        "in_channels": first[1],
        "out_channels": shapes["conv_final.2.conv.weight"][0],
        "norm": kind,
        "blocks_down": _counts(shapes, r"down_layers\.(\d+)\.\d+\.conv1\.conv\.weight"),
        "blocks_up": _counts(shapes, r"up_layers\.(\d+)\.\d+\.conv1\.conv\.weight"),
        "upsample_mode": upsampling(shapes, "up_samples.0.1"),
    }
    if "conv_final.1.weight" in shapes:
        return Inferred("segresnet", {**config, "act": "PRELU"}, unsure)
    return Inferred("segresnet", config, {"act": "the activation: ReLU", **unsure})


def _infer_ds(shapes: Shapes) -> Inferred | None:
    first, levels = shapes["encoder.conv_init.weight"], length(shapes, "up_layers.")
    heads = [i for i in range(levels) if f"up_layers.{i}.head.weight" in shapes]
    if not heads:
        return None
    kind = norm_of(shapes, "encoder.layers.0.blocks.0.norm1")
    # Instance norm has scales by default here; groups are always given a number of their own.
    norms: dict[str, Spec] = {"affine": "instance", "instance": ["instance", {"affine": False}]}
    unsure = {"norm": "the norm: instance norm with scales, not groups"} if kind == "affine" else {}
    config: Document = {
        "spatial_dims": len(first) - 2,
        "init_filters": first[0],
        "in_channels": first[1],
        "out_channels": shapes[f"up_layers.{heads[-1]}.head.weight"][0],
        "norm": norms.get(kind, kind),
        "blocks_down": _counts(shapes, r"encoder\.layers\.(\d+)\.blocks\.\d+\.conv1\.weight"),
        "blocks_up": _counts(shapes, r"up_layers\.(\d+)\.blocks\.\d+\.conv1\.weight"),
        "dsdepth": len(heads),
        "upsample_mode": upsampling(shapes, "up_layers.0.upsample"),
    }
    if coarse := _resolution(shapes, len(config["blocks_down"])):
        config["resolution"] = coarse
    if "encoder.layers.0.blocks.0.act1.weight" in shapes:
        return Inferred("segresnetds", {**config, "act": "PRELU"}, unsure)
    return Inferred("segresnetds", config, {"act": "the activation: ReLU", **unsure})


def _resolution(shapes: Shapes, levels: int) -> list[float]:
    """A resolution that gives the kernels of a SegResNetDS; empty when all of them are alike along all axes."""
    kernels = [shapes.get(f"encoder.layers.{i}.blocks.0.conv1.weight", ())[2:] for i in range(levels)]
    thin = [kernel for kernel in kernels if 1 in kernel]
    return [2.0 ** along.count(1) for along in zip(*thin, strict=True)]


def _counts(shapes: Shapes, pattern: str) -> list[int]:
    """How many names match for each level; the pattern's group is the level."""
    levels = [int(found.group(1)) for name in shapes if (found := re.fullmatch(pattern, name))]
    return [levels.count(i) for i in range(max(levels, default=-1) + 1)]
