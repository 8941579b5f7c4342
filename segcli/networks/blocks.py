"""The blocks that several networks share: convolution units with the tensor names of MONAI.

Sizes are plain numbers; `dims` is 2 or 3; kernels and strides are one number or one for each axis. Facts: the
public state dicts and documentation of MONAI 0.6 to 1.6.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcli.documents import Document, Facts

Size = int | Sequence[int]
Spec = (
    str | tuple[str, Document] | list[Any]
)  # "batch", or ("instance", {"affine": True}) as the official constructors take it

CONVOLUTIONS: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, type[nn.ConvTranspose2d] | type[nn.ConvTranspose3d]] = {
    2: nn.ConvTranspose2d,
    3: nn.ConvTranspose3d,
}
INSTANCE_NORMS: dict[int, type[nn.InstanceNorm2d] | type[nn.InstanceNorm3d]] = {
    2: nn.InstanceNorm2d,
    3: nn.InstanceNorm3d,
}
INSTANCE = ("instance", "instance_nvfuser")  # the second computes the same, with kernels of NVIDIA's apex
UPSAMPLING = ("deconv", "deconvgroup", "nontrainable", "pixelshuffle")
BATCH_NORMS: dict[int, type[nn.BatchNorm2d] | type[nn.BatchNorm3d]] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class ChannelNorm(nn.Module):
    """Each voxel's channels have mean 0 and variance 1, then the learned scale and offset.

    x  (N, C, ...); the variance is the biased one
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(channels_last(x), self.weight.shape, self.weight, self.bias, self.eps)
        return channels_first(x)


class BasicBlock(nn.Module):
    """Twice convolution, norm, activation, the latter under the name `lrelu`."""

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        kernel: Size = 3,
        stride: Size = 1,
        norm_name: Spec = "instance",
        act: Spec = ("leakyrelu", {"negative_slope": 0.01, "inplace": True}),
        dims: int = 3,
    ) -> None:
        super().__init__()
        self.conv1 = conv(in_chans, out_chans, kernel, stride, dims=dims)
        self.conv2 = conv(out_chans, out_chans, kernel, dims=dims)
        self.lrelu = activation(act)
        self.norm1 = norm(norm_name, out_chans, dims)
        self.norm2 = norm(norm_name, out_chans, dims)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lrelu(self.norm1(self.conv1(x)))
        return self.lrelu(self.norm2(self.conv2(x)))


class ResidualBlock(BasicBlock):
    """The same with the input added before the last activation.

    Where width or stride differ, a 1x1x1 convolution and a norm project the input first. The activation is `lrelu`
    officially, whichever it is.
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        kernel: Size = 3,
        stride: Size = 1,
        norm_name: Spec = "instance",
        act: Spec = ("leakyrelu", {"negative_slope": 0.01, "inplace": True}),
        dims: int = 3,
    ) -> None:
        super().__init__(in_chans, out_chans, kernel, stride, norm_name, act, dims)
        self.projects = in_chans != out_chans or set(each_axis(stride, dims)) != {1}
        if self.projects:
            self.conv3 = conv(in_chans, out_chans, 1, stride, dims=dims)
            self.norm3 = norm(norm_name, out_chans, dims)

    def forward(self, x: Tensor) -> Tensor:
        y = self.lrelu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        shortcut = self.norm3(self.conv3(x)) if self.projects else x
        return self.lrelu(y + shortcut)


class UpBlock(nn.Module):
    """The deep map at the skip's resolution, joined with the skip by a block.

    x        (N, in_chans, d, h, w)
    skip     (N, out_chans, d*up, h*up, w*up)
    returns  as skip
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        kernel: Size = 3,
        up: Size = 2,
        norm_name: Spec = "instance",
        act: Spec = ("leakyrelu", {"negative_slope": 0.01, "inplace": True}),
        dims: int = 3,
        residual: bool = True,
        trans_bias: bool = False,
    ) -> None:
        super().__init__()
        block = ResidualBlock if residual else BasicBlock
        self.transp_conv = conv_transposed(in_chans, out_chans, up, up, bias=trans_bias, dims=dims)
        self.conv_block = block(2 * out_chans, out_chans, kernel, norm_name=norm_name, act=act, dims=dims)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.conv_block(torch.cat((self.transp_conv(x), skip), 1))


class UpSample(nn.Module):
    """A map at `scale` times its size.

    mode           a transposed convolution ("deconv"), one for each channel by itself ("deconvgroup"), linear between
                   voxels ("nontrainable"), or a convolution that gives each voxel's parts as channels ("pixelshuffle")
    kernel         of the transposed convolution
    align_corners  of linear interpolation: whether the outermost voxel centres stay where they are
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        mode: str,
        kernel: Size = 2,
        scale: Size = 2,
        bias: bool = True,
        align_corners: bool = True,
        dims: int = 3,
    ) -> None:
        super().__init__()
        if mode not in UPSAMPLING:
            raise ValueError(f"upsampling is {', '.join(map(repr, UPSAMPLING))}, not {mode!r}")
        self.interpolation = {2: "bilinear", 3: "trilinear"}[dims]
        self.align_corners = align_corners
        self.mode = mode
        k, self.scale = each_axis(kernel, dims), each_axis(scale, dims)
        if mode == "pixelshuffle":
            if set(self.scale) != {2}:
                raise ValueError("'pixelshuffle' enlarges all axes alike; where they differ take another upsampling")
            self.pixelshuffle = PixelShuffle(in_chans, out_chans, bias, dims)
        elif mode != "nontrainable":
            pad: Any = tuple((q - 1) // 2 for q in k)
            extra: Any = tuple(2 * p + s - q for p, s, q in zip(pad, self.scale, k, strict=True))
            groups = out_chans if mode == "deconvgroup" and in_chans % out_chans == 0 else 1
            made = TRANSPOSED[dims](in_chans, out_chans, k, self.scale, pad, extra, groups, bias)
            self.add_module(mode, made)
        elif in_chans != out_chans:
            self.preconv = CONVOLUTIONS[dims](in_chans, out_chans, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.mode != "nontrainable":
            return self.get_submodule(self.mode)(x)
        if hasattr(self, "preconv"):
            x = self.preconv(x)
        scale = [float(s) for s in self.scale]
        return F.interpolate(x, scale_factor=scale, mode=self.interpolation, align_corners=self.align_corners)


class PixelShuffle(nn.Module):
    """A map at twice its size: each voxel's 2^dims sub-voxels come from channels, then neighbours are averaged."""

    def __init__(self, in_chans: int, out_chans: int, bias: bool = True, dims: int = 3) -> None:
        super().__init__()
        self.dims = dims
        self.conv_block = CONVOLUTIONS[dims](in_chans, out_chans * 2**dims, 3, padding=1, bias=bias)
        self.pool = {2: F.avg_pool2d, 3: F.avg_pool3d}[dims]

    def forward(self, x: Tensor) -> Tensor:
        n = self.dims
        size = x.shape[2:]
        channels = self.conv_block.out_channels // 2**n
        x = self.conv_block(x).reshape(-1, channels, *[2] * n, *size)
        order = [axis for a in range(n) for axis in (2 + n + a, 2 + a)]
        x = x.permute(0, 1, *order).reshape(-1, channels, *[2 * s for s in size])
        x = F.pad(x, (1, 0) * n)
        return self.pool(x, 2, 1)


def two_convolutions(in_chans: int, out_chans: int, norm_name: Spec, act: Spec, bias: bool, dims: int = 3) -> nn.Module:
    """Twice 3x3x3 convolution, norm, activation, under the names of BasicUNet."""
    units = [
        conv_unit(n, out_chans, 3, norm_name=norm_name, act=act, bias=bias, dims=dims) for n in (in_chans, out_chans)
    ]
    return nn.Sequential(OrderedDict(conv_0=units[0], conv_1=units[1]))


class Down(nn.Module):
    """A map at half its size: the largest of each 2x2x2 voxels, then two convolutions."""

    def __init__(self, in_chans: int, out_chans: int, norm_name: Spec, act: Spec, bias: bool, dims: int = 3) -> None:
        super().__init__()
        self.pool = {2: F.max_pool2d, 3: F.max_pool3d}[dims]
        self.convs = two_convolutions(in_chans, out_chans, norm_name, act, bias, dims)

    def forward(self, x: Tensor) -> Tensor:
        return self.convs(self.pool(x, 2))


class UpCat(nn.Module):
    """The deep map at twice its size, behind the skips, then two convolutions.

    skip_chans  of all skips together
    halves      whether up-sampling halves the deep map's width
    """

    def __init__(
        self,
        in_chans: int,
        skip_chans: int,
        out_chans: int,
        norm_name: Spec,
        act: Spec,
        bias: bool,
        upsample: str,
        dims: int = 3,
        halves: bool = True,
    ) -> None:
        super().__init__()
        up_chans = in_chans // 2 if halves else in_chans
        self.upsample = UpSample(in_chans, up_chans, upsample, dims=dims)
        self.convs = two_convolutions(skip_chans + up_chans, out_chans, norm_name, act, bias, dims)

    def forward(self, x: Tensor, *skips: Tensor) -> Tensor:
        x = self.upsample(x)
        missing = [s - u for s, u in zip(skips[0].shape[2:], x.shape[2:], strict=True)]
        if any(missing):  # the skip had an odd size: the last voxel is repeated
            x = F.pad(x, [end for m in reversed(missing) for end in (0, m)], mode="replicate")
        return self.convs(torch.cat((*skips, x), 1))


class MLP(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(channels, hidden)
        self.linear2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear2(F.gelu(self.linear1(x)))


def conv_unit(
    in_chans: int,
    out_chans: int,
    kernel: Size,
    stride: Size = 1,
    norm_name: Spec | None = None,
    act: Spec | None = None,
    bias: bool = True,
    dims: int = 3,
    ordering: str = "NDA",
    transposed: bool = False,
) -> nn.Module:
    """A convolution `conv`, then norm `adn.N` and activation `adn.A` in the order of their letters.

    A stride s divides the size by s, or multiplies it when the convolution is transposed. D, dropout, is left out.
    """
    k, s = each_axis(kernel, dims), each_axis(stride, dims)
    pad: Any = tuple((q - 1) // 2 for q in k)
    made: nn.Module
    if transposed:
        extra: Any = tuple(t - 1 for t in s)
        made = TRANSPOSED[dims](in_chans, out_chans, k, s, pad, extra, bias=bias)
    else:
        made = CONVOLUTIONS[dims](in_chans, out_chans, k, s, pad, bias=bias)
    parts: OrderedDict[str, nn.Module] = OrderedDict(conv=made)
    adn: OrderedDict[str, nn.Module] = OrderedDict()
    for letter in ordering.upper():
        if letter == "N" and norm_name is not None:
            adn["N"] = norm(norm_name, out_chans, dims)
        if letter == "A" and act is not None:
            adn["A"] = activation(act)
    if adn:
        parts["adn"] = nn.Sequential(adn)
    return nn.Sequential(parts)


def under(name: str, *parts: nn.Module) -> nn.Module:
    """Parts in a row, one below the other, whose tensors have one more name before theirs in files."""
    return nn.Sequential(OrderedDict([(name, nn.Sequential(*parts))]))


def channels_last(x: Tensor) -> Tensor:
    """(N, C, ...) as (N, ..., C)."""
    return x.permute(0, *range(2, x.ndim), 1)


def channels_first(x: Tensor) -> Tensor:
    """(N, ..., C) as (N, C, ...)."""
    return x.permute(0, x.ndim - 1, *range(1, x.ndim - 1))


def layer(
    in_chans: int, out_chans: int, norm_name: Spec = "instance", residual: bool = True, dims: int = 3
) -> nn.Module:
    """A block under the name `layer`, as the encoders of the UNETR family have it."""
    block = ResidualBlock if residual else BasicBlock
    return nn.Sequential(OrderedDict(layer=block(in_chans, out_chans, norm_name=norm_name, dims=dims)))


def output_block(in_chans: int, out_chans: int, dims: int = 3) -> nn.Module:
    """A 1x1x1 convolution with bias, under the name `conv.conv`."""
    return nn.Sequential(OrderedDict(conv=conv(in_chans, out_chans, 1, bias=True, dims=dims)))


def conv(in_chans: int, out_chans: int, kernel: Size, stride: Size = 1, bias: bool = False, dims: int = 3) -> nn.Module:
    """A convolution under the name `conv`, padded so that stride 1 keeps the size of odd kernels."""
    k, s = each_axis(kernel, dims), each_axis(stride, dims)
    made = CONVOLUTIONS[dims](in_chans, out_chans, k, s, padding(k, s), bias=bias)
    return nn.Sequential(OrderedDict(conv=made))


def conv_transposed(
    in_chans: int, out_chans: int, kernel: Size, stride: Size, bias: bool = False, dims: int = 3
) -> nn.Module:
    """A transposed convolution under the name `conv`, whose output is `stride` times as large."""
    k, s = each_axis(kernel, dims), each_axis(stride, dims)
    pad = padding(k, s)
    extra: Any = tuple(2 * p + t - q for p, t, q in zip(pad, s, k, strict=True))
    made = TRANSPOSED[dims](in_chans, out_chans, k, s, pad, extra, bias=bias)
    return nn.Sequential(OrderedDict(conv=made))


def padding(kernel: Sequence[int], stride: Sequence[int]) -> Any:
    """(k - s + 1) / 2 for each axis, rounded down."""
    return tuple((k - s + 1) // 2 for k, s in zip(kernel, stride, strict=True))


def each_axis(size: Size, dims: int) -> Any:
    """One number for each axis."""
    return (size,) * dims if isinstance(size, int) else tuple(size)


def norm(spec: Spec, channels: int, dims: int = 3) -> nn.Module:
    """A normalisation by its official name: instance, batch or group, alone or with its options."""
    name, options = named(spec)
    if name in INSTANCE:
        return INSTANCE_NORMS[dims](channels, **options)
    if name == "batch":
        return BATCH_NORMS[dims](channels, **options)
    if name == "group":
        return nn.GroupNorm(num_channels=channels, **options)
    raise ValueError(f"no normalisation is called {name!r}; there are instance, batch, group")


def activation(spec: Spec) -> nn.Module:
    """An activation by its official name, alone or with its options.

    errors   ValueError: a name that is none, options that it has not, or cannot work with
    """
    kinds: dict[str, type[nn.Module]] = {
        "relu": nn.ReLU,
        "leakyrelu": nn.LeakyReLU,
        "prelu": nn.PReLU,
        "elu": nn.ELU,
        "gelu": nn.GELU,
        "swish": nn.SiLU,
        "mish": nn.Mish,
    }
    name, options = named(spec)
    if name not in kinds:
        raise ValueError(f"no activation is called {name!r}; there are {', '.join(kinds)}")
    try:
        made = kinds[name](**options)
        made(torch.zeros(1, made.weight.numel() if isinstance(made, nn.PReLU) else 1))
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"the activation {name} cannot have the options {options!r}") from error
    return made


def named(spec: Spec) -> tuple[str, Document]:
    """The lower-case name and the options of a specification such as ("GROUP", {"num_groups": 8}).

    errors   ValueError for what is neither a name nor a name with its options
    """
    match spec:
        case str():
            return spec.lower(), {}
        case [str() as name, Mapping() as options]:
            return name.lower(), dict(options)
    raise ValueError(f"{spec!r} is neither a name nor a name with its options")


def norm_of(shapes: Facts, name: str) -> Literal["instance", "batch", "affine"]:
    """What the tensors under the name of a norm say: none, running statistics, or a scale alone."""
    if f"{name}.running_mean" in shapes:
        return "batch"
    return "affine" if f"{name}.weight" in shapes else "instance"


def norm_spec(shapes: Facts, name: str) -> Spec:
    """The norm under a name as a constructor takes it; a scale alone is read as instance norm's."""
    kind = norm_of(shapes, name)
    return ["instance", {"affine": True}] if kind == "affine" else kind


def unsure_norm(config: Facts, argument: str) -> dict[str, str]:
    """What is unsure of a norm that `norm_spec` told: scales are those of an instance norm or of a group norm."""
    return {argument: "the norm: instance norm with scales, not groups"} if isinstance(config[argument], list) else {}


def upsampling(shapes: Facts, name: str) -> str:
    """The mode of the up-sampling under a name."""
    if f"{name}.pixelshuffle.conv_block.weight" in shapes:
        return "pixelshuffle"
    return next((mode for mode in ("deconv", "deconvgroup") if f"{name}.{mode}.weight" in shapes), "nontrainable")
