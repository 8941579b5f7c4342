"""The network for training: segcli's own, with CPU-friendly forms of some operators (same arithmetic)."""

from types import MethodType

import torch
from kernels import Conv3, Depthwise7, Norm, PointwiseMLP, extension
from torch import Tensor, nn

from segcli.networks.blocks import ChannelNorm, ResidualBlock
from segcli.networks.uxnet3d import UXBlock, UXNet3D


def build(outputs: int, features: int = 16) -> UXNet3D:
    """A 3D UX-Net with random weights; layer scales start at 0.1, not 1e-6: short training must reach them."""
    sizes = [features, 2 * features, 4 * features, 8 * features]
    net = UXNet3D(1, outputs, feat_size=sizes, hidden_size=16 * features)
    for block in net.modules():
        if isinstance(block, UXBlock):
            nn.init.constant_(block.gamma, 0.1)
    return net


def quicken(net: UXNet3D) -> UXNet3D:
    """The same network whose blocks train fast on a CPU, one item at a time under bfloat16 autocast."""
    kernels = extension()
    if kernels is None or not hasattr(kernels, "conv3_gw"):
        return net
    forms = {UXBlock: ux_block, ChannelNorm: channel_norm, ResidualBlock: residual_block}
    for module in net.modules():
        if type(module) in forms:
            module.forward = MethodType(forms[type(module)], module)  # type: ignore[method-assign]
    return net


def ux_block(self: UXBlock, x: Tensor) -> Tensor:
    """All that follows the depth-wise convolution in one kernel."""
    y = Depthwise7.apply(x, self.dwconv.weight, self.dwconv.bias)
    c = len(self.gamma)
    grouped = [t.view(c, 4).T for t in (self.pwconv1.weight, self.pwconv1.bias, self.pwconv2.weight)]
    ends = [t[None] for t in (self.norm.weight, self.norm.bias, self.pwconv2.bias, self.gamma)]
    parameters = torch.cat([*ends[:2], *grouped, *ends[2:]])  # (16, C)
    return PointwiseMLP.apply(x, y, parameters, self.norm.eps)


def channel_norm(self: ChannelNorm, x: Tensor) -> Tensor:
    """The norm over axis 1 without moving it, float32."""
    x = x.float()
    mean, var = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
    return (x - mean) * torch.rsqrt(var + self.eps) * self.weight.view(-1, 1, 1, 1) + self.bias.view(-1, 1, 1, 1)


def residual_block(self: ResidualBlock, x: Tensor) -> Tensor:
    """Norm, residual and activation in one kernel."""
    y = Norm.apply(conv3(self.conv1.conv, x), None, 0.01)
    shortcut = Norm.apply(self.conv3(x), None, 1.0) if self.projects else x
    return Norm.apply(conv3(self.conv2.conv, y), shortcut, 0.01)


def conv3(layer: nn.Conv3d, x: Tensor) -> Tensor:
    """A 3x3x3 convolution by the kernel where it fits."""
    fits = layer.in_channels % 16 == layer.out_channels % 16 == x.shape[-1] % 2 == 0
    return Conv3.apply(x, layer.weight) if fits else layer(x)
