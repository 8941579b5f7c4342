"""nnU-Net's U-Nets as dynamic-network-architectures 0.4.4 builds them: plain and with a residual encoder."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from segcli.documents import Document, Facts
from segcli.networks.blocks import CONVOLUTIONS, TRANSPOSED, each_axis, under
from segcli.networks.registry import About, Inferred, Shapes, Small, length

# That library registers the parts of a unit twice (`conv`, `norm`, and again in the list `all_modules`),
# and the encoder a second time inside the decoder. The copies are the same tensors.
INERT: tuple[str, ...] = (r".*\.all_modules\.\d+\..*", r"decoder\.encoder\..*")

# Plans name classes; the last part of the name is looked up here and never imported.
_POOL: dict[int, type[nn.Module]] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
_NORM: dict[str, type[nn.Module]] = {
    "InstanceNorm2d": nn.InstanceNorm2d,
    "InstanceNorm3d": nn.InstanceNorm3d,
    "BatchNorm2d": nn.BatchNorm2d,
    "BatchNorm3d": nn.BatchNorm3d,
}
_NONLIN: dict[str, type[nn.Module]] = {
    "LeakyReLU": nn.LeakyReLU,
    "ReLU": nn.ReLU,
    "ELU": nn.ELU,
    "GELU": nn.GELU,
    "SiLU": nn.SiLU,
    "Mish": nn.Mish,
}

Sizes = int | Sequence[int] | Sequence[Sequence[int]]


class _Recipe:
    """The kinds of layer of one network: they are the same in all its units."""

    def __init__(
        self,
        dims: int,
        conv_bias: bool,
        norm_op: str | None,
        norm_op_kwargs: Facts | None,
        nonlin: str | None,
        nonlin_kwargs: Facts | None,
        nonlin_first: bool,
    ) -> None:
        self.dims = dims
        self.conv = CONVOLUTIONS[dims]
        self.bias = conv_bias
        self.norm = _named(f"InstanceNorm{dims}d" if norm_op == "InstanceNorm" else norm_op, _NORM, "norm_op")
        self.norm_kwargs = {"eps": 1e-5, "affine": True} if norm_op_kwargs is None else dict(norm_op_kwargs)
        self.nonlin = _named(nonlin, _NONLIN, "nonlin")
        self.nonlin_kwargs = {k: v for k, v in (nonlin_kwargs or {}).items() if k != "inplace"}
        self.nonlin_first = nonlin_first


class _Unit(nn.Module):
    """Convolution, norm, activation."""

    def __init__(
        self,
        recipe: _Recipe,
        width_in: int,
        width_out: int,
        kernel: Sequence[int],
        stride: Sequence[int],
        *,
        active: bool = True,
        bias: bool | None = None,
    ) -> None:
        super().__init__()
        self.conv = recipe.conv(
            width_in,
            width_out,
            each_axis(kernel, recipe.dims),
            each_axis(stride, recipe.dims),
            each_axis([(k - 1) // 2 for k in kernel], recipe.dims),
            bias=recipe.bias if bias is None else bias,
        )
        self.norm = recipe.norm(width_out, **recipe.norm_kwargs) if recipe.norm else nn.Identity()
        self.nonlin = recipe.nonlin(**recipe.nonlin_kwargs) if active and recipe.nonlin else nn.Identity()
        self.nonlin_first = recipe.nonlin_first

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.norm(self.nonlin(x)) if self.nonlin_first else self.nonlin(self.norm(x))


class _Residual(nn.Module):
    """Two units and a skip: average pooling where the block has a stride, a 1x1x1 unit where widths differ."""

    def __init__(
        self,
        recipe: _Recipe,
        width_in: int,
        width_out: int,
        kernel: Sequence[int],
        stride: Sequence[int],
    ) -> None:
        super().__init__()
        one = [1] * recipe.dims
        self.conv1 = _Unit(recipe, width_in, width_out, kernel, stride)
        self.conv2 = _Unit(recipe, width_out, width_out, kernel, one, active=False)
        self.nonlin2 = recipe.nonlin(**recipe.nonlin_kwargs) if recipe.nonlin else nn.Identity()
        # The projection is skip.1 behind a pooling and skip.0 without one.
        skip: list[nn.Module] = []
        if any(s != 1 for s in stride):
            skip.append(_POOL[recipe.dims](tuple(stride), tuple(stride)))
        if width_in != width_out:
            skip.append(_Unit(recipe, width_in, width_out, one, one, active=False, bias=False))
        self.skip = nn.Sequential(*skip)

    def forward(self, x: Tensor) -> Tensor:
        return self.nonlin2(self.conv2(self.conv1(x)) + self.skip(x))


def _row(
    name: str,
    part: type[_Unit] | type[_Residual],
    recipe: _Recipe,
    count: int,
    width_in: int,
    width_out: int,
    kernel: Sequence[int],
    stride: Sequence[int],
) -> nn.Module:
    """A row of parts under a name, the first with the stride."""
    others = (part(recipe, width_out, width_out, kernel, [1] * recipe.dims) for _ in range(count - 1))
    return under(name, part(recipe, width_in, width_out, kernel, stride), *others)


_units = partial(_row, "convs", _Unit)
_blocks = partial(_row, "blocks", _Residual)


class _Encoder(nn.Module):
    """Stages from full resolution down; a residual encoder begins with a stem of one unit."""

    def __init__(self, stem: nn.Module | None, stages: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.Sequential(*stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        if self.stem is not None:
            x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class _Decoder(nn.Module):
    """From the bottom up: transposed convolution, concat(up, skip), units; a head after every stage."""

    def __init__(
        self,
        recipe: _Recipe,
        widths: Sequence[int],
        kernels: Sequence[Sequence[int]],
        strides: Sequence[Sequence[int]],
        counts: Sequence[int],
        num_classes: int,
    ) -> None:
        super().__init__()
        one = [1] * recipe.dims
        transposed = TRANSPOSED[recipe.dims]
        stages, ups, heads = [], [], []
        for s, level in enumerate(range(len(widths) - 2, -1, -1)):
            width, stride = widths[level], each_axis(strides[level + 1], recipe.dims)
            ups.append(transposed(widths[level + 1], width, stride, stride, bias=recipe.bias))
            stages.append(_units(recipe, counts[s], 2 * width, width, kernels[level], one))
            heads.append(recipe.conv(width, num_classes, 1, bias=True))
        self.stages = nn.ModuleList(stages)
        self.transpconvs = nn.ModuleList(ups)
        # Every stage has a head in the file, with or without deep supervision.
        self.seg_layers = nn.ModuleList(heads)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        x, decoded = maps[-1], []
        for up, stage, skip in zip(self.transpconvs, self.stages, maps[-2::-1], strict=True):
            x = stage(torch.cat([up(x), skip], dim=1))
            decoded.append(x)
        return decoded


class _UNet(nn.Module):
    """What both U-Nets share: maps down, maps up, a head."""

    encoder: _Encoder
    decoder: _Decoder
    deep_supervision: bool

    def forward(self, x: Tensor) -> Tensor:
        """Logits at full resolution: (N, input_channels, *size) -> (N, num_classes, *size)."""
        return self.decoder.seg_layers[-1](self.decoder(self.encoder(x))[-1])

    def heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """Logits of all decoder stages, full resolution first; one without deep supervision."""
        decoded = self.decoder(self.encoder(x))
        logits = [head(y) for head, y in zip(self.decoder.seg_layers, decoded, strict=True)][::-1]
        return tuple(logits if self.deep_supervision else logits[:1])


class PlainConvUNet(_UNet):
    """nnU-Net's default network. The arguments are `arch_kwargs` of plans.json.

    `conv_op`, `norm_op` and `nonlin` are class names; what is left out is what nnU-Net's planner writes.
    Dropout is the identity here. Every axis must be a multiple of the product of its strides.
    """

    def __init__(
        self,
        input_channels: int,
        n_stages: int,
        features_per_stage: int | Sequence[int],
        kernel_sizes: Sizes,
        strides: Sizes,
        n_conv_per_stage: int | Sequence[int],
        num_classes: int,
        n_conv_per_stage_decoder: int | Sequence[int],
        conv_op: str | None = None,
        conv_bias: bool = True,
        norm_op: str | None = "InstanceNorm",
        norm_op_kwargs: Facts | None = None,
        dropout_op: str | None = None,
        dropout_op_kwargs: Facts | None = None,
        nonlin: str | None = "LeakyReLU",
        nonlin_kwargs: Facts | None = None,
        deep_supervision: bool = False,
        nonlin_first: bool = False,
        network_class_name: str | None = None,
    ) -> None:
        super().__init__()
        dims = _dims(conv_op, kernel_sizes)
        recipe = _Recipe(dims, conv_bias, norm_op, norm_op_kwargs, nonlin, nonlin_kwargs, nonlin_first)
        widths = _per_stage(features_per_stage, n_stages, "features_per_stage")
        kernels = _per_axis(kernel_sizes, n_stages, dims, "kernel_sizes")
        steps = _per_axis(strides, n_stages, dims, "strides")
        counts = _per_stage(n_conv_per_stage, n_stages, "n_conv_per_stage")
        # The encoder's stages are wrapped once more in the library: stages.i.0.convs.j
        self.encoder = _Encoder(
            None,
            [
                nn.Sequential(_units(recipe, n, before, width, kernel, step))
                for n, before, width, kernel, step in zip(
                    counts, [input_channels, *widths[:-1]], widths, kernels, steps, strict=True
                )
            ],
        )
        up_counts = _per_stage(n_conv_per_stage_decoder, n_stages - 1, "n_conv_per_stage_decoder")
        self.decoder = _Decoder(recipe, widths, kernels, steps, up_counts, num_classes)
        self.deep_supervision = deep_supervision


class ResidualEncoderUNet(_UNet):
    """nnU-Net's network of the ResEnc presets (M, L, XL). The arguments are `arch_kwargs` of plans.json."""

    def __init__(
        self,
        input_channels: int,
        n_stages: int,
        features_per_stage: int | Sequence[int],
        kernel_sizes: Sizes,
        strides: Sizes,
        n_blocks_per_stage: int | Sequence[int],
        num_classes: int,
        n_conv_per_stage_decoder: int | Sequence[int],
        conv_op: str | None = None,
        conv_bias: bool = True,
        norm_op: str | None = "InstanceNorm",
        norm_op_kwargs: Facts | None = None,
        dropout_op: str | None = None,
        dropout_op_kwargs: Facts | None = None,
        nonlin: str | None = "LeakyReLU",
        nonlin_kwargs: Facts | None = None,
        deep_supervision: bool = False,
        stem_channels: int | None = None,
        network_class_name: str | None = None,
    ) -> None:
        super().__init__()
        dims = _dims(conv_op, kernel_sizes)
        recipe = _Recipe(dims, conv_bias, norm_op, norm_op_kwargs, nonlin, nonlin_kwargs, False)
        widths = _per_stage(features_per_stage, n_stages, "features_per_stage")
        kernels = _per_axis(kernel_sizes, n_stages, dims, "kernel_sizes")
        steps = _per_axis(strides, n_stages, dims, "strides")
        counts = _per_stage(n_blocks_per_stage, n_stages, "n_blocks_per_stage")
        stem = stem_channels or widths[0]
        self.encoder = _Encoder(
            _units(recipe, 1, input_channels, stem, kernels[0], [1] * dims),
            [
                _blocks(recipe, n, before, width, kernel, step)
                for n, before, width, kernel, step in zip(
                    counts, [stem, *widths[:-1]], widths, kernels, steps, strict=True
                )
            ],
        )
        up_counts = _per_stage(n_conv_per_stage_decoder, n_stages - 1, "n_conv_per_stage_decoder")
        self.decoder = _Decoder(recipe, widths, kernels, steps, up_counts, num_classes)
        self.deep_supervision = deep_supervision


def _named(name: str | None, table: Mapping[str, type[nn.Module]], argument: str) -> type[nn.Module] | None:
    if name is None:
        return None
    found = table.get(name.rpartition(".")[2])
    if found is None:
        raise ValueError(f"{argument}: {name!r} is not one of {', '.join(table)}")
    return found


def _dims(conv_op: str | None, kernel_sizes: Sizes) -> int:
    """2 or 3, from the convolution's name, else from the length of a kernel."""
    if conv_op is not None:
        found = [dims for dims, kind in CONVOLUTIONS.items() if conv_op.rpartition(".")[2] == kind.__name__]
        if not found:
            raise ValueError(f"conv_op: {conv_op!r} is neither Conv2d nor Conv3d")
        return found[0]
    first = kernel_sizes if isinstance(kernel_sizes, int) else kernel_sizes[0]
    return 3 if isinstance(first, int) else len(first)


def _per_stage(value: int | Sequence[int], stages: int, argument: str) -> list[int]:
    values = [value] * stages if isinstance(value, int) else list(value)
    if len(values) != stages:
        raise ValueError(f"{argument}: {len(values)} values for {stages} stages")
    return values


def _per_axis(value: Sizes, stages: int, dims: int, argument: str) -> list[list[int]]:
    values: list[int | Sequence[int]] = [value] * stages if isinstance(value, int) else list(value)
    sizes = [[v] * dims if isinstance(v, int) else list(v) for v in values]
    if len(sizes) != stages or any(len(size) != dims for size in sizes):
        raise ValueError(f"{argument}: {value} does not give {stages} stages with {dims} axes each")
    return sizes


ABOUT = About(
    "nnU-Net's U-Nets, plain and residual",
    "Isensee et al. 2021, Nature Methods 18:203; 2024, arXiv:2404.09556",
    "2-D and 3-D",
    "the activation and the norm's epsilon: plans say",
)
FAMILIES: dict[str, Callable[..., nn.Module]] = {
    "nnunet_plain": PlainConvUNet,
    "nnunet_plainconv": PlainConvUNet,
    "nnunet_resenc": ResidualEncoderUNet,
    "nnunet_resencL": ResidualEncoderUNet,
}
_SMALL: Document = {
    "n_stages": 4,
    "features_per_stage": [8, 12, 16, 24],
    "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]],
    "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]],
    "n_conv_per_stage_decoder": [2, 2, 2],
}
SMALL = {
    "nnunet_plain": Small({**_SMALL, "n_conv_per_stage": [2, 2, 2, 2]}, counted=("input_channels", "num_classes")),
    "nnunet_resenc": Small({**_SMALL, "n_blocks_per_stage": [1, 2, 2, 2]}, counted=("input_channels", "num_classes")),
}


def infer(shapes: Shapes) -> Inferred | None:
    """The nnU-Net network with these tensors. plans.json knows more: the activation and the norm's epsilon."""
    residual = "encoder.stem.convs.0.conv.weight" in shapes
    unit = "encoder.stages.{}.blocks.0.conv1" if residual else "encoder.stages.{}.0.convs.0"
    n_stages = length(shapes, "encoder.stages.")
    weights = [shapes.get(f"{unit.format(i)}.conv.weight") for i in range(n_stages)]
    ups = [shapes.get(f"decoder.transpconvs.{s}.weight") for s in range(n_stages - 1)]
    head = shapes.get("decoder.seg_layers.0.weight")
    if head is None or None in weights or None in ups:
        return None
    kernels = [list(weight[2:]) for weight in weights if weight]
    strides = [list(up[2:]) for up in ups if up][::-1]
    stem = shapes["encoder.stem.convs.0.conv.weight" if residual else f"{unit.format(0)}.conv.weight"]
    dims = len(kernels[0])
    batch = f"{unit.format(0)}.norm.running_mean" in shapes
    affine = f"{unit.format(0)}.norm.weight" in shapes
    norm = "BatchNorm" if batch else "InstanceNorm"
    row = "blocks." if residual else "0.convs."
    config: Document = {
        "input_channels": stem[1],
        "n_stages": n_stages,
        "features_per_stage": [weight[0] for weight in weights if weight],
        "conv_op": f"torch.nn.Conv{dims}d",
        "kernel_sizes": kernels,
        # A transposed convolution undoes the stride of the stage below it with a kernel of that size.
        "strides": [[1] * dims, *strides],
        "n_blocks_per_stage" if residual else "n_conv_per_stage": [
            length(shapes, f"encoder.stages.{i}.{row}") for i in range(n_stages)
        ],
        "num_classes": head[0],
        "n_conv_per_stage_decoder": [length(shapes, f"decoder.stages.{s}.convs.") for s in range(n_stages - 1)],
        "conv_bias": f"{unit.format(0)}.conv.bias" in shapes,
        "norm_op": f"torch.nn.{norm}{dims}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": affine},
    }
    if residual:
        config["stem_channels"] = stem[0]
    unsure = {
        "nonlin": "nonlin is not in the tensors: LeakyReLU taken",
        "norm_op_kwargs": "the epsilon of norm_op_kwargs is not in the tensors: 1e-5 taken",
    }
    if not affine:
        unsure["norm_op"] = "norm_op has no tensors: instance norm without scale taken"
    return Inferred("nnunet_resenc" if residual else "nnunet_plain", config, unsure)
