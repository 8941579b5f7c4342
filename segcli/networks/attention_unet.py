"""Attention U-Net (Oktay et al., 2018) as MONAI's AttentionUnet: what comes from below says where a skip counts.

Facts: MONAI 1.6, `networks.nets.AttentionUnet`.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from segcli.documents import Document
from segcli.networks.blocks import Size, conv_unit, norm, under
from segcli.networks.registry import About, Inferred, Shapes, Small


def pair(a: int, b: int, kernel: Size, stride: Size, dims: int) -> nn.Module:
    """Two units of convolution, batch norm and ReLU; the first one strided."""
    steps = ((a, stride), (b, 1))
    return under("conv", *(conv_unit(n, b, kernel, s, "BATCH", "RELU", dims=dims) for n, s in steps))


class Gate(nn.Module):
    """A skip times how far it counts, of which what comes from below has its say."""

    def __init__(self, channels: int, dims: int) -> None:
        super().__init__()

        def weighed(a: int, b: int, *more: nn.Module) -> nn.Module:
            return nn.Sequential(conv_unit(a, b, 1, dims=dims), norm("BATCH", b, dims), *more)

        self.W_g = weighed(channels, channels // 2)
        self.W_x = weighed(channels, channels // 2)
        self.psi = weighed(channels // 2, 1, nn.Sigmoid())

    def forward(self, below: Tensor, x: Tensor) -> Tensor:
        counts: Tensor = self.psi(torch.relu(self.W_g(below) + self.W_x(x)))
        return x * counts


class Level(nn.Module):
    """A level's input through its gate, joined with what the levels below made of it."""

    def __init__(self, a: int, b: int, submodule: nn.Module, kernel: Size, stride: Size, dims: int) -> None:
        super().__init__()
        self.attention = Gate(a, dims)
        enlarged = conv_unit(b, a, kernel, stride, "BATCH", "RELU", dims=dims, transposed=True)
        self.upconv = nn.Sequential(OrderedDict(up=enlarged))
        self.merge = conv_unit(2 * a, a, 3, 1, "INSTANCE", "PRELU", dims=dims)
        self.submodule = submodule

    def forward(self, x: Tensor) -> Tensor:
        below = self.upconv(self.submodule(x))
        return self.merge(torch.cat((self.attention(below, x), below), 1))


class AttentionUnet(nn.Module):
    """MONAI's AttentionUnet.

    x        (N, in_channels, D, H, W), each size a multiple of the product of its strides
    returns  (N, out_channels, D, H, W), logits

    Strides beyond those that the levels need have no effect, as officially; nor has dropout after training.
    """

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        channels: Sequence[int],
        strides: Sequence[Size],
        kernel_size: Size = 3,
        up_kernel_size: Size = 3,
        dropout: float = 0.0,
    ) -> None:
        if not 2 <= len(channels) <= len(strides) + 1:
            raise ValueError(f"channels of {len(channels)} levels and strides of {len(strides)}")
        super().__init__()
        dims = spatial_dims

        def level(i: int) -> nn.Module:
            """Level i and all below it."""
            a, b, stride = channels[i], channels[i + 1], strides[i]
            below: nn.Module = pair(a, b, kernel_size, stride, dims)
            if i < len(channels) - 2:
                below = nn.Sequential(below, level(i + 1))
            return Level(a, b, below, up_kernel_size, stride, dims)

        head = pair(in_channels, channels[0], kernel_size, 1, dims)
        self.model = nn.Sequential(head, level(0), conv_unit(channels[0], out_channels, 1, dims=dims))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


ABOUT = About("Attention U-Net", "Oktay et al. 2018, arXiv:1804.03999; MONAI's AttentionUnet", "2-D and 3-D", "strides")
FAMILIES: dict[str, Callable[..., nn.Module]] = {"attentionunet": AttentionUnet}

SMALL = {"attentionunet": Small({"spatial_dims": 3, "channels": [8, 12, 16], "strides": [2, 2]})}


def infer(shapes: Shapes) -> Inferred | None:
    """The sizes of an AttentionUnet; its strides are not in its tensors."""
    first, out, up = "model.0.conv.0.conv.weight", "model.2.conv.weight", "model.1.upconv.up.conv.weight"
    if not all(name in shapes for name in (first, out, up, "model.1.attention.psi.0.conv.weight")):
        return None
    channels, prefix = [shapes[first][0]], "model.1."
    while f"{prefix}submodule.0.conv.0.conv.weight" in shapes:
        channels.append(shapes[f"{prefix}submodule.0.conv.0.conv.weight"][0])
        prefix += "submodule.1."
    bottom = f"{prefix}submodule.conv.0.conv.weight"
    if bottom not in shapes:
        return None
    channels.append(shapes[bottom][0])
    strides = [2] * (len(channels) - 1)
    config: Document = {
        "spatial_dims": len(shapes[first]) - 2,
        "in_channels": shapes[first][1],
        "out_channels": shapes[out][0],
        "channels": channels,
        "strides": strides,
        "kernel_size": list(shapes[first][2:]),
        "up_kernel_size": list(shapes[up][2:]),
    }
    return Inferred("attentionunet", config, {"strides": f"the sizes of strides: {strides}"})
