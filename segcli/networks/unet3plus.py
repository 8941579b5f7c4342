"""UNet 3+ (Huang et al., ICASSP 2020): every decoder level sees all encoder and all deeper decoder levels.

Facts: ZJUGiveLab/UNet-Version at 8ecd067; avBuffer/UNet3plus_pth has the same tensors. The networks are 2-D; with
`spatial_dims=3` every operator is replaced by its 3-D counterpart, a generalisation of this project.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segcli.networks.blocks import BATCH_NORMS, CONVOLUTIONS
from segcli.networks.registry import About, Inferred, Shapes, Small

VARIANTS = ("base", "ds", "cgm")


class _TwoConvs(nn.Module):
    """Twice convolution, batch norm, ReLU."""

    def __init__(self, width_in: int, width_out: int, dims: int, is_batchnorm: bool) -> None:
        super().__init__()
        self.conv1 = self._unit(width_in, width_out, dims, is_batchnorm)
        self.conv2 = self._unit(width_out, width_out, dims, is_batchnorm)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x))

    @staticmethod
    def _unit(width_in: int, width_out: int, dims: int, is_batchnorm: bool) -> nn.Sequential:
        norm = [BATCH_NORMS[dims](width_out)] if is_batchnorm else []
        return nn.Sequential(CONVOLUTIONS[dims](width_in, width_out, 3, padding=1), *norm, nn.ReLU())


class UNet3Plus(nn.Module):
    """UNet 3+; `variant` is "base", "ds" (deep supervision) or "cgm" (that and the classification-guided module).

    x        (N, in_channels, H, W), or (N, in_channels, D, H, W) with 3 dimensions; sizes are multiples of 16
    returns  (N, n_classes, H, W); one independent class a channel

    The official networks return probabilities, and so does this one by default. With `probabilities=False` it returns
    the logits. "cgm" multiplies the logits of an image judged empty by 0, so its probability is 0.5 everywhere: decide
    with p > 0.5, never >=.

    filters  official literals; the first one is also the width of every decoder branch
    feature_scale and is_deconv are official arguments without effect.
    """

    def __init__(
        self,
        in_channels: int = 3,
        n_classes: int = 1,
        feature_scale: int = 4,
        is_deconv: bool = True,
        is_batchnorm: bool = True,
        filters: Sequence[int] = (64, 128, 256, 512, 1024),
        variant: str = "base",
        spatial_dims: int = 2,
        probabilities: bool = True,
    ) -> None:
        super().__init__()
        if variant not in VARIANTS:
            raise ValueError(f"variant is one of {', '.join(VARIANTS)}, not {variant!r}")
        if len(filters) != 5 or spatial_dims not in CONVOLUTIONS:
            raise ValueError(f"UNet 3+ has 5 filters and 2 or 3 dimensions, not {filters} and {spatial_dims}")
        self.variant, self.dims, self.probabilities = variant, spatial_dims, probabilities
        conv = partial(CONVOLUTIONS[spatial_dims], kernel_size=3, padding=1)
        norm = BATCH_NORMS[spatial_dims]
        for i, (before, width) in enumerate(pairwise([in_channels, *filters]), start=1):
            self.add_module(f"conv{i}", _TwoConvs(before, width, spatial_dims, is_batchnorm))
        branch = filters[0]
        fused = 5 * branch
        for level in (4, 3, 2, 1):
            for source in range(1, 6):
                width = filters[source - 1] if source <= level or source == 5 else fused
                name = _branch(source, level)
                self.add_module(f"{name}_conv", conv(width, branch))
                self.add_module(f"{name}_bn", norm(branch))
            self.add_module(f"conv{level}d_1", conv(fused, fused))
            self.add_module(f"bn{level}d_1", norm(fused))
        self.outconv1 = conv(fused, n_classes)
        if variant != "base":
            for level in (2, 3, 4):
                self.add_module(f"outconv{level}", conv(fused, n_classes))
            self.outconv5 = conv(filters[4], n_classes)
        if variant == "cgm":
            self.cls = nn.Sequential(nn.Dropout(), CONVOLUTIONS[spatial_dims](filters[4], 2, 1))

    def forward(self, x: Tensor) -> Tensor:
        """The map at full resolution."""
        decoded = self._decoded(x)
        logits: Tensor = self.outconv1(decoded[1])
        return self._finished(logits, decoded[5])

    def heads(self, x: Tensor) -> tuple[Tensor, ...]:
        """The map at full resolution, then those of levels 2 to 5 brought to full size (all but "base")."""
        decoded = self._decoded(x)
        levels = (1,) if self.variant == "base" else (1, 2, 3, 4, 5)
        return tuple(
            self._finished(self._enlarged(getattr(self, f"outconv{i}")(decoded[i]), 2 ** (i - 1)), decoded[5])
            for i in levels
        )

    def _decoded(self, x: Tensor) -> dict[int, Tensor]:
        """hd1 ... hd5 of the paper; hd5 is the deepest encoder map."""
        encoded: dict[int, Tensor] = {}
        for i in range(1, 6):
            x = getattr(self, f"conv{i}")(x if i == 1 else self._pooled(x, 2))
            encoded[i] = x  # (N, filters[i-1], H/2^(i-1), ...)
        decoded = {5: encoded[5]}
        for level in (4, 3, 2, 1):
            branches = []
            for source in range(1, 6):
                if source < level:
                    y = self._pooled(encoded[source], 2 ** (level - source))
                elif source == level:
                    y = encoded[source]
                else:
                    y = self._enlarged(decoded[source], 2 ** (source - level))
                branches.append(self._unit(f"{_branch(source, level)}_", "conv", "bn", y))
            decoded[level] = self._unit("", f"conv{level}d_1", f"bn{level}d_1", torch.cat(branches, 1))
        return decoded  # (N, 5*filters[0], H/2^(level-1), ...)

    def _unit(self, prefix: str, conv: str, norm: str, x: Tensor) -> Tensor:
        x = getattr(self, prefix + conv)(x)
        return F.relu(getattr(self, prefix + norm)(x))

    def _pooled(self, x: Tensor, factor: int) -> Tensor:
        # The official ceil mode makes no difference: sizes are multiples of 16.
        return F.max_pool2d(x, factor) if self.dims == 2 else F.max_pool3d(x, factor)

    def _enlarged(self, x: Tensor, factor: int) -> Tensor:
        if factor == 1:
            return x
        how = "bilinear" if self.dims == 2 else "trilinear"
        return F.interpolate(x, scale_factor=float(factor), mode=how, align_corners=False)

    def _finished(self, logits: Tensor, deepest: Tensor) -> Tensor:
        if self.variant == "cgm":
            logits = logits * self._gate(deepest)
        return torch.sigmoid(logits) if self.probabilities else logits

    def _gate(self, deepest: Tensor) -> Tensor:
        """1 for an image that shows the organ, 0 for an empty one: (N, 1, 1, 1).

        Officially the argmax of two sigmoids. In float32 both may saturate; then index 0, empty, wins. In less
        precision they would be equal far earlier, so the sigmoids are float32's whatever the network's arithmetic.
        """
        scores = torch.sigmoid(self.cls(deepest).flatten(2).amax(2).float())  # (N, 2)
        shown = (scores[:, 1] > scores[:, 0]).to(deepest.dtype)
        return shown.reshape(-1, *[1] * (self.dims + 1))


def _branch(source: int, level: int) -> str:
    """The official name of the way from a source level into a decoder level."""
    if source < level:
        return f"h{source}_PT_hd{level}"
    return f"h{source}_Cat_hd{level}" if source == level else f"hd{source}_UT_hd{level}"


ABOUT = About(
    "UNet 3+",
    "Huang et al. 2020, arXiv:2004.08790",
    "2-D and 3-D",
    weights="none: its authors published none (ZJUGiveLab/UNet-Version)",
)
FAMILIES: dict[str, Callable[..., nn.Module]] = {
    "unet3plus": UNet3Plus,
    "unet3plus_base": UNet3Plus,
    "unet3plus_ds": partial(UNet3Plus, variant="ds"),
    "unet3plus_deepsup": partial(UNet3Plus, variant="ds"),
    "unet3plus_cgm": partial(UNet3Plus, variant="cgm"),
    "unet3plus_3d": partial(UNet3Plus, spatial_dims=3),
}

_SMALL_SLICE = Small({"filters": [4, 6, 8, 10, 12]}, (1, 64, 64), ("in_channels", "n_classes"))
SMALL = {
    "unet3plus_3d": Small({"filters": [4, 6, 8, 10, 12]}, counted=("in_channels", "n_classes")),
    **dict.fromkeys(("unet3plus", "unet3plus_deepsup", "unet3plus_cgm"), _SMALL_SLICE),
}


def infer(shapes: Shapes) -> Inferred | None:
    """The sizes of a UNet 3+, all of which its tensors tell; it is set to return logits."""
    if not {"h1_PT_hd4_conv.weight", "hd5_UT_hd1_conv.weight", "outconv1.weight"} <= shapes.keys():
        return None
    convs = [shapes.get(f"conv{i}.conv1.0.weight") for i in range(1, 6)]
    first = convs[0]
    if first is None or None in convs:
        return None
    variant = "base"
    if "outconv5.weight" in shapes:
        variant = "cgm" if "cls.1.weight" in shapes else "ds"
    config = {
        "in_channels": first[1],
        "n_classes": shapes["outconv1.weight"][0],
        "is_batchnorm": "conv1.conv1.1.weight" in shapes,
        "filters": [shape[0] for shape in convs if shape],
        "variant": variant,
        "spatial_dims": len(first) - 2,
        "probabilities": False,
    }
    return Inferred(f"unet3plus_{variant}", config)
